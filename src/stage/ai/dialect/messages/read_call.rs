//! A call as a caller of Anthropic's API writes it.

use super::super::super::call::{
    Call, Effort, Format, Media, Message, Part, Reasoning, Role, Source, Thought, Tool, ToolCall,
    ToolChoice, ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::fields::{Extras, Fields};
use super::super::schema::strictness;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::HashMap;

/// Fields of a call that do not change what is answered.
const HINTS: &[&str] = &[
    "anthropic_beta",
    "anthropic_version",
    "betas",
    "cache_control",
    "context_management",
    "diagnostics",
    "service_tier",
    "speed",
    "user_profile_id",
];

pub fn read_call(body: &[u8]) -> Result<Call, CallFault> {
    let mut fields = Fields::of_body(body)?;
    let mut reading = Reading::default();
    let mut call = Call {
        model: fields.text("model")?.unwrap_or_default(),
        stream: fields.flag("stream")?.unwrap_or_default(),
        max_tokens: fields.count("max_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        top_k: fields.count("top_k")?,
        stop: fields.texts("stop_sequences")?,
        ..Call::default()
    };
    if let Some(mut metadata) = fields.object("metadata")? {
        call.end_user = metadata.text("user_id")?;
        reading.extras.drop_left(&metadata);
    }
    call.system = reading.texts_of(&mut fields, "system")?;
    if !fields.has("messages") {
        return Err(fields.wrong("messages", "is required"));
    }
    for message in fields.objects("messages")? {
        reading.message(message, &mut call)?;
    }
    for tool in fields.objects("tools")? {
        call.tools.extend(reading.tool(tool)?);
    }
    if let Some(choice) = fields.object("tool_choice")? {
        (call.tool_choice, call.parallel_tools) = reading.tool_choice(choice)?;
    }
    call.reasoning = reading.reasoning(&mut fields)?;
    reading.output(&mut fields, &mut call)?;
    reading.leftover(&fields);
    call.extras = reading.extras.0;
    Ok(call)
}

/// What is remembered while a call is read.
#[derive(Default)]
struct Reading {
    extras: Extras,
    /// Names of tools by the ids of their calls.
    names: HashMap<String, String>,
}

impl Reading {
    fn leftover(&mut self, fields: &Fields) {
        for name in fields.left() {
            if HINTS.contains(&name) {
                self.extras.drop(name);
            } else {
                self.extras.refuse(name);
            }
        }
    }

    /// A text, or a list of blocks of text.
    fn texts_of(&mut self, fields: &mut Fields, name: &str) -> Result<Vec<Part>, CallFault> {
        let parts = self.content(fields, name)?;
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Ok(parts);
        }
        Err(fields.wrong(name, "may have blocks of type `text` only"))
    }

    /// A text, or a list of blocks.
    fn content(&mut self, fields: &mut Fields, name: &str) -> Result<Vec<Part>, CallFault> {
        let value = match fields.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => return Ok(vec![Part::Text(text)]),
            Some(Value::Array(blocks)) => blocks,
            Some(_) => return Err(fields.wrong(name, "must be a string or a list of blocks")),
        };
        let mut parts = Vec::with_capacity(value.len());
        for (at, block) in value.into_iter().enumerate() {
            let block = Fields::of(format!("{}[{at}]", fields.at(name)), block)?;
            self.block(block, &mut parts)?;
        }
        Ok(parts)
    }

    /// Instructions in the middle of a conversation are put with those above it: no other dialect has a place there.
    fn message(&mut self, mut fields: Fields, call: &mut Call) -> Result<(), CallFault> {
        let role = match fields.needed_text("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => {
                let parts = self.texts_of(&mut fields, "content")?;
                call.system.extend(parts);
                return Ok(());
            }
            _ => return Err(fields.wrong("role", "must be `user` or `assistant`")),
        };
        if !fields.has("content") {
            return Err(fields.wrong("content", "is required"));
        }
        let parts = self.content(&mut fields, "content")?;
        self.extras.drop_left(&fields);
        call.messages.push(Message { role, parts });
        Ok(())
    }

    fn block(&mut self, mut block: Fields, parts: &mut Vec<Part>) -> Result<(), CallFault> {
        let kind = block.needed_text("type")?;
        match kind.as_str() {
            "text" => {
                let text = block.needed_text("text")?;
                if !text.is_empty() {
                    parts.push(Part::Text(text));
                }
            }
            "image" => parts.extend(self.media(&mut block)?.map(Part::Image)),
            "document" => self.document(&mut block, parts)?,
            "tool_use" => parts.push(Part::ToolCall(self.tool_call(&mut block)?)),
            "tool_result" => {
                let result = self.tool_result(&mut block)?;
                parts.push(Part::ToolResult(result));
            }
            "thinking" => parts.push(Part::Thought(Thought {
                text: block.text("thinking")?.unwrap_or_default(),
                signature: block.text("signature")?.filter(|s| !s.is_empty()),
                encrypted: None,
            })),
            "redacted_thinking" => parts.push(Part::Thought(Thought {
                encrypted: Some(block.needed_text("data")?),
                ..Thought::default()
            })),
            _ => {
                self.extras.refuse(block.at("type"));
                return Ok(());
            }
        }
        self.extras.drop_left(&block);
        Ok(())
    }

    /// The source of a picture or a document; none where only Anthropic could read it.
    fn media(&mut self, block: &mut Fields) -> Result<Option<Media>, CallFault> {
        let mut fields = block
            .object("source")?
            .ok_or_else(|| block.wrong("source", "is required"))?;
        let media_type = fields.text("media_type")?;
        let source = match fields.needed_text("type")?.as_str() {
            "base64" => Source::Base64(fields.needed_text("data")?),
            "text" => Source::Base64(STANDARD.encode(fields.needed_text("data")?)),
            "url" => Source::Url(fields.needed_text("url")?),
            "file" => Source::FileId(fields.needed_text("file_id")?),
            _ => {
                self.extras.refuse(fields.at("type"));
                return Ok(None);
            }
        };
        Ok(Some(Media {
            media_type,
            source,
            detail: None,
            name: None,
        }))
    }

    /// Citations would be missed in the answer, so a call for them is not handed to others.
    fn document(&mut self, block: &mut Fields, parts: &mut Vec<Part>) -> Result<(), CallFault> {
        if let Some(mut citations) = block.object("citations")?
            && citations.flag("enabled")? == Some(true)
        {
            self.extras.refuse(block.at("citations"));
        }
        let name = block.text("title")?;
        if block.word_within("source", "type") == Some("content") {
            let source = block.object("source")?;
            if let Some(mut source) = source {
                parts.extend(self.content(&mut source, "content")?);
            }
            return Ok(());
        }
        let media = self.media(block)?;
        parts.extend(media.map(|media| Part::File(Media { name, ..media })));
        Ok(())
    }

    fn tool_call(&mut self, block: &mut Fields) -> Result<ToolCall, CallFault> {
        let id = block.needed_text("id")?;
        let name = block.needed_text("name")?;
        let arguments = match block.take("input") {
            Some(input @ Value::Object(_)) => input.to_string(),
            None => "{}".to_owned(),
            Some(_) => return Err(block.wrong("input", "must be an object")),
        };
        self.names.insert(id.clone(), name.clone());
        Ok(ToolCall {
            id,
            name,
            arguments,
            signature: None,
        })
    }

    fn tool_result(&mut self, block: &mut Fields) -> Result<ToolResult, CallFault> {
        let id = block.needed_text("tool_use_id")?;
        Ok(ToolResult {
            name: self.names.get(&id).cloned(),
            id,
            parts: self.content(block, "content")?,
            is_error: block.flag("is_error")?.unwrap_or_default(),
        })
    }

    /// Tools that Anthropic runs itself are named in the extras.
    fn tool(&mut self, mut fields: Fields) -> Result<Option<Tool>, CallFault> {
        if fields.text("type")?.is_some_and(|kind| kind != "custom") {
            self.extras.refuse(fields.at("type"));
            return Ok(None);
        }
        let parameters = match fields.take("input_schema") {
            Some(schema @ Value::Object(_)) => Some(schema),
            _ => return Err(fields.wrong("input_schema", "must be an object")),
        };
        let tool = Tool {
            name: fields.needed_text("name")?,
            description: fields.text("description")?,
            parameters,
            strict: fields.flag("strict")?,
        };
        self.extras.drop_left(&fields);
        Ok(Some(tool))
    }

    fn tool_choice(&mut self, mut fields: Fields) -> Result<(ToolChoice, Option<bool>), CallFault> {
        let choice = match fields.needed_text("type")?.as_str() {
            "auto" => ToolChoice::Auto,
            "any" => ToolChoice::Required,
            "none" => ToolChoice::None,
            "tool" => ToolChoice::Named(fields.needed_text("name")?),
            _ => return Err(fields.wrong("type", "must be `auto`, `any`, `tool` or `none`")),
        };
        let parallel = fields.flag("disable_parallel_tool_use")?.map(|off| !off);
        self.extras.drop_left(&fields);
        Ok((choice, parallel))
    }

    /// Thoughts are shown unless the caller says `omitted`.
    fn reasoning(&mut self, fields: &mut Fields) -> Result<Option<Reasoning>, CallFault> {
        let Some(mut thinking) = fields.object("thinking")? else {
            return Ok(None);
        };
        let budget = match thinking.needed_text("type")?.as_str() {
            "disabled" => {
                return Ok(Some(Reasoning {
                    budget: Some(0),
                    ..Reasoning::default()
                }));
            }
            "enabled" => Some(
                thinking
                    .count("budget_tokens")?
                    .ok_or_else(|| thinking.wrong("budget_tokens", "is required"))?,
            ),
            "adaptive" => None,
            _ => return Err(thinking.wrong("type", "must be `enabled`, `adaptive` or `disabled`")),
        };
        let show = thinking.text("display")?.is_none_or(|how| how != "omitted");
        self.extras.drop_left(&thinking);
        Ok(Some(Reasoning {
            effort: None,
            budget,
            show: Some(show),
        }))
    }

    /// `output_config`, and `output_format`, which was its name before.
    fn output(&mut self, fields: &mut Fields, call: &mut Call) -> Result<(), CallFault> {
        if let Some(format) = fields.object("output_format")? {
            call.format = read_format(format)?;
        }
        let Some(mut config) = fields.object("output_config")? else {
            return Ok(());
        };
        if let Some(format) = config.object("format")? {
            call.format = read_format(format)?;
        }
        if let Some(effort) = config.text("effort")? {
            let effort = read_effort(&effort)
                .ok_or_else(|| config.wrong("effort", "must be `low`, `medium` or `high`"))?;
            // Without `thinking` it tells how many words to make, not whether to think.
            match &mut call.reasoning {
                Some(reasoning) if reasoning.budget.is_none() => reasoning.effort = Some(effort),
                _ => self.extras.drop("output_config.effort"),
            }
        }
        self.extras.drop_left(&config);
        Ok(())
    }
}

fn read_format(mut fields: Fields) -> Result<Format, CallFault> {
    if fields.needed_text("type")? != "json_schema" {
        return Err(fields.wrong("type", "must be `json_schema`"));
    }
    let schema = fields
        .take("schema")
        .ok_or_else(|| fields.wrong("schema", "is required"))?;
    Ok(Format::Schema {
        name: None,
        description: None,
        strict: strictness(&schema),
        schema,
    })
}

fn read_effort(word: &str) -> Option<Effort> {
    Some(match word {
        "low" => Effort::Low,
        "medium" => Effort::Medium,
        "high" => Effort::High,
        "xhigh" | "max" => Effort::XHigh,
        _ => return None,
    })
}
