//! One request and its answer on one connection to an endpoint, in whichever protocol it speaks.
//!
//! Everything is polled: the request's body goes out and the answer comes in at the same time.

use super::broken::Broken;
use super::socket::Wire;
use crate::wire::body::{self, BodyReader, BodyWriter, Framing};
use crate::wire::fields::{self, Spelling};
use crate::wire::frames::Frames;
use crate::wire::head::{self, HeadFault, HeadFinder, ResponseHead};
use crate::wire::link::{HEAD_ROOM, Link};
use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::HttpPeer;
use std::pin::pin;
use std::task::{Context, Poll, ready};

/// A request head that is ready to leave.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a> {
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// Those that concern the caller's connection or framing are passed over.
    pub headers: &'a HeaderMap,
    pub spelling: &'a Spelling,
    pub body: Framing,
    /// The protocol that is asked for instead of HTTP.
    pub upgrade: Option<&'a HeaderValue>,
}

#[derive(Debug)]
pub enum Exchange {
    H1(Box<H1>),
    H2(Box<H2>),
}

/// HTTP/1.1.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct H1 {
    pub(super) link: Link<Wire>,
    /// Under which it may be kept; none: never.
    pub(super) key: Option<u64>,
    finder: HeadFinder,
    sending: BodyWriter,
    answer: BodyReader,
    head_only: bool,
    upgrade: bool,
    sent: bool,
    may_keep: bool,
}

/// One stream of HTTP/2, opened by Pingora's connector.
pub struct H2 {
    pub(super) session: Http2Session,
    pub(super) peer: Box<HttpPeer>,
    frames: Option<Frames>,
    heard: bool,
    trailers: Option<HeaderMap>,
}

impl std::fmt::Debug for H2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2")
            .field("heard", &self.heard)
            .finish_non_exhaustive()
    }
}

/// What concerns the caller's connection, or is written anew.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    fields::OF_CONNECTION.contains(name) || [header::CONTENT_LENGTH, header::EXPECT].contains(name)
}

impl Exchange {
    pub(super) fn h1(link: Link<Wire>, key: Option<u64>) -> Self {
        Self::H1(Box::new(H1::new(link, key)))
    }

    pub(super) fn h2(session: Http2Session, peer: Box<HttpPeer>) -> Self {
        Self::H2(Box::new(H2 {
            session,
            peer,
            frames: None,
            heard: false,
            trailers: None,
        }))
    }

    /// Puts the head in; nothing has left before the next flush.
    pub fn start(&mut self, request: Outbound<'_>) -> Result<(), Broken> {
        match self {
            Self::H1(h1) => {
                h1.start(request);
                Ok(())
            }
            Self::H2(h2) => h2.start(request),
        }
    }

    /// Ready when a piece of the body may be put in.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(h1) => h1
                .link
                .poll_room(cx)
                .map_err(|error| Broken::closed(false, error)),
            Self::H2(h2) => h2.poll_room(cx),
        }
    }

    pub fn put(&mut self, piece: Bytes) {
        match self {
            Self::H1(h1) => h1.sending.put(&mut h1.link.out, piece),
            Self::H2(h2) => {
                if let Some(frames) = &mut h2.frames {
                    frames.put(piece);
                }
            }
        }
    }

    /// Puts the end of the body in.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::H1(h1) => {
                h1.sent = h1.sending.finish(&mut h1.link.out, trailers.as_ref());
                Ok(())
            }
            Self::H2(h2) => match &mut h2.frames {
                Some(frames) => frames
                    .finish(trailers)
                    .map_err(|error| Broken::of_h2(&error, h2.heard)),
                None => Ok(()),
            },
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(h1) => h1
                .link
                .poll_flush(cx)
                .map_err(|error| Broken::closed(false, error)),
            Self::H2(h2) => h2.poll_room(cx),
        }
    }

    /// The next head of the answer: some 1xx, then the final one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        match self {
            Self::H1(h1) => h1.poll_head(cx),
            Self::H2(h2) => h2.poll_head(cx),
        }
    }

    /// The next piece of the answer's body, none at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        match self {
            Self::H1(h1) => {
                let H1 { link, answer, .. } = &mut **h1;
                link.poll_body(cx, answer).map_err(Broken::of_body)
            }
            Self::H2(h2) => h2.poll_body(cx),
        }
    }

    /// Gives back what memory it does not need while it waits.
    pub fn slim(&mut self) {
        if let Self::H1(h1) = self {
            h1.link.slim();
        }
    }

    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::H1(h1) => h1.answer.take_trailers(),
            Self::H2(h2) => h2.trailers.take(),
        }
    }
}

impl H1 {
    fn new(link: Link<Wire>, key: Option<u64>) -> Self {
        Self {
            link,
            key,
            finder: HeadFinder::default(),
            sending: BodyWriter::new(Framing::Empty),
            answer: BodyReader::new(Framing::Empty),
            head_only: false,
            upgrade: false,
            sent: false,
            may_keep: false,
        }
    }

    fn start(&mut self, request: Outbound<'_>) {
        let stays = self.key.is_some();
        self.link.out.write(|out| {
            let fields = (request.headers, request.spelling);
            head::put_request(out, request.method, request.target, fields, is_hop_by_hop);
            match request.body {
                Framing::Length(length) => put_length(out, length),
                Framing::Chunked => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
                // A server may wait for a body where none is announced (RFC 9110 section 8.6).
                _ if means_a_body(request.method) => put_length(out, 0),
                _ => {}
            }
            if let Some(protocol) = request.upgrade {
                out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
                out.put_slice(protocol.as_bytes());
                out.put_slice(b"\r\n");
            } else if !stays {
                out.put_slice(b"Connection: close\r\n");
            }
            out.put_slice(b"\r\n");
        });
        self.finder = HeadFinder::default();
        self.sending = BodyWriter::new(request.body);
        self.answer = BodyReader::new(Framing::Empty);
        self.head_only = *request.method == Method::HEAD;
        self.upgrade = request.upgrade.is_some();
        self.sent = matches!(request.body, Framing::Empty | Framing::Length(0));
        self.may_keep = false;
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        loop {
            let found = self.finder.find(&self.link.inbox, head::ANSWER_HEAD_MAX);
            if let Some(length) = found.map_err(malformed)? {
                self.finder = HeadFinder::default();
                let text = self.link.inbox.split_to(length).freeze();
                let answer = head::parse_response(text).map_err(malformed)?;
                self.begin_answer(&answer)?;
                return Poll::Ready(Ok(answer));
            }
            let heard = |link: &Link<Wire>| !link.inbox.is_empty();
            match ready!(self.link.poll_fill(cx, HEAD_ROOM)) {
                Ok(0) => {
                    let heard = heard(&self.link);
                    return Poll::Ready(Err(Broken::closed(heard, "end of connection")));
                }
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Err(Broken::closed(heard(&self.link), error)));
                }
            }
        }
    }

    /// RFC 9112 section 6.3.
    fn begin_answer(&mut self, answer: &ResponseHead) -> Result<(), Broken> {
        if answer.is_interim() {
            return Ok(());
        }
        let status = answer.status;
        let framing = if status == StatusCode::SWITCHING_PROTOCOLS {
            Framing::UntilClose
        } else if self.head_only || matches!(status.as_u16(), 204 | 304) {
            Framing::Empty
        } else {
            let framing = body::framing(&answer.headers);
            let framing =
                framing.map_err(|body::Malformed(what)| Broken::Malformed(what.into()))?;
            framing.unwrap_or(Framing::UntilClose)
        };
        let closes = fields::lists(&answer.headers, &header::CONNECTION, "close");
        let old = answer.version == Version::HTTP_10
            && !fields::lists(&answer.headers, &header::CONNECTION, "keep-alive");
        self.may_keep = framing != Framing::UntilClose && !closes && !old;
        self.answer = BodyReader::new(framing);
        Ok(())
    }

    /// Whether another request may follow on this connection.
    pub(super) fn can_rest(&mut self) -> bool {
        self.may_keep && self.sent && self.answer.is_done() && self.link.rests()
    }

    /// The bare connection, once it speaks another protocol.
    pub fn into_link(self) -> Link<Wire> {
        self.link
    }
}

fn put_length(out: &mut bytes::BytesMut, length: u64) {
    use std::io::Write;
    // Writing to memory does not fail.
    let _ = write!(out.writer(), "Content-Length: {length}\r\n");
}

fn means_a_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

fn malformed(fault: HeadFault) -> Broken {
    Broken::Malformed(match fault {
        HeadFault::TooLarge => "the head of the answer is too large".to_owned(),
        HeadFault::TooManyFields => "the answer has too many fields".to_owned(),
        HeadFault::Version => "the answer is of another version of HTTP".to_owned(),
        HeadFault::Malformed(reason) => reason.to_owned(),
    })
}

impl H2 {
    fn start(&mut self, request: Outbound<'_>) -> Result<(), Broken> {
        let internal = |error: &dyn std::fmt::Display| Broken::Malformed(error.to_string());
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = request.method.clone();
        parts.uri = request.target.parse().map_err(|error| internal(&error))?;
        parts.version = Version::HTTP_2;
        parts.headers.reserve(request.headers.len());
        for (name, value) in request.headers {
            if !is_hop_by_hop(name) {
                parts.headers.append(name.clone(), value.clone());
            }
        }
        if fields::lists(request.headers, &header::TE, "trailers") {
            parts
                .headers
                .insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Framing::Length(length) = request.body {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let end = matches!(request.body, Framing::Empty | Framing::Length(0));
        let header = Box::new(RequestHeader::from(parts));
        if let Err(error) = self.session.write_request_header(header, end) {
            let h2 = error.root_cause().downcast_ref::<h2::Error>();
            return Err(h2.map_or_else(
                || Broken::Malformed(error.to_string()),
                |cause| Broken::of_h2(cause, false),
            ));
        }
        let writer = self.session.take_request_body_writer();
        self.frames = writer.filter(|_| !end).map(Frames::new);
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.frames {
            Some(frames) => frames
                .poll_room(cx)
                .map_err(|error| Broken::of_h2(&error, self.heard)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        let came = ready!(self.session.poll_read_response_header(cx));
        came.map_err(|error| Broken::of_h2(&error, false))?;
        self.heard = true;
        let header = self.session.response_header();
        let header = header.ok_or_else(|| Broken::Malformed("no head".to_owned()))?;
        let mut head = ResponseHead::new(header.status);
        head.version = Version::HTTP_2;
        head.headers = header.headers.clone();
        head.headers.reserve(8);
        Poll::Ready(Ok(head))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            match ready!(self.session.poll_read_response_body(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Err(error)) => return Poll::Ready(Err(Broken::of_h2(&error, true))),
                None => break,
            }
        }
        // Holds no state between two polls, so it may be made anew for each.
        let trailers = ready!(pin!(self.session.read_trailers()).poll(cx));
        self.trailers = trailers.map_err(|error| Broken::closed(true, error))?;
        Poll::Ready(Ok(None))
    }
}
