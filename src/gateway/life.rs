//! The life of one request, told once.

use super::admit::{self, Next};
use super::caller::Caller;
use super::context::RequestContext;
use super::timer::Timer;
use super::{Gateway, answer, dispatch, finish, refuse};
use crate::base::reject::Reject;
use crate::stage::upstream::connector::Connector;

/// What a request needs beside its caller: one worker's share of the gateway.
#[derive(Clone, Copy)]
pub struct Lane<'a> {
    pub gateway: &'a Gateway,
    /// This worker's connections to endpoints.
    pub connector: &'a Connector,
}

/// From a head that was read to a line in the access log.
pub async fn live(lane: Lane<'_>, caller: &mut Caller, timer: &mut Timer) {
    let mut ctx = lane.gateway.begin();
    admit::arrive(caller, &mut ctx);
    match admit::run(caller, &mut ctx).await {
        Ok(Next::Forward) => dispatch::run(lane.connector, caller, &mut ctx, timer).await,
        Ok(Next::Answer(head, body)) => answer::run(caller, &mut ctx, timer, *head, body).await,
        Err(reject) => refuse::run(caller, &mut ctx, timer, reject).await,
    }
    caller.take_rest().await;
    finish::run(caller, &mut ctx);
}

/// The same for a request that could not be read: it is answered, counted and logged like any other.
pub async fn turn_away(lane: Lane<'_>, caller: &mut Caller, timer: &mut Timer, reject: Reject) {
    let mut ctx = lane.gateway.begin();
    admit::arrive(caller, &mut ctx);
    caller.close_after();
    refuse::run(caller, &mut ctx, timer, reject).await;
    finish::run(caller, &mut ctx);
}

/// How an attempt, or all of them, came to a stop before the answer was whole.
#[derive(Debug)]
pub enum Stop {
    Caller(super::caller::CallerFault),
    Endpoint(crate::stage::upstream::broken::Broken),
}

impl RequestContext {
    /// Sets the clock: at most `limit` from now, and never beyond the end of the whole request.
    pub fn limit(&self, timer: &mut Timer, limit: std::time::Duration) {
        timer.set(limit, self.deadline());
    }
}
