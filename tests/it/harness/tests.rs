//! The harness itself, without a gateway: a script is played as it is written.

use super::certs::Authority;
use super::client::{Client, Tls};
use super::client_h2::ClientH2;
use super::prometheus::Prometheus;
use super::reply::Reply;
use super::upstream::Upstream;
use super::upstream_h2::{ReplyH2, UpstreamH2, map_of};
use super::ws::WebSocket;
use super::{body_of, eventually, hash};
use std::time::Duration;
use tokio::net::TcpStream;

async fn client_of(upstream: &Upstream) -> Client {
    Client::direct(([127, 0, 0, 1], upstream.port()).into()).await
}

#[tokio::test]
async fn a_reply_arrives_as_it_was_written() {
    let body = body_of(100_000);
    let sent = body.clone();
    let upstream = Upstream::replying(move |seen| match seen.nth {
        0 => Reply::chunked(&sent, 1000),
        1 => Reply::ok(sent.clone()),
        2 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").close(),
        3 => Reply::ok("").reset(),
        _ => Reply::until_close("all"),
    })
    .await;
    let mut client = client_of(&upstream).await;
    for _ in 0..2 {
        let answer = client.post("/", &body).await;
        assert_eq!(hash(&answer.body), hash(&body));
        assert!(answer.complete);
    }
    assert!(!client.get("/").await.complete);
    assert!(client_of(&upstream).await.get("/").await.complete);
    assert_eq!(client_of(&upstream).await.get("/").await.text(), "all");
    let seen = upstream.seen();
    assert_eq!(seen[0].body_hash, hash(&body));
    assert_eq!((seen[2].connection, seen[2].nth_on_connection), (0, 2));
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn chunks_are_put_together() {
    let upstream = Upstream::named("a").await;
    let body = body_of(70_000);
    client_of(&upstream)
        .await
        .post_chunked("/", &body, 999)
        .await;
    assert_eq!(upstream.last().await.body_hash, hash(&body));
}

#[tokio::test]
async fn a_stopped_upstream_refuses_and_comes_back() {
    let upstream = Upstream::named("a").await;
    let mut open = client_of(&upstream).await;
    assert_eq!(open.get("/").await.text(), "a");
    upstream.stop().await;
    assert!(open.try_request("GET", "/", &[], b"").await.is_err());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], upstream.port()));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    upstream.start().await;
    assert_eq!(client_of(&upstream).await.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_black_hole_takes_no_connection() {
    let hole = super::BlackHole::dig();
    let connect = tokio::net::TcpStream::connect(hole.to_string());
    let waited = tokio::time::timeout(Duration::from_millis(500), connect).await;
    assert!(waited.is_err());
}

#[tokio::test]
async fn http2_passes_bodies_trailers_and_resets() {
    let authority = Authority::new();
    let upstream = UpstreamH2::tls(&authority, "inner.test", |seen| match seen.target() {
        "/reset" => ReplyH2::reset(h2::Reason::REFUSED_STREAM),
        "/cut" => ReplyH2 {
            cut: Some(h2::Reason::INTERNAL_ERROR),
            ..ReplyH2::ok("half")
        },
        _ => ReplyH2 {
            trailers: vec![("x-sum", "9")],
            ..ReplyH2::ok(body_of(3 << 20))
        },
    })
    .await;
    let stream = TcpStream::connect(upstream.to_string()).await.unwrap();
    let tls = Tls::to(&authority, "inner.test").offering(&[b"h2"]);
    let client = ClientH2::direct(tls.connect(stream).await.unwrap().io).await;
    let body = body_of(2 << 20);
    let trailers = map_of(&[("x-mine", "1")]);
    let answer = client.post_with_trailers("/", &[], &body, trailers).await;
    assert_eq!(hash(&answer.body), hash(&body_of(3 << 20)));
    assert_eq!(
        (answer.complete, answer.trailers),
        (true, vec!["x-sum: 9".to_owned()])
    );
    let seen = upstream.last().await;
    assert_eq!(
        (seen.body_hash, seen.trailers),
        (hash(&body), vec!["x-mine: 1".to_owned()])
    );
    assert_eq!(seen.head.lines().next(), Some("POST / HTTP/2"));
    assert!(client.request("GET", "/reset", &[], b"").await.is_err());
    let cut = client.get("/cut").await;
    assert_eq!((cut.text().as_str(), cut.complete), ("half", false));
}

#[tokio::test]
async fn websockets_tell_a_name_and_echo() {
    let upstream = Upstream::replying(|_| Reply::websocket("app")).await;
    let mut socket = WebSocket::over(client_of(&upstream).await, "/", &[])
        .await
        .ok()
        .unwrap();
    assert_eq!(socket.name, "app");
    socket.echo(&"m".repeat(100_000)).await;
    socket.close().await;
    eventually("it is closed", async || {
        (upstream.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn prometheus_scrapes_answers_and_alerts() {
    let page = "# TYPE x gauge\nx{of=\"a\"} 1\nx{of=\"b\"} 2.5\n";
    let target = Upstream::replying(move |_| {
        Reply::with_headers(200, &[("content-type", "text/plain")], page)
    })
    .await;
    let dir = tempfile::TempDir::new().unwrap();
    let rules = dir.path().join("rules.yaml");
    let text = "groups: [{ name: g, rules: [{ alert: Large, expr: x > 2, \
                annotations: { summary: 'is {{ $value }}' } }] }]\n";
    std::fs::write(&rules, text).unwrap();
    let address = ([127, 0, 0, 1], target.port()).into();
    let prometheus = Prometheus::start(&[("page", address)], &[rules]).await;
    let samples = prometheus.query("x{of=\"b\"} * 2").await;
    assert_eq!(samples.len(), 1, "{samples:?}");
    assert_eq!(
        (
            samples[0].value.to_string().as_str(),
            samples[0].labels["job"].as_str()
        ),
        ("5", "page")
    );
    assert_eq!(
        prometheus.query("scalar(sum(x))").await[0]
            .value
            .to_string(),
        "3.5"
    );
    assert!(prometheus.try_query("sum(").await.is_err());
    let alert = prometheus.fires("Large", async || {}).await;
    assert_eq!(
        (
            alert.labels["of"].as_str(),
            alert.annotations["summary"].as_str()
        ),
        ("b", "is 2.5")
    );
}
