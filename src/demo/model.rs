//! An example model: it says again what it was told, a word at a time, in the words of whichever API it is asked by.

use super::backend;
use crate::base::usage::Usage;
use crate::stage::ai::call::{Call, Part};
use crate::stage::ai::dialect::{Dialect, InPath, Wants};
use crate::stage::ai::door::{self, Door};
use crate::stage::ai::event::{Event, Stop, StopReason};
use crate::stage::ai::fault::Complaint;
use crate::stage::ai::reply::Reply;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

/// Between two words of a stream: as quick as somebody reads aloud.
const PAUSE: Duration = Duration::from_millis(80);
/// The longest answer, in words.
const WORDS_MAX: usize = 500;

/// A server on a free port of the loopback interface, for as long as it lives.
pub struct Model {
    pub address: SocketAddr,
    running: Option<Runtime>,
}

impl Model {
    pub fn start() -> io::Result<Self> {
        let (address, running) =
            backend::serve_on_loopback("model", Router::new().fallback(answer))?;
        Ok(Self {
            address,
            running: Some(running),
        })
    }
}

impl Drop for Model {
    /// A runtime must not be waited for inside another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(door) = door::find(&method, uri.path(), door::spoken(&headers)) else {
        return (StatusCode::NOT_FOUND, "the example model only talks\n").into_response();
    };
    let dialect = door.dialect.dialect();
    match read(dialect, &door, &body) {
        Ok(call) if call.stream => in_pieces(dialect, &call),
        Ok(call) => whole(dialect, &call),
        Err(message) => {
            let complaint = Complaint {
                status: 400,
                code: "invalid_request",
                message: &message,
                param: None,
                retry_after: None,
                request_id: "",
            };
            let body = dialect.write_fault(&complaint);
            let json = [(header::CONTENT_TYPE, "application/json")];
            (StatusCode::BAD_REQUEST, json, body).into_response()
        }
    }
}

fn read(dialect: &dyn Dialect, door: &Door, body: &[u8]) -> Result<Call, String> {
    let path = InPath {
        model: door.model.as_deref(),
        stream: door.stream,
    };
    dialect
        .read_call(body, &path)
        .map_err(|fault| fault.message)
}

/// What is said to a call, a word each, with the blank before it.
fn words(call: &Call) -> Vec<String> {
    let last = call.messages.last();
    let parts = last.map_or(&[][..], |message| &message.parts);
    let said = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    let said = said.collect::<Vec<_>>().join(" ");
    let all = format!("You said: {said} And every word of this came by itself.");
    let words = all.split_whitespace().take(WORDS_MAX).enumerate();
    words
        .map(|(at, word)| {
            if at == 0 {
                word.to_owned()
            } else {
                format!(" {word}")
            }
        })
        .collect()
}

/// Tokens are words here.
fn usage(call: &Call, words: &[String]) -> Usage {
    let parts = call.messages.iter().flat_map(|message| &message.parts);
    let asked = parts.chain(&call.system).map(|part| match part {
        Part::Text(text) => text.split_whitespace().count(),
        _ => 1,
    });
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Usage {
        input: count(asked.sum()),
        output: count(words.len()),
        ..Usage::default()
    }
}

fn stop() -> Stop {
    Stop {
        reason: StopReason::Stop,
        native: "stop".to_owned(),
        sequence: None,
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn id() -> String {
    format!("demo-{:016x}", fastrand::u64(..))
}

fn whole(dialect: &dyn Dialect, call: &Call) -> Response {
    let words = words(call);
    let reply = Reply {
        id: id(),
        model: call.model.clone(),
        created: now(),
        usage: Some(usage(call, &words)),
        parts: vec![Part::Text(words.concat())],
        stop: stop(),
    };
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, dialect.write_reply(&reply)).into_response()
}

fn in_pieces(dialect: &dyn Dialect, call: &Call) -> Response {
    let words = words(call);
    let wants = Wants {
        usage: call.include_usage,
        model: call.model.clone(),
        created: now(),
        id: id(),
    };
    let start = Event::Start {
        id: wants.id.clone(),
        model: call.model.clone(),
    };
    let ends = [
        Event::Stop(stop()),
        Event::Usage(usage(call, &words)),
        Event::End,
    ];
    let words = words.into_iter().map(Event::Text);
    let events: Vec<Event> = std::iter::once(start).chain(words).chain(ends).collect();
    let told = (events.into_iter(), dialect.writer(wants));
    let pieces = stream::unfold(told, |(mut events, mut writer)| async move {
        let event = events.next()?;
        if matches!(event, Event::Text(_)) {
            tokio::time::sleep(PAUSE).await;
        }
        let mut piece = Vec::new();
        writer.write(&event, &mut piece);
        Some((Ok::<_, io::Error>(piece), (events, writer)))
    });
    let stream = [(header::CONTENT_TYPE, "text/event-stream")];
    (stream, Body::from_stream(pieces)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::ai::dialect::DialectName;
    use axum::body::to_bytes;

    async fn told(path: &str, body: &'static str) -> (StatusCode, String) {
        let uri = Uri::try_from(path).unwrap();
        let answer = answer(Method::POST, uri, HeaderMap::new(), Bytes::from(body)).await;
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_again_what_it_was_told_in_every_dialect() {
        let chat = r#"{"model":"m","messages":[{"role":"user","content":"good day"}]}"#;
        let messages = r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"good day"}]}"#;
        let responses = r#"{"model":"m","input":"good day","stream":true}"#;
        let gemini = r#"{"contents":[{"role":"user","parts":[{"text":"good day"}]}]}"#;
        for (path, body, end) in [
            ("/v1/chat/completions", chat, "came by itself."),
            ("/v1/responses", responses, "response.completed"),
            ("/v1/messages", messages, "message_stop"),
            ("/v1beta/models/m:generateContent", gemini, "\"STOP\""),
        ] {
            let (status, told) = told(path, body).await;
            assert_eq!(status, StatusCode::OK, "{told}");
            for word in ["You", "good", "day", end] {
                assert!(told.contains(word), "{path}: {word} is not in {told}");
            }
        }
    }

    #[tokio::test]
    async fn what_it_cannot_read_is_refused_in_the_callers_words() {
        let (status, body) = told("/v1/chat/completions", "{}").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let fault = DialectName::Chat.dialect();
        let headers = HeaderMap::new();
        let read = fault.read_fault(400, &headers, body.as_bytes());
        assert_eq!(read.code.as_deref(), Some("invalid_request"), "{body}");
        assert_eq!(told("/elsewhere", "").await.0, StatusCode::NOT_FOUND);
    }
}
