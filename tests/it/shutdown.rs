//! Leaving: at once when idle, never in the middle of an answer.

use crate::harness::{Client, Gateway, Load, Reply, Upstream, WebSocket, eventually, silence};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

async fn gateway(server: &str, app: &Upstream) -> Gateway {
    let yaml = format!("server: {server}\n{}", crate::harness::app(&[app], "", ""));
    Gateway::start(&yaml, &[]).await
}

#[tokio::test]
async fn an_idle_gateway_leaves_after_its_delay() {
    let app = Upstream::named("app").await;
    let gateway = gateway("{ drain_delay: 1s, drain_deadline: 60s }", &app).await;
    let mut idle = Client::connect(&gateway).await;
    assert_eq!(idle.get("/").await.text(), "app");
    let started = Instant::now();
    gateway.signal("TERM");
    let status = gateway.wait_exit().await;
    assert_eq!(status.code(), Some(0), "{}", gateway.errors());
    let took = started.elapsed().as_millis();
    assert!((900..4_000).contains(&took), "{took} ms");
    assert!(idle.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_drains_under_load_without_a_failure() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let app = Upstream::replying(move |seen| match seen.target() {
        "/slow" => Reply::held(&held, Reply::ok("slow")),
        _ => Reply::ok("fast"),
    })
    .await;
    let gateway = gateway("{ drain_delay: 2s, drain_deadline: 60s }", &app).await;
    let load = Load::start(&gateway, "/", 100, 4);
    let mut slow = Client::connect(&gateway).await;
    slow.count(1);
    slow.send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    load.goes_on_for(20).await;

    gateway.signal("TERM");
    eventually("readiness is off", async || {
        (gateway.ready().await == Some(503)).then_some(())
    })
    .await;
    // Callers that have not noticed are served.
    assert_eq!(gateway.get("/").await.text(), "fast");
    load.goes_on_for(50).await;
    load.stop_without_failures().await;

    // Past the delay nothing new is accepted, but the slow one is still waited for.
    eventually("the port is closed", async || {
        TcpStream::connect(gateway.address("http"))
            .await
            .is_err()
            .then_some(())
    })
    .await;
    silence(Duration::from_millis(300)).await;
    assert!(gateway.is_running());
    let released = Instant::now();
    release.notify_waiters();
    assert_eq!(slow.answer().await.text(), "slow");
    assert_eq!(
        gateway.wait_exit().await.code(),
        Some(0),
        "{}",
        gateway.errors()
    );
    assert!(
        released.elapsed() < Duration::from_secs(4),
        "{:?}",
        released.elapsed()
    );
    // Nothing was lost on the way out: every request has its line.
    let lines = gateway.access_log();
    assert!(
        lines
            .iter()
            .any(|line| line["path"] == "/slow" && line["ending"] == "completed")
    );
    assert!(lines.iter().all(|line| line["ending"] == "completed"));
    assert_eq!(lines.len() as u64, gateway.count_sent());
}

#[tokio::test]
async fn the_deadline_is_the_end() {
    let app = Upstream::replying(|seen| match seen.target() {
        "/ws" => Reply::websocket("app"),
        "/events" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
            .silence(),
        _ => Reply::nothing(),
    })
    .await;
    let gateway = gateway("{ drain_delay: 0s, drain_deadline: 1s }", &app).await;
    let mut events = Client::connect(&gateway).await;
    events.count(1);
    events
        .send(b"GET /events HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    let mut waiting = Client::connect(&gateway).await;
    waiting.count(1);
    waiting.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
    eventually("all are there", async || (app.count() == 3).then_some(())).await;
    let started = Instant::now();
    gateway.signal("TERM");
    assert_eq!(
        gateway.wait_exit().await.code(),
        Some(0),
        "{}",
        gateway.errors()
    );
    let took = started.elapsed().as_millis();
    assert!((900..5_000).contains(&took), "{took} ms");
    assert_eq!(socket.close_code().await, Some(1001), "connect again");
    let events = events.answer().await;
    assert!(events.complete);
    assert!(events.text().starts_with("data: 1\n\nevent: error\n"));
    assert!(events.text().contains("draining"), "{}", events.text());
    eventually("all lines", async || {
        (gateway.access_log().len() == 3).then_some(())
    })
    .await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "cut_by_drain", "{line}");
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let app = Upstream::replying(|_| Reply::nothing()).await;
    let gateway = gateway("{ drain_delay: 30s, drain_deadline: 60s }", &app).await;
    let mut waiting = Client::connect(&gateway).await;
    waiting.count(1);
    waiting.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    app.last().await;
    gateway.signal("INT");
    eventually("readiness is off", async || {
        (gateway.ready().await == Some(503)).then_some(())
    })
    .await;
    let started = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.wait_exit().await.code(), Some(3));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_port_in_use_is_a_reason_to_leave_and_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("gateway.yaml");
    let admin = crate::harness::Port::reserve();
    let yaml = format!(
        "admin: {{ address: '{admin}' }}\nlisteners: {{ web: {{ address: '{address}' }} }}\nroutes: {{ all: {{ respond: {{}} }} }}\n"
    );
    std::fs::write(&file, yaml).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onemind"));
    let run = tokio::task::spawn_blocking(move || {
        crate::harness::finish(command.arg("run").arg("-c").arg(file))
    });
    let (status, _, stderr) = run.await.unwrap();
    assert!(!status.success());
    assert!(stderr.contains(&address.to_string()), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
