//! Reads chunks, whoever of those that speak the dialect sent them.

use super::super::super::super::call::{Part, ToolCall};
use super::super::super::super::event::{Event, StopReason};
use super::super::super::super::fault::{FaultKind, Malformed, ProviderFault};
use super::super::super::super::sse::write_event;
use super::super::super::{Frame, Keep, Reader, Wants, openai};
use super::super::reply::{read_content, stop_of};
use crate::base::usage::Usage;
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

/// More calls at once are no answer of a model.
const TOOL_CALLS_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct ChatReader {
    phase: Phase,
    /// Choices by their index, one bit each: those that said something, and those that said why they end.
    begun: u128,
    ended: u128,
    /// Of each call its index on the wire and its id.
    calls: Vec<(u32, String)>,
    usage: Option<Usage>,
    /// The last frame was only there for the usage that the caller may not have asked for.
    only_usage: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No name was given yet.
    #[default]
    Before,
    Started,
    /// Nothing that follows counts.
    Failed,
    Done,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    x_groq: Option<Groq>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    native_finish_reason: Option<String>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Value,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
    #[serde(default)]
    images: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<u32>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Value,
}

#[derive(Deserialize)]
struct Groq {
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

impl Reader for ChatReader {
    fn read(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<(), Malformed> {
        self.only_usage = false;
        if frame.data.is_empty() || self.phase == Phase::Failed {
            return Ok(());
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            self.phase = Phase::Done;
            events.push(Event::End);
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(&frame.data)
            .map_err(|fault| Malformed(format!("not a chunk: {fault}")))?;
        self.read_chunk(chunk, events)
    }

    /// Also where `[DONE]` is missing, but every choice said why it ends.
    fn is_whole(&self) -> bool {
        match self.phase {
            Phase::Failed => false,
            Phase::Done => true,
            Phase::Before | Phase::Started => self.begun != 0 && self.begun == self.ended,
        }
    }

    fn end_mark(&self) -> Option<&'static [u8]> {
        (self.phase != Phase::Done && self.is_whole()).then_some(b"data: [DONE]\n\n")
    }

    fn keep(&self, frame: &Frame, wants: &Wants) -> Keep {
        if wants.usage {
            Keep::Whole
        } else if self.only_usage {
            Keep::Nothing
        } else {
            match without_null_usage(&frame.data) {
                Some(data) => {
                    let mut out = Vec::new();
                    write_event(&mut out, None, &data);
                    Keep::Instead(Bytes::from(out))
                }
                None => Keep::Whole,
            }
        }
    }
}

impl ChatReader {
    fn read_chunk(&mut self, chunk: Chunk, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let Chunk {
            id,
            model,
            choices,
            usage,
            x_groq,
            error,
        } = chunk;
        let groq_error = x_groq.as_ref().and_then(|groq| groq.error.clone());
        let choices = choices.unwrap_or_default();
        let choice_error = choices.iter().find_map(|choice| choice.error.clone());
        if let Some(error) = error.or(groq_error).or(choice_error) {
            self.phase = Phase::Failed;
            events.push(Event::Fault(openai::fault_of(None, &error)));
            return Ok(());
        }
        self.start(id, model, events);
        self.only_usage = choices.is_empty() && usage.is_some();
        for choice in choices {
            self.read_choice(choice, events)?;
        }
        // Groq counts twice where usage was asked for: a count that is known is not told again.
        let counted = usage.or_else(|| x_groq?.usage);
        if let Some(usage) = openai::read_usage(&counted.unwrap_or_default())?
            && self.usage != Some(usage)
        {
            self.usage = Some(usage);
            events.push(Event::Usage(usage));
        }
        Ok(())
    }

    /// Azure's first chunk has neither name.
    fn start(&mut self, id: Option<String>, model: Option<String>, events: &mut Vec<Event>) {
        let id = id.unwrap_or_default();
        let model = model.unwrap_or_default();
        let named = !id.is_empty() || !model.is_empty();
        if named && self.phase == Phase::Before {
            self.phase = Phase::Started;
            events.push(Event::Start { id, model });
        }
    }

    fn read_choice(&mut self, choice: Choice, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let bit = 1_u128.checked_shl(choice.index).unwrap_or_default();
        self.begun |= bit;
        if let Some(delta) = choice.delta {
            self.read_delta(delta, events)?;
        }
        let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) else {
            return Ok(());
        };
        let native = choice.native_finish_reason.as_deref();
        let stop = stop_of(&reason, native, !self.calls.is_empty());
        if stop.reason == StopReason::Error {
            self.phase = Phase::Failed;
            events.push(Event::Fault(broken_off(stop.native)));
        } else {
            self.ended |= bit;
            events.push(Event::Stop(stop));
        }
        Ok(())
    }

    fn read_delta(&mut self, delta: Delta, events: &mut Vec<Event>) -> Result<(), Malformed> {
        if let Some(text) = delta.reasoning_content.or(delta.reasoning)
            && !text.is_empty()
        {
            events.push(Event::Thought(text));
        }
        match delta.content {
            Value::String(text) => {
                if !text.is_empty() {
                    events.push(Event::Text(text));
                }
            }
            content => {
                let mut parts = Vec::new();
                read_content(&content, &mut parts);
                events.extend(parts.into_iter().filter_map(|part| match part {
                    Part::Text(text) => Some(Event::Text(text)),
                    Part::Thought(thought) => Some(Event::Thought(thought.text)),
                    _ => None,
                }));
            }
        }
        if let Some(text) = delta.refusal
            && !text.is_empty()
        {
            events.push(Event::Refusal(text));
        }
        for image in delta.images.into_iter().flatten() {
            if let Some(url) = image["image_url"]["url"].as_str() {
                events.push(Event::Image(openai::media_of(url.to_owned())));
            }
        }
        for call in delta.tool_calls.into_iter().flatten() {
            self.read_call(call, events)?;
        }
        Ok(())
    }

    fn read_call(&mut self, call: CallDelta, events: &mut Vec<Event>) -> Result<(), Malformed> {
        let id = call.id.unwrap_or_default();
        let (name, arguments) = call
            .function
            .map(|function| (function.name, openai::arguments(&function.arguments)))
            .unwrap_or_default();
        let at = match self.known_call(call.index, &id) {
            Some(at) => at,
            None if self.calls.len() >= TOOL_CALLS_MAX => {
                return Err(Malformed(format!(
                    "more than {TOOL_CALLS_MAX} calls of tools"
                )));
            }
            None => {
                let at = self.calls.len();
                let wire = call.index.unwrap_or(u32::MAX);
                self.calls.push((wire, id.clone()));
                events.push(Event::ToolCall {
                    index: number(at),
                    call: ToolCall {
                        id: if id.is_empty() {
                            format!("call_{at}")
                        } else {
                            id
                        },
                        name: name.unwrap_or_default(),
                        arguments: String::new(),
                        signature: None,
                    },
                });
                at
            }
        };
        if !arguments.is_empty() {
            events.push(Event::ToolArguments {
                index: number(at),
                delta: arguments,
            });
        }
        Ok(())
    }

    /// Some servers give no index, some give every call the first one, some repeat the id with every delta.
    fn known_call(&self, index: Option<u32>, id: &str) -> Option<usize> {
        let same = |known: &String| id.is_empty() || known == id;
        match index {
            Some(index) => self
                .calls
                .iter()
                .rposition(|(wire, known)| *wire == index && same(known)),
            None if id.is_empty() => self.calls.len().checked_sub(1),
            None => self.calls.iter().rposition(|(_, known)| known == id),
        }
    }
}

/// The reason is all that is said: Mistral's `error`, `DeepSeek`'s `insufficient_system_resource`.
fn broken_off(reason: String) -> ProviderFault {
    ProviderFault {
        kind: if reason == "insufficient_system_resource" {
            FaultKind::Overloaded
        } else {
            FaultKind::Server
        },
        message: "the provider broke off its answer".to_owned(),
        code: Some(reason),
        retry_after: None,
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The chunk without its `"usage":null`, if it has one: only those have it who asked for usage. Within a text the
/// quotes would be escaped, so what looks like a member is one.
fn without_null_usage(data: &[u8]) -> Option<Vec<u8>> {
    memmem::find_iter(data, b"\"usage\"").find_map(|start| {
        let value = data[start + b"\"usage\"".len()..].trim_ascii_start();
        let value = value.strip_prefix(b":")?.trim_ascii_start();
        let rest = value.strip_prefix(b"null")?.trim_ascii_start();
        let before = data[..start].trim_ascii_end();
        let (before, rest) = match (before.strip_suffix(b","), rest.strip_prefix(b",")) {
            (Some(before), _) => (before, rest),
            (None, Some(rest)) => (before, rest),
            (None, None) => (before, rest),
        };
        Some([before, rest].concat())
    })
}

#[cfg(test)]
mod tests {
    use super::without_null_usage;

    #[test]
    fn a_null_usage_is_cut_out_and_nothing_else() {
        for (data, expected) in [
            (r#"{"a":1,"usage":null}"#, Some(r#"{"a":1}"#)),
            (r#"{"usage":null,"a":1}"#, Some(r#"{"a":1}"#)),
            (r#"{"a":1,"usage":null,"b":2}"#, Some(r#"{"a":1,"b":2}"#)),
            (r#"{"usage":null}"#, Some("{}")),
            (r#"{ "a":1 , "usage" : null }"#, Some(r#"{ "a":1 }"#)),
            (r#"{"a":"usage","usage":null}"#, Some(r#"{"a":"usage"}"#)),
            (r#"{"a":1,"usage":{"x":null}}"#, None),
            (r#"{"a":"\"usage\":null"}"#, None),
            (r#"{"a":1}"#, None),
            ("[DONE]", None),
            ("", None),
        ] {
            let found = without_null_usage(data.as_bytes());
            let found = found.map(|data| String::from_utf8(data).unwrap());
            assert_eq!(found.as_deref(), expected, "{data}");
        }
    }
}
