//! What goes wrong, in the words of Google's services (`google.rpc.Status`, AIP-193).

use super::super::super::fault::{Complaint, FaultKind, ProviderFault};
use super::super::super::wait;
use super::answer::filled;
use http::HeaderMap;
use serde_json::{Value, json};
use std::time::Duration;

/// What a body with a status of 400 and above says. Streams are refused with a list of one.
pub fn read_fault(status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
    let mut value: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(first) = value.get_mut(0) {
        value = first.take();
    }
    let fault = told(&value["error"], FaultKind::of_status(status), || {
        format!("the provider answered with status {status}")
    });
    ProviderFault {
        retry_after: fault.retry_after.or_else(|| wait::asked(headers)),
        ..fault
    }
}

/// What an event with an `error` says.
pub fn fault_in_stream(value: &Value) -> ProviderFault {
    let error = &value["error"];
    let status = error["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok());
    told(error, FaultKind::of_status(status.unwrap_or(500)), || {
        "the provider gave up in the middle of its answer".to_owned()
    })
}

fn told(error: &Value, otherwise: FaultKind, silent: impl Fn() -> String) -> ProviderFault {
    let code = filled(&error["status"]);
    let message = filled(&error["message"]);
    let details = Details(error["details"].as_array().map_or(&[], Vec::as_slice));
    let kind = code.as_deref().and_then(kind_of).unwrap_or(otherwise);
    ProviderFault {
        kind: kind_in_details(kind, &details, message.as_deref().unwrap_or_default()),
        code,
        message: message.map_or_else(silent, |message| wait::cut(&message)),
        retry_after: details.retry_after(),
    }
}

fn kind_of(status: &str) -> Option<FaultKind> {
    Some(match status {
        "INVALID_ARGUMENT"
        | "FAILED_PRECONDITION"
        | "OUT_OF_RANGE"
        | "ALREADY_EXISTS"
        | "UNIMPLEMENTED" => FaultKind::InvalidRequest,
        "UNAUTHENTICATED" => FaultKind::Authentication,
        "PERMISSION_DENIED" => FaultKind::Permission,
        "NOT_FOUND" => FaultKind::NotFound,
        "RESOURCE_EXHAUSTED" => FaultKind::RateLimited,
        "UNAVAILABLE" => FaultKind::Overloaded,
        "DEADLINE_EXCEEDED" => FaultKind::Timeout,
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" | "ABORTED" | "CANCELLED" => FaultKind::Server,
        _ => return None,
    })
}

/// What the status leaves open.
fn kind_in_details(kind: FaultKind, details: &Details<'_>, message: &str) -> FaultKind {
    let words = message.to_ascii_lowercase();
    match kind {
        FaultKind::RateLimited if details.is_quota_of_day() => FaultKind::Quota,
        FaultKind::RateLimited if words.contains("prepayment credits are depleted") => {
            FaultKind::Payment
        }
        FaultKind::InvalidRequest if details.has_reason("API_KEY_INVALID") => {
            FaultKind::Authentication
        }
        FaultKind::InvalidRequest if words.contains("input token count") => {
            FaultKind::ContextLength
        }
        FaultKind::InvalidRequest if words.contains("location is not supported") => {
            FaultKind::Permission
        }
        FaultKind::InvalidRequest | FaultKind::Permission
            if details.has_reason("BILLING_DISABLED") =>
        {
            FaultKind::Payment
        }
        kind => kind,
    }
}

/// `google.rpc` details of an error.
struct Details<'a>(&'a [Value]);

impl Details<'_> {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = format!("type.googleapis.com/google.rpc.{kind}");
        self.0.iter().filter(move |detail| detail["@type"] == kind)
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.of("ErrorInfo").any(|info| info["reason"] == reason)
    }

    fn retry_after(&self) -> Option<Duration> {
        let info = self.of("RetryInfo").next()?;
        wait::span(info["retryDelay"].as_str()?)
    }

    /// A quota of a day, or one of nothing at all, does not come back in a moment, whatever `RetryInfo` says.
    fn is_quota_of_day(&self) -> bool {
        self.of("QuotaFailure")
            .flat_map(|failure| failure["violations"].as_array().into_iter().flatten())
            .any(|violation| {
                violation["quotaValue"] == "0"
                    || violation["quotaId"]
                        .as_str()
                        .is_some_and(|id| id.contains("PerDay"))
            })
    }
}

/// The body of a refusal; our own code stands in its details. `error` is its first and only field: the Python SDK
/// knows by that an error in a stream.
pub fn write_fault(complaint: &Complaint<'_>) -> Value {
    let mut metadata = json!({"code": complaint.code, "request_id": complaint.request_id});
    if let Some(param) = complaint.param {
        metadata["param"] = json!(param);
    }
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": complaint.code.to_ascii_uppercase(),
        "domain": "onemind",
        "metadata": metadata,
    })];
    if let Some(wait) = complaint.retry_after {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{}s", wait.as_secs_f64().ceil()),
        }));
    }
    json!({"error": {
        "code": complaint.status,
        "message": complaint.message,
        "status": status_word(complaint.status),
        "details": details,
    }})
}

fn status_word(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        402 => "FAILED_PRECONDITION",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}
