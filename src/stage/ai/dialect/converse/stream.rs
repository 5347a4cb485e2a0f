//! Streams of `ConverseStream`, event by event.

use super::super::super::call::ToolCall;
use super::super::super::event::{Event, Stop};
use super::super::super::eventstream;
use super::super::super::fault::Malformed;
use super::super::{Frame, Reader, Writer};
use super::answer::{read_stop, read_usage, stop_word, write_usage};
use super::faults::fault_in_stream;
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// More calls than any answer has.
const CALLS_MAX: usize = 4_096;

/// An answer is whole after `metadata`, which comes last. The name of an event is in its message's headers.
#[derive(Debug, Default)]
pub struct ConverseReader {
    /// The block of each call of a tool, and whether anything was said of its arguments.
    calls: Vec<(u64, bool)>,
    stopped: bool,
    whole: bool,
}

impl Reader for ConverseReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let name = frame.event.as_deref().unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        let value: Value = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("an event is not JSON: {fault}")))?;
        match name.as_ref() {
            "messageStart" => events.push(Event::Start {
                id: String::new(),
                model: String::new(),
            }),
            "contentBlockStart" => return self.block_starts(&value, events),
            "contentBlockDelta" => self.delta(&value, events),
            "contentBlockStop" => self.block_stops(&value, events),
            "messageStop" => {
                self.stopped = true;
                events.extend(read_stop(&value).map(Event::Stop));
            }
            "metadata" => {
                events.extend(read_usage(&value["usage"]).map(Event::Usage));
                self.whole = self.stopped;
                if self.whole {
                    events.push(Event::End);
                }
            }
            name if name.ends_with("xception") || value.get("message").is_some() => {
                self.whole = false;
                events.push(Event::Fault(fault_in_stream(name, &value)));
            }
            // New kinds of events may come at any time.
            _ => {}
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

impl ConverseReader {
    fn block_starts(&mut self, value: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let Some(call) = value["start"].get("toolUse") else {
            return Ok(());
        };
        if self.calls.len() >= CALLS_MAX {
            return Err(Malformed("too many calls of tools".to_owned()));
        }
        let text = |name: &str| call[name].as_str().unwrap_or_default().to_owned();
        events.push(Event::ToolCall {
            index: u32::try_from(self.calls.len()).unwrap_or(u32::MAX),
            call: ToolCall {
                id: text("toolUseId"),
                name: text("name"),
                arguments: String::new(),
                signature: None,
            },
        });
        let block = value["contentBlockIndex"].as_u64().unwrap_or_default();
        self.calls.push((block, false));
        Ok(())
    }

    fn delta(&mut self, value: &Value, events: &mut Vec<Event>) {
        let delta = &value["delta"];
        let filled = |value: &Value| {
            let text = value.as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let thought = &delta["reasoningContent"];
        events.extend(filled(&delta["text"]).map(Event::Text));
        events.extend(filled(&thought["text"]).map(Event::Thought));
        events.extend(filled(&thought["signature"]).map(Event::ThoughtSignature));
        events.extend(filled(&thought["redactedContent"]).map(Event::ThoughtEncrypted));
        if let Some(delta) = filled(&delta["toolUse"]["input"])
            && let Some((index, said)) = self.call_at(value)
        {
            *said = true;
            events.push(Event::ToolArguments { index, delta });
        }
    }

    /// A tool without arguments is called with nothing at all, which is no JSON.
    fn block_stops(&mut self, value: &Value, events: &mut Vec<Event>) {
        if let Some((index, said)) = self.call_at(value)
            && !std::mem::replace(said, true)
        {
            events.push(Event::ToolArguments {
                index,
                delta: "{}".to_owned(),
            });
        }
    }

    fn call_at(&mut self, value: &Value) -> Option<(u32, &mut bool)> {
        let block = value["contentBlockIndex"].as_u64()?;
        let place = self.calls.iter().rposition(|(at, _)| *at == block)?;
        Some((u32::try_from(place).ok()?, &mut self.calls[place].1))
    }
}

/// Writes what a reader of AWS reads; a block for each call, and for words of one kind in a row.
#[derive(Debug, Default)]
pub struct ConverseWriter {
    started: bool,
    next: u64,
    open: Option<(Kind, u64)>,
    calls: Vec<(u32, u64)>,
    usage: Usage,
    stop: Option<Stop>,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thought,
    Call,
}

impl ConverseWriter {
    fn start(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            say("messageStart", &json!({"role": "assistant"}), out);
        }
    }

    /// The block that is open, if it is of this kind, else a new one.
    fn block(&mut self, kind: Kind, out: &mut Vec<u8>) -> u64 {
        self.start(out);
        if let Some((open, index)) = self.open
            && open == kind
        {
            return index;
        }
        self.close(out);
        let index = self.next;
        self.next += 1;
        self.open = Some((kind, index));
        index
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some((_, index)) = self.open.take() {
            say(
                "contentBlockStop",
                &json!({"contentBlockIndex": index}),
                out,
            );
        }
    }

    fn delta(&mut self, kind: Kind, delta: &Value, out: &mut Vec<u8>) {
        let index = self.block(kind, out);
        let value = json!({"contentBlockIndex": index, "delta": delta});
        say("contentBlockDelta", &value, out);
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        self.close(out);
        let block = self.block(Kind::Call, out);
        self.calls.push((index, block));
        let start = json!({"toolUse": {"toolUseId": call.id, "name": call.name}});
        let value = json!({"contentBlockIndex": block, "start": start});
        say("contentBlockStart", &value, out);
        self.arguments(index, &call.arguments, out);
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let call = self.calls.iter().find(|(known, _)| *known == index);
        if let Some((_, block)) = call
            && !text.is_empty()
        {
            let value = json!({"contentBlockIndex": block, "delta": {"toolUse": {"input": text}}});
            say("contentBlockDelta", &value, out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.start(out);
        self.close(out);
        let word = self.stop.as_ref().map_or("end_turn", stop_word);
        say("messageStop", &json!({"stopReason": word}), out);
        say("metadata", &json!({"usage": write_usage(&self.usage)}), out);
    }
}

impl Writer for ConverseWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        let thought = |value: Value| json!({ "reasoningContent": value });
        match event {
            _ if self.ended => {}
            Event::Start { .. } => self.start(out),
            Event::Text(text) | Event::Refusal(text) => {
                self.delta(Kind::Text, &json!({ "text": text }), out);
            }
            Event::Thought(text) => {
                self.delta(Kind::Thought, &thought(json!({ "text": text })), out);
            }
            Event::ThoughtSignature(signature) => {
                let value = thought(json!({ "signature": signature }));
                self.delta(Kind::Thought, &value, out);
                self.close(out);
            }
            Event::ThoughtEncrypted(data) => {
                let value = thought(json!({ "redactedContent": data }));
                self.delta(Kind::Thought, &value, out);
                self.close(out);
            }
            Event::ToolCall { index, call } => self.call(*index, call, out),
            Event::ToolArguments { index, delta } => self.arguments(*index, delta, out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = *usage,
            Event::End => self.end(out),
            // The dialect streams no pictures.
            Event::Image(_) | Event::Fault(_) => {}
        }
    }
}

fn say(name: &str, value: &Value, out: &mut Vec<u8>) {
    eventstream::encode("event", name, value.to_string().as_bytes(), out);
}
