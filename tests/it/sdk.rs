//! The official SDKs of `OpenAI`, Anthropic and Google, LangChain and the Vercel AI SDK: straight to the scripted
//! providers, which proves that these are like the real ones.

use crate::harness::{PROVIDER_KEY, Provider, eventually};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Between two events of a stream: long enough that one of 400 words is under way when its caller leaves.
const GAP: Duration = Duration::from_millis(5);
/// For one script; loading some of these libraries takes seconds.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(180);

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
    let long = |asked: &crate::harness::Asked| asked.raw.len() > 1500;
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
