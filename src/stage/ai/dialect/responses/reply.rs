//! An answer of responses that comes whole, and the items that streams are made of too.

use super::super::super::call::{Media, Part, Source, Thought, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use super::super::openai;
use crate::base::usage::Usage;
use serde_json::{Value, json};

pub fn read(body: &[u8]) -> Result<Reply, Malformed> {
    let body: Value =
        serde_json::from_slice(body).map_err(|fault| Malformed(format!("not JSON: {fault}")))?;
    if !body["error"].is_null() {
        let fault = openai::fault_of(None, &body["error"]);
        return Err(Malformed(format!("an error in a 200: {}", fault.message)));
    }
    let Some(output) = body["output"].as_array() else {
        return Err(Malformed("an answer without `output`".into()));
    };
    let mut parts = Vec::new();
    for item in output {
        read_item(item, &mut parts);
    }
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    Ok(Reply {
        id: text(&body["id"]),
        model: text(&body["model"]),
        created: body["created_at"].as_u64().unwrap_or_default(),
        stop: stop_of(&body, called),
        parts,
        usage: openai::read_usage(&body["usage"])?,
    })
}

/// Why a response ended.
pub fn stop_of(response: &Value, called: bool) -> Stop {
    let status = response["status"].as_str().unwrap_or_default();
    let why = response["incomplete_details"]["reason"].as_str();
    let reason = match (status, why) {
        ("incomplete", Some("content_filter")) => StopReason::ContentFilter,
        ("incomplete", _) => StopReason::Length,
        ("failed" | "cancelled", _) => StopReason::Error,
        _ if called => StopReason::ToolCalls,
        _ => StopReason::Stop,
    };
    Stop {
        reason,
        native: why.unwrap_or(status).to_owned(),
        sequence: None,
    }
}

pub fn read_item(item: &Value, parts: &mut Vec<Part>) {
    match item["type"].as_str() {
        Some("message") => {
            for part in list(&item["content"]) {
                match part["type"].as_str() {
                    Some("output_text") => parts.push(Part::Text(text(&part["text"]))),
                    Some("refusal") => parts.push(Part::Refusal(text(&part["refusal"]))),
                    _ => {}
                }
            }
        }
        Some("reasoning") => {
            let words = list(&item["summary"]).iter().chain(list(&item["content"]));
            let words: Vec<&str> = words.filter_map(|part| part["text"].as_str()).collect();
            let thought = thought_of(
                item["id"].as_str().unwrap_or_default(),
                words.join("\n\n"),
                item["encrypted_content"].as_str(),
            );
            if thought != Thought::default() {
                parts.push(Part::Thought(thought));
            }
        }
        Some("function_call") => parts.push(Part::ToolCall(read_call(item))),
        Some("image_generation_call") => parts.extend(read_image(item).map(Part::Image)),
        // What the provider did by itself: it is told in the text.
        _ => {}
    }
}

pub fn read_call(item: &Value) -> ToolCall {
    ToolCall {
        id: text(&item["call_id"]),
        name: text(&item["name"]),
        arguments: openai::arguments(&item["arguments"]),
        signature: None,
    }
}

pub fn read_image(item: &Value) -> Option<Media> {
    let data = item["result"].as_str()?;
    let format = item["output_format"].as_str().unwrap_or("png");
    Some(Media {
        media_type: Some(format!("image/{format}")),
        ..openai::of_source(Source::Base64(data.to_owned()))
    })
}

/// A thought, with what proves or hides it.
pub fn thought_of(id: &str, text: String, content: Option<&str>) -> Thought {
    let signature = content.and_then(signature);
    Thought {
        text,
        signature: signature.map(ToOwned::to_owned),
        encrypted: content
            .filter(|_| signature.is_none())
            .map(|content| encrypted(id, content)),
    }
}

/// `encrypted_content` of a thought that proves itself in another dialect's way, which comes back to it.
const SIGNATURE: &str = "signature:";
/// The same of a thought that another dialect hides.
const HIDDEN: &str = "hidden:";

/// Hidden thoughts are given back under their item's name, so one text holds both.
fn encrypted(id: &str, content: &str) -> String {
    match content.strip_prefix(HIDDEN) {
        Some(other) => other.to_owned(),
        None => format!("{id}#{content}"),
    }
}

/// Whether this dialect has hidden it, and no other one.
pub fn is_own(content: &str) -> bool {
    !content.starts_with(SIGNATURE) && !content.starts_with(HIDDEN)
}

/// What proves a thought of another dialect.
fn signature(content: &str) -> Option<&str> {
    content.strip_prefix(SIGNATURE)
}

/// A thought's proof as an item says it.
pub struct Sealed {
    pub id: String,
    pub content: Option<String>,
}

impl Sealed {
    /// `id`: for those that have no name yet.
    pub fn of(thought: &Thought, id: String) -> Self {
        if let Some((own, content)) = own(thought.encrypted.as_deref()) {
            return Self {
                id: own.to_owned(),
                content: Some(content.to_owned()),
            };
        }
        let content = match (&thought.encrypted, &thought.signature) {
            (Some(hidden), _) => Some(format!("{HIDDEN}{hidden}")),
            (None, Some(signature)) => Some(format!("{SIGNATURE}{signature}")),
            (None, None) => None,
        };
        Self { id, content }
    }
}

/// A hidden thought of this dialect as an item; none for those of others.
pub fn reasoning_item(thought: &Thought) -> Option<Value> {
    let (id, content) = own(thought.encrypted.as_deref())?;
    Some(thought_item(id, &thought.text, Some(content)))
}

fn own(encrypted: Option<&str>) -> Option<(&str, &str)> {
    encrypted?
        .split_once('#')
        .filter(|(id, _)| id.starts_with("rs_"))
}

pub fn write(reply: &Reply) -> Vec<u8> {
    let mut output: Vec<Value> = Vec::new();
    for part in &reply.parts {
        let index = output.len();
        match part {
            Part::Text(text) => content(&mut output, &reply.id, text_part(text)),
            Part::Refusal(text) => content(&mut output, &reply.id, refusal_part(text)),
            Part::Thought(thought) => {
                let item = Sealed::of(thought, item_id("rs", &reply.id, index));
                output.push(thought_item(
                    &item.id,
                    &thought.text,
                    item.content.as_deref(),
                ));
            }
            Part::ToolCall(call) => {
                output.push(call_item(
                    &item_id("fc", &reply.id, index),
                    &with_arguments(call),
                    "completed",
                ));
            }
            Part::Image(media) => {
                output.extend(image_item(&item_id("ig", &reply.id, index), media));
            }
            Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => {}
        }
    }
    Whole {
        id: &reply.id,
        model: &reply.model,
        created: reply.created,
        output,
        stop: Some(&reply.stop),
        usage: reply.usage.as_ref(),
    }
    .object()
    .to_string()
    .into_bytes()
}

/// Words that follow one another are one message.
fn content(output: &mut Vec<Value>, id: &str, part: Value) {
    let id = item_id("msg", id, output.len());
    match output.last_mut().filter(|item| item["type"] == "message") {
        Some(item) => {
            if let Some(content) = item["content"].as_array_mut() {
                content.push(part);
            }
        }
        None => output.push(message_item(&id, "completed", vec![part])),
    }
}

/// All of a response, as far as it has come.
pub struct Whole<'a> {
    pub id: &'a str,
    pub model: &'a str,
    pub created: u64,
    pub output: Vec<Value>,
    /// None while it goes on.
    pub stop: Option<&'a Stop>,
    pub usage: Option<&'a Usage>,
}

impl Whole<'_> {
    pub fn status(&self) -> &'static str {
        match self.stop.map(|stop| stop.reason) {
            None => "in_progress",
            Some(StopReason::Length | StopReason::ContentFilter) => "incomplete",
            Some(StopReason::Error) => "failed",
            Some(StopReason::Stop | StopReason::ToolCalls) => "completed",
        }
    }

    /// With every field that SDKs have no default for.
    pub fn object(self) -> Value {
        let status = self.status();
        let why = match self.stop.map(|stop| stop.reason) {
            Some(StopReason::Length) => json!({"reason": "max_output_tokens"}),
            Some(StopReason::ContentFilter) => json!({"reason": "content_filter"}),
            _ => Value::Null,
        };
        let error = match status {
            "failed" => {
                json!({"code": "server_error", "message": "the provider broke off its answer"})
            }
            _ => Value::Null,
        };
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": error,
            "incomplete_details": why,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "store": false,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": self.usage.map(openai::responses_usage),
            "user": null,
        })
    }
}

/// A name for an item that had none, of the answer's own.
pub fn item_id(kind: &str, answer: &str, index: usize) -> String {
    let answer = answer.strip_prefix("resp_").unwrap_or(answer);
    format!("{kind}_{answer}_{index}")
}

pub fn message_item(id: &str, status: &str, content: Vec<Value>) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

pub fn call_item(id: &str, call: &ToolCall, status: &str) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    })
}

/// The same, its arguments JSON even where there are none.
fn with_arguments(call: &ToolCall) -> ToolCall {
    ToolCall {
        arguments: openai::or_empty(&call.arguments).to_owned(),
        ..call.clone()
    }
}

pub fn thought_item(id: &str, text: &str, encrypted: Option<&str>) -> Value {
    let summary = if text.is_empty() {
        json!([])
    } else {
        json!([{"type": "summary_text", "text": text}])
    };
    let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
    if let Some(encrypted) = encrypted {
        item["encrypted_content"] = encrypted.into();
    }
    item
}

/// None for a picture that is only an address.
pub fn image_item(id: &str, media: &Media) -> Option<Value> {
    let Source::Base64(data) = &media.source else {
        return None;
    };
    Some(json!({"id": id, "type": "image_generation_call", "status": "completed", "result": data}))
}

pub fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub fn refusal_part(text: &str) -> Value {
    json!({"type": "refusal", "refusal": text})
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
