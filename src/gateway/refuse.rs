//! Every "no" becomes bytes here: a small JSON body, and a connection that stays usable.

use super::caller::{Caller, CallerFault, Extent};
use super::context::RequestContext;
use super::endings;
use super::timer::Timer;
use crate::base::ending::Ending;
use crate::base::reject::{Reject, RejectKind};
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use std::future::poll_fn;
use std::task::{Poll, ready};
use std::time::Duration;

/// Answers with the refusal.
pub async fn run(caller: &mut Caller, ctx: &mut RequestContext, timer: &mut Timer, reject: Reject) {
    run_with(caller, ctx, timer, reject, None).await;
}

/// The same with another's words, where they are known.
pub async fn run_with(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    reject: Reject,
    words: Option<Bytes>,
) {
    if reject.kind == RejectKind::BadRequest {
        // Whoever cannot write this request is not to be trusted with where the next one begins.
        caller.close_after();
    }
    let body = words.unwrap_or_else(|| Bytes::from(body_of(ctx, &reject)));
    let head = head_of(&reject);
    ctx.refused(reject);
    send(caller, ctx, timer, head, body).await;
}

/// In the dialect in which the caller spoke to a model, if it did.
fn body_of(ctx: &RequestContext, reject: &Reject) -> Vec<u8> {
    if let Some(inference) = &ctx.inference {
        return inference.refusal(reject, ctx.request_id().to_str().unwrap_or_default());
    }
    plain_body(ctx, reject).into_bytes()
}

fn plain_body(ctx: &RequestContext, reject: &Reject) -> String {
    let (code, message) = (reject.code(), reject.message());
    // A trusted peer may have chosen it, quotation marks and all.
    let request_id = serde_json::Value::from(ctx.request_id().to_str().unwrap_or_default());
    // Names of rules need no escape: the checks see to it.
    let message = serde_json::Value::from(message);
    let rule = reject.rule.as_ref();
    let rule = rule.map_or_else(String::new, |rule| format!("\"rule\":\"{rule}\","));
    format!("{{\"code\":\"{code}\",\"message\":{message},{rule}\"request_id\":{request_id}}}\n")
}

fn head_of(reject: &Reject) -> ResponseHead {
    let status = StatusCode::from_u16(reject.status());
    let mut head = ResponseHead::new(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    let no_store = HeaderValue::from_static("no-store");
    head.headers.insert(header::CACHE_CONTROL, no_store);
    if let Some(wait) = reject.retry_after {
        head.headers
            .insert(header::RETRY_AFTER, whole_seconds(wait).into());
    }
    if let Some(challenge) = reject.kind.challenge() {
        let challenge = HeaderValue::from_static(challenge);
        head.headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(allow) = &reject.allow
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        head.headers.insert(header::ALLOW, allow);
    }
    head
}

/// Sends a whole answer of our own; without the body when the caller asked by `HEAD`. False when the
/// caller did not take it.
pub async fn send(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    mut head: ResponseHead,
    body: Bytes,
) -> bool {
    let bodyless = matches!(head.status.as_u16(), 204 | 304);
    ctx.status = head.status.as_u16();
    ctx.decorate(&mut head.headers);
    if !bodyless {
        head.headers
            .insert(header::CONTENT_LENGTH, body.len().into());
    }
    caller.give_up_body();
    let extent = if bodyless {
        Extent::Nothing
    } else {
        Extent::Length(body.len() as u64)
    };
    let shown = !bodyless && caller.head.method != Method::HEAD;
    timer.set(ctx.idle_limit(), None);
    let sent = match caller.put_head(head, extent) {
        Ok(()) => {
            if shown && !body.is_empty() {
                ctx.traffic.bytes_out += body.len() as u64;
                caller.put(body);
            }
            finish(caller, timer).await
        }
        Err(fault) => Err(fault),
    };
    match sent {
        Ok(()) => true,
        Err(fault) => {
            caller.cut();
            let (ending, _) = endings::of_caller(&fault);
            // What it was refused for says more than that it did not wait to hear it.
            ctx.end(ending);
            ctx.ending == Some(Ending::Answered)
        }
    }
}

/// Sends what was put in, and the end.
pub async fn finish(caller: &mut Caller, timer: &mut Timer) -> Result<(), CallerFault> {
    let mut ended = false;
    poll_fn(|cx| {
        let mut flush = || {
            ready!(caller.poll_flush(cx))?;
            if !ended {
                ended = true;
                caller.finish(None)?;
                ready!(caller.poll_flush(cx))?;
            }
            Poll::Ready(Ok(()))
        };
        match flush() {
            Poll::Pending => timer.poll(cx).map(|()| Err(CallerFault::TimedOut)),
            ready @ Poll::Ready(_) => ready,
        }
    })
    .await
}

/// `Retry-After` counts whole seconds, and too early would be a lie.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up() {
        for (millis, seconds) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(RejectKind::QueueFull.status(), 503);
    }
}
