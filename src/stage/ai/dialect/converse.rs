//! Bedrock's `Converse` and `ConverseStream`, as they are sent to AWS; nobody calls the gateway in them. Model and
//! stream are in the path, and streams are those of [`eventstream`].
//!
//! Sources: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html>, `…ConverseStream`.

mod answer;
mod faults;
mod stream;
mod write_call;

#[cfg(test)]
mod tests;

use super::super::call::Call;
use super::super::eventstream;
use super::super::fault::{CallFault, Complaint, FaultKind, Malformed, ProviderFault};
use super::super::reply::Reply;
use super::{Dialect, Framing, InPath, Reader, Wants, Writer, Written};
use http::HeaderMap;
use serde_json::json;

#[derive(Debug, Clone, Copy, Default)]
pub struct Converse;

impl Dialect for Converse {
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
        Box::new(stream::ConverseReader::default())
    }

    fn writer(&self, _wants: Wants) -> Box<dyn Writer> {
        Box::new(stream::ConverseWriter::default())
    }

    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
        faults::read_fault(status, headers, body)
    }

    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8> {
        json!({"message": complaint.message})
            .to_string()
            .into_bytes()
    }

    fn write_last_fault(&self, complaint: &Complaint<'_>, _sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let name = faults::exception_of(complaint.status);
        eventstream::encode("exception", name, &self.write_fault(complaint), &mut out);
        out
    }

    fn framing(&self) -> Framing {
        Framing::Messages
    }

    /// There are none in such a stream.
    fn takes_comments(&self) -> bool {
        false
    }
}
