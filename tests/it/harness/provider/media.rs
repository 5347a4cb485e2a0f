//! What is neither text nor tokens: forms with files, pictures, speech, and what is moderated.

use super::fault::{Due, Flavour};
use super::prompt::count;
use super::refusal::Refusal;
use super::{Asked, list, now, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

const INVALID: &str = "invalid_request_error";

/// A picture of one pixel.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// The boundary, if the content type is that of a form.
pub fn boundary(content_type: &str) -> Option<String> {
    let rest = content_type.strip_prefix("multipart/form-data")?;
    let (_, boundary) = rest.split_once("boundary=")?;
    let boundary = boundary.split(';').next().unwrap_or_default();
    Some(boundary.trim_matches('"').to_owned())
}

/// The fields of a form; files as `{filename, content_type, bytes}`.
pub fn form(raw: &[u8], boundary: &str) -> Value {
    let mut fields = Map::new();
    let mark = format!("--{boundary}");
    let starts: Vec<usize> = memchr::memmem::find_iter(raw, mark.as_bytes()).collect();
    for pair in starts.windows(2) {
        let part = &raw[pair[0] + mark.len()..pair[1]];
        let Some(at) = memchr::memmem::find(part, b"\r\n\r\n") else {
            return Value::Null;
        };
        let head = String::from_utf8_lossy(&part[..at]).into_owned();
        let body = part[at + 4..]
            .strip_suffix(b"\r\n")
            .unwrap_or(&part[at + 4..]);
        let name = parameter(&head, "name").unwrap_or_default();
        let value = match parameter(&head, "filename") {
            Some(filename) => {
                let lines = head.lines().filter_map(|line| line.split_once(':'));
                let mut types = lines.filter(|(key, _)| key.eq_ignore_ascii_case("content-type"));
                let content_type = types.next().map(|(_, value)| value.trim());
                json!({"filename": filename, "content_type": content_type, "bytes": body.len()})
            }
            None => json!(String::from_utf8_lossy(body)),
        };
        fields.insert(name, value);
    }
    Value::Object(fields)
}

fn parameter(head: &str, name: &str) -> Option<String> {
    let after = head.split(&format!("; {name}=")).nth(1)?;
    let value = after.split(['\r', ';']).next().unwrap_or_default();
    Some(value.trim_matches('"').to_owned())
}

pub fn images(asked: &Asked) -> Result<Due, Refusal> {
    let prompt = required(&asked.body, "prompt")?;
    let made = match &asked.body["n"] {
        Value::String(n) => n.parse().unwrap_or(1),
        n => n.as_u64().unwrap_or(1),
    };
    let data: Vec<Value> = (0..made).map(|_| json!({ "b64_json": PICTURE })).collect();
    let tokens = count(prompt);
    let body = json!({
        "created": now(),
        "background": "opaque",
        "data": data,
        "output_format": "png",
        "quality": "high",
        "size": "1024x1024",
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": tokens},
            "output_tokens": 4160 * made,
            "total_tokens": tokens + 4160 * made,
        },
    });
    Ok(Due::json(Flavour::Other, &body))
}

pub fn speech(asked: &Asked) -> Result<Due, Refusal> {
    let input = required(&asked.body, "input")?;
    required(&asked.body, "voice")?;
    let content_type = match text(&asked.body["response_format"]) {
        "wav" => "audio/wav",
        "opus" => "audio/opus",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "pcm" => "audio/pcm",
        _ => "audio/mpeg",
    };
    let sound = [b"ID3".as_slice(), input.as_bytes(), &[0xff, 0xfb, 0x90]].concat();
    Ok(Due::bytes(Flavour::Other, content_type, sound))
}

/// Transcriptions and translations.
pub fn transcription(asked: &Asked) -> Result<Due, Refusal> {
    if boundary(asked.content_type()).is_none() {
        return Err(Refusal::new(400, INVALID, "Invalid multipart body"));
    }
    let file = &asked.body["file"];
    if file["bytes"].is_null() {
        return Err(missing("file"));
    }
    let heard = format!(
        "heard {} bytes of {}",
        file["bytes"],
        text(&file["filename"])
    );
    let tokens = count(&heard);
    match text(&asked.body["response_format"]) {
        "text" => Ok(Due::bytes(
            Flavour::Other,
            "text/plain; charset=utf-8",
            heard + "\n",
        )),
        "verbose_json" => Ok(Due::json(
            Flavour::Other,
            &json!({"task": "transcribe", "language": "english", "duration": 3.5, "text": heard, "segments": [], "usage": {"type": "duration", "seconds": 4}}),
        )),
        _ if text(&asked.body["model"]).starts_with("whisper") => Ok(Due::json(
            Flavour::Other,
            &json!({"text": heard, "usage": {"type": "duration", "seconds": 4}}),
        )),
        _ => Ok(Due::json(
            Flavour::Other,
            &json!({"text": heard, "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                "output_tokens": tokens,
                "total_tokens": 14 + tokens,
            }}),
        )),
    }
}

pub fn moderation(asked: &Asked) -> Result<Due, Refusal> {
    let input = &asked.body["input"];
    if input.is_null() {
        return Err(missing("input"));
    }
    let texts: Vec<&str> = match input {
        Value::Array(all) if all.iter().all(Value::is_string) => all.iter().map(text).collect(),
        // Parts of one message.
        Value::Array(all) => vec![
            all.iter()
                .map(|part| text(&part["text"]))
                .next()
                .unwrap_or_default(),
        ],
        one => vec![text(one)],
    };
    let results: Vec<Value> = texts.iter().map(|text| judged(text)).collect();
    let body = json!({"id": super::fresh_id("modr-"), "model": "omni-moderation-latest", "results": results});
    Ok(Due::json(Flavour::Other, &body))
}

fn judged(text: &str) -> Value {
    const CATEGORIES: [&str; 13] = [
        "harassment",
        "harassment/threatening",
        "hate",
        "hate/threatening",
        "illicit",
        "illicit/violent",
        "self-harm",
        "self-harm/instructions",
        "self-harm/intent",
        "sexual",
        "sexual/minors",
        "violence",
        "violence/graphic",
    ];
    let flagged = text.contains("kill");
    let of = |value: &dyn Fn(&str) -> Value| -> Map<String, Value> {
        CATEGORIES
            .iter()
            .map(|name| ((*name).to_owned(), value(name)))
            .collect()
    };
    let hit = |name: &str| flagged && name == "violence";
    json!({
        "flagged": flagged,
        "categories": of(&|name| json!(hit(name))),
        "category_scores": of(&|name| json!(if hit(name) { 0.9 } else { 0.000_1 })),
        "category_applied_input_types": of(&|_| json!(["text"])),
    })
}

fn required<'a>(body: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    body[name].as_str().ok_or_else(|| missing(name))
}

pub fn missing(name: &str) -> Refusal {
    Refusal::new(
        400,
        INVALID,
        format!("Missing required parameter: '{name}'."),
    )
    .code("missing_required_parameter")
    .param(name)
}

/// Base64 of numbers as `OpenAI` packs them.
pub fn packed(numbers: &[f32]) -> String {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

/// How many inputs there are, and the words of each.
pub fn inputs(input: &Value) -> Vec<String> {
    match input {
        Value::String(text) => vec![text.clone()],
        // Tokens of one text.
        Value::Array(all) if all.first().is_some_and(Value::is_number) => vec![spelled(input)],
        Value::Array(all) => {
            let each = all.iter();
            each.map(|one| one.as_str().map_or_else(|| spelled(one), str::to_owned))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn spelled(tokens: &Value) -> String {
    let numbers: Vec<String> = list(tokens).iter().map(Value::to_string).collect();
    numbers.join(" ")
}
