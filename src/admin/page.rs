//! The status page: one document, its script and its style, from this listener alone.

use super::refusal;
use axum::http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, nothing inline, nothing sent away, in nobody's frame; and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// For browsers; programs get what they got before there was a page.
pub(super) async fn document(headers: HeaderMap) -> Response {
    let wants_html = headers.get_all(ACCEPT).iter().any(|accept| {
        let accept = accept.to_str().unwrap_or_default();
        accept.to_ascii_lowercase().contains("text/html")
    });
    if wants_html {
        file("text/html; charset=utf-8", include_str!("page/index.html"))
    } else {
        refusal(StatusCode::NOT_FOUND, "not_found", "there is no such page")
    }
}

pub(super) async fn script() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("page/status.js"),
    )
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/status.css"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (VARY, "accept"),
    ];
    (headers, text).into_response()
}
