//! Which endpoint takes the request, and whether a failed attempt is followed by another.

use super::attempt;
use super::caller::Caller;
use super::context::{Attempt, RequestContext, Sticky};
use super::life::{Flight, Stop};
use super::timer::Timer;
use super::upload::Upload;
use super::{endings, forward, refuse, relay, trace};
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::Upstream;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::connector::{Connector, Purpose};
use crate::stage::upstream::ejection::Outcome;
use crate::stage::upstream::endpoint::Endpoint;
use crate::stage::upstream::pool::{Lease, Want};
use crate::stage::upstream::retry::{self, Facts, Failure};
use http::HeaderName;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than any round trip to an endpoint.
const STALE_FOUND_WITHIN: Duration = Duration::from_millis(500);

/// draft-ietf-httpapi-idempotency-key-header: the caller says that a repeat does no harm.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Takes a place at an endpoint before anything is sent, so that "nobody is there" is an ordinary
/// refusal and costs the caller no connection.
pub async fn reserve(ctx: &mut RequestContext) -> Result<(), Reject> {
    let upstream = upstream(ctx)?;
    ctx.lease = Some(acquire(ctx, &upstream).await?);
    Ok(())
}

/// Attempts until one is answered, or none is left.
pub async fn run(
    connector: &Connector,
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
) {
    let body_max = ctx
        .route()
        .map_or(u64::MAX, |route| route.settings.body_max().0);
    let upload = Upload::new(caller, body_max, &ctx.snapshot);
    let pace = ctx.pace();
    forward::prepare(caller, ctx);
    trace::admitted(ctx);
    let mut flight = Flight {
        caller,
        ctx,
        timer,
        upload,
        pace,
    };
    while let Some(after) = one_attempt(connector, &mut flight).await {
        match after {
            After::Another => {}
            After::Refusal(reject) => {
                let Flight {
                    caller, ctx, timer, ..
                } = flight;
                return refuse::run(caller, ctx, timer, reject).await;
            }
        }
    }
}

/// What follows an attempt that did not end the request.
enum After {
    Another,
    Refusal(Reject),
}

/// None: the request has ended, well or badly.
async fn one_attempt(connector: &Connector, flight: &mut Flight<'_>) -> Option<After> {
    if let Err(reject) = next(flight.ctx).await {
        return Some(After::Refusal(reject));
    }
    let stop = match attempt::run(connector, flight).await {
        Ok(answering) => match relay::weigh(&answering.head, flight) {
            Ok(()) => {
                relay::run(answering, flight).await;
                return None;
            }
            Err(broken) => Stop::Endpoint(broken),
        },
        Err(stop) => stop,
    };
    match stop {
        Stop::Endpoint(broken) => Some(failed(flight, &broken)),
        Stop::Caller(fault) => {
            // Says nothing about the endpoint.
            flight.ctx.lease = None;
            let (ending, reject) = endings::of_caller(&fault);
            flight.ctx.end(ending);
            if reject.is_some() {
                flight.caller.close_after();
            } else {
                flight.caller.cut();
            }
            reject.map(After::Refusal)
        }
    }
}

/// The answer broke off after the caller has seen part of it.
pub fn cut(flight: &mut Flight<'_>, stop: Stop) {
    flight.caller.cut();
    let ctx = &mut *flight.ctx;
    let ending = match stop {
        Stop::Caller(fault) => endings::of_caller(&fault).0,
        Stop::Endpoint(broken) => {
            blame(ctx, Failure::AnswerBegun, &broken);
            let (ending, reject) = endings::of_endpoint(&broken, ctx, true);
            ctx.reject = Some(reject);
            ending
        }
    };
    ctx.end(ending);
    ctx.lease = None;
}

/// Takes an endpoint for the next attempt.
async fn next(ctx: &mut RequestContext) -> Result<(), Reject> {
    let upstream = upstream(ctx)?;
    if let Some(attempt) = ctx.attempts.last() {
        if attempt.failure.is_some_and(Failure::waits) {
            rest(ctx, &upstream).await;
        }
        let Ok(lease) = acquire(ctx, &upstream).await else {
            // The failure before says more to the caller than "no other endpoint" would.
            let (ending, reject) = ctx.failed.take().ok_or(RejectKind::Internal)?;
            ctx.end(ending);
            return Err(reject);
        };
        ctx.lease = Some(lease);
    }
    let lease = ctx.lease.as_ref().ok_or(RejectKind::Internal)?;
    let endpoint = Arc::clone(lease.endpoint());
    if ctx.time_left().is_some_and(|left| left.is_zero()) {
        return Err(RejectKind::TotalTimedOut.into());
    }
    ctx.attempts.push(Attempt::new(endpoint, Instant::now()));
    Ok(())
}

/// Where an attempt connects to, what for, and how long that may take.
pub struct Destination {
    pub upstream: Arc<Upstream>,
    pub endpoint: Arc<Endpoint>,
    pub purpose: Purpose,
    pub limit: Duration,
}

pub fn destination(ctx: &RequestContext) -> Result<Destination, Broken> {
    let known = (upstream(ctx), &ctx.admission, ctx.attempts.last());
    let (Ok(upstream), Some(admission), Some(attempt)) = known else {
        return Err(Broken::TimedOut);
    };
    let limit = admission.route.settings.timeouts.connect.0;
    let purpose = if admission.tunnel.is_some() {
        Purpose::Upgrade
    } else if admission.large_body || ctx.found_stale_connection() {
        Purpose::Fresh
    } else {
        Purpose::Usual
    };
    Ok(Destination {
        upstream,
        endpoint: Arc::clone(&attempt.endpoint),
        purpose,
        limit: limit.min(ctx.time_left().unwrap_or(Duration::MAX)),
    })
}

fn upstream(ctx: &RequestContext) -> Result<Arc<Upstream>, Reject> {
    let upstream = ctx.route().and_then(|route| route.upstream());
    upstream
        .map(Arc::clone)
        .ok_or_else(|| RejectKind::Internal.because("the route leads to no pool"))
}

/// Waits before the same request is sent again, so that a busy service is not hit in step.
async fn rest(ctx: &RequestContext, upstream: &Upstream) {
    let made = u32::try_from(ctx.attempts.len()).unwrap_or(u32::MAX);
    let wait = retry::backoff(made, upstream.settings.retry.backoff.0, fastrand::f64());
    let left = ctx.time_left().unwrap_or(Duration::MAX);
    tokio::time::sleep(wait.min(left)).await;
}

async fn acquire(ctx: &RequestContext, upstream: &Upstream) -> Result<Lease, Reject> {
    let admission = ctx.admission.as_ref().ok_or(RejectKind::Internal)?;
    let sticky = match &admission.sticky {
        Sticky::Bound { endpoint, .. } if ctx.attempts.is_empty() => Some(endpoint),
        _ => None,
    };
    let tried: Vec<Arc<Endpoint>> = ctx
        .attempts
        .iter()
        .map(|attempt| Arc::clone(&attempt.endpoint))
        .collect();
    let last = ctx.attempts.last().and_then(|attempt| attempt.failure);
    let want = Want {
        now: Instant::now(),
        key: admission.hash_key,
        user: None,
        sticky,
        tried: &tried,
        allow_same: matches!(
            last,
            Some(Failure::ReusedClosedSilent | Failure::RefusedUnprocessed)
        ),
        deadline: ctx.deadline(),
    };
    let acquired = upstream.pool.acquire(want).await;
    acquired.map_err(|unavailable| {
        upstream.count_unavailable(&unavailable);
        unavailable.into()
    })
}

/// An attempt has failed before the caller saw anything of an answer.
fn failed(flight: &mut Flight<'_>, broken: &Broken) -> After {
    let failure = failure_of(broken, flight.ctx);
    blame(flight.ctx, failure, broken);
    let (ending, reject) = endings::of_endpoint(broken, flight.ctx, false);
    let again = may_retry(flight, failure);
    let ctx = &mut *flight.ctx;
    ctx.lease = None;
    if again {
        ctx.failed = Some((ending, reject));
        return After::Another;
    }
    ctx.end(ending);
    After::Refusal(reject)
}

/// Writes down how the attempt failed; the endpoint's record has it too, if it is to blame.
fn blame(ctx: &mut RequestContext, failure: Failure, broken: &Broken) {
    let now = Instant::now();
    if let Some(attempt) = ctx.attempts.last_mut() {
        attempt.failure = Some(failure);
        attempt.took = now - attempt.started;
    }
    let ours = matches!(
        broken,
        Broken::NotConnected {
            our_own_want: true,
            ..
        }
    );
    let outcome = outcome_of(failure).filter(|_| !ours);
    if let (Ok(upstream), Some(outcome)) = (upstream(ctx), outcome)
        && let Some(lease) = &mut ctx.lease
    {
        upstream.report(lease, outcome, now);
    }
}

/// Whether this status is one that another endpoint may mend.
pub fn retries_status(flight: &Flight<'_>, status: u16) -> bool {
    let ctx = &*flight.ctx;
    let Ok(upstream) = upstream(ctx) else {
        return false;
    };
    let tried: SmallVec<[_; 4]> = ctx
        .attempts
        .iter()
        .map(|attempt| &attempt.endpoint)
        .collect();
    // An answer that cannot be bettered is passed on as it is.
    upstream.settings.retry.statuses.contains(&status)
        && upstream.pool.has_other_than(&tried, Instant::now())
        && may_retry(flight, Failure::Status(status))
}

fn may_retry(flight: &Flight<'_>, failure: Failure) -> bool {
    let ctx = &*flight.ctx;
    let Ok(upstream) = upstream(ctx) else {
        return false;
    };
    let settings = &upstream.settings.retry;
    let head = &flight.caller.head;
    let stale = failure == Failure::ReusedClosedSilent;
    let now = Instant::now();
    let facts = Facts {
        idempotent: retry::idempotent(&head.method, head.headers.contains_key(&IDEMPOTENCY_KEY)),
        body_replayable: flight.upload.can_repeat(),
        attempts_made: u32::try_from(ctx.attempts.len()).unwrap_or(u32::MAX),
        attempts_max: settings.attempts,
        statuses: &settings.statuses,
        deadline_left: ctx.time_left(),
        budget: true,
    };
    if !retry::may_retry(failure, facts) {
        return false;
    }
    // A stale connection is no sign of trouble: it costs the pool nothing to take a new one.
    let affordable = stale || upstream.pool.budget.take(now);
    if !affordable {
        upstream.metrics.retry_budget_exhausted.inc();
    }
    affordable
}

/// The row of `retry`'s table that this is.
fn failure_of(broken: &Broken, ctx: &RequestContext) -> Failure {
    match broken {
        Broken::NotConnected { .. } => Failure::NotSent,
        Broken::TimedOut => Failure::TimedOutFirstByte,
        Broken::Unprocessed(_) => Failure::RefusedUnprocessed,
        Broken::Malformed(_) => Failure::Malformed,
        Broken::Status(status) => Failure::Status(*status),
        Broken::Closed { heard: false, .. } if was_stale(ctx) => Failure::ReusedClosedSilent,
        Broken::Closed { .. } => Failure::Reset,
    }
}

/// A closed connection shows within one round trip. What breaks later was at work on the request.
fn was_stale(ctx: &RequestContext) -> bool {
    let attempt = ctx.attempts.last();
    attempt.is_some_and(|attempt| attempt.reused && attempt.started.elapsed() < STALE_FOUND_WITHIN)
}

fn outcome_of(failure: Failure) -> Option<Outcome> {
    match failure {
        Failure::NotSent => Some(Outcome::ConnectFailure),
        // The endpoint closed a connection that it was free to close; a status was reported with its head.
        Failure::ReusedClosedSilent | Failure::RefusedUnprocessed | Failure::Status(_) => None,
        Failure::Reset | Failure::TimedOutFirstByte | Failure::Malformed | Failure::AnswerBegun => {
            Some(Outcome::Error)
        }
    }
}
