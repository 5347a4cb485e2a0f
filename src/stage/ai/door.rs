//! What a caller came for, by the path that its SDK uses.

use super::dialect::DialectName;
use super::fault::CallFault;
use super::provider::Operation;
use http::{HeaderMap, Method};

/// What is asked for, and in whose words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// In which the caller speaks, and is answered, refusals included.
    pub dialect: DialectName,
    pub operation: Operation,
    /// Where the API has it in the path.
    pub model: Option<String>,
    /// Where the API says in the path that a stream is wanted.
    pub stream: bool,
    /// Where such a stream is to come as a list of JSON, as Gemini's API gives it by default.
    pub list: bool,
}

/// No door: there is nothing at this path, or not by this method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoDoor {
    Unknown,
    /// These are taken.
    Method(&'static str),
}

/// What `OpenAI`'s API has beside chat and responses.
const OPENAI_OTHERS: &[(&str, Operation)] = &[
    ("/embeddings", Operation::Embeddings),
    ("/moderations", Operation::Moderations),
    ("/images/generations", Operation::ImagesGenerations),
    ("/images/edits", Operation::ImagesEdits),
    ("/images/variations", Operation::ImagesVariations),
    ("/audio/speech", Operation::AudioSpeech),
    ("/audio/transcriptions", Operation::AudioTranscriptions),
    ("/audio/translations", Operation::AudioTranslations),
];

/// Which API a path belongs to. `speaks`: what the caller's headers say of its dialect (see [`spoken`]), by
/// which models are asked for in one, since the path is the same.
pub fn find(method: &Method, path: &str, speaks: Option<DialectName>) -> Result<Door, NoDoor> {
    if let Some(rest) = path.strip_prefix("/v1beta/models") {
        return gemini(method, rest);
    }
    let Some(place) = path.strip_prefix("/v1") else {
        return Err(NoDoor::Unknown);
    };
    // `/v1/models/{model}:generateContent` is Gemini's older version.
    if let Some(rest) = place.strip_prefix("/models")
        && rest.contains(':')
        && *method == Method::POST
    {
        return gemini(method, rest);
    }
    let (dialect, operation) = match place {
        "/chat/completions" => (DialectName::Chat, Operation::Chat),
        "/responses" => (DialectName::Responses, Operation::Responses),
        "/responses/input_tokens" => (DialectName::Responses, Operation::ResponsesInputTokens),
        "/messages" => (DialectName::Messages, Operation::Messages),
        "/messages/count_tokens" => (DialectName::Messages, Operation::MessagesCountTokens),
        "/realtime" => return get(method, Door::new(DialectName::Chat, Operation::Realtime)),
        other => {
            let found = OPENAI_OTHERS.iter().find(|(path, _)| *path == other);
            let Some((_, operation)) = found else {
                let dialect = speaks.unwrap_or(DialectName::Chat);
                return models(method, other.strip_prefix("/models"), dialect);
            };
            (DialectName::Chat, *operation)
        }
    };
    post(method, Door::new(dialect, operation))
}

/// The dialect in which a caller is told that there is nothing at this path.
pub fn dialect_of(path: &str, speaks: Option<DialectName>) -> DialectName {
    if path.starts_with("/v1beta") {
        DialectName::Gemini
    } else if path.starts_with("/v1/messages") {
        DialectName::Messages
    } else {
        speaks.unwrap_or(DialectName::Chat)
    }
}

/// The dialect that only its own SDKs' headers tell.
pub fn spoken(headers: &HeaderMap) -> Option<DialectName> {
    if headers.contains_key("anthropic-version") {
        Some(DialectName::Messages)
    } else if headers.contains_key("x-goog-api-key") || headers.contains_key("x-goog-api-client") {
        Some(DialectName::Gemini)
    } else {
        None
    }
}

fn gemini(method: &Method, rest: &str) -> Result<Door, NoDoor> {
    let Some((model, verb)) = rest.rsplit_once(':') else {
        return models(method, Some(rest), DialectName::Gemini);
    };
    let operation = match verb {
        "generateContent" | "streamGenerateContent" => Operation::GenerateContent,
        "countTokens" => Operation::CountTokens,
        "embedContent" => Operation::EmbedContent,
        "batchEmbedContents" => Operation::BatchEmbedContents,
        _ => return Err(NoDoor::Unknown),
    };
    let model = model.strip_prefix('/').filter(|model| !model.is_empty());
    let door = Door {
        model: Some(decoded(model.ok_or(NoDoor::Unknown)?)),
        stream: verb == "streamGenerateContent",
        ..Door::new(DialectName::Gemini, operation)
    };
    post(method, door)
}

fn models(method: &Method, rest: Option<&str>, dialect: DialectName) -> Result<Door, NoDoor> {
    let model = match rest {
        Some("" | "/") => None,
        Some(rest) if rest.len() > 1 && rest.starts_with('/') => Some(decoded(&rest[1..])),
        _ => return Err(NoDoor::Unknown),
    };
    let door = Door {
        model,
        ..Door::new(dialect, Operation::Models)
    };
    get(method, door)
}

/// The value of a parameter of the query, as it was before it was put there.
pub fn in_query(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(decoded(&value.replace('+', " ")))
}

/// A name as it was before an SDK put it into a path; what is no UTF-8 then is no name of ours.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = match (first, others) {
            (b'%', [high, low, ..]) => {
                let digits = [char::from(*high), char::from(*low)].map(|digit| digit.to_digit(16));
                match digits {
                    [Some(high), Some(low)] => u8::try_from(high * 16 + low).ok(),
                    _ => None,
                }
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            &others[2..]
        } else {
            others
        };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn post(method: &Method, door: Door) -> Result<Door, NoDoor> {
    if *method == Method::POST {
        Ok(door)
    } else {
        Err(NoDoor::Method("POST"))
    }
}

fn get(method: &Method, door: Door) -> Result<Door, NoDoor> {
    if [Method::GET, Method::HEAD].contains(method) {
        Ok(door)
    } else {
        Err(NoDoor::Method("GET, HEAD"))
    }
}

impl Door {
    fn new(dialect: DialectName, operation: Operation) -> Self {
        Self {
            dialect,
            operation,
            model: None,
            stream: false,
            list: false,
        }
    }

    /// In the form that the query asks for. Gemini's SDKs ask for events, `alt=sse`; without a word its API answers
    /// with one list of JSON.
    pub fn in_form_of(self, query: &str) -> Result<Self, CallFault> {
        if !self.stream {
            return Ok(self);
        }
        let named = in_query(query, "alt").or_else(|| in_query(query, "$alt"));
        match named.as_deref() {
            Some("sse") => Ok(self),
            None | Some("" | "json") => Ok(Self { list: true, ..self }),
            Some(_) => Err(CallFault::invalid(
                "alt",
                "`alt` must be `sse` or `json`: a stream comes in no other form",
            )),
        }
    }

    /// Whether words are asked for: such calls can be said in any dialect.
    pub fn generates(&self) -> bool {
        self.operation.is_dialect()
    }

    /// Whether its answer may be something else than JSON: sounds, subtitles, plain text.
    pub fn may_be_no_json(&self) -> bool {
        matches!(
            self.operation,
            Operation::AudioSpeech | Operation::AudioTranscriptions | Operation::AudioTranslations
        )
    }

    /// Whether the body is a form with files, and no JSON.
    pub fn takes_form(&self) -> bool {
        matches!(
            self.operation,
            Operation::AudioTranscriptions
                | Operation::AudioTranslations
                | Operation::ImagesEdits
                | Operation::ImagesVariations
        )
    }
}

impl Operation {
    /// The wire format that it is, if it is one.
    pub fn dialect(self) -> Option<DialectName> {
        match self {
            Self::Chat => Some(DialectName::Chat),
            Self::Responses => Some(DialectName::Responses),
            Self::Messages => Some(DialectName::Messages),
            Self::GenerateContent => Some(DialectName::Gemini),
            Self::Converse => Some(DialectName::Converse),
            Self::CohereChat => Some(DialectName::Cohere),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a row has five columns")]
    fn each_sdk_finds_its_door() {
        use DialectName::{Chat, Gemini, Messages, Responses};
        let post = Method::POST;
        let get = Method::GET;
        for (method, path, dialect, operation, model) in [
            (&post, "/v1/chat/completions", Chat, Operation::Chat, None),
            (
                &post,
                "/v1/responses",
                Responses,
                Operation::Responses,
                None,
            ),
            (
                &post,
                "/v1/responses/input_tokens",
                Responses,
                Operation::ResponsesInputTokens,
                None,
            ),
            (&post, "/v1/messages", Messages, Operation::Messages, None),
            (
                &post,
                "/v1/messages/count_tokens",
                Messages,
                Operation::MessagesCountTokens,
                None,
            ),
            (
                &post,
                "/v1/audio/speech",
                Chat,
                Operation::AudioSpeech,
                None,
            ),
            (
                &post,
                "/v1beta/models/gemini-3:generateContent",
                Gemini,
                Operation::GenerateContent,
                Some("gemini-3"),
            ),
            (
                &post,
                "/v1/models/gemini-3:streamGenerateContent",
                Gemini,
                Operation::GenerateContent,
                Some("gemini-3"),
            ),
            (
                &post,
                "/v1beta/models/openai%2Fgpt-5:countTokens",
                Gemini,
                Operation::CountTokens,
                Some("openai/gpt-5"),
            ),
            (&get, "/v1/models", Chat, Operation::Models, None),
            (&get, "/v1beta/models", Gemini, Operation::Models, None),
            (&get, "/v1/models/a/b", Chat, Operation::Models, Some("a/b")),
            (&get, "/v1/realtime", Chat, Operation::Realtime, None),
        ] {
            let door = find(method, path, None).unwrap();
            let found = (door.dialect, door.operation, door.model.as_deref());
            assert_eq!(found, (dialect, operation, model), "{path}");
            assert_eq!(door.stream, path.contains("stream"), "{path}");
        }
    }

    #[test]
    fn models_are_told_in_the_dialect_that_headers_speak() {
        use DialectName::{Chat, Gemini, Messages};
        for (name, dialect) in [
            ("anthropic-version", Messages),
            ("x-goog-api-key", Gemini),
            ("accept", Chat),
        ] {
            let name = http::HeaderName::from_static(name);
            let headers = HeaderMap::from_iter([(name, "a".parse().unwrap())]);
            let door = find(&Method::GET, "/v1/models", spoken(&headers)).unwrap();
            assert_eq!(door.dialect, dialect);
        }
    }

    #[test]
    fn there_is_no_door_where_no_api_has_one() {
        for (method, path, no) in [
            (Method::GET, "/v1/chat/completions", NoDoor::Method("POST")),
            (Method::POST, "/v1/models", NoDoor::Method("GET, HEAD")),
            (Method::POST, "/v1/files", NoDoor::Unknown),
            (Method::POST, "/v1", NoDoor::Unknown),
            (Method::POST, "/", NoDoor::Unknown),
            (Method::POST, "/v1beta/models/:countTokens", NoDoor::Unknown),
            (Method::POST, "/v1beta/models/a:fly", NoDoor::Unknown),
            (Method::GET, "/v1/modelsx", NoDoor::Unknown),
        ] {
            assert_eq!(find(&method, path, None), Err(no), "{path}");
        }
    }

    #[test]
    fn a_stream_comes_as_a_list_unless_events_are_asked_for() {
        let path = "/v1beta/models/m:streamGenerateContent";
        let door = find(&Method::POST, path, None).unwrap();
        for (query, list) in [
            ("alt=sse", Some(false)),
            ("key=k&alt=sse", Some(false)),
            ("%24alt=sse", Some(true)),
            ("$alt=sse", Some(false)),
            ("", Some(true)),
            ("alt=json", Some(true)),
            ("alt=proto", None),
        ] {
            let found = door.clone().in_form_of(query);
            assert_eq!(found.ok().map(|door| door.list), list, "{query}");
        }
        let whole = find(&Method::POST, "/v1beta/models/m:generateContent", None).unwrap();
        assert!(!whole.in_form_of("alt=proto").unwrap().list);
    }

    #[test]
    fn a_name_is_what_it_was_before_it_went_into_the_path() {
        for (written, name) in [
            ("a", "a"),
            ("openai%2Fgpt-5", "openai/gpt-5"),
            ("a%2", "a%2"),
            ("a%zz%C3%BC", "a%zzü"),
            ("%FF", "%FF"),
        ] {
            assert_eq!(decoded(written), name);
        }
    }
}
