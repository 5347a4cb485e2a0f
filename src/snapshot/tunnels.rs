//! Open WebSockets, counted by route and by user, each giving its place back when it ends.

use crate::observe::metrics::{Counted, RouteMetrics};
use crate::stage::route::settings::WebSocket as Settings;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Places of one route. Lives as long as the process: a reload does not forget who is connected.
#[derive(Debug, Default)]
pub struct TunnelCounts {
    total: AtomicU32,
    by_user: Mutex<HashMap<Arc<str>, u32>>,
}

/// A place that is taken; given back on drop.
#[derive(Debug)]
pub struct Tunnel {
    counts: Arc<TunnelCounts>,
    user: Arc<str>,
    _counted: Counted,
}

impl TunnelCounts {
    /// Takes a place, or says which limit stands in the way.
    pub fn open(
        self: &Arc<Self>,
        user: Arc<str>,
        limits: &Settings,
        metrics: &RouteMetrics,
    ) -> Result<Tunnel, &'static str> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if self.total.load(Relaxed) >= limits.max {
            return Err("total");
        }
        let mine = by_user.entry(Arc::clone(&user)).or_insert(0);
        if *mine >= limits.max_per_user {
            return Err("user");
        }
        *mine += 1;
        self.total.fetch_add(1, Relaxed);
        Ok(Tunnel {
            counts: Arc::clone(self),
            user,
            _counted: metrics.websocket_opened(),
        })
    }

    pub fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut by_user = self
            .counts
            .by_user
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        release(&mut by_user, &self.user);
        self.counts.total.fetch_sub(1, Relaxed);
    }
}

fn release<S: BuildHasher>(by_user: &mut HashMap<Arc<str>, u32, S>, user: &str) {
    if let Some(mine) = by_user.get_mut(user) {
        *mine -= 1;
        if *mine == 0 {
            by_user.remove(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn places_are_limited_by_user_and_in_total_and_given_back() {
        let counts = Arc::new(TunnelCounts::default());
        let limits = Settings {
            max: 3,
            max_per_user: 2,
            ..Settings::default()
        };
        let metrics = Metrics::new("test").route("chat");
        let [a, b] = ["alice", "address:10.0.0.2"].map(Arc::<str>::from);
        let (a, b) = (|| Arc::clone(&a), || Arc::clone(&b));
        let first = counts.open(a(), &limits, &metrics).expect("a place");
        let _second = counts.open(a(), &limits, &metrics).expect("a place");
        assert_eq!(counts.open(a(), &limits, &metrics).map(drop), Err("user"));
        let _third = counts.open(b(), &limits, &metrics).expect("a place");
        assert_eq!(counts.open(b(), &limits, &metrics).map(drop), Err("total"));
        drop(first);
        assert!(counts.open(a(), &limits, &metrics).is_ok());
        assert_eq!(counts.total(), 2, "the place just taken was given back");
    }
}
