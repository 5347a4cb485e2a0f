//! What is said to Cohere and by it.

use super::super::samples;
use super::super::{Dialect, Frame, Wants};
use super::Cohere;
use crate::base::usage::Usage;
use crate::stage::ai::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Source, Tool, ToolCall,
    ToolChoice, ToolResult,
};
use crate::stage::ai::event::{Event, Stop, StopReason};
use crate::stage::ai::fault::{Complaint, FaultKind};
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message { role, parts }
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: Some(json!({"type": "object", "properties": {}})),
        strict: None,
    }
}

fn write(call: &Call) -> (Value, Vec<String>) {
    let written = Cohere.write_call(call).unwrap();
    (
        serde_json::from_slice(&written.body).unwrap(),
        written.dropped,
    )
}

#[test]
#[expect(clippy::too_many_lines, reason = "everything in one")]
fn a_call_with_everything_is_said_in_coheres_words() {
    let image = Part::Image(Media {
        media_type: Some("image/png".to_owned()),
        source: Source::Base64("aa".to_owned()),
        detail: None,
        name: None,
    });
    let called = Part::ToolCall(ToolCall {
        id: "t1".to_owned(),
        name: "f".to_owned(),
        arguments: String::new(),
        signature: None,
    });
    let returned = Part::ToolResult(ToolResult {
        id: "t1".to_owned(),
        name: None,
        parts: vec![text("no")],
        is_error: true,
    });
    let call = Call {
        model: "command-a".to_owned(),
        stream: true,
        system: vec![text("be brief")],
        messages: vec![
            message(Role::User, vec![text("hi"), image]),
            message(Role::Assistant, vec![text("I look"), called]),
            message(Role::User, vec![text("and?"), returned]),
        ],
        tools: vec![tool("f"), tool("g")],
        tool_choice: ToolChoice::Named("f".to_owned()),
        parallel_tools: Some(false),
        max_tokens: Some(9),
        top_k: Some(4),
        seed: Some(-1),
        presence_penalty: serde_json::Number::from_f64(-0.5),
        frequency_penalty: serde_json::Number::from_f64(0.5),
        reasoning: Some(Reasoning {
            effort: Some(Effort::Low),
            ..Reasoning::default()
        }),
        format: Format::Json,
        end_user: Some("u".to_owned()),
        ..Call::default()
    };
    let (body, dropped) = write(&call);
    assert_eq!(
        body,
        json!({
            "model": "command-a",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "hi"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}}]},
                {"role": "assistant", "content": "I look", "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "t1", "content": "no"},
                {"role": "user", "content": "and?"},
            ],
            "tools": [{"type": "function", "function": {"name": "f",
                "parameters": {"type": "object", "properties": {}}}}],
            "tool_choice": "REQUIRED",
            "max_tokens": 9,
            "k": 4,
            "frequency_penalty": 0.5,
            "thinking": {"type": "enabled", "token_budget": 1024},
            "response_format": {"type": "json_object"},
            "stream": true,
        })
    );
    assert_eq!(
        dropped,
        [
            "is_error",
            "parallel_tool_calls",
            "presence_penalty",
            "seed",
            "user"
        ]
    );
    assert!(Cohere.write_call(&Call::default()).is_err());
}

fn stream(events: &[Value]) -> (Vec<Event>, bool) {
    let mut reader = Cohere.reader();
    let mut out = Vec::new();
    for value in events {
        let frame = Frame {
            data: value.to_string().into(),
            ..Frame::default()
        };
        reader.read(&frame, &mut out).unwrap();
    }
    (out, reader.is_whole())
}

#[test]
fn a_stream_is_read_with_plans_calls_and_billed_units() {
    let end = json!({"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage": {
        "billed_units": {"input_tokens": 20.0, "output_tokens": 7, "search_units": 1},
        "tokens": {"input_tokens": 500, "output_tokens": 7}, "cached_tokens": 5}}});
    let all = [
        json!({"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}),
        json!({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will"}}}),
        json!({"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls":
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}}}}),
        json!({"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls":
            {"function": {"arguments": "{\"a\":1}"}}}}}),
        json!({"type": "tool-call-end", "index": 0}),
        json!({"type": "citation-start", "index": 0}),
        end,
    ];
    assert!(!stream(&all[..6]).1);
    let (events, whole) = stream(&all);
    assert!(whole);
    let usage = Usage {
        input: 15,
        cache_read: 5,
        output: 7,
        searches: 1,
        ..Usage::default()
    };
    let stop = Stop {
        reason: StopReason::ToolCalls,
        native: "TOOL_CALL".to_owned(),
        sequence: None,
    };
    assert_eq!(events[1], Event::Thought("I will".to_owned()));
    assert_eq!(
        events[4..],
        [Event::Usage(usage), Event::Stop(stop), Event::End]
    );
}

#[test]
fn an_answer_that_ends_with_an_error_is_not_whole() {
    let complaint = Complaint {
        status: 503,
        code: "provider_overloaded",
        message: "busy",
        param: None,
        retry_after: None,
        request_id: "r",
    };
    let (events, whole) = samples::read_all(&Cohere, &Cohere.write_last_fault(&complaint, 0));
    assert!(!whole);
    assert!(matches!(&events[..], [Event::Fault(fault)] if fault.message == "busy"));
    let late = json!({"type": "message-end", "delta": {"finish_reason": "TIMEOUT"}});
    let (events, whole) = stream(&[late]);
    assert!(!whole);
    assert!(matches!(&events[..], [Event::Fault(fault)] if fault.kind == FaultKind::Timeout));
}

#[test]
fn faults_are_known_by_status_and_words() {
    for (status, message, kind) in [
        (400, "invalid request: x", FaultKind::InvalidRequest),
        (
            400,
            "too many tokens: the prompt is 9 tokens",
            FaultKind::ContextLength,
        ),
        (401, "invalid api token", FaultKind::Authentication),
        (402, "pay", FaultKind::Payment),
        (404, "model 'x' not found", FaultKind::NotFound),
        (422, "unprocessable", FaultKind::InvalidRequest),
        (
            429,
            "You are using a Trial key, limited to 20 API calls / minute",
            FaultKind::RateLimited,
        ),
        (
            429,
            "You are using a Trial key, limited to 1000 API calls / month",
            FaultKind::Quota,
        ),
        (498, "blocked", FaultKind::ContentPolicy),
        (500, "oh", FaultKind::Server),
        (503, "later", FaultKind::Overloaded),
    ] {
        let body = json!({"message": message}).to_string();
        let fault = Cohere.read_fault(status, &HeaderMap::new(), body.as_bytes());
        assert_eq!((fault.kind, fault.message.as_str()), (kind, message));
    }
}

#[test]
fn a_reply_there_and_back_is_the_same_reply() {
    let body = json!({
        "id": "c1", "finish_reason": "COMPLETE",
        "message": {"role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}],
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 4}},
    });
    let reply = Cohere.read_reply(body.to_string().as_bytes()).unwrap();
    assert_eq!(reply.parts.len(), 3);
    let again = Cohere.read_reply(&Cohere.write_reply(&reply)).unwrap();
    assert_eq!(again, reply);
    assert!(Cohere.read_reply(b"{}").is_err());
}

const WORDS: &[&str] = &[
    "type",
    "message-start",
    "content-start",
    "content-delta",
    "tool-plan-delta",
    "tool_plan",
    "tool-call-start",
    "tool-call-delta",
    "tool-call-end",
    "message-end",
    "delta",
    "message",
    "content",
    "text",
    "thinking",
    "tool_calls",
    "function",
    "arguments",
    "finish_reason",
    "ERROR",
    "COMPLETE",
    "usage",
    "billed_units",
    "tokens",
    "input_tokens",
    "cached_tokens",
    "index",
    "id",
];

proptest! {
    #[test]
    fn a_stream_there_and_back_says_the_same(events in samples::events()) {
        let mut writer = Cohere.writer(Wants::default());
        let mut out = Vec::new();
        for event in &events {
            writer.write(event, &mut out);
        }
        let (read, whole) = samples::read_all(&Cohere, &out);
        prop_assert!(whole);
        // Neither models, proofs, nor thoughts' share of the tokens are told.
        let plain = |events: &[Event]| -> Vec<Event> {
            let events: Vec<Event> = events
                .iter()
                .filter(|event| !matches!(event, Event::ThoughtSignature(_)))
                .cloned()
                .collect();
            let mut events = samples::joined(&events);
            for event in &mut events {
                match event {
                    Event::Start { model, .. } => model.clear(),
                    Event::Usage(usage) => usage.output += std::mem::take(&mut usage.reasoning),
                    _ => {}
                }
            }
            // It tells usage before it says why it ends.
            events.sort_by_key(|event| matches!(event, Event::Stop(_) | Event::End));
            events
        };
        prop_assert_eq!(plain(&read), plain(&events));
    }

    #[test]
    fn every_call_without_documents_can_be_said(call in samples::call()) {
        let has_file = call.messages.iter().flat_map(|message| &message.parts)
            .any(|part| matches!(part, Part::File(_)));
        prop_assert_eq!(Cohere.write_call(&call).is_ok(), !has_file);
    }

    #[test]
    fn no_json_makes_it_panic(value in samples::value(WORDS)) {
        let body = value.to_string();
        if let Ok(reply) = Cohere.read_reply(body.as_bytes()) {
            let _ = Cohere.write_reply(&reply);
        }
        let _ = Cohere.read_fault(400, &HeaderMap::new(), body.as_bytes());
        let mut reader = Cohere.reader();
        let mut events = Vec::new();
        let values = match value {
            Value::Array(list) => list,
            other => vec![other],
        };
        for value in values {
            let frame = Frame { data: value.to_string().into(), ..Frame::default() };
            let _ = reader.read(&frame, &mut events);
        }
    }
}
