//! The harness itself, without a gateway: a script is played as it is written.

use super::client::Client;
use super::reply::Reply;
use super::upstream::Upstream;
use super::{body_of, hash};
use std::time::Duration;

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
    client_of(&upstream).await.post_chunked("/", &body, 999).await;
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
    let hole = super::BlackHole::dig().to_string();
    let connect = tokio::net::TcpStream::connect(hole);
    let waited = tokio::time::timeout(Duration::from_millis(500), connect).await;
    assert!(waited.is_err());
}
