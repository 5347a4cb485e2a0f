//! What goes wrong, in the words of AWS.

use super::super::super::fault::{FaultKind, ProviderFault};
use super::super::super::wait;
use http::HeaderMap;
use serde_json::Value;

/// What an answer with a status of 400 and above says: the kind is in `x-amzn-errortype`, as
/// `ThrottlingException:http://…`, or in the body's `__type`.
pub fn read_fault(status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let in_header = headers
        .get("x-amzn-errortype")
        .and_then(|value| value.to_str().ok());
    let code = in_header
        .or_else(|| value["__type"].as_str())
        .and_then(|kind| kind.split(':').next())
        .and_then(|kind| kind.rsplit('#').next())
        .filter(|kind| !kind.is_empty());
    let kind = code
        .and_then(kind_of)
        .unwrap_or_else(|| FaultKind::of_status(status));
    ProviderFault {
        retry_after: wait::asked(headers),
        ..fault(kind, code, &value, || {
            format!("the provider answered with status {status}")
        })
    }
}

/// What an exception within a stream says.
pub fn fault_in_stream(name: &str, value: &Value) -> ProviderFault {
    let kind = kind_of(name).unwrap_or(FaultKind::Server);
    fault(kind, Some(name), value, || {
        "the provider gave up in the middle of its answer".to_owned()
    })
}

fn fault(
    kind: FaultKind,
    code: Option<&str>,
    value: &Value,
    silent: impl Fn() -> String,
) -> ProviderFault {
    let message = ["message", "Message", "originalMessage"]
        .iter()
        .find_map(|name| value[*name].as_str())
        .filter(|message| !message.is_empty());
    let words = message.unwrap_or_default().to_ascii_lowercase();
    let too_long = ["too long", "exceed context limit", "too many input tokens"];
    let kind = if kind == FaultKind::InvalidRequest
        && too_long.iter().any(|needle| words.contains(needle))
    {
        FaultKind::ContextLength
    } else {
        kind
    };
    ProviderFault {
        kind,
        code: code.map(str::to_owned),
        message: message.map_or_else(silent, wait::cut),
        retry_after: None,
    }
}

/// Names begin with a capital in headers and with a small letter in streams.
fn kind_of(name: &str) -> Option<FaultKind> {
    let mut name = name.to_ascii_lowercase();
    if let Some(bare) = name.strip_suffix("exception") {
        name.truncate(bare.len());
    }
    Some(match name.as_str() {
        "throttling" | "toomanyrequests" => FaultKind::RateLimited,
        "servicequotaexceeded" => FaultKind::Quota,
        "validation" => FaultKind::InvalidRequest,
        "accessdenied" => FaultKind::Permission,
        "resourcenotfound" => FaultKind::NotFound,
        "unrecognizedclient"
        | "expiredtoken"
        | "invalidsignature"
        | "incompletesignature"
        | "missingauthenticationtoken" => FaultKind::Authentication,
        "modeltimeout" => FaultKind::Timeout,
        "modelnotready" | "serviceunavailable" => FaultKind::Overloaded,
        "internalserver" | "modelerror" | "modelstreamerror" => FaultKind::Server,
        _ => return None,
    })
}

/// The exception of a stream for a status.
pub fn exception_of(status: u16) -> &'static str {
    match status {
        429 => "throttlingException",
        503 => "serviceUnavailableException",
        400..=499 => "validationException",
        _ => "internalServerException",
    }
}
