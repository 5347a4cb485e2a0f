//! A Prometheus of a test's own: scrapes and evaluates every second, answers queries, tells its alerts.

use super::client::Client;
use super::ports::Port;
use super::{DEADLINE, eventually, in_time};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One series of the answer to an instant query.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Without `__name__` where the query takes it off.
    pub labels: BTreeMap<String, String>,
    /// May be NaN or infinite.
    pub value: f64,
}

/// An alert that is pending or firing.
#[derive(Debug, Clone)]
pub struct Alert {
    pub name: String,
    pub firing: bool,
    pub labels: BTreeMap<String, String>,
    /// With the values filled in.
    pub annotations: BTreeMap<String, String>,
}

/// Killed when dropped; its data are gone with it.
pub struct Prometheus {
    dir: TempDir,
    port: Port,
    child: Mutex<Child>,
}

impl Prometheus {
    /// Scrapes `/metrics` of each target under the name of its job, and waits until it has scraped all
    /// of them once. `rules` are files, read where they are.
    pub async fn start(targets: &[(&str, SocketAddr)], rules: &[PathBuf]) -> Self {
        let (dir, port) = (TempDir::new().unwrap(), Port::reserve());
        let file = dir.path().join("prometheus.yaml");
        std::fs::write(&file, document(targets, rules)).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={port}"))
            .arg("--web.enable-lifecycle")
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus is installed: `apt-get install prometheus`");
        let child = Mutex::new(child);
        let prometheus = Self { dir, port, child };
        prometheus.wait_ready(targets.len()).await;
        prometheus
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The value of a query now: a vector, or a scalar as one sample without labels.
    pub async fn query(&self, promql: &str) -> Vec<Sample> {
        match self.try_query(promql).await {
            Ok(samples) => samples,
            Err(said) => panic!("{promql}\n{said}\n{}", self.log()),
        }
    }

    /// As `query`; the error is what Prometheus said.
    pub async fn try_query(&self, promql: &str) -> Result<Vec<Sample>, String> {
        let data = self
            .ask(&format!("/api/v1/query?query={}", escape(promql)))
            .await?;
        let result = &data["result"];
        if matches!(data["resultType"].as_str(), Some("scalar" | "string")) {
            let value = number(&result[1]);
            let labels = BTreeMap::new();
            return Ok(vec![Sample { labels, value }]);
        }
        let series = result.as_array().cloned().unwrap_or_default();
        let sample = |one: &Value| Sample {
            labels: strings(&one["metric"]),
            value: number(&one["value"][1]),
        };
        Ok(series.iter().map(sample).collect())
    }

    /// Waits until the expression has at least one sample, and tells them all.
    pub async fn query_until(&self, promql: &str) -> Vec<Sample> {
        eventually(&format!("samples of {promql}"), async || {
            Some(self.query(promql).await).filter(|samples| !samples.is_empty())
        })
        .await
    }

    /// All alerts that are pending or firing now.
    pub async fn alerts(&self) -> Vec<Alert> {
        let data = self.ask("/api/v1/alerts").await;
        let data = data.unwrap_or_else(|said| panic!("{said}\n{}", self.log()));
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let alert = |one: &Value| {
            let labels = strings(&one["labels"]);
            Alert {
                name: labels.get("alertname").cloned().unwrap_or_default(),
                firing: one["state"] == "firing",
                annotations: strings(&one["annotations"]),
                labels,
            }
        };
        alerts.iter().map(alert).collect()
    }

    /// Waits until an alert of this name fires. `meanwhile` is done before each look.
    pub async fn fires(&self, name: &str, mut meanwhile: impl AsyncFnMut()) -> Alert {
        let patience = DEADLINE * 3;
        let started = Instant::now();
        loop {
            meanwhile().await;
            let alerts = self.alerts().await;
            let firing = alerts.iter().find(|one| one.name == name && one.firing);
            if let Some(alert) = firing {
                return alert.clone();
            }
            assert!(
                started.elapsed() < patience,
                "{name} does not fire: {alerts:#?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `data` of an answer of the HTTP API; the error is what it said.
    pub async fn ask(&self, target: &str) -> Result<Value, String> {
        let mut client = Client::direct(self.address()).await;
        let answer = client.request("GET", target, &[], b"").await;
        let mut body: Value =
            serde_json::from_slice(&answer.body).map_err(|_| answer.text().clone())?;
        if body["status"] == "success" {
            Ok(body["data"].take())
        } else {
            Err(body.to_string())
        }
    }

    async fn wait_ready(&self, targets: usize) {
        eventually("prometheus is ready", async || {
            let left = self.child.lock().unwrap().try_wait().unwrap();
            assert!(left.is_none(), "left at once: {left:?}\n{}", self.log());
            let open = tokio::net::TcpStream::connect(self.address()).await;
            let mut client = Client::stray(Box::new(open.ok()?));
            let ready = in_time("an answer", client.try_request("GET", "/-/ready", &[], b"")).await;
            (ready.ok()?.status == 200).then_some(())
        })
        .await;
        eventually("all targets were scraped", async || {
            (self.query("up").await.len() == targets).then_some(())
        })
        .await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs `promtool` in a folder: whether it was content, and all that it said.
pub fn promtool(dir: &Path, arguments: &[&dyn Display]) -> (bool, String) {
    let run = Command::new("promtool")
        .args(arguments.iter().map(ToString::to_string))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("promtool is installed: `apt-get install prometheus`");
    let text = [run.stdout, run.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (run.status.success(), text)
}

fn document(targets: &[(&str, SocketAddr)], rules: &[PathBuf]) -> String {
    let mut text =
        "global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }\n".to_owned();
    text.push_str("rule_files:\n");
    for file in rules {
        let file = std::path::absolute(file).unwrap();
        let _ = writeln!(text, "  - '{}'", file.display());
    }
    text.push_str("scrape_configs:\n");
    for (job, address) in targets {
        let _ = writeln!(
            text,
            "  - {{ job_name: '{job}', static_configs: [{{ targets: ['{address}'] }}] }}"
        );
    }
    text
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

fn number(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_default();
    text.parse().unwrap_or(f64::NAN)
}

fn strings(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}
