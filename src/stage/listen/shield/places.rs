//! Places: taken in total and by address, limited in both, given back on drop.
//!
//! An address may never hold more than are still free either (the dynamic threshold of Choudhury and Hahne,
//! 1998): a dozen that each take their whole share would fill the house, so they get less the fuller it is,
//! and whoever holds few still comes in. Of `n` places, `k` greedy addresses leave `n / (k + 1)`.
//!
//! Invariant: an address is remembered as long as it holds a place and no longer, so that there are
//! never more entries than places taken.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks are held for one look into a map: with this many, two threads seldom ask for the same one.
const SHARDS: usize = 64;

/// How many may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub total: u32,
    /// As large as `total` or larger: an address may have all of them.
    pub per_address: u32,
}

impl Limits {
    /// How many an address may hold while so many are free.
    fn of_address(self, free: u32) -> u32 {
        if self.per_address < self.total {
            self.per_address.min(free)
        } else {
            self.total
        }
    }
}

/// Which limit stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Total,
    Address,
}

/// Places of one kind; they live as long as the process.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
    shards: Shards,
}

/// A place that is taken; given back on drop.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// None while it counts for nobody: an exempt address, or one that is not known yet.
    address: Option<IpAddr>,
}

impl Places {
    /// Takes a place, or says which limit stands in the way.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>, limits: Limits) -> Result<Place, Full> {
        let next = |taken: u32| (taken < limits.total).then(|| taken + 1);
        self.taken
            .fetch_update(Relaxed, Relaxed, next)
            .map_err(|_| Full::Total)?;
        let mut place = Place {
            places: Arc::clone(self),
            address: None,
        };
        if let Some(address) = address {
            place.belongs_to(address, limits)?;
        }
        Ok(place)
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// How many addresses hold them.
    pub fn addresses(&self) -> usize {
        self.shards.len()
    }
}

impl Place {
    /// Counts for this address from now on, which must not be known yet.
    pub fn belongs_to(&mut self, address: IpAddr, limits: Limits) -> Result<(), Full> {
        debug_assert!(self.address.is_none(), "a place counts for one address");
        // This place itself is free for its address.
        let free = limits
            .total
            .saturating_add(1)
            .saturating_sub(self.places.taken());
        if !self.places.shards.add(address, limits.of_address(free)) {
            return Err(Full::Address);
        }
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.places.shards.remove(address);
        }
        self.places.taken.fetch_sub(1, Relaxed);
    }
}

/// Counts by address, in several maps with a lock each.
#[derive(Debug)]
struct Shards {
    maps: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    hasher: RandomState,
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            maps: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Shards {
    /// False when the address has as many already.
    fn add(&self, address: IpAddr, max: u32) -> bool {
        let mut counts = self.shard(address);
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= max {
            return false;
        }
        counts.insert(address, count + 1);
        true
    }

    fn remove(&self, address: IpAddr) {
        let mut counts = self.shard(address);
        match counts.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&address)),
        }
    }

    fn len(&self) -> usize {
        self.maps.iter().map(|counts| lock(counts).len()).sum()
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // Keyed anew in each process: nobody can choose addresses that meet in one shard.
        let hash = self.hasher.hash_one(address);
        let at = usize::try_from(hash % SHARDS as u64).expect("less than the number of shards");
        lock(&self.maps[at])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The counts are whole after every statement: a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    fn count(held: usize) -> u32 {
        u32::try_from(held).unwrap()
    }

    #[test]
    fn places_are_limited_in_total_and_by_address_and_given_back() {
        let places = Arc::new(Places::default());
        let limits = Limits {
            total: 4,
            per_address: 2,
        };
        let take = |last| places.take(Some(address(last)), limits);
        let (first, _second) = (take(1).unwrap(), take(1).unwrap());
        assert_eq!(take(1).unwrap_err(), Full::Address);
        assert_eq!(places.taken(), 2, "what was refused holds nothing");
        let _others = [2, 3].map(|last| take(last).unwrap());
        assert_eq!(take(4).unwrap_err(), Full::Total);
        assert_eq!(places.take(None, limits).unwrap_err(), Full::Total);
        drop(first);
        let _again = take(4).unwrap();
        assert_eq!((places.taken(), places.addresses()), (4, 4));
    }

    #[test]
    fn a_place_may_learn_later_whose_it_is() {
        let places = Arc::new(Places::default());
        let limits = Limits {
            total: 9,
            per_address: 1,
        };
        let mut first = places.take(None, limits).unwrap();
        let mut second = places.take(None, limits).unwrap();
        assert_eq!(first.belongs_to(address(1), limits), Ok(()));
        assert_eq!(second.belongs_to(address(1), limits), Err(Full::Address));
        drop(second);
        assert_eq!((places.taken(), places.addresses()), (1, 1));
        drop(first);
        assert_eq!((places.taken(), places.addresses()), (0, 0));
    }

    #[test]
    fn greedy_addresses_get_less_the_fuller_it_is_and_leave_room_for_others() {
        for (greedy, left) in [(1, 600), (2, 400), (5, 200), (11, 100), (199, 6)] {
            let places = Arc::new(Places::default());
            let limits = Limits {
                total: 1200,
                per_address: 1000,
            };
            let mut held = Vec::new();
            for _ in 0..1200 {
                let all = (1..=greedy).map(|last| places.take(Some(address(last)), limits));
                held.extend(all.flatten());
            }
            assert_eq!(1200 - places.taken(), left, "{greedy}");
            assert!(places.take(Some(address(200)), limits).is_ok());
        }
    }

    #[test]
    fn an_address_may_have_all_where_it_says_so() {
        let places = Arc::new(Places::default());
        let limits = Limits {
            total: 10,
            per_address: 10,
        };
        let _all = [(); 10].map(|()| places.take(Some(address(1)), limits).unwrap());
        let refused = places.take(Some(address(1)), limits).unwrap_err();
        assert_eq!(refused, Full::Total);
    }

    proptest! {
        #[test]
        fn nobody_ever_holds_more_than_is_allowed_and_nothing_is_left(
            steps in proptest::collection::vec((0..6_u8, any::<bool>()), 0..200),
            total in 1..12_u32,
            per_address in 1..5_u32,
        ) {
            let places = Arc::new(Places::default());
            let limits = Limits { total, per_address };
            let mut held: Vec<(u8, Place)> = Vec::new();
            for (last, takes) in steps {
                let mine = count(held.iter().filter(|(one, _)| *one == last).count());
                if !takes {
                    if let Some(at) = held.iter().position(|(one, _)| *one == last) {
                        held.swap_remove(at);
                    }
                    continue;
                }
                let all = count(held.len());
                let most = if per_address < total { per_address.min(total - all) } else { total };
                match places.take(Some(address(last)), limits) {
                    Ok(place) => {
                        prop_assert!(all < total && mine < most);
                        held.push((last, place));
                    }
                    Err(Full::Total) => prop_assert_eq!(all, total),
                    Err(Full::Address) => prop_assert!(mine >= most),
                }
                prop_assert_eq!(places.taken(), count(held.len()));
            }
            held.clear();
            prop_assert_eq!((places.taken(), places.addresses()), (0, 0));
        }
    }
}
