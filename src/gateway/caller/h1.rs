//! A caller that speaks HTTP/1.1 (or 1.0): one connection, one request after the other.

use super::{Caller, CallerFault, Extent, Wire, date};
use crate::gateway::timer::Timer;
use crate::stage::listen::conn::{ConnectionFacts, reset_on_close};
use crate::wire::body::{self, BodyReader, BodyWriter, Framing};
use crate::wire::fields;
use crate::wire::head::{
    self, HeadFault, HeadFinder, HeadLimits, RequestHead, ResponseHead, begin_request,
};
use crate::wire::link::{BodyError, HEAD_ROOM, Link};
use bytes::{BufMut, Bytes};
use http::{HeaderMap, StatusCode, Version, header};
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The rest of a request's body up to this size is read and thrown away, so that the connection can
/// serve the next request; with a larger one it is cheaper to close.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// How long such a body may take to arrive, and how long a caller may go on sending after the
/// last answer: closed at once, a connection would take the answer with it.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Of what a caller sends after the last answer, this much is thrown away before it is cut off.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Requests that a caller sends ahead of the answer wait, up to this many bytes.
const AHEAD_MAX: usize = 16 * 1024;

#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct H1 {
    pub link: Link<Stream>,
    framing: Framing,
    receiving: BodyReader,
    sending: BodyWriter,
    old: bool,
    /// Waits for `100 Continue` before it sends its body.
    expects: bool,
    keep: bool,
    finished: bool,
}

/// What came instead of a request.
#[derive(Debug)]
pub enum NoRequest {
    /// Nothing at all: the caller is gone, or has rested long enough.
    Closed,
    /// No head, and an answer is due.
    Faulty(HeadFault),
    /// A head that is not finished in time.
    TimedOut,
}

impl H1 {
    pub fn new(stream: Stream) -> Self {
        Self {
            link: Link::new(stream),
            framing: Framing::Empty,
            receiving: BodyReader::new(Framing::Empty),
            sending: BodyWriter::new(Framing::Empty),
            old: false,
            expects: false,
            keep: false,
            finished: false,
        }
    }

    /// The first byte of the next request; `ends` is ready when it is time to hang up.
    pub async fn wakes(
        &mut self,
        rest: Duration,
        timer: &mut Timer,
        mut ends: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> bool {
        if !self.link.inbox.is_empty() {
            return true;
        }
        self.link.slim();
        timer.set(rest, None);
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.link.poll_fill(cx, HEAD_ROOM) {
                return Poll::Ready(read.is_ok_and(|read| read > 0));
            }
            // A caller at rest holds no buffer.
            self.link.slim();
            if timer.poll(cx).is_ready() || ends(cx).is_ready() {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Reads a head, whole and within `limit`, counted from its first byte.
    pub async fn read_head(
        &mut self,
        (limits, limit): (HeadLimits, Duration),
        timer: &mut Timer,
    ) -> Result<RequestHead, NoRequest> {
        timer.set(limit, None);
        let mut finder = HeadFinder::default();
        let length = poll_fn(|cx| {
            loop {
                let buf = &mut self.link.inbox;
                let looked = begin_request(buf).and_then(|()| finder.find(buf, limits.bytes));
                match looked {
                    Ok(Some(length)) => return Poll::Ready(Ok(length)),
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Err(NoRequest::Faulty(fault))),
                }
                match self.link.poll_fill(cx, HEAD_ROOM) {
                    Poll::Ready(Ok(read)) if read > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Closed)),
                    Poll::Pending => return timer.poll(cx).map(|()| Err(NoRequest::TimedOut)),
                }
            }
        })
        .await?;
        let text = self.link.inbox.split_to(length).freeze();
        let head = head::parse_request(text, limits.fields).map_err(NoRequest::Faulty)?;
        self.framing = request_framing(&head).map_err(NoRequest::Faulty)?;
        Ok(head)
    }

    /// Makes the connection a caller for one request; `last`: whatever it asks, it is its last.
    pub fn into_caller(
        mut self: Box<Self>,
        head: RequestHead,
        facts: ConnectionFacts,
        last: bool,
    ) -> Caller {
        self.old = head.version == Version::HTTP_10;
        self.receiving = BodyReader::new(self.framing);
        self.expects = !self.old
            && !self.receiving.is_done()
            && fields::lists(&head.headers, &header::EXPECT, "100-continue");
        self.keep = !last && asks_to_keep(&head);
        self.finished = false;
        Caller {
            head,
            facts,
            bytes_in: 0,
            begun: false,
            wire: Wire::H1(self),
        }
    }

    /// For a request that could not be read: it has no body, and no successor.
    pub fn give_up_request(&mut self) {
        self.framing = Framing::Empty;
    }

    /// After an answer: whether another request may follow. Throws the rest of the body away.
    pub async fn can_go_on(&mut self, timer: &mut Timer) -> bool {
        if !self.finished {
            return false;
        }
        if self.keep && !self.receiving.is_done() {
            self.keep = timer.within(DRAIN_TIME_MAX, self.drain()).await == Some(true);
        }
        self.keep
    }

    async fn drain(&mut self) -> bool {
        let mut taken = 0;
        loop {
            match poll_fn(|cx| self.link.poll_body(cx, &mut self.receiving)).await {
                Ok(Some(piece)) if taken <= DRAIN_BYTES_MAX => taken += piece.len() as u64,
                Ok(None) => return true,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }

    /// The end of a connection: says so, and listens a little longer, so that the last answer arrives.
    pub async fn close(mut self: Box<Self>, timer: &mut Timer) {
        if !self.finished {
            if self.sending.framing() == Framing::UntilClose {
                reset_on_close(&self.link.io);
            }
            return;
        }
        let still_sends = !self.receiving.is_done();
        let closing = async {
            if AsyncWriteExt::shutdown(&mut self.link.io).await.is_err() || !still_sends {
                return;
            }
            let mut left = LINGER_BYTES_MAX;
            loop {
                self.link.inbox.clear();
                match poll_fn(|cx| self.link.poll_fill(cx, HEAD_ROOM)).await {
                    Ok(read) if read > 0 && read < left => left -= read,
                    _ => return,
                }
            }
        };
        // Whoever goes on sending is cut off.
        let _ = timer.within(DRAIN_TIME_MAX, closing).await;
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn has_sent(&self) -> bool {
        self.receiving.is_done()
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, CallerFault>> {
        if self.expects {
            self.expects = false;
            if self.link.inbox.is_empty() {
                self.link
                    .out
                    .write(|out| out.put_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
            }
        }
        if !self.link.out.is_empty()
            && let Poll::Ready(Err(error)) = self.link.poll_flush(cx)
        {
            return Poll::Ready(Err(left(&error)));
        }
        let polled = self.link.poll_body(cx, &mut self.receiving);
        polled.map_err(|error| match error {
            BodyError::Cut(error) => left(&error),
            BodyError::Malformed(body::Malformed(reason)) => CallerFault::Malformed(reason),
        })
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.receiving.take_trailers()
    }

    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        while self.link.inbox.len() < AHEAD_MAX {
            match ready!(self.link.poll_fill(cx, 1)) {
                Ok(0) => return Poll::Ready("end of connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error.to_string()),
            }
        }
        Poll::Pending
    }

    pub(super) fn put_interim(&mut self, head: &ResponseHead) {
        if self.old || head.status == StatusCode::CONTINUE {
            // The one is not understood; the other was said already.
            return;
        }
        self.link.out.write(|out| {
            head::put_response(out, head, |name| fields::OF_CONNECTION.contains(name));
            out.put_slice(b"\r\n");
        });
    }

    pub(super) fn put_head(&mut self, head: &ResponseHead, extent: Extent) {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let framing = match extent {
            Extent::Nothing => Framing::Empty,
            Extent::Length(length) => Framing::Length(length),
            Extent::Unknown if self.old => Framing::UntilClose,
            Extent::Unknown => Framing::Chunked,
        };
        if framing == Framing::UntilClose {
            self.keep = false;
        }
        self.sending = BodyWriter::new(framing);
        let (keep, old) = (self.keep, self.old);
        let skip = |name: &http::HeaderName| {
            fields::OF_CONNECTION.contains(name)
                || (extent != Extent::Nothing && *name == header::CONTENT_LENGTH)
        };
        self.link.out.write(|out| {
            head::put_response(out, head, skip);
            if !head.headers.contains_key(header::DATE) && !switches {
                out.put_slice(b"Date: ");
                out.put_slice(date().as_bytes());
                out.put_slice(b"\r\n");
            }
            match framing {
                Framing::Length(length) => {
                    use std::io::Write;
                    // Writing to memory does not fail.
                    let _ = write!(out.writer(), "Content-Length: {length}\r\n");
                }
                Framing::Chunked => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
                Framing::Empty | Framing::UntilClose => {}
            }
            if switches {
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
                let protocol = head.headers.get(header::UPGRADE);
                out.put_slice(protocol.map_or(b"websocket", |protocol| protocol.as_bytes()));
                out.put_slice(b"\r\n");
            } else if !keep {
                out.put_slice(b"Connection: close\r\n");
            } else if old {
                out.put_slice(b"Connection: keep-alive\r\n");
            }
            out.put_slice(b"\r\n");
        });
    }

    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallerFault>> {
        self.link.poll_room(cx).map_err(|error| left(&error))
    }

    pub(super) fn put(&mut self, piece: Bytes) {
        self.sending.put(&mut self.link.out, piece);
    }

    pub(super) fn finish(&mut self, trailers: Option<&HeaderMap>) {
        let whole = self.sending.finish(&mut self.link.out, trailers);
        self.keep &= whole;
        self.finished = true;
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallerFault>> {
        self.link.poll_flush(cx).map_err(|error| left(&error))
    }

    /// Without its end: an unfinished body tells by itself, one that lasts until the connection ends
    /// does not, so that connection is reset.
    pub(super) fn cut(&mut self) {
        self.keep = false;
        self.finished = false;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // What has come of the answer is the caller's, if it takes it now.
        let _ = self.link.poll_flush(&mut cx);
    }

    pub(super) fn close_after(&mut self) {
        self.keep = false;
    }

    pub(super) fn give_up_body(&mut self) {
        let small = match self.framing {
            Framing::Empty => true,
            Framing::Length(length) => length <= DRAIN_BYTES_MAX,
            Framing::Chunked | Framing::UntilClose => false,
        };
        // A caller that waits for our word may send the body, or may not: nobody knows where the next request begins.
        if !self.receiving.is_done() && (!small || self.expects) {
            self.keep = false;
        }
    }
}

impl Caller {
    /// The connection, when its request has been answered; none for HTTP/2.
    pub fn into_h1(self) -> Option<Box<H1>> {
        match self.wire {
            Wire::H1(h1) => Some(h1),
            Wire::H2(_) => None,
        }
    }
}

fn left(error: &io::Error) -> CallerFault {
    CallerFault::Left(error.to_string())
}

/// RFC 9112 section 6: a request without either field has no body. Codings are unknown to HTTP/1.0, where
/// another reader might take the body for the next request.
fn request_framing(head: &RequestHead) -> Result<Framing, HeadFault> {
    let framing = body::framing(&head.headers)?.unwrap_or(Framing::Empty);
    if framing == Framing::Chunked && head.version == Version::HTTP_10 {
        return Err(HeadFault::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(framing)
}

/// RFC 9112 section 9.3.
fn asks_to_keep(head: &RequestHead) -> bool {
    if head.version == Version::HTTP_10 {
        return fields::lists(&head.headers, &header::CONNECTION, "keep-alive");
    }
    !fields::lists(&head.headers, &header::CONNECTION, "close")
}
