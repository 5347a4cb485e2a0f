//! What goes wrong, in the words of Anthropic's API.

use super::super::super::fault::{Complaint, FaultKind, ProviderFault};
use super::super::super::wait;
use super::answer::filled;
use http::HeaderMap;
use serde_json::{Value, json};

/// What a body with a status of 400 and above says.
pub fn read_fault(status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    ProviderFault {
        retry_after: wait::asked(headers),
        ..told(&value, FaultKind::of_status(status), || {
            format!("the provider answered with status {status}")
        })
    }
}

/// What an `error` event says.
pub fn fault_in_stream(value: &Value) -> ProviderFault {
    told(value, FaultKind::Server, || {
        "the provider gave up in the middle of its answer".to_owned()
    })
}

fn told(value: &Value, otherwise: FaultKind, silent: impl Fn() -> String) -> ProviderFault {
    let code = filled(&value["error"]["type"]);
    let message = filled(&value["error"]["message"]);
    let kind = code.as_deref().and_then(kind_of).unwrap_or(otherwise);
    ProviderFault {
        kind: message
            .as_deref()
            .and_then(|message| kind_in_words(message, kind))
            .unwrap_or(kind),
        code,
        message: message.map_or_else(silent, |message| wait::cut(&message)),
        retry_after: None,
    }
}

fn kind_of(code: &str) -> Option<FaultKind> {
    Some(match code {
        "invalid_request_error" => FaultKind::InvalidRequest,
        "authentication_error" => FaultKind::Authentication,
        "billing_error" => FaultKind::Payment,
        "permission_error" => FaultKind::Permission,
        "not_found_error" => FaultKind::NotFound,
        "request_too_large" => FaultKind::TooLarge,
        "rate_limit_error" => FaultKind::RateLimited,
        "timeout_error" => FaultKind::Timeout,
        "overloaded_error" => FaultKind::Overloaded,
        "api_error" => FaultKind::Server,
        _ => return None,
    })
}

/// Some faults have no type of their own and are told in the message only. Only where the type leaves it open: a
/// caller's own words may be quoted in messages.
fn kind_in_words(message: &str, kind: FaultKind) -> Option<FaultKind> {
    let open = matches!(
        kind,
        FaultKind::InvalidRequest | FaultKind::RateLimited | FaultKind::TooLarge
    );
    let words = message.to_ascii_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
    if !open {
        return None;
    }
    if has(&[
        "specified api usage limits",
        "spend limit",
        "spending limit",
    ]) {
        return Some(FaultKind::Quota);
    }
    if kind == FaultKind::RateLimited {
        return None;
    }
    if has(&["credit balance is too low"]) {
        return Some(FaultKind::Payment);
    }
    if has(&[
        "prompt is too long",
        "exceed context limit",
        "exceeds the context window",
        "context window exceeded",
    ]) {
        return Some(FaultKind::ContextLength);
    }
    has(&["content filtering policy"]).then_some(FaultKind::ContentPolicy)
}

/// The body of a refusal; our own code stands beside the dialect's words.
pub fn write_fault(complaint: &Complaint<'_>) -> Value {
    let mut error = json!({
        "type": kind_word(complaint.status),
        "message": complaint.message,
        "code": complaint.code,
    });
    if let Some(param) = complaint.param {
        error["param"] = json!(param);
    }
    json!({"type": "error", "error": error, "request_id": complaint.request_id})
}

fn kind_word(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        408 | 504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}
