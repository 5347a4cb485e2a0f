//! A call in the words of Anthropic's API.
//!
//! What is changed on the way: without `max_tokens`, 4,096 are asked for; a temperature above 1 becomes 1; beside a
//! temperature, `top_p` is left out; JSON without a schema is asked for in words; thoughts that bear no proof are
//! left out; ids of tool calls have other characters than letters, digits, `_` and `-` replaced.

use super::super::super::call::{Call, Effort, Format, Part, Reasoning, Role, Tool, ToolChoice};
use super::super::super::effort::effort_of;
use super::super::super::fault::CallFault;
use super::super::Written;
use super::super::fields::settle_extras;
use super::super::schema::{Subset, label, narrow};
use super::content::{Place, text_block, write_messages, write_parts};
use super::models::{Generation, generation_of};
use serde_json::{Map, Value, json};

/// Anthropic demands a number; others answer as long as they like. Every model of theirs can give this many.
const MAX_TOKENS: u64 = 4_096;
/// The smallest budget that is taken.
const BUDGET_MIN: u64 = 1_024;
/// Schemas of answers (<https://platform.claude.com/docs/en/build-with-claude/structured-outputs>).
const ANSWERS: Subset = Subset {
    keywords: &[
        "$defs",
        "$ref",
        "allOf",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "properties",
        "required",
        "title",
        "type",
    ],
    formats: Some(&[
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "uri",
        "uuid",
    ]),
    closed: true,
};
const ONLY_JSON: &str = "Answer with one JSON object and with nothing else.";

pub fn write_call(call: &Call) -> Result<Written, CallFault> {
    let mut writing = Writing {
        call,
        generation: generation_of(&call.model),
        body: Map::new(),
        dropped: settle_extras(call)?,
    };
    writing.messages()?;
    writing.tools();
    let thinks = writing.thinking();
    writing.sampling(thinks);
    writing.format();
    writing.rest();
    Ok(Written {
        body: Value::Object(writing.body).to_string().into_bytes(),
        dropped: writing.dropped,
    })
}

struct Writing<'a> {
    call: &'a Call,
    generation: Generation,
    body: Map<String, Value>,
    dropped: Vec<String>,
}

impl Writing<'_> {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.body.insert(name.to_owned(), value.into());
    }

    fn drop_field(&mut self, name: &str) {
        if !self.dropped.iter().any(|dropped| dropped == name) {
            self.dropped.push(name.to_owned());
        }
    }

    /// A call with instructions only has them said by the user: Anthropic wants somebody to speak.
    fn messages(&mut self) -> Result<(), CallFault> {
        let call = self.call;
        let mut system = write_parts(&call.system, Place::System, "system", &mut self.dropped)?;
        let mut messages = write_messages(&call.messages, &mut self.dropped)?;
        if messages.is_empty() {
            if system.is_empty() {
                return Err(CallFault::invalid("messages", "nothing is said in them"));
            }
            let content = one_or_many(std::mem::take(&mut system));
            messages.push(json!({"role": "user", "content": content}));
        }
        if call.format == Format::Json {
            system.push(text_block(ONLY_JSON));
            self.drop_field("response_format");
        }
        self.put("model", call.model.clone());
        if !system.is_empty() {
            self.put("system", one_or_many(system));
        }
        self.put("messages", messages);
        Ok(())
    }

    /// A choice without tools is refused by Anthropic, and means nothing.
    fn tools(&mut self) {
        let call = self.call;
        if call.tools.is_empty() {
            return;
        }
        self.put(
            "tools",
            call.tools.iter().map(write_tool).collect::<Vec<_>>(),
        );
        let mut choice = match &call.tool_choice {
            ToolChoice::None => json!({"type": "none"}),
            ToolChoice::Auto => json!({"type": "auto"}),
            ToolChoice::Required => json!({"type": "any"}),
            ToolChoice::Named(name) => json!({"type": "tool", "name": name}),
        };
        match call.parallel_tools {
            Some(parallel) if call.tool_choice != ToolChoice::None => {
                choice["disable_parallel_tool_use"] = json!(!parallel);
            }
            _ if call.tool_choice == ToolChoice::Auto => return,
            _ => {}
        }
        self.put("tool_choice", choice);
    }

    /// Also writes `max_tokens`, which thoughts are part of. Whether the model is to think.
    fn thinking(&mut self) -> bool {
        let call = self.call;
        let asked = call.max_tokens.unwrap_or(MAX_TOKENS);
        let Some(reasoning) = &call.reasoning else {
            self.put("max_tokens", asked);
            return false;
        };
        if reasoning.is_off() {
            self.put("max_tokens", asked);
            self.put("thinking", json!({"type": "disabled"}));
            return false;
        }
        if !self.may_think() {
            self.put("max_tokens", asked);
            self.drop_field("reasoning");
            return false;
        }
        if self.generation == Generation::Budgeted {
            let budget = reasoning.as_budget().unwrap_or(BUDGET_MIN).max(BUDGET_MIN);
            let room = if asked > budget {
                asked
            } else {
                budget.saturating_add(asked)
            };
            self.put("max_tokens", room);
            self.put(
                "thinking",
                shown(
                    json!({"type": "enabled", "budget_tokens": budget}),
                    reasoning,
                ),
            );
        } else {
            self.put("max_tokens", asked);
            self.adaptive(reasoning);
        }
        true
    }

    fn adaptive(&mut self, reasoning: &Reasoning) {
        self.put("thinking", shown(json!({"type": "adaptive"}), reasoning));
        let effort = reasoning.effort.or_else(|| reasoning.budget.map(effort_of));
        if let Some(effort) = effort {
            let word = match (effort, self.generation) {
                (Effort::None | Effort::Minimal | Effort::Low, _) => "low",
                (Effort::Medium, _) => "medium",
                (Effort::High, _) => "high",
                (Effort::XHigh, Generation::AdaptiveOnly) => "xhigh",
                (Effort::XHigh, _) => "max",
            };
            self.put("output_config", json!({"effort": word}));
        }
    }

    /// Anthropic refuses to think where a tool is forced, and, with a budget, in the middle of a round of tools
    /// whose thoughts are not there.
    fn may_think(&self) -> bool {
        let forced = matches!(
            self.call.tool_choice,
            ToolChoice::Required | ToolChoice::Named(_)
        );
        let forced = forced && !self.call.tools.is_empty();
        !forced && (self.generation != Generation::Budgeted || thoughts_are_there(self.call))
    }

    fn sampling(&mut self, thinks: bool) {
        let call = self.call;
        let fixed = thinks || self.generation == Generation::AdaptiveOnly;
        if let Some(temperature) = &call.temperature {
            let too_hot = temperature.as_f64().is_some_and(|t| t > 1.0);
            if too_hot || fixed {
                self.drop_field("temperature");
            }
            if !fixed {
                let value = if too_hot {
                    json!(1)
                } else {
                    Value::Number(temperature.clone())
                };
                self.put("temperature", value);
            }
        }
        if let Some(top_p) = &call.top_p {
            if fixed || call.temperature.is_some() {
                self.drop_field("top_p");
            } else {
                self.put("top_p", top_p.clone());
            }
        }
        if let Some(top_k) = call.top_k {
            if fixed {
                self.drop_field("top_k");
            } else {
                self.put("top_k", top_k);
            }
        }
        let penalties = [
            ("presence_penalty", &call.presence_penalty),
            ("frequency_penalty", &call.frequency_penalty),
        ];
        for (name, penalty) in penalties {
            // 0 is none at all.
            if penalty
                .as_ref()
                .and_then(serde_json::Number::as_f64)
                .unwrap_or(0.0)
                != 0.0
            {
                self.drop_field(name);
            }
        }
        if call.seed.is_some() {
            self.drop_field("seed");
        }
    }

    fn format(&mut self) {
        let Format::Schema {
            name,
            description,
            schema,
            ..
        } = &self.call.format
        else {
            return;
        };
        let mut schema = narrow(schema, &ANSWERS);
        label(&mut schema, name.as_deref(), description.as_deref());
        let config = self
            .body
            .entry("output_config")
            .or_insert_with(|| json!({}));
        config["format"] = json!({"type": "json_schema", "schema": schema});
    }

    fn rest(&mut self) {
        let call = self.call;
        // A text of white space only is refused, and would end any answer.
        let stops: Vec<&String> = call.stop.iter().filter(|s| !s.trim().is_empty()).collect();
        if stops.len() < call.stop.len() {
            self.drop_field("stop");
        }
        if !stops.is_empty() {
            self.put("stop_sequences", json!(stops));
        }
        if let Some(user) = &call.end_user {
            self.put("metadata", json!({"user_id": user}));
        }
        if call.stream {
            self.put("stream", true);
        }
    }
}

/// One block of plain text is a string.
pub(super) fn one_or_many(mut blocks: Vec<Value>) -> Value {
    if let [block] = blocks.as_mut_slice()
        && block["type"] == "text"
        && block.as_object().is_some_and(|block| block.len() == 2)
    {
        return block["text"].take();
    }
    Value::Array(blocks)
}

fn write_tool(tool: &Tool) -> Value {
    let mut schema = match &tool.parameters {
        Some(Value::Object(schema)) => schema.clone(),
        _ => Map::new(),
    };
    if !schema.contains_key("type") {
        schema.insert("type".to_owned(), json!("object"));
    }
    let mut out = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        out["description"] = json!(description);
    }
    out["input_schema"] = Value::Object(schema);
    if let Some(strict) = tool.strict {
        out["strict"] = json!(strict);
    }
    out
}

fn shown(mut thinking: Value, reasoning: &Reasoning) -> Value {
    if let Some(show) = reasoning.show {
        let word = if show { "summarized" } else { "omitted" };
        thinking["display"] = json!(word);
    }
    thinking
}

/// Whether each call of a tool since the user last spoke has a thought with a proof before it.
fn thoughts_are_there(call: &Call) -> bool {
    let spoken = |part: &Part| !matches!(part, Part::ToolResult(_));
    call.messages
        .iter()
        .rev()
        .take_while(|message| message.role == Role::Assistant || !message.parts.iter().any(spoken))
        .filter(|message| {
            message
                .parts
                .iter()
                .any(|part| matches!(part, Part::ToolCall(_)))
        })
        .all(|message| {
            message.parts.iter().any(|part| {
                matches!(part, Part::Thought(thought)
                    if thought.signature.is_some() || thought.encrypted.is_some())
            })
        })
}
