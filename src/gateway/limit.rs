//! Limits: who a request is to the rules of its route, and what they say of it.

use super::context::RequestContext;
use crate::base::client::Client;
use crate::base::reject::Reject;
use crate::snapshot::Route;
use crate::stage::limit::counters::Now;
use crate::stage::limit::rule::Subject;
use std::sync::Arc;

/// What a call of a model would use, at a guess.
pub struct Demand<'a> {
    /// The one that is tried first.
    pub provider: Option<&'a str>,
    /// As it stands in the configuration.
    pub model: &'a str,
    pub tokens: u64,
}

/// Counts the request under the rules of its route, or refuses it. What it holds it gives back when it ends.
pub async fn acquire(
    ctx: &mut RequestContext,
    route: &Route,
    demand: Option<&Demand<'_>>,
) -> Result<(), Reject> {
    if route.limits.is_empty() {
        return Ok(());
    }
    let subject = subject(ctx, route, demand);
    let decision = route.limits.acquire(&subject, Now::read).await;
    if let Some(admission) = &mut ctx.admission {
        admission.limit_headers = decision.headers;
        admission.standings = [decision.requests, decision.tokens];
        admission.levels = decision.levels;
        admission.permits = decision.permits;
    }
    decision.reject.map_or(Ok(()), Err)
}

/// Refuses a caller that is known to be over a limit, before its body is read.
pub fn refuse_known(ctx: &mut RequestContext, route: &Route) -> Result<(), Reject> {
    if route.limits.is_empty() {
        return Ok(());
    }
    let refusal = route
        .limits
        .known_refusal(&subject(ctx, route, None), Now::read());
    let Some(decision) = refusal else {
        return Ok(());
    };
    if let Some(admission) = &mut ctx.admission {
        admission.limit_headers = decision.headers;
        admission.standings = [decision.requests, decision.tokens];
    }
    decision.reject.map_or(Ok(()), Err)
}

/// Counts a call that was counted already as one of another provider. If that provider's rules refuse it, all
/// is as it was. The answer tells where the caller stands to the provider that gives it.
pub async fn move_on(ctx: &mut RequestContext, demand: &Demand<'_>) -> Result<(), Reject> {
    let Some(route) = ctx.route().map(Arc::clone) else {
        return Ok(());
    };
    let Some(admission) = &mut ctx.admission else {
        return Ok(());
    };
    let mut permits = std::mem::take(&mut admission.permits);
    let before = std::mem::take(&mut admission.levels);
    let subject = subject(ctx, &route, Some(demand));
    let moved = route
        .limits
        .move_to_provider(&mut permits, &before, &subject, Now::read);
    let moved = moved.await;
    if let Some(admission) = &mut ctx.admission {
        admission.permits = permits;
        match &moved {
            Ok(Some(decision)) => {
                admission.limit_headers.clone_from(&decision.headers);
                admission.standings = [decision.requests, decision.tokens];
                admission.levels.clone_from(&decision.levels);
            }
            Ok(None) | Err(_) => admission.levels = before,
        }
    }
    moved.map(drop)
}

/// Of an anonymous caller the address stands for the user.
fn subject<'a>(
    ctx: &'a RequestContext,
    route: &'a Route,
    demand: Option<&'a Demand<'a>>,
) -> Subject<'a> {
    let principal = ctx.principal();
    let client = ctx.arrival.as_ref().map(|arrival| &arrival.client);
    Subject {
        user: principal.and_then(|who| who.known_user()),
        plan: principal.and_then(|who| who.plan.as_deref()),
        key: principal.and_then(|who| who.key.as_deref()),
        provider: demand.and_then(|demand| demand.provider),
        model: demand.map(|demand| demand.model),
        route: Some(&route.name),
        address: client.map(Client::subscriber),
        tokens: demand.map_or(0, |demand| demand.tokens),
    }
}
