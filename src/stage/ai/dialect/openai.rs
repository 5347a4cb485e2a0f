//! What `OpenAI`'s two dialects share: usage, refusals, media, efforts, schemas of answers.

mod fault;
#[cfg(test)]
mod tests;
mod usage;

pub use fault::{error_object, fault_of, read_fault};
pub use usage::{chat_usage, read_usage, responses_usage};

use super::super::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Source, ToolCall, ToolResult,
};
use super::super::fault::CallFault;
use super::fields::{Extras, Fields};
use serde_json::{Map, Value, json};

/// A URL, or what a `data:` URL holds (RFC 2397).
pub fn media_of(url: String) -> Media {
    let held = url.strip_prefix("data:").and_then(|rest| {
        let (head, data) = rest.split_once(',')?;
        let kind = head.strip_suffix(";base64")?;
        let kind = kind.split(';').next().filter(|kind| !kind.is_empty());
        Some((kind.map(ToOwned::to_owned), data.to_owned()))
    });
    let (media_type, source) = match held {
        Some((media_type, data)) => (media_type, Source::Base64(data)),
        None => (None, Source::Url(url)),
    };
    Media {
        media_type,
        ..of_source(source)
    }
}

/// The way back; none for what the provider keeps.
pub fn url_of(media: &Media, otherwise: &str) -> Option<String> {
    match &media.source {
        Source::Url(url) => Some(url.clone()),
        Source::Base64(data) => {
            let kind = media.media_type.as_deref().unwrap_or(otherwise);
            Some(format!("data:{kind};base64,{data}"))
        }
        Source::FileId(_) => None,
    }
}

/// `{"data", "format"}`
pub fn read_audio(mut fields: Fields) -> Result<Media, CallFault> {
    Ok(Media {
        source: Source::Base64(fields.needed_text("data")?),
        media_type: Some(format!("audio/{}", fields.needed_text("format")?)),
        detail: None,
        name: None,
    })
}

/// `{"file_data", "file_id", "file_url", "filename"}`; the data are a `data:` URL.
pub fn read_file(fields: &mut Fields) -> Result<Media, CallFault> {
    let mut media = match (
        fields.text("file_data")?,
        fields.text("file_url")?,
        fields.text("file_id")?,
    ) {
        (Some(data), ..) if data.starts_with("data:") => media_of(data),
        (Some(data), ..) => of_source(Source::Base64(data)),
        (None, Some(url), _) => media_of(url),
        (None, None, Some(id)) => of_source(Source::FileId(id)),
        (None, None, None) => return Err(fields.wrong("file_data", "is required")),
    };
    media.name = fields.text("filename")?;
    Ok(media)
}

pub fn of_source(source: Source) -> Media {
    Media {
        media_type: None,
        source,
        detail: None,
        name: None,
    }
}

/// The tool that was called by this id.
pub fn tool_name(call: &Call, id: &str) -> Option<String> {
    let parts = call
        .messages
        .iter()
        .rev()
        .flat_map(|message| &message.parts);
    parts.into_iter().find_map(|part| match part {
        Part::ToolCall(call) if call.id == id => Some(call.name.clone()),
        _ => None,
    })
}

/// Results that follow one another answer one turn of the model: they are one message.
pub fn push_result(call: &mut Call, result: Part) {
    match call.messages.last_mut() {
        Some(last) if matches!(last.parts.last(), Some(Part::ToolResult(_))) => {
            last.parts.push(result);
        }
        _ => call.messages.push(Message {
            role: Role::User,
            parts: vec![result],
        }),
    }
}

/// The text of a tool's result; nothing else can be said there.
pub fn result_text(result: &ToolResult) -> Result<String, CallFault> {
    let texts: Vec<&str> = result
        .parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => Ok(text.as_str()),
            _ => Err(unsayable("messages", "a tool's result that is not text")),
        })
        .collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

/// `audio/mpeg` as `mp3`.
pub fn audio(media: &Media, at: &str) -> Result<Value, CallFault> {
    let Source::Base64(data) = &media.source else {
        return Err(unsayable(at, "a sound that is not in base64"));
    };
    let kind = media.media_type.as_deref().unwrap_or("audio/wav");
    let format = match kind.strip_prefix("audio/").unwrap_or(kind) {
        "mpeg" => "mp3",
        "x-wav" | "wave" => "wav",
        format => format,
    };
    Ok(json!({"data": data, "format": format}))
}

/// A call that has no words in the provider's dialect.
pub fn unsayable(at: &str, what: &str) -> CallFault {
    CallFault::invalid(
        at,
        format!("{what} cannot be said to the provider that is to answer"),
    )
}

/// Instructions as one text.
pub fn system_text(system: &[Part]) -> Result<Option<String>, CallFault> {
    let texts: Vec<&str> = system
        .iter()
        .map(|part| match part {
            Part::Text(text) => Ok(text.as_str()),
            _ => Err(unsayable("system", "an instruction that is not text")),
        })
        .collect::<Result<_, _>>()?;
    Ok((!texts.is_empty()).then(|| texts.join("\n\n")))
}

pub fn read_effort(fields: &mut Fields, name: &str) -> Result<Option<Effort>, CallFault> {
    let Some(word) = fields.text(name)? else {
        return Ok(None);
    };
    Ok(Some(match word.as_str() {
        "none" => Effort::None,
        "minimal" => Effort::Minimal,
        "low" => Effort::Low,
        "medium" => Effort::Medium,
        "high" => Effort::High,
        "xhigh" => Effort::XHigh,
        _ => {
            return Err(fields.wrong(
                name,
                "must be one of none, minimal, low, medium, high, xhigh",
            ));
        }
    }))
}

pub fn effort_word(reasoning: &Reasoning) -> Option<&'static str> {
    Some(match reasoning.as_effort()? {
        Effort::None => "none",
        Effort::Minimal => "minimal",
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
        Effort::XHigh => "xhigh",
    })
}

/// `{"name", "description", "schema", "strict"}`, wherever the dialect has them.
pub fn read_schema(mut fields: Fields) -> Result<Format, CallFault> {
    Ok(Format::Schema {
        name: fields.text("name")?,
        description: fields.text("description")?,
        strict: fields.flag("strict")?,
        schema: fields
            .take("schema")
            .ok_or_else(|| fields.wrong("schema", "is required"))?,
    })
}

/// The same members again; a name is needed, so one is made up.
pub fn schema(format: &Format) -> Map<String, Value> {
    let mut object = Map::new();
    if let Format::Schema {
        name,
        description,
        schema,
        strict,
    } = format
    {
        let name = name.as_deref().unwrap_or("answer");
        object.insert("name".into(), name.into());
        put(&mut object, "description", description.as_deref());
        object.insert("schema".into(), schema.clone());
        put(&mut object, "strict", *strict);
    }
    object
}

/// Fields of both dialects that no other has: hints are dropped, what would be missed is refused.
pub fn read_extras(fields: &mut Fields, extras: &mut Extras) -> Result<(), CallFault> {
    for name in ["metadata", "logit_bias"] {
        if fields
            .take(name)
            .is_some_and(|value| value.as_object().is_none_or(|object| !object.is_empty()))
        {
            extras.drop(name);
        }
    }
    // Elsewhere nothing is kept anyway.
    if fields.flag("store")? == Some(true) {
        extras.drop("store");
    }
    if fields.count("top_logprobs")?.is_some_and(|count| count > 0) {
        extras.refuse("top_logprobs");
    }
    Ok(())
}

pub fn put(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

pub fn chat_tool_call(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": or_empty(&call.arguments)},
    })
}

/// A call without arguments is an empty object: what is no JSON breaks those who read it.
pub fn or_empty(arguments: &str) -> &str {
    if arguments.is_empty() {
        "{}"
    } else {
        arguments
    }
}

/// As `OpenRouter` gives pictures.
pub fn image_part(url: String) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

/// Some servers give arguments as JSON and not as a text that holds it.
pub fn arguments(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}
