//! Answers that a route gives by itself: redirects and fixed responses.

use super::admit::Next;
use super::caller::Caller;
use super::context::RequestContext;
use super::refuse;
use super::timer::Timer;
use crate::base::ending::Ending;
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::Action;
use crate::stage::route::host::Host;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};

pub async fn run(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    head: ResponseHead,
    body: Bytes,
) {
    if refuse::send(caller, ctx, timer, head, body).await {
        ctx.end(Ending::Answered);
    }
}

/// Same host, path and query; 308 keeps method and body (RFC 9110 section 15.4.9).
pub fn to_https(parts: &Parts, port: u16) -> Result<Next, Reject> {
    let host = Host::of(parts)?;
    if host.is_empty() {
        return Err(RejectKind::BadRequest.because("no host to redirect to"));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // `OPTIONS *` asks about the server, which is the root of the other one.
    let path = if path.starts_with('/') { path } else { "/" };
    let location = match port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    redirect(308, &location)
}

pub fn redirect(status: u16, location: &str) -> Result<Next, Reject> {
    let mut head = head(status)?;
    let location =
        HeaderValue::from_str(location).map_err(|error| RejectKind::Internal.because(error))?;
    head.headers.insert(header::LOCATION, location);
    Ok(Next::Answer(Box::new(head), Bytes::new()))
}

/// 204.
pub fn empty() -> Result<Next, Reject> {
    Ok(Next::Answer(Box::new(head(204)?), Bytes::new()))
}

pub fn fixed(action: &Action) -> Result<Next, Reject> {
    let Action::Respond {
        status,
        content_type,
        body,
    } = action
    else {
        return Err(RejectKind::Internal.because("the route has no fixed answer"));
    };
    let mut head = head(*status)?;
    if matches!(status, 204 | 304) {
        return Ok(Next::Answer(Box::new(head), Bytes::new()));
    }
    head.headers
        .insert(header::CONTENT_TYPE, content_type.clone());
    Ok(Next::Answer(Box::new(head), body.clone()))
}

/// 200 with a document of our own.
pub fn json(body: &serde_json::Value) -> Result<Next, Reject> {
    let mut head = head(200)?;
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    Ok(Next::Answer(Box::new(head), body.to_string().into()))
}

fn head(status: u16) -> Result<ResponseHead, Reject> {
    let status =
        StatusCode::from_u16(status).map_err(|error| RejectKind::Internal.because(error))?;
    Ok(ResponseHead::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn whatever_is_asked_for_in_the_clear_is_to_be_found_behind_tls() {
        for (target, host, port, location) in [
            ("/a?b=c", "e.test", 443, "https://e.test/a?b=c"),
            ("/a", "e.test:8080", 8443, "https://e.test:8443/a"),
            ("/", "[::1]:8080", 443, "https://[::1]/"),
            ("*", "e.test", 8443, "https://e.test:8443/"),
        ] {
            let request = Request::builder().uri(target).header("host", host);
            let parts = request.body(()).unwrap().into_parts().0;
            let Ok(Next::Answer(head, body)) = to_https(&parts, port) else {
                panic!("{target} of {host} is redirected");
            };
            assert_eq!(head.status, 308);
            assert_eq!(head.headers[header::LOCATION], location);
            assert!(body.is_empty());
        }
    }
}
