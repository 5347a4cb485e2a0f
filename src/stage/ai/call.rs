//! What a caller asks of a model.

use serde_json::{Number, Value};

/// One request for an answer in words, pictures or calls of tools.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    /// As the caller wrote it; empty when none was named.
    pub model: String,
    pub stream: bool,
    /// Instructions that stand above the conversation, in their order (system and developer messages).
    pub system: Vec<Part>,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// Whether several tools may be called at once; none: as the provider does by itself.
    pub parallel_tools: Option<bool>,
    /// The longest answer, thoughts included, in tokens.
    pub max_tokens: Option<u64>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<u64>,
    pub presence_penalty: Option<Number>,
    pub frequency_penalty: Option<Number>,
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    pub format: Format,
    pub reasoning: Option<Reasoning>,
    /// The caller's own name for its user.
    pub end_user: Option<String>,
    /// Whether a stream is to end with its usage, where the dialect leaves the choice.
    pub include_usage: bool,
    /// Fields of the caller's dialect that have no place above.
    pub extras: Vec<Extra>,
}

/// Something that only the caller's own dialect can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// The field as it is written: `logprobs`, `tools[2].type`.
    pub name: String,
    pub rule: ExtraRule,
}

/// What happens to an [`Extra`] when the call must be said in another dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraRule {
    /// The answer would not be what was asked for: the call is refused, and the field named.
    Refuse,
    /// A hint (caching, labels, sampling): left out, and the caller is told so in a header.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user; results of tools come from here too.
    User,
    /// The model.
    Assistant,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Image(Media),
    Audio(Media),
    /// A document.
    File(Media),
    ToolCall(ToolCall),
    ToolResult(ToolResult),
    Thought(Thought),
    /// The model's own words on why it does not answer.
    Refusal(String),
}

/// Something that is not text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// `image/png`; none where the caller did not say, as beside a URL.
    pub media_type: Option<String>,
    pub source: Source,
    /// How closely to look at a picture: `low`, `high`, `auto`.
    pub detail: Option<String>,
    /// The name of a file.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Url(String),
    /// As it came; not decoded.
    Base64(String),
    /// Something the provider keeps; means nothing to another one.
    FileId(String),
}

/// The model wants a tool to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// By which the result is given; made up where the dialect has none.
    pub id: String,
    pub name: String,
    /// JSON, as it came.
    pub arguments: String,
    /// What proves the model's thought behind it, to be given back as it came (Gemini's `thoughtSignature`).
    pub signature: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    pub id: String,
    /// The tool, where the dialect says it, or where the call of this id came earlier.
    pub name: Option<String>,
    pub parts: Vec<Part>,
    pub is_error: bool,
}

/// What the model thought before it spoke.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thought {
    pub text: String,
    /// What proves it is the model's, to be given back as it came.
    pub signature: Option<String>,
    /// In place of the text, where the provider hides it.
    pub encrypted: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments.
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    #[default]
    Auto,
    None,
    /// Any tool, but one.
    Required,
    Named(String),
}

/// The form of the answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    #[default]
    Text,
    /// Any JSON.
    Json,
    Schema {
        name: Option<String>,
        description: Option<String>,
        schema: Value,
        strict: Option<bool>,
    },
}

/// How much the model is to think. `effort` and `budget` are two dialects' words for it: a writer that knows
/// only the other one translates (low 1,024 tokens, medium 8,192, high 24,576, and back by the next above).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasoning {
    pub effort: Option<Effort>,
    /// Tokens; 0: do not think.
    pub budget: Option<u64>,
    /// Whether thoughts are to be shown.
    pub show: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
}
