//! Pools: endpoints that can be reached, and limits that let something through.

use super::listeners::server_name;
use super::{Report, words};
use crate::base::fault::KeyPath;
use crate::stage::upstream::settings::{
    BalanceSettings, EjectionSettings, EndpointSettings, HashKey, HealthSettings, RetrySettings,
    Settings, StickySettings, TlsSettings,
};
use std::collections::{BTreeSet, HashSet};

/// Shorter keys of HMAC-SHA-256 can be guessed.
const SECRET_BYTES_MIN: usize = 16;

pub(super) fn check(report: &mut Report<'_>) {
    let at = KeyPath::root().key("pools");
    let config = report.config;
    let used: BTreeSet<&String> = config
        .routes
        .values()
        .filter_map(|r| r.pool.as_ref())
        .collect();
    let certain = !report.absent.any_below(&KeyPath::root().key("routes"));
    for (name, settings) in &config.pools {
        let at = at.key(name);
        pool(&at, settings, report);
        if certain && !used.contains(name) {
            let what = format!("no route uses the pool `{name}`");
            report.warning(at, what, "name it in a route, or remove it");
        }
    }
}

fn pool(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    endpoints(at, &settings.endpoints, report);
    balance(&at.key("balance"), &settings.balance, report);
    if let Some(settings) = &settings.sticky {
        sticky(&at.key("sticky"), settings, report);
    }
    health(&at.key("health"), &settings.health, report);
    ejection(&at.key("ejection"), &settings.ejection, report);
    retry(&at.key("retry"), &settings.retry, report);
    let capacity = at.key("capacity");
    report.at_least_one(&capacity, "max_in_flight", settings.capacity.max_in_flight);
    if settings.capacity.queue_max > 0 {
        let fix = "write `queue_max: 0` to refuse at once";
        report.not_zero(
            &capacity,
            "queue_timeout",
            settings.capacity.queue_timeout,
            fix,
        );
    }
    report.at_least_one(
        &at.key("keepalive"),
        "h2_streams",
        settings.keepalive.h2_streams,
    );
    report.not_zero(at, "dns_refresh", settings.dns_refresh.0, "");
    if let Some(settings) = &settings.tls {
        tls(&at.key("tls"), settings, report);
    }
}

fn endpoints(pool: &KeyPath, endpoints: &[EndpointSettings], report: &mut Report<'_>) {
    let at = pool.key("endpoints");
    report.must(
        !endpoints.is_empty() || !report.sure(pool, "endpoints"),
        pool.clone(),
        "the pool has no endpoints",
        "write `endpoints: [10.0.0.1:8080]`",
    );
    let mut seen = HashSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = at.key(index);
        let address = at.key("address");
        let weight = endpoint.weight;
        report.form(address.clone(), words::endpoint(&endpoint.address));
        if !seen.insert(endpoint.address.to_lowercase()) {
            let what = format!("the endpoint `{}` is given twice", endpoint.address);
            report.error(
                address,
                what,
                "use `weight` to give one more of the traffic",
            );
        }
        report.must(
            (1..=256).contains(&weight),
            at.key("weight"),
            format!("the weight {weight} is not from 1 to 256"),
            if weight == 0 {
                "remove the endpoint to send it nothing"
            } else {
                ""
            },
        );
    }
}

fn balance(at: &KeyPath, balance: &BalanceSettings, report: &mut Report<'_>) {
    let (kind, name) = match balance {
        BalanceSettings::Hash(HashKey::Header(name)) => ("header", name),
        BalanceSettings::Hash(HashKey::Cookie(name)) => ("cookie", name),
        _ => return,
    };
    report.form(at.key("hash").key(kind), words::name(kind, name));
}

fn sticky(at: &KeyPath, sticky: &StickySettings, report: &mut Report<'_>) {
    report.form(at.key("cookie"), words::name("cookie", &sticky.cookie));
    report.not_zero(at, "max_age", sticky.max_age, "");
    match &sticky.secret {
        Some(secret) => report.must(
            secret.expose().len() >= SECRET_BYTES_MIN,
            at.key("secret"),
            "the secret is shorter than 16 bytes",
            "make one with `openssl rand -hex 32`",
        ),
        None if !report.sure(at, "secret") => {}
        None => report.warning(
            at.clone(),
            "`sticky` without `secret`: a restart or a second instance forgets who was where",
            "write `secret: ${STICKY_SECRET}` or `secret: file:/path`",
        ),
    }
}

fn health(at: &KeyPath, health: &HealthSettings, report: &mut Report<'_>) {
    report.form(at.key("path"), words::path(&health.path));
    if let Some(host) = &health.host {
        report.form(at.key("host"), words::host_header(host));
    }
    let what = "the port must be from 1 to 65535";
    report.must(health.port != Some(0), at.key("port"), what, "");
    for (key, period) in [
        ("interval", health.interval),
        ("fast_interval", health.fast_interval),
        ("timeout", health.timeout),
    ] {
        report.not_zero(at, key, period, "write `check: off` to probe nothing");
    }
    report.at_least_one(at, "unhealthy_after", health.unhealthy_after);
    report.at_least_one(at, "healthy_after", health.healthy_after);
    let expected = at.key("expect_status");
    let what = "no status would count as well";
    report.must(
        !health.expect_status.is_empty(),
        expected.clone(),
        what,
        "remove the key for `200-299`",
    );
    for (index, statuses) in health.expect_status.iter().enumerate() {
        report.form(expected.key(index), words::statuses(statuses));
    }
}

fn ejection(at: &KeyPath, ejection: &EjectionSettings, report: &mut Report<'_>) {
    report.at_least_one(at, "connect_failures", ejection.connect_failures);
    report.at_least_one(at, "errors", ejection.errors);
    report.not_zero(
        at,
        "base",
        ejection.base,
        "write `enabled: false` to eject nothing",
    );
    let (base, max) = (ejection.base, ejection.max);
    let what = format!("`max` ({max}) is shorter than `base` ({base})");
    let sure = report.sure(at, "base");
    report.must(max >= base || !sure, at.key("max"), what, "make it longer");
}

fn retry(at: &KeyPath, retry: &RetrySettings, report: &mut Report<'_>) {
    report.must(
        (1..=16).contains(&retry.attempts),
        at.key("attempts"),
        "`attempts` must be from 1 to 16",
        "1 means no retry",
    );
    for (index, status) in retry.statuses.iter().enumerate() {
        report.must(
            (500..=599).contains(status) || *status == 429,
            at.key("statuses").key(index),
            format!("an answer of {status} is not a failure of the endpoint"),
            "retry on 429 or 500 to 599",
        );
    }
}

fn tls(at: &KeyPath, tls: &TlsSettings, report: &mut Report<'_>) {
    if let Some(name) = &tls.server_name {
        server_name(at.key("server_name"), name, report);
    }
    for (key, path) in [
        ("ca", &tls.ca),
        ("client_certificate", &tls.client_certificate),
        ("client_key", &tls.client_key),
    ] {
        if let Some(path) = path {
            report.readable(at.key(key), path);
        }
    }
    let pair = [
        ("client_certificate", tls.client_certificate.is_some()),
        ("client_key", tls.client_key.is_some()),
    ];
    for ((given, is_given), (other, other_given)) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if is_given && !other_given && !report.absent.contains(&at.key(other)) {
            let fix = format!("write `{other}: …` beside it");
            report.error(at.key(given), format!("`{given}` without `{other}`"), fix);
        }
    }
    if !tls.verify {
        let what = "`verify: false`: anyone on the way can pose as the endpoint";
        report.warning(
            at.key("verify"),
            what,
            "name the authority with `ca` instead",
        );
    }
}
