//! Sending on one stream of HTTP/2: no more than the other end has room for.

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use std::task::{Context, Poll, ready};

/// What is left of the piece that is being sent.
#[derive(Debug)]
pub struct Frames {
    stream: SendStream<Bytes>,
    piece: Bytes,
    ended: bool,
}

impl Frames {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self {
            stream,
            piece: Bytes::new(),
            ended: false,
        }
    }

    /// Ready when a piece may be put in: the one before has gone.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.piece.is_empty() {
            self.stream.reserve_capacity(self.piece.len());
            let room = match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => room?,
                None => return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into())),
            };
            let part = self.piece.split_to(room.min(self.piece.len()));
            if !part.is_empty() {
                self.stream.send_data(part, false)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts in a piece; there must be room.
    pub fn put(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "the piece before has gone");
        self.piece = piece;
    }

    /// Ends the stream; what was put in must have gone.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        }
    }

    /// Ready when the other end has reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<h2::Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }
}
