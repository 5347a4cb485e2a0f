//! The face for operators: metrics, health, status, reload and upgrade, on a listener of their own.
//!
//! Nobody is asked who they are: the listener belongs on loopback or a private network. What a
//! browser could be tricked into sending across sites is refused all the same.

mod connection;
mod limits;
mod log;
mod live;
mod page;

pub use connection::serve;
pub use limits::Caller;
pub use live::{
    Endpoint, Limits, Live, Model, Pool, Provider, ROWS_MAX, Route, Rows, Rule, Target, in_short,
};

use crate::observe::logging::Level;
use crate::observe::metrics::{CONTENT_TYPE, Metrics};
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The body of a command means nothing; more of it than this is refused.
const BODY_BYTES_MAX: usize = 16 << 10;
/// For reading a body.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// For a reload, its turn included. It goes on when the caller has given up.
const RELOAD_DEADLINE: Duration = Duration::from_mins(1);

/// One part of the gateway that must be ready before callers are sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: String,
    pub ready: bool,
    /// Why it is not; empty when it is.
    pub why: String,
}

/// What the rest of the gateway shows to operators.
#[async_trait]
pub trait AdminView: Send + Sync {
    fn readiness(&self) -> Vec<Part>;

    /// Where limits are counted now: `memory`, `redis`, or `local` while Redis is gone.
    fn limit_mode(&self) -> &'static str;

    /// Pools, endpoints, health, requests in flight, revision of the configuration.
    fn status(&self) -> Value;

    /// How much the process log says, and who has said so.
    fn log(&self) -> Value;

    /// Says so much from now on, for a while or until it is changed again; with none what is configured.
    fn set_log_level(&self, level: Option<Level>, period: Option<Duration>);

    /// Reads the configuration again: the new revision, or what is wrong with it.
    async fn reload(&self) -> Result<u64, Value>;

    /// How a caller stands to each rule that is about it.
    async fn limits(&self, caller: &Caller) -> Value;

    /// Forgets what was counted of a caller: the names of the rules, or why it could not be done.
    async fn reset_limits(&self, caller: &Caller) -> Result<Vec<String>, &'static str>;

    /// Lets another program take the place of this one: its process id, or why this one goes on.
    async fn upgrade(&self) -> Result<u32, String>;

    /// The figures and states of this moment, for those who show them live.
    fn live(&self) -> Live;

    /// Sets the gauges that are read only when somebody looks.
    fn refresh_metrics(&self);
}

#[derive(Clone)]
struct Admin {
    view: Arc<dyn AdminView>,
    metrics: Arc<Metrics>,
    /// Held by the reload that runs; the others wait.
    reloading: Arc<Mutex<()>>,
}

fn router(view: Arc<dyn AdminView>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/", get(page::document))
        .route("/status.js", get(page::script))
        .route("/status.css", get(page::style))
        .route("/metrics", get(show_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .route("/status", get(show_status))
        .route("/status/live", get(live::show))
        .route("/status/limits", get(limits::show))
        .route("/limits/reset", post(limits::reset))
        .route("/log", get(log::show).post(log::set))
        .route("/reload", post(reload))
        .route("/upgrade", post(upgrade))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "not_found", "there is no such page") })
        .method_not_allowed_fallback(|| async {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            refusal(
                status,
                "method_not_allowed",
                "this page does not take this method",
            )
        })
        .with_state(Admin {
            view,
            metrics,
            reloading: Arc::default(),
        })
        .layer(axum::middleware::map_response(not_stored))
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    admin.view.refresh_metrics();
    let kind = [("content-type", CONTENT_TYPE)];
    (kind, admin.metrics.render()).into_response()
}

async fn show_readiness(State(admin): State<Admin>) -> Response {
    let parts = admin.view.readiness();
    let waiting: Vec<&Part> = parts.iter().filter(|part| !part.ready).collect();
    let limits = admin.view.limit_mode();
    if waiting.is_empty() {
        // A store that is gone is told, and makes nothing unready: requests are served, as rules say.
        return (StatusCode::OK, format!("ok\nlimits: {limits}\n")).into_response();
    }
    let body = json!({
        "code": "not_ready", "message": "not ready yet", "not_ready": waiting, "limits": limits,
    });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn show_status(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.view.status())
}

async fn reload(State(admin): State<Admin>, headers: HeaderMap, body: Body) -> Response {
    if let Err(refused) = only_a_command(&headers, body).await {
        return refused;
    }
    // On a task of its own: a caller that leaves must not stop a reload half-way.
    let task = tokio::spawn(async move {
        let _turn = admin.reloading.lock().await;
        admin.view.reload().await
    });
    match timeout(RELOAD_DEADLINE, task).await {
        Ok(Ok(Ok(revision))) => Json(json!({ "revision": revision })).into_response(),
        Ok(Ok(Err(faults))) => {
            let message = "the configuration was refused; the one before it stays";
            let body = json!({ "code": "config_refused", "message": message, "faults": faults });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
        Ok(Err(_)) => {
            let message = "the reload failed; see the log";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        }
        Err(_) => {
            let message = "the reload is still running; see /status";
            refusal(StatusCode::GATEWAY_TIMEOUT, "still_running", message)
        }
    }
}

/// Answers when the other program serves, or has been given up; the gateway limits how long that takes.
async fn upgrade(State(admin): State<Admin>, headers: HeaderMap, body: Body) -> Response {
    if let Err(refused) = only_a_command(&headers, body).await {
        return refused;
    }
    // On a task of its own, as a reload.
    let task = tokio::spawn(async move { admin.view.upgrade().await });
    match task.await {
        Ok(Ok(pid)) => Json(json!({ "pid": pid })).into_response(),
        Ok(Err(why)) => refusal(StatusCode::CONFLICT, "not_upgraded", &why),
        Err(_) => {
            let message = "the upgrade failed; see the log";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        }
    }
}

/// A command has no body that matters, and does not come from a page of another site.
async fn only_a_command(headers: &HeaderMap, body: Body) -> Result<(), Response> {
    if comes_from_another_site(headers) {
        let message = "a page in a browser may not do this";
        return Err(refusal(StatusCode::FORBIDDEN, "cross_site", message));
    }
    match timeout(BODY_DEADLINE, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => {
            let message = "this takes no body";
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(refusal(status, "body_too_large", message))
        }
        Err(_) => {
            let message = "the request body did not arrive in time";
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(refusal(status, "body_timed_out", message))
        }
    }
}

/// Browsers say so; programs send neither header. `Origin` alone is enough: it comes with every
/// POST of a page, and no page of ours sends one.
fn comes_from_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    let foreign = site.is_some_and(|site| site != "none" && site != "same-origin");
    headers.contains_key("origin") || foreign
}

/// Figures and states are true now only.
async fn not_stored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message }))).into_response()
}

#[cfg(test)]
mod tests;
