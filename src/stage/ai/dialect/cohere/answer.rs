//! Whole answers of Cohere's chat, and what streams share with them.

use super::super::super::call::{Part, Thought, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// It does not name its model. Plans for the use of tools are thoughts.
pub fn read_reply(body: &[u8]) -> Result<Reply, Malformed> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|fault| Malformed(format!("the answer is not JSON: {fault}")))?;
    let message = &value["message"];
    let Some(stop) = read_stop(&value).filter(|_| message.is_object()) else {
        return Err(Malformed(
            "the answer is not a message that has ended".to_owned(),
        ));
    };
    let mut parts: Vec<Part> = Vec::new();
    parts.extend(filled(&message["tool_plan"]).map(thought));
    for block in message["content"].as_array().into_iter().flatten() {
        parts.extend(filled(&block["thinking"]).map(thought));
        parts.extend(filled(&block["text"]).map(Part::Text));
    }
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    parts.extend(calls.map(|call| Part::ToolCall(read_call(call))));
    Ok(Reply {
        id: filled(&value["id"]).unwrap_or_default(),
        model: String::new(),
        created: 0,
        parts,
        stop,
        usage: read_usage(&value["usage"]),
    })
}

pub fn write_reply(reply: &Reply) -> Vec<u8> {
    let mut content = Vec::new();
    let mut calls = Vec::new();
    for part in &reply.parts {
        match part {
            Part::Text(text) | Part::Refusal(text) => {
                content.push(json!({"type": "text", "text": text}));
            }
            Part::Thought(thought) => {
                content.push(json!({"type": "thinking", "thinking": thought.text}));
            }
            Part::ToolCall(call) => calls.push(json!({"id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments}})),
            // The dialect has no place for them.
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => {}
        }
    }
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    json!({
        "id": reply.id,
        "finish_reason": stop_word(&reply.stop),
        "message": message,
        "usage": write_usage(&reply.usage.unwrap_or_default()),
    })
    .to_string()
    .into_bytes()
}

pub fn read_call(call: &Value) -> ToolCall {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ToolCall {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: text(&call["function"]["arguments"]),
        signature: None,
    }
}

fn thought(text: String) -> Part {
    Part::Thought(Thought {
        text,
        ..Thought::default()
    })
}

/// From an object with `finish_reason`.
pub fn read_stop(value: &Value) -> Option<Stop> {
    let native = filled(&value["finish_reason"])?;
    let reason = match native.to_ascii_uppercase().as_str() {
        "MAX_TOKENS" | "ERROR_LIMIT" => StopReason::Length,
        "TOOL_CALL" => StopReason::ToolCalls,
        "ERROR_TOXIC" => StopReason::ContentFilter,
        "ERROR" | "TIMEOUT" => StopReason::Error,
        _ => StopReason::Stop,
    };
    Some(Stop {
        reason,
        native,
        sequence: None,
    })
}

pub fn stop_word(stop: &Stop) -> &'static str {
    match stop.reason {
        StopReason::Stop if stop.sequence.is_some() => "STOP_SEQUENCE",
        StopReason::Stop => "COMPLETE",
        StopReason::Length => "MAX_TOKENS",
        StopReason::ToolCalls => "TOOL_CALL",
        StopReason::ContentFilter => "ERROR_TOXIC",
        StopReason::Error => "ERROR",
    }
}

/// What is billed, and where that is not told, what was read and written. Cached tokens are among those read.
pub fn read_usage(value: &Value) -> Option<Usage> {
    if !value.is_object() {
        return None;
    }
    let count = |name: &str| {
        let billed = number(&value["billed_units"][name]);
        billed
            .or_else(|| number(&value["tokens"][name]))
            .unwrap_or_default()
    };
    let input = count("input_tokens");
    let cached = number(&value["cached_tokens"])
        .unwrap_or_default()
        .min(input);
    Some(Usage {
        input: input - cached,
        cache_read: cached,
        output: count("output_tokens"),
        searches: number(&value["billed_units"]["search_units"]).unwrap_or_default(),
        ..Usage::default()
    })
}

pub fn write_usage(usage: &Usage) -> Value {
    let counts = json!({
        "input_tokens": usage.total_input(),
        "output_tokens": usage.total_output(),
    });
    let mut billed = counts.clone();
    if usage.searches > 0 {
        billed["search_units"] = json!(usage.searches);
    }
    json!({"billed_units": billed, "tokens": counts, "cached_tokens": usage.cache_read})
}

/// Counts are written with a point here.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let count = value.as_f64().filter(|count| (0.0..1e15).contains(count))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        Some(count as u64)
    })
}

/// A text that is not empty.
pub fn filled(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
