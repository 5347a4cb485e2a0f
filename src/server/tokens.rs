//! What happens beside calls for each provider whose tokens are got.

use crate::observe::event;
use crate::observe::metrics::Metrics;
use crate::snapshot::{Snapshot, Tokens};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

pub struct Renewals {
    metrics: Arc<Metrics>,
    running: Mutex<HashMap<String, Running>>,
}

/// The task that keeps the token of one provider fresh; it ends when another takes its place.
struct Running {
    tokens: Arc<Tokens>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewals {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            running: Mutex::default(),
        }
    }

    /// Starts what is new, ends what is gone, and leaves alone what did not change.
    pub fn apply(&self, snapshot: &Snapshot) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for (name, provider) in &snapshot.catalogue.providers {
            let Some(tokens) = provider.tokens() else {
                continue;
            };
            let kept = before
                .remove(name)
                .filter(|running| Arc::ptr_eq(&running.tokens, tokens));
            let entry = kept.unwrap_or_else(|| self.start(name, tokens));
            running.insert(name.clone(), entry);
        }
    }

    fn start(&self, name: &str, tokens: &Arc<Tokens>) -> Running {
        let task = keep_fresh(
            name.to_owned(),
            Arc::clone(tokens),
            Arc::clone(&self.metrics),
        );
        Running {
            tokens: Arc::clone(tokens),
            task: tokio::spawn(task).abort_handle(),
        }
    }
}

async fn keep_fresh(provider: String, tokens: Arc<Tokens>, metrics: Arc<Metrics>) {
    let mut failing = None;
    tokens
        .keep_fresh(|fetched| {
            let fails = fetched.is_err();
            let news = failing.replace(fails) != Some(fails);
            match fetched {
                Ok(good_for) => event::token_fetched(&metrics, &provider, good_for, news),
                Err(why) => event::token_failing(&metrics, &provider, why, news),
            }
        })
        .await;
}
