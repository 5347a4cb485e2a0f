//! Streams through reloads, upgrades and the end of the process; over HTTP/2, and over TLS.

use super::streams::{open, until};
use super::{ALL, Ai, QUICK, ROUTE, Speaks, call, hear};
use crate::harness::{
    Authority, Client, ClientH2, Fault, Gateway, PROVIDER_KEY, Provider, ReplyH2, UpstreamH2,
    WebSocket, eventually, in_time,
};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A stream of which the first word has come, and the word by which it goes on.
async fn under_way(ai: &Ai) -> (TcpStream, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    ai.openai
        .answering("alpha beta gamma delta")
        .then(Fault::HoldAfter(3, Arc::clone(&go_on)));
    let mut stream = open(ai, Speaks::Chat, "gpt").await;
    until(&mut stream, "alpha").await;
    (stream, go_on)
}

async fn ends_well(mut stream: TcpStream, go_on: &Notify) {
    go_on.notify_one();
    let rest = until(&mut stream, "[DONE]").await;
    assert!(rest.contains("delta") && !rest.contains("error"), "{rest}");
}

#[tokio::test]
async fn a_stream_outlives_a_reload_that_removes_its_provider() {
    let ai = Ai::usual().await;
    let (stream, go_on) = under_way(&ai).await;
    let without = format!(
        "listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
providers: {{ anthropic: {{ base_url: '{{{{anthropic}}}}', keys: {PROVIDER_KEY} }} }}
models: {{ claude: {{ targets: anthropic/claude-sonnet-4-5 }} }}
{ROUTE}"
    );
    let url = ai.anthropic.url();
    ai.gateway.reload(&without, &[("anthropic", &url)]).await;
    assert_eq!(ai.ask(Speaks::Chat, "gpt", false).await.status, 404);
    assert_eq!(ai.ask(Speaks::Chat, "claude", false).await.status, 200);
    ends_well(stream, &go_on).await;
    let line = ai
        .gateway
        .access_log_line(|line| line["ai"]["stream"] == true)
        .await;
    assert_eq!(line["ending"], "completed", "{line}");
    assert_eq!(line["ai"]["provider"], "openai", "{line}");
    assert_eq!(line["ai"]["usage"], "reported", "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_an_upgrade_of_the_program() {
    let ai = Ai::usual().await;
    let (stream, go_on) = under_way(&ai).await;
    let before = ai.gateway.pid();
    assert_ne!(ai.gateway.upgrade().await, before);
    let answer = ai.ask(Speaks::Chat, "gpt", true).await;
    assert!(hear(Speaks::Chat, &answer, true).whole, "{}", answer.text());
    ends_well(stream, &go_on).await;
    eventually("the older process leaves", async || {
        (!crate::harness::runs(before)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn at_the_end_of_a_drain_each_dialect_says_so_in_its_own_words() {
    let server = "server: { drain_delay: 0s, drain_deadline: 1s }\n";
    for speaks in ALL {
        let ai = Ai::start(
            QUICK.replace("gap: 1s", "gap: 60s").as_str(),
            &format!("{server}{ROUTE}"),
        )
        .await;
        ai.openai
            .answering("alpha beta gamma delta")
            .then(Fault::StallAfter(5));
        let mut stream = open(&ai, speaks, "gpt").await;
        let mut heard = until(&mut stream, "alpha").await;
        ai.gateway.signal("TERM");
        let mut rest = String::new();
        in_time("the end", stream.read_to_string(&mut rest))
            .await
            .unwrap();
        heard.push_str(&rest);
        let last = match speaks {
            Speaks::Chat | Speaks::Gemini => "data: {\"error\":",
            Speaks::Responses | Speaks::Messages => "event: error",
        };
        assert!(heard.contains(last), "{speaks:?}: {heard}");
        assert!(heard.contains("about to stop"), "{speaks:?}: {heard}");
        assert!(
            heard.ends_with("0\r\n\r\n"),
            "{speaks:?}: the body has its end: {heard}"
        );
        let line = ai.gateway.ended("cut_by_drain").await;
        assert_eq!(line["ai"]["usage"], "estimated", "{line}");
    }
}

#[tokio::test]
async fn a_caller_over_http2_gets_its_stream_and_takes_it_along_when_it_leaves() {
    let provider = Provider::openai().await;
    let yaml = format!(
        "listeners: {{ web: {{ address: '{{{{http}}}}', http2: true }} }}
providers: {{ openai: {{ base_url: '{{{{openai}}}}', keys: {PROVIDER_KEY} }} }}
models: {{ gpt: {{ targets: openai/gpt-5 }} }}
{ROUTE}"
    );
    let gateway = Gateway::start(&yaml, &[("openai", &provider.url())]).await;
    let client = ClientH2::plain(&gateway).await;
    let headers = [("content-type", "application/json")];
    for speaks in ALL {
        let (path, body) = call(speaks, "gpt", true, "one two three");
        let body = body.to_string();
        let asked = client.request("POST", &path, &headers, body.as_bytes());
        let answer = asked.await.unwrap();
        let heard = hear(speaks, &answer, true);
        assert!(heard.whole, "{speaks:?}: {}", answer.text());
        assert!(heard.text.contains("one two three"), "{}", answer.text());
    }
    gateway.settled().await;
    provider.then(Fault::StallAfter(3));
    let count = provider.count();
    let (path, body) = call(Speaks::Chat, "gpt", true, "one");
    let asking = tokio::spawn(async move { client.post(&path, body.to_string().as_bytes()).await });
    eventually("the call", async || {
        (provider.count() > count).then_some(())
    })
    .await;
    asking.abort();
    provider.cut(count).await;
    let left = gateway.access_log_line(|line| line["ending"] == "client_left");
    let line = left.await;
    assert_eq!(line["protocol"], "HTTP/2", "{line}");
}

/// A gateway in front of one provider at this `https` address, whose certificate this authority has signed.
async fn over_tls(authority: &Authority, url: &str) -> Gateway {
    let dir = TempDir::new().unwrap();
    authority.write_ca(&dir.path().join("ca.pem"));
    let yaml = format!(
        "listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
providers: {{ openai: {{ base_url: '{url}', keys: {PROVIDER_KEY}, ca: '{{{{dir}}}}/ca.pem' }} }}
models: {{ gpt: {{ targets: openai/gpt-5 }} }}
{ROUTE}"
    );
    Gateway::start_in(dir, &yaml, &[]).await
}

async fn stream_from(client: &mut Client) -> (String, bool) {
    let (path, body) = call(Speaks::Chat, "gpt", true, "one two three");
    let answer = client.post(&path, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let heard = hear(Speaks::Chat, &answer, true);
    (heard.text, heard.whole)
}

#[tokio::test]
async fn a_provider_over_tls_is_verified_and_spoken_to_in_what_it_speaks() {
    let authority = Authority::new();
    let provider = Provider::openai_tls(&authority, "localhost").await;
    let gateway = over_tls(&authority, &provider.url()).await;
    let mut client = Client::connect(&gateway).await;
    let (text, whole) = stream_from(&mut client).await;
    assert!(whole && text.contains("one two three"), "{text}");
    let mut socket = WebSocket::open(&gateway, "/v1/realtime?model=openai/gpt-realtime", &[]).await;
    socket.echo("{\"type\":\"session.update\"}").await;
    drop(socket);

    let events = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"over two\"},\"finish_reason\":null}]}\n\n\
        data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-5\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: [DONE]\n\n";
    let second = UpstreamH2::tls(&authority, "localhost", move |_| ReplyH2 {
        headers: vec![("content-type", "text/event-stream".to_owned())],
        ..ReplyH2::ok(events)
    })
    .await;
    let port = second.to_string().rsplit_once(':').unwrap().1.to_owned();
    let gateway = over_tls(&authority, &format!("https://localhost:{port}/v1")).await;
    // By one caller: each worker has connections of its own.
    let mut client = Client::connect(&gateway).await;
    for _ in 0..2 {
        assert_eq!(
            stream_from(&mut client).await,
            ("over two".to_owned(), true)
        );
    }
    let asked = second.last().await;
    assert!(
        asked.head.contains("HTTP/2") || asked.header("authorization").is_some(),
        "{}",
        asked.head
    );
    assert_eq!(
        (second.count(), second.connections()),
        (2, 1),
        "one connection for both"
    );

    // Signed by nobody that is known.
    let gateway = over_tls(&Authority::new(), &provider.url()).await;
    let (path, body) = call(Speaks::Chat, "gpt", true, "no");
    let mut client = Client::connect(&gateway).await;
    let answer = client.post(&path, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
}
