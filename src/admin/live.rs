//! What is shown live: by `onemind top`, and by the page that browsers get.

use super::Admin;
use crate::observe::metrics::{ModelFigures, Process, RouteFigures, RuleFigures, Traffic};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

/// Of each list: a gateway of thousands of routes would otherwise send megabytes each second.
pub const ROWS_MAX: usize = 200;
/// Of what an endpoint or Redis last said of itself.
const ERROR_CHARS_MAX: usize = 200;

/// Counted from the start of the process; whoever shows it takes differences. Fields may come with later versions,
/// and are zero where an earlier one does not send them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    pub pid: u32,
    pub version: String,
    /// Of the configuration.
    pub revision: u64,
    /// Since the process began; differences of it are the time between two answers.
    pub uptime_s: f64,
    /// What is waited for; empty when callers may be sent.
    pub not_ready: Vec<String>,
    pub draining: bool,
    /// Whether the last reload was taken.
    pub config_ok: bool,
    pub limits: Limits,
    pub traffic: Traffic,
    pub process: Process,
    pub routes: Rows<Route>,
    pub pools: Rows<Pool>,
    pub providers: Rows<Provider>,
    pub models: Rows<Model>,
    pub targets: Rows<Target>,
    pub rules: Rows<Rule>,
}

/// The first [`ROWS_MAX`] of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rows<T> {
    pub rows: Vec<T>,
    /// How many more there are.
    pub left_out: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// `memory`, `redis`, or `local` while Redis is gone.
    pub mode: String,
    /// How many gateways are thought to share the limits.
    pub instances: u64,
    /// Why Redis is gone.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    pub name: String,
    #[serde(flatten)]
    pub figures: RouteFigures,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub name: String,
    /// Endpoints that a request could be sent to.
    pub eligible: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    pub endpoints: Rows<Endpoint>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub name: String,
    /// `up`, `slow_start`, `unhealthy`, `ejected`, `trial`, `draining`.
    pub state: String,
    pub in_flight: u64,
    pub requests: u64,
    pub failures: u64,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    pub name: String,
    pub enabled: bool,
    pub keys: usize,
    /// Keys that are left alone because the provider refuses them.
    pub resting: usize,
}

/// A model at one of its providers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    pub name: String,
    pub provider: String,
    #[serde(flatten)]
    pub figures: ModelFigures,
}

/// A provider's model as it is tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    pub name: String,
    /// `closed`, `open`, `half_open`.
    pub breaker: String,
    /// How long it is still left alone.
    pub open_s: Option<f64>,
    pub in_flight: u64,
    /// Of late.
    pub first_token_s: Option<f64>,
}

/// A rule of `limits`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    pub name: String,
    #[serde(flatten)]
    pub figures: RuleFigures,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            left_out: 0,
        }
    }
}

impl<T> Rows<T> {
    pub fn first(most: usize, all: impl IntoIterator<Item = T>) -> Self {
        let mut all = all.into_iter();
        Self {
            rows: all.by_ref().take(most).collect(),
            left_out: all.count(),
        }
    }
}

impl<T> FromIterator<T> for Rows<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        Self::first(ROWS_MAX, all)
    }
}

/// The beginning of what somebody else said.
pub fn in_short(error: String) -> String {
    match error.char_indices().nth(ERROR_CHARS_MAX) {
        None => error,
        Some((end, _)) => format!("{}…", &error[..end]),
    }
}

pub(super) async fn show(State(admin): State<Admin>) -> Json<Live> {
    Json(admin.view.live())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let rows: Rows<usize> = (0..ROWS_MAX + 3).collect();
        assert_eq!((rows.rows.len(), rows.left_out), (ROWS_MAX, 3));
        let none = Rows::first(0, 0..2);
        assert_eq!((none.rows.len(), none.left_out), (0, 2));
        let rows: Rows<usize> = (0..ROWS_MAX).collect();
        assert_eq!((rows.rows.len(), rows.left_out), (ROWS_MAX, 0));
    }

    #[test]
    fn a_long_error_is_cut_between_letters() {
        assert_eq!(in_short("ä".repeat(200)), "ä".repeat(200));
        assert_eq!(in_short("ä".repeat(201)), "ä".repeat(200) + "…");
    }

    #[test]
    fn an_answer_of_another_version_is_understood_as_far_as_it_goes() {
        let text = r#"{"pid":7,"news":1,"pools":{"rows":[{"name":"a","colour":"red"}]}}"#;
        let live: Live = serde_json::from_str(text).unwrap();
        assert_eq!((live.pid, live.pools.rows[0].name.as_str()), (7, "a"));
        assert_eq!(live.pools.left_out, 0);
        assert_eq!(live.traffic, Traffic::default());
    }
}
