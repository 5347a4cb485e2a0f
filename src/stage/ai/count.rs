//! How many tokens a prompt has: three APIs can be asked, each in the words of the others too.
//!
//! Sources: `OpenAI` "Count input tokens" (`/responses/input_tokens`), Anthropic "Count Message tokens"
//! (`/messages/count_tokens`), Gemini "Counting tokens" (`models.countTokens`, which takes a whole call as
//! `generateContentRequest`; on Vertex its fields stand at the top). Nothing is generated, so nothing of how to
//! answer is passed on: each API refuses fields that its count does not know.

use super::call::Call;
use super::dialect::{DialectName, InPath};
use super::fault::{CallFault, Malformed};
use super::provider::Operation;
use serde_json::{Map, Value, json};

/// What counts, in the order in which providers are looked at for one that they have.
pub(super) const COUNTS: [Operation; 3] = [
    Operation::ResponsesInputTokens,
    Operation::MessagesCountTokens,
    Operation::CountTokens,
];

/// The fields of a call that a count knows.
const RESPONSES: &[&str] = &[
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
];
const MESSAGES: &[&str] = &[
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
];
const GEMINI: &[&str] = &["contents", "systemInstruction", "tools", "toolConfig"];

const WHOLE_CALL: [&str; 2] = ["generateContentRequest", "generate_content_request"];

impl Operation {
    /// In whose words a prompt is given that is to be counted; none: something else is asked.
    pub fn counts(self) -> Option<DialectName> {
        match self {
            Self::ResponsesInputTokens => Some(DialectName::Responses),
            Self::MessagesCountTokens => Some(DialectName::Messages),
            Self::CountTokens => Some(DialectName::Gemini),
            _ => None,
        }
    }
}

/// The prompt that a caller wants to have counted. Fields that are no part of it are passed over, as they change
/// nothing about its tokens.
pub fn read_call(from: DialectName, body: &[u8], path: &InPath<'_>) -> Result<Call, CallFault> {
    let dialect = from.dialect();
    let mut call = match unwrapped(from, body) {
        Some(inner) => dialect.read_call(inner.to_string().as_bytes(), path)?,
        None => dialect.read_call(body, path)?,
    };
    call.stream = false;
    Ok(call)
}

/// The call within Gemini's question for its count, where there is one.
fn unwrapped(from: DialectName, body: &[u8]) -> Option<Value> {
    if from != DialectName::Gemini {
        return None;
    }
    let mut body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let inner = WHOLE_CALL.iter().find_map(|name| body.remove(*name));
    inner.filter(Value::is_object)
}

/// The question for a count, from a call as it is `written` in the dialect `to`. `at_top`: the call's fields stand
/// at the top, as Vertex wants them; else `model` is named within.
pub fn ask(to: DialectName, written: &[u8], model: &str, at_top: bool) -> Vec<u8> {
    let known = match to {
        DialectName::Messages => MESSAGES,
        DialectName::Gemini => GEMINI,
        _ => RESPONSES,
    };
    let Ok(mut call) = serde_json::from_slice::<Map<String, Value>>(written) else {
        return written.to_vec();
    };
    call.retain(|name, _| known.contains(&name.as_str()));
    let bare = call.len() == 1 && call.contains_key("contents");
    if to == DialectName::Gemini && !at_top && !bare {
        call.insert("model".to_owned(), json!(format!("models/{model}")));
        return json!({ WHOLE_CALL[0]: call }).to_string().into_bytes();
    }
    Value::Object(call).to_string().into_bytes()
}

/// The count that a provider has answered with.
pub fn read(of: DialectName, body: &[u8]) -> Result<u64, Malformed> {
    let name = match of {
        DialectName::Gemini => "totalTokens",
        _ => "input_tokens",
    };
    let body: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| Malformed("no JSON object".to_owned()))?;
    match (body.get(name), of) {
        // What is zero is left out of its JSON.
        (None, DialectName::Gemini) => Ok(0),
        (count, _) => count
            .and_then(Value::as_u64)
            .ok_or_else(|| Malformed(format!("no `{name}`"))),
    }
}

/// The count as a caller's SDK reads it.
pub fn write(to: DialectName, tokens: u64) -> Vec<u8> {
    let body = match to {
        DialectName::Gemini => json!({ "totalTokens": tokens }),
        DialectName::Messages => json!({ "input_tokens": tokens }),
        _ => json!({ "object": "response.input_tokens", "input_tokens": tokens }),
    };
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: [(DialectName, &str); 3] = [
        (
            DialectName::Responses,
            r#"{"model":"m","instructions":"be brief","input":"hi"}"#,
        ),
        (
            DialectName::Messages,
            r#"{"model":"m","system":"be brief","messages":[{"role":"user","content":"hi"}]}"#,
        ),
        (
            DialectName::Gemini,
            r#"{"generateContentRequest":{"model":"models/m","systemInstruction":{"parts":[{"text":"be brief"}]},
                "contents":[{"role":"user","parts":[{"text":"hi"}]}],"generationConfig":{"temperature":1}}}"#,
        ),
    ];

    fn asked(from: usize, to: DialectName, at_top: bool) -> Value {
        let (dialect, body) = ASKED[from];
        let call = read_call(dialect, body.as_bytes(), &InPath::default()).expect(body);
        let written = to.dialect().write_call(&call).unwrap();
        serde_json::from_slice(&ask(to, &written.body, "m", at_top)).unwrap()
    }

    #[test]
    fn each_count_is_asked_for_in_the_words_of_each() {
        for from in 0..ASKED.len() {
            let responses = asked(from, DialectName::Responses, false);
            let names: Vec<_> = responses.as_object().unwrap().keys().collect();
            assert_eq!(names, ["model", "instructions", "input"], "{responses}");
            assert_eq!(responses["instructions"], "be brief");

            let messages = asked(from, DialectName::Messages, false);
            assert_eq!(messages["messages"][0]["role"], "user", "{messages}");
            assert!(messages["system"].to_string().contains("be brief"));
            assert!(messages.get("max_tokens").is_none(), "{messages}");

            let gemini = asked(from, DialectName::Gemini, false);
            let inner = &gemini["generateContentRequest"];
            assert_eq!(inner["model"], "models/m", "{gemini}");
            assert_eq!(inner["contents"][0]["parts"][0]["text"], "hi", "{gemini}");
            let vertex = asked(from, DialectName::Gemini, true);
            assert_eq!(vertex["contents"], inner["contents"]);
            assert_eq!(vertex["systemInstruction"], inner["systemInstruction"]);
            assert!(vertex.get("model").is_none(), "{vertex}");
        }
    }

    #[test]
    fn a_prompt_alone_is_counted_as_one() {
        let path = InPath::default();
        let body = br#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;
        let call = read_call(DialectName::Gemini, body, &path).unwrap();
        let written = DialectName::Gemini.dialect().write_call(&call).unwrap();
        let bare = ask(DialectName::Gemini, &written.body, "m", false);
        let bare: Value = serde_json::from_slice(&bare).unwrap();
        assert!(bare.get("contents").is_some() && bare.get("model").is_none());
    }

    #[test]
    fn what_is_no_count_is_malformed() {
        use DialectName::{Gemini, Messages, Responses};
        for (of, body, count) in [
            (
                Responses,
                r#"{"object":"response.input_tokens","input_tokens":7}"#,
                Some(7),
            ),
            (Messages, r#"{"input_tokens":7}"#, Some(7)),
            (Messages, r#"{"input_tokens":"7"}"#, None),
            (Messages, "{}", None),
            (
                Gemini,
                r#"{"totalTokens":7,"promptTokensDetails":[]}"#,
                Some(7),
            ),
            (Gemini, "{}", Some(0)),
            (Gemini, r#"{"totalTokens":-1}"#, None),
            (Gemini, "7", None),
            (Gemini, "<", None),
        ] {
            assert_eq!(read(of, body.as_bytes()).ok(), count, "{body}");
        }
        for (to, body) in [
            (
                Responses,
                json!({"object": "response.input_tokens", "input_tokens": 7}),
            ),
            (Messages, json!({"input_tokens": 7})),
            (Gemini, json!({"totalTokens": 7})),
        ] {
            let written: Value = serde_json::from_slice(&write(to, 7)).unwrap();
            assert_eq!(written, body);
        }
    }
}
