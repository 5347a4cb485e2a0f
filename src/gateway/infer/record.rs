//! What one call of a model came to: for the access log, the metrics, the answer's headers and the limits.

use crate::base::ending::Ending;
use crate::base::reject::Reject;
use crate::base::usage::Usage;
use crate::observe::access_log;
use crate::observe::metrics::{CallEnded, ModelMetrics};
use crate::stage::ai::dialect::DialectName;
use crate::stage::ai::event::StopReason;
use crate::stage::ai::fault::Complaint;
use crate::stage::ai::realtime::Tally;
use crate::stage::ai::tokens;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One call, from its first byte to its last.
pub struct Inference {
    /// In which the caller is answered, refusals included.
    pub dialect: DialectName,
    /// As OpenTelemetry calls it: `chat`, `embeddings`.
    pub operation: &'static str,
    /// The model as the caller named it; empty where it named none.
    pub asked: String,
    /// The one that answered, or was tried last.
    pub provider: Option<Arc<str>>,
    /// As that provider calls it.
    pub model: Option<String>,
    /// The model that says it answers; only where spans are made.
    pub answered_by: Option<String>,
    pub streamed: bool,
    pub usage: Usage,
    pub source: Source,
    /// How the answer ended, in words of one vocabulary.
    pub stop: Option<StopReason>,
    /// From the request's head to the first content.
    pub first_token: Option<Duration>,
    /// Spent on others: reading the caller's body, and waiting for providers until the answer began.
    pub waited: Duration,
    /// Of that, the wait for a place at a provider, and for a key of it.
    pub queued: Duration,
    /// Events of the provider that could not be read.
    pub malformed: u32,
    /// Where it is counted: the model at the provider that answered, or was tried last.
    pub metrics: Option<Arc<ModelMetrics>>,
    /// Whether another target was tried before.
    pub fallback: bool,
    started: Instant,
}

/// Who has counted the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody: nothing was answered.
    None,
    /// The provider.
    Reported,
    /// We, by the length of what was sent and what came: the answer broke off, or the provider does not count.
    Estimated,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reported => "reported",
            Self::Estimated => "estimated",
        }
    }
}

impl Inference {
    pub fn new(dialect: DialectName, operation: &'static str, started: Instant) -> Self {
        Self {
            dialect,
            operation,
            asked: String::new(),
            provider: None,
            model: None,
            answered_by: None,
            streamed: false,
            usage: Usage::default(),
            source: Source::None,
            stop: None,
            first_token: None,
            waited: Duration::ZERO,
            queued: Duration::ZERO,
            malformed: 0,
            metrics: None,
            fallback: false,
            started,
        }
    }

    /// Counts it, once it has ended.
    pub fn count(&self, ending: Ending, duration: Duration) {
        let Some(metrics) = &self.metrics else {
            return;
        };
        metrics.ended(&CallEnded {
            operation: self.operation,
            ending,
            duration,
            first_token: self.first_token,
            queued: self.queued,
            usage: self.usage,
            unreadable: self.malformed,
            fallback: self.fallback,
        });
    }

    /// As it is logged.
    pub fn record(&self) -> access_log::Inference<'_> {
        access_log::Inference {
            operation: self.operation,
            model: &self.asked,
            provider: self.provider.as_deref(),
            provider_model: self.model.as_deref(),
            stream: self.streamed,
            stop: self.stop.map(StopReason::name),
            usage: self.usage,
            usage_source: self.source.name(),
            queued: Some(self.queued).filter(|queued| queued.as_millis() > 0),
            first_token: self.first_token,
            tokens_per_second: self.tokens_per_second(Instant::now()),
        }
    }

    /// The body of a refusal, in the caller's dialect.
    pub fn refusal(&self, reject: &Reject, request_id: &str) -> Vec<u8> {
        let message = match &reject.rule {
            Some(rule) => format!("{} (limit `{rule}`)", reject.message()),
            None => reject.message().to_owned(),
        };
        let said = reject.said.as_ref();
        self.dialect.dialect().write_fault(&Complaint {
            status: reject.status(),
            code: reject.code(),
            message: &message,
            param: said.and_then(|said| said.param.as_deref()),
            retry_after: reject.retry_after,
            request_id,
        })
    }

    /// The first content has come.
    pub fn begun(&mut self, now: Instant) {
        self.first_token.get_or_insert(now - self.started);
    }

    /// From `since` to the first content.
    pub fn first_token_since(&self, since: Instant) -> Option<Duration> {
        let at = self.started + self.first_token?;
        Some(at.saturating_duration_since(since))
    }

    /// What the provider has counted so far, on a WebSocket.
    pub fn tallied(&mut self, tally: &Tally) {
        self.malformed = tally.unreadable;
        if tally.answers > 0 {
            self.counted(tally.usage);
        }
    }

    /// What the provider has counted.
    pub fn counted(&mut self, usage: Usage) {
        self.usage = usage;
        self.source = Source::Reported;
    }

    /// What must be guessed, since the answer broke off or the provider does not count: `words` bytes came for a
    /// prompt of about `prompt` tokens. What the provider has said before stands where it is more.
    pub fn guessed(&mut self, said: Option<Usage>, prompt: u64, words: u64) {
        let said = said.unwrap_or(Usage {
            input: prompt,
            ..Usage::default()
        });
        let unsaid = tokens::of_text(words).saturating_sub(said.total_output());
        self.usage = Usage {
            output: said.output + unsaid,
            ..said
        };
        self.source = Source::Estimated;
    }

    /// Tokens of the answer by the second, from the first one on.
    pub fn tokens_per_second(&self, now: Instant) -> Option<f64> {
        let since = now.checked_duration_since(self.started + self.first_token?)?;
        let tokens = self.usage.total_output();
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        (tokens > 0 && !since.is_zero()).then(|| f64::from(tokens) / since.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counted_is_guessed_and_said_to_be() {
        let started = Instant::now();
        let mut inference = Inference::new(DialectName::Chat, "chat", started);
        inference.guessed(None, 10, 400);
        assert_eq!(inference.source, Source::Estimated);
        assert_eq!(inference.usage.total_input(), 10);
        assert_eq!(inference.usage.total_output(), 100);
        let said = Usage {
            input: 3,
            output: 1,
            ..Usage::default()
        };
        inference.guessed(Some(said), 10, 400);
        assert_eq!(inference.usage.total_input(), 3);
        assert_eq!(inference.usage.total_output(), 100);
        let usage = Usage {
            input: 3,
            output: 20,
            ..Usage::default()
        };
        inference.counted(usage);
        assert_eq!(inference.source, Source::Reported);
        assert_eq!(inference.usage, usage);
        inference.begun(started + Duration::from_secs(1));
        let rate = inference.tokens_per_second(started + Duration::from_secs(3));
        assert!((rate.unwrap() - 10.0).abs() < 1e-9);
    }
}
