//! A pool: hands out its endpoints, one lease for each attempt, and learns from how they end.
//!
//! Invariant: whoever makes room (a lease ends) does so first and looks for waiters then; whoever
//! waits joins the line first and looks for room then. Both in sequentially consistent order, so
//! one of the two sees the other, and no wake-up is lost.

use super::balance::{self, Balance};
use super::ejection::{Gate, Outcome, Ticket, Verdict};
use super::endpoint::{Endpoint, State};
use super::queue::{self, Queue};
use super::retry::Budget;
use super::settings::Settings;
use crate::base::reject::{Reject, RejectKind};
use arc_swap::ArcSwap;
use smallvec::SmallVec;
use std::fmt;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Endpoints that can each answer the same requests. Lives as long as its snapshot; what it
/// learns of an endpoint is kept in the endpoint and lives on.
#[derive(Debug)]
pub struct Pool {
    pub name: String,
    pub settings: Settings,
    /// How many retries the pool may bear; requests are counted by [`Pool::acquire`].
    pub budget: Budget,
    balance: Box<dyn Balance>,
    members: ArcSwap<Vec<Arc<Endpoint>>>,
    queue: Queue,
    /// Held while one endpoint is ejected, so that two never go where only one may.
    ejecting: Mutex<()>,
    /// How often those who wait look around by themselves.
    look_around: Duration,
}

/// For room that nobody announces: a time out that ends, a probe that goes well, a lease of the
/// same endpoint taken before a reload.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// What a request wants of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    pub now: Instant,
    /// What `hash` is taken of, see [`balance::hash::key_of`].
    pub key: Option<u64>,
    /// Who asks: those who wait for a place take turns by user. All who name nobody are one.
    pub user: Option<u64>,
    /// Where the caller was before: taken if eligible.
    pub sticky: Option<&'a Arc<Endpoint>>,
    /// Endpoints of earlier attempts: not again while there are others.
    pub tried: &'a [Arc<Endpoint>],
    /// Whether one of `tried` will do when no other is eligible.
    pub allow_same: bool,
    /// When the whole request must be done: it does not wait for a place beyond.
    pub deadline: Option<Instant>,
}

impl Want<'_> {
    /// A first attempt, for anybody.
    pub fn any(now: Instant) -> Self {
        Self {
            now,
            key: None,
            user: None,
            sticky: None,
            tried: &[],
            allow_same: false,
            deadline: None,
        }
    }
}

/// Why there is no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The pool is empty, or every endpoint has failed its probes.
    NoHealthyEndpoint { retry_after: Duration },
    /// Every eligible endpoint has been tried by this request: answer with its last failure.
    NothingElse,
    /// Every eligible endpoint is full, and so is the line of those who wait.
    QueueFull { retry_after: Duration },
    /// Every eligible endpoint stayed full for as long as the request could wait.
    WaitedInVain { retry_after: Duration },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHealthyEndpoint { .. } => "no endpoint of the pool is healthy",
            Self::NothingElse => "every eligible endpoint has been tried",
            Self::QueueFull { .. } => "every endpoint is full, and so is the queue",
            Self::WaitedInVain { .. } => "every endpoint stayed full while the request waited",
        })
    }
}

impl From<Unavailable> for Reject {
    fn from(why: Unavailable) -> Self {
        let (kind, retry_after) = match why {
            Unavailable::NoHealthyEndpoint { retry_after } => {
                (RejectKind::NoHealthyEndpoint, Some(retry_after))
            }
            Unavailable::NothingElse => (RejectKind::NoHealthyEndpoint, None),
            Unavailable::QueueFull { retry_after } | Unavailable::WaitedInVain { retry_after } => {
                (RejectKind::QueueFull, Some(retry_after))
            }
        };
        Self {
            retry_after,
            ..kind.because(why)
        }
    }
}

/// What a waiter is told.
pub(super) type Answer = Result<Lease, Unavailable>;

/// Why nothing was taken at once.
enum Refusal {
    Full,
    Final(Unavailable),
}

/// Whether an ejection is heeded.
#[derive(Clone, Copy)]
enum Entry {
    ByTheGate,
    PastTheGate,
}

/// More members than this cost one allocation for each pick.
type Candidates<'a> = SmallVec<[&'a Arc<Endpoint>; 16]>;

impl Pool {
    /// A pool without members: see [`Pool::set_members`].
    pub fn new(name: &str, settings: &Settings, now: Instant) -> Self {
        let retry = &settings.retry;
        Self {
            name: name.to_owned(),
            settings: settings.clone(),
            budget: Budget::new(retry.budget, retry.budget_min, now),
            balance: balance::build(&settings.balance),
            members: ArcSwap::default(),
            queue: Queue::default(),
            ejecting: Mutex::default(),
            look_around: LOOK_AROUND,
        }
    }

    /// Who belongs to the pool from now on. One that joins others which have served already grows
    /// into its share (slow start); one that leaves finishes what it has.
    pub fn set_members(self: &Arc<Self>, members: Vec<Arc<Endpoint>>, now: Instant) {
        // At the start of the process, or of a new pool, there is nobody to compare with.
        let joins_others = members.iter().any(|member| member.placed.load(Relaxed));
        for member in &members {
            member.slow_start.set_period(self.settings.slow_start.0.0);
            if !member.placed.swap(true, Relaxed) && joins_others {
                member.slow_start.begin(member.at(now));
            }
        }
        self.members.store(Arc::new(members));
        self.serve_waiters(now);
    }

    pub fn members(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.members.load_full()
    }

    /// How an endpoint stands, which may have left the pool.
    pub fn state_of(&self, endpoint: &Arc<Endpoint>, now: Instant) -> State {
        if contains(&self.members.load(), endpoint) {
            endpoint.state(now)
        } else {
            State::Draining
        }
    }

    /// Requests that wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Members that a request could be sent to, were they not full.
    pub fn eligible(&self, now: Instant) -> usize {
        let members = self.members.load();
        let eligible = members
            .iter()
            .filter(|m| m.health.is_up() && m.gate(now) != Gate::Shut);
        eligible.count()
    }

    /// Whether another endpoint than these could take a request now.
    pub fn has_other_than(&self, tried: &[&Arc<Endpoint>], now: Instant) -> bool {
        let max = self.settings.capacity.max_in_flight;
        self.members.load().iter().any(|m| {
            m.health.is_up()
                && m.ejection.gate(m.at(now)) != Gate::Shut
                && m.in_flight.load(SeqCst) < max
                && !contains(tried, m)
        })
    }

    /// An endpoint for one attempt, at once or after a wait. Dropping the future leaves the line;
    /// a place given to it meanwhile goes to the next. A first attempt counts for the retry budget.
    pub async fn acquire(self: &Arc<Self>, want: Want<'_>) -> Result<Lease, Unavailable> {
        if want.tried.is_empty() {
            self.budget.request(want.now);
        }
        // Nobody overtakes those who wait.
        if self.queue.waiting() == 0 {
            match self.try_acquire(&want) {
                Ok(lease) => return Ok(lease),
                Err(Refusal::Final(why)) => return Err(why),
                Err(Refusal::Full) => {}
            }
        }
        // Boxed, so that the common case does not carry the room for a wait.
        Box::pin(self.wait(want)).await
    }

    async fn wait(self: &Arc<Self>, want: Want<'_>) -> Result<Lease, Unavailable> {
        let capacity = &self.settings.capacity;
        let unknown = capacity.queue_timeout.0.max(Duration::from_secs(1));
        let queue_max = usize::try_from(capacity.queue_max).unwrap_or(usize::MAX);
        let joined = self.queue.join(&want, queue_max);
        let mut ticket = joined.map_err(|wait| Unavailable::QueueFull {
            retry_after: wait.unwrap_or(unknown),
        })?;
        self.serve_waiters(want.now);
        let mut longest = capacity.queue_timeout.0;
        if let Some(deadline) = want.deadline {
            longest = longest.min(deadline.saturating_duration_since(want.now));
        }
        let patience = tokio::time::timeout(longest, self.answer(&mut ticket)).await;
        let answer = match patience {
            Ok(answer) => Some(answer),
            // The place may have come in the same moment as the end of patience.
            Err(_) => ticket.answer.try_recv().ok(),
        };
        answer.unwrap_or_else(|| {
            drop(ticket);
            let likely = self.queue.wait_of(want.user, clock());
            let retry_after = likely.unwrap_or(unknown);
            Err(Unavailable::WaitedInVain { retry_after })
        })
    }

    async fn answer(self: &Arc<Self>, ticket: &mut queue::Ticket<'_>) -> Answer {
        loop {
            match tokio::time::timeout(self.look_around, &mut ticket.answer).await {
                Ok(Ok(answer)) => return answer,
                // The sender lives in the line until it has answered.
                Ok(Err(_)) => return Err(Unavailable::NothingElse),
                Err(_) => self.serve_waiters(clock()),
            }
        }
    }

    /// Gives what is free to those who wait, by their turns.
    fn serve_waiters(self: &Arc<Self>, now: Instant) {
        while self.queue.waiting() > 0 {
            let served = self
                .queue
                .serve_one(now, |want| match self.try_acquire(want) {
                    Ok(lease) => Some(Ok(lease)),
                    Err(Refusal::Final(why)) => Some(Err(why)),
                    Err(Refusal::Full) => None,
                });
            match served {
                None => return,
                // Should its waiter be gone already, the place is given back by the drop.
                Some(answer) => drop(answer),
            }
        }
    }

    fn try_acquire(self: &Arc<Self>, want: &Want<'_>) -> Result<Lease, Refusal> {
        let members = self.members.load();
        let (mut candidates, entry) = self.candidates(&members, want)?;
        if let Some(sticky) = want.sticky
            && contains(&candidates, sticky)
            && let Some(lease) = self.take(sticky, entry, want.now)
        {
            return Ok(lease);
        }
        while let Some(first) = candidates.first() {
            let picked = if candidates.len() == 1 {
                *first
            } else {
                self.balance.pick(&candidates, want.key, want.now)
            };
            if let Some(lease) = self.take(picked, entry, want.now) {
                return Ok(lease);
            }
            // Another thread was quicker: choose among the others.
            candidates.retain(|candidate| !Arc::ptr_eq(candidate, picked));
        }
        Err(Refusal::Full)
    }

    /// Who may be asked: well, let in, not tried yet, not full. Never empty.
    fn candidates<'a>(
        &self,
        members: &'a [Arc<Endpoint>],
        want: &Want<'_>,
    ) -> Result<(Candidates<'a>, Entry), Refusal> {
        let open = |m: &&Arc<Endpoint>| m.gate(want.now) != Gate::Shut;
        let up = |m: &&Arc<Endpoint>| m.health.is_up();
        let max = self.settings.capacity.max_in_flight;
        let free = |m: &&Arc<Endpoint>| m.in_flight.load(SeqCst) < max;
        let untried = |m: &&Arc<Endpoint>| want.tried.is_empty() || !contains(want.tried, m);

        let found: Candidates = members
            .iter()
            .filter(|m| up(m) && open(m) && untried(m) && free(m))
            .collect();
        if !found.is_empty() {
            return Ok((found, Entry::ByTheGate));
        }
        // Rare from here on: find out what is missing.
        let mut entry = Entry::ByTheGate;
        let mut eligible: Candidates = members.iter().filter(|m| up(m) && open(m)).collect();
        if eligible.is_empty() {
            // An ejection is a guess. With nobody else left, ask rather than refuse.
            entry = Entry::PastTheGate;
            eligible = members.iter().filter(up).collect();
        }
        if eligible.is_empty() {
            return Err(Refusal::Final(self.no_healthy_endpoint()));
        }
        if eligible.iter().any(untried) {
            eligible.retain(|m| untried(&&**m));
        } else if !want.allow_same {
            return Err(Refusal::Final(Unavailable::NothingElse));
        }
        eligible.retain(|m| free(&&**m));
        if eligible.is_empty() {
            return Err(Refusal::Full);
        }
        Ok((eligible, entry))
    }

    /// Probes go on at the fast interval as soon as an endpoint answers again.
    fn no_healthy_endpoint(&self) -> Unavailable {
        let health = &self.settings.health;
        let probes = health
            .fast_interval
            .0
            .saturating_mul(health.healthy_after.max(1));
        Unavailable::NoHealthyEndpoint {
            retry_after: probes.clamp(Duration::from_secs(1), Duration::from_mins(1)),
        }
    }

    /// One place at this endpoint, and its one trial if it is on its way back.
    fn take(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        entry: Entry,
        now: Instant,
    ) -> Option<Lease> {
        let trial = match (endpoint.gate(now), entry) {
            (Gate::Open, _) | (Gate::Shut, Entry::PastTheGate) => None,
            (Gate::Ready, _) => Some(endpoint.ejection.begin_trial(endpoint.at(now))?),
            (Gate::Shut, Entry::ByTheGate) => return None,
        };
        let max = self.settings.capacity.max_in_flight;
        let taken = endpoint
            .in_flight
            .fetch_update(SeqCst, SeqCst, |n| (n < max).then_some(n + 1));
        if taken.is_err() {
            if let Some(trial) = trial {
                endpoint.ejection.abandon(trial);
            }
            return None;
        }
        endpoint.requests.fetch_add(1, Relaxed);
        Some(Lease {
            pool: Arc::clone(self),
            endpoint: Arc::clone(endpoint),
            trial,
        })
    }

    /// Ejects, unless nobody else would be left or too many are out already; one may always go.
    fn eject(&self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.load();
        let out = members.iter().filter(|m| m.ejection.is_out()).count();
        let share = usize::from(self.settings.ejection.max_share.0);
        let out_max = (members.len() * share / 100).max(1);
        let someone_is_left = members
            .iter()
            .any(|m| !Arc::ptr_eq(m, endpoint) && m.health.is_up() && !m.ejection.is_out());
        let may_go = someone_is_left && out < out_max;
        if may_go {
            let when = (endpoint.at(now), fastrand::f64());
            endpoint.ejection.eject(&self.settings.ejection, when);
        }
        may_go
    }
}

fn contains<E: std::borrow::Borrow<Arc<Endpoint>>>(among: &[E], endpoint: &Arc<Endpoint>) -> bool {
    among.iter().any(|one| Arc::ptr_eq(one.borrow(), endpoint))
}

/// Only for those who wait, where no caller could say what time it is.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A place at an endpoint, for one attempt; given back when dropped, on whatever path.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
    trial: Option<Ticket>,
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// How the attempt went, as soon as that is known; true if that took the endpoint out. A lease
    /// dropped without it (the caller left) says nothing of its endpoint.
    pub fn report(&mut self, outcome: Outcome, now: Instant) -> bool {
        let Self { pool, endpoint, .. } = self;
        if outcome != Outcome::Success {
            endpoint.failures.fetch_add(1, Relaxed);
        }
        let at = endpoint.at(now);
        let settings = &pool.settings.ejection;
        let when = (at, fastrand::f64());
        let trial = self.trial.take();
        match endpoint.ejection.report(outcome, trial, settings, when) {
            Verdict::Keep => false,
            Verdict::Eject => pool.eject(endpoint, now),
            Verdict::Returned => {
                endpoint.slow_start.begin(at);
                pool.serve_waiters(now);
                false
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.endpoint.ejection.abandon(trial);
        }
        self.endpoint.in_flight.fetch_sub(1, SeqCst);
        if self.pool.queue.waiting() > 0 {
            self.pool.serve_waiters(clock());
        }
    }
}

#[cfg(test)]
mod tests;
