//! Cohere's own chat (v2), and embeddings in the words of `OpenAI`.

use super::fault::{Due, Flavour, named};
use super::openai::halves;
use super::prompt::{Choice, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{Answered, Asked, Behaviour, embeddings, fresh_id, list, text};
use bytes::Bytes;
use serde_json::{Value, json};

pub fn answer(asked: &Asked, behaviour: &Behaviour) -> Answered {
    (Flavour::Cohere, respond(asked, behaviour))
}

fn respond(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    let shown = asked.header("authorization").unwrap_or_default();
    let key = shown.strip_prefix("Bearer ").unwrap_or_default();
    if !behaviour.knows_key(key) {
        return Err(Refusal::new(401, "", "invalid api token"));
    }
    let body = &asked.body;
    match asked.path.as_str() {
        "/v2/chat" => {}
        "/compatibility/v1/embeddings" => {
            return embeddings::openai(asked);
        }
        _ => return Err(Refusal::new(404, "", "not found")),
    }
    if !behaviour.knows_model(text(&body["model"]), &["command-"]) {
        return Err(Refusal::new(404, "", "model not found"));
    }
    let said = read(body).answer(behaviour);
    if body["stream"] == true {
        return Ok(Due::events(Flavour::Cohere, 1, stream(&said)));
    }
    Ok(Due::json(Flavour::Cohere, &whole(&said)))
}

fn read(body: &Value) -> Prompt {
    let mut prompt = Prompt::default();
    for message in list(&body["messages"]) {
        let said = match &message["content"] {
            Value::String(text) => text.clone(),
            blocks => {
                let texts = list(blocks).iter().map(|block| text(&block["text"]));
                texts.collect::<Vec<_>>().join(" ")
            }
        };
        match text(&message["role"]) {
            "user" => prompt.hear(&said),
            "tool" => prompt.hear_result(&said),
            _ => prompt.tokens += count(&said),
        }
    }
    for tool in list(&body["tools"]) {
        prompt.tools.push(Tool {
            name: text(&tool["function"]["name"]).to_owned(),
            schema: tool["function"]["parameters"].clone(),
        });
    }
    prompt.choice = match text(&body["tool_choice"]) {
        "NONE" => Choice::None,
        "REQUIRED" => Choice::Required,
        _ => Choice::Auto,
    };
    prompt.max = body["max_tokens"].as_u64();
    let stops = list(&body["stop_sequences"]).iter();
    prompt.stops = stops.map(|stop| text(stop).to_owned()).collect();
    prompt
}

fn reason(said: &Saying) -> &'static str {
    match &said.stop {
        Stop::End => "COMPLETE",
        Stop::Length => "MAX_TOKENS",
        Stop::Sequence(_) => "STOP_SEQUENCE",
        Stop::Tools => "TOOL_CALL",
    }
}

/// Units are written with a point, as Cohere does.
#[expect(clippy::cast_precision_loss, reason = "a few words")]
fn usage(said: &Saying) -> Value {
    let units = json!({"input_tokens": said.input as f64, "output_tokens": said.output as f64});
    json!({"billed_units": units, "tokens": {"input_tokens": said.input + 60, "output_tokens": said.output + 2}})
}

fn whole(said: &Saying) -> Value {
    let mut message = json!({"role": "assistant"});
    if said.calls.is_empty() {
        message["content"] = json!([{"type": "text", "text": said.text}]);
    } else {
        let calls = said.calls.iter().map(|(name, arguments)| {
            json!({"id": fresh_id(name), "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}})
        });
        message["tool_calls"] = calls.collect();
    }
    json!({"id": fresh_id("c-"), "message": message, "finish_reason": reason(said), "usage": usage(said)})
}

fn stream(said: &Saying) -> Vec<Bytes> {
    let mut events = Vec::new();
    let mut say = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        events.push(named(kind, &data));
    };
    let message = |message: Value| json!({"message": message});
    say(
        "message-start",
        json!({"id": fresh_id("c-"), "delta": message(json!({"role": "assistant"}))}),
    );
    for (index, (name, arguments)) in said.calls.iter().enumerate() {
        let call = |call: Value| message(json!({"tool_calls": call}));
        let start = json!({"id": fresh_id(name), "type": "function", "function": {"name": name, "arguments": ""}});
        say(
            "tool-call-start",
            json!({"index": index, "delta": call(start)}),
        );
        for part in halves(&arguments.to_string()) {
            let delta = call(json!({"function": {"arguments": part}}));
            say("tool-call-delta", json!({"index": index, "delta": delta}));
        }
        say("tool-call-end", json!({"index": index}));
    }
    if said.calls.is_empty() {
        let content = |content: Value| message(json!({"content": content}));
        say(
            "content-start",
            json!({"index": 0, "delta": content(json!({"type": "text", "text": ""}))}),
        );
        for piece in pieces(&said.text) {
            say(
                "content-delta",
                json!({"index": 0, "delta": content(json!({"text": piece}))}),
            );
        }
        say("content-end", json!({"index": 0}));
    }
    say(
        "message-end",
        json!({"delta": {"finish_reason": reason(said), "usage": usage(said)}}),
    );
    events
}
