//! The real binary with a configuration of its own, and everything it says.

use super::client::{Answer, Client};
use super::ports::Port;
use super::ws::WebSocket;
use super::{DEADLINE, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What placeholders stand for: `("app", &upstream)` for `{{app}}`.
pub type Names<'a> = &'a [(&'a str, &'a dyn Display)];

/// Every ending a request may have; `unknown` is a bug and not among them.
const ENDINGS: &[&str] = &[
    "completed",
    "answered",
    "tunnel_closed",
    "tunnel_idle",
    "tunnel_over_limit",
    "cut_by_drain",
    "client_left",
    "refused",
    "identity_unavailable",
    "overloaded",
    "no_route",
    "bad_request",
    "client_timed_out",
    "no_healthy_endpoint",
    "queue_full",
    "connect_failed",
    "timed_out_connect",
    "timed_out_first_byte",
    "timed_out_idle",
    "timed_out_total",
    "upstream_reset",
    "upstream_cut",
    "upstream_malformed",
    "provider_refused",
    "provider_failed",
];

/// A running gateway; killed when dropped.
pub struct Gateway {
    dir: TempDir,
    ports: BTreeMap<String, Port>,
    child: Mutex<Child>,
    access_log: Arc<Mutex<Vec<Value>>>,
    errors: Arc<Mutex<String>>,
    sent: Arc<AtomicU64>,
    /// Whether processes may run that are no children of ours.
    upgraded: AtomicBool,
}

impl Gateway {
    /// Starts with this document and waits until it is ready. `{{dir}}` is its folder, `{{name}}` one
    /// of `names`, and any other `{{word}}` a free port. `listeners` defaults to one plain one at
    /// `{{http}}`; `admin` is added.
    pub async fn start(yaml: &str, names: Names<'_>) -> Self {
        Self::start_in(TempDir::new().unwrap(), yaml, names).await
    }

    /// As `start`, in a folder that already holds certificates and the like.
    pub async fn start_in(dir: TempDir, yaml: &str, names: Names<'_>) -> Self {
        Self::start_by(dir, yaml, names, |command| command).await
    }

    /// As `start_in`, but the command is made from the one that would be run.
    pub async fn start_by(
        dir: TempDir,
        yaml: &str,
        names: Names<'_>,
        make: impl FnOnce(Command) -> Command,
    ) -> Self {
        let mut ports = BTreeMap::new();
        let text = fill(&with_defaults(yaml), names, &dir, &mut ports);
        let file = dir.path().join("gateway.yaml");
        std::fs::write(&file, text).unwrap();
        Self::spawn(dir, ports, &mut make(run(&file))).await
    }

    /// Starts with a file as it is. What it reads from the environment is `values`, and beside them
    /// `LISTEN`, `LISTEN_TLS` and `ADMIN`: the addresses known here as `http`, `https` and `admin`.
    pub async fn start_file(dir: TempDir, file: &Path, values: Names<'_>) -> Self {
        let mut command = run(file);
        for (name, value) in values {
            command.env(name, value.to_string());
        }
        let mut ports = BTreeMap::new();
        for (variable, name) in [
            ("LISTEN", "http"),
            ("LISTEN_TLS", "https"),
            ("ADMIN", "admin"),
        ] {
            let port = Port::reserve();
            command.env(variable, port.to_string());
            ports.insert(name.to_owned(), port);
        }
        Self::spawn(dir, ports, &mut command).await
    }

    async fn spawn(dir: TempDir, ports: BTreeMap<String, Port>, command: &mut Command) -> Self {
        let child = command
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut gateway = Self {
            dir,
            ports,
            child: Mutex::new(child),
            access_log: Arc::default(),
            errors: Arc::default(),
            sent: Arc::default(),
            upgraded: AtomicBool::new(false),
        };
        gateway.listen();
        gateway.wait_ready().await;
        gateway
    }

    /// One route for everything, to the pool `app` of these endpoints. `pool` and `route` are further
    /// lines of either; active health checks are off unless `pool` says otherwise.
    pub async fn of(endpoints: &[&dyn Display], pool: &str, route: &str) -> Self {
        Self::start(&app(endpoints, pool, route), &[]).await
    }

    fn listen(&mut self) {
        let child = self.child.get_mut().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (lines, errors) = (Arc::clone(&self.access_log), Arc::clone(&self.errors));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(value);
            }
        });
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..length]);
                errors.lock().unwrap().push_str(&text);
            }
        });
    }

    async fn wait_ready(&self) {
        eventually("the gateway is ready", async || {
            let left = self.child.lock().unwrap().try_wait().unwrap();
            assert!(left.is_none(), "left at once: {left:?}\n{}", self.errors());
            (self.ready().await == Some(200)).then_some(())
        })
        .await;
    }

    /// Status of `/readyz`; none when nobody answers.
    pub async fn ready(&self) -> Option<u16> {
        let address = self.address("admin");
        tokio::net::TcpStream::connect(address).await.ok()?;
        let mut client = Client::direct(address).await;
        let answer = client.try_request("GET", "/readyz", &[], b"").await.ok()?;
        Some(answer.status)
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.ports.get(listener) {
            Some(port) => port.address(),
            None => panic!("no placeholder {{{{{listener}}}}} in the document"),
        }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Processor time that the process has used, in ticks of 10 ms (proc(5): utime and stime).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Waits until the process does nothing, and tells how long that took.
    pub async fn rests(&self) -> Duration {
        let started = Instant::now();
        let mut before = self.cpu_ticks();
        eventually("the processor to be idle", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.cpu_ticks();
            let used = now - std::mem::replace(&mut before, now);
            (used <= 1).then(|| started.elapsed())
        })
        .await
    }

    /// Counts requests; for clients that outlive a borrow.
    pub fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Requests that were sent so far.
    pub fn count_sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// One request on a connection of its own.
    pub async fn get(&self, target: &str) -> Answer {
        Client::connect(self).await.get(target).await
    }

    pub async fn admin(&self, method: &str, target: &str) -> Answer {
        let mut client = Client::direct(self.address("admin")).await;
        client.request(method, target, &[], b"").await
    }

    pub async fn status(&self) -> Value {
        let answer = self.admin("GET", "/status").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// What `/status` says of one endpoint.
    pub async fn endpoint(&self, pool: &str, name: &dyn Display) -> Value {
        let (status, name) = (self.status().await, name.to_string());
        let endpoints = status["pools"][pool]["endpoints"].as_array().cloned();
        endpoints
            .unwrap_or_default()
            .into_iter()
            .find(|endpoint| endpoint["name"] == name.as_str())
            .unwrap_or_else(|| panic!("no endpoint {name} in {status}"))
    }

    /// Waits until `/status` says this of an endpoint.
    pub async fn endpoint_is(&self, pool: &str, name: &dyn Display, key: &str, value: Value) {
        eventually(&format!("{name}: {key} is {value}"), async || {
            (self.endpoint(pool, name).await[key] == value).then_some(())
        })
        .await;
    }

    /// Sum of all samples of this name that carry these labels: `name{label="x"}`.
    pub async fn metric(&self, selector: &str) -> f64 {
        let answer = self.admin("GET", "/metrics").await;
        assert_eq!(answer.status, 200);
        let (name, labels) = sample_key(selector);
        let text = answer.text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(key, _)| {
                let (key, carried) = sample_key(key);
                key == name && labels.iter().all(|label| carried.contains(label))
            })
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    /// The first access line of which this is true; waits for it.
    pub async fn access_log_line(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually("an access line", async || {
            let lines = self.access_log.lock().unwrap();
            lines.iter().find(|line| is_it(line)).cloned()
        })
        .await
    }

    pub fn access_log(&self) -> Vec<Value> {
        self.access_log.lock().unwrap().clone()
    }

    /// Waits for the only access line and checks its ending.
    pub async fn ended(&self, ending: &str) -> Value {
        let line = self.access_log_line(|_| true).await;
        assert_eq!(line["ending"], ending, "{line}");
        line
    }

    /// Closes the tunnels, without which their requests have no access lines yet, and then as `settled`.
    pub async fn settled_after_tunnels(&self, tunnels: Vec<WebSocket>) {
        drop(tunnels);
        self.settled().await;
    }

    /// Every request sent has one access line with a known ending, and the counters agree.
    pub async fn settled(&self) {
        let sent = self.sent.load(SeqCst);
        eventually(&format!("{sent} access lines"), async || {
            (self.access_log.lock().unwrap().len() as u64 >= sent).then_some(())
        })
        .await;
        let counted = eventually("counters to settle", async || {
            let counted = self.metric("onemind_requests_ended_total").await;
            (counted >= sent as f64).then_some(counted)
        })
        .await;
        let unknown = self
            .metric("onemind_requests_ended_total{ending=\"unknown\"}")
            .await;
        assert!(
            unknown.abs() < 0.5,
            "{unknown} requests ended nobody knows how"
        );
        let lines = self.access_log();
        for line in &lines {
            let ending = line["ending"].as_str().unwrap_or_default();
            assert!(ENDINGS.contains(&ending), "ending {ending:?} of {line}");
        }
        assert_eq!(
            lines.len() as u64,
            sent,
            "one access line for each request: {lines:#?}"
        );
        assert!(
            (counted - sent as f64).abs() < 0.5,
            "{counted} counted of {sent}"
        );
    }

    /// What it wrote to standard error.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Writes the document in one step, as editors do, and leaves the rest to the watcher.
    pub fn write(&self, yaml: &str, names: Names<'_>) {
        let mut all: Vec<(&str, &dyn Display)> = names.to_vec();
        let known: Vec<_> = self.ports.iter().collect();
        all.extend(
            known
                .iter()
                .map(|(name, port)| (name.as_str(), *port as &dyn Display)),
        );
        let text = fill(&with_defaults(yaml), &all, &self.dir, &mut BTreeMap::new());
        std::fs::write(self.path("new.yaml"), text).unwrap();
        std::fs::rename(self.path("new.yaml"), self.path("gateway.yaml")).unwrap();
    }

    /// Writes the document and asks for a reload; the answer tells how it went.
    pub async fn try_reload(&self, yaml: &str, names: Names<'_>) -> Answer {
        self.write(yaml, names);
        self.admin("POST", "/reload").await
    }

    pub async fn reload(&self, yaml: &str, names: Names<'_>) {
        let answer = self.try_reload(yaml, names).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.errors());
    }

    pub async fn revision(&self) -> u64 {
        self.status().await["revision"]
            .as_u64()
            .expect("a revision")
    }

    /// Sends a signal by its short name: `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        self.signal_to(self.pid(), name);
    }

    pub fn signal_to(&self, pid: u32, name: &str) {
        self.upgraded.fetch_or(name == "USR2", SeqCst);
        let kill = format!("kill -{name} {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success(), "{kill}");
    }

    /// Runs `onemind upgrade`: whether it went well, and what it said.
    pub async fn try_upgrade(&self) -> (bool, String) {
        self.upgraded.store(true, SeqCst);
        let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
        command
            .arg("upgrade")
            .arg("-c")
            .arg(self.path("gateway.yaml"));
        let run = tokio::task::spawn_blocking(move || finish(&mut command));
        let (status, out, err) = run.await.unwrap();
        (status.success(), out + &err)
    }

    /// Upgrades to the same program; the id of the process that serves from now on.
    pub async fn upgrade(&self) -> u32 {
        let (went_well, said) = self.try_upgrade().await;
        assert!(went_well, "{said}\n{}", self.errors());
        let pid = serde_json::from_str::<Value>(&said).unwrap()["pid"].clone();
        u32::try_from(pid.as_u64().unwrap()).unwrap()
    }

    /// The process that answers operators; not the one that was started, after an upgrade.
    pub async fn serving_pid(&self) -> u32 {
        let pid = self.status().await["pid"].as_u64().unwrap();
        u32::try_from(pid).unwrap()
    }

    pub async fn wait_exit(&self) -> ExitStatus {
        eventually("the gateway leaves", async || {
            self.child.lock().unwrap().try_wait().unwrap()
        })
        .await
    }

    pub fn is_running(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// A number of `/proc/<pid>/status`, in KiB: `VmRSS`.
    pub fn memory_kib(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        if *self.upgraded.get_mut() {
            kill_all_in(self.dir.path());
        }
        if std::thread::panicking() {
            let lines = self.access_log.lock().unwrap();
            let last: Vec<String> = lines.iter().rev().take(10).map(Value::to_string).collect();
            let errors = self.errors.lock().unwrap();
            let errors: String = errors.chars().take(8_000).collect();
            eprintln!(
                "--- gateway said:\n{errors}--- last access lines:\n{}",
                last.join("\n")
            );
        }
    }
}

/// Ends successors, which are no children of ours: they run in this folder, as the first one did.
fn kill_all_in(dir: &Path) {
    let folder = dir.canonicalize().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let runs_in = std::fs::read_link(entry.path().join("cwd"));
        if runs_in.is_ok_and(|runs_in| runs_in == folder) {
            let pid = entry.file_name();
            let kill = format!("kill -KILL {}", pid.display());
            let _ = Command::new("sh").args(["-c", &kill]).status();
        }
    }
}

/// Whether this process runs; one that nobody has waited for does not.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The document of `Gateway::of`.
pub fn app(endpoints: &[&dyn Display], pool: &str, route: &str) -> String {
    let quoted: Vec<String> = endpoints.iter().map(|one| format!("'{one}'")).collect();
    let mut text = format!("pools:\n  app:\n    endpoints: [{}]\n", quoted.join(", "));
    let off = if pool.contains("health:") {
        ""
    } else {
        "health: { check: off }"
    };
    for line in pool.lines().chain([off]) {
        let _ = writeln!(text, "    {}", line.trim());
    }
    text.push_str("routes:\n  all:\n    pool: app\n");
    for line in route.lines() {
        let _ = writeln!(text, "    {}", line.trim());
    }
    text
}

fn run(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    command.arg("run").arg("-c").arg(file).stdin(Stdio::null());
    command
}

/// Waits for any command, and kills it past the deadline.
pub fn finish(command: &mut Command) -> (ExitStatus, String, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built");
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            text
        })
    };
    let (out, err) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
        }
        std::thread::park_timeout(super::POLL);
    };
    (status, out.join().unwrap(), err.join().unwrap())
}

fn with_defaults(yaml: &str) -> String {
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    let mut text = yaml.to_owned() + "\n";
    if !has("admin:") {
        text.push_str("admin: { address: '{{admin}}' }\n");
    }
    if !has("listeners:") {
        text.push_str("listeners: { web: { address: '{{http}}' } }\n");
    }
    text
}

fn fill(yaml: &str, names: Names<'_>, dir: &TempDir, ports: &mut BTreeMap<String, Port>) -> String {
    let mut text = String::new();
    let mut rest = yaml;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("placeholders end");
        text.push_str(before);
        if name == "dir" {
            text.push_str(&dir.path().display().to_string());
        } else if let Some((_, value)) = names.iter().find(|(known, _)| *known == name) {
            text.push_str(&value.to_string());
        } else {
            let port = ports.entry(name.to_owned()).or_insert_with(Port::reserve);
            text.push_str(&port.to_string());
        }
        rest = after;
    }
    text + rest
}

/// `name{a="b",c="d"}` as its name and its labels.
fn sample_key(key: &str) -> (&str, Vec<&str>) {
    match key.split_once('{') {
        None => (key, Vec::new()),
        Some((name, labels)) => {
            let labels = labels.trim_end_matches('}');
            let labels = labels.split("\",").map(|label| label.trim_end_matches('"'));
            (name, labels.filter(|label| !label.is_empty()).collect())
        }
    }
}
