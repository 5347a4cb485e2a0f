//! Calls, events and JSON of all kinds, for tests of dialects.

use super::super::call::{
    Call, Format, Media, Message, Part, Reasoning, Role, Source, Thought, Tool, ToolCall,
    ToolChoice, ToolResult,
};
use super::super::event::{Event, Stop, StopReason};
use super::{Dialect, Frame, InPath};
use crate::base::usage::Usage;
use bytes::Bytes;
use http::HeaderMap;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Words that no dialect changes.
pub fn words() -> impl Strategy<Value = String> {
    "[a-zäß\"\\\\\\n✓]{1,12}[a-z]"
}

pub fn id() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_-]{1,10}"
}

pub fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{}".to_owned()),
        (id(), words()).prop_map(|(key, value)| json!({key: value}).to_string()),
        (0..99_i32, vec(any::<bool>(), 0..3))
            .prop_map(|(n, list)| json!({"n": n, "list": list, "none": null}).to_string()),
    ]
}

pub fn image() -> impl Strategy<Value = Media> {
    prop_oneof![Just("image/png"), Just("image/jpeg")].prop_map(|media_type| Media {
        media_type: Some(media_type.to_owned()),
        source: Source::Base64("iVBORw0KGgo=".to_owned()),
        detail: None,
        name: None,
    })
}

pub fn pdf() -> impl Strategy<Value = Media> {
    option::of(id()).prop_map(|name| Media {
        media_type: Some("application/pdf".to_owned()),
        source: Source::Base64("JVBERi0=".to_owned()),
        detail: None,
        name,
    })
}

/// One round: the model calls tools, and the user gives what they returned, with the same ids and names.
fn round() -> impl Strategy<Value = [Message; 2]> {
    let call = (id(), id(), arguments(), words(), any::<bool>());
    (option::of(words()), vec(call, 1..3), option::of(words())).prop_map(|(said, calls, then)| {
        let mut asked: Vec<Part> = said.map(Part::Text).into_iter().collect();
        let mut given = Vec::new();
        for (at, (id, name, arguments, result, is_error)) in calls.into_iter().enumerate() {
            let id = format!("{id}{at}");
            given.push(Part::ToolResult(ToolResult {
                id: id.clone(),
                name: Some(name.clone()),
                parts: vec![Part::Text(result)],
                is_error,
            }));
            asked.push(Part::ToolCall(ToolCall {
                id,
                name,
                arguments,
                signature: None,
            }));
        }
        given.extend(then.map(Part::Text));
        [message(Role::Assistant, asked), message(Role::User, given)]
    })
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message { role, parts }
}

/// Turns by turns, beginning with the user, and with ids that are used once.
pub fn messages() -> impl Strategy<Value = Vec<Message>> {
    let user = vec(
        prop_oneof![
            words().prop_map(Part::Text),
            image().prop_map(Part::Image),
            pdf().prop_map(Part::File),
        ],
        1..3,
    );
    let thought = (words(), id()).prop_map(|(text, signature)| {
        Part::Thought(Thought {
            text,
            signature: Some(signature),
            encrypted: None,
        })
    });
    let answer = (option::of(thought), words());
    (
        user.clone(),
        option::of(round()),
        option::of((answer, user)),
    )
        .prop_map(|(first, round, more)| {
            let mut messages = vec![message(Role::User, first)];
            messages.extend(round.into_iter().flatten());
            if let Some(((thought, text), user)) = more {
                let parts = thought.into_iter().chain([Part::Text(text)]).collect();
                messages.push(message(Role::Assistant, parts));
                messages.push(message(Role::User, user));
            }
            messages
        })
}

pub fn schema() -> impl Strategy<Value = Value> {
    (id(), words()).prop_map(|(name, description)| {
        json!({
            "type": "object",
            "properties": {name.clone(): {"type": "string", "description": description}},
            "required": [name],
            "additionalProperties": false,
        })
    })
}

fn tools() -> impl Strategy<Value = (Vec<Tool>, ToolChoice)> {
    let tool = (id(), option::of(words()), schema()).prop_map(|(name, description, schema)| Tool {
        name,
        description,
        parameters: Some(schema),
        strict: None,
    });
    let choice = prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::None),
        Just(ToolChoice::Required),
        Just(ToolChoice::Named("named".to_owned())),
    ];
    vec(tool, 0..3).prop_flat_map(move |tools| {
        let choice = if tools.is_empty() {
            Just(ToolChoice::Auto).boxed()
        } else {
            choice.clone().boxed()
        };
        (Just(tools), choice)
    })
}

/// What messages and Gemini can both say; each test adds what is special.
pub fn call() -> impl Strategy<Value = Call> {
    let texts = vec(words().prop_map(Part::Text), 0..3);
    let sampling = (option::of(0..10_u8), option::of(1..50_u64), 1..9_999_u64);
    let format = prop_oneof![
        Just(Format::Text),
        schema().prop_map(|schema| Format::Schema {
            name: None,
            description: None,
            schema,
            strict: Some(true),
        }),
    ];
    (
        (texts, messages(), tools()),
        sampling,
        vec(words(), 0..3),
        format,
    )
        .prop_map(
            |((system, messages, (tools, tool_choice)), sampling, stop, format)| {
                let (temperature, top_k, max_tokens) = sampling;
                Call {
                    model: "model-1".to_owned(),
                    system,
                    messages,
                    tools,
                    tool_choice,
                    max_tokens: Some(max_tokens),
                    temperature: temperature.map(|tenths| {
                        serde_json::Number::from_f64(f64::from(tenths) / 10.0).unwrap()
                    }),
                    top_k,
                    stop,
                    format,
                    ..Call::default()
                }
            },
        )
}

pub fn off() -> Reasoning {
    Reasoning {
        budget: Some(0),
        ..Reasoning::default()
    }
}

/// What a model may say, from start to end, calls of tools one after the other.
pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let words = || words().prop_map(Event::Text);
    let call = (id(), id(), arguments()).prop_map(|(id, name, arguments)| {
        vec![Event::ToolCall {
            index: 0,
            call: ToolCall {
                id,
                name,
                arguments,
                signature: None,
            },
        }]
    });
    let thought = (self::words(), id()).prop_map(|(text, signature)| {
        vec![Event::Thought(text), Event::ThoughtSignature(signature)]
    });
    let piece = prop_oneof![vec(words(), 1..4), call, thought];
    (vec(piece, 0..6), 0..500_u64, 0..500_u64).prop_map(|(pieces, input, output)| {
        let mut events = vec![Event::Start {
            id: "id-1".to_owned(),
            model: "model-1".to_owned(),
        }];
        events.extend(pieces.into_iter().flatten());
        let mut calls = 0;
        for event in &mut events {
            if let Event::ToolCall { index, call } = event {
                *index = calls;
                calls += 1;
                call.id = format!("{}{calls}", call.id);
            }
        }
        events.push(Event::Stop(Stop {
            reason: if calls > 0 {
                StopReason::ToolCalls
            } else {
                StopReason::Stop
            },
            native: String::new(),
            sequence: None,
        }));
        events.push(Event::Usage(Usage {
            input,
            output,
            reasoning: output / 3,
            cache_read: input / 2,
            ..Usage::default()
        }));
        events.push(Event::End);
        events
    })
}

/// Events as a reader of the whole would know them: words in one piece, arguments at once, the last usage, and
/// native words, which each dialect has its own of, left out.
pub fn joined(events: &[Event]) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    let mut usage = None;
    for event in events {
        match (out.last_mut(), event) {
            (Some(Event::Text(before)), Event::Text(more))
            | (Some(Event::Thought(before)), Event::Thought(more)) => before.push_str(more),
            (_, Event::ToolArguments { index, delta }) => {
                for known in &mut out {
                    match known {
                        Event::ToolCall { index: at, call } if at == index => {
                            call.arguments.push_str(delta);
                        }
                        _ => {}
                    }
                }
            }
            (_, Event::Usage(count)) => usage = Some(*count),
            (_, Event::Stop(stop)) => out.push(Event::Stop(Stop {
                native: String::new(),
                ..stop.clone()
            })),
            _ => out.push(event.clone()),
        }
    }
    out.extend(usage.map(Event::Usage));
    out
}

/// Frames of a stream that came whole, by empty lines.
pub fn frames(stream: &[u8]) -> Vec<Frame> {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    text.split_inclusive("\n\n")
        .map(|raw| {
            let field = |name: &str| {
                raw.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| Bytes::copy_from_slice(value.as_bytes()))
            };
            Frame {
                event: field("event: "),
                data: field("data: ").unwrap_or_default(),
                raw: Bytes::copy_from_slice(raw.as_bytes()),
            }
        })
        .collect()
}

pub fn read_all(dialect: &dyn Dialect, stream: &[u8]) -> (Vec<Event>, bool) {
    let mut reader = dialect.reader();
    let mut events = Vec::new();
    for frame in frames(stream) {
        reader.read(&frame, &mut events).unwrap();
    }
    (events, reader.is_whole())
}

/// Any JSON, with the words of a dialect among its keys and values.
pub fn value(vocabulary: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(vocabulary);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-9.0e18..9.0e18_f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word.clone(), inner), 0..6).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

/// Puts something else in one place of a tree.
pub fn mutate(tree: &mut Value, mut place: usize, other: Value) {
    fn at(tree: &mut Value, place: &mut usize, other: &Value) -> bool {
        if *place == 0 {
            *tree = other.clone();
            return true;
        }
        *place -= 1;
        match tree {
            Value::Array(list) => list.iter_mut().any(|value| at(value, place, other)),
            Value::Object(map) => map.values_mut().any(|value| at(value, place, other)),
            _ => false,
        }
    }
    at(tree, &mut place, &other);
}

/// Everything that reads is given it, and everything that writes is given what was read.
pub fn survives(dialect: &dyn Dialect, value: &Value) {
    let body = value.to_string().into_bytes();
    let path = InPath {
        model: Some("m"),
        stream: true,
    };
    if let Ok(call) = dialect.read_call(&body, &path) {
        let _ = dialect.write_call(&call);
        let bare = Call {
            extras: Vec::new(),
            ..call
        };
        if let Ok(written) = dialect.write_call(&bare) {
            let again = dialect.read_call(&written.body, &path);
            assert!(
                again.is_ok(),
                "{again:?}: {}",
                String::from_utf8_lossy(&written.body)
            );
        }
    }
    if let Ok(reply) = dialect.read_reply(&body) {
        serde_json::from_slice::<Value>(&dialect.write_reply(&reply)).unwrap();
    }
    let _ = dialect.read_fault(400, &HeaderMap::new(), &body);
    let values = match value {
        Value::Array(list) => list.clone(),
        other => vec![other.clone()],
    };
    let mut reader = dialect.reader();
    let mut writer = dialect.writer(super::Wants::default());
    let mut events = Vec::new();
    let mut out = Vec::new();
    for value in values {
        let frame = Frame {
            data: value.to_string().into(),
            ..Frame::default()
        };
        let _ = reader.read(&frame, &mut events);
    }
    for event in &events {
        writer.write(event, &mut out);
    }
    writer.write(&Event::End, &mut out);
    assert!(read_all(dialect, &out).1);
}
