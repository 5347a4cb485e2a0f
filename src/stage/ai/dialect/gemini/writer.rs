//! Writes a stream as the official SDKs of Gemini read it. A call of a tool goes out when its arguments are whole.

use super::super::super::call::ToolCall;
use super::super::super::event::{Event, Stop, StopReason};
use super::super::braces::Braces;
use super::super::{Wants, Writer};
use super::answer::{end_candidate, is_base64, write_call, write_picture, write_usage};
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// Of one call; longer ones are told as malformed.
const ARGUMENTS_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub struct GeminiWriter {
    id: String,
    model: String,
    /// Calls whose arguments are not yet whole.
    pending: Vec<Pending>,
    /// The tool of a call that could not be told.
    broken: Option<String>,
    usage: Option<Usage>,
    stop: Option<Stop>,
    ended: bool,
}

#[derive(Debug)]
struct Pending {
    index: u32,
    call: ToolCall,
    braces: Braces,
}

impl GeminiWriter {
    pub fn new(wants: Wants) -> Self {
        Self {
            id: wants.id,
            model: wants.model,
            pending: Vec::new(),
            broken: None,
            usage: None,
            stop: None,
            ended: false,
        }
    }

    fn part(&self, part: &Value, out: &mut Vec<u8>) {
        let candidate = json!({"content": {"parts": [part], "role": "model"}, "index": 0});
        self.say(json!({"candidates": [candidate]}), out);
    }

    fn say(&self, mut value: Value, out: &mut Vec<u8>) {
        value["modelVersion"] = json!(self.model);
        value["responseId"] = json!(self.id);
        out.extend_from_slice(format!("data: {value}\n\n").as_bytes());
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.part(&json!({ "text": text }), out);
        }
    }

    fn signature(&mut self, signature: &str, out: &mut Vec<u8>) {
        if is_base64(signature) {
            let part = json!({"text": "", "thought": true, "thoughtSignature": signature});
            self.part(&part, out);
        }
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        if self.pending.iter().any(|pending| pending.index == index) {
            return self.arguments(index, &call.arguments, out);
        }
        self.pending.push(Pending {
            index,
            call: ToolCall {
                arguments: String::new(),
                ..call.clone()
            },
            braces: Braces::default(),
        });
        self.arguments(index, &call.arguments, out);
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let place = self.pending.iter().position(|call| call.index == index);
        let Some(place) = place else {
            return;
        };
        let pending = &mut self.pending[place];
        if pending.call.arguments.len() + text.len() <= ARGUMENTS_BYTES_MAX {
            pending.call.arguments.push_str(text);
            pending.braces.add(text);
        }
        if pending.braces.are_whole() {
            let whole = self.pending.remove(place);
            self.finish(&whole.call, out);
        }
    }

    fn finish(&mut self, call: &ToolCall, out: &mut Vec<u8>) {
        match write_call(call) {
            Some(part) => self.part(&part, out),
            None => self.broken = Some(call.name.clone()),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        for pending in std::mem::take(&mut self.pending) {
            self.finish(&pending.call, out);
        }
        let stop = self.stop.take().unwrap_or(Stop {
            reason: StopReason::Stop,
            native: String::new(),
            sequence: None,
        });
        // The SDKs expect a part in each answer.
        let mut candidate = json!({"content": {"parts": [{"text": ""}], "role": "model"}});
        end_candidate(&mut candidate, &stop, self.broken.as_deref());
        candidate["index"] = json!(0);
        let mut value = json!({"candidates": [candidate]});
        if let Some(usage) = &self.usage {
            value["usageMetadata"] = write_usage(usage);
        }
        self.say(value, out);
    }
}

impl Writer for GeminiWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start { id, model } => {
                for (name, said) in [(&mut self.id, id), (&mut self.model, model)] {
                    if !said.is_empty() {
                        name.clone_from(said);
                    }
                }
            }
            Event::Text(text) | Event::Refusal(text) => self.text(text, out),
            Event::Thought(text) if text.is_empty() => {}
            Event::Thought(text) => self.part(&json!({"text": text, "thought": true}), out),
            Event::ThoughtSignature(signature) => self.signature(signature, out),
            Event::ToolCall { index, call } => self.call(*index, call, out),
            Event::ToolArguments { index, delta } => self.arguments(*index, delta, out),
            Event::Image(media) => self.part(&write_picture(media), out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => self.end(out),
            // What is hidden has no place here.
            Event::ThoughtEncrypted(_) | Event::Fault(_) => {}
        }
    }
}
