//! A call in the words of Cohere's chat.
//!
//! What is changed on the way: where one tool is demanded, only that one is offered; thoughts are left out.

use super::super::super::call::{
    Call, Format, Media, Message, Part, Reasoning, Role, Source, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::Written;
use super::super::fields::settle_extras;
use super::super::schema::label;
use serde_json::{Map, Number, Value, json};

pub fn write_call(call: &Call) -> Result<Written, CallFault> {
    let mut writing = Writing {
        call,
        body: Map::new(),
        dropped: settle_extras(call)?,
    };
    let messages = writing.messages()?;
    writing.put("model", json!(call.model));
    writing.put("messages", Value::Array(messages));
    writing.tools();
    writing.sampling();
    writing.rest();
    Ok(Written {
        body: Value::Object(writing.body).to_string().into_bytes(),
        dropped: writing.dropped,
    })
}

struct Writing<'a> {
    call: &'a Call,
    body: Map<String, Value>,
    dropped: Vec<String>,
}

impl Writing<'_> {
    fn put(&mut self, name: &str, value: Value) {
        self.body.insert(name.to_owned(), value);
    }

    fn drop_field(&mut self, name: &str) {
        if !self.dropped.iter().any(|dropped| dropped == name) {
            self.dropped.push(name.to_owned());
        }
    }

    fn messages(&mut self) -> Result<Vec<Value>, CallFault> {
        let call = self.call;
        let mut messages = Vec::new();
        for part in &call.system {
            match part {
                Part::Text(text) | Part::Refusal(text) => {
                    messages.push(json!({"role": "system", "content": text}));
                }
                _ => return Err(CallFault::invalid("system", "may be text only")),
            }
        }
        for (at, message) in call.messages.iter().enumerate() {
            let at = format!("messages[{at}]");
            match message.role {
                Role::User => self.user(message, &at, &mut messages)?,
                Role::Assistant => messages.extend(self.assistant(message, &at)?),
            }
        }
        if messages.is_empty() {
            return Err(CallFault::invalid("messages", "nothing is said in them"));
        }
        Ok(messages)
    }

    /// Results of tools are messages of their own, and come first: they answer the message before.
    fn user(
        &mut self,
        message: &Message,
        at: &str,
        messages: &mut Vec<Value>,
    ) -> Result<(), CallFault> {
        let mut content = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(text) | Part::Refusal(text) => content.push(text_block(text)),
                Part::Image(media) => content.push(image(media, at)?),
                Part::ToolResult(result) => messages.push(self.result(result, at)?),
                _ => return Err(unsaid(at)),
            }
        }
        if !content.is_empty() {
            messages.push(json!({"role": "user", "content": one_or_many(content)}));
        }
        Ok(())
    }

    fn assistant(&mut self, message: &Message, at: &str) -> Result<Option<Value>, CallFault> {
        let mut content = Vec::new();
        let mut calls = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(text) | Part::Refusal(text) => content.push(text_block(text)),
                Part::ToolCall(call) => calls.push(write_tool_call(call)),
                Part::Thought(_) => self.drop_field("thoughts"),
                _ => return Err(unsaid(at)),
            }
        }
        let mut out = json!({"role": "assistant"});
        if !content.is_empty() {
            out["content"] = one_or_many(content);
        }
        if !calls.is_empty() {
            out["tool_calls"] = Value::Array(calls);
        }
        let says_something = out.as_object().is_some_and(|out| out.len() > 1);
        Ok(says_something.then_some(out))
    }

    fn result(&mut self, result: &ToolResult, at: &str) -> Result<Value, CallFault> {
        if result.is_error {
            self.drop_field("is_error");
        }
        let mut texts = Vec::new();
        for part in &result.parts {
            match part {
                Part::Text(text) | Part::Refusal(text) => texts.push(text.as_str()),
                _ => return Err(unsaid(at)),
            }
        }
        Ok(json!({"role": "tool", "tool_call_id": result.id, "content": texts.join("\n")}))
    }

    fn tools(&mut self) {
        let call = self.call;
        if call.parallel_tools == Some(false) {
            self.drop_field("parallel_tool_calls");
        }
        let offered = |tool: &&Tool| match &call.tool_choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let tools: Vec<&Tool> = call.tools.iter().filter(offered).collect();
        if tools.is_empty() {
            return;
        }
        if tools.iter().all(|tool| tool.strict == Some(true)) {
            self.put("strict_tools", json!(true));
        }
        let written: Vec<Value> = tools.into_iter().map(write_tool).collect();
        self.put("tools", Value::Array(written));
        match call.tool_choice {
            ToolChoice::Auto => {}
            ToolChoice::None => self.put("tool_choice", json!("NONE")),
            ToolChoice::Required | ToolChoice::Named(_) => {
                self.put("tool_choice", json!("REQUIRED"));
            }
        }
    }

    fn sampling(&mut self) {
        let call = self.call;
        let rows = [
            ("max_tokens", call.max_tokens.map(Value::from)),
            ("temperature", call.temperature.clone().map(Value::from)),
            ("p", call.top_p.clone().map(Value::from)),
            ("k", call.top_k.map(Value::from)),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                self.put(name, value);
            }
        }
        // Here penalties are from 0 to 1, and others' from -2 to 2.
        for (name, penalty) in [
            ("frequency_penalty", &call.frequency_penalty),
            ("presence_penalty", &call.presence_penalty),
        ] {
            match penalty.as_ref().and_then(Number::as_f64) {
                Some(value) if (0.0..=1.0).contains(&value) => self.put(name, json!(penalty)),
                Some(_) => self.drop_field(name),
                None => {}
            }
        }
        match call.seed {
            Some(seed) if seed >= 0 => self.put("seed", json!(seed)),
            Some(_) => self.drop_field("seed"),
            None => {}
        }
        if !call.stop.is_empty() {
            self.put("stop_sequences", json!(call.stop));
        }
    }

    fn rest(&mut self) {
        let call = self.call;
        if let Some(reasoning) = &call.reasoning {
            self.put("thinking", thinking(reasoning));
        }
        match &call.format {
            Format::Text => {}
            Format::Json => self.put("response_format", json!({"type": "json_object"})),
            Format::Schema {
                name,
                description,
                schema,
                ..
            } => {
                let mut schema = schema.clone();
                label(&mut schema, name.as_deref(), description.as_deref());
                let format = json!({"type": "json_object", "json_schema": schema});
                self.put("response_format", format);
            }
        }
        if call.end_user.is_some() {
            self.drop_field("user");
        }
        self.put("stream", json!(call.stream));
    }
}

fn thinking(reasoning: &Reasoning) -> Value {
    match reasoning.as_budget() {
        Some(0) => json!({"type": "disabled"}),
        Some(budget) => json!({"type": "enabled", "token_budget": budget}),
        None => json!({"type": "enabled"}),
    }
}

fn write_tool(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    let nothing = || json!({"type": "object", "properties": {}});
    function["parameters"] = tool.parameters.clone().unwrap_or_else(nothing);
    json!({"type": "function", "function": function})
}

fn write_tool_call(call: &ToolCall) -> Value {
    let arguments = match call.arguments.trim() {
        "" => "{}",
        arguments => arguments,
    };
    json!({"id": call.id, "type": "function",
        "function": {"name": call.name, "arguments": arguments}})
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn image(media: &Media, at: &str) -> Result<Value, CallFault> {
    let url = match &media.source {
        Source::Url(url) => url.clone(),
        Source::Base64(data) => {
            let media_type = media.media_type.as_deref().unwrap_or("image/png");
            format!("data:{media_type};base64,{data}")
        }
        Source::FileId(_) => {
            let what = "a file kept by one provider means nothing to another";
            return Err(CallFault::invalid(at, what));
        }
    };
    let mut image = json!({ "url": url });
    if let Some(detail) = &media.detail {
        image["detail"] = json!(detail);
    }
    Ok(json!({"type": "image_url", "image_url": image}))
}

/// One block of text is a string.
fn one_or_many(mut blocks: Vec<Value>) -> Value {
    match blocks.as_mut_slice() {
        [block] if block["type"] == "text" => block["text"].take(),
        _ => Value::Array(blocks),
    }
}

fn unsaid(at: &str) -> CallFault {
    CallFault::invalid(
        at,
        "only text, pictures and tools can be sent to this provider here",
    )
}
