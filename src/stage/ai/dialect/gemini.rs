//! Gemini's `generateContent` and `streamGenerateContent`, both as callers write them and as they are sent to Google.
//!
//! Sources: <https://ai.google.dev/api/generate-content>, `…/gemini-api/docs/thinking`, `…/thought-signatures`, and
//! the official SDKs.

mod answer;
mod faults;
mod media;
mod models;
mod read_call;
mod reader;
mod schema;
mod write_call;
mod writer;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use super::super::call::Call;
use super::super::fault::{CallFault, Complaint, Malformed, ProviderFault};
use super::super::reply::Reply;
use super::{Dialect, InPath, Reader, Wants, Writer, Written};
use http::HeaderMap;

#[derive(Debug, Clone, Copy, Default)]
pub struct Gemini;

impl Dialect for Gemini {
    fn read_call(&self, body: &[u8], path: &InPath<'_>) -> Result<Call, CallFault> {
        read_call::read_call(body, path)
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
        Box::new(reader::GeminiReader::default())
    }

    fn writer(&self, wants: Wants) -> Box<dyn Writer> {
        Box::new(writer::GeminiWriter::new(wants))
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        faults::read_fault(status, headers, body)
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        faults::write_fault(complaint).to_string().into_bytes()
    }

    /// The SDKs raise their error on an event whose first field is `error`.
    fn write_last_fault(&self, complaint: &Complaint<'_>, _sequence: u64) -> Vec<u8> {
        format!("data: {}\n\n", faults::write_fault(complaint)).into_bytes()
    }

    /// The Python SDK reads every line that does not begin with `data: ` as an answer, and fails on it.
    fn takes_comments(&self) -> bool {
        false
    }
}
