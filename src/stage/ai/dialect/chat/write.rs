//! A call in the words of chat completions.

use super::super::super::call::{Call, Format, Media, Message, Part, Role, Source, ToolChoice};
use super::super::super::fault::CallFault;
use super::super::Written;
use super::super::fields::settle_extras;
use super::super::openai::{self, put, unsayable};
use serde_json::{Map, Value, json};

pub fn call(call: &Call) -> Result<Written, CallFault> {
    let mut dropped = settle_extras(call)?;
    let mut body = Map::new();
    if !call.model.is_empty() {
        put(&mut body, "model", Some(call.model.as_str()));
    }
    body.insert("messages".into(), messages(call, &mut dropped)?);
    if !call.tools.is_empty() {
        body.insert("tools".into(), tools(call));
        put(&mut body, "tool_choice", tool_choice(&call.tool_choice));
        put(&mut body, "parallel_tool_calls", call.parallel_tools);
    }
    put(&mut body, "max_completion_tokens", call.max_tokens);
    put(
        &mut body,
        "temperature",
        call.temperature.clone().map(Value::Number),
    );
    put(&mut body, "top_p", call.top_p.clone().map(Value::Number));
    put(
        &mut body,
        "presence_penalty",
        call.presence_penalty.clone().map(Value::Number),
    );
    put(
        &mut body,
        "frequency_penalty",
        call.frequency_penalty.clone().map(Value::Number),
    );
    put(&mut body, "seed", call.seed);
    if call.top_k.is_some() {
        dropped.push("top_k".to_owned());
    }
    if !call.stop.is_empty() {
        put(&mut body, "stop", Some(call.stop.clone()));
    }
    put(&mut body, "response_format", format(&call.format));
    let effort = call.reasoning.as_ref().and_then(openai::effort_word);
    put(&mut body, "reasoning_effort", effort);
    put(&mut body, "user", call.end_user.as_deref());
    if call.stream {
        body.insert("stream".into(), true.into());
        if call.include_usage {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
    }
    dropped.sort();
    dropped.dedup();
    Ok(Written {
        body: Value::Object(body).to_string().into_bytes(),
        dropped,
    })
}

fn tools(call: &Call) -> Value {
    let tool = |tool: &super::super::super::call::Tool| {
        let mut function = Map::new();
        put(&mut function, "name", Some(tool.name.as_str()));
        put(&mut function, "description", tool.description.as_deref());
        put(&mut function, "parameters", tool.parameters.clone());
        put(&mut function, "strict", tool.strict);
        json!({"type": "function", "function": function})
    };
    call.tools.iter().map(tool).collect()
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    Some(match choice {
        ToolChoice::Auto => return None,
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    })
}

fn format(format: &Format) -> Option<Value> {
    Some(match format {
        Format::Text => return None,
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { .. } => {
            json!({"type": "json_schema", "json_schema": openai::schema(format)})
        }
    })
}

/// All instructions are one message at the beginning: many servers take no other.
fn messages(call: &Call, dropped: &mut Vec<String>) -> Result<Value, CallFault> {
    let mut messages = Vec::new();
    if let Some(text) = openai::system_text(&call.system)? {
        messages.push(json!({"role": "system", "content": text}));
    }
    for (index, message) in call.messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        match message.role {
            Role::User => user(message, &at, &mut messages, dropped)?,
            Role::Assistant => messages.push(assistant(message, &at, dropped)?),
        }
    }
    Ok(Value::Array(messages))
}

/// Results of tools are messages of their own here.
fn user(
    message: &Message,
    at: &str,
    messages: &mut Vec<Value>,
    dropped: &mut Vec<String>,
) -> Result<(), CallFault> {
    let mut content = Vec::new();
    for part in &message.parts {
        let Part::ToolResult(result) = part else {
            content.push(user_part(part, at)?);
            continue;
        };
        flush(&mut content, messages);
        if result.is_error {
            dropped.push("is_error".to_owned());
        }
        messages.push(json!({
            "role": "tool",
            "tool_call_id": result.id,
            "content": openai::result_text(result)?,
        }));
    }
    flush(&mut content, messages);
    Ok(())
}

/// One text is said as a string, which every server takes.
fn flush(content: &mut Vec<Value>, messages: &mut Vec<Value>) {
    let content = match &std::mem::take(content)[..] {
        [] => return,
        [only] if only["type"] == "text" => only["text"].clone(),
        parts => Value::from(parts),
    };
    messages.push(json!({"role": "user", "content": content}));
}

fn user_part(part: &Part, at: &str) -> Result<Value, CallFault> {
    Ok(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(media) => {
            let mut image = Map::new();
            let url = openai::url_of(media, "image/png");
            let url = url.ok_or_else(|| unsayable(at, "a picture that the provider keeps"))?;
            put(&mut image, "url", Some(url));
            put(&mut image, "detail", media.detail.as_deref());
            json!({"type": "image_url", "image_url": image})
        }
        Part::Audio(media) => {
            json!({"type": "input_audio", "input_audio": openai::audio(media, at)?})
        }
        Part::File(media) => json!({"type": "file", "file": file(media, at)?}),
        Part::ToolResult(_) | Part::ToolCall(_) | Part::Thought(_) | Part::Refusal(_) => {
            return Err(unsayable(at, "a user who speaks as the model"));
        }
    })
}

fn file(media: &Media, at: &str) -> Result<Value, CallFault> {
    let mut file = Map::new();
    match &media.source {
        Source::Base64(_) => put(
            &mut file,
            "file_data",
            openai::url_of(media, "application/pdf"),
        ),
        Source::FileId(id) => put(&mut file, "file_id", Some(id.as_str())),
        Source::Url(_) => return Err(unsayable(at, "a file by its address")),
    }
    // Data need a name.
    let made_up = matches!(media.source, Source::Base64(_)).then_some("file.pdf");
    put(&mut file, "filename", media.name.as_deref().or(made_up));
    Ok(Value::Object(file))
}

fn assistant(message: &Message, at: &str, dropped: &mut Vec<String>) -> Result<Value, CallFault> {
    let mut text: Option<String> = None;
    let mut refusal: Option<String> = None;
    let mut calls = Vec::new();
    for part in &message.parts {
        match part {
            Part::Text(more) => text.get_or_insert_default().push_str(more),
            Part::Refusal(more) => refusal.get_or_insert_default().push_str(more),
            Part::ToolCall(call) => {
                if call.signature.is_some() {
                    dropped.push("signature".to_owned());
                }
                calls.push(openai::chat_tool_call(call));
            }
            // Most servers refuse thoughts that are given back, and none needs them.
            Part::Thought(_) => dropped.push("thoughts".to_owned()),
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => {
                return Err(unsayable(at, "an answer that is not text"));
            }
        }
    }
    let mut object = Map::new();
    put(&mut object, "role", Some("assistant"));
    object.insert("content".into(), text.into());
    put(&mut object, "refusal", refusal);
    if !calls.is_empty() {
        put(&mut object, "tool_calls", Some(calls));
    }
    Ok(Value::Object(object))
}
