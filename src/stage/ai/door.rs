//! What a caller came for, by the path that its SDK uses.

use super::dialect::DialectName;
use http::Method;

/// An operation of one of the APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door<'a> {
    /// In which the caller speaks, and is answered, refusals included.
    pub dialect: DialectName,
    pub operation: Operation,
    /// Where the API has it in the path.
    pub model: Option<&'a str>,
    /// Path below the version, as providers of the same API have it: `/audio/speech`. Gemini's is
    /// the verb: `:countTokens`.
    pub place: &'a str,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Words for words, whole; or as the body says.
    Generate,
    /// Words for words, in a stream.
    Stream,
    /// Anything else that a provider of this API does; passed through.
    Other,
    /// The models there are.
    Models,
    Model,
    /// A WebSocket to a model that listens and speaks.
    Realtime,
}

impl Operation {
    /// As metrics and logs say it: OpenTelemetry's `gen_ai.operation.name` where it has a word.
    pub fn name(self, place: &str) -> &'static str {
        match (self, place) {
            (Self::Generate | Self::Stream, _) => "chat",
            (Self::Models | Self::Model, _) => "models",
            (Self::Realtime, _) => "realtime",
            (Self::Other, "/embeddings" | ":embedContent" | ":batchEmbedContents") => "embeddings",
            (Self::Other, "/moderations") => "moderations",
            (Self::Other, "/completions") => "text_completion",
            (Self::Other, place) if place.starts_with("/images") => "images",
            (Self::Other, place) if place.starts_with("/audio") => "audio",
            (Self::Other, _) => "count_tokens",
        }
    }
}

/// No door: there is nothing at this path, or not by this method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoDoor {
    Unknown,
    /// These are taken.
    Method(&'static str),
}

/// What `OpenAI`'s API has beside chat and responses, and whether we pass it through.
const OPENAI_OTHERS: &[&str] = &[
    "/embeddings",
    "/moderations",
    "/completions",
    "/images/generations",
    "/images/edits",
    "/images/variations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/responses/input_tokens",
];

const GEMINI_OTHERS: &[&str] = &[":countTokens", ":embedContent", ":batchEmbedContents"];

/// Which API a path belongs to. `anthropic`: the caller sent `anthropic-version`, by which models are asked
/// for in that dialect, since the path is the same.
pub fn find<'a>(method: &Method, path: &'a str, anthropic: bool) -> Result<Door<'a>, NoDoor> {
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
    let door = |dialect, operation| Door {
        dialect,
        operation,
        model: None,
        place,
    };
    match place {
        "/chat/completions" => post(method, door(DialectName::Chat, Operation::Generate)),
        "/responses" => post(method, door(DialectName::Responses, Operation::Generate)),
        "/messages" => post(method, door(DialectName::Messages, Operation::Generate)),
        "/messages/count_tokens" => post(method, door(DialectName::Messages, Operation::Other)),
        "/realtime" => get(method, door(DialectName::Chat, Operation::Realtime)),
        "/responses/input_tokens" => post(method, door(DialectName::Responses, Operation::Other)),
        other if OPENAI_OTHERS.contains(&other) => {
            post(method, door(DialectName::Chat, Operation::Other))
        }
        other => {
            let dialect = if anthropic {
                DialectName::Messages
            } else {
                DialectName::Chat
            };
            models(method, other.strip_prefix("/models"), dialect)
        }
    }
}

fn gemini<'a>(method: &Method, rest: &'a str) -> Result<Door<'a>, NoDoor> {
    let Some((model, _)) = rest.rsplit_once(':') else {
        return models(method, Some(rest), DialectName::Gemini);
    };
    let place = &rest[model.len()..];
    let operation = match place {
        ":generateContent" => Operation::Generate,
        ":streamGenerateContent" => Operation::Stream,
        other if GEMINI_OTHERS.contains(&other) => Operation::Other,
        _ => return Err(NoDoor::Unknown),
    };
    let model = model.strip_prefix('/').filter(|model| !model.is_empty());
    let door = Door {
        dialect: DialectName::Gemini,
        operation,
        model: Some(model.ok_or(NoDoor::Unknown)?),
        place,
    };
    post(method, door)
}

fn models<'a>(
    method: &Method,
    rest: Option<&'a str>,
    dialect: DialectName,
) -> Result<Door<'a>, NoDoor> {
    let (operation, model) = match rest {
        Some("" | "/") => (Operation::Models, None),
        Some(rest) if rest.len() > 1 && rest.starts_with('/') => {
            (Operation::Model, Some(&rest[1..]))
        }
        _ => return Err(NoDoor::Unknown),
    };
    let door = Door {
        dialect,
        operation,
        model,
        place: "/models",
    };
    get(method, door)
}

fn post<'a>(method: &Method, door: Door<'a>) -> Result<Door<'a>, NoDoor> {
    if *method == Method::POST {
        Ok(door)
    } else {
        Err(NoDoor::Method("POST"))
    }
}

fn get<'a>(method: &Method, door: Door<'a>) -> Result<Door<'a>, NoDoor> {
    if [Method::GET, Method::HEAD].contains(method) {
        Ok(door)
    } else {
        Err(NoDoor::Method("GET, HEAD"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sdk_finds_its_door() {
        use DialectName::{Chat, Gemini, Messages, Responses};
        for (path, dialect, operation, model) in [
            ("/v1/chat/completions", Chat, Operation::Generate, None),
            ("/v1/responses", Responses, Operation::Generate, None),
            ("/v1/messages", Messages, Operation::Generate, None),
            (
                "/v1/messages/count_tokens",
                Messages,
                Operation::Other,
                None,
            ),
            ("/v1/audio/speech", Chat, Operation::Other, None),
            (
                "/v1beta/models/gemini-3:generateContent",
                Gemini,
                Operation::Generate,
                Some("gemini-3"),
            ),
            (
                "/v1/models/gemini-3:streamGenerateContent",
                Gemini,
                Operation::Stream,
                Some("gemini-3"),
            ),
            (
                "/v1beta/models/openai/gpt-5:countTokens",
                Gemini,
                Operation::Other,
                Some("openai/gpt-5"),
            ),
        ] {
            let door = find(&Method::POST, path, false).unwrap();
            let found = (door.dialect, door.operation, door.model);
            assert_eq!(found, (dialect, operation, model), "{path}");
        }
        for (path, anthropic, dialect, operation, model) in [
            ("/v1/models", false, Chat, Operation::Models, None),
            ("/v1/models", true, Messages, Operation::Models, None),
            ("/v1beta/models", false, Gemini, Operation::Models, None),
            ("/v1/models/a/b", false, Chat, Operation::Model, Some("a/b")),
            ("/v1/realtime", false, Chat, Operation::Realtime, None),
        ] {
            let door = find(&Method::GET, path, anthropic).unwrap();
            let found = (door.dialect, door.operation, door.model);
            assert_eq!(found, (dialect, operation, model), "{path}");
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
            assert_eq!(find(&method, path, false), Err(no), "{path}");
        }
    }
}
