//! Which requests are traced: decided by their trace id when they begin, and once more when they have ended. Pure.

use super::settings::Settings;
use std::time::Duration;

/// The part of a trace id that is random, and by which all instances decide alike (W3C Trace Context Level 2,
/// "random trace id flag"; OpenTelemetry, "consistent probability sampling").
const RANDOM_BITS: u32 = 56;
const RANDOM: u64 = (1 << RANDOM_BITS) - 1;

/// The rules of `tracing`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// What the random part must reach: 0 for all, 2^56 for none.
    threshold: u64,
    follow_parent: bool,
    errors: bool,
    slow: Option<Duration>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Whether it was sampled when it began.
    pub sampled: bool,
    pub failed: bool,
    /// The time by which it may be slow; none where it cannot.
    pub took: Option<Duration>,
}

/// Why spans are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Sampled,
    Error,
    Slow,
}

impl Rules {
    pub fn new(settings: &Settings) -> Self {
        Self {
            threshold: threshold(settings.sample),
            follow_parent: settings.follow_parent,
            errors: settings.errors,
            slow: settings.slow.map(|slow| slow.0),
        }
    }

    /// Whether a trace is sent whatever comes of it. `parent`: what the one before us has decided, if there is one.
    pub fn samples(&self, trace_id: u128, parent: Option<bool>) -> bool {
        if let Some(sampled) = parent.filter(|_| self.follow_parent) {
            return sampled;
        }
        let low = u64::try_from(trace_id & u128::from(RANDOM)).unwrap_or_default();
        low >= self.threshold
    }

    /// Whether the spans of a request that has ended are sent, and why.
    pub fn keeps(&self, seen: Seen) -> Option<Why> {
        if seen.sampled {
            return Some(Why::Sampled);
        }
        if self.errors && seen.failed {
            return Some(Why::Error);
        }
        let slow = self.slow.zip(seen.took);
        slow.is_some_and(|(slow, took)| took >= slow)
            .then_some(Why::Slow)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share from 0 to 1 of 2^56 fits, and its last bits do not matter"
)]
fn threshold(share: f64) -> u64 {
    let all = (1_u64 << RANDOM_BITS) as f64;
    ((1.0 - share.clamp(0.0, 1.0)) * all) as u64
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;
    use proptest::prelude::*;

    fn rules(change: impl FnOnce(&mut Settings)) -> Rules {
        let mut settings = settings::of("http://c:4318");
        change(&mut settings);
        Rules::new(&settings)
    }

    #[test]
    fn a_parent_decides_unless_it_is_not_followed() {
        let follows = rules(|of| of.sample = 0.0);
        assert!(follows.samples(1, Some(true)));
        assert!(!follows.samples(u128::MAX, Some(false)));
        assert!(!follows.samples(u128::MAX, None));
        let alone = rules(|of| (of.sample, of.follow_parent) = (1.0, false));
        assert!(alone.samples(0, Some(false)));
        assert!(alone.samples(0, None));
    }

    #[test]
    fn errors_and_slow_ones_are_kept_whatever_was_decided() {
        let slow = Some(Duration::from_secs(2));
        let both = rules(|of| of.slow = Some(crate::base::units::Period::seconds(2)));
        let none = rules(|of| of.errors = false);
        for (rules, sampled, failed, took, why) in [
            (&both, true, true, slow, Some(Why::Sampled)),
            (&both, false, true, slow, Some(Why::Error)),
            (&both, false, false, slow, Some(Why::Slow)),
            (&both, false, false, None, None),
            (
                &both,
                false,
                false,
                Some(Duration::from_millis(1_999)),
                None,
            ),
            (&none, false, true, slow, None),
            (&none, true, false, None, Some(Why::Sampled)),
        ] {
            let seen = Seen {
                sampled,
                failed,
                took,
            };
            assert_eq!(rules.keeps(seen), why, "{rules:?} {seen:?}");
        }
    }

    #[test]
    fn a_share_of_random_ids_is_sampled() {
        let mut ids = fastrand::Rng::with_seed(7);
        for (share, least, most) in [
            (0.0, 0, 0),
            (0.1, 900, 1_100),
            (0.5, 4_800, 5_200),
            (1.0, 10_000, 10_000),
        ] {
            let rules = rules(|of| of.sample = share);
            let sampled = (0..10_000)
                .filter(|_| rules.samples(ids.u128(..), None))
                .count();
            assert!((least..=most).contains(&sampled), "{sampled} at {share}");
        }
    }

    proptest! {
        #[test]
        fn what_a_small_share_takes_a_larger_one_takes_too(id: u128, small in 0.0..=1.0_f64, more in 0.0..=1.0_f64) {
            let large = (small + more).min(1.0);
            let takes = |share| rules(|of| of.sample = share).samples(id, None);
            prop_assert!(!takes(small) || takes(large));
        }

        #[test]
        fn only_the_random_part_decides(id: u128, high: u128, share in 0.0..=1.0_f64) {
            let rules = rules(|of| of.sample = share);
            let other = (high & !u128::from(RANDOM)) | (id & u128::from(RANDOM));
            prop_assert_eq!(rules.samples(id, None), rules.samples(other, None));
        }
    }
}
