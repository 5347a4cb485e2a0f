//! What each door promises beyond the answer itself: when to come again, where one stands, how it ends, what it takes.

use super::{ALL, Ai, QUICK, ROUTE, Speaks, call, hear, refusal};
use crate::harness::{Client, Fault, Trouble};
use bytes::Bytes;
use serde_json::{Value, json};

/// Settings of the provider, its failure, the status, and between how many seconds the wait is.
type Row = (&'static str, fn() -> Fault, u16, u64, u64);

#[tokio::test]
async fn a_refusal_says_when_to_come_again_though_the_provider_did_not() {
    let wordless = || Fault::Answer(429, Vec::new(), "{}".into());
    let rows: [Row; 5] = [
        ("retry: { attempts: 1 }", wordless, 429, 1, 5),
        (
            "retry: { attempts: 1 }, key_cooldown: 40s",
            || Fault::Error(Trouble::Quota),
            429,
            30,
            40,
        ),
        (
            "retry: { attempts: 1 }, breaker: { failures: 1, open: 20s }",
            || Fault::Error(Trouble::Unavailable),
            503,
            10,
            20,
        ),
        (
            "retry: { attempts: 1 }",
            || Fault::Error(Trouble::Unavailable),
            503,
            1,
            1,
        ),
        (
            "retry: { attempts: 1 }",
            || Fault::Error(Trouble::RateLimitFor(std::time::Duration::from_secs(50))),
            429,
            50,
            50,
        ),
    ];
    for (settings, fault, status, least, most) in rows {
        for speaks in ALL {
            let ai = Ai::start(settings, ROUTE).await;
            ai.openai.times(9, &fault());
            let answer = ai.ask(speaks, "gpt", true).await;
            let case = format!("{settings}, {speaks:?}: {}", answer.head);
            assert_eq!(answer.status, status, "{case}");
            let wait = answer.header("retry-after").expect(&case);
            let wait: u64 = wait.parse().expect("whole seconds");
            assert!((least..=most).contains(&wait), "{case}");
        }
    }
    let ai = Ai::start("retry: { attempts: 1 }", ROUTE).await;
    ai.openai.times(9, &Fault::Error(Trouble::Server));
    let answer = ai.ask(Speaks::Chat, "gpt", false).await;
    assert_eq!((answer.status, answer.header("retry-after")), (502, None));
}

#[tokio::test]
async fn after_a_failover_the_limits_of_who_answers_are_told() {
    let document =
        "limits: { rules: { each: { by: provider, requests: 9 }, all: { requests: 100 } } }
routes: { ai: { ai: {}, limits: [each, all] } }
";
    let ai = Ai::start("retry: { backoff: 1ms }", document).await;
    for _ in 0..3 {
        ai.ask(Speaks::Chat, "claude", false).await;
    }
    ai.openai.times(9, &Fault::Error(Trouble::Overloaded));
    let answer = ai.ask(Speaks::Chat, "smart", false).await;
    assert_eq!(answer.header("x-onemind-provider"), Some("anthropic"));
    let told = answer.header("ratelimit").expect(&answer.head);
    assert!(told.contains("\"each\";r=5"), "{told}");
    assert!(told.contains("\"all\";r=96"), "{told}");
    let policy = answer.header("ratelimit-policy").expect(&answer.head);
    assert!(policy.contains("\"each\";q=9"), "{policy}");
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("5"));
}

/// A stream of chat of these lines, as a provider sends it.
fn streamed(lines: &[Value]) -> Fault {
    let lines: Vec<String> = lines
        .iter()
        .map(|line| format!("data: {line}\n\n"))
        .collect();
    let body = lines.concat();
    let events = ("content-type".to_owned(), "text/event-stream".to_owned());
    Fault::Answer(200, vec![events], Bytes::from(body))
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] })
}

#[tokio::test]
async fn a_chat_ends_with_its_mark_and_without_an_error_exactly_when_it_is_whole() {
    let word = chunk(&json!({ "role": "assistant", "content": "one" }), None);
    let finish = chunk(&json!({}), Some("stop"));
    for (lines, whole) in [(vec![word.clone(), finish], true), (vec![word], false)] {
        let ai = Ai::start("retry: { attempts: 1 }", ROUTE).await;
        ai.openai.then(streamed(&lines));
        let answer = ai.ask(Speaks::Chat, "gpt", true).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        // Whoever waits for the mark gets it behind an error too, which every SDK raises.
        let marks = text.matches("data: [DONE]").count();
        assert!(marks == 1 && text.ends_with("data: [DONE]\n\n"), "{text}");
        let heard = hear(Speaks::Chat, &answer, true);
        assert_eq!(heard.error.is_none(), whole, "{text}");
        let line = ai
            .gateway
            .access_log_line(|line| line["status"] == 200)
            .await;
        assert_eq!(line["ending"] == "completed", whole, "{line}");
    }
}

fn words_of(items: &Value) -> String {
    let items = items.as_array().expect("a list");
    let texts = items.iter().filter_map(|item| {
        let parts = item["candidates"][0]["content"]["parts"].as_array()?;
        Some(
            parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect::<String>(),
        )
    });
    texts.collect()
}

#[tokio::test]
async fn gemini_streams_a_list_of_json_unless_events_are_asked_for() {
    let ai = Ai::start(QUICK, ROUTE).await;
    let (_, body) = call(Speaks::Gemini, "flash", true, "one two three");
    for model in ["flash", "gpt", "claude"] {
        for query in ["", "?alt=json", "?key=unused"] {
            let path = format!("/v1beta/models/{model}:streamGenerateContent{query}");
            let answer = ai.post(&path, &body).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let kind = answer.header("content-type").unwrap_or_default();
            assert!(kind.starts_with("application/json"), "{path}: {kind}");
            let items = answer.json();
            assert!(
                answer.complete && items.as_array().unwrap().len() > 1,
                "{items}"
            );
            assert!(!words_of(&items).is_empty(), "{path}: {items}");
        }
    }
    let path = "/v1beta/models/flash:streamGenerateContent?alt=proto";
    let answer = ai.post(path, &body).await;
    let (status, _, message) = refusal(Speaks::Gemini, &answer);
    assert_eq!(status, 400);
    assert!(message.contains("`alt`"), "{message}");
    ai.gemini
        .answering("one two three four five six")
        .then(Fault::CutAfter(3));
    let path = "/v1beta/models/flash:streamGenerateContent";
    let answer = ai.post(path, &body).await;
    let items = answer.json();
    assert!(words_of(&items).starts_with("one"), "{items}");
    let last = items.as_array().unwrap().last().unwrap();
    assert!(last["error"]["message"].is_string(), "{items}");
    ai.gateway.settled().await;
}

#[tokio::test]
async fn what_may_be_read_in_two_ways_or_leads_elsewhere_goes_to_nobody() {
    let ai = Ai::usual().await;
    let twice = r#"{"model":"MODEL","messages":[{"role":"user","content":"a","role":"system"}]}"#;
    let picture = r#"{"model":"MODEL","messages":[{"role":"user","content":[
        {"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}"#;
    for model in ["gpt", "claude", "local/m"] {
        for (body, words) in [(twice, "`role` is there twice"), (picture, "`file:`")] {
            let body = body.replace("MODEL", model);
            let mut client = Client::connect(&ai.gateway).await;
            let answer = client.post("/v1/chat/completions", body.as_bytes()).await;
            let (status, _, message) = refusal(Speaks::Chat, &answer);
            assert_eq!(status, 400, "{model}: {}", answer.text());
            assert!(message.contains(words), "{model}: {message}");
        }
    }
    let body = json!({ "model": "claude", "max_tokens": 9, "messages": [{ "role": "user", "content": [
        { "type": "image", "source": { "type": "url", "url": "ftp://host/a.png" } }] }] });
    let answer = ai.post("/v1/messages", &body).await;
    let (status, _, message) = refusal(Speaks::Messages, &answer);
    assert_eq!(status, 400, "{message}");
    assert!(message.contains("`ftp:`"), "{message}");
    assert_eq!(ai.openai.count() + ai.anthropic.count(), 0);
    ai.gateway.settled().await;
}
