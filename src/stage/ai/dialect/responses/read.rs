//! A call of responses, taken apart.

use super::super::super::call::{
    Call, Format, Media, Message, Part, Reasoning, Role, Source, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::fields::{Extras, Fields};
use super::super::openai;
use super::reply::{is_own, thought_of};
use serde_json::Value;

/// What the provider would have to remember, or do by itself.
const REFUSED: [&str; 3] = ["previous_response_id", "conversation", "prompt"];

pub fn call(body: &[u8]) -> Result<Call, CallFault> {
    let mut fields = Fields::of_body(body)?;
    let mut extras = Extras::default();
    let mut call = Call {
        model: fields.text("model")?.unwrap_or_default(),
        stream: fields.flag("stream")?.unwrap_or_default(),
        parallel_tools: fields.flag("parallel_tool_calls")?,
        max_tokens: fields.count("max_output_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        // This dialect leaves no choice: its last event has the usage.
        include_usage: true,
        ..Call::default()
    };
    let elder = fields.text("user")?;
    call.end_user = fields.text("safety_identifier")?.or(elder);
    call.system
        .extend(fields.text("instructions")?.map(Part::Text));
    call.reasoning = reasoning(&mut fields, &mut extras)?;
    call.format = format(&mut fields, &mut extras)?;
    call.tools = tools(&mut fields, &mut extras)?;
    call.tool_choice = tool_choice(&mut fields, &mut extras)?;
    input(&mut fields, &mut call, &mut extras)?;
    rest(&mut fields, &mut extras)?;
    call.extras = extras.0;
    Ok(call)
}

fn rest(fields: &mut Fields, extras: &mut Extras) -> Result<(), CallFault> {
    if fields.flag("background")? == Some(true) {
        extras.refuse("background");
    }
    openai::read_extras(fields, extras)?;
    for name in REFUSED {
        if fields.take(name).is_some() {
            extras.refuse(name);
        }
    }
    extras.drop_left(fields);
    Ok(())
}

fn reasoning(fields: &mut Fields, extras: &mut Extras) -> Result<Option<Reasoning>, CallFault> {
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok(None);
    };
    let effort = openai::read_effort(&mut reasoning, "effort")?;
    let elder = reasoning.text("generate_summary")?;
    let summary = reasoning.text("summary")?.or(elder);
    extras.drop_left(&reasoning);
    Ok(Some(Reasoning {
        effort,
        budget: None,
        show: summary.map(|_| true),
    }))
}

fn format(fields: &mut Fields, extras: &mut Extras) -> Result<Format, CallFault> {
    let Some(mut text) = fields.object("text")? else {
        return Ok(Format::Text);
    };
    let format = text.object("format")?;
    extras.drop_left(&text);
    let Some(mut format) = format else {
        return Ok(Format::Text);
    };
    match format.needed_text("type")?.as_str() {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        "json_schema" => openai::read_schema(format),
        _ => Err(format.wrong("type", "must be one of text, json_object, json_schema")),
    }
}

fn tools(fields: &mut Fields, extras: &mut Extras) -> Result<Vec<Tool>, CallFault> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        // The others run at the provider: a search of the web, of files, a computer.
        if tool.needed_text("type")? != "function" {
            extras.refuse(tool.at("type"));
            continue;
        }
        tools.push(Tool {
            name: tool.needed_text("name")?,
            description: tool.text("description")?,
            parameters: tool.take("parameters"),
            strict: tool.flag("strict")?,
        });
        extras.drop_left(&tool);
    }
    Ok(tools)
}

fn tool_choice(fields: &mut Fields, extras: &mut Extras) -> Result<ToolChoice, CallFault> {
    let choice = match fields.take("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => {
            return match word.as_str() {
                "none" => Ok(ToolChoice::None),
                "auto" => Ok(ToolChoice::Auto),
                "required" => Ok(ToolChoice::Required),
                _ => Err(fields.wrong(
                    "tool_choice",
                    "must be one of none, auto, required, or name a function",
                )),
            };
        }
        Some(choice) => choice,
    };
    let mut choice = Fields::of(fields.at("tool_choice"), choice)?;
    if choice.needed_text("type")? != "function" {
        extras.refuse(choice.at("type"));
        return Ok(ToolChoice::Auto);
    }
    choice.needed_text("name").map(ToolChoice::Named)
}

fn input(fields: &mut Fields, call: &mut Call, extras: &mut Extras) -> Result<(), CallFault> {
    let items = match fields.take("input") {
        None => return Err(fields.wrong("input", "is required")),
        Some(Value::String(text)) => {
            call.messages.push(Message {
                role: Role::User,
                parts: vec![Part::Text(text)],
            });
            return Ok(());
        }
        Some(Value::Array(items)) => items,
        Some(_) => return Err(fields.wrong("input", "must be a string or a list of items")),
    };
    for (index, item) in items.into_iter().enumerate() {
        let mut item = Fields::of(format!("{}[{index}]", fields.at("input")), item)?;
        // Names and states that the provider gave, and needs not be told again.
        item.take("status");
        let kind = item.text("type")?;
        match kind.as_deref() {
            None | Some("message") => message(&mut item, call, extras)?,
            Some("function_call") => {
                let part = function_call(&mut item)?;
                push_assistant(call, part);
            }
            Some("function_call_output") => {
                let result = output(&mut item, call, extras)?;
                openai::push_result(call, Part::ToolResult(result));
            }
            Some("reasoning") => {
                let part = thought(&mut item, extras)?;
                push_assistant(call, part);
            }
            Some(_) => {
                extras.refuse(item.at("type"));
                continue;
            }
        }
        item.take("id");
        extras.drop_left(&item);
    }
    Ok(())
}

fn message(item: &mut Fields, call: &mut Call, extras: &mut Extras) -> Result<(), CallFault> {
    let role = item.needed_text("role")?;
    let parts = content(item, "content", extras)?;
    match role.as_str() {
        "user" => call.messages.push(Message {
            role: Role::User,
            parts,
        }),
        "assistant" => {
            for part in parts {
                push_assistant(call, part);
            }
        }
        "system" | "developer" => call.system.extend(parts),
        _ => {
            return Err(item.wrong("role", "must be one of user, assistant, system, developer"));
        }
    }
    Ok(())
}

/// Items of the model that follow one another are one message.
fn push_assistant(call: &mut Call, part: Part) {
    match call.messages.last_mut() {
        Some(last) if last.role == Role::Assistant => last.parts.push(part),
        _ => call.messages.push(Message {
            role: Role::Assistant,
            parts: vec![part],
        }),
    }
}

fn function_call(item: &mut Fields) -> Result<Part, CallFault> {
    Ok(Part::ToolCall(ToolCall {
        id: item.needed_text("call_id")?,
        name: item.needed_text("name")?,
        arguments: item.text("arguments")?.unwrap_or_default(),
        signature: None,
    }))
}

fn output(item: &mut Fields, call: &Call, extras: &mut Extras) -> Result<ToolResult, CallFault> {
    let id = item.needed_text("call_id")?;
    Ok(ToolResult {
        name: openai::tool_name(call, &id),
        parts: content(item, "output", extras)?,
        id,
        is_error: false,
    })
}

/// What `OpenAI` has hidden, nobody else can read.
fn thought(item: &mut Fields, extras: &mut Extras) -> Result<Part, CallFault> {
    let id = item.text("id")?.unwrap_or_default();
    let mut texts = Vec::new();
    for name in ["summary", "content"] {
        for mut part in item.objects(name)? {
            texts.push(part.needed_text("text")?);
        }
    }
    let content = item.text("encrypted_content")?;
    if content.as_deref().is_some_and(is_own) {
        extras.drop("encrypted_content");
    }
    let content = content.filter(|content| !is_own(content));
    let thought = thought_of(&id, texts.join("\n\n"), content.as_deref());
    Ok(Part::Thought(thought))
}

fn content(item: &mut Fields, name: &str, extras: &mut Extras) -> Result<Vec<Part>, CallFault> {
    let list = match item.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Part::Text(text)]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(item.wrong(name, "must be a string or a list of parts")),
    };
    let mut parts = Vec::new();
    for (index, value) in list.into_iter().enumerate() {
        let mut fields = Fields::of(format!("{}[{index}]", item.at(name)), value)?;
        parts.extend(part(&mut fields, extras)?);
        // Of the model's own words from before.
        fields.take("annotations");
        fields.take("logprobs");
        extras.drop_left(&fields);
    }
    Ok(parts)
}

fn part(fields: &mut Fields, extras: &mut Extras) -> Result<Option<Part>, CallFault> {
    let kind = fields.needed_text("type")?;
    Ok(Some(match kind.as_str() {
        "input_text" | "output_text" | "text" => Part::Text(fields.needed_text("text")?),
        "refusal" => Part::Refusal(fields.needed_text("refusal")?),
        "input_image" => Part::Image(image(fields)?),
        "input_file" => Part::File(openai::read_file(fields)?),
        "input_audio" => {
            let audio = fields.object("input_audio")?;
            let audio = audio.ok_or_else(|| fields.wrong("input_audio", "is required"))?;
            Part::Audio(openai::read_audio(audio)?)
        }
        _ => {
            extras.refuse(fields.at("type"));
            return Ok(None);
        }
    }))
}

fn image(fields: &mut Fields) -> Result<Media, CallFault> {
    let mut media = match (fields.text("image_url")?, fields.text("file_id")?) {
        (Some(url), _) => openai::media_of(url),
        (None, Some(id)) => openai::of_source(Source::FileId(id)),
        (None, None) => return Err(fields.wrong("image_url", "is required")),
    };
    media.detail = fields.text("detail")?;
    Ok(media)
}
