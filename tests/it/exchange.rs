//! One request and its answer, in the odd forms HTTP allows, and some that it does not.

use crate::harness::{
    Client, ClientH2, Gateway, Reply, ReplyH2, Upstream, UpstreamH2, eventually, map_of,
};

const H2_LISTENER: &str = "listeners: { web: { address: '{{http}}', http2: true } }\n";

fn behind(protocol: &str) -> String {
    format!(
        "{H2_LISTENER}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }}, protocol: {protocol} }} }}
routes: {{ all: {{ pool: app }} }}
"
    )
}

#[tokio::test]
async fn informational_answers_go_before_the_final_one() {
    let app = Upstream::replying(|_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n")
            .send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal")
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
        assert_eq!(answer.informational.len(), 1);
        assert!(
            answer.informational[0].contains("103"),
            "{:?}",
            answer.informational
        );
    }
    gateway.settled().await;
    assert_eq!(gateway.access_log()[0]["status"], 200);
}

#[tokio::test]
async fn a_caller_that_expects_100_gets_it_or_a_final_answer() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "", "body_max: 1KiB").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    let head = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n";
    client
        .send(format!("{head}content-length: 4\r\n\r\n").as_bytes())
        .await;
    // The body is only sent once the gateway (or the upstream behind it) asks for it.
    let go_on = client.raw_head().await;
    assert!(go_on.starts_with("HTTP/1.1 100"), "{go_on}");
    client.send(b"body").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "app"));
    assert_eq!(app.last().await.body_start, "body");

    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client
        .send(format!("{head}content-length: 4000\r\n\r\n").as_bytes())
        .await;
    client.answer().await.assert_refused(413, "body_too_large");
    gateway.settled().await;
}

#[tokio::test]
async fn answers_without_a_body_end_at_once_and_keep_the_connection() {
    let app = Upstream::replying(|seen| match seen.target() {
        "/204" => Reply::with_headers(204, &[], ""),
        "/304" => Reply::with_headers(304, &[("etag", "\"x\"")], ""),
        "/304-with-length" => {
            Reply::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n")
        }
        "/205" => Reply::status(205, ""),
        _ => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\nx-kind: head\r\n\r\n"),
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..2 {
        for (method, target, status) in [
            ("HEAD", "/head", 200),
            ("GET", "/204", 204),
            ("DELETE", "/204", 204),
            ("GET", "/304", 304),
            ("GET", "/304-with-length", 304),
            ("GET", "/205", 205),
        ] {
            let answer = client.request(method, target, &[], b"").await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (status, ""),
                "{method} {target}"
            );
            if method == "HEAD" {
                assert_eq!(answer.header("content-length"), Some("12345"));
            }
        }
    }
    assert_eq!(app.connections(), 1, "and the upstream's connection too");
    gateway.settled().await;
}

#[tokio::test]
async fn large_heads_pass_and_larger_ones_are_refused() {
    let app = Upstream::replying(|seen| {
        let big = "b".repeat(30 << 10);
        Reply::with_headers(
            200,
            &[("x-big", &big)],
            seen.header("x-big").unwrap_or_default().len().to_string(),
        )
    })
    .await;
    let gateway = Gateway::start(&behind("http1"), &[("app", &app)]).await;
    let big = "a".repeat(30 << 10);
    let answer = Client::connect(&gateway)
        .await
        .request("GET", "/", &[("x-big", &big)], b"")
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "30720"));
    assert_eq!(answer.header("x-big").map(str::len), Some(30 << 10));
    let h2 = ClientH2::plain(&gateway).await;
    let answer = h2
        .request("GET", "/", &[("x-big", &big)], b"")
        .await
        .unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "30720"));
    let target = format!("/{}", "p".repeat(7_000));
    assert_eq!(
        Client::connect(&gateway).await.get(&target).await.status,
        200
    );
    gateway.settled().await;
}

#[tokio::test]
async fn trailers_pass_over_http2() {
    let app = UpstreamH2::plain(|_| ReplyH2 {
        trailers: vec![("grpc-status", "0"), ("x-sum", "9")],
        ..ReplyH2::ok("body")
    })
    .await;
    let gateway = Gateway::start(&behind("http2"), &[("app", &app)]).await;
    let client = ClientH2::plain(&gateway).await;
    for body in [b"body".as_slice(), b""] {
        let trailers = map_of(&[("x-mine", "1")]);
        let headers = [("te", "trailers"), ("content-type", "application/grpc")];
        let answer = client
            .post_with_trailers("/", &headers, body, trailers)
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
        assert!(
            answer.trailers.contains(&"grpc-status: 0".to_owned()),
            "{:?}",
            answer.trailers
        );
        assert!(
            answer.trailers.contains(&"x-sum: 9".to_owned()),
            "{:?}",
            answer.trailers
        );
        // Those of the request are dropped: Pingora does not forward them.
        let seen = app.last().await;
        assert_eq!(
            (seen.body_start.as_ref(), seen.header("te")),
            (body, Some("trailers"))
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn trailers_pass_over_http1() {
    let app = Upstream::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 9\r\n\r\n")
    })
    .await;
    let gateway = Gateway::start(&behind("http1"), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..2 {
        client.count(1);
        client
            .send(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-mine: 1\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.complete),
            (200, "body", true)
        );
        assert_eq!(answer.trailers, ["x-sum: 9"]);
        assert_eq!(app.last().await.body_start, "body");
    }
    assert_eq!(
        ClientH2::plain(&gateway).await.get("/").await.text(),
        "body"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn an_old_caller_is_understood() {
    let app = Upstream::replying(|_| Reply::chunked(b"a body in chunks", 3)).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client.send(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "a body in chunks")
    );
    assert_eq!(answer.header("transfer-encoding"), None, "{}", answer.head);
    gateway.settled().await;
}

#[tokio::test]
async fn events_pass_as_they_happen() {
    let signal = std::sync::Arc::new(tokio::sync::Notify::new());
    let held = std::sync::Arc::clone(&signal);
    let app = Upstream::replying(move |_| {
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
            .wait_for(&held)
            .send("7\r\ndata: 2\r\n0\r\n\r\n")
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let begun = client.raw_head().await;
    assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
    let first = client.raw_line().await + &client.raw_line().await;
    assert!(
        first.contains("data: 1"),
        "{first}: it came before the second was there"
    );
    signal.notify_waiters();
    let second = client.raw_line().await + &client.raw_line().await;
    assert!(second.contains("data: 2"), "{second}");
    assert_eq!(client.raw_line().await, "0");
    drop(client);
    eventually("it ends", async || {
        (gateway.access_log().len() == 1).then_some(())
    })
    .await;
    gateway.ended("completed").await;
    gateway.settled().await;
}
