//! Long runs: `make soak`. Each takes minutes then, and prints what it measured; in the suite each runs
//! for some seconds, with fewer callers, and is held to the same.

mod limits;

use crate::harness::{Gateway, Load, Reply, Upstream, WebSocket, app, eventually};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// As much as this in a long run, as little as that in the suite.
pub fn much<T>(long: T, short: T) -> T {
    if said("SOAK").is_some() { long } else { short }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long is said by whoever starts it"
)]
fn said(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Callers share addresses, but not so many that a limit by address would be met.
const CALLERS_PER_ADDRESS: usize = 500;

/// All of 127.0.0.0/8 is this machine.
async fn connect(nth: usize, to: SocketAddr) -> TcpStream {
    let address = Ipv4Addr::new(
        127,
        1,
        0,
        u8::try_from(nth / CALLERS_PER_ADDRESS).unwrap() + 1,
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(IpAddr::V4(address), 0))
        .unwrap();
    socket.connect(to).await.expect("the gateway accepts")
}

async fn app_with_everything() -> Upstream {
    let large = "l".repeat(1 << 20);
    let event = "c\r\ndata: tick\n\n\r\n";
    Upstream::replying(move |seen| match seen.target() {
        "/ws" => Reply::websocket("app"),
        "/large" => Reply::ok(large.clone()),
        "/events" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            (0..100_000).fold(Reply::raw(head), |reply, _| {
                reply.send(event).wait(Duration::from_millis(500))
            })
        }
        _ => Reply::ok("app"),
    })
    .await
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Ten thousand connections that have asked once and rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_at_rest_are_small() {
    let count = much(10_000, 500);
    let app = app_with_everything().await;
    let yaml = "listeners: { web: { address: '{{http}}', keepalive: 10m } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
";
    let gateway = Gateway::start(yaml, &[("app", &app)]).await;
    assert_eq!(gateway.get("/").await.status, 200);
    let before = gateway.memory_kib("VmRSS");
    let mut resting = Vec::new();
    for nth in 0..count {
        let mut stream = connect(nth, gateway.address("http")).await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .await
            .unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        resting.push(stream);
    }
    let after = gateway.memory_kib("VmRSS");
    let each = after.saturating_sub(before) as f64 / count as f64;
    println!("{count} connections at rest: {each:.2} KiB each");
    assert!(each <= 8.0);
}

/// Six thousand callers who do nothing but take their time, beside honest ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_callers_hold_up_nobody() {
    let each = much(2_000, 50);
    let period = much(Duration::from_secs(90), Duration::from_secs(24));
    let app = app_with_everything().await;
    let gateway = Gateway::of(&[&app], "capacity: { max_in_flight: 10000 }", "").await;
    let address = gateway.address("http");
    let load = Load::start(&gateway, "/", 200, 8);
    load.goes_on_for(400).await;
    let before = gateway.memory_kib("VmRSS");
    let cut = Arc::new(AtomicUsize::new(0));
    let mut attackers = JoinSet::new();
    for nth in 0..3 * each {
        let (first, drip): (&[u8], &[u8]) = match nth % 3 {
            0 => (b"GET / HTTP/1.1\r\nhost: test\r\nx-slow: ", b"x"),
            1 => (
                b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\n",
                b"x",
            ),
            _ => (b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n", b""),
        };
        let mut stream = connect(nth, address).await;
        let cut = Arc::clone(&cut);
        attackers.spawn(async move {
            let mut fine = stream.write_all(first).await.is_ok();
            while fine {
                tokio::time::sleep(Duration::from_secs(3)).await;
                fine = if drip.is_empty() {
                    stream.read(&mut [0; 1]).await.is_ok_and(|read| read > 0)
                } else {
                    stream.write_all(drip).await.is_ok()
                };
            }
            cut.fetch_add(1, SeqCst);
        });
    }
    let mut peak = 0;
    let started = Instant::now();
    while started.elapsed() < period {
        load.goes_on_for(200).await;
        peak = peak.max(gateway.memory_kib("VmRSS"));
    }
    let cut = cut.load(SeqCst);
    attackers.shutdown().await;
    let given_back = eventually("memory to be given back", async || {
        let now = gateway.memory_kib("VmRSS");
        (now < before + 32 * 1024).then_some(now)
    })
    .await;
    let good = load.stop_without_failures().await;
    println!(
        "{good} good requests beside {} slow callers, {cut} of them cut off in {period:?}; \
         MiB before {:.0}, at most {:.0}, after {:.0}",
        3 * each,
        mib(before),
        mib(peak),
        mib(given_back)
    );
    assert!(cut >= each, "slow heads are cut off after ten seconds");
    assert!(peak < 1 << 20, "it fits a machine of 1 GiB");
}

/// A thousand reloads, with requests, WebSockets and streams of events going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_reloads_change_nothing() {
    let upstream = app_with_everything().await;
    let yaml = |nth: u32| {
        let route = format!(
            "websocket: {{ max_per_user: 1000 }}\nresponse_headers: {{ set: {{ x-nth: '{nth}' }} }}"
        );
        app(&[&upstream], "", &route)
    };
    let gateway = Gateway::start(&yaml(0), &[]).await;
    let load = Load::start(&gateway, "/", 500, 16);
    let mut sockets = Vec::new();
    let mut events = Vec::new();
    for nth in 0..much(100, 10) {
        sockets.push(WebSocket::open(&gateway, "/ws", &[]).await);
        let mut stream = connect(nth, gateway.address("http")).await;
        stream
            .write_all(b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n")
            .await
            .unwrap();
        events.push(stream);
    }
    let mut early = 0;
    for nth in 1..=much(1_000, 50) {
        gateway.reload(&yaml(nth), &[]).await;
        if nth == much(100, 5) {
            early = gateway.memory_kib("VmRSS");
        }
        if nth % much(100, 10) == 0 {
            for socket in &mut sockets {
                socket.echo("still there").await;
            }
            for stream in &mut events {
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            }
        }
    }
    let late = gateway.memory_kib("VmRSS");
    let good = load.stop_without_failures().await;
    println!(
        "{good} requests, {} WebSockets and streams: none failed, none cut; \
         MiB after a tenth of the reloads {:.1}, after all {:.1}",
        sockets.len(),
        mib(early),
        mib(late)
    );
    assert!(late as f64 <= early as f64 * 1.1);
}

/// Half an hour (`SOAK_MINUTES`) of mixed load while endpoints die and return and the configuration changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_leave_nothing_behind() {
    let period = much(
        Duration::from_secs(60 * said("SOAK_MINUTES").unwrap_or(30)),
        Duration::from_secs(10),
    );
    let warm = much(Duration::from_secs(30), Duration::from_secs(3));
    let (a, b, c) = (
        app_with_everything().await,
        app_with_everything().await,
        app_with_everything().await,
    );
    let pool = "health: { interval: 2s }\nslow_start: 2s";
    let yaml = |nth: u64| {
        let route = format!(
            "websocket: {{ max_per_user: 1000 }}\nresponse_headers: {{ set: {{ x-nth: '{nth}' }} }}"
        );
        app(&[&a, &b, &c], pool, &route)
    };
    let gateway = Gateway::start(&yaml(0), &[]).await;
    let small = Load::start(&gateway, "/", 200, 8);
    let large = Load::start(&gateway, "/large", 20, 4);
    let end = Instant::now() + period;
    let settle = Instant::now() + warm;
    let mut early = None;
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        let victim = [&a, &b, &c][rounds as usize % 3];
        let mut sockets = Vec::new();
        for _ in 0..10 {
            sockets.push(WebSocket::open(&gateway, "/ws", &[]).await);
        }
        victim.stop().await;
        small.goes_on_for(200).await;
        gateway.reload(&yaml(rounds), &[]).await;
        victim.start().await;
        small.goes_on_for(200).await;
        drop(sockets);
        if early.is_none() && Instant::now() > settle {
            early = Some(gateway.memory_kib("VmRSS"));
        }
    }
    let (small, large) = (
        small.stop_without_failures().await,
        large.stop_without_failures().await,
    );
    let early = early.unwrap_or_else(|| gateway.memory_kib("VmRSS"));
    let late = eventually("memory to be given back", async || {
        let now = gateway.memory_kib("VmRSS");
        (now as f64 <= early as f64 * 1.1).then_some(now)
    })
    .await;
    println!(
        "{period:?}, {rounds} deaths and reloads, {small} small and {large} large answers: none failed; \
         MiB at first {:.1}, at last {:.1}",
        mib(early),
        mib(late)
    );
}
