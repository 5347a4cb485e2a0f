//! A collector of traces: takes OTLP in JSON over HTTP/1.1, or behaves as collectors in trouble do.

use super::ports::Port;
use super::{DEADLINE, eventually};
use serde_json::Value;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it does with a batch.
#[derive(Debug, Clone)]
pub enum Mood {
    /// 200, and a body.
    Takes(&'static str),
    /// Another status, and lines of its head.
    Says(u16, &'static str),
    /// Reads, and never answers.
    Silent,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Batch {
    pub head: String,
    pub body: Value,
    /// Whether it was answered with 200.
    pub taken: bool,
}

/// A collector; dropping it stops it.
pub struct Collector {
    port: Port,
    shared: Arc<Shared>,
    running: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    mood: Mutex<Mood>,
    batches: Mutex<Vec<Batch>>,
    open: AtomicUsize,
}

impl Collector {
    pub fn start() -> Self {
        let collector = Self::down();
        collector.rise();
        collector
    }

    /// One that does not run yet.
    pub fn down() -> Self {
        Self {
            port: Port::reserve(),
            shared: Arc::new(Shared {
                mood: Mutex::new(Mood::Takes("{}")),
                batches: Mutex::default(),
                open: AtomicUsize::new(0),
            }),
            running: Mutex::default(),
        }
    }

    pub fn rise(&self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.port.address()).unwrap();
        let listener = socket.listen(64).unwrap();
        let task = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.running.lock().unwrap() = Some(task);
    }

    pub fn is(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub fn batches(&self) -> Vec<Batch> {
        self.shared.batches.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// All spans that were taken.
    pub fn spans(&self) -> Vec<Value> {
        let batches = self.batches();
        let taken = batches.iter().filter(|batch| batch.taken);
        taken.flat_map(|batch| spans_of(&batch.body)).collect()
    }

    /// The first span of which this is true; waits for it.
    pub async fn span(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || self.spans().into_iter().find(&is_it)).await
    }

    /// The span of the request to this path.
    pub async fn request(&self, path: &str) -> Value {
        let what = format!("a span of {path}");
        let is_it = |span: &Value| span["kind"] == 2 && attribute(span, "url.path") == path;
        self.span(&what, is_it).await
    }

    /// The spans below this one, in their order. All spans of a request come in one batch.
    pub fn below(&self, span: &Value) -> Vec<Value> {
        let mut spans = self.spans();
        spans.retain(|one| one["parentSpanId"] == span["spanId"]);
        spans
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.port)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap().take();
        if let Some(task) = running {
            task.abort();
        }
    }
}

/// The value of an attribute, whatever its kind; null where there is none.
pub fn attribute(of: &Value, key: &str) -> Value {
    let all = of["attributes"].as_array();
    let found = all.and_then(|all| all.iter().find(|one| one["key"] == key));
    let value = found.and_then(|one| one["value"].as_object());
    value
        .and_then(|value| value.values().next().cloned())
        .unwrap_or_default()
}

fn spans_of(body: &Value) -> Vec<Value> {
    let resources = body["resourceSpans"].as_array().cloned();
    let scopes = resources.unwrap_or_default().into_iter();
    let scopes = scopes.flat_map(|one| one["scopeSpans"].as_array().cloned().unwrap_or_default());
    scopes
        .flat_map(|one| one["spans"].as_array().cloned().unwrap_or_default())
        .collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // They end with this one.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            shared.open.fetch_add(1, SeqCst);
            // A caller may give up at any time.
            let _ = serve(stream, &shared).await;
            shared.open.fetch_sub(1, SeqCst);
        });
    }
}

/// One request, as the gateway makes them.
async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    let (head, body) = loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..length]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let announced = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.eq_ignore_ascii_case("content-length");
            is_it.then(|| value.trim().parse::<usize>().unwrap())
        });
        let body = &bytes[end + 4..];
        if body.len() >= announced.expect("a length") {
            break (head, serde_json::from_slice(body).expect("JSON"));
        }
    };
    let mood = shared.mood.lock().unwrap().clone();
    let taken = matches!(mood, Mood::Takes(_));
    shared
        .batches
        .lock()
        .unwrap()
        .push(Batch { head, body, taken });
    let answer = match mood {
        Mood::Takes(body) => format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        Mood::Says(status, lines) => {
            format!("HTTP/1.1 {status} No\r\n{lines}Content-Length: 0\r\n\r\n")
        }
        Mood::Silent => {
            // Until the other side has had enough.
            let waits = tokio::time::timeout(DEADLINE, stream.read(&mut piece));
            waits.await.map(drop).unwrap_or_default();
            return Ok(());
        }
    };
    stream.write_all(answer.as_bytes()).await
}
