//! Writes chunks as `OpenAI` would.

use super::super::super::super::call::ToolCall;
use super::super::super::super::event::{Event, Stop, StopReason};
use super::super::super::super::sse::write_event;
use super::super::super::{Wants, Writer, openai};
use crate::base::usage::Usage;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug)]
pub struct ChatWriter {
    id: String,
    model: String,
    created: u64,
    wants_usage: bool,
    usage: Option<Usage>,
    phase: Phase,
    called: bool,
    /// Calls that have no arguments yet.
    bare: Vec<u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Before,
    /// The first chunk, which tells the role, is out.
    Begun,
    Stopped,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Default, Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    native_finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<[Value; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl ChatWriter {
    pub fn new(wants: Wants) -> Self {
        Self {
            id: wants.id,
            model: wants.model,
            created: wants.created,
            wants_usage: wants.usage,
            usage: None,
            phase: Phase::Before,
            called: false,
            bare: Vec::new(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.phase == Phase::Before {
            self.phase = Phase::Begun;
            let delta = Delta {
                role: Some("assistant"),
                content: Some(""),
                ..Delta::default()
            };
            self.choice(delta, None, out);
        }
    }

    fn stop(&mut self, stop: &Stop, out: &mut Vec<u8>) {
        if self.phase != Phase::Stopped {
            self.begin(out);
            for index in std::mem::take(&mut self.bare) {
                let delta = Delta {
                    tool_calls: Some([CallDelta::more(index, openai::or_empty(""))]),
                    ..Delta::default()
                };
                self.choice(delta, None, out);
            }
            self.phase = Phase::Stopped;
            self.choice(Delta::default(), Some(stop), out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let reason = if self.called {
            StopReason::ToolCalls
        } else {
            StopReason::Stop
        };
        let unsaid = Stop {
            reason,
            native: String::new(),
            sequence: None,
        };
        self.stop(&unsaid, out);
        if self.wants_usage
            && let Some(usage) = self.usage
        {
            self.chunk(&[], Some(openai::chat_usage(&usage)), out);
        }
        write_event(out, None, b"[DONE]");
    }

    fn choice(&self, delta: Delta<'_>, stop: Option<&Stop>, out: &mut Vec<u8>) {
        let choice = Choice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason: stop.map(|stop| stop.reason.name()),
            native_finish_reason: stop
                .map(|stop| stop.native.as_str())
                .filter(|native| !native.is_empty()),
        };
        self.chunk(&[choice], None, out);
    }

    fn chunk(&self, choices: &[Choice<'_>], usage: Option<Value>, out: &mut Vec<u8>) {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &chunk).expect("a chunk is JSON, and memory is written");
        out.extend_from_slice(b"\n\n");
    }
}

impl Writer for ChatWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        let mut delta = Delta::default();
        match event {
            Event::Start { id, model } => {
                if self.phase == Phase::Before {
                    replace(&mut self.id, id);
                    replace(&mut self.model, model);
                }
                return self.begin(out);
            }
            Event::Stop(stop) => return self.stop(stop, out),
            Event::Usage(usage) => {
                self.usage = Some(*usage);
                return;
            }
            Event::End => return self.end(out),
            Event::Text(text) => delta.content = Some(text),
            Event::Thought(text) => delta.reasoning_content = Some(text),
            Event::Refusal(text) => delta.refusal = Some(text),
            Event::ToolCall { index, call } => {
                self.called = true;
                if call.arguments.is_empty() {
                    self.bare.push(*index);
                }
                delta.tool_calls = Some([CallDelta::first(*index, call)]);
            }
            Event::ToolArguments { index, delta: more } => {
                self.bare.retain(|bare| bare != index || more.is_empty());
                delta.tool_calls = Some([CallDelta::more(*index, more)]);
            }
            Event::Image(media) => {
                let Some(url) = openai::url_of(media, "image/png") else {
                    return;
                };
                delta.images = Some([openai::image_part(url)]);
            }
            // No words for what proves a thought, nor for one that is hidden.
            Event::ThoughtSignature(_) | Event::ThoughtEncrypted(_) | Event::Fault(_) => return,
        }
        self.begin(out);
        self.choice(delta, None, out);
    }
}

impl<'a> CallDelta<'a> {
    fn first(index: u32, call: &'a ToolCall) -> Self {
        Self {
            index,
            id: Some(&call.id),
            kind: Some("function"),
            function: Function {
                name: Some(&call.name),
                arguments: &call.arguments,
            },
        }
    }

    fn more(index: u32, arguments: &'a str) -> Self {
        Self {
            index,
            id: None,
            kind: None,
            function: Function {
                name: None,
                arguments,
            },
        }
    }
}

/// By what is said, if anything is.
fn replace(name: &mut String, said: &str) {
    if !said.is_empty() {
        said.clone_into(name);
    }
}
