//! The life of one request, told once.

use super::admit::{self, Next};
use super::caller::{Caller, CallerFault};
use super::context::RequestContext;
use super::pace::Pace;
use super::timer::Timer;
use super::upload::{Side, Upload};
use super::{Gateway, answer, dispatch, finish, infer, refuse};
use crate::base::reject::Reject;
use crate::snapshot::ListenerRules;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::connector::Connector;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What a request needs beside its caller: one worker's share of the gateway.
#[derive(Clone, Copy)]
pub struct Lane<'a> {
    pub gateway: &'a Gateway,
    /// This worker's connections to endpoints.
    pub connector: &'a Connector,
}

/// From a head that was read to a line in the access log. Returns the rules of the listener as they are now.
pub async fn live(
    lane: Lane<'_>,
    caller: &mut Caller,
    timer: &mut Timer,
) -> Option<Arc<ListenerRules>> {
    let mut ctx = lane.gateway.begin();
    admit::arrive(caller, &mut ctx);
    // Boxed: what an admission needs is given back before the long part of a request.
    let admitted = Box::pin(admit::run(caller, &mut ctx, timer)).await;
    match admitted {
        Ok(Next::Forward) => dispatch::run(lane.connector, caller, &mut ctx, timer).await,
        Ok(Next::Infer(task)) => infer::run(lane, caller, &mut ctx, timer, task).await,
        Ok(Next::Answer(head, body)) => answer::run(caller, &mut ctx, timer, *head, body).await,
        Ok(Next::Nothing) => {}
        Err(reject) => refuse::run(caller, &mut ctx, timer, reject).await,
    }
    caller.take_rest().await;
    finish::run(caller, &mut ctx);
    ctx.arrival.take().map(|arrival| arrival.listener)
}

/// The same for a request that could not be read: it is answered, counted and logged like any other.
pub async fn turn_away(lane: Lane<'_>, caller: &mut Caller, timer: &mut Timer, reject: Reject) {
    let mut ctx = lane.gateway.begin();
    admit::arrive(caller, &mut ctx);
    caller.close_after();
    refuse::run(caller, &mut ctx, timer, reject).await;
    finish::run(caller, &mut ctx);
}

/// A request on its way to an endpoint, and everything that goes with it from attempt to attempt.
pub struct Flight<'a> {
    pub caller: &'a mut Caller,
    pub ctx: &'a mut RequestContext,
    pub timer: &'a mut Timer,
    pub upload: Upload,
    pub pace: Pace,
}

/// How an attempt, or all of them, came to a stop before the answer was whole.
#[derive(Debug)]
pub enum Stop {
    Caller(CallerFault),
    Endpoint(Broken),
}

impl Flight<'_> {
    /// Sets the clock: at most `limit` from now, and never beyond the end of the whole request.
    pub fn limit(&mut self, limit: Duration) {
        self.timer.set(limit, self.ctx.deadline());
    }

    /// Whether the caller has left. It is not looked for while it sends its body.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        if !self.caller.has_sent() {
            return Poll::Pending;
        }
        let gone = self.caller.poll_gone(cx);
        gone.map(|why| Stop::Caller(CallerFault::Left(why)))
    }

    /// Whether the time is over, and whose fault that is. `moved`: bytes that the caller has sent, or taken.
    pub fn poll_late(&mut self, cx: &mut Context<'_>, waits_for: Side, moved: u64) -> Poll<Stop> {
        if waits_for == Side::Caller {
            if let Some(patience) = self.pace.patience(moved, Instant::now()) {
                self.timer.not_later(patience);
            }
        } else if self.pace.is_waiting() {
            self.pace.rests(Instant::now());
        }
        self.timer.poll(cx).map(|()| {
            if waits_for == Side::Caller && !self.ctx.is_over_total() {
                Stop::Caller(CallerFault::TimedOut)
            } else {
                Stop::Endpoint(Broken::TimedOut)
            }
        })
    }
}
