//! Pools: who takes which request, over what kind of connection, and what happens when all are busy.

use crate::harness::{
    Authority, Client, Gateway, Reply, ReplyH2, Upstream, UpstreamH2, eventually,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Sends so many requests and counts the bodies.
async fn tally(gateway: &Gateway, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(gateway).await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        *counts.entry(answer.text()).or_default() += 1;
    }
    counts
}

fn counts(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
    rows.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

#[tokio::test]
async fn requests_go_round_in_turn() {
    let (a, b, c) = (
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    );
    let gateway = Gateway::of(&[&a, &b, &c], "", "").await;
    assert_eq!(
        tally(&gateway, 30).await,
        counts(&[("a", 10), ("b", 10), ("c", 10)])
    );
    let up = gateway.metric("onemind_endpoint_up{pool=\"app\"}").await;
    assert!((up - 3.0).abs() < 0.1, "{up}");
    gateway.settled().await;
}

#[tokio::test]
async fn weights_are_shares() {
    let (a, b, c) = (
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    );
    let gateway = Gateway::start(
        "
pools:
  app:
    endpoints: ['{{a}}', { address: '{{b}}', weight: 2 }, { address: '{{c}}', weight: 3 }]
    health: { check: off }
    slow_start: 0s
routes: { all: { pool: app } }
",
        &[("a", &a), ("b", &b), ("c", &c)],
    )
    .await;
    assert_eq!(
        tally(&gateway, 60).await,
        counts(&[("a", 10), ("b", 20), ("c", 30)])
    );
    assert_eq!(gateway.endpoint("app", &c).await["weight"], 3);
    gateway.settled().await;
}

#[tokio::test]
async fn the_busy_one_is_spared() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let slow = move |name: &'static str| {
        let held = Arc::clone(&held);
        move |seen: &crate::harness::Seen| match seen.target() {
            "/slow" => Reply::held(&held, Reply::ok(name)),
            _ => Reply::ok(name),
        }
    };
    let (a, b) = (
        Upstream::replying(slow("a")).await,
        Upstream::replying(slow("b")).await,
    );
    let gateway = Gateway::of(&[&a, &b], "balance: least_loaded\nslow_start: 0s", "").await;
    let mut waiting = Client::connect(&gateway).await;
    waiting.count(1);
    waiting
        .send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    eventually("one is busy", async || {
        (a.count() + b.count() == 1).then_some(())
    })
    .await;
    let (busy, free) = if a.count() == 1 { (&a, "b") } else { (&b, "a") };
    assert_eq!(gateway.endpoint("app", busy).await["in_flight"], 1);
    assert_eq!(tally(&gateway, 20).await, counts(&[(free, 20)]));
    release.notify_waiters();
    assert_eq!(waiting.answer().await.status, 200);
    gateway
        .endpoint_is("app", busy, "in_flight", json!(0))
        .await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_key_stays_where_it_is_and_only_the_lost_ones_move() {
    let ups = [
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    ];
    let gateway = Gateway::of(
        &[&ups[0], &ups[1], &ups[2]],
        "balance: { hash: { header: x-key } }\nejection: { base: 60s }",
        "",
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    let places = async |client: &mut Client| {
        let mut places = Vec::new();
        for key in 0..100 {
            let key = format!("key-{key}");
            places.push(
                client
                    .request("GET", "/", &[("x-key", &key)], b"")
                    .await
                    .text(),
            );
        }
        places
    };
    let before = places(&mut client).await;
    assert_eq!(before, places(&mut client).await);
    for name in ["a", "b", "c"] {
        let share = before.iter().filter(|place| *place == name).count();
        assert!((10..=60).contains(&share), "{name} has {share} of 100");
    }
    ups[1].stop().await;
    let after = places(&mut client).await;
    for (was, is) in before.iter().zip(&after) {
        assert!(was == "b" || was == is, "moved from {was} to {is}");
        assert_ne!(is, "b");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_cookie_and_an_address_are_keys_too() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    for (balance, headers) in [
        (
            "{ hash: { cookie: sid } }",
            vec![("cookie", "x=1; sid=seven")],
        ),
        ("{ hash: address }", vec![]),
        ("{ hash: user }", vec![]),
    ] {
        let gateway = Gateway::of(&[&a, &b], &format!("balance: {balance}"), "").await;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let mut client = Client::connect(&gateway).await;
            seen.insert(client.request("GET", "/", &headers, b"").await.text());
        }
        assert_eq!(seen.len(), 1, "{balance}");
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let dir = TempDir::new().unwrap();
    let app = Upstream::unix(&dir.path().join("app.sock"), |_| Reply::ok("unix")).await;
    let gateway = Gateway::of(
        &[&app],
        "health: { interval: 100ms, fast_interval: 50ms }",
        "",
    )
    .await;
    assert_eq!(gateway.get("/").await.text(), "unix");
    assert_eq!(
        Client::connect(&gateway)
            .await
            .post("/", b"some")
            .await
            .text(),
        "unix"
    );
    eventually("probes", async || (app.health_seen() > 0).then_some(())).await;
    assert_eq!(gateway.endpoint("app", &app).await["up"], true);
    gateway.settled().await;
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let app = Upstream::named("named").await;
    let name = format!("localhost:{}", app.port());
    let gateway = Gateway::of(&[&name], "", "").await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.text(), "named");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_name_that_is_not_known_yet_is_a_warning_and_an_alarm() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app, &"no-such-name.invalid:80"], "dns_refresh: 1s", "").await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.text(), "app");
    }
    eventually("a warning", async || {
        gateway
            .errors()
            .contains("no-such-name.invalid")
            .then_some(())
    })
    .await;
    eventually("an alarm", async || {
        let failing = gateway.metric("onemind_dns_failing{pool=\"app\"}").await;
        (failing > 0.5).then_some(())
    })
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_pool_of_unknown_names_only_refuses_politely() {
    let gateway = Gateway::of(&[&"no-such-name.invalid:80"], "", "").await;
    let answer = gateway.get("/").await;
    answer.assert_refused(503, "no_healthy_endpoint");
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    gateway.settled().await;
}

#[tokio::test]
async fn connections_to_endpoints_are_kept() {
    // Each worker thread keeps its own.
    let app = Upstream::named("app").await;
    let yaml = crate::harness::app(&[&app], "", "");
    let gateway = Gateway::start(&format!("server: {{ threads: 1 }}\n{yaml}"), &[]).await;
    for _ in 0..10 {
        gateway.get("/").await;
    }
    assert_eq!(app.connections(), 1);

    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "keepalive: { idle: 0s }", "").await;
    for _ in 0..10 {
        gateway.get("/").await;
    }
    assert_eq!(app.connections(), 10);
    gateway.settled().await;
}

#[tokio::test]
async fn idle_connections_to_endpoints_are_closed() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "keepalive: { idle: 300ms }", "").await;
    gateway.get("/").await;
    eventually("the connection is closed", async || {
        (app.open() == 0).then_some(())
    })
    .await;
    gateway.get("/").await;
    assert_eq!(app.connections(), 2);
    gateway.settled().await;
}

#[tokio::test]
async fn tls_to_an_endpoint_is_verified() {
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = TempDir::new().unwrap();
    ours.write_ca(&dir.path().join("ca.pem"));
    other.write_ca(&dir.path().join("other.pem"));
    let app = Upstream::tls(&ours, "inner.test", |_| Reply::ok("tls")).await;
    let gateway = Gateway::start_in(
        dir,
        "
pools:
  good: { endpoints: ['{{app}}'], health: { check: off }, tls: { ca: '{{dir}}/ca.pem', server_name: inner.test } }
  name: { endpoints: ['{{app}}'], health: { check: off }, tls: { ca: '{{dir}}/ca.pem', server_name: wrong.test } }
  ca: { endpoints: ['{{app}}'], health: { check: off }, tls: { ca: '{{dir}}/other.pem', server_name: inner.test } }
  any: { endpoints: ['{{app}}'], health: { check: off }, tls: { verify: false, server_name: inner.test } }
routes:
  good: { path: /good, pool: good }
  name: { path: /name, pool: name }
  ca: { path: /ca, pool: ca }
  any: { path: /any, pool: any }
",
        &[("app", &app)],
    )
    .await;
    assert_eq!(gateway.get("/good").await.text(), "tls");
    assert_eq!(gateway.get("/any").await.text(), "tls");
    gateway
        .get("/name")
        .await
        .assert_refused(502, "connect_failed");
    gateway
        .get("/ca")
        .await
        .assert_refused(502, "connect_failed");
    // Again: a connection kept by another pool must not be lent to one that would not trust it.
    assert_eq!(gateway.get("/good").await.text(), "tls");
    gateway
        .get("/name")
        .await
        .assert_refused(502, "connect_failed");
    gateway.settled().await;
}

#[tokio::test]
async fn http2_is_spoken_to_endpoints() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    authority.write_ca(&dir.path().join("ca.pem"));
    let plain = UpstreamH2::plain(|_| ReplyH2::ok("h2c")).await;
    let secure = UpstreamH2::tls(&authority, "inner.test", |_| ReplyH2::ok("h2")).await;
    let gateway = Gateway::start_in(
        dir,
        "
pools:
  plain: { endpoints: ['{{plain}}'], health: { interval: 100ms }, protocol: http2 }
  secure: { endpoints: ['{{secure}}'], health: { interval: 100ms }, protocol: http2, tls: { ca: '{{dir}}/ca.pem', server_name: inner.test } }
routes:
  plain: { path: /plain, pool: plain }
  secure: { path: /secure, pool: secure }
",
        &[("plain", &plain), ("secure", &secure)],
    )
    .await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/plain").await.text(), "h2c");
        assert_eq!(gateway.get("/secure").await.text(), "h2");
    }
    assert_eq!(plain.last().await.header("host"), Some("test"));
    assert_eq!(gateway.endpoint("plain", &plain).await["up"], true);
    assert_eq!(gateway.endpoint("secure", &secure).await["up"], true);
    gateway.settled().await;
}

#[tokio::test]
async fn many_requests_share_one_http2_connection() {
    let app = UpstreamH2::plain(|_| ReplyH2::ok("h2c")).await;
    let yaml = crate::harness::app(&[&app], "protocol: http2", "");
    let yaml = format!("server: {{ threads: 1 }}\n{yaml}");
    let gateway = Arc::new(Gateway::start(&yaml, &[]).await);
    gateway.get("/").await;
    let all = (0..50).map(|_| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.get("/").await.text() }
    });
    for text in futures_util::future::join_all(all).await {
        assert_eq!(text, "h2c");
    }
    assert_eq!(app.connections(), 1, "each worker thread keeps one");
    gateway.settled().await;
}

#[tokio::test]
async fn a_full_pool_makes_wait_and_then_refuses() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let app = Upstream::replying(move |seen| match seen.target() {
        "/slow" => Reply::held(&held, Reply::ok("slow")),
        _ => Reply::ok("fast"),
    })
    .await;
    let gateway = Gateway::of(
        &[&app],
        "capacity: { max_in_flight: 1, queue_max: 1, queue_timeout: 500ms }",
        "",
    )
    .await;
    let mut first = Client::connect(&gateway).await;
    first.count(1);
    first
        .send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    app.last().await;

    // The second waits for its time and no longer; the third finds the queue full at once.
    let started = Instant::now();
    let mut second = Client::connect(&gateway).await;
    second.count(1);
    second
        .send(b"GET /second HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    crate::harness::silence(Duration::from_millis(100)).await;
    let third = gateway.get("/third").await;
    third.assert_refused(503, "queue_full");
    assert!(third.header("retry-after").is_some());
    assert!(
        started.elapsed() < Duration::from_millis(450),
        "{:?}",
        started.elapsed()
    );
    second.answer().await.assert_refused(503, "queue_full");
    assert!(
        started.elapsed() >= Duration::from_millis(450),
        "{:?}",
        started.elapsed()
    );

    // A place that comes free in time is taken.
    second.count(1);
    second
        .send(b"GET /again HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    crate::harness::silence(Duration::from_millis(100)).await;
    release.notify_waiters();
    assert_eq!(first.answer().await.text(), "slow");
    assert_eq!(second.answer().await.text(), "fast");
    assert_eq!(app.count(), 2);
    gateway.settled().await;
}

#[tokio::test]
async fn a_new_endpoint_starts_slowly() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let pool = "slow_start: 60s";
    let gateway = Gateway::of(&[&a], pool, "").await;
    gateway.get("/").await;
    gateway
        .reload(&crate::harness::app(&[&a, &b], pool, ""), &[])
        .await;
    let counts = tally(&gateway, 100).await;
    let share = counts.get("b").copied().unwrap_or_default();
    assert!((1..=40).contains(&share), "{counts:?}");
    gateway.settled().await;
}
