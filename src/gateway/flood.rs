//! What a caller may send over HTTP/2 without asking for anything, and how often it may change its mind.
//!
//! Pings, settings, empty frames and resets cost us work and the caller nothing. Each byte is therefore
//! paid for: by a request, by a body, by an answer that has to be acknowledged, and by time. What is not
//! paid for ends the connection.

use crate::wire::http2::HeadWatch;
use pingora::protocols::Stream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Free for each connection, and a little more for each second of its life.
const FREE_BYTES: u64 = 256 * 1024;
const FREE_BYTES_PER_SECOND: u64 = 4 * 1024;

/// What a request pays for beside its body: its head, with room for one that is not compressed, and
/// for what it needs of control.
const BYTES_PER_REQUEST: u64 = 64 * 1024;

/// Each byte of a body pays for this many: frames may be small.
const BYTES_PER_BODY_BYTE: u64 = 16;

/// So many bytes of an answer pay for one of acknowledgement.
const ANSWER_BYTES_PER_BYTE: u64 = 8;

/// Requests that a caller may give up at once, and a second: a browser that leaves a page gives up dozens.
const GIVEN_UP_BURST: u64 = 200;
const GIVEN_UP_PER_SECOND: u64 = 20;

/// The account of one connection.
#[derive(Debug)]
pub struct Meter {
    began: Instant,
    read: AtomicU64,
    paid: AtomicU64,
    given_up: AtomicU64,
    head_timed_out: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            read: AtomicU64::new(0),
            paid: AtomicU64::new(FREE_BYTES),
            given_up: AtomicU64::new(0),
            head_timed_out: AtomicBool::new(false),
        }
    }
}

impl Meter {
    pub fn asked(&self) {
        self.paid.fetch_add(BYTES_PER_REQUEST, Relaxed);
    }

    pub fn sent_body(&self, bytes: usize) {
        let paid = (bytes as u64).saturating_mul(BYTES_PER_BODY_BYTE);
        self.paid.fetch_add(paid, Relaxed);
    }

    pub fn was_answered(&self, bytes: usize) {
        let paid = bytes as u64 / ANSWER_BYTES_PER_BYTE;
        self.paid.fetch_add(paid, Relaxed);
    }

    /// The caller has given a request up before it was answered.
    pub fn gave_up(&self) {
        self.given_up.fetch_add(1, Relaxed);
    }

    /// Whether it has done so too often.
    pub fn gives_up_too_often(&self) -> bool {
        let given_up = self.given_up.load(Relaxed);
        given_up > GIVEN_UP_BURST
            && given_up > GIVEN_UP_BURST + GIVEN_UP_PER_SECOND * self.began.elapsed().as_secs()
    }

    /// Why we ended the connection, if it was us.
    pub fn verdict(&self) -> Option<&'static str> {
        if self.head_timed_out.load(Relaxed) {
            return Some("head_timed_out");
        }
        (!self.read(0)).then_some("http2_flood")
    }

    fn read(&self, bytes: u64) -> bool {
        let read = self.read.fetch_add(bytes, Relaxed) + bytes;
        let paid = self.paid.load(Relaxed);
        // The common case asks for no time.
        read <= paid || read <= paid + FREE_BYTES_PER_SECOND * self.began.elapsed().as_secs()
    }
}

/// A stream that ends when its account is overdrawn, or when a head does not come to its end.
#[derive(Debug)]
pub struct Metered {
    stream: Stream,
    meter: Arc<Meter>,
    heads: HeadWatch,
    head_timeout: Duration,
    /// Runs while a head is not whole.
    late: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    /// Each head must be whole within `head_timeout`.
    pub fn new(stream: Stream, meter: Arc<Meter>, head_timeout: Duration) -> Self {
        Self {
            stream,
            meter,
            heads: HeadWatch::default(),
            head_timeout,
            late: None,
        }
    }

    fn watch_head(&mut self, bytes: &[u8]) {
        self.heads.pass(bytes);
        if !self.heads.is_within_head() {
            self.late = None;
        } else if self.late.is_none() {
            self.late = Some(Box::pin(tokio::time::sleep(self.head_timeout)));
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(late) = &mut self.late else {
            return Poll::Pending;
        };
        ready!(late.as_mut().poll(cx));
        self.meter.head_timed_out.store(true, Relaxed);
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(error) = this.poll_late(cx) {
            return Poll::Ready(Err(error));
        }
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        this.watch_head(&buf.filled()[before..]);
        if this.meter.read(read as u64) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::other("more frames than requests")))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_be_paid_for() {
        let meter = Meter::default();
        assert!(meter.read(FREE_BYTES));
        assert!(!meter.read(3 * FREE_BYTES_PER_SECOND));
        meter.asked();
        assert!(meter.read(0));
        meter.sent_body(1 << 20);
        assert!(meter.read(9 << 20));
    }

    #[test]
    fn a_page_may_be_left_but_not_for_ever() {
        let meter = Meter::default();
        for _ in 0..GIVEN_UP_BURST {
            meter.gave_up();
        }
        assert!(!meter.gives_up_too_often());
        for _ in 0..3 * GIVEN_UP_PER_SECOND {
            meter.gave_up();
        }
        assert!(meter.gives_up_too_often());
    }
}
