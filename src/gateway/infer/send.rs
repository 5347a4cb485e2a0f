//! One question to one provider: connect, send, and wait for the head of its answer.

use super::Run;
use crate::gateway::attempt::Held;
use crate::gateway::life::Stop;
use crate::gateway::upload::Side;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::exchange::{Exchange, Outbound};
use crate::wire::body::Framing;
use crate::wire::fields::Spelling;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// So much of a body is put in at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Heads before the final one; a provider that sends more means no good.
const INTERIM_MAX: usize = 16;

/// What is sent.
pub struct Question {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The protocol that is asked for instead of HTTP.
    pub upgrade: Option<HeaderValue>,
}

/// Sends it, and waits for `first_byte` at most once it has gone.
pub async fn ask(
    run: &mut Run<'_>,
    held: &mut Held<'_>,
    question: &Question,
    first_byte: Duration,
) -> Result<ResponseHead, Stop> {
    let framing = if question.body.is_empty() {
        Framing::Empty
    } else {
        Framing::Length(question.body.len() as u64)
    };
    let outbound = Outbound {
        method: &question.method,
        target: &question.target,
        headers: &question.headers,
        spelling: &Spelling::default(),
        body: framing,
        upgrade: question.upgrade.as_ref(),
    };
    held.exchange().start(outbound).map_err(Stop::Endpoint)?;
    let mut asking = Asking {
        rest: question.body.clone(),
        ended: false,
        sent: false,
        failed: None,
        interim: 0,
    };
    run.limit(first_byte);
    poll_fn(|cx| asking.poll(cx, held.exchange(), run)).await
}

struct Asking {
    rest: Bytes,
    /// The end of the body was put in.
    ended: bool,
    sent: bool,
    failed: Option<Broken>,
    interim: usize,
}

impl Asking {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        run: &mut Run<'_>,
    ) -> Poll<Result<ResponseHead, Stop>> {
        if !self.sent && self.failed.is_none() {
            match self.poll_send(cx, exchange) {
                Poll::Ready(Ok(())) => self.sent = true,
                // It may have answered before it hung up: then the answer counts.
                Poll::Ready(Err(broken)) => self.failed = Some(broken),
                Poll::Pending => {}
            }
        }
        while let Poll::Ready(came) = exchange.poll_head(cx) {
            match came {
                Ok(head) if !head.is_interim() => return Poll::Ready(Ok(head)),
                Ok(_) if self.interim < INTERIM_MAX => self.interim += 1,
                Ok(_) => {
                    let cause = "too many answers before the final one".to_owned();
                    return Poll::Ready(Err(Stop::Endpoint(Broken::Malformed(cause))));
                }
                Err(broken) => {
                    let broken = self.failed.take().unwrap_or(broken);
                    return Poll::Ready(Err(Stop::Endpoint(broken)));
                }
            }
        }
        run.poll_wait(cx, Side::Endpoint).map(Err)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
    ) -> Poll<Result<(), Broken>> {
        while !self.rest.is_empty() {
            ready!(exchange.poll_room(cx))?;
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            exchange.put(piece);
        }
        if !self.ended {
            ready!(exchange.poll_flush(cx))?;
            exchange.finish(None)?;
            self.ended = true;
        }
        exchange.poll_flush(cx)
    }
}
