//! Whether a failed attempt may be followed by another, how soon, and how many may be in all.

use crate::base::units::Percent;
use http::Method;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made: not a byte of the request has left.
    NotSent,
    /// A pooled connection was closed or reset with 0 bytes of answer.
    ReusedClosedSilent,
    /// HTTP/2 `REFUSED_STREAM`, or a stream above the last one that `GOAWAY` names.
    RefusedUnprocessed,
    /// A fresh connection broke after sending, with 0 bytes of answer.
    Reset,
    /// A whole head with this status arrived.
    Status(u16),
    /// The limit for the first byte of the answer passed.
    TimedOutFirstByte,
    /// What arrived is not HTTP.
    Malformed,
    /// The caller has seen part of the answer.
    AnswerBegun,
}

impl Failure {
    /// As the access log calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotSent => "connect_failed",
            Self::ReusedClosedSilent => "kept_connection_closed",
            Self::RefusedUnprocessed => "refused_unprocessed",
            Self::Reset => "reset",
            Self::Status(_) => "status",
            Self::TimedOutFirstByte => "timed_out",
            Self::Malformed => "malformed",
            Self::AnswerBegun => "cut",
        }
    }

    /// Whether the next attempt waits a little (see [`backoff`]): an endpoint that answered is
    /// alive and perhaps overloaded. Else the next one is tried at once.
    pub fn waits(self) -> bool {
        matches!(self, Self::Status(_))
    }
}

/// What is known of the request when an attempt has failed.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// See [`idempotent`].
    pub idempotent: bool,
    /// The body is empty, or held whole so that it can be sent again.
    pub body_replayable: bool,
    /// The failed one included.
    pub attempts_made: u32,
    pub attempts_max: u32,
    /// Statuses after which another endpoint is tried.
    pub statuses: &'a [u16],
    /// Until the total limit of the request; none: no limit.
    pub deadline_left: Option<Duration>,
    /// The pool's budget has room: ask it last ([`Budget::has_room`]), and take from it only when
    /// the attempt is made ([`Budget::take`]).
    pub budget: bool,
}

/// The table, row by row:
///
/// | failure | when | why |
/// |---|---|---|
/// | `NotSent` | always, whatever the body | nothing has left us |
/// | `ReusedClosedSilent` | any method | RFC 9112 9.3.1: a connection may be closed at any time; closed between two requests and silent, it is strong evidence that the request was not begun (RFC 9110 9.2.2 asks for "some means to detect that the original request was never applied") |
/// | `RefusedUnprocessed` | any method | RFC 9113 8.7: guaranteed not to have been processed |
/// | `Reset`, `TimedOutFirstByte`, `Malformed` | idempotent | RFC 9110 9.2.2: it may have been applied; twice does no harm |
/// | `Status` | idempotent, listed | the same |
/// | `AnswerBegun` | never | two answers cannot be mixed |
///
/// In every row attempts, time and budget must be left; in all but the first the body must be replayable.
pub fn may_retry(failure: Failure, request: Facts<'_>) -> bool {
    let room = request.attempts_made < request.attempts_max
        && request.deadline_left.is_none_or(|left| !left.is_zero())
        && request.budget;
    let repeatable = match failure {
        Failure::NotSent => return room,
        Failure::ReusedClosedSilent | Failure::RefusedUnprocessed => true,
        Failure::Reset | Failure::TimedOutFirstByte | Failure::Malformed => request.idempotent,
        Failure::Status(status) => request.idempotent && request.statuses.contains(&status),
        Failure::AnswerBegun => false,
    };
    room && repeatable && request.body_replayable
}

/// Whether sending it twice does what sending it once does (RFC 9110 9.2.2), or the caller has
/// given it an `Idempotency-Key`, and so promised the same.
pub fn idempotent(method: &Method, has_idempotency_key: bool) -> bool {
    const METHODS: [Method; 6] = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ];
    has_idempotency_key || METHODS.contains(method)
}

/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The wait before the next attempt: anywhere between 0 and `base` doubled for each attempt made
/// after the first, at most one second ("full jitter"). `random` in 0..1.
pub fn backoff(attempts_made: u32, base: Duration, random: f64) -> Duration {
    let doubled = 1_u32 << attempts_made.saturating_sub(1).min(20);
    base.saturating_mul(doubled)
        .min(BACKOFF_MAX)
        .mul_f64(random.clamp(0.0, 1.0))
}

/// Seconds that the budget looks back.
const WINDOW: usize = 10;

/// How many retries a pool may bear: a share of its requests in the last 10 s, and a few in any
/// second. Without it, three layers with three attempts each make 27 requests of one.
#[derive(Debug)]
pub struct Budget {
    share: Percent,
    per_second_min: u32,
    born: Instant,
    /// One a second: the second in the upper half, requests in the lower.
    requests: [AtomicU64; WINDOW],
    /// Rare, so a lock will do, and makes the limit exact: second and retries.
    retries: Mutex<[(u64, u32); WINDOW]>,
}

impl Budget {
    /// `per_second_min` retries are allowed in any second, whatever the share says.
    pub fn new(share: Percent, per_second_min: u32, now: Instant) -> Self {
        Self {
            share,
            per_second_min,
            born: now,
            requests: Default::default(),
            retries: Mutex::default(),
        }
    }

    /// Counts a request (not an attempt).
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        let bucket = &self.requests[place(second)];
        let _ = bucket.fetch_update(Relaxed, Relaxed, |packed| {
            let (of, count) = unpack(packed);
            let count = if of == second { count } else { 0 };
            Some(second << 32 | u64::from(count.saturating_add(1)))
        });
    }

    /// Whether a retry would be allowed now; takes nothing.
    pub fn has_room(&self, now: Instant) -> bool {
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        self.allows(&*retries, self.second(now))
    }

    /// Takes one retry from the budget; false if there is none.
    pub fn take(&self, now: Instant) -> bool {
        let second = self.second(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.allows(&*retries, second) {
            return false;
        }
        let bucket = &mut retries[place(second)];
        if bucket.0 != second {
            *bucket = (second, 0);
        }
        bucket.1 = bucket.1.saturating_add(1);
        true
    }

    fn allows(&self, retries: &[(u64, u32)], second: u64) -> bool {
        let (of, count) = retries[place(second)];
        let in_this_second = if of == second { count } else { 0 };
        if in_this_second < self.per_second_min {
            return true;
        }
        let spent: u64 = retries
            .iter()
            .filter(|(of, _)| is_recent(*of, second))
            .map(|(_, count)| u64::from(*count))
            .sum();
        spent * 100 < self.requests_before(second) * u64::from(self.share.0)
    }

    fn requests_before(&self, second: u64) -> u64 {
        self.requests
            .iter()
            .map(|bucket| unpack(bucket.load(Relaxed)))
            .filter(|(of, _)| is_recent(*of, second))
            .map(|(_, count)| u64::from(count))
            .sum()
    }

    /// Starts at 1: 0 stands for a bucket never used. Wraps after 136 years.
    fn second(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_secs();
        (age + 1) & u64::from(u32::MAX)
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second).unwrap_or(0) % WINDOW
}

fn unpack(packed: u64) -> (u64, u32) {
    let count = u32::try_from(packed & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (packed >> 32, count)
}

fn is_recent(of: u64, second: u64) -> bool {
    of != 0 && of <= second && second - of < WINDOW as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: Facts<'_> = Facts {
        idempotent: true,
        body_replayable: true,
        attempts_made: 1,
        attempts_max: 3,
        statuses: &[502, 503, 504],
        deadline_left: None,
        budget: true,
    };

    const ALL: [Failure; 9] = [
        Failure::NotSent,
        Failure::ReusedClosedSilent,
        Failure::RefusedUnprocessed,
        Failure::Reset,
        Failure::Status(503),
        Failure::Status(500),
        Failure::TimedOutFirstByte,
        Failure::Malformed,
        Failure::AnswerBegun,
    ];

    #[test]
    fn the_table_holds() {
        let post = Facts {
            idempotent: false,
            ..FACTS
        };
        let body_gone = Facts {
            body_replayable: false,
            ..FACTS
        };
        for (failure, of_get, of_post, without_body) in [
            (Failure::NotSent, true, true, true),
            (Failure::ReusedClosedSilent, true, true, false),
            (Failure::RefusedUnprocessed, true, true, false),
            (Failure::Reset, true, false, false),
            (Failure::Status(502), true, false, false),
            (Failure::Status(504), true, false, false),
            (Failure::Status(500), false, false, false),
            (Failure::TimedOutFirstByte, true, false, false),
            (Failure::Malformed, true, false, false),
            (Failure::AnswerBegun, false, false, false),
        ] {
            assert_eq!(may_retry(failure, FACTS), of_get, "GET {failure:?}");
            assert_eq!(may_retry(failure, post), of_post, "POST {failure:?}");
            assert_eq!(
                may_retry(failure, body_gone),
                without_body,
                "no body {failure:?}"
            );
        }
    }

    #[test]
    fn no_row_goes_beyond_attempts_time_or_budget() {
        for facts in [
            Facts {
                attempts_made: 3,
                ..FACTS
            },
            Facts {
                deadline_left: Some(Duration::ZERO),
                ..FACTS
            },
            Facts {
                budget: false,
                ..FACTS
            },
        ] {
            for failure in ALL {
                assert!(!may_retry(failure, facts), "{failure:?} {facts:?}");
            }
        }
    }

    #[test]
    fn methods_are_those_of_the_rfc() {
        for (method, expected) in [
            ("GET", true),
            ("PUT", true),
            ("DELETE", true),
            ("TRACE", true),
            ("POST", false),
            ("PATCH", false),
            ("CONNECT", false),
            ("PROPFIND", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(idempotent(&method, false), expected, "{method}");
            assert!(idempotent(&method, true), "{method}");
        }
    }

    #[test]
    fn the_floor_is_for_each_second() {
        let start = Instant::now();
        let budget = Budget::new(Percent(20), 3, start);
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            let taken = (0..10).filter(|_| budget.take(now)).count();
            assert_eq!(taken, 3, "second {second}");
        }
    }

    #[test]
    fn the_share_is_of_the_last_ten_seconds() {
        let start = Instant::now();
        let budget = Budget::new(Percent(20), 0, start);
        for ms in 0..100 {
            budget.request(start + Duration::from_millis(ms * 30));
        }
        for (after_s, expected) in [(3, 20), (9, 0), (10, 0), (13, 0)] {
            let now = start + Duration::from_secs(after_s);
            let taken = (0..100).filter(|_| budget.take(now)).count();
            assert_eq!(taken, expected, "after {after_s} s");
        }
        let much_later = start + Duration::from_mins(1);
        budget.request(much_later);
        let taken = (0..100).filter(|_| budget.take(much_later)).count();
        assert_eq!(taken, 1, "a fifth of one, rounded up");
        assert!(!budget.has_room(much_later));
    }

    #[test]
    fn threads_together_never_take_more_than_there_is() {
        let now = Instant::now();
        let budget = Budget::new(Percent(20), 0, now);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..1_000 {
                            budget.request(now);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| budget.take(now)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1_600);
    }

    proptest! {
        #[test]
        fn nothing_is_repeated_once_the_answer_began(
            idempotent: bool, body_replayable: bool, made in 0_u32..5, budget: bool, left in prop::option::of(0_u64..9),
        ) {
            let facts = Facts {
                idempotent, body_replayable, budget,
                attempts_made: made,
                deadline_left: left.map(Duration::from_secs),
                ..FACTS
            };
            prop_assert!(!may_retry(Failure::AnswerBegun, facts));
            for failure in ALL {
                let allowed = may_retry(failure, facts);
                prop_assert!(!allowed || (made < 3 && budget && left != Some(0)));
                prop_assert!(!allowed || failure == Failure::NotSent || body_replayable);
            }
        }

        #[test]
        fn a_backoff_is_within_its_bounds(attempts: u32, base_ms in 0_u64..10_000, random in 0.0..=1.0_f64) {
            let wait = backoff(attempts, Duration::from_millis(base_ms), random);
            prop_assert!(wait <= BACKOFF_MAX);
            if attempts <= 1 {
                prop_assert!(wait <= Duration::from_millis(base_ms));
            }
        }
    }
}
