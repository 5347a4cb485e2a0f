//! `OpenAI`'s responses: whole, streamed, and counted.

use super::fault::{Due, Flavour, named};
use super::media::missing;
use super::openai::{INVALID, choice_of, halves, unknown};
use super::prompt::{Form, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{Asked, Behaviour, fresh_id, list, now, text, unknown_field};
use bytes::Bytes;
use serde_json::{Value, json};

const FIELDS: [&str; 34] = [
    "background",
    "context_management",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "moderation",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
    "verbosity",
    "personality",
    "multi_agent",
];

pub fn create(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    let body = &asked.body;
    if let Some(name) = unknown_field(body, &FIELDS).filter(|_| behaviour.strict) {
        return Err(unknown(name));
    }
    let prompt = read(body)?;
    let said = prompt.answer(behaviour);
    let shows = !body["reasoning"]["summary"].is_null();
    let output = output(&said, shows);
    if body["stream"] != true {
        let mut response = response(body, "completed");
        complete(&mut response, &said, output);
        return Ok(Due::json(Flavour::Responses, &response));
    }
    Ok(Due::events(
        Flavour::Responses,
        2,
        stream(body, &said, &output),
    ))
}

/// `POST /v1/responses/input_tokens`.
pub fn input_tokens(asked: &Asked) -> Result<Due, Refusal> {
    let tokens = read(&asked.body)?.tokens;
    Ok(Due::json(
        Flavour::Other,
        &json!({"object": "response.input_tokens", "input_tokens": tokens}),
    ))
}

fn read(body: &Value) -> Result<Prompt, Refusal> {
    let mut prompt = Prompt::default();
    prompt.tokens += count(text(&body["instructions"]));
    match &body["input"] {
        Value::String(input) => prompt.hear(input),
        Value::Array(items) if !items.is_empty() => hear_all(&mut prompt, items)?,
        _ => return Err(missing("input")),
    }
    for tool in list(&body["tools"])
        .iter()
        .filter(|tool| tool["type"] == "function")
    {
        let Some(name) = tool["name"].as_str() else {
            return Err(missing("tools[0].name"));
        };
        prompt.tools.push(Tool {
            name: name.to_owned(),
            schema: tool["parameters"].clone(),
        });
    }
    prompt.choice = choice_of(&body["tool_choice"], &body["tool_choice"]["name"]);
    let format = &body["text"]["format"];
    prompt.form = match text(&format["type"]) {
        "json_schema" => Form::Schema(format["schema"].clone()),
        "json_object" => Form::Json,
        _ => Form::Text,
    };
    prompt.max = body["max_output_tokens"].as_u64();
    if prompt.max.is_some_and(|max| max < 16) {
        let message = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got a smaller one instead.";
        return Err(Refusal::new(400, INVALID, message)
            .code("integer_below_min_value")
            .param("max_output_tokens"));
    }
    let effort = text(&body["reasoning"]["effort"]);
    prompt.think = body["reasoning"].is_object() && effort != "none";
    Ok(prompt)
}

/// Items of a conversation; outputs belong to calls that came before.
fn hear_all(prompt: &mut Prompt, items: &[Value]) -> Result<(), Refusal> {
    let mut open: Vec<&str> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let kind = item["type"].as_str().unwrap_or("message");
        let id = text(&item["call_id"]);
        match kind {
            "message" => hear(prompt, item, at)?,
            "function_call" => {
                open.push(id);
                prompt.tokens += count(text(&item["arguments"]));
            }
            "function_call_output" => {
                let Some(found) = open.iter().position(|call| *call == id) else {
                    let message =
                        format!("No tool call found for function call output with call_id {id}.");
                    return Err(Refusal::new(400, INVALID, message).param("input"));
                };
                open.swap_remove(found);
                let output = &item["output"];
                let output = output
                    .as_str()
                    .map_or_else(|| content(output, at), |text| Ok(text.to_owned()))?;
                prompt.hear_result(&output);
            }
            "reasoning" | "item_reference" | "compaction" => {}
            other => {
                let message = format!(
                    "Invalid value: '{other}'. Supported values are: 'message', 'function_call', 'function_call_output', 'reasoning', 'item_reference'."
                );
                return Err(Refusal::new(400, INVALID, message)
                    .code("invalid_value")
                    .param(&format!("input[{at}].type")));
            }
        }
    }
    if let Some(id) = open.first() {
        let message = format!("No tool output found for function call {id}.");
        return Err(Refusal::new(400, INVALID, message).param("input"));
    }
    Ok(())
}

fn hear(prompt: &mut Prompt, item: &Value, at: usize) -> Result<(), Refusal> {
    let said = match &item["content"] {
        Value::String(text) => text.clone(),
        parts => content(parts, at)?,
    };
    match text(&item["role"]) {
        "user" => prompt.hear(&said),
        "assistant" | "system" | "developer" => prompt.tokens += count(&said),
        other => {
            let message = format!(
                "Invalid value: '{other}'. Supported values are: 'assistant', 'system', 'developer', and 'user'."
            );
            return Err(Refusal::new(400, INVALID, message)
                .code("invalid_value")
                .param(&format!("input[{at}].role")));
        }
    }
    Ok(())
}

fn content(parts: &Value, at: usize) -> Result<String, Refusal> {
    let mut said = Vec::new();
    for (n, part) in list(parts).iter().enumerate() {
        said.push(match text(&part["type"]) {
            "input_text" | "output_text" => text(&part["text"]),
            "refusal" => text(&part["refusal"]),
            "input_image" => "[image]",
            "input_file" => "[file]",
            "input_audio" => "[audio]",
            other => {
                let message = format!("Invalid value: '{other}'. Supported values are: 'input_text', 'input_image', 'output_text', 'refusal', 'input_file', 'computer_screenshot', and 'summary_text'.");
                return Err(Refusal::new(400, INVALID, message).code("invalid_value").param(&format!("input[{at}].content[{n}]")));
            }
        });
    }
    Ok(said.join(" "))
}

/// Everything about a response that its request says.
fn response(body: &Value, status: &str) -> Value {
    let or = |name: &str, default: Value| match &body[name] {
        Value::Null => default,
        given => given.clone(),
    };
    json!({
        "id": fresh_id("resp_"),
        "object": "response",
        "created_at": now(),
        "status": status,
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": body["instructions"],
        "max_output_tokens": body["max_output_tokens"],
        "max_tool_calls": null,
        "model": body["model"],
        "output": [],
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": body["previous_response_id"],
        "reasoning": {"effort": body["reasoning"]["effort"], "summary": body["reasoning"]["summary"]},
        "service_tier": "default",
        "store": or("store", json!(true)),
        "temperature": or("temperature", json!(1.0)),
        "text": or("text", json!({"format": {"type": "text"}})),
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])),
        "top_logprobs": 0,
        "top_p": or("top_p", json!(1.0)),
        "truncation": or("truncation", json!("disabled")),
        "usage": null,
        "user": body["user"],
        "metadata": or("metadata", json!({})),
    })
}

fn complete(response: &mut Value, said: &Saying, output: Vec<Value>) {
    response["status"] = json!("completed");
    if said.stop == Stop::Length {
        response["status"] = json!("incomplete");
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    response["output"] = json!(output);
    response["usage"] = json!({
        "input_tokens": said.input,
        "input_tokens_details": {"cached_tokens": said.cached},
        "output_tokens": said.output,
        "output_tokens_details": {"reasoning_tokens": said.thought_tokens},
        "total_tokens": said.input + said.output,
    });
}

fn output(said: &Saying, shows: bool) -> Vec<Value> {
    let mut items = Vec::new();
    if !said.thought.is_empty() {
        let summary = if shows {
            json!([{"type": "summary_text", "text": said.thought}])
        } else {
            json!([])
        };
        items.push(json!({"id": fresh_id("rs_"), "type": "reasoning", "summary": summary}));
    }
    for (name, arguments) in &said.calls {
        items.push(json!({
            "id": fresh_id("fc_"), "type": "function_call", "status": "completed",
            "arguments": arguments.to_string(), "call_id": fresh_id("call_"), "name": name,
        }));
    }
    if said.calls.is_empty() {
        let status = if said.stop == Stop::Length {
            "incomplete"
        } else {
            "completed"
        };
        let part =
            json!({"type": "output_text", "annotations": [], "logprobs": [], "text": said.text});
        items.push(json!({
            "id": fresh_id("msg_"), "type": "message", "status": status, "content": [part], "role": "assistant",
        }));
    }
    items
}

/// Events with their numbers.
#[derive(Default)]
struct Numbered(Vec<Bytes>);

impl Numbered {
    fn push(&mut self, kind: &str, mut data: Value) {
        let mut event = json!({"type": kind, "sequence_number": self.0.len()});
        if let (Some(event), Some(data)) = (event.as_object_mut(), data.as_object_mut()) {
            event.append(data);
        }
        self.0.push(named(kind, &event));
    }
}

fn stream(body: &Value, said: &Saying, output: &[Value]) -> Vec<Bytes> {
    let mut response = response(body, "in_progress");
    let mut events = Numbered::default();
    events.push("response.created", json!({ "response": response }));
    events.push("response.in_progress", json!({ "response": response }));
    let padded = body["stream_options"]["include_obfuscation"] != false;
    for (index, item) in output.iter().enumerate() {
        let mut begun = item.clone();
        match text(&item["type"]) {
            "message" => begun["content"] = json!([]),
            "function_call" => begun["arguments"] = json!(""),
            _ => begun["summary"] = json!([]),
        }
        if item["type"] != "reasoning" {
            begun["status"] = json!("in_progress");
        }
        events.push(
            "response.output_item.added",
            json!({"output_index": index, "item": begun}),
        );
        match text(&item["type"]) {
            "message" => say(&mut events, index, item, padded),
            "function_call" => call(&mut events, index, item),
            _ => think(&mut events, index, item),
        }
        events.push(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
        );
    }
    complete(&mut response, said, output.to_vec());
    let last = format!("response.{}", text(&response["status"]));
    events.push(&last, json!({ "response": response }));
    events.0
}

fn say(events: &mut Numbered, index: usize, item: &Value, padded: bool) {
    let part = &item["content"][0];
    let at = |more: Value| {
        let mut place = json!({"item_id": item["id"], "output_index": index, "content_index": 0});
        for (name, value) in more.as_object().into_iter().flatten() {
            place[name] = value.clone();
        }
        place
    };
    let mut empty = part.clone();
    empty["text"] = json!("");
    events.push("response.content_part.added", at(json!({ "part": empty })));
    for word in pieces(text(&part["text"])) {
        let mut delta = json!({"delta": word, "logprobs": []});
        if padded {
            delta["obfuscation"] = json!("aBcDeF");
        }
        events.push("response.output_text.delta", at(delta));
    }
    events.push(
        "response.output_text.done",
        at(json!({"text": part["text"], "logprobs": []})),
    );
    events.push("response.content_part.done", at(json!({ "part": part })));
}

fn call(events: &mut Numbered, index: usize, item: &Value) {
    for part in halves(text(&item["arguments"])) {
        events.push(
            "response.function_call_arguments.delta",
            json!({"item_id": item["id"], "output_index": index, "delta": part}),
        );
    }
    events.push(
        "response.function_call_arguments.done",
        json!({"item_id": item["id"], "output_index": index, "name": item["name"], "arguments": item["arguments"]}),
    );
}

fn think(events: &mut Numbered, index: usize, item: &Value) {
    for part in list(&item["summary"]) {
        let place = json!({"item_id": item["id"], "output_index": index, "summary_index": 0});
        let at = |name: &str, value: Value| {
            let mut place = place.clone();
            place[name] = value;
            place
        };
        let empty = json!({"type": "summary_text", "text": ""});
        events.push("response.reasoning_summary_part.added", at("part", empty));
        for word in pieces(text(&part["text"])) {
            events.push(
                "response.reasoning_summary_text.delta",
                at("delta", json!(word)),
            );
        }
        events.push(
            "response.reasoning_summary_text.done",
            at("text", part["text"].clone()),
        );
        events.push(
            "response.reasoning_summary_part.done",
            at("part", part.clone()),
        );
    }
}
