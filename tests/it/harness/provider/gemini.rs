//! Gemini's dialect: content that is generated, streamed, counted and embedded, and models.

use super::fault::{Body, Due, Flavour, unnamed};
use super::prompt::{Choice, Form, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{Answered, Asked, Behaviour, embeddings, fresh_id, list, text, unknown_field};
use bytes::Bytes;
use serde_json::{Value, json};

const INVALID: &str = "INVALID_ARGUMENT";
const MODELS: [&str; 5] = [
    "gemini-",
    "gemma-",
    "text-embedding-",
    "embedding-",
    "learnlm-",
];
const LISTED: [&str; 3] = ["gemini-2.5-pro", "gemini-2.5-flash", "gemini-embedding-001"];
const FIELDS: [&str; 9] = [
    "contents",
    "systemInstruction",
    "generationConfig",
    "tools",
    "toolConfig",
    "safetySettings",
    "cachedContent",
    "model",
    "labels",
];

/// What proves a thought.
const SIGNATURE: &str = "CpwBAVSoXO4c2NyaXB0ZWQ=";

pub fn answer(asked: &Asked, behaviour: &Behaviour) -> Answered {
    (Flavour::Gemini, respond(asked, behaviour))
}

fn respond(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    authorize(asked, behaviour)?;
    let asked = &Asked {
        body: camel(&asked.body),
        ..asked.clone()
    };
    // The SDK for Python asks for `v1`, the others for `v1beta`.
    let versions = ["/v1beta/models", "/v1/models"];
    let mut paths = versions
        .iter()
        .filter_map(|start| asked.path.strip_prefix(start));
    let Some(path) = paths.next() else {
        return Err(not_found());
    };
    if asked.method == "GET" {
        return models(path, behaviour);
    }
    let Some((model, verb)) = path.strip_prefix('/').and_then(|path| path.split_once(':')) else {
        return Err(not_found());
    };
    if !asked.body.is_object() {
        return Err(Refusal::new(
            400,
            INVALID,
            "Invalid JSON payload received. Expected an object key or }.",
        ));
    }
    knows(model, verb, behaviour)?;
    match verb {
        "generateContent" | "streamGenerateContent" => generate(asked, behaviour, model, verb),
        "countTokens" => {
            let inner = &asked.body["generateContentRequest"];
            let body = if inner.is_object() {
                inner
            } else {
                &asked.body
            };
            let tokens = read(body)?.tokens;
            Ok(json_of(
                &json!({"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}),
            ))
        }
        "embedContent" => Ok(json_of(
            &json!({"embedding": embeddings::gemini(&asked.body)}),
        )),
        "batchEmbedContents" => {
            let each = list(&asked.body["requests"]).iter().map(embeddings::gemini);
            Ok(json_of(&json!({"embeddings": each.collect::<Vec<_>>()})))
        }
        _ => Err(not_found()),
    }
}

fn authorize(asked: &Asked, behaviour: &Behaviour) -> Result<(), Refusal> {
    let Some(key) = asked.header("x-goog-api-key").or(asked.query_value("key")) else {
        return Err(Refusal::new(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
        ));
    };
    if behaviour.knows_key(key) {
        return Ok(());
    }
    Err(Refusal::of(Flavour::Gemini, super::Trouble::BadKey))
}

/// The same with names `likeThis`: Google takes both spellings, and its SDKs mix them.
fn camel(value: &Value) -> Value {
    const AS_THEY_ARE: [&str; 5] = [
        "args",
        "response",
        "properties",
        "parametersJsonSchema",
        "responseJsonSchema",
    ];
    match value {
        Value::Array(all) => all.iter().map(camel).collect(),
        Value::Object(fields) => {
            let each = fields.iter().map(|(name, value)| {
                let mut words = name.split('_');
                let mut spelled = words.next().unwrap_or_default().to_owned();
                for word in words {
                    let (first, rest) = word.split_at(word.len().min(1));
                    spelled += &(first.to_uppercase() + rest);
                }
                let kept = AS_THEY_ARE.contains(&spelled.as_str());
                (spelled, if kept { value.clone() } else { camel(value) })
            });
            Value::Object(each.collect())
        }
        other => other.clone(),
    }
}

fn not_found() -> Refusal {
    Refusal::new(404, "NOT_FOUND", "Requested entity was not found.")
}

fn json_of(body: &Value) -> Due {
    Due::bytes(
        Flavour::Gemini,
        "application/json; charset=UTF-8",
        body.to_string(),
    )
}

fn knows(model: &str, verb: &str, behaviour: &Behaviour) -> Result<(), Refusal> {
    if behaviour.knows_model(model, &MODELS) {
        return Ok(());
    }
    let message = format!(
        "models/{model} is not found for API version v1beta, or is not supported for {verb}. Call ListModels to see the list of available models and their supported methods."
    );
    Err(Refusal::new(404, "NOT_FOUND", message))
}

fn models(path: &str, behaviour: &Behaviour) -> Result<Due, Refusal> {
    let model = |name: &str| {
        json!({
            "name": format!("models/{name}"), "version": "001", "displayName": name, "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536, "supportedGenerationMethods": ["generateContent", "countTokens"],
        })
    };
    match path.strip_prefix('/') {
        None => {
            let all: Vec<Value> = behaviour
                .listed(&LISTED)
                .iter()
                .map(|name| model(name))
                .collect();
            Ok(json_of(&json!({ "models": all })))
        }
        Some(name) => {
            knows(name, "getModel", behaviour)?;
            Ok(json_of(&model(name)))
        }
    }
}

fn generate(asked: &Asked, behaviour: &Behaviour, model: &str, verb: &str) -> Result<Due, Refusal> {
    if behaviour.strict {
        strictly(&asked.body)?;
    }
    let said = read(&asked.body)?.answer(behaviour);
    if verb == "generateContent" {
        return Ok(json_of(&whole(model, &said, &asked.body)));
    }
    let chunks = stream(model, &said, &asked.body);
    if asked.query_value("alt") == Some("sse") {
        let events: Vec<Bytes> = chunks
            .iter()
            .map(|chunk| {
                // Google ends its lines in the manner of HTTP.
                String::from_utf8_lossy(&unnamed(chunk))
                    .replace('\n', "\r\n")
                    .into()
            })
            .collect();
        return Ok(Due::events(Flavour::Gemini, 0, events));
    }
    Ok(json_of(&Value::Array(chunks)))
}

/// Fields and words of schemas that the real one does not know.
fn strictly(body: &Value) -> Result<(), Refusal> {
    let unknown = |name: &str, at: &str| {
        let place = if at.is_empty() {
            String::new()
        } else {
            format!(" at '{at}'")
        };
        let message = format!(
            "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
        );
        Err(Refusal::new(400, INVALID, message))
    };
    if let Some(name) = unknown_field(body, &FIELDS) {
        return unknown(name, "");
    }
    for tool in list(&body["tools"]) {
        for function in list(&tool["functionDeclarations"]) {
            if let Some(word) = foreign_word(&function["parameters"]) {
                return unknown(word, "tools[0].function_declarations[0].parameters");
            }
        }
    }
    if let Some(word) = foreign_word(&body["generationConfig"]["responseSchema"]) {
        return unknown(word, "generation_config.response_schema");
    }
    Ok(())
}

/// A word of JSON Schema that Google's kind of schema does not have.
fn foreign_word(schema: &Value) -> Option<&str> {
    const FOREIGN: [&str; 8] = [
        "$schema",
        "const",
        "oneOf",
        "allOf",
        "not",
        "patternProperties",
        "if",
        "exclusiveMinimum",
    ];
    let object = schema.as_object()?;
    let here = object
        .keys()
        .map(String::as_str)
        .find(|key| FOREIGN.contains(key));
    let inside = || {
        let properties = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, inner)| inner);
        properties.chain([&schema["items"]]).find_map(foreign_word)
    };
    here.or_else(inside)
}

fn read(body: &Value) -> Result<Prompt, Refusal> {
    let contents = list(&body["contents"]);
    if contents.is_empty() {
        return Err(Refusal::new(
            400,
            INVALID,
            "* GenerateContentRequest.contents: contents is not specified\n",
        ));
    }
    let mut prompt = Prompt::default();
    let system = &body["systemInstruction"];
    prompt.tokens += list(&system["parts"])
        .iter()
        .map(|part| count(text(&part["text"])))
        .sum::<u64>();
    let mut called = 0;
    for content in contents {
        called = hear(&mut prompt, content, called)?;
    }
    for tool in list(&body["tools"]) {
        for function in list(&tool["functionDeclarations"]) {
            let schema = match &function["parametersJsonSchema"] {
                Value::Null => &function["parameters"],
                schema => schema,
            };
            prompt.tools.push(Tool {
                name: text(&function["name"]).to_owned(),
                schema: schema.clone(),
            });
        }
    }
    let calling = &body["toolConfig"]["functionCallingConfig"];
    prompt.choice = match (
        text(&calling["mode"]),
        list(&calling["allowedFunctionNames"]),
    ) {
        ("NONE", _) => Choice::None,
        ("ANY", [one]) => Choice::Named(text(one).to_owned()),
        ("ANY", _) => Choice::Required,
        _ => Choice::Auto,
    };
    configure(&mut prompt, &body["generationConfig"]);
    Ok(prompt)
}

fn configure(prompt: &mut Prompt, config: &Value) {
    let schema = match &config["responseJsonSchema"] {
        Value::Null => &config["responseSchema"],
        schema => schema,
    };
    prompt.form = match text(&config["responseMimeType"]) {
        "application/json" if schema.is_object() => Form::Schema(schema.clone()),
        "application/json" => Form::Json,
        _ => Form::Text,
    };
    prompt.max = config["maxOutputTokens"].as_u64();
    prompt.stops = list(&config["stopSequences"])
        .iter()
        .map(|stop| text(stop).to_owned())
        .collect();
    prompt.think = config["thinkingConfig"]["includeThoughts"] == true;
}

/// The answer is how many functions this content calls; as many responses must follow.
fn hear(prompt: &mut Prompt, content: &Value, called: usize) -> Result<usize, Refusal> {
    let role = content["role"].as_str().unwrap_or("user");
    if !matches!(role, "user" | "model" | "function") {
        return Err(Refusal::new(
            400,
            INVALID,
            "Please use a valid role: user, model.",
        ));
    }
    let parts = list(&content["parts"]);
    let responses = parts
        .iter()
        .filter(|part| part["functionResponse"].is_object())
        .count();
    if responses != called {
        return Err(Refusal::new(
            400,
            INVALID,
            "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.",
        ));
    }
    let said: Vec<&str> = parts.iter().filter_map(part_of).collect();
    let said = said.join(" ");
    if role == "model" {
        prompt.tokens += count(&said);
    } else if responses == 0 {
        prompt.hear(&said);
    }
    for part in parts
        .iter()
        .filter(|part| part["functionResponse"].is_object())
    {
        let response = &part["functionResponse"]["response"];
        if !response.is_object() {
            return Err(Refusal::new(
                400,
                INVALID,
                "Invalid value at 'contents[0].parts[0].function_response.response' (type.googleapis.com/google.protobuf.Struct)",
            ));
        }
        prompt.hear_result(&response.to_string());
    }
    Ok(parts
        .iter()
        .filter(|part| part["functionCall"].is_object())
        .count())
}

fn part_of(part: &Value) -> Option<&str> {
    if part["thought"] == true {
        return None;
    }
    if let Some(text) = part["text"].as_str() {
        return Some(text);
    }
    let media = ["inlineData", "fileData"];
    let media = media.iter().find(|name| part[**name].is_object())?;
    let kind = part[*media]["mimeType"].as_str();
    Some(match kind.and_then(|kind| kind.split('/').next()) {
        Some("audio") => "[audio]",
        Some("image") => "[image]",
        _ => "[file]",
    })
}

fn frame(model: &str, said: &Saying, id: &str) -> Value {
    let mut usage = json!({
        "promptTokenCount": said.input,
        "totalTokenCount": said.input,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": said.input}],
    });
    if said.cached > 0 {
        usage["cachedContentTokenCount"] = json!(said.cached);
        usage["cacheTokensDetails"] = json!([{"modality": "TEXT", "tokenCount": said.cached}]);
    }
    json!({"candidates": [], "usageMetadata": usage, "modelVersion": model, "responseId": id})
}

/// Thoughts are counted beside the answer, not in it.
fn count_output(chunk: &mut Value, said: &Saying) {
    let usage = &mut chunk["usageMetadata"];
    usage["candidatesTokenCount"] = json!(said.output - said.thought_tokens);
    if said.thought_tokens > 0 {
        usage["thoughtsTokenCount"] = json!(said.thought_tokens);
    }
    usage["totalTokenCount"] = json!(said.input + said.output);
}

fn parts(said: &Saying) -> Vec<Value> {
    let mut parts = Vec::new();
    if !said.thought.is_empty() {
        parts.push(json!({"text": said.thought, "thought": true}));
    }
    parts.extend(calls(said));
    if said.calls.is_empty() {
        parts.push(json!({ "text": said.text }));
    }
    parts
}

fn calls(said: &Saying) -> Vec<Value> {
    let mut calls = Vec::new();
    for (name, args) in &said.calls {
        let mut part = json!({"functionCall": {"name": name, "args": args}});
        // The first call of several carries the proof.
        if !said.thought.is_empty() && calls.is_empty() {
            part["thoughtSignature"] = json!(SIGNATURE);
        }
        calls.push(part);
    }
    calls
}

fn finish(said: &Saying) -> &'static str {
    match said.stop {
        Stop::Length => "MAX_TOKENS",
        _ => "STOP",
    }
}

fn whole(model: &str, said: &Saying, body: &Value) -> Value {
    let mut answer = frame(model, said, &fresh_id("resp-"));
    count_output(&mut answer, said);
    let candidates = body["generationConfig"]["candidateCount"]
        .as_u64()
        .unwrap_or(1)
        .max(1);
    let each = (0..candidates).map(|index| {
        json!({"content": {"parts": parts(said), "role": "model"}, "finishReason": finish(said), "index": index})
    });
    answer["candidates"] = each.collect();
    answer
}

fn stream(model: &str, said: &Saying, body: &Value) -> Vec<Value> {
    let id = fresh_id("resp-");
    let words = pieces(&said.text)
        .into_iter()
        .map(|word| json!({ "text": word }));
    let thoughts = pieces(&said.thought).into_iter();
    let thoughts = thoughts.map(|word| json!({"text": word, "thought": true}));
    let calls = calls(said);
    // Calls come whole, all in one chunk.
    let calls = if calls.is_empty() {
        Vec::new()
    } else {
        vec![calls]
    };
    let groups = thoughts.chain(words).map(|part| vec![part]).chain(calls);
    let mut chunks: Vec<Value> = groups
        .map(|parts| {
            let mut chunk = frame(model, said, &id);
            chunk["candidates"] =
                json!([{"content": {"parts": parts, "role": "model"}, "index": 0}]);
            chunk
        })
        .collect();
    if chunks.is_empty() {
        chunks.push(whole(model, said, body));
    }
    if let Some(last) = chunks.last_mut() {
        last["candidates"][0]["finishReason"] = json!(finish(said));
        count_output(last, said);
    }
    chunks
}

/// A prompt that is not answered at all: 200, and no candidates.
pub fn blocked(due: &Due) -> Due {
    let body = json!({
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
        "modelVersion": "gemini-2.5-pro",
        "responseId": fresh_id("resp-"),
    });
    match due.body {
        Body::Whole(_) => json_of(&body),
        Body::Events { .. } => Due::events(Flavour::Gemini, 0, vec![unnamed(&body)]),
    }
}
