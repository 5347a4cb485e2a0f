//! Streams of Cohere's chat, event by event.

use super::super::super::call::ToolCall;
use super::super::super::event::{Event, Stop, StopReason};
use super::super::super::fault::{FaultKind, Malformed, ProviderFault};
use super::super::super::wait;
use super::super::{Frame, Reader, Wants, Writer};
use super::answer::{filled, read_call, read_stop, read_usage, stop_word, write_usage};
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// More calls than any answer has.
const CALLS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub struct CohereReader {
    /// The event's number of each call, and whether anything was said of its arguments.
    calls: Vec<(u64, bool)>,
    whole: bool,
}

impl Reader for CohereReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if frame.data.is_empty() || frame.data.as_ref() == b"[DONE]" {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("an event is not JSON: {fault}")))?;
        let message = &value["delta"]["message"];
        match value["type"].as_str().unwrap_or_default() {
            "message-start" => events.push(Event::Start {
                id: filled(&value["id"]).unwrap_or_default(),
                model: String::new(),
            }),
            "content-start" | "content-delta" => {
                events.extend(filled(&message["content"]["thinking"]).map(Event::Thought));
                events.extend(filled(&message["content"]["text"]).map(Event::Text));
            }
            "tool-plan-delta" => events.extend(filled(&message["tool_plan"]).map(Event::Thought)),
            "tool-call-start" => return self.call_starts(&value, events),
            "tool-call-delta" => self.arguments(&value, events),
            "tool-call-end" => self.call_ends(&value, events),
            "message-end" => self.end(&value["delta"], events),
            "" => return Err(Malformed("an event has no type".to_owned())),
            // Also citations, and kinds to come.
            _ => {}
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

impl CohereReader {
    fn call_starts(&mut self, value: &Value, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if self.calls.len() >= CALLS_MAX {
            return Err(Malformed("too many calls of tools".to_owned()));
        }
        let call = read_call(&value["delta"]["message"]["tool_calls"]);
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        let number = value["index"].as_u64().unwrap_or_default();
        self.calls.push((number, !call.arguments.is_empty()));
        events.push(Event::ToolCall { index, call });
        Ok(())
    }

    fn arguments(&mut self, value: &Value, events: &mut Vec<Event>) {
        let function = &value["delta"]["message"]["tool_calls"]["function"];
        if let Some(delta) = filled(&function["arguments"])
            && let Some((index, said)) = self.call_at(value)
        {
            *said = true;
            events.push(Event::ToolArguments { index, delta });
        }
    }

    /// A tool without arguments may be called with nothing at all, which is no JSON.
    fn call_ends(&mut self, value: &Value, events: &mut Vec<Event>) {
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
        let number = value["index"].as_u64().unwrap_or_default();
        let place = self.calls.iter().rposition(|(at, _)| *at == number)?;
        Some((u32::try_from(place).ok()?, &mut self.calls[place].1))
    }

    fn end(&mut self, delta: &Value, events: &mut Vec<Event>) {
        events.extend(read_usage(&delta["usage"]).map(Event::Usage));
        let stop = read_stop(delta);
        let failed = stop
            .as_ref()
            .filter(|stop| stop.reason == StopReason::Error);
        if let Some(stop) = failed {
            let kind = if stop.native == "TIMEOUT" {
                FaultKind::Timeout
            } else {
                FaultKind::Server
            };
            let message = filled(&delta["error"]);
            events.push(Event::Fault(ProviderFault {
                kind,
                code: Some(stop.native.clone()),
                message: message.map_or_else(
                    || "the provider gave up in the middle of its answer".to_owned(),
                    |message| wait::cut(&message),
                ),
                retry_after: None,
            }));
            return;
        }
        events.extend(stop.map(Event::Stop));
        events.push(Event::End);
        self.whole = true;
    }
}

/// Writes what a reader of Cohere reads.
#[derive(Debug)]
pub struct CohereWriter {
    wants: Wants,
    started: bool,
    next: u64,
    /// The block of words that is open: its number, and whether it is of thoughts.
    open: Option<(u64, bool)>,
    calls: Vec<Called>,
    usage: Usage,
    stop: Option<Stop>,
    ended: bool,
}

#[derive(Debug)]
struct Called {
    index: u32,
    number: u64,
}

impl CohereWriter {
    pub fn new(wants: Wants) -> Self {
        Self {
            wants,
            started: false,
            next: 0,
            open: None,
            calls: Vec::new(),
            usage: Usage::default(),
            stop: None,
            ended: false,
        }
    }

    fn start(&mut self, id: &str, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let id = if id.is_empty() { &self.wants.id } else { id };
        let delta = json!({"message": {"role": "assistant"}});
        say(out, "message-start", json!({"id": id, "delta": delta}));
    }

    fn words(&mut self, text: &str, thought: bool, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        self.start("", out);
        let kind = if thought { "thinking" } else { "text" };
        let index = match self.open {
            Some((index, open)) if open == thought => index,
            _ => {
                self.close(out);
                let index = self.next;
                self.next += 1;
                self.open = Some((index, thought));
                let delta = json!({"message": {"content": {"type": kind, kind: ""}}});
                say(
                    out,
                    "content-start",
                    json!({"index": index, "delta": delta}),
                );
                index
            }
        };
        let delta = json!({"message": {"content": {kind: text}}});
        say(
            out,
            "content-delta",
            json!({"index": index, "delta": delta}),
        );
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some((index, _)) = self.open.take() {
            say(out, "content-end", json!({ "index": index }));
        }
    }

    fn call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        self.start("", out);
        self.close(out);
        let number = self.next;
        self.next += 1;
        let tool = json!({"id": call.id, "type": "function",
            "function": {"name": call.name, "arguments": call.arguments}});
        let delta = json!({"message": {"tool_calls": tool}});
        say(
            out,
            "tool-call-start",
            json!({"index": number, "delta": delta}),
        );
        self.calls.push(Called { index, number });
    }

    fn arguments(&mut self, index: u32, text: &str, out: &mut Vec<u8>) {
        let call = self.calls.iter().find(|call| call.index == index);
        if let Some(call) = call {
            let tool = json!({"function": {"arguments": text}});
            let delta = json!({"message": {"tool_calls": tool}});
            say(
                out,
                "tool-call-delta",
                json!({"index": call.number, "delta": delta}),
            );
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.start("", out);
        self.close(out);
        for call in std::mem::take(&mut self.calls) {
            say(out, "tool-call-end", json!({"index": call.number}));
        }
        let word = self.stop.as_ref().map_or("COMPLETE", stop_word);
        let delta = json!({"finish_reason": word, "usage": write_usage(&self.usage)});
        say(out, "message-end", json!({ "delta": delta }));
    }
}

impl Writer for CohereWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            _ if self.ended => {}
            Event::Start { id, .. } => self.start(id, out),
            Event::Text(text) | Event::Refusal(text) => self.words(text, false, out),
            Event::Thought(text) => self.words(text, true, out),
            Event::ToolCall { index, call } => self.call(*index, call, out),
            Event::ToolArguments { index, delta } => self.arguments(*index, delta, out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = *usage,
            Event::End => self.end(out),
            // The dialect has no place for them.
            Event::ThoughtSignature(_)
            | Event::ThoughtEncrypted(_)
            | Event::Image(_)
            | Event::Fault(_) => {}
        }
    }
}

/// One event; its name is in its data too.
pub fn say(out: &mut Vec<u8>, name: &str, data: Value) {
    let mut whole = json!({ "type": name });
    if let (Some(whole), Value::Object(data)) = (whole.as_object_mut(), data) {
        whole.extend(data);
    }
    out.extend_from_slice(format!("event: {name}\ndata: {whole}\n\n").as_bytes());
}
