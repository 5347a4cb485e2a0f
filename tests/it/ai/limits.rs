//! Limits of calls: by provider, by tokens, and told as `OpenAI` tells them.

use super::{Ai, Speaks, hear, refusal};
use crate::harness::{Client, Fault, Trouble};
use serde_json::json;

#[tokio::test]
async fn a_call_counts_for_the_provider_that_answers_and_once() {
    let document =
        "limits: { rules: { each: { by: provider, requests: 2 }, all: { requests: 100 } } }
routes: { ai: { ai: {}, limits: [each, all] } }
";
    let ai = Ai::start("retry: { backoff: 1ms }", document).await;
    ai.openai.times(9, &Fault::Error(Trouble::Overloaded));
    let answer = ai.ask(Speaks::Chat, "smart", false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let remaining = answer.header("x-ratelimit-remaining-requests");
    assert!(remaining.is_some(), "{}", answer.head);
    // That one was Anthropic's: OpenAI still has its two.
    ai.openai.calm();
    for _ in 0..2 {
        let answer = ai.ask(Speaks::Chat, "gpt", false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = ai.ask(Speaks::Chat, "gpt", false).await;
    let (status, _, message) = refusal(Speaks::Chat, &answer);
    assert_eq!(status, 429);
    assert!(message.contains("`each`"), "{message}");
    assert!(answer.header("retry-after").is_some());
    let answer = ai.ask(Speaks::Messages, "claude", false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = ai.ask(Speaks::Messages, "claude", false).await;
    assert_eq!(refusal(Speaks::Messages, &answer).1, "rate_limit_error");
}

#[tokio::test]
async fn tokens_are_reserved_by_a_guess_and_settled_by_the_truth() {
    let document = "limits: { rules: { tokens: { tokens: 3000 } } }
routes: { ai: { ai: {}, limits: tokens } }
";
    let ai = Ai::start("", document).await;
    // Each is thought to cost a thousand and some, and costs a dozen.
    for nth in 0..5 {
        let answer = ai.ask(Speaks::Chat, "gpt", false).await;
        assert_eq!(answer.status, 200, "{nth}: {}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("3000"));
        ai.gateway.settled().await;
    }
    // And what costs more than was thought counts in full.
    ai.openai.answering(&"word ".repeat(4_000));
    let answer = ai.ask(Speaks::Chat, "gpt", true).await;
    assert!(hear(Speaks::Chat, &answer, true).whole);
    ai.gateway.settled().await;
    let answer = ai.ask(Speaks::Chat, "gpt", false).await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 429, "{}", answer.text());
}

#[tokio::test]
async fn mistakes_count_and_whoever_is_over_is_refused_before_its_body_is_read() {
    let document = "limits: { rules: { user: { by: address, requests: 3 } } }
routes: { ai: { ai: {}, limits: user } }
";
    let ai = Ai::start("", document).await;
    for body in [
        json!({ "model": "nobody" }),
        json!({ "model": 3 }),
        json!([]),
    ] {
        let answer = ai.post("/v1/chat/completions", &body).await;
        assert!([400, 404].contains(&answer.status), "{}", answer.text());
        assert!(answer.header("ratelimit").is_some(), "{}", answer.head);
    }
    let mut client = Client::connect(&ai.gateway).await;
    client.count(1);
    // The body never comes, and nobody waits for it.
    client
        .send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 429);
    assert!(answer.informational.is_empty());
    assert_eq!(ai.openai.count(), 0);
}

#[tokio::test]
async fn a_provider_whose_limit_is_reached_is_passed_over() {
    let document = "limits: { rules: { each: { by: provider, requests: 1 } } }
routes: { ai: { ai: {}, limits: each } }
";
    let ai = Ai::start("", document).await;
    for provider in ["openai", "anthropic"] {
        let answer = ai.ask(Speaks::Chat, "smart", false).await;
        assert_eq!(answer.header("x-onemind-provider"), Some(provider));
    }
    let answer = ai.ask(Speaks::Chat, "smart", false).await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 429);
}
