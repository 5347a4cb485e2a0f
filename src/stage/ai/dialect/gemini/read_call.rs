//! A call as a caller of Gemini's API writes it, in `camelCase` or `snake_case`.

use super::super::super::call::{
    Call, Effort, Format, Message, Part, Reasoning, Role, Thought, Tool, ToolCall, ToolChoice,
    ToolResult,
};
use super::super::super::fault::CallFault;
use super::super::InPath;
use super::super::fields::{Extras, Fields};
use super::super::schema::strictness;
use super::media::{media_part, read_file, read_inline};
use super::schema::to_json_schema;
use super::write_call::NO_SIGNATURE;
use serde_json::{Value, json};

/// Fields that do not change what is answered.
const HINTS: &[&str] = &["labels", "safetySettings", "serviceTier", "store"];
const CONFIG_HINTS: &[&str] = &[
    "audioTimestamp",
    "enableAffectiveDialog",
    "enableEnhancedCivicAnswers",
    "mediaResolution",
    "modelSelectionConfig",
    "routingConfig",
];

pub fn read_call(body: &[u8], path: &InPath<'_>) -> Result<Call, CallFault> {
    let mut fields = Fields::of_body(body)?.with_snake_case();
    let mut reading = Reading::default();
    let in_body = fields.text("model")?;
    let model = path.model.or(in_body.as_deref()).unwrap_or_default();
    let mut call = Call {
        model: model.strip_prefix("models/").unwrap_or(model).to_owned(),
        stream: path.stream,
        ..Call::default()
    };
    if let Some(system) = fields.object("systemInstruction")? {
        call.system = reading.system(system)?;
    }
    if !fields.has("contents") {
        return Err(fields.wrong("contents", "is required"));
    }
    for (at, content) in fields.objects("contents")?.into_iter().enumerate() {
        let message = reading.content(at, content)?;
        call.messages.push(message);
    }
    for tool in fields.objects("tools")? {
        reading.tool(tool, &mut call.tools)?;
    }
    if let Some(config) = fields.object("toolConfig")? {
        call.tool_choice = reading.tool_choice(config, &call.tools)?;
    }
    if let Some(config) = fields.object("generationConfig")? {
        reading.config(config, &mut call)?;
    }
    reading.leftover(&fields, HINTS);
    call.extras = reading.extras.0;
    Ok(call)
}

#[derive(Default)]
struct Reading {
    extras: Extras,
    /// Calls of tools that have no result yet: id and name.
    unanswered: Vec<(String, String)>,
}

impl Reading {
    fn leftover(&mut self, fields: &Fields, hints: &[&str]) {
        for name in fields.left() {
            if hints.contains(&name) {
                self.extras.drop(fields.at(name));
            } else {
                self.extras.refuse(fields.at(name));
            }
        }
    }

    fn system(&mut self, mut fields: Fields) -> Result<Vec<Part>, CallFault> {
        let mut parts = Vec::new();
        for part in fields.objects("parts")? {
            self.part(part, (0, 0), &mut parts)?;
        }
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Ok(parts);
        }
        Err(fields.wrong("parts", "may be text only"))
    }

    fn content(&mut self, at: usize, mut fields: Fields) -> Result<Message, CallFault> {
        let role = match fields.text("role")?.as_deref() {
            None | Some("" | "user" | "function") => Role::User,
            Some("model") => Role::Assistant,
            Some(_) => return Err(fields.wrong("role", "must be `user` or `model`")),
        };
        let mut parts = Vec::new();
        for (index, part) in fields.objects("parts")?.into_iter().enumerate() {
            self.part(part, (at, index), &mut parts)?;
        }
        Ok(Message { role, parts })
    }

    fn part(
        &mut self,
        mut fields: Fields,
        at: (usize, usize),
        parts: &mut Vec<Part>,
    ) -> Result<(), CallFault> {
        let signature = fields
            .text("thoughtSignature")?
            .filter(|signature| signature != NO_SIGNATURE);
        if fields.flag("thought")? == Some(true) {
            let text = fields.text("text")?.unwrap_or_default();
            add_thought(text, signature, parts);
        } else if let Some(text) = fields.text("text")? {
            if !text.is_empty() {
                parts.push(Part::Text(text));
            }
        } else if let Some(data) = fields.object("inlineData")? {
            parts.push(media_part(read_inline(data)?));
        } else if let Some(data) = fields.object("fileData")? {
            parts.push(media_part(read_file(data)?));
        } else if let Some(call) = fields.object("functionCall")? {
            parts.push(Part::ToolCall(self.call(call, at, signature)?));
        } else if let Some(response) = fields.object("functionResponse")? {
            parts.push(Part::ToolResult(self.response(response)?));
        } else {
            self.leftover(&fields, &[]);
            return Ok(());
        }
        self.extras.drop_left(&fields);
        Ok(())
    }

    fn call(
        &mut self,
        mut fields: Fields,
        (content, part): (usize, usize),
        signature: Option<String>,
    ) -> Result<ToolCall, CallFault> {
        let name = fields.needed_text("name")?;
        let id = match fields.text("id")?.filter(|id| !id.is_empty()) {
            Some(id) => id,
            None => format!("call_{content}_{part}"),
        };
        let arguments = match fields.take("args") {
            None => "{}".to_owned(),
            Some(args @ Value::Object(_)) => args.to_string(),
            Some(_) => return Err(fields.wrong("args", "must be an object")),
        };
        self.unanswered.push((id.clone(), name.clone()));
        Ok(ToolCall {
            id,
            name,
            arguments,
            signature,
        })
    }

    /// Without an id it answers the first call of its name that has no answer.
    fn response(&mut self, mut fields: Fields) -> Result<ToolResult, CallFault> {
        let name = fields.needed_text("name")?;
        let id = fields.text("id")?.filter(|id| !id.is_empty());
        let place = self.unanswered.iter().position(|(call, called)| match &id {
            Some(id) => call == id,
            None => *called == name,
        });
        let known = place.map(|place| self.unanswered.remove(place).0);
        let id = id
            .or(known)
            .ok_or_else(|| fields.wrong("name", "answers no call of a tool"))?;
        let (mut parts, is_error) = match fields.take("response") {
            None => (Vec::new(), false),
            Some(response @ Value::Object(_)) => read_output(&response),
            Some(_) => return Err(fields.wrong("response", "must be an object")),
        };
        for mut part in fields.objects("parts")? {
            if let Some(data) = part.object("inlineData")? {
                parts.push(media_part(read_inline(data)?));
            } else if let Some(data) = part.object("fileData")? {
                parts.push(media_part(read_file(data)?));
            }
            self.leftover(&part, &[]);
        }
        self.extras.drop_left(&fields);
        Ok(ToolResult {
            id,
            name: Some(name),
            parts,
            is_error,
        })
    }

    fn tool(&mut self, mut fields: Fields, tools: &mut Vec<Tool>) -> Result<(), CallFault> {
        for mut function in fields.objects("functionDeclarations")? {
            let schema = match function.take("parametersJsonSchema") {
                Some(schema) => Some(schema),
                None => function.take("parameters").as_ref().map(to_json_schema),
            };
            tools.push(Tool {
                name: function.needed_text("name")?,
                description: function.text("description")?,
                parameters: schema,
                strict: None,
            });
            self.extras.drop_left(&function);
        }
        // Tools that Google runs itself.
        self.leftover(&fields, &[]);
        Ok(())
    }

    fn tool_choice(&mut self, mut fields: Fields, tools: &[Tool]) -> Result<ToolChoice, CallFault> {
        let config = fields.object("functionCallingConfig")?;
        self.leftover(&fields, &["retrievalConfig"]);
        let Some(mut config) = config else {
            return Ok(ToolChoice::Auto);
        };
        let mode = config.text("mode")?.unwrap_or_default();
        let mut allowed = config.texts("allowedFunctionNames")?;
        let choice = match mode.to_ascii_uppercase().as_str() {
            "" | "MODE_UNSPECIFIED" | "AUTO" | "VALIDATED" => ToolChoice::Auto,
            "NONE" => ToolChoice::None,
            "ANY" if allowed.len() == 1 => ToolChoice::Named(allowed.swap_remove(0)),
            "ANY" => ToolChoice::Required,
            _ => return Err(config.wrong("mode", "must be `AUTO`, `ANY`, `VALIDATED` or `NONE`")),
        };
        let some_only = !allowed.is_empty() && tools.iter().any(|t| !allowed.contains(&t.name));
        if some_only && !matches!(choice, ToolChoice::Named(_) | ToolChoice::None) {
            self.extras.refuse(config.at("allowedFunctionNames"));
        }
        self.extras.drop_left(&config);
        Ok(choice)
    }

    fn config(&mut self, mut fields: Fields, call: &mut Call) -> Result<(), CallFault> {
        call.max_tokens = fields.count("maxOutputTokens")?;
        call.temperature = fields.number("temperature")?;
        call.top_p = fields.number("topP")?;
        call.top_k = fields.count("topK")?;
        call.presence_penalty = fields.number("presencePenalty")?;
        call.frequency_penalty = fields.number("frequencyPenalty")?;
        call.seed = fields.whole("seed")?;
        call.stop = fields.texts("stopSequences")?;
        if let Some(thinking) = fields.object("thinkingConfig")? {
            call.reasoning = Some(self.reasoning(thinking)?);
        }
        call.format = self.format(&mut fields)?;
        if fields
            .count("candidateCount")?
            .is_some_and(|count| count > 1)
        {
            self.extras.refuse(fields.at("candidateCount"));
        }
        let modalities = fields.texts("responseModalities")?;
        if modalities
            .iter()
            .any(|word| !word.eq_ignore_ascii_case("text"))
        {
            self.extras.refuse(fields.at("responseModalities"));
        }
        if fields.flag("responseLogprobs")? == Some(true) {
            self.extras.refuse(fields.at("responseLogprobs"));
        }
        self.leftover(&fields, CONFIG_HINTS);
        Ok(())
    }

    /// A budget of -1 leaves it to the model.
    fn reasoning(&mut self, mut fields: Fields) -> Result<Reasoning, CallFault> {
        let budget = fields.whole("thinkingBudget")?;
        let effort = match fields.text("thinkingLevel")? {
            None => None,
            Some(level) => match level.to_ascii_uppercase().as_str() {
                "THINKING_LEVEL_UNSPECIFIED" => None,
                "MINIMAL" => Some(Effort::Minimal),
                "LOW" => Some(Effort::Low),
                "MEDIUM" => Some(Effort::Medium),
                "HIGH" => Some(Effort::High),
                _ => {
                    let what = "must be `MINIMAL`, `LOW`, `MEDIUM` or `HIGH`";
                    return Err(fields.wrong("thinkingLevel", what));
                }
            },
        };
        let show = fields.flag("includeThoughts")?;
        self.extras.drop_left(&fields);
        Ok(Reasoning {
            effort,
            budget: budget.and_then(|budget| u64::try_from(budget).ok()),
            show,
        })
    }

    fn format(&mut self, fields: &mut Fields) -> Result<Format, CallFault> {
        let media_type = fields.text("responseMimeType")?.unwrap_or_default();
        let schema = match fields.take("responseJsonSchema") {
            Some(schema) => Some(schema),
            None => fields.take("responseSchema").as_ref().map(to_json_schema),
        };
        match (media_type.as_str(), schema) {
            ("" | "text/plain", None) => Ok(Format::Text),
            ("application/json", None) => Ok(Format::Json),
            ("application/json", Some(schema)) => Ok(Format::Schema {
                name: None,
                description: None,
                strict: strictness(&schema),
                schema,
            }),
            ("text/x.enum", _) => {
                self.extras.refuse(fields.at("responseMimeType"));
                Ok(Format::Text)
            }
            (_, Some(_)) => Err(fields.wrong(
                "responseMimeType",
                "must be `application/json` with a schema",
            )),
            _ => Err(fields.wrong("responseMimeType", "is not known")),
        }
    }
}

/// Thoughts that came in pieces are one; the proof stands on the last of them.
pub fn add_thought(text: String, signature: Option<String>, parts: &mut Vec<Part>) {
    if let Some(Part::Thought(before)) = parts.last_mut()
        && before.signature.is_none()
    {
        before.text.push_str(&text);
        before.signature = signature;
        return;
    }
    parts.push(Part::Thought(Thought {
        text,
        signature,
        encrypted: None,
    }));
}

/// What a tool returned: `output` or `error` alone, else all of it as JSON.
fn read_output(response: &Value) -> (Vec<Part>, bool) {
    let alone = response.as_object().filter(|object| object.len() == 1);
    let under = |name: &str| alone.and_then(|object| object.get(name)?.as_str());
    let (text, is_error) = match (under("output"), under("error")) {
        (Some(output), _) => (output.to_owned(), false),
        (_, Some(error)) => (error.to_owned(), true),
        _ if response == &json!({}) => (String::new(), false),
        _ => (response.to_string(), false),
    };
    let parts = Some(text).filter(|text| !text.is_empty());
    (parts.map(Part::Text).into_iter().collect(), is_error)
}
