//! The rules of one route, applied to one request.

use super::counter::Charge;
use super::counters::{Counters, Now, Outcome, Undone, Verdict};
use super::headers::{Headers, Item, Standing};
use super::permits::Permits;
use super::quota::{Level, Quota};
use super::rule::{Rule, Subject, Unit};
use crate::base::reject::{Reject, RejectKind};
use crate::store::redis::Unavailable;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// When to try again where nobody can know: a place in flight, or a store that is gone.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The limits of a route.
pub struct Limits {
    rules: Vec<Arc<Rule>>,
    counters: Arc<Counters>,
}

/// Levels of the rules that are about a request.
pub type Levels = SmallVec<[Option<Level>; 4]>;

/// What the rules say of a request.
#[derive(Default)]
pub struct Decision {
    /// For every answer to it; none when no rule is about it.
    pub headers: Option<Headers>,
    /// The tightest rule about requests in a period.
    pub requests: Option<Standing>,
    /// The tightest rule about tokens.
    pub tokens: Option<Standing>,
    /// How it stands to each rule that is about it, in their order; none where nothing is known.
    pub levels: Levels,
    pub permits: Permits,
    /// Why it is refused, if it is.
    pub reject: Option<Reject>,
}

impl Limits {
    pub fn new(rules: Vec<Arc<Rule>>, counters: Arc<Counters>) -> Self {
        Self { rules, counters }
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The rules that are about this subject, and how it stands to them; none while Redis is gone.
    pub async fn look(
        &self,
        subject: &Subject<'_>,
        now: Now,
    ) -> Vec<(&Rule, Quota, Option<Level>)> {
        let (rules, charges) = self.charges(subject);
        let levels = self.counters.look(&charges, now).await;
        let pairs = rules.into_iter().zip(&charges).enumerate();
        pairs
            .map(|(at, (rule, charge))| {
                let level = levels.as_ref().map(|levels| levels[at]);
                (rule, charge.quota, level)
            })
            .collect()
    }

    /// Forgets what was counted of this subject, but for places in flight; the rules it was counted by.
    /// What is counted of all callers together stays.
    pub async fn reset(&self, subject: &Subject<'_>) -> Result<Vec<&Rule>, Unavailable> {
        let (rules, charges) = self.charges(subject);
        let apart = rules.into_iter().zip(charges);
        let (rules, charges): (Vec<&Rule>, Vec<Charge>) =
            apart.filter(|(rule, _)| rule.tells_apart()).unzip();
        self.counters.reset(&charges).await?;
        Ok(rules)
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Counts a request under all rules that are about it, or refuses it and counts it under none.
    pub async fn acquire(&self, subject: &Subject<'_>, now: impl FnOnce() -> Now) -> Decision {
        let about = self.charges(subject);
        self.decide(about, &Undone::default(), now).await
    }

    /// What is known to refuse the caller, before it is asked what it wants. Counts nothing, and asks nobody.
    pub fn known_refusal(&self, subject: &Subject<'_>, now: Now) -> Option<Decision> {
        let (rules, charges) = self.charges(subject);
        let (at, wait) = self.counters.known_refusal(&charges, now)?;
        let levels = charges.iter().map(|_| None).collect();
        let decision = told(&rules, &charges, levels);
        Some(decision.refused(reached(rules[at], wait, true)))
    }

    /// Whether this rule tells providers apart.
    pub fn is_by_provider(&self, rule: &str) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|one| one.name == rule && one.is_by_provider())
    }

    /// Counts a request that was admitted under the rules that tell providers apart as one of another provider,
    /// and no more as one of the provider before, in one step. If it is refused, all is as it was. Other rules
    /// are not asked: a request counts once for them, and it stands to them as it did `before`. What is told from
    /// here on; none where nothing has moved.
    pub async fn move_to_provider(
        &self,
        permits: &mut Permits,
        before: &Levels,
        subject: &Subject<'_>,
        now: impl FnOnce() -> Now,
    ) -> Result<Option<Decision>, Reject> {
        let (rules, charges) = self.charges(subject);
        let about = rules.iter().copied().zip(charges.iter().cloned());
        let about: About<'_> = about.filter(|(rule, _)| rule.is_by_provider()).unzip();
        if permits.has_counted(&about.1) {
            return Ok(None);
        }
        let decision = self.decide(about, &permits.undone(), now).await;
        if let Some(reject) = decision.reject {
            return Err(reject);
        }
        permits.change_provider(decision.permits);
        let mut moved = decision.levels.into_iter();
        // A rule is about a request whichever provider is asked, so both are in the same order.
        let levels = rules.iter().enumerate().map(|(at, rule)| {
            if rule.is_by_provider() {
                moved.next().flatten()
            } else {
                before.get(at).copied().flatten()
            }
        });
        let levels = levels.collect();
        Ok(Some(told(&rules, &charges, levels)))
    }
}

/// Rules, and what each of them is charged.
type About<'a> = (SmallVec<[&'a Rule; 4]>, SmallVec<[Charge; 4]>);

impl Limits {
    fn charges(&self, subject: &Subject<'_>) -> About<'_> {
        let about = self.rules.iter().filter_map(|rule| {
            let charge = rule.charge(subject)?;
            Some((&**rule, charge))
        });
        about.unzip()
    }

    async fn decide(
        &self,
        (rules, charges): About<'_>,
        undone: &Undone,
        now: impl FnOnce() -> Now,
    ) -> Decision {
        if rules.is_empty() && undone.is_empty() {
            return Decision::default();
        }
        let too_many = |charge: &Charge| charge.units > charge.quota.at_once();
        if let Some(at) = charges.iter().position(too_many) {
            let levels = charges.iter().map(|_| None).collect();
            let reject = never(rules[at], &charges[at]);
            return told(&rules, &charges, levels).refused(reject);
        }
        let about = (&*rules, &*charges);
        let Outcome { levels, verdict } = self.counters.exchange(about, undone, now()).await;
        if let Verdict::Granted(_) = &verdict {
            for (rule, level) in rules.iter().zip(&levels) {
                match level {
                    Some(_) => rule.metrics.allowed.inc(),
                    None => rule.metrics.unchecked.inc(),
                }
            }
        }
        let mut decision = told(&rules, &charges, levels);
        match verdict {
            Verdict::Granted(permits) => {
                decision.permits = permits;
                decision
            }
            Verdict::Refused { at, wait, locally } => {
                decision.refused(reached(rules[at], wait, locally))
            }
            Verdict::Unavailable { at } => decision.refused(unavailable(rules[at])),
        }
    }
}

impl Decision {
    fn refused(self, reject: Reject) -> Self {
        Self {
            reject: Some(reject),
            ..self
        }
    }
}

/// What callers are told of rules to which they stand so.
fn told(rules: &[&Rule], charges: &[Charge], levels: Levels) -> Decision {
    let items = rules.iter().zip(charges).zip(levels.iter().copied());
    let items: SmallVec<[Item<'_>; 4]> = items
        .map(|((rule, charge), level)| Item {
            name: &rule.name,
            unit: rule.unit,
            quota: charge.quota,
            level,
        })
        .collect();
    let tightest = |unit| Standing::tightest(unit, items.iter().copied());
    Decision {
        headers: Headers::new(items.iter().copied()),
        requests: tightest(Unit::Requests),
        tokens: tightest(Unit::Tokens),
        levels,
        ..Decision::default()
    }
}

/// Waiting would not help.
fn never(rule: &Rule, charge: &Charge) -> Reject {
    rule.metrics.refused_locally.inc();
    let why = format_args!(
        "rule {}: {} tokens, {} allowed",
        rule.name,
        charge.units,
        charge.quota.at_once()
    );
    Reject {
        rule: Some(rule.name.clone()),
        ..RejectKind::TooManyTokens.because(why)
    }
}

fn unavailable(rule: &Rule) -> Reject {
    rule.metrics.unavailable.inc();
    Reject {
        rule: Some(rule.name.clone()),
        retry_after: Some(TRY_AGAIN),
        ..RejectKind::LimitsUnavailable.because("redis is gone")
    }
}

fn reached(rule: &Rule, wait: Duration, locally: bool) -> Reject {
    if locally {
        rule.metrics.refused_locally.inc();
    } else {
        rule.metrics.refused.inc();
    }
    let wait = if wait.is_zero() { TRY_AGAIN } else { wait };
    Reject {
        rule: Some(rule.name.clone()),
        retry_after: Some(wait),
        ..RejectKind::LimitReached.because(format_args!("rule {}", rule.name))
    }
}
