//! The official SDKs of `OpenAI`, Anthropic and Google, `LangChain` and the Vercel AI SDK: straight to the scripted
//! providers, which proves that these are like the real ones, and through the gateway, to each provider.

use crate::harness::{Asked, Gateway, PROVIDER_KEY, Provider, eventually};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

/// Between two events of a stream: long enough that one of 400 words is under way when its caller leaves.
const GAP: Duration = Duration::from_millis(5);
/// For one script; loading some of these libraries takes seconds.
const SCRIPT_DEADLINE: Duration = Duration::from_mins(3);

/// Runs a script of `tests/sdk` and fails the test with what it printed, unless all of its cases pass.
async fn run(script: &str, environment: &[(&str, &str)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = match script.rsplit_once('.') {
        Some((_, "py")) => folder.join(".cache/sdk/python/bin/python"),
        _ => "node".into(),
    };
    let mut command = Command::new(program);
    command
        .arg(folder.join("tests/sdk").join(script))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", std::env::temp_dir())
        .env("NO_PROXY", "*")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done = tokio::time::timeout(SCRIPT_DEADLINE, command.output()).await;
    let output = done
        .unwrap_or_else(|_| panic!("{script} is not done within {SCRIPT_DEADLINE:?}"))
        .expect("the SDKs are installed: `make test-needs`");
    assert!(
        output.status.success(),
        "{script} {environment:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Straight to the provider, as its variables name it.
async fn directly(provider: &Provider, name: &str, script: &str) {
    provider.every(GAP);
    let (url, key) = (format!("{name}_BASE_URL"), format!("{name}_API_KEY"));
    let environment = [
        (url.as_str(), provider.url()),
        (&key, PROVIDER_KEY.to_owned()),
    ];
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    run(script, &environment).await;
    assert_aborts(provider).await;
}

/// Whoever left a long stream was seen to leave.
async fn assert_aborts(provider: &Provider) {
    let long = |asked: &Asked| asked.raw.len() > 1500;
    if !provider.seen().iter().any(long) {
        return;
    }
    eventually("the long streams are cut", async || {
        let seen = provider.seen();
        let mut all = seen.iter().filter(|asked| long(asked));
        all.all(|asked| asked.cut.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn python_openai() {
    let provider = Provider::openai().await;
    directly(&provider, "OPENAI", "python/openai_sdk.py").await;
}

#[tokio::test]
async fn python_anthropic() {
    let provider = Provider::anthropic().await;
    directly(&provider, "ANTHROPIC", "python/anthropic_sdk.py").await;
}

#[tokio::test]
async fn python_google() {
    let provider = Provider::gemini().await;
    directly(&provider, "GEMINI", "python/genai_sdk.py").await;
}

#[tokio::test]
async fn python_langchain() {
    let provider = Provider::openai().await;
    directly(&provider, "OPENAI", "python/langchain_sdk.py").await;
}

#[tokio::test]
async fn node_openai() {
    let provider = Provider::openai().await;
    directly(&provider, "OPENAI", "node/openai_sdk.mjs").await;
}

#[tokio::test]
async fn node_anthropic() {
    let provider = Provider::anthropic().await;
    directly(&provider, "ANTHROPIC", "node/anthropic_sdk.mjs").await;
}

#[tokio::test]
async fn node_google() {
    let provider = Provider::gemini().await;
    directly(&provider, "GEMINI", "node/genai_sdk.mjs").await;
}

#[tokio::test]
async fn node_vercel() {
    let provider = Provider::openai().await;
    directly(&provider, "OPENAI", "node/vercel_sdk.mjs").await;
}

/// What callers of the gateway present.
const GATEWAY_KEY: &str = "gateway-key-of-this-test-0123456789";

/// The example for operators, as it is, in front of one scripted provider of each kind.
struct Behind {
    gateway: Gateway,
    providers: [Provider; 3],
}

impl Behind {
    async fn start() -> Self {
        let providers = [
            Provider::openai().await,
            Provider::anthropic().await,
            Provider::gemini().await,
        ];
        for provider in &providers {
            provider.every(GAP);
        }
        let [openai, anthropic, gemini] = providers.each_ref().map(Provider::url);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/ai.yaml");
        let gateway = Gateway::start_file(
            TempDir::new().unwrap(),
            &file,
            &[
                ("GATEWAY_KEY", &GATEWAY_KEY),
                ("OPENAI_API_KEY", &PROVIDER_KEY),
                ("OPENAI_BASE_URL", &openai),
                ("ANTHROPIC_API_KEY", &PROVIDER_KEY),
                ("ANTHROPIC_BASE_URL", &anthropic),
                ("GEMINI_API_KEY", &PROVIDER_KEY),
                ("GEMINI_BASE_URL", &gemini),
            ],
        )
        .await;
        Self { gateway, providers }
    }

    /// Only base URL and key are replaced. A model of another provider is asked in the SDK's own words.
    async fn run(&self, script: &str, model: Option<&str>, fault: &str) {
        let origin = format!("http://{}", self.gateway.address("http"));
        let openai = format!("{origin}/v1");
        let mut environment = vec![
            ("OPENAI_BASE_URL", openai.as_str()),
            ("ANTHROPIC_BASE_URL", &origin),
            ("GEMINI_BASE_URL", &origin),
            ("OPENAI_API_KEY", GATEWAY_KEY),
            ("ANTHROPIC_API_KEY", GATEWAY_KEY),
            ("GEMINI_API_KEY", GATEWAY_KEY),
            ("GATEWAY", "1"),
            ("FAULT", fault),
        ];
        environment.extend(model.map(|model| ("MODEL", model)));
        run(script, &environment).await;
        for provider in &self.providers {
            assert_aborts(provider).await;
        }
    }

    /// The script for the provider's own models and for those of the others; then its faults, each by itself,
    /// since a gateway that has seen one spares the provider for a while.
    async fn run_all(script: &str, others: &[&str], faults: &[&str]) {
        let behind = Self::start().await;
        behind.run(script, None, "").await;
        for model in others {
            behind.run(script, Some(model), "").await;
        }
        for fault in faults {
            Self::start().await.run(script, None, fault).await;
        }
    }
}

#[tokio::test]
async fn through_the_gateway_python_openai() {
    let (others, faults) = (
        &["claude-sonnet-4-5", "gemini-2.5-pro"],
        &[
            "rate_limit",
            "rate_limit_streamed",
            "quota",
            "server",
            "inside_a_stream",
            "inside_a_response",
            "silence",
        ],
    );
    Behind::run_all("python/openai_sdk.py", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_python_anthropic() {
    let (others, faults) = (
        &["gpt-5", "gemini-2.5-pro"],
        &[
            "rate_limit",
            "rate_limit_streamed",
            "server",
            "inside_a_stream",
            "silence",
        ],
    );
    Behind::run_all("python/anthropic_sdk.py", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_python_google() {
    let (others, faults) = (
        &["gpt-5", "claude-sonnet-4-5"],
        &[
            "rate_limit",
            "rate_limit_streamed",
            "server",
            "inside_a_stream",
        ],
    );
    Behind::run_all("python/genai_sdk.py", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_python_langchain() {
    let (others, faults) = (&["claude-sonnet-4-5"], &["rate_limit"]);
    Behind::run_all("python/langchain_sdk.py", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_node_openai() {
    let (others, faults) = (
        &["claude-sonnet-4-5", "gemini-2.5-pro"],
        &["rate_limit", "server", "inside_a_stream"],
    );
    Behind::run_all("node/openai_sdk.mjs", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_node_anthropic() {
    let (others, faults) = (
        &["gpt-5", "gemini-2.5-pro"],
        &["rate_limit", "server", "inside_a_stream"],
    );
    Behind::run_all("node/anthropic_sdk.mjs", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_node_google() {
    let (others, faults) = (&["gpt-5", "claude-sonnet-4-5"], &["rate_limit", "server"]);
    Behind::run_all("node/genai_sdk.mjs", others, faults).await;
}

#[tokio::test]
async fn through_the_gateway_node_vercel() {
    let (others, faults) = (&["claude-sonnet-4-5"], &["rate_limit"]);
    Behind::run_all("node/vercel_sdk.mjs", others, faults).await;
}
