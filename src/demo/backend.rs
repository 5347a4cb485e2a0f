//! An example backend: says its own name, has `/health`, echoes WebSockets, can be slow, killed and revived.

use crate::stage::listen::socket;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, Request, State};
use axum::http::Method;
use axum::response::Response;
use axum::routing::{any, get};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// The slowest answer that `/slow` gives.
const SLOW_SECONDS_MAX: u64 = 60;

/// What `/stream` sends, one word at a time.
const WORDS: &str = "each word of this sentence comes when it is ready";

/// A server with a runtime of its own, so that it can be killed as a process is: all at once.
pub struct Backend {
    pub name: &'static str,
    pub address: SocketAddr,
    running: Mutex<Option<Runtime>>,
}

impl Backend {
    /// Serves on a free port of the loopback interface.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let socket = socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = socket.local_addr()?;
        Ok(Self {
            name,
            address,
            running: Mutex::new(Some(serve(name, socket)?)),
        })
    }

    /// Breaks off every connection and stops listening.
    pub fn kill(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = running.take() {
            runtime.shutdown_background();
        }
    }

    /// Listens again where it did before.
    pub fn revive(&self) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(serve(self.name, socket::bind(self.address)?)?);
        }
        Ok(())
    }
}

impl Drop for Backend {
    /// A runtime must not be waited for inside another one.
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(name: &'static str, socket: std::net::TcpListener) -> io::Result<Runtime> {
    serve_router(name, socket, router(name))
}

/// Serves this on a free port of the loopback interface, with a runtime of its own.
pub fn serve_on_loopback(name: &str, router: Router) -> io::Result<(SocketAddr, Runtime)> {
    let socket = socket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    Ok((address, serve_router(name, socket, router)?))
}

fn serve_router(name: &str, socket: std::net::TcpListener, router: Router) -> io::Result<Runtime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(format!("backend-{name}"))
        .enable_all()
        .build()?;
    runtime.spawn(async move {
        let listener = TcpListener::from_std(socket)?;
        axum::serve(listener, router).await
    });
    Ok(runtime)
}

fn router(name: &'static str) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ws", any(websocket))
        .route("/slow", get(slow))
        .route("/stream", get(stream))
        .fallback(greet)
        .with_state(name)
}

async fn health(State(name): State<&'static str>) -> String {
    format!("backend {name} is well\n")
}

async fn greet(State(name): State<&'static str>, method: Method, request: Request) -> String {
    format!("backend {name}: {method} {}\n", request.uri())
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    seconds: u64,
}

async fn slow(State(name): State<&'static str>, Query(slow): Query<Slow>) -> String {
    let seconds = slow.seconds.min(SLOW_SECONDS_MAX);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    format!("backend {name} took {seconds} s\n")
}

async fn stream(State(name): State<&'static str>) -> Body {
    let first = format!("backend {name}:");
    let words = std::iter::once(first).chain(WORDS.split(' ').map(str::to_owned));
    let pieces: Vec<String> = words.chain(["\n".to_owned()]).collect();
    Body::from_stream(futures_util::stream::unfold(
        pieces.into_iter(),
        |mut pieces| async {
            let piece = pieces.next()?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Some((Ok::<_, io::Error>(format!("{piece} ")), pieces))
        },
    ))
}

async fn websocket(State(name): State<&'static str>, upgrade: WebSocketUpgrade) -> Response {
    let mut response = upgrade.on_upgrade(move |socket| echo(socket, name));
    let said = axum::http::HeaderValue::from_static(name);
    response.headers_mut().insert("x-backend", said);
    response
}

async fn echo(mut socket: WebSocket, name: &'static str) {
    let hello = format!("backend {name} echoes what you say");
    if socket.send(Message::text(hello)).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Text(_) | Message::Binary(_) => message,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}
