//! An answer that comes whole.

use super::call::Part;
use super::event::Stop;
use crate::base::usage::Usage;

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The provider's name for it.
    pub id: String,
    /// The model that gave it.
    pub model: String,
    /// Seconds since 1970; 0 where the provider does not say.
    pub created: u64,
    pub parts: Vec<Part>,
    pub stop: Stop,
    /// None where the provider did not count.
    pub usage: Option<Usage>,
}

impl Reply {
    /// Bytes of words in it, for an estimate where the provider does not count.
    pub fn words(&self) -> u64 {
        let bytes = self.parts.iter().map(|part| match part {
            Part::Text(text) | Part::Refusal(text) => text.len(),
            Part::Thought(thought) => thought.text.len(),
            Part::ToolCall(call) => call.name.len() + call.arguments.len(),
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => 0,
        });
        bytes.map(|bytes| bytes as u64).sum()
    }
}
