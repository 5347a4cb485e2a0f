//! One try at one endpoint: connect, send, and wait for the head of its answer.

use super::caller::{Caller, CallerFault};
use super::context::RequestContext;
use super::life::Stop;
use super::timer::Timer;
use super::upload::{Side, Upload};
use super::{dispatch, forward};
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::connector::Connector;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::head::ResponseHead;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

/// Heads before the final one; an endpoint that sends more means no good.
const INTERIM_MAX: usize = 16;

/// A connection that is given back when the attempt is over, however it ends.
pub struct Held<'a> {
    exchange: Option<Exchange>,
    connector: &'a Connector,
    /// How long it may rest until the next attempt.
    idle: Duration,
}

/// An endpoint that has begun to answer.
pub struct Answering<'a> {
    pub held: Held<'a>,
    pub head: ResponseHead,
    /// Whether the endpoint was sent everything; it may answer before.
    pub sent: bool,
}

impl<'a> Held<'a> {
    pub fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("it is given back at the end only")
    }

    /// The connection itself, which will not be given back.
    pub fn take(mut self) -> Option<Exchange> {
        self.exchange.take()
    }

    fn new(exchange: Exchange, connector: &'a Connector, idle: Duration) -> Self {
        Self {
            exchange: Some(exchange),
            connector,
            idle,
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            self.connector.release(exchange, self.idle);
        }
    }
}

/// Up to the final head of the answer.
pub async fn run<'a>(
    connector: &'a Connector,
    caller: &mut Caller,
    ctx: &mut RequestContext,
    upload: &mut Upload,
    timer: &mut Timer,
) -> Result<Answering<'a>, Stop> {
    let mut held = connect(connector, caller, ctx, timer).await?;
    forward::start(held.exchange(), caller, ctx).map_err(Stop::Endpoint)?;
    upload.again();
    let mut waiting = Waiting {
        sent: false,
        send_failed: None,
        interim: 0,
    };
    ctx.limit(timer, ctx.idle_limit());
    let head = poll_fn(|cx| waiting.poll(cx, held.exchange(), caller, ctx, upload, timer)).await?;
    Ok(Answering {
        held,
        head,
        sent: waiting.sent,
    })
}

/// A connection, unless the caller leaves before there is one.
async fn connect<'a>(
    connector: &'a Connector,
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
) -> Result<Held<'a>, Stop> {
    let (upstream, purpose, limit) = dispatch::destination(ctx).map_err(Stop::Endpoint)?;
    let Some(endpoint) = ctx.attempts.last().map(|attempt| attempt.endpoint.clone()) else {
        return Err(Stop::Endpoint(Broken::TimedOut));
    };
    let connecting = connector.connect(&upstream.peers, &endpoint, purpose, limit);
    let mut connecting = std::pin::pin!(connecting);
    // Pingora's limits may be coarser than ours.
    timer.set(limit, None);
    let connected = poll_fn(|cx| {
        if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
            return Poll::Ready(connected.map_err(Stop::Endpoint));
        }
        if caller.has_sent()
            && let Poll::Ready(why) = caller.poll_gone(cx)
        {
            return Poll::Ready(Err(Stop::Caller(CallerFault::Left(why))));
        }
        timer.poll(cx).map(|()| {
            Err(Stop::Endpoint(Broken::NotConnected {
                timed_out: true,
                our_own_want: false,
                cause: "no connection in time".to_owned(),
            }))
        })
    })
    .await?;
    if let Some(attempt) = ctx.attempts.last_mut() {
        attempt.reused = connected.reused;
        attempt.connected = (!connected.reused).then(|| attempt.started.elapsed());
    }
    Ok(Held::new(
        connected.exchange,
        connector,
        upstream.settings.keepalive.idle.0,
    ))
}

/// Body out, head in, whichever can move.
struct Waiting {
    sent: bool,
    send_failed: Option<Broken>,
    interim: usize,
}

impl Waiting {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        caller: &mut Caller,
        ctx: &mut RequestContext,
        upload: &mut Upload,
        timer: &mut Timer,
    ) -> Poll<Result<ResponseHead, Stop>> {
        self.poll_send(cx, exchange, caller, ctx, upload, timer)?;
        loop {
            match exchange.poll_head(cx) {
                Poll::Ready(Ok(head)) if head.is_interim() && self.interim < INTERIM_MAX => {
                    self.interim += 1;
                    caller.put_interim(&head);
                }
                Poll::Ready(Ok(head)) if head.is_interim() => {
                    let cause = "too many answers before the final one".to_owned();
                    return Poll::Ready(Err(Stop::Endpoint(Broken::Malformed(cause))));
                }
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(broken)) => {
                    // Whichever was noticed first: it is one and the same connection.
                    let broken = self.send_failed.take().unwrap_or(broken);
                    return Poll::Ready(Err(Stop::Endpoint(broken)));
                }
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(fault)) = caller.poll_flush(cx) {
            return Poll::Ready(Err(Stop::Caller(fault)));
        }
        if caller.has_sent()
            && let Poll::Ready(why) = caller.poll_gone(cx)
        {
            return Poll::Ready(Err(Stop::Caller(CallerFault::Left(why))));
        }
        timer.poll(cx).map(|()| {
            let callers = !self.sent && upload.waits_for == Side::Caller && !ctx.is_over_total();
            Err(if callers {
                Stop::Caller(CallerFault::TimedOut)
            } else {
                Stop::Endpoint(Broken::TimedOut)
            })
        })
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        caller: &mut Caller,
        ctx: &mut RequestContext,
        upload: &mut Upload,
        timer: &mut Timer,
    ) -> Result<(), Stop> {
        if self.sent || self.send_failed.is_some() {
            return Ok(());
        }
        let mut progress = false;
        match upload.poll(cx, caller, exchange, &mut progress) {
            Poll::Ready(Ok(())) => {
                self.sent = true;
                dispatch::sent(ctx);
                // From here on the endpoint has `first_byte` to answer.
                ctx.limit(timer, ctx.first_byte_limit());
            }
            // It may have answered before it hung up: then the answer counts.
            Poll::Ready(Err(Stop::Endpoint(broken))) => self.send_failed = Some(broken),
            Poll::Ready(Err(stop)) => return Err(stop),
            Poll::Pending if progress => ctx.limit(timer, ctx.idle_limit()),
            Poll::Pending => {}
        }
        Ok(())
    }
}
