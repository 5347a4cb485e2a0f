//! Bodies of every size, framing and fate arrive as they were sent.

use crate::harness::{
    Answer, Client, ClientH2, Gateway, Port, Reply, ReplyH2, Seen, Upstream, UpstreamH2, body_of,
    eventually, hash,
};
use std::fmt::Display;
use std::time::Instant;

const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 65_537, 1 << 20, 20 << 20];

/// Of a body that was begun to be sent, this much is kept for another attempt.
const REPLAYED_MAX: usize = 64 << 10;

const LISTENERS: &str = "listeners: { web: { address: '{{http}}', http2: true } }\n";

/// How the caller frames its body.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
    H2,
}

/// What happens before the attempt that succeeds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    FirstTry,
    ConnectFails,
    StaleConnection,
}

/// Either kind of upstream, as far as this file needs it.
enum Behind {
    H1(Upstream),
    H2(UpstreamH2),
}

impl Behind {
    async fn start(h2: bool, fate: Fate) -> Self {
        let stale = fate == Fate::StaleConnection;
        if h2 {
            let upstream = UpstreamH2::plain(|_| ReplyH2::ok("taken")).await;
            if stale {
                upstream.refuses_every_second();
            }
            Self::H2(upstream)
        } else {
            let upstream = Upstream::named("taken").await;
            if stale {
                upstream.drops_reused();
            }
            Self::H1(upstream)
        }
    }

    fn name(&self) -> &dyn Display {
        match self {
            Self::H1(upstream) => upstream,
            Self::H2(upstream) => upstream,
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::H1(upstream) => upstream.count(),
            Self::H2(upstream) => upstream.count(),
        }
    }

    async fn last(&self) -> Seen {
        match self {
            Self::H1(upstream) => upstream.last().await,
            Self::H2(upstream) => upstream.last().await,
        }
    }
}

async fn start(behind: &Behind, h2: bool, fate: Fate) -> Gateway {
    let dead = Port::reserve();
    // The dead one is nearly always picked first.
    let first = match fate {
        Fate::ConnectFails => "{ address: '{{dead}}', weight: 256 }, ",
        _ => "",
    };
    let protocol = if h2 { "http2" } else { "http1" };
    let yaml = format!(
        "{LISTENERS}
server: {{ threads: 1 }}
pools:
  app:
    endpoints: [{first}'{{{{app}}}}']
    protocol: {protocol}
    health: {{ check: off }}
    ejection: {{ enabled: false }}
    retry: {{ budget: 100%, budget_min: 1000 }}
routes: {{ all: {{ pool: app, body_max: 32MiB }} }}
"
    );
    Gateway::start(&yaml, &[("app", behind.name()), ("dead", &dead)]).await
}

async fn post(gateway: &Gateway, framing: Framing, body: &[u8]) -> std::io::Result<Answer> {
    if let Framing::H2 = framing {
        return Ok(ClientH2::plain(gateway).await.post("/", body).await);
    }
    let mut client = Client::connect(gateway).await;
    match framing {
        Framing::Chunked => client.try_post_chunked("/", body, 10_000).await,
        _ => client.try_request("POST", "/", &[], body).await,
    }
}

async fn check(h2: bool, fate: Fate) {
    let behind = Behind::start(h2, fate).await;
    let gateway = start(&behind, h2, fate).await;
    let mut expected = 0;
    for size in SIZES {
        let body = body_of(size);
        for framing in [Framing::Length, Framing::Chunked, Framing::H2] {
            let case = format!("{size} bytes, {framing:?}, h2 upstream: {h2}, {fate:?}");
            let started = Instant::now();
            if fate == Fate::StaleConnection {
                // Leaves a connection in the gateway's pool that breaks under the next request.
                assert_eq!(gateway.get("/warm").await.status, 200, "{case}");
                expected += 1;
            }
            let answer = post(&gateway, framing, &body).await;
            let lost = answer.as_ref().map_or(true, |answer| answer.status == 502);
            if lost && h2 && fate == Fate::StaleConnection && size > REPLAYED_MAX {
                // Half sent and refused: there is nothing to send it again from.
                assert_eq!(behind.count(), expected, "{case}: not acted on");
                continue;
            }
            let answer = answer.unwrap_or_else(|fault| panic!("{case}: {fault}"));
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "taken"),
                "{case}"
            );
            let seen = behind.last().await;
            assert_eq!(
                (seen.body_len, seen.body_hash),
                (size, hash(&body)),
                "{case}"
            );
            expected += 1;
            assert_eq!(
                behind.count(),
                expected,
                "{case}: arrived once: {}",
                seen.head
            );
            assert!(
                started.elapsed().as_secs() < 20,
                "{case}: {:?}",
                started.elapsed()
            );
        }
    }
    gateway.settled().await;
    let lines = gateway.access_log();
    let twice = lines.iter().filter(|line| line["retries"] == 1).count();
    match fate {
        Fate::FirstTry => assert_eq!(twice, 0),
        Fate::ConnectFails => assert!(twice + 1 >= lines.len(), "{twice} of {}", lines.len()),
        // The first request finds no connection to reuse, nor does the one after a retry.
        // Bodies that cannot be sent twice are not trusted to a kept connection.
        Fate::StaleConnection => assert!(
            twice >= 6,
            "{twice} of {} met a stale connection",
            lines.len()
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http1() {
    check(false, Fate::FirstTry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http2() {
    check(true, Fate::FirstTry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http1_after_a_refused_connection() {
    check(false, Fate::ConnectFails).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http2_after_a_refused_connection() {
    check(true, Fate::ConnectFails).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http1_after_a_stale_connection() {
    check(false, Fate::StaleConnection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_arrives_at_http2_after_a_refused_stream() {
    check(true, Fate::StaleConnection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_arrives_as_it_was_sent() {
    let script = |seen: &Seen| {
        let (kind, size) = seen.target()[1..].split_once('/').unwrap();
        let body = body_of(size.parse().unwrap());
        match kind {
            "length" => Reply::ok(body),
            "chunked" => Reply::chunked(&body, 9_000),
            _ => Reply::until_close(body),
        }
    };
    let h1 = Upstream::replying(script).await;
    let h2 = UpstreamH2::plain(|seen| {
        let size = seen.target().rsplit('/').next().unwrap();
        ReplyH2::ok(body_of(size.parse().unwrap()))
    })
    .await;
    let yaml = format!(
        "{LISTENERS}
pools:
  h1: {{ endpoints: ['{{{{h1}}}}'], health: {{ check: off }} }}
  h2: {{ endpoints: ['{{{{h2}}}}'], health: {{ check: off }}, protocol: http2 }}
routes:
  h1: {{ pool: h1 }}
  h2: {{ path: '/h2/*', pool: h2 }}
"
    );
    let gateway = Gateway::start(&yaml, &[("h1", &h1), ("h2", &h2)]).await;
    let (mut client, client_h2) = (
        Client::connect(&gateway).await,
        ClientH2::plain(&gateway).await,
    );
    for size in SIZES {
        let expected = hash(&body_of(size));
        for kind in ["length", "chunked", "close", "h2"] {
            let target = format!("/{kind}/{size}");
            for answer in [client.get(&target).await, client_h2.get(&target).await] {
                assert_eq!((answer.status, answer.complete), (200, true), "{target}");
                assert_eq!(
                    (answer.body.len(), hash(&answer.body)),
                    (size, expected.clone()),
                    "{target}"
                );
            }
        }
    }
    gateway.settled().await;
}

/// An empty frame says nothing, wherever it stands; in chunks, an empty one would be the end.
#[tokio::test]
async fn empty_frames_are_nothing() {
    let h1 = Upstream::replying(|seen| Reply::ok(seen.body_start.clone())).await;
    let h2 = UpstreamH2::plain(|seen| ReplyH2 {
        with_empty_frames: true,
        ..ReplyH2::ok(seen.body_start.clone())
    })
    .await;
    let yaml = format!(
        "{LISTENERS}
pools:
  h1: {{ endpoints: ['{{{{h1}}}}'], health: {{ check: off }} }}
  h2: {{ endpoints: ['{{{{h2}}}}'], health: {{ check: off }}, protocol: http2 }}
routes:
  h1: {{ path: '/h1/*', pool: h1 }}
  h2: {{ path: '/h2/*', pool: h2 }}
"
    );
    let gateway = Gateway::start(&yaml, &[("h1", &h1), ("h2", &h2)]).await;
    let client = ClientH2::plain(&gateway).await;
    for target in ["/h1/a", "/h2/a"] {
        for frames in [
            vec!["", "one", "", "two", ""],
            vec!["", ""],
            vec!["one", "two"],
            vec!["one", ""],
        ] {
            let whole = frames.concat();
            let answer = client.post_frames(target, &frames).await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, whole.clone()),
                "{target} {frames:?}"
            );
            let mut plain = Client::connect(&gateway).await;
            assert_eq!(plain.post(target, whole.as_bytes()).await.text(), whole);
        }
    }
    assert_eq!((h1.count(), h2.count()), (8, 8), "{:?}", h1.seen());
    gateway.settled().await;
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_read() {
    let app = Upstream::named("app").await;
    let yaml = format!(
        "{LISTENERS}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}
routes: {{ all: {{ pool: app, body_max: 100KiB }} }}
"
    );
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let limit = body_of(100 << 10);
    let over = body_of((100 << 10) + 1);

    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.post("/", &limit).await.status, 200);
    assert_eq!(client.post_chunked("/", &limit, 5_000).await.status, 200);

    // Only the head is sent: an answer proves that the body was not waited for.
    client.count(1);
    client
        .send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 102401\r\n\r\n")
        .await;
    client.answer().await.assert_refused(413, "body_too_large");

    // One chunk over the limit, and no end.
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client
        .send(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut chunk = format!("{:x}\r\n", over.len()).into_bytes();
    chunk.extend_from_slice(&over);
    let _ = client.try_send(&chunk).await;
    client.answer().await.assert_refused(413, "body_too_large");

    let h2 = ClientH2::plain(&gateway).await;
    let length = over.len().to_string();
    for headers in [vec![("content-length", length.as_str())], vec![]] {
        let answer = h2
            .request("POST", "/", &headers, &over)
            .await
            .expect("an answer");
        answer.assert_refused(413, "body_too_large");
    }
    assert_eq!(
        h2.post("/", &limit).await.status,
        200,
        "the connection goes on"
    );
    eventually("broken uploads are let go", async || {
        (app.open() <= 3).then_some(())
    })
    .await;
    assert_eq!(app.count(), 3, "no body over the limit arrived whole");
    gateway.settled().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "", "timeouts: { idle: 300ms }").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client
        .send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf")
        .await;
    client.answer().await.assert_refused(408, "body_timed_out");
    gateway.ended("client_timed_out").await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_caller_that_leaves_within_its_body_never_makes_a_whole_request() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "", "").await;
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        let text = format!("POST / HTTP/1.1\r\nhost: test\r\n{head}\r\n\r\n4\r\nha");
        client.send(text.as_bytes()).await;
        drop(client);
    }
    gateway.settled().await;
    assert_eq!(app.count(), 0);
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "client_left", "{line}");
    }
}
