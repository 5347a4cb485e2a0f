//! How a caller is told where it stands: `RateLimit-Policy` and `RateLimit`, as
//! draft-ietf-httpapi-ratelimit-headers-10 has them, one item for each rule.

use super::quota::{Level, Quota};
use super::rule::Unit;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;
use std::time::Duration;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// What is told of one rule.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub name: &'a str,
    pub unit: Unit,
    pub quota: Quota,
    /// None where nothing is known.
    pub level: Option<Level>,
}

/// Where a caller stands to the tightest of the rules that count the same: what `OpenAI` tells in
/// `x-ratelimit-limit-requests`, `-remaining-requests`, `-reset-requests`, and the same of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub remaining: u64,
    /// Until there is more, or until a request like this one would be allowed.
    pub reset: Duration,
}

impl Standing {
    /// By the rule of which least is left, requests in flight aside; none when nothing is known.
    pub fn tightest<'a>(unit: Unit, items: impl Iterator<Item = Item<'a>>) -> Option<Self> {
        let known = items.filter_map(|item| {
            let level = item.level?;
            let counts = item.unit == unit && item.quota.window_ms().is_some();
            counts.then(|| Self {
                limit: item.quota.limit(),
                remaining: level.remaining,
                reset: Duration::from_millis(level.after_ms),
            })
        });
        known.min_by_key(|standing| (standing.remaining, std::cmp::Reverse(standing.reset)))
    }
}

/// Both headers of an answer.
#[derive(Debug, Clone)]
pub struct Headers {
    /// `RateLimit-Policy`: `"user";q=30;w=60`.
    pub policy: HeaderValue,
    /// `RateLimit`: `"user";r=29;t=42`; none when nothing is known.
    pub state: Option<HeaderValue>,
}

impl Headers {
    /// One item of each for each rule, its state if that is known.
    pub fn new<'a>(items: impl Iterator<Item = Item<'a>>) -> Option<Self> {
        let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
        for item in items {
            write_policy(&mut policy, &item);
            if let Some(level) = item.level {
                write_state(&mut state, item.name, level);
            }
        }
        Some(Self {
            // Names of rules are letters, digits, `-` and `_`: the checks see to it.
            policy: value(policy)?,
            state: value(state),
        })
    }

    /// Puts both into an answer, in place of what an endpoint may have said.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(POLICY, self.policy.clone());
        match &self.state {
            Some(state) => drop(headers.insert(STATE, state.clone())),
            None => drop(headers.remove(STATE)),
        }
    }
}

fn value(text: String) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// The draft knows `requests`, `content-bytes` and `concurrent-requests` as units. Without a word tokens would
/// be taken for requests, so they have one, though it is not registered.
fn write_policy(text: &mut String, item: &Item<'_>) {
    let comma = if text.is_empty() { "" } else { ", " };
    let (name, limit) = (item.name, item.quota.limit());
    // Writing to a string cannot fail.
    let _ = write!(text, "{comma}\"{name}\";q={limit}");
    let _ = match (item.quota.window_ms(), item.unit) {
        (None, _) => write!(text, ";qu=\"concurrent-requests\""),
        (Some(window_ms), Unit::Requests) => write!(text, ";w={}", window_ms / 1_000),
        (Some(window_ms), Unit::Tokens) => {
            write!(text, ";qu=\"tokens\";w={}", window_ms / 1_000)
        }
    };
}

fn write_state(text: &mut String, name: &str, level: Level) {
    let comma = if text.is_empty() { "" } else { ", " };
    // What is left is left for a caller that is allowed nothing, because of another rule, too.
    let remaining = level.remaining;
    let _ = write!(text, "{comma}\"{name}\";r={remaining}");
    if level.after_ms > 0 {
        let _ = write!(text, ";t={}", level.after_ms.div_ceil(1_000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_item() {
        let window = Quota::Window {
            limit: 30,
            window_ms: 60_000,
            sliding: true,
        };
        let level = |remaining, after_ms| Level {
            allows: true,
            remaining,
            after_ms,
        };
        let item = |name, quota, unit, level| Item {
            name,
            unit,
            quota,
            level,
        };
        let slots = Quota::InFlight { limit: 4 };
        let (requests, tokens) = (Unit::Requests, Unit::Tokens);
        let rules = [
            item("user", window, requests, Some(level(29, 41_001))),
            item("slots", slots, requests, Some(level(3, 0))),
            item("all", window, requests, Some(level(30, 60_000))),
            item("cost", window, tokens, Some(level(7, 1_000))),
            item("unknown", window, tokens, None),
        ];
        let headers = Headers::new(rules.into_iter()).unwrap();
        let policy = r#""user";q=30;w=60, "slots";q=4;qu="concurrent-requests", "all";q=30;w=60, "cost";q=30;qu="tokens";w=60, "unknown";q=30;qu="tokens";w=60"#;
        assert_eq!(headers.policy, policy);
        let state = r#""user";r=29;t=42, "slots";r=3, "all";r=30;t=60, "cost";r=7;t=1"#;
        assert_eq!(headers.state.unwrap(), state);
        assert!(Headers::new(std::iter::empty()).is_none());
        for (unit, remaining, reset_ms) in [(requests, 29, 41_001), (tokens, 7, 1_000)] {
            let standing = Standing {
                limit: 30,
                remaining,
                reset: Duration::from_millis(reset_ms),
            };
            let tightest = Standing::tightest(unit, rules.into_iter());
            assert_eq!(tightest, Some(standing));
        }
        let slots = rules.into_iter().filter(|item| item.name == "slots");
        assert_eq!(Standing::tightest(requests, slots), None);
    }
}
