//! Who is calling, as the route wants to know it; what the endpoint is told of it; and what pages of
//! other origins may.

use super::admit::Next;
use super::answer;
use super::context::{Admission, RequestContext};
use crate::base::principal::Principal;
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::{Route, Snapshot, unix_now};
use crate::stage::identity::chain::{Clock, Outcome, Refusal};
use crate::stage::identity::credential;
use crate::stage::listen::forwarded;
use crate::stage::route::cors;
use crate::stage::route::host::Host;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When the keys of an issuer cannot be fetched: about as long as until they are asked for again.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Settles who is calling, and whether they may. Waits only for keys that the issuer may have added.
pub async fn run(parts: &Parts, ctx: &mut RequestContext) -> Result<(), Reject> {
    let (Some(arrival), Some(admission)) = (&ctx.arrival, &mut ctx.admission) else {
        return Ok(());
    };
    let route = Arc::clone(&admission.route);
    if let Some(cors) = &route.cors {
        admission.cors = cors.answer(&parts.headers);
    }
    let Some(chain) = &route.identity else {
        return Ok(());
    };
    let clock = Clock {
        unix: unix_now(),
        now: Instant::now(),
    };
    let settled = match chain.identify(parts, &arrival.client, clock) {
        Ok(Outcome::Known(principal)) => Ok(principal),
        Ok(Outcome::Waiting(method, waiting)) => {
            let settled = waiting.settle(clock.unix).await;
            settled.map_err(|reason| Refusal { method, reason })
        }
        Err(refusal) => Err(refusal),
    };
    let identities = &ctx.snapshot.identities;
    let principal = settled.map_err(|refusal| {
        identities.count_refused(&refusal);
        rejected(&refusal)
    })?;
    identities.count_known(&principal);
    admission.principal = Some(Arc::clone(&principal));
    if route.settings.allow.admits(&principal) {
        return Ok(());
    }
    identities.count_not_allowed(&principal);
    let who = format_args!("{} may not use route {}", principal.user, route.name);
    Err(RejectKind::NotAllowed.because(who))
}

fn rejected(refusal: &Refusal) -> Reject {
    let Refusal { method, reason } = refusal;
    let kind = reason.kind();
    let retry_after = (kind == RejectKind::IdentityUnavailable).then_some(KEYS_RETRY_AFTER);
    Reject {
        retry_after,
        ..kind.because(format_args!("{}, by method {method}", reason.name()))
    }
}

/// Path and query without the credential that the route looks for there; none when there was none.
pub fn without_credential(parts: &Parts, route: &Route) -> Option<String> {
    let places = route.identity.as_ref()?.places();
    credential::target(parts.uri.path_and_query()?.as_str(), places)
}

/// The route whose rules answer a preflight: that of the request which the page wants to make.
pub fn preflight(
    parts: &Parts,
    snapshot: &Snapshot,
    listener: &str,
    host: &Host,
) -> Option<Arc<Route>> {
    let mut asked = parts.clone();
    asked.method = cors::asked_method(parts)?;
    let found = snapshot.routes.find(&asked, listener, host).ok()?;
    found.route.cors.is_some().then(|| Arc::clone(found.route))
}

/// Browsers send no credential with a preflight, so nobody is asked for one.
pub fn answer_preflight(
    parts: &Parts,
    ctx: &mut RequestContext,
    route: Arc<Route>,
) -> Result<Next, Reject> {
    let method = cors::asked_method(parts);
    let said = route.cors.as_ref().zip(method);
    let cors = said.map(|(cors, method)| cors.preflight(&parts.headers, &method));
    ctx.admission = Some(Admission {
        cors: cors.unwrap_or_default(),
        ..Admission::of(route)
    });
    answer::empty()
}

/// The headers on their way to the endpoint: without what only we may say and without the credential, but
/// with the user.
pub fn forward(headers: &mut HeaderMap, ctx: &RequestContext) {
    for name in ctx.snapshot.identities.forged(headers) {
        headers.remove(&name);
    }
    let Some(admission) = &ctx.admission else {
        return;
    };
    if let Some(chain) = &admission.route.identity {
        let stripped = credential::strip(headers, chain.places());
        for name in &stripped.remove {
            headers.remove(name);
        }
        for (name, value) in stripped.set {
            headers.insert(name, value);
        }
    }
    let told = admission.principal.iter().flat_map(|who| &who.headers);
    for (name, value) in told {
        headers.insert(name.clone(), value.clone());
    }
}

/// Trailers may not say what headers may not: some readers put the two together.
pub fn trailers(trailers: Option<HeaderMap>, snapshot: &Snapshot) -> Option<HeaderMap> {
    let mut trailers = trailers?;
    let mut forbidden = snapshot.identities.forged(&trailers);
    forbidden.extend(forwarded::claims(&trailers));
    for name in forbidden {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// What browsers want to hear. The route's rules stand in the place of whatever the endpoint says.
pub fn decorate(headers: &mut HeaderMap, admission: &Admission) {
    if admission.route.cors.is_none() {
        return;
    }
    for name in &cors::OWN_HEADERS {
        headers.remove(name);
    }
    for (name, value) in &admission.cors {
        if *name != header::VARY {
            headers.insert(name.clone(), value.clone());
        } else if !varies_already(headers, value) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn varies_already(headers: &HeaderMap, by: &HeaderValue) -> bool {
    let lines = headers.get_all(header::VARY).into_iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names
        .map(<[u8]>::trim_ascii)
        .any(|name| name == b"*" || name.eq_ignore_ascii_case(by.as_bytes()))
}

/// Who is counted for a request: the user, or without identity the address (IPv6 by /64).
pub fn counted(ctx: &RequestContext) -> Option<Arc<str>> {
    if let Some(principal) = ctx.principal() {
        return Some(Arc::clone(&principal.user));
    }
    let subscriber = ctx.arrival.as_ref()?.client.subscriber();
    Some(Principal::anonymous(subscriber, &"".into()).user)
}
