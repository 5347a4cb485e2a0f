//! Which endpoint takes the request, and whether a failed attempt is followed by another.

use super::context::{Attempt, RequestContext, Sticky};
use super::{endings, refuse};
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::Upstream;
use crate::stage::upstream::ejection::Outcome;
use crate::stage::upstream::endpoint::Endpoint;
use crate::stage::upstream::peer::PeerTimeouts;
use crate::stage::upstream::pool::{Lease, Want};
use crate::stage::upstream::refusal;
use crate::stage::upstream::retry::{self, Facts, Failure};
use crate::stage::upstream::settings::Protocol;
use crate::stage::upstream::socket::silence_of;
use http::HeaderName;
use pingora::protocols::Digest;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While the request is being sent, a silence may be the caller's. The limit on the caller is `idle`
/// as well; the endpoint gets this much more, so that it is not blamed for the caller's.
const CALLER_FIRST: Duration = Duration::from_secs(1);

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

/// The peer of the next attempt; or the one that speaks for us when there is none.
pub async fn pick(session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let reject = match next_peer(ctx).await {
        Ok(peer) => return Ok(Box::new(peer)),
        Err(reject) => reject,
    };
    if !refuse::can_keep_connection(session) {
        return Err(refuse::as_error(ctx, reject).into_up());
    }
    let answer = refuse::spoken(ctx, &reject);
    ctx.refused(reject);
    ctx.refusing = true;
    Ok(Box::new(refusal::peer(answer)))
}

async fn next_peer(ctx: &mut RequestContext) -> Result<HttpPeer, Reject> {
    let upstream = upstream(ctx)?;
    if let Some(attempt) = ctx.attempts.last() {
        if attempt.failure.is_some_and(Failure::waits) {
            rest(ctx, &upstream).await;
        }
        let lease = if ctx.gave_up {
            None
        } else {
            acquire(ctx, &upstream).await.ok()
        };
        let Some(lease) = lease else {
            // The failure before says more to the caller than "no other endpoint" would.
            let (ending, reject) = ctx.failed.take().ok_or(RejectKind::Internal)?;
            ctx.end(ending);
            return Err(reject);
        };
        ctx.lease = Some(lease);
    }
    let lease = ctx.lease.as_ref().ok_or(RejectKind::Internal)?;
    let endpoint = Arc::clone(lease.endpoint());
    let peer = peer(ctx, &upstream, &endpoint)?;
    ctx.attempts.push(Attempt::new(endpoint, Instant::now()));
    Ok(peer)
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

fn peer(
    ctx: &RequestContext,
    upstream: &Upstream,
    endpoint: &Endpoint,
) -> Result<HttpPeer, Reject> {
    let admission = ctx.admission.as_ref().ok_or(RejectKind::Internal)?;
    let limits = &admission.route.settings.timeouts;
    let left = ctx.time_left().unwrap_or(Duration::MAX);
    if left.is_zero() {
        return Err(RejectKind::TotalTimedOut.into());
    }
    // HTTP/1.1 connections carry their own limits (`upstream::socket`); on a shared HTTP/2
    // connection there is Pingora's single one, which must not cut what either of ours allows.
    let shared = upstream.settings.protocol == Protocol::Http2 && admission.tunnel.is_none();
    let read = shared.then(|| limits.first_byte.0.max(limits.idle.0).min(left));
    let timeouts = PeerTimeouts {
        connect: limits.connect.0.min(left),
        read,
        write: read,
    };
    let fresh = !shared && (admission.large_body || ctx.found_stale_connection());
    let (address, host) = (&endpoint.address, endpoint.host.as_deref());
    let peer = if admission.tunnel.is_some() {
        upstream.peers.upgrade_peer(address, host, timeouts)
    } else if fresh {
        upstream.peers.fresh_peer(address, host, timeouts)
    } else {
        upstream.peers.peer(address, host, timeouts)
    };
    peer.map_err(|error| RejectKind::Internal.because(error))
}

/// A connection stands, new or kept: what it is sent it must take, and answer when it has all.
pub fn connected(ctx: &mut RequestContext, reused: bool, digest: Option<&Digest>) {
    let limit = ctx.route().map(|route| route.settings.timeouts.idle.0);
    let deadline = ctx.deadline();
    let Some(attempt) = ctx.attempts.last_mut() else {
        return;
    };
    attempt.connected = (!reused).then(|| attempt.started.elapsed());
    let silence = digest.and_then(silence_of);
    if let (Some(silence), Some(limit)) = (silence, limit) {
        attempt.silence = Some((Arc::clone(silence), silence.begin()));
        silence.limit(limit + CALLER_FIRST, deadline);
    }
}

/// The request has been sent whole: from here on the endpoint has `first_byte` to answer.
pub fn sent(ctx: &mut RequestContext) {
    let limit = ctx
        .route()
        .map(|route| route.settings.timeouts.first_byte.0);
    let deadline = ctx.deadline();
    let Some(attempt) = ctx.attempts.last_mut() else {
        return;
    };
    attempt.sent = true;
    if let (Some((silence, _)), Some(limit), None) = (&attempt.silence, limit, attempt.status) {
        silence.limit(limit, deadline);
    }
}

/// An attempt has failed, before or after a connection stood. Leaves the error's retry decided.
pub fn failed(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    if caller_stalled(session, ctx) {
        ctx.reject = Some(RejectKind::BodyTimedOut.because("the caller stopped sending"));
    }
    let ours =
        ctx.refusing || *error.esource() != pingora::ErrorSource::Upstream || ctx.reject.is_some();
    let begun = refuse::answer_begun(session);
    if ours {
        // The caller left, or we cut the request ourselves: says nothing about the endpoint.
        ctx.release_attempt();
        error.set_retry(false);
        return error;
    }
    let failure = failure_of(&error, ctx, begun, reused);
    let now = Instant::now();
    if let Some(attempt) = ctx.attempts.last_mut() {
        attempt.failure = Some(failure);
        attempt.took = now - attempt.started;
    }
    if let (Ok(upstream), Some(outcome)) = (upstream(ctx), outcome_of(failure))
        && let Some(lease) = &mut ctx.lease
    {
        upstream.report(lease, outcome, now);
    }
    let (ending, kind) = endings::classify(&error, ctx, begun);
    let again = may_retry(session, ctx, failure);
    // Not again, but once more to `pick`: it finds the answer that keeps the caller's connection.
    ctx.gave_up = !again;
    let last_word = !begun && refuse::can_keep_connection(session);
    ctx.failed = Some((ending, kind.because(&error)));
    ctx.release_attempt();
    error.set_retry(again || last_word);
    error
}

/// Pingora puts no limit on a caller's silence on HTTP/2: there the endpoint's limit has to serve.
fn caller_stalled(session: &Session, ctx: &RequestContext) -> bool {
    let sending = ctx.attempts.last().is_some_and(|attempt| !attempt.sent);
    sending && session.is_http2() && ctx.was_silenced() && !ctx.is_over_total()
}

/// Whether this status is one that another endpoint may mend.
pub fn retries_status(session: &Session, ctx: &RequestContext, status: u16) -> bool {
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
        && may_retry(session, ctx, Failure::Status(status))
}

fn may_retry(session: &Session, ctx: &RequestContext, failure: Failure) -> bool {
    let (Ok(upstream), Some(admission)) = (upstream(ctx), &ctx.admission) else {
        return false;
    };
    let settings = &upstream.settings.retry;
    let head = session.req_header();
    let stale = failure == Failure::ReusedClosedSilent;
    let now = Instant::now();
    let facts = Facts {
        idempotent: retry::idempotent(&head.method, head.headers.contains_key(&IDEMPOTENCY_KEY)),
        body_replayable: !session.as_downstream().retry_buffer_truncated(),
        attempts_made: u32::try_from(ctx.attempts.len()).unwrap_or(u32::MAX),
        attempts_max: settings.attempts,
        statuses: &settings.statuses,
        deadline_left: ctx.time_left(),
        budget: true,
    };
    // A tunnel's bytes are not kept for a second attempt once it stands.
    let open = admission.tunnel.is_some() && session.was_upgraded();
    if open || !retry::may_retry(failure, facts) {
        return false;
    }
    // A stale connection is no sign of trouble: it costs the pool nothing to take a new one.
    let affordable = stale || upstream.pool.budget.take(now);
    if !affordable {
        upstream.metrics.retry_budget_exhausted.inc();
    }
    affordable
}

/// The row of `retry`'s table that this error is.
fn failure_of(error: &Error, ctx: &RequestContext, begun: bool, reused: bool) -> Failure {
    let kind = error.etype();
    match kind {
        _ if begun => Failure::AnswerBegun,
        ErrorType::HTTPStatus(status) => Failure::Status(*status),
        kind if endings::is_connect(kind) => Failure::NotSent,
        _ if endings::timed_out(error, ctx) => Failure::TimedOutFirstByte,
        ErrorType::H2Downgrade => Failure::RefusedUnprocessed,
        ErrorType::H2Error if retry_is_certain(error) => Failure::RefusedUnprocessed,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H1Error => {
            Failure::Malformed
        }
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
            if reused && silent(error) && found_soon(ctx) =>
        {
            Failure::ReusedClosedSilent
        }
        _ => Failure::Reset,
    }
}

/// A closed connection shows within one round trip. What breaks later was at work on the request.
fn found_soon(ctx: &RequestContext) -> bool {
    let attempt = ctx.attempts.last();
    attempt.is_some_and(|attempt| attempt.started.elapsed() < STALE_FOUND_WITHIN)
}

/// Pingora marks `REFUSED_STREAM` and `GOAWAY(NO_ERROR)`: the protocol says that nothing was processed.
fn retry_is_certain(error: &Error) -> bool {
    matches!(error.retry, pingora::RetryType::Decided(true))
}

/// Whether not one byte of an answer had come: Pingora says so only in the text of its error.
fn silent(error: &Error) -> bool {
    let context = error
        .context
        .as_ref()
        .map_or("", |context| context.as_str());
    !context.contains("bytes already read") || context.contains("bytes already read: 0")
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
