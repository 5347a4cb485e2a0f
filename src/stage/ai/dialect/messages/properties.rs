//! There and back is the same, and no JSON makes it panic.

use super::super::samples;
use super::super::{Dialect, InPath, Wants};
use super::Messages;
use crate::stage::ai::call::{Call, Effort, Message, Part, Reasoning, Role, ToolChoice};
use crate::stage::ai::event::StopReason;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(body: &Value) -> Call {
    Messages
        .read_call(body.to_string().as_bytes(), &InPath::default())
        .unwrap()
}

fn write(call: &Call) -> (Value, Vec<String>) {
    let written = Messages.write_call(call).unwrap();
    let body = serde_json::from_slice(&written.body).unwrap();
    (body, written.dropped)
}

fn said(text: &str) -> Call {
    Call {
        model: "claude-opus-4-5".to_owned(),
        messages: vec![Message {
            role: Role::User,
            parts: vec![Part::Text(text.to_owned())],
        }],
        ..Call::default()
    }
}

const WORDS: &[&str] = &[
    "model",
    "messages",
    "role",
    "user",
    "assistant",
    "system",
    "content",
    "type",
    "text",
    "image",
    "source",
    "base64",
    "url",
    "data",
    "media_type",
    "document",
    "tool_use",
    "tool_result",
    "id",
    "name",
    "input",
    "tool_use_id",
    "is_error",
    "thinking",
    "signature",
    "redacted_thinking",
    "tools",
    "input_schema",
    "tool_choice",
    "any",
    "auto",
    "max_tokens",
    "enabled",
    "adaptive",
    "budget_tokens",
    "output_config",
    "format",
    "schema",
    "json_schema",
    "effort",
    "high",
    "message_start",
    "message",
    "content_block_start",
    "content_block",
    "content_block_delta",
    "delta",
    "text_delta",
    "input_json_delta",
    "partial_json",
    "thinking_delta",
    "signature_delta",
    "content_block_stop",
    "index",
    "message_delta",
    "stop_reason",
    "message_stop",
    "error",
    "usage",
    "output_tokens",
    "temperature",
    "properties",
    "object",
];

fn a_call() -> Value {
    json!({
        "model": "claude-sonnet-4-5", "max_tokens": 10, "stream": true, "temperature": 0.5,
        "system": [{"type": "text", "text": "s"}], "stop_sequences": ["x"],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "tools": [{"name": "t", "input_schema": {"type": "object"}, "strict": true}],
        "tool_choice": {"type": "tool", "name": "t", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "aa"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "tool_use", "id": "1", "name": "t", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "is_error": true,
                "content": [{"type": "text", "text": "r"}]}]}],
    })
}

fn a_reply() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "1", "name": "n", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 9}},
    })
}

fn a_stream() -> Value {
    json!([
        {"type": "message_start", "message": a_reply()},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1,
            "content_block": {"type": "tool_use", "id": "1", "name": "n", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ])
}

proptest! {
    #[test]
    fn a_call_there_and_back_is_the_same_call(
        call in samples::call(),
        thinks in prop_oneof![Just(None), Just(Some(samples::off()))],
        parallel in any::<Option<bool>>(),
        stream in any::<bool>(),
        user in proptest::option::of(samples::id()),
    ) {
        let parallel = parallel.filter(|_| {
            !call.tools.is_empty() && call.tool_choice != ToolChoice::None
        });
        let call = Call { reasoning: thinks, parallel_tools: parallel, stream, end_user: user, ..call };
        let (body, dropped) = write(&call);
        prop_assert!(dropped.is_empty(), "{dropped:?}");
        prop_assert_eq!(read(&body), call);
    }

    #[test]
    fn thinking_there_and_back_is_the_same(budget in 1_024..9_000_u64, show in any::<bool>()) {
        let reasoning = Some(Reasoning { budget: Some(budget), show: Some(show), effort: None });
        let call = Call { reasoning, max_tokens: Some(9_001), ..said("hi") };
        prop_assert_eq!(read(&write(&call).0), call);
        for effort in [Effort::Low, Effort::Medium, Effort::High, Effort::XHigh] {
            let reasoning = Some(Reasoning { budget: None, show: Some(show), effort: Some(effort) });
            let model = "claude-opus-4-7".to_owned();
            let call = Call { reasoning, model, max_tokens: Some(9), ..said("hi") };
            prop_assert_eq!(read(&write(&call).0), call);
        }
    }

    #[test]
    fn a_stream_there_and_back_says_the_same(events in samples::events()) {
        let mut writer = Messages.writer(Wants::default());
        let mut out = Vec::new();
        for event in &events {
            writer.write(event, &mut out);
        }
        let (read, whole) = samples::read_all(&Messages, &out);
        prop_assert!(whole);
        prop_assert_eq!(samples::joined(&read), samples::joined(&events));
    }

    #[test]
    fn no_json_makes_it_panic(value in samples::value(WORDS)) {
        samples::survives(&Messages, &value);
    }

    #[test]
    fn nothing_wrong_in_one_place_makes_it_panic(
        place in 0..60_usize,
        other in samples::value(WORDS),
    ) {
        for mut tree in [a_call(), a_reply(), a_stream()] {
            samples::mutate(&mut tree, place, other.clone());
            samples::survives(&Messages, &tree);
        }
    }
}

#[test]
fn a_reply_there_and_back_is_the_same_reply() {
    let body = a_reply().to_string();
    let reply = Messages.read_reply(body.as_bytes()).unwrap();
    assert_eq!(reply.stop.reason, StopReason::ToolCalls);
    let again = Messages.read_reply(&Messages.write_reply(&reply)).unwrap();
    assert_eq!(again, reply);
    assert!(Messages.read_reply(b"{}").is_err());
}

#[test]
fn what_is_right_survives() {
    for tree in [a_call(), a_reply()] {
        samples::survives(&Messages, &tree);
    }
}
