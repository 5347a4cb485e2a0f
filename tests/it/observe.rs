//! What operators see: metrics, status, the access log.

use crate::harness::{Client, Gateway, Reply, Upstream, eventually};
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn one_line_tells_a_request() {
    let app =
        Upstream::replying(|_| Reply::late(Duration::from_millis(50), Reply::ok("12345"))).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    let headers = [("user-agent", "it/1 \"quoted\"")];
    client.request("POST", "/p?q=1", &headers, b"123").await;
    let line = gateway.ended("completed").await;
    for (key, value) in [
        ("listener", Value::from("web")),
        ("route", "all".into()),
        ("pool", "app".into()),
        ("endpoint", app.name().into()),
        ("method", "POST".into()),
        ("path", "/p?q=1".into()),
        ("host", "test".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("upstream_status", 200.into()),
        ("retries", 0.into()),
        ("client", "127.0.0.1".into()),
        ("bytes_in", 3.into()),
        ("bytes_out", 5.into()),
        ("user_agent", "it/1 \"quoted\"".into()),
        ("websocket", false.into()),
    ] {
        assert_eq!(line[key], value, "{key} of {line}");
    }
    for phase in ["duration_ms", "first_byte_ms"] {
        let ms = line[phase].as_f64().unwrap_or_default();
        assert!((50.0..2_000.0).contains(&ms), "{phase} of {line}");
    }
    assert!(line["connect_ms"].as_f64().is_some(), "{line}");
    gateway.settled().await;
}

#[tokio::test]
async fn counters_count() {
    let app = Upstream::replying(|seen| match seen.target() {
        "/404" => Reply::status(404, "no"),
        _ => Reply::ok("yes"),
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..3 {
        client.get("/").await;
    }
    client.get("/404").await;
    client.post("/", b"x").await;
    gateway.settled().await;
    for (selector, value) in [
        ("onemind_http_requests_total", 5.0),
        (
            "onemind_http_requests_total{listener=\"web\",route=\"all\",method=\"GET\",code=\"200\"}",
            3.0,
        ),
        (
            "onemind_http_requests_total{method=\"GET\",code=\"404\"}",
            1.0,
        ),
        ("onemind_http_requests_total{method=\"POST\"}", 1.0),
        (
            "onemind_requests_ended_total{route=\"all\",ending=\"completed\"}",
            5.0,
        ),
        (
            "onemind_http_request_duration_seconds_count{route=\"all\"}",
            5.0,
        ),
        (
            "onemind_upstream_requests_total{pool=\"app\",code=\"200\"}",
            4.0,
        ),
        ("onemind_http_requests_in_flight", 0.0),
        ("onemind_endpoint_in_flight", 0.0),
        ("onemind_build_info", 1.0),
    ] {
        let counted = gateway.metric(selector).await;
        assert!(
            (counted - value).abs() < 0.01,
            "{selector} is {counted}, not {value}"
        );
    }
}

#[tokio::test]
async fn labels_cannot_be_multiplied_by_callers() {
    let gateway = Gateway::start("routes: { all: { respond: { body: ok } } }", &[]).await;
    let count = async || {
        gateway
            .admin("GET", "/metrics")
            .await
            .text()
            .lines()
            .count()
    };
    let mut client = Client::connect(&gateway).await;
    client.get("/").await;
    client.request("BREW", "/", &[], b"").await;
    gateway.settled().await;
    let before = count().await;
    for nth in 0..50 {
        let method = format!("BREW{nth}");
        let headers = [
            ("host", format!("h{nth}.test")),
            ("x-request-id", format!("{nth}")),
        ];
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        client
            .request(&method, &format!("/p{nth}"), &headers, b"")
            .await;
    }
    gateway.settled().await;
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn the_state_of_every_pool_is_told() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let gateway = Gateway::of(&[&a, &b], "health: { interval: 100ms }", "").await;
    gateway.endpoint_is("app", &a, "known", true.into()).await;
    let status = gateway.status().await;
    assert_eq!(status["config"]["ok"], true, "{status}");
    assert!(status["revision"].as_u64().is_some(), "{status}");
    let endpoint = gateway.endpoint("app", &b).await;
    for (key, value) in [
        ("up", Value::Bool(true)),
        ("ejected", Value::Bool(false)),
        ("in_flight", 0.into()),
        ("weight", 1.into()),
    ] {
        assert_eq!(endpoint[key], value, "{key} of {endpoint}");
    }
}

#[tokio::test]
async fn liveness_and_readiness_are_told() {
    let gateway = Gateway::start("routes: { all: { respond: { body: ok } } }", &[]).await;
    assert_eq!(gateway.admin("GET", "/livez").await.status, 200);
    assert_eq!(gateway.admin("GET", "/readyz").await.status, 200);
    assert_eq!(gateway.admin("GET", "/nothing").await.status, 404);
    let reload = gateway.admin("GET", "/reload").await;
    assert_eq!(reload.status, 405, "a reload is asked for by POST");
    // Operators' pages are not callers' pages.
    assert_eq!(gateway.get("/metrics").await.text(), "ok");
}

#[tokio::test]
async fn the_access_log_can_go_to_a_file_or_nowhere() {
    let routes = "routes: { all: { respond: { body: ok } } }\n";
    let yaml = format!("server: {{ access_log: '{{{{dir}}}}/access.log' }}\n{routes}");
    let gateway = Gateway::start(&yaml, &[]).await;
    gateway.get("/to-file").await;
    let text = eventually("the line is written", async || {
        std::fs::read_to_string(gateway.path("access.log"))
            .ok()
            .filter(|text| text.ends_with('\n'))
    })
    .await;
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (&line["path"], &line["ending"]),
        (&"/to-file".into(), &"answered".into())
    );
    assert!(gateway.access_log().is_empty());

    let gateway = Gateway::start(&format!("server: {{ access_log: off }}\n{routes}"), &[]).await;
    gateway.get("/").await;
    eventually("it is counted", async || {
        (gateway.metric("onemind_requests_ended_total").await > 0.5).then_some(())
    })
    .await;
    assert!(gateway.access_log().is_empty());
}

#[tokio::test]
async fn secrets_in_a_query_are_not_logged() {
    let gateway = Gateway::start("routes: { all: { respond: { body: ok } } }", &[]).await;
    gateway.get("/cb?code=abc123&token=s3cr3t&page=2").await;
    let line = gateway.access_log_line(|_| true).await.to_string();
    assert!(!line.contains("s3cr3t"), "{line}");
    assert!(line.contains("page=2"), "{line}");
    gateway.settled().await;
}

#[tokio::test]
async fn the_access_log_is_opened_anew_when_told() {
    let yaml = "server: { access_log: '{{dir}}/access.log' }\nroutes: { all: { respond: {} } }\n";
    let gateway = Gateway::start(yaml, &[]).await;
    let lines = async |file: &str, count: usize| {
        eventually(file, async || {
            let text = std::fs::read_to_string(gateway.path(file)).ok()?;
            (text.lines().count() == count).then_some(())
        })
        .await;
    };
    gateway.get("/").await;
    lines("access.log", 1).await;
    std::fs::rename(gateway.path("access.log"), gateway.path("old.log")).unwrap();
    gateway.signal("USR1");
    eventually("a new file", async || {
        gateway.path("access.log").exists().then_some(())
    })
    .await;
    gateway.get("/").await;
    lines("access.log", 1).await;
    lines("old.log", 1).await;
}
