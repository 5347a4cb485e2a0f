//! What is said to Anthropic and by it, there and back.

use super::super::samples;
use super::super::{Dialect, InPath, Wants};
use super::Messages;
use crate::stage::ai::call::{
    Call, Effort, ExtraRule, Format, Message, Part, Reasoning, Role, Thought, ToolCall, ToolChoice,
    ToolResult,
};
use crate::stage::ai::event::{Event, Stop, StopReason};
use crate::stage::ai::fault::{Complaint, FaultKind};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::time::Duration;

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
        messages: vec![message(Role::User, vec![Part::Text(text.to_owned())])],
        ..Call::default()
    }
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message { role, parts }
}

fn called(id: &str) -> Part {
    Part::ToolCall(ToolCall {
        id: id.to_owned(),
        name: "look".to_owned(),
        arguments: String::new(),
        signature: None,
    })
}

fn returned(id: &str) -> Part {
    Part::ToolResult(ToolResult {
        id: id.to_owned(),
        name: None,
        parts: vec![Part::Text("found".to_owned())],
        is_error: false,
    })
}

fn number(value: f64) -> Option<serde_json::Number> {
    serde_json::Number::from_f64(value)
}

#[test]
fn a_plain_call_is_written_with_the_tokens_that_anthropic_demands() {
    let (body, dropped) = write(&said("hi"));
    assert_eq!(
        body,
        json!({"model": "claude-opus-4-5", "max_tokens": 4096,
            "messages": [{"role": "user", "content": "hi"}]})
    );
    assert_eq!(dropped, [""; 0]);
}

#[test]
fn roles_alternate_and_results_of_tools_come_first() {
    let text = |text: &str| Part::Text(text.to_owned());
    let call = Call {
        messages: vec![
            message(Role::User, vec![text("a"), text("  ")]),
            message(Role::User, vec![text("b")]),
            message(Role::Assistant, vec![called("functions.look:0")]),
            message(Role::User, vec![text("c")]),
            message(Role::User, vec![returned("functions.look:0")]),
            message(Role::Assistant, vec![text("so \n")]),
        ],
        ..said("")
    };
    assert_eq!(
        write(&call).0["messages"],
        json!([
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "functions_look_0", "name": "look", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "functions_look_0", "content": "found"},
                {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": "so"},
        ])
    );
}

#[test]
fn instructions_alone_are_said_by_the_user() {
    let call = Call {
        system: vec![Part::Text("be brief".to_owned())],
        messages: Vec::new(),
        ..said("")
    };
    let body = write(&call).0;
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": "be brief"}])
    );
    assert!(body.get("system").is_none());
    let nothing = Call {
        system: Vec::new(),
        ..call
    };
    assert!(Messages.write_call(&nothing).is_err());
}

#[test]
fn what_anthropic_has_no_word_for_is_named() {
    let call = Call {
        temperature: number(1.5),
        top_p: number(0.5),
        seed: Some(1),
        presence_penalty: number(0.0),
        frequency_penalty: number(0.1),
        format: Format::Json,
        ..said("hi")
    };
    let (body, dropped) = write(&call);
    assert_eq!(
        dropped,
        [
            "response_format",
            "temperature",
            "top_p",
            "frequency_penalty",
            "seed"
        ]
    );
    assert_eq!(body["temperature"], json!(1));
    assert!(body["system"].as_str().unwrap().contains("JSON"));
}

#[track_caller]
fn check_thinking(model: &str, reasoning: Reasoning, expected: &Value) {
    let call = Call {
        model: model.to_owned(),
        reasoning: Some(reasoning),
        max_tokens: Some(2_000),
        temperature: number(0.3),
        ..said("hi")
    };
    let body = write(&call).0;
    let found = json!([
        body["thinking"],
        body["output_config"],
        body["max_tokens"],
        body["temperature"]
    ]);
    assert_eq!(&found, expected);
}

#[test]
fn each_generation_is_told_how_much_to_think_in_its_own_way() {
    let effort = |effort| Reasoning {
        effort: Some(effort),
        ..Reasoning::default()
    };
    let budget = |budget| Reasoning {
        budget: Some(budget),
        show: Some(true),
        ..Reasoning::default()
    };
    check_thinking(
        "claude-opus-4-5",
        effort(Effort::Low),
        &json!([{"type": "enabled", "budget_tokens": 1024}, null, 2000, null]),
    );
    check_thinking(
        "claude-opus-4-5",
        effort(Effort::High),
        &json!([{"type": "enabled", "budget_tokens": 24576}, null, 26576, null]),
    );
    check_thinking(
        "claude-opus-4-5",
        budget(5),
        &json!([{"type": "enabled", "budget_tokens": 1024, "display": "summarized"}, null, 2000, null]),
    );
    check_thinking(
        "claude-opus-4-5",
        effort(Effort::None),
        &json!([{"type": "disabled"}, null, 2000, 0.3]),
    );
    check_thinking(
        "claude-opus-4-7",
        budget(5_000),
        &json!([{"type": "adaptive", "display": "summarized"}, {"effort": "medium"}, 2000, null]),
    );
    check_thinking(
        "claude-sonnet-5",
        effort(Effort::XHigh),
        &json!([{"type": "adaptive"}, {"effort": "xhigh"}, 2000, null]),
    );
    check_thinking(
        "claude-sonnet-5",
        effort(Effort::None),
        &json!([{"type": "disabled"}, null, 2000, null]),
    );
}

#[test]
fn thinking_is_left_out_where_anthropic_would_refuse_the_call() {
    let tool = read(&json!({"messages": [], "tools": [{"name": "look", "input_schema": {}}]}));
    let forced = Call {
        tools: tool.tools,
        tool_choice: ToolChoice::Required,
        reasoning: Some(Reasoning {
            effort: Some(Effort::High),
            ..Reasoning::default()
        }),
        ..said("hi")
    };
    let mut in_a_round = Call {
        tool_choice: ToolChoice::Auto,
        ..forced.clone()
    };
    in_a_round.messages.extend([
        message(Role::Assistant, vec![called("1")]),
        message(Role::User, vec![returned("1")]),
    ]);
    for call in [&forced, &in_a_round] {
        let (body, dropped) = write(call);
        assert!(body.get("thinking").is_none());
        assert_eq!(dropped, ["reasoning"]);
    }
    let proof = Part::Thought(Thought {
        signature: Some("s".to_owned()),
        ..Thought::default()
    });
    in_a_round.messages[1].parts.insert(0, proof);
    assert_eq!(write(&in_a_round).0["thinking"]["type"], "enabled");
}

#[test]
fn what_only_anthropic_can_do_is_refused_by_name_and_hints_are_dropped() {
    let call = read(&json!({
        "model": "m", "max_tokens": 5, "container": "c", "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "system", "content": "t"},
            {"role": "user", "content": [{"type": "search_result", "source": "s"}]}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }));
    let names = |rule| {
        let extras = call.extras.iter().filter(|extra| extra.rule == rule);
        extras.map(|extra| extra.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        names(ExtraRule::Refuse),
        ["messages[1].content[0].type", "tools[0].type", "container"]
    );
    assert_eq!(names(ExtraRule::Drop), ["cache_control", "service_tier"]);
    assert_eq!(call.system.len(), 2);
    let fault = Messages.write_call(&call).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("messages[1].content[0].type"));
}

#[test]
fn a_wrong_call_is_refused_with_its_place() {
    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": {}}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}),
            "messages[0].content[0].text",
        ),
        (json!({"messages": [], "max_tokens": -1}), "max_tokens"),
        (
            json!({"messages": [], "stop_sequences": [1]}),
            "stop_sequences[0]",
        ),
        (
            json!({"messages": [], "thinking": {"type": "enabled"}}),
            "thinking.budget_tokens",
        ),
        (
            json!({"messages": [], "tools": [{"name": "x"}]}),
            "tools[0].input_schema",
        ),
    ] {
        let fault = Messages.read_call(body.to_string().as_bytes(), &InPath::default());
        let param = Some(param.to_owned());
        assert_eq!(fault.unwrap_err().param, param, "{body}");
    }
}

const FAULTS: &[(u16, &str, &str, FaultKind)] = &[
    (
        400,
        "invalid_request_error",
        "messages: required",
        FaultKind::InvalidRequest,
    ),
    (
        400,
        "invalid_request_error",
        "prompt is too long: 9 tokens > 8 maximum",
        FaultKind::ContextLength,
    ),
    (
        400,
        "invalid_request_error",
        "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
        FaultKind::Quota,
    ),
    (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API.",
        FaultKind::Payment,
    ),
    (
        400,
        "invalid_request_error",
        "Output blocked by content filtering policy",
        FaultKind::ContentPolicy,
    ),
    (
        401,
        "authentication_error",
        "invalid x-api-key",
        FaultKind::Authentication,
    ),
    (402, "billing_error", "pay", FaultKind::Payment),
    (403, "permission_error", "no", FaultKind::Permission),
    (404, "not_found_error", "model: x", FaultKind::NotFound),
    (413, "request_too_large", "big", FaultKind::TooLarge),
    (
        429,
        "rate_limit_error",
        "This request would exceed 40,000 input tokens per minute",
        FaultKind::RateLimited,
    ),
    (
        429,
        "rate_limit_error",
        "You have reached your monthly spend limit",
        FaultKind::Quota,
    ),
    (500, "api_error", "Internal server error", FaultKind::Server),
    (504, "timeout_error", "late", FaultKind::Timeout),
    (529, "overloaded_error", "Overloaded", FaultKind::Overloaded),
    (529, "new_error", "Overloaded", FaultKind::Overloaded),
];

#[test]
fn faults_are_known_by_type_and_where_it_leaves_it_open_by_words() {
    for (status, code, message, kind) in FAULTS.iter().copied() {
        let body = json!({"type": "error", "error": {"type": code, "message": message}});
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("12"));
        let fault = Messages.read_fault(status, &headers, body.to_string().as_bytes());
        assert_eq!(fault.kind, kind, "{message}");
        assert_eq!(fault.message, message);
        assert_eq!(fault.code.as_deref(), Some(code));
        assert_eq!(fault.retry_after, Some(Duration::from_secs(12)));
    }
    let page = Messages.read_fault(502, &HeaderMap::new(), b"<html>bad gateway</html>");
    assert_eq!(page.kind, FaultKind::Server);
    assert_eq!(page.message, "the provider answered with status 502");
}

#[test]
fn a_refusal_in_a_stream_is_the_error_event_and_nothing_after() {
    let complaint = Complaint {
        status: 503,
        code: "provider_overloaded",
        message: "busy\nnow",
        param: None,
        retry_after: None,
        request_id: "r1",
    };
    let last = Messages.write_last_fault(&complaint, 0);
    let expected = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
        \"message\":\"busy\\nnow\",\"code\":\"provider_overloaded\"},\"request_id\":\"r1\"}\n\n";
    assert_eq!(String::from_utf8(last.clone()).unwrap(), expected);
    let (events, whole) = samples::read_all(&Messages, &last);
    assert!(!whole);
    assert!(matches!(&events[..], [Event::Fault(fault)] if fault.kind == FaultKind::Overloaded));
}

#[test]
fn calls_that_are_told_of_side_by_side_keep_their_own_blocks() {
    let mut writer = Messages.writer(Wants {
        id: "w".to_owned(),
        ..Wants::default()
    });
    let mut out = Vec::new();
    let call = |index, id: &str| Event::ToolCall {
        index,
        call: ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            arguments: String::new(),
            signature: None,
        },
    };
    let arguments = |index, delta: &str| Event::ToolArguments {
        index,
        delta: delta.to_owned(),
    };
    let events = [
        call(0, "a"),
        call(1, "b"),
        arguments(1, "{\"y\":\"}\""),
        arguments(0, "{\"x\":1}"),
        arguments(1, "}"),
        call(2, "c"),
        Event::Text("then".to_owned()),
        Event::End,
    ];
    for event in &events {
        writer.write(event, &mut out);
    }
    let (read, whole) = samples::read_all(&Messages, &out);
    assert!(whole);
    let calls: Vec<_> = samples::joined(&read)
        .into_iter()
        .filter_map(|event| match event {
            Event::ToolCall { call, .. } => Some((call.id, call.arguments)),
            _ => None,
        })
        .collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        calls,
        [
            pair("a", "{\"x\":1}"),
            pair("b", "{\"y\":\"}\"}"),
            pair("c", "{}")
        ]
    );
}

#[test]
fn a_stream_tells_usage_in_classes_that_do_not_overlap() {
    let frame = |value: Value| super::super::Frame {
        data: value.to_string().into(),
        ..Default::default()
    };
    let mut reader = Messages.reader();
    let mut events = Vec::new();
    let start = json!({"input_tokens": 10, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 5,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 3},
        "output_tokens": 1});
    let end = json!({"input_tokens": null, "output_tokens": 30, "server_tool_use": {"web_search_requests": 2},
        "output_tokens_details": {"thinking_tokens": 12}});
    for value in [
        json!({"type": "message_start", "message": {"id": "i", "model": "m", "usage": start}}),
        json!({"type": "ping"}),
        json!({"type": "something_new", "index": 3}),
        json!({"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "X"},
            "usage": end}),
        json!({"type": "message_stop"}),
    ] {
        assert!(!reader.is_whole());
        reader.read(&frame(value), &mut events).unwrap();
    }
    assert!(reader.is_whole());
    let [.., Event::Stop(stop), Event::Usage(usage), Event::End] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        stop,
        &Stop {
            reason: StopReason::Stop,
            native: "stop_sequence".to_owned(),
            sequence: Some("X".to_owned()),
        }
    );
    assert_eq!(
        usage,
        &crate::base::usage::Usage {
            input: 10,
            cache_read: 5,
            cache_write: 4,
            cache_write_hour: 3,
            output: 18,
            reasoning: 12,
            searches: 2,
            ..Default::default()
        }
    );
}
