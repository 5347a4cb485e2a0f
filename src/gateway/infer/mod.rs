//! Answers from AI providers, told once: read the call, try its targets one after the other, pass the answer on.
//!
//! Nothing is sent to the caller before an answer has content, so a failure up to then is followed by the
//! next attempt and never seen. After that there is no way back: what fails is said in the stream itself.

mod answer;
mod headers;
pub mod models;
pub mod prepare;
pub mod record;
mod send;
mod stream;
mod tell;
mod wait;

use super::attempt::Held;
use super::caller::{Caller, CallerFault};
use super::context::{Attempt, RequestContext};
use super::life::{Lane, Stop};
use super::pace::Pace;
use super::timer::Timer;
use super::{dispatch, endings};
use crate::base::ending::Ending;
use crate::snapshot::{AiProvider, AiTarget};
use crate::stage::ai::fault::{FaultKind, ProviderFault};
use crate::stage::ai::relay::Broke;
use crate::stage::ai::retry::{self, After, Failure};
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::connector::{Connector, Purpose};
use crate::stage::upstream::ejection::Outcome;
use crate::stage::upstream::pool::Want;
use prepare::Task;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wait::Clock;

/// A call on its way, and everything that goes with it from attempt to attempt.
pub struct Run<'a> {
    connector: &'a Connector,
    caller: &'a mut Caller,
    ctx: &'a mut RequestContext,
    timer: &'a mut Timer,
    pace: Pace,
    clock: Clock,
    task: Task,
}

/// How an attempt came to nothing before the caller saw anything of an answer.
#[derive(Debug)]
struct Failed {
    failure: Failure,
    /// What the caller is told, should there be no other attempt.
    fault: ProviderFault,
    /// The provider's own answer, where it speaks the caller's dialect.
    own_words: Option<(u16, bytes::Bytes)>,
    /// For the log.
    cause: String,
}

/// What an attempt comes to.
enum Outcomes {
    /// The request has ended, well or badly.
    Ended,
    Failed(Failed),
}

/// Tries targets until one has answered, or none is left.
pub async fn run(
    lane: Lane<'_>,
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    task: Task,
) {
    let pulses = task.stream && task.door.dialect.dialect().takes_comments();
    let run = Run {
        connector: lane.connector,
        pace: ctx.pace(),
        clock: Clock::new(Instant::now(), pulses),
        caller,
        ctx,
        timer,
        task,
    };
    run.all().await;
}

impl Run<'_> {
    async fn all(mut self) {
        let mut targets: VecDeque<AiTarget> = self.task.targets.drain(..).collect();
        let mut here = 0;
        while let Some(target) = targets.front().cloned() {
            here += 1;
            let failed = match self.attempt(&target).await {
                Ok(Outcomes::Ended) => return,
                Ok(Outcomes::Failed(failed)) => failed,
                Err(fault) => return self.leave(&fault).await,
            };
            self.note(&target, &failed);
            let facts = self.facts(&target, &failed, (here, targets.len() > 1));
            match retry::after(facts) {
                After::Again(wait) => {
                    if let Err(fault) = self.rest(wait).await {
                        return self.leave(&fault).await;
                    }
                }
                After::Next => {
                    targets.pop_front();
                    here = 0;
                }
                After::Tell => return self.tell(failed).await,
            }
        }
    }
}
