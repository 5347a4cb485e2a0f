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
        let retry_after = capacity.queue_timeout.0.max(Duration::from_secs(1));
        let queue_max = usize::try_from(capacity.queue_max).unwrap_or(usize::MAX);
        let Some(mut ticket) = self.queue.join(&want, queue_max) else {
            return Err(Unavailable::QueueFull { retry_after });
        };
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
        answer.unwrap_or(Err(Unavailable::WaitedInVain { retry_after }))
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

    /// Gives what is free to those who wait, in their order.
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
mod tests {
    use super::super::balance::testing::endpoints;
    use super::super::settings::{BalanceSettings, HealthSettings};
    use super::*;
    use crate::base::units::{Percent, Period};
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    /// No test waits longer for what must come.
    const SOON: Duration = Duration::from_secs(20);

    fn pool_with(weights: &[u32], change: impl FnOnce(&mut Settings)) -> Arc<Pool> {
        let now = clock();
        let mut settings = Settings::default();
        change(&mut settings);
        let mut pool = Pool::new("app", &settings, now);
        // A wake-up that is lost shall be seen in tests, not mended.
        pool.look_around = Duration::from_hours(1);
        let pool = Arc::new(pool);
        pool.set_members(endpoints(weights, now), now);
        pool
    }

    fn full_at(max: u32, queue: u32) -> impl FnOnce(&mut Settings) {
        move |settings| {
            settings.capacity.max_in_flight = max;
            settings.capacity.queue_max = queue;
        }
    }

    fn take_down(endpoint: &Endpoint, now: Instant) {
        let settings = HealthSettings {
            unhealthy_after: 1,
            ..HealthSettings::default()
        };
        endpoint.health.record(Err("refused"), &settings, now);
        assert!(!endpoint.health.is_up());
    }

    fn throw_out(endpoint: &Endpoint, now: Instant) {
        let when = (endpoint.at(now), 0.0);
        endpoint.ejection.eject(&Settings::default().ejection, when);
    }

    fn at_once(pool: &Arc<Pool>, want: &Want<'_>) -> Result<Lease, Option<Unavailable>> {
        pool.try_acquire(want).map_err(|refusal| match refusal {
            Refusal::Full => None,
            Refusal::Final(why) => Some(why),
        })
    }

    fn in_flight(pool: &Pool) -> Vec<u32> {
        let members = pool.members();
        members.iter().map(|m| m.in_flight.load(SeqCst)).collect()
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        tokio::time::timeout(SOON, async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn requests_take_turns_and_give_their_places_back() {
        let pool = pool_with(&[1, 1, 1], |_| ());
        let mut leases = Vec::new();
        for _ in 0..6 {
            leases.push(pool.acquire(Want::any(clock())).await.unwrap());
        }
        assert_eq!(in_flight(&pool), [2, 2, 2]);
        drop(leases);
        assert_eq!(in_flight(&pool), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_place_comes_back_when_its_request_panics() {
        let pool = pool_with(&[1], |_| ());
        let lease = pool.acquire(Want::any(clock())).await.unwrap();
        let panicked = tokio::spawn(async move {
            assert!(lease.endpoint().name.is_empty(), "on purpose");
        });
        assert!(panicked.await.is_err());
        assert_eq!(in_flight(&pool), [0]);
    }

    #[test]
    fn the_sticky_endpoint_is_taken_while_it_is_eligible() {
        let (pool, now) = (pool_with(&[1, 1, 1], full_at(2, 0)), clock());
        let members = pool.members();
        let want = Want {
            sticky: Some(&members[2]),
            ..Want::any(now)
        };
        let leases: Vec<_> = (0..3).map(|_| at_once(&pool, &want).unwrap()).collect();
        assert_eq!(in_flight(&pool)[2], 2, "two, then it is full");
        drop(leases);
        take_down(&members[2], now);
        let lease = at_once(&pool, &want).unwrap();
        assert!(!Arc::ptr_eq(lease.endpoint(), &members[2]));
    }

    #[test]
    fn a_retry_goes_elsewhere_and_to_the_same_only_if_allowed() {
        let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
        let members = pool.members();
        let mut want = Want {
            tried: &members[..1],
            ..Want::any(now)
        };
        for _ in 0..4 {
            let lease = at_once(&pool, &want).unwrap();
            assert!(Arc::ptr_eq(lease.endpoint(), &members[1]));
        }
        want.tried = &members;
        assert_eq!(
            at_once(&pool, &want).unwrap_err(),
            Some(Unavailable::NothingElse)
        );
        want.allow_same = true;
        assert!(at_once(&pool, &want).is_ok());
    }

    #[test]
    fn a_pool_without_a_healthy_endpoint_says_when_to_come_back() {
        let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
        for member in pool.members().iter() {
            take_down(member, now);
        }
        let why = at_once(&pool, &Want::any(now)).unwrap_err().unwrap();
        let retry_after = Duration::from_secs(2);
        assert_eq!(why, Unavailable::NoHealthyEndpoint { retry_after });
        let reject = Reject::from(why);
        assert_eq!(reject.kind, RejectKind::NoHealthyEndpoint);
        assert_eq!(reject.retry_after, Some(retry_after));
        pool.set_members(Vec::new(), now);
        assert!(at_once(&pool, &Want::any(now)).is_err());
    }

    #[test]
    fn with_nobody_else_left_an_ejected_endpoint_is_asked() {
        let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
        let members = pool.members();
        throw_out(&members[0], now);
        take_down(&members[1], now);
        let lease = at_once(&pool, &Want::any(now)).unwrap();
        assert!(Arc::ptr_eq(lease.endpoint(), &members[0]));
    }

    /// Reports as many connect failures to each endpoint in turn, and counts who is out.
    fn out_after_failures_of_all(members: usize, share: u8) -> usize {
        let (pool, now) = (
            pool_with(&vec![1; members], |s| s.ejection.max_share = Percent(share)),
            clock(),
        );
        for _ in 0..3 {
            for member in pool.members().iter() {
                let want = Want {
                    sticky: Some(member),
                    ..Want::any(now)
                };
                let mut lease = at_once(&pool, &want).unwrap();
                lease.report(Outcome::ConnectFailure, now);
            }
        }
        let members = pool.members();
        members.iter().filter(|m| m.ejection.is_out()).count()
    }

    #[test]
    fn some_may_be_ejected_but_never_all() {
        for (members, share, out) in [
            (1, 100, 0),
            (2, 50, 1),
            (2, 10, 1),
            (2, 100, 1),
            (3, 50, 1),
            (4, 50, 2),
            (10, 50, 5),
            (10, 100, 9),
        ] {
            let got = out_after_failures_of_all(members, share);
            assert_eq!(got, out, "{members} members, {share}%");
        }
    }

    #[test]
    fn an_ejected_endpoint_returns_by_one_good_trial_and_grows_again() {
        let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
        let members = pool.members();
        throw_out(&members[0], now);
        let later = now + Duration::from_secs(11);
        let want = Want {
            sticky: Some(&members[0]),
            ..Want::any(later)
        };
        let mut trial = at_once(&pool, &want).unwrap();
        assert!(Arc::ptr_eq(trial.endpoint(), &members[0]));
        assert_eq!(members[0].state(later), State::Trial);
        let second = at_once(&pool, &want).unwrap();
        assert!(
            Arc::ptr_eq(second.endpoint(), &members[1]),
            "one trial only"
        );
        trial.report(Outcome::Success, later);
        assert_eq!(members[0].state(later), State::SlowStart);
        assert_eq!(members[0].weight_at(later), 100);
    }

    #[test]
    fn a_trial_whose_caller_left_is_followed_by_another() {
        let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
        let members = pool.members();
        throw_out(&members[0], now);
        let later = now + Duration::from_secs(11);
        let want = Want {
            sticky: Some(&members[0]),
            ..Want::any(later)
        };
        for _ in 0..3 {
            let trial = at_once(&pool, &want).unwrap();
            assert!(Arc::ptr_eq(trial.endpoint(), &members[0]));
        }
    }

    #[test]
    fn only_one_that_joins_others_starts_slowly() {
        let (pool, now) = (pool_with(&[1], |_| ()), clock());
        let first = pool.members();
        assert_eq!(first[0].weight_at(now), 1_000, "there at the start");
        let mut members = endpoints(&[1, 1], now);
        members[0] = Arc::clone(&first[0]);
        pool.set_members(members.clone(), now);
        assert_eq!(members[0].weight_at(now), 1_000);
        assert_eq!(members[1].weight_at(now), 100);
        let reloaded = Arc::new(Pool::new("app", &Settings::default(), now));
        reloaded.set_members(members.clone(), now + Duration::from_secs(30));
        let shares = members
            .iter()
            .map(|m| m.weight_at(now + Duration::from_secs(30)));
        assert_eq!(
            shares.collect::<Vec<_>>(),
            [1_000, 1_000],
            "a reload is no beginning"
        );
        reloaded.set_members(vec![Arc::clone(&members[1])], now);
        assert_eq!(reloaded.state_of(&members[0], now), State::Draining);
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_their_order() {
        let pool = pool_with(&[1], full_at(1, 10));
        let held = pool.acquire(Want::any(clock())).await.unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for i in 0..10 {
            let (in_pool, served) = (Arc::clone(&pool), Arc::clone(&served));
            waiters.push(tokio::spawn(async move {
                let lease = in_pool.acquire(Want::any(clock())).await.unwrap();
                served.lock().unwrap().push(i);
                drop(lease);
            }));
            until("it joins the line", || pool.waiting() == i + 1).await;
        }
        let one_too_many = pool.acquire(Want::any(clock())).await.unwrap_err();
        assert!(matches!(one_too_many, Unavailable::QueueFull { .. }));
        drop(held);
        for waiter in waiters {
            tokio::time::timeout(SOON, waiter).await.unwrap().unwrap();
        }
        assert_eq!(*served.lock().unwrap(), (0..10).collect::<Vec<_>>());
        assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0]));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_limit_or_the_deadline() {
        let pool = pool_with(&[1], full_at(1, 10));
        let _held = pool.acquire(Want::any(clock())).await.unwrap();
        for (deadline_ms, waited_ms) in [
            (None, 1_000),
            (Some(300), 300),
            (Some(5_000), 1_000),
            (Some(0), 0),
        ] {
            let now = clock();
            let want = Want {
                deadline: deadline_ms.map(|ms| now + Duration::from_millis(ms)),
                ..Want::any(now)
            };
            let why = pool.acquire(want).await.unwrap_err();
            assert!(matches!(why, Unavailable::WaitedInVain { .. }), "{why:?}");
            let waited = clock() - now;
            assert!(
                waited.abs_diff(Duration::from_millis(waited_ms)) < Duration::from_millis(5),
                "{waited:?}"
            );
            assert_eq!(pool.waiting(), 0);
        }
    }

    #[tokio::test]
    async fn one_that_leaves_the_line_takes_nothing_with_it() {
        let pool = pool_with(&[1], full_at(1, 10));
        let held = pool.acquire(Want::any(clock())).await.unwrap();
        let mut leaver = Box::pin(pool.acquire(Want::any(clock())));
        assert!(futures_util::poll!(&mut leaver).is_pending());
        let mut stayer = Box::pin(pool.acquire(Want::any(clock())));
        assert!(futures_util::poll!(&mut stayer).is_pending());
        // The place goes to the first, who leaves without having seen it.
        drop(held);
        assert_eq!((pool.waiting(), in_flight(&pool)), (1, vec![1]));
        drop(leaver);
        let lease = tokio::time::timeout(SOON, stayer).await.unwrap().unwrap();
        drop(lease);
        assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0]));
    }

    #[tokio::test]
    async fn a_new_member_serves_those_who_wait() {
        let pool = pool_with(&[1], full_at(1, 10));
        let _held = pool.acquire(Want::any(clock())).await.unwrap();
        let mut waiter = Box::pin(pool.acquire(Want::any(clock())));
        assert!(futures_util::poll!(&mut waiter).is_pending());
        pool.set_members(endpoints(&[1, 1], clock()), clock());
        assert!(tokio::time::timeout(SOON, waiter).await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_told_when_the_last_endpoint_fails() {
        let pool = pool_with(&[1], |settings| {
            full_at(1, 10)(settings);
            settings.capacity.queue_timeout = Period::seconds(60);
        });
        let held = pool.acquire(Want::any(clock())).await.unwrap();
        let mut waiter = Box::pin(pool.acquire(Want::any(clock())));
        assert!(futures_util::poll!(&mut waiter).is_pending());
        take_down(held.endpoint(), clock());
        drop(held);
        let why = waiter.await.unwrap_err();
        assert!(
            matches!(why, Unavailable::NoHealthyEndpoint { .. }),
            "{why:?}"
        );
    }

    #[tokio::test]
    async fn who_wants_another_endpoint_does_not_hold_up_the_line() {
        let pool = pool_with(&[1, 1], full_at(1, 10));
        let members = pool.members();
        let first = pool
            .acquire(Want {
                sticky: Some(&members[0]),
                ..Want::any(clock())
            })
            .await
            .unwrap();
        let _second = pool
            .acquire(Want {
                sticky: Some(&members[1]),
                ..Want::any(clock())
            })
            .await
            .unwrap();
        let picky = Want {
            tried: &members[..1],
            ..Want::any(clock())
        };
        let mut picky = Box::pin(pool.acquire(picky));
        assert!(futures_util::poll!(&mut picky).is_pending());
        let mut easy = Box::pin(pool.acquire(Want::any(clock())));
        assert!(futures_util::poll!(&mut easy).is_pending());
        drop(first);
        assert!(tokio::time::timeout(SOON, easy).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_place_that_comes_free_before_the_line_is_joined_is_seen() {
        let pool = pool_with(&[1], full_at(1, 10));
        // As after a first look that found all full, when the lease ended in that moment.
        let late = pool.wait(Want::any(clock()));
        assert!(tokio::time::timeout(SOON, late).await.unwrap().is_ok());
    }

    #[test]
    fn a_place_that_is_gone_since_the_look_is_not_taken() {
        let (pool, now) = (pool_with(&[1], full_at(2, 10)), clock());
        let members = pool.members();
        let take = || pool.take(&members[0], Entry::ByTheGate, now);
        let _held = (take().unwrap(), take().unwrap());
        assert!(take().is_none());
        assert_eq!(in_flight(&pool), [2]);
    }

    #[test]
    fn threads_that_snatch_places_never_pass_the_limit() {
        let (pool, now) = (pool_with(&[1], full_at(2, 10)), clock());
        let members = pool.members();
        let most = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let seen = (0..20_000).filter_map(|_| {
                            let lease = pool.take(&members[0], Entry::ByTheGate, now)?;
                            Some(lease.endpoint().in_flight.load(SeqCst))
                        });
                        seen.max().unwrap_or(1)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).max()
        });
        assert!((1..=2).contains(&most.unwrap()), "{most:?}");
        assert_eq!(in_flight(&pool), [0]);
    }

    /// Many threads, few places: every request is served, nobody above the limit, nothing lost.
    fn stress(balance: BalanceSettings, cancel: bool) {
        const TASKS: usize = 64;
        const ROUNDS: usize = 300;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(8)
            .enable_time()
            .build()
            .unwrap();
        let pool = pool_with(&[1, 2, 3], |settings| {
            full_at(2, 1_000)(settings);
            settings.capacity.queue_timeout = Period::seconds(600);
            settings.balance = balance;
        });
        let served = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|_| {
                    let (pool, served) = (Arc::clone(&pool), Arc::clone(&served));
                    tokio::spawn(async move {
                        for _ in 0..ROUNDS {
                            let mut place = Box::pin(pool.acquire(Want::any(clock())));
                            if cancel && fastrand::u8(..3) == 0 {
                                let _ = futures_util::poll!(&mut place);
                                tokio::task::yield_now().await;
                                drop(place);
                                continue;
                            }
                            let lease = place.await.unwrap();
                            let load = lease.endpoint().in_flight.load(SeqCst);
                            assert!((1..=2).contains(&load), "{load}");
                            served.fetch_add(1, Relaxed);
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                tokio::time::timeout(SOON, task)
                    .await
                    .expect("a wake-up was lost")
                    .unwrap();
            }
        });
        if !cancel {
            assert_eq!(served.load(Relaxed), TASKS * ROUNDS);
        }
        assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0, 0, 0]));
    }

    #[test]
    fn no_wake_up_is_lost_and_no_limit_is_passed() {
        stress(BalanceSettings::RoundRobin, false);
        stress(BalanceSettings::LeastLoaded, false);
    }

    #[test]
    fn callers_that_leave_at_any_moment_lose_no_place() {
        stress(BalanceSettings::RoundRobin, true);
    }

    proptest! {
        #[test]
        fn only_eligible_endpoints_are_taken(
            states in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..20),
            kind in 0..3_u8,
            key in any::<Option<u64>>(),
        ) {
            let balance = match kind {
                0 => BalanceSettings::RoundRobin,
                1 => BalanceSettings::LeastLoaded,
                _ => BalanceSettings::Hash(super::super::settings::HashKey::User),
            };
            let pool = pool_with(&vec![1; states.len()], |settings| {
                full_at(1, 0)(settings);
                settings.balance = balance;
            });
            let (now, members) = (clock(), pool.members());
            let mut tried = Vec::new();
            for (member, (down, out, full, was_tried)) in members.iter().zip(&states) {
                if *down { take_down(member, now); }
                if *out { throw_out(member, now); }
                if *full { member.in_flight.store(1, SeqCst); }
                if *was_tried { tried.push(Arc::clone(member)); }
            }
            let up: Vec<_> = states.iter().filter(|s| !s.0).collect();
            // With nobody up and in, ejections are passed over.
            let heed = up.iter().any(|s| !s.1);
            let good = |s: &(bool, bool, bool, bool)| !(s.0 || heed && s.1 || s.2 || s.3);
            let want = Want { key, tried: &tried, ..Want::any(now) };
            match at_once(&pool, &want) {
                Ok(lease) => {
                    let at = members.iter().position(|m| Arc::ptr_eq(m, lease.endpoint())).unwrap();
                    prop_assert!(good(&states[at]), "{:?}", states[at]);
                }
                Err(why) => {
                    prop_assert!(!states.iter().any(good));
                    let none_up = matches!(why, Some(Unavailable::NoHealthyEndpoint { .. }));
                    prop_assert_eq!(none_up, up.is_empty());
                }
            }
        }
    }
}
