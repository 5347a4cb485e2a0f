//! The scripted provider by itself: what it says, what it refuses, and how it breaks.

use super::super::certs::Authority;
use super::super::client::{Answer, Client, Tls};
use super::super::{Asked, Fault, PROVIDER_KEY, Provider, Trouble};
use super::Kind;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const GENERATE: &str = "/v1beta/models/gemini-2.5-pro:generateContent";
const STREAM: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse";

fn credentials(kind: Kind) -> Vec<(&'static str, String)> {
    let mut headers = vec![("content-type", "application/json".to_owned())];
    match kind {
        Kind::OpenAi | Kind::Bedrock | Kind::Vertex | Kind::Cohere | Kind::Azure => {
            headers.push(("authorization", format!("Bearer {PROVIDER_KEY}")));
        }
        Kind::Gemini => headers.push(("x-goog-api-key", PROVIDER_KEY.to_owned())),
        Kind::Anthropic => {
            headers.push(("x-api-key", PROVIDER_KEY.to_owned()));
            headers.push(("anthropic-version", "2023-06-01".to_owned()));
        }
    }
    headers
}

async fn try_ask(provider: &Provider, path: &str, body: &Value) -> std::io::Result<Answer> {
    let headers = credentials(provider.shared.kind);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let method = if body.is_null() { "GET" } else { "POST" };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut client = Client::direct(provider.address()).await;
    client
        .try_request(method, path, &headers, body.as_bytes())
        .await
}

async fn ask(provider: &Provider, path: &str, body: &Value) -> Answer {
    try_ask(provider, path, body).await.unwrap()
}

fn chat(text: &str) -> Value {
    json!({"model": "gpt-5", "messages": [{"role": "user", "content": text}]})
}

fn messages(text: &str) -> Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": text}]})
}

fn generate(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
}

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The JSON of each event that has some.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

fn joined(answer: &Answer, pointer: &str) -> String {
    let events = events(answer);
    let texts = events
        .iter()
        .filter_map(|event| event.pointer(pointer)?.as_str());
    texts.collect()
}

/// Each dialect: a provider, where to ask for a stream of "one two three", and where words stand in an event.
async fn streams() -> Vec<(Provider, &'static str, Value, &'static str)> {
    let stream = json!({"stream": true});
    vec![
        (
            Provider::openai().await,
            CHAT,
            with(chat("one two"), stream.clone()),
            "/choices/0/delta/content",
        ),
        (
            Provider::openai().await,
            RESPONSES,
            with(
                json!({"model": "gpt-5", "input": "one two"}),
                stream.clone(),
            ),
            "/delta",
        ),
        (
            Provider::anthropic().await,
            MESSAGES,
            with(messages("one two"), stream),
            "/delta/text",
        ),
        (
            Provider::gemini().await,
            STREAM,
            generate("one two"),
            "/candidates/0/content/parts/0/text",
        ),
    ]
}

#[tokio::test]
async fn each_dialect_echoes_whole_and_in_pieces() {
    let openai = Provider::openai().await;
    let anthropic = Provider::anthropic().await;
    let gemini = Provider::gemini().await;
    #[rustfmt::skip]
    let rows = [
        (&openai, CHAT, chat("one two"), "/choices/0/message/content"),
        (&openai, RESPONSES, json!({"model": "gpt-5", "input": "one two"}), "/output/0/content/0/text"),
        (&anthropic, MESSAGES, messages("one two"), "/content/0/text"),
        (&gemini, GENERATE, generate("one two"), "/candidates/0/content/parts/0/text"),
    ];
    for (provider, path, body, pointer) in rows {
        let answer = ask(provider, path, &body).await;
        assert_eq!(
            answer.json().pointer(pointer),
            Some(&json!("echo: one two")),
            "{}",
            answer.text()
        );
        let asked: Asked = provider.last().await;
        assert_eq!(serde_json::from_slice::<Value>(&asked.raw).unwrap(), body);
        assert_eq!(asked.connection + 1, provider.connections());
        assert!(asked.at < Instant::now());
        assert_eq!(
            (asked.method.as_str(), asked.body, asked.done),
            ("POST", body, true)
        );
    }
    for (provider, path, body, pointer) in streams().await {
        let answer = ask(&provider, path, &body).await;
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/event-stream")
        );
        assert_eq!(
            joined(&answer, pointer),
            "echo: one two",
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn usage_counts_words_and_a_chat_tells_it_only_when_asked() {
    let openai = Provider::openai().await;
    openai.cached(2);
    let quiet = ask(&openai, CHAT, &with(chat("a b c"), json!({"stream": true}))).await;
    assert!(!quiet.text().contains("usage"));
    assert!(quiet.text().ends_with("data: [DONE]\n\n"));
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let told = ask(&openai, CHAT, &with(chat("a b c"), options)).await;
    let last = events(&told).pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        (
            &last["usage"]["prompt_tokens"],
            &last["usage"]["completion_tokens"]
        ),
        (&json!(3), &json!(4))
    );
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 2);

    let anthropic = Provider::anthropic().await;
    anthropic.cached(2);
    let usage = ask(&anthropic, MESSAGES, &messages("a b c")).await.json()["usage"].clone();
    assert_eq!(
        (&usage["input_tokens"], &usage["cache_read_input_tokens"]),
        (&json!(1), &json!(2))
    );
    let counted = ask(&anthropic, "/v1/messages/count_tokens", &messages("a b c")).await;
    assert_eq!(counted.json(), json!({"input_tokens": 3}));
    let gemini = Provider::gemini().await;
    let counted = ask(
        &gemini,
        "/v1beta/models/gemini-2.5-pro:countTokens",
        &generate("a b c"),
    )
    .await;
    assert_eq!(counted.json()["totalTokens"], 3);
    let thinks = json!({"generationConfig": {"thinking_config": {"includeThoughts": true}}});
    let usage = ask(&gemini, GENERATE, &with(generate("a b c"), thinks))
        .await
        .json()["usageMetadata"]
        .clone();
    assert_eq!(
        (
            &usage["candidatesTokenCount"],
            &usage["thoughtsTokenCount"],
            &usage["totalTokenCount"]
        ),
        (&json!(4), &json!(3), &json!(10))
    );
}

#[tokio::test]
async fn what_the_real_ones_refuse_is_refused_in_their_words() {
    let openai = Provider::openai().await;
    let anthropic = Provider::anthropic().await;
    let gemini = Provider::gemini().await;
    openai.strict();
    anthropic.strict();
    gemini.strict();
    let result = json!({"role": "tool", "tool_call_id": "x", "content": "y"});
    let tool_use = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]});
    #[rustfmt::skip]
    let rows = [
        (&openai, CHAT, with(chat("a"), json!({"model": "smart"})), 404, "/error/code", "model_not_found"),
        (&openai, CHAT, with(chat("a"), json!({"odd": 1})), 400, "/error/param", "odd"),
        (&openai, CHAT, with(chat("a"), json!({"max_tokens": 1})), 400, "/error/code", "unsupported_parameter"),
        (&openai, CHAT, with(chat("a"), json!({"messages": [result]})), 400, "/error/type", "invalid_request_error"),
        (&openai, CHAT, with(chat("a"), json!({"stream_options": {}})), 400, "/error/param", "stream_options"),
        (&openai, CHAT, json!("no object"), 400, "/error/type", "invalid_request_error"),
        (&openai, RESPONSES, json!({"model": "gpt-5"}), 400, "/error/param", "input"),
        (&openai, "/v1/nothing", chat("a"), 404, "/error/type", "invalid_request_error"),
        (&anthropic, MESSAGES, with(messages("a"), json!({"model": "gpt-5"})), 404, "/error/message", "model: gpt-5"),
        (&anthropic, MESSAGES, with(messages("a"), json!({"max_tokens": null})), 400, "/error/message", "max_tokens: Field required"),
        (&anthropic, MESSAGES, with(messages("a"), json!({"odd": 1})), 400, "/error/message", "odd: Extra inputs are not permitted"),
        (&anthropic, MESSAGES, with(messages("a"), json!({"messages": [tool_use, {"role": "user", "content": "b"}]})), 400, "/error/type", "invalid_request_error"),
        (&gemini, GENERATE, json!({"contents": []}), 400, "/error/status", "INVALID_ARGUMENT"),
        (&gemini, GENERATE, with(generate("a"), json!({"odd": 1})), 400, "/error/status", "INVALID_ARGUMENT"),
        (&gemini, "/v1beta/models/gpt-5:generateContent", generate("a"), 404, "/error/status", "NOT_FOUND"),
    ];
    for (provider, path, body, status, pointer, word) in rows {
        let answer = ask(provider, path, &body).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text());
        assert_eq!(
            answer.json().pointer(pointer),
            Some(&json!(word)),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn credentials_are_looked_at_first() {
    #[rustfmt::skip]
    let rows = [
        (Provider::openai().await, CHAT, vec![], 401),
        (Provider::openai().await, CHAT, vec![("authorization", "Bearer other")], 401),
        (Provider::anthropic().await, MESSAGES, vec![("x-api-key", "other")], 401),
        (Provider::anthropic().await, MESSAGES, vec![("x-api-key", PROVIDER_KEY)], 400),
        (Provider::gemini().await, GENERATE, vec![], 403),
        (Provider::gemini().await, GENERATE, vec![("x-goog-api-key", "other")], 400),
    ];
    for (provider, path, headers, status) in rows {
        let mut client = Client::direct(provider.address()).await;
        let answer = client.request("POST", path, &headers, b"{}").await;
        assert_eq!(answer.status, status, "{headers:?} {}", answer.text());
    }
    let provider = Provider::openai().await;
    provider.keys(&["other"]).models(&["llama3"]);
    let mut client = Client::direct(provider.address()).await;
    let answer = client
        .request(
            "GET",
            "/v1/models",
            &[("authorization", "Bearer other")],
            b"",
        )
        .await;
    assert_eq!(answer.json()["data"][0]["id"], "llama3");
}

#[tokio::test]
async fn tools_are_called_when_the_prompt_says_so() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let openai = Provider::openai().await;
    let tools = json!({"tools": [
        {"type": "function", "function": {"name": "weather", "parameters": schema}},
        {"type": "function", "function": {"name": "clock", "parameters": schema}},
    ]});
    let both = with(chat("call weather {\"city\":\"Oslo\"} call clock"), tools);
    let answer = ask(&openai, CHAT, &both).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"]["arguments"],
        "{\"city\":\"Oslo\"}"
    );
    assert_eq!(
        choice["message"]["tool_calls"][1]["function"]["arguments"],
        "{\"city\":\"clock\"}"
    );
    let streamed = ask(&openai, CHAT, &with(both.clone(), json!({"stream": true}))).await;
    assert_eq!(
        joined(&streamed, "/choices/0/delta/tool_calls/0/function/name"),
        "weatherclock"
    );

    let anthropic = Provider::anthropic().await;
    let tools = json!({"tools": [{"name": "weather", "input_schema": schema}], "tool_choice": {"type": "any"}});
    let answer = ask(&anthropic, MESSAGES, &with(messages("go Oslo"), tools))
        .await
        .json();
    assert_eq!(answer["content"][0]["input"], json!({"city": "Oslo"}));
    let id = &answer["content"][0]["id"];
    let back = json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "rain"}]},
    ]});
    let answer = ask(&anthropic, MESSAGES, &with(messages(""), back))
        .await
        .json();
    assert_eq!(answer["content"][0]["text"], "the tool says: rain");

    let gemini = Provider::gemini().await;
    let tools =
        json!({"tools": [{"functionDeclarations": [{"name": "weather", "parameters": schema}]}]});
    let answer = ask(&gemini, GENERATE, &with(generate("call weather"), tools))
        .await
        .json();
    assert_eq!(
        answer["candidates"][0]["content"]["parts"][0]["functionCall"]["name"],
        "weather"
    );
}

#[tokio::test]
async fn errors_are_those_of_the_dialect() {
    let openai = Provider::openai().await;
    let anthropic = Provider::anthropic().await;
    let gemini = Provider::gemini().await;
    let wait = Duration::from_secs(7);
    #[rustfmt::skip]
    let rows = [
        (&openai, Trouble::RateLimit, 429, "/error/code", "rate_limit_exceeded", None),
        (&openai, Trouble::RateLimitFor(wait), 429, "/error/code", "rate_limit_exceeded", Some(("retry-after", "7"))),
        (&openai, Trouble::RateLimitMs(40), 429, "/error/code", "rate_limit_exceeded", Some(("retry-after-ms", "40"))),
        (&openai, Trouble::Quota, 429, "/error/code", "insufficient_quota", None),
        (&openai, Trouble::BadKey, 401, "/error/code", "invalid_api_key", None),
        (&openai, Trouble::Forbidden, 403, "/error/code", "model_not_found", None),
        (&openai, Trouble::UnknownModel, 404, "/error/code", "model_not_found", None),
        (&openai, Trouble::ContextLength, 400, "/error/code", "context_length_exceeded", None),
        (&openai, Trouble::ContentPolicy, 400, "/error/code", "content_policy_violation", None),
        (&openai, Trouble::Invalid, 400, "/error/code", "invalid_value", None),
        (&openai, Trouble::TooLarge, 413, "/error/type", "invalid_request_error", None),
        (&openai, Trouble::Server, 500, "/error/type", "server_error", None),
        (&openai, Trouble::Unavailable, 503, "/error/type", "service_unavailable_error", None),
        (&openai, Trouble::Timeout, 504, "/error/type", "server_error", None),
        (&openai, Trouble::Status(418), 418, "/error/message", "scripted", None),
        (&anthropic, Trouble::RateLimitFor(wait), 429, "/error/type", "rate_limit_error", Some(("retry-after", "7"))),
        (&anthropic, Trouble::Overloaded, 529, "/error/type", "overloaded_error", None),
        (&anthropic, Trouble::Status(402), 402, "/error/type", "billing_error", None),
        (&gemini, Trouble::RateLimitFor(wait), 429, "/error/details/1/retryDelay", "7s", None),
        (&gemini, Trouble::Overloaded, 503, "/error/status", "UNAVAILABLE", None),
        (&gemini, Trouble::ContentPolicy, 200, "/promptFeedback/blockReason", "PROHIBITED_CONTENT", None),
    ];
    for (provider, trouble, status, pointer, word, header) in rows {
        provider.then(Fault::Error(trouble));
        let (path, body) = match provider.shared.kind {
            Kind::OpenAi => (CHAT, chat("a")),
            Kind::Anthropic => (MESSAGES, messages("a")),
            Kind::Gemini => (GENERATE, generate("a")),
            other => panic!("{other:?} is tried through the gateway"),
        };
        let answer = ask(provider, path, &body).await;
        assert_eq!(answer.status, status, "{trouble:?} {}", answer.text());
        assert_eq!(
            answer.json().pointer(pointer),
            Some(&json!(word)),
            "{}",
            answer.text()
        );
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value), "{trouble:?}");
        }
    }
}

/// Whether the body is whole, and how it ends.
async fn broken(provider: &Provider, path: &str, body: &Value, fault: Fault) -> Answer {
    provider.then(fault);
    ask(provider, path, body).await
}

#[tokio::test]
async fn streams_break_where_the_script_says() {
    for (provider, path, body, _) in streams().await {
        let whole = ask(&provider, path, &body).await;
        let count = |answer: &Answer| answer.text().replace('\r', "").matches("\n\n").count();
        let rows: Vec<(Fault, bool, usize)> = vec![
            (Fault::CutAfter(2), false, 2),
            (Fault::ResetAfter(1), false, 1),
            (Fault::EndAfter(2), true, 2),
            (Fault::HalfAt(2), true, 2),
            (Fault::NotJsonAt(1), true, count(&whole)),
            (Fault::ErrorAfter(2, Trouble::Overloaded), true, 3),
            (Fault::FailedAfter(2, Trouble::Server), true, 3),
            (Fault::BlankThenBody, true, count(&whole) + 2),
            (Fault::Huge(1 << 20), true, count(&whole) + 1),
            (
                Fault::FirstLate(Duration::from_millis(1)),
                true,
                count(&whole),
            ),
            (Fault::Late(Duration::from_millis(1)), true, count(&whole)),
            (Fault::Empty, true, 0),
            (Fault::NotJson, true, 1),
            (Fault::HalfThenReset, false, count(&whole) / 2),
            (Fault::LengthTooLong, false, count(&whole)),
        ];
        for (nth, (fault, complete, frames)) in rows.into_iter().enumerate() {
            let answer = broken(&provider, path, &body, fault).await;
            assert_eq!(
                (answer.complete, count(&answer)),
                (complete, frames),
                "row {nth}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn an_error_inside_a_stream_has_the_dialects_form() {
    let words = [
        "\"code\":null}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"sequence_number\":2",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"",
        "\"status\":\"UNAVAILABLE\"}}\n\n",
    ];
    for ((provider, path, body, pointer), word) in streams().await.into_iter().zip(words) {
        let answer = broken(
            &provider,
            path,
            &body,
            Fault::ErrorFirst(Trouble::Overloaded),
        )
        .await;
        assert!(answer.text().contains(word), "{}", answer.text());
        assert_eq!(joined(&answer, pointer), "", "{}", answer.text());
        assert!(!answer.text().contains("[DONE]"));
        let answer = broken(
            &provider,
            path,
            &body,
            Fault::FailedAfter(3, Trouble::Server),
        )
        .await;
        let failed = path == RESPONSES;
        assert_eq!(
            answer.text().contains("event: response.failed"),
            failed,
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn whole_answers_break_too() {
    let provider = Provider::openai().await;
    #[rustfmt::skip]
    let rows = [
        (Fault::Html, true, "<html>"),
        (Fault::NotJson, true, "this is {not"),
        (Fault::Empty, true, ""),
        (Fault::HalfThenReset, false, "{\"id\""),
        (Fault::LengthTooLong, false, "{\"id\""),
        (Fault::LengthTooShort, true, "{\"id\""),
        (Fault::BlankThenBody, true, "\n\n\n\n{\"id\""),
        (Fault::Huge(1000), true, "     "),
        (Fault::Answer(418, vec![("x-odd".to_owned(), "1".to_owned())], Bytes::from("tea")), true, "tea"),
        (Fault::Fine, true, "{\"id\""),
    ];
    for (nth, (fault, complete, start)) in rows.into_iter().enumerate() {
        let answer = broken(&provider, CHAT, &chat("a"), fault).await;
        assert_eq!(answer.complete, complete, "row {nth}");
        assert!(
            answer.text().starts_with(start),
            "row {nth}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn silence_lasts_until_the_caller_leaves_and_that_is_noted() {
    let provider = Provider::openai().await;
    let body = with(chat("one two"), json!({"stream": true})).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {PROVIDER_KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let signal = Arc::new(Notify::new());
    let faults = [
        Fault::NoHead,
        Fault::NoBody,
        Fault::StallAfter(2),
        Fault::BlankLines,
        Fault::Held(Arc::clone(&signal)),
        Fault::FirstHeld(Arc::clone(&signal)),
        Fault::HoldAfter(2, Arc::clone(&signal)),
    ];
    for (nth, fault) in faults.into_iter().enumerate() {
        provider.then(fault);
        let mut client = Client::direct(provider.address()).await;
        client.send(head.as_bytes()).await;
        super::super::eventually("it arrives", async || {
            (provider.count() > nth).then_some(())
        })
        .await;
        let left = Instant::now();
        drop(client);
        assert!(provider.cut(nth).await >= left);
        assert!(!provider.seen()[nth].done);
    }
    // A signal lets it go on.
    provider.times(2, &Fault::HoldAfter(2, Arc::clone(&signal)));
    signal.notify_one();
    let answer = ask(
        &provider,
        CHAT,
        &with(chat("one two"), json!({"stream": true})),
    )
    .await;
    assert!(answer.complete);
    assert_eq!(provider.seen().last().unwrap().cut, None);
    provider.calm();
    assert!(ask(&provider, CHAT, &chat("a")).await.complete);
}

#[tokio::test]
async fn however_a_stream_is_cut_and_paced_it_says_the_same() {
    for (provider, path, body, pointer) in streams().await {
        provider
            .answering("wörter für alle")
            .chunks(3)
            .comments()
            .every(Duration::from_millis(1));
        let answer = ask(&provider, path, &body).await;
        assert_eq!(
            joined(&answer, pointer),
            "wörter für alle",
            "{}",
            answer.text()
        );
        assert!(answer.text().starts_with(": keep-alive\n\n"));
    }
}

#[tokio::test]
async fn tls_is_spoken_or_broken_and_a_stopped_one_refuses() {
    let authority = Authority::new();
    let makers = [
        Provider::openai_tls(&authority, "provider.test").await,
        Provider::anthropic_tls(&authority, "provider.test").await,
        Provider::gemini_tls(&authority, "provider.test").await,
    ];
    for provider in &makers {
        assert!(provider.url().starts_with("https://provider.test:"));
        provider.then(Fault::TlsFailure);
        for works in [false, true] {
            let stream = TcpStream::connect(provider.address()).await.unwrap();
            let secured = Tls::to(&authority, "provider.test").connect(stream).await;
            assert_eq!(secured.is_ok(), works);
        }
        assert_eq!(provider.connections(), 2);
        provider.stop().await;
        assert!(TcpStream::connect(provider.address()).await.is_err());
        provider.start().await;
        assert!(TcpStream::connect(provider.address()).await.is_ok());
    }
}

#[tokio::test]
async fn media_and_numbers_have_routes_of_their_own() {
    let openai = Provider::openai().await;
    let image = ask(
        &openai,
        "/v1/images/generations",
        &json!({"model": "gpt-image-1", "prompt": "a cat"}),
    )
    .await;
    assert_eq!(image.json()["usage"]["input_tokens"], 2);
    let speech = ask(
        &openai,
        "/v1/audio/speech",
        &json!({"model": "tts-1", "input": "hi", "voice": "alloy"}),
    )
    .await;
    assert_eq!(
        (speech.header("content-type"), &speech.body[..5]),
        (Some("audio/mpeg"), b"ID3hi".as_slice())
    );
    let judged = ask(
        &openai,
        "/v1/moderations",
        &json!({"input": ["kill", "love"]}),
    )
    .await
    .json();
    assert_eq!(
        (
            &judged["results"][0]["flagged"],
            &judged["results"][1]["flagged"]
        ),
        (&json!(true), &json!(false))
    );
    let numbers =
        json!({"model": "text-embedding-3-small", "input": ["a b", "c"], "dimensions": 4});
    let numbers = ask(&openai, "/v1/embeddings", &numbers).await.json();
    assert_eq!(numbers["data"][1]["embedding"].as_array().unwrap().len(), 4);
    assert_eq!(numbers["usage"]["total_tokens"], 3);
    let counted = ask(
        &openai,
        "/v1/responses/input_tokens",
        &json!({"model": "gpt-5", "input": "a b"}),
    )
    .await;
    assert_eq!(counted.json()["input_tokens"], 2);
}

#[tokio::test]
async fn forms_with_files_are_read() {
    let openai = Provider::openai().await;
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\ncontent-type: audio/mpeg\r\n\r\nsound\r\n--b--\r\n";
    let key = format!("Bearer {PROVIDER_KEY}");
    let headers = [
        ("authorization", key.as_str()),
        ("content-type", "multipart/form-data; boundary=b"),
    ];
    let mut client = Client::direct(openai.address()).await;
    let heard = client
        .request(
            "POST",
            "/v1/audio/transcriptions",
            &headers,
            form.as_bytes(),
        )
        .await;
    assert_eq!(heard.json()["text"], "heard 5 bytes of a.mp3");
    assert_eq!(
        openai.last().await.body["file"]["content_type"],
        "audio/mpeg"
    );
}

#[tokio::test]
async fn gemini_embeds_and_all_list_their_models() {
    let openai = Provider::openai().await;
    let gemini = Provider::gemini().await;
    let content = json!({"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3});
    let one = ask(
        &gemini,
        "/v1beta/models/gemini-embedding-001:embedContent",
        &content,
    )
    .await;
    assert_eq!(
        one.json()["embedding"]["values"].as_array().unwrap().len(),
        3
    );
    for (provider, path) in [(&openai, "/v1/models"), (&gemini, "/v1beta/models")] {
        assert_eq!(ask(provider, path, &Value::Null).await.status, 200);
    }
}

#[tokio::test]
async fn answers_are_cut_at_lengths_and_stops_and_follow_schemas() {
    let openai = Provider::openai().await;
    let body = with(chat("a b c d"), json!({"max_completion_tokens": 2}));
    let answer = ask(&openai, CHAT, &body).await.json();
    assert_eq!(
        (
            &answer["choices"][0]["message"]["content"],
            &answer["choices"][0]["finish_reason"]
        ),
        (&json!("echo: a "), &json!("length"))
    );
    let anthropic = Provider::anthropic().await;
    let answer = ask(
        &anthropic,
        MESSAGES,
        &with(messages("a b STOP c"), json!({"stop_sequences": ["STOP"]})),
    )
    .await
    .json();
    assert_eq!(
        (&answer["content"][0]["text"], &answer["stop_sequence"]),
        (&json!("echo: a b "), &json!("STOP"))
    );
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "kind": {"enum": ["x", "y"]}, "all": {"type": "array", "items": {"$ref": "#/$defs/s"}}}, "$defs": {"s": {"type": "string"}}});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}});
    let answer = ask(&openai, CHAT, &with(chat("say word"), format))
        .await
        .json();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "{\"n\":7,\"kind\":\"x\",\"all\":[\"word\"]}"
    );
}
