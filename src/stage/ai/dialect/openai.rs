//! What `OpenAI`'s two dialects share: usage, refusals, media, efforts, schemas of answers.

use super::super::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Source, ToolCall, ToolResult,
};
use super::super::fault::{CallFault, Complaint, FaultKind, Malformed, ProviderFault};
use super::super::wait;
use super::fields::{Extras, Fields};
use crate::base::usage::Usage;
use http::HeaderMap;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Usage in either dialect's words, its classes taken apart; none where nothing was counted. A part that is
/// larger than its whole is cut to it, so that the classes always add up to what is charged.
pub fn read_usage(value: &Value) -> Result<Option<Usage>, Malformed> {
    let Some(usage) = value.as_object().filter(|usage| !usage.is_empty()) else {
        return Ok(None);
    };
    let count = |names: &[&str]| count(usage, names);
    let prompt = count(&["prompt_tokens", "input_tokens"])?;
    let mut completion = count(&["completion_tokens", "output_tokens"])?;
    let of_prompt = |name: &str| {
        detail(
            usage,
            &["prompt_tokens_details", "input_tokens_details"],
            name,
        )
    };
    let of_completion = |name: &str| {
        detail(
            usage,
            &["completion_tokens_details", "output_tokens_details"],
            name,
        )
    };
    // DeepSeek's and Mistral's words for what was cached.
    let cached = match of_prompt("cached_tokens")? {
        0 => count(&["prompt_cache_hit_tokens", "num_cached_tokens"])?,
        cached => cached,
    };
    let thought = of_completion("reasoning_tokens")?;
    // xAI may count thoughts beside the answer and not within; the total tells.
    let total = count(&["total_tokens"])?;
    if thought > 0 && total == prompt.saturating_add(completion).saturating_add(thought) {
        completion = completion.saturating_add(thought);
    }

    let mut input = prompt;
    let mut output = completion;
    Ok(Some(Usage {
        cache_read: part(&mut input, cached),
        cache_write: part(&mut input, of_prompt("cache_write_tokens")?),
        input_audio: part(&mut input, of_prompt("audio_tokens")?),
        input_image: part(&mut input, of_prompt("image_tokens")?),
        input,
        reasoning: part(&mut output, thought),
        output_audio: part(&mut output, of_completion("audio_tokens")?),
        output_image: part(&mut output, of_completion("image_tokens")?),
        output,
        searches: count(&["num_search_queries"])?,
        ..Usage::default()
    }))
}

/// Usage in the words of chat completions.
pub fn chat_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.total_input(),
        "completion_tokens": usage.total_output(),
        "total_tokens": usage.total(),
        "prompt_tokens_details": input_details(usage),
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.output_audio,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Usage in the words of responses.
pub fn responses_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.total_input(),
        "input_tokens_details": input_details(usage),
        "output_tokens": usage.total_output(),
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total(),
    })
}

fn input_details(usage: &Usage) -> Value {
    json!({
        "cached_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write.saturating_add(usage.cache_write_hour),
        "audio_tokens": usage.input_audio,
    })
}

/// Takes at most what is left.
fn part(left: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

fn detail(usage: &Map<String, Value>, within: &[&str], name: &str) -> Result<u64, Malformed> {
    within
        .iter()
        .find_map(|object| usage.get(*object)?.as_object())
        .map_or(Ok(0), |details| count(details, &[name]))
}

/// The first of these that is there; 0 if none is.
fn count(object: &Map<String, Value>, names: &[&str]) -> Result<u64, Malformed> {
    let Some((name, value)) = names
        .iter()
        .find_map(|name| Some((name, object.get(*name).filter(|value| !value.is_null())?)))
    else {
        return Ok(0);
    };
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..9e15).contains(float);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole, not negative and small"
    )]
    let float = || value.as_f64().filter(whole).map(|float| float as u64);
    value
        .as_u64()
        .or_else(float)
        .ok_or_else(|| Malformed(format!("usage counts {value} as {name}")))
}

/// A refusal with a status, in any of the forms that `OpenAI` and those who speak its dialects use.
pub fn read_fault(status: u16, headers: &HeaderMap, body: &[u8]) -> ProviderFault {
    let value = serde_json::from_slice(body).unwrap_or_else(|_| {
        // Not of the provider but of something before it: a page in HTML, a line of text.
        let text = String::from_utf8_lossy(&body[..body.len().min(256)]).into_owned();
        Value::String(if text.trim_start().starts_with('<') {
            String::new()
        } else {
            text
        })
    });
    let mut fault = fault_of(Some(status), &value);
    fault.retry_after = wait::asked(headers).or_else(|| reset(headers));
    fault
}

/// A refusal in a stream, or within an answer that is a 200.
pub fn fault_of(status: Option<u16>, value: &Value) -> ProviderFault {
    let error = match value.get("error") {
        Some(error) if !error.is_null() => error,
        _ => value,
    };
    let word = |name: &str| match error.get(name) {
        Some(Value::String(word)) if !word.is_empty() => Some(word.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let text = error
        .as_str()
        .or_else(|| error.get("message")?.as_str())
        .or_else(|| error.get("detail")?.as_str())
        // Mistral's refusals of wrong calls.
        .or_else(|| error.get("detail")?.get(0)?.get("msg")?.as_str())
        .unwrap_or_default();
    // OpenRouter's code is the status; Azure's filter says more within.
    let status = status.or_else(|| word("code")?.parse().ok());
    let of_router = error
        .pointer("/metadata/error_type")
        .and_then(Value::as_str);
    let code = of_router
        .map(ToOwned::to_owned)
        .or_else(|| word("code").filter(|code| code.parse::<u16>().is_err()))
        .or_else(|| word("type"));
    let inner = error.pointer("/innererror/code").and_then(Value::as_str);
    let words = [code.as_deref(), word("type").as_deref(), inner]
        .map(|word| word.map(str::to_ascii_lowercase).unwrap_or_default());
    let kind = kind_of(status, &words, &text.to_ascii_lowercase());
    ProviderFault {
        kind,
        message: if text.trim().is_empty() {
            match status {
                Some(status) => format!("the provider answered with status {status}"),
                None => "the provider failed".to_owned(),
            }
        } else {
            wait::cut(text)
        },
        code,
        retry_after: None,
    }
}

/// By the provider's word, then by its sentence where some have no word for it, then by the status.
fn kind_of(status: Option<u16>, words: &[String], text: &str) -> FaultKind {
    let says = |some: &[&str]| words.iter().any(|word| some.contains(&word.as_str()));
    let tells = |some: &[&str]| some.iter().any(|part| text.contains(part));
    if says(&["context_length_exceeded", "token_limit_exceeded"])
        || (matches!(status, Some(400 | 413 | 422) | None)
            && tells(&[
                "maximum context length",
                "context length",
                "context window",
                "prompt is too long",
            ]))
    {
        return FaultKind::ContextLength;
    }
    if says(&[
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation",
        "moderation_blocked",
    ]) {
        return FaultKind::ContentPolicy;
    }
    if says(&[
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "billing_not_active",
    ]) {
        return FaultKind::Quota;
    }
    if says(&["invalid_api_key", "authentication"]) || tells(&["incorrect api key"]) {
        return FaultKind::Authentication;
    }
    // xAI's is a 403.
    if says(&["payment_required"]) || (status == Some(403) && tells(&["credits"])) {
        return FaultKind::Payment;
    }
    match status {
        Some(404) => FaultKind::NotFound,
        Some(413) => FaultKind::TooLarge,
        _ if says(&["model_not_found"]) => FaultKind::NotFound,
        _ if says(&[
            "capacity_exceeded",
            "provider_overloaded",
            "overloaded_error",
            "overloaded",
        ]) =>
        {
            FaultKind::Overloaded
        }
        _ if says(&[
            "rate_limit_exceeded",
            "rate_limit_error",
            "requests",
            "tokens",
        ]) =>
        {
            FaultKind::RateLimited
        }
        Some(status) if status >= 400 => FaultKind::of_status(status),
        // Groq's, in a stream, has no word at all.
        _ if tells(&["over capacity", "overloaded"]) => FaultKind::Overloaded,
        _ if says(&["invalid_request_error", "invalid_prompt"]) => FaultKind::InvalidRequest,
        _ if says(&["timeout"]) => FaultKind::Timeout,
        _ => FaultKind::Server,
    }
}

/// When what is used up is there again: of `x-ratelimit-reset-{requests,tokens}` where nothing remains.
fn reset(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: String| headers.get(name)?.to_str().ok();
    ["requests", "tokens"]
        .into_iter()
        .filter(|unit| text(format!("x-ratelimit-remaining-{unit}")).map(str::trim) == Some("0"))
        .filter_map(|unit| wait::span(text(format!("x-ratelimit-reset-{unit}"))?))
        .max()
}

/// `{"message", "type", "param", "code"}`
pub fn error_object(complaint: &Complaint<'_>) -> Value {
    let (kind, code) = match complaint.status {
        // The words that programs look for.
        401 => ("invalid_request_error", "invalid_api_key"),
        402 => ("insufficient_quota", "insufficient_quota"),
        429 if complaint.code == "insufficient_quota" => ("insufficient_quota", complaint.code),
        429 => ("rate_limit_error", complaint.code),
        403 => ("permission_error", complaint.code),
        400..=499 => ("invalid_request_error", complaint.code),
        _ => ("server_error", complaint.code),
    };
    json!({
        "message": complaint.message,
        "type": kind,
        "param": complaint.param,
        "code": code,
    })
}

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
        "function": {"name": call.name, "arguments": call.arguments},
    })
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
