//! WebSockets to models that hear and speak.

use super::{QUICK, Speaks, refusal};
use crate::harness::{Fault, Gateway, PROVIDER_KEY, Provider, Trouble, WebSocket, eventually};
use serde_json::{Value, json};

const CALLER_KEY: &str = "key-of-alice-0123456789";

/// Two providers that have it, and one that does not; callers show a key.
async fn start(one: &Provider, two: &Provider, provider: &str, route: &str) -> Gateway {
    let yaml = format!(
        "server: {{ drain_delay: 0s, drain_deadline: 1s }}
listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
identity: {{ callers: {{ keys: {{ known: [ {{ name: laptop, user: alice, secret: {CALLER_KEY} }} ] }} }} }}
providers:
  openai: {{ base_url: '{{{{one}}}}', keys: {PROVIDER_KEY}, {provider} }}
  other: {{ kind: openai, base_url: '{{{{two}}}}', keys: {PROVIDER_KEY}, {provider} }}
  anthropic: {{ base_url: 'http://127.0.0.1:9', keys: x }}
models:
  talk: {{ targets: openai/gpt-realtime }}
  either: {{ targets: [openai/gpt-realtime, other/gpt-realtime-mini] }}
  claude: {{ targets: anthropic/claude-sonnet-4-5 }}
routes: {{ ai: {{ path: /v1/*, ai: {{}}, identity: callers, {route} }} }}
"
    );
    let names: [(&str, &dyn std::fmt::Display); 2] = [("one", &one.url()), ("two", &two.url())];
    Gateway::start(&yaml, &names).await
}

fn bearer() -> (&'static str, String) {
    ("authorization", format!("Bearer {CALLER_KEY}"))
}

async fn open(gateway: &Gateway, model: &str) -> WebSocket {
    let (name, value) = bearer();
    let target = format!("/v1/realtime?model={model}");
    WebSocket::open(gateway, &target, &[(name, &value)]).await
}

/// The events of one answer.
async fn respond(socket: &mut WebSocket) -> Vec<String> {
    socket
        .send(&json!({ "type": "response.create" }).to_string())
        .await;
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "response.done") {
        let event: Value = serde_json::from_str(&socket.receive().await.unwrap()).unwrap();
        kinds.push(event["type"].as_str().unwrap().to_owned());
    }
    kinds
}

#[tokio::test]
async fn a_page_talks_to_a_model_and_its_own_key_stays_here() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    let protocols = format!(
        "realtime, openai-insecure-api-key.{CALLER_KEY}, openai-organization.org-mine, openai-beta.realtime-v1"
    );
    let headers = [
        ("sec-websocket-protocol", protocols.as_str()),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("openai-beta", "realtime=v1"),
        ("origin", "https://app.example.com"),
        ("cookie", "a=b"),
    ];
    let socket = WebSocket::open(&gateway, "/v1/realtime?model=talk", &headers).await;
    assert_eq!(
        socket.answer.header("sec-websocket-protocol"),
        Some("realtime")
    );
    assert_eq!(socket.answer.header("sec-websocket-extensions"), None);
    assert_eq!(socket.answer.header("x-onemind-provider"), Some("openai"));
    assert_eq!(
        socket.answer.header("x-onemind-model"),
        Some("gpt-realtime")
    );
    assert_eq!(socket.answer.header("openai-organization"), None);
    assert!(socket.name.contains("session.created"), "{}", socket.name);
    let asked = one.last().await;
    assert_eq!(asked.query, "model=gpt-realtime");
    let sent = |name: &str| asked.header(name);
    assert_eq!(
        sent("authorization"),
        Some(format!("Bearer {PROVIDER_KEY}").as_str())
    );
    assert_eq!(
        sent("sec-websocket-protocol"),
        Some("realtime, openai-beta.realtime-v1")
    );
    assert_eq!(sent("openai-beta"), Some("realtime=v1"));
    for name in [
        "sec-websocket-extensions",
        "origin",
        "cookie",
        "content-type",
    ] {
        assert_eq!(sent(name), None, "{name}");
    }
    let all = format!("{:?}", asked.headers);
    assert!(
        !all.contains(CALLER_KEY) && !all.contains("org-mine"),
        "{all}"
    );
    drop(socket);
    gateway.ended("tunnel_closed").await;
}

#[tokio::test]
async fn what_its_answers_cost_is_told_and_charged() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    let mut socket = open(&gateway, "talk").await;
    let update = json!({ "type": "session.update", "session": { "voice": "ash" } }).to_string();
    socket.echo(&update).await;
    for _ in 0..2 {
        let kinds = respond(&mut socket).await;
        assert_eq!(
            kinds,
            [
                "response.created",
                "response.output_audio.delta",
                "response.done"
            ]
        );
    }
    socket.close().await;
    let line = gateway.ended("tunnel_closed").await;
    assert_eq!(
        (&line["status"], &line["websocket"]),
        (&json!(101), &json!(true)),
        "{line}"
    );
    assert_eq!(line["user"], "alice");
    let ai = &line["ai"];
    assert_eq!(ai["operation"], "realtime", "{line}");
    assert_eq!(ai["usage"], "reported", "{line}");
    for (class, tokens) in [
        ("input_tokens", 40),
        ("output_tokens", 60),
        ("input", 30),
        ("input_audio", 10),
        ("output", 40),
        ("output_audio", 20),
    ] {
        assert_eq!(ai[class], tokens, "{class}: {line}");
    }
    let tokens = gateway.metric("onemind_ai_tokens_total{provider=\"openai\",model=\"talk\"}");
    assert!((tokens.await - 100.0).abs() < 0.5);
    gateway.settled().await;
}

#[tokio::test]
async fn a_session_that_breaks_off_has_what_was_counted_until_then_once() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    let series = "onemind_ai_tokens_total{provider=\"openai\",model=\"talk\"}";
    for (nth, whose) in [(1, "the caller's"), (2, "the provider's")] {
        let mut socket = open(&gateway, "talk").await;
        respond(&mut socket).await;
        if nth == 2 {
            one.stop().await;
            assert_eq!(socket.receive().await, None);
        }
        // No close frame is sent.
        drop(socket);
        let line = eventually("the line of this one", async || {
            let lines = gateway.access_log();
            let mut ended = lines
                .iter()
                .filter(|line| line["ending"] == "tunnel_closed");
            ended.nth(nth - 1).cloned()
        })
        .await;
        let ai = &line["ai"];
        assert_eq!(ai["usage"], "reported", "{whose}: {line}");
        assert_eq!(
            (&ai["input_tokens"], &ai["output_tokens"]),
            (&json!(20), &json!(30)),
            "{whose}: {line}"
        );
        let tokens = gateway.metric(series).await;
        assert!(
            (tokens - if nth == 1 { 50.0 } else { 100.0 }).abs() < 0.5,
            "{whose}: {tokens}"
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn until_the_provider_agrees_another_may_be_asked() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    one.then(Fault::Error(Trouble::Unavailable));
    let mut socket = open(&gateway, "either").await;
    assert_eq!(socket.answer.header("x-onemind-provider"), Some("other"));
    assert_eq!(socket.answer.header("x-onemind-attempts"), Some("2"));
    assert_eq!(two.last().await.query, "model=gpt-realtime-mini");
    respond(&mut socket).await;
    // Once it is open it stays where it is.
    two.stop().await;
    assert_eq!(socket.receive().await, None);
    drop(socket);
    assert_eq!((one.count(), two.count()), (1, 1));
    let line = gateway.ended("tunnel_closed").await;
    assert_eq!(line["ai"]["input_tokens"], 20, "{line}");
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_as_an_sdk_expects_it() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    let (name, value) = bearer();
    let known = [(name, value.as_str())];
    let refused = async |target: &str, headers: &[(&str, &str)]| {
        let Err(answer) = WebSocket::try_open(&gateway, target, headers).await else {
            panic!("{target} was opened");
        };
        let (status, code, _) = refusal(Speaks::Chat, &answer);
        (status, code)
    };
    for (target, headers, expected) in [
        ("/v1/realtime?model=talk", &[][..], (401, "invalid_api_key")),
        ("/v1/realtime?model=none", &known, (404, "model_not_found")),
        ("/v1/realtime", &known, (400, "invalid_request")),
        (
            "/v1/realtime?model=claude",
            &known,
            (404, "model_not_found"),
        ),
        // The provider knows no such model.
        (
            "/v1/realtime?model=openai%2Fgpt-5",
            &known,
            (400, "invalid_model"),
        ),
    ] {
        let (status, code) = refused(target, headers).await;
        assert_eq!((status, code.as_str()), expected, "{target}");
    }
    assert_eq!(one.count(), 1);
    one.keys(&["another"]);
    assert_eq!(refused("/v1/realtime?model=talk", &known).await.0, 502);
    let mut client = crate::harness::Client::connect(&gateway).await;
    let answer = client
        .request("GET", "/v1/realtime?model=talk", &known, b"")
        .await;
    assert_eq!(
        refusal(Speaks::Chat, &answer).0,
        400,
        "no WebSocket was asked for"
    );
    let line = gateway.access_log_line(|line| line["status"] == 502).await;
    assert_eq!(line["websocket"], false, "{line}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_socket_holds_its_place_and_is_counted_and_limited() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let provider = "capacity: { max_in_flight: 1, queue_timeout: 100ms }";
    let route = "websocket: { messages_per_minute: 3 }";
    let gateway = start(&one, &two, provider, route).await;
    let mut socket = open(&gateway, "talk").await;
    let endpoint = &gateway.status().await["pools"]["openai"]["endpoints"][0].clone();
    assert_eq!(endpoint["in_flight"], 1, "{endpoint}");
    let (name, value) = bearer();
    let full = WebSocket::try_open(&gateway, "/v1/realtime?model=talk", &[(name, &value)]).await;
    let answer = full.err().expect("no place is left");
    assert_eq!(refusal(Speaks::Chat, &answer).1, "queue_full");
    for nth in 0..3 {
        socket.echo(&format!("{{\"type\":\"{nth}\"}}")).await;
    }
    socket.send("{\"type\":\"one too many\"}").await;
    assert_eq!(socket.close_code().await, Some(1008));
    let line = gateway
        .access_log_line(|line| line["ending"] == "tunnel_over_limit")
        .await;
    assert_eq!(line["ai"]["usage"], "none", "{line}");
    eventually("the place is free", async || {
        let endpoint = &gateway.status().await["pools"]["openai"]["endpoints"][0].clone();
        (endpoint["in_flight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_deploy_says_goodbye_and_keeps_the_count() {
    let (one, two) = (Provider::openai().await, Provider::openai().await);
    let gateway = start(&one, &two, QUICK, "").await;
    let mut socket = open(&gateway, "talk").await;
    respond(&mut socket).await;
    gateway.signal("TERM");
    assert_eq!(socket.close_code().await, Some(1001));
    let line = gateway.ended("cut_by_drain").await;
    assert_eq!(line["ai"]["output_tokens"], 30, "{line}");
}
