//! Anthropic's messages, both as a caller of `/v1/messages` writes them and as they are sent to a provider.
//!
//! Sources: <https://platform.claude.com/docs/en/api/messages>, `…/build-with-claude/streaming`, `…/api/errors`, and
//! the types of the official SDKs.

mod answer;
mod content;
mod faults;
mod models;
mod read_call;
mod reader;
mod write_call;
mod writer;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub(super) use answer::input_of;

use super::super::call::Call;
use super::super::fault::{CallFault, Complaint, Malformed, ProviderFault};
use super::super::reply::Reply;
use super::{Dialect, InPath, Reader, Wants, Writer, Written};
use http::HeaderMap;

#[derive(Debug, Clone, Copy, Default)]
pub struct Messages;

impl Dialect for Messages {
    fn read_call(&self, body: &[u8], _path: &InPath<'_>) -> Result<Call, CallFault> {
        read_call::read_call(body)
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
        Box::new(reader::MessagesReader::default())
    }

    fn writer(&self, wants: Wants) -> Box<dyn Writer> {
        Box::new(writer::MessagesWriter::new(wants))
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        faults::read_fault(status, headers, body)
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        faults::write_fault(complaint).to_string().into_bytes()
    }

    /// The SDKs raise their error on `event: error`, and take no answer for whole without `message_stop`.
    fn write_last_fault(&self, complaint: &Complaint<'_>, _sequence: u64) -> Vec<u8> {
        format!("event: error\ndata: {}\n\n", faults::write_fault(complaint)).into_bytes()
    }

    /// The official SDKs skip them. (Anthropic itself keeps streams alive with `event: ping`, which they skip too.)
    fn takes_comments(&self) -> bool {
        true
    }
}
