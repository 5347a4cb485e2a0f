//! A route ready to serve: its pool found, its rewrites and headers compiled.

use super::limits::Rules;
use super::{AiRoute, Catalogue, Identities, State, TunnelCounts, Upstream, at};
use crate::base::fault::{Faults, KeyPath};
use crate::config::Config;
use crate::observe::metrics::RouteMetrics;
use crate::stage::identity::chain::Chain;
use crate::stage::limit::limits::Limits;
use crate::stage::route::cors::Cors;
use crate::stage::route::rewrite::{Location, Rewrite};
use crate::stage::route::settings::{HeaderRules, Respond, Settings};
use crate::stage::route::table::Table;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Route {
    pub name: String,
    pub settings: Settings,
    pub action: Action,
    /// None: anybody may call.
    pub identity: Option<Chain>,
    pub cors: Option<Cors>,
    /// How the path changes on its way to the endpoint.
    pub rewrite: Rewrite,
    pub host_header: Option<HeaderValue>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub tunnels: Arc<TunnelCounts>,
    pub limits: Limits,
    pub metrics: Arc<RouteMetrics>,
}

/// What happens to a request that the route takes.
pub enum Action {
    Forward(Arc<Upstream>),
    /// Answer by a model.
    Infer(Arc<AiRoute>),
    Redirect {
        status: u16,
        to: Location,
    },
    Respond {
        status: u16,
        content_type: HeaderValue,
        body: Bytes,
    },
}

/// Changes to headers; removals come first.
#[derive(Debug, Default)]
pub struct HeaderChanges {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Route {
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.action {
            Action::Forward(upstream) => Some(upstream),
            Action::Infer(_) | Action::Redirect { .. } | Action::Respond { .. } => None,
        }
    }
}

/// What routes are made of: pools, models, ways to identify and rules, by name.
pub(super) type Parts<'a> = (
    &'a BTreeMap<String, Arc<Upstream>>,
    &'a Arc<Catalogue>,
    &'a Identities,
    Option<&'a Rules>,
);

pub(super) fn build_all(
    config: &Config,
    parts: &Parts<'_>,
    state: &State,
    faults: &mut Faults,
) -> Option<Table<Arc<Route>>> {
    let mut routes = Vec::new();
    for (name, settings) in &config.routes {
        if let Some(route) = build(name, settings, parts, state, faults) {
            routes.push((name.as_str(), settings, Arc::new(route)));
        }
    }
    match Table::build(routes) {
        Ok(table) => Some(table),
        Err(mut problems) => {
            faults.0.append(&mut problems.0);
            None
        }
    }
}

fn build(
    name: &str,
    settings: &Settings,
    (upstreams, catalogue, identities, rules): &Parts<'_>,
    state: &State,
    faults: &mut Faults,
) -> Option<Route> {
    let here = at("routes", name);
    let action = action(name, settings, (upstreams, catalogue), faults)?;
    let rewrite = Rewrite::compile(name, settings, faults)?;
    let host_header = match settings.host_header.as_deref().map(HeaderValue::from_str) {
        Some(Err(error)) => {
            faults.error(here.key("host_header"), error, "write a host name");
            return None;
        }
        Some(Ok(value)) => Some(value),
        None => None,
    };
    let cors = match &settings.cors {
        Some(cors) => Some(Cors::compile(cors)?),
        None => None,
    };
    // A route whose methods are not all there must not be open: it is not there either.
    let identity = identities.chain(&settings.identity.0);
    if identity.is_none() && !settings.identity.is_empty() {
        return None;
    }
    Some(Route {
        name: name.to_owned(),
        action,
        identity,
        cors,
        rewrite,
        host_header,
        request_headers: HeaderChanges::compile(
            &settings.request_headers,
            &here.key("request_headers"),
            faults,
        ),
        response_headers: HeaderChanges::compile(
            &settings.response_headers,
            &here.key("response_headers"),
            faults,
        ),
        tunnels: state.tunnels(name),
        limits: rules.as_ref()?.of_route(settings),
        metrics: state.metrics.route(name),
        settings: settings.clone(),
    })
}

fn action(
    name: &str,
    settings: &Settings,
    (upstreams, catalogue): (&BTreeMap<String, Arc<Upstream>>, &Arc<Catalogue>),
    faults: &mut Faults,
) -> Option<Action> {
    if let Some(pool) = &settings.pool {
        // A pool that is named but not there has a fault of its own.
        return upstreams
            .get(pool)
            .map(|upstream| Action::Forward(Arc::clone(upstream)));
    }
    if let Some(ai) = &settings.ai {
        return Some(Action::Infer(Arc::new(AiRoute::new(catalogue, ai))));
    }
    if let Some(redirect) = &settings.redirect {
        let to = Location::compile(name, settings, redirect, faults)?;
        return Some(Action::Redirect {
            status: redirect.status,
            to,
        });
    }
    let respond = settings.respond.as_ref()?;
    match respond_action(respond) {
        Ok(action) => Some(action),
        Err(error) => {
            let at = at("routes", name).key("respond").key("content_type");
            faults.error(at, error, "");
            None
        }
    }
}

fn respond_action(respond: &Respond) -> Result<Action, http::header::InvalidHeaderValue> {
    Ok(Action::Respond {
        status: respond.status,
        content_type: HeaderValue::from_str(&respond.content_type)?,
        body: Bytes::from(respond.body.clone()),
    })
}

impl HeaderChanges {
    fn compile(rules: &HeaderRules, here: &KeyPath, faults: &mut Faults) -> Self {
        let mut changes = Self::default();
        for name in &rules.remove {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => changes.remove.push(name),
                Err(error) => faults.error(here.key("remove"), error, "write a header name"),
            }
        }
        for (name, value) in &rules.set {
            let place = here.key("set").key(name);
            match (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                (Ok(name), Ok(value)) => changes.set.push((name, value)),
                (Err(error), _) => faults.error(place, error, "write a header name"),
                (_, Err(error)) => faults.error(place, error, "write visible characters only"),
            }
        }
        changes
    }
}
