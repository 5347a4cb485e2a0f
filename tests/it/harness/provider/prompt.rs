//! What a scripted model understands of a prompt, and what it says to it: words, not intelligence.

use super::Behaviour;
use serde_json::{Value, json};

/// What a request asks for, in no dialect's words.
#[derive(Debug, Default)]
pub struct Prompt {
    /// The text of the last message, `[image]` and the like for what is not text.
    pub said: String,
    /// Words in all of the prompt.
    pub tokens: u64,
    pub tools: Vec<Tool>,
    pub choice: Choice,
    pub form: Form,
    /// The longest answer, in words.
    pub max: Option<u64>,
    pub stops: Vec<String>,
    /// What tools said, when the last message gives their results.
    pub results: Vec<String>,
    /// Whether thoughts are asked for.
    pub think: bool,
}

#[derive(Debug)]
pub struct Tool {
    pub name: String,
    pub schema: Value,
}

#[derive(Debug, Default, PartialEq)]
pub enum Choice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

#[derive(Debug, Default)]
pub enum Form {
    #[default]
    Text,
    Json,
    Schema(Value),
}

/// Why an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    End,
    Length,
    Sequence(String),
    Tools,
}

/// What is said.
#[derive(Debug)]
pub struct Saying {
    pub thought: String,
    pub text: String,
    /// Names and arguments.
    pub calls: Vec<(String, Value)>,
    pub stop: Stop,
    pub input: u64,
    /// Part of `input`.
    pub cached: u64,
    pub output: u64,
    pub thought_tokens: u64,
}

pub fn count(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Pieces as a model makes them: a word and the blank behind it.
pub fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

impl Prompt {
    /// Takes note of a message; the last one is what is answered.
    pub fn hear(&mut self, text: &str) {
        self.tokens += count(text);
        self.results.clear();
        text.clone_into(&mut self.said);
    }

    /// Results of tools; several may follow each other.
    pub fn hear_result(&mut self, text: &str) {
        self.tokens += count(text);
        self.results.push(text.to_owned());
    }

    pub fn answer(&self, behaviour: &Behaviour) -> Saying {
        let thought = if self.think { "let me think" } else { "" };
        let calls = self.calls();
        let (text, stop) = if calls.is_empty() {
            self.cut(self.text(behaviour))
        } else {
            (String::new(), Stop::Tools)
        };
        let called: u64 = calls.iter().map(|(_, args)| count(&args.to_string())).sum();
        let thought_tokens = count(thought);
        Saying {
            thought: thought.to_owned(),
            output: count(&text) + called + thought_tokens,
            text,
            calls,
            stop,
            input: self.tokens,
            cached: behaviour.cached.min(self.tokens),
            thought_tokens,
        }
    }

    fn text(&self, behaviour: &Behaviour) -> String {
        if let Some(text) = &behaviour.answer {
            return text.clone();
        }
        match &self.form {
            Form::Schema(schema) => return sample(schema, schema, &self.said).to_string(),
            Form::Json => return json!({ "echo": self.said }).to_string(),
            Form::Text => {}
        }
        if !self.results.is_empty() {
            return format!("the tool says: {}", self.results.join(" "));
        }
        format!("echo: {}", self.said)
    }

    fn cut(&self, mut text: String) -> (String, Stop) {
        let mut stop = Stop::End;
        let found = self.stops.iter().filter_map(|s| Some((text.find(s)?, s)));
        if let Some((at, sequence)) = found.min() {
            stop = Stop::Sequence(sequence.clone());
            text.truncate(at);
        }
        let max = self.max.and_then(|max| usize::try_from(max).ok());
        if let Some(max) = max.filter(|max| pieces(&text).len() > *max) {
            return (pieces(&text)[..max].concat(), Stop::Length);
        }
        (text, stop)
    }

    /// A prompt that says `call NAME` calls that tool, with the JSON behind it if there is some.
    fn calls(&self) -> Vec<(String, Value)> {
        if self.tools.is_empty() || self.choice == Choice::None {
            return Vec::new();
        }
        if let Choice::Named(name) = &self.choice {
            let tools = self.tools.iter().filter(|tool| tool.name == *name);
            return tools.map(|tool| self.call(tool)).collect();
        }
        if !self.results.is_empty() {
            return Vec::new();
        }
        let asked = self.tools.iter().filter(|tool| self.asks_for(&tool.name));
        let asked: Vec<_> = asked.map(|tool| self.call(tool)).collect();
        match self.choice {
            Choice::Required if asked.is_empty() => vec![self.call(&self.tools[0])],
            _ => asked,
        }
    }

    fn asks_for(&self, name: &str) -> bool {
        self.said.contains(&format!("call {name}"))
    }

    fn call(&self, tool: &Tool) -> (String, Value) {
        let after = self.said.split_once(&format!("call {} ", tool.name));
        let given = after.and_then(|(_, rest)| {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            values.next()?.ok().filter(Value::is_object)
        });
        let arguments = given.unwrap_or_else(|| sample(&tool.schema, &tool.schema, &self.said));
        (tool.name.clone(), arguments)
    }
}

/// Something that a JSON Schema (or Gemini's kind of it) allows.
fn sample(schema: &Value, root: &Value, said: &str) -> Value {
    if let Some(path) = schema["$ref"].as_str() {
        let found = root.pointer(path.trim_start_matches('#'));
        return found.map_or(Value::Null, |found| sample(found, root, said));
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    if let Some(first) = schema["anyOf"].as_array().and_then(|all| all.first()) {
        return sample(first, root, said);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds[0].as_str().unwrap_or_default().to_lowercase(),
        kind => kind.as_str().unwrap_or("object").to_lowercase(),
    };
    match kind.as_str() {
        "string" => json!(said.split_whitespace().last().unwrap_or("word")),
        "integer" => json!(7),
        "number" => json!(1.5),
        "boolean" => json!(true),
        "null" => Value::Null,
        "array" => json!([sample(&schema["items"], root, said)]),
        _ => {
            let mut object = serde_json::Map::new();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                object.insert(name.clone(), sample(schema, root, said));
            }
            Value::Object(object)
        }
    }
}

/// Numbers that are the same for the same text, of length 1.
pub fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let seed = text.bytes().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let mut random = fastrand::Rng::with_seed(seed);
    let numbers: Vec<f32> = (0..dimensions).map(|_| random.f32() - 0.5).collect();
    let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
    numbers.iter().map(|n| n / length.max(0.001)).collect()
}
