//! What one request holds and was charged, for as long as that may change.
//!
//! Invariant: nothing is undone twice. Places in flight are given back on drop; what was charged stands.

use super::counter::{Change, Charge, Mark};
use super::counters::{Counters, Now, Undone};
use super::leases::Lease;
use super::quota::Quota;
use super::rule::{Rule, Unit};
use super::settings::TOKENS_MAX;
use smallvec::SmallVec;
use std::mem;
use std::sync::Arc;

/// Of one request.
#[derive(Default)]
pub struct Permits {
    /// None if nothing can change: most rules are about requests.
    held: Option<Box<Held>>,
}

struct Held {
    counters: Arc<Counters>,
    /// Places in flight, and whether Redis knows of them.
    leases: SmallVec<[(Lease, bool); 1]>,
    counted: SmallVec<[Counted; 2]>,
    is_settled: bool,
}

/// A charge that may turn out to have been another.
pub(super) struct Counted {
    charge: Charge,
    mark: Mark,
    in_redis: bool,
    is_by_provider: bool,
    unit: Unit,
}

impl Counted {
    /// None if it will stand as it is.
    pub fn new(rule: &Rule, charge: &Charge, mark: Mark, in_redis: bool) -> Option<Self> {
        (charge.may_change && mark.units > 0).then(|| Self {
            charge: charge.clone(),
            mark,
            in_redis,
            is_by_provider: rule.is_by_provider(),
            unit: rule.unit,
        })
    }

    fn is_in_flight(&self) -> bool {
        matches!(self.charge.quota, Quota::InFlight { .. })
    }
}

impl Permits {
    pub(super) fn new(
        counters: &Arc<Counters>,
        (lease, in_redis): (Lease, bool),
        counted: SmallVec<[Counted; 2]>,
    ) -> Self {
        if lease.keys.is_empty() && counted.is_empty() {
            return Self::default();
        }
        let mut leases = SmallVec::new();
        if !lease.keys.is_empty() {
            counters.hold(&lease, in_redis);
            leases.push((lease, in_redis));
        }
        let held = Held {
            counters: Arc::clone(counters),
            leases,
            counted,
            is_settled: false,
        };
        Self {
            held: Some(Box::new(held)),
        }
    }

    /// The request did cost so many tokens: counts what was more than thought, now and whatever is left, or gives
    /// back what was less, where it was counted. The first word stands. Nobody waits for Redis: what cannot be
    /// told to it is counted in `onemind_limit_corrections_lost_total`, and then the estimate stands, as it does
    /// when this is never said.
    pub fn settle(&mut self, tokens: u64, now: Now) {
        let Some(held) = self.held.as_deref_mut() else {
            return;
        };
        if mem::replace(&mut held.is_settled, true) {
            return;
        }
        let tokens = tokens.min(TOKENS_MAX);
        let counted = held.counted.iter_mut();
        for counted in counted.filter(|counted| counted.unit == Unit::Tokens) {
            let thought = counted.charge.units;
            let what = match tokens.checked_sub(thought) {
                Some(0) => continue,
                Some(more) => Change::More(more),
                None => {
                    counted.charge.units = tokens;
                    Change::Less(thought - tokens, counted.mark)
                }
            };
            let correction = counted.charge.correction(what);
            held.counters.correct(correction, counted.in_redis, now);
        }
    }

    /// Whether exactly this is what rules by provider have counted.
    pub(super) fn has_counted(&self, charges: &[Charge]) -> bool {
        let counted = self.by_provider().map(|counted| &counted.charge.key);
        counted.eq(charges.iter().map(|charge| &charge.key))
    }

    /// That rules by provider have counted nothing. Places in flight are given back later.
    pub(super) fn undone(&self) -> Undone {
        let mut undone = Undone::default();
        for counted in self.by_provider().filter(|counted| !counted.is_in_flight()) {
            let less = Change::Less(counted.charge.units, counted.mark);
            let correction = counted.charge.correction(less);
            if counted.in_redis {
                undone.in_redis.push(correction);
            } else {
                undone.in_memory.push(correction);
            }
        }
        undone
    }

    /// What rules by provider have counted is undone, and `new` is what they count now.
    pub(super) fn change_provider(&mut self, mut new: Self) {
        let Some(held) = self.held.as_deref_mut() else {
            *self = new;
            return;
        };
        held.give_back_by_provider();
        held.counted.retain(|counted| !counted.is_by_provider);
        if let Some(new) = new.held.as_deref_mut() {
            held.leases.extend(mem::take(&mut new.leases));
            held.counted.extend(mem::take(&mut new.counted));
        }
    }

    fn by_provider(&self) -> impl Iterator<Item = &Counted> {
        let counted = self.held.iter().flat_map(|held| &held.counted);
        counted.filter(|counted| counted.is_by_provider)
    }
}

impl Held {
    fn give_back_by_provider(&mut self) {
        let gone = |key: &String| {
            let mut places = self.counted.iter().filter(|counted| counted.is_in_flight());
            places.any(|counted| counted.is_by_provider && counted.charge.key == *key)
        };
        for (lease, in_redis) in &mut self.leases {
            let (free, kept): (Vec<String>, Vec<String>) =
                lease.keys.iter().cloned().partition(gone);
            if free.is_empty() {
                continue;
            }
            let free = Lease {
                id: Arc::clone(&lease.id),
                keys: free.into(),
            };
            lease.keys = kept.into();
            self.counters.give_back(free, *in_redis);
            self.counters.hold(lease, *in_redis);
        }
        self.leases.retain(|(lease, _)| !lease.keys.is_empty());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (lease, in_redis) in mem::take(&mut self.leases) {
            self.counters.give_back(lease, in_redis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reject::RejectKind;
    use crate::base::secret::Secret;
    use crate::base::units::{OneOrMany, Period};
    use crate::observe::metrics::Metrics;
    use crate::stage::limit::counters::Mode;
    use crate::stage::limit::limits::{Decision, Levels, Limits};
    use crate::stage::limit::rule::Subject;
    use crate::stage::limit::settings::{Algorithm, Dimension, Per, RuleSettings};
    use crate::store::redis::Settings;
    use crate::store::server::RedisServer;
    use std::time::{Duration, Instant};

    /// Rules that count in memory, or in a Redis of their own.
    struct Fixture {
        limits: Limits,
        _redis: Option<RedisServer>,
    }

    impl Fixture {
        async fn start(in_redis: bool, rules: &[(&str, RuleSettings)]) -> Self {
            let (metrics, redis) = (Metrics::new("0"), in_redis.then(RedisServer::start));
            let settings = redis.as_ref().map(|redis| Settings {
                url: Secret::new(redis.url()),
                ca: None,
                timeout: Period::seconds(10),
            });
            let counters = Counters::start(settings.as_ref(), "one", &metrics).unwrap();
            while in_redis && counters.mode() != Mode::Redis {
                tokio::task::yield_now().await;
            }
            let rules = rules.iter().map(|(name, settings)| {
                Arc::new(Rule::build(name, settings, &metrics).expect("a quota"))
            });
            Self {
                limits: Limits::new(rules.collect(), counters),
                _redis: redis,
            }
        }

        async fn ask(&self, provider: &str, tokens: u64) -> Decision {
            let subject = subject(provider, tokens);
            self.limits.acquire(&subject, Now::read).await
        }

        /// The rule that refuses, if one does.
        async fn move_to(
            &self,
            permits: &mut Permits,
            provider: &str,
        ) -> Result<(), Option<String>> {
            let subject = subject(provider, 30);
            let before = Levels::new();
            let moved = self
                .limits
                .move_to_provider(permits, &before, &subject, Now::read);
            moved.await.map(drop).map_err(|reject| reject.rule)
        }

        async fn left(&self, provider: &str) -> Vec<u64> {
            let subject = subject(provider, 1);
            let standings = self.limits.look(&subject, Now::read()).await;
            let left = standings.iter().map(|(.., level)| level.unwrap().remaining);
            left.collect()
        }

        /// Redis is told beside the requests.
        async fn comes_to(&self, provider: &str, left: &[u64]) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.left(provider).await != left {
                assert!(Instant::now() < deadline, "{:?}", self.left(provider).await);
                tokio::task::yield_now().await;
            }
        }
    }

    fn subject(provider: &str, tokens: u64) -> Subject<'_> {
        Subject {
            user: Some("42"),
            plan: None,
            key: None,
            provider: Some(provider),
            model: None,
            route: None,
            address: None,
            tokens,
        }
    }

    fn tokens(limit: u64, by: &[Dimension], algorithm: Algorithm) -> RuleSettings {
        RuleSettings {
            tokens: Some(limit),
            per: Per::Day,
            by: OneOrMany(by.to_vec()),
            algorithm,
            ..RuleSettings::default()
        }
    }

    fn requests(limit: u64, by: &[Dimension]) -> RuleSettings {
        RuleSettings {
            requests: Some(limit),
            tokens: None,
            ..tokens(0, by, Algorithm::default())
        }
    }

    #[tokio::test]
    async fn what_a_request_did_cost_takes_the_place_of_what_it_was_thought_to() {
        let algorithms = [
            Algorithm::SlidingWindow,
            Algorithm::FixedWindow,
            Algorithm::Gcra,
        ];
        for (in_redis, algorithm) in [false, true]
            .into_iter()
            .flat_map(|in_redis| algorithms.map(|algorithm| (in_redis, algorithm)))
        {
            let rule = tokens(100, &[Dimension::User], algorithm);
            let fixture = Fixture::start(in_redis, &[("cost", rule)]).await;
            let mut first = fixture.ask("a", 60).await;
            assert_eq!(first.tokens.map(|tokens| tokens.remaining), Some(40));
            let refused = fixture.ask("a", 50).await.reject.expect("60 + 50 > 100");
            assert_eq!(refused.kind, RejectKind::LimitReached);
            assert!(
                fixture.ask("a", 40).await.reject.is_none(),
                "who asks for less"
            );
            fixture.comes_to("a", &[0]).await;
            // Less than was thought; and the first word stands.
            first.permits.settle(10, Now::read());
            first.permits.settle(0, Now::read());
            fixture.comes_to("a", &[50]).await;
            let mut second = fixture.ask("a", 50).await;
            assert!(second.reject.is_none(), "what was given back is there");
            // More than was thought, and than there is.
            second.permits.settle(70, Now::read());
            fixture.comes_to("a", &[0]).await;
            assert!(fixture.ask("a", 1).await.reject.is_some());
            // Nothing is undone when it ends.
            drop((first, second));
            assert_eq!(fixture.left("a").await, [0]);
        }
    }

    #[tokio::test]
    async fn a_request_that_no_wait_would_help_is_told_so() {
        let rule = tokens(100, &[], Algorithm::default());
        let fixture = Fixture::start(false, &[("cost", rule)]).await;
        let decision = fixture.ask("a", 101).await;
        let reject = decision.reject.expect("101 > 100");
        assert_eq!(reject.kind, RejectKind::TooManyTokens);
        assert_eq!(
            (reject.rule.as_deref(), reject.retry_after),
            (Some("cost"), None)
        );
        assert!(
            decision
                .headers
                .is_some_and(|headers| headers.state.is_none())
        );
        assert_eq!(fixture.left("a").await, [100]);
        assert!(fixture.ask("a", 100).await.reject.is_none());
    }

    #[tokio::test]
    async fn a_request_that_fails_over_counts_for_its_new_provider_only() {
        let by = [Dimension::User, Dimension::Provider];
        for in_redis in [false, true] {
            let slots = RuleSettings {
                in_flight: Some(1),
                requests: None,
                ..requests(0, &by)
            };
            let rules = [
                ("all", requests(9, &[])),
                ("cost", tokens(100, &by, Algorithm::default())),
                ("each", requests(3, &by)),
                ("slots", slots),
            ];
            let fixture = Fixture::start(in_redis, &rules).await;
            let full = fixture.ask("full", 10).await;
            let mut moving = fixture.ask("a", 30).await;
            assert_eq!(fixture.left("a").await, [7, 70, 2, 0]);
            // Refused, and all is as it was.
            let refused = fixture.move_to(&mut moving.permits, "full").await;
            assert_eq!(refused, Err(Some("slots".to_owned())));
            assert_eq!(fixture.left("a").await, [7, 70, 2, 0]);
            assert_eq!(fixture.left("full").await, [7, 90, 2, 0]);
            // Moved; asked twice, once.
            for _ in 0..2 {
                assert_eq!(fixture.move_to(&mut moving.permits, "b").await, Ok(()));
                fixture.comes_to("a", &[7, 100, 3, 1]).await;
                assert_eq!(fixture.left("b").await, [7, 70, 2, 0]);
            }
            moving.permits.settle(5, Now::read());
            fixture.comes_to("b", &[7, 95, 2, 0]).await;
            drop((full, moving));
            fixture.comes_to("b", &[7, 95, 2, 1]).await;
            fixture.comes_to("full", &[7, 90, 2, 1]).await;
        }
    }
}
