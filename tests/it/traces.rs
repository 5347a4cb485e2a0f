//! Spans of requests, as a collector gets them; and what becomes of requests when it does not.

use crate::ai::{Ai, QUICK, ROUTE, Speaks};
use crate::harness::{
    Authority, Client, Collector, Fault, Gateway, Mood, PROVIDER_KEY, Port, Provider, Reply,
    Trouble, Upstream, WebSocket, app, attribute, eventually, silence,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A section that sends at once; `more` are further keys.
fn tracing(collector: &Collector, more: &str) -> String {
    format!("tracing: {{ endpoint: '{collector}', every: 50ms, {more} }}\n")
}

/// One route to these endpoints, callers trusted.
async fn gateway(collector: &Collector, more: &str, endpoints: &[&dyn Display]) -> Gateway {
    let section = tracing(collector, more);
    let rest = app(
        endpoints,
        "ejection: { enabled: false }\nretry: { budget: 100% }",
        "",
    );
    let yaml =
        format!("server: {{ trusted_proxies: ['127.0.0.0/8'], drain_delay: 0s }}\n{section}{rest}");
    Gateway::start(&yaml, &[]).await
}

async fn spans_counted(gateway: &Gateway, result: &str, least: f64) {
    let selector = format!("onemind_trace_spans_total{{result=\"{result}\"}}");
    eventually(&format!("{least} spans {result}"), async || {
        (gateway.metric(&selector).await >= least).then_some(())
    })
    .await;
}

fn assert_has(span: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(attribute(span, key), *value, "{key} of {span:#}");
    }
}

/// Names of its events, in order of time; each within the span.
fn moments(span: &Value) -> Vec<String> {
    let at = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
    let events = span["events"].as_array().cloned().unwrap_or_default();
    let (start, end) = (at(&span["startTimeUnixNano"]), at(&span["endTimeUnixNano"]));
    let mut before = start;
    for event in &events {
        let moment = at(&event["timeUnixNano"]);
        assert!((before..=end).contains(&moment), "{span:#}");
        before = moment;
    }
    let names = events.iter().map(|event| event["name"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one thing after the other, or one row for each"
)]
async fn a_trace_is_continued_and_passed_on_and_holds_no_secret() {
    let (collector, upstream) = (Collector::start(), Upstream::named("app").await);
    let more = "headers: { authorization: 'Bearer for-the-collector' }, service: edge";
    let gateway = gateway(&collector, more, &[&upstream]).await;
    let mut client = Client::connect(&gateway).await;
    let headers = [
        ("traceparent", &*traceparent("01")),
        ("tracestate", "vendor=1"),
        ("authorization", "Bearer hunter2"),
        ("cookie", "session=hunter2"),
        ("user-agent", "it/1"),
    ];
    let answer = client
        .request("POST", "/a/b?token=hunter2", &headers, b"hunter2")
        .await;
    assert_eq!(answer.text(), "app");

    let request = collector.request("/a/b").await;
    assert_eq!(request["traceId"], TRACE);
    assert_eq!(request["parentSpanId"], PARENT);
    assert_eq!(request["flags"], 0x301, "sampled, below a remote parent");
    assert_eq!(request["name"], "POST all");
    assert_has(
        &request,
        &[
            ("http.request.method", json!("POST")),
            ("http.route", json!("all")),
            ("http.response.status_code", json!("200")),
            ("url.scheme", json!("http")),
            ("network.protocol.version", json!("1.1")),
            ("server.address", json!("test")),
            ("user_agent.original", json!("it/1")),
            ("onemind.ending", json!("completed")),
            ("onemind.listener", json!("web")),
            ("error.type", Value::Null),
        ],
    );
    assert_eq!(moments(&request), ["admitted", "first_byte"]);
    assert!(request.get("status").is_none(), "{request:#}");

    let below = collector.below(&request);
    let [attempt] = &below[..] else {
        panic!("one attempt: {below:#?}");
    };
    assert_eq!(
        (&attempt["kind"], &attempt["name"]),
        (&json!(3), &json!("POST"))
    );
    assert_eq!(moments(attempt), ["connected", "first_byte"]);
    assert_has(
        attempt,
        &[
            ("server.address", json!("127.0.0.1")),
            ("server.port", json!(upstream.port().to_string())),
            ("http.response.status_code", json!("200")),
            ("onemind.pool", json!("app")),
        ],
    );
    let seen = upstream.last().await;
    let span = attempt["spanId"].as_str().unwrap();
    let told = format!("00-{TRACE}-{span}-01");
    assert_eq!(seen.header("traceparent"), Some(told.as_str()));
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));

    let line = gateway.access_log_line(|_| true).await;
    assert_eq!(line["trace_id"], TRACE);
    let batch = collector.batches().remove(0);
    assert!(
        batch.head.starts_with("POST /v1/traces HTTP/1.1\r\n"),
        "{}",
        batch.head
    );
    assert!(
        batch.head.contains("Bearer for-the-collector"),
        "{}",
        batch.head
    );
    let resource = &batch.body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name"), "edge");
    let whole = format!("{:?}", collector.batches());
    assert!(!whole.contains("hunter2"), "{whole}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_trace_that_is_not_believed_is_left_alone_and_another_begins() {
    let (collector, upstream) = (Collector::start(), Upstream::named("app").await);
    let section = tracing(&collector, "sample: 1");
    let untrusted = format!("{section}{}", app(&[&upstream], "", ""));
    let untrusted = Gateway::start(&untrusted, &[]).await;
    let trusted = gateway(&collector, "sample: 1", &[&upstream]).await;
    for (gateway, path, given) in [
        (&untrusted, "/stranger", traceparent("01")),
        (&trusted, "/nonsense", "00-zzzz-1-01".to_owned()),
        (
            &trusted,
            "/zeros",
            traceparent("01").replace(TRACE, &"0".repeat(32)),
        ),
    ] {
        let mut client = Client::connect(gateway).await;
        let headers = [("traceparent", given.as_str()), ("tracestate", "vendor=1")];
        client.request("GET", path, &headers, b"").await;
        let request = collector.request(path).await;
        assert!(request.get("parentSpanId").is_none(), "{request:#}");
        let trace = request["traceId"].as_str().unwrap();
        assert!(
            trace != TRACE && !trace.trim_matches('0').is_empty(),
            "{trace}"
        );
        let seen = upstream.last().await;
        let told = seen.header("traceparent").expect("one of ours").to_owned();
        assert!(told.starts_with(&format!("00-{trace}-")), "{told}");
        assert_eq!(seen.header("tracestate"), None);
        let line = gateway.access_log_line(|line| line["path"] == path).await;
        assert_eq!(line["trace_id"], trace);
    }
}

#[tokio::test]
async fn each_attempt_has_a_span_and_its_endpoint_is_told_of_it() {
    let collector = Collector::start();
    let broken = Upstream::replying(|_| Reply::default().reset()).await;
    let good = Upstream::named("good").await;
    let gateway = gateway(&collector, "sample: 1", &[&broken, &good]).await;
    let mut client = Client::connect(&gateway).await;
    // By turns one of them begins.
    for path in ["/0", "/1"] {
        assert_eq!(client.get(path).await.text(), "good");
    }
    let line = gateway.access_log_line(|line| line["retries"] == 1).await;
    let request = collector.request(line["path"].as_str().unwrap()).await;
    assert_has(&request, &[("onemind.attempts", json!("2"))]);
    assert!(
        request.get("status").is_none(),
        "it was mended: {request:#}"
    );
    let below = collector.below(&request);
    let [first, second] = &below[..] else {
        panic!("two attempts: {below:#?}");
    };
    assert_eq!(first["status"], json!({ "code": 2 }));
    assert!(second.get("status").is_none(), "{second:#}");
    assert_has(
        first,
        &[
            ("error.type", json!("reset")),
            ("server.port", json!(broken.port().to_string())),
            ("http.request.resend_count", Value::Null),
        ],
    );
    assert_has(
        second,
        &[
            ("error.type", Value::Null),
            ("server.port", json!(good.port().to_string())),
            ("http.request.resend_count", json!("1")),
        ],
    );
    let told = |upstream: &Upstream| -> HashSet<String> {
        let seen = upstream.seen();
        let told = seen.iter().filter_map(|seen| seen.header("traceparent"));
        told.map(|told| told[36..52].to_owned()).collect()
    };
    assert!(told(&broken).contains(first["spanId"].as_str().unwrap()));
    assert!(told(&good).contains(second["spanId"].as_str().unwrap()));
    gateway.settled().await;
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one thing after the other, or one row for each"
)]
async fn a_call_of_a_model_tells_what_it_asked_and_what_it_cost() {
    let collector = Collector::start();
    let document = format!("{}{ROUTE}", tracing(&collector, "sample: 1"));
    let ai = Ai::start(QUICK, &document).await;
    for (speaks, stream) in [(Speaks::Chat, false), (Speaks::Messages, true)] {
        ai.openai.then(Fault::Error(Trouble::Unavailable));
        let answer = ai.say(speaks, "smart", stream, "hunter2 two").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let is_it = |span: &Value| {
            span["kind"] == 2 && attribute(span, "onemind.stream") == Value::Bool(stream)
        };
        let request = collector.span("a span of the call", is_it).await;
        assert_has(&request, &[("onemind.model", json!("smart"))]);
        let all = moments(&request);
        assert!(all.contains(&"first_token".to_owned()), "{all:?}");
        let below = collector.below(&request);
        let [first, second] = &below[..] else {
            panic!("two attempts: {below:#?}");
        };
        assert_eq!(first["name"], "chat gpt-5");
        assert_has(
            first,
            &[
                ("gen_ai.operation.name", json!("chat")),
                ("gen_ai.provider.name", json!("openai")),
                ("gen_ai.request.model", json!("gpt-5")),
                ("gen_ai.usage.input_tokens", Value::Null),
                ("http.response.status_code", json!("503")),
                ("error.type", json!("provider_overloaded")),
            ],
        );
        assert_eq!(second["name"], "chat claude-sonnet-4-5");
        let line = gateway_line(&ai.gateway, &request).await;
        assert_has(
            second,
            &[
                ("gen_ai.provider.name", json!("anthropic")),
                ("gen_ai.request.model", json!("claude-sonnet-4-5")),
                (
                    "gen_ai.usage.input_tokens",
                    json!(line["ai"]["input_tokens"].to_string()),
                ),
                (
                    "gen_ai.usage.output_tokens",
                    json!(line["ai"]["output_tokens"].to_string()),
                ),
                ("onemind.usage", json!("reported")),
                ("onemind.provider", json!("anthropic")),
                ("http.request.method", json!("POST")),
            ],
        );
        let model = attribute(second, "gen_ai.response.model");
        assert!(
            model
                .as_str()
                .is_some_and(|model| model.starts_with("claude")),
            "{second:#}"
        );
        let stop = attribute(second, "gen_ai.response.finish_reasons");
        assert_eq!(stop["values"][0]["stringValue"], line["ai"]["stop"]);
        for (provider, attempt) in [(&ai.openai, first), (&ai.anthropic, second)] {
            let told = provider
                .last()
                .await
                .header("traceparent")
                .unwrap()
                .to_owned();
            assert_eq!(&told[3..35], request["traceId"].as_str().unwrap());
            assert_eq!(&told[36..52], attempt["spanId"].as_str().unwrap());
        }
    }
    let whole = format!("{:?}", collector.batches());
    assert!(!whole.contains("hunter2"), "no word of a prompt: {whole}");
    assert!(!whole.contains(PROVIDER_KEY), "{whole}");
}

async fn gateway_line(gateway: &Gateway, request: &Value) -> Value {
    gateway
        .access_log_line(|line| line["trace_id"] == request["traceId"])
        .await
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one thing after the other, or one row for each"
)]
async fn ordinary_ones_are_left_out_but_errors_and_slow_ones_are_kept() {
    let collector = Collector::start();
    let upstream = Upstream::replying(|seen| match seen.target() {
        "/503" => Reply::status(503, "no"),
        "/404" => Reply::status(404, "no"),
        "/late" => Reply::late(Duration::from_millis(400), Reply::ok("late")),
        "/cut" => Reply::default().reset(),
        _ => Reply::ok("yes"),
    })
    .await;
    let gateway = gateway(&collector, "sample: 0, slow: 400ms", &[&upstream]).await;
    let mut client = Client::connect(&gateway).await;
    for (path, flags) in [
        ("/1", "00"),
        ("/404", "00"),
        ("/503", "00"),
        ("/late", "00"),
        ("/kept", "01"),
        ("/cut", "00"),
    ] {
        let given = traceparent(flags);
        client
            .request("GET", path, &[("traceparent", &given)], b"")
            .await;
        let told = upstream
            .last()
            .await
            .header("traceparent")
            .unwrap()
            .to_owned();
        assert!(told.ends_with(flags), "{path}: its parent decides: {told}");
    }
    client.get("/2").await;
    let told = upstream
        .last()
        .await
        .header("traceparent")
        .unwrap()
        .to_owned();
    assert!(told.ends_with("-02"), "not sampled, random: {told}");
    let kept: [(&str, &str, Value); 4] = [
        ("/503", "503", json!("503")),
        ("/late", "200", Value::Null),
        ("/kept", "200", Value::Null),
        ("/cut", "502", json!("upstream_reset")),
    ];
    for (path, status, error) in kept {
        let request = collector.request(path).await;
        assert_has(
            &request,
            &[
                ("http.response.status_code", json!(status)),
                ("error.type", error.clone()),
            ],
        );
        assert_eq!(
            request.get("status").is_some(),
            !error.is_null(),
            "{request:#}"
        );
    }
    gateway.settled().await;
    for (result, count) in [
        ("left_out", 3.0),
        ("error", 2.0),
        ("slow", 1.0),
        ("sampled", 1.0),
    ] {
        let selector = format!("onemind_traces_total{{result=\"{result}\"}}");
        let counted = gateway.metric(&selector).await;
        assert!((counted - count).abs() < 0.1, "{result}: {counted}");
    }
    // `exported` comes after the answer of the collector.
    spans_counted(&gateway, "exported", 8.0).await;
    let requests = collector
        .spans()
        .into_iter()
        .filter(|span| span["kind"] == 2);
    assert_eq!(requests.count(), 4);
}

/// So many requests that their spans are more than the queue takes.
async fn overfill(gateway: &Gateway) {
    let agent = "x".repeat(900);
    let mut client = Client::connect(gateway).await;
    for _ in 0..100 {
        let answer = client
            .request("GET", "/", &[("user-agent", &agent)], b"")
            .await;
        assert_eq!(answer.text(), "app", "whatever becomes of its spans");
    }
}

const SMALL: &str = "sample: 1, queue: 64KiB, timeout: 200ms";

#[tokio::test]
async fn without_a_collector_requests_are_unharmed_and_what_is_lost_is_counted() {
    let (collector, upstream) = (Collector::down(), Upstream::named("app").await);
    let gateway = gateway(&collector, SMALL, &[&upstream]).await;
    overfill(&gateway).await;
    spans_counted(&gateway, "dropped", 100.0).await;
    eventually("a line of the log", async || {
        gateway
            .errors()
            .contains("spans cannot be sent")
            .then_some(())
    })
    .await;
    // What waited is sent when it is back, and there is room again.
    collector.rise();
    spans_counted(&gateway, "exported", 10.0).await;
    let before = gateway
        .metric("onemind_trace_spans_total{result=\"dropped\"}")
        .await;
    gateway.get("/again").await;
    collector.request("/again").await;
    let after = gateway
        .metric("onemind_trace_spans_total{result=\"dropped\"}")
        .await;
    assert!((before - after).abs() < 0.1, "{before} {after}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up() {
    let (collector, upstream) = (Collector::start(), Upstream::named("app").await);
    collector.is(Mood::Silent);
    let gateway = gateway(&collector, SMALL, &[&upstream]).await;
    overfill(&gateway).await;
    spans_counted(&gateway, "dropped", 100.0).await;
    eventually("it is asked again", async || {
        (collector.batches().len() > 1).then_some(())
    })
    .await;
    assert!(collector.open() <= 2, "one batch at a time");
    gateway.settled().await;
    // Nor the end, for longer than is stated.
    gateway.signal("TERM");
    assert!(gateway.wait_exit().await.success());
}

#[tokio::test]
async fn a_batch_is_sent_again_or_given_up_as_the_collector_says() {
    let (collector, upstream) = (Collector::start(), Upstream::named("app").await);
    let gateway = gateway(&collector, "sample: 1", &[&upstream]).await;
    collector.is(Mood::Says(503, "Retry-After: 0\r\n"));
    gateway.get("/busy").await;
    eventually("it is asked again", async || {
        (collector.batches().len() > 1).then_some(())
    })
    .await;
    collector.is(Mood::Takes("{}"));
    collector.request("/busy").await;
    spans_counted(&gateway, "exported", 2.0).await;
    collector.is(Mood::Says(400, ""));
    gateway.get("/wrong").await;
    spans_counted(&gateway, "failed", 2.0).await;
    collector.is(Mood::Takes(r#"{"partialSuccess":{"rejectedSpans":"1"}}"#));
    gateway.get("/half").await;
    spans_counted(&gateway, "rejected", 1.0).await;
    spans_counted(&gateway, "exported", 3.0).await;
    gateway.settled().await;
}

#[tokio::test]
async fn what_waits_is_sent_before_the_process_leaves() {
    let (collector, upstream) = (Collector::start(), Upstream::named("app").await);
    let section = format!("tracing: {{ endpoint: '{collector}', every: 1m, sample: 1 }}\n");
    let rest = app(&[&upstream], "", "");
    let yaml = format!("server: {{ drain_delay: 0s }}\n{section}{rest}");
    let gateway = Gateway::start(&yaml, &[]).await;
    gateway.get("/last").await;
    gateway.settled().await;
    assert!(collector.batches().is_empty(), "it waits for others");
    gateway.signal("TERM");
    assert!(gateway.wait_exit().await.success());
    collector.request("/last").await;
}

#[tokio::test]
async fn a_reload_moves_to_another_collector_and_switches_off_and_on() {
    let (first, second) = (Collector::start(), Collector::start());
    let upstream = Upstream::named("app").await;
    let rest = app(&[&upstream], "", "");
    let to = |collector: &Collector| format!("{}{rest}", tracing(collector, "sample: 1"));
    let gateway = Gateway::start(&to(&first), &[]).await;
    gateway.get("/first").await;
    first.request("/first").await;
    gateway.reload(&to(&second), &[]).await;
    gateway.get("/second").await;
    second.request("/second").await;
    gateway.reload(&rest, &[]).await;
    gateway.get("/off").await;
    gateway.reload(&to(&first), &[]).await;
    gateway.get("/on").await;
    first.request("/on").await;
    gateway.settled().await;
    let paths = |collector: &Collector| -> Vec<String> {
        let spans = collector
            .spans()
            .into_iter()
            .filter(|span| span["kind"] == 2);
        spans
            .map(|span| attribute(&span, "url.path").as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(paths(&first), ["/first", "/on"]);
    assert_eq!(paths(&second), ["/second"]);
}

#[tokio::test]
async fn a_websocket_has_its_span_when_it_ends_and_is_never_slow() {
    let (collector, model) = (Collector::start(), Provider::openai().await);
    let chat = Upstream::replying(|_| Reply::websocket("chat")).await;
    let yaml = format!(
        "server: {{ trusted_proxies: ['127.0.0.0/8'] }}
{}pools: {{ chat: {{ endpoints: ['{chat}'], health: {{ check: off }} }} }}
providers: {{ openai: {{ base_url: '{}', keys: {PROVIDER_KEY} }} }}
models: {{ talk: {{ targets: openai/gpt-realtime }} }}
routes: {{ chat: {{ path: /ws, pool: chat }}, ai: {{ path: /v1/*, ai: {{}} }} }}
",
        tracing(&collector, "sample: 0, slow: 1ms"),
        model.url()
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    for (target, flags) in [
        ("/ws", "00"),
        ("/ws", "01"),
        ("/v1/realtime?model=talk", "01"),
    ] {
        let given = traceparent(flags);
        let mut socket = WebSocket::open(&gateway, target, &[("traceparent", &given)]).await;
        // Longer than what is slow.
        silence(Duration::from_millis(10)).await;
        if target == "/ws" {
            socket.echo("hello").await;
        }
        assert!(collector.spans().len() <= 2, "it has not ended");
        socket.close().await;
    }
    gateway.settled().await;
    let left_out = gateway
        .metric("onemind_traces_total{result=\"left_out\"}")
        .await;
    assert!((left_out - 1.0).abs() < 0.1, "{left_out}");
    for (path, name, provider) in [
        ("/ws", "GET", Value::Null),
        ("/v1/realtime", "realtime gpt-realtime", json!("openai")),
    ] {
        let request = collector.request(path).await;
        assert_has(
            &request,
            &[
                ("onemind.websocket", json!(true)),
                ("http.response.status_code", json!("101")),
                ("onemind.ending", json!("tunnel_closed")),
            ],
        );
        let attempt = collector.below(&request).remove(0);
        assert_eq!(attempt["name"], name);
        assert_has(&attempt, &[("gen_ai.provider.name", provider)]);
        let told = if path == "/ws" {
            chat.last().await.header("traceparent").map(str::to_owned)
        } else {
            model.last().await.header("traceparent").map(str::to_owned)
        };
        assert_eq!(&told.unwrap()[36..52], attempt["spanId"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_collector_behind_tls_is_believed_by_its_authority_alone() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let dir = TempDir::new().unwrap();
    authority.write_ca(&dir.path().join("ca.pem"));
    stranger.write_ca(&dir.path().join("other.pem"));
    std::fs::write(dir.path().join("broken.pem"), "no certificate").unwrap();
    let collector = Upstream::tls(&authority, "localhost", |_| Reply::ok("{}")).await;
    let with = |ca: &str| {
        let endpoint = format!("https://localhost:{}", collector.port());
        format!(
            "tracing: {{ endpoint: '{endpoint}', ca: {ca}, sample: 1, every: 50ms }}\nroutes: {{ all: {{ respond: {{}} }} }}\n"
        )
    };
    let gateway = Gateway::start_in(dir, &with("other.pem"), &[]).await;
    gateway.get("/").await;
    eventually("a line of the log", async || {
        gateway.errors().contains("no TLS with").then_some(())
    })
    .await;
    assert_eq!(collector.count(), 0);
    let refused = gateway.try_reload(&with("broken.pem"), &[]).await;
    assert!(
        refused.text().contains("no certificate in it"),
        "{}",
        refused.text()
    );
    gateway.reload(&with("ca.pem"), &[]).await;
    gateway.get("/").await;
    spans_counted(&gateway, "exported", 1.0).await;
    assert_eq!(collector.last().await.target(), "/v1/traces");
}

#[tokio::test]
async fn a_refused_request_has_a_span_too_and_a_dead_endpoint_its_reason() {
    let (collector, dead) = (Collector::start(), Port::reserve());
    let gateway = gateway(&collector, "sample: 0", &[&dead]).await;
    gateway
        .get("/dead")
        .await
        .assert_refused(502, "connect_failed");
    let request = collector.request("/dead").await;
    assert_has(
        &request,
        &[
            ("error.type", json!("connect_failed")),
            ("onemind.code", json!("connect_failed")),
        ],
    );
    let below = collector.below(&request);
    assert!(!below.is_empty());
    for attempt in below {
        assert_has(&attempt, &[("http.response.status_code", Value::Null)]);
        assert_eq!(attempt["status"], json!({ "code": 2 }));
    }
    gateway.settled().await;
}
