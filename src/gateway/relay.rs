//! What comes back: the endpoint's head and body on their way to the caller.

use super::context::{RequestContext, Sticky};
use super::{admit, dispatch, headers};
use crate::stage::upstream::ejection::Outcome;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The endpoint's head, before anything of it is passed on: the last moment to try another endpoint.
pub fn upstream_head(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    let interim = head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
    if interim || ctx.refusing {
        return Ok(());
    }
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
    if dispatch::retries_status(session, ctx, status) {
        let mut error = Error::create(
            ErrorType::HTTPStatus(status),
            pingora::ErrorSource::Upstream,
            None,
            None,
        );
        error.set_retry(true);
        return Err(error);
    }
    settle_upgrade(session, head.status, ctx)?;
    limit_silence_of_body(ctx);
    Ok(())
}

/// A tunnel stands with its 101. With any other status the answer is an ordinary one, and so are
/// its limits; and nobody gets a 101 who was not admitted to a tunnel.
fn settle_upgrade(
    session: &mut Session,
    status: StatusCode,
    ctx: &mut RequestContext,
) -> Result<()> {
    match (ctx.is_tunnel(), status == StatusCode::SWITCHING_PROTOCOLS) {
        (true, true) | (false, false) => {}
        (true, false) => {
            if let Some(admission) = &mut ctx.admission {
                admission.tunnel = None;
            }
            admit::limit_caller(session, ctx);
        }
        (false, true) => {
            return Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "the endpoint switched protocols unasked",
            )
            .map_err(|error: Box<Error>| error.into_up());
        }
    }
    Ok(())
}

/// From here on the limit is the one between two bytes.
fn limit_silence_of_body(ctx: &RequestContext) {
    let Some(admission) = &ctx.admission else {
        return;
    };
    let settings = &admission.route.settings;
    let limit = if admission.tunnel.is_some() {
        settings.websocket.idle
    } else {
        settings.timeouts.idle
    };
    let silence = ctx
        .attempts
        .last()
        .and_then(|attempt| attempt.silence.as_ref());
    if let Some((silence, _)) = silence {
        silence.limit(limit.0, ctx.deadline());
    }
}

/// The head as the caller will see it.
pub fn head(
    session: &mut Session,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    ctx.status = head.status.as_u16();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_hop_by_hop(head);
        frame_for_old_callers(session, head);
    }
    ctx.decorate(head)?;
    head.insert_header("X-Request-Id", ctx.request_id())?;
    bind_to_endpoint(head, ctx)?;
    if ctx.is_tunnel() && head.status == StatusCode::SWITCHING_PROTOCOLS {
        // The wire to the endpoint watches over the silence of both directions.
        session.as_downstream_mut().set_read_timeout(None);
    }
    Ok(())
}

/// HTTP/1.0 knows no chunks (RFC 9112 section 7.1): the body ends with the connection.
fn frame_for_old_callers(session: &mut Session, head: &mut ResponseHeader) {
    if session.req_header().version <= http::Version::HTTP_10
        && head
            .remove_header(&http::header::TRANSFER_ENCODING)
            .is_some()
    {
        session.as_downstream_mut().set_keepalive(None);
    }
}

/// Tells the caller by cookie which endpoint it went to, when it does not know yet.
fn bind_to_endpoint(head: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    let (Some(admission), Some(lease)) = (&ctx.admission, &ctx.lease) else {
        return Ok(());
    };
    let Some(upstream) = admission.route.upstream() else {
        return Ok(());
    };
    let knows = match &admission.sticky {
        Sticky::Off => return Ok(()),
        Sticky::Unbound => false,
        Sticky::Bound { endpoint, renew } => !renew && Arc::ptr_eq(endpoint, lease.endpoint()),
    };
    if knows {
        return Ok(());
    }
    let secure = ctx
        .arrival
        .as_ref()
        .is_some_and(|arrival| arrival.client.tls);
    if let Some(cookie) = upstream.sticky_cookie(lease.endpoint(), secure) {
        head.append_header("Set-Cookie", cookie)?;
    }
    Ok(())
}

/// Counts the body. Silence that was broken must not look like the end of an answer.
pub fn body(
    chunk: Option<&Bytes>,
    end: bool,
    ctx: &mut RequestContext,
) -> Result<Option<Duration>> {
    ctx.traffic.bytes_out += chunk.map_or(0, |chunk| chunk.len() as u64);
    ctx.heard();
    if ctx.refusing {
        return Ok(None);
    }
    if (end && ctx.was_silenced() && !ctx.is_tunnel()) || ctx.is_over_total() {
        let error = Error::explain(ErrorType::ReadTimedout, "the time limit has passed");
        return Err(error.into_up());
    }
    Ok(None)
}
