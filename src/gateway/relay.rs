//! What comes back: the endpoint's head and body on their way to the caller.

use super::attempt::{Answering, Held};
use super::caller::Extent;
use super::context::{RequestContext, Sticky};
use super::life::{Flight, Stop};
use super::upload::Side;
use super::{dispatch, tunnel};
use crate::base::ending::Ending;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::ejection::Outcome;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::body::{self, Framing};
use crate::wire::fields;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// The endpoint's head, before anything of it is passed on: the last moment to try another endpoint.
pub fn weigh(head: &ResponseHead, flight: &mut Flight<'_>) -> Result<(), Broken> {
    let ctx = &mut *flight.ctx;
    let now = Instant::now();
    let status = head.status.as_u16();
    if let Some(attempt) = ctx.attempts.last_mut() {
        attempt.first_byte = Some(now - attempt.started);
        attempt.status = Some(status);
    }
    let outcome = if status >= 500 {
        Outcome::Error
    } else {
        Outcome::Success
    };
    let upstream = ctx
        .route()
        .and_then(|route| route.upstream())
        .map(Arc::clone);
    if let (Some(upstream), Some(lease)) = (upstream, &mut ctx.lease) {
        upstream.report(lease, outcome, now);
    }
    if dispatch::retries_status(flight, status) {
        return Err(Broken::Status(status));
    }
    settle_upgrade(head.status, flight.ctx)
}

/// A tunnel stands with its 101. With any other status the answer is an ordinary one, and so are
/// its limits; and nobody gets a 101 who was not admitted to a tunnel.
fn settle_upgrade(status: StatusCode, ctx: &mut RequestContext) -> Result<(), Broken> {
    match (ctx.is_tunnel(), status == StatusCode::SWITCHING_PROTOCOLS) {
        (true, true) | (false, false) => Ok(()),
        (true, false) => {
            if let Some(admission) = &mut ctx.admission {
                admission.tunnel = None;
            }
            Ok(())
        }
        (false, true) => {
            let cause = "the endpoint switched protocols unasked".to_owned();
            Err(Broken::Malformed(cause))
        }
    }
}

/// Passes the answer on, and says how that ended.
pub async fn run(answering: Answering<'_>, flight: &mut Flight<'_>) {
    let Answering {
        mut held,
        mut head,
        sent,
    } = answering;
    let extent = extent_of(&head, &flight.caller.head.method);
    let events = Events::of(&head, extent);
    flight.ctx.status = head.status.as_u16();
    decorate(&mut head, flight.ctx);
    if !flight.upload.is_whole() {
        flight.caller.give_up_body();
    }
    if let Err(fault) = flight.caller.put_head(head, extent) {
        return dispatch::cut(flight, Stop::Caller(fault));
    }
    if flight.ctx.is_tunnel() {
        return tunnel::run(held, flight.caller, flight.ctx, flight.timer).await;
    }
    let passed = pass(&mut held, flight, sent, events).await;
    drop(held);
    match passed {
        Ok(()) => flight.ctx.end(Ending::Completed),
        Err(stop) => dispatch::cut(flight, stop),
    }
}

/// How long the body is, as its head says; RFC 9110 sections 6.4.1 and 15.
fn extent_of(head: &ResponseHead, method: &Method) -> Extent {
    if *method == Method::HEAD || matches!(head.status.as_u16(), 101 | 204 | 304) {
        return Extent::Nothing;
    }
    match body::framing(&head.headers) {
        Ok(Some(Framing::Length(length))) => Extent::Length(length),
        _ => Extent::Unknown,
    }
}

/// The head as the caller will see it.
fn decorate(head: &mut ResponseHead, ctx: &RequestContext) {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        remove_named_by_connection(head);
    }
    ctx.decorate(&mut head.headers);
    bind_to_endpoint(head, ctx);
}

/// What the endpoint says about its own connection, and nothing about the caller's.
fn remove_named_by_connection(head: &mut ResponseHead) {
    if !head.headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = fields::list(&head.headers, &header::CONNECTION)
        .filter(|name| !matches!(*name, "keep-alive" | "close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != header::TRANSFER_ENCODING && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named {
        head.headers.remove(name);
    }
}

/// Tells the caller by cookie which endpoint it went to, when it does not know yet.
fn bind_to_endpoint(head: &mut ResponseHead, ctx: &RequestContext) {
    let (Some(admission), Some(lease)) = (&ctx.admission, &ctx.lease) else {
        return;
    };
    let Some(upstream) = admission.route.upstream() else {
        return;
    };
    let knows = match &admission.sticky {
        Sticky::Off => return,
        Sticky::Unbound => false,
        Sticky::Bound { endpoint, renew } => !renew && Arc::ptr_eq(endpoint, lease.endpoint()),
    };
    if knows {
        return;
    }
    let secure = ctx
        .arrival
        .as_ref()
        .is_some_and(|arrival| arrival.client.tls);
    if let Some(cookie) = upstream.sticky_cookie(lease.endpoint(), secure) {
        head.headers.append(header::SET_COOKIE, cookie);
    }
}

async fn pass(
    held: &mut Held<'_>,
    flight: &mut Flight<'_>,
    sent: bool,
    events: Events,
) -> Result<(), Stop> {
    let mut passing = Passing {
        events,
        sent,
        state: State::Body,
        waits_for: Side::Endpoint,
    };
    flight.limit(flight.ctx.idle_limit());
    flight.pace = flight.ctx.pace();
    poll_fn(|cx| passing.poll(cx, held.exchange(), flight)).await
}

struct Passing {
    /// Whether the endpoint was sent everything.
    sent: bool,
    state: State,
    waits_for: Side,
    events: Events,
}

/// Whether the answer is a stream of events, and where in it we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    None,
    /// Within an event.
    Within,
    /// An empty line has come: another event may follow, or none.
    Between,
    /// The last event was ours.
    Over,
}

/// Said to readers of events when the process ends: whoever knows how to reconnect does so at once.
const LAST_EVENT: &[u8] = b"event: error\ndata: {\"code\":\"draining\",\"message\":\"this instance is about to stop; connect again\"}\n\n";

impl Events {
    /// Only what we can read, and whose length nobody knows yet.
    fn of(head: &ResponseHead, extent: Extent) -> Self {
        let kind = head.headers.get(header::CONTENT_TYPE);
        let is_events = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let readable = !head.headers.contains_key(header::CONTENT_ENCODING);
        if is_events && readable && extent == Extent::Unknown {
            Self::Between
        } else {
            Self::None
        }
    }

    fn pass(&mut self, piece: &[u8]) {
        if *self == Self::None {
            return;
        }
        let ends = piece.ends_with(b"\n\n") || piece.ends_with(b"\r\n\r\n");
        *self = if ends { Self::Between } else { Self::Within };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Body,
    /// The body has been put in, its end has not.
    End,
    Flush,
}

impl Passing {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        flight: &mut Flight<'_>,
    ) -> Poll<Result<(), Stop>> {
        let mut progress = self.poll_send(cx, exchange, flight)?;
        if let Poll::Ready(done) = self.poll_pass(cx, exchange, flight, &mut progress) {
            return Poll::Ready(done);
        }
        if progress {
            if flight.ctx.is_over_total() {
                return Poll::Ready(Err(Stop::Endpoint(Broken::TimedOut)));
            }
            flight.limit(flight.ctx.idle_limit());
        }
        if let Poll::Ready(left) = flight.poll_left(cx) {
            return Poll::Ready(Err(left));
        }
        let moved = flight.ctx.traffic.bytes_out;
        flight.poll_late(cx, self.waits_for, moved).map(Err)
    }

    /// The rest of the request, for an endpoint that answers before it has heard everything. Says
    /// whether something moved.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        flight: &mut Flight<'_>,
    ) -> Result<bool, Stop> {
        let mut progress = false;
        if self.sent {
            return Ok(progress);
        }
        match flight
            .upload
            .poll(cx, flight.caller, exchange, &mut progress)
        {
            Poll::Pending => {}
            // What it does not want to hear, it does not need for its answer.
            Poll::Ready(Ok(()) | Err(Stop::Endpoint(_))) => self.sent = true,
            Poll::Ready(Err(stop)) => return Err(stop),
        }
        Ok(progress)
    }

    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        flight: &mut Flight<'_>,
        progress: &mut bool,
    ) -> Poll<Result<(), Stop>> {
        let caller = &mut *flight.caller;
        loop {
            self.waits_for = Side::Caller;
            match self.state {
                State::Body => {
                    ready!(caller.poll_room(cx)).map_err(Stop::Caller)?;
                    match exchange.poll_body(cx) {
                        Poll::Ready(Ok(Some(piece))) => {
                            flight.ctx.traffic.bytes_out += piece.len() as u64;
                            self.events.pass(&piece);
                            caller.put(piece);
                        }
                        Poll::Ready(Ok(None)) => self.state = State::End,
                        Poll::Ready(Err(broken)) => {
                            return Poll::Ready(Err(Stop::Endpoint(broken)));
                        }
                        Poll::Pending => {
                            // Nothing more is at hand: what has come goes out now.
                            ready!(caller.poll_flush(cx)).map_err(Stop::Caller)?;
                            self.waits_for = Side::Endpoint;
                            if self.events != Events::Between {
                                return Poll::Pending;
                            }
                            ready!(flight.timer.poll_cut(cx));
                            flight.ctx.traffic.bytes_out += LAST_EVENT.len() as u64;
                            flight.ctx.end(Ending::CutByDrain);
                            caller.put(Bytes::from_static(LAST_EVENT));
                            self.events = Events::Over;
                            self.state = State::End;
                        }
                    }
                }
                State::End => {
                    if caller.is_http2() {
                        ready!(caller.poll_flush(cx)).map_err(Stop::Caller)?;
                    }
                    let trailers = exchange.take_trailers();
                    caller.finish(trailers).map_err(Stop::Caller)?;
                    self.state = State::Flush;
                }
                State::Flush => return caller.poll_flush(cx).map_err(Stop::Caller),
            }
            *progress = true;
        }
    }
}
