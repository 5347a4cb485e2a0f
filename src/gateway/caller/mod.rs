//! The caller's side of one request, in whichever protocol it speaks.
//!
//! Everything is polled: the request's body comes in and the answer goes out at the same time.

pub mod h1;
pub mod h2;

use crate::stage::listen::conn::ConnectionFacts;
use crate::wire::body::Framing;
use crate::wire::head::{RequestHead, ResponseHead};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

/// What keeps a caller from getting its answer.
#[derive(Debug)]
pub enum CallerFault {
    /// It went away.
    Left(String),
    /// It was too slow in sending its body, or in reading the answer.
    TimedOut,
    /// Its body is not HTTP.
    Malformed(&'static str),
    /// Its body is larger than its route allows.
    BodyTooLarge,
}

/// How an answer's body is delimited, as far as it is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// There is none; the head may speak of one all the same (`HEAD`, 304).
    Nothing,
    Length(u64),
    Unknown,
}

pub struct Caller {
    pub head: RequestHead,
    pub facts: ConnectionFacts,
    /// Bytes of the body that have come.
    pub bytes_in: u64,
    /// Whether the final head has been put in.
    pub begun: bool,
    wire: Wire,
}

enum Wire {
    H1(Box<h1::H1>),
    H2(Box<h2::H2>),
}

impl Caller {
    pub fn is_http2(&self) -> bool {
        matches!(self.wire, Wire::H2(_))
    }

    /// How the request's body is delimited.
    pub fn framing(&self) -> Framing {
        match &self.wire {
            Wire::H1(h1) => h1.framing(),
            Wire::H2(h2) => h2.framing(),
        }
    }

    /// Whether the body has come whole, or there is none.
    pub fn has_sent(&self) -> bool {
        match &self.wire {
            Wire::H1(h1) => h1.has_sent(),
            Wire::H2(h2) => h2.has_sent(),
        }
    }

    /// The next piece of the body, none at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, CallerFault>> {
        let polled = match &mut self.wire {
            Wire::H1(h1) => h1.poll_body(cx),
            Wire::H2(h2) => h2.poll_body(cx),
        };
        if let Poll::Ready(Ok(Some(piece))) = &polled {
            self.bytes_in += piece.len() as u64;
        }
        polled
    }

    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.wire {
            Wire::H1(h1) => h1.take_trailers(),
            Wire::H2(h2) => h2.take_trailers(),
        }
    }

    /// Ready when the caller has left. Only to be asked once its body has come whole.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        match &mut self.wire {
            Wire::H1(h1) => h1.poll_gone(cx),
            Wire::H2(h2) => h2.poll_gone(cx),
        }
    }

    /// Gives back what memory the connection does not need while it waits.
    pub fn slim(&mut self) {
        if let Wire::H1(h1) = &mut self.wire {
            h1.link.slim();
        }
    }

    /// An answer before the final one; passed on where the protocol can.
    pub fn put_interim(&mut self, head: &ResponseHead) {
        if let Wire::H1(h1) = &mut self.wire {
            h1.put_interim(head);
        }
    }

    /// Puts the final head in. Nothing has left before the next flush.
    pub fn put_head(&mut self, head: ResponseHead, extent: Extent) -> Result<(), CallerFault> {
        self.begun = true;
        let extent = if self.head.method == Method::HEAD {
            Extent::Nothing
        } else {
            extent
        };
        match &mut self.wire {
            Wire::H1(h1) => {
                h1.put_head(&head, extent);
                Ok(())
            }
            Wire::H2(h2) => h2.put_head(head, extent),
        }
    }

    /// Ready when a piece of the answer may be put in.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallerFault>> {
        match &mut self.wire {
            Wire::H1(h1) => h1.poll_room(cx),
            Wire::H2(h2) => h2.poll_room(cx),
        }
    }

    pub fn put(&mut self, piece: Bytes) {
        match &mut self.wire {
            Wire::H1(h1) => h1.put(piece),
            Wire::H2(h2) => h2.put(piece),
        }
    }

    /// Puts the end of the answer in; every piece must have gone.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), CallerFault> {
        match &mut self.wire {
            Wire::H1(h1) => {
                h1.finish(trailers.as_ref());
                Ok(())
            }
            Wire::H2(h2) => h2.finish(trailers),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallerFault>> {
        match &mut self.wire {
            Wire::H1(h1) => h1.poll_flush(cx),
            Wire::H2(h2) => h2.poll_room(cx),
        }
    }

    /// The answer will never be whole, and the caller must notice.
    pub fn cut(&mut self) {
        match &mut self.wire {
            Wire::H1(h1) => h1.cut(),
            Wire::H2(h2) => h2.cut(),
        }
    }

    /// This answer is to be the last on its connection.
    pub fn close_after(&mut self) {
        if let Wire::H1(h1) = &mut self.wire {
            h1.close_after();
        }
    }

    /// Before an answer that does not need the rest of the body: decides whether the connection survives it.
    pub fn give_up_body(&mut self) {
        if let Wire::H1(h1) = &mut self.wire {
            h1.give_up_body();
        }
    }

    /// Reads on and throws away what the answer did not need, as far as that is worth it.
    pub async fn take_rest(&mut self) {
        if self.has_sent() {
            return;
        }
        match &mut self.wire {
            // The connection's own loop does it, when it goes on to the next request.
            Wire::H1(_) => {}
            Wire::H2(h2) => h2.take_rest().await,
        }
    }

    /// The connection of a caller that may speak another protocol from here on.
    pub fn as_tunnel(&mut self) -> Option<&mut h1::H1> {
        match &mut self.wire {
            Wire::H1(h1) => Some(h1),
            Wire::H2(_) => None,
        }
    }
}

/// `Date` (RFC 9110 section 6.6.1), made once a second.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.unwrap_or(Duration::ZERO).as_secs();
    LAST.with_borrow_mut(|(of, value)| {
        if *of != second {
            let text = httpdate::fmt_http_date(now);
            *value = HeaderValue::from_str(&text).expect("a date is a header value");
            *of = second;
        }
        value.clone()
    })
}
