//! What a caller may send over HTTP/2 without asking for anything, and how often it may change its mind.
//!
//! Pings, settings, empty frames and resets cost us work and the caller nothing. Each byte is therefore
//! paid for: by a request, by a body, by an answer that has to be acknowledged, and by time. What is not
//! paid for ends the connection.

use pingora::protocols::Stream;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            read: AtomicU64::new(0),
            paid: AtomicU64::new(FREE_BYTES),
            given_up: AtomicU64::new(0),
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

    /// Whether it has sent more than was paid for.
    pub fn is_overdrawn(&self) -> bool {
        !self.read(0)
    }

    fn read(&self, bytes: u64) -> bool {
        let read = self.read.fetch_add(bytes, Relaxed) + bytes;
        let paid = self.paid.load(Relaxed);
        // The common case asks for no time.
        read <= paid || read <= paid + FREE_BYTES_PER_SECOND * self.began.elapsed().as_secs()
    }
}

/// A stream that ends when its account is overdrawn.
#[derive(Debug)]
pub struct Metered {
    stream: Stream,
    meter: Arc<Meter>,
}

impl Metered {
    pub fn new(stream: Stream, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if self.meter.read(read as u64) {
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
