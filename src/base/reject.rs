//! Every "no" the gateway says, in one table: status, stable code, sentence.

use std::time::Duration;

/// Why a request is refused, as the caller may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectKind {
    BadRequest,
    VersionNotSupported,
    HeadTimedOut,
    NoRoute,
    MethodNotAllowed,
    /// No credential, where one is needed.
    UnknownCaller,
    InvalidCredential,
    ExpiredCredential,
    CertificateRequired,
    /// Who is calling is known, and may not.
    NotAllowed,
    IdentityUnavailable,
    OriginNotAllowed,
    UpgradeNotAllowed,
    BodyTooLarge,
    HeadTooLarge,
    TooManyWebSockets,
    LimitReached,
    /// It alone asks for more tokens than a rule ever allows.
    TooManyTokens,
    LimitsUnavailable,
    TooManyRequests,
    NoHealthyEndpoint,
    QueueFull,
    Overloaded,
    Draining,
    ConnectFailed,
    UpstreamFailed,
    ConnectTimedOut,
    FirstByteTimedOut,
    IdleTimedOut,
    TotalTimedOut,
    BodyTimedOut,
    /// No model of this name may be asked here.
    UnknownModel,
    /// A call of a model that cannot be understood, or not be said to the provider.
    BadCall,
    /// The provider will not answer to this call.
    ProviderRefused,
    ProviderFailed,
    Internal,
}

impl RejectKind {
    /// Status, stable code, sentence: what the caller is told.
    #[expect(clippy::too_many_lines, reason = "one row for each")]
    pub fn describe(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad_request", "the request cannot be understood"),
            Self::VersionNotSupported => (
                505,
                "version_not_supported",
                "this version of HTTP is not spoken here",
            ),
            Self::HeadTimedOut => (
                408,
                "head_timed_out",
                "the request head did not arrive in time",
            ),
            Self::NoRoute => (404, "no_route", "no route matches this request"),
            Self::MethodNotAllowed => (
                405,
                "method_not_allowed",
                "this path does not take this method",
            ),
            Self::OriginNotAllowed => (
                403,
                "origin_not_allowed",
                "this origin may not open a WebSocket here",
            ),
            Self::UpgradeNotAllowed => (
                403,
                "upgrade_not_allowed",
                "this route does not take WebSockets",
            ),
            Self::BodyTooLarge => (
                413,
                "body_too_large",
                "the request body is larger than this route allows",
            ),
            Self::HeadTooLarge => (431, "head_too_large", "the request head is too large"),
            Self::TooManyWebSockets => (
                429,
                "too_many_websockets",
                "too many WebSockets are open; close one or try again later",
            ),
            Self::LimitReached => (429, "limit_reached", "slow down and try again later"),
            Self::TooManyTokens => (
                413,
                "too_many_tokens",
                "the request asks for more tokens than its limit ever allows",
            ),
            Self::LimitsUnavailable => (503, "limits_unavailable", "limits cannot be checked"),
            Self::TooManyRequests => (429, "too_many_requests", "slow down; try again later"),
            Self::NoHealthyEndpoint => (503, "no_healthy_endpoint", "the service is not available"),
            Self::QueueFull => (503, "queue_full", "the service is busy; try again later"),
            Self::Overloaded => (503, "overloaded", "the gateway is busy; try again later"),
            Self::Draining => (503, "draining", "this instance is about to stop; try again"),
            Self::ConnectFailed => (502, "connect_failed", "the service cannot be reached"),
            Self::UpstreamFailed => (502, "upstream_failed", "the service broke off its answer"),
            Self::ConnectTimedOut => (
                504,
                "connect_timed_out",
                "the service did not accept the connection in time",
            ),
            Self::FirstByteTimedOut => (
                504,
                "first_byte_timed_out",
                "the service did not begin to answer in time",
            ),
            Self::IdleTimedOut => (504, "idle_timed_out", "the service stopped answering"),
            Self::TotalTimedOut => (
                504,
                "total_timed_out",
                "the request took longer than this route allows",
            ),
            Self::BodyTimedOut => (
                408,
                "body_timed_out",
                "the request body did not arrive in time",
            ),
            Self::UnknownModel => (404, "model_not_found", "there is no such model here"),
            Self::BadCall => (400, "invalid_request", "the call cannot be understood"),
            Self::ProviderRefused => (400, "provider_refused", "the provider refused the call"),
            Self::ProviderFailed => (502, "provider_failed", "no provider of this model answered"),
            Self::UnknownCaller => (401, "unknown_caller", "present a valid credential"),
            Self::InvalidCredential => (
                401,
                "invalid_credential",
                "the credential is not valid here",
            ),
            Self::ExpiredCredential => (
                401,
                "expired_credential",
                "the credential has expired; get a new one",
            ),
            Self::CertificateRequired => (
                403,
                "certificate_required",
                "this route is for holders of a client certificate",
            ),
            Self::NotAllowed => (403, "not_allowed", "this route is not for this caller"),
            Self::IdentityUnavailable => (
                503,
                "identity_unavailable",
                "the credential cannot be checked now; try again later",
            ),
            Self::Internal => (500, "internal", "the gateway failed; quote the request id"),
        }
    }

    /// What `WWW-Authenticate` says, which every 401 must carry (RFC 9110 11.6.1, RFC 6750 3).
    pub fn challenge(self) -> Option<&'static str> {
        match self {
            Self::UnknownCaller => Some("Bearer realm=\"onemind\""),
            Self::InvalidCredential => Some("Bearer realm=\"onemind\", error=\"invalid_token\""),
            Self::ExpiredCredential => Some(
                "Bearer realm=\"onemind\", error=\"invalid_token\", error_description=\"expired\"",
            ),
            _ => None,
        }
    }

    pub fn status(self) -> u16 {
        self.describe().0
    }

    pub fn code(self) -> &'static str {
        self.describe().1
    }
}

/// A refusal: what the caller is told, and the truth for the log.
#[derive(Debug, Clone)]
pub struct Reject {
    pub kind: RejectKind,
    /// The cause, for the log only.
    pub internal: String,
    /// When to try again, sent as `Retry-After` (whole seconds, rounded up).
    pub retry_after: Option<Duration>,
    /// Methods the path does take, sent as `Allow` with 405.
    pub allow: Option<String>,
    /// The rule of `limits` that refuses, told in the body.
    pub rule: Option<String>,
    /// What the caller is told in place of the table's words.
    pub said: Option<Box<Said>>,
}

/// A refusal in words of its own, as of a model's provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// The field of the body that is wrong.
    pub param: Option<String>,
}

impl Reject {
    pub fn status(&self) -> u16 {
        self.said
            .as_ref()
            .map_or_else(|| self.kind.status(), |said| said.status)
    }

    pub fn code(&self) -> &'static str {
        self.said
            .as_ref()
            .map_or_else(|| self.kind.code(), |said| said.code)
    }

    pub fn message(&self) -> &str {
        self.said
            .as_ref()
            .map_or_else(|| self.kind.describe().2, |said| &said.message)
    }
}

impl RejectKind {
    pub fn because(self, internal: impl ToString) -> Reject {
        Reject {
            kind: self,
            internal: internal.to_string(),
            retry_after: None,
            allow: None,
            rule: None,
            said: None,
        }
    }
}

impl From<RejectKind> for Reject {
    fn from(kind: RejectKind) -> Self {
        kind.because("")
    }
}
