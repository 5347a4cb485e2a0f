//! What goes wrong between a caller and a model, in the stable words of one vocabulary.

use std::time::Duration;

/// What kind of failure it is: the code beside each dialect's own words, and the status they are told with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The call itself is wrong.
    InvalidRequest,
    ContextLength,
    ContentPolicy,
    /// The credential is wrong.
    Authentication,
    /// No money, or none left.
    Payment,
    Permission,
    NotFound,
    TooLarge,
    /// Too many requests or tokens now; soon it may work.
    RateLimited,
    /// A quota is used up: waiting a moment does not help.
    Quota,
    /// The provider failed.
    Server,
    Overloaded,
    Timeout,
    /// The provider's answer cannot be read.
    Malformed,
}

impl FaultKind {
    /// Status and stable code.
    pub fn describe(self) -> (u16, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid_request"),
            Self::ContextLength => (400, "context_length_exceeded"),
            Self::ContentPolicy => (400, "content_policy_violation"),
            Self::Authentication => (401, "authentication"),
            Self::Payment => (402, "payment_required"),
            Self::Permission => (403, "permission_denied"),
            Self::NotFound => (404, "not_found"),
            Self::TooLarge => (413, "payload_too_large"),
            Self::RateLimited => (429, "rate_limit_exceeded"),
            Self::Quota => (429, "insufficient_quota"),
            Self::Server => (502, "provider_failed"),
            Self::Malformed => (502, "provider_malformed"),
            Self::Overloaded => (503, "provider_overloaded"),
            Self::Timeout => (504, "timeout"),
        }
    }

    pub fn status(self) -> u16 {
        self.describe().0
    }

    pub fn code(self) -> &'static str {
        self.describe().1
    }

    /// The kind that a status alone says, where the body says nothing better.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Authentication,
            402 => Self::Payment,
            403 => Self::Permission,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            413 => Self::TooLarge,
            429 => Self::RateLimited,
            498 | 503 | 529 => Self::Overloaded,
            400..=499 => Self::InvalidRequest,
            _ => Self::Server,
        }
    }
}

/// What a provider says went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderFault {
    pub kind: FaultKind,
    /// The provider's own word: `insufficient_quota`, `RESOURCE_EXHAUSTED`.
    pub code: Option<String>,
    /// For the caller, at most [`MESSAGE_BYTES_MAX`].
    pub message: String,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

/// Longer messages are cut.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// A call that cannot be read, or not be said in another dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFault {
    pub kind: FaultKind,
    /// For the caller, who can mend it.
    pub message: String,
    /// The field: `messages[2].content`.
    pub param: Option<String>,
}

impl CallFault {
    /// `message` is told with the field, which some dialects have no other place for.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        Self {
            kind: FaultKind::InvalidRequest,
            message: with_field(&param, message.into()),
            param: Some(param),
        }
    }
}

/// `is required` as `` `model` is required ``, unless the field is named already.
fn with_field(param: &str, message: String) -> String {
    let field = format!("`{param}`");
    let verb = ["must ", "is ", "may "]
        .iter()
        .any(|verb| message.starts_with(verb));
    if param.is_empty() || message.contains(&field) {
        message
    } else if verb {
        format!("{field} {message}")
    } else {
        format!("{field}: {message}")
    }
}

/// Something a provider sent that is not of its dialect; for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// What the caller is told, before it is said in a dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint<'a> {
    /// The status the answer has, or would have had.
    pub status: u16,
    /// Ours: of [`FaultKind::code`] or of the gateway's own refusals.
    pub code: &'a str,
    pub message: &'a str,
    pub param: Option<&'a str>,
    pub retry_after: Option<Duration>,
    pub request_id: &'a str,
}
