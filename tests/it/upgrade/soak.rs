//! The long run: `make soak`; in the suite two upgrades.

use crate::harness::{Gateway, Load, Reply, Upstream, WebSocket, app};
use crate::soak::much;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUESTS_PER_SECOND: u32 = 500;

/// A stream outlasts all upgrades: an event each fifth of a second.
const EVENT_PERIOD: Duration = Duration::from_millis(200);
const EVENT: &str = "data: tick\n\n";

fn events() -> Reply {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let stream = (0..events_max()).fold(Reply::raw(head), |reply, _| {
        reply.send(chunk.clone()).wait(EVENT_PERIOD)
    });
    stream.send("0\r\n\r\n")
}

/// Reads a stream to its end: how many events it had, and whether it ended as it should.
async fn read_events(address: SocketAddr) -> (usize, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /events HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    let whole = stream.read_to_string(&mut text).await.is_ok();
    (
        text.matches("data: tick").count(),
        whole && text.ends_with("0\r\n\r\n"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_upgrades_under_load() {
    let upstream = Upstream::replying(|seen| match seen.target() {
        "/ws" => Reply::websocket("app"),
        "/events" => events(),
        _ => Reply::ok("app"),
    })
    .await;
    let server = "server: { upgrade: { draining_max: 32 } }\n";
    let gateway = Gateway::start(
        &(server.to_owned() + &app(&[&upstream], "", "websocket: { max_per_user: 1000 }")),
        &[],
    )
    .await;
    let address = gateway.address("http");
    let load = Load::start(&gateway, "/", REQUESTS_PER_SECOND, 16);
    let reading: Vec<_> = (0..streams())
        .map(|_| tokio::spawn(read_events(address)))
        .collect();
    let mut sockets = Vec::new();
    for _ in 0..websockets() {
        sockets.push(WebSocket::open(&gateway, "/ws", &[]).await);
    }
    let mut slowest = Duration::ZERO;
    for nth in 1..=upgrades() {
        load.goes_on_for(u64::from(REQUESTS_PER_SECOND)).await;
        let started = Instant::now();
        gateway.upgrade().await;
        slowest = slowest.max(started.elapsed());
        for socket in &mut sockets {
            socket.echo("still there").await;
        }
        // So that each process has some of its own.
        for _ in 0..websockets() / upgrades() {
            sockets.remove(0).close().await;
            sockets.push(WebSocket::open(&gateway, "/ws", &[]).await);
        }
        let draining = gateway.status().await["upgrade"]["draining"].clone();
        println!(
            "upgrade {nth}: {} requests, draining {draining}",
            load.done()
        );
    }
    let requests = load.stop_without_failures().await;
    for stream in reading {
        let (events, whole) = stream.await.unwrap();
        assert!(
            whole && events == events_max(),
            "{events} of {} events",
            events_max()
        );
    }
    for socket in &mut sockets {
        socket.echo("still there").await;
    }
    println!(
        "{} upgrades, {requests} requests, {} WebSockets, {} streams: none failed, none cut; \
         slowest upgrade {slowest:?}",
        upgrades(),
        websockets(),
        streams(),
    );
}

fn upgrades() -> usize {
    much(20, 2)
}

fn websockets() -> usize {
    much(100, 10)
}

fn streams() -> usize {
    much(100, 10)
}

fn events_max() -> usize {
    much(450, 25)
}
