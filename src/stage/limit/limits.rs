//! The rules of one route, applied to one request.

use super::counter::Charge;
use super::counters::{Counters, Now, Outcome, Permits, Verdict};
use super::headers::Headers;
use super::quota::{Level, Quota};
use super::rule::{Rule, Subject};
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

/// What the rules say of a request.
#[derive(Default)]
pub struct Decision {
    /// For every answer to it; none when no rule is about it.
    pub headers: Option<Headers>,
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
        let (rules, charges) = self.charges(subject);
        if rules.is_empty() {
            return Decision::default();
        }
        let Outcome { levels, verdict } = self.counters.take(&rules, &charges, now()).await;
        let items = rules.iter().zip(&charges).zip(&levels);
        let items = items.map(|((rule, charge), level)| (rule.name.as_str(), charge.quota, *level));
        let mut decision = Decision {
            headers: Headers::new(items),
            ..Decision::default()
        };
        match verdict {
            Verdict::Granted(permits) => {
                for (rule, level) in rules.iter().zip(&levels) {
                    match level {
                        Some(_) => rule.metrics.allowed.inc(),
                        None => rule.metrics.unchecked.inc(),
                    }
                }
                decision.permits = permits;
            }
            Verdict::Refused { at, wait, locally } => {
                decision.reject = Some(reached(rules[at], wait, locally));
            }
            Verdict::Unavailable { at } => {
                let rule = rules[at];
                rule.metrics.unavailable.inc();
                decision.reject = Some(Reject {
                    rule: Some(rule.name.clone()),
                    retry_after: Some(TRY_AGAIN),
                    ..RejectKind::LimitsUnavailable.because("redis is gone")
                });
            }
        }
        decision
    }
}

impl Limits {
    fn charges(&self, subject: &Subject<'_>) -> (SmallVec<[&Rule; 4]>, SmallVec<[Charge; 4]>) {
        let about = self.rules.iter().filter_map(|rule| {
            let charge = rule.charge(subject)?;
            Some((&**rule, charge))
        });
        about.unzip()
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
