//! Open WebSockets, counted by route and by user, each giving its place back when it ends.

use super::messages::{Meter, Window};
use crate::observe::metrics::{Counted, RouteMetrics};
use crate::stage::route::settings::WebSocket as Settings;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Users of a route who are remembered without an open WebSocket, for the messages that they have sent.
const GONE_MAX: usize = 1 << 16;

const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Places of one route. Lives as long as the process: a reload does not forget who is connected.
#[derive(Debug, Default)]
pub struct TunnelCounts {
    total: AtomicU32,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    by_name: HashMap<Arc<str>, User>,
    next_sweep: Option<Instant>,
}

#[derive(Debug, Default)]
struct User {
    open: u32,
    /// What it has sent; none where nobody counts.
    sent: Option<Arc<Window>>,
}

/// A place that is taken; given back on drop.
#[derive(Debug)]
pub struct Tunnel {
    counts: Arc<TunnelCounts>,
    user: Arc<str>,
    meter: Option<Meter>,
    _counted: Counted,
}

impl TunnelCounts {
    /// Takes a place for a user who asks at this moment, or says which limit stands in the way.
    pub fn open(
        self: &Arc<Self>,
        (user, now): (Arc<str>, Instant),
        limits: &Settings,
        metrics: &RouteMetrics,
    ) -> Result<Tunnel, &'static str> {
        let mut users = self.lock();
        users.sweep(now);
        if self.total.load(Relaxed) >= limits.max {
            return Err("total");
        }
        let mine = users.by_name.entry(Arc::clone(&user)).or_default();
        if mine.open >= limits.max_per_user {
            return Err("user");
        }
        mine.open += 1;
        self.total.fetch_add(1, Relaxed);
        let meter = limits.messages_per_minute.map(|most| {
            let sent = mine.sent.get_or_insert_with(|| Arc::new(Window::new(now)));
            Meter::new(Arc::clone(sent), most)
        });
        drop(users);
        Ok(Tunnel {
            counts: Arc::clone(self),
            user,
            meter,
            _counted: metrics.websocket_opened(),
        })
    }

    pub fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    /// Counts the messages of its user, if they are limited.
    pub fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut users = self.counts.lock();
        users.release(&self.user);
        self.counts.total.fetch_sub(1, Relaxed);
    }
}

impl Users {
    /// Who comes back soon finds counted what was sent before.
    fn release(&mut self, user: &str) {
        let Some(mine) = self.by_name.get_mut(user) else {
            return;
        };
        mine.open -= 1;
        if mine.open == 0 && mine.sent.is_none() {
            self.by_name.remove(user);
        }
    }

    /// Forgets those who are gone and have sent nothing lately; all who are gone, if these are too many.
    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|due| now < due) {
            return;
        }
        self.next_sweep = Some(now + SWEEP_PERIOD);
        let counts = |user: &User| user.sent.as_ref().is_some_and(|sent| sent.counts(now));
        self.by_name.retain(|_, user| user.open > 0 || counts(user));
        if self.by_name.len() > GONE_MAX {
            self.by_name.retain(|_, user| user.open > 0);
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
        let now = Instant::now();
        let (a, b) = (|| (Arc::clone(&a), now), || (Arc::clone(&b), now));
        let first = counts.open(a(), &limits, &metrics).expect("a place");
        let _second = counts.open(a(), &limits, &metrics).expect("a place");
        assert_eq!(counts.open(a(), &limits, &metrics).map(drop), Err("user"));
        let _third = counts.open(b(), &limits, &metrics).expect("a place");
        assert_eq!(counts.open(b(), &limits, &metrics).map(drop), Err("total"));
        drop(first);
        assert!(counts.open(a(), &limits, &metrics).is_ok());
        assert_eq!(counts.total(), 2, "the place just taken was given back");
    }

    #[test]
    fn messages_are_counted_over_all_sockets_of_a_user_and_over_reconnects() {
        let counts = Arc::new(TunnelCounts::default());
        let limits = Settings {
            messages_per_minute: Some(3),
            ..Settings::default()
        };
        let metrics = Metrics::new("test").route("chat");
        let (alice, now) = (Arc::<str>::from("alice"), Instant::now());
        let open = |user: &Arc<str>, now| {
            let user = Arc::clone(user);
            counts
                .open((user, now), &limits, &metrics)
                .expect("a place")
        };
        let take = |tunnel: &Tunnel, now| tunnel.meter().expect("a meter").take(now);
        let (first, second) = (open(&alice, now), open(&alice, now));
        assert!(take(&first, now) && take(&second, now) && take(&first, now));
        assert!(!take(&second, now));
        drop((first, second));
        let soon = now + Duration::from_secs(30);
        assert!(!take(&open(&alice, soon), soon), "it was here before");
        assert!(take(&open(&"bob".into(), soon), soon));
        assert_eq!(counts.lock().by_name.len(), 2);
        let later = now + Duration::from_mins(3);
        drop(open(&"carol".into(), later));
        assert_eq!(counts.lock().by_name.len(), 1, "only who was here last");
    }
}
