//! A call of chat completions, taken apart.

use super::super::super::call::{
    Call, Format, Media, Message, Part, Reasoning, Role, Thought, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::fields::{Extras, Fields};
use super::super::openai;
use serde_json::Value;

/// Fields whose absence would be seen in the answer.
const REFUSED: [&str; 4] = ["functions", "function_call", "audio", "web_search_options"];

pub fn call(body: &[u8]) -> Result<Call, CallFault> {
    let mut fields = Fields::of_body(body)?;
    let mut extras = Extras::default();
    let mut call = Call {
        model: fields.text("model")?.unwrap_or_default(),
        stream: fields.flag("stream")?.unwrap_or_default(),
        parallel_tools: fields.flag("parallel_tool_calls")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        top_k: fields.count("top_k")?,
        presence_penalty: fields.number("presence_penalty")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        seed: fields.whole("seed")?,
        ..Call::default()
    };
    // The elder name is read even where the younger one counts: a wrong type is told.
    let elder = fields.count("max_tokens")?;
    call.max_tokens = fields.count("max_completion_tokens")?.or(elder);
    let elder = fields.text("user")?;
    call.end_user = fields.text("safety_identifier")?.or(elder);
    call.reasoning = reasoning(&mut fields, &mut extras)?;
    if let Some(mut options) = fields.object("stream_options")? {
        call.include_usage = options.flag("include_usage")?.unwrap_or_default();
        extras.drop_left(&options);
    }
    call.stop = stop(&mut fields)?;
    call.format = format(&mut fields)?;
    call.tools = tools(&mut fields, &mut extras)?;
    call.tool_choice = tool_choice(&mut fields, &mut extras)?;
    messages(&mut fields, &mut call, &mut extras)?;
    rest(&mut fields, &mut extras)?;
    call.extras = extras.0;
    Ok(call)
}

fn rest(fields: &mut Fields, extras: &mut Extras) -> Result<(), CallFault> {
    if fields.count("n")?.is_some_and(|count| count > 1) {
        extras.refuse("n");
    }
    if fields.flag("logprobs")? == Some(true) {
        extras.refuse("logprobs");
    }
    if fields
        .texts("modalities")?
        .iter()
        .any(|kind| kind != "text")
    {
        extras.refuse("modalities");
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

/// `reasoning_effort`, or `OpenRouter`'s `reasoning`.
fn reasoning(fields: &mut Fields, extras: &mut Extras) -> Result<Option<Reasoning>, CallFault> {
    let effort = openai::read_effort(fields, "reasoning_effort")?;
    let Some(mut object) = fields.object("reasoning")? else {
        return Ok(effort.map(|effort| Reasoning {
            effort: Some(effort),
            ..Reasoning::default()
        }));
    };
    let reasoning = Reasoning {
        effort: openai::read_effort(&mut object, "effort")?.or(effort),
        budget: object.count("max_tokens")?,
        show: object.flag("exclude")?.map(|exclude| !exclude),
    };
    extras.drop_left(&object);
    Ok(Some(reasoning))
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, CallFault> {
    match fields.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|text| match text {
                Value::String(text) => Ok(text),
                _ => Err(fields.wrong("stop", "must be a string or a list of strings")),
            })
            .collect(),
        Some(_) => Err(fields.wrong("stop", "must be a string or a list of strings")),
    }
}

fn format(fields: &mut Fields) -> Result<Format, CallFault> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(Format::Text);
    };
    match format.needed_text("type")?.as_str() {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        "json_schema" => {
            let schema = format.object("json_schema")?;
            openai::read_schema(schema.ok_or_else(|| format.wrong("json_schema", "is required"))?)
        }
        _ => Err(format.wrong("type", "must be one of text, json_object, json_schema")),
    }
}

fn tools(fields: &mut Fields, extras: &mut Extras) -> Result<Vec<Tool>, CallFault> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        if tool.needed_text("type")? != "function" {
            extras.refuse(tool.at("type"));
            continue;
        }
        let Some(mut function) = tool.object("function")? else {
            return Err(tool.wrong("function", "is required"));
        };
        tools.push(Tool {
            name: function.needed_text("name")?,
            description: function.text("description")?,
            parameters: function.take("parameters"),
            strict: function.flag("strict")?,
        });
        extras.drop_left(&function);
        extras.drop_left(&tool);
    }
    Ok(tools)
}

fn tool_choice(fields: &mut Fields, extras: &mut Extras) -> Result<ToolChoice, CallFault> {
    const WORDS: &str = "must be one of none, auto, required, or name a function";
    let choice = match fields.take("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => {
            return match word.as_str() {
                "none" => Ok(ToolChoice::None),
                "auto" => Ok(ToolChoice::Auto),
                // Mistral's word.
                "required" | "any" => Ok(ToolChoice::Required),
                _ => Err(fields.wrong("tool_choice", WORDS)),
            };
        }
        Some(choice) => choice,
    };
    let mut choice = Fields::of(fields.at("tool_choice"), choice)?;
    if choice.needed_text("type")? != "function" {
        extras.refuse(choice.at("type"));
        return Ok(ToolChoice::Auto);
    }
    match choice.object("function")? {
        Some(mut function) => Ok(ToolChoice::Named(function.needed_text("name")?)),
        None => Err(choice.wrong("function", "is required")),
    }
}

fn messages(fields: &mut Fields, call: &mut Call, extras: &mut Extras) -> Result<(), CallFault> {
    if !fields.has("messages") {
        return Err(fields.wrong("messages", "is required"));
    }
    for mut message in fields.objects("messages")? {
        let role = message.needed_text("role")?;
        match role.as_str() {
            "system" | "developer" => {
                let parts = content(&mut message, extras)?;
                call.system.extend(parts);
            }
            "user" => {
                let parts = content(&mut message, extras)?;
                call.messages.push(Message {
                    role: Role::User,
                    parts,
                });
            }
            "assistant" => {
                let parts = assistant(&mut message, extras)?;
                call.messages.push(Message {
                    role: Role::Assistant,
                    parts,
                });
            }
            "tool" => tool_result(&mut message, call, extras)?,
            // The elder way to call tools.
            "function" => {
                extras.refuse(message.at("role"));
                continue;
            }
            _ => {
                return Err(message.wrong(
                    "role",
                    "must be one of system, developer, user, assistant, tool",
                ));
            }
        }
        extras.drop_left(&message);
    }
    Ok(())
}

fn assistant(message: &mut Fields, extras: &mut Extras) -> Result<Vec<Part>, CallFault> {
    let mut parts = Vec::new();
    // DeepSeek's name, and OpenRouter's.
    let thought = match message.text("reasoning_content")? {
        Some(text) => Some(text),
        None => message.text("reasoning")?,
    };
    if let Some(text) = thought.filter(|text| !text.is_empty()) {
        parts.push(Part::Thought(Thought {
            text,
            ..Thought::default()
        }));
    }
    parts.extend(content(message, extras)?);
    if let Some(text) = message.text("refusal")? {
        parts.push(Part::Refusal(text));
    }
    for mut call in message.objects("tool_calls")? {
        if call.text("type")?.is_some_and(|kind| kind != "function") {
            extras.refuse(call.at("type"));
            continue;
        }
        let id = call.needed_text("id")?;
        let Some(mut function) = call.object("function")? else {
            return Err(call.wrong("function", "is required"));
        };
        parts.push(Part::ToolCall(ToolCall {
            id,
            name: function.needed_text("name")?,
            arguments: function.text("arguments")?.unwrap_or_default(),
            signature: None,
        }));
    }
    for name in ["function_call", "audio"] {
        if message.take(name).is_some() {
            extras.refuse(message.at(name));
        }
    }
    Ok(parts)
}

fn tool_result(
    message: &mut Fields,
    call: &mut Call,
    extras: &mut Extras,
) -> Result<(), CallFault> {
    let id = message.needed_text("tool_call_id")?;
    let result = Part::ToolResult(ToolResult {
        name: message
            .text("name")?
            .or_else(|| openai::tool_name(call, &id)),
        parts: content(message, extras)?,
        id,
        is_error: false,
    });
    openai::push_result(call, result);
    Ok(())
}

fn content(message: &mut Fields, extras: &mut Extras) -> Result<Vec<Part>, CallFault> {
    let list = match message.take("content") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Part::Text(text)]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(message.wrong("content", "must be a string or a list of parts")),
    };
    let at = message.at("content");
    let mut parts = Vec::new();
    for (index, value) in list.into_iter().enumerate() {
        let mut fields = Fields::of(format!("{at}[{index}]"), value)?;
        parts.extend(part(&mut fields, extras)?);
        extras.drop_left(&fields);
    }
    Ok(parts)
}

fn part(fields: &mut Fields, extras: &mut Extras) -> Result<Option<Part>, CallFault> {
    let kind = fields.needed_text("type")?;
    Ok(Some(match kind.as_str() {
        "text" => Part::Text(fields.needed_text("text")?),
        "refusal" => Part::Refusal(fields.needed_text("refusal")?),
        "image_url" => Part::Image(image(fields)?),
        "input_audio" => Part::Audio(openai::read_audio(needed(fields, "input_audio")?)?),
        "file" => Part::File(openai::read_file(&mut needed(fields, "file")?)?),
        _ => {
            extras.refuse(fields.at("type"));
            return Ok(None);
        }
    }))
}

fn image(fields: &mut Fields) -> Result<Media, CallFault> {
    // Mistral takes the URL alone.
    let (url, detail) = match fields.take("image_url") {
        Some(Value::String(url)) => (url, None),
        Some(value) => {
            let mut image = Fields::of(fields.at("image_url"), value)?;
            (image.needed_text("url")?, image.text("detail")?)
        }
        None => return Err(fields.wrong("image_url", "is required")),
    };
    let mut media = openai::media_of(url);
    media.detail = detail;
    Ok(media)
}

fn needed(fields: &mut Fields, name: &str) -> Result<Fields, CallFault> {
    fields
        .object(name)?
        .ok_or_else(|| fields.wrong(name, "is required"))
}
