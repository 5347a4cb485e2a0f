//! What a scripted upstream saw, and what it is told to do about it.

use bytes::Bytes;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A request as it arrived at the upstream.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How many requests came before it, on all connections.
    pub nth: usize,
    /// Which connection it came on.
    pub connection: usize,
    /// How many requests came before it on this connection.
    pub nth_on_connection: usize,
    /// The head as it was on the wire (for HTTP/2: written as if it were HTTP/1.1).
    pub head: String,
    pub body_len: usize,
    /// SHA-256 of the body, framing removed.
    pub body_hash: String,
    /// The first KiB of the body.
    pub body_start: Bytes,
    /// Trailers as `name: value` lines.
    pub trailers: Vec<String>,
}

impl Seen {
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The only value of a header; fails the test when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.headers(name);
        assert!(all.len() < 2, "several {name}: {all:?}");
        all.first().copied()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

/// One thing an upstream does.
#[derive(Clone)]
pub enum Act {
    Send(Bytes),
    Wait(Duration),
    WaitFor(Arc<Notify>),
    /// Close the connection in an orderly way.
    Close,
    /// Close it with a reset (`SO_LINGER` 0).
    Reset,
    /// Say nothing more, but keep the connection.
    Silence,
    /// The same bytes, for as long as they are taken.
    Repeat(Bytes),
    /// Answer the handshake, tell the name given here, then echo every message.
    Echo(String),
}

/// What an upstream does with one request.
#[derive(Clone, Default)]
pub struct Reply {
    pub acts: Vec<Act>,
}

impl Reply {
    /// 200 with this body and its length.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        Self::with_headers(status, &[], body)
    }

    pub fn with_headers(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut head = head(status, headers);
        if !matches!(status, 204 | 304) {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        Self::raw(head).send(body)
    }

    /// 200 in chunks of at most this size.
    pub fn chunked(body: &[u8], size: usize) -> Self {
        let mut reply = Self::raw(head(200, &[("transfer-encoding", "chunked")]) + "\r\n");
        for chunk in body.chunks(size) {
            reply = reply.send(chunk_of(chunk));
        }
        reply.send("0\r\n\r\n")
    }

    /// 200 whose end is the end of the connection.
    pub fn until_close(body: impl Into<Bytes>) -> Self {
        Self::raw(head(200, &[("connection", "close")]) + "\r\n")
            .send(body)
            .close()
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::default().send(bytes)
    }

    /// A WebSocket: the handshake, the name as a first message, then an echo.
    pub fn websocket(name: &str) -> Self {
        Self::default().then(Act::Echo(name.to_owned()))
    }

    /// Nothing at all, for ever.
    pub fn nothing() -> Self {
        Self::default().then(Act::Silence)
    }

    pub fn send(self, bytes: impl Into<Bytes>) -> Self {
        self.then(Act::Send(bytes.into()))
    }

    pub fn wait(self, period: Duration) -> Self {
        self.then(Act::Wait(period))
    }

    pub fn wait_for(self, signal: &Arc<Notify>) -> Self {
        self.then(Act::WaitFor(Arc::clone(signal)))
    }

    pub fn close(self) -> Self {
        self.then(Act::Close)
    }

    pub fn reset(self) -> Self {
        self.then(Act::Reset)
    }

    pub fn silence(self) -> Self {
        self.then(Act::Silence)
    }

    pub fn repeat(self, bytes: impl Into<Bytes>) -> Self {
        self.then(Act::Repeat(bytes.into()))
    }

    /// First this long of nothing, then the reply.
    pub fn late(period: Duration, reply: Self) -> Self {
        let mut acts = vec![Act::Wait(period)];
        acts.extend(reply.acts);
        Self { acts }
    }

    /// First the signal, then the reply.
    pub fn held(signal: &Arc<Notify>, reply: Self) -> Self {
        let mut acts = vec![Act::WaitFor(Arc::clone(signal))];
        acts.extend(reply.acts);
        Self { acts }
    }

    fn then(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }
}

pub(super) fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head
}

/// One chunk of a chunked body.
pub(super) fn chunk_of(part: &[u8]) -> Bytes {
    let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
    chunk.extend_from_slice(part);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}
