//! Calls that wait until one of a provider's keys has what they need: users take turns, the calls of each model apart.

use super::allowance::Need;
use super::key_ring::Picked;
use crate::base::line::{Line, Said, Spot};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

/// Calls that are looked at when one may go.
const LOOKED_AT_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct KeyLine {
    line: Mutex<Line<Waiter>>,
    /// Kept beside the lock, so that nobody locks who need not wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Waiter {
    model: Box<str>,
    prompt: u64,
    answer: u64,
    key: oneshot::Sender<Picked>,
}

/// A call's place among those that wait; dropping it leaves.
#[derive(Debug)]
pub struct Turn<'a> {
    line: &'a KeyLine,
    spot: Spot,
    /// Broken when the call had to make room for one of another user.
    pub key: oneshot::Receiver<Picked>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = self.line.locked();
        line.leave(self.spot);
        self.line.note(&line);
    }
}

impl KeyLine {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// None when `max` wait, of whom none has more calls in the line than this user would have.
    pub fn join(&self, need: &Need<'_>, user: Option<u64>, max: usize) -> Option<Turn<'_>> {
        let mut line = self.locked();
        if line.len() >= max {
            line.make_room(user)?;
        }
        let (sender, key) = oneshot::channel();
        let waiter = Waiter {
            model: need.model.into(),
            prompt: need.prompt,
            answer: need.answer,
            key: sender,
        };
        let spot = line.join(user, waiter);
        self.note(&line);
        Some(Turn {
            line: self,
            spot,
            key,
        })
    }

    /// Gives keys to those whose turn it is, for as long as there is one for them.
    pub fn serve(&self, pick: impl Fn(&Need<'_>) -> Result<Picked, Instant>) {
        let mut line = self.locked();
        // Models for whose next call there is not enough: nobody who needs less goes before it.
        let mut short: Vec<Box<str>> = Vec::new();
        let mut serve = |waiter: &Waiter| {
            if short.contains(&waiter.model) {
                return Said::PassedOver;
            }
            if let Ok(picked) = pick(&waiter.need()) {
                return Said::Served(picked);
            }
            short.push(waiter.model.clone());
            Said::PassedOver
        };
        while let Some((waiter, picked)) = line.serve(LOOKED_AT_MAX, &mut serve) {
            // It may have left just now; the next answer sets right what was taken for it.
            let _ = waiter.key.send(picked);
        }
        self.note(&line);
    }

    fn locked(&self) -> MutexGuard<'_, Line<Waiter>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: &Line<Waiter>) {
        self.waiting.store(line.len(), Relaxed);
    }
}

impl Waiter {
    fn need(&self) -> Need<'_> {
        Need {
            model: &self.model,
            prompt: self.prompt,
            answer: self.answer,
        }
    }
}
