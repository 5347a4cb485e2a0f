//! Texts as numbers, in `OpenAI`'s and Gemini's words.

use super::fault::{Due, Flavour};
use super::media::{inputs, missing, packed};
use super::prompt::{count, embedding};
use super::refusal::Refusal;
use super::{Asked, list, text};
use serde_json::{Value, json};

pub fn openai(asked: &Asked) -> Result<Due, Refusal> {
    let body = &asked.body;
    let texts = inputs(&body["input"]);
    if texts.is_empty() {
        return Err(missing("input"));
    }
    let dimensions = dimensions(&body["dimensions"]);
    let as_bytes = text(&body["encoding_format"]) == "base64";
    let data: Vec<Value> = (0..)
        .zip(&texts)
        .map(|(index, text): (u64, _)| {
            let numbers = embedding(text, dimensions);
            let numbers = if as_bytes {
                json!(packed(&numbers))
            } else {
                json!(numbers)
            };
            json!({"object": "embedding", "index": index, "embedding": numbers})
        })
        .collect();
    let tokens: u64 = texts.iter().map(|text| count(text)).sum();
    Ok(Due::json(
        Flavour::Other,
        &json!({
            "object": "list",
            "data": data,
            "model": body["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }),
    ))
}

/// `embedContent`, or one of `batchEmbedContents`.
pub fn gemini(request: &Value) -> Value {
    let texts: Vec<&str> = list(&request["content"]["parts"])
        .iter()
        .map(|part| text(&part["text"]))
        .collect();
    let dimensions = dimensions(&request["outputDimensionality"]);
    json!({ "values": embedding(&texts.join(" "), dimensions) })
}

fn dimensions(asked: &Value) -> usize {
    let asked = asked.as_u64().unwrap_or(8);
    usize::try_from(asked).unwrap_or(8).min(4096)
}
