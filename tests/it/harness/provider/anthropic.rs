//! Anthropic's dialect: messages, their tokens, and models.

use super::fault::{Due, Flavour, named};
use super::openai::halves;
use super::prompt::{Choice, Form, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{Answered, Asked, Behaviour, fresh_id, list, text, unknown_field};
use bytes::Bytes;
use serde_json::{Value, json};

const INVALID: &str = "invalid_request_error";
const MODELS: [&str; 1] = ["claude-"];
const LISTED: [&str; 2] = ["claude-sonnet-4-5", "claude-haiku-4-5"];
const FIELDS: [&str; 24] = [
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
    "max_tokens",
    "mcp_servers",
    "messages",
    "metadata",
    "model",
    "output_config",
    "output_format",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "betas",
    "fallbacks",
];

/// What proves a thought.
const SIGNATURE: &str = "EqQBCgIYAhIkc2NyaXB0ZWQ=";

pub fn answer(asked: &Asked, behaviour: &Behaviour) -> Answered {
    (Flavour::Messages, respond(asked, behaviour))
}

fn respond(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    authorize(asked, behaviour)?;
    if asked.header("anthropic-version").is_none() {
        return Err(invalid("anthropic-version: header is required"));
    }
    match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/v1/models") => Ok(models(behaviour)),
        ("GET", path) if path.starts_with("/v1/models/") => {
            let name = path.trim_start_matches("/v1/models/");
            knows(name, behaviour)?;
            Ok(Due::json(Flavour::Messages, &model(name)))
        }
        ("POST", "/v1/messages") => message(asked, behaviour),
        ("POST", "/v1/messages/count_tokens") => {
            let prompt = prompt_of(asked, behaviour)?;
            Ok(Due::json(
                Flavour::Messages,
                &json!({"input_tokens": prompt.tokens}),
            ))
        }
        _ => Err(Refusal::new(404, "not_found_error", "Not Found")),
    }
}

fn authorize(asked: &Asked, behaviour: &Behaviour) -> Result<(), Refusal> {
    let key = asked.header("x-api-key");
    let bearer = asked
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    match key.or(bearer) {
        None => Err(Refusal::new(
            401,
            "authentication_error",
            "x-api-key header is required",
        )),
        Some(key) if behaviour.knows_key(key) => Ok(()),
        Some(_) => Err(Refusal::new(
            401,
            "authentication_error",
            "invalid x-api-key",
        )),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(400, INVALID, message)
}

fn knows(model: &str, behaviour: &Behaviour) -> Result<(), Refusal> {
    if behaviour.knows_model(model, &MODELS) {
        return Ok(());
    }
    Err(Refusal::new(
        404,
        "not_found_error",
        format!("model: {model}"),
    ))
}

fn models(behaviour: &Behaviour) -> Due {
    let names = behaviour.listed(&LISTED);
    let data: Vec<Value> = names.iter().map(|name| model(name)).collect();
    let body = json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()});
    Due::json(Flavour::Messages, &body)
}

fn model(name: &str) -> Value {
    json!({"type": "model", "id": name, "display_name": name, "created_at": "2025-09-29T00:00:00Z"})
}

fn prompt_of(asked: &Asked, behaviour: &Behaviour) -> Result<Prompt, Refusal> {
    if !asked.content_type().starts_with("application/json") {
        return Err(invalid("Content-Type must be application/json"));
    }
    if !asked.body.is_object() {
        return Err(invalid(
            "The request body is not valid JSON: expected value at line 1 column 1 (char 0)",
        ));
    }
    if let Some(name) = unknown_field(&asked.body, &FIELDS).filter(|_| behaviour.strict) {
        return Err(invalid(format!("{name}: Extra inputs are not permitted")));
    }
    let Some(model) = asked.body["model"].as_str() else {
        return Err(invalid("model: Field required"));
    };
    let prompt = read(&asked.body)?;
    knows(model, behaviour)?;
    Ok(prompt)
}

fn message(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    let body = &asked.body;
    let mut prompt = prompt_of(asked, behaviour)?;
    let Some(max) = body["max_tokens"].as_u64() else {
        return Err(invalid("max_tokens: Field required"));
    };
    if max == 0 {
        return Err(invalid("max_tokens: must be greater than or equal to 1"));
    }
    if body["thinking"]["budget_tokens"]
        .as_u64()
        .is_some_and(|budget| budget >= max)
    {
        return Err(invalid(
            "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation at https://docs.claude.com/en/docs/build-with-claude/extended-thinking#max-tokens-and-context-window-size",
        ));
    }
    prompt.max = Some(max);
    let said = prompt.answer(behaviour);
    let mut message = json!({
        "id": fresh_id("msg_"), "type": "message", "role": "assistant", "model": body["model"],
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage(&said),
    });
    let blocks = blocks(&said);
    if body["stream"] == true {
        return Ok(Due::events(
            Flavour::Messages,
            1,
            stream(message, &said, &blocks),
        ));
    }
    message["content"] = json!(blocks);
    let (reason, sequence) = stop(&said);
    message["stop_reason"] = json!(reason);
    message["stop_sequence"] = sequence;
    Ok(Due::json(Flavour::Messages, &message))
}

fn read(body: &Value) -> Result<Prompt, Refusal> {
    let Some(messages) = body["messages"].as_array() else {
        return Err(invalid("messages: Field required"));
    };
    if messages.is_empty() {
        return Err(invalid("messages: at least one message is required"));
    }
    let mut prompt = Prompt::default();
    prompt.tokens += count(text(&body["system"]));
    for block in list(&body["system"]) {
        prompt.tokens += count(text(&block["text"]));
    }
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        check_role(text(&message["role"]))?;
        check_tools(message, &mut open, at)?;
        hear(&mut prompt, message, at)?;
    }
    for (at, tool) in list(&body["tools"]).iter().enumerate() {
        let (Some(name), true) = (
            tool["name"].as_str(),
            tool["input_schema"]["type"] == "object",
        ) else {
            return Err(invalid(format!(
                "tools.{at}.custom.input_schema.type: Field required"
            )));
        };
        prompt.tools.push(Tool {
            name: name.to_owned(),
            schema: tool["input_schema"].clone(),
        });
    }
    prompt.choice = match text(&body["tool_choice"]["type"]) {
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => Choice::Named(text(&body["tool_choice"]["name"]).to_owned()),
        _ => Choice::Auto,
    };
    // Its place when it was new, and the one it has now.
    let format = [&body["output_format"], &body["output_config"]["format"]];
    if let Some(format) = format.iter().find(|format| format["type"] == "json_schema") {
        prompt.form = Form::Schema(format["schema"].clone());
    }
    prompt.stops = list(&body["stop_sequences"])
        .iter()
        .map(|stop| text(stop).to_owned())
        .collect();
    prompt.think = matches!(text(&body["thinking"]["type"]), "enabled" | "adaptive");
    Ok(prompt)
}

fn check_role(role: &str) -> Result<(), Refusal> {
    match role {
        "user" | "assistant" => Ok(()),
        "system" => Err(invalid(
            "messages: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" as an input message role.",
        )),
        other => Err(invalid(format!(
            "messages: Unexpected role \"{other}\". Allowed roles are \"user\" or \"assistant\""
        ))),
    }
}

/// Results stand in the message right after the calls, all of them, and nothing else does.
fn check_tools<'a>(message: &'a Value, open: &mut Vec<&'a str>, at: usize) -> Result<(), Refusal> {
    let blocks = list(&message["content"]);
    for (n, block) in blocks.iter().enumerate() {
        if block["type"] != "tool_result" {
            continue;
        }
        let id = text(&block["tool_use_id"]);
        let Some(found) = open.iter().position(|call| *call == id) else {
            return Err(invalid(format!(
                "messages.{at}.content.{n}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            )));
        };
        open.swap_remove(found);
    }
    if !open.is_empty() {
        return Err(invalid(format!(
            "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
            open.join(", ")
        )));
    }
    let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
    open.extend(calls.map(|block| text(&block["id"])));
    Ok(())
}

fn hear(prompt: &mut Prompt, message: &Value, at: usize) -> Result<(), Refusal> {
    let mut said = Vec::new();
    let mut results = Vec::new();
    match &message["content"] {
        Value::String(text) if text.is_empty() && at == 0 => {
            return Err(invalid(
                "messages.0: user messages must have non-empty content",
            ));
        }
        Value::String(text) => said.push(text.clone()),
        blocks => {
            for (n, block) in list(blocks).iter().enumerate() {
                match text(&block["type"]) {
                    "text" if text(&block["text"]).is_empty() => {
                        return Err(invalid("messages: text content blocks must be non-empty"));
                    }
                    "text" => said.push(text(&block["text"]).to_owned()),
                    "image" => said.push("[image]".to_owned()),
                    "document" => said.push("[file]".to_owned()),
                    "tool_result" => results.push(result(&block["content"])),
                    "tool_use" => prompt.tokens += count(&block["input"].to_string()),
                    "thinking" if text(&block["signature"]).is_empty() => {
                        return Err(invalid(format!(
                            "messages.{at}.content.{n}.thinking.signature: Field required"
                        )));
                    }
                    "thinking" | "redacted_thinking" => {}
                    other => {
                        return Err(invalid(format!(
                            "messages.{at}.content.{n}: Input tag '{other}' found using 'type' does not match any of the expected tags: 'document', 'image', 'redacted_thinking', 'text', 'thinking', 'tool_result', 'tool_use'"
                        )));
                    }
                }
            }
        }
    }
    let said = said.join(" ");
    if message["role"] == "assistant" {
        prompt.tokens += count(&said);
    } else if said.is_empty() {
        prompt.results.clear();
    } else {
        prompt.hear(&said);
    }
    for result in results {
        prompt.hear_result(&result);
    }
    Ok(())
}

fn result(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        blocks => {
            let texts = list(blocks)
                .iter()
                .map(|block| block["text"].as_str().unwrap_or("[image]"));
            texts.collect::<Vec<_>>().join(" ")
        }
    }
}

fn blocks(said: &Saying) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !said.thought.is_empty() {
        blocks.push(json!({"type": "thinking", "thinking": said.thought, "signature": SIGNATURE}));
    }
    if said.calls.is_empty() {
        blocks.push(json!({"type": "text", "text": said.text}));
    }
    for (name, input) in &said.calls {
        blocks.push(
            json!({"type": "tool_use", "id": fresh_id("toolu_"), "name": name, "input": input}),
        );
    }
    blocks
}

fn usage(said: &Saying) -> Value {
    json!({
        // Unlike elsewhere, what is cached is not among these.
        "input_tokens": said.input - said.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": said.output,
        "service_tier": "standard",
    })
}

fn stop(said: &Saying) -> (&'static str, Value) {
    match &said.stop {
        Stop::End => ("end_turn", Value::Null),
        Stop::Length => ("max_tokens", Value::Null),
        Stop::Sequence(sequence) => ("stop_sequence", json!(sequence)),
        Stop::Tools => ("tool_use", Value::Null),
    }
}

fn event(kind: &str, mut data: Value) -> Bytes {
    let mut event = json!({ "type": kind });
    if let (Some(event), Some(data)) = (event.as_object_mut(), data.as_object_mut()) {
        event.append(data);
    }
    named(kind, &event)
}

fn stream(mut message: Value, said: &Saying, blocks: &[Value]) -> Vec<Bytes> {
    let counted = message["usage"].clone();
    message["usage"]["output_tokens"] = json!(1);
    let mut events = vec![event("message_start", json!({ "message": message }))];
    for (index, block) in blocks.iter().enumerate() {
        let mut begun = block.clone();
        let deltas: Vec<Value> = match text(&block["type"]) {
            "thinking" => {
                begun["thinking"] = json!("");
                begun["signature"] = json!("");
                let words = pieces(text(&block["thinking"])).into_iter();
                let words = words.map(|word| json!({"type": "thinking_delta", "thinking": word}));
                let signature = json!({"type": "signature_delta", "signature": SIGNATURE});
                words.chain([signature]).collect()
            }
            "text" => {
                begun["text"] = json!("");
                let words = pieces(text(&block["text"])).into_iter();
                words
                    .map(|word| json!({"type": "text_delta", "text": word}))
                    .collect()
            }
            _ => {
                begun["input"] = json!({});
                let parts = [String::new()]
                    .into_iter()
                    .chain(halves(&block["input"].to_string()));
                parts
                    .map(|part| json!({"type": "input_json_delta", "partial_json": part}))
                    .collect()
            }
        };
        events.push(event(
            "content_block_start",
            json!({"index": index, "content_block": begun}),
        ));
        if index == 0 {
            events.push(event("ping", json!({})));
        }
        events.extend(deltas.into_iter().map(|delta| {
            event(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            )
        }));
        events.push(event("content_block_stop", json!({ "index": index })));
    }
    let (reason, sequence) = stop(said);
    let mut total = counted;
    if let Some(total) = total.as_object_mut() {
        total.remove("service_tier");
        total.remove("cache_creation");
    }
    events.push(event(
        "message_delta",
        json!({"delta": {"stop_reason": reason, "stop_sequence": sequence}, "usage": total}),
    ));
    events.push(event("message_stop", json!({})));
    events
}
