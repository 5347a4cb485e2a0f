//! Bedrock's dialect: `Converse` and `ConverseStream`, behind a key of its own or a signature of AWS, which is worked
//! out here once more.

use super::fault::{Due, Flavour};
use super::openai::halves;
use super::prompt::{Choice, Prompt, Saying, Stop, Tool, count, pieces};
use super::refusal::Refusal;
use super::{Answered, Asked, Behaviour, fresh_id, list, text};
use crate::harness::{hash, hex};
use aws_lc_rs::hmac;
use bytes::Bytes;
use onemind_gateway::stage::ai::eventstream;
use serde_json::{Value, json};

/// Who may sign, in the words of AWS's own examples.
pub const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
pub const SECRET_ACCESS_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjE//scripted==";
pub const REGION: &str = "eu-central-1";

const MODELS: [&str; 4] = ["anthropic.", "eu.anthropic.", "amazon.nova-", "meta."];

pub fn answer(asked: &Asked, behaviour: &Behaviour) -> Answered {
    (Flavour::Converse, respond(asked, behaviour))
}

fn respond(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    authorize(asked, behaviour)?;
    let rest = asked.path.strip_prefix("/model/");
    let Some((id, verb)) = rest.and_then(|rest| rest.split_once('/')) else {
        return Err(Refusal::new(
            404,
            "UnknownOperationException",
            "no such operation",
        ));
    };
    let id = id.replace("%3A", ":").replace("%2F", "/");
    if id.contains('%') || !behaviour.knows_model(&id, &MODELS) {
        return Err(validation("The provided model identifier is invalid."));
    }
    if asked.content_type() != "application/json" {
        return Err(validation("The content type is not supported."));
    }
    let said = read(&asked.body)?.answer(behaviour);
    match verb {
        "converse" => Ok(Due::json(Flavour::Converse, &whole(&said))),
        "converse-stream" => Ok(Due::events(Flavour::Converse, 1, stream(&said))),
        _ => Err(Refusal::new(
            404,
            "UnknownOperationException",
            "no such operation",
        )),
    }
}

fn validation(message: &str) -> Refusal {
    Refusal::new(400, "ValidationException", message)
}

fn authorize(asked: &Asked, behaviour: &Behaviour) -> Result<(), Refusal> {
    let shown = asked.header("authorization").unwrap_or_default();
    if let Some(key) = shown.strip_prefix("Bearer ") {
        if behaviour.knows_key(key) {
            return Ok(());
        }
        let message = "The security token included in the request is invalid.";
        return Err(Refusal::new(403, "UnrecognizedClientException", message));
    }
    if shown.is_empty() {
        let message = "Missing Authentication Token";
        return Err(Refusal::new(
            403,
            "MissingAuthenticationTokenException",
            message,
        ));
    }
    verify(asked, shown).map_err(|what| {
        let message = format!(
            "The request signature we calculated does not match the signature you provided: {what}"
        );
        Refusal::new(403, "InvalidSignatureException", message)
    })
}

/// The signature, worked out anew from what has arrived.
fn verify(asked: &Asked, shown: &str) -> Result<(), String> {
    let fields = shown
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or("another way to sign")?;
    let field = |name: &str| {
        let mut fields = fields.split(", ");
        let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        value.ok_or_else(|| format!("no {name}"))
    };
    let (credential, names) = (field("Credential")?, field("SignedHeaders")?);
    let (id, scope) = credential.split_once('/').ok_or("no scope")?;
    let date = asked.header("x-amz-date").ok_or("no date")?;
    let day = date.get(..8).ok_or("no day")?;
    if id != ACCESS_KEY_ID || scope != format!("{day}/{REGION}/bedrock/aws4_request") {
        return Err(format!("the credential is {credential}"));
    }
    for name in ["host", "x-amz-date", "x-amz-security-token", "content-type"] {
        let is_signed = names.split(';').any(|signed| signed == name);
        if asked.header(name).is_some() && !is_signed {
            return Err(format!("{name} is not signed"));
        }
    }
    if asked
        .header("x-amz-security-token")
        .is_some_and(|token| token != SESSION_TOKEN)
    {
        return Err("another token".to_owned());
    }
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        asked.method,
        asked.path.replace('%', "%25"),
        asked.query
    );
    for name in names.split(';') {
        let value = asked.header(name).ok_or_else(|| format!("no {name}"))?;
        canonical = canonical + name + ":" + value + "\n";
    }
    canonical = canonical + "\n" + names + "\n" + &hash(&asked.raw);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hash(canonical.as_bytes())
    );
    let key = scope.split('/').fold(
        format!("AWS4{SECRET_ACCESS_KEY}").into_bytes(),
        |key, part| mac(&key, part),
    );
    if field("Signature")? != hex(&mac(&key, &to_sign)) {
        return Err(canonical);
    }
    Ok(())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn read(body: &Value) -> Result<Prompt, Refusal> {
    const FIELDS: [&str; 6] = [
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "outputConfig",
        "additionalModelRequestFields",
    ];
    if let Some(name) = super::unknown_field(body, &FIELDS) {
        return Err(validation(&format!("{name} is not known")));
    }
    let mut prompt = Prompt::default();
    for block in list(&body["system"]) {
        prompt.tokens += count(text(&block["text"]));
    }
    for message in list(&body["messages"]) {
        hear(&mut prompt, message);
    }
    if list(&body["messages"]).is_empty() {
        return Err(validation("A conversation must start with a user message."));
    }
    let config = &body["toolConfig"];
    for tool in list(&config["tools"]) {
        let spec = &tool["toolSpec"];
        prompt.tools.push(Tool {
            name: text(&spec["name"]).to_owned(),
            schema: spec["inputSchema"]["json"].clone(),
        });
    }
    if config["toolChoice"]["any"].is_object() {
        prompt.choice = Choice::Required;
    } else if let Some(name) = config["toolChoice"]["tool"]["name"].as_str() {
        prompt.choice = Choice::Named(name.to_owned());
    }
    let inference = &body["inferenceConfig"];
    prompt.max = inference["maxTokens"].as_u64();
    let stops = list(&inference["stopSequences"]).iter();
    prompt.stops = stops.map(|stop| text(stop).to_owned()).collect();
    Ok(prompt)
}

fn hear(prompt: &mut Prompt, message: &Value) {
    let blocks = list(&message["content"]);
    let texts: Vec<&str> = blocks
        .iter()
        .filter_map(|block| block["text"].as_str())
        .collect();
    let said = texts.join(" ");
    if message["role"] == "assistant" {
        prompt.tokens += count(&said);
    } else if !said.is_empty() {
        prompt.hear(&said);
    }
    for block in blocks
        .iter()
        .filter(|block| block["toolResult"].is_object())
    {
        let content = list(&block["toolResult"]["content"]).iter();
        let texts: Vec<&str> = content.map(|one| text(&one["text"])).collect();
        prompt.hear_result(&texts.join(" "));
    }
}

fn whole(said: &Saying) -> Value {
    let mut content: Vec<Value> = Vec::new();
    for (name, input) in &said.calls {
        let id = fresh_id("tooluse_");
        content.push(json!({"toolUse": {"toolUseId": id, "name": name, "input": input}}));
    }
    if said.calls.is_empty() {
        content.push(json!({"text": said.text}));
    }
    json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reason(said),
        "usage": usage(said),
        "metrics": {"latencyMs": 3},
    })
}

fn reason(said: &Saying) -> &'static str {
    match &said.stop {
        Stop::End => "end_turn",
        Stop::Length => "max_tokens",
        Stop::Sequence(_) => "stop_sequence",
        Stop::Tools => "tool_use",
    }
}

fn usage(said: &Saying) -> Value {
    json!({
        "inputTokens": said.input - said.cached, "outputTokens": said.output,
        "totalTokens": said.input + said.output, "cacheReadInputTokens": said.cached,
    })
}

fn stream(said: &Saying) -> Vec<Bytes> {
    let mut events = vec![frame(
        "event",
        "messageStart",
        &json!({"role": "assistant"}),
    )];
    let mut say = |name: &str, data: Value| events.push(frame("event", name, &data));
    for (index, (name, input)) in said.calls.iter().enumerate() {
        let start = json!({"toolUse": {"toolUseId": fresh_id("tooluse_"), "name": name}});
        say(
            "contentBlockStart",
            json!({"contentBlockIndex": index, "start": start}),
        );
        for part in halves(&input.to_string()) {
            let delta = json!({"toolUse": {"input": part}});
            say(
                "contentBlockDelta",
                json!({"contentBlockIndex": index, "delta": delta}),
            );
        }
        say("contentBlockStop", json!({"contentBlockIndex": index}));
    }
    if said.calls.is_empty() {
        for piece in pieces(&said.text) {
            say(
                "contentBlockDelta",
                json!({"contentBlockIndex": 0, "delta": {"text": piece}}),
            );
        }
        say("contentBlockStop", json!({"contentBlockIndex": 0}));
    }
    say("messageStop", json!({"stopReason": reason(said)}));
    say(
        "metadata",
        json!({"usage": usage(said), "metrics": {"latencyMs": 3}}),
    );
    events
}

/// A message of an AWS event stream.
pub fn frame(kind: &str, name: &str, data: &Value) -> Bytes {
    let mut out = Vec::new();
    eventstream::encode(kind, name, data.to_string().as_bytes(), &mut out);
    out.into()
}

/// As errors are named within a stream.
pub fn exception(refusal: &Refusal) -> Bytes {
    let (first, rest) = refusal.kind.split_at(1);
    let name = format!("{}{rest}", first.to_lowercase());
    frame("exception", &name, &refusal.body(Flavour::Converse))
}
