//! What an attempt needs before it asks: a key with something left of its limits, the breaker's leave, a place.

use super::{Failed, Run};
use crate::gateway::context::Attempt;
use crate::gateway::identify;
use crate::gateway::life::Stop;
use crate::snapshot::{Provider, Target};
use crate::stage::ai::allowance::{Allowance, Need};
use crate::stage::ai::fault::FaultKind;
use crate::stage::ai::key_ring::Picked;
use crate::stage::ai::provider::Way;
use crate::stage::ai::target::Trial;
use crate::stage::upstream::balance::hash;
use crate::stage::upstream::pool::{Unavailable, Want};
use crate::wire::head::ResponseHead;
use http::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A target that is being tried.
pub struct Trying<'t> {
    pub target: &'t Target,
    pub way: &'t Way,
    pub key: Picked,
    /// What is shown in place of a key, where the provider's tokens are got.
    pub token: Option<HeaderValue>,
    pub trial: Trial,
    pub started: Instant,
}

impl Trying<'_> {
    pub fn provider(&self) -> &Arc<Provider> {
        &self.target.provider
    }

    /// When the attempt must be over.
    pub fn end(&self) -> Instant {
        self.started + self.provider().settings.timeouts.total.0
    }
}

impl Run<'_> {
    /// A key, and the breaker's leave.
    pub async fn begin<'t>(
        &mut self,
        target: &'t Arc<Target>,
    ) -> Result<Result<Trying<'t>, Failed>, Stop> {
        let left_alone = |until: Instant| {
            let wait = until.saturating_duration_since(Instant::now());
            let what = "the provider is left alone";
            Failed::said(FaultKind::Overloaded, what, Some(wait))
        };
        let Some(way) = self.way_of(target) else {
            let what = "the provider does not do this";
            return Ok(Err(Failed::said(FaultKind::NotFound, what, None)));
        };
        if let Some(until) = target.state.closed_until(Instant::now()) {
            return Ok(Err(left_alone(until)));
        }
        let key = match self.key(target).await? {
            Ok(key) => key,
            Err(failed) => return Ok(Err(failed)),
        };
        let now = Instant::now();
        Ok(match target.state.admit(now) {
            Ok(trial) => Ok(Trying {
                target,
                way,
                key,
                token: None,
                trial,
                started: now,
            }),
            Err(until) => Err(left_alone(until)),
        })
    }

    /// A key that was not refused, and whose limits, as far as they are known, leave what the call needs; waits for
    /// one, if there will be one soon.
    async fn key(&mut self, target: &Target) -> Result<Result<Picked, Failed>, Stop> {
        let provider = &target.provider;
        let model = self.task.plan.model_at(target).to_owned();
        let need = Need {
            model: &model,
            prompt: self.task.prompt_tokens,
            answer: self.task.peek.max_tokens.unwrap_or(0),
        };
        let from = Instant::now();
        let soon = from + provider.settings.retry.wait_max.0;
        let mut waiting = None;
        loop {
            let now = Instant::now();
            let until = match provider.keys.pick(&need, now) {
                Ok(key) => return Ok(Ok(key)),
                Err(until) => until,
            };
            let wait = until.saturating_duration_since(now);
            if until > soon || self.ctx.time_left().is_some_and(|left| left < wait) {
                if let Some(key) = provider.keys.pick_anyway(now) {
                    return Ok(Ok(key));
                }
                let what = "all keys of the provider are used up for the moment";
                return Ok(Err(Failed::said(FaultKind::RateLimited, what, Some(wait))));
            }
            waiting = waiting.or_else(|| provider.keys.wait(provider.settings.capacity.queue_max));
            if waiting.is_none() {
                provider.upstream.metrics.queue_rejected("full");
                return Ok(Err(Failed::full(Some(wait))));
            }
            let rested = self.rest(wait).await;
            self.ctx.inference_mut().queued += now.elapsed();
            rested.map_err(Stop::Caller)?;
        }
    }

    /// What is shown in place of a key; waits for the first one of all.
    pub async fn take_token(
        &mut self,
        trying: &mut Trying<'_>,
    ) -> Result<Result<(), Failed>, Stop> {
        let provider = Arc::clone(trying.provider());
        let Some(tokens) = provider.tokens() else {
            return Ok(Ok(()));
        };
        self.limit(provider.settings.timeouts.connect.0);
        let from = Instant::now();
        let value = self.meanwhile(tokens.value()).await;
        self.ctx.inference_mut().waited += from.elapsed();
        Ok(match value? {
            Ok(value) => {
                trying.token = Some(value);
                Ok(())
            }
            Err(why) => {
                let mut failed =
                    Failed::said(FaultKind::Server, "the provider cannot be asked now", None);
                failed.cause = format!("no token: {why}");
                Err(failed)
            }
        })
    }

    /// What the answer says of the key's limits. A refusal says itself how long to wait.
    pub fn learn_limits(&self, trying: &Trying<'_>, answered: &ResponseHead) {
        if answered.status.as_u16() >= 400 {
            return;
        }
        let allowance = Allowance::read(&answered.headers);
        let model = self.task.plan.model_at(trying.target);
        let keys = &trying.provider().keys;
        keys.learn(&trying.key, model, &allowance, Instant::now());
    }

    /// A place at the provider; waits for one in its queue, where users take turns.
    pub async fn take_place(&mut self, trying: &Trying<'_>) -> Result<Result<(), Failed>, Stop> {
        let provider = Arc::clone(trying.provider());
        self.limit(provider.settings.capacity.queue_timeout.0 + Duration::from_secs(1));
        let pool = &provider.upstream.pool;
        let user = identify::counted(self.ctx);
        let from = Instant::now();
        let want = Want {
            user: user.map(|user| hash::key_of(user.as_bytes())),
            deadline: self.ctx.deadline(),
            ..Want::any(from)
        };
        let acquired = self.meanwhile(pool.acquire(want)).await;
        let inference = self.ctx.inference_mut();
        inference.waited += from.elapsed();
        inference.queued += from.elapsed();
        Ok(match acquired? {
            Ok(lease) => {
                let endpoint = Arc::clone(lease.endpoint());
                self.ctx.lease = Some(lease);
                self.ctx
                    .attempts
                    .push(Attempt::new(endpoint, Instant::now()));
                Ok(())
            }
            Err(unavailable) => {
                provider.upstream.count_unavailable(&unavailable);
                Err(match unavailable {
                    Unavailable::QueueFull { retry_after }
                    | Unavailable::WaitedInVain { retry_after } => Failed::full(Some(retry_after)),
                    Unavailable::NoHealthyEndpoint { retry_after } => Failed::said(
                        FaultKind::Overloaded,
                        "no address of the provider is known",
                        Some(retry_after),
                    ),
                    Unavailable::NothingElse => Failed::full(None),
                })
            }
        })
    }
}
