//! Everything that was seen, by the second in which it was due.

use super::plan::Event;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection was refused, cut, or closed before an answer: what a caller calls down.
    Connection,
    /// A wrong answer, none in time, or one that broke off.
    Answer,
}

/// One second; times in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Second {
    /// From when a request was due until its answer was there; of a stream its first event.
    pub answers: Vec<u32>,
    /// Of an event of a stream, from the provider's hand to the caller's.
    pub ways: Vec<u32>,
    /// From a word that was due on a WebSocket to its echo.
    pub echoes: Vec<u32>,
    /// What the gateway says that it added to a call of a model.
    pub overheads: Vec<u32>,
    pub failed: u32,
    /// Those among the failed that got no connection.
    pub unconnected: u32,
    pub lost_events: u32,
    /// WebSockets that ended with their backend and were opened again.
    pub moved: u32,
    /// Requests on a kept connection that was closed just then, asked again on another, as browsers do.
    pub resent: u32,
    /// Mebibytes and cores of all processes of the gateway.
    pub memory: Option<f64>,
    pub cores: Option<f64>,
}

/// What was injected, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    pub second: f64,
    pub event: Event,
    pub took_ms: f64,
    pub fault: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Book {
    pub seconds: Vec<Second>,
    pub marks: Vec<Mark>,
    /// When answers were complete, in seconds, in order: where there is none for long, the gateway was down.
    pub done: Vec<f64>,
    /// Reasons of failures, and how many had each; the first ones.
    pub reasons: BTreeMap<String, u32>,
}

const REASONS_MAX: usize = 20;

impl Book {
    pub fn of(seconds: usize) -> Self {
        Self {
            seconds: vec![Second::default(); seconds.max(1)],
            ..Self::default()
        }
    }

    /// What belongs to this second; the last one for whatever comes later.
    pub fn at(&mut self, second: f64) -> &mut Second {
        let at = whole(second).min(self.seconds.len() - 1);
        &mut self.seconds[at]
    }

    pub fn fail(&mut self, second: f64, trouble: Trouble, reason: &str) {
        let at = self.at(second);
        at.failed += 1;
        at.unconnected += u32::from(trouble == Trouble::Connection);
        let known = self.reasons.contains_key(reason);
        if known || self.reasons.len() < REASONS_MAX {
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
}

/// The second in which this moment is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates"
)]
pub fn whole(second: f64) -> usize {
    second.max(0.0) as usize
}
