//! What systemd hears from the service, and what it hands to it.

use crate::harness::{Client, Gateway, Reply, Upstream, app, eventually};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::Notify;

/// What a service manager was told, in order.
#[derive(Clone)]
struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    /// Listens in this folder.
    fn listen(dir: &TempDir) -> Self {
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok(length) = socket.recv(&mut packet) {
                let text = String::from_utf8_lossy(&packet[..length]).into_owned();
                telling.lock().unwrap().push(text);
            }
        });
        Self(told)
    }

    /// Waits for a packet with a line that begins like this, and takes what came up to it.
    async fn hears(&self, begins: &str) -> String {
        eventually(
            &format!("{begins} of {:?}", self.0.lock().unwrap()),
            async || {
                let mut told = self.0.lock().unwrap();
                let is_it = |packet: &String| packet.lines().any(|line| line.starts_with(begins));
                let at = told.iter().position(is_it)?;
                told.drain(..=at).next_back()
            },
        )
        .await
    }

    fn heard(&self, begins: &str) -> bool {
        let told = self.0.lock().unwrap();
        told.iter().any(|packet| packet.contains(begins))
    }
}

async fn start(yaml: &str, watchdog: Option<&str>) -> (Gateway, Manager) {
    let dir = TempDir::new().unwrap();
    let manager = Manager::listen(&dir);
    (start_in(dir, yaml, watchdog).await, manager)
}

async fn start_in(dir: TempDir, yaml: &str, watchdog: Option<&str>) -> Gateway {
    let socket = dir.path().join("notify");
    Gateway::start_by(dir, yaml, &[], |mut command| {
        command.env("NOTIFY_SOCKET", socket);
        if let Some(limit) = watchdog {
            command.env("WATCHDOG_USEC", limit);
        }
        command
    })
    .await
}

#[tokio::test]
async fn it_tells_when_it_is_ready_reloads_and_stops() {
    let yaml = "server: { drain_delay: 0s }\nroutes: { all: { respond: { body: app } } }";
    let (gateway, manager) = start(yaml, None).await;
    manager.hears("READY=1").await;
    gateway.signal("HUP");
    let reloading = manager.hears("RELOADING=1").await;
    let micros = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(micros.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
    manager.hears("READY=1").await;
    assert!(!manager.heard("WATCHDOG"), "nobody asked for it");
    gateway.signal("TERM");
    let stopping = manager.hears("STOPPING=1").await;
    // The default of `server.drain_deadline`, and five seconds.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=35000000"),
        "{stopping}"
    );
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
}

#[tokio::test]
async fn it_is_not_ready_before_its_first_probes() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let upstream = Upstream::replying(move |_| Reply::held(&held, Reply::ok(""))).await;
    let probes = "health: { path: /probe, timeout: 20s, interval: 60s }";
    let yaml = app(&[&upstream], probes, "");
    let dir = TempDir::new().unwrap();
    let manager = Manager::listen(&dir);
    let watching = async {
        // The probe is under way.
        upstream.last().await;
        assert!(!manager.heard("READY"));
        release.notify_waiters();
        manager.hears("READY=1").await;
    };
    tokio::join!(start_in(dir, &yaml, None), watching);
}

#[tokio::test]
async fn it_shows_signs_of_life_if_it_is_watched() {
    let yaml = "routes: { all: { respond: { body: app } } }";
    let (_gateway, manager) = start(yaml, Some("200000")).await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
}

#[tokio::test]
async fn an_upgrade_moves_the_name_of_the_main_process() {
    let yaml = "server: { drain_delay: 0s }\nroutes: { all: { respond: { body: app } } }";
    let (gateway, manager) = start(yaml, Some("200000")).await;
    manager.hears("READY=1").await;
    let pid = gateway.upgrade().await;
    let moved = manager.hears("MAINPID=").await;
    assert_eq!(moved, format!("MAINPID={pid}"));
    // The new process may speak only now, and speaks for the service from now on.
    manager.hears("READY=1").await;
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    manager.hears("WATCHDOG=1").await;
    assert!(!manager.heard("STOPPING"), "the service goes on");
    gateway.signal_to(pid, "TERM");
    manager.hears("STOPPING=1").await;
}

/// Starts the command with this socket as systemd passes it: descriptor 3, and its name.
fn passing(command: &Command, socket: impl AsFd, name: &str) -> Command {
    let exec = "exec 3<&0 </dev/null; LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", exec]).arg(command.get_program());
    shell.args(command.get_args());
    shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    let socket = socket.as_fd().try_clone_to_owned().unwrap();
    shell.stdin(Stdio::from(socket));
    shell
}

#[tokio::test]
async fn a_socket_of_systemd_is_used_and_its_queue_served() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let yaml = format!(
        "listeners: {{ web: {{ address: '{address}' }} }}\nroutes: {{ all: {{ respond: {{ body: app }} }} }}"
    );
    // Before the service runs at all.
    let waiting = TcpStream::connect(address).unwrap();
    waiting.set_nonblocking(true).unwrap();
    let waiting = tokio::net::TcpStream::from_std(waiting).unwrap();
    let gateway = Gateway::start_by(TempDir::new().unwrap(), &yaml, &[], |command| {
        passing(&command, &socket, "web")
    })
    .await;
    let mut early = Client::over(&gateway, Box::new(waiting));
    assert_eq!(early.get("/").await.text(), "app");

    // The next process gets it from this one, not from systemd.
    gateway.upgrade().await;
    let mut late = Client::direct(address).await;
    assert_eq!(late.get("/").await.text(), "app");
}

#[tokio::test]
async fn a_unix_socket_of_systemd_is_used_and_its_file_stays() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("web.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let yaml = "server: { drain_delay: 0s }\nlisteners: { web: { address: 'unix:web.sock' } }\nroutes: { all: { respond: { body: app } } }";
    let gateway =
        Gateway::start_by(dir, yaml, &[], |command| passing(&command, &socket, "web")).await;
    let answered = async || {
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        Client::over(&gateway, Box::new(stream))
            .get("/")
            .await
            .text()
    };
    assert_eq!(answered().await, "app");
    // It is as little the successor's.
    let pid = gateway.upgrade().await;
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(answered().await, "app");
    gateway.signal_to(pid, "TERM");
    eventually("the successor leaves", async || {
        (!crate::harness::runs(pid)).then_some(())
    })
    .await;
    assert!(
        path.exists(),
        "systemd starts the next one when somebody connects"
    );
}

#[tokio::test]
async fn a_socket_that_no_listener_wants_is_told() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = "routes: { all: { respond: { body: app } } }";
    let gateway = Gateway::start_by(TempDir::new().unwrap(), yaml, &[], |command| {
        passing(&command, &socket, "forgotten")
    })
    .await;
    let errors = gateway.errors();
    assert!(
        errors.contains("forgotten") && errors.contains("nobody accepts there"),
        "{errors}"
    );
}
