//! Messages and their blocks, as they are sent to Anthropic.

use super::super::super::call::{
    Media, Message, Part, Role, Source, Thought, ToolCall, ToolResult,
};
use super::super::super::fault::CallFault;
use super::write_call::one_or_many;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Where a part stands, which decides what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    System,
    User,
    Assistant,
    ToolResult,
}

/// Messages of one role in a row become one, results of tools come first in theirs, and a last message of the model
/// does not end in white space: Anthropic demands all three.
pub fn write_messages(
    messages: &[Message],
    dropped: &mut Vec<String>,
) -> Result<Vec<Value>, CallFault> {
    let mut written: Vec<(Role, Vec<Value>)> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let place = match message.role {
            Role::User => Place::User,
            Role::Assistant => Place::Assistant,
        };
        let at = format!("messages[{at}]");
        let blocks = write_parts(&message.parts, place, &at, dropped)?;
        match written.last_mut() {
            _ if blocks.is_empty() => {}
            Some((role, before)) if *role == message.role => before.extend(blocks),
            _ => written.push((message.role, blocks)),
        }
    }
    if let Some((Role::Assistant, blocks)) = written.last_mut() {
        trim_end(blocks);
        if blocks.is_empty() {
            written.pop();
        }
    }
    Ok(written
        .into_iter()
        .map(|(role, mut blocks)| {
            // Stable: results and words keep their order among themselves.
            blocks.sort_by_key(|block| role == Role::User && block["type"] != "tool_result");
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": one_or_many(blocks)})
        })
        .collect())
}

/// The blocks of parts that stand at `at`. Text of nothing is never sent.
pub fn write_parts(
    parts: &[Part],
    place: Place,
    at: &str,
    dropped: &mut Vec<String>,
) -> Result<Vec<Value>, CallFault> {
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        let block = match (part, place) {
            (Part::Text(text) | Part::Refusal(text), _) if text.trim().is_empty() => continue,
            (Part::Text(text) | Part::Refusal(text), _) => text_block(text),
            (Part::Image(media), Place::User | Place::ToolResult) => image(media, at)?,
            (Part::File(media), Place::User | Place::ToolResult) => document(media, at)?,
            (Part::ToolCall(call), Place::Assistant) => tool_use(call, at)?,
            (Part::ToolResult(result), Place::User) => tool_result(result, at, dropped)?,
            (Part::Thought(thought), Place::Assistant) => {
                let thoughts = written_thought(thought);
                if thoughts.is_empty() && !dropped.iter().any(|name| name == "thoughts") {
                    dropped.push("thoughts".to_owned());
                }
                blocks.extend(thoughts);
                continue;
            }
            (part, _) => return Err(misplaced(part, at)),
        };
        blocks.push(block);
    }
    Ok(blocks)
}

pub fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// Ids that others made may have characters that Anthropic refuses; call and result are changed alike.
pub fn plain_id(id: &str) -> String {
    id.chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => c,
            _ => '_',
        })
        .collect()
}

/// Only thoughts with a proof are taken back.
fn written_thought(thought: &Thought) -> Vec<Value> {
    let mut blocks = Vec::new();
    if let Some(signature) = &thought.signature {
        blocks.push(json!({"type": "thinking", "thinking": thought.text, "signature": signature}));
    }
    if let Some(data) = &thought.encrypted {
        blocks.push(json!({"type": "redacted_thinking", "data": data}));
    }
    blocks
}

fn tool_use(call: &ToolCall, at: &str) -> Result<Value, CallFault> {
    let input = match call.arguments.trim() {
        "" => json!({}),
        arguments => serde_json::from_str(arguments).unwrap_or_default(),
    };
    if !input.is_object() {
        return Err(CallFault::invalid(
            at,
            format!(
                "the arguments of the call of `{}` are not a JSON object",
                call.name
            ),
        ));
    }
    Ok(json!({"type": "tool_use", "id": plain_id(&call.id), "name": call.name, "input": input}))
}

fn tool_result(
    result: &ToolResult,
    at: &str,
    dropped: &mut Vec<String>,
) -> Result<Value, CallFault> {
    let mut block = json!({"type": "tool_result", "tool_use_id": plain_id(&result.id)});
    let content = write_parts(&result.parts, Place::ToolResult, at, dropped)?;
    if !content.is_empty() {
        block["content"] = one_or_many(content);
    }
    if result.is_error {
        block["is_error"] = json!(true);
    }
    Ok(block)
}

fn image(media: &Media, at: &str) -> Result<Value, CallFault> {
    let source = match &media.source {
        Source::Url(url) => json!({"type": "url", "url": url}),
        Source::Base64(data) => {
            let media_type = media.media_type.as_deref().or_else(|| guess(data));
            let Some(media_type) = media_type else {
                return Err(CallFault::invalid(at, "a picture does not say its type"));
            };
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        Source::FileId(_) => return Err(kept_elsewhere(at)),
    };
    Ok(json!({"type": "image", "source": source}))
}

fn document(media: &Media, at: &str) -> Result<Value, CallFault> {
    let media_type = media.media_type.as_deref().unwrap_or("application/pdf");
    let source = match &media.source {
        Source::Url(url) => json!({"type": "url", "url": url}),
        Source::Base64(data) if media_type == "application/pdf" => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        Source::Base64(data) if is_text(media_type) => {
            let text = STANDARD.decode(data).ok().map(String::from_utf8);
            let Some(Ok(text)) = text else {
                return Err(CallFault::invalid(
                    at,
                    "a document of text is not Base64 of UTF-8",
                ));
            };
            json!({"type": "text", "media_type": "text/plain", "data": text})
        }
        Source::Base64(_) => {
            return Err(CallFault::invalid(
                at,
                format!("a document of type `{media_type}` cannot be sent to this provider"),
            ));
        }
        Source::FileId(_) => return Err(kept_elsewhere(at)),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = &media.name {
        block["title"] = json!(name);
    }
    Ok(block)
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/") || media_type == "application/json"
}

/// The type of a picture by how its Base64 begins.
fn guess(data: &str) -> Option<&'static str> {
    [
        ("iVBORw0KGgo", "image/png"),
        ("/9j/", "image/jpeg"),
        ("R0lGOD", "image/gif"),
        ("UklGR", "image/webp"),
    ]
    .into_iter()
    .find_map(|(start, media_type)| data.starts_with(start).then_some(media_type))
}

fn kept_elsewhere(at: &str) -> CallFault {
    CallFault::invalid(at, "a file kept by one provider means nothing to another")
}

fn misplaced(part: &Part, at: &str) -> CallFault {
    let what = match part {
        Part::Text(_) | Part::Refusal(_) => "text",
        Part::Image(_) => "a picture",
        Part::Audio(_) => "audio",
        Part::File(_) => "a document",
        Part::ToolCall(_) => "a tool call",
        Part::ToolResult(_) => "a tool result",
        Part::Thought(_) => "a thought",
    };
    CallFault::invalid(at, format!("{what} cannot be sent to this provider here"))
}

/// White space at the end of what the model is to go on with is refused.
fn trim_end(blocks: &mut Vec<Value>) {
    let Some(block) = blocks.last_mut() else {
        return;
    };
    if let Some(text) = block["text"]
        .as_str()
        .map(|text| text.trim_end().to_owned())
    {
        if text.is_empty() {
            blocks.pop();
        } else {
            block["text"] = Value::String(text);
        }
    }
}
