//! Whole answers of Gemini's API (`GenerateContentResponse`), and what streams share with them.

use super::super::super::call::{Media, Part, Source, ToolCall};
use super::super::super::event::{Stop, StopReason};
use super::super::super::fault::Malformed;
use super::super::super::reply::Reply;
use super::media::{media_part, read_blob, write_media};
use super::read_call::add_thought;
use crate::base::usage::Usage;
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

/// What a call whose arguments are no object ends with.
pub const MALFORMED_CALL: &str = "MALFORMED_FUNCTION_CALL";

pub fn read_reply(body: &[u8]) -> Result<Reply, Malformed> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|fault| Malformed(format!("the answer is not JSON: {fault}")))?;
    let mut namer = Namer::default();
    namer.response(&value);
    let candidate = &value["candidates"][0];
    let mut parts = Vec::new();
    for part in candidate["content"]["parts"]
        .as_array()
        .into_iter()
        .flatten()
    {
        read_part(part, &mut namer, &mut parts);
    }
    let has_calls = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let stop = match read_blocked(&value) {
        Some((stop, words)) => {
            parts.extend(words.map(Part::Refusal));
            stop
        }
        None => read_stop(candidate, has_calls)
            .ok_or_else(|| Malformed("the answer does not say why it ends".to_owned()))?,
    };
    Ok(Reply {
        id: text_of(&value["responseId"]),
        model: text_of(&value["modelVersion"]),
        created: 0,
        parts,
        stop,
        usage: read_usage(&value),
    })
}

pub fn write_reply(reply: &Reply) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut broken = None;
    for part in &reply.parts {
        match part {
            Part::ToolCall(call) => match write_call(call) {
                Some(part) => parts.push(part),
                None => broken = Some(call.name.as_str()),
            },
            part => parts.extend(write_part(part)),
        }
    }
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
    end_candidate(&mut candidate, &reply.stop, broken);
    let mut value = json!({"candidates": [candidate]});
    if let Some(usage) = &reply.usage {
        value["usageMetadata"] = write_usage(usage);
    }
    value["modelVersion"] = json!(reply.model);
    value["responseId"] = json!(reply.id);
    value.to_string().into_bytes()
}

/// Why it ends; a call whose arguments are no JSON object is told as Gemini tells of its own.
pub fn end_candidate(candidate: &mut Value, stop: &Stop, broken: Option<&str>) {
    candidate["finishReason"] = json!(stop_word(stop));
    if let Some(name) = broken {
        candidate["finishReason"] = json!(MALFORMED_CALL);
        candidate["finishMessage"] = json!(format!(
            "the arguments of the call of `{name}` are not a JSON object"
        ));
    }
}

/// Names calls that have no id. The same bytes are given the same ids, and other answers others, as ids must differ
/// in all of a conversation.
#[derive(Debug, Default)]
pub struct Namer {
    response: String,
    calls: u32,
}

impl Namer {
    pub fn response(&mut self, value: &Value) {
        if let Some(id) = value["responseId"].as_str() {
            id.clone_into(&mut self.response);
        }
    }

    fn name(&mut self, call: &Value) -> String {
        self.calls += 1;
        if let Some(id) = call["id"].as_str().filter(|id| !id.is_empty()) {
            return id.to_owned();
        }
        let unique = if self.response.is_empty() {
            format!("{:016x}", hash(call.to_string().as_bytes()))
        } else {
            self.response
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
                .take(40)
                .collect()
        };
        format!("call_{unique}_{}", self.calls)
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A call of a tool, which comes whole; none where a part is something else.
pub fn read_call(part: &Value, namer: &mut Namer) -> Option<ToolCall> {
    let call = part.get("functionCall")?;
    let name = call["name"].as_str().filter(|name| !name.is_empty())?;
    Some(ToolCall {
        id: namer.name(call),
        name: name.to_owned(),
        arguments: match &call["args"] {
            Value::Null => "{}".to_owned(),
            args => args.to_string(),
        },
        signature: filled(&part["thoughtSignature"]),
    })
}

/// Code that the provider ran itself has no place in an answer; its words about it do.
fn read_part(part: &Value, namer: &mut Namer, parts: &mut Vec<Part>) {
    if part["thought"] == json!(true) {
        let signature = filled(&part["thoughtSignature"]);
        add_thought(text_of(&part["text"]), signature, parts);
    } else if let Some(call) = read_call(part, namer) {
        parts.push(Part::ToolCall(call));
    } else if let Some(media) = read_blob(part) {
        parts.push(media_part(media));
    } else if let Some(text) = filled(&part["text"]) {
        match parts.last_mut() {
            Some(Part::Text(before)) => before.push_str(&text),
            _ => parts.push(Part::Text(text)),
        }
    }
}

/// None for what Gemini has no place for.
fn write_part(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) | Part::Refusal(text) if text.is_empty() => return None,
        Part::Text(text) | Part::Refusal(text) => json!({ "text": text }),
        Part::Image(media) => write_picture(media),
        Part::Thought(thought) => {
            let signature = thought.signature.as_deref().filter(|s| is_base64(s));
            if thought.text.is_empty() && signature.is_none() {
                return None;
            }
            let mut part = json!({"text": thought.text, "thought": true});
            if let Some(signature) = signature {
                part["thoughtSignature"] = json!(signature);
            }
            part
        }
        Part::ToolCall(call) => return write_call(call),
        Part::Audio(_) | Part::File(_) | Part::ToolResult(_) => return None,
    })
}

pub fn write_picture(media: &Media) -> Value {
    let address = match &media.source {
        Source::FileId(id) => Some(id),
        _ => None,
    };
    write_media(media, "image/png").unwrap_or_else(|| json!({"fileData": {"fileUri": address}}))
}

/// None where the arguments are not an object.
pub fn write_call(call: &ToolCall) -> Option<Value> {
    let arguments = match call.arguments.trim() {
        "" => "{}",
        arguments => arguments,
    };
    let args: Value = serde_json::from_str(arguments).ok()?;
    if !args.is_object() {
        return None;
    }
    let mut part = json!({"functionCall": {"id": call.id, "name": call.name, "args": args}});
    if let Some(signature) = call.signature.as_deref().filter(|s| is_base64(s)) {
        part["thoughtSignature"] = json!(signature);
    }
    Some(part)
}

/// The SDKs decode signatures, and fail on others.
pub fn is_base64(text: &str) -> bool {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true);
    [STANDARD, URL_SAFE]
        .iter()
        .any(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).is_ok())
}

/// From a candidate; none while it goes on.
pub fn read_stop(candidate: &Value, has_calls: bool) -> Option<Stop> {
    let native = candidate["finishReason"].as_str()?;
    let reason = match native {
        "" | "FINISH_REASON_UNSPECIFIED" => return None,
        "STOP" if has_calls => StopReason::ToolCalls,
        "MAX_TOKENS" => StopReason::Length,
        native if is_filter(native) => StopReason::ContentFilter,
        // Also `LANGUAGE`, `OTHER`, `MALFORMED_FUNCTION_CALL` and those to come.
        _ => StopReason::Stop,
    };
    Some(stop(reason, native))
}

/// Why a prompt was not answered at all, and in words, where there are any.
pub fn read_blocked(value: &Value) -> Option<(Stop, Option<String>)> {
    let feedback = &value["promptFeedback"];
    let native = feedback["blockReason"]
        .as_str()
        .filter(|reason| !matches!(*reason, "" | "BLOCKED_REASON_UNSPECIFIED"))?;
    let words = filled(&feedback["blockReasonMessage"]);
    Some((stop(StopReason::ContentFilter, native), words))
}

fn stop(reason: StopReason, native: &str) -> Stop {
    Stop {
        reason,
        native: native.to_owned(),
        sequence: None,
    }
}

fn is_filter(native: &str) -> bool {
    native.starts_with("IMAGE_")
        || matches!(
            native,
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII"
        )
}

pub fn stop_word(stop: &Stop) -> &str {
    match (stop.reason, stop.native.as_str()) {
        (StopReason::ContentFilter, native) if is_filter(native) => native,
        (StopReason::ContentFilter, _) => "SAFETY",
        (StopReason::Stop, native @ ("LANGUAGE" | MALFORMED_CALL)) => native,
        (StopReason::Stop | StopReason::ToolCalls, _) => "STOP",
        (StopReason::Length, _) => "MAX_TOKENS",
        (StopReason::Error, _) => "OTHER",
    }
}

/// `promptTokenCount` is with the cache, `candidatesTokenCount` is without thoughts; sounds and pictures are told in
/// the details of each.
pub fn read_usage(value: &Value) -> Option<Usage> {
    let counts = &value["usageMetadata"];
    if !counts.is_object() {
        return None;
    }
    let count = |name: &str| counts[name].as_u64().unwrap_or_default();
    let of = |details: &str, modality: &str| -> u64 {
        counts[details]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|row| row["modality"] == modality)
            .filter_map(|row| row["tokenCount"].as_u64())
            .fold(0, u64::saturating_add)
    };
    let prompt = count("promptTokenCount");
    let tools = count("toolUsePromptTokenCount");
    let thoughts = count("thoughtsTokenCount");
    let candidates = counts["candidatesTokenCount"].as_u64().unwrap_or_else(|| {
        [prompt, tools, thoughts]
            .into_iter()
            .fold(count("totalTokenCount"), u64::saturating_sub)
    });
    let mut prompt = Share(prompt);
    let cache_read = prompt.take(count("cachedContentTokenCount"));
    let uncached = |modality: &str| {
        of("promptTokensDetails", modality).saturating_sub(of("cacheTokensDetails", modality))
    };
    let input_audio = prompt.take(uncached("AUDIO"));
    let input_image = prompt.take(uncached("IMAGE"));
    let mut candidates = Share(candidates);
    let output_audio = candidates.take(of("candidatesTokensDetails", "AUDIO"));
    let output_image = candidates.take(of("candidatesTokensDetails", "IMAGE"));
    let queries = value["candidates"][0]["groundingMetadata"]["webSearchQueries"].as_array();
    Some(Usage {
        input: prompt.0.saturating_add(tools),
        cache_read,
        input_audio,
        input_image,
        output: candidates.0,
        reasoning: thoughts,
        output_audio,
        output_image,
        searches: queries.map_or(0, |queries| queries.len() as u64),
        ..Usage::default()
    })
}

/// A count that is taken apart; never more than there is.
struct Share(u64);

impl Share {
    fn take(&mut self, count: u64) -> u64 {
        let taken = count.min(self.0);
        self.0 -= taken;
        taken
    }
}

pub fn write_usage(usage: &Usage) -> Value {
    let candidates = usage.total_output().saturating_sub(usage.reasoning);
    let mut value = json!({
        "promptTokenCount": usage.total_input(),
        "candidatesTokenCount": candidates,
        "totalTokenCount": usage.total(),
    });
    if usage.cache_read > 0 {
        value["cachedContentTokenCount"] = json!(usage.cache_read);
    }
    if usage.reasoning > 0 {
        value["thoughtsTokenCount"] = json!(usage.reasoning);
    }
    let details = [
        (
            "promptTokensDetails",
            usage.total_input(),
            usage.input_audio,
            usage.input_image,
        ),
        (
            "candidatesTokensDetails",
            candidates,
            usage.output_audio,
            usage.output_image,
        ),
    ];
    for (name, total, audio, image) in details {
        let text = total.saturating_sub(audio).saturating_sub(image);
        let rows: Vec<Value> = [("TEXT", text), ("AUDIO", audio), ("IMAGE", image)]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(modality, count)| json!({"modality": modality, "tokenCount": count}))
            .collect();
        if audio > 0 || image > 0 {
            value[name] = Value::Array(rows);
        }
    }
    value
}

pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A text that is not empty.
pub fn filled(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
