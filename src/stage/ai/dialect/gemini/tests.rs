//! What is said to Gemini and by it, there and back.

use super::super::samples;
use super::super::{Dialect, Frame, InPath, Wants};
use super::Gemini;
use crate::base::usage::Usage;
use crate::stage::ai::call::{
    Call, Effort, ExtraRule, Format, Message, Part, Reasoning, Role, Source, ToolCall, ToolChoice,
    ToolResult,
};
use crate::stage::ai::event::{Event, Stop, StopReason};
use crate::stage::ai::fault::{Complaint, FaultKind};
use http::HeaderMap;
use serde_json::{Value, json};
use std::time::Duration;

fn path(model: &str, stream: bool) -> InPath<'_> {
    InPath {
        model: Some(model),
        stream,
    }
}

fn read(body: &Value) -> Call {
    Gemini
        .read_call(
            body.to_string().as_bytes(),
            &path("gemini-2.5-flash", false),
        )
        .unwrap()
}

fn write(call: &Call) -> (Value, Vec<String>) {
    let written = Gemini.write_call(call).unwrap();
    let body = serde_json::from_slice(&written.body).unwrap();
    (body, written.dropped)
}

fn said(model: &str) -> Call {
    Call {
        model: model.to_owned(),
        messages: vec![Message {
            role: Role::User,
            parts: vec![Part::Text("hi".to_owned())],
        }],
        ..Call::default()
    }
}

#[test]
fn both_spellings_of_google_are_read() {
    let camel = json!({
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "aa"}}]}],
        "generationConfig": {"maxOutputTokens": 5, "topP": 0.5, "stopSequences": ["x"],
            "responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"},
            "thinkingConfig": {"thinkingBudget": -1, "includeThoughts": true}},
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    });
    let snake = json!({
        "system_instruction": {"parts": {"text": "s"}},
        "contents": {"parts": {"inline_data": {"mime_type": "image/png", "data": "aa"}}},
        "generation_config": {"max_output_tokens": "5", "top_p": 0.5, "stop_sequences": ["x"],
            "response_mime_type": "application/json", "response_schema": {"type": "OBJECT"},
            "thinking_config": {"thinking_budget": -1, "include_thoughts": true}},
        "tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
    });
    let call = read(&camel);
    assert_eq!(call, read(&snake));
    assert_eq!(call.max_tokens, Some(5));
    assert_eq!(call.tool_choice, ToolChoice::Named("f".to_owned()));
    assert_eq!(
        call.reasoning,
        Some(Reasoning {
            show: Some(true),
            ..Reasoning::default()
        })
    );
    assert!(call.extras.is_empty(), "{:?}", call.extras);
    let schema = json!({"type": "object"});
    assert!(matches!(call.format, Format::Schema { schema: found, .. } if found == schema));
}

#[test]
fn what_only_google_can_do_is_refused_by_name_and_hints_are_dropped() {
    let call = read(&json!({
        "contents": [{"parts": [{"executableCode": {"code": "1"}}, {"text": "x", "videoMetadata": {}}]}],
        "tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f"}, {"name": "g"}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "h"]}},
        "cachedContent": "c",
        "safetySettings": [{}],
        "generationConfig": {"candidateCount": 2, "responseModalities": ["TEXT", "IMAGE"],
            "mediaResolution": "LOW", "speechConfig": {}},
    }));
    let names = |rule| {
        let extras = call.extras.iter().filter(|extra| extra.rule == rule);
        extras.map(|extra| extra.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        names(ExtraRule::Refuse),
        [
            "contents[0].parts[0].executableCode",
            "tools[0].googleSearch",
            "toolConfig.functionCallingConfig.allowedFunctionNames",
            "generationConfig.candidateCount",
            "generationConfig.responseModalities",
            "generationConfig.speechConfig",
            "cachedContent",
        ]
    );
    assert_eq!(
        names(ExtraRule::Drop),
        [
            "videoMetadata",
            "generationConfig.mediaResolution",
            "safetySettings"
        ]
    );
}

#[test]
fn calls_without_ids_are_answered_in_their_order() {
    let call = read(&json!({"contents": [
        {"role": "model", "parts": [
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "g"}},
            {"functionCall": {"name": "f"}}]},
        {"role": "function", "parts": [
            {"functionResponse": {"name": "g", "response": {"error": "no"}}},
            {"functionResponse": {"name": "f", "response": {"output": "yes"}}},
            {"functionResponse": {"name": "f", "response": {"x": 1}}}]},
    ]}));
    let results: Vec<_> = call.messages[1]
        .parts
        .iter()
        .map(|part| match part {
            Part::ToolResult(result) => (result.id.as_str(), result.is_error, &result.parts[0]),
            other => panic!("{other:?}"),
        })
        .collect();
    let text = |text: &str| Part::Text(text.to_owned());
    assert_eq!(
        results,
        [
            ("call_0_1", true, &text("no")),
            ("call_0_0", false, &text("yes")),
            ("call_0_2", false, &text("{\"x\":1}")),
        ]
    );
    let Part::ToolCall(first) = &call.messages[0].parts[0] else {
        panic!("{call:?}");
    };
    assert_eq!(first.signature.as_deref(), Some("c2ln"));
    let lost = json!({"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]});
    let fault = Gemini.read_call(lost.to_string().as_bytes(), &InPath::default());
    assert_eq!(
        fault.unwrap_err().param.as_deref(),
        Some("contents[0].parts[0].functionResponse.name")
    );
}

#[test]
fn results_in_messages_of_their_own_become_one_turn_with_their_names() {
    let called = |id: &str| {
        Part::ToolCall(ToolCall {
            id: id.to_owned(),
            name: format!("tool_{id}"),
            arguments: "{\"a\":1}".to_owned(),
            signature: None,
        })
    };
    let returned = |id: &str, text: &str, is_error| Message {
        role: Role::User,
        parts: vec![Part::ToolResult(ToolResult {
            id: id.to_owned(),
            name: None,
            parts: vec![Part::Text(text.to_owned())],
            is_error,
        })],
    };
    let mut call = said("gemini-3-pro-preview");
    call.messages.extend([
        Message {
            role: Role::Assistant,
            parts: vec![called("a"), called("b")],
        },
        returned("a", "{\"t\":3}", false),
        returned("b", "broken", true),
    ]);
    let signature = "skip_thought_signature_validator";
    let contents = json!([
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [
            {"functionCall": {"id": "a", "name": "tool_a", "args": {"a": 1}}, "thoughtSignature": signature},
            {"functionCall": {"id": "b", "name": "tool_b", "args": {"a": 1}}}]},
        {"role": "user", "parts": [
            {"functionResponse": {"id": "a", "name": "tool_a", "response": {"t": 3}}},
            {"functionResponse": {"id": "b", "name": "tool_b", "response": {"error": "broken"}}}]},
    ]);
    assert_eq!(write(&call).0["contents"], contents);
    call.messages.remove(1);
    assert!(Gemini.write_call(&call).is_err());
}

#[track_caller]
fn check_thinking(model: &str, reasoning: Reasoning, expected: &Value, dropped: &[&str]) {
    let call = Call {
        reasoning: Some(reasoning),
        ..said(model)
    };
    let (body, found) = write(&call);
    assert_eq!(&body["generationConfig"]["thinkingConfig"], expected);
    assert_eq!(found, dropped);
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
    let level = |word: &str| json!({"thinkingLevel": word});
    check_thinking(
        "gemini-2.5-flash",
        effort(Effort::Medium),
        &json!({"thinkingBudget": 8192}),
        &[],
    );
    check_thinking(
        "gemini-2.5-flash",
        budget(0),
        &json!({"thinkingBudget": 0, "includeThoughts": true}),
        &[],
    );
    check_thinking(
        "gemini-2.5-pro",
        effort(Effort::None),
        &json!({"thinkingBudget": 128}),
        &["reasoning"],
    );
    check_thinking(
        "gemini-3-flash",
        effort(Effort::Minimal),
        &level("MINIMAL"),
        &[],
    );
    check_thinking(
        "gemini-3-pro",
        effort(Effort::None),
        &level("LOW"),
        &["reasoning"],
    );
    check_thinking(
        "gemini-3-pro",
        budget(9_000),
        &json!({"thinkingLevel": "HIGH", "includeThoughts": true}),
        &[],
    );
}

#[test]
fn what_gemini_has_no_word_for_is_named() {
    let call = Call {
        parallel_tools: Some(false),
        end_user: Some("u".to_owned()),
        seed: Some(1 << 40),
        ..said("gemini-2.5-flash")
    };
    assert_eq!(write(&call).1, ["parallel_tool_calls", "seed", "user"]);
}

#[test]
fn a_wrong_call_is_refused_with_its_place() {
    for (body, param) in [
        (json!({}), "contents"),
        (
            json!({"contents": [{"role": "system"}]}),
            "contents[0].role",
        ),
        (
            json!({"contents": [], "generation_config": {"top_k": -1}}),
            "generationConfig.topK",
        ),
        (
            json!({"contents": [{"parts": [{"text": 1}]}]}),
            "contents[0].parts[0].text",
        ),
        (
            json!({"contents": [{"parts": [{"inlineData": {"data": "a"}}]}]}),
            "contents[0].parts[0].inlineData.mimeType",
        ),
    ] {
        let fault = Gemini.read_call(body.to_string().as_bytes(), &InPath::default());
        assert_eq!(fault.unwrap_err().param.as_deref(), Some(param), "{body}");
    }
}

#[test]
fn files_that_google_keeps_are_told_from_addresses_that_anybody_can_fetch() {
    let source = |uri: &str| {
        let body = json!({"contents": [{"parts": [{"fileData": {"fileUri": uri, "mimeType": "image/png"}}]}]});
        match read(&body).messages.remove(0).parts.remove(0) {
            Part::Image(media) => media.source,
            other => panic!("{other:?}"),
        }
    };
    for kept in [
        "https://generativelanguage.googleapis.com/v1beta/files/x",
        "gs://bucket/x",
    ] {
        assert_eq!(source(kept), Source::FileId(kept.to_owned()));
    }
    let url = "https://example.com/a.png";
    assert_eq!(source(url), Source::Url(url.to_owned()));
}

fn fault(status: u16, body: &Value) -> (FaultKind, Option<Duration>) {
    let fault = Gemini.read_fault(status, &HeaderMap::new(), body.to_string().as_bytes());
    (fault.kind, fault.retry_after)
}

#[test]
fn faults_are_known_by_status_word_and_details() {
    for (status, word, message, kind) in [
        (400, "INVALID_ARGUMENT", "bad", FaultKind::InvalidRequest),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            FaultKind::ContextLength,
        ),
        (
            400,
            "FAILED_PRECONDITION",
            "User location is not supported for the API use.",
            FaultKind::Permission,
        ),
        (401, "UNAUTHENTICATED", "who", FaultKind::Authentication),
        (403, "PERMISSION_DENIED", "no", FaultKind::Permission),
        (404, "NOT_FOUND", "models/x", FaultKind::NotFound),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "slow down",
            FaultKind::RateLimited,
        ),
        (500, "INTERNAL", "oh", FaultKind::Server),
        (503, "UNAVAILABLE", "overloaded", FaultKind::Overloaded),
        (504, "DEADLINE_EXCEEDED", "late", FaultKind::Timeout),
        (503, "SOMETHING_NEW", "later", FaultKind::Overloaded),
    ] {
        let error = json!({"error": {"code": status, "message": message, "status": word}});
        assert_eq!(fault(status, &error).0, kind, "{word} {message}");
        // Streams are refused with a list of one.
        assert_eq!(fault(status, &json!([error])).0, kind);
    }
    let page = Gemini.read_fault(502, &HeaderMap::new(), b"<html>");
    assert_eq!(page.message, "the provider answered with status 502");
}

#[test]
fn quotas_of_a_minute_and_of_a_day_are_told_apart() {
    let exhausted = |id: &str| {
        json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"quotaId": id, "quotaValue": "50"}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}})
    };
    let wait = Some(Duration::from_millis(34_500));
    assert_eq!(
        fault(
            429,
            &exhausted("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")
        ),
        (FaultKind::RateLimited, wait)
    );
    assert_eq!(
        fault(
            429,
            &exhausted("GenerateRequestsPerDayPerProjectPerModel-FreeTier")
        ),
        (FaultKind::Quota, wait)
    );
    let key = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid.",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}});
    assert_eq!(fault(400, &key).0, FaultKind::Authentication);
}

#[test]
fn a_refusal_in_a_stream_begins_with_error_as_the_sdk_looks_for_it() {
    let complaint = Complaint {
        status: 503,
        code: "provider_overloaded",
        message: "busy",
        param: None,
        retry_after: Some(Duration::from_millis(1_500)),
        request_id: "r1",
    };
    let last = Gemini.write_last_fault(&complaint, 0);
    assert!(last.starts_with(b"data: {\"error\":{\"code\":503,"));
    let (events, whole) = samples::read_all(&Gemini, &last);
    assert!(!whole);
    let [Event::Fault(fault)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(fault.kind, FaultKind::Overloaded);
    assert_eq!(fault.retry_after, Some(Duration::from_secs(2)));
}

fn stream(chunks: &[Value]) -> (Vec<Event>, bool) {
    let mut reader = Gemini.reader();
    let mut events = Vec::new();
    for chunk in chunks {
        let frame = Frame {
            data: chunk.to_string().into(),
            ..Frame::default()
        };
        reader.read(&frame, &mut events).unwrap();
    }
    (events, reader.is_whole())
}

fn stopped(reason: StopReason, native: &str) -> Event {
    Event::Stop(Stop {
        reason,
        native: native.to_owned(),
        sequence: None,
    })
}

#[test]
fn a_stream_is_whole_when_it_has_said_why_it_ends() {
    let text = json!({"responseId": "r-1", "modelVersion": "gemini-2.5-flash",
        "candidates": [{"content": {"parts": [{"text": "a"}, {"text": "b", "thought": true}]}}],
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}});
    assert!(!stream(std::slice::from_ref(&text)).1);
    let call = json!({"responseId": "r-1", "candidates": [{"finishReason": "STOP", "content": {"parts": [
        {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}]}}],
        "usageMetadata": {"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 7,
            "thoughtsTokenCount": 5, "toolUsePromptTokenCount": 2, "totalTokenCount": 24,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}, {"modality": "AUDIO", "tokenCount": 3}],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 6}]}});
    let (events, whole) = stream(&[text, call]);
    assert!(whole);
    let usage = Usage {
        input: 6,
        cache_read: 4,
        input_audio: 2,
        output: 1,
        output_image: 6,
        reasoning: 5,
        ..Usage::default()
    };
    let called = Event::ToolCall {
        index: 0,
        call: ToolCall {
            id: "call_r-1_1".to_owned(),
            name: "f".to_owned(),
            arguments: "{\"x\":1}".to_owned(),
            signature: Some("c2ln".to_owned()),
        },
    };
    assert_eq!(usage.total(), 24);
    assert_eq!(
        events[events.len() - 3..],
        [
            called,
            stopped(StopReason::ToolCalls, "STOP"),
            Event::Usage(usage)
        ]
    );
}

#[test]
fn reasons_keep_their_native_words() {
    for (native, reason) in [
        ("STOP", StopReason::Stop),
        ("MAX_TOKENS", StopReason::Length),
        ("SAFETY", StopReason::ContentFilter),
        ("RECITATION", StopReason::ContentFilter),
        ("IMAGE_SAFETY", StopReason::ContentFilter),
        ("MALFORMED_FUNCTION_CALL", StopReason::Stop),
        ("LANGUAGE", StopReason::Stop),
        ("OTHER", StopReason::Stop),
    ] {
        let (events, whole) = stream(&[json!({"candidates": [{"finishReason": native}]})]);
        assert!(whole);
        assert_eq!(events[1], stopped(reason, native));
    }
    let blocked = json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}});
    let (events, whole) = stream(std::slice::from_ref(&blocked));
    assert!(whole);
    assert_eq!(
        events[1],
        stopped(StopReason::ContentFilter, "PROHIBITED_CONTENT")
    );
    let reply = Gemini.read_reply(blocked.to_string().as_bytes()).unwrap();
    assert_eq!(reply.stop.reason, StopReason::ContentFilter);
    assert!(Gemini.read_reply(b"{\"candidates\":[]}").is_err());
}

#[test]
fn a_call_goes_out_when_its_arguments_are_whole_and_a_broken_one_is_told() {
    let mut writer = Gemini.writer(Wants::default());
    let mut out = Vec::new();
    let begun = |index| Event::ToolCall {
        index,
        call: ToolCall {
            id: format!("id{index}"),
            name: "f".to_owned(),
            arguments: String::new(),
            signature: None,
        },
    };
    let more = |index, delta: &str| Event::ToolArguments {
        index,
        delta: delta.to_owned(),
    };
    writer.write(&begun(0), &mut out);
    writer.write(&more(0, "{\"a\":"), &mut out);
    assert!(out.is_empty());
    writer.write(&more(0, "1}"), &mut out);
    assert!(!out.is_empty());
    for event in [begun(1), begun(2), more(2, "{\"b\":"), Event::End] {
        writer.write(&event, &mut out);
    }
    let (events, whole) = samples::read_all(&Gemini, &out);
    assert!(whole);
    let calls: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolCall { call, .. } => Some((call.id.as_str(), call.arguments.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(calls, [("id0", "{\"a\":1}"), ("id1", "{}")]);
    assert!(events.contains(&stopped(StopReason::Stop, "MALFORMED_FUNCTION_CALL")));
}
