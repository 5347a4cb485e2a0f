//! The request's body on its way to an endpoint, kept for another attempt as long as it is small.

use super::caller::{Caller, CallerFault};
use super::identify;
use super::life::Stop;
use crate::snapshot::Snapshot;
use crate::stage::upstream::exchange::Exchange;
use bytes::Bytes;
use http::HeaderMap;
use smallvec::SmallVec;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// So much of a body is kept for another attempt.
pub const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// And so many pieces, since each one has a cost of its own.
const REPLAY_PIECES_MAX: usize = 1024;

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Endpoint,
}

pub struct Upload {
    /// Knows which fields a caller may not send.
    snapshot: Arc<Snapshot>,
    kept: SmallVec<[Bytes; 2]>,
    kept_bytes: u64,
    overflowed: bool,
    /// Largest body that the route takes.
    max: u64,
    /// The caller has sent everything.
    whole: bool,
    trailers: Option<HeaderMap>,
    /// Of the kept pieces, how many this endpoint was given.
    given: usize,
    /// This endpoint was given everything.
    ended: bool,
    pub waits_for: Side,
}

impl Upload {
    pub fn new(caller: &Caller, max: u64, snapshot: &Arc<Snapshot>) -> Self {
        Self {
            snapshot: Arc::clone(snapshot),
            kept: SmallVec::new(),
            kept_bytes: 0,
            overflowed: false,
            max,
            whole: caller.has_sent(),
            trailers: None,
            given: 0,
            ended: false,
            waits_for: Side::Endpoint,
        }
    }

    /// From the beginning, for another endpoint.
    pub fn again(&mut self) {
        self.given = 0;
        self.ended = false;
    }

    /// Whether everything that was sent can be sent again.
    pub fn can_repeat(&self) -> bool {
        !self.overflowed
    }

    /// Whether the caller has sent everything.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Moves what can be moved now. Ready when the endpoint was sent everything; `progress` is set when
    /// something moved.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        caller: &mut Caller,
        exchange: &mut Exchange,
        progress: &mut bool,
    ) -> Poll<Result<(), Stop>> {
        loop {
            self.waits_for = Side::Endpoint;
            if self.ended {
                return exchange.poll_flush(cx).map_err(Stop::Endpoint);
            }
            ready!(exchange.poll_room(cx)).map_err(Stop::Endpoint)?;
            if let Some(piece) = self.kept.get(self.given) {
                exchange.put(piece.clone());
                self.given += 1;
            } else if self.whole {
                // What was put in last must have gone before the end is put in.
                ready!(exchange.poll_flush(cx)).map_err(Stop::Endpoint)?;
                exchange
                    .finish(self.trailers.clone())
                    .map_err(Stop::Endpoint)?;
                self.ended = true;
            } else {
                match caller.poll_body(cx) {
                    Poll::Ready(Ok(Some(piece))) => {
                        if caller.bytes_in > self.max {
                            return Poll::Ready(Err(Stop::Caller(CallerFault::BodyTooLarge)));
                        }
                        self.keep(&piece);
                        exchange.put(piece);
                    }
                    Poll::Ready(Ok(None)) => {
                        self.whole = true;
                        let trailers = caller.take_trailers();
                        self.trailers = identify::trailers(trailers, &self.snapshot);
                    }
                    Poll::Ready(Err(fault)) => return Poll::Ready(Err(Stop::Caller(fault))),
                    Poll::Pending => {
                        // Nothing more is at hand: what has come goes out now.
                        ready!(exchange.poll_flush(cx)).map_err(Stop::Endpoint)?;
                        self.waits_for = Side::Caller;
                        return Poll::Pending;
                    }
                }
            }
            *progress = true;
        }
    }

    fn keep(&mut self, piece: &Bytes) {
        self.kept_bytes += piece.len() as u64;
        if self.overflowed
            || self.kept_bytes > REPLAY_BYTES_MAX
            || self.kept.len() >= REPLAY_PIECES_MAX
        {
            self.overflowed = true;
            self.kept = SmallVec::new();
            self.given = 0;
            return;
        }
        self.kept.push(piece.clone());
        self.given = self.kept.len();
    }
}
