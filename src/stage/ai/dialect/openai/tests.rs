//! What is said to `OpenAI` and by it, there and back, in both of its dialects.

use super::super::chat::Chat;
use super::super::responses::Responses;
use super::super::{Dialect, InPath, Wants, openai, samples};
use crate::stage::ai::call::{Call, Message, Part, Role};
use crate::stage::ai::event::Event;
use crate::stage::ai::fault::{Complaint, FaultKind};
use proptest::prelude::*;
use serde_json::{Value, json};

const WORDS: &[&str] = &[
    "model",
    "messages",
    "input",
    "role",
    "user",
    "assistant",
    "system",
    "tool",
    "content",
    "type",
    "text",
    "input_text",
    "output_text",
    "image_url",
    "url",
    "input_image",
    "file",
    "input_file",
    "file_data",
    "file_id",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "call_id",
    "tool_call_id",
    "function_call",
    "function_call_output",
    "output",
    "reasoning",
    "summary",
    "encrypted_content",
    "effort",
    "low",
    "tools",
    "parameters",
    "tool_choice",
    "auto",
    "stop",
    "response_format",
    "format",
    "json_schema",
    "schema",
    "choices",
    "delta",
    "index",
    "message",
    "finish_reason",
    "error",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "response",
    "response.created",
    "response.output_text.delta",
    "response.output_item.added",
    "response.output_item.done",
    "response.completed",
    "response.failed",
    "item",
    "status",
    "completed",
    "incomplete",
    "output_index",
    "sequence_number",
    "x_groq",
    "reasoning_content",
];

/// Messages as these dialects tell them apart: results of tools stand alone, what follows them is the user's; what
/// one says in a row is one message; a thought has no place.
fn flat(call: &Call) -> Vec<(Role, Part)> {
    let parts = call.messages.iter().flat_map(|message| {
        message
            .parts
            .iter()
            .map(|part| (message.role, part.clone()))
    });
    parts
        .filter(|(_, part)| !matches!(part, Part::Thought(_)))
        .map(|(role, part)| {
            let part = match part {
                Part::ToolResult(mut result) => {
                    result.is_error = false;
                    Part::ToolResult(result)
                }
                Part::File(mut media) => {
                    media.name.get_or_insert_with(|| "file.pdf".to_owned());
                    Part::File(media)
                }
                Part::Image(mut media) => {
                    media.detail = None;
                    Part::Image(media)
                }
                part => part,
            };
            (role, part)
        })
        .collect()
}

/// Words of one message in a row are one text in chat completions.
fn joined(parts: Vec<(Role, Part)>) -> Vec<(Role, Part)> {
    let mut out: Vec<(Role, Part)> = Vec::new();
    for (role, part) in parts {
        match (out.last_mut(), part) {
            (Some((Role::Assistant, Part::Text(before))), Part::Text(more))
                if role == Role::Assistant =>
            {
                before.push_str(&more);
            }
            (_, part) => out.push((role, part)),
        }
    }
    out
}

fn check_call(dialect: &dyn Dialect, call: &Call) {
    let written = dialect.write_call(call).expect("all of it can be said");
    let again = dialect
        .read_call(&written.body, &InPath::default())
        .expect("what is written can be read");
    assert_eq!(joined(flat(&again)), joined(flat(call)));
    assert_eq!(again.tools.len(), call.tools.len());
    for (again, tool) in again.tools.iter().zip(&call.tools) {
        assert_eq!(
            (&again.name, &again.parameters),
            (&tool.name, &tool.parameters)
        );
    }
    assert_eq!(again.tool_choice, call.tool_choice);
    // Responses knows no shorter answers.
    let of_some_length = |call: &Call| call.max_tokens.map(|tokens| tokens.max(16));
    assert_eq!(
        (of_some_length(&again), &again.temperature, &again.stop),
        (of_some_length(call), &call.temperature, &call.stop)
    );
    assert_eq!(again.extras, []);
}

fn check_stream(dialect: &dyn Dialect, events: &[Event], proofs: bool) {
    let mut writer = dialect.writer(Wants {
        usage: true,
        ..Wants::default()
    });
    let mut out = Vec::new();
    for event in events {
        writer.write(event, &mut out);
    }
    let (again, whole) = samples::read_all(dialect, &out);
    assert!(whole);
    // Neither tells where one thought ends and the next begins, unless it has a proof.
    let events: Vec<Event> = events
        .iter()
        .filter(|event| proofs || !matches!(event, Event::ThoughtSignature(_)))
        .cloned()
        .collect();
    assert_eq!(said(&again), said(&events));
}

/// Of the whole: native words left out, usage only where something was counted, and at its end.
fn said(events: &[Event]) -> Vec<Event> {
    let mut said = samples::joined(events);
    said.retain(|event| *event != Event::End);
    said
}

fn complaint(kind: FaultKind) -> Complaint<'static> {
    Complaint {
        status: kind.status(),
        code: kind.code(),
        message: "no",
        param: Some("model"),
        retry_after: None,
        request_id: "r",
    }
}

#[test]
fn refusals_have_the_words_that_programs_look_for() {
    for (kind, status, kind_word, code) in [
        (
            FaultKind::InvalidRequest,
            400,
            "invalid_request_error",
            "invalid_request",
        ),
        (
            FaultKind::ContextLength,
            400,
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (
            FaultKind::Authentication,
            401,
            "invalid_request_error",
            "invalid_api_key",
        ),
        (
            FaultKind::Payment,
            402,
            "insufficient_quota",
            "insufficient_quota",
        ),
        (
            FaultKind::NotFound,
            404,
            "invalid_request_error",
            "not_found",
        ),
        (
            FaultKind::RateLimited,
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
        ),
        (
            FaultKind::Quota,
            429,
            "insufficient_quota",
            "insufficient_quota",
        ),
        (
            FaultKind::Overloaded,
            503,
            "server_error",
            "provider_overloaded",
        ),
    ] {
        let complaint = complaint(kind);
        assert_eq!(complaint.status, status);
        let expected = json!({"error":
            {"message": "no", "type": kind_word, "param": "model", "code": code}});
        for dialect in [&Chat as &dyn Dialect, &Responses] {
            let body: Value = serde_json::from_slice(&dialect.write_fault(&complaint)).unwrap();
            assert_eq!(body, expected);
        }
    }
}

#[test]
fn a_stream_that_failed_is_not_taken_for_whole() {
    let complaint = complaint(FaultKind::Timeout);
    for (dialect, last) in [(&Chat as &dyn Dialect, "[DONE]"), (&Responses, "}")] {
        let out = dialect.write_last_fault(&complaint, 7);
        let (events, whole) = samples::read_all(dialect, &out);
        assert!(matches!(&events[..], [Event::Fault(fault)] if fault.message == "no"));
        assert!(!whole);
        assert!(String::from_utf8(out).unwrap().trim_end().ends_with(last));
    }
    let out = String::from_utf8(Responses.write_last_fault(&complaint, 7)).unwrap();
    assert!(out.contains("\"sequence_number\":7"), "{out}");
}

#[test]
fn numbers_of_events_go_up_one_by_one() {
    let mut writer = Responses.writer(Wants::default());
    let mut out = Vec::new();
    for event in [
        Event::Text("a".into()),
        Event::Thought("b".into()),
        Event::End,
    ] {
        writer.write(&event, &mut out);
    }
    let numbers: Vec<u64> = samples::frames(&out)
        .iter()
        .map(|frame| serde_json::from_slice::<Value>(&frame.data).unwrap())
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..writer.sequence()).collect::<Vec<_>>());
}

#[test]
fn hidden_thoughts_of_another_dialect_come_back_through_responses() {
    for event in [
        Event::ThoughtSignature("proof".into()),
        Event::ThoughtEncrypted("hidden".into()),
    ] {
        let mut writer = Responses.writer(Wants::default());
        let mut out = Vec::new();
        writer.write(&Event::Thought("hm".into()), &mut out);
        writer.write(&event, &mut out);
        writer.write(&Event::End, &mut out);
        let last = samples::frames(&out).pop().unwrap();
        let last: Value = serde_json::from_slice(&last.data).unwrap();
        let body = json!({"input": last["response"]["output"]});
        let call = Responses
            .read_call(body.to_string().as_bytes(), &InPath::default())
            .unwrap();
        let [Message { parts, .. }] = &call.messages[..] else {
            panic!("{call:?}")
        };
        let [Part::Thought(thought)] = &parts[..] else {
            panic!("{parts:?}")
        };
        assert_eq!(thought.text, "hm");
        match event {
            Event::ThoughtSignature(proof) => assert_eq!(thought.signature, Some(proof)),
            _ => assert_eq!(thought.encrypted.as_deref(), Some("hidden")),
        }
    }
}

proptest! {
    #[test]
    fn classes_of_usage_add_up_to_what_was_counted(
        counts in prop::collection::vec(prop_oneof![0..300_u64, any::<u64>()], 8),
        beside in any::<bool>(),
    ) {
        let [prompt, completion, cached, write, audio, image, thought, spoken] = counts[..] else {
            unreachable!()
        };
        let total = prompt.saturating_add(completion).saturating_add(if beside { thought } else { 0 });
        let value = json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": write,
                "audio_tokens": audio, "image_tokens": image},
            "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": spoken},
        });
        let usage = openai::read_usage(&value).unwrap().unwrap();
        prop_assert_eq!(usage.total_input(), prompt);
        let outside = thought > 0 && total == prompt.saturating_add(completion).saturating_add(thought);
        let answer = if outside { completion.saturating_add(thought) } else { completion };
        prop_assert_eq!(usage.total_output(), answer);
    }

    #[test]
    fn a_call_is_the_same_after_chat(call in samples::call()) {
        check_call(&Chat, &Call { top_k: None, ..call });
    }

    #[test]
    fn a_call_is_the_same_after_responses(call in samples::call()) {
        check_call(&Responses, &Call { top_k: None, stop: Vec::new(), ..call });
    }

    #[test]
    fn a_stream_is_the_same_after_chat(events in samples::events()) {
        check_stream(&Chat, &events, false);
    }

    #[test]
    fn a_stream_is_the_same_after_responses(events in samples::events()) {
        check_stream(&Responses, &events, true);
    }

    #[test]
    fn anything_is_read_or_refused(value in samples::value(WORDS)) {
        samples::survives(&Chat, &value);
        samples::survives(&Responses, &value);
    }

    #[test]
    fn a_call_with_something_else_in_it_is_read_or_refused(
        call in samples::call(),
        place in 0..60_usize,
        other in samples::value(WORDS),
    ) {
        for dialect in [&Chat as &dyn Dialect, &Responses] {
            let call = Call { stop: Vec::new(), ..call.clone() };
            let body = dialect.write_call(&call).unwrap().body;
            let mut tree: Value = serde_json::from_slice(&body).unwrap();
            samples::mutate(&mut tree, place, other.clone());
            samples::survives(dialect, &tree);
        }
    }
}
