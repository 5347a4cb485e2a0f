//! What stands between caller and provider: nothing, a plain proxy, or a gateway; each told to do the same.

use crate::process::{PROXY_CORE, Running, find};
use crate::redis::RedisServer;
use crate::wire::{self, Connection};
use crate::{Fault, Outcome};
use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// Gateways written in Python take their time.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
const KEY: &str = "sk-bench-0123456789abcdef0123456789abcdef";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    Direct,
    Nginx,
    Bare,
    Portkey,
    Litellm,
    Onemind,
}

impl Subject {
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::Nginx,
        Self::Bare,
        Self::Portkey,
        Self::Litellm,
        Self::Onemind,
    ];

    /// Whether it can answer one dialect with a provider of another.
    pub fn translates(self) -> bool {
        matches!(self, Self::Portkey | Self::Litellm | Self::Onemind)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Bare => "bare Pingora",
            Self::Portkey => "Portkey",
            Self::Litellm => "LiteLLM",
            Self::Onemind => "onemind",
        })
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A chat completion of a provider that speaks so, whole or streamed.
    Chat { stream: bool },
    /// A streamed chat completion of a provider that speaks Anthropic's dialect.
    Translated,
}

/// What all subjects share; gone at the end, with everything that it started.
pub struct World {
    folder: TempDir,
    redis: RedisServer,
    onemind: PathBuf,
    /// Where gateways from package registries are installed.
    gateways: PathBuf,
    /// The port of the provider.
    pub provider: u16,
    _provider: Running,
}

/// A subject that runs.
pub struct Started {
    pub subject: Subject,
    pub port: u16,
    /// None where there is nothing between.
    pub running: Option<Running>,
}

impl World {
    pub async fn build(onemind: PathBuf, gateways: PathBuf, load_cores: &str) -> Outcome<Self> {
        if !onemind.is_file() {
            return Err(format!("{} does not exist", onemind.display()).into());
        }
        let folder = tempfile::tempdir()?;
        let names = ["localhost".to_owned()];
        let certificate = rcgen::generate_simple_self_signed(names)?;
        fs::write(folder.path().join("cert.pem"), certificate.cert.pem())?;
        let key = certificate.signing_key.serialize_pem();
        fs::write(folder.path().join("key.pem"), key)?;
        let provider = free_port()?;
        let arguments = ["provider".to_owned(), provider.to_string()];
        let log = folder.path().join("provider.log");
        let mut running = Running::start(load_cores, &std::env::current_exe()?, &arguments, &log)?;
        running.accepts(provider).await?;
        Ok(Self {
            folder,
            redis: RedisServer::start(),
            onemind,
            gateways,
            provider,
            _provider: running,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a subject on its core and waits until it has answered twice.
    pub async fn start(&self, subject: Subject) -> Outcome<Started> {
        if subject == Subject::Direct {
            let port = self.provider;
            return Ok(Started {
                subject,
                port,
                running: None,
            });
        }
        let port = free_port()?;
        let (program, arguments) = self.command(subject, port)?;
        let running = Running::start(PROXY_CORE, &program, &arguments, &self.log(subject))?;
        let mut started = Started {
            subject,
            port,
            running: Some(running),
        };
        for _ in 0..2 {
            if let Err(fault) = started.answers(self.provider).await {
                return Err(self.with_log(&fault, subject));
            }
        }
        Ok(started)
    }

    fn log(&self, subject: Subject) -> PathBuf {
        self.path(&format!("{subject:?}.log"))
    }

    fn with_log(&self, fault: &Fault, subject: Subject) -> Fault {
        let said = fs::read_to_string(self.log(subject)).unwrap_or_default();
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        format!("{fault}; it said: {}", last.unwrap_or("nothing")).into()
    }

    fn command(&self, subject: Subject, port: u16) -> Outcome<(PathBuf, Vec<String>)> {
        let text = |name: &str| self.path(name).display().to_string();
        Ok(match subject {
            Subject::Direct => return Err("there is nothing to start".into()),
            Subject::Nginx => {
                fs::write(self.path("nginx.conf"), self.nginx_config(port))?;
                let folder = self.folder.path().display().to_string();
                let flags = ["-p", &folder, "-e", "stderr", "-c", &text("nginx.conf")];
                let program = find("nginx").ok_or("nginx is not installed")?;
                (program, flags.map(str::to_owned).into())
            }
            Subject::Bare => {
                let ports = [port, free_port()?, self.provider, self.provider];
                let mut arguments = vec!["bare".to_owned()];
                arguments.extend(ports.map(|port| port.to_string()));
                arguments.extend([text("cert.pem"), text("key.pem")]);
                (std::env::current_exe()?, arguments)
            }
            Subject::Portkey => {
                let script = "portkey/node_modules/@portkey-ai/gateway/build/start-server.js";
                let script = installed(&self.gateways.join(script))?;
                let shim = concat!(
                    "--import=",
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/bench/ai/gateways/portkey/headers.mjs"
                );
                let port = format!("--port={port}");
                let arguments = [shim.to_owned(), script, port, "--headless".to_owned()];
                let program = find("node").ok_or("node is not installed")?;
                (program, arguments.into())
            }
            Subject::Litellm => {
                let python = self.gateways.join("litellm/bin/python");
                installed(&python)?;
                fs::write(self.path("litellm.yaml"), self.litellm_config())?;
                let starter = "import os\nos.environ.update(LITELLM_LOCAL_MODEL_COST_MAP='True', LITELLM_LOG='ERROR')\n\
                               from litellm import run_server\nrun_server()";
                let config = text("litellm.yaml");
                let port = port.to_string();
                let flags = [
                    "-c",
                    starter,
                    "--config",
                    &config,
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--num_workers",
                    "1",
                    "--telemetry",
                    "False",
                ];
                (python, flags.map(str::to_owned).into())
            }
            Subject::Onemind => {
                fs::write(self.path("onemind.yaml"), self.onemind_config(port)?)?;
                let arguments = ["run".to_owned(), "-c".to_owned(), text("onemind.yaml")];
                (self.onemind.clone(), arguments.into())
            }
        })
    }

    fn nginx_config(&self, port: u16) -> String {
        let (folder, provider) = (self.folder.path().display(), self.provider);
        format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;\n\
             error_log stderr warn;\nevents {{ worker_connections 8192; }}\nhttp {{\n \
             client_body_temp_path {folder}/n.body; proxy_temp_path {folder}/n.proxy;\n \
             fastcgi_temp_path {folder}/n.f; uwsgi_temp_path {folder}/n.u; scgi_temp_path {folder}/n.s;\n \
             access_log {folder}/nginx.access combined buffer=64k flush=1s;\n \
             keepalive_requests 1000000000; keepalive_timeout 1h;\n \
             upstream provider {{ server 127.0.0.1:{provider}; keepalive 1024; keepalive_requests 1000000000; }}\n \
             server {{\n  listen 127.0.0.1:{port} backlog=4096;\n  location / {{\n   proxy_pass http://provider;\n   \
             proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;\n  }}\n }}\n}}\n"
        )
    }

    /// No key to check, no limit, no database: the least that it can be asked to do.
    fn litellm_config(&self) -> String {
        let provider = self.provider;
        format!(
            "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/bench-1\n      \
             api_base: http://127.0.0.1:{provider}/v1\n      api_key: provider-key\n  - model_name: translated\n    \
             litellm_params:\n      model: anthropic/claude-3-5-haiku-20241022\n      api_base: http://127.0.0.1:{provider}\n      \
             api_key: provider-key\nlitellm_settings:\n  drop_params: true\n\
             general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
        )
    }

    /// Identity by key, three limits in Redis, numbers and a log: what a gateway is there for.
    fn onemind_config(&self, port: u16) -> Outcome<String> {
        let (admin, provider) = (free_port()?, self.provider);
        let (folder, redis) = (self.folder.path().display(), self.redis.url());
        Ok(format!(
            "server:\n  threads: 1\n  access_log: {folder}/onemind.access\n  \
             shield: {{ connections_per_address: 4000, in_flight_per_address: 4000 }}\n\
             admin: {{ address: '127.0.0.1:{admin}' }}\nlisteners: {{ web: {{ address: '127.0.0.1:{port}' }} }}\n\
             redis: {{ url: '{redis}', timeout: 5s }}\n\
             identity: {{ apps: {{ keys: {{ known: [{{ name: app, secret: {KEY} }}] }} }} }}\n\
             limits:\n  rules:\n    user: {{ by: user, requests: 10000000, per: day }}\n    \
             user_provider: {{ by: [user, provider], requests: 10000000, per: day }}\n    \
             tokens: {{ by: user, tokens: 1000000000, per: day }}\n\
             providers:\n  chat: {{ kind: compatible, base_url: 'http://127.0.0.1:{provider}/v1', capacity: {{ max_in_flight: 4000 }} }}\n  \
             claude: {{ kind: anthropic, keys: provider-key, base_url: 'http://127.0.0.1:{provider}', capacity: {{ max_in_flight: 4000 }} }}\n\
             models: {{ bench: {{ targets: chat/bench-1 }}, translated: {{ targets: claude/claude-1 }} }}\n\
             routes: {{ ai: {{ path: '/v1/*', identity: apps, ai: {{}} }} }}\n"
        ))
    }
}

impl Started {
    /// The request that this subject understands.
    pub fn request(&self, ask: Ask, provider: u16) -> Vec<u8> {
        let (model, stream) = match ask {
            Ask::Chat { stream } => ("bench", stream),
            Ask::Translated => ("translated", true),
        };
        let words = "What is the answer to this question? ".repeat(20);
        let stream = if stream { r#","stream":true"# } else { "" };
        let body = format!(
            r#"{{"model":"{model}","messages":[{{"role":"system","content":"Answer in few words."}},{{"role":"user","content":"{words}"}}],"max_tokens":300{stream}}}"#
        );
        let (path, headers) = self.manner(ask, provider);
        wire::request(path, &headers, &body)
    }

    fn manner(&self, ask: Ask, provider: u16) -> (&'static str, String) {
        let chat = "/v1/chat/completions";
        let translated = ask == Ask::Translated;
        match self.subject {
            // the provider is asked for messages where others must ask it so
            Subject::Direct if translated => ("/v1/messages", String::new()),
            Subject::Portkey => {
                let name = if translated { "anthropic" } else { "openai" };
                let headers = format!(
                    "Authorization: Bearer provider-key\r\nx-portkey-provider: {name}\r\n\
                     x-portkey-custom-host: http://127.0.0.1:{provider}/v1\r\n"
                );
                (chat, headers)
            }
            _ => (chat, format!("Authorization: Bearer {KEY}\r\n")),
        }
    }

    /// Asks until the first 200.
    async fn answers(&mut self, provider: u16) -> Outcome<()> {
        let request = self.request(Ask::Chat { stream: false }, provider);
        let deadline = Instant::now() + ANSWER_DEADLINE;
        loop {
            if let Some(running) = &mut self.running {
                running.lives()?;
            }
            let fault = match timeout(Duration::from_secs(5), self.try_once(&request)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(fault)) => fault.to_string(),
                Err(_) => "no answer within 5 s".to_owned(),
            };
            if Instant::now() > deadline {
                return Err(format!("no answer: {fault}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_once(&self, request: &[u8]) -> Outcome<()> {
        let mut connection = Connection::open(self.port).await?;
        let mut body = Vec::new();
        let taken = |piece: &[u8]| body.extend_from_slice(piece);
        let answer = connection.exchange(request, taken).await?;
        match answer.status {
            200 => Ok(()),
            status => {
                let said = String::from_utf8_lossy(&body);
                Err(format!(
                    "status {status}: {}",
                    said.chars().take(200).collect::<String>()
                )
                .into())
            }
        }
    }
}

fn installed(file: &Path) -> Outcome<String> {
    if file.is_file() {
        Ok(file.display().to_string())
    } else {
        Err("it is not installed".into())
    }
}

/// A port that was free a moment ago.
fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
