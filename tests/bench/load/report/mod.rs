//! The report of a load test: what was planned, seen, judged, and how it is written down. Nothing here measures.

pub mod book;
pub mod judge;
pub mod page;
pub mod plan;
mod plot;
pub mod table;

use crate::percentile::milliseconds;
use book::{Book, Mark, Second};
use judge::Figures;
use plan::Plan;
use serde::Serialize;
use std::collections::BTreeMap;

/// What ran, and on what.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Of the last minute, before the run: others that work beside it make every figure worse.
    pub load_before: f64,
    pub onemind: String,
    pub redis: String,
    /// Which cores are whose.
    pub arrangement: String,
}

/// The whole of it, as `load-report.json` has it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In UTC.
    pub begun: String,
    pub machine: Machine,
    pub passed: bool,
    pub phases: Vec<Figures>,
    pub marks: Vec<Mark>,
    /// Reasons of failures and how many had each.
    pub reasons: BTreeMap<String, u32>,
    pub seconds: Vec<Row>,
}

/// What the curves show of one second.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub event_p99_ms: Option<f64>,
    pub echo_p99_ms: Option<f64>,
    pub requests: usize,
    pub failed: u32,
    pub memory_mib: Option<f64>,
    pub cores: Option<f64>,
}

impl Report {
    pub fn of(begun: String, machine: Machine, plan: &Plan, book: &Book) -> Self {
        let phases = judge::figures(plan, book);
        Self {
            begun,
            machine,
            passed: judge::passed(&phases, book),
            phases,
            marks: book.marks.clone(),
            reasons: book.reasons.clone(),
            seconds: book.seconds.iter().map(Row::of).collect(),
        }
    }
}

impl Row {
    fn of(second: &Second) -> Self {
        let share = |times: &[u32], share| milliseconds(&mut times.to_vec(), share);
        Self {
            p50_ms: share(&second.answers, 500),
            p95_ms: share(&second.answers, 950),
            p99_ms: share(&second.answers, 990),
            event_p99_ms: share(&second.ways, 990),
            echo_p99_ms: share(&second.echoes, 990),
            requests: second.answers.len() + second.echoes.len() + second.failed as usize,
            failed: second.failed,
            memory_mib: second.memory,
            cores: second.cores,
        }
    }
}
