//! Requests that wait for a place at an endpoint: first come, first served, and not too many.

use super::endpoint::Endpoint;
use super::pool::{Answer, Want};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

/// The line. Its length is kept beside the lock, so that a pool that is not full never locks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    line: Mutex<Line>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    next: u64,
}

/// One request in the line.
#[derive(Debug)]
pub(super) struct Waiter {
    id: u64,
    key: Option<u64>,
    sticky: Option<Arc<Endpoint>>,
    tried: Vec<Arc<Endpoint>>,
    allow_same: bool,
    answer: oneshot::Sender<Answer>,
}

/// A request's place in the line; dropping it leaves the line.
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    id: u64,
    pub(super) answer: oneshot::Receiver<Answer>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.locked();
        // Those that give up are mostly at the front: they have waited longest.
        if let Some(at) = line.waiters.iter().position(|w| w.id == self.id) {
            line.waiters.remove(at);
            self.queue.note(&line);
        }
    }
}

/// Waiters that are passed over when they wait for particular endpoints.
const PASS_OVER_MAX: usize = 16;

impl Queue {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the line; none when `max` wait already.
    pub(super) fn join(&self, want: &Want<'_>, max: usize) -> Option<Ticket<'_>> {
        let mut line = self.locked();
        if line.waiters.len() >= max {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        let id = line.next;
        line.next += 1;
        line.waiters.push_back(Waiter {
            id,
            key: want.key,
            sticky: want.sticky.map(Arc::clone),
            tried: want.tried.to_vec(),
            allow_same: want.allow_same,
            answer: sender,
        });
        self.note(&line);
        Some(Ticket {
            queue: self,
            id,
            answer,
        })
    }

    /// Serves one waiter, the first that `serve` has an answer for. The answer comes back when its
    /// waiter has just left; none: nobody could be served.
    pub(super) fn serve_one(
        &self,
        now: Instant,
        serve: impl Fn(&Want<'_>) -> Option<Answer>,
    ) -> Option<Result<(), Answer>> {
        let mut line = self.locked();
        let mut at = 0;
        while at < line.waiters.len().min(PASS_OVER_MAX) {
            let waiter = &line.waiters[at];
            if let Some(answer) = serve(&waiter.want(now)) {
                let waiter = line.waiters.remove(at)?;
                self.note(&line);
                return Some(waiter.answer.send(answer));
            }
            if waiter.tried.is_empty() {
                // It would have taken any endpoint: nobody behind it can be luckier.
                return None;
            }
            at += 1;
        }
        None
    }

    fn locked(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: &Line) {
        self.waiting.store(line.waiters.len(), SeqCst);
    }
}

impl Waiter {
    fn want(&self, now: Instant) -> Want<'_> {
        Want {
            now,
            key: self.key,
            sticky: self.sticky.as_ref(),
            tried: &self.tried,
            allow_same: self.allow_same,
            deadline: None,
        }
    }
}
