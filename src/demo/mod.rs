//! `onemind demo`: the real gateway, in front of three small example backends and an example model.

mod backend;
mod certificate;
mod model;
mod switchboard;

use crate::config::{self, Environment};
use crate::observe::metrics::Metrics;
use crate::server::{Heritage, Server, StartError, process};
use backend::Backend;
use clap::Args;
use model::Model;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The example backends; `a` is the one to kill and revive.
const BACKENDS: [&str; 3] = ["a", "b", "c"];

/// What the configuration reads from the environment as it is: keys of real providers, and where they are.
const FROM_THE_ENVIRONMENT: [&str; 6] = [
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "GEMINI_API_KEY",
    "GEMINI_BASE_URL",
];

#[derive(Args)]
pub struct Options {
    /// The configuration; its addresses come from the flags below
    #[arg(short, long, value_name = "FILE", default_value = "conf/demo.yaml")]
    config: PathBuf,
    /// Plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// HTTPS, with a self-signed certificate
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Metrics, health, status
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Leave after this time, such as 30s
    #[arg(long = "for", value_name = "TIME", value_parser = parse_period)]
    duration: Option<Duration>,
}

fn parse_period(text: &str) -> Result<Duration, String> {
    let period = crate::base::units::Period::parse(text);
    period
        .map(|period| period.0)
        .ok_or_else(|| format!("`{text}` is not a length of time such as `30s`"))
}

/// Serves until told to stop, or for the time asked for.
pub fn run(options: &Options) -> Result<(), StartError> {
    let metrics = process::start_log(Some("warn"))?;
    process::control_runtime()?.block_on(show(options, metrics))
}

async fn show(options: &Options, metrics: Arc<Metrics>) -> Result<(), StartError> {
    let backends = BACKENDS.into_iter().map(Backend::start);
    let backends = Arc::new(backends.collect::<io::Result<Vec<_>>>()?);
    let model = Model::start()?;
    let switchboard = switchboard::start(Arc::clone(&backends)).await?;
    let certificate = certificate::make()?;
    let environment = environment(options, &backends, &model, &certificate)?;
    let heritage = Heritage::default();
    let server = Server::start(&options.config, environment, metrics, heritage).await?;
    say(&guide(options, &backends, switchboard, &certificate))?;
    let stopped = server.run();
    match options.duration {
        None => drop(stopped.await?),
        Some(duration) => {
            if let Ok(ended) = tokio::time::timeout(duration, stopped).await {
                ended?;
            }
        }
    }
    Ok(())
}

/// The configuration is the one in the file; only addresses and files of this run are put in.
fn environment(
    options: &Options,
    backends: &[Backend],
    model: &Model,
    certificate: &certificate::Files,
) -> io::Result<Environment> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).map_err(io::Error::other)?;
    let mut values = HashMap::from([
        ("DEMO_HTTP".to_owned(), options.http.to_string()),
        ("DEMO_HTTPS".to_owned(), options.https.to_string()),
        (
            "DEMO_HTTPS_PORT".to_owned(),
            options.https.port().to_string(),
        ),
        ("DEMO_ADMIN".to_owned(), options.admin.to_string()),
        (
            "DEMO_CERTIFICATE".to_owned(),
            certificate.certificate.display().to_string(),
        ),
        ("DEMO_KEY".to_owned(), certificate.key.display().to_string()),
        (
            "DEMO_STICKY_SECRET".to_owned(),
            format!("{:032x}", u128::from_ne_bytes(secret)),
        ),
    ]);
    for backend in backends {
        let name = format!("DEMO_BACKEND_{}", backend.name.to_uppercase());
        values.insert(name, backend.address.to_string());
    }
    values.insert("DEMO_MODEL".to_owned(), model.address.to_string());
    let around = config::environment();
    for name in FROM_THE_ENVIRONMENT {
        if let Some(value) = around(name) {
            values.insert(name.to_owned(), value);
        }
    }
    Ok(Arc::new(move |name| values.get(name).cloned()))
}

fn guide(
    options: &Options,
    backends: &[Backend],
    switchboard: SocketAddr,
    certificate: &certificate::Files,
) -> String {
    let (http, https, admin) = (options.http, options.https, options.admin);
    let mut listed = String::new();
    for Backend { name, address, .. } in backends {
        listed.push_str("  backend ");
        listed.push_str(name);
        listed.push_str("  http://");
        listed.push_str(&address.to_string());
        listed.push('\n');
    }
    format!(
        r"
OneMind Gateway is serving {config}
  http       http://{http}
  https      https://{https}  (self-signed: curl -k)
  admin      http://{admin}
{listed}
Round robin: each answer names its backend
  for i in 1 2 3 4 5 6; do curl -s http://{http}/; done
The same over TLS and HTTP/2
  curl -sk https://{https}/ -w '%{{http_version}} %{{http_code}}\n'
Kill backend a, see that nothing fails, revive it
  curl -s -X POST http://{switchboard}/kill/a
  for i in 1 2 3 4 5 6; do curl -s http://{http}/; done
  curl -s http://{admin}/status
  curl -s -X POST http://{switchboard}/revive/a
A slow answer (2 s), and one that streams
  curl -s http://{http}/slow?seconds=2
  curl -sN http://{http}/stream
A sticky WebSocket: the cookie brings you back to the same backend
  curl -si --http1.1 -N --max-time 2 http://{http}/ws -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
    -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' | grep -ai 'cookie\|backend'
  again with  -H 'Cookie: <name=value from Set-Cookie>'  : the same backend, whatever round robin says
{models}Metrics
  curl -s http://{admin}/metrics | grep onemind_
Why a request goes where it goes
  DEMO_CERTIFICATE={certificate} DEMO_KEY={key} {program} explain -c {config} GET http://{http}/api/users/7
",
        config = options.config.display(),
        models = models(http),
        certificate = certificate.certificate.display(),
        key = certificate.key.display(),
        program = program(),
    )
}

/// What to paste for the AI routes.
fn models(http: SocketAddr) -> String {
    let around = config::environment();
    let known: Vec<&str> = FROM_THE_ENVIRONMENT
        .into_iter()
        .filter(|name| {
            name.ends_with("_API_KEY") && around(name).is_some_and(|key| !key.is_empty())
        })
        .collect();
    let first = match known.as_slice() {
        [] => "the example model answers; with OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY set, real ones do".to_owned(),
        keys => format!("found {}; the example model stands in when none of them can", keys.join(", ")),
    };
    format!(
        r#"Models, in the words of three APIs ({first})
  curl -sN http://{http}/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{{"model":"smart","stream":true,"messages":[{{"role":"user","content":"Good day!"}}]}}'
  curl -sN http://{http}/v1/messages -H 'Content-Type: application/json' -H 'anthropic-version: 2023-06-01' \
    -d '{{"model":"smart","max_tokens":500,"stream":true,"messages":[{{"role":"user","content":"Good day!"}}]}}'
  curl -sN 'http://{http}/v1beta/models/smart:streamGenerateContent?alt=sse' -H 'Content-Type: application/json' \
    -d '{{"contents":[{{"parts":[{{"text":"Good day!"}}]}}]}}'
The same with their SDKs: only base URL and key are replaced
  python3 -c 'import openai; c = openai.OpenAI(base_url="http://{http}/v1", api_key="any")
for e in c.responses.create(model="smart", input="Good day!", stream=True): print(getattr(e, "delta", ""), end="", flush=True)'
  python3 -c 'import anthropic; c = anthropic.Anthropic(base_url="http://{http}", api_key="any")
print(c.messages.create(model="smart", max_tokens=500, messages=[{{"role": "user", "content": "Good day!"}}]).content[0].text)'
"#
    )
}

/// As it can be called again from here.
fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "onemind".to_owned())
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
