//! How a scripted provider misbehaves, one request each, and how an answer becomes bytes on the wire.

use super::super::reply::{Act, Reply, chunk_of, head};
use super::Behaviour;
use super::refusal::{Refusal, Trouble};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What goes wrong with one request. Where events are counted, all are: also those that open a stream.
#[derive(Clone)]
pub enum Fault {
    /// Nothing: a place in the script.
    Fine,
    /// An error as the dialect documents it.
    Error(Trouble),
    /// Exactly this answer.
    Answer(u16, Vec<(String, String)>, Bytes),
    /// This long nothing at all, then the answer.
    Late(Duration),
    /// Nothing at all until the test says so.
    Held(Arc<Notify>),
    /// Silence in place of a head.
    NoHead,
    /// A head, then silence.
    NoBody,
    /// What opens a stream comes at once, the first content this much later.
    FirstLate(Duration),
    FirstHeld(Arc<Notify>),
    /// So many events, then the connection closes, without the end of the body.
    CutAfter(usize),
    /// So many events, then the body ends as if that was all.
    EndAfter(usize),
    ResetAfter(usize),
    /// So many events, then silence.
    StallAfter(usize),
    HoldAfter(usize, Arc<Notify>),
    /// The event with this number is not JSON; the rest follows.
    NotJsonAt(usize),
    /// Half of the event with this number, then the body ends.
    HalfAt(usize),
    /// So many events, then the dialect's error inside the stream.
    ErrorAfter(usize, Trouble),
    /// As that, after what opens a stream and before any content.
    ErrorFirst(Trouble),
    /// As `ErrorAfter`, told with `response.failed` where the dialect has it.
    FailedAfter(usize, Trouble),
    /// 200 with a page for people.
    Html,
    /// 200, of the right content type, and not JSON.
    NotJson,
    /// 200 and no body.
    Empty,
    /// Half of the body, then a reset.
    HalfThenReset,
    /// A length 10 bytes above the truth, then the end.
    LengthTooLong,
    /// A length 10 bytes below the truth, then the end.
    LengthTooShort,
    /// An event (or a body) of this many bytes before everything else.
    Huge(usize),
    /// Blank lines for ever.
    BlankLines,
    /// Some blank lines before the body, as one provider keeps connections open.
    BlankThenBody,
    /// The next connection is answered with something that is not TLS.
    TlsFailure,
}

/// What a prompt itself asks for: so faults can be tried by programs that cannot reach the script.
pub fn asked_for(prompt: &[u8]) -> Option<Fault> {
    let says = |words: &str| memchr::memmem::find(prompt, words.as_bytes()).is_some();
    let troubles = [
        ("context_length", Trouble::ContextLength),
        ("rate_limit", Trouble::RateLimit),
        ("quota", Trouble::Quota),
        ("server", Trouble::Server),
        ("overload", Trouble::Overloaded),
    ];
    if says("be silent") {
        return Some(Fault::NoHead);
    }
    if says("break off") {
        return Some(Fault::ErrorAfter(5, Trouble::Overloaded));
    }
    let named = troubles
        .into_iter()
        .find(|(name, _)| says(&format!("fail with {name}")));
    named.map(|(_, trouble)| Fault::Error(trouble))
}

/// Which words an error inside a stream is told with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flavour {
    Chat,
    Responses,
    Messages,
    Gemini,
    Converse,
    Cohere,
    /// Nothing that streams.
    Other,
}

/// What the provider would answer if nothing went wrong.
pub struct Due {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub flavour: Flavour,
    pub body: Body,
}

pub enum Body {
    Whole(Bytes),
    Events {
        /// How many come before the first content.
        opening: usize,
        events: Vec<Bytes>,
    },
}

impl Due {
    pub fn json(flavour: Flavour, body: &Value) -> Self {
        Self::bytes(flavour, "application/json", body.to_string())
    }

    pub fn bytes(flavour: Flavour, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            flavour,
            body: Body::Whole(body.into()),
        }
    }

    pub fn events(flavour: Flavour, opening: usize, events: Vec<Bytes>) -> Self {
        let content_type = match flavour {
            Flavour::Gemini => "text/event-stream",
            Flavour::Converse => "application/vnd.amazon.eventstream",
            _ => "text/event-stream; charset=utf-8",
        };
        Self {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            flavour,
            body: Body::Events { opening, events },
        }
    }

    /// What is done on the wire.
    pub fn perform(self, fault: &Fault, behaviour: &Behaviour) -> Reply {
        let due = match fault {
            Fault::Late(period) => {
                return Reply::late(*period, self.perform(&Fault::Fine, behaviour));
            }
            Fault::Held(signal) => {
                return Reply::held(signal, self.perform(&Fault::Fine, behaviour));
            }
            Fault::NoHead => return Reply::nothing(),
            Fault::Answer(status, headers, body) => return whole(*status, headers, body),
            Fault::Html => {
                let html = [("content-type".to_owned(), "text/html".to_owned())];
                return whole(200, &html, b"<html><body>502 Bad Gateway</body></html>");
            }
            _ => self,
        };
        match &due.body {
            Body::Whole(body) => due.perform_whole(body, fault),
            Body::Events { opening, events } => {
                due.perform_events(*opening, events, fault, behaviour)
            }
        }
    }

    fn perform_whole(&self, body: &Bytes, fault: &Fault) -> Reply {
        let with = |body: &[u8]| whole(self.status, &self.headers, body);
        let head_of = |length: usize| Reply::raw(self.head("content-length", &length.to_string()));
        let half = || head_of(body.len()).send(body.slice(..body.len() / 2));
        match fault {
            Fault::NoBody => head_of(body.len()).silence(),
            Fault::FirstLate(period) => head_of(body.len()).wait(*period).send(body.clone()),
            Fault::FirstHeld(signal) => head_of(body.len()).wait_for(signal).send(body.clone()),
            Fault::CutAfter(_) => half().close(),
            Fault::ResetAfter(_) | Fault::HalfThenReset => half().reset(),
            Fault::StallAfter(_) => half().silence(),
            Fault::HoldAfter(_, signal) => {
                half().wait_for(signal).send(body.slice(body.len() / 2..))
            }
            Fault::EndAfter(_) | Fault::HalfAt(_) => with(&body[..body.len() / 2]),
            Fault::NotJsonAt(_) | Fault::NotJson => with(b"this is {not JSON"),
            Fault::Empty => with(b""),
            Fault::LengthTooLong => head_of(body.len() + 10).send(body.clone()).close(),
            Fault::LengthTooShort => head_of(body.len().saturating_sub(10))
                .send(body.clone())
                .close(),
            Fault::Huge(size) => with(&[&vec![b' '; *size], body.as_ref()].concat()),
            Fault::BlankThenBody => with(&[b"\n\n\n\n", body.as_ref()].concat()),
            Fault::BlankLines => Reply::raw(self.head("transfer-encoding", "chunked"))
                .repeat(chunk_of(b"\n\n\n\n\n\n\n\n")),
            _ => with(body),
        }
    }

    fn perform_events(
        &self,
        opening: usize,
        events: &[Bytes],
        fault: &Fault,
        behaviour: &Behaviour,
    ) -> Reply {
        let start = self.head("transfer-encoding", "chunked");
        match fault {
            Fault::NoBody => return Reply::raw(start).silence(),
            Fault::NotJson => {
                return framed(
                    start,
                    vec![text("data: {not JSON\n\n")],
                    behaviour,
                    &End::Clean,
                );
            }
            Fault::Empty => return framed(start, Vec::new(), behaviour, &End::Clean),
            Fault::BlankLines => return Reply::raw(start).repeat(chunk_of(b"\n\n\n\n\n\n\n\n")),
            Fault::LengthTooLong | Fault::LengthTooShort => {
                return Due::bytes(self.flavour, "text/event-stream", events.concat())
                    .perform(fault, behaviour);
            }
            _ => {}
        }
        let (acts, end) = self.disturb(opening, events, fault);
        let acts = pace(acts, behaviour);
        framed(start, acts, behaviour, &end)
    }

    /// The events with the fault in them, and how the body ends.
    fn disturb(&self, opening: usize, events: &[Bytes], fault: &Fault) -> (Vec<Act>, End) {
        let first = |n: usize| sends(&events[..n.min(events.len())]);
        let rest = |n: usize| sends(&events[n.min(events.len())..]);
        let around = |n: usize, between: Vec<Act>, skipped: usize| {
            [first(n), between, rest(n + skipped)].concat()
        };
        match fault {
            Fault::FirstLate(period) => (around(opening, vec![Act::Wait(*period)], 0), End::Clean),
            Fault::FirstHeld(signal) => (
                around(opening, vec![Act::WaitFor(Arc::clone(signal))], 0),
                End::Clean,
            ),
            Fault::HoldAfter(n, signal) => (
                around(*n, vec![Act::WaitFor(Arc::clone(signal))], 0),
                End::Clean,
            ),
            Fault::CutAfter(n) => (first(*n), End::Close),
            Fault::EndAfter(n) => (first(*n), End::Clean),
            Fault::ResetAfter(n) => (first(*n), End::Reset),
            Fault::HalfThenReset => (first(events.len() / 2), End::Reset),
            Fault::StallAfter(n) => (first(*n), End::Silence),
            Fault::NotJsonAt(n) => {
                let broken = text("data: {\"this\": is not JSON\n\n");
                (around(*n, vec![broken], 1), End::Clean)
            }
            Fault::HalfAt(n) => {
                let event = events.get(*n).cloned().unwrap_or_default();
                let half = Act::Send(event.slice(..event.len() / 2));
                ([first(*n), vec![half]].concat(), End::Clean)
            }
            Fault::ErrorAfter(n, trouble) => {
                (self.failing(events, *n, *trouble, false), End::Clean)
            }
            Fault::ErrorFirst(trouble) => {
                (self.failing(events, opening, *trouble, false), End::Clean)
            }
            Fault::FailedAfter(n, trouble) => {
                (self.failing(events, *n, *trouble, true), End::Clean)
            }
            Fault::Huge(size) => {
                let huge = format!("data: {{\"padding\":\"{}\"}}\n\n", "x".repeat(*size));
                (around(0, vec![text(&huge)], 0), End::Clean)
            }
            Fault::BlankThenBody => (around(0, vec![text("\n\n\n\n")], 0), End::Clean),
            _ => (sends(events), End::Clean),
        }
    }

    fn failing(&self, events: &[Bytes], after: usize, trouble: Trouble, failed: bool) -> Vec<Act> {
        let after = after.min(events.len());
        let refusal = Refusal::of(self.flavour, trouble);
        let last = match self.flavour {
            Flavour::Responses if failed => response_failed(events, after, &refusal),
            Flavour::Responses => named(
                "error",
                &json!({"type": "error", "sequence_number": after, "code": refusal.code.as_deref().unwrap_or(refusal.kind), "message": refusal.message, "param": refusal.param}),
            ),
            Flavour::Messages => named("error", &refusal.body(self.flavour)),
            Flavour::Converse => super::bedrock::exception(&refusal),
            Flavour::Cohere => named(
                "message-end",
                &json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": refusal.message}}),
            ),
            _ => unnamed(&refusal.body(self.flavour)),
        };
        let mut acts = sends(&events[..after]);
        acts.push(Act::Send(last));
        acts
    }

    fn head(&self, name: &str, value: &str) -> String {
        let mut headers: Vec<_> = self.headers.clone();
        headers.push((name.to_owned(), value.to_owned()));
        head(self.status, &borrowed(&headers)) + "\r\n"
    }
}

fn response_failed(events: &[Bytes], sequence: usize, refusal: &Refusal) -> Bytes {
    let created = events.first().map(|event| String::from_utf8_lossy(event));
    let data = created
        .as_deref()
        .and_then(|text| text.split("data: ").nth(1));
    let mut response: Value = data
        .and_then(|data| serde_json::from_str(data.trim()).ok())
        .map(|event: Value| event["response"].clone())
        .unwrap_or_default();
    response["status"] = json!("failed");
    response["error"] = json!({"code": refusal.code.as_deref().unwrap_or(refusal.kind), "message": refusal.message});
    named(
        "response.failed",
        &json!({"type": "response.failed", "sequence_number": sequence, "response": response}),
    )
}

/// An event with its name.
pub fn named(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

pub fn unnamed(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// An answer of known length.
pub fn whole(status: u16, headers: &[(String, String)], body: &[u8]) -> Reply {
    Reply::with_headers(status, &borrowed(headers), Bytes::copy_from_slice(body))
}

fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    let pairs = headers.iter();
    pairs
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// How the body of a stream ends.
enum End {
    Clean,
    Close,
    Reset,
    Silence,
}

fn text(text: &str) -> Act {
    Act::Send(Bytes::copy_from_slice(text.as_bytes()))
}

fn sends(events: &[Bytes]) -> Vec<Act> {
    events.iter().cloned().map(Act::Send).collect()
}

/// Comments and waits before each event, as the provider was told to make.
fn pace(acts: Vec<Act>, behaviour: &Behaviour) -> Vec<Act> {
    let mut paced = Vec::new();
    for act in acts {
        if matches!(act, Act::Send(_)) {
            if !behaviour.every.is_zero() && !paced.is_empty() {
                paced.push(Act::Wait(behaviour.every));
            }
            if behaviour.comments {
                paced.push(text(": keep-alive\n\n"));
            }
        }
        paced.push(act);
    }
    paced
}

/// The bytes in chunks: an event each, or cut anew at the size that was chosen.
fn framed(head: String, acts: Vec<Act>, behaviour: &Behaviour, end: &End) -> Reply {
    let mut reply = Reply::raw(head);
    let mut run: Vec<u8> = Vec::new();
    for act in acts {
        match (act, behaviour.chunk) {
            (Act::Send(bytes), None) => reply.acts.push(Act::Send(chunk_of(&bytes))),
            (Act::Send(bytes), Some(_)) => run.extend_from_slice(&bytes),
            (other, chunk) => {
                reply.acts.extend(recut(&mut run, chunk));
                reply.acts.push(other);
            }
        }
    }
    reply.acts.extend(recut(&mut run, behaviour.chunk));
    match end {
        End::Clean => reply.send("0\r\n\r\n"),
        End::Close => reply.close(),
        End::Reset => reply.reset(),
        End::Silence => reply.silence(),
    }
}

fn recut(run: &mut Vec<u8>, chunk: Option<usize>) -> Vec<Act> {
    let bytes = std::mem::take(run);
    let size = chunk.unwrap_or(usize::MAX).max(1);
    let chunks = bytes.chunks(size);
    chunks.map(|chunk| Act::Send(chunk_of(chunk))).collect()
}
