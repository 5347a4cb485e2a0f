//! Writes a stream as Anthropic's SDKs read it: one block after the other, each begun and ended.

use super::super::super::call::ToolCall;
use super::super::super::event::{Event, Stop, StopReason};
use super::super::braces::Braces;
use super::super::{Wants, Writer};
use super::answer::{picture_in_words, stop_word, write_usage};
use crate::base::usage::Usage;
use serde_json::{Value, json};

#[derive(Debug)]
pub struct MessagesWriter {
    wants: Wants,
    started: bool,
    ended: bool,
    /// The place of the next block.
    next: u64,
    open: Option<Open>,
    calls: Vec<Call>,
    usage: Usage,
    stop: Option<Stop>,
}

/// The block that words go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text(u64),
    Thinking(u64),
}

/// A call whose block may still be open: others than Anthropic may tell of several at a time.
#[derive(Debug)]
struct Call {
    index: u32,
    block: u64,
    open: bool,
    arguments: Braces,
}

impl MessagesWriter {
    pub fn new(wants: Wants) -> Self {
        Self {
            wants,
            started: false,
            ended: false,
            next: 0,
            open: None,
            calls: Vec::new(),
            usage: Usage::default(),
            stop: None,
        }
    }

    fn start(&mut self, id: &str, model: &str, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let named =
            |name: &str, otherwise: &str| if name.is_empty() { otherwise } else { name }.to_owned();
        let message = json!({
            "id": named(id, &self.wants.id),
            "type": "message",
            "role": "assistant",
            "model": named(model, &self.wants.model),
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": write_usage(&self.usage),
        });
        say(out, "message_start", json!({ "message": message }));
    }

    fn block_starts(&mut self, block: Value, out: &mut Vec<u8>) -> u64 {
        self.start("", "", out);
        let index = self.next;
        self.next += 1;
        say(
            out,
            "content_block_start",
            json!({"index": index, "content_block": block}),
        );
        index
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        let index = if let Some(Open::Text(index)) = self.open {
            index
        } else {
            self.close(out);
            let index = self.block_starts(json!({"type": "text", "text": ""}), out);
            self.open = Some(Open::Text(index));
            index
        };
        delta(out, index, json!({"type": "text_delta", "text": text}));
    }

    /// The block of thought that is open, or a new one.
    fn thinking(&mut self, out: &mut Vec<u8>) -> u64 {
        if let Some(Open::Thinking(index)) = self.open {
            return index;
        }
        self.close(out);
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        let index = self.block_starts(block, out);
        self.open = Some(Open::Thinking(index));
        index
    }

    fn thought(&mut self, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            let index = self.thinking(out);
            delta(
                out,
                index,
                json!({"type": "thinking_delta", "thinking": text}),
            );
        }
    }

    fn signature(&mut self, signature: &str, out: &mut Vec<u8>) {
        let index = self.thinking(out);
        delta(
            out,
            index,
            json!({"type": "signature_delta", "signature": signature}),
        );
        self.close(out);
    }

    fn encrypted(&mut self, data: &str, out: &mut Vec<u8>) {
        self.close(out);
        let block = json!({"type": "redacted_thinking", "data": data});
        let index = self.block_starts(block, out);
        say(out, "content_block_stop", json!({ "index": index }));
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        if self.calls.iter().any(|known| known.index == index) {
            return self.arguments(index, &call.arguments, out);
        }
        self.close_words(out);
        self.close_calls(out, |call| call.arguments.are_whole());
        let block = json!({
            "type": "tool_use", "id": call.id, "name": call.name, "input": {},
        });
        let block = self.block_starts(block, out);
        self.calls.push(Call {
            index,
            block,
            open: true,
            arguments: Braces::default(),
        });
        self.arguments(index, &call.arguments, out);
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let call = self.calls.iter_mut().find(|call| call.index == index);
        if let Some(call) = call
            && call.open
            && !text.is_empty()
        {
            call.arguments.add(text);
            delta(
                out,
                call.block,
                json!({"type": "input_json_delta", "partial_json": text}),
            );
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        self.close_words(out);
        self.close_calls(out, |_| true);
    }

    fn close_words(&mut self, out: &mut Vec<u8>) {
        if let Some(Open::Text(index) | Open::Thinking(index)) = self.open.take() {
            say(out, "content_block_stop", json!({ "index": index }));
        }
    }

    fn close_calls(&mut self, out: &mut Vec<u8>, which: impl Fn(&Call) -> bool) {
        for call in &mut self.calls {
            if call.open && which(call) {
                call.open = false;
                say(out, "content_block_stop", json!({ "index": call.block }));
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.start("", "", out);
        self.close(out);
        let stop = self.stop.take().unwrap_or(Stop {
            reason: StopReason::Stop,
            native: String::new(),
            sequence: None,
        });
        let change = json!({
            "delta": {"stop_reason": stop_word(&stop), "stop_sequence": stop.sequence},
            "usage": write_usage(&self.usage),
        });
        say(out, "message_delta", change);
        say(out, "message_stop", json!({}));
    }
}

impl Writer for MessagesWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        match event {
            Event::Start { id, model } => self.start(id, model, out),
            Event::Text(text) | Event::Refusal(text) => self.text(text, out),
            Event::Image(media) => self.text(&picture_in_words(media), out),
            Event::Thought(text) => self.thought(text, out),
            Event::ThoughtSignature(signature) => self.signature(signature, out),
            Event::ThoughtEncrypted(data) => self.encrypted(data, out),
            Event::ToolCall { index, call } => self.call(*index, call, out),
            Event::ToolArguments { index, delta } => self.arguments(*index, delta, out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = *usage,
            Event::End => self.end(out),
            Event::Fault(_) => {}
        }
    }
}

fn delta(out: &mut Vec<u8>, index: u64, delta: Value) {
    say(
        out,
        "content_block_delta",
        json!({"index": index, "delta": delta}),
    );
}

/// One event; its name is in its data too.
fn say(out: &mut Vec<u8>, name: &str, data: Value) {
    let mut whole = json!({ "type": name });
    if let (Some(whole), Value::Object(data)) = (whole.as_object_mut(), data) {
        whole.extend(data);
    }
    out.extend_from_slice(format!("event: {name}\ndata: {whole}\n\n").as_bytes());
}
