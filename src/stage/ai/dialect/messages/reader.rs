//! A stream of Anthropic's API, event by event.

use super::super::super::call::ToolCall;
use super::super::super::event::Event;
use super::super::super::fault::Malformed;
use super::super::{Frame, Reader};
use super::answer::{Counts, filled, read_refusal, read_stop, text_of};
use super::faults::fault_in_stream;
use serde_json::Value;

/// More blocks than any answer has.
const BLOCKS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct MessagesReader {
    counts: Counts,
    calls: Vec<Call>,
    whole: bool,
}

/// A call of a tool, by the place of its block.
#[derive(Debug)]
struct Call {
    block: u64,
    /// Whether anything was said of its arguments.
    has_arguments: bool,
}

impl Reader for MessagesReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if frame.data.is_empty() {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("an event is not JSON: {fault}")))?;
        let kind = match value["type"].as_str() {
            Some(kind) => kind,
            None => frame
                .event
                .as_deref()
                .and_then(|event| std::str::from_utf8(event).ok())
                .ok_or_else(|| Malformed("an event has no type".to_owned()))?,
        };
        match kind {
            "message_start" => self.start(&value["message"], events),
            "content_block_start" => return self.block_starts(&value, events),
            "content_block_delta" => return self.delta(&value, events),
            "content_block_stop" => self.block_stops(&value, events),
            "message_delta" => self.message_delta(&value, events),
            "message_stop" => {
                self.whole = true;
                events.push(Event::End);
            }
            "error" => {
                self.whole = false;
                events.push(Event::Fault(fault_in_stream(&value)));
            }
            // Also `ping`: new kinds of events may come at any time.
            _ => {}
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

impl MessagesReader {
    fn start(&mut self, message: &Value, events: &mut Vec<Event>) {
        events.push(Event::Start {
            id: text_of(&message["id"]),
            model: text_of(&message["model"]),
        });
        self.count(&message["usage"], events);
    }

    fn count(&mut self, usage: &Value, events: &mut Vec<Event>) {
        if usage.is_object() {
            self.counts.read(usage);
            events.push(Event::Usage(self.counts.usage()));
        }
    }

    fn block_starts(&mut self, value: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let block = &value["content_block"];
        match block["type"].as_str().unwrap_or_default() {
            "text" => events.extend(filled(&block["text"]).map(Event::Text)),
            "thinking" => {
                events.extend(filled(&block["thinking"]).map(Event::Thought));
                events.extend(filled(&block["signature"]).map(Event::ThoughtSignature));
            }
            "redacted_thinking" => {
                events.push(Event::ThoughtEncrypted(text_of(&block["data"])));
            }
            "tool_use" => return self.call_starts(value, events),
            // Tools that the provider runs itself.
            _ => {}
        }
        Ok(())
    }

    fn call_starts(&mut self, value: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        if self.calls.len() >= BLOCKS_MAX {
            return Err(Malformed("too many calls of tools".to_owned()));
        }
        let block = &value["content_block"];
        let arguments = match block["input"].as_object() {
            Some(input) if !input.is_empty() => block["input"].to_string(),
            _ => String::new(),
        };
        self.calls.push(Call {
            block: value["index"].as_u64().unwrap_or_default(),
            has_arguments: !arguments.is_empty(),
        });
        events.push(Event::ToolCall {
            index,
            call: ToolCall {
                id: text_of(&block["id"]),
                name: text_of(&block["name"]),
                arguments,
                signature: None,
            },
        });
        Ok(())
    }

    fn delta(&mut self, value: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let delta = &value["delta"];
        match delta["type"].as_str().unwrap_or_default() {
            "text_delta" => events.extend(filled(&delta["text"]).map(Event::Text)),
            "thinking_delta" => events.extend(filled(&delta["thinking"]).map(Event::Thought)),
            "signature_delta" => {
                events.extend(filled(&delta["signature"]).map(Event::ThoughtSignature));
            }
            "input_json_delta" => {
                let Some(delta) = filled(&delta["partial_json"]) else {
                    return Ok(());
                };
                // Tools that the provider runs itself have arguments too; nobody is to hear of them.
                if let Some((index, call)) = self.call_at(value) {
                    call.has_arguments = true;
                    events.push(Event::ToolArguments { index, delta });
                }
            }
            "" => return Err(Malformed("a delta has no type".to_owned())),
            _ => {}
        }
        Ok(())
    }

    /// A tool without arguments is called with nothing at all, which is no JSON.
    fn block_stops(&mut self, value: &Value, events: &mut Vec<Event>) {
        if let Some((index, call)) = self.call_at(value)
            && !call.has_arguments
        {
            call.has_arguments = true;
            events.push(Event::ToolArguments {
                index,
                delta: "{}".to_owned(),
            });
        }
    }

    fn message_delta(&mut self, value: &Value, events: &mut Vec<Event>) {
        let delta = &value["delta"];
        events.extend(read_refusal(&delta["stop_details"]).map(Event::Refusal));
        events.extend(read_stop(delta).map(Event::Stop));
        self.count(&value["usage"], events);
    }

    fn call_at(&mut self, value: &Value) -> Option<(u32, &mut Call)> {
        let block = value["index"].as_u64()?;
        let place = self.calls.iter().rposition(|call| call.block == block)?;
        Some((u32::try_from(place).ok()?, &mut self.calls[place]))
    }
}
