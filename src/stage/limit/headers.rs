//! How a caller is told where it stands: `RateLimit-Policy` and `RateLimit`, as
//! draft-ietf-httpapi-ratelimit-headers-10 has them, one item for each rule.

use super::quota::{Level, Quota};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Both headers of an answer.
#[derive(Debug, Clone)]
pub struct Headers {
    /// `RateLimit-Policy`: `"user";q=30;w=60`.
    pub policy: HeaderValue,
    /// `RateLimit`: `"user";r=29;t=42`; none when nothing is known.
    pub state: Option<HeaderValue>,
}

impl Headers {
    /// Of each rule its name, its quota, and how the caller stands to it if that is known.
    pub fn new<'a>(
        rules: impl Iterator<Item = (&'a str, Quota, Option<Level>)> + Clone,
    ) -> Option<Self> {
        let (mut policy, mut state) = (String::with_capacity(64), String::with_capacity(64));
        for (name, quota, level) in rules {
            write_policy(&mut policy, name, quota);
            if let Some(level) = level {
                write_state(&mut state, name, level);
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

fn write_policy(text: &mut String, name: &str, quota: Quota) {
    let comma = if text.is_empty() { "" } else { ", " };
    let limit = quota.limit();
    // Writing to a string cannot fail.
    let _ = match quota {
        Quota::Window { window_ms, .. } | Quota::Gcra { window_ms, .. } => {
            let window = window_ms / 1_000;
            write!(text, "{comma}\"{name}\";q={limit};w={window}")
        }
        Quota::InFlight { .. } => {
            write!(
                text,
                "{comma}\"{name}\";q={limit};qu=\"concurrent-requests\""
            )
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
        let rules = [
            ("user", window, Some(level(29, 41_001))),
            ("slots", Quota::InFlight { limit: 4 }, Some(level(3, 0))),
            ("unknown", window, None),
        ];
        let headers = Headers::new(rules.into_iter()).unwrap();
        let policy =
            r#""user";q=30;w=60, "slots";q=4;qu="concurrent-requests", "unknown";q=30;w=60"#;
        assert_eq!(headers.policy, policy);
        assert_eq!(headers.state.unwrap(), r#""user";r=29;t=42, "slots";r=3"#);
        assert!(Headers::new(std::iter::empty()).is_none());
    }
}
