//! Whole answers of Anthropic's API, and what streams share with them: usage and reasons.

use super::super::super::call::{Media, Part, Source, Thought, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use crate::base::usage::Usage;
use serde_json::{Value, json};

pub fn read_reply(body: &[u8]) -> Result<Reply, Malformed> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|fault| Malformed(format!("the answer is not JSON: {fault}")))?;
    let Some(content) = value["content"].as_array() else {
        return Err(Malformed("the answer is not a message".to_owned()));
    };
    let mut parts: Vec<Part> = content.iter().filter_map(read_block).collect();
    parts.extend(read_refusal(&value["stop_details"]).map(Part::Refusal));
    let stop = read_stop(&value)
        .ok_or_else(|| Malformed("the answer does not say why it ends".to_owned()))?;
    let mut counts = Counts::default();
    counts.read(&value["usage"]);
    Ok(Reply {
        id: text_of(&value["id"]),
        model: text_of(&value["model"]),
        created: 0,
        parts,
        stop,
        usage: value["usage"].is_object().then(|| counts.usage()),
    })
}

pub fn write_reply(reply: &Reply) -> Vec<u8> {
    let content: Vec<Value> = reply.parts.iter().flat_map(write_block).collect();
    json!({
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop_word(&reply.stop),
        "stop_sequence": reply.stop.sequence,
        "usage": write_usage(&reply.usage.unwrap_or_default()),
    })
    .to_string()
    .into_bytes()
}

/// Blocks of tools that the provider ran itself have no place in an answer; its words about them do.
fn read_block(block: &Value) -> Option<Part> {
    Some(match block["type"].as_str()? {
        "text" => Part::Text(block["text"].as_str().filter(|t| !t.is_empty())?.to_owned()),
        "thinking" => Part::Thought(Thought {
            text: text_of(&block["thinking"]),
            signature: filled(&block["signature"]),
            encrypted: None,
        }),
        "redacted_thinking" => Part::Thought(Thought {
            encrypted: Some(text_of(&block["data"])),
            ..Thought::default()
        }),
        "tool_use" => Part::ToolCall(ToolCall {
            id: text_of(&block["id"]),
            name: text_of(&block["name"]),
            arguments: match &block["input"] {
                Value::Null => "{}".to_owned(),
                input => input.to_string(),
            },
            signature: None,
        }),
        _ => return None,
    })
}

fn write_block(part: &Part) -> Vec<Value> {
    let text = |text: &str| json!({"type": "text", "text": text});
    match part {
        Part::Text(words) | Part::Refusal(words) if words.is_empty() => Vec::new(),
        Part::Text(words) | Part::Refusal(words) => vec![text(words)],
        Part::Image(media) => vec![text(&picture_in_words(media))],
        Part::ToolCall(call) => vec![json!({
            "type": "tool_use", "id": call.id, "name": call.name, "input": input_of(&call.arguments),
        })],
        Part::Thought(thought) => {
            let mut blocks = Vec::new();
            if !thought.text.is_empty() || thought.signature.is_some() {
                let signature = thought.signature.as_deref().unwrap_or_default();
                blocks.push(
                    json!({"type": "thinking", "thinking": thought.text, "signature": signature}),
                );
            }
            if let Some(data) = &thought.encrypted {
                blocks.push(json!({"type": "redacted_thinking", "data": data}));
            }
            blocks
        }
        // No model answers with these.
        Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => Vec::new(),
    }
}

/// The dialect has no pictures in answers: one is shown as Markdown, which clients that show text can show too.
pub fn picture_in_words(media: &Media) -> String {
    let address = match &media.source {
        Source::Url(url) | Source::FileId(url) => url.clone(),
        Source::Base64(data) => {
            let media_type = media.media_type.as_deref().unwrap_or("image/png");
            format!("data:{media_type};base64,{data}")
        }
    };
    format!("![image]({address})")
}

/// Arguments must be an object here; what a model wrote instead is kept under `arguments`.
pub fn input_of(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(input @ Value::Object(_)) => input,
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({ "arguments": arguments }),
    }
}

/// From an object with `stop_reason`; none while it is not known.
pub fn read_stop(value: &Value) -> Option<Stop> {
    let native = value["stop_reason"].as_str()?;
    let reason = match native {
        "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
        "tool_use" => StopReason::ToolCalls,
        "refusal" => StopReason::ContentFilter,
        // Also `pause_turn`: the answer may be sent back to go on with.
        _ => StopReason::Stop,
    };
    Some(Stop {
        reason,
        native: native.to_owned(),
        sequence: value["stop_sequence"].as_str().map(str::to_owned),
    })
}

/// Why a model does not answer, in words.
pub fn read_refusal(details: &Value) -> Option<String> {
    filled(&details["explanation"])
}

/// The dialect has no word for a provider's failure: an answer that is not whole has reached its length.
pub fn stop_word(stop: &Stop) -> &str {
    match (stop.reason, stop.native.as_str()) {
        (StopReason::Stop, "pause_turn") => "pause_turn",
        (StopReason::Stop, _) if stop.sequence.is_some() => "stop_sequence",
        (StopReason::Stop, _) => "end_turn",
        (StopReason::Length, "model_context_window_exceeded") => "model_context_window_exceeded",
        (StopReason::Length | StopReason::Error, _) => "max_tokens",
        (StopReason::ToolCalls, _) => "tool_use",
        (StopReason::ContentFilter, _) => "refusal",
    }
}

/// Counts as they come: in a stream each is of all so far, and the last that is not null stands.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    input: u64,
    cache_read: u64,
    cache_written: u64,
    cache_written_hour: u64,
    output: u64,
    thinking: u64,
    searches: u64,
}

impl Counts {
    pub fn read(&mut self, usage: &Value) {
        let rows = [
            (&mut self.input, &usage["input_tokens"]),
            (&mut self.cache_read, &usage["cache_read_input_tokens"]),
            (
                &mut self.cache_written,
                &usage["cache_creation_input_tokens"],
            ),
            (
                &mut self.cache_written_hour,
                &usage["cache_creation"]["ephemeral_1h_input_tokens"],
            ),
            (&mut self.output, &usage["output_tokens"]),
            (
                &mut self.thinking,
                &usage["output_tokens_details"]["thinking_tokens"],
            ),
            (
                &mut self.searches,
                &usage["server_tool_use"]["web_search_requests"],
            ),
        ];
        for (count, value) in rows {
            if let Some(value) = value.as_u64() {
                *count = value;
            }
        }
    }

    /// `input_tokens` is without the cache; `output_tokens` is with thoughts, the hour's writes are among all.
    pub fn usage(&self) -> Usage {
        let hour = self.cache_written_hour.min(self.cache_written);
        let thinking = self.thinking.min(self.output);
        Usage {
            input: self.input,
            cache_read: self.cache_read,
            cache_write: self.cache_written - hour,
            cache_write_hour: hour,
            output: self.output - thinking,
            reasoning: thinking,
            searches: self.searches,
            ..Usage::default()
        }
    }
}

pub fn write_usage(usage: &Usage) -> Value {
    let input = [usage.input, usage.input_audio, usage.input_image]
        .into_iter()
        .fold(0, u64::saturating_add);
    let mut value = json!({
        "input_tokens": input,
        "cache_creation_input_tokens": usage.cache_write.saturating_add(usage.cache_write_hour),
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.total_output(),
    });
    if usage.cache_write_hour > 0 {
        value["cache_creation"] = json!({
            "ephemeral_5m_input_tokens": usage.cache_write,
            "ephemeral_1h_input_tokens": usage.cache_write_hour,
        });
    }
    if usage.reasoning > 0 {
        value["output_tokens_details"] = json!({"thinking_tokens": usage.reasoning});
    }
    if usage.searches > 0 {
        value["server_tool_use"] = json!({"web_search_requests": usage.searches});
    }
    value
}

pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A text that is not empty.
pub fn filled(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
