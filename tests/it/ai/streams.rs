//! Streams: each event at once, nothing lost, and nobody waited for in vain.

use super::{Ai, ROUTE, Speaks, call, hear};
use crate::harness::{Client, Fault, eventually, in_time};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A caller that reads as it comes.
pub async fn open(ai: &Ai, speaks: Speaks, model: &str) -> TcpStream {
    let (path, body) = call(speaks, model, true, "one two three");
    let body = body.to_string();
    let mut stream = TcpStream::connect(ai.gateway.address("http"))
        .await
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// Reads until this has come.
pub async fn until(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let reading = async {
        let mut piece = [0; 4096];
        while !text.contains(what) {
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "ended before {what}: {text}");
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    };
    in_time(what, reading).await;
    text
}

#[tokio::test]
async fn each_event_goes_out_when_it_comes_in() {
    for (model, speaks) in [
        ("gpt", Speaks::Chat),
        ("claude", Speaks::Chat),
        ("gpt", Speaks::Messages),
    ] {
        let ai = Ai::usual().await;
        let go_on = Arc::new(Notify::new());
        for provider in [&ai.openai, &ai.anthropic] {
            provider.answering("alpha beta gamma delta epsilon zeta");
            provider.then(Fault::HoldAfter(5, Arc::clone(&go_on)));
        }
        let mut stream = open(&ai, speaks, model).await;
        // The provider goes on only when the caller has what came before.
        let begun = until(&mut stream, "alpha").await;
        assert!(!begun.contains("zeta"), "{begun}");
        assert!(
            !begun.to_ascii_lowercase().contains("content-length"),
            "{begun}"
        );
        go_on.notify_one();
        until(&mut stream, "zeta").await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_call_with_it() {
    let ai = Ai::usual().await;
    ai.openai
        .answering("alpha beta gamma delta")
        .then(Fault::StallAfter(3));
    let mut stream = open(&ai, Speaks::Chat, "gpt").await;
    until(&mut stream, "alpha").await;
    drop(stream);
    ai.openai.cut(0).await;
    let line = ai
        .gateway
        .access_log_line(|line| line["ending"] == "client_left")
        .await;
    assert_eq!(line["ai"]["usage"], "estimated", "{line}");
    assert!(line["ai"]["output_tokens"].as_u64() > Some(0), "{line}");
    // Also one that is still waiting for the head of an answer.
    ai.openai.then(Fault::NoHead);
    let stream = open(&ai, Speaks::Chat, "gpt").await;
    eventually("the second call", async || {
        (ai.openai.count() == 2).then_some(())
    })
    .await;
    drop(stream);
    ai.openai.cut(1).await;
    eventually("its prompt to be counted", async || {
        let lines = ai.gateway.access_log();
        let counted = |line: &&serde_json::Value| {
            line["ending"] == "client_left" && line["ai"]["output_tokens"] == 0
        };
        let line = lines.iter().find(counted)?;
        (line["ai"]["input_tokens"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_provider_and_not_our_memory() {
    let ai = Ai::start("", ROUTE).await;
    ai.openai.answering(&"word ".repeat(400_000));
    let before = ai.gateway.memory_kib("VmRSS");
    let mut stream = open(&ai, Speaks::Chat, "gpt").await;
    until(&mut stream, "word").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let during = ai.gateway.memory_kib("VmRSS");
    assert!(
        during < before + 16 * 1024,
        "{before} KiB, then {during} KiB"
    );
    let mut rest = Vec::new();
    in_time("the rest", async {
        let mut piece = vec![0; 64 << 10];
        while !rest.ends_with(b"0\r\n\r\n") {
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0);
            rest.extend_from_slice(&piece[..read]);
        }
    })
    .await;
    assert!(String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[tokio::test]
async fn however_a_stream_is_cut_the_same_words_arrive() {
    for bytes in [1, 7, 64] {
        let ai = Ai::usual().await;
        for (model, provider) in [
            ("gpt", &ai.openai),
            ("claude", &ai.anthropic),
            ("flash", &ai.gemini),
        ] {
            provider.chunks(bytes).comments();
            for speaks in super::ALL {
                let answer = ai.ask(speaks, model, true).await;
                let heard = hear(speaks, &answer, true);
                assert!(heard.whole, "{bytes} {model} {speaks:?}: {}", answer.text());
                assert!(heard.text.contains("one two three"), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn connections_to_providers_are_used_again() {
    let ai = Ai::usual().await;
    let mut client = Client::connect(&ai.gateway).await;
    for stream in [false, true, false, true] {
        let (path, body) = call(Speaks::Chat, "gpt", stream, "a");
        let answer = client.post(&path, body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(ai.openai.count(), 4);
    assert!(ai.openai.connections() <= 2, "{}", ai.openai.connections());
}

#[tokio::test]
async fn a_large_prompt_arrives_whole_and_can_be_sent_again() {
    let ai = Ai::usual().await;
    ai.openai
        .times(9, &Fault::Error(crate::harness::Trouble::Overloaded));
    let prompt = "p".repeat(3 << 20);
    let answer = ai.say(Speaks::Chat, "smart", false, &prompt).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = ai.anthropic.last().await;
    let content = asked.body["messages"][0]["content"].to_string();
    assert!(content.matches('p').count() >= 3 << 20);
}

#[tokio::test]
async fn a_line_is_kept_awake_while_a_model_thinks_and_another_can_still_take_over() {
    let route = "routes: { ai: { ai: { heartbeat: 100ms } } }\n";
    let limits = "retry: { backoff: 1ms }, timeouts: { first_token: 700ms, gap: 5s }";
    for (speaks, takes_comments) in [
        (Speaks::Chat, true),
        (Speaks::Messages, true),
        (Speaks::Responses, true),
        (Speaks::Gemini, false),
    ] {
        let ai = Ai::start(limits, route).await;
        ai.openai.then(Fault::NoHead);
        let answer = ai.ask(speaks, "smart", true).await;
        let text = answer.text();
        assert_eq!(text.contains(": keep-alive"), takes_comments, "{text}");
        let heard = hear(speaks, &answer, true);
        assert!(heard.whole && heard.error.is_none(), "{text}");
        assert_eq!(ai.anthropic.count(), 1);
        if !takes_comments {
            continue;
        }
        // Once it has its 200, a caller is told in the stream that nobody answers.
        ai.openai.then(Fault::FirstLate(Duration::from_secs(9)));
        ai.anthropic.then(Fault::NoBody);
        let answer = ai.ask(speaks, "smart", true).await;
        assert_eq!(answer.status, 200);
        let heard = hear(speaks, &answer, true);
        assert!(!heard.whole && heard.error.is_some(), "{}", answer.text());
        assert!(answer.complete);
        ai.gateway.settled().await;
    }
}
