//! What follows a failed attempt: the same provider again, another key, another target, or the truth.
//!
//! Each dialect's `read_fault` says which kind of failure a provider's answer is; here is what follows a kind.

use super::fault::FaultKind;
use std::time::Duration;

/// Attempts of one request, over all targets.
pub const ATTEMPTS_MAX: u32 = 8;

/// How an attempt failed, before the caller saw anything of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection: nothing was sent.
    NotConnected,
    /// The connection broke before the answer had begun.
    Reset,
    /// Nothing came in time.
    Silent,
    /// The call cannot be said in the target's dialect: nothing was sent.
    NotSaid,
    /// The provider has as much work as we give it, and so many wait already, or waited in vain: nothing was sent.
    Full,
    /// The provider said so, or what it said could not be read.
    Said(FaultKind),
}

impl Failure {
    /// As it is logged and counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConnected => "connect_failed",
            Self::Reset => "reset",
            Self::Silent => "timed_out",
            Self::NotSaid => "not_translatable",
            Self::Full => "queue_full",
            Self::Said(kind) => kind.code(),
        }
    }

    /// Whether it speaks against the provider: a caller's mistake does not, nor a key's quota.
    pub fn blames_provider(self) -> bool {
        match self {
            Self::NotConnected | Self::Reset | Self::Silent => true,
            Self::NotSaid | Self::Full => false,
            Self::Said(kind) => matches!(
                kind,
                FaultKind::Server
                    | FaultKind::Overloaded
                    | FaultKind::Timeout
                    | FaultKind::Malformed
            ),
        }
    }

    /// Whether it speaks against the key: another one may do.
    pub fn blames_key(self) -> bool {
        matches!(
            self,
            Self::Said(
                FaultKind::Authentication
                    | FaultKind::Permission
                    | FaultKind::Payment
                    | FaultKind::Quota
                    | FaultKind::RateLimited
            )
        )
    }
}

/// What is known when it must be decided.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub failure: Failure,
    /// As the provider asks.
    pub retry_after: Option<Duration>,
    /// Attempts at this target so far, at least 1, and how many there may be.
    pub here: u32,
    pub here_max: u32,
    /// Attempts at all targets so far.
    pub all: u32,
    /// Whether another target is left.
    pub others: bool,
    /// Whether another key of this provider may be used now.
    pub other_keys: bool,
    /// What the model's `fallback_on` says of this kind of refusal.
    pub falls_back: bool,
    /// What is left of the time for all of it.
    pub left: Duration,
    /// The wait by backoff, should one be needed.
    pub backoff: Duration,
    /// The longest wait that is worth it; a caller that must wait longer is told so.
    pub wait_max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The same target after this time; with another key if there is one.
    Again(Duration),
    /// The next target.
    Next,
    /// The caller is told.
    Tell,
}

pub fn after(facts: Facts) -> After {
    if facts.all >= ATTEMPTS_MAX {
        return After::Tell;
    }
    let next = if facts.others {
        After::Next
    } else {
        After::Tell
    };
    let again = |wait: Duration| {
        if facts.here < facts.here_max && wait < facts.left {
            After::Again(wait)
        } else {
            next
        }
    };
    match facts.failure {
        Failure::Said(FaultKind::ContextLength | FaultKind::ContentPolicy) if facts.falls_back => {
            next
        }
        Failure::Said(
            FaultKind::InvalidRequest
            | FaultKind::TooLarge
            | FaultKind::ContextLength
            | FaultKind::ContentPolicy,
        ) => After::Tell,
        // Who waited for a place has had its turn.
        Failure::NotSaid | Failure::Full | Failure::Said(FaultKind::NotFound) => next,
        Failure::Said(_) if facts.failure.blames_key() && facts.other_keys => {
            After::Again(Duration::ZERO)
        }
        Failure::Said(FaultKind::RateLimited) => rate_limited(facts, next, again),
        // A silent provider is not asked again: the caller has waited for it once. And no key of its own mends
        // what is wrong with the gateway's account.
        Failure::Silent
        | Failure::Said(
            FaultKind::Timeout
            | FaultKind::Authentication
            | FaultKind::Permission
            | FaultKind::Payment
            | FaultKind::Quota,
        ) => next,
        Failure::Said(FaultKind::Overloaded) | Failure::NotConnected if facts.others => next,
        Failure::Said(FaultKind::Overloaded | FaultKind::Server) => {
            let wait = facts.retry_after.unwrap_or_default().max(facts.backoff);
            if wait > facts.wait_max {
                next
            } else {
                again(wait)
            }
        }
        Failure::NotConnected | Failure::Reset | Failure::Said(FaultKind::Malformed) => {
            again(facts.backoff)
        }
    }
}

/// Waits as long as the provider asks, if that is short; else another provider answers sooner.
fn rate_limited(facts: Facts, next: After, again: impl Fn(Duration) -> After) -> After {
    match facts.retry_after {
        Some(wait) if wait <= facts.wait_max => again(wait),
        Some(_) => next,
        None if facts.others => next,
        None => again(facts.backoff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(failure: Failure) -> Facts {
        Facts {
            failure,
            retry_after: None,
            here: 1,
            here_max: 2,
            all: 1,
            others: true,
            other_keys: false,
            falls_back: false,
            left: Duration::from_mins(1),
            backoff: Duration::from_millis(300),
            wait_max: Duration::from_secs(5),
        }
    }

    #[test]
    fn each_kind_of_failure_is_followed_by_what_may_mend_it() {
        use Failure::{Full, NotConnected, NotSaid, Reset, Said, Silent};
        use FaultKind as Kind;
        let again = After::Again(Duration::from_millis(300));
        for (failure, with_others, alone) in [
            (Said(Kind::InvalidRequest), After::Tell, After::Tell),
            (Said(Kind::ContextLength), After::Tell, After::Tell),
            (Said(Kind::ContentPolicy), After::Tell, After::Tell),
            (Said(Kind::NotFound), After::Next, After::Tell),
            (Said(Kind::Authentication), After::Next, After::Tell),
            (Said(Kind::Quota), After::Next, After::Tell),
            (Said(Kind::RateLimited), After::Next, again),
            (Said(Kind::Overloaded), After::Next, again),
            (Said(Kind::Server), again, again),
            (Said(Kind::Malformed), again, again),
            (Said(Kind::Timeout), After::Next, After::Tell),
            (Silent, After::Next, After::Tell),
            (NotSaid, After::Next, After::Tell),
            (Full, After::Next, After::Tell),
            (NotConnected, After::Next, again),
            (Reset, again, again),
        ] {
            let facts = facts(failure);
            assert_eq!(after(facts), with_others, "{failure:?} with others");
            let alone_facts = Facts {
                others: false,
                ..facts
            };
            assert_eq!(after(alone_facts), alone, "{failure:?} alone");
            let spent = Facts { here: 2, ..facts };
            assert!(!matches!(after(spent), After::Again(_)), "{failure:?}");
            let spent = Facts {
                all: ATTEMPTS_MAX,
                ..facts
            };
            assert_eq!(after(spent), After::Tell, "{failure:?} too often");
        }
    }

    #[test]
    fn a_provider_that_says_when_is_obeyed_if_that_is_soon() {
        for (wait_s, others, left_s, expected) in [
            (1, true, 60, After::Again(Duration::from_secs(1))),
            (6, true, 60, After::Next),
            (5, false, 60, After::Again(Duration::from_secs(5))),
            (60, false, 600, After::Tell),
            (5, false, 3, After::Tell),
        ] {
            let facts = Facts {
                retry_after: Some(Duration::from_secs(wait_s)),
                others,
                left: Duration::from_secs(left_s),
                ..facts(Failure::Said(FaultKind::RateLimited))
            };
            assert_eq!(after(facts), expected, "{wait_s} s");
        }
    }

    #[test]
    fn another_key_is_tried_at_once() {
        let facts = Facts {
            other_keys: true,
            others: false,
            ..facts(Failure::Said(FaultKind::Quota))
        };
        assert_eq!(after(facts), After::Again(Duration::ZERO));
    }

    #[test]
    fn a_call_that_is_too_long_goes_elsewhere_only_if_that_is_wanted() {
        let facts = Facts {
            falls_back: true,
            ..facts(Failure::Said(FaultKind::ContextLength))
        };
        assert_eq!(after(facts), After::Next);
    }
}
