//! Whole answers of `Converse`, and what streams share with them.

use super::super::super::call::{Media, Part, Source, Thought, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use super::super::messages::input_of;
use crate::base::usage::Usage;
use serde_json::{Value, json};

/// It names neither itself nor its model.
pub fn read_reply(body: &[u8]) -> Result<Reply, Malformed> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|fault| Malformed(format!("the answer is not JSON: {fault}")))?;
    let Some(content) = value["output"]["message"]["content"].as_array() else {
        return Err(Malformed("the answer has no message".to_owned()));
    };
    let stop = read_stop(&value)
        .ok_or_else(|| Malformed("the answer does not say why it ends".to_owned()))?;
    Ok(Reply {
        id: String::new(),
        model: String::new(),
        created: 0,
        parts: content.iter().filter_map(read_block).collect(),
        stop,
        usage: read_usage(&value["usage"]),
    })
}

pub fn write_reply(reply: &Reply) -> Vec<u8> {
    let content: Vec<Value> = reply.parts.iter().filter_map(write_block).collect();
    json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop_word(&reply.stop),
        "usage": write_usage(&reply.usage.unwrap_or_default()),
    })
    .to_string()
    .into_bytes()
}

fn read_block(block: &Value) -> Option<Part> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(words) = text(&block["text"]) {
        return (!words.is_empty()).then_some(Part::Text(words));
    }
    if let Some(call) = block.get("toolUse") {
        return Some(Part::ToolCall(ToolCall {
            id: text(&call["toolUseId"])?,
            name: text(&call["name"])?,
            arguments: match &call["input"] {
                Value::Null => "{}".to_owned(),
                input => input.to_string(),
            },
            signature: None,
        }));
    }
    if let Some(image) = block.get("image") {
        let format = image["format"].as_str().unwrap_or("png");
        return Some(Part::Image(Media {
            media_type: Some(format!("image/{format}")),
            source: Source::Base64(text(&image["source"]["bytes"])?),
            detail: None,
            name: None,
        }));
    }
    let thought = block.get("reasoningContent")?;
    Some(Part::Thought(Thought {
        text: text(&thought["reasoningText"]["text"]).unwrap_or_default(),
        signature: text(&thought["reasoningText"]["signature"]).filter(|s| !s.is_empty()),
        encrypted: text(&thought["redactedContent"]),
    }))
}

fn write_block(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) | Part::Refusal(text) => json!({ "text": text }),
        Part::ToolCall(call) => {
            let input = input_of(&call.arguments);
            json!({"toolUse": {"toolUseId": call.id, "name": call.name, "input": input}})
        }
        Part::Thought(thought) => match &thought.encrypted {
            Some(data) => json!({"reasoningContent": {"redactedContent": data}}),
            None => json!({"reasoningContent": {"reasoningText":
                {"text": thought.text, "signature": thought.signature}}}),
        },
        Part::Image(Media {
            media_type,
            source: Source::Base64(data),
            ..
        }) => {
            let format = media_type
                .as_deref()
                .and_then(|kind| kind.strip_prefix("image/"));
            let format = format.unwrap_or("png");
            json!({"image": {"format": format, "source": {"bytes": data}}})
        }
        Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => return None,
    })
}

/// From an object with `stopReason`.
pub fn read_stop(value: &Value) -> Option<Stop> {
    let native = value["stopReason"].as_str()?;
    let reason = match native {
        "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
        "tool_use" => StopReason::ToolCalls,
        "guardrail_intervened" | "content_filtered" | "refusal" => StopReason::ContentFilter,
        // Also `malformed_model_output` and `malformed_tool_use`, by their native words.
        _ => StopReason::Stop,
    };
    let sequence = &value["additionalModelResponseFields"]["stop_sequence"];
    Some(Stop {
        reason,
        native: native.to_owned(),
        sequence: sequence.as_str().map(str::to_owned),
    })
}

pub fn stop_word(stop: &Stop) -> &'static str {
    match stop.reason {
        StopReason::Stop if stop.sequence.is_some() => "stop_sequence",
        StopReason::Stop => "end_turn",
        StopReason::Length | StopReason::Error => "max_tokens",
        StopReason::ToolCalls => "tool_use",
        StopReason::ContentFilter => "content_filtered",
    }
}

/// `inputTokens` is without the cache.
pub fn read_usage(value: &Value) -> Option<Usage> {
    let count = |name: &str| value[name].as_u64().unwrap_or_default();
    let hour: u64 = value["cacheDetails"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|row| row["ttl"] == "1h")
        .filter_map(|row| row["inputTokens"].as_u64())
        .fold(0, u64::saturating_add);
    let written = count("cacheWriteInputTokens");
    value.is_object().then(|| Usage {
        input: count("inputTokens"),
        cache_read: count("cacheReadInputTokens"),
        cache_write: written.saturating_sub(hour),
        cache_write_hour: hour.min(written),
        output: count("outputTokens"),
        ..Usage::default()
    })
}

pub fn write_usage(usage: &Usage) -> Value {
    let written = usage.cache_write.saturating_add(usage.cache_write_hour);
    let others = usage.cache_read.saturating_add(written);
    json!({
        "inputTokens": usage.total_input().saturating_sub(others),
        "outputTokens": usage.total_output(),
        "totalTokens": usage.total(),
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": written,
    })
}
