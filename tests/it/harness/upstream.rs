//! An upstream that does what a script says, byte by byte, HTTP/1.1 over TCP, TLS or a Unix socket.

use super::certs::Authority;
use super::ports::Port;
use super::reply::{Act, Reply, Seen};
use super::wire::{Io, Wire, content_length, is_chunked, values};
use super::{eventually, hex};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// Where an upstream listens.
enum Place {
    Tcp(Port),
    Unix(PathBuf),
}

/// A scripted upstream; `/health` is answered beside the script.
pub struct Upstream {
    place: Place,
    shared: Arc<Shared>,
    running: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    script: Script,
    tls: Option<TlsAcceptor>,
    health: Mutex<(u16, String)>,
    health_seen: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    /// Close a connection that was idle for a random time of this range.
    idle_close_ms: Mutex<Option<Range<u64>>>,
    /// Call the script once the head is read, and leave the body on the wire.
    before_body: AtomicBool,
    /// Close a used connection when the head of another request arrives, as if it had just been closed.
    drops_reused: AtomicBool,
}

impl Upstream {
    pub async fn replying(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(Place::Tcp(Port::reserve()), None, Arc::new(script)).await
    }

    /// One that answers every request with 200 and its own name.
    pub async fn named(name: &'static str) -> Self {
        Self::replying(move |_| Reply::ok(name)).await
    }

    pub async fn tls(
        authority: &Authority,
        name: &str,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let acceptor = TlsAcceptor::from(authority.server(name, &[b"http/1.1"]));
        Self::at(
            Place::Tcp(Port::reserve()),
            Some(acceptor),
            Arc::new(script),
        )
        .await
    }

    pub async fn unix(
        path: &Path,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::at(Place::Unix(path.to_owned()), None, Arc::new(script)).await
    }

    async fn at(place: Place, tls: Option<TlsAcceptor>, script: Script) -> Self {
        let shared = Shared {
            script,
            tls,
            health: Mutex::new((200, "ok".to_owned())),
            health_seen: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            seen: Mutex::new(Vec::new()),
            idle_close_ms: Mutex::new(None),
            before_body: AtomicBool::new(false),
            drops_reused: AtomicBool::new(false),
        };
        let upstream = Self {
            place,
            shared: Arc::new(shared),
            running: Mutex::new(None),
        };
        upstream.start().await;
        upstream
    }

    /// Listens (again) at its address.
    pub async fn start(&self) {
        let shared = Arc::clone(&self.shared);
        let task = match &self.place {
            Place::Tcp(port) => {
                let listener = TcpListener::bind(port.address()).await.unwrap();
                tokio::spawn(accept_tcp(shared, listener))
            }
            Place::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path).unwrap();
                tokio::spawn(accept_unix(shared, listener))
            }
        };
        *self.running.lock().unwrap() = Some(task);
    }

    /// Dies like a process: the port is closed and every connection with it.
    pub async fn stop(&self) {
        let task = self.running.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        // Connections are dropped by their own tasks, a moment later.
        eventually("connections close", async || {
            (self.open() == 0).then_some(())
        })
        .await;
    }

    /// What `/health` answers from now on.
    pub fn health(&self, status: u16, body: &str) {
        *self.shared.health.lock().unwrap() = (status, body.to_owned());
    }

    pub fn health_seen(&self) -> usize {
        self.shared.health_seen.load(SeqCst)
    }

    pub fn close_idle_after_ms(&self, range: Range<u64>) {
        *self.shared.idle_close_ms.lock().unwrap() = Some(range);
    }

    /// From now on each connection serves one request and breaks under the second.
    pub fn drops_reused(&self) {
        self.shared.drops_reused.store(true, SeqCst);
    }

    pub fn replies_before_the_body(&self) {
        self.shared.before_body.store(true, SeqCst);
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Requests seen so far, health checks aside.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The latest request; waits for one.
    pub async fn last(&self) -> Seen {
        eventually("a request at the upstream", async || {
            self.shared.seen.lock().unwrap().last().cloned()
        })
        .await
    }

    pub fn port(&self) -> u16 {
        match &self.place {
            Place::Tcp(port) => port.number(),
            Place::Unix(_) => 0,
        }
    }

    /// Name of its endpoint in metrics and in `/status`.
    pub fn name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(port) => port.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let task = self.running.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener) {
    // Owns the connections: they end when this task does.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let std = stream.into_std().unwrap();
        let handle = std.try_clone().unwrap();
        let stream = tokio::net::TcpStream::from_std(std).unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let io: Box<dyn Io> = match &shared.tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            Connection::new(shared, io, Some(handle)).run().await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn accept_unix(shared: Arc<Shared>, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            Connection::new(shared, Box::new(stream), None).run().await;
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Connection {
    shared: Arc<Shared>,
    wire: Option<Wire>,
    /// The same socket again, to set how it is closed.
    handle: Option<std::net::TcpStream>,
    number: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The socket first, so that nobody sees it counted as closed while it is not.
        self.wire = None;
        self.handle = None;
        self.shared.open.fetch_sub(1, SeqCst);
    }
}

impl Connection {
    fn new(shared: Arc<Shared>, io: Box<dyn Io>, handle: Option<std::net::TcpStream>) -> Self {
        shared.open.fetch_add(1, SeqCst);
        let number = shared.connections.fetch_add(1, SeqCst);
        Self {
            shared,
            wire: Some(Wire::new(io)),
            handle,
            number,
        }
    }

    fn wire(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("taken only at the end")
    }

    async fn run(mut self) {
        let mut nth_on_connection = 0;
        while let Some(head) = self.next_head(nth_on_connection > 0).await {
            if head.starts_with("GET /health ") {
                self.shared.health_seen.fetch_add(1, SeqCst);
                let (status, body) = self.shared.health.lock().unwrap().clone();
                if !self.act(Reply::status(status, body)).await {
                    return;
                }
                continue;
            }
            if nth_on_connection > 0 && self.shared.drops_reused.load(SeqCst) {
                return;
            }
            let Some(seen) = self.read_body(head, nth_on_connection).await else {
                return;
            };
            let (seen, script) = self.record(seen);
            if !self.act(script(&seen)).await {
                return;
            }
            nth_on_connection += 1;
        }
    }

    async fn next_head(&mut self, used: bool) -> Option<String> {
        let idle = self.shared.idle_close_ms.lock().unwrap().clone();
        let idle = idle.filter(|_| used).map(fastrand::u64);
        let head = self.wire().head();
        match idle {
            None => head.await.ok()?,
            Some(ms) => tokio::time::timeout(Duration::from_millis(ms), head)
                .await
                .ok()?
                .ok()?,
        }
    }

    /// Gives the request its number; on a broken body there is none.
    fn record(&self, mut seen: Seen) -> (Seen, Script) {
        let mut all = self.shared.seen.lock().unwrap();
        seen.nth = all.len();
        all.push(seen.clone());
        (seen, Arc::clone(&self.shared.script))
    }

    async fn read_body(&mut self, head: String, nth_on_connection: usize) -> Option<Seen> {
        let mut hash = Context::new(&SHA256);
        let (mut body_len, mut start, mut trailers) = (0, Vec::new(), Vec::new());
        let mut sink = |part: &[u8]| {
            hash.update(part);
            body_len += part.len();
            start.extend_from_slice(&part[..part.len().min(1024 - start.len().min(1024))]);
        };
        if !self.shared.before_body.load(SeqCst) {
            if !values(&head, "expect").is_empty() {
                let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                self.wire().send(go_on).await.ok()?;
            }
            if is_chunked(&head) {
                trailers = self.wire().chunked(&mut sink).await.ok()?;
            } else if let Some(length) = content_length(&head) {
                self.wire().fixed(length, &mut sink).await.ok()?;
            }
        }
        Some(Seen {
            nth: 0,
            connection: self.number,
            nth_on_connection,
            head,
            body_len,
            body_hash: hex(hash.finish().as_ref()),
            body_start: Bytes::from(start),
            trailers,
        })
    }

    /// Whether the connection can take another request afterwards.
    async fn act(&mut self, reply: Reply) -> bool {
        for act in reply.acts {
            match act {
                Act::Send(bytes) => {
                    if self.wire().send(&bytes).await.is_err() {
                        return false;
                    }
                }
                Act::Wait(period) => tokio::time::sleep(period).await,
                Act::WaitFor(signal) => signal.notified().await,
                Act::Close => return false,
                Act::Reset => {
                    if let Some(handle) = &self.handle {
                        let _ = SockRef::from(handle).set_linger(Some(Duration::ZERO));
                    }
                    return false;
                }
                Act::Silence => {
                    let _ = self.wire().until_end(&mut |_| {}).await;
                    return false;
                }
                Act::Repeat(bytes) => {
                    while self.wire().send(&bytes).await.is_ok() {}
                    return false;
                }
                Act::Echo(name) => {
                    self.echo(&name).await;
                    return false;
                }
            }
        }
        true
    }

    async fn echo(&mut self, name: &str) {
        let head = {
            let all = self.shared.seen.lock().unwrap();
            let mine = all.iter().rev().find(|seen| seen.connection == self.number);
            mine.map(|seen| seen.head.clone()).unwrap_or_default()
        };
        let Some(key) = values(&head, "sec-websocket-key").first().copied() else {
            let _ = self
                .wire()
                .send(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n")
                .await;
            return;
        };
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        if self.wire().send(answer.as_bytes()).await.is_err() {
            return;
        }
        let wire = self.wire.as_mut().expect("taken only at the end");
        let rest = wire.unused().to_vec();
        let mut socket =
            WebSocketStream::from_partially_read(&mut wire.io, rest, Role::Server, None).await;
        let _ = socket.send(Message::text(name)).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    }
}
