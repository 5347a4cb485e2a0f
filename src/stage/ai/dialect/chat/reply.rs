//! An answer of chat completions that comes whole.

use super::super::super::call::{Part, Thought, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use super::super::openai::{self, put};
use serde_json::{Map, Value, json};

pub fn read(body: &[u8]) -> Result<Reply, Malformed> {
    let body: Value =
        serde_json::from_slice(body).map_err(|fault| Malformed(format!("not JSON: {fault}")))?;
    let choice = &body["choices"][0];
    for error in [&body["error"], &choice["error"]] {
        if !error.is_null() {
            let fault = openai::fault_of(None, error);
            return Err(Malformed(format!("an error in a 200: {}", fault.message)));
        }
    }
    let Some(message) = choice["message"].as_object() else {
        return Err(Malformed("an answer without `choices[0].message`".into()));
    };
    let mut parts = Vec::new();
    let thought = ["reasoning_content", "reasoning"]
        .into_iter()
        .find_map(|name| message.get(name)?.as_str());
    push_thought(&mut parts, thought.unwrap_or_default());
    read_content(message.get("content").unwrap_or(&Value::Null), &mut parts);
    if let Some(text) = message.get("refusal").and_then(Value::as_str) {
        parts.push(Part::Refusal(text.to_owned()));
    }
    for image in list(message.get("images")) {
        if let Some(url) = image["image_url"]["url"].as_str() {
            parts.push(Part::Image(openai::media_of(url.to_owned())));
        }
    }
    for (index, call) in list(message.get("tool_calls")).iter().enumerate() {
        parts.push(Part::ToolCall(tool_call(index, call)));
    }
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    Ok(Reply {
        id: text(&body["id"]),
        model: text(&body["model"]),
        created: body["created"].as_u64().unwrap_or_default(),
        stop: stop_of(
            choice["finish_reason"].as_str().unwrap_or_default(),
            choice["native_finish_reason"].as_str(),
            called,
        ),
        parts,
        usage: openai::read_usage(&body["usage"])?,
    })
}

/// `content` as a string or, as Mistral has it, as a list of parts.
pub fn read_content(content: &Value, parts: &mut Vec<Part>) {
    match content {
        Value::String(text) if !text.is_empty() => parts.push(Part::Text(text.clone())),
        Value::Array(list) => {
            for part in list {
                match part["type"].as_str() {
                    Some("text") => parts.push(Part::Text(text(&part["text"]))),
                    Some("thinking") => {
                        for thought in list_of(&part["thinking"]) {
                            push_thought(parts, thought["text"].as_str().unwrap_or_default());
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Why it ended. `called`: whether tools are called, which some servers do not say again in the reason.
pub fn stop_of(reason: &str, native: Option<&str>, called: bool) -> Stop {
    Stop {
        reason: match reason {
            "tool_calls" | "function_call" => StopReason::ToolCalls,
            "length" | "model_length" | "max_tokens" => StopReason::Length,
            "content_filter" => StopReason::ContentFilter,
            "error" | "insufficient_system_resource" => StopReason::Error,
            _ if called => StopReason::ToolCalls,
            // `eos` is Together's.
            _ => StopReason::Stop,
        },
        native: native.unwrap_or(reason).to_owned(),
        sequence: None,
    }
}

pub fn write(reply: &Reply) -> Vec<u8> {
    let mut message = Map::new();
    put(&mut message, "role", Some("assistant"));
    let text = joined(reply, |part| match part {
        Part::Text(text) => Some(text),
        _ => None,
    });
    let refusal = joined(reply, |part| match part {
        Part::Refusal(text) => Some(text),
        _ => None,
    });
    let thought = joined(reply, |part| match part {
        Part::Thought(thought) => Some(&thought.text),
        _ => None,
    });
    message.insert("content".into(), text.into());
    message.insert("refusal".into(), refusal.into());
    put(&mut message, "reasoning_content", thought);
    let mut calls = Vec::new();
    let mut images = Vec::new();
    for part in &reply.parts {
        match part {
            Part::ToolCall(call) => calls.push(openai::chat_tool_call(call)),
            Part::Image(media) => {
                images.extend(openai::url_of(media, "image/png").map(openai::image_part));
            }
            _ => {}
        }
    }
    put(
        &mut message,
        "tool_calls",
        (!calls.is_empty()).then_some(calls),
    );
    put(
        &mut message,
        "images",
        (!images.is_empty()).then_some(images),
    );
    let mut body = json!({
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": reply.stop.reason.name(),
            "native_finish_reason": reply.stop.native,
        }],
    });
    if let Some(usage) = &reply.usage {
        body["usage"] = openai::chat_usage(usage);
    }
    body.to_string().into_bytes()
}

fn joined<'a>(reply: &'a Reply, pick: impl Fn(&'a Part) -> Option<&'a String>) -> Option<String> {
    let texts: Vec<&str> = reply
        .parts
        .iter()
        .filter_map(pick)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    (!texts.is_empty()).then(|| texts.concat())
}

fn push_thought(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Thought(Thought {
            text: text.to_owned(),
            ..Thought::default()
        }));
    }
}

fn tool_call(index: usize, call: &Value) -> ToolCall {
    let id = text(&call["id"]);
    ToolCall {
        id: if id.is_empty() {
            format!("call_{index}")
        } else {
            id
        },
        name: text(&call["function"]["name"]),
        arguments: openai::arguments(&call["function"]["arguments"]),
        signature: None,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.map_or(&[], list_of)
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
