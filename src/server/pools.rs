//! What happens beside requests for each pool in force: probes, and names looked up again.

use crate::observe::event;
use crate::snapshot::{Probed, Snapshot, State, Upstream};
use crate::stage::upstream::dns;
use crate::stage::upstream::prober::{ProbeTarget, Prober};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::AbortHandle;

pub struct Pools {
    pub prober: Arc<Prober>,
    state: Arc<State>,
    running: Mutex<HashMap<String, Running>>,
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
        }
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
    }

    fn start(&self, upstream: &Arc<Upstream>) -> Running {
        upstream.refresh_members(&self.state, Instant::now());
        let lookups = (0..upstream.names.len()).map(|index| {
            let (upstream, state) = (Arc::clone(upstream), Arc::clone(&self.state));
            let prober = Arc::clone(&self.prober);
            tokio::spawn(look_up_again_and_again(upstream, index, state, prober)).abort_handle()
        });
        Running {
            lookups: lookups.collect(),
            target: Arc::new(Probed(Arc::clone(upstream))),
        }
    }
}

/// Old addresses stay in use while a name cannot be looked up.
async fn look_up_again_and_again(
    upstream: Arc<Upstream>,
    index: usize,
    state: Arc<State>,
    prober: Arc<Prober>,
) {
    let resolver = Arc::clone(&upstream.names[index].resolver);
    loop {
        if resolver.look_up(&dns::resolve).await.is_some() {
            upstream.refresh_members(&state, Instant::now());
            prober.members_changed();
        }
        let status = resolver.status();
        match status.error {
            Some(why) => event::dns_failing(&upstream.metrics, resolver.host(), &why),
            None => event::dns_answered(&upstream.metrics, resolver.host(), status.addresses.len()),
        }
        tokio::time::sleep(resolver.next_delay(fastrand::f64())).await;
    }
}
