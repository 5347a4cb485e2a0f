//! Arrive, then be admitted: the order of these functions is the policy.

use super::caller::Caller;
use super::context::{Admission, Arrival, RequestContext, Sticky};
use super::infer::prepare::{self, Task};
use super::timer::Timer;
use super::upload::REPLAY_BYTES_MAX;
use super::{answer, dispatch, identify, limit, shed};
use crate::base::client::Client;
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::{Action, ListenerRules, Route, Snapshot, Tunnel, Upstream, unix_now};
use crate::stage::listen::forwarded::{self, ForwardedHeaders};
use crate::stage::listen::trace::Trace;
use crate::stage::route::host::Host;
use crate::stage::upstream::balance::hash;
use crate::stage::upstream::settings::{BalanceSettings, HashKey, StickyOn};
use crate::stage::upstream::sticky;
use crate::wire::fields;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

/// What a request that was not refused meets next.
pub enum Next {
    Forward,
    /// A model is to be asked.
    Infer(Box<Task>),
    /// The caller has gone.
    Nothing,
    Answer(Box<ResponseHead>, Bytes),
}

/// Facts first: who calls, on which listener, under which request id.
pub fn arrive(caller: &mut Caller, ctx: &mut RequestContext) {
    let arrival = arrival(caller, ctx);
    if arrival.listener.gone {
        caller.close_after();
    }
    ctx.arrival = Some(arrival);
}

fn arrival(caller: &Caller, ctx: &RequestContext) -> Arrival {
    let facts = &caller.facts;
    let listener = ctx
        .snapshot
        .rules_of(&facts.listener, &ctx.reporter.metrics);
    let head: &Parts = &caller.head;
    let client = Client {
        certificate: facts.certificate.clone(),
        ..forwarded::client(facts.peer, &head.headers, &ctx.snapshot.trusted, facts.tls)
    };
    let rules = ctx.snapshot.tracing.as_ref().map(|tracing| &tracing.rules);
    let trace = Trace::begin(&head.headers, client.trusted, rules);
    let authority = head.uri.authority().map(Authority::as_str);
    let authority = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
    let host = authority
        .clone()
        .or_else(|| head.headers.get(header::HOST).cloned());
    Arrival {
        counted: listener.metrics.request_began(),
        listener,
        request_id: trace.request_id(&head.headers, client.trusted),
        forwarded: ForwardedHeaders::new(&client, &head.headers, authority),
        trace,
        client,
        method: head.method.clone(),
        uri: head.uri.clone(),
        version: head.version,
        host,
        user_agent: head.headers.get(header::USER_AGENT).cloned(),
        tls_version: facts.handshake.as_ref().map(|tls| tls.version.clone()),
    }
}

/// Route, then limits, then a place at an endpoint: nothing is taken for a request that will be refused.
pub async fn run(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
) -> Result<Next, Reject> {
    shed::rate(ctx)?;
    if listener(ctx).is_some_and(|listener| listener.gone) {
        // Its rules are gone with it: what it refused or redirected must not be let through now.
        return Err(RejectKind::Draining.because("the listener was removed by a reload"));
    }
    if let Some(port) = listener(ctx).and_then(|listener| listener.redirect_to_https) {
        return answer::to_https(&caller.head, port);
    }
    let snapshot = Arc::clone(&ctx.snapshot);
    if caller.head.method == Method::CONNECT {
        // What follows is for the other end of a tunnel, and no request to us.
        caller.close_after();
        return Err(RejectKind::MethodNotAllowed.because("CONNECT is for forward proxies"));
    }
    let parts: &Parts = &caller.head;
    let host = Host::of(parts)?;
    let name = listener(ctx).map_or("", |listener| listener.name.as_str());
    if let Some(route) = identify::preflight(parts, &snapshot, name, &host) {
        return identify::answer_preflight(parts, ctx, route);
    }
    let (route, target) = find(parts, &snapshot, name, &host)?;
    ctx.admission = Some(Admission {
        target,
        ..Admission::of(Arc::clone(&route))
    });
    let door = match &route.action {
        Action::Infer(_) => Some(prepare::enter(parts, ctx)),
        _ => None,
    };
    identify::run(parts, ctx).await?;
    if identify::is_logout(parts, &route) {
        return answer::empty();
    }
    limit_body(parts, &route)?;
    if let (Action::Infer(ai), Some(door)) = (&route.action, door) {
        return prepare::run(caller, ctx, timer, (&route, ai, door?)).await;
    }
    limit::acquire(ctx, &route, None).await?;
    let upstream = match &route.action {
        Action::Forward(upstream) => upstream,
        Action::Infer(_) => return Err(RejectKind::Internal.because("a model is asked above")),
        Action::Redirect { status, .. } => return redirect(*status, ctx),
        Action::Respond { .. } => return answer::fixed(&route.action),
    };
    let place = shed::place(ctx)?;
    let tunnel = open_tunnel(parts, ctx, &route)?;
    // A WebSocket stays for hours, and is counted among its like.
    ctx.place = Some(place).filter(|_| tunnel.is_none());
    let hash_key = hash_key(parts, ctx, upstream);
    let sticky = sticky(parts, tunnel.is_some(), upstream);
    let large_body = is_large_body(caller);
    if let Some(admission) = &mut ctx.admission {
        admission.hash_key = hash_key;
        admission.sticky = sticky;
        admission.large_body = large_body;
        admission.tunnel = tunnel;
    }
    dispatch::reserve(ctx).await?;
    Ok(Next::Forward)
}

/// The route, and where it leads: path and query for the endpoint when they differ from the caller's, or the
/// place of a redirect. No credential goes there.
fn find(
    parts: &Parts,
    snapshot: &Snapshot,
    listener: &str,
    host: &Host,
) -> Result<(Arc<Route>, Option<String>), Reject> {
    let found = snapshot.routes.find(parts, listener, host)?;
    let route = Arc::clone(found.route);
    let stripped = identify::without_credential(parts, &route);
    let query = match &stripped {
        Some(target) => target.split_once('?').map(|(_, query)| query),
        None => parts.uri.query(),
    };
    let keeps = route.rewrite.keeps(&found) && !is_absolute(parts) && stripped.is_none();
    let target = match &route.action {
        Action::Forward(_) | Action::Infer(_) if keeps => None,
        Action::Forward(_) | Action::Infer(_) => Some(route.rewrite.apply(&found, query)?),
        Action::Redirect { to, .. } => Some(to.apply(&found, query)?),
        Action::Respond { .. } => None,
    };
    Ok((route, target))
}

/// The target of a redirect is where it leads.
fn redirect(status: u16, ctx: &RequestContext) -> Result<Next, Reject> {
    let target = ctx.admission.as_ref().and_then(|one| one.target.as_deref());
    answer::redirect(status, target.ok_or(RejectKind::Internal)?)
}

/// `GET http://host/path`, which only proxies are asked: an endpoint gets the path (RFC 9112 section 3.2.1).
fn is_absolute(head: &Parts) -> bool {
    head.version <= http::Version::HTTP_11
        && (head.uri.scheme().is_some() || !head.uri.path().starts_with('/'))
}

fn listener(ctx: &RequestContext) -> Option<&Arc<ListenerRules>> {
    ctx.arrival.as_ref().map(|arrival| &arrival.listener)
}

/// A body that says it is too large is refused unread; one that does not say is counted as it comes.
fn limit_body(parts: &Parts, route: &Route) -> Result<(), Reject> {
    let max = route.settings.body_max().0;
    match content_length(&parts.headers) {
        Some(length) if length > max => {
            Err(RejectKind::BodyTooLarge.because(format_args!("{length} bytes, {max} allowed")))
        }
        _ => Ok(()),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Whether the body may be larger than what can be sent twice.
fn is_large_body(caller: &Caller) -> bool {
    if caller.has_sent() {
        return false;
    }
    content_length(&caller.head.headers).is_none_or(|length| length > REPLAY_BYTES_MAX)
}

/// A WebSocket is a request like any other until here; what is special is how long it stays. None: it is none.
pub fn open_tunnel(
    parts: &Parts,
    ctx: &RequestContext,
    route: &Route,
) -> Result<Option<Tunnel>, Reject> {
    if !asks_for_websocket(parts) {
        return Ok(None);
    }
    let settings = &route.settings.websocket;
    let refuse = |kind: RejectKind, reason: &'static str| {
        route.metrics.websocket_rejected(reason);
        kind.because(reason)
    };
    if !settings.enabled {
        return Err(refuse(RejectKind::UpgradeNotAllowed, "not_enabled"));
    }
    if !origin_is_allowed(&parts.headers, &settings.origins.0) {
        return Err(refuse(RejectKind::OriginNotAllowed, "origin"));
    }
    let user = identify::counted(ctx).ok_or(RejectKind::Internal)?;
    let tunnel = route
        .tunnels
        .open((user, Instant::now()), settings, &route.metrics);
    tunnel
        .map(Some)
        .map_err(|reason| refuse(RejectKind::TooManyWebSockets, reason))
}

/// RFC 6455 section 4.1: `GET`, `Connection: Upgrade` and `Upgrade: websocket`, by HTTP/1.1 only, and
/// without a body. Whatever else asks for an upgrade is an ordinary request, with ordinary limits.
fn asks_for_websocket(parts: &Parts) -> bool {
    let has_body = || {
        parts.headers.contains_key(header::TRANSFER_ENCODING)
            || content_length(&parts.headers).is_some_and(|length| length > 0)
    };
    parts.version == http::Version::HTTP_11
        && parts.method == http::Method::GET
        && fields::lists(&parts.headers, &header::UPGRADE, "websocket")
        && fields::lists(&parts.headers, &header::CONNECTION, "upgrade")
        && !has_body()
}

/// Browsers always send `Origin`; a caller without one is no browser, and cannot be tricked by a page.
fn origin_is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let origin = headers.get(header::ORIGIN);
    allowed.is_empty()
        || origin.is_none_or(|origin| {
            let origin = origin.as_bytes();
            allowed
                .iter()
                .any(|one| one.as_bytes().eq_ignore_ascii_case(origin))
        })
}

/// What the pool's `hash` is taken of; none where the request does not have it.
fn hash_key(parts: &Parts, ctx: &RequestContext, upstream: &Upstream) -> Option<u64> {
    let BalanceSettings::Hash(key) = &upstream.settings.balance else {
        return None;
    };
    let value: Cow<'_, [u8]> = match key {
        HashKey::User if ctx.principal().is_some_and(|who| !who.is_anonymous()) => {
            Cow::Borrowed(ctx.principal()?.user.as_bytes())
        }
        HashKey::User | HashKey::Address => {
            let subscriber = ctx.arrival.as_ref()?.client.subscriber();
            Cow::Owned(subscriber.to_string().into_bytes())
        }
        HashKey::Header(name) => Cow::Borrowed(parts.headers.get(name)?.as_bytes()),
        HashKey::Cookie(name) => Cow::Borrowed(sticky::cookies(cookies(parts), name).next()?),
    };
    Some(hash::key_of(&value))
}

fn sticky(parts: &Parts, is_websocket: bool, upstream: &Upstream) -> Sticky {
    let (Some(sticky), Some(settings)) = (&upstream.sticky, &upstream.settings.sticky) else {
        return Sticky::Off;
    };
    if settings.on == StickyOn::Websocket && !is_websocket {
        return Sticky::Off;
    }
    let members = upstream.pool.members();
    match sticky.read(cookies(parts), (&upstream.pool.name, &members), unix_now()) {
        Some(kept) => Sticky::Bound {
            endpoint: kept.endpoint,
            renew: kept.renew,
        },
        None => Sticky::Unbound,
    }
}

fn cookies(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    let lines = parts.headers.get_all(header::COOKIE).into_iter();
    lines.map(HeaderValue::as_bytes)
}

/// Path and query as they are logged.
pub fn path_of(uri: &Uri) -> &[u8] {
    uri.path_and_query()
        .map_or(b"/", |path| path.as_str().as_bytes())
}
