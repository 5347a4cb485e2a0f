//! What is said to Bedrock and by it.

use super::super::super::eventstream::Decoder;
use super::super::samples;
use super::super::{Dialect, Frame, Wants};
use super::Converse;
use crate::base::usage::Usage;
use crate::stage::ai::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Source, Tool, ToolCall,
    ToolChoice, ToolResult,
};
use crate::stage::ai::event::{Event, Stop, StopReason};
use crate::stage::ai::fault::{Complaint, FaultKind};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

const CLAUDE: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";

fn said(model: &str, parts: Vec<Part>) -> Call {
    Call {
        model: model.to_owned(),
        messages: vec![Message {
            role: Role::User,
            parts,
        }],
        ..Call::default()
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn write(call: &Call) -> (Value, Vec<String>) {
    let written = Converse.write_call(call).unwrap();
    (
        serde_json::from_slice(&written.body).unwrap(),
        written.dropped,
    )
}

#[test]
#[expect(clippy::too_many_lines, reason = "everything in one")]
fn a_call_with_everything_is_said_in_the_words_of_aws() {
    let media = |kind: &str, data: &str, name: Option<&str>| Media {
        media_type: Some(kind.to_owned()),
        source: Source::Base64(data.to_owned()),
        detail: None,
        name: name.map(str::to_owned),
    };
    let mut call = said(
        CLAUDE,
        vec![
            text("hi"),
            Part::Image(media("image/png", "aa", None)),
            Part::File(media("application/pdf", "bb", Some("a.b.pdf"))),
        ],
    );
    call.messages.push(Message {
        role: Role::Assistant,
        parts: vec![Part::ToolCall(ToolCall {
            id: "t1".to_owned(),
            name: "f".to_owned(),
            arguments: "{\"a\":1}".to_owned(),
            signature: None,
        })],
    });
    call.messages.push(Message {
        role: Role::User,
        parts: vec![Part::ToolResult(ToolResult {
            id: "t1".to_owned(),
            name: None,
            parts: vec![text("no")],
            is_error: true,
        })],
    });
    call.system = vec![text("be brief")];
    call.tools = vec![Tool {
        name: "f".to_owned(),
        description: Some("d".to_owned()),
        parameters: Some(json!({"type": "object"})),
        strict: None,
    }];
    call.tool_choice = ToolChoice::Named("f".to_owned());
    call.top_k = Some(4);
    call.stop = vec!["END".to_owned()];
    let (body, dropped) = write(&call);
    assert_eq!(
        body,
        json!({
            "messages": [
                {"role": "user", "content": [
                    {"text": "hi"},
                    {"image": {"format": "png", "source": {"bytes": "aa"}}},
                    {"document": {"format": "pdf", "name": "a-b-pdf-1", "source": {"bytes": "bb"}}}]},
                {"role": "assistant", "content": [
                    {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}}]},
                {"role": "user", "content": [
                    {"toolResult": {"toolUseId": "t1", "content": [{"text": "no"}], "status": "error"}}]},
            ],
            "system": [{"text": "be brief"}],
            "inferenceConfig": {"maxTokens": 4096, "stopSequences": ["END"]},
            "toolConfig": {
                "tools": [{"toolSpec": {"name": "f", "description": "d",
                    "inputSchema": {"json": {"type": "object"}}}}],
                "toolChoice": {"tool": {"name": "f"}}},
            "additionalModelRequestFields": {"top_k": 4},
        })
    );
    assert_eq!(dropped, [""; 0]);
    call.tool_choice = ToolChoice::None;
    let fault = Converse.write_call(&call).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("tool_choice"));
    call.messages.truncate(1);
    assert!(write(&call).0.get("toolConfig").is_none());
}

#[test]
fn only_claude_is_told_how_much_to_think() {
    let reasoning = Some(Reasoning {
        effort: Some(Effort::Low),
        ..Reasoning::default()
    });
    let call = |model| Call {
        reasoning: reasoning.clone(),
        top_k: Some(3),
        format: Format::Schema {
            name: Some("city".to_owned()),
            description: None,
            schema: json!({"type": "string"}),
            strict: None,
        },
        ..said(model, vec![text("hi")])
    };
    let (body, dropped) = write(&call(CLAUDE));
    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
    assert_eq!(body["additionalModelRequestFields"], thinking);
    assert_eq!(dropped, ["top_k"]);
    let schema = "{\"type\":\"string\",\"title\":\"city\"}";
    assert_eq!(
        body["outputConfig"]["textFormat"]["structure"]["jsonSchema"],
        json!({"schema": schema, "name": "city"})
    );
    let (body, dropped) = write(&call("amazon.nova-pro-v1:0"));
    assert!(body.get("additionalModelRequestFields").is_none());
    assert_eq!(dropped, ["reasoning", "top_k"]);
    let by_address = Part::Image(Media {
        media_type: None,
        source: Source::Url("https://example.com/a.png".to_owned()),
        detail: None,
        name: None,
    });
    assert!(
        Converse
            .write_call(&said(CLAUDE, vec![by_address]))
            .is_err()
    );
}

fn frame(name: &str, value: &Value) -> Frame {
    Frame {
        event: Some(Bytes::copy_from_slice(name.as_bytes())),
        data: value.to_string().into(),
        ..Frame::default()
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "everything in one")]
fn a_stream_is_whole_after_its_metadata_and_an_exception_is_a_fault() {
    let mut reader = Converse.reader();
    let mut events = Vec::new();
    for (name, value) in [
        ("messageStart", json!({"role": "assistant"})),
        (
            "contentBlockDelta",
            json!({"contentBlockIndex": 0, "delta": {"text": "hi"}, "p": "abc"}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 0})),
        (
            "contentBlockStart",
            json!({"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
        ),
        ("contentBlockStop", json!({"contentBlockIndex": 1})),
        ("somethingNew", json!({})),
        ("messageStop", json!({"stopReason": "tool_use"})),
        (
            "metadata",
            json!({"usage": {"inputTokens": 9, "outputTokens": 4, "totalTokens": 20,
            "cacheReadInputTokens": 5, "cacheWriteInputTokens": 2}}),
        ),
    ] {
        assert!(!reader.is_whole());
        reader.read(&frame(name, &value), &mut events).unwrap();
    }
    assert!(reader.is_whole());
    let usage = Usage {
        input: 9,
        cache_read: 5,
        cache_write: 2,
        output: 4,
        ..Usage::default()
    };
    let stop = Stop {
        reason: StopReason::ToolCalls,
        native: "tool_use".to_owned(),
        sequence: None,
    };
    let arguments = Event::ToolArguments {
        index: 0,
        delta: "{}".to_owned(),
    };
    assert_eq!(
        events[3..],
        [
            arguments,
            Event::Stop(stop),
            Event::Usage(usage),
            Event::End
        ]
    );
    for (name, kind) in [
        ("throttlingException", FaultKind::RateLimited),
        ("modelStreamErrorException", FaultKind::Server),
        ("validationException", FaultKind::InvalidRequest),
        ("InternalFailure", FaultKind::Server),
    ] {
        events.clear();
        reader
            .read(&frame(name, &json!({"message": "no"})), &mut events)
            .unwrap();
        assert!(!reader.is_whole());
        assert!(
            matches!(&events[..], [Event::Fault(fault)] if fault.kind == kind),
            "{name}"
        );
    }
}

#[test]
fn faults_are_known_by_the_header_that_names_them() {
    for (status, name, message, kind) in [
        (
            429,
            "ThrottlingException:http://x",
            "slow",
            FaultKind::RateLimited,
        ),
        (400, "ServiceQuotaExceededException", "no", FaultKind::Quota),
        (
            400,
            "ValidationException",
            "Input is too long for requested model.",
            FaultKind::ContextLength,
        ),
        (400, "ValidationException", "bad", FaultKind::InvalidRequest),
        (403, "AccessDeniedException", "no", FaultKind::Permission),
        (
            403,
            "UnrecognizedClientException",
            "who",
            FaultKind::Authentication,
        ),
        (404, "ResourceNotFoundException", "x", FaultKind::NotFound),
        (408, "ModelTimeoutException", "late", FaultKind::Timeout),
        (424, "ModelErrorException", "oh", FaultKind::Server),
        (429, "ModelNotReadyException", "soon", FaultKind::Overloaded),
        (500, "InternalServerException", "oh", FaultKind::Server),
        (
            503,
            "ServiceUnavailableException",
            "later",
            FaultKind::Overloaded,
        ),
        (503, "NewException", "later", FaultKind::Overloaded),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("x-amzn-errortype", HeaderValue::from_static(name));
        let body = json!({"message": message}).to_string();
        let fault = Converse.read_fault(status, &headers, body.as_bytes());
        assert_eq!(
            (fault.kind, fault.message.as_str()),
            (kind, message),
            "{name}"
        );
    }
}

fn read_all(stream: &[u8]) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::new(1 << 20);
    decoder.push(&Bytes::copy_from_slice(stream));
    let mut reader = Converse.reader();
    let mut events = Vec::new();
    while let Some(frame) = decoder.next().unwrap() {
        reader.read(&frame, &mut events).unwrap();
    }
    (events, reader.is_whole())
}

#[test]
fn a_refusal_in_a_stream_is_an_exception() {
    let complaint = Complaint {
        status: 503,
        code: "provider_overloaded",
        message: "busy",
        param: None,
        retry_after: None,
        request_id: "r",
    };
    let (events, whole) = read_all(&Converse.write_last_fault(&complaint, 0));
    assert!(!whole);
    assert!(matches!(&events[..], [Event::Fault(fault)] if fault.kind == FaultKind::Overloaded));
}

#[test]
fn a_reply_there_and_back_is_the_same_reply() {
    let body = json!({
        "output": {"message": {"role": "assistant", "content": [
            {"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}},
            {"text": "x"},
            {"toolUse": {"toolUseId": "1", "name": "f", "input": {"a": 1}}}]}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
    });
    let reply = Converse.read_reply(body.to_string().as_bytes()).unwrap();
    assert_eq!(reply.parts.len(), 3);
    let again = Converse.read_reply(&Converse.write_reply(&reply)).unwrap();
    assert_eq!(again, reply);
    assert!(Converse.read_reply(b"{}").is_err());
}

const WORDS: &[&str] = &[
    "output",
    "message",
    "content",
    "text",
    "toolUse",
    "toolUseId",
    "name",
    "input",
    "stopReason",
    "end_turn",
    "usage",
    "inputTokens",
    "delta",
    "start",
    "contentBlockIndex",
    "reasoningContent",
    "signature",
    "redactedContent",
    "cacheDetails",
    "ttl",
    "__type",
    "image",
    "source",
    "bytes",
];

proptest! {
    #[test]
    fn a_stream_there_and_back_says_the_same(events in samples::events()) {
        let mut writer = Converse.writer(Wants::default());
        let mut out = Vec::new();
        for event in &events {
            writer.write(event, &mut out);
        }
        let (read, whole) = read_all(&out);
        prop_assert!(whole);
        // Neither names nor thoughts' share of the tokens are told.
        let plain = |events: &[Event]| -> Vec<Event> {
            let mut events = samples::joined(events);
            for event in &mut events {
                match event {
                    Event::Start { id, model } => {
                        id.clear();
                        model.clear();
                    }
                    Event::Usage(usage) => usage.output += std::mem::take(&mut usage.reasoning),
                    _ => {}
                }
            }
            events
        };
        prop_assert_eq!(plain(&read), plain(&events));
    }

    #[test]
    fn every_call_can_be_said(call in samples::call()) {
        let written = Converse.write_call(&call);
        let refused = written.as_ref().is_err_and(|fault| {
            fault.param.as_deref() == Some("tool_choice")
        });
        prop_assert!(written.is_ok() || refused, "{written:?}");
    }

    #[test]
    fn no_json_makes_it_panic(value in samples::value(WORDS)) {
        let body = value.to_string();
        if let Ok(reply) = Converse.read_reply(body.as_bytes()) {
            let _ = Converse.write_reply(&reply);
        }
        let _ = Converse.read_fault(400, &HeaderMap::new(), body.as_bytes());
        let mut reader = Converse.reader();
        let mut events = Vec::new();
        for name in [
            "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop",
            "messageStop", "metadata", "xException", "",
        ] {
            reader.read(&frame(name, &value), &mut events).unwrap();
        }
    }
}
