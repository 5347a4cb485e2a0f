//! What follows an attempt to send a batch (OTLP specification, "OTLP/HTTP response"); pure.

use std::time::Duration;

/// Attempts at one batch. With the waits between them a collector may be away for about half a minute.
pub const ATTEMPTS_MAX: u32 = 6;

/// The first wait; each is twice the one before.
const BACKOFF: Duration = Duration::from_secs(1);

/// No wait is longer, whatever the collector asks for: newer spans are worth more than these.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a collector has said; none where it could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It was taken.
    Taken,
    /// The same again after a wait.
    Again(Duration),
    /// It is lost.
    Lost,
}

/// After the attempt number `made` (the first is 1); `chance` from 0 to 1 spreads the waits of instances.
pub fn after(said: Option<Said>, made: u32, chance: f64) -> After {
    let wait = match said {
        Some(Said {
            status: 200..=299, ..
        }) => return After::Taken,
        Some(Said {
            status: 429 | 502 | 503 | 504,
            retry_after,
        }) => retry_after.map(Duration::from_secs),
        None => None,
        // What it calls wrong will be wrong again.
        Some(_) => return After::Lost,
    };
    if made >= ATTEMPTS_MAX {
        return After::Lost;
    }
    let backoff = BACKOFF * 2_u32.pow(made.saturating_sub(1));
    let wait = wait.unwrap_or_else(|| backoff.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
    After::Again(wait.min(WAIT_MAX))
}

/// How many spans a collector that took the batch did not want (`partialSuccess.rejectedSpans`: a number, or a
/// number as text).
pub fn rejected(body: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let rejected = &answer["partialSuccess"]["rejectedSpans"];
    let text = rejected.as_str().and_then(|text| text.parse().ok());
    rejected.as_u64().or(text).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(status: u16, retry_after: Option<u64>) -> Said {
        Said {
            status,
            retry_after,
        }
    }

    #[test]
    fn what_follows_an_answer() {
        let seconds = |count| After::Again(Duration::from_secs(count));
        for (answer, made, expected) in [
            (Some(said(200, None)), 1, After::Taken),
            (Some(said(202, Some(9))), 6, After::Taken),
            (None, 1, seconds(1)),
            (None, 3, seconds(4)),
            (None, 5, seconds(16)),
            (None, 6, After::Lost),
            (Some(said(503, None)), 2, seconds(2)),
            (Some(said(429, Some(7))), 1, seconds(7)),
            (Some(said(429, Some(7_000))), 1, seconds(30)),
            (Some(said(400, Some(7))), 1, After::Lost),
            (Some(said(401, None)), 1, After::Lost),
            (Some(said(500, None)), 1, After::Lost),
            (Some(said(301, None)), 1, After::Lost),
        ] {
            assert_eq!(after(answer, made, 1.0), expected, "{answer:?} {made}");
        }
    }

    #[test]
    fn what_was_not_wanted_is_read() {
        for (body, count) in [
            (&b"{}"[..], 0),
            (b"", 0),
            (
                br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#,
                3,
            ),
            (br#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
            (br#"{"partialSuccess":{"rejectedSpans":-4}}"#, 0),
        ] {
            assert_eq!(rejected(body), count, "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        #[test]
        fn attempts_and_waits_have_an_end(status in 100_u16..600, asked in prop::option::of(any::<u64>()), made in 1_u32..100, chance in 0.0..1.0_f64) {
            match after(Some(said(status, asked)), made, chance) {
                After::Again(wait) => prop_assert!(made < ATTEMPTS_MAX && wait <= WAIT_MAX),
                After::Taken | After::Lost => {}
            }
        }
    }
}
