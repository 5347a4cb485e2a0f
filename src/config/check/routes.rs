//! Routes: names that exist, patterns that can match, rules that can be carried out.

use super::{Report, ai, identity, words};
use crate::base::fault::KeyPath;
use crate::stage::route::settings::{HeaderRules, Redirect, Respond, Settings, WebSocket};
use std::collections::{BTreeSet, HashSet};

/// Headers that belong to one connection or are made by the gateway, and what to use instead.
const OWN_HEADERS: &[(&str, &str)] = &[
    ("host", "use `host_header` of the route"),
    (
        "connection",
        "the gateway decides about each connection; see `keepalive`",
    ),
    ("keep-alive", "use `keepalive` of the listener or the pool"),
    ("content-length", "the length follows from the body"),
    ("transfer-encoding", "the gateway frames each body itself"),
    ("te", "the gateway frames each body itself"),
    ("trailer", "trailers are passed on as they come"),
    ("upgrade", "use `websocket.enabled` of the route"),
];

pub(super) fn check(report: &mut Report<'_>) {
    let at = KeyPath::root().key("routes");
    let config = report.config;
    report.must(
        !config.routes.is_empty() || report.absent.any_below(&at),
        at.clone(),
        "there is no route: every request would be answered 404",
        "write `routes: { all: { pool: … } }`",
    );
    for (name, settings) in &config.routes {
        route(&at.key(name), settings, report);
    }
}

fn route(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    matching(at, settings, report);
    listeners(at, settings, report);
    identity::chain(at, settings, report);
    action(at, settings, report);
    let names = patterns(at, settings, report);
    rewriting(at, settings, names.as_ref(), report);
    if let Some(host) = &settings.host_header {
        report.form(at.key("host_header"), words::host_header(host));
    }
    header_rules(
        &at.key("request_headers"),
        &settings.request_headers,
        report,
    );
    header_rules(
        &at.key("response_headers"),
        &settings.response_headers,
        report,
    );
    let limits = at.key("timeouts");
    let timeouts = &settings.timeouts;
    for (key, period) in [
        ("connect", timeouts.connect),
        ("first_byte", timeouts.first_byte),
        ("idle", timeouts.idle),
        ("total", timeouts.total),
    ] {
        report.not_zero(&limits, key, period, "");
    }
    let what = "`body_max` must be more than zero";
    let fix = "use `method: GET` to take no bodies";
    report.must(settings.body_max().0 > 0, at.key("body_max"), what, fix);
    websocket(&at.key("websocket"), &settings.websocket, report);
}

fn matching(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    for (index, host) in settings.host.iter().enumerate() {
        report.form(at.key("host").key(index), words::host_pattern(host));
    }
    for (index, method) in settings.method.iter().enumerate() {
        report.form(at.key("method").key(index), words::method(method));
    }
    for (name, value) in &settings.headers {
        let at = at.key("headers").key(name);
        header_name(at.clone(), name, report);
        report.form(at, words::header_value(value));
    }
}

fn header_name(at: KeyPath, name: &str, report: &mut Report<'_>) {
    if let Err(words::Wrong { what, fix }) = words::name("header", name) {
        report.key_error(at, what, fix);
    }
}

fn listeners(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    let config = report.config;
    for (index, name) in settings.listener.iter().enumerate() {
        let at = at.key("listener").key(index);
        match config.listeners.get(name) {
            None => report.known(at, ("listeners", "listener"), name, config.listeners.keys()),
            Some(listener) if listener.redirect_to_https.is_some() => report.error(
                at,
                format!("the listener `{name}` only redirects to https: it serves no route"),
                "name the listener with `tls`",
            ),
            Some(_) => {}
        }
    }
}

/// Exactly one thing is done with a request.
fn action(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    let given = [
        ("pool", settings.pool.is_some()),
        ("ai", settings.ai.is_some()),
        ("redirect", settings.redirect.is_some()),
        ("respond", settings.respond.is_some()),
    ];
    let given: Vec<_> = given
        .iter()
        .filter(|(_, is)| *is)
        .map(|(key, _)| *key)
        .collect();
    let keys = ["pool", "ai", "redirect", "respond"];
    let sure = keys.iter().all(|key| report.sure(at, key));
    match given.as_slice() {
        [] if !sure => {}
        [] => report.error(
            at.clone(),
            "the route does nothing",
            "write one of `pool`, `ai`, `redirect` and `respond`",
        ),
        [_] => {}
        many => {
            let many = format!("`{}`", many.join("` and `"));
            let what = format!("the route has {many}");
            report.error(at.clone(), what, "keep exactly one of them");
        }
    }
    if let Some(name) = &settings.pool {
        let pools = &report.config.pools;
        if !pools.contains_key(name) {
            report.known(at.key("pool"), ("pools", "pool"), name, pools.keys());
        }
    } else if !given.is_empty() && sure {
        without_pool(at, settings, report);
    }
    if let Some(settings) = &settings.ai {
        ai::route(&at.key("ai"), settings, report);
    }
    if let Some(settings) = &settings.redirect {
        redirect(&at.key("redirect"), settings, report);
    }
    if let Some(settings) = &settings.respond {
        respond(&at.key("respond"), settings, report);
    }
}

/// Nothing is forwarded, so these would silently do nothing.
fn without_pool(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    for (key, given) in [
        ("strip_prefix", settings.strip_prefix.is_some()),
        ("rewrite_path", settings.rewrite_path.is_some()),
        ("host_header", settings.host_header.is_some()),
        ("request_headers", !settings.request_headers.is_empty()),
    ] {
        if given {
            let what = format!("`{key}` has no effect: the route forwards nothing");
            report.warning(at.key(key), what, "remove it, or forward to a `pool`");
        }
    }
}

fn redirect(at: &KeyPath, redirect: &Redirect, report: &mut Report<'_>) {
    let status = redirect.status;
    report.must(
        matches!(status, 301 | 302 | 303 | 307 | 308),
        at.key("status"),
        format!("{status} is not a redirect"),
        "write 301, 302, 303, 307 or 308",
    );
    let to = &redirect.to;
    let target = to.starts_with('/') || to.starts_with("http://") || to.starts_with("https://");
    let at = at.key("to");
    let fix = "write `/path` or `https://example.com/path`";
    report.must(
        target,
        at.clone(),
        format!("`{to}` is neither a path nor a URL"),
        fix,
    );
    if !to.bytes().all(|b| b.is_ascii_graphic()) {
        let fix = "write it percent-encoded, such as `%20`";
        report.error(
            at,
            format!("`{to}` has a character that a URL cannot have"),
            fix,
        );
    }
}

fn respond(at: &KeyPath, respond: &Respond, report: &mut Report<'_>) {
    let status = respond.status;
    report.must(
        (200..=599).contains(&status),
        at.key("status"),
        format!("{status} is not the status of an answer"),
        "write one from 200 to 599",
    );
    if matches!(status, 204 | 205 | 304) && !respond.body.is_empty() {
        let what = format!("an answer of {status} has no body");
        report.error(at.key("body"), what, "remove the body, or answer 200");
    }
    report.form(
        at.key("content_type"),
        words::header_value(&respond.content_type),
    );
}

/// The names that every path of the route gives; none when a path is wrong.
fn patterns(
    at: &KeyPath,
    settings: &Settings,
    report: &mut Report<'_>,
) -> Option<BTreeSet<String>> {
    let at = at.key("path");
    let fix = "remove the key: then any path matches";
    report.must(
        !settings.path.is_empty(),
        at.clone(),
        "no path could match",
        fix,
    );
    let mut common: Option<BTreeSet<String>> = None;
    let mut sound = !report.absent.any_below(&at);
    for (index, path) in settings.path.iter().enumerate() {
        match words::path_pattern(path) {
            Ok(names) => {
                common = Some(match common {
                    Some(common) => common.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
            Err(wrong) => {
                sound = false;
                report.form(at.key(index), Err(wrong));
            }
        }
    }
    common.filter(|_| sound)
}

fn rewriting(
    at: &KeyPath,
    settings: &Settings,
    names: Option<&BTreeSet<String>>,
    report: &mut Report<'_>,
) {
    if let Some(prefix) = &settings.strip_prefix {
        let at = at.key("strip_prefix");
        report.form(at.clone(), words::path(prefix));
        let certain = names.is_some() && prefix.starts_with('/');
        if certain && !settings.path.iter().any(|path| path.starts_with(prefix)) {
            let what = format!("no path of the route begins with `{prefix}`");
            report.error(at.clone(), what, "strip what the paths begin with");
        }
        let fix = "`rewrite_path` alone can do both: `/new/{*}`";
        let what = "`strip_prefix` and `rewrite_path` exclude each other";
        report.must(settings.rewrite_path.is_none(), at, what, fix);
    }
    if let Some(template) = &settings.rewrite_path {
        let at = at.key("rewrite_path");
        report.form(at.clone(), words::path(template));
        template_names(at, template, names, report);
    }
    if let Some(redirect) = &settings.redirect {
        let at = at.key("redirect").key("to");
        template_names(at, &redirect.to, names, report);
    }
}

fn template_names(
    at: KeyPath,
    template: &str,
    names: Option<&BTreeSet<String>>,
    report: &mut Report<'_>,
) {
    let used = match words::placeholders(template) {
        Ok(used) => used,
        Err(wrong) => return report.form(at, Err(wrong)),
    };
    let Some(names) = names else { return };
    for name in used {
        if !names.contains(name) && name != "host" {
            let what = format!("`{{{name}}}` is not in every path of the route");
            let known = names.iter().map(String::as_str).chain(["host"]);
            let known: Vec<_> = known.map(|name| format!("`{{{name}}}`")).collect();
            let fix = if names.is_empty() {
                "name a segment in the path, such as `/users/{id}`, or end it with `/*`".to_owned()
            } else {
                format!("in every path: {}", known.join(", "))
            };
            report.error(at.clone(), what, fix);
        }
    }
}

fn header_rules(at: &KeyPath, rules: &HeaderRules, report: &mut Report<'_>) {
    let mut seen = HashSet::new();
    for (name, value) in &rules.set {
        let at = at.key("set").key(name);
        header_name(at.clone(), name, report);
        if let Some(fix) = own_header(name) {
            let what = format!("the header `{name}` is not for a rule to set");
            report.key_error(at.clone(), what, fix);
        }
        if !seen.insert(name.to_lowercase()) {
            let what = format!("the header `{name}` is set twice, in other letters");
            report.key_error(at.clone(), what, "keep one of them");
        }
        report.form(at, words::header_value(value));
    }
    for (index, name) in rules.remove.iter().enumerate() {
        let at = at.key("remove").key(index);
        report.form(at.clone(), words::name("header", name));
        if let Some(fix) = own_header(name) {
            let what = format!("the header `{name}` is not for a rule to remove");
            report.error(at, what, fix);
        }
    }
}

pub(super) fn own_header(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let own = OWN_HEADERS.iter().find(|(own, _)| *own == name);
    let proxy = name.starts_with("proxy-");
    own.map(|(_, fix)| *fix)
        .or(proxy.then_some("headers of a proxy end here and are never passed on"))
}

fn websocket(at: &KeyPath, websocket: &WebSocket, report: &mut Report<'_>) {
    report.not_zero(at, "idle", websocket.idle, "");
    for (index, origin) in websocket.origins.iter().enumerate() {
        report.form(at.key("origins").key(index), words::origin(origin));
    }
    for (key, count) in [
        ("max", websocket.max),
        ("max_per_user", websocket.max_per_user),
    ] {
        let what = format!("`{key}` must be at least 1");
        report.must(
            count >= 1,
            at.key(key),
            what,
            "write `enabled: false` to take none",
        );
    }
    report.must(
        websocket.messages_per_minute != Some(0),
        at.key("messages_per_minute"),
        "`messages_per_minute` must be at least 1",
        "remove it to allow any number, or write `enabled: false`",
    );
}
