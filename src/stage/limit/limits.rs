//! The rules of one route, applied to one request.

use super::counter::Charge;
use super::counters::{Counters, Now, Outcome, Permits, Verdict};
use super::headers::Headers;
use super::rule::{Rule, Subject};
use crate::base::reject::{Reject, RejectKind};
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

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Counts a request under all rules that are about it, or refuses it and counts it under none.
    pub async fn acquire(&self, subject: &Subject<'_>, now: impl FnOnce() -> Now) -> Decision {
        let (mut rules, mut charges) = (
            SmallVec::<[&Rule; 4]>::new(),
            SmallVec::<[Charge; 4]>::new(),
        );
        for rule in &self.rules {
            if let Some(charge) = rule.charge(subject) {
                rules.push(rule);
                charges.push(charge);
            }
        }
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
