//! One try at one endpoint: connect, send, and wait for the head of its answer.

use super::dispatch::{self, Destination};
use super::forward;
use super::life::{Flight, Stop};
use super::upload::Side;
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
    pub fn new(exchange: Exchange, connector: &'a Connector, idle: Duration) -> Self {
        Self {
            exchange: Some(exchange),
            connector,
            idle,
        }
    }

    pub fn exchange(&mut self) -> &mut Exchange {
        self.exchange
            .as_mut()
            .expect("it is given back at the end only")
    }

    /// The connection itself, which will not be given back.
    pub fn take(mut self) -> Option<Exchange> {
        self.exchange.take()
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
    flight: &mut Flight<'_>,
) -> Result<Answering<'a>, Stop> {
    let mut held = connect(connector, flight).await?;
    forward::start(held.exchange(), flight.caller, flight.ctx).map_err(Stop::Endpoint)?;
    flight.upload.again();
    flight.limit(flight.ctx.idle_limit());
    let mut waiting = Waiting::default();
    let answer = poll_fn(|cx| waiting.poll(cx, held.exchange(), flight)).await?;
    Ok(Answering {
        held,
        head: answer,
        sent: waiting.sent,
    })
}

/// A connection, unless the caller leaves before there is one.
async fn connect<'a>(connector: &'a Connector, flight: &mut Flight<'_>) -> Result<Held<'a>, Stop> {
    let Destination {
        upstream,
        endpoint,
        purpose,
        limit,
    } = dispatch::destination(flight.ctx).map_err(Stop::Endpoint)?;
    let connecting = connector.connect(&upstream.peers, &endpoint, purpose, limit);
    let mut connecting = std::pin::pin!(connecting);
    flight.timer.set(limit, None);
    let connected = poll_fn(|cx| {
        if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
            return Poll::Ready(connected.map_err(Stop::Endpoint));
        }
        if let Poll::Ready(left) = flight.poll_left(cx) {
            return Poll::Ready(Err(left));
        }
        flight.timer.poll(cx).map(|()| {
            Err(Stop::Endpoint(Broken::NotConnected {
                timed_out: true,
                our_own_want: false,
                cause: "no connection in time".to_owned(),
            }))
        })
    })
    .await?;
    if let Some(attempt) = flight.ctx.attempts.last_mut() {
        attempt.reused = connected.reused;
        attempt.connected = (!connected.reused).then(|| attempt.started.elapsed());
    }
    let idle = upstream.settings.keepalive.idle.0;
    Ok(Held::new(connected.exchange, connector, idle))
}

/// Body out, head in, whichever can move.
#[derive(Default)]
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
        flight: &mut Flight<'_>,
    ) -> Poll<Result<ResponseHead, Stop>> {
        self.poll_send(cx, exchange, flight)?;
        while let Poll::Ready(came) = exchange.poll_head(cx) {
            match came {
                Ok(head) if !head.is_interim() => return Poll::Ready(Ok(head)),
                Ok(head) if self.interim < INTERIM_MAX => {
                    self.interim += 1;
                    flight.caller.put_interim(&head);
                }
                Ok(_) => {
                    let cause = "too many answers before the final one".to_owned();
                    return Poll::Ready(Err(Stop::Endpoint(Broken::Malformed(cause))));
                }
                // Whichever was noticed first: it is one and the same connection.
                Err(broken) => {
                    let broken = self.send_failed.take().unwrap_or(broken);
                    return Poll::Ready(Err(Stop::Endpoint(broken)));
                }
            }
        }
        if let Poll::Ready(Err(fault)) = flight.caller.poll_flush(cx) {
            return Poll::Ready(Err(Stop::Caller(fault)));
        }
        if let Poll::Ready(left) = flight.poll_left(cx) {
            return Poll::Ready(Err(left));
        }
        let waits_for = if self.sent {
            Side::Endpoint
        } else {
            flight.upload.waits_for
        };
        let moved = flight.caller.bytes_in;
        flight.poll_late(cx, waits_for, moved).map(Err)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        flight: &mut Flight<'_>,
    ) -> Result<(), Stop> {
        if self.sent || self.send_failed.is_some() {
            return Ok(());
        }
        let mut progress = false;
        match flight
            .upload
            .poll(cx, flight.caller, exchange, &mut progress)
        {
            Poll::Ready(Ok(())) => {
                self.sent = true;
                // From here on the endpoint has `first_byte` to answer.
                flight.limit(flight.ctx.first_byte_limit());
            }
            // It may have answered before it hung up: then the answer counts.
            Poll::Ready(Err(Stop::Endpoint(broken))) => self.send_failed = Some(broken),
            Poll::Ready(Err(stop)) => return Err(stop),
            Poll::Pending if progress => flight.limit(flight.ctx.idle_limit()),
            Poll::Pending => {}
        }
        Ok(())
    }
}
