//! The providers we know: where each is, what it speaks, how it is shown a key, and its habits. One row each.
//!
//! Sources: the providers' API references, read in November 2026. A provider that is not here and speaks like
//! `OpenAI` needs no row: it is [`COMPATIBLE`].

mod kinds;

pub use kinds::{
    ANTHROPIC, AZURE, AZURE_DATED, BEDROCK, COHERE, COMPATIBLE, DEEPSEEK, GEMINI, GROQ, KINDS,
    MISTRAL, OPENAI, OPENROUTER, PERPLEXITY, TOGETHER, VERTEX, XAI,
};

use super::count::COUNTS;
use super::fault::FaultKind;
use std::borrow::Cow;
use std::fmt::Write;

/// A kind of provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The word for it in the configuration.
    pub name: &'static str,
    /// Where it is, where that is one place for everybody.
    pub base_url: Option<&'static str>,
    pub base_path: BasePath,
    pub auth: Auth,
    /// What it can be asked; wire formats in the order in which it speaks them best.
    pub ways: &'static [Way],
    pub habits: Habits,
}

/// How the path of a base URL is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasePath {
    /// The version is part of the base: a URL without a path means this one.
    Usual(&'static str),
    /// The version is part of each path: at the end of a base it is one too many.
    Without(&'static str),
}

/// How a key is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer,
    /// `x-api-key`, beside `anthropic-version`.
    XApiKey,
    /// `x-goog-api-key`.
    XGoogApiKey,
    /// `api-key`.
    ApiKey,
}

/// Something a provider can be asked, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    pub operation: Operation,
    /// Below the base path. `{model}` stands for the name of the model.
    path: &'static str,
    /// Where it differs from the provider's other ways.
    auth: Option<Auth>,
    family: Family,
}

/// Which models are asked in this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    All,
    /// Those of Anthropic.
    Claude,
    /// All but those of Anthropic.
    Others,
}

/// What is asked. The first six are wire formats, which translate into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Chat,
    Responses,
    Messages,
    GenerateContent,
    /// Bedrock's, which no caller speaks.
    Converse,
    /// Cohere's own chat, which no caller speaks.
    CohereChat,
    Embeddings,
    ImagesGenerations,
    ImagesEdits,
    ImagesVariations,
    AudioSpeech,
    AudioTranscriptions,
    AudioTranslations,
    Moderations,
    Models,
    Realtime,
    /// `OpenAI`'s `/v1/responses/input_tokens`.
    ResponsesInputTokens,
    /// Anthropic's `/v1/messages/count_tokens`.
    MessagesCountTokens,
    /// Gemini's `:countTokens`.
    CountTokens,
    /// Gemini's `:embedContent`.
    EmbedContent,
    /// Gemini's `:batchEmbedContents`.
    BatchEmbedContents,
}

/// What differs among those who speak alike.
#[derive(Debug, PartialEq, Eq)]
pub struct Habits {
    /// Whether `stream_options.include_usage` is known. Where it is not, a stream ends with its usage anyway, or
    /// tells none.
    pub include_usage: bool,
    /// The field of chat for the longest answer.
    pub max_tokens: MaxTokens,
    /// Statuses after which the same call may go through at the same provider.
    pub retry: &'static [u16],
    /// Statuses that say: not here, not now. Another target is better at once.
    pub overloaded: &'static [u16],
    /// Statuses that say that the key's money is gone.
    pub quota: &'static [u16],
}

/// The name of the longest answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokens {
    /// `max_tokens`.
    Plain,
    /// `max_completion_tokens`.
    Completion,
}

impl Operation {
    /// As it is counted and logged.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::GenerateContent => "generate_content",
            Self::Converse => "converse",
            Self::CohereChat => "cohere_chat",
            Self::Embeddings => "embeddings",
            Self::ImagesGenerations => "images_generations",
            Self::ImagesEdits => "images_edits",
            Self::ImagesVariations => "images_variations",
            Self::AudioSpeech => "audio_speech",
            Self::AudioTranscriptions => "audio_transcriptions",
            Self::AudioTranslations => "audio_translations",
            Self::Moderations => "moderations",
            Self::Models => "models",
            Self::Realtime => "realtime",
            Self::ResponsesInputTokens => "responses_input_tokens",
            Self::MessagesCountTokens => "messages_count_tokens",
            Self::CountTokens => "count_tokens",
            Self::EmbedContent => "embed_content",
            Self::BatchEmbedContents => "batch_embed_contents",
        }
    }

    /// Whether it is one of the wire formats that translate into each other.
    pub fn is_dialect(self) -> bool {
        matches!(
            self,
            Self::Chat
                | Self::Responses
                | Self::Messages
                | Self::GenerateContent
                | Self::Converse
                | Self::CohereChat
        )
    }
}

impl Kind {
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }

    /// As OpenTelemetry's conventions name it (`gen_ai.provider.name`); our own word where they have none.
    pub fn otel_name(&self) -> &'static str {
        match self.name {
            "azure" => "azure.ai.openai",
            "bedrock" => "aws.bedrock",
            "gemini" => "gcp.gemini",
            "mistral" => "mistral_ai",
            "vertex" => "gcp.vertex_ai",
            "xai" => "x_ai",
            other => other,
        }
    }

    /// How it can be asked this; none: not at all.
    pub fn way(&self, operation: Operation) -> Option<&'static Way> {
        self.ways.iter().find(|way| way.operation == operation)
    }

    /// How it can be asked this of this model; none: not at all.
    pub fn way_to(&self, operation: Operation, model: &str) -> Option<&'static Way> {
        self.way(operation).filter(|way| way.takes(model))
    }

    /// The wire format to speak with it of this model, to a caller who speaks `with`: the same one if it can, else
    /// its best.
    pub fn dialect(&self, with: Operation, model: &str) -> Option<&'static Way> {
        let fits = |way: &&Way| way.operation.is_dialect() && way.takes(model);
        let same = self.way(with).filter(fits);
        same.or_else(|| self.ways.iter().find(fits))
    }

    /// How it is asked how many tokens a prompt has, which a caller gives in the words of `with`: in the same ones
    /// if it can be.
    pub fn count_way(&self, with: Operation, model: &str) -> Option<&'static Way> {
        let mut all = std::iter::once(with).chain(COUNTS);
        all.find_map(|operation| self.way_to(operation, model))
    }

    /// How a target is asked what a caller came for, in the caller's words where the provider knows them.
    pub fn way_for(&self, operation: Operation, model: &str) -> Option<&'static Way> {
        if operation.is_dialect() {
            self.dialect(operation, model)
        } else if operation.counts().is_some() {
            self.count_way(operation, model)
        } else {
            self.way_to(operation, model)
        }
    }

    /// Whether a key must be shown; a server of one's own may want none.
    pub fn needs_key(&self) -> bool {
        self.name != COMPATIBLE.name
    }

    /// The kind of failure that a status alone says here.
    pub fn fault_of(&self, status: u16) -> FaultKind {
        if self.habits.quota.contains(&status) {
            FaultKind::Quota
        } else if self.habits.overloaded.contains(&status) {
            FaultKind::Overloaded
        } else {
            FaultKind::of_status(status)
        }
    }

    /// Whether the same call may go through at the same provider after this status.
    pub fn may_retry(&self, status: u16) -> bool {
        self.habits.retry.contains(&status)
    }

    /// The path of one of its ways at the end of a base path, where none belongs.
    pub fn whole_path(&self, base_path: &str) -> Option<&'static str> {
        let whole = self.ways.iter().map(|way| way.path);
        let mut whole = whole.filter(|path| !path.contains(MODEL) && *path != "/models");
        whole.find(|path| base_path.ends_with(path))
    }

    /// The base path of a URL's path: without a slash at its end.
    pub fn base_path_of(&self, path: &str) -> String {
        let path = path.trim_end_matches('/');
        match self.base_path {
            BasePath::Usual(usual) if path.is_empty() => usual.to_owned(),
            BasePath::Usual(_) => path.to_owned(),
            BasePath::Without(version) => path.strip_suffix(version).unwrap_or(path).to_owned(),
        }
    }
}

impl Way {
    /// Path and query below the base path, with the model's name where it belongs there. `stream` matters to those
    /// who say it in the path.
    pub fn path(&self, model: &str, stream: bool) -> Cow<'static, str> {
        if !self.path.contains(MODEL) {
            return Cow::Borrowed(self.path);
        }
        // Signatures are made over a colon that is written so.
        let kept: &[u8] = match self.operation {
            Operation::Converse => b"-_.~",
            _ => b"-_.~@:",
        };
        let path = self.path.replace(MODEL, &in_path(model, kept));
        for (whole, streamed) in STREAMED {
            if let Some(start) = path.strip_suffix(whole).filter(|_| stream) {
                return format!("{start}{streamed}").into();
            }
        }
        path.into()
    }

    fn takes(&self, model: &str) -> bool {
        let is_claude = model.starts_with("claude");
        match self.family {
            Family::All => true,
            Family::Claude => is_claude,
            Family::Others => !is_claude,
        }
    }

    pub fn auth(&self, of: &Kind) -> Auth {
        self.auth.unwrap_or(of.auth)
    }
}

impl Auth {
    /// The header's name, and its value for a key.
    pub fn header(self, key: &str) -> (&'static str, String) {
        match self {
            Self::Bearer => ("authorization", format!("Bearer {key}")),
            Self::XApiKey => ("x-api-key", key.to_owned()),
            Self::XGoogApiKey => ("x-goog-api-key", key.to_owned()),
            Self::ApiKey => ("api-key", key.to_owned()),
        }
    }
}

const MODEL: &str = "{model}";
/// Ends of paths, and what stands there for a stream.
const STREAMED: [(&str, &str); 3] = [
    // Without `alt=sse` it would be one long list of JSON.
    (":generateContent", ":streamGenerateContent?alt=sse"),
    (":rawPredict", ":streamRawPredict"),
    ("/converse", "/converse-stream"),
];

/// A name as one segment of a path; a caller's name must not lead anywhere else.
fn in_path(model: &str, kept: &[u8]) -> String {
    let mut text = String::with_capacity(model.len());
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("text grows");
        }
    }
    // Alone, dots mean another folder.
    if text.bytes().all(|byte| byte == b'.') {
        text = text.replace('.', "%2E");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_kind_is_there_once_and_speaks_something() {
        let names: HashSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for kind in KINDS {
            assert_eq!(Kind::find(kind.name), Some(*kind));
            let way = kind.dialect(Operation::Chat, "claude-x");
            assert!(way.is_some(), "{}", kind.name);
            let ways: HashSet<_> = kind.ways.iter().map(|way| way.operation).collect();
            assert_eq!(ways.len(), kind.ways.len(), "{}", kind.name);
            for way in kind.ways {
                assert!(way.path.starts_with('/'), "{}: {}", kind.name, way.path);
            }
        }
        assert_eq!(Kind::find("opneai"), None);
    }

    #[test]
    fn a_default_base_url_says_what_a_bare_one_would() {
        for kind in KINDS {
            let Some(url) = kind.base_url else { continue };
            let rest = url.strip_prefix("https://").unwrap();
            let path = rest.split_once('/').map_or("", |(_, path)| path);
            let with = kind.base_path_of(&format!("/{path}"));
            assert_eq!(with, kind.base_path_of(""), "{}", kind.name);
        }
    }

    #[test]
    fn a_base_path_is_understood_with_and_without_its_version() {
        for (kind, path, base) in [
            (&OPENAI, "", "/v1"),
            (&OPENAI, "/", "/v1"),
            (&OPENAI, "/v1/", "/v1"),
            (&OPENAI, "/proxy", "/proxy"),
            (&GROQ, "", "/openai/v1"),
            (&ANTHROPIC, "", ""),
            (&ANTHROPIC, "/v1", ""),
            (&ANTHROPIC, "/v1/", ""),
            (&ANTHROPIC, "/anthropic/v1", "/anthropic"),
            (&ANTHROPIC, "/dev1", "/dev1"),
            (&GEMINI, "/v1beta", ""),
            (&GEMINI, "/gemini/", "/gemini"),
            (&AZURE, "/", "/openai/v1"),
            (&AZURE_DATED, "/", "/openai"),
            (&BEDROCK, "/", ""),
            (&VERTEX, "/v1/", ""),
            (&COMPATIBLE, "", "/v1"),
            (&COMPATIBLE, "/api/openai", "/api/openai"),
        ] {
            assert_eq!(kind.base_path_of(path), base, "{} {path}", kind.name);
        }
    }

    #[test]
    fn the_path_of_a_way_is_no_base() {
        for (kind, path, found) in [
            (&OPENAI, "/v1/chat/completions", Some("/chat/completions")),
            (&COMPATIBLE, "/openai/v1/embeddings", Some("/embeddings")),
            (&ANTHROPIC, "/v1/messages", Some("/v1/messages")),
            (&OPENAI, "/v1", None),
            (&OPENAI, "", None),
            (&OPENAI, "/v1/models", None),
            (&GEMINI, "/gemini", None),
            (&BEDROCK, "/model", None),
        ] {
            assert_eq!(kind.whole_path(path), found, "{} {path}", kind.name);
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a row has five columns")]
    fn a_path_names_the_model_where_the_provider_wants_it() {
        for (kind, operation, model, stream, path) in [
            (&OPENAI, Operation::Chat, "gpt-5", true, "/chat/completions"),
            (
                &GEMINI,
                Operation::GenerateContent,
                "gemini-2.5-pro",
                false,
                "/v1beta/models/gemini-2.5-pro:generateContent",
            ),
            (
                &GEMINI,
                Operation::GenerateContent,
                "gemini-2.5-pro",
                true,
                "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            ),
            (
                &GEMINI,
                Operation::CountTokens,
                "m",
                true,
                "/v1beta/models/m:countTokens",
            ),
            (
                &GEMINI,
                Operation::EmbedContent,
                "../../x?y#z%",
                false,
                "/v1beta/models/..%2F..%2Fx%3Fy%23z%25:embedContent",
            ),
            (
                &BEDROCK,
                Operation::Converse,
                "us.anthropic.claude-haiku-4-5-20251001-v1:0",
                false,
                "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse",
            ),
            (
                &BEDROCK,
                Operation::Converse,
                "arn:aws:bedrock:eu-west-1:1:inference-profile/x",
                true,
                "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Fx/converse-stream",
            ),
            (
                &VERTEX,
                Operation::GenerateContent,
                "gemini-2.5-pro",
                true,
                "/publishers/google/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            ),
            (
                &VERTEX,
                Operation::Messages,
                "claude-sonnet-4@20250514",
                true,
                "/publishers/anthropic/models/claude-sonnet-4@20250514:streamRawPredict",
            ),
            (
                &AZURE_DATED,
                Operation::Chat,
                "my deployment",
                true,
                "/deployments/my%20deployment/chat/completions",
            ),
            (
                &GEMINI,
                Operation::CountTokens,
                "..",
                false,
                "/v1beta/models/%2E%2E:countTokens",
            ),
        ] {
            let way = kind.way(operation).unwrap();
            assert_eq!(way.path(model, stream), path);
        }
    }

    #[test]
    fn a_caller_is_answered_in_its_own_words_where_the_provider_knows_them() {
        use Operation::{Chat, CohereChat, Converse, GenerateContent, Messages, Responses};
        for (kind, with, model, speaks) in [
            (&OPENAI, Chat, "m", Chat),
            (&OPENAI, Responses, "m", Responses),
            (&OPENAI, Messages, "m", Responses),
            (&ANTHROPIC, Chat, "m", Messages),
            (&OPENROUTER, Messages, "m", Messages),
            (&COMPATIBLE, Responses, "m", Chat),
            (&GEMINI, Chat, "m", GenerateContent),
            (&GEMINI, Operation::Embeddings, "m", GenerateContent),
            (&COHERE, Chat, "m", CohereChat),
            (&BEDROCK, Messages, "claude-x", Converse),
            (&VERTEX, Chat, "gemini-2.5-pro", GenerateContent),
            (&VERTEX, Messages, "gemini-2.5-pro", GenerateContent),
            (&VERTEX, GenerateContent, "claude-x", Messages),
            (&VERTEX, Messages, "claude-x", Messages),
        ] {
            let way = kind.dialect(with, model).unwrap();
            assert_eq!(way.operation, speaks, "{} {model}", kind.name);
        }
    }

    #[test]
    fn what_a_model_is_not_asked_at_a_provider_has_no_way() {
        let counts = |model| VERTEX.way_to(Operation::CountTokens, model).is_some();
        assert!(counts("gemini-2.5-pro") && !counts("claude-x"));
        assert!(OPENAI.way_to(Operation::Embeddings, "claude-x").is_some());
    }

    #[test]
    fn a_prompt_is_counted_by_whoever_can_count() {
        use Operation::{CountTokens, MessagesCountTokens, ResponsesInputTokens};
        for (kind, asked, model, way) in [
            (
                &OPENAI,
                ResponsesInputTokens,
                "m",
                Some("/responses/input_tokens"),
            ),
            (
                &OPENAI,
                MessagesCountTokens,
                "m",
                Some("/responses/input_tokens"),
            ),
            (
                &ANTHROPIC,
                CountTokens,
                "m",
                Some("/v1/messages/count_tokens"),
            ),
            (
                &VERTEX,
                ResponsesInputTokens,
                "m",
                Some("/publishers/google/models/m:countTokens"),
            ),
            (&VERTEX, CountTokens, "claude-x", None),
            (&COMPATIBLE, ResponsesInputTokens, "m", None),
            // Its API without versions answers 404 to it.
            (&AZURE, ResponsesInputTokens, "m", None),
        ] {
            let found = kind.way_for(asked, model).map(|way| way.path(model, false));
            assert_eq!(found.as_deref(), way, "{} {asked:?}", kind.name);
        }
        assert!(AZURE.way(Operation::Realtime).is_some());
    }

    #[test]
    fn a_key_is_shown_as_the_provider_wants_it() {
        for (kind, operation, name, value) in [
            (&OPENAI, Operation::Chat, "authorization", "Bearer k"),
            (&ANTHROPIC, Operation::Messages, "x-api-key", "k"),
            (&GEMINI, Operation::GenerateContent, "x-goog-api-key", "k"),
            (&GEMINI, Operation::Embeddings, "authorization", "Bearer k"),
            (&AZURE, Operation::Chat, "api-key", "k"),
        ] {
            let auth = kind.way(operation).unwrap().auth(kind);
            assert_eq!(auth.header("k"), (name, value.to_owned()));
        }
    }

    #[test]
    fn a_status_means_what_the_provider_means_by_it() {
        for (kind, status, fault, again) in [
            (&OPENAI, 429, FaultKind::RateLimited, true),
            (&OPENAI, 400, FaultKind::InvalidRequest, false),
            (&OPENAI, 401, FaultKind::Authentication, false),
            (&OPENAI, 500, FaultKind::Server, true),
            (&ANTHROPIC, 529, FaultKind::Overloaded, true),
            (&DEEPSEEK, 402, FaultKind::Quota, false),
            (&GROQ, 498, FaultKind::Overloaded, false),
            (&OPENROUTER, 502, FaultKind::Overloaded, true),
        ] {
            assert_eq!(kind.fault_of(status), fault, "{} {status}", kind.name);
            assert_eq!(kind.may_retry(status), again, "{} {status}", kind.name);
        }
    }
}
