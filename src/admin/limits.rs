//! Where a caller stands to its limits, and a fresh start for one.

use super::{Admin, comes_from_another_site, refusal};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::IpAddr;

/// Of whom an operator asks: `?user=42&provider=openai`. A rule that tells requests apart by more than is
/// said is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caller {
    pub user: Option<String>,
    pub plan: Option<String>,
    pub key: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub route: Option<String>,
    /// Stands for the user of a caller who is not known.
    pub address: Option<IpAddr>,
}

type Asked = Result<Query<Caller>, QueryRejection>;

pub(super) async fn show(State(admin): State<Admin>, asked: Asked) -> Response {
    match asked {
        Ok(Query(caller)) => Json(admin.view.limits(&caller).await).into_response(),
        Err(rejection) => not_a_caller(&rejection),
    }
}

/// What was counted of the caller is forgotten; what it has in flight stays counted.
pub(super) async fn reset(
    State(admin): State<Admin>,
    headers: HeaderMap,
    asked: Asked,
) -> Response {
    if comes_from_another_site(&headers) {
        let message = "a page in a browser may not do this";
        return refusal(StatusCode::FORBIDDEN, "cross_site", message);
    }
    let caller = match asked {
        Ok(Query(caller)) => caller,
        Err(rejection) => return not_a_caller(&rejection),
    };
    if caller == Caller::default() {
        let message = "say of whom: ?user=42";
        return refusal(StatusCode::BAD_REQUEST, "no_caller", message);
    }
    match admin.view.reset_limits(&caller).await {
        Ok(rules) => Json(json!({ "reset": rules })).into_response(),
        Err(message) => refusal(StatusCode::SERVICE_UNAVAILABLE, "no_store", message),
    }
}

fn not_a_caller(rejection: &QueryRejection) -> Response {
    let message = rejection.body_text().to_lowercase();
    refusal(StatusCode::BAD_REQUEST, "not_a_caller", &message)
}
