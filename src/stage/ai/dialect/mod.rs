//! Wire formats: each reads and writes calls, answers and streams in its own words.

mod braces;
pub mod chat;
pub mod cohere;
pub mod converse;
pub mod fields;
pub mod gemini;
pub mod messages;
mod openai;
pub mod responses;
#[cfg(test)]
mod samples;
mod schema;

use super::call::Call;
use super::event::Event;
use super::fault::{CallFault, Complaint, Malformed, ProviderFault};
use super::reply::Reply;
use bytes::Bytes;
use http::HeaderMap;

/// Which wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialectName {
    /// `OpenAI` chat completions, which many providers speak.
    Chat,
    /// `OpenAI` responses.
    Responses,
    /// Anthropic messages.
    Messages,
    /// Gemini `generateContent`.
    Gemini,
    /// Bedrock's `Converse`: towards providers only.
    Converse,
    /// Cohere's chat: towards providers only.
    Cohere,
}

impl DialectName {
    pub fn dialect(self) -> &'static dyn Dialect {
        match self {
            Self::Chat => &chat::Chat,
            Self::Responses => &responses::Responses,
            Self::Messages => &messages::Messages,
            Self::Gemini => &gemini::Gemini,
            Self::Converse => &converse::Converse,
            Self::Cohere => &cohere::Cohere,
        }
    }
}

/// One wire format, both of callers and of providers. Pure; everything a stream remembers is in its
/// [`Reader`] or [`Writer`].
pub trait Dialect: Send + Sync {
    /// A call as a caller wrote it. `path` has what the dialect says there and not in the body.
    fn read_call(&self, body: &[u8], path: &InPath<'_>) -> Result<Call, CallFault>;

    /// The call in this dialect's words, `call.model` as it stands.
    fn write_call(&self, call: &Call) -> Result<Written, CallFault>;

    /// The body of a 200 that is no stream.
    fn read_reply(&self, body: &[u8]) -> Result<Reply, Malformed>;

    fn write_reply(&self, reply: &Reply) -> Vec<u8>;

    fn reader(&self) -> Box<dyn Reader>;

    fn writer(&self, wants: Wants) -> Box<dyn Writer>;

    /// What a provider says with a status of 400 and above. Never fails: what cannot be read is told by its status.
    fn read_fault(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault;

    /// The body of a refusal.
    fn write_fault(&self, complaint: &Complaint<'_>) -> Vec<u8>;

    /// The last event of a stream that failed after it had begun, so that no SDK takes it for whole.
    /// `sequence` is where the stream stood, as [`Reader::sequence`] says it.
    fn write_last_fault(&self, complaint: &Complaint<'_>, sequence: u64) -> Vec<u8>;

    /// What its streams are made of.
    fn framing(&self) -> Framing {
        Framing::Events
    }

    /// Whether readers skip comments (`: keep-alive`) in a stream.
    fn takes_comments(&self) -> bool;
}

/// What a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// Messages of AWS.
    Messages,
}

impl Framing {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Messages => "application/vnd.amazon.eventstream",
        }
    }
}

/// What Gemini says in the path: `/v1beta/models/{model}:streamGenerateContent`.
#[derive(Debug, Clone, Copy, Default)]
pub struct InPath<'a> {
    pub model: Option<&'a str>,
    pub stream: bool,
}

/// A call in the words of a dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub body: Vec<u8>,
    /// Names of fields that were left out by rule.
    pub dropped: Vec<String>,
}

/// One event of a stream as it came over the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The `event:` line, where there is one.
    pub event: Option<Bytes>,
    /// `data:` lines joined by line feeds; empty for a comment.
    pub data: Bytes,
    /// All bytes of it, the empty line at its end included.
    pub raw: Bytes,
}

/// Reads a provider's stream.
pub trait Reader: Send {
    /// Appends what the frame says. An error is for this frame only: the next one can be read again.
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed>;

    /// Whether the answer was whole if the connection ends now.
    fn is_whole(&self) -> bool;

    /// The next number of a numbered stream (`sequence_number`); 0 where events have none.
    fn sequence(&self) -> u64 {
        0
    }

    /// What callers wait for at the end of a whole answer, and which the provider has left out.
    fn end_mark(&self) -> Option<&'static [u8]> {
        None
    }

    /// What of this frame is for a caller who speaks the same dialect; asked after [`Reader::read`].
    fn keep(&self, frame: &Frame, wants: &Wants) -> Keep {
        let _ = (frame, wants);
        Keep::Whole
    }
}

/// What is passed on of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    Whole,
    Nothing,
    Instead(Bytes),
}

/// What the caller asked for that shows in its stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// The stream is to end with its usage, where the dialect leaves the choice.
    pub usage: bool,
    /// The model as the caller named it, for events that come before the provider has said its own.
    pub model: String,
    /// Seconds since 1970, for dialects that say when.
    pub created: u64,
    /// Unique; for dialects that name an answer before the provider has.
    pub id: String,
}

/// Writes a caller's stream.
pub trait Writer: Send {
    /// Appends what the event is in this dialect, if anything. [`Event::End`] completes the stream;
    /// [`Event::Fault`] is not for writers: see [`Dialect::write_last_fault`].
    fn write(&mut self, event: &Event, out: &mut Vec<u8>);

    /// As [`Reader::sequence`].
    fn sequence(&self) -> u64 {
        0
    }
}
