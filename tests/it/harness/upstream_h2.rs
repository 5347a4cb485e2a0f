//! A scripted upstream that speaks HTTP/2, with prior knowledge or over TLS.

use super::certs::Authority;
use super::client_h2::{lines_of, send_body};
use super::ports::Port;
use super::reply::Seen;
use super::wire::Io;
use super::{eventually, hex};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

type Script = Arc<dyn Fn(&Seen) -> ReplyH2 + Send + Sync>;

/// What is done with one stream.
#[derive(Clone, Default)]
pub struct ReplyH2 {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub trailers: Vec<(&'static str, &'static str)>,
    /// Put an empty DATA frame before and after each byte of the body.
    pub with_empty_frames: bool,
    /// Instead of an answer.
    pub reset: Option<Reason>,
    /// After the body, instead of its end.
    pub cut: Option<Reason>,
    /// Say GOAWAY on the whole connection once this stream is answered.
    pub goaway: bool,
}

impl ReplyH2 {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn reset(reason: Reason) -> Self {
        Self {
            reset: Some(reason),
            ..Self::default()
        }
    }
}

/// A scripted HTTP/2 upstream.
pub struct UpstreamH2 {
    port: Port,
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

struct Shared {
    script: Script,
    tls: Option<TlsAcceptor>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    /// Refuse every second stream of a connection before its body is read.
    refuses_second: AtomicBool,
}

impl UpstreamH2 {
    /// Prior knowledge (h2c).
    pub async fn plain(script: impl Fn(&Seen) -> ReplyH2 + Send + Sync + 'static) -> Self {
        Self::at(None, Arc::new(script)).await
    }

    pub async fn tls(
        authority: &Authority,
        name: &str,
        script: impl Fn(&Seen) -> ReplyH2 + Send + Sync + 'static,
    ) -> Self {
        let acceptor = TlsAcceptor::from(authority.server(name, &[b"h2"]));
        Self::at(Some(acceptor), Arc::new(script)).await
    }

    async fn at(tls: Option<TlsAcceptor>, script: Script) -> Self {
        let port = Port::reserve();
        let listener = TcpListener::bind(port.address()).await.unwrap();
        let shared = Arc::new(Shared {
            script,
            tls,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            refuses_second: AtomicBool::new(false),
        });
        let running = tokio::spawn(accept(Arc::clone(&shared), listener));
        Self {
            port,
            shared,
            running,
        }
    }

    /// From now on every second stream is refused as not processed (`REFUSED_STREAM`).
    pub fn refuses_every_second(&self) {
        self.shared.refuses_second.store(true, SeqCst);
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    pub async fn last(&self) -> Seen {
        eventually("a request at the upstream", async || {
            self.shared.seen.lock().unwrap().last().cloned()
        })
        .await
    }
}

impl fmt::Display for UpstreamH2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.fmt(f)
    }
}

impl Drop for UpstreamH2 {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let io: Box<dyn Io> = match &shared.tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            let number = shared.connections.fetch_add(1, SeqCst);
            serve(shared, io, number).await;
        });
    }
}

async fn serve(shared: Arc<Shared>, io: Box<dyn Io>, number: usize) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake(io);
    let Ok(mut connection) = handshake.await else {
        return;
    };
    let goaway = Arc::new(Notify::new());
    let mut streams = JoinSet::new();
    let mut nth = 0;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = goaway.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else {
            return;
        };
        let (shared, goaway) = (Arc::clone(&shared), Arc::clone(&goaway));
        streams.spawn(async move {
            if stream(&shared, request, respond, (number, nth)).await == Some(true) {
                goaway.notify_one();
            }
        });
        nth += 1;
    }
}

/// Whether GOAWAY is to be said; none when the stream broke.
async fn stream(
    shared: &Shared,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    (connection, nth_on_connection): (usize, usize),
) -> Option<bool> {
    let (parts, body) = request.into_parts();
    let head = written_out(&parts);
    if parts.uri.path() == "/health" {
        let response = Response::builder().status(200).body(()).unwrap();
        respond.send_response(response, true).ok()?;
        return None;
    }
    if nth_on_connection % 2 == 1 && shared.refuses_second.load(SeqCst) {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    let mut seen = read_body(body, head).await?;
    (seen.connection, seen.nth_on_connection) = (connection, nth_on_connection);
    {
        let mut all = shared.seen.lock().unwrap();
        seen.nth = all.len();
        all.push(seen.clone());
    }
    let reply = (shared.script)(&seen);
    if let Some(reason) = reply.reset {
        respond.send_reset(reason);
        return Some(reply.goaway);
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let mut stream = respond
        .send_response(response.body(()).unwrap(), false)
        .ok()?;
    if let Some(reason) = reply.cut {
        let _ = stream.send_data(reply.body, false);
        // The body has to leave first: a reset overtakes what still waits in the queue.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.send_reset(reason);
        return Some(reply.goaway);
    }
    if reply.with_empty_frames {
        stream.send_data(Bytes::new(), false).ok()?;
        for byte in &reply.body {
            stream
                .send_data(Bytes::copy_from_slice(&[*byte]), false)
                .ok()?;
            stream.send_data(Bytes::new(), false).ok()?;
        }
        stream.send_data(Bytes::new(), true).ok()?;
        return Some(reply.goaway);
    }
    let trailers = (!reply.trailers.is_empty()).then(|| map_of(&reply.trailers));
    send_body(&mut stream, &reply.body, trailers).await.ok()?;
    Some(reply.goaway)
}

async fn read_body(mut body: RecvStream, head: String) -> Option<Seen> {
    let mut hash = Context::new(&SHA256);
    let (mut body_len, mut start) = (0, Vec::new());
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        let _ = body.flow_control().release_capacity(part.len());
        hash.update(&part);
        body_len += part.len();
        start.extend_from_slice(&part[..part.len().min(1024 - start.len().min(1024))]);
    }
    let trailers = body.trailers().await.ok()?.unwrap_or_default();
    Some(Seen {
        nth: 0,
        connection: 0,
        nth_on_connection: 0,
        head,
        body_len,
        body_hash: hex(hash.finish().as_ref()),
        body_start: Bytes::from(start),
        trailers: lines_of(&trailers),
    })
}

fn written_out(parts: &http::request::Parts) -> String {
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut head = format!("{} {target} HTTP/2\r\n", parts.method);
    if let Some(authority) = parts.uri.authority() {
        let _ = write!(head, ":authority: {authority}\r\nhost: {authority}\r\n");
    }
    for line in lines_of(&parts.headers) {
        if !line.starts_with("host:") || parts.uri.authority().is_none() {
            head.push_str(&line);
            head.push_str("\r\n");
        }
    }
    head + "\r\n"
}

pub fn map_of(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}
