//! A call in the words of responses.

use super::super::super::call::{
    Call, Format, Media, Message, Part, Role, Source, Tool, ToolChoice, ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::Written;
use super::super::fields::settle_extras;
use super::super::openai::{self, put, unsayable};
use super::reply::reasoning_item;
use serde_json::{Map, Value, json};

pub fn call(call: &Call) -> Result<Written, CallFault> {
    let mut dropped = settle_extras(call)?;
    if !call.stop.is_empty() {
        return Err(unsayable("stop", "a text that ends the answer"));
    }
    let mut body = Map::new();
    if !call.model.is_empty() {
        put(&mut body, "model", Some(call.model.as_str()));
    }
    put(
        &mut body,
        "instructions",
        openai::system_text(&call.system)?,
    );
    body.insert("input".into(), input(call, &mut dropped)?);
    if !call.tools.is_empty() {
        body.insert("tools".into(), call.tools.iter().map(tool).collect());
        put(&mut body, "tool_choice", tool_choice(&call.tool_choice));
        put(&mut body, "parallel_tool_calls", call.parallel_tools);
    }
    let max_tokens = call.max_tokens.map(|tokens| tokens.max(OUTPUT_TOKENS_MIN));
    if max_tokens != call.max_tokens {
        dropped.push("max_tokens".to_owned());
    }
    put(&mut body, "max_output_tokens", max_tokens);
    put(
        &mut body,
        "temperature",
        call.temperature.clone().map(Value::Number),
    );
    put(&mut body, "top_p", call.top_p.clone().map(Value::Number));
    put(&mut body, "text", format(&call.format));
    reasoning(call, &mut body);
    put(&mut body, "user", call.end_user.as_deref());
    // The caller's dialect has no answers that are kept, so none is asked to be.
    body.insert("store".into(), false.into());
    if call.stream {
        body.insert("stream".into(), true.into());
    }
    dropped.extend(left_out(call).map(ToOwned::to_owned));
    dropped.sort();
    dropped.dedup();
    Ok(Written {
        body: Value::Object(body).to_string().into_bytes(),
        dropped,
    })
}

/// `OpenAI` refuses a smaller `max_output_tokens`; asked for less, the answer may be this long.
const OUTPUT_TOKENS_MIN: u64 = 16;

/// What has no words here, but only hints.
fn left_out(call: &Call) -> impl Iterator<Item = &'static str> {
    [
        ("top_k", call.top_k.is_some()),
        ("presence_penalty", call.presence_penalty.is_some()),
        ("frequency_penalty", call.frequency_penalty.is_some()),
        ("seed", call.seed.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
}

fn tool(tool: &Tool) -> Value {
    let mut object = Map::new();
    put(&mut object, "type", Some("function"));
    put(&mut object, "name", Some(tool.name.as_str()));
    put(&mut object, "description", tool.description.as_deref());
    // Needed here, and `strict` is true unless it is said.
    let none = || json!({"type": "object", "properties": {}});
    object.insert(
        "parameters".into(),
        tool.parameters.clone().unwrap_or_else(none),
    );
    object.insert("strict".into(), tool.strict.unwrap_or_default().into());
    Value::Object(object)
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    Some(match choice {
        ToolChoice::Auto => return None,
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
    })
}

fn format(format: &Format) -> Option<Value> {
    Some(match format {
        Format::Text => return None,
        Format::Json => json!({"format": {"type": "json_object"}}),
        Format::Schema { .. } => {
            let mut schema = openai::schema(format);
            put(&mut schema, "type", Some("json_schema"));
            json!({"format": schema})
        }
    })
}

fn reasoning(call: &Call, body: &mut Map<String, Value>) {
    let Some(reasoning) = &call.reasoning else {
        return;
    };
    let mut object = Map::new();
    put(&mut object, "effort", openai::effort_word(reasoning));
    if reasoning.show == Some(true) {
        put(&mut object, "summary", Some("auto"));
    }
    body.insert("reasoning".into(), Value::Object(object));
    // Without them the next call of the conversation could not give its thoughts back.
    body.insert("include".into(), json!(["reasoning.encrypted_content"]));
}

fn input(call: &Call, dropped: &mut Vec<String>) -> Result<Value, CallFault> {
    let mut items = Vec::new();
    for (index, message) in call.messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        match message.role {
            Role::User => user(message, &at, &mut items, dropped)?,
            Role::Assistant => assistant(message, &at, &mut items, dropped)?,
        }
    }
    Ok(Value::Array(items))
}

fn user(
    message: &Message,
    at: &str,
    items: &mut Vec<Value>,
    dropped: &mut Vec<String>,
) -> Result<(), CallFault> {
    let mut content = Vec::new();
    for part in &message.parts {
        let Part::ToolResult(result) = part else {
            content.push(user_part(part, at)?);
            continue;
        };
        flush("user", &mut content, items);
        if result.is_error {
            dropped.push("is_error".to_owned());
        }
        items.push(json!({
            "type": "function_call_output",
            "call_id": result.id,
            "output": output(result, at)?,
        }));
    }
    flush("user", &mut content, items);
    Ok(())
}

/// A text where it is one, else a list of parts.
fn output(result: &ToolResult, at: &str) -> Result<Value, CallFault> {
    if result
        .parts
        .iter()
        .all(|part| matches!(part, Part::Text(_)))
    {
        return openai::result_text(result).map(Value::String);
    }
    result
        .parts
        .iter()
        .map(|part| user_part(part, at))
        .collect()
}

fn flush(role: &str, content: &mut Vec<Value>, items: &mut Vec<Value>) {
    if !content.is_empty() {
        items.push(json!({"type": "message", "role": role, "content": std::mem::take(content)}));
    }
}

fn user_part(part: &Part, at: &str) -> Result<Value, CallFault> {
    Ok(match part {
        Part::Text(text) => json!({"type": "input_text", "text": text}),
        Part::Image(media) => {
            let mut image = Map::new();
            put(&mut image, "type", Some("input_image"));
            match &media.source {
                Source::FileId(id) => put(&mut image, "file_id", Some(id.as_str())),
                _ => put(&mut image, "image_url", openai::url_of(media, "image/png")),
            }
            put(
                &mut image,
                "detail",
                Some(media.detail.as_deref().unwrap_or("auto")),
            );
            Value::Object(image)
        }
        Part::File(media) => file(media),
        Part::Audio(media) => {
            json!({"type": "input_audio", "input_audio": openai::audio(media, at)?})
        }
        Part::ToolResult(_) | Part::ToolCall(_) | Part::Thought(_) | Part::Refusal(_) => {
            return Err(unsayable(at, "a user who speaks as the model"));
        }
    })
}

fn file(media: &Media) -> Value {
    let mut file = Map::new();
    put(&mut file, "type", Some("input_file"));
    let made_up = match &media.source {
        Source::FileId(id) => {
            put(&mut file, "file_id", Some(id.as_str()));
            None
        }
        Source::Url(url) => {
            put(&mut file, "file_url", Some(url.as_str()));
            None
        }
        Source::Base64(_) => {
            put(
                &mut file,
                "file_data",
                openai::url_of(media, "application/pdf"),
            );
            // Data need a name.
            Some("file.pdf")
        }
    };
    put(&mut file, "filename", media.name.as_deref().or(made_up));
    Value::Object(file)
}

fn assistant(
    message: &Message,
    at: &str,
    items: &mut Vec<Value>,
    dropped: &mut Vec<String>,
) -> Result<(), CallFault> {
    let mut content = Vec::new();
    for part in &message.parts {
        match part {
            Part::Text(text) => {
                content.push(json!({"type": "output_text", "text": text, "annotations": []}));
                continue;
            }
            Part::Refusal(text) => {
                content.push(json!({"type": "refusal", "refusal": text}));
                continue;
            }
            _ => flush("assistant", &mut content, items),
        }
        match part {
            Part::ToolCall(call) => {
                if call.signature.is_some() {
                    dropped.push("signature".to_owned());
                }
                items.push(json!({
                    "type": "function_call",
                    "call_id": call.id,
                    "name": call.name,
                    "arguments": openai::or_empty(&call.arguments),
                }));
            }
            // Only what this dialect has hidden can it read again.
            Part::Thought(thought) => match reasoning_item(thought) {
                Some(item) => items.push(item),
                None => dropped.push("thoughts".to_owned()),
            },
            _ => return Err(unsayable(at, "an answer that is not text")),
        }
    }
    flush("assistant", &mut content, items);
    Ok(())
}
