//! What the run needs around it, and how it is broken and mended.

use crate::Outcome;
use crate::ports::Port;
use crate::process::{PROXY_CORE, Running};
use crate::redis::RedisServer;
use crate::report::plan::Event;
use crate::token::SECRET;
use crate::watch::processes;
use crate::wire::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

const BACKENDS: usize = 3;
/// For a reload or an upgrade to be done.
const INJECTION_DEADLINE: Duration = Duration::from_mins(1);

/// Gone at the end, with everything that it started.
pub struct World {
    folder: TempDir,
    onemind: PathBuf,
    cores: String,
    redis: Arc<RedisServer>,
    backends: Vec<Option<Running>>,
    backend_ports: Vec<Port>,
    provider: Port,
    http: Port,
    admin: Port,
    /// Ends with this value; its successors are ended by their configuration's name.
    gateway: Option<Running>,
    _provider: Running,
}

impl World {
    /// Starts everything; this process and what it starts are on `cores`, but for the gateway.
    pub async fn build(onemind: &Path, cores: &str) -> Outcome<Self> {
        if !onemind.is_file() {
            return Err(format!("{} does not exist", onemind.display()).into());
        }
        let folder = tempfile::tempdir()?;
        let provider = Port::reserve();
        let running = helper((&folder, cores), "provider", &provider).await?;
        let mut world = Self {
            onemind: onemind.canonicalize()?,
            cores: cores.to_owned(),
            redis: Arc::new(RedisServer::start()),
            backends: (0..BACKENDS).map(|_| None).collect(),
            backend_ports: (0..BACKENDS).map(|_| Port::reserve()).collect(),
            provider,
            http: Port::reserve(),
            admin: Port::reserve(),
            gateway: None,
            _provider: running,
            folder,
        };
        for nth in 0..BACKENDS {
            world.start_backend(nth).await?;
        }
        world.gateway = Some(world.start_gateway().await?);
        Ok(world)
    }

    /// Where callers come in.
    pub fn port(&self) -> u16 {
        self.http.number()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    /// Returns when it is done, not when its effects are over.
    pub async fn inject(&mut self, event: Event) -> Outcome<()> {
        match event {
            Event::BackendKilled => {
                let backend = self.backends[0].take().ok_or("it does not run")?;
                backend.stop().await;
                Ok(())
            }
            Event::BackendBack => self.start_backend(0).await,
            Event::RedisKilled => self.with_redis(RedisServer::kill).await,
            Event::RedisBack => self.with_redis(RedisServer::restart).await,
            Event::Reload => timeout(INJECTION_DEADLINE, self.reload()).await?,
            Event::Upgrade => timeout(INJECTION_DEADLINE, self.upgrade()).await?,
        }
    }

    /// Waiting for a process would stop all users; so another thread waits.
    async fn with_redis(&self, what: fn(&RedisServer)) -> Outcome<()> {
        let redis = Arc::clone(&self.redis);
        Ok(tokio::task::spawn_blocking(move || what(&redis)).await?)
    }

    async fn start_backend(&mut self, nth: usize) -> Outcome<()> {
        let port = &self.backend_ports[nth];
        self.backends[nth] = Some(helper((&self.folder, &self.cores), "backend", port).await?);
        Ok(())
    }

    async fn start_gateway(&self) -> Outcome<Running> {
        fs::write(self.config(), self.yaml(1_000))?;
        let config = self.config().display().to_string();
        let log = self.folder.path().join("gateway.log");
        let arguments = ["run", "-c", &config];
        let mut running = Running::start(PROXY_CORE, &self.onemind, &arguments, &log)?;
        if let Err(fault) = running.accepts(self.port()).await {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("the gateway: {fault}; it said: {said}").into());
        }
        Ok(running)
    }

    /// Changes a limit, as an operator would.
    async fn reload(&self) -> Outcome<()> {
        let before = self.revision().await?;
        fs::write(self.config(), self.yaml(1_200))?;
        self.admin("POST /reload").await?;
        if self.revision().await? == before {
            return Err("it changed nothing".into());
        }
        Ok(())
    }

    async fn revision(&self) -> Outcome<Value> {
        let status: Value = serde_json::from_slice(&self.admin("GET /status").await?)?;
        Ok(status["revision"].clone())
    }

    /// Asks the admin listener; the body of a good answer.
    async fn admin(&self, what: &str) -> Outcome<Vec<u8>> {
        let mut admin = Connection::open(self.admin.number()).await?;
        let request = format!("{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let mut said = Vec::new();
        let taken = |piece: &[u8]| said.extend_from_slice(piece);
        let answer = admin.exchange(request.as_bytes(), taken).await?;
        match answer.status {
            200 => Ok(said),
            status => Err(format!("{status} {}", String::from_utf8_lossy(&said)).into()),
        }
    }

    /// To the same program, which is as much work as to another.
    async fn upgrade(&self) -> Outcome<()> {
        let mut command = Command::new(&self.onemind);
        command.arg("upgrade").arg("-c").arg(self.config());
        let done = command.kill_on_drop(true).output().await?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(format!("it failed: {}", said.trim()).into())
    }

    /// Users by their tokens, limits in Redis, three backends with health checks, one provider of models.
    fn yaml(&self, per_minute: u32) -> String {
        let folder = self.folder.path().display();
        let (http, admin, redis) = (&self.http, &self.admin, self.redis.url());
        let backends: Vec<String> = self.backend_ports.iter().map(ToString::to_string).collect();
        let backends = backends.join("', '");
        let provider = &self.provider;
        format!(
            "
server: {{ access_log: {folder}/access.log, drain_delay: 1s }}
admin: {{ address: '{admin}' }}
listeners: {{ web: {{ address: '{http}' }} }}
redis: {{ url: '{redis}' }}
identity: {{ users: {{ jwt: {{ secret: '{SECRET}', audience: bench }} }} }}
limits:
  rules:
    user: {{ by: user, requests: {per_minute} }}
    user_provider: {{ by: [user, provider], requests: {per_minute} }}
    tokens: {{ by: user, tokens: 10000000 }}
providers:
  chat: {{ kind: compatible, base_url: 'http://{provider}/v1', capacity: {{ max_in_flight: 4000 }} }}
models: {{ bench: {{ targets: chat/bench-1 }} }}
pools:
  app:
    endpoints: ['{backends}']
    health: {{ path: /health, interval: 1s, fast_interval: 250ms }}
    capacity: {{ max_in_flight: 4000 }}
routes:
  ai: {{ path: '/v1/*', identity: users, ai: {{}} }}
  ws: {{ path: '/ws/*', identity: users, pool: app, websocket: {{ max_per_user: 10 }} }}
  app: {{ identity: users, pool: app }}
"
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pids = processes(&self.config()).into_iter();
        for pid in pids.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // one that is gone already is what we want
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// This program in another role.
async fn helper((folder, cores): (&TempDir, &str), role: &str, port: &Port) -> Outcome<Running> {
    let arguments = [role.to_owned(), port.number().to_string()];
    let log = folder.path().join(format!("{role}-{}.log", port.number()));
    let mut running = Running::start(cores, &std::env::current_exe()?, &arguments, &log)?;
    running.accepts(port.number()).await?;
    Ok(running)
}
