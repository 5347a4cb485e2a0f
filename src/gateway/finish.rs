//! The end of every request: counted once, logged once, under exactly one name.

use super::caller::Caller;
use super::context::{Arrival, Attempt, RequestContext};
use super::{admit, trace};
use crate::base::ending::Ending;
use crate::base::reject::Reject;
use crate::observe::access_log::{self, AccessLog, Record};
use crate::observe::metrics::{Finished, Metrics, RouteMetrics};
use crate::stage::limit::counters::Now;
use crate::stage::upstream::retry::Failure;
use arc_swap::ArcSwap;
use http::HeaderValue;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// nginx's status for a caller that left before it was answered.
const CLIENT_LEFT: u16 = 499;

/// Where endings are reported.
pub struct Reporter {
    pub metrics: Arc<Metrics>,
    pub access_log: ArcSwap<AccessLog>,
    /// Counts requests that no route takes.
    pub no_route: Arc<RouteMetrics>,
}

/// The last word on a request: every path has named its ending before.
pub fn run(caller: &mut Caller, ctx: &mut RequestContext) {
    ctx.traffic.bytes_in = caller.bytes_in;
    ctx.end(Ending::Unknown);
    report(ctx);
}

/// Reports once; also from the context's destructor, where no session is left to ask.
pub(super) fn report(ctx: &mut RequestContext) {
    if std::mem::replace(&mut ctx.reported, true) {
        return;
    }
    settle_attempt(ctx);
    let ending = ctx.ending.unwrap_or_else(ending_of_cut);
    let status = if ctx.status == 0 && ending.client_is_gone() {
        CLIENT_LEFT
    } else {
        ctx.status
    };
    let took = ctx.started.elapsed();
    settle_tokens(ctx);
    let Some(arrival) = &ctx.arrival else {
        return;
    };
    count(ctx, arrival, ending, (status, took));
    if let Some(inference) = &ctx.inference {
        inference.count(ending, took);
    }
    log(ctx, arrival, ending, (status, took));
    if let Some(tracing) = ctx.tracing() {
        trace::report(ctx, (tracing, arrival), ending, (status, took));
    }
}

/// Nobody was left to say how it ended: the task broke, or was stopped.
fn ending_of_cut() -> Ending {
    if std::thread::panicking() {
        Ending::Internal
    } else {
        Ending::CutByDrain
    }
}

/// The attempt that was under way is over, and its place at the endpoint free.
fn settle_attempt(ctx: &mut RequestContext) {
    let now = Instant::now();
    if let Some(attempt) = ctx.attempts.last_mut()
        && attempt.took.is_zero()
    {
        attempt.took = now - attempt.started;
    }
    if let Some(upstream) = ctx.route().and_then(|route| route.upstream()) {
        upstream.count_attempts(ctx.attempts.iter().map(Attempt::measures));
    }
    ctx.lease = None;
}

/// What a call has really cost, under rules that count tokens.
fn settle_tokens(ctx: &mut RequestContext) {
    let Some(inference) = &ctx.inference else {
        return;
    };
    let tokens = inference.usage.total();
    if let Some(admission) = &mut ctx.admission {
        admission.permits.settle(tokens, Now::read());
    }
}

fn count(ctx: &RequestContext, arrival: &Arrival, ending: Ending, (status, took): (u16, Duration)) {
    let route = ctx
        .route()
        .map_or(&ctx.reporter.no_route, |route| &route.metrics);
    route.finished(&Finished {
        listener: &arrival.listener.metrics,
        method: &arrival.method,
        status,
        ending,
        duration: took,
        bytes_in: ctx.traffic.bytes_in,
        bytes_out: ctx.traffic.bytes_out,
    });
}

fn log(ctx: &RequestContext, arrival: &Arrival, ending: Ending, (status, took): (u16, Duration)) {
    let log = ctx.reporter.access_log.load();
    let attempts: SmallVec<[_; 2]> = ctx
        .attempts
        .iter()
        .map(|attempt| access_log::Attempt {
            endpoint: &attempt.endpoint.name,
            reason: attempt
                .reason
                .or(attempt.failure.map(Failure::name))
                .unwrap_or(ending.name()),
            duration: attempt.took,
        })
        .collect();
    let last = ctx.attempts.last();
    let route = ctx.route();
    log.write(&Record {
        time: SystemTime::now()
            .checked_sub(took)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        request_id: arrival.request_id.to_str().unwrap_or_default(),
        trace_id: arrival.trace.trace_id(),
        client: arrival.client.address,
        peer: arrival.client.peer,
        listener: &arrival.listener.name,
        protocol: protocol(arrival.version),
        tls: arrival.tls_version.as_deref(),
        method: arrival.method.as_str(),
        host: arrival.host.as_ref().map_or(b"", HeaderValue::as_bytes),
        path: admit::path_of(&arrival.uri),
        status,
        upstream_status: last.and_then(|attempt| attempt.status),
        user: ctx.principal().and_then(|who| who.known_user()),
        key: ctx.principal().and_then(|who| who.key.as_deref()),
        route: route.map(|route| route.name.as_str()),
        pool: route
            .and_then(|route| route.upstream())
            .map(|up| up.pool.name.as_str()),
        endpoint: last.map(|attempt| attempt.endpoint.name.as_str()),
        attempts: &attempts,
        duration: took,
        connect: last.and_then(|attempt| attempt.connected),
        first_byte: last.and_then(|attempt| attempt.first_byte),
        bytes_in: ctx.traffic.bytes_in,
        bytes_out: ctx.traffic.bytes_out,
        user_agent: arrival.user_agent.as_ref().map(HeaderValue::as_bytes),
        ending,
        code: ctx
            .reject
            .as_ref()
            .filter(|_| !ending.client_is_gone())
            .map(Reject::code),
        limit: ctx
            .reject
            .as_ref()
            .and_then(|reject| reject.rule.as_deref()),
        websocket: ctx.is_tunnel(),
        inference: ctx.inference.as_ref().map(|inference| inference.record()),
    });
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
