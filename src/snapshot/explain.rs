//! `onemind explain`: what a request would meet, in sentences, without a running gateway.

use crate::config::Config;
use crate::config::check::limits::taken_by;
use crate::stage::ai::settings::Strategy;
use crate::stage::identity::settings::Settings as Identity;
use crate::stage::limit::rule::describe;
use crate::stage::listen::settings::Settings as ListenerSettings;
use crate::stage::route::explain;
use crate::stage::route::settings::{Ai, Settings as RouteSettings};
use crate::stage::route::table::Table;
use crate::stage::upstream::settings::Settings as PoolSettings;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// The explanation as text, or what is wrong with the question.
pub fn explain(
    config: &Config,
    method: &str,
    url: &str,
    headers: &[String],
) -> Result<String, String> {
    let parts = head(method, url, headers)?;
    let (listener, settings) = listener(config, &parts.uri)?;
    let mut text = String::new();
    line(&mut text, "request", format_args!("{method} {url}"));
    let tls = if settings.tls.is_some() { ", tls" } else { "" };
    line(&mut text, "listener", format_args!("{listener}{tls}"));
    for socket in settings.address.iter().filter(|at| at.port().is_none()) {
        line(&mut text, "listens at", socket);
    }
    if let Some(port) = settings.redirect_to_https {
        line(
            &mut text,
            "answer",
            format_args!("308, to https on port {port}"),
        );
        return Ok(text);
    }
    let table = Table::build(
        config
            .routes
            .iter()
            .map(|(name, route)| (name.as_str(), route, route)),
    );
    let table = table.map_err(|_| "the routes have faults: run `onemind check`".to_owned())?;
    let explanation = explain::explain(&table, &parts, listener);
    match &explanation.outcome {
        Ok(name) => {
            line(&mut text, "route", name);
            if let Some(route) = config.routes.get(name) {
                explain_route(&mut text, config, route);
            }
        }
        Err(reject) => {
            let (status, code, message) = reject.kind.describe();
            line(
                &mut text,
                "answer",
                format_args!("{status} {code}: {message}"),
            );
        }
    }
    for note in &explanation.notes {
        line(&mut text, "note", note);
    }
    for candidate in &explanation.candidates {
        let why = format_args!("{}: {}", candidate.name, candidate.verdict);
        line(&mut text, "because", why);
    }
    if explanation.others > 0 {
        let others = format_args!("{} other routes were not in question", explanation.others);
        line(&mut text, "because", others);
    }
    Ok(text)
}

fn line(text: &mut String, what: &str, value: impl std::fmt::Display) {
    writeln!(text, "{what:<12}{value}").expect("text grows");
}

fn head(method: &str, url: &str, headers: &[String]) -> Result<Parts, String> {
    let method: Method = method
        .parse()
        .map_err(|_| format!("`{method}` is not a method"))?;
    let uri: Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
    let host = uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let host = host.ok_or_else(|| format!("`{url}` names no host: write `http://host/path`"))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let head = request.headers_mut();
    let host = HeaderValue::from_str(&host).map_err(|error| error.to_string())?;
    head.insert(header::HOST, host);
    for given in headers {
        let (name, value) = given
            .split_once(':')
            .ok_or_else(|| format!("`{given}` is not `Name: value`"))?;
        let name: HeaderName = name
            .trim()
            .parse()
            .map_err(|_| format!("`{name}` is not a header name"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("`{value}` is not a header value"))?;
        head.insert(name, value);
    }
    Ok(request.into_parts().0)
}

/// The listener at the URL's port, or the first one of its scheme.
fn listener<'c>(config: &'c Config, uri: &Uri) -> Result<(&'c str, &'c ListenerSettings), String> {
    let tls = uri.scheme_str() == Some("https");
    let of_scheme = || {
        config
            .listeners
            .iter()
            .filter(|(_, listener)| listener.tls.is_some() == tls)
    };
    let at_port = of_scheme().find(|(_, listener)| {
        let port = uri.port_u16();
        port.is_some_and(|port| listener.address.iter().any(|at| at.port() == Some(port)))
    });
    let found = at_port.or_else(|| of_scheme().next());
    found
        .map(|(name, listener)| (name.as_str(), listener))
        .ok_or_else(|| {
            let scheme = if tls { "https" } else { "http" };
            format!("no listener speaks {scheme}")
        })
}

fn explain_route(text: &mut String, config: &Config, route: &RouteSettings) {
    explain_callers(text, config, route);
    explain_limits(text, config, route);
    if let Some(redirect) = &route.redirect {
        let answer = format_args!("redirect {} to {}", redirect.status, redirect.to);
        line(text, "action", answer);
    }
    if let Some(respond) = &route.respond {
        line(
            text,
            "action",
            format_args!("fixed answer {}", respond.status),
        );
    }
    if let Some(ai) = &route.ai {
        line(text, "action", "answer by a model");
        explain_models(text, config, ai);
        line(text, "body", format_args!("at most {}", route.body_max()));
    }
    let Some((name, pool)) = route.pool.as_ref().and_then(|name| {
        let pool = config.pools.get(name)?;
        Some((name, pool))
    }) else {
        return;
    };
    line(text, "action", format_args!("forward to pool {name}"));
    explain_pool(text, pool);
    let limits = &route.timeouts;
    line(
        text,
        "time limits",
        format_args!(
            "connect {}, first byte {}, idle {}, total {}",
            limits.connect, limits.first_byte, limits.idle, limits.total
        ),
    );
    line(text, "body", format_args!("at most {}", route.body_max()));
    let websocket = &route.websocket;
    let websockets = if websocket.enabled {
        let messages = websocket.messages_per_minute;
        let messages = messages.map(|most| format!(", {most} messages a minute of one user"));
        format!(
            "idle {}, at most {} and {} of one user{}",
            websocket.idle,
            websocket.max,
            websocket.max_per_user,
            messages.unwrap_or_default()
        )
    } else {
        "not taken".to_owned()
    };
    line(text, "websocket", websockets);
}

fn explain_callers(text: &mut String, config: &Config, route: &RouteSettings) {
    let chain = route.identity.iter().map(|name| {
        let word = config.identity.get(name).map_or("", Identity::word);
        format!("{name} ({word})")
    });
    let chain: Vec<_> = chain.collect();
    if chain.is_empty() {
        line(text, "identity", "none: anybody may call");
    } else {
        line(text, "identity", chain.join(", then "));
    }
    for name in &route.identity {
        if let Some(Identity::Session(session)) = config.identity.get(name) {
            let what = format_args!("POST {} ends the session of {name}: 204", session.logout);
            line(text, "logout", what);
        }
    }
    let allow = [
        ("user", &route.allow.user),
        ("plan", &route.allow.plan),
        ("role", &route.allow.role),
    ];
    for (key, words) in allow.iter().filter(|(_, words)| !words.is_empty()) {
        let words = words.0.join(", ");
        line(text, "allowed", format_args!("{key} {words}; others 403"));
    }
    if let Some(cors) = &route.cors {
        let origins = cors.origins.0.join(", ");
        line(text, "cors", format_args!("pages of {origins}"));
    }
}

fn explain_limits(text: &mut String, config: &Config, route: &RouteSettings) {
    let rules = config.limits.rules();
    for name in taken_by(route, rules.keys()) {
        if let Some(rule) = rules.get(name) {
            line(text, "limit", format_args!("{name}: {}", describe(rule)));
        }
    }
}

/// Each model that may be asked for, and where it is looked for, in this order.
fn explain_models(text: &mut String, config: &Config, ai: &Ai) {
    let default = ai
        .default
        .as_deref()
        .unwrap_or("none: a call must name its model");
    line(text, "default", default);
    let takes = |name: &str| ai.models.is_empty() || ai.models.iter().any(|one| one == name);
    for (name, model) in config.models.iter().filter(|(name, _)| takes(name)) {
        let targets = model.targets.iter().map(|target| {
            let weight = match model.strategy {
                Strategy::Weighted | Strategy::LeastBusy => format!(" x{}", target.weight),
                _ => String::new(),
            };
            let state = state_of(config, &target.provider);
            format!("{}{weight}{state}", target.name())
        });
        let targets: Vec<_> = targets.collect();
        let (then, how) = match model.strategy {
            Strategy::Priority => (", then ", String::new()),
            other => (", ", format!(" ({})", as_written(&other))),
        };
        let value = format_args!("{name} -> {}{how}", targets.join(then));
        line(text, "model", value);
    }
    if ai.takes_direct() {
        for name in config.providers.keys() {
            let state = state_of(config, name);
            line(text, "model", format_args!("{name}/* -> {name}{state}"));
        }
    }
}

/// What is to be said of a provider that is not used.
fn state_of(config: &Config, provider: &str) -> &'static str {
    let settings = config.providers.get(provider);
    let kind = settings.and_then(|settings| settings.kind_of(provider));
    match (settings, kind) {
        (Some(settings), Some(kind)) if !settings.is_enabled(kind) => " (no key: left out)",
        _ => "",
    }
}

fn explain_pool(text: &mut String, pool: &PoolSettings) {
    let endpoints: Vec<_> = pool
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.as_str())
        .collect();
    line(text, "endpoints", endpoints.join(", "));
    line(text, "balance", as_written(&pool.balance));
    if let Some(sticky) = &pool.sticky {
        let how = format_args!("{}, by cookie {}", as_written(&sticky.on), sticky.cookie);
        line(text, "sticky", how);
    }
    let (retry, capacity) = (&pool.retry, &pool.capacity);
    line(
        text,
        "attempts",
        format_args!(
            "at most {}, again after {:?}",
            retry.attempts, retry.statuses
        ),
    );
    line(
        text,
        "capacity",
        format_args!(
            "{} in flight for each endpoint, then {} wait for at most {}",
            capacity.max_in_flight, capacity.queue_max, capacity.queue_timeout
        ),
    );
}

/// In the words of the configuration: `round_robin`, `{"hash":"user"}`.
fn as_written(setting: &impl Serialize) -> String {
    match serde_json::to_value(setting) {
        Ok(Value::String(word)) => word,
        Ok(section) => section.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::upstream::settings::{BalanceSettings, HashKey, StickyOn};

    #[test]
    fn settings_are_told_in_their_own_words() {
        for (balance, told) in [
            (BalanceSettings::RoundRobin, "round_robin"),
            (BalanceSettings::Hash(HashKey::User), r#"{"hash":"user"}"#),
        ] {
            assert_eq!(as_written(&balance), told);
        }
        assert_eq!(as_written(&StickyOn::Websocket), "websocket");
    }
}
