//! The errors that providers document, each dialect in its own words.

use super::fault::Flavour;
use serde_json::{Value, json};
use std::time::Duration;

/// Something that a provider refuses or fails at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Too many requests, without a word on how long.
    RateLimit,
    /// The same with `retry-after` (seconds), or Gemini's `RetryInfo`.
    RateLimitFor(Duration),
    /// The same with `retry-after-ms`, where the dialect has it.
    RateLimitMs(u64),
    /// No money or no quota left: waiting does not help.
    Quota,
    BadKey,
    Forbidden,
    UnknownModel,
    ContextLength,
    ContentPolicy,
    TooLarge,
    Invalid,
    Server,
    Unavailable,
    /// 529 where the dialect has it, else 503.
    Overloaded,
    Timeout,
    /// Any other status.
    Status(u16),
}

/// An error, before it is written down.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    pub status: u16,
    /// `type`, or Google's `status`.
    pub kind: &'static str,
    pub code: Option<String>,
    pub message: String,
    pub param: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Google's.
    pub details: Vec<Value>,
}

impl Refusal {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            ..Self::default()
        }
    }

    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    fn detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    /// The documented error of this dialect.
    pub fn of(flavour: Flavour, trouble: Trouble) -> Self {
        match flavour {
            Flavour::Messages => anthropic(trouble),
            Flavour::Gemini => gemini(trouble),
            Flavour::Converse => bedrock(trouble),
            Flavour::Cohere => cohere(trouble),
            _ => openai(trouble),
        }
    }

    pub fn body(&self, flavour: Flavour) -> Value {
        match flavour {
            Flavour::Messages => json!({
                "type": "error",
                "error": {"type": self.kind, "message": self.message},
                "request_id": "req_scripted",
            }),
            Flavour::Converse | Flavour::Cohere => json!({ "message": self.message }),
            Flavour::Gemini => {
                let mut error =
                    json!({"code": self.status, "message": self.message, "status": self.kind});
                if !self.details.is_empty() {
                    error["details"] = json!(self.details);
                }
                json!({ "error": error })
            }
            _ => json!({"error": {
                "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
            }}),
        }
    }
}

fn openai(trouble: Trouble) -> Refusal {
    const INVALID: &str = "invalid_request_error";
    let limited = || {
        Refusal::new(
            429,
            "requests",
            "Rate limit reached for gpt-5 in organization org-scripted on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s. Visit https://platform.openai.com/account/rate-limits to learn more.",
        )
        .code("rate_limit_exceeded")
        .header("x-ratelimit-limit-requests", 3)
        .header("x-ratelimit-remaining-requests", 0)
        .header("x-ratelimit-reset-requests", "20s")
    };
    match trouble {
        Trouble::RateLimit => limited(),
        Trouble::RateLimitFor(period) => limited().header("retry-after", period.as_secs()),
        Trouble::RateLimitMs(ms) => limited().header("retry-after-ms", ms).header("retry-after", ms.div_ceil(1000)),
        Trouble::Quota => Refusal::new(429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.").code("insufficient_quota"),
        Trouble::BadKey => Refusal::new(401, INVALID, "Incorrect API key provided: sk-wrong. You can find your API key at https://platform.openai.com/account/api-keys.").code("invalid_api_key"),
        Trouble::Forbidden => Refusal::new(403, INVALID, "Project `proj_scripted` does not have access to model `gpt-5`").code("model_not_found"),
        Trouble::UnknownModel => Refusal::new(404, INVALID, "The model `none` does not exist or you do not have access to it.").code("model_not_found"),
        Trouble::ContextLength => Refusal::new(400, INVALID, "This model's maximum context length is 128000 tokens. However, your messages resulted in 128001 tokens. Please reduce the length of the messages.").code("context_length_exceeded").param("messages"),
        Trouble::ContentPolicy => Refusal::new(400, INVALID, "Your request was rejected as a result of our safety system.").code("content_policy_violation"),
        Trouble::TooLarge => Refusal::new(413, INVALID, "Request too large."),
        Trouble::Invalid => Refusal::new(400, INVALID, "Invalid value: 'scripted'.").code("invalid_value"),
        Trouble::Server => Refusal::new(500, "server_error", "The server had an error while processing your request. Sorry about that!"),
        Trouble::Unavailable | Trouble::Overloaded => Refusal::new(503, "service_unavailable_error", "The engine is currently overloaded, please try again later"),
        Trouble::Timeout => Refusal::new(504, "server_error", "The request timed out"),
        Trouble::Status(status) => Refusal::new(status, if status < 500 { INVALID } else { "server_error" }, "scripted"),
    }
}

fn anthropic(trouble: Trouble) -> Refusal {
    const INVALID: &str = "invalid_request_error";
    let limited = || {
        Refusal::new(429, "rate_limit_error", "This request would exceed your organization's rate limit of 50 requests per minute. For details, refer to: https://docs.anthropic.com/en/api/rate-limits.")
            .header("anthropic-ratelimit-requests-limit", 50)
            .header("anthropic-ratelimit-requests-remaining", 0)
            .header("anthropic-ratelimit-requests-reset", "2030-01-01T00:00:00Z")
    };
    match trouble {
        Trouble::RateLimit => limited(),
        Trouble::RateLimitFor(period) => limited().header("retry-after", period.as_secs()),
        Trouble::RateLimitMs(ms) => limited().header("retry-after-ms", ms),
        Trouble::Quota => Refusal::new(
            400,
            INVALID,
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
        ),
        Trouble::BadKey => Refusal::new(401, "authentication_error", "invalid x-api-key"),
        Trouble::Forbidden => Refusal::new(
            403,
            "permission_error",
            "Your API key does not have permission to use the specified resource.",
        ),
        Trouble::UnknownModel => Refusal::new(404, "not_found_error", "model: none"),
        Trouble::ContextLength => Refusal::new(
            400,
            INVALID,
            "prompt is too long: 208310 tokens > 200000 maximum",
        ),
        Trouble::ContentPolicy => {
            Refusal::new(400, INVALID, "Output blocked by content filtering policy")
        }
        Trouble::TooLarge => {
            Refusal::new(413, "request_too_large", "Request exceeds the maximum size")
        }
        Trouble::Invalid => Refusal::new(400, INVALID, "messages: Input should be a valid list"),
        Trouble::Server => Refusal::new(500, "api_error", "Internal server error"),
        Trouble::Unavailable => Refusal::new(503, "api_error", "Service unavailable"),
        Trouble::Overloaded => Refusal::new(529, "overloaded_error", "Overloaded"),
        Trouble::Timeout => Refusal::new(504, "timeout_error", "Request timed out"),
        Trouble::Status(402) => Refusal::new(
            402,
            "billing_error",
            "There's an issue with your billing or payment information.",
        ),
        Trouble::Status(status) => Refusal::new(
            status,
            if status < 500 { INVALID } else { "api_error" },
            "scripted",
        ),
    }
}

fn gemini(trouble: Trouble) -> Refusal {
    let limited = |quota: &str| {
        Refusal::new(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details.").detail(json!({
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": quota,
                "quotaDimensions": {"location": "global", "model": "gemini-2.5-pro"},
                "quotaValue": "2",
            }],
        }))
    };
    let minute = || limited("GenerateRequestsPerMinutePerProjectPerModel-FreeTier");
    let wait = |period: Duration| json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}s", period.as_secs_f64())});
    match trouble {
        Trouble::RateLimit => Refusal::new(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        Trouble::RateLimitFor(period) => minute().detail(wait(period)),
        Trouble::RateLimitMs(ms) => minute().detail(wait(Duration::from_millis(ms))),
        Trouble::Quota => limited("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        Trouble::BadKey => Refusal::new(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
            .detail(json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}))
            .detail(json!({"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "locale": "en-US", "message": "API key not valid. Please pass a valid API key."})),
        Trouble::Forbidden => Refusal::new(403, "PERMISSION_DENIED", "The caller does not have permission"),
        Trouble::UnknownModel => Refusal::new(404, "NOT_FOUND", "models/none is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."),
        Trouble::ContextLength => Refusal::new(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        Trouble::ContentPolicy | Trouble::Invalid => Refusal::new(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
        Trouble::TooLarge => Refusal::new(413, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
        Trouble::Server => Refusal::new(500, "INTERNAL", "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting"),
        Trouble::Unavailable | Trouble::Overloaded => Refusal::new(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        Trouble::Timeout => Refusal::new(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
        Trouble::Status(status) => Refusal::new(status, if status < 500 { "FAILED_PRECONDITION" } else { "INTERNAL" }, "scripted"),
    }
}

/// The kind goes in a header, with a place behind it.
fn bedrock(trouble: Trouble) -> Refusal {
    let (status, kind, message) = match trouble {
        Trouble::RateLimit | Trouble::RateLimitFor(_) | Trouble::RateLimitMs(_) => (
            429,
            "ThrottlingException",
            "Too many requests, please wait before trying again.",
        ),
        Trouble::Quota => (
            400,
            "ServiceQuotaExceededException",
            "Your request exceeds the service quota for your account.",
        ),
        Trouble::BadKey => (
            403,
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        Trouble::Forbidden => (
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
        ),
        Trouble::UnknownModel => (404, "ResourceNotFoundException", "Model not found."),
        Trouble::ContextLength => (
            400,
            "ValidationException",
            "Input is too long for requested model.",
        ),
        Trouble::TooLarge | Trouble::ContentPolicy | Trouble::Invalid => {
            (400, "ValidationException", "Malformed input request.")
        }
        Trouble::Server => (
            500,
            "InternalServerException",
            "The system encountered an unexpected error during processing.",
        ),
        Trouble::Unavailable | Trouble::Overloaded => (
            503,
            "ServiceUnavailableException",
            "Bedrock is unable to process your request.",
        ),
        Trouble::Timeout => (408, "ModelTimeoutException", "Model has timed out."),
        Trouble::Status(424) => (424, "ModelErrorException", "The model failed."),
        Trouble::Status(status) => (status, "ScriptedException", "scripted"),
    };
    let place = format!("{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/");
    Refusal::new(status, kind, message).header("x-amzn-errortype", place)
}

fn cohere(trouble: Trouble) -> Refusal {
    let (status, message) = match trouble {
        Trouble::RateLimit | Trouble::RateLimitFor(_) | Trouble::RateLimitMs(_) => (
            429,
            "You are using a Trial key, which is limited to 20 API calls / minute.",
        ),
        Trouble::Quota => (
            429,
            "You are using a Trial key, which is limited to 1000 API calls / month.",
        ),
        Trouble::BadKey => (401, "invalid api token"),
        Trouble::Forbidden => (403, "forbidden"),
        Trouble::UnknownModel => (404, "model 'none' not found"),
        Trouble::ContextLength => (400, "too many tokens: size limit exceeded by 11326 tokens."),
        Trouble::ContentPolicy => (498, "blocked input"),
        Trouble::TooLarge => (413, "too large"),
        Trouble::Invalid => (422, "invalid request"),
        Trouble::Server => (500, "internal server error"),
        Trouble::Unavailable | Trouble::Overloaded => (503, "service unavailable"),
        Trouble::Timeout => (504, "gateway timeout"),
        Trouble::Status(status) => (status, "scripted"),
    };
    Refusal::new(status, "", message)
}
