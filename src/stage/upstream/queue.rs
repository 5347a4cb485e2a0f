//! Requests that wait for a place at an endpoint: fair between users, and not too many.

use super::endpoint::Endpoint;
use super::pool::{Answer, Unavailable, Want};
use super::turnover::Turnover;
use crate::base::line::{Line, Said, Spot};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The line. Its length is kept beside the lock, so that a pool that is not full never locks.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    line: Line<Waiter>,
    turnover: Turnover,
}

/// One request in the line.
#[derive(Debug)]
struct Waiter {
    key: Option<u64>,
    user: Option<u64>,
    sticky: Option<Arc<Endpoint>>,
    tried: Vec<Arc<Endpoint>>,
    allow_same: bool,
    answer: oneshot::Sender<Answer>,
}

/// A request's place in the line; dropping it leaves the line.
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    spot: Spot,
    pub(super) answer: oneshot::Receiver<Answer>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut inner = self.queue.locked();
        if inner.line.leave(self.spot).is_some() {
            self.queue.note(&inner);
        }
    }
}

/// What one is told who makes room for another before any place became free.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// Waiters that are passed over when they wait for particular endpoints.
const PASS_OVER_MAX: usize = 16;

impl Queue {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the line. When `max` wait already, one makes room who has more in it than this user would have;
    /// else there is no place, and how long it takes until there is one is told, if that is known.
    pub(super) fn join(&self, want: &Want<'_>, max: usize) -> Result<Ticket<'_>, Option<Duration>> {
        let mut inner = self.locked();
        if inner.line.len() >= max {
            let Some(last) = inner.line.make_room(want.user) else {
                return Err(inner.wait_of(want.user, want.now));
            };
            let retry_after = inner.wait_of(last.user, want.now);
            // It may have left just now.
            let _ = last.answer.send(Err(Unavailable::QueueFull {
                retry_after: retry_after.unwrap_or(RETRY_AFTER_UNKNOWN),
            }));
        }
        if inner.line.is_empty() {
            inner.turnover.begin(want.now);
        }
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter {
            key: want.key,
            user: want.user,
            sticky: want.sticky.map(Arc::clone),
            tried: want.tried.to_vec(),
            allow_same: want.allow_same,
            answer: sender,
        };
        let spot = inner.line.join(want.user, waiter);
        self.note(&inner);
        Ok(Ticket {
            queue: self,
            spot,
            answer,
        })
    }

    /// How long one more request of this user would wait, by the pace at which places become free; none while
    /// that is not known.
    pub(super) fn wait_of(&self, user: Option<u64>, now: Instant) -> Option<Duration> {
        self.locked().wait_of(user, now)
    }

    /// Serves one waiter, the next that `serve` has an answer for. The answer comes back when its
    /// waiter has just left; none: nobody could be served.
    pub(super) fn serve_one(
        &self,
        now: Instant,
        serve: impl Fn(&Want<'_>) -> Option<Answer>,
    ) -> Option<Result<(), Answer>> {
        let mut inner = self.locked();
        let served = inner.line.serve(PASS_OVER_MAX, |waiter| {
            match serve(&waiter.want(now)) {
                Some(answer) => Said::Served(answer),
                // It would have taken any endpoint: nobody behind it can be luckier.
                None if waiter.tried.is_empty() => Said::Nobody,
                None => Said::PassedOver,
            }
        });
        let (waiter, answer) = served?;
        if answer.is_ok() {
            inner.turnover.freed(now);
        }
        self.note(&inner);
        Some(waiter.answer.send(answer))
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, inner: &Inner) {
        self.waiting.store(inner.line.len(), SeqCst);
    }
}

impl Inner {
    fn wait_of(&self, user: Option<u64>, now: Instant) -> Option<Duration> {
        self.turnover.wait(self.line.ahead_of_next(user), now)
    }
}

impl Waiter {
    fn want(&self, now: Instant) -> Want<'_> {
        Want {
            now,
            key: self.key,
            user: self.user,
            sticky: self.sticky.as_ref(),
            tried: &self.tried,
            allow_same: self.allow_same,
            deadline: None,
        }
    }
}
