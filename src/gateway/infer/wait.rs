//! What goes on while something is waited for: the caller may leave, the time may be over, and a line that is
//! silent for long is kept awake.

use super::Run;
use crate::gateway::caller::CallerFault;
use crate::gateway::life::Stop;
use crate::gateway::upload::Side;
use crate::stage::upstream::broken::Broken;
use bytes::Bytes;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const COMMENT: &[u8] = b": keep-alive\n\n";

/// When what is waited for is too late, and when the line must be kept awake.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    limit: Instant,
    /// How long the line may be silent, and until when it may be; none where nothing can be said.
    pulse: Option<(Duration, Instant)>,
}

impl Clock {
    /// `pulse`: how long the line may be silent.
    pub fn new(now: Instant, pulse: Option<Duration>) -> Self {
        Self {
            limit: now + Duration::from_hours(24),
            pulse: pulse.map(|pulse| (pulse, now + pulse)),
        }
    }

    /// The line is awake: something was said.
    pub fn said(&mut self, now: Instant) {
        if let Some((period, due)) = &mut self.pulse {
            *due = now + *period;
        }
    }

    fn next(&self) -> Instant {
        self.pulse
            .map_or(self.limit, |(_, due)| due.min(self.limit))
    }
}

impl Run<'_> {
    /// What is waited for from here on may take so long, and never longer than the request.
    pub fn limit(&mut self, limit: Duration) {
        self.limit_at(Instant::now() + limit);
    }

    /// The same, until then.
    pub fn limit_at(&mut self, limit: Instant) {
        self.clock.limit = self.ctx.deadline().map_or(limit, |end| end.min(limit));
        self.timer.set_at(self.clock.next());
    }

    /// To be polled last, when nothing else can move. Ready when the wait is over.
    pub fn poll_wait(&mut self, cx: &mut Context<'_>, waits_for: Side) -> Poll<Stop> {
        if let Poll::Ready(why) = self.caller.poll_gone(cx) {
            return Poll::Ready(Stop::Caller(CallerFault::Left(why)));
        }
        if waits_for == Side::Caller {
            let moved = self.ctx.traffic.bytes_out;
            if let Some(patience) = self.pace.patience(moved, Instant::now()) {
                self.timer.not_later(patience);
            }
        } else if self.pace.is_waiting() {
            self.pace.rests(Instant::now());
        }
        loop {
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if waits_for == Side::Caller {
                return Poll::Ready(Stop::Caller(CallerFault::TimedOut));
            }
            if now >= self.clock.limit {
                return Poll::Ready(Stop::Endpoint(Broken::TimedOut));
            }
            if self.clock.pulse.is_some_and(|(_, due)| now >= due)
                && let Err(fault) = self.keep_awake(cx)
            {
                return Poll::Ready(Stop::Caller(fault));
            }
            self.clock.said(now);
            self.timer.set_at(self.clock.next());
        }
    }

    /// Says something that is no part of the answer. The head goes first, where it has not: the caller then
    /// has its 200, and failures from here on are told in the stream.
    fn keep_awake(&mut self, cx: &mut Context<'_>) -> Result<(), CallerFault> {
        // A caller that does not even take what there is needs nothing more.
        if let Poll::Ready(room) = self.caller.poll_flush(cx) {
            room?;
            if !self.caller.begun {
                self.begin_stream(false)?;
            }
            self.ctx.traffic.bytes_out += COMMENT.len() as u64;
            self.caller.put(Bytes::from_static(COMMENT));
            if let Poll::Ready(Err(fault)) = self.caller.poll_flush(cx) {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// The outcome of something beside the exchange, unless the caller leaves or the time is over.
    pub async fn meanwhile<F: Future>(&mut self, future: F) -> Result<F::Output, Stop> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_wait(cx, Side::Endpoint).map(Err)
        })
        .await
    }
}
