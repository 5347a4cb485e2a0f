//! Chromium without a window, spoken to in the `DevTools` protocol.

use super::{eventually, in_time};
use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A browser of a test's own; killed with all its processes when dropped.
pub struct Browser {
    child: Child,
    home: TempDir,
}

/// One page of it.
pub struct Tab {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    last: u64,
    /// What the browser said that a page without faults does not make it say.
    pub complaints: Vec<Value>,
}

impl Browser {
    pub fn start() -> Self {
        let home = TempDir::new().unwrap();
        let child = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg("about:blank")
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromium is installed (make test installs it)");
        Self { child, home }
    }

    /// A new page, so wide and high, that shows nothing yet.
    pub async fn tab(&self, width: u32, height: u32) -> Tab {
        let place = self.home.path().join("DevToolsActivePort");
        let address = eventually("the browser listens", async || {
            let text = std::fs::read_to_string(&place).ok()?;
            let (port, path) = text.trim_end().split_once('\n')?;
            Some(format!("ws://127.0.0.1:{port}{path}"))
        })
        .await;
        let (socket, _) = in_time("the browser", connect_async(address))
            .await
            .unwrap();
        let mut tab = Tab {
            socket,
            session: None,
            last: 0,
            complaints: Vec::new(),
        };
        let made = tab.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let target = made.await["targetId"].clone();
        let wanted = json!({ "targetId": target, "flatten": true });
        let session = tab.ask("Target.attachToTarget", wanted).await;
        tab.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            tab.ask(domain, json!({})).await;
        }
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        tab.ask("Emulation.setDeviceMetricsOverride", size).await;
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A group of its own, so that nobody else's browser is meant.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.wait();
    }
}

impl Tab {
    /// One command and its answer.
    pub async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut question = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            question["sessionId"] = json!(session);
        }
        let sent = self.socket.send(Message::text(question.to_string()));
        in_time(method, sent).await.unwrap();
        loop {
            let heard = in_time(method, self.socket.next()).await.unwrap().unwrap();
            let Message::Text(text) = heard else { continue };
            let heard: Value = serde_json::from_str(&text).unwrap();
            if heard["id"] == self.last {
                assert!(heard.get("error").is_none(), "{method}: {heard}");
                return heard["result"].clone();
            }
            let kind = heard["method"].as_str().unwrap_or_default();
            if kind == "Runtime.exceptionThrown" || kind == "Log.entryAdded" {
                self.complaints.push(heard["params"].clone());
            }
        }
    }

    pub async fn open(&mut self, url: &str) {
        let gone = self.ask("Page.navigate", json!({ "url": url })).await;
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
        eventually("the page is read", async || {
            let state = self.value("document.readyState + location.href").await;
            (state == format!("complete{url}")).then_some(())
        })
        .await;
    }

    /// What an expression is, as JSON.
    pub async fn value(&mut self, expression: &str) -> Value {
        let wanted = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true,
            // As the page itself would be treated.
            "allowUnsafeEvalBlockedByCSP": false,
        });
        let answer = self.ask("Runtime.evaluate", wanted).await;
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn sees(&mut self, expression: &str) {
        eventually(expression, async || {
            (self.value(expression).await == true).then_some(())
        })
        .await;
    }

    /// The whole page as a picture, for people, where `SCREENSHOTS` names a folder.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS") else {
            return;
        };
        let wanted = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.ask("Page.captureScreenshot", wanted).await;
        let picture = picture["data"].as_str().unwrap();
        let picture = base64::engine::general_purpose::STANDARD.decode(picture);
        std::fs::write(Path::new(&folder).join(name), picture.unwrap()).unwrap();
    }
}
