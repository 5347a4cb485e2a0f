//! The rows: each kind of provider by its name.
//!
//! Sources: the providers' API references, read in November 2026.

use super::{Auth, BasePath, Family, Habits, Kind, MaxTokens, Operation, Way};

const fn way(operation: Operation, path: &'static str) -> Way {
    Way {
        operation,
        path,
        auth: None,
        family: Family::All,
    }
}

const fn by_bearer(operation: Operation, path: &'static str) -> Way {
    Way {
        auth: Some(Auth::Bearer),
        ..way(operation, path)
    }
}

const fn of(family: Family, operation: Operation, path: &'static str) -> Way {
    Way {
        family,
        ..way(operation, path)
    }
}

const CHAT: Way = way(Operation::Chat, "/chat/completions");
const RESPONSES: Way = way(Operation::Responses, "/responses");
const EMBEDDINGS: Way = way(Operation::Embeddings, "/embeddings");
const IMAGES: Way = way(Operation::ImagesGenerations, "/images/generations");
const EDITS: Way = way(Operation::ImagesEdits, "/images/edits");
const VARIATIONS: Way = way(Operation::ImagesVariations, "/images/variations");
const SPEECH: Way = way(Operation::AudioSpeech, "/audio/speech");
const TRANSCRIPTIONS: Way = way(Operation::AudioTranscriptions, "/audio/transcriptions");
const TRANSLATIONS: Way = way(Operation::AudioTranslations, "/audio/translations");
const MODERATIONS: Way = way(Operation::Moderations, "/moderations");
const INPUT_TOKENS: Way = way(Operation::ResponsesInputTokens, "/responses/input_tokens");
const MODELS: Way = way(Operation::Models, "/models");
const REALTIME: Way = way(Operation::Realtime, "/realtime?model={model}");

const fn habits(include_usage: bool, max_tokens: MaxTokens) -> Habits {
    Habits {
        include_usage,
        max_tokens,
        retry: &[408, 409, 429, 500, 502, 503, 504],
        overloaded: &[503],
        quota: &[402],
    }
}

/// All that `OpenAI` offers through its API.
const ALL_OF_OPENAI: &[Way] = &[
    RESPONSES,
    CHAT,
    EMBEDDINGS,
    IMAGES,
    EDITS,
    VARIATIONS,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    MODERATIONS,
    MODELS,
    REALTIME,
    INPUT_TOKENS,
];

/// What Azure offers of it: all but the last.
const ALL_OF_AZURE: &[Way] = match ALL_OF_OPENAI.split_last() {
    Some((_, ways)) => ways,
    None => &[],
};

pub const OPENAI: Kind = Kind {
    name: "openai",
    base_url: Some("https://api.openai.com/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: ALL_OF_OPENAI,
    habits: habits(true, MaxTokens::Completion),
};

pub const ANTHROPIC: Kind = Kind {
    name: "anthropic",
    base_url: Some("https://api.anthropic.com"),
    base_path: BasePath::Without("/v1"),
    auth: Auth::XApiKey,
    ways: &[
        way(Operation::Messages, "/v1/messages"),
        way(Operation::MessagesCountTokens, "/v1/messages/count_tokens"),
        way(Operation::Models, "/v1/models"),
    ],
    habits: Habits {
        retry: &[408, 409, 429, 500, 502, 503, 504, 529],
        overloaded: &[503, 529],
        ..habits(false, MaxTokens::Plain)
    },
};

pub const GEMINI: Kind = Kind {
    name: "gemini",
    base_url: Some("https://generativelanguage.googleapis.com"),
    base_path: BasePath::Without("/v1beta"),
    auth: Auth::XGoogApiKey,
    ways: &[
        way(
            Operation::GenerateContent,
            "/v1beta/models/{model}:generateContent",
        ),
        way(Operation::CountTokens, "/v1beta/models/{model}:countTokens"),
        way(
            Operation::EmbedContent,
            "/v1beta/models/{model}:embedContent",
        ),
        way(
            Operation::BatchEmbedContents,
            "/v1beta/models/{model}:batchEmbedContents",
        ),
        way(Operation::Models, "/v1beta/models"),
        // Its own words in those of OpenAI, for which it wants the key in the way of OpenAI.
        by_bearer(Operation::Embeddings, "/v1beta/openai/embeddings"),
        by_bearer(
            Operation::ImagesGenerations,
            "/v1beta/openai/images/generations",
        ),
    ],
    habits: habits(false, MaxTokens::Plain),
};

/// Refuses fields that it does not know; a stream always ends with its usage.
pub const MISTRAL: Kind = Kind {
    name: "mistral",
    base_url: Some("https://api.mistral.ai/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[
        CHAT,
        EMBEDDINGS,
        MODERATIONS,
        SPEECH,
        TRANSCRIPTIONS,
        MODELS,
    ],
    habits: habits(false, MaxTokens::Plain),
};

pub const DEEPSEEK: Kind = Kind {
    name: "deepseek",
    base_url: Some("https://api.deepseek.com/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[CHAT, MODELS],
    habits: habits(true, MaxTokens::Plain),
};

/// 498: no room in its flexible tier.
pub const GROQ: Kind = Kind {
    name: "groq",
    base_url: Some("https://api.groq.com/openai/v1"),
    base_path: BasePath::Usual("/openai/v1"),
    auth: Auth::Bearer,
    ways: &[
        CHAT,
        RESPONSES,
        SPEECH,
        TRANSCRIPTIONS,
        TRANSLATIONS,
        MODELS,
    ],
    habits: Habits {
        overloaded: &[498, 503],
        ..habits(true, MaxTokens::Completion)
    },
};

pub const XAI: Kind = Kind {
    name: "xai",
    base_url: Some("https://api.x.ai/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[CHAT, RESPONSES, IMAGES, MODELS],
    habits: habits(true, MaxTokens::Completion),
};

/// 503: the load is below the rate that this customer may have, but there is no room; a moment later there is.
pub const TOGETHER: Kind = Kind {
    name: "together",
    base_url: Some("https://api.together.ai/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[
        CHAT,
        EMBEDDINGS,
        IMAGES,
        SPEECH,
        TRANSCRIPTIONS,
        TRANSLATIONS,
        MODELS,
    ],
    habits: habits(true, MaxTokens::Plain),
};

/// A gateway itself: 502 and 503 say that none of its own providers can.
pub const OPENROUTER: Kind = Kind {
    name: "openrouter",
    base_url: Some("https://openrouter.ai/api/v1"),
    base_path: BasePath::Usual("/api/v1"),
    auth: Auth::Bearer,
    ways: &[
        CHAT,
        RESPONSES,
        by_bearer(Operation::Messages, "/messages"),
        EMBEDDINGS,
        MODELS,
    ],
    habits: Habits {
        overloaded: &[502, 503],
        ..habits(true, MaxTokens::Plain)
    },
};

/// Its chat ended on the 27th of September 2026.
pub const PERPLEXITY: Kind = Kind {
    name: "perplexity",
    base_url: Some("https://api.perplexity.ai/v1"),
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[RESPONSES],
    habits: habits(false, MaxTokens::Completion),
};

/// By its version-less API, where the name of the deployment is that of the model.
pub const AZURE: Kind = Kind {
    name: "azure",
    base_url: None,
    base_path: BasePath::Usual("/openai/v1"),
    auth: Auth::ApiKey,
    ways: ALL_OF_AZURE,
    habits: Habits {
        overloaded: &[503],
        ..habits(true, MaxTokens::Completion)
    },
};

/// The same by deployments and dated versions of the API, for resources that have no version-less one.
pub const AZURE_DATED: Kind = Kind {
    base_path: BasePath::Usual("/openai"),
    ways: &[
        way(Operation::Chat, "/deployments/{model}/chat/completions"),
        way(Operation::Embeddings, "/deployments/{model}/embeddings"),
        way(
            Operation::ImagesGenerations,
            "/deployments/{model}/images/generations",
        ),
        way(Operation::ImagesEdits, "/deployments/{model}/images/edits"),
        way(Operation::AudioSpeech, "/deployments/{model}/audio/speech"),
        way(
            Operation::AudioTranscriptions,
            "/deployments/{model}/audio/transcriptions",
        ),
        way(
            Operation::AudioTranslations,
            "/deployments/{model}/audio/translations",
        ),
    ],
    ..AZURE
};

/// Words by its own chat, which tells more than the API that is compatible with `OpenAI`'s: thoughts, and what is
/// billed.
pub const COHERE: Kind = Kind {
    name: "cohere",
    base_url: Some("https://api.cohere.com"),
    base_path: BasePath::Without("/v2"),
    auth: Auth::Bearer,
    ways: &[
        way(Operation::CohereChat, "/v2/chat"),
        way(Operation::Embeddings, "/compatibility/v1/embeddings"),
    ],
    habits: Habits {
        // 498: the key is over; 499: the call was given up.
        retry: &[429, 500, 502, 503, 504],
        ..habits(false, MaxTokens::Plain)
    },
};

/// 424: the model failed. A key is one of Bedrock's own (`AWS_BEARER_TOKEN_BEDROCK`); without keys, requests are
/// signed with credentials of AWS.
pub const BEDROCK: Kind = Kind {
    name: "bedrock",
    base_url: None,
    base_path: BasePath::Usual(""),
    auth: Auth::Bearer,
    ways: &[way(Operation::Converse, "/model/{model}/converse")],
    habits: Habits {
        retry: &[408, 424, 429, 500, 502, 503, 504],
        ..habits(false, MaxTokens::Plain)
    },
};

/// Below a project and a location; what is shown is a token that a service account is given.
pub const VERTEX: Kind = Kind {
    name: "vertex",
    base_url: None,
    base_path: BasePath::Without("/v1"),
    auth: Auth::Bearer,
    ways: &[
        of(
            Family::Others,
            Operation::GenerateContent,
            "/publishers/google/models/{model}:generateContent",
        ),
        of(
            Family::Claude,
            Operation::Messages,
            "/publishers/anthropic/models/{model}:rawPredict",
        ),
        of(
            Family::Others,
            Operation::CountTokens,
            "/publishers/google/models/{model}:countTokens",
        ),
    ],
    habits: Habits {
        overloaded: &[503, 529],
        ..habits(false, MaxTokens::Plain)
    },
};

/// Any server that speaks like `OpenAI`: Ollama, vLLM, llama.cpp and many others.
pub const COMPATIBLE: Kind = Kind {
    name: "compatible",
    base_url: None,
    base_path: BasePath::Usual("/v1"),
    auth: Auth::Bearer,
    ways: &[
        CHAT,
        EMBEDDINGS,
        IMAGES,
        SPEECH,
        TRANSCRIPTIONS,
        TRANSLATIONS,
        MODERATIONS,
        MODELS,
    ],
    habits: habits(true, MaxTokens::Plain),
};

pub static KINDS: &[&Kind] = &[
    &OPENAI,
    &ANTHROPIC,
    &GEMINI,
    &MISTRAL,
    &DEEPSEEK,
    &GROQ,
    &XAI,
    &TOGETHER,
    &OPENROUTER,
    &PERPLEXITY,
    &AZURE,
    &COHERE,
    &BEDROCK,
    &VERTEX,
    &COMPATIBLE,
];
