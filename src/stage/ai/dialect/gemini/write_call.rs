//! A call in the words of Gemini's API; model and stream are in its path.
//!
//! What is changed on the way: thoughts are left out, as only Gemini's own calls of tools need their proofs back;
//! messages of one role in a row become one; a result that is a JSON object is given as it is, any other under
//! `output` or `error`; schemas are given as JSON Schema, and what Gemini does not understand of them in words.

use super::super::super::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::Written;
use super::super::fields::settle_extras;
use super::super::schema::{label, narrow};
use super::media::write_media;
use super::models::{Generation, generation_of};
use super::schema::SUBSET;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// In place of the proof of a call that another model made
/// (<https://ai.google.dev/gemini-api/docs/thought-signatures>).
pub const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// The smallest budget of a 2.5 Pro, which cannot be told not to think.
const PRO_BUDGET_MIN: u64 = 128;

pub fn write_call(call: &Call) -> Result<Written, CallFault> {
    let mut writing = Writing {
        call,
        generation: generation_of(&call.model),
        dropped: settle_extras(call)?,
        names: HashMap::new(),
    };
    let mut body = Map::new();
    let system = writing.system()?;
    let mut contents = writing.contents()?;
    if contents.is_empty() {
        if system.is_empty() {
            return Err(CallFault::invalid("messages", "nothing is said in them"));
        }
        contents.push(json!({"role": "user", "parts": system}));
    } else if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    body.insert("contents".to_owned(), Value::Array(contents));
    writing.tools(&mut body);
    let config = writing.config();
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    writing.rest();
    Ok(Written {
        body: Value::Object(body).to_string().into_bytes(),
        dropped: writing.dropped,
    })
}

struct Writing<'a> {
    call: &'a Call,
    generation: Generation,
    dropped: Vec<String>,
    /// Names of tools by the ids of their calls.
    names: HashMap<&'a str, &'a str>,
}

impl<'a> Writing<'a> {
    fn drop_field(&mut self, name: &str) {
        if !self.dropped.iter().any(|dropped| dropped == name) {
            self.dropped.push(name.to_owned());
        }
    }

    fn system(&mut self) -> Result<Vec<Value>, CallFault> {
        let mut parts = Vec::new();
        for part in &self.call.system {
            match part {
                Part::Text(text) | Part::Refusal(text) if text.is_empty() => {}
                Part::Text(text) | Part::Refusal(text) => parts.push(json!({"text": text})),
                _ => return Err(CallFault::invalid("system", "may be text only")),
            }
        }
        Ok(parts)
    }

    fn contents(&mut self) -> Result<Vec<Value>, CallFault> {
        let call = self.call;
        let mut contents: Vec<(Role, Vec<Value>)> = Vec::new();
        for (at, message) in call.messages.iter().enumerate() {
            let parts = self.parts(message, &format!("messages[{at}]"))?;
            match contents.last_mut() {
                _ if parts.is_empty() => {}
                Some((role, before)) if *role == message.role => before.extend(parts),
                _ => contents.push((message.role, parts)),
            }
        }
        Ok(contents
            .into_iter()
            .map(|(role, parts)| {
                let role = match role {
                    Role::User => "user",
                    Role::Assistant => "model",
                };
                json!({"role": role, "parts": parts})
            })
            .collect())
    }

    fn parts(&mut self, message: &'a Message, at: &str) -> Result<Vec<Value>, CallFault> {
        let mut parts = Vec::new();
        let mut called = false;
        for part in &message.parts {
            match (part, message.role) {
                (Part::Text(text) | Part::Refusal(text), _) if text.is_empty() => {}
                (Part::Text(text) | Part::Refusal(text), _) => parts.push(json!({"text": text})),
                (Part::Image(media), _) => parts.push(self.media(media, "image/jpeg", at)?),
                (Part::Audio(media), _) => parts.push(self.media(media, "audio/wav", at)?),
                (Part::File(media), _) => parts.push(self.media(media, "application/pdf", at)?),
                (Part::Thought(_), _) => self.drop_field("thoughts"),
                (Part::ToolCall(call), Role::Assistant) => {
                    self.names.insert(&call.id, &call.name);
                    // Of calls side by side only the first has a proof.
                    let needs_proof = !std::mem::replace(&mut called, true);
                    parts.push(self.tool_call(call, needs_proof, at)?);
                }
                (Part::ToolResult(result), Role::User) => parts.push(self.result(result, at)?),
                (Part::ToolCall(_), Role::User) => {
                    return Err(CallFault::invalid(at, "only the model calls tools"));
                }
                (Part::ToolResult(_), Role::Assistant) => {
                    return Err(CallFault::invalid(
                        at,
                        "the model gives no results of tools",
                    ));
                }
            }
        }
        Ok(parts)
    }

    fn media(&mut self, media: &Media, otherwise: &str, at: &str) -> Result<Value, CallFault> {
        for (name, field) in [("detail", &media.detail), ("filename", &media.name)] {
            if field.is_some() {
                self.drop_field(name);
            }
        }
        write_media(media, otherwise).ok_or_else(|| {
            CallFault::invalid(at, "a file kept by one provider means nothing to another")
        })
    }

    fn tool_call(&self, call: &ToolCall, needs_proof: bool, at: &str) -> Result<Value, CallFault> {
        let args = match call.arguments.trim() {
            "" => json!({}),
            arguments => serde_json::from_str(arguments).unwrap_or_default(),
        };
        if !args.is_object() {
            let what = format!(
                "the arguments of the call of `{}` are not a JSON object",
                call.name
            );
            return Err(CallFault::invalid(at, what));
        }
        let mut part = json!({"functionCall": {"id": call.id, "name": call.name, "args": args}});
        let made_up = (needs_proof && self.generation.has_levels).then_some(NO_SIGNATURE);
        if let Some(signature) = call.signature.as_deref().or(made_up) {
            part["thoughtSignature"] = json!(signature);
        }
        Ok(part)
    }

    fn result(&mut self, result: &ToolResult, at: &str) -> Result<Value, CallFault> {
        let name = match &result.name {
            Some(name) => name.as_str(),
            None => self.names.get(result.id.as_str()).copied().ok_or_else(|| {
                CallFault::invalid(at, format!("`{}` answers no call of a tool", result.id))
            })?,
        };
        let mut texts = Vec::new();
        let mut media = Vec::new();
        for part in &result.parts {
            match part {
                Part::Text(text) | Part::Refusal(text) => texts.push(text.as_str()),
                Part::Image(picture) => media.push(self.media(picture, "image/jpeg", at)?),
                Part::File(file) => media.push(self.media(file, "application/pdf", at)?),
                _ => {
                    return Err(CallFault::invalid(
                        at,
                        "results of tools are text, pictures or documents",
                    ));
                }
            }
        }
        let mut response = json!({
            "id": result.id, "name": name, "response": output(&texts.join("\n"), result.is_error),
        });
        if !media.is_empty() {
            response["parts"] = Value::Array(media);
        }
        Ok(json!({ "functionResponse": response }))
    }

    fn tools(&mut self, body: &mut Map<String, Value>) {
        let call = self.call;
        if call.parallel_tools == Some(false) {
            self.drop_field("parallel_tool_calls");
        }
        if call.tools.is_empty() {
            return;
        }
        if call.tools.iter().any(|tool| tool.strict == Some(true)) {
            self.drop_field("strict");
        }
        let declarations: Vec<Value> = call.tools.iter().map(write_tool).collect();
        body.insert(
            "tools".to_owned(),
            json!([{"functionDeclarations": declarations}]),
        );
        let config = match &call.tool_choice {
            ToolChoice::Auto => return,
            ToolChoice::None => json!({"mode": "NONE"}),
            ToolChoice::Required => json!({"mode": "ANY"}),
            ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        };
        body.insert(
            "toolConfig".to_owned(),
            json!({"functionCallingConfig": config}),
        );
    }

    fn config(&mut self) -> Map<String, Value> {
        let call = self.call;
        let mut config = Map::new();
        let rows = [
            ("maxOutputTokens", call.max_tokens.map(Value::from)),
            ("temperature", call.temperature.clone().map(Value::from)),
            ("topP", call.top_p.clone().map(Value::from)),
            ("topK", call.top_k.map(Value::from)),
            (
                "presencePenalty",
                call.presence_penalty.clone().map(Value::from),
            ),
            (
                "frequencyPenalty",
                call.frequency_penalty.clone().map(Value::from),
            ),
            ("seed", self.seed()),
            (
                "stopSequences",
                (!call.stop.is_empty()).then(|| json!(call.stop)),
            ),
            (
                "thinkingConfig",
                call.reasoning
                    .as_ref()
                    .map(|reasoning| self.thinking(reasoning)),
            ),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                config.insert(name.to_owned(), value);
            }
        }
        write_format(&call.format, &mut config);
        config
    }

    /// A seed has 32 bits here; others take 64.
    fn seed(&mut self) -> Option<Value> {
        let seed = self.call.seed?;
        if i32::try_from(seed).is_err() {
            self.drop_field("seed");
            return None;
        }
        Some(json!(seed))
    }

    /// What always thinks is told to think least, and the caller that it was not told to stop.
    fn thinking(&mut self, reasoning: &Reasoning) -> Value {
        let mut config = json!({});
        let Generation { has_levels, is_pro } = self.generation;
        if reasoning.is_off() && is_pro {
            self.drop_field("reasoning");
        }
        if let Some(effort) = reasoning.as_effort().filter(|_| has_levels) {
            config["thinkingLevel"] = json!(match effort {
                Effort::None | Effort::Minimal if is_pro => "LOW",
                Effort::None | Effort::Minimal => "MINIMAL",
                Effort::Low => "LOW",
                Effort::Medium => "MEDIUM",
                Effort::High | Effort::XHigh => "HIGH",
            });
        } else if let Some(budget) = reasoning.as_budget() {
            let least = if is_pro { PRO_BUDGET_MIN } else { 0 };
            config["thinkingBudget"] = json!(budget.max(least));
        }
        if let Some(show) = reasoning.show {
            config["includeThoughts"] = json!(show);
        }
        config
    }

    fn rest(&mut self) {
        if self.call.end_user.is_some() {
            self.drop_field("user");
        }
    }
}

fn output(text: &str, is_error: bool) -> Value {
    let named = if is_error { "error" } else { "output" };
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) if !is_error => object,
        _ => json!({ named: text }),
    }
}

/// A function without arguments has no schema: an object without properties is refused by older models.
fn write_tool(tool: &Tool) -> Value {
    let mut out = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        out["description"] = json!(description);
    }
    if let Some(schema) = &tool.parameters
        && !is_empty_object(schema)
    {
        out["parametersJsonSchema"] = narrow(schema, &SUBSET);
    }
    out
}

fn is_empty_object(schema: &Value) -> bool {
    schema
        .get("properties")
        .is_none_or(|properties| properties == &json!({}))
        && schema.get("anyOf").is_none()
        && schema.get("$ref").is_none()
}

fn write_format(format: &Format, config: &mut Map<String, Value>) {
    if *format != Format::Text {
        config.insert("responseMimeType".to_owned(), json!("application/json"));
    }
    if let Format::Schema {
        name,
        description,
        schema,
        ..
    } = format
    {
        let mut schema = narrow(schema, &SUBSET);
        label(&mut schema, name.as_deref(), description.as_deref());
        config.insert("responseJsonSchema".to_owned(), schema);
    }
}
