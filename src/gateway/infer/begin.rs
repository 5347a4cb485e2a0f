//! What an attempt needs before it asks: a key with something left of its limits, the breaker's leave, a place.

use super::{Failed, Run};
use crate::gateway::context::{Asked, Attempt};
use crate::gateway::identify;
use crate::gateway::life::Stop;
use crate::snapshot::{Provider, Target};
use crate::stage::ai::allowance::{Allowance, Need};
use crate::stage::ai::fault::FaultKind;
use crate::stage::ai::key_ring::{KeyRing, Picked, Turn};
use crate::stage::ai::provider::Way;
use crate::stage::ai::target::Trial;
use crate::stage::upstream::balance::hash;
use crate::stage::upstream::pool::{Unavailable, Want};
use crate::wire::head::ResponseHead;
use http::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a call looks whether it is its turn, where no moment can be told: another goes first that needs more.
const LOOK_AROUND: Duration = Duration::from_millis(50);

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
        let model = self.task.plan.model_at(target).to_owned();
        let state = target.state_of(&model, Instant::now());
        if let Some(until) = state.closed_until(Instant::now()) {
            return Ok(Err(left_alone(until)));
        }
        let key = match self.key(target).await? {
            Ok(key) => key,
            Err(failed) => return Ok(Err(failed)),
        };
        let now = Instant::now();
        Ok(match state.admit(now) {
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
    /// its turn at one, if there will be one soon.
    async fn key(&mut self, target: &Target) -> Result<Result<Picked, Failed>, Stop> {
        let (provider, settings) = (&target.provider, &target.provider.settings);
        let model = self.task.plan.model_at(target).to_owned();
        let need = Need {
            model: &model,
            prompt: self.task.prompt_tokens,
            answer: self.task.peek.max_tokens.unwrap_or(0),
        };
        let now = Instant::now();
        let until = match provider.keys.pick_at_once(&need, now) {
            Ok(key) => return Ok(Ok(key)),
            Err(until) => until,
        };
        let mut soon = now + settings.retry.wait_max.0;
        if let Some(deadline) = self.ctx.deadline() {
            soon = soon.min(deadline);
        }
        if until > soon {
            let anyway = provider.keys.pick_anyway(&model, now);
            return Ok(anyway.ok_or_else(|| Failed::used_up(until - now)));
        }
        let user = self.user();
        let turn = provider.keys.wait(&need, user, settings.capacity.queue_max);
        let Some(turn) = turn else {
            provider.upstream.metrics.queue_rejected("full");
            return Ok(Err(Failed::full(Some(until - now))));
        };
        let waited = self.turn(turn, (&provider.keys, &need), soon).await;
        let inference = self.ctx.inference_mut();
        inference.waited += now.elapsed();
        inference.queued += now.elapsed();
        waited
    }

    /// Waits for its turn at a key, until `soon` at most.
    async fn turn(
        &mut self,
        mut turn: Turn<'_>,
        (keys, need): (&KeyRing, &Need<'_>),
        soon: Instant,
    ) -> Result<Result<Picked, Failed>, Stop> {
        loop {
            let now = Instant::now();
            keys.serve(now);
            let until = keys.free_at(need, now).unwrap_or(now + LOOK_AROUND);
            let wait = until.min(soon).saturating_duration_since(now);
            self.limit(wait + Duration::from_secs(1));
            let key = tokio::time::timeout(wait, &mut turn.key);
            match self.meanwhile(key).await? {
                Ok(Ok(key)) => return Ok(Ok(key)),
                Ok(Err(_)) => return Ok(Err(Failed::full(Some(until - now)))),
                Err(_) if Instant::now() >= soon => {
                    return Ok(Err(Failed::used_up(until.max(soon) - now)));
                }
                Err(_) => {}
            }
        }
    }

    /// By whom those who wait take turns.
    fn user(&self) -> Option<u64> {
        let user = identify::counted(self.ctx);
        user.map(|user| hash::key_of(user.as_bytes()))
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

    /// For the span of the attempt, if there will be one.
    fn asked(&self, target: &Target) -> Option<Box<Asked>> {
        self.ctx.tracing()?;
        Some(Box::new(Asked {
            kind: target.provider.kind.otel_name(),
            provider: target.provider.name.clone(),
            model: self.task.plan.model_at(target).to_owned(),
        }))
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
        let from = Instant::now();
        let want = Want {
            user: self.user(),
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
                let mut attempt = Attempt::new(endpoint, Instant::now());
                attempt.asked = self.asked(trying.target);
                self.ctx.attempts.push(attempt);
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
