//! In which order the targets of a model are tried.
//!
//! A target that is left alone is not tried, whatever the strategy. If all are, none is tried, and the soonest
//! moment at which one may be is told instead.

use super::price::Price;
use super::settings::Strategy;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// A target as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Tells it apart from the others, also in another process: `openai/gpt-5`.
    pub name: &'a str,
    pub weight: u32,
    pub price: Option<Price>,
    /// Until when it is left alone; none: it may be tried.
    pub closed_until: Option<Instant>,
    pub in_flight: u32,
    pub latency: Option<Duration>,
}

/// What is known of the call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// Of the user (see [`key_of`]) where the choice is kept for one, else random.
    pub key: u64,
    /// Tokens of the prompt, at a guess.
    pub input_tokens: u64,
    /// Tokens of the answer, at a guess.
    pub output_tokens: u64,
}

/// Places of targets, the first to be tried first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub indices: SmallVec<[usize; 8]>,
    /// Where there are none: when the first one may be tried; none where there never was a target.
    pub earliest: Option<Instant>,
}

/// The order for one call.
pub fn order(strategy: Strategy, candidates: &[Candidate<'_>], choice: &Choice) -> Order {
    let indices = 0..candidates.len();
    let mut indices: SmallVec<[usize; 8]> = indices
        .filter(|index| candidates[*index].closed_until.is_none())
        .collect();
    if indices.is_empty() {
        let closed = candidates.iter().filter_map(|one| one.closed_until);
        return Order {
            indices,
            earliest: closed.min(),
        };
    }
    indices.sort_by(|a, b| compare(strategy, [&candidates[*a], &candidates[*b]], choice));
    Order {
        indices,
        earliest: None,
    }
}

/// Which of two goes first; of two that are alike, the one that is written first.
fn compare(strategy: Strategy, pair: [&Candidate<'_>; 2], choice: &Choice) -> Ordering {
    let by = |rank: fn(&Candidate<'_>, &Choice) -> f64| {
        let [one, other] = pair.map(|candidate| rank(candidate, choice));
        one.total_cmp(&other)
    };
    match strategy {
        Strategy::Priority => Ordering::Equal,
        Strategy::Weighted => by(lot),
        Strategy::LeastLatency => by(latency),
        Strategy::LeastBusy => by(load),
        Strategy::Cheapest => {
            let [one, other] = pair.map(|candidate| price(candidate, choice));
            one.cmp(&other)
        }
    }
}

/// The key of a user, the same in every process and every release.
pub fn key_of(text: &[u8]) -> u64 {
    // FNV-1a, and then mixed: its high bits alone would tell names apart badly.
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mixed(hash)
}

/// The finalizer of `SplitMix64`.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Weighted rendezvous hashing: each target draws a lot for this key, and the smallest goes first. The same key
/// meets the same order again, and when a target comes or goes only its own share of the keys moves.
#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits are what this type holds"
)]
fn lot(candidate: &Candidate<'_>, choice: &Choice) -> f64 {
    let bits = mixed(choice.key ^ key_of(candidate.name.as_bytes()));
    // 53 bits make a number between 0 and 1, neither of them included.
    let unit = (bits >> 11) as f64 + 0.5;
    let unit = unit / (1_u64 << 53) as f64;
    -unit.ln() / f64::from(candidate.weight.max(1))
}

/// One that was never tried goes first, but is not overrun before its first answer is there.
fn latency(candidate: &Candidate<'_>, _: &Choice) -> f64 {
    match candidate.latency {
        Some(latency) => latency.as_secs_f64(),
        None if candidate.in_flight == 0 => -1.0,
        None => f64::MAX,
    }
}

fn load(candidate: &Candidate<'_>, _: &Choice) -> f64 {
    f64::from(candidate.in_flight) / f64::from(candidate.weight.max(1))
}

/// Without a price it goes last.
fn price(candidate: &Candidate<'_>, choice: &Choice) -> u128 {
    let of = |price: Price| price.of(choice.input_tokens, choice.output_tokens);
    candidate.price.map_or(u128::MAX, of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::ai::price::Amount;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    const NAMES: [&str; 4] = ["a/1", "b/2", "c/3", "d/4"];

    fn candidates<const N: usize>(
        change: impl Fn(usize, &mut Candidate<'_>),
    ) -> [Candidate<'static>; N] {
        std::array::from_fn(|index| {
            let mut candidate = Candidate {
                name: NAMES[index],
                weight: 1,
                price: None,
                closed_until: None,
                in_flight: 0,
                latency: None,
            };
            change(index, &mut candidate);
            candidate
        })
    }

    fn check(strategy: Strategy, candidates: &[Candidate<'_>], expected: &[usize]) {
        let choice = Choice {
            key: 7,
            input_tokens: 1_000,
            output_tokens: 100,
        };
        let order = order(strategy, candidates, &choice);
        assert_eq!(order.indices.as_slice(), expected, "{strategy:?}");
    }

    #[test]
    fn each_strategy_has_its_order() {
        let millis = |ms| Some(Duration::from_millis(ms));
        check(Strategy::Priority, &candidates::<3>(|_, _| {}), &[0, 1, 2]);
        let by_latency = candidates::<4>(|index, one| {
            one.latency = [millis(30), millis(10), None, None][index];
            one.in_flight = [0, 0, 5, 0][index];
        });
        check(Strategy::LeastLatency, &by_latency, &[3, 1, 0, 2]);
        let by_load = candidates::<3>(|index, one| {
            one.in_flight = [4, 4, 3][index];
            one.weight = [1, 2, 1][index];
        });
        check(Strategy::LeastBusy, &by_load, &[1, 2, 0]);
        let by_price = candidates::<4>(|index, one| {
            let (input, output) = [(2, 8), (1, 30), (3, 3), (0, 0)][index];
            let amount = |dollars: u64| Amount(dollars * 1_000_000_000);
            let price = Price {
                input: amount(input),
                output: amount(output),
            };
            one.price = (index < 3).then_some(price);
        });
        // 2 x 1000 + 8 x 100 = 2800; 1000 + 3000 = 4000; 3000 + 300 = 3300; no price.
        check(Strategy::Cheapest, &by_price, &[0, 2, 1, 3]);
    }

    #[test]
    fn what_is_left_alone_is_not_tried_and_the_soonest_is_told() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let some = candidates::<3>(|index, one| one.closed_until = [at(5), None, at(3)][index]);
        check(Strategy::Priority, &some, &[1]);
        let all = candidates::<3>(|index, one| one.closed_until = at([5, 3, 4][index]));
        let order_of_all = order(Strategy::Weighted, &all, &Choice::default());
        assert!(order_of_all.indices.is_empty());
        assert_eq!(order_of_all.earliest, at(3));
        let none = order(Strategy::Priority, &[], &Choice::default());
        assert_eq!((none.indices.len(), none.earliest), (0, None));
    }

    #[test]
    fn weights_are_shares() {
        let weights = [5, 3, 2];
        let candidates = candidates::<3>(|index, one| one.weight = weights[index]);
        let mut first = [0_u32; 3];
        for user in 0..10_000 {
            let choice = Choice {
                key: key_of(format!("user-{user}").as_bytes()),
                ..Choice::default()
            };
            first[order(Strategy::Weighted, &candidates, &choice).indices[0]] += 1;
        }
        for (count, weight) in first.iter().zip(weights) {
            let expected = weight * 1_000;
            assert!(count.abs_diff(expected) < 200, "{first:?}");
        }
    }

    #[test]
    fn the_key_of_a_user_never_changes() {
        assert_eq!(key_of(b"alice"), 14_254_268_223_963_220_572);
    }

    proptest! {
        #[test]
        fn an_order_has_each_open_target_once(
            key: u64,
            weights in proptest::collection::vec(1..1000_u32, 4),
            closed in proptest::collection::vec(any::<bool>(), 4),
        ) {
            let now = Instant::now();
            let candidates = candidates::<4>(|index, one| {
                one.weight = weights[index];
                one.closed_until = closed[index].then_some(now);
            });
            let choice = Choice { key, ..Choice::default() };
            for strategy in [Strategy::Priority, Strategy::Weighted, Strategy::LeastLatency, Strategy::LeastBusy, Strategy::Cheapest] {
                let mut indices = order(strategy, &candidates, &choice).indices;
                indices.sort_unstable();
                let open: Vec<_> = (0..4).filter(|index| !closed[*index]).collect();
                prop_assert_eq!(indices.as_slice(), open.as_slice());
            }
        }

        /// A user stays where it was when a target that it did not use goes away.
        #[test]
        fn only_the_share_of_a_target_that_goes_moves(key: u64, gone in 0..4_usize) {
            let choice = Choice { key, ..Choice::default() };
            let all = candidates::<4>(|_, _| {});
            let before = order(Strategy::Weighted, &all, &choice).indices;
            let left = candidates::<4>(|index, one| {
                one.closed_until = (index == gone).then(Instant::now);
            });
            let after = order(Strategy::Weighted, &left, &choice).indices;
            let expected: Vec<_> = before.iter().copied().filter(|index| *index != gone).collect();
            prop_assert_eq!(after.as_slice(), expected.as_slice());
        }
    }
}
