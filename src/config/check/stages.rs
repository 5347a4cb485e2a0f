//! What only the stages can tell: certificates that go together, paths that compile, routes in each other's way.

use super::Report;
use crate::base::fault::{Faults, KeyPath, Severity};
use crate::stage::identity::build;
use crate::stage::identity::jwks::Jwks;
use crate::stage::listen::settings::CertificateSettings;
use crate::stage::listen::tls;
use crate::stage::route::conflict;
use crate::stage::route::rewrite::{Location, Rewrite};
use crate::stage::route::table::Table;
use crate::stage::upstream::peer::PeerTemplate;
use crate::stage::upstream::probe::Probe;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Asks each stage about the sections in which nothing was found yet: a second sentence about the
/// same mistake helps nobody.
pub(super) fn check(report: &mut Report<'_>) {
    let mut faults = Faults::default();
    certificates(report, &mut faults);
    pools(report, &mut faults);
    identity(report, &mut faults);
    routes(report, &mut faults);
    for fault in faults.0 {
        match fault.severity {
            Severity::Error => report.error(fault.at, fault.what, fault.fix),
            Severity::Warning => report.warning(fault.at, fault.what, fault.fix),
        }
    }
}

fn certificates(report: &Report<'_>, faults: &mut Faults) {
    let listeners = KeyPath::root().key("listeners");
    for (name, settings) in &report.config.listeners {
        let at = listeners.key(name).key("tls").key("certificates");
        let pairs = settings.tls.iter().flat_map(|tls| &tls.certificates);
        for (index, pair) in pairs.enumerate() {
            let at = at.key(index);
            if report.is_clean(&at) {
                certificate(&at, pair, faults);
            }
        }
    }
}

/// An expired certificate is served all the same: refusing to start would make it worse.
fn certificate(at: &KeyPath, pair: &CertificateSettings, faults: &mut Faults) {
    let at = at.key("certificate");
    match tls::load_certificate(pair) {
        Ok(certificate) if certificate.expired_at(now()) => {
            let path = pair.certificate.display();
            faults.warning(at, format!("`{path}` has expired"), "renew it");
        }
        Ok(_) => {}
        Err(what) => faults.error(at, what, ""),
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn pools(report: &Report<'_>, faults: &mut Faults) {
    let section = KeyPath::root().key("pools");
    for (name, settings) in &report.config.pools {
        let at = section.key(name);
        if report.is_clean(&at)
            && let Some(peers) = PeerTemplate::build(name, settings, &at, faults)
        {
            Probe::build(settings, Arc::new(peers), &at, faults);
        }
    }
}

/// Files of keys, and places to fetch keys from; nothing is fetched.
fn identity(report: &Report<'_>, faults: &mut Faults) {
    let section = KeyPath::root().key("identity");
    for (name, settings) in &report.config.identity {
        let at = section.key(name);
        if report.is_clean(&at) {
            let jwks = |source| Arc::new(Jwks::new(source));
            build::build(name, settings, &at, jwks, faults);
        }
    }
}

fn routes(report: &Report<'_>, faults: &mut Faults) {
    let section = KeyPath::root().key("routes");
    let routes = report.config.routes.iter();
    let clean: Vec<_> = routes
        .filter(|(name, _)| report.is_clean(&section.key(name)))
        .map(|(name, settings)| (name.as_str(), settings))
        .collect();
    for (name, settings) in &clean {
        Rewrite::compile(name, settings, faults);
        if let Some(redirect) = &settings.redirect {
            Location::compile(name, settings, redirect, faults);
        }
    }
    let named = clean.iter().map(|(name, settings)| (*name, *settings, ()));
    if let Err(mut found) = Table::build(named) {
        faults.0.append(&mut found.0);
    }
    for conflict in conflict::conflicts(&clean) {
        conflict.report(faults);
    }
}
