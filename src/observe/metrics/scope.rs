//! Series that leave with what they describe: a route, a pool, an endpoint, a listener.
//!
//! Invariant: for one name there is one living set of handles at a time, whichever snapshot asks.
//! A new set takes over the journal of the one before it, so that nothing is ever left behind.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The living handles of one kind, by name.
pub struct Living<T>(Mutex<HashMap<Vec<String>, Entry<T>>>);

struct Entry<T> {
    handles: Weak<T>,
    journal: Arc<Journal>,
}

impl<T> Default for Living<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Living<T> {
    /// The handles of this name; made if nobody holds them now.
    pub fn get_or_make(&self, key: &[&str], make: impl FnOnce(Scope) -> T) -> Arc<T> {
        let key: Vec<String> = key.iter().map(ToString::to_string).collect();
        let mut living = lock(&self.0);
        let entry = living.get(&key);
        if let Some(found) = entry.and_then(|entry| entry.handles.upgrade()) {
            return found;
        }
        let journal = entry.map(|entry| Arc::clone(&entry.journal));
        let journal = journal.unwrap_or_default();
        let handles = Arc::new(make(Scope {
            key: key.clone(),
            journal: Arc::clone(&journal),
        }));
        let handles_weak = Arc::downgrade(&handles);
        living.insert(
            key,
            Entry {
                handles: handles_weak,
                journal,
            },
        );
        handles
    }

    /// Removes the series of this name, unless others hold its handles by now.
    pub fn forget(&self, scope: &Scope) {
        let mut living = lock(&self.0);
        let Some(entry) = living.get(&scope.key) else {
            return;
        };
        if entry.handles.strong_count() == 0 {
            entry.journal.forget_all();
            living.remove(&scope.key);
        }
    }
}

/// Where a set of handles resolves its series.
pub struct Scope {
    key: Vec<String>,
    journal: Arc<Journal>,
}

impl Scope {
    /// Part of the name: `part(0)` of an endpoint is its pool.
    pub fn part(&self, at: usize) -> &str {
        &self.key[at]
    }

    /// One series of a family, which will be removed with this scope.
    pub fn series<B: MetricVecBuilder + 'static>(
        &self,
        family: &MetricVec<B>,
        labels: &[&str],
    ) -> B::M {
        self.journal.note(family, labels);
        family.with_label_values(labels)
    }
}

type SeriesName = (String, Vec<String>);

/// What was resolved, and how each is removed again.
#[derive(Default)]
struct Journal(Mutex<HashMap<SeriesName, Box<dyn Fn() + Send>>>);

impl Journal {
    fn note<B: MetricVecBuilder + 'static>(&self, family: &MetricVec<B>, labels: &[&str]) {
        let owned: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let name = family
            .desc()
            .first()
            .map_or(String::new(), |desc| desc.fq_name.clone());
        lock(&self.0)
            .entry((name, owned.clone()))
            .or_insert_with(|| {
                let family = family.clone();
                Box::new(move || {
                    // An error only says that it is gone already.
                    let _ = family.remove_label_values(&owned);
                })
            });
    }

    fn forget_all(&self) {
        for (_, remove) in lock(&self.0).drain() {
            remove();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole after every statement: a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
