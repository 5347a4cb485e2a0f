//! What is tried again and what is not, and what the caller hears when nothing helps.

use crate::harness::{
    Answer, BlackHole, Client, Gateway, Load, Port, Reply, ReplyH2, Upstream, UpstreamH2, body_of,
    eventually, hash,
};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let (dead, app) = (Port::reserve(), Upstream::named("app").await);
    let pool = "ejection: { enabled: false }\nretry: { budget: 100% }";
    let gateway = Gateway::of(&[&dead, &app], pool, "").await;
    let body = body_of(300_000);
    let mut client = Client::connect(&gateway).await;
    for nth in 0..10 {
        assert_eq!(client.get("/").await.text(), "app");
        let answer = if nth % 2 == 0 {
            client.post("/", &body).await
        } else {
            client.post_chunked("/", &body, 7_000).await
        };
        assert_eq!(answer.text(), "app");
        assert_eq!(app.last().await.body_hash, hash(&body));
    }
    gateway.settled().await;
    let twice = gateway
        .access_log()
        .iter()
        .filter(|line| line["retries"] == 1)
        .count();
    assert!(twice >= 8, "{twice} of 20 requests were tried twice");
    assert!(gateway.metric("onemind_retries_total{pool=\"app\"}").await >= 8.0);
}

#[tokio::test]
async fn a_dead_pool_is_answered_and_the_connection_kept() {
    let dead = Port::reserve();
    let gateway = Gateway::of(&[&dead], "", "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..3 {
        client.get("/").await.assert_refused(502, "connect_failed");
        client
            .post("/", b"with a body")
            .await
            .assert_refused(502, "connect_failed");
    }
    gateway.settled().await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "connect_failed", "{line}");
    }
}

#[tokio::test]
async fn nothing_eligible_is_503_with_a_time_to_return() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    a.health(500, "");
    b.health(500, "");
    let pool = "health: { interval: 100ms, fast_interval: 20ms }";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    gateway.endpoint_is("app", &a, "up", json!(false)).await;
    gateway.endpoint_is("app", &b, "up", json!(false)).await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        answer.assert_refused(503, "no_healthy_endpoint");
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=120).contains(&seconds), "{seconds}");
    }
    assert_eq!(a.count() + b.count(), 0);
    a.health(200, "ok");
    gateway.endpoint_is("app", &a, "up", json!(true)).await;
    assert_eq!(client.get("/").await.text(), "a", "on the same connection");
    gateway.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_and_return_of_one_of_three_costs_no_request() {
    let (a, b, c) = (
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    );
    let pool = "health: { interval: 200ms, fast_interval: 50ms }\nejection: { base: 500ms }\nslow_start: 0s";
    let gateway = Gateway::of(&[&a, &b, &c], pool, "").await;
    let load = Load::start(&gateway, "/", 200, 8);
    for _ in 0..3 {
        load.goes_on_for(50).await;
        b.stop().await;
        gateway.endpoint_is("app", &b, "up", json!(false)).await;
        load.goes_on_for(50).await;
        b.start().await;
        gateway.endpoint_is("app", &b, "up", json!(true)).await;
        let before = b.count();
        eventually("traffic returns", async || {
            (b.count() > before + 5).then_some(())
        })
        .await;
    }
    let done = load.stop_without_failures().await;
    assert!(done > 300, "{done}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_safe_request_is_tried_elsewhere_after_503_and_a_post_is_not() {
    let bad = Upstream::replying(|_| Reply::status(503, "busy")).await;
    let good = Upstream::named("good").await;
    let pool = "ejection: { enabled: false }\nretry: { budget: 100% }";
    let gateway = Gateway::of(&[&bad, &good], pool, "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    let before = bad.count();
    assert!(
        before >= 4,
        "the bad one was asked first in about half: {before}"
    );
    let mut busy = 0;
    for _ in 0..10 {
        let answer = client.post("/", b"once").await;
        busy += usize::from(answer.status == 503 && answer.text() == "busy");
    }
    assert_eq!(busy, 5);
    assert_eq!(bad.count(), before + 5);
    gateway.settled().await;
}

#[tokio::test]
async fn an_error_that_every_endpoint_gives_reaches_the_caller_as_it_is() {
    let script = |seen: &crate::harness::Seen| match seen.target() {
        "/429" => Reply::with_headers(429, &[("retry-after", "7")], "slow down"),
        "/500" => Reply::status(500, "broken"),
        _ => Reply::status(503, "busy"),
    };
    let (a, b) = (
        Upstream::replying(script).await,
        Upstream::replying(script).await,
    );
    let gateway = Gateway::of(&[&a, &b], "ejection: { enabled: false }", "").await;
    let mut client = Client::connect(&gateway).await;
    for (target, status, text) in [
        ("/", 503, "busy"),
        ("/500", 500, "broken"),
        ("/429", 429, "slow down"),
    ] {
        let answer = client.get(target).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text));
    }
    assert_eq!(
        a.count() + b.count(),
        2 + 1 + 1,
        "each endpoint once for 503, and no more for others"
    );
    gateway.settled().await;
}

/// Many POSTs, each with a number of its own, against a backend that closes idle connections at
/// random: none is lost and none arrives twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_posts_survive_closing_connections_without_a_loss_or_a_double() {
    const POSTS: usize = 10_000;
    const CALLERS: usize = 16;
    let app = Upstream::replying(|seen| Reply::ok(seen.body_start.clone())).await;
    app.close_idle_after_ms(0..6);
    let pool = "ejection: { enabled: false }\nretry: { budget: 100% }";
    let gateway = Arc::new(Gateway::of(&[&app], pool, "").await);
    let callers = (0..CALLERS).map(|caller| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let mut client = Client::connect(&gateway).await;
            for nth in 0..POSTS / CALLERS {
                let id = format!("{caller}-{nth}");
                let answer = client.post("/", id.as_bytes()).await;
                assert_eq!((answer.status, answer.text()), (200, id));
                if nth % 8 == 0 {
                    // Let connections in the gateway's pool grow old enough to be closed.
                    crate::harness::silence(Duration::from_millis(fastrand::u64(0..6))).await;
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no request fails");
    }
    let ids: Vec<_> = app.seen().into_iter().map(|seen| seen.body_start).collect();
    assert_eq!(ids.len(), POSTS, "as many arrived as were sent");
    assert_eq!(
        ids.iter().collect::<HashSet<_>>().len(),
        POSTS,
        "none arrived twice"
    );
    println!("{POSTS} POSTs over {} connections", app.connections());
    let again = app
        .seen()
        .iter()
        .filter(|seen| seen.nth_on_connection > 0)
        .count();
    assert!(
        again > POSTS / 20,
        "connections are kept at all: {again} requests on a used one"
    );
    let stale = gateway
        .access_log()
        .iter()
        .filter(|line| line["retries"] != 0)
        .count();
    println!("{again} on a used connection, {stale} met a closed one and were sent again");
    assert!(stale > 0, "the case this test is about did not occur");
    assert!(
        app.connections() > 100,
        "the backend did close: {}",
        app.connections()
    );
    gateway.settled().await;
}

#[tokio::test]
async fn a_post_on_a_connection_just_closed_is_sent_again_with_its_body() {
    // Closed in an orderly way once used, but without a word in the answer before.
    for body in [body_of(10), body_of(60_000), body_of(500_000)] {
        let app = Upstream::replying(|seen| match seen.nth {
            0 => Reply::ok("warm"),
            _ => Reply::ok("sent"),
        })
        .await;
        app.close_idle_after_ms(200..201);
        let gateway = Gateway::of(&[&app], "", "").await;
        gateway.get("/").await;
        eventually("the connection is closed", async || {
            (app.open() == 0).then_some(())
        })
        .await;
        let answer = Client::connect(&gateway).await.post("/", &body).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "sent"),
            "{} bytes",
            body.len()
        );
        assert_eq!(app.last().await.body_hash, hash(&body));
        assert_eq!(app.count(), 2);
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_break_before_the_answer_is_tried_again_only_where_that_is_safe() {
    for (what, broken) in [
        ("close", Reply::default().close()),
        ("reset", Reply::default().reset()),
        (
            "half a head",
            Reply::raw("HTTP/1.1 200 OK\r\ncontent-le").close(),
        ),
    ] {
        let bad = Upstream::replying(move |_| broken.clone()).await;
        let good = Upstream::named("good").await;
        let pool = "ejection: { enabled: false }\nretry: { budget: 100% }\nkeepalive: { idle: 0s }";
        let gateway = Gateway::of(&[&bad, &good], pool, "").await;
        let mut client = Client::connect(&gateway).await;
        for _ in 0..6 {
            assert_eq!(client.get("/").await.text(), "good", "GET after {what}");
        }
        let before = bad.count();
        let mut failed = 0;
        for _ in 0..6 {
            let answer = client.post("/", b"once").await;
            if answer.status != 200 {
                answer.assert_refused(502, "upstream_failed");
                failed += 1;
            }
        }
        assert_eq!(
            failed, 3,
            "POST after {what}: the endpoint may have acted on it"
        );
        assert_eq!(bad.count(), before + 3, "{what}");
        gateway.settled().await;
        let endings = gateway
            .metric("onemind_requests_ended_total{ending=\"upstream_reset\"}")
            .await;
        assert!((endings - 3.0).abs() < 0.1, "{what}: {endings}");
    }
}

#[tokio::test]
async fn half_an_answer_never_looks_like_a_whole_one() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (what, reply) in [
        (
            "length",
            Reply::raw(format!("{head}content-length: 100\r\n\r\nhalf")).close(),
        ),
        (
            "length and reset",
            Reply::raw(format!("{head}content-length: 100\r\n\r\nhalf"))
                .wait(Duration::from_millis(50))
                .reset(),
        ),
        (
            "chunked",
            Reply::raw(format!(
                "{head}transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
            ))
            .close(),
        ),
        (
            "inside a chunk",
            Reply::raw(format!(
                "{head}transfer-encoding: chunked\r\n\r\n64\r\nhalf"
            ))
            .close(),
        ),
    ] {
        let app = Upstream::replying(move |_| reply.clone()).await;
        let gateway = Gateway::of(&[&app], "", "").await;
        let answer = Client::connect(&gateway)
            .await
            .try_request("GET", "/", &[], b"")
            .await;
        assert_cut(answer, what);
        assert_eq!(
            app.count(),
            1,
            "{what}: never tried again once the answer has begun"
        );
        gateway.ended("upstream_cut").await;
        gateway.settled().await;
    }
}

/// Either the body ends before its promise, or nothing at all arrives: never a whole answer.
#[track_caller]
fn assert_cut(answer: std::io::Result<Answer>, what: &str) {
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 200, "{what}");
        assert!(!answer.complete, "{what}: {}", answer.head);
    }
}

#[tokio::test]
async fn more_than_was_promised_is_not_mistaken_for_the_next_answer() {
    let app = Upstream::replying(|seen| match seen.nth {
        0 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        _ => Reply::ok("next"),
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.get("/").await.text(), "good");
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "next");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn garbage_is_not_an_answer() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 banana\r\n\r\n",
    ] {
        let app = Upstream::replying(move |_| Reply::raw(garbage).close()).await;
        let gateway = Gateway::of(&[&app], "", "").await;
        let mut client = Client::connect(&gateway).await;
        client.get("/").await.assert_refused(502, "upstream_failed");
        gateway.ended("upstream_malformed").await;
        gateway.settled().await;
    }
}

#[tokio::test]
async fn each_time_limit_has_its_name() {
    let slow_head = Reply::late(Duration::from_secs(30), Reply::ok("late"));
    let limits = "timeouts: { connect: 5s, first_byte: 300ms, idle: 5s, total: 20s }";
    let app = Upstream::replying(move |_| slow_head.clone()).await;
    let gateway = Gateway::of(&[&app], "", limits).await;
    let started = Instant::now();
    let mut client = Client::connect(&gateway).await;
    client
        .get("/")
        .await
        .assert_refused(504, "first_byte_timed_out");
    assert!(
        (300..2_000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(app.count(), 1);
    gateway.ended("timed_out_first_byte").await;
    client
        .post("/", b"x")
        .await
        .assert_refused(504, "first_byte_timed_out");
    gateway.settled().await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_is_left_in_time() {
    let hole = BlackHole::dig();
    let limits = "timeouts: { connect: 300ms }";
    let gateway = Gateway::of(&[&hole], "retry: { attempts: 1 }", limits).await;
    let started = Instant::now();
    gateway
        .get("/")
        .await
        .assert_refused(504, "connect_timed_out");
    assert!(
        (300..2_000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    gateway.ended("timed_out_connect").await;
    gateway.settled().await;

    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&hole, &app], "retry: { budget: 100% }", limits).await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "app");
        assert_eq!(client.post("/", b"not sent yet").await.text(), "app");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut() {
    let half = Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").silence();
    let app = Upstream::replying(move |_| half.clone()).await;
    let gateway = Gateway::of(&[&app], "", "timeouts: { idle: 300ms }").await;
    let started = Instant::now();
    let answer = Client::connect(&gateway)
        .await
        .try_request("GET", "/", &[], b"")
        .await;
    assert_cut(answer, "stalled");
    assert!(
        (300..3_000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    gateway.ended("timed_out_idle").await;
    gateway.settled().await;
}

#[tokio::test]
async fn the_whole_has_a_limit_too() {
    let mut drip = Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    for _ in 0..200 {
        drip = drip.send("x").wait(Duration::from_millis(50));
    }
    let late = Reply::late(Duration::from_secs(30), Reply::ok(""));
    let app = Upstream::replying(move |seen| match seen.target() {
        "/drip" => drip.clone(),
        _ => late.clone(),
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "timeouts: { total: 500ms }").await;
    for target in ["/drip", "/late"] {
        let started = Instant::now();
        let mut client = Client::connect(&gateway).await;
        let answer = client.try_request("GET", target, &[], b"").await;
        assert!(
            (450..3_000).contains(&started.elapsed().as_millis()),
            "{target} {:?}",
            started.elapsed()
        );
        match target {
            "/drip" => assert_cut(answer, target),
            _ => answer.unwrap().assert_refused(504, "total_timed_out"),
        }
    }
    gateway.settled().await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "timed_out_total", "{line}");
    }
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let bad = |_: &crate::harness::Seen| Reply::status(503, "busy");
    let (a, b) = (Upstream::replying(bad).await, Upstream::replying(bad).await);
    let pool = "ejection: { enabled: false }\nretry: { attempts: 2, budget: 0%, budget_min: 2, backoff: 1ms }";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    let mut client = Client::connect(&gateway).await;
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let seconds = started.elapsed().as_secs() as usize + 2;
    let retries = a.count() + b.count() - 100;
    assert!(
        retries >= 1 && retries <= 2 * seconds,
        "{retries} retries in {seconds} s"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn no_more_attempts_than_allowed() {
    let dead: Vec<Port> = (0..5).map(|_| Port::reserve()).collect();
    let all: Vec<&dyn std::fmt::Display> = dead.iter().map(|port| port as _).collect();
    let gateway = Gateway::of(
        &all,
        "ejection: { enabled: false }\nretry: { attempts: 3 }",
        "",
    )
    .await;
    gateway.get("/").await.assert_refused(502, "connect_failed");
    let line = gateway.ended("connect_failed").await;
    assert_eq!(line["retries"], 2, "{line}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_caller_that_leaves_is_noticed() {
    let app = Upstream::replying(|seen| match seen.target() {
        "/before" => Reply::nothing(),
        _ => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").silence(),
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    for target in ["/before", "/within"] {
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        let head = format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n");
        client.send(head.as_bytes()).await;
        eventually("it arrives", async || {
            app.seen()
                .last()
                .is_some_and(|seen| seen.target() == target)
                .then_some(())
        })
        .await;
        drop(client);
        eventually("the upstream is let go", async || {
            (app.open() == 0).then_some(())
        })
        .await;
    }
    gateway.settled().await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "client_left", "{line}");
    }
    assert_eq!(gateway.access_log()[0]["status"], 499);
}

#[tokio::test]
async fn a_stream_refused_over_http2_is_sent_again_even_a_post() {
    let app = UpstreamH2::plain(|seen| match seen.nth {
        1 | 3 => ReplyH2::reset(h2::Reason::REFUSED_STREAM),
        _ => ReplyH2::ok("app"),
    })
    .await;
    let gateway = Gateway::of(&[&app], "protocol: http2\nretry: { budget: 100% }", "").await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.get("/").await.text(), "app");
    assert_eq!(client.get("/").await.text(), "app");
    assert_eq!(client.post("/", b"body").await.text(), "app");
    assert_eq!(app.count(), 5);
    gateway.settled().await;
}

#[tokio::test]
async fn goaway_between_requests_costs_nothing() {
    let app = UpstreamH2::plain(|seen| {
        let goaway = seen.nth_on_connection == 2;
        ReplyH2 {
            goaway,
            ..ReplyH2::ok("app")
        }
    })
    .await;
    let pool = "protocol: http2\nretry: { budget: 100% }\nejection: { enabled: false }";
    let gateway = Gateway::of(&[&app], pool, "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..30 {
        let answer = client.post("/", b"body").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "app"));
    }
    assert_eq!(app.count(), 30, "none was sent twice");
    assert!(app.connections() >= 5, "{}", app.connections());
    gateway.settled().await;
}

#[tokio::test]
async fn a_stream_that_breaks_over_http2_is_a_cut() {
    let app = UpstreamH2::plain(|seen| match seen.target() {
        "/before" => ReplyH2::reset(h2::Reason::INTERNAL_ERROR),
        _ => ReplyH2 {
            cut: Some(h2::Reason::INTERNAL_ERROR),
            ..ReplyH2::ok("half")
        },
    })
    .await;
    let gateway = Gateway::of(&[&app], "protocol: http2", "").await;
    let mut client = Client::connect(&gateway).await;
    client
        .post("/before", b"x")
        .await
        .assert_refused(502, "upstream_failed");
    gateway.ended("upstream_reset").await;
    let answer = client.try_request("GET", "/within", &[], b"").await;
    assert_cut(answer, "reset");
    gateway
        .access_log_line(|line| line["ending"] == "upstream_cut")
        .await;
    gateway.settled().await;
}

#[tokio::test]
async fn an_answer_before_the_body_is_passed_on() {
    let app = Upstream::replying(|_| Reply::status(401, "who are you").close()).await;
    app.replies_before_the_body();
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client
        .send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nbegin")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (401, "who are you")
    );
    drop(client);
    gateway.settled().await;
}
