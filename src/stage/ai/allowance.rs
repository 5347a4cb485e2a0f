//! What a provider says is left of a key's limits, and when that will do for a call.
//!
//! Sources: `OpenAI` "Rate limits", headers `x-ratelimit-*`, which Groq, Together and Azure send as well; Anthropic
//! "Rate limits", response headers `anthropic-ratelimit-*`. All of them refill all the time: what they call reset is
//! when a limit would be whole again.

use super::wait::{WAIT_MAX, span};
use http::HeaderMap;
use http::header::DATE;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Models of which one key's limits are known at once.
const MODELS_MAX: usize = 64;

/// Rounding must not let a call go a moment too soon.
const MARGIN: Duration = Duration::from_millis(1);

/// What a call needs of a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Need<'a> {
    /// As the provider calls it: limits are counted for each model.
    pub model: &'a str,
    /// Tokens of the prompt, at a guess.
    pub prompt: u64,
    /// Tokens of the longest answer, 0 where the caller does not limit it.
    pub answer: u64,
}

/// What one answer's headers say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Allowance {
    requests: Option<Left>,
    /// Of prompt and answer together.
    tokens: Option<Left>,
    /// Of prompts alone.
    input: Option<Left>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Left {
    remaining: u64,
    limit: Option<u64>,
    /// Until it would be whole again.
    reset: Duration,
}

impl Allowance {
    /// Nothing where the headers say nothing that can be read. Moments are counted from the answer's own `date`,
    /// so that our clock does not matter.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let openai = |what: &str| {
            let of = |part: &str| format!("x-ratelimit-{part}-{what}");
            Some(Left {
                remaining: number(&of("remaining"))?,
                limit: number(&of("limit")),
                reset: span(text(&of("reset"))?)?,
            })
        };
        let sent = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
        let anthropic = |what: &str| {
            let of = |part: &str| format!("anthropic-ratelimit-{what}-{part}");
            let reset = moment(text(&of("reset"))?)?.duration_since(sent?);
            Some(Left {
                remaining: number(&of("remaining"))?,
                limit: number(&of("limit")),
                reset: reset.unwrap_or_default().min(WAIT_MAX),
            })
        };
        let input = anthropic("input-tokens");
        Self {
            requests: openai("requests").or_else(|| anthropic("requests")),
            tokens: openai("tokens").or_else(|| anthropic("tokens").filter(|_| input.is_none())),
            input,
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `2026-01-31T12:00:00Z` (RFC 3339 section 5.6, in UTC as all providers write it); what is less than a second is
/// passed over.
fn moment(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let three = |text: &str, by: char| {
        let mut parts = text.splitn(3, by).map(|part| part.parse::<u64>().ok());
        Some([parts.next()??, parts.next()??, parts.next()??])
    };
    let [year, month, day] = three(date, '-')?;
    let whole = time.split('.').next().unwrap_or_default();
    let [hour, minute, second] = three(whole, ':')?;
    let valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let days = valid.then(|| days_since_1970(year, month, day))?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`, from 1970 on.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + days - 719_468
}

/// What is known of one key's limits, by model.
#[derive(Debug, Default)]
pub struct Learned {
    by_model: HashMap<Box<str>, Known>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    input: Option<Bucket>,
}

/// What is left, as it refills.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// What was there at `at`; below zero when more was taken than there was.
    level: f64,
    at: Instant,
    /// In a second; none where the limit is unknown: then all comes back at `whole`.
    rate: Option<f64>,
    limit: f64,
    whole: Instant,
}

impl Learned {
    /// The newest answer is believed.
    pub fn learn(&mut self, model: &str, allowance: &Allowance, now: Instant) {
        if self.by_model.len() >= MODELS_MAX && !self.by_model.contains_key(model) {
            self.by_model.retain(|_, known| !known.is_over(now));
            if self.by_model.len() >= MODELS_MAX {
                self.by_model.clear();
            }
        }
        let bucket = |left: Option<Left>| Bucket::of(left?, now);
        let known = Known {
            requests: bucket(allowance.requests),
            tokens: bucket(allowance.tokens),
            input: bucket(allowance.input),
        };
        self.by_model.insert(model.into(), known);
    }

    /// When there will be enough; none: now, for all that is known.
    pub fn enough_at(&self, need: &Need<'_>, now: Instant) -> Option<Instant> {
        let known = self.by_model.get(need.model)?;
        let needs = known.with(need);
        let waits = needs
            .into_iter()
            .filter_map(|(bucket, need)| bucket?.enough_at(need, now));
        waits.max()
    }

    /// The call is made: until its answer tells more, that much less is left.
    pub fn take(&mut self, need: &Need<'_>, now: Instant) {
        let Some(known) = self.by_model.get_mut(need.model) else {
            return;
        };
        let [(_, one), (_, all), (_, prompt)] = known.with(need);
        let Known {
            requests,
            tokens,
            input,
        } = known;
        for (bucket, need) in [(requests, one), (tokens, all), (input, prompt)] {
            if let Some(bucket) = bucket {
                bucket.take(need, now);
            }
        }
    }
}

impl Known {
    /// What is known of each limit, and what the call takes of it.
    fn with(&self, need: &Need<'_>) -> [(Option<Bucket>, f64); 3] {
        let units = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        [
            (self.requests, 1.0),
            (self.tokens, units(need.prompt.saturating_add(need.answer))),
            (self.input, units(need.prompt)),
        ]
    }

    fn is_over(&self, now: Instant) -> bool {
        let all = [self.requests, self.tokens, self.input];
        all.into_iter().flatten().all(|bucket| bucket.whole <= now)
    }
}

impl Bucket {
    /// None where all of it is there.
    fn of(left: Left, now: Instant) -> Option<Self> {
        if left.reset.is_zero() || left.limit.is_some_and(|limit| limit <= left.remaining) {
            return None;
        }
        let units = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let level = units(left.remaining);
        let limit = left.limit.map(units);
        Some(Self {
            level,
            at: now,
            rate: limit.map(|limit| (limit - level) / left.reset.as_secs_f64()),
            limit: limit.unwrap_or(f64::INFINITY),
            whole: now + left.reset,
        })
    }

    fn enough_at(&self, need: f64, now: Instant) -> Option<Instant> {
        // What is more than all of it goes when all of it is there.
        let short = need.min(self.limit) - self.level;
        if short <= 0.0 {
            return None;
        }
        let at = match self.rate {
            Some(rate) if rate > 0.0 => {
                let wait = Duration::try_from_secs_f64(short / rate).unwrap_or(WAIT_MAX);
                self.at + wait.min(WAIT_MAX) + MARGIN
            }
            _ => self.whole,
        };
        (at > now).then_some(at)
    }

    fn take(&mut self, need: f64, now: Instant) {
        if let Some(rate) = self.rate {
            let since = now.saturating_duration_since(self.at).as_secs_f64();
            self.level = rate.mul_add(since, self.level).min(self.limit);
            self.at = now;
            self.whole = self.whole.max(now)
                + Duration::try_from_secs_f64(need / rate)
                    .unwrap_or(WAIT_MAX)
                    .min(WAIT_MAX);
        } else if self.whole <= now {
            return;
        }
        self.level -= need;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn read(headers: &[(&'static str, &str)]) -> Allowance {
        let pairs = headers.iter().map(|(name, value)| {
            let value = http::HeaderValue::from_str(value).unwrap();
            (http::HeaderName::from_static(name), value)
        });
        Allowance::read(&pairs.collect())
    }

    fn left(remaining: u64, limit: Option<u64>, reset_ms: u64) -> Left {
        Left {
            remaining,
            limit,
            reset: MS(reset_ms),
        }
    }

    #[test]
    fn what_openai_and_its_like_say_is_read() {
        let tokens = |left| Allowance {
            tokens: Some(left),
            ..Allowance::default()
        };
        let all = read(&[
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1m0s"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6ms"),
        ]);
        let expected = Allowance {
            requests: Some(left(0, Some(60), 60_000)),
            ..tokens(left(149_984, Some(150_000), 6))
        };
        assert_eq!(all, expected);
        let part = read(&[
            ("x-ratelimit-remaining-tokens", "7"),
            ("x-ratelimit-reset-tokens", "2.5s"),
        ]);
        assert_eq!(part, tokens(left(7, None, 2_500)));
        let nonsense = read(&[
            ("x-ratelimit-remaining-tokens", "-5"),
            ("x-ratelimit-reset-tokens", "soon"),
        ]);
        assert!(nonsense.is_empty() && read(&[]).is_empty());
    }

    #[test]
    fn what_anthropic_says_is_counted_from_its_own_clock() {
        let said = [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-01-31T12:00:01Z"),
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", "2026-01-31T12:00:02Z"),
        ];
        let input = [
            ("anthropic-ratelimit-input-tokens-remaining", "3000"),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-01-31T12:01:00.5Z",
            ),
        ];
        let date = [("date", "Sat, 31 Jan 2026 12:00:00 GMT")];
        let requests = Allowance {
            requests: Some(left(49, Some(50), 1_000)),
            ..Allowance::default()
        };
        let whole = Allowance {
            tokens: Some(left(0, None, 2_000)),
            ..requests
        };
        assert_eq!(read(&[&date[..], &said[..]].concat()), whole);
        // Where prompts have a limit of their own, that is the one to know.
        let apart = Allowance {
            input: Some(left(3_000, None, 60_000)),
            ..requests
        };
        assert_eq!(read(&[&date[..], &said[..], &input[..]].concat()), apart);
        assert!(read(&said).is_empty(), "no moment to count from");
    }

    #[test]
    fn moments_are_read_and_nonsense_is_not() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2026-01-31T12:00:00.123456Z", Some(1_769_860_800)),
            ("2026-13-31T12:00:00Z", None),
            ("2026-01-31T12:00:00", None),
            ("2026-01-31 12:00:00Z", None),
            ("", None),
        ] {
            let expected = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(moment(text), expected, "{text}");
        }
    }

    #[test]
    fn a_limit_that_refills_is_waited_for_as_long_as_the_call_needs() {
        // Remaining, limit, reset in ms; the call's tokens; the wait in ms.
        for (remaining, limit, reset, tokens, wait) in [
            (1_000, Some(2_000), 10_000, 500, None),
            (1_000, Some(2_000), 10_000, 1_500, Some(5_001)),
            (0, Some(2_000), 10_000, 100, Some(501)),
            (0, Some(2_000), 10_000, 9_000, Some(10_001)),
            // Nobody says how large it is: all of it comes at once.
            (99, None, 3_000, 100, Some(3_000)),
            (100, None, 3_000, 100, None),
            (2_000, Some(2_000), 10_000, 9_000, None),
            (0, Some(2_000), 0, 100, None),
        ] {
            let now = Instant::now();
            let mut learned = Learned::default();
            let allowance = Allowance {
                tokens: Some(left(remaining, limit, reset)),
                ..Allowance::default()
            };
            learned.learn("m", &allowance, now);
            let need = |model| Need {
                model,
                prompt: tokens,
                answer: 0,
            };
            let told = learned.enough_at(&need("m"), now);
            assert_eq!(
                told,
                wait.map(|wait| now + MS(wait)),
                "{remaining} {limit:?} {tokens}"
            );
            assert_eq!(learned.enough_at(&need("other"), now), None);
            if let Some(wait) = wait {
                assert_eq!(learned.enough_at(&need("m"), now + MS(wait)), None);
            }
        }
    }

    #[test]
    fn calls_that_go_at_once_do_not_count_on_the_same_tokens() {
        let now = Instant::now();
        let mut learned = Learned::default();
        let allowance = Allowance {
            requests: Some(left(2, Some(60), 58_000)),
            ..Allowance::default()
        };
        learned.learn("m", &allowance, now);
        let need = Need {
            model: "m",
            ..Need::default()
        };
        for wait in [None, None, Some(1_001), Some(2_001)] {
            let told = learned.enough_at(&need, now);
            assert_eq!(told, wait.map(|wait| now + MS(wait)));
            learned.take(&need, now);
        }
        learned.learn("m", &allowance, now);
        assert_eq!(
            learned.enough_at(&need, now),
            None,
            "the newest word stands"
        );
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let now = Instant::now();
        let mut learned = Learned::default();
        let allowance = Allowance {
            requests: Some(left(0, None, 1_000)),
            ..Allowance::default()
        };
        for nth in 0..1_000 {
            learned.learn(&format!("m{nth}"), &allowance, now);
            assert!(learned.by_model.len() <= MODELS_MAX);
        }
    }

    proptest! {
        /// However much is taken: at the moment that is told there is enough, and before there is not.
        #[test]
        fn the_moment_that_is_told_is_the_first_one(
            remaining in 0..2_000_u64,
            limit in prop::option::of(1..2_000_u64),
            reset in 0..100_000_u64,
            taken in prop::collection::vec(0..500_u64, 0..8),
            tokens in 1..3_000_u64,
        ) {
            let now = Instant::now();
            let mut learned = Learned::default();
            let allowance = Allowance { tokens: Some(left(remaining, limit, reset)), ..Allowance::default() };
            learned.learn("m", &allowance, now);
            let need = |prompt| Need { model: "m", prompt, answer: 0 };
            for prompt in taken {
                learned.take(&need(prompt), now);
            }
            if let Some(at) = learned.enough_at(&need(tokens), now) {
                prop_assert!(at > now);
                prop_assert_eq!(learned.enough_at(&need(tokens), at), None);
                let before = at.checked_sub(MS(2)).unwrap();
                prop_assert!(before <= now || learned.enough_at(&need(tokens), before).is_some());
            }
        }
    }
}
