//! The counter in use: memory, or Redis, or each instance by itself while Redis is gone.
//!
//! Invariant: one round trip for a request at most, and no lock is held while it is under way.

use super::corrections::Corrections;
use super::counter::memory::Memory;
use super::counter::redis::{Asked, Shared};
use super::counter::{Charge, Correction, Levels, Taken};
use super::leases::{Lease, Leases};
use super::permits::{Counted, Permits};
use super::purses::{Purses, Spending};
use super::quota::{Level, Quota};
use super::refusals::Refusals;
use super::rule::Rule;
use super::settings::WithoutRedis;
use crate::observe::metrics::{LimitMetrics, Metrics};
use crate::store::redis::{Redis, Settings, Unavailable};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// Where counts are kept now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In this process, for good: exact for one instance.
    Memory,
    /// In Redis: exact over all instances.
    Redis,
    /// In this process, because Redis is gone: each rule does what its `without_redis` says.
    Local,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Local => "local",
        }
    }
}

/// The time of a request by both clocks: one that never jumps, and one that knows the minute.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    /// Microseconds since 1970.
    pub unix_us: u64,
}

impl Now {
    pub fn read() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            unix_us: since.map_or(0, |since| {
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            }),
        }
    }
}

/// What became of a request.
pub struct Outcome {
    /// How it stands to each rule; none where nobody was asked.
    pub levels: SmallVec<[Option<Level>; 4]>,
    pub verdict: Verdict,
}

pub enum Verdict {
    Granted(Permits),
    /// The rule at this place refuses, for as long as is known.
    Refused {
        at: usize,
        wait: Duration,
        locally: bool,
    },
    /// The rule at this place refuses because Redis is gone.
    Unavailable {
        at: usize,
    },
}

/// What is void if a request is granted: what it was charged before.
#[derive(Default)]
pub(super) struct Undone {
    pub in_redis: SmallVec<[Correction; 4]>,
    pub in_memory: SmallVec<[Correction; 4]>,
}

impl Undone {
    pub fn is_empty(&self) -> bool {
        self.in_redis.is_empty() && self.in_memory.is_empty()
    }
}

/// All counts of the process. Lives as long as the process, or until another Redis is configured.
pub struct Counters {
    memory: Memory,
    remote: Option<Remote>,
    refusals: Refusals,
    /// Names this process among those that hold places in the same Redis.
    instance: String,
    leases_made: AtomicU64,
    metrics: Arc<LimitMetrics>,
}

struct Remote {
    shared: Arc<Shared>,
    leases: Leases,
    corrections: Arc<Corrections>,
    purses: Purses,
}

impl Counters {
    /// In memory, if there is no Redis. With one, it must be called inside the runtime that is to
    /// carry the connection.
    pub fn start(
        settings: Option<&Settings>,
        instance: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, String> {
        let limits = metrics.limits();
        let remote = match settings {
            None => None,
            Some(settings) => match settings.address()? {
                None => None,
                Some(address) => {
                    let redis = Redis::start(settings, address, (instance, metrics.store()));
                    Some(Remote::new(redis, &limits))
                }
            },
        };
        Ok(Arc::new(Self {
            memory: Memory::default(),
            remote,
            refusals: Refusals::default(),
            instance: instance.to_owned(),
            leases_made: AtomicU64::new(0),
            metrics: limits,
        }))
    }

    pub fn mode(&self) -> Mode {
        match &self.remote {
            None => Mode::Memory,
            Some(remote) if remote.shared.redis.is_up() => Mode::Redis,
            Some(_) => Mode::Local,
        }
    }

    /// Where counts are kept, if that is Redis.
    pub fn redis(&self) -> Option<&Arc<Redis>> {
        self.remote.as_ref().map(|remote| &remote.shared.redis)
    }

    /// Instances that share the counts, as far as is known.
    pub fn instances(&self) -> u32 {
        let remote = self.remote.as_ref();
        remote.map_or(1, |remote| remote.shared.redis.instances())
    }

    /// Why Redis is gone; none while it is there, or not wanted.
    pub fn why_gone(&self) -> Option<String> {
        self.remote.as_ref()?.shared.redis.why_gone()
    }

    /// Whether it is known by now in which mode requests are counted.
    pub fn is_settled(&self) -> bool {
        let remote = self.remote.as_ref();
        remote.is_none_or(|remote| remote.shared.redis.was_tried())
    }

    /// Sets the gauges that are read only when somebody looks.
    pub fn refresh_metrics(&self) {
        self.metrics.set_mode(self.mode().name());
        if let Some(remote) = &self.remote {
            remote.shared.redis.refresh_metrics();
        }
        let uncounted = self.memory.uncounted();
        let before = self.metrics.uncounted.get();
        let more = uncounted.saturating_sub(before);
        self.metrics.uncounted.inc_by(more);
    }

    /// Counts a request under all of its rules, or under none. If it is granted, what is `undone` was not
    /// counted, in the same step.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        (rules, charges): (&[&Rule], &[Charge]),
        undone: &Undone,
        now: Now,
    ) -> Outcome {
        let lease = self.lease(charges);
        let Some(remote) = &self.remote else {
            let taken = self.memory.take(charges, &lease.id, now.unix_us);
            self.undo(&taken, &undone.in_memory, false, now);
            return self.outcome((rules, charges), &taken, lease, false);
        };
        let spending = remote.purses.spend(charges, now.instant);
        let asked = spending.asked();
        if let Some((nth, wait)) = self.refusals.find(asked.iter(), now.instant) {
            return refused_locally(charges.len(), spending.nth_asked(nth), wait);
        }
        let asking = Asking(remote, lease);
        let Some(taken) = remote
            .take(spending, &asked, undone, (&asking.1, now))
            .await
        else {
            drop(asking);
            return self.without_redis((rules, charges), undone, now);
        };
        let lease = asking.answered();
        self.undo(&taken, &undone.in_memory, false, now);
        if taken.granted {
            let given_back = undone.in_redis.iter().map(|correction| &correction.key);
            self.refusals.forget(given_back);
        } else {
            self.note_refusals(charges, &taken, now);
        }
        self.outcome((rules, charges), &taken, lease, true)
    }

    /// The charge that is known to be refused without asking anybody, and for how long.
    pub fn known_refusal(&self, charges: &[Charge], now: Now) -> Option<(usize, Duration)> {
        if self.remote.is_some() {
            return self.refusals.find(charges.iter(), now.instant);
        }
        worst(&self.memory.look(charges, now.unix_us))
    }

    /// Counts what a charge turns out to have been. Nobody waits for it.
    pub(super) fn correct(&self, correction: Correction, in_redis: bool, now: Now) {
        self.refusals.forget([&correction.key].into_iter());
        match (&self.remote, in_redis) {
            (Some(remote), true) => remote.corrections.send(correction),
            _ => self.memory.correct(&correction, now.unix_us),
        }
    }

    /// These places are free.
    pub(super) fn give_back(&self, lease: Lease, in_redis: bool) {
        match (&self.remote, in_redis) {
            (Some(remote), true) => remote.leases.give_back(lease),
            _ => {
                for key in lease.keys.iter() {
                    self.memory.give_back(key, &lease.id);
                }
            }
        }
    }

    /// These are held from now on, and renewed.
    pub(super) fn hold(&self, lease: &Lease, in_redis: bool) {
        if let (Some(remote), true) = (&self.remote, in_redis) {
            remote.leases.hold(lease);
        }
    }

    /// How these charges stand; nothing is counted. None while Redis is gone.
    pub async fn look(&self, charges: &[Charge], now: Now) -> Option<Levels> {
        match &self.remote {
            None => Some(self.memory.look(charges, now.unix_us)),
            Some(remote) => remote.shared.look(charges).await.ok(),
        }
    }

    /// Forgets what was counted, but for places in flight. Other instances may refuse from memory for five
    /// seconds still.
    pub async fn reset(&self, charges: &[Charge]) -> Result<(), Unavailable> {
        self.memory.reset(charges);
        let keys = || charges.iter().map(|charge| &charge.key);
        if let Some(remote) = &self.remote {
            remote.purses.forget(keys());
            remote.shared.reset(charges).await?;
        }
        self.refusals
            .forget(charges.iter().map(|charge| &charge.key));
        Ok(())
    }

    fn lease(&self, charges: &[Charge]) -> Lease {
        let held = charges
            .iter()
            .filter(|charge| matches!(charge.quota, Quota::InFlight { .. }));
        let keys: Arc<[String]> = held.map(|charge| charge.key.clone()).collect();
        let id = if keys.is_empty() {
            Arc::default()
        } else {
            let number = self.leases_made.fetch_add(1, Relaxed);
            Arc::from(format!("{}-{number:x}", self.instance))
        };
        Lease { id, keys }
    }

    fn undo(&self, taken: &Taken, undone: &[Correction], in_redis: bool, now: Now) {
        if taken.granted {
            for correction in undone {
                self.correct(correction.clone(), in_redis, now);
            }
        }
    }

    fn note_refusals(&self, charges: &[Charge], taken: &Taken, now: Now) {
        for (charge, level) in charges.iter().zip(&taken.levels) {
            if !level.allows && level.after_ms > 0 {
                let wait = Duration::from_millis(level.after_ms);
                self.refusals.note(charge, now.instant, wait);
            }
        }
    }

    fn outcome(
        self: &Arc<Self>,
        (rules, charges): (&[&Rule], &[Charge]),
        taken: &Taken,
        lease: Lease,
        in_redis: bool,
    ) -> Outcome {
        let levels = taken.levels.iter().copied().map(Some).collect();
        let refusing = worst(&taken.levels).filter(|_| !taken.granted);
        let verdict = if let Some((at, wait)) = refusing {
            let locally = false;
            Verdict::Refused { at, wait, locally }
        } else {
            let parts = rules.iter().zip(charges).zip(&taken.marks);
            let counted = parts
                .filter_map(|((rule, charge), mark)| Counted::new(rule, charge, *mark, in_redis));
            Verdict::Granted(Permits::new(self, (lease, in_redis), counted.collect()))
        };
        Outcome { levels, verdict }
    }

    /// Each rule as it was told to do then. Those that count count a share, in memory.
    fn without_redis(
        self: &Arc<Self>,
        (rules, charges): (&[&Rule], &[Charge]),
        undone: &Undone,
        now: Now,
    ) -> Outcome {
        let does = |what| move |rule: &&Rule| rule.without_redis == what;
        let mut levels: SmallVec<[Option<Level>; 4]> = charges.iter().map(|_| None).collect();
        if let Some(at) = rules.iter().position(does(WithoutRedis::Refuse)) {
            let verdict = Verdict::Unavailable { at };
            return Outcome { levels, verdict };
        }
        let instances = self.instances();
        let places: SmallVec<[usize; 4]> = (0..charges.len())
            .filter(|at| rules[*at].without_redis == WithoutRedis::Local)
            .collect();
        let share = |at: &usize| Charge {
            quota: charges[*at].quota.share_of(instances),
            ..charges[*at].clone()
        };
        let shares: SmallVec<[Charge; 4]> = places.iter().map(share).collect();
        let sharing: SmallVec<[&Rule; 4]> = places.iter().map(|at| rules[*at]).collect();
        let lease = self.lease(&shares);
        let taken = self.memory.take(&shares, &lease.id, now.unix_us);
        self.undo(&taken, &undone.in_memory, false, now);
        self.undo(&taken, &undone.in_redis, true, now);
        let mut outcome = self.outcome((&sharing, &shares), &taken, lease, false);
        for (at, level) in places.iter().zip(outcome.levels) {
            levels[*at] = level;
        }
        outcome.levels = levels;
        if let Verdict::Refused { at, .. } = &mut outcome.verdict {
            *at = places[*at];
        }
        outcome
    }
}

impl Remote {
    fn new(redis: Arc<Redis>, metrics: &Arc<LimitMetrics>) -> Self {
        let shared = Arc::new(Shared::new(redis));
        let leases = Leases::start(Arc::clone(&shared), Arc::clone(metrics));
        let corrections = Corrections::start(Arc::clone(&shared), Arc::clone(metrics));
        let corrections = Arc::new(corrections);
        Self {
            shared,
            leases,
            purses: Purses::new(Arc::clone(&corrections)),
            corrections,
        }
    }

    /// What became of all that is being spent, once Redis was asked for what it must be asked for; none if it
    /// does not say.
    async fn take(
        &self,
        mut spending: Spending<'_>,
        charges: &[Charge],
        undone: &Undone,
        (lease, now): (&Lease, Now),
    ) -> Option<Taken> {
        if charges.is_empty() && undone.in_redis.is_empty() {
            return Some(spending.finish(Taken::of_nothing(), now.instant));
        }
        let lapsed = spending.take_lapsed();
        let asked = Asked {
            corrections: &lapsed,
            charges,
            undone: &undone.in_redis,
        };
        let Ok(taken) = self.shared.take(asked, &lease.id).await else {
            self.corrections.lost(lapsed.len());
            return None;
        };
        Some(spending.finish(taken, now.instant))
    }
}

/// A lease of which nobody knows yet whether it is held: Redis does not answer, or the caller leaves
/// before it does. On drop it is given back.
struct Asking<'a>(&'a Remote, Lease);

impl Asking<'_> {
    fn answered(mut self) -> Lease {
        std::mem::take(&mut self.1)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.1.keys.is_empty() {
            self.0.leases.give_back(std::mem::take(&mut self.1));
        }
    }
}

fn refused_locally(charges: usize, at: usize, wait: Duration) -> Outcome {
    let mut levels: SmallVec<[Option<Level>; 4]> = (0..charges).map(|_| None).collect();
    levels[at] = Some(Level {
        allows: false,
        remaining: 0,
        after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1),
    });
    let locally = true;
    Outcome {
        levels,
        verdict: Verdict::Refused { at, wait, locally },
    }
}

/// Of the rules that refuse, the one that does so for longest.
fn worst(levels: &[Level]) -> Option<(usize, Duration)> {
    let refusing = levels.iter().enumerate().filter(|(_, level)| !level.allows);
    let (at, level) = refusing.max_by_key(|(_, level)| level.after_ms)?;
    Some((at, Duration::from_millis(level.after_ms)))
}
