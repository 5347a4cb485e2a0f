//! Writes the events of a response as `OpenAI` would: each item announced, told piece by piece and told again
//! whole, and all of them once more at the end, which is what SDKs keep.

use super::super::super::super::call::{Media, Thought, ToolCall};
use super::super::super::super::event::{Event, Stop, StopReason};
use super::super::super::super::sse::write_event;
use super::super::super::{Wants, Writer, openai};
use super::super::reply::{
    Sealed, Whole, call_item, image_item, item_id, message_item, refusal_part, text_part,
    thought_item,
};
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// What is told again is held until the end. Of a longer answer the beginning is told again.
const KEPT_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct ResponsesWriter {
    id: String,
    model: String,
    created: u64,
    sequence: u64,
    begun: bool,
    /// Items by their place; null for one that is open.
    output: Vec<Value>,
    words: Option<Words>,
    /// Calls may come side by side: they end with the answer.
    calls: Vec<OpenCall>,
    kept: usize,
    stop: Option<Stop>,
    usage: Option<Usage>,
}

/// A message or a thought that is being told.
#[derive(Debug)]
struct Words {
    kind: Kind,
    place: usize,
    id: String,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Refusal,
    Thought,
}

#[derive(Debug)]
struct OpenCall {
    index: u32,
    place: usize,
    id: String,
    call: ToolCall,
}

impl Kind {
    /// The names of its piece and of its whole, and what the whole is called there.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text => (
                "response.output_text.delta",
                "response.output_text.done",
                "text",
            ),
            Self::Refusal => ("response.refusal.delta", "response.refusal.done", "refusal"),
            Self::Thought => (
                "response.reasoning_summary_text.delta",
                "response.reasoning_summary_text.done",
                "text",
            ),
        }
    }

    /// The names of its part's beginning and end, and of the part's place.
    fn part_names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text | Self::Refusal => (
                "response.content_part.added",
                "response.content_part.done",
                "content_index",
            ),
            Self::Thought => (
                "response.reasoning_summary_part.added",
                "response.reasoning_summary_part.done",
                "summary_index",
            ),
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Self::Text => text_part(text),
            Self::Refusal => refusal_part(text),
            Self::Thought => json!({"type": "summary_text", "text": text}),
        }
    }
}

impl Writer for ResponsesWriter {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model } => {
                if !self.begun {
                    replace(&mut self.id, id);
                    replace(&mut self.model, model);
                }
                self.begin(out);
            }
            Event::Text(text) => self.say(Kind::Text, text, out),
            Event::Refusal(text) => self.say(Kind::Refusal, text, out),
            Event::Thought(text) => self.say(Kind::Thought, text, out),
            Event::ThoughtSignature(proof) => self.seal(
                Thought {
                    signature: Some(proof.clone()),
                    ..Thought::default()
                },
                out,
            ),
            Event::ThoughtEncrypted(hidden) => self.seal(
                Thought {
                    encrypted: Some(hidden.clone()),
                    ..Thought::default()
                },
                out,
            ),
            Event::ToolCall { index, call } => self.open_call(*index, call, out),
            Event::ToolArguments { index, delta } => self.arguments(*index, delta, out),
            Event::Image(media) => self.image(media, out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => self.end(out),
            Event::Fault(_) => {}
        }
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl ResponsesWriter {
    pub fn new(wants: Wants) -> Self {
        Self {
            id: wants.id,
            model: wants.model,
            created: wants.created,
            sequence: 0,
            begun: false,
            output: Vec::new(),
            words: None,
            calls: Vec::new(),
            kept: 0,
            stop: None,
            usage: None,
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.begun {
            return;
        }
        self.begun = true;
        for name in ["response.created", "response.in_progress"] {
            let response = self.whole(Vec::new()).object();
            self.emit(name, json!({"response": response}), out);
        }
    }

    fn say(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if self.words.as_ref().is_none_or(|words| words.kind != kind) {
            self.close_words(None, out);
            self.open_words(kind, None, out);
            self.open_part(out);
        }
        let Some(mut words) = self.words.take() else {
            return;
        };
        self.keep(&mut words.text, text);
        let mut event = words.place_in();
        event["delta"] = text.into();
        if kind == Kind::Text {
            event["logprobs"] = json!([]);
        }
        self.words = Some(words);
        self.emit(kind.names().0, event, out);
    }

    fn open_words(&mut self, kind: Kind, id: Option<String>, out: &mut Vec<u8>) {
        self.begin(out);
        let place = self.output.len();
        self.output.push(Value::Null);
        let prefix = if kind == Kind::Thought { "rs" } else { "msg" };
        let id = id.unwrap_or_else(|| item_id(prefix, &self.id, place));
        let item = match kind {
            Kind::Thought => thought_item(&id, "", None),
            Kind::Text | Kind::Refusal => message_item(&id, "in_progress", Vec::new()),
        };
        self.emit(
            "response.output_item.added",
            json!({"output_index": place, "item": item}),
            out,
        );
        self.words = Some(Words {
            kind,
            place,
            id,
            text: String::new(),
        });
    }

    fn open_part(&mut self, out: &mut Vec<u8>) {
        if let Some(words) = &self.words {
            let (added, _, _) = words.kind.part_names();
            let mut event = words.place_in();
            event["part"] = words.kind.part("");
            self.emit(added, event, out);
        }
    }

    fn close_words(&mut self, encrypted: Option<&str>, out: &mut Vec<u8>) {
        let Some(words) = self.words.take() else {
            return;
        };
        let (_, done, whole) = words.kind.names();
        let (_, part_done, _) = words.kind.part_names();
        if !words.text.is_empty() {
            let mut event = words.place_in();
            event[whole] = words.text.as_str().into();
            if words.kind == Kind::Text {
                event["logprobs"] = json!([]);
            }
            self.emit(done, event, out);
            let mut event = words.place_in();
            event["part"] = words.kind.part(&words.text);
            self.emit(part_done, event, out);
        }
        let item = match words.kind {
            Kind::Thought => thought_item(&words.id, &words.text, encrypted),
            Kind::Text | Kind::Refusal => {
                message_item(&words.id, "completed", vec![words.kind.part(&words.text)])
            }
        };
        self.close_item(words.place, item, out);
    }

    /// What proves or hides a thought ends its item.
    fn seal(&mut self, thought: Thought, out: &mut Vec<u8>) {
        let open = self
            .words
            .as_ref()
            .filter(|words| words.kind == Kind::Thought);
        let id = open.map(|words| words.id.clone());
        let place = self.output.len();
        let sealed = Sealed::of(
            &thought,
            id.clone().unwrap_or_else(|| item_id("rs", &self.id, place)),
        );
        if id.is_none() {
            self.close_words(None, out);
            self.open_words(Kind::Thought, Some(sealed.id), out);
        }
        self.close_words(sealed.content.as_deref(), out);
    }

    fn open_call(&mut self, index: u32, call: &ToolCall, out: &mut Vec<u8>) {
        self.begin(out);
        self.close_words(None, out);
        let place = self.output.len();
        self.output.push(Value::Null);
        let id = item_id("fc", &self.id, place);
        let empty = ToolCall {
            arguments: String::new(),
            ..call.clone()
        };
        let item = call_item(&id, &empty, "in_progress");
        self.emit(
            "response.output_item.added",
            json!({"output_index": place, "item": item}),
            out,
        );
        self.calls.push(OpenCall {
            index,
            place,
            id,
            call: empty,
        });
        self.arguments(index, &call.arguments, out);
    }

    fn arguments(&mut self, index: u32, delta: &str, out: &mut Vec<u8>) {
        let at = self.calls.iter().rposition(|call| call.index == index);
        let Some(at) = at.filter(|_| !delta.is_empty()) else {
            return;
        };
        let mut arguments = std::mem::take(&mut self.calls[at].call.arguments);
        self.keep(&mut arguments, delta);
        let open = &mut self.calls[at];
        open.call.arguments = arguments;
        let event = json!({"item_id": open.id, "output_index": open.place, "delta": delta});
        self.emit("response.function_call_arguments.delta", event, out);
    }

    /// Calls without arguments.
    fn bare(&self) -> Vec<u32> {
        let bare = self
            .calls
            .iter()
            .filter(|open| open.call.arguments.is_empty());
        bare.map(|open| open.index).collect()
    }

    fn image(&mut self, media: &Media, out: &mut Vec<u8>) {
        self.begin(out);
        self.close_words(None, out);
        let place = self.output.len();
        if let Some(item) = image_item(&item_id("ig", &self.id, place), media) {
            self.output.push(Value::Null);
            let event = json!({"output_index": place, "item": item});
            self.emit("response.output_item.added", event, out);
            self.close_item(place, item, out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        self.close_words(None, out);
        for index in self.bare() {
            self.arguments(index, openai::or_empty(""), out);
        }
        for open in std::mem::take(&mut self.calls) {
            let event = json!({
                "item_id": open.id,
                "output_index": open.place,
                "name": open.call.name,
                "arguments": open.call.arguments,
            });
            self.emit("response.function_call_arguments.done", event, out);
            let item = call_item(&open.id, &open.call, "completed");
            self.close_item(open.place, item, out);
        }
        self.stop.get_or_insert_with(|| Stop {
            reason: StopReason::Stop,
            native: String::new(),
            sequence: None,
        });
        let output = std::mem::take(&mut self.output);
        let whole = self.whole(output);
        let name = match whole.status() {
            "incomplete" => "response.incomplete",
            "failed" => "response.failed",
            _ => "response.completed",
        };
        let response = whole.object();
        self.emit(name, json!({"response": response}), out);
    }

    fn close_item(&mut self, place: usize, item: Value, out: &mut Vec<u8>) {
        let event = json!({"output_index": place, "item": item});
        self.output[place] = item;
        self.emit("response.output_item.done", event, out);
    }

    fn whole(&self, output: Vec<Value>) -> Whole<'_> {
        Whole {
            id: &self.id,
            model: &self.model,
            created: self.created,
            output,
            stop: self.stop.as_ref(),
            usage: self.usage.as_ref(),
        }
    }

    fn keep(&mut self, text: &mut String, more: &str) {
        if self.kept + more.len() <= KEPT_BYTES_MAX {
            self.kept += more.len();
            text.push_str(more);
        }
    }

    fn emit(&mut self, name: &str, mut event: Value, out: &mut Vec<u8>) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        write_event(out, Some(name), event.to_string().as_bytes());
    }
}

impl Words {
    fn place_in(&self) -> Value {
        let (_, _, part) = self.kind.part_names();
        json!({"item_id": self.id, "output_index": self.place, part: 0})
    }
}

/// By what is said, if anything is.
fn replace(name: &mut String, said: &str) {
    if !said.is_empty() {
        said.clone_into(name);
    }
}
