//! How much the process log says: shown, and changed while the process runs.

use super::{Admin, only_a_command, refusal};
use crate::base::units::Period;
use crate::observe::logging::Level;
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::time::Duration;

/// Stands for the level that the environment or the document says.
const CONFIGURED: &str = "configured";
/// Longest time for which a level is set; without a time it stays until the process ends.
const PERIOD_MAX: Duration = Duration::from_hours(24 * 7);

/// `?level=debug&for=10m`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    level: String,
    #[serde(rename = "for")]
    period: Option<String>,
}

pub(super) async fn show(State(admin): State<Admin>) -> Response {
    Json(admin.view.log()).into_response()
}

pub(super) async fn set(
    State(admin): State<Admin>,
    headers: HeaderMap,
    asked: Result<Query<Change>, QueryRejection>,
    body: Body,
) -> Response {
    if let Err(refused) = only_a_command(&headers, body).await {
        return refused;
    }
    let read = match &asked {
        Ok(Query(change)) => read(change),
        Err(rejection) => Err(rejection.body_text().to_lowercase()),
    };
    match read {
        Ok((level, period)) => {
            admin.view.set_log_level(level, period);
            Json(admin.view.log()).into_response()
        }
        Err(why) => refusal(StatusCode::BAD_REQUEST, "not_a_level", &why),
    }
}

fn read(change: &Change) -> Result<(Option<Level>, Option<Duration>), String> {
    let period = change.period.as_deref().map(|text| {
        let period = Period::parse(text).map(|period| period.0);
        let is_sound = |period: &Duration| !period.is_zero() && *period <= PERIOD_MAX;
        period
            .filter(is_sound)
            .ok_or_else(|| format!("`{text}` is not a time from 1ms to 7d such as `10m`"))
    });
    let period = period.transpose()?;
    if change.level != CONFIGURED {
        return Ok((Some(Level::parse(&change.level)?), period));
    }
    match period {
        None => Ok((None, None)),
        Some(_) => Err("what is configured counts for ever: leave `for` out".to_owned()),
    }
}
