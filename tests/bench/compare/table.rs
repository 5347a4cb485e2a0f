//! The table: medians of the rounds, ratios, and what was asked for.

use crate::job::Job;
use crate::product::{Product, World};
use crate::{Effort, Fault};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Microseconds of processor time for one request, message or handshake.
    Cpu,
    /// The same for an upload.
    CpuUp,
    /// Milliseconds.
    P50,
    P99,
    /// KiB for one open connection.
    MemoryEach,
    /// MiB.
    Resident,
    /// Milliseconds.
    Start,
}

/// What a number must not exceed.
#[derive(Debug, Clone, Copy)]
enum Bar {
    None,
    AtMost(f64),
    Times(f64, Product),
}

struct Row {
    job: Job,
    number: Number,
    title: &'static str,
    bar: Bar,
}

const fn row(job: Job, number: Number, title: &'static str, bar: Bar) -> Row {
    Row {
        job,
        number,
        title,
        bar,
    }
}

const BARE: Bar = Bar::Times(1.0, Product::Bare);

const ROWS: &[Row] = &[
    row(
        Job::H1,
        Number::Cpu,
        "HTTP/1.1, 64 connections, 1 KiB: CPU us",
        BARE,
    ),
    row(Job::H1, Number::P99, "same: p99 ms", Bar::None),
    row(
        Job::Tls,
        Number::Cpu,
        "TLS HTTP/1.1, 64 connections, 1 KiB: CPU us",
        BARE,
    ),
    row(Job::Tls, Number::P99, "same: p99 ms", Bar::None),
    row(
        Job::H2,
        Number::Cpu,
        "TLS HTTP/2, 8 x 8 streams, 1 KiB: CPU us",
        BARE,
    ),
    row(Job::H2, Number::P99, "same: p99 ms", Bar::None),
    row(
        Job::Handshake,
        Number::Cpu,
        "full TLS handshake: CPU us",
        BARE,
    ),
    row(
        Job::Conns1000,
        Number::Cpu,
        "HTTP/1.1, 1,000 connections: CPU us",
        Bar::None,
    ),
    row(Job::Conns1000, Number::P50, "same: p50 ms", Bar::None),
    row(
        Job::Conns1000,
        Number::P99,
        "same: p99 ms",
        Bar::Times(1.5, Product::Nginx),
    ),
    row(
        Job::Ws1000,
        Number::Cpu,
        "1,000 WebSockets echoing: CPU us",
        Bar::None,
    ),
    row(Job::Ws1000, Number::P50, "same: p50 ms", Bar::None),
    row(
        Job::Ws1000,
        Number::P99,
        "same: p99 ms",
        Bar::Times(2.0, Product::Haproxy),
    ),
    row(
        Job::Ws1000,
        Number::MemoryEach,
        "same: memory for each, KiB",
        Bar::AtMost(32.0),
    ),
    row(Job::Bulk, Number::Cpu, "1 MiB down: CPU us", BARE),
    row(Job::Bulk, Number::CpuUp, "1 MiB up: CPU us", BARE),
    row(
        Job::Idle,
        Number::Resident,
        "idle memory, MiB",
        Bar::AtMost(24.0),
    ),
    row(
        Job::Idle,
        Number::Start,
        "start to first answer, ms",
        Bar::AtMost(60.0),
    ),
];

#[derive(Debug, Default)]
pub struct Results {
    found: BTreeMap<(Job, Number, Product), Vec<f64>>,
    missed: BTreeMap<(Product, String), BTreeSet<Job>>,
}

impl Results {
    pub fn add(&mut self, job: Job, product: Product, numbers: &[(Number, f64)]) {
        for &(number, value) in numbers {
            self.found
                .entry((job, number, product))
                .or_default()
                .push(value);
        }
    }

    /// Keeps the reason for an empty cell.
    pub fn miss(&mut self, job: Job, product: Product, fault: &Fault) {
        let reason = (product, fault.to_string());
        self.missed.entry(reason).or_default().insert(job);
    }

    pub fn page(&self, world: &World, effort: Effort) -> String {
        let mut page = format!(
            "Median of {} interleaved round(s) of {:?}; proxy on one core, backend and load on the rest; CPU from \
             `/proc/<pid>/stat`.\nAccess log and numbers for operators on in nginx, haproxy and onemind, not in bare Pingora.\n",
            effort.rounds, effort.measured
        );
        let _ = writeln!(page, "{}\n", world.versions().join("; "));
        page.push_str("| job | nginx | haproxy | bare Pingora | onemind | onemind / nginx | onemind / bare | bar |\n");
        page.push_str("|---|---|---|---|---|---|---|---|\n");
        for row in ROWS.iter().filter(|row| self.has(row)) {
            page.push_str(&self.line(row));
        }
        for ((product, reason), jobs) in &self.missed {
            let jobs: Vec<String> = jobs.iter().map(|job| job.name()).collect();
            let _ = writeln!(
                page,
                "\nNot measured: {product} ({}): {reason}",
                jobs.join(", ")
            );
        }
        page
    }

    fn has(&self, row: &Row) -> bool {
        Product::ALL
            .iter()
            .any(|&product| self.median(row, product).is_some())
    }

    fn median(&self, row: &Row, product: Product) -> Option<f64> {
        let mut values = self.found.get(&(row.job, row.number, product))?.clone();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(f64::midpoint(lower, upper))
    }

    fn line(&self, row: &Row) -> String {
        let cell = |value: Option<f64>| value.map(short).unwrap_or_default();
        let ours = self.median(row, Product::Onemind);
        let against = |product| Some(ours? / self.median(row, product)?);
        let mut line = format!("| {}", row.title);
        for product in Product::ALL {
            let _ = write!(line, " | {}", cell(self.median(row, product)));
        }
        for product in [Product::Nginx, Product::Bare] {
            let _ = write!(line, " | {}", cell(against(product)));
        }
        let _ = writeln!(line, " | {} |", self.verdict(row, ours));
        line
    }

    fn verdict(&self, row: &Row, ours: Option<f64>) -> String {
        let (limit, words) = match row.bar {
            Bar::None => return String::new(),
            Bar::AtMost(limit) => (Some(limit), format!("<= {limit}")),
            Bar::Times(factor, product) => {
                let limit = self.median(row, product).map(|value| value * factor);
                (limit, format!("<= {factor}x {product}"))
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
        _ => 2,
    };
    format!("{value:.decimals$}")
}
