//! Of two picked at random, the one with fewer requests in flight for its weight.

use super::super::endpoint::Endpoint;
use super::Balance;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// The power of two choices: nearly as even as looking at all, without every thread running to
/// the same idle endpoint at once (Mitzenmacher 2001).
#[derive(Debug)]
pub struct LeastLoaded;

impl Balance for LeastLoaded {
    fn pick<'a>(
        &self,
        candidates: &[&'a Arc<Endpoint>],
        _key: Option<u64>,
        now: Instant,
    ) -> &'a Arc<Endpoint> {
        let first = fastrand::usize(..candidates.len());
        if candidates.len() == 1 {
            return candidates[0];
        }
        // Two different ones: step over the first.
        let second = (first + fastrand::usize(1..candidates.len())) % candidates.len();
        lighter((candidates[first], candidates[second]), now)
    }
}

/// Compares loads as fractions, without dividing.
fn lighter<'a>((a, b): (&'a Arc<Endpoint>, &'a Arc<Endpoint>), now: Instant) -> &'a Arc<Endpoint> {
    let (load_a, load_b) = (a.in_flight.load(Relaxed), b.in_flight.load(Relaxed));
    let (weight_a, weight_b) = (a.weight_at(now), b.weight_at(now));
    if load_a == 0 && load_b == 0 {
        // Both idle: by chance and weight, or the lighter one would never be used in a quiet pool.
        let all = u64::from(weight_a) + u64::from(weight_b);
        return if fastrand::u64(..all) < u64::from(weight_a) {
            a
        } else {
            b
        };
    }
    let cost = |load: u32, other: u32| (u64::from(load) + 1) * u64::from(other);
    if cost(load_a, weight_b) <= cost(load_b, weight_a) {
        a
    } else {
        b
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{count, endpoints};
    use super::*;
    use std::time::Duration;

    /// Sends requests that all stay, and returns where they are.
    fn fill(weights: &[u32], requests: usize) -> Vec<u32> {
        let now = Instant::now();
        let all = endpoints(weights, now);
        let candidates: Vec<_> = all.iter().collect();
        for _ in 0..requests {
            let picked = LeastLoaded.pick(&candidates, None, now);
            picked.in_flight.fetch_add(1, Relaxed);
        }
        all.iter().map(|e| e.in_flight.load(Relaxed)).collect()
    }

    #[test]
    fn load_spreads_evenly_for_its_weight() {
        fastrand::seed(7);
        for load in fill(&[1; 10], 10_000) {
            assert!((990..=1_010).contains(&load), "{load}");
        }
        let loads = fill(&[3, 1], 400);
        assert!((295..=305).contains(&loads[0]), "{loads:?}");
    }

    #[test]
    fn the_busiest_is_never_picked() {
        let now = Instant::now();
        let all = endpoints(&[1, 1, 1], now);
        all[1].in_flight.store(10, Relaxed);
        let candidates: Vec<_> = all.iter().collect();
        let picked: Vec<_> = (0..1_000)
            .map(|_| LeastLoaded.pick(&candidates, None, now))
            .collect();
        assert_eq!(count(&all, &picked)[1], 0);
    }

    #[test]
    fn a_quiet_pool_still_spreads_by_weight() {
        fastrand::seed(7);
        let now = Instant::now();
        let all = endpoints(&[3, 1], now);
        let candidates: Vec<_> = all.iter().collect();
        let picked: Vec<_> = (0..4_000)
            .map(|_| LeastLoaded.pick(&candidates, None, now))
            .collect();
        let counts = count(&all, &picked);
        assert!((850..1_150).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn a_newcomer_counts_as_ten_times_as_loaded() {
        let now = Instant::now();
        let all = endpoints(&[1, 1], now);
        all[1].slow_start.set_period(Duration::from_secs(30));
        all[1].slow_start.begin(0);
        for (old, new, wins) in [(8, 0, 0), (10, 0, 1), (18, 1, 0), (20, 1, 1)] {
            all[0].in_flight.store(old, Relaxed);
            all[1].in_flight.store(new, Relaxed);
            let picked = LeastLoaded.pick(&[&all[0], &all[1]], None, now);
            assert!(Arc::ptr_eq(picked, &all[wins]), "{old} beside {new}");
        }
    }
}
