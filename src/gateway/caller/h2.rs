//! A caller that speaks HTTP/2: one stream, one request.

use super::{Caller, CallerFault, Extent, Wire, date};
use crate::gateway::flood::Meter;
use crate::stage::listen::conn::ConnectionFacts;
use crate::wire::body::{self, Framing};
use crate::wire::fields::{self, Spelling};
use crate::wire::frames::Frames;
use crate::wire::head::{self, HeadFault, HeadLimits, RequestHead, ResponseHead};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, Version, header};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Of a body this much is read when the answer does not need it. It costs no connection to stop.
const REST_BYTES_MAX: usize = 8 << 20;

/// How long that may take.
const REST_TIME_MAX: Duration = Duration::from_secs(2);

pub struct H2 {
    receiving: RecvStream,
    respond: SendResponse<Bytes>,
    sending: Option<Frames>,
    trailers: Option<HeaderMap>,
    received: bool,
    framing: Framing,
    /// The answer has no body, and ended with its head.
    ended: bool,
    meter: Arc<Meter>,
}

impl H2 {
    /// A caller from a stream that was just opened.
    pub fn caller(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        facts: ConnectionFacts,
        meter: Arc<Meter>,
    ) -> Caller {
        meter.asked();
        let (parts, receiving) = request.into_parts();
        let received = receiving.is_end_stream();
        let framing = match body::framing(&parts.headers) {
            _ if received => Framing::Empty,
            Ok(Some(Framing::Length(length))) => Framing::Length(length),
            _ => Framing::Chunked,
        };
        let h2 = Self {
            received,
            framing,
            receiving,
            respond,
            sending: None,
            trailers: None,
            ended: false,
            meter,
        };
        Caller {
            head: RequestHead {
                parts,
                spelling: Spelling::default(),
            },
            facts,
            bytes_in: 0,
            begun: false,
            wire: Wire::H2(Box::new(h2)),
        }
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn has_sent(&self) -> bool {
        self.received
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, CallerFault>> {
        while !self.received {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only when the stream is gone, which the next look will tell.
                    let _ = self.receiving.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        self.meter.sent_body(data.len());
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(fault_of(&error))),
                None => {
                    let trailers = ready!(self.receiving.poll_trailers(cx));
                    self.trailers = trailers.map_err(|error| fault_of(&error))?;
                    self.received = true;
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let reset = match &mut self.sending {
            Some(frames) => frames.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        if reset.is_ready() {
            self.meter.gave_up();
        }
        reset.map(|reset| match reset {
            Ok(reason) => format!("stream reset: {reason}"),
            Err(error) => error.to_string(),
        })
    }

    pub(super) fn put_head(
        &mut self,
        mut head: ResponseHead,
        extent: Extent,
    ) -> Result<(), CallerFault> {
        if !head.headers.contains_key(header::DATE) {
            head.headers.insert(header::DATE, date());
        }
        if let Extent::Length(length) = extent {
            head.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        for name in &fields::OF_CONNECTION {
            if head.headers.contains_key(name) {
                head.headers.remove(name);
            }
        }
        let mut answer = Response::new(());
        *answer.status_mut() = head.status;
        *answer.headers_mut() = head.headers;
        self.ended = matches!(extent, Extent::Nothing | Extent::Length(0));
        let stream = self.respond.send_response(answer, self.ended);
        let stream = stream.map_err(|error| fault_of(&error))?;
        self.sending = Some(Frames::new(stream));
        Ok(())
    }

    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallerFault>> {
        match &mut self.sending {
            Some(frames) => frames.poll_room(cx).map_err(|error| fault_of(&error)),
            None => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn put(&mut self, piece: Bytes) {
        if let Some(frames) = &mut self.sending
            && !self.ended
        {
            self.meter.was_answered(piece.len());
            frames.put(piece);
        }
    }

    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), CallerFault> {
        match &mut self.sending {
            Some(frames) if !self.ended => {
                self.ended = true;
                frames.finish(trailers).map_err(|error| fault_of(&error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn cut(&mut self) {
        if self.ended {
            return;
        }
        match &mut self.sending {
            Some(frames) => frames.reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// A stream whose body was left unread is reset, and some callers then forget the answer that
    /// they have already: so the rest is read and thrown away, within limits.
    pub(super) async fn take_rest(&mut self) {
        let rest = async {
            let mut taken = 0;
            while taken < REST_BYTES_MAX {
                match poll_fn(|cx| self.poll_body(cx)).await {
                    Ok(Some(piece)) => taken += piece.len(),
                    // Nothing is left, or nobody.
                    Ok(None) | Err(_) => return,
                }
            }
        };
        // When the time is over the stream is reset, as it would have been without.
        let _ = tokio::time::timeout(REST_TIME_MAX, rest).await;
    }
}

/// Our own quarrels with the caller's frames are its faults too: whichever it is, nobody takes the answer.
fn fault_of(error: &h2::Error) -> CallerFault {
    CallerFault::Left(error.to_string())
}

/// What the library leaves to us (RFC 9113 section 8.3.1): one authority, a path, one length.
pub fn check(head: &RequestHead, limits: HeadLimits) -> Result<(), HeadFault> {
    let parts = &head.parts;
    if parts.headers.len() > limits.fields {
        return Err(HeadFault::TooManyFields);
    }
    let bytes: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = parts.uri.path_and_query().map_or("", |path| path.as_str());
    if bytes + target.len() > limits.bytes {
        return Err(HeadFault::TooLarge);
    }
    if parts.version != Version::HTTP_2 {
        return Err(HeadFault::Version);
    }
    let mut hosts = parts.headers.get_all(header::HOST).into_iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadFault::Malformed("more than one Host"));
    }
    if parts.uri.authority().is_none() && host.is_none() {
        return Err(HeadFault::Malformed("no authority"));
    }
    head::check_authority(parts)?;
    if parts.method != Method::CONNECT && !(target.starts_with('/') || target == "*") {
        return Err(HeadFault::Malformed("the path is no path"));
    }
    // Bytes that would end a line or a field on their way to an endpoint that speaks HTTP/1.1.
    if target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(HeadFault::Malformed("control characters in the path"));
    }
    match body::framing(&parts.headers)? {
        Some(Framing::Chunked) => Err(HeadFault::Malformed("Transfer-Encoding in HTTP/2")),
        _ => Ok(()),
    }
}
