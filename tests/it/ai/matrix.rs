//! Every dialect to every provider.

use super::{ALL, Ai, Speaks, hear, refusal};
use crate::harness::{Client, Fault, Gateway, PROVIDER_KEY, Provider, Trouble};
use serde_json::json;

const WORDS: &str = "one two three";

#[tokio::test]
async fn every_dialect_reaches_every_provider() {
    let ai = Ai::usual().await;
    for speaks in ALL {
        for (model, provider) in [
            ("gpt", &ai.openai),
            ("claude", &ai.anthropic),
            ("flash", &ai.gemini),
        ] {
            for stream in [false, true] {
                let case = format!("{speaks:?} to {model}, stream {stream}");
                let answer = ai.ask(speaks, model, stream).await;
                assert_eq!(answer.status, 200, "{case}: {}", answer.text());
                assert!(answer.complete, "{case}");
                let heard = hear(speaks, &answer, stream);
                assert!(heard.whole, "{case}: {}", answer.text());
                assert!(heard.text.contains(WORDS), "{case}: {}", answer.text());
                let asked = provider.last().await;
                let names = ["gpt-5", "claude-sonnet-4-5", "gemini-2.5-flash"];
                let model_asked = asked.body["model"].as_str().unwrap_or(&asked.path);
                assert!(
                    names.iter().any(|name| model_asked.contains(name)),
                    "{case}: {model_asked}"
                );
                assert_eq!(answer.header("x-onemind-attempts"), Some("1"), "{case}");
                if !(stream && speaks == Speaks::Chat) {
                    assert!(heard.tokens.is_some_and(|(input, _)| input > 0), "{case}");
                }
                let line = ai
                    .gateway
                    .access_log_line(|line| {
                        line["ai"]["stream"] == stream && line["ai"]["model"] == model
                    })
                    .await;
                assert_eq!(line["ai"]["usage"], "reported", "{case}: {line}");
                assert_eq!(line["ai"]["stop"], "stop", "{case}: {line}");
            }
        }
    }
    ai.gateway.settled().await;
}

#[tokio::test]
async fn the_same_dialect_passes_byte_by_byte() {
    let ai = Ai::usual().await;
    // Unknown fields, odd spelling of numbers, an order of its own.
    let body = "{ \"zeta\":1.0e0,\"model\" : \"gpt\", \"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}],  \"top_p\":0.50 }";
    let mut client = Client::connect(&ai.gateway).await;
    let answer = client.post("/v1/chat/completions", body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let raw = ai.openai.last().await.raw;
    let expected = body.replace("\"gpt\"", "\"gpt-5\"");
    assert_eq!(String::from_utf8_lossy(&raw), expected);
}

#[tokio::test]
async fn nothing_of_the_caller_but_its_call_goes_to_a_provider() {
    let ai = Ai::usual().await;
    let (path, body) = super::call(Speaks::Chat, "gpt", false, WORDS);
    let mut client = Client::connect(&ai.gateway).await;
    let headers = &[
        ("content-type", "application/json"),
        ("authorization", "Bearer of-the-caller"),
        ("cookie", "session=1"),
        ("x-stainless-lang", "python"),
        ("x-forwarded-for", "203.0.113.9"),
        ("openai-organization", "org-caller"),
    ];
    let answer = client
        .request("POST", &path, headers, body.to_string().as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = ai.openai.last().await;
    let names: Vec<&str> = asked
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in [
        "cookie",
        "x-stainless-lang",
        "x-forwarded-for",
        "openai-organization",
    ] {
        assert!(!names.contains(&name), "{names:?}");
    }
    let key = format!("Bearer {PROVIDER_KEY}");
    assert_eq!(asked.header("authorization"), Some(key.as_str()));
    // And nothing of the provider's own affairs comes back.
    assert_eq!(answer.header("openai-organization"), None);
}

#[tokio::test]
async fn usage_that_was_asked_for_by_us_alone_is_not_shown() {
    let ai = Ai::usual().await;
    let answer = ai.ask(Speaks::Chat, "gpt", true).await;
    assert!(!answer.text().contains("usage"), "{}", answer.text());
    let asked = ai.openai.last().await;
    assert_eq!(
        asked.body["stream_options"],
        json!({ "include_usage": true })
    );
    let (path, mut body) = super::call(Speaks::Chat, "gpt", true, WORDS);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = ai.post(&path, &body).await;
    assert!(hear(Speaks::Chat, &answer, true).tokens.is_some());
}

#[tokio::test]
async fn a_call_that_is_wrong_is_refused_in_its_own_words_and_sent_nowhere() {
    let ai = Ai::usual().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for (body, status) in [
        ("{".to_owned(), 400),
        (String::new(), 400),
        ("[]".to_owned(), 400),
        (r#"{"model":"gpt","model":"gpt"}"#.to_owned(), 400),
        (r#"{"model":3}"#.to_owned(), 400),
        (r#"{"model":"gpt","stream":"yes"}"#.to_owned(), 400),
        (r#"{"model":"gpt","max_tokens":1e99}"#.to_owned(), 400),
        (format!(r#"{{"model":"gpt","x":{deep}}}"#), 400),
        (r#"{"messages":[]}"#.to_owned(), 400),
        (r#"{"model":"nobody/knows"}"#.to_owned(), 404),
        (r#"{"model":"nobody"}"#.to_owned(), 404),
    ] {
        for (speaks, path) in [
            (Speaks::Chat, "/v1/chat/completions"),
            (Speaks::Responses, "/v1/responses"),
            (Speaks::Messages, "/v1/messages"),
        ] {
            let mut client = Client::connect(&ai.gateway).await;
            let answer = client.post(path, body.as_bytes()).await;
            let (found, _, _) = refusal(speaks, &answer);
            assert_eq!(found, status, "{speaks:?} {body}: {}", answer.text());
        }
    }
    let mut client = Client::connect(&ai.gateway).await;
    let answer = client
        .post("/v1/chat/completions", b"{\"model\":\"\xff\"}")
        .await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 400);
    let answer = client
        .post("/v1beta/models/nobody:generateContent", b"{}")
        .await;
    assert_eq!(refusal(Speaks::Gemini, &answer).0, 404);
    let answer = client.get("/v1/chat/completions").await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 405);
    let answer = client.post("/v1/unheard-of", b"{}").await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 404);
    let answer = client.post("/v1/messages", b"{}").await;
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
    assert_eq!(
        ai.openai.count() + ai.anthropic.count() + ai.gemini.count(),
        0
    );
    ai.gateway.settled().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_in_the_words_of_the_dialect() {
    let route = "routes: { ai: { ai: {}, body_max: 1KiB } }\n";
    let ai = Ai::start("", route).await;
    let large = format!(r#"{{"model":"gpt","x":"{}"}}"#, "x".repeat(2000));
    let mut client = Client::connect(&ai.gateway).await;
    let answer = client.post("/v1/messages", large.as_bytes()).await;
    let (status, kind, _) = refusal(Speaks::Messages, &answer);
    assert_eq!((status, kind.as_str()), (413, "request_too_large"));
    let mut client = Client::connect(&ai.gateway).await;
    let answer = client
        .post_chunked("/v1/chat/completions", large.as_bytes(), 100)
        .await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 413);
    assert_eq!(ai.openai.count(), 0);
}

#[tokio::test]
async fn what_is_not_for_words_is_passed_to_a_provider_that_does_it() {
    let ai = Ai::start("", "routes: { ai: { ai: {} } }\n").await;
    for (path, body) in [
        (
            "/v1/embeddings",
            json!({ "model": "openai/text-embedding-3-small", "input": "a b" }),
        ),
        (
            "/v1/moderations",
            json!({ "model": "openai/omni-moderation-latest", "input": "a" }),
        ),
        (
            "/v1/images/generations",
            json!({ "model": "openai/gpt-image-1", "prompt": "a" }),
        ),
        (
            "/v1/audio/speech",
            json!({ "model": "openai/tts-1", "input": "a b", "voice": "alloy" }),
        ),
        (
            "/v1/messages/count_tokens",
            json!({ "model": "claude", "messages": [{ "role": "user", "content": "a b" }] }),
        ),
        (
            "/v1beta/models/flash:countTokens",
            json!({ "contents": [{ "parts": [{ "text": "a b" }] }] }),
        ),
        (
            "/v1beta/models/gemini%2Fgemini-embedding-001:embedContent",
            json!({ "content": { "parts": [{ "text": "a b" }] } }),
        ),
    ] {
        let answer = ai.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.complete && !answer.body.is_empty(), "{path}");
    }
    let answer = ai
        .post(
            "/v1/embeddings",
            &json!({ "model": "claude", "input": "a" }),
        )
        .await;
    assert_eq!(refusal(Speaks::Chat, &answer).0, 404);
    ai.gateway.settled().await;
}

#[tokio::test]
async fn a_prompt_is_counted_in_whoevers_words_it_is_given() {
    let ai = Ai::start("", "routes: { ai: { ai: {} } }\n").await;
    for model in ["gpt", "claude", "flash"] {
        let said = json!([{ "role": "user", "content": "b c" }]);
        let responses = json!({ "model": model, "instructions": "a", "input": "b c" });
        let messages = json!({ "model": model, "system": "a", "messages": said });
        let gemini = json!({ "generateContentRequest": {
            "model": format!("models/{model}"),
            "systemInstruction": { "parts": [{ "text": "a" }] },
            "contents": [{ "role": "user", "parts": [{ "text": "b c" }] }],
        }});
        for (path, body, name) in [
            ("/v1/responses/input_tokens", responses, "input_tokens"),
            ("/v1/messages/count_tokens", messages, "input_tokens"),
            (
                &*format!("/v1beta/models/{model}:countTokens"),
                gemini,
                "totalTokens",
            ),
        ] {
            let answer = ai.post(path, &body).await;
            assert_eq!(answer.status, 200, "{model} {path}: {}", answer.text());
            let counted = answer.json();
            assert_eq!(counted[name], 3, "{model} {path}: {counted}");
            if path.contains("responses") {
                assert_eq!(counted["object"], "response.input_tokens", "{counted}");
            }
        }
    }
    let body = json!({ "model": "local/m", "input": "a" });
    let answer = ai.post("/v1/responses/input_tokens", &body).await;
    assert_eq!(refusal(Speaks::Responses, &answer).0, 404);
    ai.anthropic.then(Fault::Error(Trouble::BadKey));
    let body = json!({ "model": "claude", "input": "a" });
    let answer = ai.post("/v1/responses/input_tokens", &body).await;
    assert_eq!(refusal(Speaks::Responses, &answer).0, 502);
    ai.gateway.settled().await;
}

#[tokio::test]
async fn models_are_listed_in_the_dialect_of_whoever_asks() {
    let ai = Ai::usual().await;
    let list = ai.gateway.get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    assert_eq!(ids, ["claude", "flash", "gpt", "smart"]);
    let one = ai.gateway.get("/v1/models/smart").await.json();
    assert_eq!(one["object"], "model");
    let list = ai.gateway.get("/v1beta/models").await.json();
    assert_eq!(list["models"][0]["name"], "models/claude");
    let mut client = Client::connect(&ai.gateway).await;
    let headers = &[("anthropic-version", "2023-06-01")];
    let list = client
        .request("GET", "/v1/models", headers, b"")
        .await
        .json();
    assert_eq!(list["has_more"], false);
    assert_eq!(ai.gateway.get("/v1/models/none").await.status, 404);
}

#[tokio::test]
async fn a_compatible_server_needs_few_lines_and_no_key() {
    let local = Provider::openai().await;
    local.keys(&[]);
    let open = Provider::openai().await;
    drop(local);
    let yaml = "listeners: { web: { address: '{{http}}' } }
providers: { local: { kind: compatible, base_url: '{{open}}', keys: sk-scripted-provider-key } }
models: { llama: { targets: local/gpt-oss } }
routes: { ai: { ai: { default: llama } } }
";
    let gateway = Gateway::start(yaml, &[("open", &open.url())]).await;
    let mut client = Client::connect(&gateway).await;
    let body = br#"{"messages":[{"role":"user","content":"no model named"}]}"#;
    let answer = client.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(open.last().await.body["model"], "gpt-oss");
}
