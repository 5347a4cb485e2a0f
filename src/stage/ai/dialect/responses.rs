//! `OpenAI`'s responses, and those who speak it after them: Groq, xAI, `OpenRouter`, Azure, Perplexity.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses>

mod read;
mod reply;
mod stream;
mod write;

use super::super::call::Call;
use super::super::fault::{CallFault, Complaint, Malformed, ProviderFault};
use super::super::reply::Reply;
use super::super::sse::write_event;
use super::{Dialect, InPath, Reader, Wants, Writer, Written, openai};
use http::HeaderMap;
use serde_json::json;

pub struct Responses;

impl Dialect for Responses {
    fn read_call(&self, body: &[u8], _: &InPath<'_>) -> Result<Call, CallFault> {
        read::call(body)
    }

    fn write_call(&self, call: &Call) -> Result<Written, CallFault> {
        write::call(call)
    }

    fn read_reply(&self, body: &[u8]) -> Result<Reply, Malformed> {
        reply::read(body)
    }

    fn write_reply(&self, reply: &Reply) -> Vec<u8> {
        reply::write(reply)
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(stream::ResponsesReader::default())
    }

    fn writer(&self, wants: Wants) -> Box<dyn Writer> {
        Box::new(stream::ResponsesWriter::new(wants))
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        openai::read_fault(status, headers, body)
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        json!({"error": openai::error_object(complaint)})
            .to_string()
            .into_bytes()
    }

    /// Both forms of the event: the documented one has the words at the top, the one that SDKs raise has them
    /// within `error`. Nothing follows: this dialect has no `[DONE]`.
    fn write_last_fault(&self, complaint: &Complaint<'_>, sequence: u64) -> Vec<u8> {
        let error = openai::error_object(complaint);
        let event = json!({
            "type": "error",
            "sequence_number": sequence,
            "code": error["code"],
            "message": error["message"],
            "param": error["param"],
            "error": error,
        });
        let mut out = Vec::new();
        write_event(&mut out, Some("error"), event.to_string().as_bytes());
        out
    }

    fn takes_comments(&self) -> bool {
        true
    }
}
