//! Answers from AI providers, told once: read the call, try its targets one after the other, pass the answer on.
//!
//! Nothing of an answer goes to the caller before it has content, so a failure up to then is followed by the
//! next attempt and never seen. After that there is no way back: what fails is said in the stream itself.

mod answer;
mod attempt;
mod begin;
mod failed;
pub mod headers;
mod models;
pub mod prepare;
mod question;
mod realtime;
pub mod record;
mod send;
mod stream;
mod tell;
mod wait;

use super::caller::{Caller, CallerFault};
use super::context::RequestContext;
use super::life::{Lane, Stop};
use super::limit;
use super::pace::Pace;
use super::timer::Timer;
use super::trace;
use crate::base::ending::Ending;
use crate::snapshot::Target;
use crate::stage::ai::list::List;
use crate::stage::ai::retry::{self, After, Facts, Failure};
use crate::stage::upstream::connector::Connector;
use failed::Failed;
use prepare::Task;
use record::Source;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wait::Clock;

/// A call on its way, and everything that goes with it from attempt to attempt.
struct Run<'a> {
    connector: &'a Connector,
    caller: &'a mut Caller,
    ctx: &'a mut RequestContext,
    timer: &'a mut Timer,
    pace: Pace,
    clock: Clock,
    task: Box<Task>,
    /// Fields that the dialect of the target cannot say, and that were left out by rule.
    dropped: Vec<String>,
    /// Where the stream is to come as a list of JSON; none once that has its end.
    list: Option<List>,
    /// When the provider that is asked now was sent everything.
    waiting_since: Option<Instant>,
}

/// What came of an attempt.
#[derive(Debug)]
enum Tried {
    /// The request has ended, well or badly.
    Ended,
    Failed(Failed),
}

impl Tried {
    fn hiding(self, secret: Option<&str>) -> Self {
        match self {
            Self::Failed(failed) => Self::Failed(failed.hiding(secret)),
            Self::Ended => Self::Ended,
        }
    }
}

/// Tries targets until one has answered, or none is left.
pub async fn run(
    lane: Lane<'_>,
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    task: Box<Task>,
) {
    trace::admitted(ctx);
    let takes_comments = task.stream && task.door.dialect.dialect().takes_comments();
    let pulse = Some(task.heartbeat).filter(|pulse| takes_comments && !pulse.is_zero());
    let mut run = Run {
        connector: lane.connector,
        pace: ctx.pace(),
        clock: Clock::new(Instant::now(), pulse),
        caller,
        ctx,
        timer,
        list: task.door.list.then(List::default),
        task,
        dropped: Vec::new(),
        waiting_since: None,
    };
    if let Err(fault) = run.try_all().await {
        run.leave(&fault);
    }
}

impl Run<'_> {
    async fn try_all(&mut self) -> Result<(), CallerFault> {
        let mut targets: VecDeque<Arc<Target>> = self.task.targets.drain(..).collect();
        let (mut here, mut all) = (0, 0);
        // What a provider has said says more to the caller than that another could not be asked.
        let mut said: Option<Failed> = None;
        while let Some(target) = targets.front().cloned() {
            (here, all) = (here + 1, all + 1);
            let failed = match self.attempt(&target).await {
                Ok(Tried::Ended) => return Ok(()),
                Ok(Tried::Failed(failed)) => failed,
                Err(Stop::Caller(fault)) => return Err(fault),
                Err(Stop::Endpoint(broken)) => Failed::broken(&broken),
            };
            let others = targets.len() > 1;
            let mut facts = self.facts(&target, &failed, (here, all, others));
            let mut after = retry::after(facts);
            let budget = &target.provider.upstream.pool.budget;
            if matches!(after, After::Again(_)) && !budget.take(Instant::now()) {
                // Too much is tried again already: the first word is the last.
                target
                    .provider
                    .upstream
                    .metrics
                    .retry_budget_exhausted
                    .inc();
                facts.here_max = 1;
                facts.other_keys = false;
                after = retry::after(facts);
            }
            match after {
                After::Again(wait) => self.rest(wait).await?,
                After::Next => {
                    targets.pop_front();
                    here = 0;
                    self.admitted_only(&mut targets).await;
                    if targets.is_empty() {
                        self.tell(worth_telling(failed, said.take())).await;
                    } else if failed.failure != Failure::NotSaid {
                        said = Some(failed);
                    }
                }
                After::Tell => {
                    self.tell(worth_telling(failed, said)).await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A call counts for the provider that answers: one whose limits refuse it is passed over.
    async fn admitted_only(&mut self, targets: &mut VecDeque<Arc<Target>>) {
        while let Some(target) = targets.front() {
            let demand = self.task.demand(Some(target));
            // Boxed: it is rare, and large.
            if Box::pin(limit::move_on(self.ctx, &demand)).await.is_ok() {
                return;
            }
            targets.pop_front();
        }
    }

    fn facts(&self, target: &Target, failed: &Failed, tries: (u32, u32, bool)) -> Facts {
        let (here, all, others) = tries;
        let settings = &target.provider.settings.retry;
        let now = Instant::now();
        let kind = failed.fault.kind;
        let model = self.task.plan.model_at(target);
        Facts {
            failure: failed.failure,
            retry_after: failed.fault.retry_after,
            here,
            here_max: settings.attempts,
            all,
            others,
            other_keys: target.provider.keys.earliest(model, now).is_none()
                && failed.failure.blames_key()
                && target.provider.keys.len() > 1,
            falls_back: self.task.falls_back(kind),
            left: self.ctx.time_left().unwrap_or(Duration::MAX),
            backoff: crate::stage::upstream::retry::backoff(
                here,
                settings.backoff.0,
                fastrand::f64(),
            ),
            wait_max: settings.wait_max.0,
        }
    }

    /// Waits before the next attempt, unless the caller leaves.
    async fn rest(&mut self, wait: Duration) -> Result<(), CallerFault> {
        let from = Instant::now();
        self.limit(wait + Duration::from_secs(1));
        let waited = self.meanwhile(tokio::time::sleep(wait)).await;
        self.ctx.inference_mut().waited += from.elapsed();
        match waited {
            Err(Stop::Caller(fault)) => Err(fault),
            Ok(()) | Err(Stop::Endpoint(_)) => Ok(()),
        }
    }

    /// The caller has gone, or does not take what there is for it.
    fn leave(&mut self, fault: &CallerFault) {
        self.caller.cut();
        self.ctx.end(super::endings::of_caller(fault).0);
        let prompt = self.task.prompt_tokens;
        let was_asked = self.waiting_since.is_some();
        let inference = self.ctx.inference_mut();
        if was_asked && inference.source == Source::None {
            // The provider has the prompt, and counts it whoever leaves.
            inference.guessed(None, prompt, 0);
        }
        self.ctx.lease = None;
    }

    fn end(&mut self, ending: Ending) {
        self.ctx.end(ending);
        self.ctx.lease = None;
    }
}

/// The failure before, where the last one is only that a target could not be asked.
fn worth_telling(last: Failed, before: Option<Failed>) -> Failed {
    match before {
        Some(before) if last.failure == Failure::NotSaid => before,
        _ => last,
    }
}
