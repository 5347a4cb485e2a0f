//! `OpenAI`'s chat completions, and those who speak it after them: Mistral, `DeepSeek`, Groq, xAI, Together,
//! `OpenRouter`, Azure, and most servers that run models at home.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>

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

pub struct Chat;

impl Dialect for Chat {
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
        Box::new(stream::ChatReader::default())
    }

    fn writer(&self, wants: Wants) -> Box<dyn Writer> {
        Box::new(stream::ChatWriter::new(wants))
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        openai::read_fault(status, headers, body)
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        json!({"error": openai::error_object(complaint)})
            .to_string()
            .into_bytes()
    }

    /// The error, and `[DONE]` behind it: SDKs raise the first, and none hangs for want of the second.
    fn write_last_fault(&self, complaint: &Complaint<'_>, _: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_event(&mut out, None, &self.write_fault(complaint));
        write_event(&mut out, None, b"[DONE]");
        out
    }

    fn takes_comments(&self) -> bool {
        true
    }
}
