//! What leaves for the endpoint: head and body of the request. Runs again on every retry.

use super::context::RequestContext;
use super::{dispatch, headers, identify, refuse};
use crate::base::reject::RejectKind;
use crate::stage::listen::{forwarded, trace};
use crate::stage::upstream::endpoint::Address;
use bytes::Bytes;
use http::header;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

pub fn head(head: &mut RequestHeader, ctx: &RequestContext) -> Result<()> {
    if ctx.refusing {
        return Ok(());
    }
    let (Some(arrival), Some(admission)) = (&ctx.arrival, &ctx.admission) else {
        return Err(Error::explain(
            ErrorType::InternalError,
            "forwarding a request that was not admitted",
        ));
    };
    let route = &admission.route;
    if let Some(target) = &admission.target {
        let uri = target.parse::<http::Uri>().map_err(|error| {
            Error::because(
                ErrorType::InternalError,
                "the rewritten path is no URI",
                error,
            )
        })?;
        head.set_uri(uri);
    }
    if admission.tunnel.is_none() {
        // Only what was admitted as a tunnel may become one.
        head.remove_header(&header::UPGRADE);
    }
    if let Some(host) = &route.host_header {
        head.insert_header(header::HOST, host)?;
    } else if !head.headers.contains_key(header::HOST) {
        head.insert_header(header::HOST, host_of_endpoint(ctx))?;
    }
    if !arrival.client.trusted {
        for claim in forwarded::claims(&head.headers) {
            head.remove_header(&claim);
        }
    }
    identify::forward(head, ctx)?;
    for (name, value) in arrival.forwarded.clone().into_pairs() {
        head.insert_header(name, value)?;
    }
    head.insert_header(trace::X_REQUEST_ID, &arrival.request_id)?;
    head.insert_header(trace::TRACEPARENT, arrival.trace.traceparent())?;
    if !arrival.trace.continued {
        head.remove_header(&trace::TRACESTATE);
    }
    headers::change_request(head, &route.request_headers)
}

/// Callers of HTTP/1.0 may name no host, but what we send is HTTP/1.1, which must (RFC 9112 section 3.2).
fn host_of_endpoint(ctx: &RequestContext) -> String {
    let Some(attempt) = ctx.attempts.last() else {
        return String::new();
    };
    match (&attempt.endpoint.host, &attempt.endpoint.address) {
        (Some(host), _) => host.clone(),
        (None, Address::Ip(address)) => address.to_string(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    }
}

/// Counts the body, and stops it where the route's limit is passed.
pub fn body(
    session: &Session,
    body: &mut Option<Bytes>,
    is_last: bool,
    ctx: &mut RequestContext,
) -> Result<()> {
    if is_last {
        dispatch::sent(ctx);
    }
    // Pingora would write an empty last piece as a chunk of length zero, and then the end of the body
    // as another one: the endpoint would take that for the beginning of the next request.
    if is_last && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
    let Some(chunk) = body else {
        return Ok(());
    };
    // Read from the caller, not handed to the endpoint: a retry sends the same bytes again.
    ctx.traffic.bytes_in = session.as_downstream().body_bytes_read() as u64;
    ctx.heard();
    if ctx.is_tunnel() {
        return Ok(());
    }
    let max = ctx
        .route()
        .map_or(u64::MAX, |route| route.settings.body_max.0);
    if ctx.traffic.bytes_in.max(chunk.len() as u64) > max {
        return Err(refuse::as_error(ctx, RejectKind::BodyTooLarge.into()));
    }
    Ok(())
}
