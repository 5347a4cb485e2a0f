//! Reads the events of a response.

use super::super::super::super::call::ToolCall;
use super::super::super::super::event::{Event, StopReason};
use super::super::super::super::fault::Malformed;
use super::super::super::{Frame, Reader, openai};
use super::super::reply::{read_call, read_image, stop_of, thought_of};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// More calls at once are no answer of a model.
const TOOL_CALLS_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct ResponsesReader {
    phase: Phase,
    sequence: u64,
    calls: Vec<Call>,
    /// Words of the part that is open came piece by piece.
    pieces: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Before,
    Started,
    /// Nothing that follows counts.
    Failed,
    Done,
}

/// A call, by the place of its item.
#[derive(Debug)]
struct Call {
    item: u64,
    /// Arguments came piece by piece.
    pieces: bool,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default)]
    output_index: u64,
    #[serde(default)]
    summary_index: u64,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    item: Value,
    #[serde(default)]
    response: Value,
}

impl Reader for ResponsesReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if frame.data.is_empty() || self.phase == Phase::Failed {
            return Ok(());
        }
        // Not of this dialect, but some servers say it.
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(());
        }
        let said: Said<'_> = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("not an event: {fault}")))?;
        if let Some(number) = said.sequence_number {
            self.sequence = number.saturating_add(1);
        }
        if said.kind == "error" {
            let error: Value = serde_json::from_slice(&frame.data).unwrap_or_default();
            self.fail(&error, events);
            return Ok(());
        }
        self.read_said(said, events)
    }

    fn is_whole(&self) -> bool {
        self.phase == Phase::Done
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl ResponsesReader {
    fn read_said(&mut self, said: Said<'_>, events: &mut Vec<Event>) -> Result<(), Malformed> {
        match &*said.kind {
            "response.created" | "response.queued" | "response.in_progress" => {
                self.start(&said.response, events);
            }
            "response.content_part.added" => self.pieces = false,
            "response.output_text.delta" => {
                self.pieces = true;
                events.extend(words(said.delta).map(Event::Text));
            }
            "response.refusal.delta" => {
                self.pieces = true;
                events.extend(words(said.delta).map(Event::Refusal));
            }
            "response.output_text.done" if !std::mem::take(&mut self.pieces) => {
                events.extend(said.text.map(Event::Text));
            }
            "response.refusal.done" if !std::mem::take(&mut self.pieces) => {
                events.extend(said.refusal.map(Event::Refusal));
            }
            "response.reasoning_summary_part.added" if said.summary_index > 0 => {
                events.push(Event::Thought("\n\n".to_owned()));
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                events.extend(words(said.delta).map(Event::Thought));
            }
            "response.output_item.added" if said.item["type"] == "function_call" => {
                self.call(said.output_index, &said.item, events)?;
            }
            "response.function_call_arguments.delta" => {
                let delta = words(said.delta);
                self.arguments(said.output_index, true, delta, events);
            }
            "response.function_call_arguments.done" => {
                let all = openai::arguments(&said.arguments);
                self.arguments(said.output_index, false, Some(all), events);
            }
            "response.output_item.done" => self.item(said.output_index, &said.item, events)?,
            "response.completed" | "response.incomplete" => self.end(&said.response, events)?,
            "response.failed" | "response.cancelled" => {
                count(&said.response, events)?;
                let error = &said.response["error"];
                self.fail(error, events);
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, response: &Value, events: &mut Vec<Event>) {
        if self.phase == Phase::Before {
            self.phase = Phase::Started;
            let text = |name: &str| response[name].as_str().unwrap_or_default().to_owned();
            events.push(Event::Start {
                id: text("id"),
                model: text("model"),
            });
        }
    }

    /// Begins the call of this item, if it has not begun; says which it is.
    fn call(
        &mut self,
        item: u64,
        said: &Value,
        events: &mut Vec<Event>,
    ) -> Result<usize, Malformed> {
        if let Some(at) = self.calls.iter().position(|call| call.item == item) {
            return Ok(at);
        }
        let at = self.calls.len();
        if at >= TOOL_CALLS_MAX {
            return Err(Malformed(format!(
                "more than {TOOL_CALLS_MAX} calls of tools"
            )));
        }
        self.calls.push(Call {
            item,
            pieces: false,
        });
        events.push(Event::ToolCall {
            index: number(at),
            call: ToolCall {
                // All of them come at the end again, if they came already.
                arguments: String::new(),
                ..read_call(said)
            },
        });
        Ok(at)
    }

    /// All of them count only where no piece of them came.
    fn arguments(
        &mut self,
        item: u64,
        piece: bool,
        delta: Option<String>,
        events: &mut Vec<Event>,
    ) {
        let Some(at) = self.calls.iter().position(|call| call.item == item) else {
            // All of it comes with the item's end, where it is a call of a function at all.
            return;
        };
        let Some(delta) = delta.filter(|delta| !delta.is_empty()) else {
            return;
        };
        if piece || !self.calls[at].pieces {
            self.calls[at].pieces = true;
            events.push(Event::ToolArguments {
                index: number(at),
                delta,
            });
        }
    }

    fn item(&mut self, index: u64, item: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        match item["type"].as_str() {
            Some("function_call") => {
                self.call(index, item, events)?;
                let all = openai::arguments(&item["arguments"]);
                self.arguments(index, false, Some(all), events);
            }
            Some("reasoning") => {
                let id = item["id"].as_str().unwrap_or_default();
                let content = item["encrypted_content"].as_str();
                let thought = thought_of(id, String::new(), content);
                events.extend(thought.signature.map(Event::ThoughtSignature));
                events.extend(thought.encrypted.map(Event::ThoughtEncrypted));
            }
            Some("image_generation_call") => events.extend(read_image(item).map(Event::Image)),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, response: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        self.start(response, events);
        let counted = count(response, events);
        let stop = stop_of(response, !self.calls.is_empty());
        if stop.reason == StopReason::Error {
            self.fail(&response["error"], events);
            return counted;
        }
        self.phase = Phase::Done;
        events.push(Event::Stop(stop));
        events.push(Event::End);
        counted
    }

    fn fail(&mut self, error: &Value, events: &mut Vec<Event>) {
        self.phase = Phase::Failed;
        events.push(Event::Fault(openai::fault_of(None, error)));
    }
}

fn count(response: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
    let usage = openai::read_usage(&response["usage"])?;
    events.extend(usage.map(Event::Usage));
    Ok(())
}

fn words(delta: Value) -> Option<String> {
    match delta {
        Value::String(words) if !words.is_empty() => Some(words),
        _ => None,
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
