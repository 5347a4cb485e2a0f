//! A call in the words of `Converse`: what is said to Anthropic, as most models there are theirs and others take the
//! same order of messages, in other names.
//!
//! What is changed on the way, beside what messages change: thinking is asked for of Claude only; pictures and
//! documents must come with the call, as AWS fetches none.

use super::super::super::call::{Call, Format, Part, ToolChoice};
use super::super::super::fault::{CallFault, Malformed};
use super::super::messages::Messages;
use super::super::{Dialect, Written};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub fn write_call(call: &Call) -> Result<Written, CallFault> {
    let is_claude = call.model.contains("claude");
    let mut said = call.clone();
    let mut dropped = Vec::new();
    if !is_claude
        && let Some(reasoning) = said.reasoning.take()
        && !reasoning.is_off()
    {
        dropped.push("reasoning".to_owned());
    }
    forbid_tools(&mut said)?;
    let written = Messages.write_call(&said)?;
    dropped.extend(written.dropped);
    let messages: Value = serde_json::from_slice(&written.body)
        .map_err(|fault| Malformed(fault.to_string()))
        .map_err(|fault| CallFault::invalid("messages", fault.0))?;
    let mut writing = Writing {
        call,
        is_claude,
        dropped,
        documents: 0,
    };
    let body = writing.body(&messages)?;
    Ok(Written {
        body: body.to_string().into_bytes(),
        dropped: writing.dropped,
    })
}

/// There is no word for "call none": the tools are left out, which can only be done where none was called before.
fn forbid_tools(call: &mut Call) -> Result<(), CallFault> {
    if call.tool_choice != ToolChoice::None || call.tools.is_empty() {
        return Ok(());
    }
    let spoken_of = call.messages.iter().flat_map(|message| &message.parts);
    if spoken_of
        .into_iter()
        .any(|part| matches!(part, Part::ToolCall(_) | Part::ToolResult(_)))
    {
        let what = "`none` cannot be said to this provider after tools were called";
        return Err(CallFault::invalid("tool_choice", what));
    }
    call.tools.clear();
    Ok(())
}

struct Writing<'a> {
    call: &'a Call,
    is_claude: bool,
    dropped: Vec<String>,
    /// How many documents there are so far: their names must differ.
    documents: u32,
}

impl Writing<'_> {
    fn body(&mut self, said: &Value) -> Result<Value, CallFault> {
        let mut body = json!({});
        let mut messages = Vec::new();
        for (at, message) in list(&said["messages"]).iter().enumerate() {
            let content = self.blocks(&message["content"], &format!("messages[{at}]"))?;
            messages.push(json!({"role": message["role"], "content": content}));
        }
        body["messages"] = Value::Array(messages);
        if said.get("system").is_some() {
            body["system"] = Value::Array(self.blocks(&said["system"], "system")?);
        }
        body["inferenceConfig"] = inference(said);
        if let Some(tools) = said["tools"].as_array() {
            body["toolConfig"] = self.tools(tools, &said["tool_choice"]);
        }
        if let Some(format) = said["output_config"].get("format") {
            body["outputConfig"] = json!({"textFormat": self.format(&format["schema"])});
        }
        let more = self.more(said);
        if !more.is_empty() {
            body["additionalModelRequestFields"] = Value::Object(more);
        }
        if said.get("metadata").is_some() {
            self.dropped.push("user".to_owned());
        }
        Ok(body)
    }

    /// What only Claude understands.
    fn more(&mut self, said: &Value) -> Map<String, Value> {
        let mut more = Map::new();
        if let Some(top_k) = said.get("top_k") {
            if self.is_claude {
                more.insert("top_k".to_owned(), top_k.clone());
            } else {
                self.dropped.push("top_k".to_owned());
            }
        }
        if let Some(thinking) = said.get("thinking") {
            more.insert("thinking".to_owned(), thinking.clone());
        }
        if let Some(effort) = said["output_config"].get("effort") {
            more.insert("output_config".to_owned(), json!({ "effort": effort }));
        }
        more
    }

    fn tools(&mut self, tools: &[Value], choice: &Value) -> Value {
        if self.call.parallel_tools == Some(false) {
            self.dropped.push("parallel_tool_calls".to_owned());
        }
        let tools: Vec<Value> = tools
            .iter()
            .map(|tool| {
                let mut spec = json!({
                    "name": tool["name"],
                    "inputSchema": {"json": tool["input_schema"]},
                });
                for name in ["description", "strict"] {
                    if let Some(value) = tool.get(name) {
                        spec[name] = value.clone();
                    }
                }
                json!({ "toolSpec": spec })
            })
            .collect();
        let mut config = json!({ "tools": tools });
        match choice["type"].as_str() {
            Some("any") => config["toolChoice"] = json!({"any": {}}),
            Some("tool") => config["toolChoice"] = json!({"tool": {"name": choice["name"]}}),
            _ => {}
        }
        config
    }

    fn format(&self, schema: &Value) -> Value {
        let name = match &self.call.format {
            Format::Schema {
                name: Some(name), ..
            } => name,
            _ => "answer",
        };
        let structure = json!({"jsonSchema": {"schema": schema.to_string(), "name": name}});
        json!({"type": "json_schema", "structure": structure})
    }

    /// A text, or a list of blocks.
    fn blocks(&mut self, content: &Value, at: &str) -> Result<Vec<Value>, CallFault> {
        if let Some(text) = content.as_str() {
            return Ok(vec![json!({ "text": text })]);
        }
        list(content)
            .iter()
            .map(|block| self.block(block, at))
            .collect()
    }

    fn block(&mut self, block: &Value, at: &str) -> Result<Value, CallFault> {
        Ok(match block["type"].as_str().unwrap_or_default() {
            "image" => {
                let source = inline(block, "data", at)?;
                let kind = block["source"]["media_type"].as_str().unwrap_or_default();
                let format = kind.strip_prefix("image/").unwrap_or(kind);
                json!({"image": {"format": format, "source": {"bytes": source}}})
            }
            "document" => self.document(block, at)?,
            "tool_use" => json!({"toolUse":
                {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}),
            "tool_result" => {
                let failed = block["is_error"] == json!(true);
                json!({"toolResult": {
                    "toolUseId": block["tool_use_id"],
                    "content": self.blocks(&block["content"], at)?,
                    "status": if failed { "error" } else { "success" },
                }})
            }
            "thinking" => json!({"reasoningContent": {"reasoningText":
                {"text": block["thinking"], "signature": block["signature"]}}}),
            "redacted_thinking" => {
                json!({"reasoningContent": {"redactedContent": block["data"]}})
            }
            _ => json!({"text": block["text"]}),
        })
    }

    /// Names have letters, digits, single spaces, `-`, `(`, `)`, `[` and `]` only.
    fn document(&mut self, block: &Value, at: &str) -> Result<Value, CallFault> {
        self.documents += 1;
        let data = inline(block, "data", at)?;
        let (format, data) = if block["source"]["type"] == "text" {
            ("txt", STANDARD.encode(data))
        } else {
            ("pdf", data.to_owned())
        };
        let title = block["title"].as_str().unwrap_or("document");
        let name: String = title
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(150)
            .collect();
        let name = format!("{name}-{}", self.documents);
        Ok(json!({"document": {"format": format, "name": name, "source": {"bytes": data}}}))
    }
}

fn inference(said: &Value) -> Value {
    let mut config = Map::new();
    for (name, ours) in [
        ("maxTokens", "max_tokens"),
        ("temperature", "temperature"),
        ("topP", "top_p"),
        ("stopSequences", "stop_sequences"),
    ] {
        if let Some(value) = said.get(ours) {
            config.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(config)
}

fn inline<'a>(block: &'a Value, name: &str, at: &str) -> Result<&'a str, CallFault> {
    block["source"][name].as_str().ok_or_else(|| {
        CallFault::invalid(
            at,
            "this provider fetches no pictures and documents: send their bytes",
        )
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
