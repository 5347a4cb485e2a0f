//! There and back is the same, and no JSON makes it panic.

use super::super::samples;
use super::super::{Dialect, InPath, Wants};
use super::Gemini;
use crate::stage::ai::call::{Call, Part, Reasoning};
use crate::stage::ai::event::{Event, StopReason};
use proptest::prelude::*;
use serde_json::{Value, json};

fn path(model: &str, stream: bool) -> InPath<'_> {
    InPath {
        model: Some(model),
        stream,
    }
}

const WORDS: &[&str] = &[
    "contents",
    "parts",
    "text",
    "role",
    "user",
    "model",
    "inlineData",
    "inline_data",
    "mimeType",
    "data",
    "fileData",
    "fileUri",
    "functionCall",
    "functionResponse",
    "name",
    "args",
    "id",
    "response",
    "output",
    "error",
    "thought",
    "thoughtSignature",
    "systemInstruction",
    "tools",
    "functionDeclarations",
    "parameters",
    "parametersJsonSchema",
    "properties",
    "type",
    "OBJECT",
    "nullable",
    "items",
    "anyOf",
    "enum",
    "toolConfig",
    "functionCallingConfig",
    "mode",
    "ANY",
    "allowedFunctionNames",
    "generationConfig",
    "temperature",
    "topK",
    "maxOutputTokens",
    "responseMimeType",
    "application/json",
    "responseSchema",
    "thinkingConfig",
    "thinkingBudget",
    "thinkingLevel",
    "HIGH",
    "candidates",
    "content",
    "finishReason",
    "STOP",
    "promptFeedback",
    "blockReason",
    "usageMetadata",
    "promptTokenCount",
    "candidatesTokenCount",
    "details",
    "status",
    "message",
    "promptTokensDetails",
    "modality",
    "AUDIO",
    "tokenCount",
    "image/png",
];

fn a_call() -> Value {
    json!({
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}, {"inlineData": {"mimeType": "image/png", "data": "aa"}},
                {"fileData": {"fileUri": "https://x/y.pdf"}}]},
            {"role": "model", "parts": [{"text": "t", "thought": true},
                {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "x"}}}]}],
        "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters":
            {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": true, "enum": ["a"]}}}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "generationConfig": {"temperature": 1, "topK": 3, "seed": 4, "stopSequences": ["x"],
            "responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"},
            "thinkingConfig": {"thinkingBudget": 100, "includeThoughts": true}},
    })
}

fn a_reply() -> Value {
    json!({
        "candidates": [{"content": {"role": "model", "parts": [{"text": "t", "thought": true,
            "thoughtSignature": "c2ln"}, {"text": "x"},
            {"functionCall": {"id": "1", "name": "f", "args": {"a": [1, {}]}}}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 7,
            "thoughtsTokenCount": 5, "totalTokenCount": 22,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}]},
        "modelVersion": "m", "responseId": "r",
    })
}

#[test]
fn a_reply_there_and_back_is_the_same_reply() {
    let reply = Gemini.read_reply(a_reply().to_string().as_bytes()).unwrap();
    assert_eq!(reply.stop.reason, StopReason::ToolCalls);
    assert_eq!(reply.parts.len(), 3);
    let again = Gemini.read_reply(&Gemini.write_reply(&reply)).unwrap();
    assert_eq!(again, reply);
}

/// Gemini is sent no thoughts, and knows no names of files.
fn sayable(mut call: Call) -> Call {
    for message in &mut call.messages {
        message
            .parts
            .retain(|part| !matches!(part, Part::Thought(_)));
        for part in &mut message.parts {
            if let Part::File(media) = part {
                media.name = None;
            }
        }
    }
    call
}

proptest! {
    #[test]
    fn a_call_there_and_back_is_the_same_call(
        call in samples::call(),
        stream in any::<bool>(),
        seed in proptest::option::of(any::<i32>()),
        budget in proptest::option::of(any::<u32>()),
        show in any::<Option<bool>>(),
    ) {
        let reasoning = Reasoning { budget: budget.map(u64::from), show, effort: None };
        let reasoning = Some(reasoning).filter(|reasoning| *reasoning != Reasoning::default());
        let call = Call { seed: seed.map(i64::from), stream, reasoning, ..sayable(call) };
        let written = Gemini.write_call(&call).unwrap();
        prop_assert!(written.dropped.is_empty(), "{:?}", written.dropped);
        let read = Gemini.read_call(&written.body, &path(&call.model, stream)).unwrap();
        prop_assert_eq!(read, call);
    }

    #[test]
    fn a_stream_there_and_back_says_the_same(events in samples::events()) {
        // Proofs that are no Base64 would break the SDK.
        let events: Vec<Event> = events
            .into_iter()
            .filter(|event| !matches!(event, Event::ThoughtSignature(_)))
            .collect();
        let mut writer = Gemini.writer(Wants::default());
        let mut out = Vec::new();
        for event in &events {
            writer.write(event, &mut out);
        }
        let (mut read, whole) = samples::read_all(&Gemini, &out);
        prop_assert!(whole);
        read.push(Event::End);
        let texts = |events: &[Event]| -> Vec<Event> {
            // The reader has no mark of the end, and tells usage before it.
            let mut events = samples::joined(events);
            events.sort_by_key(|event| matches!(event, Event::Usage(_) | Event::End));
            events
        };
        prop_assert_eq!(texts(&read), texts(&events));
    }

    #[test]
    fn no_json_makes_it_panic(value in samples::value(WORDS)) {
        samples::survives(&Gemini, &value);
    }

    #[test]
    fn nothing_wrong_in_one_place_makes_it_panic(
        place in 0..60_usize,
        other in samples::value(WORDS),
    ) {
        for mut tree in [a_call(), a_reply(), json!([a_reply(), a_reply()])] {
            samples::mutate(&mut tree, place, other.clone());
            samples::survives(&Gemini, &tree);
        }
    }
}

#[test]
fn what_is_right_survives() {
    for tree in [a_call(), a_reply()] {
        samples::survives(&Gemini, &tree);
    }
}
