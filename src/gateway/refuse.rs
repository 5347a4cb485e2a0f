//! Every "no" becomes bytes here: a small JSON body, and a connection that stays usable.

use super::context::RequestContext;
use super::endings;
use crate::base::reject::Reject;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, Result};
use std::time::Duration;

/// A refused request's body up to this size is read and thrown away, so that the connection can
/// serve the next request; with a larger one it is cheaper to close.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// How long such a body may take to arrive.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Of a body on HTTP/2 this much is read when the answer does not need it. It costs no connection to stop.
const HTTP2_REST_BYTES_MAX: usize = 8 << 20;

/// Answers with the refusal. Used before anything was sent upstream.
pub async fn run(session: &mut Session, ctx: &mut RequestContext, reject: Reject) -> Result<bool> {
    keep_connection_if_cheap(session);
    let written = write(session, ctx, &reject).await;
    ctx.refused(reject);
    written.map(|()| true)
}

/// Pingora's last word on a request that failed: says it to the caller, if that is still possible.
pub async fn failed(session: &mut Session, error: &Error, ctx: &mut RequestContext) -> FailToProxy {
    let begun = answer_begun(session);
    let (ending, reject) = ctx.failed.take().unwrap_or_else(|| {
        let (ending, kind) = endings::classify(error, ctx, begun);
        let reject = ctx.reject.take().unwrap_or_else(|| kind.because(error));
        (ending, reject)
    });
    ctx.end(ending);
    let can_tell = !begun && !ending.client_is_gone();
    // Pingora keeps no connection of HTTP/1.1 after a failed attempt, so let the answer say so: a
    // caller that trusted a `keep-alive` would lose its next request.
    session.set_keepalive(None);
    if can_tell && write(session, ctx, &reject).await.is_err() {
        tracing::debug!("the caller left before it could be told");
    }
    let error_code = if can_tell { reject.kind.status() } else { 0 };
    ctx.reject = Some(reject);
    FailToProxy {
        error_code,
        can_reuse_downstream: can_tell,
    }
}

/// Whether a final answer has begun: a 1xx does not count.
pub fn answer_begun(session: &Session) -> bool {
    session
        .as_downstream()
        .response_written()
        .is_some_and(|head| !head.status.is_informational() || head.status.as_u16() == 101)
}

async fn write(session: &mut Session, ctx: &mut RequestContext, reject: &Reject) -> Result<()> {
    let body = body_of(ctx, reject);
    let mut head = ResponseHeader::build(reject.kind.status(), Some(8))?;
    for (name, value) in headers_of(reject, &body) {
        head.insert_header(name, value)?;
    }
    head.insert_header("X-Request-Id", ctx.request_id())?;
    send(session, ctx, head, Bytes::from(body)).await
}

fn body_of(ctx: &RequestContext, reject: &Reject) -> String {
    let (_, code, message) = reject.kind.describe();
    // A trusted peer may have chosen it, quotation marks and all.
    let request_id = serde_json::Value::from(ctx.request_id().to_str().unwrap_or_default());
    format!("{{\"code\":\"{code}\",\"message\":\"{message}\",\"request_id\":{request_id}}}\n")
}

fn headers_of(reject: &Reject, body: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("Content-Length", body.len().to_string()),
        ("Cache-Control", "no-store".to_owned()),
    ];
    if let Some(wait) = reject.retry_after {
        headers.push(("Retry-After", whole_seconds(wait).to_string()));
    }
    if let Some(challenge) = reject.kind.challenge() {
        headers.push(("WWW-Authenticate", challenge.to_owned()));
    }
    if let Some(allow) = &reject.allow {
        headers.push(("Allow", allow.clone()));
    }
    headers
}

/// The refusal as an endpoint would say it: see `stage::upstream::refusal`.
pub fn spoken(ctx: &RequestContext, reject: &Reject) -> Bytes {
    let body = body_of(ctx, reject);
    let status = reject.kind.status();
    let mut answer = format!("HTTP/1.1 {status} Refused\r\nConnection: close\r\n");
    for (name, value) in headers_of(reject, &body) {
        answer.push_str(name);
        answer.push_str(": ");
        answer.push_str(&value);
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    answer.push_str(&body);
    Bytes::from(answer)
}

/// Whether the caller's connection can serve another request after this one was refused, by an
/// answer that comes the way of an endpoint's: HTTP/1 only, and no body that is large or on hold.
pub fn can_keep_connection(session: &mut Session) -> bool {
    let expects = session
        .req_header()
        .headers
        .contains_key(http::header::EXPECT);
    let small = content_length(session).is_some_and(|length| length <= DRAIN_BYTES_MAX);
    let downstream = session.as_downstream_mut();
    downstream.get_keepalive().is_some()
        && !downstream.retry_buffer_truncated()
        && (downstream.is_body_done() || (small && !expects))
}

fn content_length(session: &Session) -> Option<u64> {
    let length = session.get_header(http::header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Sends a whole answer of our own; without the body when the caller asked by `HEAD`.
pub async fn send(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut head: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    ctx.decorate(&mut head)?;
    ctx.status = head.status.as_u16();
    let bodyless = session.req_header().method == http::Method::HEAD || body.is_empty();
    session
        .write_response_header(Box::new(head), bodyless)
        .await?;
    if !bodyless {
        ctx.traffic.bytes_out += body.len() as u64;
        session.write_response_body(Some(body), true).await?;
    }
    take_rest_of_http2(session).await;
    Ok(())
}

/// A stream of HTTP/2 whose body was left unread is reset, and some callers then forget the answer that
/// they have already: so the rest is read and thrown away, within limits.
async fn take_rest_of_http2(session: &mut Session) {
    if !session.is_http2() {
        return;
    }
    let rest = async {
        let mut taken = 0;
        while taken < HTTP2_REST_BYTES_MAX {
            match session.as_downstream_mut().read_request_body().await {
                Ok(Some(chunk)) => taken += chunk.len(),
                // Nothing is left, or nobody.
                Ok(None) | Err(_) => return,
            }
        }
    };
    // When the time is over the stream is reset, as it would have been without.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, rest).await;
}

/// `Retry-After` counts whole seconds, and too early would be a lie.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Pingora closes a connection whose request body was not read; a small one is worth reading.
pub fn keep_connection_if_cheap(session: &mut Session) {
    let small = content_length(session).is_some_and(|length| length <= DRAIN_BYTES_MAX);
    if small {
        let downstream = session.as_downstream_mut();
        downstream.set_close_on_response_before_downstream_finish(false);
        downstream.set_total_drain_timeout(Some(DRAIN_TIME_MAX));
    }
}

/// For errors of our own making: the reason stays in the context, Pingora only carries the flag.
pub fn as_error(ctx: &mut RequestContext, reject: Reject) -> Box<Error> {
    let error = Error::explain(
        pingora::ErrorType::Custom("refused"),
        reject.kind.code().to_owned(),
    );
    ctx.reject = Some(reject);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::reject::RejectKind;

    #[test]
    fn retry_after_is_rounded_up() {
        for (millis, seconds) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(RejectKind::QueueFull.status(), 503);
    }
}
