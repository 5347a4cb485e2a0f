//! Calls of models: every SDK's dialect to every provider, and what becomes of each failure.

mod egress;
mod deploy;
mod doors;
mod faults;
mod limits;
mod matrix;
mod queue;
mod realtime;
mod streams;

use crate::harness::{Answer, Client, Gateway, PROVIDER_KEY, Provider};
use serde_json::{Value, json};
use std::fmt::Display;

/// A gateway in front of one scripted provider of each kind.
pub struct Ai {
    pub openai: Provider,
    pub anthropic: Provider,
    pub gemini: Provider,
    pub gateway: Gateway,
}

/// In which a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Chat,
    Responses,
    Messages,
    Gemini,
}

pub const ALL: [Speaks; 4] = [
    Speaks::Chat,
    Speaks::Responses,
    Speaks::Messages,
    Speaks::Gemini,
];

impl Ai {
    /// `more`: keys of each provider's section, and sections of the document.
    pub async fn start(provider: &str, document: &str) -> Self {
        let (openai, anthropic, gemini) = (
            Provider::openai().await,
            Provider::anthropic().await,
            Provider::gemini().await,
        );
        // `local` is OpenAI as a server that speaks chat alone.
        let section = |name: &str, kind: &str, url: &str| {
            format!(
                "  {name}: {{ kind: {kind}, base_url: '{{{{{url}}}}}', keys: {PROVIDER_KEY}, {provider} }}\n"
            )
        };
        let yaml = format!(
            "listeners: {{ web: {{ address: '{{{{http}}}}' }} }}
providers:
{}{}{}{}models:
  gpt: {{ targets: openai/gpt-5 }}
  claude: {{ targets: anthropic/claude-sonnet-4-5 }}
  flash: {{ targets: gemini/gemini-2.5-flash }}
  smart: {{ targets: [openai/gpt-5, anthropic/claude-sonnet-4-5] }}
{document}",
            section("openai", "openai", "openai"),
            section("local", "compatible", "openai"),
            section("anthropic", "anthropic", "anthropic"),
            section("gemini", "gemini", "gemini"),
        );
        let urls = [openai.url(), anthropic.url(), gemini.url()];
        let names: [(&str, &dyn Display); 3] = [
            ("openai", &urls[0]),
            ("anthropic", &urls[1]),
            ("gemini", &urls[2]),
        ];
        let gateway = Gateway::start(&yaml, &names).await;
        Self {
            openai,
            anthropic,
            gemini,
            gateway,
        }
    }

    /// The usual route, short waits.
    pub async fn usual() -> Self {
        Self::start(QUICK, ROUTE).await
    }

    /// One call, on a connection of its own.
    pub async fn ask(&self, speaks: Speaks, model: &str, stream: bool) -> Answer {
        self.say(speaks, model, stream, "one two three").await
    }

    pub async fn say(&self, speaks: Speaks, model: &str, stream: bool, prompt: &str) -> Answer {
        let (path, body) = call(speaks, model, stream, prompt);
        self.post(&path, &body).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut client = Client::connect(&self.gateway).await;
        let headers = &[("content-type", "application/json")];
        client
            .request("POST", path, headers, body.to_string().as_bytes())
            .await
    }
}

pub const QUICK: &str = "retry: { backoff: 1ms }, timeouts: { first_token: 1s, gap: 1s }";
pub const ROUTE: &str = "routes: { ai: { path: [/v1/*, /v1beta/*], ai: {} } }\n";

/// The call as an SDK would write it.
pub fn call(speaks: Speaks, model: &str, stream: bool, prompt: &str) -> (String, Value) {
    let messages = json!([{ "role": "user", "content": prompt }]);
    match speaks {
        Speaks::Chat => (
            "/v1/chat/completions".to_owned(),
            json!({ "model": model, "stream": stream, "messages": messages }),
        ),
        Speaks::Responses => (
            "/v1/responses".to_owned(),
            json!({ "model": model, "stream": stream, "input": prompt }),
        ),
        Speaks::Messages => (
            "/v1/messages".to_owned(),
            json!({ "model": model, "stream": stream, "max_tokens": 500, "messages": messages }),
        ),
        Speaks::Gemini => {
            let verb = if stream {
                "streamGenerateContent?alt=sse"
            } else {
                "generateContent"
            };
            (
                format!("/v1beta/models/{model}:{verb}"),
                json!({ "contents": [{ "role": "user", "parts": [{ "text": prompt }] }] }),
            )
        }
    }
}

/// What a caller makes of an answer.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    pub text: String,
    /// Whether the dialect's own mark of a whole answer came.
    pub whole: bool,
    /// The error within the stream, as it is told there.
    pub error: Option<Value>,
    /// Tokens of prompt and answer, where the answer says.
    pub tokens: Option<(u64, u64)>,
}

/// Reads an answer as an SDK of the dialect does.
pub fn hear(speaks: Speaks, answer: &Answer, stream: bool) -> Heard {
    let mut heard = Heard::default();
    if !stream {
        hear_whole(speaks, &answer.json(), &mut heard);
        return heard;
    }
    for event in answer.text().replace("\r\n", "\n").split("\n\n") {
        let data: Vec<&str> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim_start)
            .collect();
        match data.join("\n").as_str() {
            "" => {}
            "[DONE]" => heard.whole = heard.error.is_none(),
            data => {
                let event: Value =
                    serde_json::from_str(data).unwrap_or_else(|fault| panic!("{fault}: {data}"));
                hear_event(speaks, &event, &mut heard);
            }
        }
    }
    heard
}

fn hear_event(speaks: Speaks, event: &Value, heard: &mut Heard) {
    if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
        heard.error = Some(error.clone());
        return;
    }
    let mut say = |text: &Value| heard.text.push_str(text.as_str().unwrap_or_default());
    match speaks {
        Speaks::Chat => {
            say(&event["choices"][0]["delta"]["content"]);
            let usage = &event["usage"];
            tokens(usage, "prompt_tokens", "completion_tokens", heard);
        }
        Speaks::Responses => match event["type"].as_str().unwrap() {
            "response.output_text.delta" => say(&event["delta"]),
            "response.completed" | "response.incomplete" => {
                heard.whole = true;
                let usage = &event["response"]["usage"];
                tokens(usage, "input_tokens", "output_tokens", heard);
            }
            "response.failed" => heard.error = Some(event["response"]["error"].clone()),
            "error" => heard.error = Some(event.clone()),
            _ => {}
        },
        Speaks::Messages => match event["type"].as_str().unwrap() {
            "content_block_delta" => say(&event["delta"]["text"]),
            "message_start" => {
                let usage = &event["message"]["usage"];
                tokens(usage, "input_tokens", "output_tokens", heard);
            }
            "message_delta" => {
                let (input, output) = heard.tokens.unwrap_or_default();
                let now = |name: &str| event["usage"][name].as_u64();
                heard.tokens = Some((
                    now("input_tokens").unwrap_or(input),
                    now("output_tokens").unwrap_or(output),
                ));
            }
            "message_stop" => heard.whole = true,
            _ => {}
        },
        Speaks::Gemini => {
            hear_candidate(event, heard);
        }
    }
}

fn hear_candidate(event: &Value, heard: &mut Heard) {
    let candidate = &event["candidates"][0];
    for part in candidate["content"]["parts"]
        .as_array()
        .into_iter()
        .flatten()
    {
        heard
            .text
            .push_str(part["text"].as_str().unwrap_or_default());
    }
    heard.whole |= candidate["finishReason"].is_string();
    let usage = &event["usageMetadata"];
    tokens(usage, "promptTokenCount", "candidatesTokenCount", heard);
}

fn hear_whole(speaks: Speaks, body: &Value, heard: &mut Heard) {
    match speaks {
        Speaks::Chat => {
            let choice = &body["choices"][0];
            heard
                .text
                .push_str(choice["message"]["content"].as_str().unwrap_or_default());
            heard.whole = choice["finish_reason"].is_string();
            let usage = &body["usage"];
            tokens(usage, "prompt_tokens", "completion_tokens", heard);
        }
        Speaks::Responses => {
            for item in body["output"].as_array().into_iter().flatten() {
                for part in item["content"].as_array().into_iter().flatten() {
                    heard
                        .text
                        .push_str(part["text"].as_str().unwrap_or_default());
                }
            }
            heard.whole = body["status"] == "completed";
            tokens(&body["usage"], "input_tokens", "output_tokens", heard);
        }
        Speaks::Messages => {
            for block in body["content"].as_array().into_iter().flatten() {
                heard
                    .text
                    .push_str(block["text"].as_str().unwrap_or_default());
            }
            heard.whole = body["stop_reason"].is_string();
            tokens(&body["usage"], "input_tokens", "output_tokens", heard);
        }
        Speaks::Gemini => hear_candidate(body, heard),
    }
}

fn tokens(usage: &Value, input: &str, output: &str, heard: &mut Heard) {
    if let (Some(input), Some(output)) = (usage[input].as_u64(), usage[output].as_u64()) {
        heard.tokens = Some((input, output));
    }
}

/// What a refusal says, in whichever dialect: its kind or code, and its sentence.
pub fn refusal(speaks: Speaks, answer: &Answer) -> (u16, String, String) {
    let body = answer.json();
    let error = &body["error"];
    let kind = match speaks {
        Speaks::Chat | Speaks::Responses => {
            assert!(error.get("param").is_some(), "{body}");
            &error["code"]
        }
        Speaks::Messages => {
            assert_eq!(body["type"], "error", "{body}");
            &error["type"]
        }
        Speaks::Gemini => {
            assert_eq!(error["code"], answer.status, "{body}");
            &error["status"]
        }
    };
    let message = error["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{body}");
    (
        answer.status,
        kind.as_str().unwrap_or_default().to_owned(),
        message.to_owned(),
    )
}
