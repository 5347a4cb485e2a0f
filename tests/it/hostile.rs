//! Callers and endpoints that do what they should not, and what that must not change.

use crate::harness::{Authority, Client, ClientH2, Gateway, Reply, Upstream, app, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[tokio::test]
async fn what_has_come_of_a_slow_answer_is_passed_on() {
    let rest = Arc::new(Notify::new());
    let signal = Arc::clone(&rest);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
    let upstream = Upstream::replying(move |_| {
        Reply::raw(head)
            .send("one\r\n")
            .wait_for(&signal)
            .send("two\r\n")
    })
    .await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    client.count(1);
    assert!(client.raw_head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.raw_line().await, "one");
    rest.notify_one();
    assert_eq!(client.raw_line().await, "two");
    gateway.settled().await;
}

#[tokio::test]
async fn a_caller_that_pauses_in_its_body_is_not_held_against_the_endpoint() {
    let upstream = Upstream::named("taken").await;
    let route = "timeouts: { first_byte: 200ms, idle: 10s }";
    let gateway = Gateway::of(&[&upstream], "", route).await;
    let mut client = Client::connect(&gateway).await;
    client
        .send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\na")
        .await;
    client.count(1);
    // The pause is what is tested.
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send(b"b").await;
    assert_eq!(client.answer().await.status, 200);
    gateway.ended("completed").await;
    gateway.settled().await;
}

const TWO: &str = "listeners: { web: { address: '{{http}}' }, side: { address: '{{side}}' } }\nroutes: { all: { respond: { body: ok } } }";
const ONE: &str =
    "listeners: { web: { address: '{{http}}' } }\nroutes: { all: { respond: { body: ok } } }";

#[tokio::test]
async fn a_removed_listener_is_closed_although_its_connections_are_open() {
    let gateway = Gateway::start(TWO, &[]).await;
    let mut kept = Client::connect_to(&gateway, "side").await;
    assert_eq!(kept.get("/").await.text(), "ok");
    gateway.reload(ONE, &[]).await;
    eventually("nobody listens", async || {
        TcpStream::connect(gateway.address("side"))
            .await
            .err()
            .map(drop)
    })
    .await;
    kept.get("/").await.assert_refused(503, "draining");
    assert!(kept.is_closed().await, "its listener is gone");
    eventually("nothing in flight", async || {
        let selector = "onemind_http_requests_in_flight{listener=\"side\"}";
        (gateway.metric(selector).await < 0.5).then_some(())
    })
    .await;
    // And back at once, while connections of before are open.
    let _idle = Client::connect(&gateway).await;
    gateway.reload(TWO, &[]).await;
    let mut again = Client::connect_to(&gateway, "side").await;
    assert_eq!(again.get("/").await.text(), "ok");
    gateway.settled().await;
}

#[tokio::test]
async fn nobody_switches_protocols_who_was_not_admitted_to() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let upstream = Upstream::replying(move |_| Reply::raw(switch)).await;
    let retry = "retry: { attempts: 1 }";
    let gateway = Gateway::of(&[&upstream], retry, "websocket: { enabled: false }").await;
    for request in [
        "GET / HTTP/1.1\r\nhost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\na",
    ] {
        let mut client = Client::connect(&gateway).await;
        client.send(request.as_bytes()).await;
        client.count(1);
        client.answer().await.assert_refused(502, "upstream_failed");
    }
    for seen in upstream.seen() {
        assert_eq!(seen.header("upgrade"), None, "not passed on");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn an_upgrade_header_lifts_no_limit_on_the_body() {
    let upstream = Upstream::named("taken").await;
    let gateway = Gateway::start(&app(&[&upstream], "", "body_max: 1KiB"), &[]).await;
    let mut client = Client::connect(&gateway).await;
    let head = "POST / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "x".repeat(2048);
    let request = format!("{head}800\r\n{body}\r\n0\r\n\r\n");
    client.send(request.as_bytes()).await;
    client.count(1);
    client.answer().await.assert_refused(413, "body_too_large");
    gateway.settled().await;
}

#[tokio::test]
async fn a_length_that_is_given_twice_is_refused() {
    let upstream = Upstream::named("taken").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    for lengths in [
        "content-length: 1, 1",
        "content-length: 1\r\ncontent-length: 1",
    ] {
        let mut client = Client::connect(&gateway).await;
        let request = format!("POST / HTTP/1.1\r\nhost: test\r\n{lengths}\r\n\r\na");
        client.send(request.as_bytes()).await;
        client.count(1);
        client.answer().await.assert_refused(400, "bad_request");
    }
    assert_eq!(upstream.count(), 0);
    gateway.settled().await;
}

#[tokio::test]
async fn a_post_is_not_sent_twice_when_a_kept_connection_breaks_late() {
    let upstream = Upstream::replying(|seen| {
        if seen.target() == "/breaks" {
            Reply::late(Duration::from_millis(700), Reply::default().close())
        } else {
            Reply::ok("kept")
        }
    })
    .await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let mut client = Client::connect(&gateway).await;
    // Both on one connection of the caller, and so through one worker and its kept connections.
    assert_eq!(client.get("/").await.text(), "kept");
    client
        .post("/breaks", b"once")
        .await
        .assert_refused(502, "upstream_failed");
    let sent = upstream
        .seen()
        .iter()
        .filter(|seen| seen.target() == "/breaks")
        .count();
    assert_eq!(sent, 1);
    gateway.settled().await;
}

#[tokio::test]
async fn a_request_id_with_quotation_marks_leaves_refusals_readable() {
    let yaml = "server: { trusted_proxies: [127.0.0.1/32] }\nroutes: { all: { path: /only, respond: { body: ok } } }";
    let gateway = Gateway::start(yaml, &[]).await;
    let mut client = Client::connect(&gateway).await;
    let request = "GET / HTTP/1.1\r\nhost: test\r\nx-request-id: a\"b\\c\r\n\r\n";
    client.send(request.as_bytes()).await;
    client.count(1);
    let answer = client.answer().await;
    answer.assert_refused(404, "no_route");
    assert_eq!(answer.json()["request_id"], "a\"b\\c");
    gateway.settled().await;
}

#[tokio::test]
async fn a_failed_handshake_says_why() {
    let authority = Authority::new();
    let dir = tempfile::TempDir::new().unwrap();
    authority.write(dir.path(), "a", &["a.test"]);
    let yaml = "listeners: { secure: { address: '{{https}}', tls: { certificates: [{ certificate: '{{dir}}/a.pem', \
                key: '{{dir}}/a.key' }] } } }\nroutes: { all: { respond: { body: ok } } }";
    let gateway = Gateway::start_in(dir, yaml, &[]).await;
    let mut client = Client::connect_to(&gateway, "https").await;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let (mut io, _) = client.into_parts();
    let mut alert = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut io, &mut alert);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    assert!(read.is_ok(), "the connection ends");
    // RFC 8446 section 5.1: a record of type 21 is an alert.
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
}

#[tokio::test]
async fn an_endpoint_is_asked_for_a_path_whatever_the_caller_wrote() {
    let app = Upstream::replying(|seen| Reply::ok(seen.target().to_owned())).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    for (asked, seen, host) in [
        (
            "GET http://test/x?y HTTP/1.1\r\nhost: test\r\n",
            "/x?y",
            "test",
        ),
        ("GET http://test HTTP/1.1\r\nhost: test\r\n", "/", "test"),
        ("GET http://test/old HTTP/1.0\r\n", "/old", "test"),
        ("GET /old HTTP/1.0\r\n", "/old", app.name().as_str()),
    ] {
        let mut client = Client::connect(&gateway).await;
        client.send(format!("{asked}\r\n").as_bytes()).await;
        client.count(1);
        assert_eq!(client.answer().await.text(), seen, "{asked}");
        assert_eq!(app.last().await.headers("host"), [host], "{asked}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_body_that_nobody_needs_does_not_reset_the_answer() {
    let yaml = "listeners: { web: { address: '{{http}}', http2: true } }\n\
                routes: { all: { respond: { body: ok } } }";
    let gateway = Gateway::start(yaml, &[]).await;
    for size in [0, 3, 65_536, 1 << 20] {
        let client = ClientH2::plain(&gateway).await;
        let answer = client.post("/", &vec![b'x'; size]).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{size}"
        );
    }
    gateway.settled().await;
}
