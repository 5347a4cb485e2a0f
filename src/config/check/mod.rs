//! What a document may say only as a whole: names that must exist, values that must agree.

mod ai;
mod clouds;
mod identity;
pub mod limits;
mod listeners;
mod logs;
mod pools;
mod redis;
mod routes;
mod stages;
mod tracing;
mod words;

use super::read::Absent;
use super::settings::{Config, ServerSettings};
use super::suggest;
use crate::base::fault::{Faults, KeyPath};
use crate::base::units::Period;
use crate::stage::listen::shield::settings::Settings as Shield;
use std::fmt::Display;
use std::path::Path;

/// Enough to mend; a table of a million routes without a pool must not tell a million faults.
const FOUND_MAX: usize = 1_000;

/// What the checks found.
#[derive(Debug, Default)]
pub struct Found {
    pub faults: Faults,
    /// Faults, by path and sentence, that are about a key and not about its value.
    pub at_keys: Vec<(KeyPath, String)>,
}

/// Checks the document as a whole. What is in `absent` is written, but could not be read: nothing is said about its lack.
pub(super) fn check(config: &Config, absent: &Absent) -> Found {
    let mut report = Report {
        found: Found::default(),
        config,
        absent,
    };
    server(&config.server, &mut report);
    redis::check(&mut report);
    tracing::check(&mut report);
    names("listeners", config.listeners.keys(), &mut report);
    names("pools", config.pools.keys(), &mut report);
    names("providers", config.providers.keys(), &mut report);
    names("models", config.models.keys(), &mut report);
    names("identity", config.identity.keys(), &mut report);
    names("routes", config.routes.keys(), &mut report);
    listeners::check(&mut report);
    pools::check(&mut report);
    ai::check(&mut report);
    identity::check(&mut report);
    routes::check(&mut report);
    limits::check(&mut report);
    stages::check(&mut report);
    report.found
}

/// Collects faults, and leaves out those that only follow from a value that could not be read.
struct Report<'a> {
    found: Found,
    config: &'a Config,
    absent: &'a Absent,
}

impl Report<'_> {
    fn error(&mut self, at: KeyPath, what: impl Display, fix: impl Display) {
        if self.counts(&at) {
            self.found.faults.error(at, what, fix);
        }
    }

    fn warning(&mut self, at: KeyPath, what: impl Display, fix: impl Display) {
        if self.counts(&at) {
            self.found.faults.warning(at, what, fix);
        }
    }

    /// The key itself is wrong, whatever its value.
    fn key_error(&mut self, at: KeyPath, what: impl Display, fix: impl Display) {
        if self.counts(&at) {
            self.found.at_keys.push((at.clone(), what.to_string()));
            self.found.faults.error(at, what, fix);
        }
    }

    fn counts(&self, at: &KeyPath) -> bool {
        self.found.faults.0.len() < FOUND_MAX && !self.absent.contains(at)
    }

    /// Whether everything below could be read, and no fault was found there.
    fn is_clean(&self, at: &KeyPath) -> bool {
        let faults = &self.found.faults.0;
        !self.absent.any_below(at) && !faults.iter().any(|fault| fault.at.0.starts_with(&at.0))
    }

    /// Whether the key is truly as the typed document has it, and not merely unreadable.
    fn sure(&self, section: &KeyPath, key: &str) -> bool {
        !self.absent.any_below(&section.key(key))
    }

    fn must(&mut self, holds: bool, at: KeyPath, what: impl Display, fix: impl Display) {
        if !holds {
            self.error(at, what, fix);
        }
    }

    /// A count below one would stop what it counts.
    fn at_least_one(&mut self, section: &KeyPath, key: &str, count: u32) {
        let what = format!("`{key}` must be at least 1");
        self.must(count >= 1, section.key(key), what, "");
    }

    /// A time of zero would end everything at once.
    fn not_zero(&mut self, section: &KeyPath, key: &str, period: Period, fix: &str) {
        let what = format!("`{key}` must be longer than zero");
        self.must(!period.0.is_zero(), section.key(key), what, fix);
    }

    /// Says which words a text must be made of, if it is not.
    fn form(&mut self, at: KeyPath, form: Result<(), words::Wrong>) {
        if let Err(words::Wrong { what, fix }) = form {
            self.error(at, what, fix);
        }
    }

    /// A name given elsewhere in the document must exist there.
    fn known<'n>(
        &mut self,
        at: KeyPath,
        (section, kind): (&str, &str),
        name: &str,
        names: impl Iterator<Item = &'n String> + Clone,
    ) {
        let section = KeyPath::root().key(section);
        let unreadable = [section.key(name), section]
            .iter()
            .any(|at| self.absent.contains(at));
        if unreadable || !self.counts(&at) {
            return;
        }
        let names = names.map(String::as_str);
        let fix = suggest::hint(name, names);
        self.error(at, format!("no {kind} named `{name}`"), fix);
    }

    /// The file must be there and readable; what it holds is for the stage that uses it.
    fn readable(&mut self, at: KeyPath, path: &Path) {
        let cause = match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(data) if data.is_file() => return,
            Ok(_) => "it is not a file".to_owned(),
            Err(error) => error.to_string(),
        };
        let what = format!("cannot read `{}`: {cause}", path.display());
        let fix = "a relative path begins at the folder of this file";
        self.error(at, what, fix);
    }
}

/// Names are shown in logs, metrics and `/status`: what cannot be seen has no place in them.
fn names<'n>(section: &str, names: impl Iterator<Item = &'n String>, report: &mut Report<'_>) {
    let section = KeyPath::root().key(section);
    for name in names {
        if name.is_empty() || name.contains(words::is_unseen) {
            let what = "a name must be made of characters that can be seen";
            report.key_error(
                section.key(name),
                what,
                "such as letters, digits, `-` and `_`",
            );
        }
    }
}

fn server(server: &ServerSettings, report: &mut Report<'_>) {
    let at = KeyPath::root().key("server");
    if let Some(threads) = server.threads {
        let fix = "remove the key for one thread per processor";
        let what = "`threads` must be from 1 to 1024";
        report.must((1..=1024).contains(&threads), at.key("threads"), what, fix);
    }
    logs::check(&at, report);
    report.not_zero(&at, "drain_deadline", server.drain_deadline, "");
    report.must(
        server.drain_deadline >= server.drain_delay || !report.sure(&at, "drain_delay"),
        at.key("drain_deadline"),
        format!(
            "`drain_deadline` ({}) is shorter than `drain_delay` ({})",
            server.drain_deadline, server.drain_delay
        ),
        "the deadline includes the delay: make it longer",
    );
    shield(&at.key("shield"), &server.shield, report);
    let (at, upgrade) = (at.key("upgrade"), &server.upgrade);
    report.not_zero(&at, "ready_within", upgrade.ready_within, "");
    report.not_zero(&at, "drain_deadline", upgrade.drain_deadline, "");
    report.at_least_one(&at, "draining_max", upgrade.draining_max);
}

fn shield(at: &KeyPath, shield: &Shield, report: &mut Report<'_>) {
    for (key, count) in [
        ("connections", shield.connections),
        ("connections_per_address", shield.connections_per_address),
        ("greetings", shield.greetings),
        ("greetings_per_address", shield.greetings_per_address),
        ("in_flight", shield.in_flight),
        ("in_flight_per_address", shield.in_flight_per_address),
    ] {
        report.at_least_one(at, key, count);
    }
    let memory = shield.memory.is_none_or(|memory| memory.0 > 0);
    let what = "`memory` must be more than zero";
    report.must(
        memory,
        at.key("memory"),
        what,
        "write a size such as `800MiB`",
    );
    if let Some(rate) = &shield.rate_per_address {
        let at = at.key("rate_per_address");
        report.at_least_one(&at, "requests", rate.requests);
        report.at_least_one(&at, "burst", rate.burst.unwrap_or(1));
        let what = format!("`per` must be from 1ms to 1d, not {}", rate.per);
        let is_sound = !rate.per.0.is_zero() && rate.per <= Period::seconds(86_400);
        report.must(is_sound, at.key("per"), what, "");
    }
}
