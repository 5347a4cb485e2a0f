//! The table: medians of the rounds, and what was asked for.

use crate::job::Job;
use crate::subject::Subject;
use crate::{Effort, Fault};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Requests a second.
    Reached,
    /// Milliseconds.
    P50,
    P99,
    /// Microseconds of processor time for one request, or one event.
    Cpu,
    /// MiB before the load and after it.
    Idle,
    Resident,
    /// KiB for one open stream.
    MemoryEach,
    /// Events.
    Lost,
    Stalls,
}

/// What our number must not exceed.
#[derive(Debug, Clone, Copy)]
enum Bar {
    None,
    AtMost(f64),
    /// So much more than without anything between.
    Added(f64),
    Times(f64, Subject),
}

type Row = (Job, Number, &'static str, Bar);

const ROWS: &[Row] = &[
    (
        Job::Rate200,
        Number::Reached,
        "200 req/s, whole answers of 1 KiB: reached",
        Bar::None,
    ),
    (Job::Rate200, Number::P50, "same: p50 ms", Bar::Added(0.25)),
    (Job::Rate200, Number::P99, "same: p99 ms", Bar::Added(1.0)),
    (
        Job::Rate200,
        Number::Cpu,
        "same: CPU us for a request",
        Bar::None,
    ),
    (
        Job::Rate1000,
        Number::Reached,
        "1,000 req/s: reached",
        Bar::None,
    ),
    (Job::Rate1000, Number::P50, "same: p50 ms", Bar::Added(0.25)),
    (Job::Rate1000, Number::P99, "same: p99 ms", Bar::Added(1.0)),
    (
        Job::Rate1000,
        Number::Cpu,
        "same: CPU us for a request",
        Bar::None,
    ),
    (Job::Rate1000, Number::Idle, "memory before, MiB", Bar::None),
    (
        Job::Rate1000,
        Number::Resident,
        "memory after, MiB",
        Bar::None,
    ),
    (
        Job::Full,
        Number::Reached,
        "64 connections, as fast as they are answered: req/s",
        Bar::None,
    ),
    (
        Job::Full,
        Number::Cpu,
        "same: CPU us for a request",
        Bar::Times(0.01, Subject::Litellm),
    ),
    (
        Job::Full,
        Number::Resident,
        "same: memory after, MiB",
        Bar::None,
    ),
    (
        Job::Streams,
        Number::Lost,
        "1,000 streams, 100 events at 20 ms: lost events",
        Bar::AtMost(0.0),
    ),
    (
        Job::Streams,
        Number::Stalls,
        "same: stalls above 200 ms",
        Bar::AtMost(0.0),
    ),
    (
        Job::Streams,
        Number::P50,
        "same: an event's way, p50 ms",
        Bar::None,
    ),
    (
        Job::Streams,
        Number::P99,
        "same: an event's way, p99 ms",
        Bar::Times(1.0, Subject::Nginx),
    ),
    (
        Job::Streams,
        Number::Cpu,
        "same: CPU us for an event",
        Bar::None,
    ),
    (
        Job::Streams,
        Number::MemoryEach,
        "same: memory for each, KiB",
        Bar::AtMost(32.0),
    ),
    (
        Job::Translated,
        Number::Lost,
        "the same translated: lost events",
        Bar::AtMost(0.0),
    ),
    (
        Job::Translated,
        Number::Stalls,
        "same: stalls above 200 ms",
        Bar::AtMost(0.0),
    ),
    (
        Job::Translated,
        Number::P50,
        "same: an event's way, p50 ms",
        Bar::None,
    ),
    (
        Job::Translated,
        Number::P99,
        "same: an event's way, p99 ms",
        Bar::None,
    ),
    (
        Job::Translated,
        Number::Cpu,
        "same: CPU us for an event",
        Bar::None,
    ),
    (
        Job::Translated,
        Number::MemoryEach,
        "same: memory for each, KiB",
        Bar::AtMost(32.0),
    ),
];

#[derive(Debug, Default)]
pub struct Results {
    found: BTreeMap<(Job, Number, Subject), Vec<f64>>,
    missed: BTreeMap<(Subject, String), BTreeSet<Job>>,
}

impl Results {
    pub fn add(&mut self, job: Job, subject: Subject, numbers: &[(Number, f64)]) {
        for &(number, value) in numbers {
            let key = (job, number, subject);
            self.found.entry(key).or_default().push(value);
        }
    }

    /// Keeps the reason for an empty cell.
    pub fn miss(&mut self, job: Job, subject: Subject, fault: &Fault) {
        let reason = (subject, fault.to_string());
        self.missed.entry(reason).or_default().insert(job);
    }

    pub fn page(&self, subjects: &[Subject], effort: Effort) -> String {
        let mut page = format!(
            "Medians of {} interleaved round(s), rates for {:?}; the subject alone on one core, provider, Redis and load on the rest. onemind \
             checks a key, counts under three limits in Redis, writes an access log and keeps numbers; nginx writes a log; LiteLLM and \
             Portkey only pass on. An event's way is from the provider's write to the caller's read.\n\n| ",
            effort.rounds, effort.measured
        );
        for subject in subjects {
            let _ = write!(page, "| {subject} ");
        }
        let _ = writeln!(page, "| bar |\n|{}", "---|".repeat(subjects.len() + 2));
        for row in ROWS.iter().filter(|row| self.has(row)) {
            page.push_str(&self.line(row, subjects));
        }
        for ((subject, reason), jobs) in &self.missed {
            let jobs: Vec<String> = jobs.iter().map(|job| job.name()).collect();
            let _ = writeln!(
                page,
                "\nNot measured: {subject} ({}): {reason}",
                jobs.join(", ")
            );
        }
        page
    }

    fn has(&self, row: &Row) -> bool {
        Subject::ALL
            .iter()
            .any(|&one| self.median(row, one).is_some())
    }

    fn median(&self, &(job, number, ..): &Row, subject: Subject) -> Option<f64> {
        let mut values = self.found.get(&(job, number, subject))?.clone();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(f64::midpoint(lower, upper))
    }

    fn line(&self, row: &Row, subjects: &[Subject]) -> String {
        let mut line = format!("| {}", row.2);
        for &subject in subjects {
            let value = self.median(row, subject).map(short);
            let _ = write!(line, " | {}", value.unwrap_or_default());
        }
        let _ = writeln!(line, " | {} |", self.verdict(row));
        line
    }

    fn verdict(&self, row: &Row) -> String {
        let ours = self.median(row, Subject::Onemind);
        let direct = self.median(row, Subject::Direct);
        let (limit, words) = match row.3 {
            Bar::None => return String::new(),
            Bar::AtMost(limit) => (Some(limit), format!("<= {limit}")),
            Bar::Added(more) => {
                let added = ours.zip(direct).map_or(0.0, |(ours, direct)| ours - direct);
                let words = format!("added {added:+.3}, <= {more}");
                (direct.map(|value| value + more), words)
            }
            Bar::Times(factor, subject) => {
                let limit = self.median(row, subject).map(|value| value * factor);
                (limit, format!("<= {factor}x {subject}"))
            }
        };
        match (ours, limit) {
            (Some(ours), Some(limit)) if ours <= limit => format!("{words}: met"),
            (Some(_), Some(_)) => format!("{words}: **missed**"),
            _ => words,
        }
    }
}

/// Three digits are more than the rounds agree on.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 || small == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
