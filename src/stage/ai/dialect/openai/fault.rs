//! Refusals in the words of `OpenAI`'s two dialects, and of those who speak them.

use super::super::super::fault::{Complaint, FaultKind, ProviderFault};
use super::super::super::wait;
use http::HeaderMap;
use serde_json::{Value, json};
use std::time::Duration;

/// A refusal with a status, in any of the forms that `OpenAI` and those who speak its dialects use.
pub fn read_fault(status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
    let value = serde_json::from_slice(body).unwrap_or_else(|_| {
        // Not of the provider but of something before it: a page in HTML, a line of text.
        let text = String::from_utf8_lossy(&body[..body.len().min(256)]).into_owned();
        Value::String(if text.trim_start().starts_with('<') {
            String::new()
        } else {
            text
        })
    });
    let mut fault = fault_of(Some(status), &value);
    fault.retry_after = wait::asked(headers).or_else(|| reset(headers));
    fault
}

/// A refusal in a stream, or within an answer that is a 200.
pub fn fault_of(status: Option<u16>, value: &Value) -> ProviderFault {
    let error = match value.get("error") {
        Some(error) if !error.is_null() => error,
        _ => value,
    };
    let word = |name: &str| match error.get(name) {
        Some(Value::String(word)) if !word.is_empty() => Some(word.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let text = error
        .as_str()
        .or_else(|| error.get("message")?.as_str())
        .or_else(|| error.get("detail")?.as_str())
        // Mistral's refusals of wrong calls.
        .or_else(|| error.get("detail")?.get(0)?.get("msg")?.as_str())
        .unwrap_or_default();
    // OpenRouter's code is the status; Azure's filter says more within.
    let status = status.or_else(|| word("code")?.parse().ok());
    let of_router = error
        .pointer("/metadata/error_type")
        .and_then(Value::as_str);
    let code = of_router
        .map(ToOwned::to_owned)
        .or_else(|| word("code").filter(|code| code.parse::<u16>().is_err()))
        .or_else(|| word("type"));
    let inner = error.pointer("/innererror/code").and_then(Value::as_str);
    let words = [code.as_deref(), word("type").as_deref(), inner]
        .map(|word| word.map(str::to_ascii_lowercase).unwrap_or_default());
    let kind = kind_of(status, &words, &text.to_ascii_lowercase());
    ProviderFault {
        kind,
        message: if text.trim().is_empty() {
            match status {
                Some(status) => format!("the provider answered with status {status}"),
                None => "the provider failed".to_owned(),
            }
        } else {
            wait::cut(text)
        },
        code,
        retry_after: None,
    }
}

/// Words that say more than any status.
const WORDS: &[(&str, FaultKind)] = &[
    ("context_length_exceeded", FaultKind::ContextLength),
    ("token_limit_exceeded", FaultKind::ContextLength),
    ("content_filter", FaultKind::ContentPolicy),
    ("content_policy_violation", FaultKind::ContentPolicy),
    ("responsibleaipolicyviolation", FaultKind::ContentPolicy),
    ("moderation", FaultKind::ContentPolicy),
    ("moderation_blocked", FaultKind::ContentPolicy),
    ("insufficient_quota", FaultKind::Quota),
    ("credit_balance_exhausted", FaultKind::Quota),
    ("billing_hard_limit_reached", FaultKind::Quota),
    ("billing_not_active", FaultKind::Quota),
    ("invalid_api_key", FaultKind::Authentication),
    ("authentication", FaultKind::Authentication),
    ("payment_required", FaultKind::Payment),
];

/// Words that say more than a status but these two: 404, and 413, with which Groq calls a prompt a rate.
const OTHER_WORDS: &[(&str, FaultKind)] = &[
    ("model_not_found", FaultKind::NotFound),
    ("capacity_exceeded", FaultKind::Overloaded),
    ("provider_overloaded", FaultKind::Overloaded),
    ("overloaded_error", FaultKind::Overloaded),
    ("overloaded", FaultKind::Overloaded),
    ("rate_limit_exceeded", FaultKind::RateLimited),
    ("rate_limit_error", FaultKind::RateLimited),
    ("requests", FaultKind::RateLimited),
    ("tokens", FaultKind::RateLimited),
];

/// Words that count where no status does.
const WEAK_WORDS: &[(&str, FaultKind)] = &[
    ("invalid_request_error", FaultKind::InvalidRequest),
    ("invalid_prompt", FaultKind::InvalidRequest),
    ("timeout", FaultKind::Timeout),
];

/// Sentences of those who have no word for it, and the statuses they come with; 0 is none, as in a stream.
const SENTENCES: &[(&str, &[u16], FaultKind)] = &[
    (
        "maximum context length",
        &[400, 413, 422, 0],
        FaultKind::ContextLength,
    ),
    (
        "context length",
        &[400, 413, 422, 0],
        FaultKind::ContextLength,
    ),
    (
        "context window",
        &[400, 413, 422, 0],
        FaultKind::ContextLength,
    ),
    (
        "prompt is too long",
        &[400, 413, 422, 0],
        FaultKind::ContextLength,
    ),
    // xAI's.
    (
        "incorrect api key",
        &[400, 401, 403],
        FaultKind::Authentication,
    ),
    ("credits", &[403], FaultKind::Payment),
    // Groq's.
    ("over capacity", &[0], FaultKind::Overloaded),
    ("overloaded", &[0], FaultKind::Overloaded),
];

/// By the provider's word, then by its sentence, then by the status.
fn kind_of(status: Option<u16>, words: &[String], text: &str) -> FaultKind {
    let known = |table: &[(&str, FaultKind)]| {
        let found = table
            .iter()
            .find(|(word, _)| words.iter().any(|said| said == word));
        found.map(|(_, kind)| *kind)
    };
    let sentence = || {
        let status = status.filter(|status| *status >= 400).unwrap_or_default();
        let found = SENTENCES
            .iter()
            .find(|(part, with, _)| with.contains(&status) && text.contains(part));
        found.map(|(.., kind)| *kind)
    };
    if let Some(kind) = known(WORDS).or_else(sentence) {
        return kind;
    }
    match status {
        Some(status @ (404 | 413)) => FaultKind::of_status(status),
        Some(status) if status >= 400 => {
            known(OTHER_WORDS).unwrap_or_else(|| FaultKind::of_status(status))
        }
        _ => known(OTHER_WORDS)
            .or_else(|| known(WEAK_WORDS))
            .unwrap_or(FaultKind::Server),
    }
}

/// When what is used up is there again: of `x-ratelimit-reset-{requests,tokens}` where nothing remains.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: String| headers.get(name)?.to_str().ok();
    ["requests", "tokens"]
        .into_iter()
        .filter(|unit| text(format!("x-ratelimit-remaining-{unit}")).map(str::trim) == Some("0"))
        .filter_map(|unit| wait::span(text(format!("x-ratelimit-reset-{unit}"))?))
        .max()
}

/// `{"message", "type", "param", "code"}`
pub fn error_object(complaint: &Complaint<'_>) -> Value {
    let (kind, code) = match complaint.status {
        // The words that programs look for.
        401 => ("invalid_request_error", "invalid_api_key"),
        402 => ("insufficient_quota", "insufficient_quota"),
        429 if complaint.code == "insufficient_quota" => ("insufficient_quota", complaint.code),
        429 => ("rate_limit_error", complaint.code),
        403 => ("permission_error", complaint.code),
        400..=499 => ("invalid_request_error", complaint.code),
        _ => ("server_error", complaint.code),
    };
    json!({
        "message": complaint.message,
        "type": kind,
        "param": complaint.param,
        "code": code,
    })
}
