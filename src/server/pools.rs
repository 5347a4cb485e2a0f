//! What happens beside requests for each pool in force: probes, and names looked up again.

use crate::observe::event;
use crate::snapshot::{Probed, Snapshot, State, Upstream};
use crate::stage::upstream::dns;
use crate::stage::upstream::prober::{ProbeTarget, Prober};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::AbortHandle;

pub struct Pools {
    pub prober: Arc<Prober>,
    state: Arc<State>,
    running: Mutex<HashMap<String, Running>>,
    /// Names that were not looked up once yet.
    unknown_names: Arc<AtomicUsize>,
}

/// The look-ups of one pool; they end when it is replaced.
struct Running {
    target: Arc<Probed>,
    lookups: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for lookup in &self.lookups {
            lookup.abort();
        }
    }
}

impl Pools {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            prober: Prober::new(),
            state,
            running: Mutex::default(),
            unknown_names: Arc::default(),
        }
    }

    /// Whether every name was looked up at least once, in vain or not.
    pub fn names_are_known(&self) -> bool {
        self.unknown_names.load(SeqCst) == 0
    }

    /// Starts what is new, ends what is gone, and leaves alone what did not change.
    pub fn apply(&self, snapshot: &Snapshot) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for (name, upstream) in &snapshot.upstreams {
            let kept = before
                .remove(name)
                .filter(|running| Arc::ptr_eq(&running.target.0, upstream));
            let entry = kept.unwrap_or_else(|| self.start(upstream));
            running.insert(name.clone(), entry);
        }
        let targets = running
            .values()
            .map(|entry| Arc::clone(&entry.target) as Arc<dyn ProbeTarget>);
        self.prober.set_targets(targets.collect());
        self.state.keep(snapshot.upstreams.values());
        self.state.keep_catalogue(&snapshot.catalogue);
    }

    fn start(&self, upstream: &Arc<Upstream>) -> Running {
        upstream.refresh_members(&self.state, Instant::now());
        let lookups = (0..upstream.names.len()).map(|index| {
            let (upstream, state) = (Arc::clone(upstream), Arc::clone(&self.state));
            let prober = Arc::clone(&self.prober);
            let unknown = Unknown::one(&self.unknown_names);
            let lookups = look_up_again_and_again((upstream, index), state, prober, unknown);
            tokio::spawn(lookups).abort_handle()
        });
        Running {
            lookups: lookups.collect(),
            target: Arc::new(Probed(Arc::clone(upstream))),
        }
    }
}

/// One name that was not looked up yet.
struct Unknown(Arc<AtomicUsize>);

impl Unknown {
    fn one(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Old addresses stay in use while a name cannot be looked up.
async fn look_up_again_and_again(
    (upstream, index): (Arc<Upstream>, usize),
    state: Arc<State>,
    prober: Arc<Prober>,
    unknown: Unknown,
) {
    let mut unknown = Some(unknown);
    let resolver = Arc::clone(&upstream.names[index].resolver);
    loop {
        if resolver.look_up(&dns::resolve).await.is_some() {
            upstream.refresh_members(&state, Instant::now());
            prober.members_changed();
        }
        unknown.take();
        let status = resolver.status();
        match status.error {
            Some(why) => event::dns_failing(&upstream.metrics, resolver.host(), &why),
            None => event::dns_answered(&upstream.metrics, resolver.host(), status.addresses.len()),
        }
        tokio::time::sleep(resolver.next_delay(fastrand::f64())).await;
    }
}
