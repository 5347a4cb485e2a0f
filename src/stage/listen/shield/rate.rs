//! Requests of one address over time: a bucket of tokens for each, in a table that never grows.
//!
//! The bucket is kept as the time at which it will be full again (GCRA): one number, and exact. A bucket
//! that is full says nothing, so an address that rests needs no place in the table. When its set is full,
//! the one that owes least gives way: who floods stays known, and nobody is refused for what another did.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Sets of addresses; with eight in each, 65,536 addresses that are not at rest, in 1.1 MiB.
const SETS: usize = 8192;
const WAYS: usize = 8;

/// How fast one address may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds in which one token comes back.
    interval: u64,
    /// Nanoseconds in which an empty bucket is full.
    whole: u64,
}

/// Buckets of all addresses; they live as long as the process.
#[derive(Debug)]
pub struct Buckets {
    born: Instant,
    hasher: RandomState,
    /// Made when first needed: most do without.
    sets: OnceLock<Box<[Mutex<Set>]>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// A hash of the address, keyed anew in each process; 0 for nobody.
    owner: u64,
    /// When it is full again, in nanoseconds since the table was made.
    full_at: u64,
}

type Set = [Bucket; WAYS];

impl Rate {
    /// `requests` in each `per`, and up to `burst` at once; each at least 1.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(requests.max(1))).max(1);
        Self {
            interval,
            whole: interval.saturating_mul(u64::from(burst.max(1))),
        }
    }
}

impl Buckets {
    pub fn new(born: Instant) -> Self {
        Self {
            born,
            hasher: RandomState::new(),
            sets: OnceLock::new(),
        }
    }

    /// Takes a token of this address, or says in how long there will be one.
    pub fn take(&self, address: IpAddr, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = now.saturating_duration_since(self.born).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let owner = self.hasher.hash_one(address).max(1);
        let sets = self.sets.get_or_init(|| {
            let sets = std::iter::repeat_with(Mutex::default);
            sets.take(SETS).collect()
        });
        let at = usize::try_from(owner % SETS as u64).expect("less than the number of sets");
        let mut set = sets[at].lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = find(&mut set, owner);
        let full_at = bucket.full_at.max(now).saturating_add(rate.interval);
        if full_at - now > rate.whole {
            return Err(Duration::from_nanos(full_at - now - rate.whole));
        }
        *bucket = Bucket { owner, full_at };
        Ok(())
    }
}

/// The bucket of this owner; else that of the one who owes least, as if it were full.
fn find(set: &mut Set, owner: u64) -> &mut Bucket {
    if let Some(known) = set.iter().position(|bucket| bucket.owner == owner) {
        return &mut set[known];
    }
    let least = set.iter_mut().min_by_key(|bucket| bucket.full_at);
    let bucket = least.expect("a set has buckets");
    *bucket = Bucket { owner, full_at: 0 };
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let born = Instant::now();
        let buckets = Buckets::new(born);
        let rate = Rate::new(10, SECOND, 5);
        let at = |millis| buckets.take(address(1), rate, born + Duration::from_millis(millis));
        for _ in 0..5 {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!(at(0), Err(Duration::from_millis(100)));
        assert_eq!(
            at(60),
            Err(Duration::from_millis(40)),
            "what was refused costs nothing"
        );
        assert_eq!(at(100), Ok(()));
        assert_eq!(at(100), Err(Duration::from_millis(100)));
        assert_eq!(
            buckets.take(address(2), rate, born),
            Ok(()),
            "another address"
        );
    }

    #[test]
    fn an_address_that_rested_has_a_full_bucket_and_no_more() {
        let born = Instant::now();
        let buckets = Buckets::new(born);
        let rate = Rate::new(1, SECOND, 3);
        for round in 1..4 {
            let now = born + SECOND * 3600 * round;
            let passed = (0..9).filter(|_| buckets.take(address(1), rate, now).is_ok());
            assert_eq!(passed.count(), 3, "{round}");
        }
    }

    #[test]
    fn absurd_rates_stop_nobody_for_ever_and_overflow_nothing() {
        let born = Instant::now();
        for (requests, per, burst) in [
            (u32::MAX, Duration::from_nanos(1), u32::MAX),
            (1, Duration::MAX, u32::MAX),
            (0, Duration::ZERO, 0),
        ] {
            let buckets = Buckets::new(born);
            let rate = Rate::new(requests, per, burst);
            assert_eq!(buckets.take(address(1), rate, born), Ok(()));
            let _either = buckets.take(
                address(1),
                rate,
                born + Duration::from_secs(u32::MAX.into()),
            );
        }
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_before_one_that_floods() {
        let born = Instant::now();
        let buckets = Buckets::new(born);
        let rate = Rate::new(1, SECOND, 10);
        let flooder = address(1);
        while buckets.take(flooder, rate, born).is_ok() {}
        // Sixteen times what the table holds.
        for prefix in 0..u128::from(SETS as u64) * 128 {
            let one = IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | prefix << 64));
            assert_eq!(
                buckets.take(one, rate, born),
                Ok(()),
                "a new address owes nothing"
            );
        }
        assert!(buckets.take(flooder, rate, born).is_err(), "still known");
    }

    proptest! {
        /// A bucket counted in whole tokens, step by step.
        #[test]
        fn it_is_a_bucket_of_tokens(
            pauses in proptest::collection::vec(0..400_u64, 1..200),
            burst in 1..8_u32,
        ) {
            let born = Instant::now();
            let buckets = Buckets::new(born);
            let rate = Rate::new(10, SECOND, burst);
            // In thousandths of a token; one comes back in 100 ms.
            let whole = u64::from(burst) * 1000;
            let (mut tokens, mut now) = (whole, born);
            for millis in pauses {
                now += Duration::from_millis(millis);
                tokens = (tokens + millis * 10).min(whole);
                let expected = if tokens >= 1000 {
                    tokens -= 1000;
                    Ok(())
                } else {
                    Err(Duration::from_millis((1000 - tokens) / 10))
                };
                prop_assert_eq!(buckets.take(address(7), rate, now), expected);
            }
        }
    }
}
