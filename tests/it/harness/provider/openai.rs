//! `OpenAI`'s dialect: credentials, models, and chat completions; its other routes are handed on.

use super::fault::{Due, Flavour, unnamed};
use super::media::missing;
use super::prompt::{Choice, Form, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{
    Answered, Asked, Behaviour, embeddings, fresh_id, list, media, now, realtime, responses, text,
    unknown_field,
};
use bytes::Bytes;
use serde_json::{Value, json};

pub const INVALID: &str = "invalid_request_error";

const MODELS: [&str; 13] = [
    "gpt-",
    "chatgpt-",
    "o1",
    "o3",
    "o4",
    "text-embedding-",
    "omni-moderation-",
    "text-moderation-",
    "dall-e-",
    "tts-",
    "whisper-",
    "sora-",
    "codex-",
];
const LISTED: [&str; 5] = [
    "gpt-5",
    "gpt-5-mini",
    "gpt-4.1",
    "text-embedding-3-small",
    "whisper-1",
];

const CHAT_FIELDS: [&str; 38] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
    "moderation",
    "prompt_cache_options",
    "context_management",
];

pub fn answer(asked: &Asked, behaviour: &Behaviour) -> Answered {
    let flavour = match asked.path.as_str() {
        "/v1/chat/completions" => Flavour::Chat,
        "/v1/responses" => Flavour::Responses,
        _ => Flavour::Other,
    };
    (flavour, respond(asked, behaviour))
}

fn respond(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    authorize(asked, behaviour)?;
    let known = match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/v1/models") => return Ok(models(behaviour)),
        ("GET", path) if path.starts_with("/v1/models/") => {
            let name = path.trim_start_matches("/v1/models/");
            knows(name, behaviour)?;
            return Ok(Due::json(Flavour::Other, &model(name)));
        }
        ("GET", "/v1/realtime") if realtime::is_asked(asked) => {
            return realtime::check(asked, behaviour);
        }
        ("POST", path) => path,
        (method, path) => return Err(no_route(method, path)),
    };
    if media::boundary(asked.content_type()).is_none() {
        check_json(asked)?;
    }
    match (known, text(&asked.body["model"])) {
        ("/v1/moderations", "") => {}
        (_, "") => {
            return Err(Refusal::new(
                400,
                INVALID,
                "you must provide a model parameter",
            ));
        }
        (_, model) => knows(model, behaviour)?,
    }
    match known {
        "/v1/chat/completions" => chat(asked, behaviour),
        "/v1/responses" => responses::create(asked, behaviour),
        "/v1/responses/input_tokens" => responses::input_tokens(asked),
        "/v1/embeddings" => embeddings::openai(asked),
        "/v1/moderations" => media::moderation(asked),
        "/v1/images/generations" | "/v1/images/edits" => media::images(asked),
        "/v1/audio/speech" => media::speech(asked),
        "/v1/audio/transcriptions" | "/v1/audio/translations" => media::transcription(asked),
        path => Err(no_route("POST", path)),
    }
}

fn authorize(asked: &Asked, behaviour: &Behaviour) -> Result<(), Refusal> {
    let Some(key) = asked
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "))
    else {
        return Err(Refusal::new(
            401,
            INVALID,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the API from your browser and are prompted for a username and password. You can obtain an API key from https://platform.openai.com/account/api-keys.",
        ));
    };
    if behaviour.knows_key(key) {
        return Ok(());
    }
    let shown: String = key.chars().take(6).collect();
    let message = format!(
        "Incorrect API key provided: {shown}********. You can find your API key at https://platform.openai.com/account/api-keys."
    );
    Err(Refusal::new(401, INVALID, message).code("invalid_api_key"))
}

fn check_json(asked: &Asked) -> Result<(), Refusal> {
    let content_type = asked.content_type();
    if !content_type.starts_with("application/json") {
        let message = format!(
            "Unsupported content type: '{content_type}'. This API method only accepts 'application/json' requests, but you specified the header 'Content-Type: {content_type}'. Please try again with a supported Content-Type."
        );
        return Err(Refusal::new(400, INVALID, message).code("unsupported_content_type"));
    }
    if !asked.body.is_object() {
        return Err(Refusal::new(
            400,
            INVALID,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. If you have trouble figuring out how to fix this, please contact us through our help center at help.openai.com.)",
        ));
    }
    Ok(())
}

fn knows(model: &str, behaviour: &Behaviour) -> Result<(), Refusal> {
    if behaviour.knows_model(model, &MODELS) {
        return Ok(());
    }
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    Err(Refusal::new(404, INVALID, message).code("model_not_found"))
}

fn no_route(method: &str, path: &str) -> Refusal {
    Refusal::new(404, INVALID, format!("Invalid URL ({method} {path})"))
}

fn models(behaviour: &Behaviour) -> Due {
    let data: Vec<Value> = behaviour
        .listed(&LISTED)
        .iter()
        .map(|name| model(name))
        .collect();
    Due::json(Flavour::Other, &json!({"object": "list", "data": data}))
}

fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "system"})
}

fn chat(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    let body = &asked.body;
    if behaviour.strict {
        strictly(body)?;
    }
    let prompt = read(body)?;
    let streams = body["stream"].as_bool().unwrap_or(false);
    if !streams && !body["stream_options"].is_null() {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Refusal::new(400, INVALID, message).param("stream_options"));
    }
    let said = prompt.answer(behaviour);
    let choices = body["n"].as_u64().unwrap_or(1).max(1);
    if streams {
        let events = stream(body, &said, choices);
        // The role of each choice comes first.
        let opening = usize::try_from(choices).unwrap_or(1);
        return Ok(Due::events(Flavour::Chat, opening, events));
    }
    let choices: Vec<Value> = (0..choices).map(|index| choice(index, &said)).collect();
    let mut whole = frame(body, "chat.completion", &fresh_id("chatcmpl-"));
    whole["choices"] = json!(choices);
    whole["usage"] = usage(&said, choices.len() as u64);
    whole["service_tier"] = json!("default");
    Ok(Due::json(Flavour::Chat, &whole))
}

/// What the newest models do not take.
fn strictly(body: &Value) -> Result<(), Refusal> {
    if let Some(name) = unknown_field(body, &CHAT_FIELDS) {
        return Err(unknown(name));
    }
    let model = text(&body["model"]);
    let thinks = ["gpt-5", "o1", "o3", "o4"]
        .iter()
        .any(|start| model.starts_with(start));
    if thinks && !body["max_tokens"].is_null() {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
        return Err(Refusal::new(400, INVALID, message)
            .code("unsupported_parameter")
            .param("max_tokens"));
    }
    let temperature = &body["temperature"];
    if thinks && !temperature.is_null() && temperature.as_f64() != Some(1.0) {
        let message = format!(
            "Unsupported value: 'temperature' does not support {temperature} with this model. Only the default (1) value is supported."
        );
        return Err(Refusal::new(400, INVALID, message)
            .code("unsupported_value")
            .param("temperature"));
    }
    Ok(())
}

pub fn unknown(name: &str) -> Refusal {
    Refusal::new(400, INVALID, format!("Unknown parameter: '{name}'."))
        .code("unknown_parameter")
        .param(name)
}

fn read(body: &Value) -> Result<Prompt, Refusal> {
    let Some(messages) = body["messages"].as_array() else {
        return Err(missing("messages"));
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
        return Err(Refusal::new(400, INVALID, message)
            .code("empty_array")
            .param("messages"));
    }
    let mut prompt = Prompt::default();
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let role = text(&message["role"]);
        check_order(role, message, &mut open, at)?;
        let said = content(&message["content"], &format!("messages[{at}].content"))?;
        match role {
            "tool" | "function" => prompt.hear_result(&said),
            "user" => prompt.hear(&said),
            "system" | "developer" => prompt.tokens += count(&said),
            _ => prompt.tokens += count(&said) + count(&message["tool_calls"].to_string()),
        }
    }
    check_answered(&open)?;
    for tool in list(&body["tools"]) {
        prompt.tools.push(Tool {
            name: text(&tool["function"]["name"]).to_owned(),
            schema: tool["function"]["parameters"].clone(),
        });
    }
    prompt.choice = choice_of(
        &body["tool_choice"],
        &body["tool_choice"]["function"]["name"],
    );
    prompt.form = match text(&body["response_format"]["type"]) {
        "json_schema" => Form::Schema(body["response_format"]["json_schema"]["schema"].clone()),
        "json_object" => Form::Json,
        _ => Form::Text,
    };
    prompt.max = body["max_completion_tokens"]
        .as_u64()
        .or(body["max_tokens"].as_u64());
    prompt.stops = stops(&body["stop"]);
    prompt.think = !matches!(text(&body["reasoning_effort"]), "" | "none");
    Ok(prompt)
}

/// Results follow the calls that they answer, all of them, and nothing else does.
fn check_order<'a>(
    role: &str,
    message: &'a Value,
    open: &mut Vec<&'a str>,
    at: usize,
) -> Result<(), Refusal> {
    match role {
        "tool" => {
            let id = text(&message["tool_call_id"]);
            let Some(found) = open.iter().position(|call| *call == id) else {
                let message = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.";
                return Err(
                    Refusal::new(400, INVALID, message).param(&format!("messages.[{at}].role"))
                );
            };
            open.swap_remove(found);
        }
        "user" | "system" | "developer" | "function" => check_answered(open)?,
        "assistant" => {
            check_answered(open)?;
            open.extend(
                list(&message["tool_calls"])
                    .iter()
                    .map(|call| text(&call["id"])),
            );
        }
        other => {
            let message = format!(
                "Invalid value: '{other}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
            );
            return Err(Refusal::new(400, INVALID, message)
                .code("invalid_value")
                .param(&format!("messages[{at}].role")));
        }
    }
    Ok(())
}

fn check_answered(open: &[&str]) -> Result<(), Refusal> {
    if open.is_empty() {
        return Ok(());
    }
    let message = format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    );
    Err(Refusal::new(400, INVALID, message).param("messages"))
}

fn content(content: &Value, at: &str) -> Result<String, Refusal> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| part_of(part, at)).collect();
            Ok(parts?.join(" "))
        }
        _ => {
            let message = format!(
                "Invalid type for '{at}': expected one of a string or array of objects, but got something else instead."
            );
            Err(Refusal::new(400, INVALID, message)
                .code("invalid_type")
                .param(at))
        }
    }
}

fn part_of(part: &Value, at: &str) -> Result<String, Refusal> {
    match text(&part["type"]) {
        "text" => Ok(text(&part["text"]).to_owned()),
        "refusal" => Ok(text(&part["refusal"]).to_owned()),
        "image_url" if part["image_url"]["url"].is_string() => Ok("[image]".to_owned()),
        "input_audio" => Ok("[audio]".to_owned()),
        "file" => Ok("[file]".to_owned()),
        other => {
            let message = format!(
                "Invalid value: '{other}'. Supported values are: 'text', 'image_url', 'input_audio', 'refusal', 'audio', and 'file'."
            );
            Err(Refusal::new(400, INVALID, message)
                .code("invalid_value")
                .param(at))
        }
    }
}

pub fn choice_of(choice: &Value, name: &Value) -> Choice {
    match (choice.as_str(), name.as_str()) {
        (Some("none"), _) => Choice::None,
        (Some("required"), _) => Choice::Required,
        (_, Some(name)) => Choice::Named(name.to_owned()),
        _ => Choice::Auto,
    }
}

pub fn stops(stop: &Value) -> Vec<String> {
    match stop {
        Value::String(one) => vec![one.clone()],
        all => list(all).iter().map(|one| text(one).to_owned()).collect(),
    }
}

fn frame(body: &Value, object: &str, id: &str) -> Value {
    json!({"id": id, "object": object, "created": now(), "model": body["model"], "choices": [], "system_fingerprint": null})
}

fn choice(index: u64, said: &Saying) -> Value {
    let mut message =
        json!({"role": "assistant", "content": said.text, "refusal": null, "annotations": []});
    if !said.calls.is_empty() {
        message["content"] = Value::Null;
        let calls = said.calls.iter().map(|(name, arguments)| {
            json!({"id": fresh_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
        });
        message["tool_calls"] = calls.collect();
    }
    json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish(said)})
}

fn finish(said: &Saying) -> &'static str {
    match said.stop {
        Stop::End | Stop::Sequence(_) => "stop",
        Stop::Length => "length",
        Stop::Tools => "tool_calls",
    }
}

fn usage(said: &Saying, choices: u64) -> Value {
    let output = said.output * choices;
    json!({
        "prompt_tokens": said.input,
        "completion_tokens": output,
        "total_tokens": said.input + output,
        "prompt_tokens_details": {"cached_tokens": said.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": said.thought_tokens * choices, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

fn stream(body: &Value, said: &Saying, choices: u64) -> Vec<Bytes> {
    let id = fresh_id("chatcmpl-");
    let counts = body["stream_options"]["include_usage"] == true;
    let padded = body["stream_options"]["include_obfuscation"] != false;
    let mut frame = frame(body, "chat.completion.chunk", &id);
    frame["service_tier"] = json!("default");
    if counts {
        frame["usage"] = Value::Null;
    }
    let chunk = |index: u64, delta: Value, finish: Value| {
        let mut chunk = frame.clone();
        chunk["choices"] =
            json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        if padded {
            chunk["obfuscation"] = json!("aBcDeF");
        }
        unnamed(&chunk)
    };
    let mut events = Vec::new();
    let content = if said.calls.is_empty() {
        json!("")
    } else {
        Value::Null
    };
    for index in 0..choices {
        let role = json!({"role": "assistant", "content": content, "refusal": null});
        events.push(chunk(index, role, Value::Null));
    }
    for index in 0..choices {
        let deltas = deltas(said);
        events.extend(
            deltas
                .into_iter()
                .map(|delta| chunk(index, delta, Value::Null)),
        );
        events.push(chunk(index, json!({}), json!(finish(said))));
    }
    if counts {
        let mut last = frame.clone();
        last["usage"] = usage(said, choices);
        events.push(unnamed(&last));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

fn deltas(said: &Saying) -> Vec<Value> {
    let words = pieces(&said.text).into_iter();
    let mut deltas: Vec<Value> = words.map(|word| json!({ "content": word })).collect();
    for (index, (name, arguments)) in said.calls.iter().enumerate() {
        let call = json!({"index": index, "id": fresh_id("call_"), "type": "function", "function": {"name": name, "arguments": ""}});
        deltas.push(json!({ "tool_calls": [call] }));
        for part in halves(&arguments.to_string()) {
            deltas.push(json!({"tool_calls": [{"index": index, "function": {"arguments": part}}]}));
        }
    }
    deltas
}

/// JSON as models send it: in parts that are none.
pub fn halves(json: &str) -> Vec<String> {
    let letters: Vec<char> = json.chars().collect();
    let (first, second) = letters.split_at(letters.len() / 2);
    vec![first.iter().collect(), second.iter().collect()]
}
