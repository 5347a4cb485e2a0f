//! How an attempt came to nothing before the caller saw anything of an answer.

use crate::stage::ai::fault::{CallFault, FaultKind, ProviderFault};
use crate::stage::ai::relay::Broke;
use crate::stage::ai::retry::Failure;
use crate::stage::upstream::broken::Broken;
use bytes::Bytes;
use std::time::Duration;

#[derive(Debug)]
pub struct Failed {
    pub failure: Failure,
    /// What the caller is told, should there be no other attempt.
    pub fault: Box<ProviderFault>,
    /// The field that is wrong, where we know it.
    pub param: Option<String>,
    /// The provider's own answer, where it speaks the caller's dialect.
    pub own_words: Option<Bytes>,
    /// For the log.
    pub cause: String,
}

impl Failed {
    /// The same without our key, which some providers repeat in what they say of it.
    #[must_use]
    pub fn hiding(mut self, secret: Option<&str>) -> Self {
        let Some(secret) = secret.filter(|secret| secret.len() >= 8) else {
            return self;
        };
        for text in [&mut self.fault.message, &mut self.cause] {
            if text.contains(secret) {
                *text = text.replace(secret, "***");
            }
        }
        let shows = |body: &Bytes| memchr::memmem::find(body, secret.as_bytes()).is_some();
        self.own_words = self.own_words.filter(|body| !shows(body));
        self
    }

    pub fn said(kind: FaultKind, message: &str, retry_after: Option<Duration>) -> Self {
        Self {
            failure: Failure::Said(kind),
            fault: Box::new(ProviderFault {
                kind,
                code: None,
                message: message.to_owned(),
                retry_after,
            }),
            param: None,
            own_words: None,
            cause: message.to_owned(),
        }
    }

    /// Our own limits of the provider: it has nothing to do with it.
    pub fn full(retry_after: Option<Duration>) -> Self {
        Self {
            failure: Failure::Full,
            ..Self::said(
                FaultKind::Overloaded,
                "the provider has as much work as it is given; try again later",
                retry_after,
            )
        }
    }

    /// No key has what the call needs.
    pub fn used_up(retry_after: Duration) -> Self {
        let what = "all keys of the provider are used up for the moment";
        Self::said(FaultKind::RateLimited, what, Some(retry_after))
    }

    pub fn malformed(what: &str) -> Self {
        let message = "the provider's answer cannot be read";
        Self {
            cause: what.to_owned(),
            ..Self::said(FaultKind::Malformed, message, None)
        }
    }

    pub fn silent() -> Self {
        Self {
            failure: Failure::Silent,
            ..Self::said(
                FaultKind::Timeout,
                "the provider did not answer in time",
                None,
            )
        }
    }

    pub fn broke(broke: &Broke) -> Self {
        let fault = broke.fault();
        let failure = match broke {
            Broke::Cut => Failure::Reset,
            Broke::Fault(_) | Broke::Malformed(_) => Failure::Said(fault.kind),
        };
        let cause = match broke {
            Broke::Malformed(what) => what.clone(),
            _ => fault.message.clone(),
        };
        Self {
            failure,
            fault: Box::new(fault),
            param: None,
            own_words: None,
            cause,
        }
    }

    pub fn broken(broken: &Broken) -> Self {
        let (failure, kind, message) = match broken {
            Broken::NotConnected {
                timed_out: true, ..
            } => (
                Failure::NotConnected,
                FaultKind::Timeout,
                "the provider cannot be reached in time",
            ),
            Broken::NotConnected { .. } => (
                Failure::NotConnected,
                FaultKind::Server,
                "the provider cannot be reached",
            ),
            Broken::TimedOut => return Self::silent(),
            Broken::Malformed(what) => return Self::malformed(what),
            _ => (
                Failure::Reset,
                FaultKind::Server,
                "the provider broke off its answer",
            ),
        };
        Self {
            failure,
            cause: broken.to_string(),
            ..Self::said(kind, message, None)
        }
    }

    /// The call cannot be said in the target's dialect.
    pub fn of_call(fault: CallFault) -> Self {
        Self {
            failure: Failure::NotSaid,
            cause: fault.message.clone(),
            fault: Box::new(ProviderFault {
                kind: fault.kind,
                code: None,
                message: fault.message,
                retry_after: None,
            }),
            param: fault.param,
            own_words: None,
        }
    }
}
