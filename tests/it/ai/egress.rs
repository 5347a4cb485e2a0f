//! Providers that only the gateway speaks to in their own words: Bedrock, Vertex, Cohere, and Azure's dated API.

use super::{ALL, QUICK, ROUTE, Speaks, call, hear, refusal};
use crate::harness::{
    ACCESS_KEY_ID, Answer, Client, Fault, Gateway, LOCATION, PROJECT, PROVIDER_KEY, Provider,
    REGION, SECRET_ACCESS_KEY, SESSION_TOKEN, Trouble, eventually,
};
use serde_json::{Value, json};
use std::fs;

const WORDS: &str = "one two three";
const CLAUDE: &str = "eu.anthropic.claude-haiku-4-5-20251001-v1:0";
/// As it is sent: the colon would otherwise be read in two ways.
const CLAUDE_IN_PATH: &str = "eu.anthropic.claude-haiku-4-5-20251001-v1%3A0";

/// A gateway in front of one provider, whose one model is called `it`.
struct Front {
    provider: Provider,
    gateway: Gateway,
    yaml: String,
}

impl Front {
    /// `section`: the provider's keys, `{{origin}}` for where it is and `key.json` for its key file.
    async fn start(provider: Provider, section: &str, model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key.json"), provider.key_file()).unwrap();
        let yaml = format!(
            "listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
providers:
  cloud: {{ base_url: '{{{{origin}}}}', {section}, {QUICK} }}
models:
  it: {{ targets: 'cloud/{model}' }}
{ROUTE}"
        );
        let origin = provider.origin();
        let gateway = Gateway::start_in(dir, &yaml, &[("origin", &origin)]).await;
        Self {
            provider,
            gateway,
            yaml,
        }
    }

    async fn bedrock() -> Self {
        let section = format!("kind: bedrock, keys: {PROVIDER_KEY}");
        Self::start(Provider::bedrock().await, &section, CLAUDE).await
    }

    async fn signed() -> Self {
        let section = format!(
            "kind: bedrock, region: {REGION}, aws: {{ access_key_id: {ACCESS_KEY_ID}, \
             secret_access_key: {SECRET_ACCESS_KEY}, session_token: {SESSION_TOKEN} }}"
        );
        Self::start(Provider::bedrock().await, &section, CLAUDE).await
    }

    async fn vertex(model: &str) -> Self {
        Self::vertex_of(Provider::vertex().await, model).await
    }

    async fn vertex_of(provider: Provider, model: &str) -> Self {
        let section = format!(
            "kind: vertex, project: {PROJECT}, location: {LOCATION}, service_account: 'file:key.json'"
        );
        Self::start(provider, &section, model).await
    }

    async fn cohere() -> Self {
        let section = format!("kind: cohere, keys: {PROVIDER_KEY}");
        Self::start(Provider::cohere().await, &section, "command-a-03-2025").await
    }

    async fn ask(&self, speaks: Speaks, stream: bool) -> Answer {
        let (path, body) = call(speaks, "it", stream, WORDS);
        self.post(&path, &body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut client = Client::connect(&self.gateway).await;
        let headers = &[("content-type", "application/json")];
        client
            .request("POST", path, headers, body.to_string().as_bytes())
            .await
    }

    /// Every dialect, plain and streamed, arrives at `path` (and `streamed`) and comes back whole.
    async fn answers_everybody(&self, path: &str, streamed: &str) {
        for speaks in ALL {
            for stream in [false, true] {
                let case = format!("{speaks:?}, stream {stream}");
                let answer = self.ask(speaks, stream).await;
                assert_eq!(answer.status, 200, "{case}: {}", answer.text());
                let heard = hear(speaks, &answer, stream);
                assert!(answer.complete && heard.whole, "{case}: {}", answer.text());
                assert_eq!(heard.text, format!("echo: {WORDS}"), "{case}");
                assert_eq!(heard.error, None, "{case}");
                if !(stream && speaks == Speaks::Chat) {
                    assert_eq!(heard.tokens, Some((3, 4)), "{case}: {}", answer.text());
                }
                let asked = self.provider.last().await;
                let expected = if stream { streamed } else { path };
                assert_eq!(asked.path, expected, "{case}");
                let line = self
                    .gateway
                    .access_log_line(|line| line["ai"]["stream"] == stream)
                    .await;
                assert_eq!(line["ai"]["usage"], "reported", "{case}: {line}");
            }
        }
        self.gateway.settled().await;
    }
}

#[tokio::test]
async fn every_dialect_reaches_bedrock_by_a_key() {
    let front = Front::bedrock().await;
    let path = format!("/model/{CLAUDE_IN_PATH}/converse");
    front
        .answers_everybody(&path, &format!("{path}-stream"))
        .await;
    let asked = front.provider.last().await;
    assert_eq!(
        asked.header("accept"),
        Some("application/vnd.amazon.eventstream")
    );
    assert_eq!(asked.body.get("model"), None);
}

#[tokio::test]
async fn every_dialect_reaches_bedrock_by_a_signature() {
    let front = Front::signed().await;
    let path = format!("/model/{CLAUDE_IN_PATH}/converse");
    front
        .answers_everybody(&path, &format!("{path}-stream"))
        .await;
    let asked = front.provider.last().await;
    assert_eq!(asked.header("x-amz-security-token"), Some(SESSION_TOKEN));
    let shown = asked.header("authorization").unwrap();
    assert!(shown.starts_with("AWS4-HMAC-SHA256 "), "{shown}");
}

#[tokio::test]
async fn a_wrong_signature_is_the_gateways_own_affair() {
    let section = format!(
        "kind: bedrock, region: {REGION}, aws: {{ access_key_id: {ACCESS_KEY_ID}, secret_access_key: wrong }}"
    );
    let front = Front::start(Provider::bedrock().await, &section, CLAUDE).await;
    let answer = front.ask(Speaks::Chat, false).await;
    let (status, code, message) = refusal(Speaks::Chat, &answer);
    assert_eq!((status, code.as_str()), (502, "provider_failed"));
    assert!(
        !message.contains("canonical") && !message.contains("AKID"),
        "{message}"
    );
}

#[tokio::test]
async fn tools_are_called_through_bedrock_and_cohere_in_a_stream() {
    for front in [Front::signed().await, Front::cohere().await] {
        let tool = json!({ "type": "function", "function": {
            "name": "look", "parameters": { "type": "object", "properties": { "at": { "type": "string" } } } } });
        let body = json!({
            "model": "it", "stream": true, "tools": [tool],
            "messages": [{ "role": "user", "content": "call look {\"at\":\"the sky\"}" }],
        });
        let answer = front.post("/v1/chat/completions", &body).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        let mut arguments = String::new();
        let events = text.lines().filter_map(|line| line.strip_prefix("data: {"));
        for event in events {
            let event: Value = serde_json::from_str(&format!("{{{event}")).unwrap();
            let call = &event["choices"][0]["delta"]["tool_calls"][0]["function"];
            arguments += call["arguments"].as_str().unwrap_or_default();
        }
        assert_eq!(arguments, r#"{"at":"the sky"}"#, "{text}");
        assert!(text.contains(r#""finish_reason":"tool_calls""#), "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}

#[tokio::test]
async fn what_bedrock_refuses_is_told_by_its_kind() {
    for (trouble, status, code, calls) in [
        (Trouble::Quota, 429, "insufficient_quota", 1),
        (Trouble::Forbidden, 502, "provider_failed", 1),
        (Trouble::ContextLength, 400, "context_length_exceeded", 1),
        (Trouble::Invalid, 400, "invalid_request", 1),
        (Trouble::Server, 502, "provider_failed", 2),
        (Trouble::Status(424), 502, "provider_failed", 2),
        (Trouble::Unavailable, 503, "provider_overloaded", 2),
    ] {
        // A gateway each: keys that are refused are left alone for a while.
        let front = Front::bedrock().await;
        front.provider.times(2, &Fault::Error(trouble));
        let answer = front.ask(Speaks::Chat, true).await;
        let (found, kind, _) = refusal(Speaks::Chat, &answer);
        assert_eq!((found, kind.as_str()), (status, code), "{trouble:?}");
        assert_eq!(front.provider.count(), calls, "{trouble:?}");
    }
    let front = Front::bedrock().await;
    front.provider.then(Fault::Error(Trouble::RateLimit));
    let answer = front.ask(Speaks::Chat, true).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(front.provider.count(), 2);
}

#[tokio::test]
async fn an_exception_within_a_stream_is_passed_over_before_words_and_told_after_them() {
    let front = Front::signed().await;
    front.provider.then(Fault::ErrorFirst(Trouble::Unavailable));
    let answer = front.ask(Speaks::Messages, true).await;
    let heard = hear(Speaks::Messages, &answer, true);
    assert!(heard.whole && heard.error.is_none(), "{}", answer.text());
    assert_eq!(front.provider.count(), 2);
    for speaks in ALL {
        front
            .provider
            .then(Fault::ErrorAfter(3, Trouble::RateLimit));
        let answer = front.ask(speaks, true).await;
        let heard = hear(speaks, &answer, true);
        assert_eq!(answer.status, 200, "{speaks:?}");
        assert!(
            heard.error.is_some() && !heard.whole,
            "{speaks:?}: {}",
            answer.text()
        );
        assert!(
            heard.text.starts_with("echo: "),
            "{speaks:?}: {}",
            heard.text
        );
    }
    front.gateway.settled().await;
}

#[tokio::test]
async fn a_stream_of_bedrock_that_is_cut_or_spoiled_is_never_taken_for_whole() {
    for fault in [
        Fault::CutAfter(4),
        Fault::EndAfter(4),
        Fault::ResetAfter(4),
        Fault::HalfAt(4),
        // Text where a length is expected: nothing that follows can be found.
        Fault::NotJsonAt(4),
    ] {
        let front = Front::bedrock().await;
        front.provider.then(fault);
        let answer = front.ask(Speaks::Chat, true).await;
        let heard = hear(Speaks::Chat, &answer, true);
        assert!(heard.error.is_some() && !heard.whole, "{}", answer.text());
    }
}

#[tokio::test]
async fn however_a_stream_of_bedrock_is_cut_the_same_comes_out() {
    let front = Front::bedrock().await;
    for bytes in [1, 7, 64, 10_000] {
        front.provider.chunks(bytes);
        let answer = front.ask(Speaks::Responses, true).await;
        let heard = hear(Speaks::Responses, &answer, true);
        assert!(heard.whole, "{bytes}: {}", answer.text());
        assert_eq!(heard.text, format!("echo: {WORDS}"));
    }
}

#[tokio::test]
async fn every_dialect_reaches_gemini_on_vertex() {
    let front = Front::vertex("gemini-2.5-flash").await;
    let path = format!(
        "/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/google/models/gemini-2.5-flash"
    );
    front
        .answers_everybody(
            &format!("{path}:generateContent"),
            &format!("{path}:streamGenerateContent"),
        )
        .await;
    assert_eq!(front.provider.token_requests(), 1);
    let answer = front
        .post(
            "/v1beta/models/it:countTokens",
            &json!({ "contents": [{ "role": "user", "parts": [{ "text": "a b" }] }] }),
        )
        .await;
    assert_eq!(answer.json()["totalTokens"], 2, "{}", answer.text());
}

#[tokio::test]
async fn every_dialect_reaches_claude_on_vertex() {
    let front = Front::vertex("claude-haiku-4-5@20251001").await;
    let path = format!(
        "/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/anthropic/models/claude-haiku-4-5@20251001"
    );
    front
        .answers_everybody(
            &format!("{path}:rawPredict"),
            &format!("{path}:streamRawPredict"),
        )
        .await;
    // The same dialect passes byte by byte, but for the member in which the two differ.
    let body =
        r#"{ "max_tokens" : 9, "model":"it", "messages":[{"role":"user","content":"h\u00e9"}] }"#;
    let mut client = Client::connect(&front.gateway).await;
    let answer = client.post("/v1/messages", body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let version = r#""anthropic_version":"vertex-2023-10-16""#;
    let raw = front.provider.last().await.raw;
    assert_eq!(
        String::from_utf8_lossy(&raw),
        body.replace(r#""model":"it""#, version)
    );
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end() {
    let provider = Provider::vertex().await;
    provider.token_seconds(2);
    let front = Front::vertex_of(provider, "gemini-2.5-flash").await;
    assert_eq!(front.ask(Speaks::Chat, false).await.status, 200);
    let first = front.provider.last().await;
    eventually("another token", async || {
        (front.provider.token_requests() > 2).then_some(())
    })
    .await;
    let answer = front.ask(Speaks::Chat, false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = front.provider.seen();
    let calls = asked.iter().filter(|asked| asked.path != "/token");
    let last = calls.last().unwrap();
    assert_ne!(first.header("authorization"), last.header("authorization"));
    let selector = r#"onemind_ai_token_fetches_total{provider="cloud",result="ok"}"#;
    assert!(front.gateway.metric(selector).await > 2.0);
}

#[tokio::test]
async fn without_a_token_nobody_is_asked_and_operators_see_why() {
    let provider = Provider::vertex().await;
    provider.gives_tokens(false);
    let front = Front::vertex_of(provider, "gemini-2.5-flash").await;
    let answer = front.ask(Speaks::Chat, false).await;
    let (status, code, message) = refusal(Speaks::Chat, &answer);
    assert_eq!((status, code.as_str()), (502, "provider_failed"));
    assert!(!message.contains("invalid_grant"), "{message}");
    let status = front.gateway.status().await;
    let error = status["providers"]["cloud"]["token"]["error"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("invalid_grant: account disabled")),
        "{status}"
    );
    let asked = front.provider.seen();
    assert!(asked.iter().all(|asked| asked.path == "/token"));
    front.provider.gives_tokens(true);
    eventually("a call goes through", async || {
        (front.ask(Speaks::Chat, false).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_kept_over_a_reload_and_renewed_when_it_is_refused() {
    let front = Front::vertex("gemini-2.5-flash").await;
    assert_eq!(front.ask(Speaks::Chat, false).await.status, 200);
    let more = format!("{}# the same, written anew\n", front.yaml);
    let origin = front.provider.origin();
    front.gateway.reload(&more, &[("origin", &origin)]).await;
    assert_eq!(front.ask(Speaks::Chat, false).await.status, 200);
    assert_eq!(front.provider.token_requests(), 1);
    front.provider.revoke();
    assert_eq!(front.ask(Speaks::Chat, false).await.status, 502);
    eventually("a call goes through", async || {
        (front.ask(Speaks::Chat, false).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(front.provider.token_requests(), 2);
}

#[tokio::test]
async fn every_dialect_reaches_cohere_in_its_own_words() {
    let front = Front::cohere().await;
    front.answers_everybody("/v2/chat", "/v2/chat").await;
    let body = json!({ "model": "it", "input": "a b" });
    let answer = front.post("/v1/embeddings", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = front.provider.last().await;
    assert_eq!(asked.path, "/compatibility/v1/embeddings");
    front.provider.then(Fault::ErrorAfter(3, Trouble::Server));
    let answer = front.ask(Speaks::Responses, true).await;
    let heard = hear(Speaks::Responses, &answer, true);
    assert!(heard.error.is_some() && !heard.whole, "{}", answer.text());
    front.provider.then(Fault::Error(Trouble::ContextLength));
    let answer = front.ask(Speaks::Messages, false).await;
    assert_eq!(refusal(Speaks::Messages, &answer).0, 400);
}

#[tokio::test]
async fn a_dated_version_of_azure_has_deployments_in_its_paths() {
    let section = format!("kind: azure, keys: {PROVIDER_KEY}, api_version: '2024-10-21'");
    let provider = Provider::azure().await;
    provider.models(&["my-gpt"]);
    let front = Front::start(provider, &section, "my-gpt").await;
    let path = "/openai/deployments/my-gpt/chat/completions";
    front.answers_everybody(path, path).await;
    let asked = front.provider.last().await;
    assert_eq!(asked.query, "api-version=2024-10-21");
}
