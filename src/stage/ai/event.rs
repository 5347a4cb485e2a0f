//! A piece of an answer that comes in pieces.

use super::call::{Media, ToolCall};
use super::fault::ProviderFault;
use crate::base::usage::Usage;

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The provider has begun: its name for the answer, and the model that gives it. Not yet content.
    Start {
        id: String,
        model: String,
    },
    Text(String),
    /// Words of thought.
    Thought(String),
    /// What proves the thought that ends here.
    ThoughtSignature(String),
    /// A thought that is hidden.
    ThoughtEncrypted(String),
    /// A call of a tool begins; `arguments` are empty unless they come at once.
    ToolCall {
        index: u32,
        call: ToolCall,
    },
    /// More of the arguments of the call with this index.
    ToolArguments {
        index: u32,
        delta: String,
    },
    Image(Media),
    /// Words of a refusal.
    Refusal(String),
    /// Why it ends.
    Stop(Stop),
    /// Counts so far; the last one stands.
    Usage(Usage),
    /// The provider gives up in the middle.
    Fault(ProviderFault),
    /// The dialect's own mark of a whole answer. Where a dialect has none (Gemini), whoever reads makes this event
    /// when the connection ends and [`Reader::is_whole`](super::dialect::Reader::is_whole).
    End,
}

impl Event {
    /// Whether the user would see something of the answer: from here on no other provider can take over.
    pub fn is_content(&self) -> bool {
        match self {
            Self::Text(text) | Self::Thought(text) | Self::Refusal(text) => !text.is_empty(),
            Self::ToolCall { .. }
            | Self::ToolArguments { .. }
            | Self::Image(_)
            | Self::ThoughtSignature(_)
            | Self::ThoughtEncrypted(_) => true,
            Self::Start { .. } | Self::Stop(_) | Self::Usage(_) | Self::Fault(_) | Self::End => {
                false
            }
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub reason: StopReason,
    /// The provider's own word.
    pub native: String,
    /// The text that ended it, where one did and the provider says which.
    pub sequence: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    Stop,
    /// The longest answer was reached.
    Length,
    ToolCalls,
    ContentFilter,
    /// The provider failed.
    Error,
}

impl StopReason {
    /// As it is logged and counted; also the word of `OpenAI`'s `finish_reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Error => "error",
        }
    }
}
