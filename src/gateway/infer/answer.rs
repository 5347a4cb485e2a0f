//! Answers that come whole: read to their end, weighed, and passed on or said in other words.

use super::Run;
use crate::gateway::attempt::Held;
use crate::gateway::caller::Extent;
use crate::gateway::life::Stop;
use crate::gateway::refuse;
use crate::gateway::upload::Side;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::head::ResponseHead;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The largest answer that is read whole: pictures come in base64.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is read of an answer that is an error; it is short, or not worth more.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

/// An answer that is larger than it may be.
const TOO_LARGE: &str = "the answer is too large";

/// The whole body, which may take `gap` between two pieces and must have come by `end`. Of what is longer than
/// `max` the beginning, where that is enough (`cut`), else it is malformed.
pub async fn read(
    run: &mut Run<'_>,
    held: &mut Held<'_>,
    (max, cut): (usize, bool),
    (gap, end): (Duration, Instant),
) -> Result<Bytes, Stop> {
    let mut reading = Reading {
        first: Bytes::new(),
        all: BytesMut::new(),
        max,
        cut,
    };
    let wind = |run: &mut Run<'_>| {
        let now = Instant::now();
        run.limit((now + gap).min(end).saturating_duration_since(now));
    };
    wind(run);
    loop {
        let more = poll_fn(|cx| reading.poll(cx, held.exchange(), run)).await?;
        if !more {
            return Ok(reading.whole());
        }
        wind(run);
    }
}

struct Reading {
    /// The first piece is often the only one.
    first: Bytes,
    all: BytesMut,
    max: usize,
    cut: bool,
}

impl Reading {
    /// Whether more may come.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        run: &mut Run<'_>,
    ) -> Poll<Result<bool, Stop>> {
        match exchange.poll_body(cx) {
            Poll::Ready(Ok(Some(piece))) => Poll::Ready(self.take(piece)),
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(false)),
            Poll::Ready(Err(broken)) => Poll::Ready(Err(Stop::Endpoint(broken))),
            Poll::Pending => run.poll_wait(cx, Side::Endpoint).map(Err),
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<bool, Stop> {
        if self.first.len() + self.all.len() + piece.len() > self.max {
            return if self.cut {
                Ok(false)
            } else {
                Err(Stop::Endpoint(Broken::Malformed(TOO_LARGE.to_owned())))
            };
        }
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
        } else {
            if self.all.is_empty() {
                self.all.extend_from_slice(&self.first);
                self.first = Bytes::new();
            }
            self.all.extend_from_slice(&piece);
        }
        Ok(true)
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

/// Gives an answer to the caller. False when it did not take it.
pub async fn give(
    run: &mut Run<'_>,
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
) -> bool {
    let mut head = ResponseHead::new(status);
    head.headers.insert(header::CONTENT_TYPE, content_type);
    run.decorate_own(&mut head.headers);
    refuse::send(run.caller, run.ctx, run.timer, head, body).await
}

/// The head of an answer that is passed on as it comes.
pub fn head_of_raw(answer: &ResponseHead) -> (ResponseHead, Extent) {
    let mut head = ResponseHead::new(answer.status);
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_DISPOSITION,
        header::CONTENT_ENCODING,
    ] {
        if let Some(value) = answer.headers.get(&name) {
            head.headers.insert(name, value.clone());
        }
    }
    let length = answer.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(length) = length {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    (head, length.map_or(Extent::Unknown, Extent::Length))
}
