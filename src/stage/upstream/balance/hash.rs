//! The same key goes to the same endpoint; when one leaves, only its own keys move.

use super::super::endpoint::Endpoint;
use super::super::siphash::SipHash;
use super::Balance;
use super::least_loaded::LeastLoaded;
use std::sync::Arc;
use std::time::Instant;

/// Weighted rendezvous: each endpoint scores the key, the highest score has it.
///
/// Why not a ring: a score depends on nothing but key and endpoint, so when one of n leaves, only
/// its own keys (about 1/n) move, each to the next in its own order, and they come back with it;
/// shares follow the weights exactly, without virtual nodes; and there is nothing to rebuild when
/// an endpoint is ejected or full. It costs n hashes, which is little up to some hundred endpoints.
/// (Thaler and Ravishankar 1998; weights by -w / ln u.)
#[derive(Debug)]
pub struct Hash;

/// Not a secret: nobody gains by aiming at an endpoint, since any one key repeated does that too.
const KEY: SipHash = SipHash::new(0x6f6e_656d_696e_6421, 0x656e_6470_6f69_6e74);

/// What stands for a key (user, address, value of a header or cookie); the same on all instances.
pub fn key_of(value: &[u8]) -> u64 {
    KEY.hash(value)
}

impl Balance for Hash {
    fn pick<'a>(
        &self,
        candidates: &[&'a Arc<Endpoint>],
        key: Option<u64>,
        now: Instant,
    ) -> &'a Arc<Endpoint> {
        let Some(key) = key else {
            // Hashing an absent key would send all anonymous callers to one endpoint.
            return LeastLoaded.pick(candidates, None, now);
        };
        candidates
            .iter()
            .map(|endpoint| (score(endpoint, key, now), *endpoint))
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, endpoint)| endpoint)
            .expect("candidates are never empty")
    }
}

/// Weighted by slow start too: the keys of an endpoint come back to it little by little.
fn score(endpoint: &Endpoint, key: u64, now: Instant) -> f64 {
    -f64::from(endpoint.weight_at(now)) / unit(mix(key ^ endpoint.hash)).ln()
}

/// Spreads every bit over all (the finalizer of `SplitMix64`).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Strictly between 0 and 1, so that its logarithm is finite and not 0.
fn unit(bits: u64) -> f64 {
    let top = u32::try_from(bits >> 32).expect("32 bits are left");
    (f64::from(top) + 0.5) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{count, endpoints};
    use super::*;
    use proptest::prelude::*;

    fn keys(n: u32) -> Vec<u64> {
        (0..n)
            .map(|i| key_of(format!("user-{i}").as_bytes()))
            .collect()
    }

    #[test]
    fn a_key_is_the_same_number_everywhere_and_for_ever() {
        assert_eq!(key_of(b"user-1"), 9_932_537_310_643_492_615);
    }

    #[test]
    fn keys_spread_by_weight() {
        let now = Instant::now();
        let all = endpoints(&[1, 2, 5], now);
        let candidates: Vec<_> = all.iter().collect();
        let picked: Vec<_> = keys(16_000)
            .iter()
            .map(|key| Hash.pick(&candidates, Some(*key), now))
            .collect();
        for (got, expected) in count(&all, &picked).into_iter().zip([2_000, 4_000, 10_000]) {
            assert!(got.abs_diff(expected) < 200, "{got} of {expected}");
        }
    }

    #[test]
    fn without_a_key_the_load_is_spread() {
        let now = Instant::now();
        let all = endpoints(&[1, 1, 1], now);
        let candidates: Vec<_> = all.iter().collect();
        let picked: Vec<_> = (0..300)
            .map(|_| Hash.pick(&candidates, None, now))
            .collect();
        assert!(count(&all, &picked).iter().all(|n| *n > 30));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn only_the_keys_of_the_one_that_leaves_move(n in 2_usize..12, gone in 0_usize..12) {
            let now = Instant::now();
            let gone = gone % n;
            let all = endpoints(&vec![1; n], now);
            let before: Vec<_> = all.iter().collect();
            let after: Vec<_> = all.iter().filter(|e| !Arc::ptr_eq(e, &all[gone])).collect();
            let mut moved = 0_usize;
            for key in keys(2_000) {
                let (old, new) = (Hash.pick(&before, Some(key), now), Hash.pick(&after, Some(key), now));
                if Arc::ptr_eq(old, &all[gone]) {
                    moved += 1;
                } else {
                    prop_assert!(Arc::ptr_eq(old, new));
                }
            }
            prop_assert!(moved.abs_diff(2_000 / n) < 160, "{} of 2000 moved, n = {}", moved, n);
        }

        #[test]
        fn every_key_has_an_endpoint(key: u64) {
            let now = Instant::now();
            let all = endpoints(&[1, 256, 3], now);
            let candidates: Vec<_> = all.iter().collect();
            let picked = Hash.pick(&candidates, Some(key), now);
            prop_assert!(Arc::ptr_eq(picked, Hash.pick(&candidates, Some(key), now)));
            prop_assert!(unit(mix(key)).ln() < 0.0);
        }
    }
}
