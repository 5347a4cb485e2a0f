//! Cohere's chat (v2), as it is sent to Cohere; nobody calls the gateway in it. (Cohere also speaks chat completions,
//! under `/compatibility/v1`, without thoughts, billed units and search units.)
//!
//! Sources: <https://docs.cohere.com/reference/chat>, `…/docs/streaming`, `…/reference/errors`.

mod answer;
mod stream;
mod write_call;

#[cfg(test)]
mod tests;

use super::super::call::Call;
use super::super::fault::{CallFault, Complaint, FaultKind, Malformed, ProviderFault};
use super::super::reply::Reply;
use super::super::wait;
use super::{Dialect, InPath, Reader, Wants, Writer, Written};
use http::HeaderMap;
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, Default)]
pub struct Cohere;

impl Dialect for Cohere {
    fn read_call(&self, _body: &[u8], _path: &InPath<'_>) -> Result<Call, CallFault> {
        Err(CallFault {
            kind: FaultKind::NotFound,
            message: "calls are not taken in this dialect".to_owned(),
            param: None,
        })
    }

    fn write_call(&self, call: &Call) -> Result<Written, CallFault> {
        write_call::write_call(call)
    }

    fn read_reply(&self, body: &[u8]) -> Result<Reply, Malformed> {
        answer::read_reply(body)
    }

    fn write_reply(&self, reply: &Reply) -> Vec<u8> {
        answer::write_reply(reply)
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(stream::CohereReader::default())
    }

    fn writer(&self, wants: Wants) -> Box<dyn Writer> {
        Box::new(stream::CohereWriter::new(wants))
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = value["message"].as_str().filter(|words| !words.is_empty());
        ProviderFault {
            kind: kind_of(status, message.unwrap_or_default()),
            code: None,
            message: message.map_or_else(
                || format!("the provider answered with status {status}"),
                wait::cut,
            ),
            retry_after: wait::asked(headers),
        }
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        json!({"id": complaint.request_id, "message": complaint.message})
            .to_string()
            .into_bytes()
    }

    /// An answer that ends with an error says so in its last event.
    fn write_last_fault(&self, complaint: &Complaint<'_>, _sequence: u64) -> Vec<u8> {
        let delta = json!({"finish_reason": "ERROR", "error": complaint.message});
        let mut out = Vec::new();
        stream::say(&mut out, "message-end", json!({ "delta": delta }));
        out
    }

    fn takes_comments(&self) -> bool {
        false
    }
}

/// There are no codes: the status, and for some the words, say what it is.
fn kind_of(status: u16, message: &str) -> FaultKind {
    let words = message.to_ascii_lowercase();
    match status {
        400 | 422 if words.contains("too many tokens") || words.contains("context length") => {
            FaultKind::ContextLength
        }
        429 if words.contains("/ month") || words.contains("per month") => FaultKind::Quota,
        // A word that is on a list of denied ones.
        498 => FaultKind::ContentPolicy,
        499 => FaultKind::Server,
        status => FaultKind::of_status(status),
    }
}
