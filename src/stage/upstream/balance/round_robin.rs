//! In turn, smoothly by weight: of weights 5, 1, 1 never five in a row, and exact over each cycle.

use super::super::endpoint::Endpoint;
use super::Balance;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Smooth weighted round robin, as nginx does it: everybody earns its weight, the richest is
/// picked and pays what all earned together.
///
/// The credit lies in the endpoint, so the round goes on where it was after a reload, and an
/// endpoint that is left out for a while neither earns nor pays. The lock, held for one pass over
/// the candidates, makes the round exact for all threads together.
#[derive(Debug, Default)]
pub struct RoundRobin {
    one_at_a_time: Mutex<()>,
}

impl Balance for RoundRobin {
    fn pick<'a>(
        &self,
        candidates: &[&'a Arc<Endpoint>],
        _key: Option<u64>,
        now: Instant,
    ) -> &'a Arc<Endpoint> {
        let _turn = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut richest: Option<(i64, &'a Arc<Endpoint>)> = None;
        for endpoint in candidates {
            let weight = i64::from(endpoint.weight_at(now));
            let credit = endpoint.turn.load(Relaxed).saturating_add(weight);
            endpoint.turn.store(credit, Relaxed);
            total += weight;
            if richest.is_none_or(|(most, _)| credit > most) {
                richest = Some((credit, endpoint));
            }
        }
        let (credit, picked) = richest.expect("candidates are never empty");
        picked.turn.store(credit.saturating_sub(total), Relaxed);
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{count, endpoints};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn the_round_is_smooth() {
        let now = Instant::now();
        let all = endpoints(&[5, 1, 1], now);
        let candidates: Vec<_> = all.iter().collect();
        let round = RoundRobin::default();
        let order: String = (0..14)
            .map(|_| {
                let picked = round.pick(&candidates, None, now);
                let at = all.iter().position(|one| Arc::ptr_eq(one, picked)).unwrap();
                ['a', 'b', 'c'][at]
            })
            .collect();
        assert_eq!(order, "aabacaaaabacaa");
    }

    #[test]
    fn the_round_is_exact_for_all_threads_together() {
        let now = Instant::now();
        let all = endpoints(&[5, 3, 1], now);
        let round = RoundRobin::default();
        let counts: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let candidates: Vec<_> = all.iter().collect();
                        let picked: Vec<_> = (0..9_000)
                            .map(|_| round.pick(&candidates, None, now))
                            .collect();
                        count(&all, &picked)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let sums: Vec<usize> = (0..3).map(|i| counts.iter().map(|c| c[i]).sum()).collect();
        assert_eq!(sums, [40_000, 24_000, 8_000]);
    }

    #[test]
    fn a_newcomer_gets_a_tenth_of_its_share_at_first() {
        let now = Instant::now();
        let all = endpoints(&[1, 1], now);
        all[1].slow_start.set_period(Duration::from_secs(30));
        all[1].slow_start.begin(0);
        let candidates: Vec<_> = all.iter().collect();
        let round = RoundRobin::default();
        let picked: Vec<_> = (0..110)
            .map(|_| round.pick(&candidates, None, now))
            .collect();
        assert_eq!(count(&all, &picked), [100, 10]);
    }

    #[test]
    fn one_that_was_away_does_not_catch_up_in_a_burst() {
        let now = Instant::now();
        let all = endpoints(&[1, 1, 1], now);
        let candidates: Vec<_> = all.iter().collect();
        let round = RoundRobin::default();
        for _ in 0..1_000 {
            round.pick(&candidates[..2], None, now);
        }
        let picked: Vec<_> = (0..6).map(|_| round.pick(&candidates, None, now)).collect();
        assert_eq!(count(&all, &picked), [2, 2, 2]);
    }

    proptest! {
        #[test]
        fn every_cycle_is_exact(weights in prop::collection::vec(1_u32..=32, 1..8), cycles in 1_usize..4) {
            let now = Instant::now();
            let all = endpoints(&weights, now);
            let candidates: Vec<_> = all.iter().collect();
            let round = RoundRobin::default();
            let length: usize = weights.iter().map(|w| *w as usize).sum();
            for _ in 0..cycles {
                let picked: Vec<_> = (0..length).map(|_| round.pick(&candidates, None, now)).collect();
                let expected: Vec<usize> = weights.iter().map(|w| *w as usize).collect();
                prop_assert_eq!(count(&all, &picked), expected);
            }
        }

        #[test]
        fn credit_stays_bounded_however_candidates_change(picks in prop::collection::vec(1_usize..16, 0..500)) {
            let now = Instant::now();
            let all = endpoints(&[5, 1, 3, 2], now);
            let round = RoundRobin::default();
            for set in picks {
                let candidates: Vec<_> =
                    all.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, e)| e).collect();
                round.pick(&candidates, None, now);
            }
            for endpoint in &all {
                prop_assert!(endpoint.turn.load(Relaxed).abs() <= 4 * 11_000);
            }
        }
    }
}
