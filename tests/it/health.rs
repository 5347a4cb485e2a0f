//! Who is well: probes, and what requests themselves tell.

use crate::harness::{Client, Gateway, Reply, Upstream, eventually, silence};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::TcpListener;

const FAST: &str = "health: { interval: 100ms, fast_interval: 30ms }\nejection: { enabled: false }";

#[tokio::test]
async fn three_failures_take_out_and_two_successes_bring_back() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::of(&[&a, &b], FAST, "").await;
    eventually("probes", async || (a.health_seen() > 2).then_some(())).await;
    assert_eq!(gateway.endpoint("app", &a).await["up"], true);
    assert_eq!(gateway.endpoint("app", &a).await["known"], true);

    let before = a.health_seen();
    a.health(503, "");
    gateway.endpoint_is("app", &a, "up", json!(false)).await;
    assert!(a.health_seen() >= before + 3, "only after three failures");
    let up = format!("onemind_endpoint_up{{pool=\"app\",endpoint=\"{a}\"}}");
    assert!(gateway.metric(&up).await < 0.5);
    let before = a.count();
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.text(), "b");
    }
    assert_eq!(a.count(), before);

    a.health(200, "ok");
    let before = a.health_seen();
    gateway.endpoint_is("app", &a, "up", json!(true)).await;
    assert!(a.health_seen() >= before + 2, "only after two successes");
    assert!(gateway.metric(&up).await > 0.5);
    eventually("a is asked again", async || {
        (gateway.get("/").await.text() == "a").then_some(())
    })
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn the_first_probe_comes_at_once_and_doubt_is_settled_fast() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    a.health(500, "");
    // The interval is the default of 30 s: only the first probe and fast ones can do this in time.
    let gateway = Gateway::of(&[&a, &b], "health: { fast_interval: 50ms }", "").await;
    gateway.endpoint_is("app", &a, "up", json!(false)).await;
    assert_eq!(gateway.endpoint("app", &b).await["up"], true);
    let settled = b.health_seen();
    silence(Duration::from_millis(500)).await;
    assert_eq!(
        b.health_seen(),
        settled,
        "a settled endpoint is not probed fast"
    );
}

#[tokio::test]
async fn a_probe_may_expect_a_status_a_body_a_path_and_a_host() {
    let app = Upstream::named("app").await;
    for (settings, status, body, up) in [
        ("expect_body: ok", 200, "all ok", true),
        ("expect_body: ok", 200, "not well", false),
        ("expect_status: 204", 204, "", true),
        ("expect_status: '204'", 200, "", false),
        ("expect_status: [200-299, 401]", 401, "", true),
        ("expect_status: 200-299", 302, "", false),
        ("host: probe.test", 200, "", true),
    ] {
        app.health(status, body);
        let pool = format!("health: {{ interval: 50ms, fast_interval: 20ms, {settings} }}");
        let gateway = Gateway::of(&[&app], &pool, "").await;
        let before = app.health_seen();
        eventually("probes", async || {
            (app.health_seen() > before + 4).then_some(())
        })
        .await;
        gateway.endpoint_is("app", &app, "up", json!(up)).await;
    }
}

#[tokio::test]
async fn a_probe_asks_for_the_path_and_port_it_was_told() {
    let app = Upstream::named("app").await;
    let probed = Upstream::replying(|_| Reply::ok("well")).await;
    let pool = format!(
        "health: {{ interval: 50ms, path: '/status?deep=1', host: probe.test, port: {} }}",
        probed.port()
    );
    let gateway = Gateway::of(&[&app], &pool, "").await;
    let seen = probed.last().await;
    assert_eq!((seen.method(), seen.target()), ("GET", "/status?deep=1"));
    assert_eq!(seen.header("host"), Some("probe.test"));
    gateway.endpoint_is("app", &app, "known", json!(true)).await;
    assert_eq!(gateway.endpoint("app", &app).await["up"], true);
    assert_eq!(app.count() + app.health_seen(), 0);
}

#[tokio::test]
async fn a_probe_that_gets_no_answer_is_a_failure() {
    let app = Upstream::replying(|_| Reply::nothing()).await;
    let pool = "health: { path: /silent, interval: 50ms, fast_interval: 20ms, timeout: 100ms }";
    let gateway = Gateway::of(&[&app], pool, "").await;
    gateway.endpoint_is("app", &app, "up", json!(false)).await;
}

#[tokio::test]
async fn a_connection_is_enough_for_a_tcp_check() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = mute.local_addr().unwrap();
    let accept = tokio::spawn(async move { while mute.accept().await.is_ok() {} });
    let pool = "health: { check: tcp, interval: 50ms, fast_interval: 20ms }";
    let gateway = Gateway::of(&[&name], pool, "").await;
    gateway
        .endpoint_is("app", &name, "known", json!(true))
        .await;
    assert_eq!(gateway.endpoint("app", &name).await["up"], true);
    accept.abort();
    gateway.endpoint_is("app", &name, "up", json!(false)).await;
}

#[tokio::test]
async fn a_refused_connection_ejects_and_one_request_tries_again_later() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let pool = "ejection: { base: 1s }\nslow_start: 0s";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    a.stop().await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "b");
    }
    assert_eq!(gateway.endpoint("app", &a).await["ejected"], true);
    assert!(gateway.metric("onemind_endpoint_ejections_total").await >= 1.0);
    gateway.settled().await;
    let line = gateway.access_log().last().cloned().unwrap();
    assert_eq!(
        line["retries"], 0,
        "an ejected endpoint is not tried: {line}"
    );

    a.start().await;
    eventually("a is asked again", async || {
        (client.get("/").await.text() == "a").then_some(())
    })
    .await;
    gateway
        .endpoint_is("app", &a, "ejected", json!(false))
        .await;
    gateway.settled().await;
}

#[tokio::test]
async fn five_errors_in_a_row_eject_and_four_do_not() {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let bad = Upstream::replying(move |_| {
        let status = if fails.load(SeqCst) { 500 } else { 200 };
        Reply::status(status, "bad")
    })
    .await;
    let good = Upstream::named("good").await;
    let gateway = Gateway::of(
        &[&bad, &good],
        "ejection: { base: 60s }\nslow_start: 0s",
        "",
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    let mut ask_until = async |asked: usize| {
        while bad.count() < asked {
            client.get("/").await;
        }
    };
    ask_until(4).await;
    failing.store(false, SeqCst);
    ask_until(5).await;
    failing.store(true, SeqCst);
    ask_until(9).await;
    assert_eq!(gateway.endpoint("app", &bad).await["ejected"], false);
    ask_until(10).await;
    gateway
        .endpoint_is("app", &bad, "ejected", json!(true))
        .await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.text(), "good");
    }
    assert_eq!(bad.count(), 10);
    gateway.settled().await;
}

#[tokio::test]
async fn whatever_its_sickness_an_endpoint_is_left_alone() {
    // A stopped process still takes connections, and says nothing.
    let stopped = Upstream::replying(|_| Reply::nothing()).await;
    let slow = Upstream::replying(|_| Reply::late(Duration::from_mins(1), Reply::ok("late"))).await;
    let resetting = Upstream::replying(|_| Reply::raw("").reset()).await;
    let garbled = Upstream::replying(|_| Reply::raw("SSH-2.0-x\r\n\r\n").close()).await;
    for (what, sick) in [
        ("stopped", &stopped),
        ("slow", &slow),
        ("resetting", &resetting),
        ("garbled", &garbled),
    ] {
        let good = Upstream::named("good").await;
        let pool = "ejection: { base: 60s }\nslow_start: 0s";
        let gateway = Gateway::of(&[sick, &good], pool, "timeouts: { first_byte: 200ms }").await;
        let mut client = Client::connect(&gateway).await;
        // Every request is one that may be sent again: nobody notices.
        while gateway.endpoint("app", sick).await["ejected"] == false {
            assert_eq!(client.get("/").await.text(), "good", "{what}");
            assert!(sick.count() <= 5, "{what}: five errors in a row are enough");
        }
        let asked = sick.count();
        for _ in 0..10 {
            assert_eq!(client.get("/").await.text(), "good", "{what}");
        }
        assert_eq!(sick.count(), asked, "{what}");
        gateway.settled().await;
    }
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    let bad = Upstream::replying(|_| Reply::status(500, "bad")).await;
    let gateway = Gateway::of(&[&bad], "ejection: { base: 60s }", "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..12 {
        assert_eq!(client.get("/").await.text(), "bad");
    }
    bad.stop().await;
    client.get("/").await.assert_refused(502, "connect_failed");
    bad.start().await;
    assert_eq!(client.get("/").await.text(), "bad");
    assert_eq!(gateway.endpoint("app", &bad).await["ejected"], false);
    gateway.settled().await;
}
