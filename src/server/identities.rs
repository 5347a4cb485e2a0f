//! What happens beside requests for each issuer whose keys are fetched.

use crate::observe::event;
use crate::observe::metrics::IdentityMetrics;
use crate::snapshot::{Snapshot, State};
use crate::stage::identity::fetch::HttpFetch;
use crate::stage::identity::jwks::{Fetch, Fetched, Jwks};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

pub struct Identities {
    state: Arc<State>,
    running: Mutex<HashMap<String, Running>>,
}

/// The task that keeps the keys of one issuer fresh; it ends when they are replaced.
struct Running {
    jwks: Arc<Jwks>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Identities {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            running: Mutex::default(),
        }
    }

    /// Starts what is new, ends what is gone, and leaves alone what did not change.
    pub fn apply(&self, snapshot: &Snapshot) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for (name, jwks) in &snapshot.identities.jwks {
            let kept = before
                .remove(name)
                .filter(|running| Arc::ptr_eq(&running.jwks, jwks));
            let metrics = snapshot.identities.metrics_of(name);
            let entry = kept.or_else(|| Some(start(jwks, metrics?)));
            if let Some(entry) = entry {
                running.insert(name.clone(), entry);
            }
        }
        self.state.keep_jwks(&snapshot.identities.jwks);
    }
}

fn start(jwks: &Arc<Jwks>, metrics: &Arc<IdentityMetrics>) -> Running {
    let task = keep_fresh(Arc::clone(jwks), Arc::clone(metrics));
    Running {
        jwks: Arc::clone(jwks),
        task: tokio::spawn(task).abort_handle(),
    }
}

async fn keep_fresh(jwks: Arc<Jwks>, metrics: Arc<IdentityMetrics>) {
    let mut failing = None;
    let told = |fetched: Result<usize, &str>| match fetched {
        Ok(keys) => {
            event::jwks_fetched(&metrics, keys, failing != Some(false));
            failing = Some(false);
        }
        Err(why) => {
            event::jwks_failing(&metrics, why, failing != Some(true));
            failing = Some(true);
        }
    };
    match HttpFetch::new(&jwks.source) {
        Ok(fetch) => jwks.keep_fresh(&fetch, told).await,
        Err(why) => jwks.keep_fresh(&Unfetchable(why), told).await,
    }
}

/// What could be fetched when the configuration was checked, and cannot now: authorities of the system that are gone.
struct Unfetchable(String);

impl Fetch for Unfetchable {
    async fn fetch(&self) -> Result<Fetched, String> {
        Err(self.0.clone())
    }
}
