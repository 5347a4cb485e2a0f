//! The connections of a scripted provider: requests are read, noted and answered one after the other.

use super::super::reply::{Act, Reply};
use super::super::wire::{Io, Wire, content_length, is_chunked, values};
use super::{Asked, Fault, Shared, media, realtime};
use bytes::Bytes;
use serde_json::Value;
use socket2::SockRef;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    // Owns the connections: they end when this task does.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let number = shared.connections.fetch_add(1, SeqCst);
        let open = Open::new(&shared);
        connections.spawn(serve(open, stream, number));
        while connections.try_join_next().is_some() {}
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

async fn serve(open: Open, mut stream: TcpStream, number: usize) {
    let shared = &open.0;
    let _ = stream.set_nodelay(true);
    if takes_tls_failure(shared) {
        let _ = stream.write_all(b"this is no TLS\r\n").await;
        return;
    }
    let std = stream.into_std().unwrap();
    let handle = std.try_clone().unwrap();
    let stream = TcpStream::from_std(std).unwrap();
    let io: Box<dyn Io> = match &shared.tls {
        None => Box::new(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let connection = Connection {
        shared: Arc::clone(shared),
        wire: Wire::new(io),
        handle,
        number,
    };
    connection.run().await;
}

/// Whether the script says that this connection fails before a request.
fn takes_tls_failure(shared: &Shared) -> bool {
    let mut script = shared.script.lock().unwrap();
    let fails = matches!(script.front(), Some(Fault::TlsFailure));
    if fails {
        script.pop_front();
    }
    fails
}

struct Connection {
    shared: Arc<Shared>,
    wire: Wire,
    /// The same socket again, to set how it is closed.
    handle: std::net::TcpStream,
    number: usize,
}

impl Connection {
    async fn run(mut self) {
        while let Ok(Some(head)) = self.wire.head().await {
            let Some(body) = self.body(&head).await else {
                return;
            };
            let (asked, fault) = self.note(&head, body);
            if self.shared.opens(&asked, &fault) {
                return realtime::serve(self.wire, &asked).await;
            }
            let reply = self.shared.reply(&asked, &fault);
            if !self.perform(reply, asked.nth).await {
                return;
            }
        }
    }

    async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if !values(head, "expect").is_empty() {
            self.wire
                .send(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .ok()?;
        }
        let mut body = Vec::new();
        let mut sink = |part: &[u8]| body.extend_from_slice(part);
        if is_chunked(head) {
            self.wire.chunked(&mut sink).await.ok()?;
        } else if let Some(length) = content_length(head) {
            self.wire.fixed(length, &mut sink).await.ok()?;
        }
        Some(body)
    }

    /// Notes the request and takes its line of the script, in one step.
    fn note(&self, head: &str, body: Vec<u8>) -> (Asked, Fault) {
        let mut asked = asked(head, body, self.number);
        let mut seen = self.shared.seen.lock().unwrap();
        asked.nth = seen.len();
        seen.push(asked.clone());
        let fault = self.shared.script.lock().unwrap().pop_front();
        (asked, fault.unwrap_or(Fault::Fine))
    }

    /// Whether the connection can take another request afterwards.
    async fn perform(&mut self, reply: Reply, nth: usize) -> bool {
        for act in reply.acts {
            let goes_on = match act {
                Act::Send(bytes) => self.send(&bytes, nth).await,
                Act::Wait(period) => self.unless_cut(tokio::time::sleep(period), nth).await,
                Act::WaitFor(signal) => self.unless_cut(signal.notified(), nth).await,
                Act::Silence => self.unless_cut(std::future::pending(), nth).await,
                Act::Repeat(bytes) => {
                    while self.send(&bytes, nth).await {}
                    false
                }
                Act::Reset => {
                    let _ = SockRef::from(&self.handle).set_linger(Some(Duration::ZERO));
                    false
                }
                Act::Close | Act::Echo(_) => false,
            };
            if !goes_on {
                return false;
            }
        }
        self.shared.seen.lock().unwrap()[nth].done = true;
        true
    }

    async fn send(&mut self, bytes: &Bytes, nth: usize) -> bool {
        let sent = self.wire.send(bytes).await.is_ok();
        if !sent {
            self.cut(nth);
        }
        sent
    }

    async fn unless_cut(&mut self, wait: impl Future<Output = ()>, nth: usize) -> bool {
        tokio::select! {
            () = wait => true,
            () = self.wire.closed() => {
                self.cut(nth);
                false
            }
        }
    }

    fn cut(&self, nth: usize) {
        let mut seen = self.shared.seen.lock().unwrap();
        seen[nth].cut.get_or_insert_with(Instant::now);
    }
}

fn asked(head: &str, raw: Vec<u8>, connection: usize) -> Asked {
    let mut words = head.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers: Vec<_> = fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let content_type = values(head, "content-type")
        .first()
        .copied()
        .unwrap_or_default();
    let body = match media::boundary(content_type) {
        Some(boundary) => media::form(&raw, &boundary),
        None => serde_json::from_slice(&raw).unwrap_or(Value::Null),
    };
    Asked {
        nth: 0,
        connection,
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body,
        raw: Bytes::from(raw),
        at: Instant::now(),
        cut: None,
        done: false,
    }
}
