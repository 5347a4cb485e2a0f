//! Which of the eligible endpoints: one file for each way to choose.

pub mod hash;
pub mod least_loaded;
pub mod round_robin;

use super::endpoint::Endpoint;
use super::settings::BalanceSettings;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

/// A way to choose. `candidates` are never empty; all of them are eligible.
pub trait Balance: Debug + Send + Sync {
    /// `key` stands for what `hash` is taken of, if the request has it (see [`hash::key_of`]).
    fn pick<'a>(
        &self,
        candidates: &[&'a Arc<Endpoint>],
        key: Option<u64>,
        now: Instant,
    ) -> &'a Arc<Endpoint>;
}

pub fn build(settings: &BalanceSettings) -> Box<dyn Balance> {
    match settings {
        BalanceSettings::RoundRobin => Box::<round_robin::RoundRobin>::default(),
        BalanceSettings::LeastLoaded => Box::new(least_loaded::LeastLoaded),
        BalanceSettings::Hash(_) => Box::new(hash::Hash),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::endpoint::Address;
    use super::*;

    /// Endpoints 10.0.0.1:80, 10.0.0.2:80, … of these weights.
    pub fn endpoints(weights: &[u32], now: Instant) -> Vec<Arc<Endpoint>> {
        (1..)
            .zip(weights)
            .map(|(i, weight)| {
                let address = Address::Ip(([10, 0, 0, i], 80).into());
                Arc::new(Endpoint::new(address, None, *weight, now))
            })
            .collect()
    }

    /// How often each endpoint was picked.
    pub fn count(all: &[Arc<Endpoint>], picked: &[&Arc<Endpoint>]) -> Vec<usize> {
        all.iter()
            .map(|one| picked.iter().filter(|p| Arc::ptr_eq(p, one)).count())
            .collect()
    }
}
