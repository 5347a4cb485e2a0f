//! The table of failures: for each what the caller sees, how often providers were asked, and how it ended.

use super::{ALL, Ai, ROUTE, Speaks, call, hear, refusal};
use crate::harness::{Fault, PROVIDER_KEY, Trouble};
use serde_json::{Value, json};
use std::time::Duration;

/// One failure of the first provider, met by a model that has no other target, and by one that has.
struct Row {
    name: &'static str,
    fault: fn() -> Fault,
    /// How often it happens.
    times: usize,
    /// Alone: the status, and how often the provider was asked.
    alone: (u16, usize),
    /// How often the first of two was asked, before the second one answered.
    before_other: usize,
}

const fn row(
    name: &'static str,
    fault: fn() -> Fault,
    times: usize,
    alone: (u16, usize),
    before_other: usize,
) -> Row {
    Row {
        name,
        fault,
        times,
        alone,
        before_other,
    }
}

/// Makes a failure, or one after so many events.
type Make = fn() -> Fault;
type MakeAfter = fn(usize) -> Fault;

/// Failures that a caller sees the same whether it asked for a stream or not.
const ROWS: &[Row] = &[
    row(
        "429 that says when",
        || Fault::Error(Trouble::RateLimitMs(20)),
        1,
        (200, 2),
        2,
    ),
    row(
        "429 that says less than nothing",
        || Fault::Answer(429, Vec::new(), "{}".into()),
        9,
        (429, 2),
        1,
    ),
    row(
        "429 without a word",
        || Fault::Error(Trouble::RateLimit),
        9,
        (429, 1),
        1,
    ),
    row(
        "429 for a minute",
        || Fault::Error(Trouble::RateLimitFor(Duration::from_mins(1))),
        9,
        (429, 1),
        1,
    ),
    row(
        "quota exhausted",
        || Fault::Error(Trouble::Quota),
        9,
        (429, 1),
        1,
    ),
    row("500 once", || Fault::Error(Trouble::Server), 1, (200, 2), 2),
    row(
        "500 for long",
        || Fault::Error(Trouble::Server),
        9,
        (502, 2),
        2,
    ),
    row("503", || Fault::Error(Trouble::Unavailable), 9, (503, 2), 1),
    row(
        "overloaded",
        || Fault::Error(Trouble::Overloaded),
        9,
        (503, 2),
        1,
    ),
    row("bad key", || Fault::Error(Trouble::BadKey), 9, (502, 1), 1),
    row(
        "no such model",
        || Fault::Error(Trouble::UnknownModel),
        9,
        (404, 1),
        1,
    ),
    row("silence before the head", || Fault::NoHead, 9, (504, 1), 1),
    row("wrong content type", || Fault::Html, 9, (502, 2), 2),
    row("not JSON", || Fault::NotJson, 9, (502, 2), 2),
    row("nothing", || Fault::Empty, 9, (502, 2), 2),
];

#[tokio::test]
async fn each_failure_is_mended_where_it_can_be_and_told_where_it_cannot() {
    for row in ROWS {
        for stream in [false, true] {
            alone(row, stream).await;
            with_another(row, stream).await;
        }
    }
}

/// `total` ends answers that come whole and never begin.
const IMPATIENT: &str =
    "retry: { backoff: 1ms }, timeouts: { first_token: 700ms, gap: 700ms, total: 700ms }";

async fn alone(row: &Row, stream: bool) {
    let ai = Ai::start(IMPATIENT, ROUTE).await;
    let case = format!("{} alone, stream {stream}", row.name);
    ai.openai.times(row.times, &(row.fault)());
    let answer = ai.ask(Speaks::Chat, "gpt", stream).await;
    let (status, asked) = row.alone;
    assert_eq!(answer.status, status, "{case}: {}", answer.text());
    assert_eq!(ai.openai.count(), asked, "{case}");
    if status == 200 {
        assert!(hear(Speaks::Chat, &answer, stream).whole, "{case}");
    } else {
        refusal(Speaks::Chat, &answer);
        assert!(!answer.text().contains("sk-"), "{case}: {}", answer.text());
    }
    ai.gateway.settled().await;
}

async fn with_another(row: &Row, stream: bool) {
    let ai = Ai::start(IMPATIENT, ROUTE).await;
    let case = format!("{} with another, stream {stream}", row.name);
    ai.openai.times(row.times, &(row.fault)());
    let answer = ai.ask(Speaks::Chat, "smart", stream).await;
    assert_eq!(answer.status, 200, "{case}: {}", answer.text());
    assert!(hear(Speaks::Chat, &answer, stream).whole, "{case}");
    assert_eq!(ai.openai.count(), row.before_other, "{case}");
    let other = usize::from(row.times > 1);
    assert_eq!(ai.anthropic.count(), other, "{case}");
    if other == 1 {
        assert_eq!(
            answer.header("x-onemind-provider"),
            Some("anthropic"),
            "{case}"
        );
        let line = ai
            .gateway
            .access_log_line(|line| line["status"] == 200)
            .await;
        assert_eq!(line["ai"]["provider"], "anthropic", "{case}: {line}");
        let attempts = line["attempts"].as_array().map_or(0, Vec::len);
        assert_eq!(attempts, row.before_other + 1, "{case}: {line}");
    }
    ai.gateway.settled().await;
}

/// Failures of a stream before its first content: the other provider takes over, and nobody sees it.
#[tokio::test]
async fn a_stream_that_fails_before_its_first_word_is_taken_over() {
    let rows: [(&str, Make); 8] = [
        ("silence after the head", || Fault::NoBody),
        ("first token too late", || {
            Fault::FirstLate(Duration::from_secs(5))
        }),
        ("error first", || Fault::ErrorFirst(Trouble::Overloaded)),
        ("quota after the opening", || {
            Fault::ErrorFirst(Trouble::Quota)
        }),
        ("cut at once", || Fault::CutAfter(0)),
        ("end at once", || Fault::EndAfter(0)),
        ("blank lines for ever", || Fault::BlankLines),
        ("a huge event", || Fault::Huge(10 << 20)),
    ];
    for (name, fault) in rows {
        for speaks in ALL {
            let ai = Ai::start(IMPATIENT, ROUTE).await;
            ai.openai.times(9, &fault());
            let answer = ai.ask(speaks, "smart", true).await;
            assert_eq!(answer.status, 200, "{name}, {speaks:?}: {}", answer.text());
            let heard = hear(speaks, &answer, true);
            assert!(heard.whole, "{name}, {speaks:?}: {}", answer.text());
            assert_eq!(heard.error, None, "{name}, {speaks:?}");
            assert_eq!(ai.anthropic.count(), 1, "{name}, {speaks:?}");
            ai.gateway.settled().await;
        }
    }
}

/// Failures after the first content: the caller is told within the stream, in its dialect, and never that it
/// was whole.
#[tokio::test]
async fn a_stream_that_fails_after_its_first_word_says_so() {
    let rows: [(&str, MakeAfter, &str); 6] = [
        ("cut", Fault::CutAfter, "upstream_cut"),
        ("end", Fault::EndAfter, "upstream_cut"),
        ("reset", Fault::ResetAfter, "upstream_cut"),
        ("stall", Fault::StallAfter, "timed_out_idle"),
        ("half an event", Fault::HalfAt, "upstream_cut"),
        (
            "error",
            |after| Fault::ErrorAfter(after, Trouble::Server),
            "provider_failed",
        ),
    ];
    // How many events it takes until a word was said.
    let providers = [
        ("gpt", Speaks::Chat, 4),
        ("gpt", Speaks::Responses, 7),
        ("gpt", Speaks::Messages, 7),
        ("claude", Speaks::Messages, 5),
        ("claude", Speaks::Chat, 5),
        ("flash", Speaks::Gemini, 3),
        ("flash", Speaks::Chat, 3),
    ];
    for (name, fault, ending) in rows {
        for (model, speaks, after) in providers {
            let ai = Ai::start(IMPATIENT, ROUTE).await;
            let case = format!("{name} at {model}, {speaks:?}");
            for provider in [&ai.openai, &ai.anthropic, &ai.gemini] {
                provider
                    .answering("one two three four five six seven eight nine ten")
                    .then(fault(after));
            }
            let answer = ai.ask(speaks, model, true).await;
            assert_eq!(answer.status, 200, "{case}: {}", answer.text());
            let heard = hear(speaks, &answer, true);
            assert!(heard.text.starts_with("one"), "{case}: {}", answer.text());
            assert!(!heard.whole, "{case}: {}", answer.text());
            let error = heard.error.unwrap_or(Value::Null);
            assert!(error["message"].is_string(), "{case}: {}", answer.text());
            let line = ai
                .gateway
                .access_log_line(|line| line["status"] == 200)
                .await;
            assert_eq!(line["ending"], ending, "{case}: {line}");
            assert_eq!(line["ai"]["usage"], "estimated", "{case}: {line}");
            assert!(
                line["ai"]["output_tokens"].as_u64() > Some(0),
                "{case}: {line}"
            );
            ai.gateway.settled().await;
        }
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_left_out() {
    for (model, speaks) in [
        ("gpt", Speaks::Chat),
        ("claude", Speaks::Messages),
        ("claude", Speaks::Chat),
    ] {
        let ai = Ai::usual().await;
        for provider in [&ai.openai, &ai.anthropic] {
            provider
                .answering("one two three four five six")
                .then(Fault::NotJsonAt(5));
        }
        let answer = ai.ask(speaks, model, true).await;
        let heard = hear(speaks, &answer, true);
        assert!(heard.whole, "{model} {speaks:?}: {}", answer.text());
        assert_eq!(heard.error, None);
    }
}

#[tokio::test]
async fn half_an_answer_is_no_answer() {
    for fault in [Fault::HalfThenReset, Fault::LengthTooLong] {
        let ai = Ai::usual().await;
        ai.openai.times(9, &fault);
        let answer = ai.ask(Speaks::Chat, "smart", false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(ai.anthropic.count(), 1);
        let ai = Ai::usual().await;
        ai.openai.then(fault);
        let answer = ai.ask(Speaks::Chat, "gpt", false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(ai.openai.count(), 2);
    }
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_passed_over() {
    let ai = Ai::usual().await;
    ai.openai.stop().await;
    let answer = ai.ask(Speaks::Responses, "smart", true).await;
    assert!(
        hear(Speaks::Responses, &answer, true).whole,
        "{}",
        answer.text()
    );
    let answer = ai.ask(Speaks::Responses, "gpt", true).await;
    let (status, code, _) = refusal(Speaks::Responses, &answer);
    assert_eq!((status, code.as_str()), (502, "provider_failed"));
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_elsewhere_only_where_that_is_wanted() {
    for (trouble, code) in [
        (Trouble::ContextLength, "context_length_exceeded"),
        (Trouble::ContentPolicy, "content_policy_violation"),
    ] {
        let ai = Ai::usual().await;
        ai.openai.times(9, &Fault::Error(trouble));
        let answer = ai.ask(Speaks::Chat, "smart", false).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!((ai.openai.count(), ai.anthropic.count()), (1, 0), "{code}");
        let answer = ai.ask(Speaks::Messages, "smart", false).await;
        assert_eq!(refusal(Speaks::Messages, &answer).0, 400);
    }
}

#[tokio::test]
async fn a_target_that_keeps_failing_is_left_alone_and_probed_again() {
    let breaker = "retry: { backoff: 1ms, attempts: 1 }, breaker: { failures: 3, open: 300ms }";
    let ai = Ai::start(breaker, ROUTE).await;
    ai.openai.times(3, &Fault::Error(Trouble::Server));
    for _ in 0..3 {
        let answer = ai.ask(Speaks::Chat, "smart", false).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(ai.openai.count(), 3);
    let answer = ai.ask(Speaks::Chat, "smart", false).await;
    assert_eq!(answer.header("x-onemind-attempts"), Some("1"));
    assert_eq!(ai.openai.count(), 3, "it is left alone");
    let answer = ai.ask(Speaks::Chat, "gpt", false).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    crate::harness::eventually("the target to be asked again", async || {
        ai.ask(Speaks::Chat, "smart", false).await;
        (ai.openai.count() > 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_that_was_refused_is_tried_again_where_there_is_no_other() {
    let ai = Ai::usual().await;
    for trouble in [Trouble::BadKey, Trouble::Quota, Trouble::RateLimit] {
        ai.openai.then(Fault::Error(trouble));
        let answer = ai.ask(Speaks::Chat, "gpt", false).await;
        assert_ne!(answer.status, 200, "{trouble:?}");
        if matches!(trouble, Trouble::RateLimit) {
            // The provider has said for how long, and is believed.
            let answer = ai.ask(Speaks::Chat, "gpt", false).await;
            assert_eq!(answer.status, 429, "{}", answer.text());
            assert!(answer.header("retry-after").is_some());
        } else {
            let answer = ai.ask(Speaks::Chat, "gpt", false).await;
            assert_eq!(answer.status, 200, "{trouble:?}: {}", answer.text());
        }
    }
    assert_eq!(ai.openai.count(), 5);
}

#[tokio::test]
async fn a_callers_mistakes_do_not_speak_against_the_provider() {
    let breaker = "retry: { backoff: 1ms, attempts: 1 }, breaker: { failures: 2, open: 10s }";
    let ai = Ai::start(breaker, ROUTE).await;
    ai.openai.times(5, &Fault::Error(Trouble::Invalid));
    for _ in 0..5 {
        let answer = ai.ask(Speaks::Chat, "gpt", false).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    assert_eq!(ai.ask(Speaks::Chat, "gpt", false).await.status, 200);
    assert_eq!(ai.openai.count(), 6);
}

/// Events of a chat stream, as written.
fn chat_stream(events: &[&str]) -> Fault {
    let body = events.iter().fold(String::new(), |body, data| {
        body + "data: "
            + data
            + "

"
    });
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    Fault::Answer(200, headers, body.into())
}

#[tokio::test]
async fn a_mark_of_the_end_without_a_reason_is_no_end() {
    const ROLE: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    const WORD: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}"#;
    for speaks in [Speaks::Chat, Speaks::Messages] {
        let ai = Ai::start(IMPATIENT, LOCAL).await;
        // Before a word was said, the next one is asked.
        ai.openai.times(9, &chat_stream(&["[DONE]"]));
        let answer = ai.ask(speaks, "local-first", true).await;
        assert!(hear(speaks, &answer, true).whole, "{}", answer.text());
        assert_eq!(ai.anthropic.count(), 1, "{speaks:?}");
        // Also after one, as long as nothing of it has gone to the caller.
        ai.openai.calm().then(chat_stream(&[ROLE, WORD, "[DONE]"]));
        let answer = ai.ask(speaks, "local-first", true).await;
        let heard = hear(speaks, &answer, true);
        assert!(heard.whole && heard.text != "Hello", "{}", answer.text());
    }
}

const LOCAL: &str = "  local-first: { targets: [local/gpt-5, anthropic/claude-sonnet-4-5] }
routes: { ai: { ai: {} } }
";

#[tokio::test]
async fn broken_answers_of_other_operations_are_no_answers() {
    let body = json!({ "model": "openai/text-embedding-3-small", "input": "a" });
    for (content_type, answer) in [
        ("application/json", "{\"data\":["),
        ("application/json", "{\"error\":{\"message\":\"no\"}}"),
        ("text/html", "<html>"),
        ("application/json", ""),
    ] {
        let ai = Ai::usual().await;
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        ai.openai
            .times(9, &Fault::Answer(200, headers, answer.into()));
        let answered = ai.post("/v1/embeddings", &body).await;
        assert_eq!(refusal(Speaks::Chat, &answered).0, 502, "{answer}");
        ai.gateway.ended("provider_failed").await;
    }
}

#[tokio::test]
async fn what_the_first_provider_said_is_told_where_the_second_cannot_be_asked() {
    let ai = Ai::usual().await;
    ai.openai.times(
        9,
        &Fault::Error(Trouble::RateLimitFor(Duration::from_secs(30))),
    );
    let (path, mut body) = call(Speaks::Chat, "smart", false, "a");
    body["n"] = json!(2);
    let answer = ai.post(&path, &body).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("30"));
}

#[tokio::test]
async fn our_key_is_not_told_to_callers() {
    let ai = Ai::usual().await;
    let text = format!(
        r#"{{"error":{{"message":"key {PROVIDER_KEY} may not","type":"invalid_request_error"}}}}"#
    );
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    ai.openai
        .times(2, &Fault::Answer(400, headers, text.into()));
    for speaks in [Speaks::Chat, Speaks::Messages] {
        let answer = ai.ask(speaks, "gpt", false).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.text().contains(PROVIDER_KEY), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_refusal_goes_elsewhere_where_the_model_says_so() {
    let wide = "  wide: { targets: [gemini/gemini-2.5-flash, anthropic/claude-sonnet-4-5], fallback_on: [context_length, content_policy] }
routes: { ai: { path: [/v1/*, /v1beta/*], ai: {} } }
";
    for trouble in [Trouble::ContextLength, Trouble::ContentPolicy] {
        for speaks in [Speaks::Chat, Speaks::Gemini] {
            for stream in [false, true] {
                let ai = Ai::start(IMPATIENT, wide).await;
                ai.gemini.then(Fault::Error(trouble));
                let answer = ai.ask(speaks, "wide", stream).await;
                let case = format!("{trouble:?} {speaks:?} {stream}: {}", answer.text());
                assert_eq!(
                    answer.header("x-onemind-provider"),
                    Some("anthropic"),
                    "{case}"
                );
                assert!(hear(speaks, &answer, stream).whole, "{case}");
                assert_eq!(ai.gemini.count(), 1, "{case}");
            }
        }
    }
}
