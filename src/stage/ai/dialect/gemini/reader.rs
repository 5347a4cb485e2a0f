//! A stream of Gemini's API (`alt=sse`): each event is an answer of its own, with what is new in it.

use super::super::super::call::Part;
use super::super::super::event::Event;
use super::super::super::fault::Malformed;
use super::super::{Frame, Reader};
use super::answer::{Namer, filled, read_blocked, read_call, read_stop, read_usage, text_of};
use super::faults::fault_in_stream;
use super::media::{media_part, read_blob};
use serde_json::{Value, json};

/// The dialect has no mark of its end: an answer is whole when it has said why it ends and the connection has ended.
#[derive(Debug, Default)]
pub struct GeminiReader {
    started: bool,
    calls: u32,
    namer: Namer,
    whole: bool,
}

impl Reader for GeminiReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if frame.data.is_empty() {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("an event is not JSON: {fault}")))?;
        if !value.is_object() {
            return Err(Malformed("an event is not an object".to_owned()));
        }
        if value["error"].is_object() {
            self.whole = false;
            events.push(Event::Fault(fault_in_stream(&value)));
            return Ok(());
        }
        self.answer(&value, events);
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

impl GeminiReader {
    fn answer(&mut self, value: &Value, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::Start {
                id: text_of(&value["responseId"]),
                model: text_of(&value["modelVersion"]),
            });
        }
        self.namer.response(value);
        // Several candidates are only made for callers who speak the dialect themselves; the first is read.
        let candidate = &value["candidates"][0];
        for part in candidate["content"]["parts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            self.part(part, events);
        }
        let stop = match read_blocked(value) {
            Some((stop, words)) => {
                events.extend(words.map(Event::Refusal));
                Some(stop)
            }
            None => read_stop(candidate, self.calls > 0),
        };
        if let Some(stop) = stop {
            self.whole = true;
            events.push(Event::Stop(stop));
        }
        events.extend(read_usage(value).map(Event::Usage));
    }

    fn part(&mut self, part: &Value, events: &mut Vec<Event>) {
        if part["thought"] == json!(true) {
            events.extend(filled(&part["text"]).map(Event::Thought));
            events.extend(filled(&part["thoughtSignature"]).map(Event::ThoughtSignature));
        } else if let Some(call) = read_call(part, &mut self.namer) {
            events.push(Event::ToolCall {
                index: self.calls,
                call,
            });
            self.calls = self.calls.saturating_add(1);
        } else if let Some(media) = read_blob(part) {
            if let Part::Image(media) = media_part(media) {
                events.push(Event::Image(media));
            }
        } else {
            events.extend(filled(&part["text"]).map(Event::Text));
        }
    }
}
