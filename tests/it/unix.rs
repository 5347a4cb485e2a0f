//! Callers on this machine, behind Unix sockets.

use crate::harness::{
    Authority, Client, Gateway, Load, Tls, Upstream, app, eventually, finish, in_time,
};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

const BOTH: &str = "listeners: { web: { address: ['{{http}}', 'unix:web.sock'] } }\n";
const APP: &str = "routes: { all: { respond: { body: app } } }\n";

async fn start(listeners: &str, rest: &str) -> (Gateway, PathBuf) {
    let gateway = Gateway::start(&(listeners.to_owned() + rest), &[]).await;
    let path = gateway.path("web.sock");
    (gateway, path)
}

async fn dial(gateway: &Gateway, path: &Path) -> Client {
    let stream = in_time("connect", UnixStream::connect(path)).await;
    Client::over(gateway, Box::new(stream.expect("the gateway accepts")))
}

fn mode(path: &Path) -> u32 {
    let found = fs::symlink_metadata(path).unwrap();
    assert!(found.file_type().is_socket());
    found.permissions().mode() & 0o777
}

/// One new connection after the other, each with one request.
struct Visitors {
    served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    work: JoinHandle<()>,
}

impl Visitors {
    fn of(path: &Path) -> Self {
        let (served, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (path, counted, told) = (path.to_owned(), Arc::clone(&served), Arc::clone(&stop));
        let work = tokio::spawn(async move {
            while !told.load(SeqCst) {
                let stream = UnixStream::connect(&path).await.expect("it accepts");
                let mut client = Client::stray(Box::new(stream));
                assert_eq!(client.get("/").await.status, 200);
                counted.fetch_add(1, SeqCst);
            }
        });
        Self { served, stop, work }
    }

    async fn go_on_for(&self, requests: u64) {
        let until = self.served.load(SeqCst) + requests;
        eventually("visitors are served", async || {
            assert!(!self.work.is_finished(), "a visitor was not served");
            (self.served.load(SeqCst) >= until).then_some(())
        })
        .await;
    }

    async fn leave(self) {
        self.stop.store(true, SeqCst);
        in_time("visitors leave", self.work).await.unwrap();
    }
}

#[tokio::test]
async fn a_unix_socket_is_served_beside_a_port() {
    let upstream = Upstream::named("app").await;
    let (gateway, path) = start(BOTH, &app(&[&upstream], "", "")).await;
    assert_eq!(mode(&path), 0o660, "the default");
    assert_eq!(gateway.get("/tcp").await.text(), "app");
    let mut client = dial(&gateway, &path).await;
    for _ in 0..2 {
        assert_eq!(client.get("/unix").await.text(), "app");
    }
    let seen = upstream.last().await;
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let line = gateway
        .access_log_line(|line| line["path"] == "/unix")
        .await;
    assert_eq!(line["peer"], "unix", "{line}");
    assert_eq!(line["client"], "127.0.0.1", "{line}");
    let line = gateway.access_log_line(|line| line["path"] == "/tcp").await;
    assert_ne!(line["peer"], "unix", "{line}");
    let shown = gateway.status().await["listeners"]["web"]["address"][1].clone();
    let shown = shown.as_str().unwrap();
    assert!(
        shown.starts_with("unix:/") && shown.ends_with("/web.sock"),
        "{shown}"
    );
    gateway.settled().await;
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert!(!path.exists(), "nobody listens there any more");
}

#[tokio::test]
async fn tls_and_the_proxy_protocol_are_spoken_there_too() {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    authority.write(dir.path(), "site", &["a.test"]);
    let listeners = "listeners:\n  web:\n    address: 'unix:web.sock'\n    tls: { certificates: [{ certificate: site.pem, key: site.key }] }\n  proxied: { address: 'unix:proxied.sock', proxy_protocol: true }\n";
    let upstream = Upstream::named("app").await;
    let yaml = listeners.to_owned() + &app(&[&upstream], "", "");
    let gateway = Gateway::start_in(dir, &yaml, &[]).await;
    let stream = UnixStream::connect(gateway.path("web.sock")).await.unwrap();
    let secured = Tls::to(&authority, "a.test").connect(stream).await.unwrap();
    let mut client = Client::over(&gateway, secured.io);
    assert_eq!(client.get("/").await.text(), "app");

    let mut client = dial(&gateway, &gateway.path("proxied.sock")).await;
    client
        .send(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n")
        .await;
    let invented = [("x-forwarded-for", "198.51.100.1")];
    let answer = client.request("GET", "/proxied", &invented, b"").await;
    assert_eq!(answer.text(), "app");
    let line = gateway
        .access_log_line(|line| line["path"] == "/proxied")
        .await;
    assert_eq!(line["peer"], "203.0.113.7:4711", "{line}");
    // Who came through the proxy is a stranger as before.
    assert_eq!(line["client"], "203.0.113.7", "{line}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_process_that_may_open_the_socket_speaks_for_others() {
    let upstream = Upstream::named("app").await;
    let shield = "server: { shield: { connections_per_address: 1, rate_per_address: { requests: 1, per: 1h } } }\n";
    let (gateway, path) = start(BOTH, &(shield.to_owned() + &app(&[&upstream], "", ""))).await;
    let mut first = dial(&gateway, &path).await;
    let said = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
    ];
    assert_eq!(first.request("GET", "/", &said, b"").await.status, 200);
    let seen = upstream.last().await;
    assert_eq!(seen.header("x-real-ip"), Some("203.0.113.9"));
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("203.0.113.9, 127.0.0.1")
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    // The limits are those of the one that it speaks for; its own connections and requests have none.
    let answer = first.request("GET", "/", &said, b"").await;
    answer.assert_refused(429, "too_many_requests");
    let mut second = dial(&gateway, &path).await;
    for _ in 0..3 {
        assert_eq!(second.get("/").await.status, 200);
        assert_eq!(first.get("/").await.status, 200);
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("web.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "nobody listens, but the file is there");
    let listeners = "listeners: { web: { address: 'unix:web.sock', mode: 0600 } }\n";
    let gateway = Gateway::start_in(dir, &(listeners.to_owned() + APP), &[]).await;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(dial(&gateway, &path).await.get("/").await.text(), "app");

    let taken = gateway.path("taken.sock");
    let _other = UnixListener::bind(&taken).unwrap();
    fs::write(gateway.path("notes.txt"), "precious").unwrap();
    for (address, why) in [
        ("taken.sock", "another process has it"),
        ("notes.txt", "no socket"),
        ("nowhere/web.sock", "there is no folder"),
    ] {
        let yaml = format!(
            "listeners:\n  web: {{ address: 'unix:web.sock', mode: 0600 }}\n  more: {{ address: ['unix:new.sock', 'unix:{address}'] }}\n{APP}"
        );
        let refused = gateway.try_reload(&yaml, &[]).await;
        assert_ne!(refused.status, 200);
        let text = refused.text();
        assert!(
            text.contains(why) && text.contains("listeners.more.address"),
            "{text}"
        );
        assert!(
            !gateway.path("new.sock").exists(),
            "what was opened is closed again"
        );
    }
    assert!(taken.exists());
    assert_eq!(
        fs::read_to_string(gateway.path("notes.txt")).unwrap(),
        "precious"
    );
    assert_eq!(dial(&gateway, &path).await.get("/").await.text(), "app");
    gateway.settled().await;
}

#[tokio::test]
async fn a_reload_removes_and_adds_a_socket_under_traffic() {
    let (gateway, path) = start(BOTH, APP).await;
    let names = &[];
    let load = Load::start(&gateway, "/", 100, 2);
    let visitors = Visitors::of(&path);
    visitors.go_on_for(10).await;
    // It stays, and so do its callers, whatever else changes.
    let stays = "listeners: { web: { address: ['{{http}}', 'unix:web.sock'], mode: 0606, keepalive: 5s } }\n";
    gateway.reload(&(stays.to_owned() + APP), names).await;
    assert_eq!(mode(&path), 0o606);
    let moves =
        "listeners: { web: { address: '{{http}}' }, local: { address: 'unix:web.sock' } }\n";
    gateway.reload(&(moves.to_owned() + APP), names).await;
    assert_eq!(mode(&path), 0o660);
    visitors.go_on_for(10).await;
    visitors.leave().await;

    let without = "listeners: { web: { address: '{{http}}' } }\n";
    gateway.reload(&(without.to_owned() + APP), names).await;
    assert!(!path.exists());
    load.goes_on_for(10).await;
    gateway.reload(&(BOTH.to_owned() + APP), names).await;
    assert_eq!(dial(&gateway, &path).await.get("/").await.text(), "app");
    load.goes_on_for(10).await;
    load.stop_without_failures().await;
}

#[tokio::test]
async fn an_upgrade_hands_the_socket_over_and_no_caller_notices() {
    let extra = "listeners: { web: { address: ['{{http}}', 'unix:web.sock'] }, more: { address: 'unix:more.sock' } }\nserver: { drain_delay: 0s }\n";
    let (gateway, path) = start(extra, APP).await;
    let more = gateway.path("more.sock");
    let visitors = Visitors::of(&path);
    visitors.go_on_for(10).await;
    let pid = gateway.upgrade().await;
    visitors.go_on_for(10).await;
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    visitors.go_on_for(10).await;
    assert!(
        path.exists() && more.exists(),
        "they belong to the successor"
    );

    // The next one does not want one of them, and has another mode for the other.
    let fewer = "listeners: { web: { address: ['{{http}}', 'unix:web.sock'], mode: 0600 } }\nserver: { drain_delay: 0s }\n";
    gateway.write(&(fewer.to_owned() + APP), &[]);
    let next = gateway.upgrade().await;
    assert_ne!(next, pid);
    visitors.go_on_for(10).await;
    assert_eq!(mode(&path), 0o600);
    assert!(!more.exists());
    visitors.leave().await;
    gateway.signal_to(next, "TERM");
    eventually("the last owner removes it", async || {
        (!path.exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_successor_that_fails_leaves_the_socket_alone() {
    let (gateway, path) = start(BOTH, APP).await;
    let file = gateway.path("gateway.yaml");
    let fits = fs::read_to_string(&file).unwrap();
    let _other = UnixListener::bind(gateway.path("taken.sock")).unwrap();
    let taken =
        "listeners: { web: { address: ['{{http}}', 'unix:new.sock', 'unix:taken.sock'] } }\n";
    gateway.write(&(taken.to_owned() + APP), &[]);
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(
        !went_well && said.contains("another process has it"),
        "{said}"
    );
    fs::write(&file, fits).unwrap();
    assert!(!gateway.path("new.sock").exists());
    assert_eq!(dial(&gateway, &path).await.get("/").await.text(), "app");
}

#[test]
fn operators_are_shown_the_socket() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("gateway.yaml");
    let yaml = "listeners: { local: { address: 'unix:web.sock', mode: 606 } }\n";
    fs::write(&file, yaml.to_owned() + APP).unwrap();
    let path = format!("unix:{}", dir.path().join("web.sock").display());
    for (words, shown) in [
        (&["dump"][..], [path.as_str(), "0606"]),
        (&["explain", "GET", "http://a.test/"], [&path, "local"]),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
        command.args(words).arg("-c").arg(&file);
        let (status, stdout, stderr) = finish(&mut command);
        assert!(status.success(), "{stderr}");
        for shown in shown {
            assert!(stdout.contains(shown), "no {shown} in\n{stdout}");
        }
    }
}

#[tokio::test]
async fn whoever_leaves_at_once_takes_its_socket_along() {
    let (gateway, path) = start(
        BOTH,
        &format!("server: {{ drain_delay: 1h, drain_deadline: 2h }}\n{APP}"),
    )
    .await;
    gateway.signal("TERM");
    eventually("it drains", async || {
        (gateway.ready().await == Some(503)).then_some(())
    })
    .await;
    assert_eq!(dial(&gateway, &path).await.get("/").await.text(), "app");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().await.code(), Some(3));
    assert!(!path.exists());
}
