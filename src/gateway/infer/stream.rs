//! The stream of an answer on its way to the caller: each event goes out when it comes in.

use super::Run;
use crate::gateway::attempt::Held;
use crate::gateway::caller::{CallerFault, Extent};
use crate::gateway::life::Stop;
use crate::gateway::upload::Side;
use crate::stage::ai::fault::{FaultKind, ProviderFault};
use crate::stage::ai::relay::{Broke, Relay};
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Why a stream is not whole.
#[derive(Debug)]
pub enum Halt {
    Stop(Stop),
    Broke(Broke),
    /// The process is about to end.
    Drain,
}

/// Limits of the wait for the next piece.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To the first content, from the last event that was none.
    pub first_token: Duration,
    /// Between two events.
    pub gap: Duration,
    /// Until which all of it must have come.
    pub end: Instant,
}

/// Passes the stream on. Whether the caller has seen anything when it fails, `relay` knows.
pub async fn pass(
    run: &mut Run<'_>,
    held: &mut Held<'_>,
    relay: &mut Relay,
    limits: Limits,
) -> Result<(), Halt> {
    let mut passing = Passing {
        relay,
        limits,
        state: State::Body,
        waits_for: Side::Endpoint,
    };
    passing.wind(run);
    poll_fn(|cx| passing.poll(cx, held.exchange(), run)).await
}

struct Passing<'a> {
    relay: &'a mut Relay,
    limits: Limits,
    state: State,
    waits_for: Side,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Body,
    /// All of it has been put in, its end has not.
    End,
    Flush,
}

impl Passing<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        run: &mut Run<'_>,
    ) -> Poll<Result<(), Halt>> {
        if let Poll::Ready(done) = self.poll_pass(cx, exchange, run) {
            return Poll::Ready(done);
        }
        if self.relay.is_between() && run.timer.poll_cut(cx).is_ready() {
            return Poll::Ready(Err(Halt::Drain));
        }
        let waited = run.poll_wait(cx, self.waits_for);
        run.caller.slim();
        waited.map(|stop| Err(Halt::Stop(stop)))
    }

    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        run: &mut Run<'_>,
    ) -> Poll<Result<(), Halt>> {
        loop {
            self.waits_for = Side::Caller;
            match self.state {
                State::Body => {
                    ready!(self.poll_give(cx, run)).map_err(of_caller)?;
                    match exchange.poll_body(cx) {
                        Poll::Ready(Ok(Some(piece))) => self.take(piece, run)?,
                        Poll::Ready(Ok(None)) => self.end(run)?,
                        // What was whole stays whole, however the connection ends.
                        Poll::Ready(Err(_)) | Poll::Pending if self.relay.is_over() => {
                            self.end(run)?;
                        }
                        Poll::Ready(Err(broken)) => {
                            return Poll::Ready(Err(Halt::Stop(Stop::Endpoint(broken))));
                        }
                        Poll::Pending => {
                            // Nothing more is at hand: what has come goes out now.
                            ready!(run.caller.poll_flush(cx)).map_err(of_caller)?;
                            // Models think for long: between two events no stream holds a buffer.
                            exchange.slim();
                            self.waits_for = Side::Endpoint;
                            return Poll::Pending;
                        }
                    }
                }
                State::End => {
                    ready!(self.poll_give(cx, run)).map_err(of_caller)?;
                    ready!(run.caller.poll_flush(cx)).map_err(of_caller)?;
                    run.caller.finish(None).map_err(of_caller)?;
                    self.state = State::Flush;
                }
                State::Flush => return run.caller.poll_flush(cx).map_err(of_caller),
            }
        }
    }

    /// Puts in what is ready for the caller.
    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        run: &mut Run<'_>,
    ) -> Poll<Result<(), CallerFault>> {
        while self.relay.has_some() {
            if !run.caller.begun {
                run.begin_stream(true)?;
            }
            ready!(run.caller.poll_room(cx))?;
            if let Some(piece) = self.relay.take() {
                run.ctx.traffic.bytes_out += piece.len() as u64;
                run.caller.put(piece);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, piece: Bytes, run: &mut Run<'_>) -> Result<(), Halt> {
        let (seen, began) = (self.relay.seen(), self.relay.is_committed());
        self.relay.push(piece).map_err(Halt::Broke)?;
        if self.relay.is_committed() && !began {
            self.begin(run)?;
        }
        // Empty lines and comments are no events: with them alone nobody gets anywhere.
        if self.relay.seen() > seen {
            self.wind(run);
        }
        Ok(())
    }

    /// The first content has come.
    fn begin(&mut self, run: &mut Run<'_>) -> Result<(), Halt> {
        if self.relay.is_filtered() && run.task.falls_back(FaultKind::ContentPolicy) {
            let fault = ProviderFault {
                kind: FaultKind::ContentPolicy,
                code: None,
                message: "the provider does not answer to this content".to_owned(),
                retry_after: None,
            };
            return Err(Halt::Broke(Broke::Fault(fault)));
        }
        run.task.answered();
        run.ctx.inference_mut().begun(Instant::now());
        Ok(())
    }

    fn end(&mut self, run: &mut Run<'_>) -> Result<(), Halt> {
        let began = self.relay.is_committed();
        self.relay.end().map_err(Halt::Broke)?;
        if !began {
            self.begin(run)?;
        }
        self.state = State::End;
        Ok(())
    }

    /// How long the next event may take.
    fn wind(&self, run: &mut Run<'_>) {
        let now = Instant::now();
        run.clock.said(now);
        let limit = if self.relay.is_committed() {
            now + self.limits.gap
        } else {
            now + self.limits.first_token
        };
        run.limit_at(limit.min(self.limits.end));
    }
}

/// Passes on what is no stream of events, as it comes: sounds, pictures.
pub async fn pass_raw(
    run: &mut Run<'_>,
    held: &mut Held<'_>,
    answered: &ResponseHead,
    (gap, end): (Duration, Instant),
) -> Result<(), Stop> {
    let (mut own, extent) = super::answer::head_of_raw(answered);
    run.ctx.status = own.status.as_u16();
    run.decorate(&mut own.headers);
    run.caller.put_head(own, extent).map_err(Stop::Caller)?;
    let wind = |run: &mut Run<'_>| {
        let now = Instant::now();
        run.limit((now + gap).min(end).saturating_duration_since(now));
    };
    wind(run);
    let mut state = State::Body;
    poll_fn(|cx| poll_raw(cx, &mut state, held.exchange(), run, &wind)).await
}

fn poll_raw(
    cx: &mut Context<'_>,
    state: &mut State,
    exchange: &mut Exchange,
    run: &mut Run<'_>,
    wind: &impl Fn(&mut Run<'_>),
) -> Poll<Result<(), Stop>> {
    let mut waits_for = Side::Caller;
    let mut pass = |run: &mut Run<'_>| loop {
        match *state {
            State::Body => {
                ready!(run.caller.poll_room(cx)).map_err(Stop::Caller)?;
                match exchange.poll_body(cx) {
                    Poll::Ready(Ok(Some(piece))) => {
                        run.ctx.traffic.bytes_out += piece.len() as u64;
                        run.caller.put(piece);
                        wind(run);
                    }
                    Poll::Ready(Ok(None)) => *state = State::End,
                    Poll::Ready(Err(broken)) => {
                        return Poll::Ready(Err(Stop::Endpoint(broken)));
                    }
                    Poll::Pending => {
                        ready!(run.caller.poll_flush(cx)).map_err(Stop::Caller)?;
                        waits_for = Side::Endpoint;
                        return Poll::Pending;
                    }
                }
            }
            State::End => {
                ready!(run.caller.poll_flush(cx)).map_err(Stop::Caller)?;
                run.caller.finish(None).map_err(Stop::Caller)?;
                *state = State::Flush;
            }
            State::Flush => return run.caller.poll_flush(cx).map_err(Stop::Caller),
        }
    };
    if let Poll::Ready(passed) = pass(run) {
        return Poll::Ready(passed);
    }
    run.poll_wait(cx, waits_for).map(Err)
}

fn of_caller(fault: CallerFault) -> Halt {
    Halt::Stop(Stop::Caller(fault))
}

impl Run<'_> {
    /// The head of a streamed answer. From here on the caller has its 200.
    /// `answered`: it is known who answers.
    pub fn begin_stream(&mut self, answered: bool) -> Result<(), CallerFault> {
        let mut head = ResponseHead::new(StatusCode::OK);
        let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
        head.headers.insert(header::CONTENT_TYPE, events);
        // nginx and its like would keep events back.
        head.headers
            .insert("x-accel-buffering", HeaderValue::from_static("no"));
        let no_cache = HeaderValue::from_static("no-cache");
        head.headers.insert(header::CACHE_CONTROL, no_cache);
        self.ctx.status = 200;
        if answered {
            self.decorate_own(&mut head.headers);
        }
        self.ctx.decorate(&mut head.headers);
        self.caller.put_head(head, Extent::Unknown)
    }
}

impl Halt {
    /// The same, whoever noticed it.
    pub fn broke(self) -> Result<Broke, Stop> {
        match self {
            Self::Broke(broke) => Ok(broke),
            Self::Stop(Stop::Endpoint(Broken::Closed { .. })) => Ok(Broke::Cut),
            Self::Stop(stop) => Err(stop),
            Self::Drain => Ok(Broke::Fault(ProviderFault {
                kind: FaultKind::Overloaded,
                code: Some("draining".to_owned()),
                message: "this instance is about to stop; ask again".to_owned(),
                retry_after: None,
            })),
        }
    }
}
