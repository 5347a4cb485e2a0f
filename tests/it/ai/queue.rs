//! Providers with as much work as they are given: who waits, who goes first, and who is told to come back.

use super::{Ai, Speaks, call, refusal};
use crate::harness::{Answer, Client, Fault, Gateway, PROVIDER_KEY, Provider, Trouble, eventually};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const ROUTE: &str = "identity: { callers: { keys: { known: [
  { name: one, user: alice, secret: key-of-alice-0123456789 }, { name: two, user: bob, secret: key-of-bob-0123456789 },
  { name: three, user: carol, secret: key-of-carol-0123456789 } ] } } }
routes: { ai: { path: [/v1/*, /v1beta/*], ai: {}, identity: callers } }
";

/// One place at each provider.
fn one_place(queue: &str) -> String {
    format!("capacity: {{ max_in_flight: 1, {queue} }}, retry: {{ backoff: 1ms }}")
}

/// A call of `gpt`, or of another model, that goes on beside the test.
fn ask(ai: &Ai, user: &str, prompt: &str) -> JoinHandle<Answer> {
    ask_for(&ai.gateway, Speaks::Chat, "gpt", user, prompt)
}

fn ask_for(
    gateway: &Gateway,
    speaks: Speaks,
    model: &str,
    user: &str,
    prompt: &str,
) -> JoinHandle<Answer> {
    let (path, body) = call(speaks, model, false, prompt);
    let credential = format!("Bearer key-of-{user}-0123456789");
    let connecting = TcpStream::connect(gateway.address("http"));
    let sent = gateway.sent();
    tokio::spawn(async move {
        let mut client = Client::counted(connecting.await.unwrap(), &sent);
        let headers = [
            ("content-type", "application/json"),
            ("authorization", credential.as_str()),
        ];
        client
            .request("POST", &path, &headers, body.to_string().as_bytes())
            .await
    })
}

async fn waiting(ai: &Ai, count: u32) {
    eventually(&format!("{count} wait"), async || {
        let waiting = ai.gateway.metric("onemind_queue_waiting{pool=\"openai\"}");
        ((waiting.await - f64::from(count)).abs() < 0.5).then_some(())
    })
    .await;
}

/// Takes the only place at `OpenAI` until the test says so.
async fn occupy(ai: &Ai) -> (Arc<Notify>, JoinHandle<Answer>) {
    let go_on = Arc::new(Notify::new());
    ai.openai.then(Fault::Held(Arc::clone(&go_on)));
    let first = ask(ai, "alice", "first");
    eventually("the first is there", async || {
        (ai.openai.count() == 1).then_some(())
    })
    .await;
    (go_on, first)
}

fn prompts(ai: &Ai) -> Vec<String> {
    let seen = ai.openai.seen();
    let prompts = seen
        .iter()
        .map(|asked| asked.body["messages"][0]["content"].clone());
    prompts
        .map(|prompt| prompt.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn users_take_turns_however_many_calls_one_of_them_makes() {
    let ai = Ai::start(&one_place("queue_timeout: 60s"), ROUTE).await;
    let (go_on, first) = occupy(&ai).await;
    let mut calls = vec![first];
    for (nth, (user, prompt)) in (1..).zip([
        ("alice", "a1"),
        ("alice", "a2"),
        ("alice", "a3"),
        ("alice", "a4"),
        ("bob", "b1"),
        ("bob", "b2"),
        ("carol", "c1"),
    ]) {
        calls.push(ask(&ai, user, prompt));
        waiting(&ai, nth).await;
    }
    go_on.notify_one();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer.header("x-onemind-queue-ms").is_some(),
            "{}",
            answer.head
        );
    }
    assert_eq!(
        prompts(&ai),
        ["first", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    );
    waiting(&ai, 0).await;
    let line = ai
        .gateway
        .access_log_line(|line| line["user"] == "carol")
        .await;
    assert!(line["ai"]["queue_ms"].as_f64() >= Some(1.0), "{line}");
    ai.gateway.settled().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back_and_has_room_for_who_has_less_in_it() {
    let ai = Ai::start(&one_place("queue_max: 2, queue_timeout: 60s"), ROUTE).await;
    let (go_on, first) = occupy(&ai).await;
    let second = ask(&ai, "alice", "a1");
    waiting(&ai, 1).await;
    let pushed_out = ask(&ai, "alice", "a2");
    waiting(&ai, 2).await;
    // Far more than would open a breaker: it is no fault of the provider's.
    for speaks in [Speaks::Chat, Speaks::Messages, Speaks::Gemini] {
        for _ in 0..3 {
            let answer = ask_for(&ai.gateway, speaks, "gpt", "alice", "no")
                .await
                .unwrap();
            told_to_come_back(speaks, &answer);
        }
    }
    let bob = ask(&ai, "bob", "b1");
    told_to_come_back(Speaks::Chat, &pushed_out.await.unwrap());
    waiting(&ai, 2).await;
    let rejected = "onemind_queue_rejections_total{pool=\"openai\",reason=\"full\"}";
    assert!((ai.gateway.metric(rejected).await - 10.0).abs() < 0.5);
    go_on.notify_one();
    for call in [first, second, bob] {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(prompts(&ai), ["first", "a1", "b1"]);
    let line = ai
        .gateway
        .access_log_line(|line| line["ending"] == "queue_full")
        .await;
    assert_eq!(line["code"], "queue_full", "{line}");
    ai.gateway.settled().await;
}

fn told_to_come_back(speaks: Speaks, answer: &Answer) {
    let (status, kind, _) = refusal(speaks, answer);
    let expected = match speaks {
        Speaks::Chat | Speaks::Responses => (503, "queue_full"),
        Speaks::Messages => (503, "overloaded_error"),
        Speaks::Gemini => (503, "UNAVAILABLE"),
    };
    assert_eq!((status, kind.as_str()), expected, "{}", answer.text());
    let wait = answer
        .header("retry-after")
        .and_then(|wait| wait.parse().ok());
    assert!((1..=60).contains(&wait.unwrap_or(0)), "{}", answer.head);
}

#[tokio::test]
async fn who_waited_in_vain_is_told_and_another_provider_is_asked_where_there_is_one() {
    let ai = Ai::start(&one_place("queue_timeout: 300ms"), ROUTE).await;
    let (go_on, first) = occupy(&ai).await;
    told_to_come_back(Speaks::Chat, &ask(&ai, "bob", "late").await.unwrap());
    let line = ai
        .gateway
        .access_log_line(|line| line["ending"] == "queue_full")
        .await;
    assert!(line["ai"]["queue_ms"].as_f64() >= Some(250.0), "{line}");
    let timed_out = "onemind_queue_rejections_total{pool=\"openai\",reason=\"timed_out\"}";
    assert!((ai.gateway.metric(timed_out).await - 1.0).abs() < 0.5);
    let other = ask_for(&ai.gateway, Speaks::Chat, "smart", "bob", "else");
    let answer = other.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-onemind-provider"), Some("anthropic"));
    go_on.notify_one();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(ai.openai.count(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_gives_up_its_turn() {
    let ai = Ai::start(&one_place("queue_timeout: 60s"), ROUTE).await;
    let (go_on, first) = occupy(&ai).await;
    let (path, body) = call(Speaks::Chat, "gpt", false, "gone");
    let body = body.to_string();
    let mut leaves = TcpStream::connect(ai.gateway.address("http"))
        .await
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer key-of-bob-0123456789\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    leaves.write_all(head.as_bytes()).await.unwrap();
    waiting(&ai, 1).await;
    let stays = ask(&ai, "carol", "stays");
    waiting(&ai, 2).await;
    drop(leaves);
    waiting(&ai, 1).await;
    let line = ai
        .gateway
        .access_log_line(|line| line["ending"] == "client_left")
        .await;
    assert_eq!(line["user"], "bob", "{line}");
    go_on.notify_one();
    for call in [first, stays] {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(prompts(&ai), ["first", "stays"]);
}

/// `OpenAI` alone, with these keys and settings.
async fn alone(provider: &Provider, keys: &str, more: &str) -> Gateway {
    let yaml = format!(
        "listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
providers: {{ openai: {{ base_url: '{{{{openai}}}}', keys: {keys}, {more} }} }}
models: {{ gpt: {{ targets: openai/gpt-5 }}, mini: {{ targets: openai/gpt-5-mini }} }}
{ROUTE}"
    );
    Gateway::start(&yaml, &[("openai", &provider.url())]).await
}

async fn say(gateway: &Gateway, model: &str) -> Answer {
    let call = ask_for(gateway, Speaks::Chat, model, "alice", "one two");
    call.await.unwrap()
}

#[tokio::test]
async fn a_key_with_too_little_left_is_spared_and_nobody_runs_into_a_429() {
    let provider = Provider::openai().await;
    provider.keys(&["a", "b"]).saying(&[
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "5h0m0s"),
    ]);
    let gateway = alone(&provider, "[a, b]", "retry: { backoff: 1ms }").await;
    for _ in 0..2 {
        assert_eq!(say(&gateway, "gpt").await.status, 200);
    }
    let shown: Vec<_> = provider
        .seen()
        .iter()
        .map(|asked| asked.header("authorization").unwrap().to_owned())
        .collect();
    assert_ne!(shown[0], shown[1]);
    let answer = say(&gateway, "gpt").await;
    let (status, code, _) = refusal(Speaks::Chat, &answer);
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    let wait = answer
        .header("retry-after")
        .and_then(|wait| wait.parse().ok());
    assert!(wait.unwrap_or(0) > 10, "{}", answer.head);
    assert_eq!(provider.count(), 2, "it was not asked");
    // Limits are counted for each model.
    assert_eq!(say(&gateway, "mini").await.status, 200);
}

#[tokio::test]
async fn what_comes_back_soon_is_waited_for() {
    let provider = Provider::openai().await;
    provider.saying(&[
        ("x-ratelimit-limit-requests", "1"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "400ms"),
    ]);
    let gateway = alone(&provider, PROVIDER_KEY, "retry: { attempts: 1 }").await;
    assert_eq!(
        say(&gateway, "gpt").await.header("x-onemind-queue-ms"),
        Some("0")
    );
    for _ in 0..2 {
        let answer = say(&gateway, "gpt").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let queued = answer.header("x-onemind-queue-ms").unwrap();
        assert_ne!(queued, "0");
    }
    assert_eq!(provider.count(), 3);
}

#[tokio::test]
async fn a_key_that_was_refused_for_a_moment_is_waited_for_by_those_who_come_then() {
    let provider = Provider::openai().await;
    provider.then(Fault::Error(Trouble::RateLimitMs(600)));
    let gateway = alone(&provider, PROVIDER_KEY, "retry: { attempts: 1 }").await;
    assert_eq!(say(&gateway, "gpt").await.status, 429);
    let answer = say(&gateway, "gpt").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(provider.count(), 2);
}

#[tokio::test]
async fn no_more_wait_for_a_key_than_may_wait() {
    let provider = Provider::openai().await;
    provider.then(Fault::Error(Trouble::RateLimitMs(3_000)));
    let more = "retry: { attempts: 1 }, capacity: { queue_max: 1 }";
    let gateway = alone(&provider, PROVIDER_KEY, more).await;
    assert_eq!(say(&gateway, "gpt").await.status, 429);
    let calls = [0, 1, 2].map(|_| ask_for(&gateway, Speaks::Chat, "gpt", "alice", "one"));
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503, 503]);
}
