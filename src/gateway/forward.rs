//! What leaves for the endpoint: the head of the request as it will see it.

use super::caller::Caller;
use super::context::RequestContext;
use super::identify;
use crate::snapshot::HeaderChanges;
use crate::stage::listen::{forwarded, trace};
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::endpoint::Address;
use crate::stage::upstream::exchange::{Exchange, Outbound, is_hop_by_hop};
use crate::wire::fields;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that are meant for whoever answers: a caller that calls one of them a matter of this connection
/// wants it to be lost on its way, and is not obeyed (RFC 9110 section 7.6.1).
const END_TO_END: [HeaderName; 9] = [
    header::HOST,
    header::AUTHORIZATION,
    header::COOKIE,
    header::ORIGIN,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::RANGE,
    header::FORWARDED,
];

/// Changes the caller's head into ours. Once for a request: every attempt sends the same.
pub fn prepare(caller: &mut Caller, ctx: &RequestContext) {
    let (Some(arrival), Some(admission)) = (&ctx.arrival, &ctx.admission) else {
        return;
    };
    let route = &admission.route;
    let headers = &mut caller.head.parts.headers;
    remove_named_by_connection(headers);
    if let Some(host) = &route.host_header {
        headers.insert(header::HOST, host.clone());
    } else if !headers.contains_key(header::HOST)
        && let Some(host) = &arrival.host
    {
        headers.insert(header::HOST, host.clone());
    }
    if !arrival.client.trusted {
        for claim in forwarded::claims(headers) {
            headers.remove(&claim);
        }
    }
    identify::forward(headers, ctx);
    for (name, value) in arrival.forwarded.clone().into_pairs() {
        headers.insert(name, value);
    }
    headers.insert(trace::X_REQUEST_ID, arrival.request_id.clone());
    if let Some(traceparent) = arrival.trace.traceparent() {
        headers.insert(trace::TRACEPARENT, traceparent);
    }
    if !arrival.trace.continued {
        headers.remove(trace::TRACESTATE);
    }
    change(headers, &route.request_headers);
}

/// Puts the head into an exchange.
pub fn start(
    exchange: &mut Exchange,
    caller: &mut Caller,
    ctx: &RequestContext,
) -> Result<(), Broken> {
    // Callers of HTTP/1.0 may name no host, but what we send must (RFC 9112 section 3.2).
    let nameless = !caller.head.headers.contains_key(header::HOST);
    if nameless && let Some(host) = host_of_endpoint(ctx) {
        caller.head.parts.headers.insert(header::HOST, host);
    }
    super::trace::tell(&mut caller.head.parts.headers, ctx);
    let admission = ctx.admission.as_ref();
    let target = admission.and_then(|admission| admission.target.as_deref());
    let own = caller.head.uri.path_and_query();
    let upgrade = if ctx.is_tunnel() {
        caller.head.headers.get(header::UPGRADE)
    } else {
        // Only what was admitted as a tunnel may become one.
        None
    };
    let started = exchange.start(Outbound {
        method: &caller.head.method,
        target: target.unwrap_or_else(|| own.map_or("/", |path| path.as_str())),
        headers: &caller.head.headers,
        spelling: &caller.head.spelling,
        body: caller.framing(),
        upgrade,
    });
    if nameless {
        // The next endpoint has another name.
        caller.head.parts.headers.remove(header::HOST);
    }
    started
}

/// Fields that the caller says are for us alone.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = fields::list(headers, &header::CONNECTION)
        // Nearly always it says nothing else, and neither is the name of a field.
        .filter(|name| !matches!(*name, "keep-alive" | "close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| !is_hop_by_hop(name) && !END_TO_END.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn host_of_endpoint(ctx: &RequestContext) -> Option<HeaderValue> {
    let attempt = ctx.attempts.last()?;
    let host = match (&attempt.endpoint.host, &attempt.endpoint.address) {
        (Some(host), _) => host.clone(),
        (None, Address::Ip(address)) => address.to_string(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    };
    HeaderValue::try_from(host).ok()
}

/// The changes a route makes. Removal comes first, so that a field can be replaced by one of the same name.
pub fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
}
