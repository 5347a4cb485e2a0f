//! Another program takes the place of the running one, and nobody notices.

mod soak;

use crate::harness::{
    BlackHole, Client, ClientH2, Gateway, KeyIssuer, Load, Reply, Signer, Upstream, WebSocket, app,
    eventually, runs,
};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::Notify;

async fn echoing(name: &'static str) -> Upstream {
    Upstream::replying(move |seen| match seen.target() {
        "/ws" => Reply::websocket(name),
        _ => Reply::ok(name),
    })
    .await
}

fn with_server(server: &str, rest: &str) -> String {
    format!("server: {server}\n{rest}")
}

async fn gone(pid: u32) {
    eventually("the older process leaves", async || {
        (!runs(pid)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_upgrades_under_load_fail_no_request_and_cut_no_websocket() {
    let upstream = echoing("app").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let load = Load::start(&gateway, "/", 100, 4);
    let mut sockets = Vec::new();
    let mut pids = vec![gateway.pid()];
    for nth in 0..3 {
        sockets.push(WebSocket::open(&gateway, "/ws", &[]).await);
        load.goes_on_for(20).await;
        let pid = gateway.upgrade().await;
        assert!(!pids.contains(&pid), "{pid} of {pids:?}");
        assert_eq!(gateway.serving_pid().await, pid);
        pids.push(pid);
        for socket in &mut sockets {
            socket.echo(&format!("after upgrade {nth}")).await;
        }
        let status = gateway.status().await;
        assert_eq!(status["upgrade"]["state"], "took_over", "{status}");
        assert_eq!(status["upgrade"]["succeeded"], nth + 1, "{status}");
        assert_eq!(
            status["upgrade"]["draining"],
            json!(pids[..=nth]),
            "{status}"
        );
        load.goes_on_for(20).await;
    }
    load.stop_without_failures().await;
    assert!(
        (gateway
            .metric("onemind_upgrades_total{result=\"ok\"}")
            .await
            - 3.0)
            .abs()
            < 0.5
    );
    assert!((gateway.metric("onemind_upgrade_draining").await - 3.0).abs() < 0.5);

    // Each older process leaves with its last connection, whatever the order.
    for nth in [1, 0, 2] {
        assert!(runs(pids[nth]));
        sockets[nth].echo("still there").await;
        let socket = std::mem::replace(
            &mut sockets[nth],
            WebSocket::open(&gateway, "/ws", &[]).await,
        );
        socket.close().await;
        gone(pids[nth]).await;
    }
    assert_eq!(
        gateway.wait_exit().await.code(),
        Some(0),
        "{}",
        gateway.errors()
    );
    eventually("nobody drains", async || {
        let draining = gateway.status().await["upgrade"]["draining"].clone();
        (draining == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_under_way_are_finished_by_the_old_process() {
    let release = Arc::new(Notify::new());
    let signal = Arc::clone(&release);
    let upstream = Upstream::replying(move |_| {
        // A stream that has begun.
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let begun = Reply::raw(head).send("6\r\ndata:1\r\n").wait_for(&signal);
        begun.send("6\r\ndata:2\r\n0\r\n\r\n")
    })
    .await;
    let listeners = "listeners: { web: { address: '{{http}}', http2: true } }\n";
    let yaml = with_server(
        "{ drain_delay: 0s }",
        &(listeners.to_owned() + &app(&[&upstream], "", "")),
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut plain = Client::connect(&gateway).await;
    plain.count(1);
    plain.send(b"GET /1 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let http2 = ClientH2::plain(&gateway).await;
    let upgrading = async {
        eventually("both have begun", async || {
            (upstream.count() == 2).then_some(())
        })
        .await;
        gateway.upgrade().await;
        assert!(runs(gateway.pid()));
        release.notify_waiters();
    };
    let (answer, ()) = tokio::join!(http2.get("/2"), upgrading);
    assert_eq!(answer.text(), "data:1data:2");
    let answer = plain.answer().await;
    assert!(answer.complete);
    assert_eq!(answer.text(), "data:1data:2");
    drop(http2);
    assert_eq!(
        gateway.wait_exit().await.code(),
        Some(0),
        "{}",
        gateway.errors()
    );
}

#[tokio::test]
async fn callers_in_the_queue_and_sticky_cookies_are_not_lost() {
    let (a, b) = (echoing("a").await, echoing("b").await);
    // With HTTP/2 a silent caller is asked for its protocol, which must not make it less of a caller.
    let listeners = "listeners: { web: { address: '{{http}}', http2: true } }\n";
    let yaml = listeners.to_owned() + &app(&[&a, &b], "sticky: { on: all }", "");
    let gateway = Gateway::start(&yaml, &[]).await;
    let answer = gateway.get("/").await;
    let cookie = answer.header("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    // Connected to the old process, and silent until the new one serves.
    let mut early = Client::connect(&gateway).await;
    gateway.upgrade().await;
    assert_eq!(early.get("/").await.status, 200);
    for _ in 0..4 {
        let mut client = Client::connect(&gateway).await;
        let headers = [("cookie", cookie.as_str())];
        let again = client.request("GET", "/", &headers, b"").await;
        assert_eq!(again.text(), answer.text());
        assert_eq!(again.header("set-cookie"), None, "the cookie is good");
    }
}

#[tokio::test]
async fn what_the_old_process_knew_of_an_endpoint_the_new_one_knows_at_once() {
    let (a, b) = (echoing("a").await, echoing("b").await);
    let health =
        "health: { path: /health, interval: 60s, fast_interval: 50ms, unhealthy_after: 3 }";
    let gateway = Gateway::of(&[&a, &b], health, "").await;
    b.health(503, "");
    // The interval is long, so the endpoint is found out by a reload that asks again.
    let asks = health.replace("60s", "50ms");
    gateway.reload(&app(&[&a, &b], &asks, ""), &[]).await;
    gateway
        .endpoint_is("app", &b, "state", json!("unhealthy"))
        .await;
    gateway.write(&app(&[&a, &b], health, ""), &[]);
    gateway.upgrade().await;
    let endpoint = gateway.endpoint("app", &b).await;
    assert_eq!(endpoint["state"], "unhealthy", "{endpoint}");
    assert_eq!(gateway.endpoint("app", &a).await["state"], "up");
}

#[tokio::test]
async fn a_broken_configuration_leaves_the_old_process_serving() {
    let gateway = Gateway::start("routes: { all: { respond: { body: old } } }", &[]).await;
    gateway.write("routes: { all: { respond: { bodi: new } } }", &[]);
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(!went_well);
    // The command reads the file too: the process is asked directly.
    assert!(said.contains("bodi"), "{said}");
    let answer = gateway.admin("POST", "/upgrade").await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert!(answer.text().contains("bodi"), "{}", answer.text());
    still_serves(&gateway, "bodi").await;
}

#[tokio::test]
async fn a_process_that_never_becomes_ready_is_given_up() {
    let hole = BlackHole::dig();
    let ready = "{ upgrade: { ready_within: 1s } }";
    let yaml = with_server(ready, "routes: { all: { respond: { body: old } } }");
    let gateway = Gateway::start(&yaml, &[]).await;
    let waits = format!(
        "pools: {{ app: {{ endpoints: ['{hole}'], health: {{ check: tcp, interval: 60s, timeout: 50s }} }} }}\n\
         routes: {{ all: {{ respond: {{ body: old }} }} }}"
    );
    gateway.write(&with_server(ready, &waits), &[]);
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(!went_well && said.contains("not ready within 1s"), "{said}");
    still_serves(&gateway, "not ready within 1s").await;
}

async fn still_serves(gateway: &Gateway, why: &str) {
    assert_eq!(gateway.get("/").await.text(), "old");
    assert_eq!(gateway.serving_pid().await, gateway.pid());
    let status = gateway.status().await;
    assert_eq!(status["upgrade"]["state"], "failed", "{status}");
    let told = status["upgrade"]["why"].as_str().unwrap();
    assert!(told.contains(why), "{status}");
    assert!(
        gateway
            .metric("onemind_upgrades_total{result=\"failed\"}")
            .await
            > 0.5
    );
    eventually("the log says so", async || {
        gateway.errors().contains("upgrade failed").then_some(())
    })
    .await;
    assert_eq!(gateway.ready().await, Some(200));
}

/// Puts another program under the name of the one that runs.
fn install(dir: &Path, program: &Path) {
    let new = dir.join("new");
    symlink(program, &new).unwrap();
    std::fs::rename(new, dir.join("onemind")).unwrap();
}

#[tokio::test]
async fn the_program_is_the_one_that_is_on_disk_by_then() {
    let dir = TempDir::new().unwrap();
    let real = Path::new(env!("CARGO_BIN_EXE_onemind"));
    install(dir.path(), real);
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    };
    let (fails, hangs) = (script("fails", "exit 7"), script("hangs", "exec sleep 60"));
    let link = dir.path().join("onemind");
    let yaml = with_server(
        "{ upgrade: { ready_within: 1s } }",
        "routes: { all: { respond: { body: old } } }",
    );
    let gateway = Gateway::start_by(dir, &yaml, &[], |command| {
        let mut linked = std::process::Command::new(link);
        linked.args(command.get_args()).stdin(Stdio::null());
        linked
    })
    .await;
    install(gateway.dir(), &fails);
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(!went_well && said.contains("exit status: 7"), "{said}");
    still_serves(&gateway, "exit status: 7").await;

    install(gateway.dir(), &hangs);
    gateway.signal("USR2");
    eventually("it is given up", async || {
        let status = gateway.status().await;
        let why = status["upgrade"]["why"].as_str()?.to_owned();
        why.contains("not ready within").then_some(())
    })
    .await;
    still_serves(&gateway, "not ready within 1s").await;

    std::fs::remove_file(gateway.path("onemind")).unwrap();
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(!went_well && said.contains("cannot start"), "{said}");

    install(gateway.dir(), real);
    let patient = "routes: { all: { respond: { body: old } } }";
    gateway.reload(patient, &[]).await;
    let pid = gateway.upgrade().await;
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    assert_eq!(gateway.serving_pid().await, pid);
    assert_eq!(gateway.get("/").await.text(), "old");
}

#[tokio::test]
async fn a_new_address_is_bound_and_an_old_one_is_left() {
    let listeners = |name: &str| {
        format!(
            "listeners: {{ web: {{ address: ['{{{{http}}}}', '{{{{{name}}}}}'] }} }}\nroutes: {{ all: {{ respond: {{ body: app }} }} }}"
        )
    };
    let yaml = format!("# {{{{second}}}}\n{}", listeners("first"));
    let gateway = Gateway::start(&yaml, &[]).await;
    gateway.write(&listeners("second"), &[]);
    // Without waiting for the watcher: whoever is first, the outcome is the same.
    gateway.upgrade().await;
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    let mut client = Client::connect_to(&gateway, "second").await;
    assert_eq!(client.get("/").await.text(), "app");
    let first = tokio::net::TcpStream::connect(gateway.address("first")).await;
    assert!(first.is_err());
    assert_eq!(gateway.get("/").await.text(), "app");
}

#[tokio::test]
async fn the_log_is_opened_anew_by_the_process_that_drains_as_well() {
    let upstream = echoing("app").await;
    let log = "{ access_log: '{{dir}}/access.log' }";
    let gateway = Gateway::start(&with_server(log, &app(&[&upstream], "", "")), &[]).await;
    let socket = WebSocket::open(&gateway, "/ws", &[]).await;
    let pid = gateway.upgrade().await;
    std::fs::rename(gateway.path("access.log"), gateway.path("access.log.1")).unwrap();
    gateway.signal_to(pid, "USR1");
    eventually("a new log", async || {
        gateway.path("access.log").exists().then_some(())
    })
    .await;
    assert_eq!(gateway.get("/plain").await.status, 200);
    // Its line is written by the old process when it ends.
    socket.close().await;
    gone(gateway.pid()).await;
    eventually("both lines", async || {
        let log = std::fs::read_to_string(gateway.path("access.log")).unwrap();
        (log.contains("/plain") && log.contains("/ws")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_old_process_leaves_at_its_deadline() {
    let upstream = echoing("app").await;
    let server = "{ drain_delay: 0s, upgrade: { drain_deadline: 1s } }";
    let gateway = Gateway::start(&with_server(server, &app(&[&upstream], "", "")), &[]).await;
    let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
    gateway.upgrade().await;
    // Going away (RFC 6455 section 7.4.1): a client comes back at once.
    assert_eq!(socket.close_code().await, Some(1001));
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    let line = gateway.access_log_line(|line| line["path"] == "/ws").await;
    assert_eq!(line["ending"], "cut_by_drain", "{line}");
}

#[tokio::test]
async fn when_the_service_is_stopped_the_processes_that_drain_hurry() {
    let upstream = echoing("app").await;
    let server = "{ drain_delay: 0s, drain_deadline: 1s }";
    let gateway = Gateway::start(&with_server(server, &app(&[&upstream], "", "")), &[]).await;
    let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
    let pid = gateway.upgrade().await;
    socket.echo("still there").await;
    gateway.signal_to(pid, "TERM");
    assert_eq!(gateway.wait_exit().await.code(), Some(0));
    gone(pid).await;
    assert_eq!(socket.close_code().await, Some(1001));
}

#[tokio::test]
async fn so_many_old_processes_may_drain_and_no_more() {
    let upstream = echoing("app").await;
    let server = "{ drain_delay: 0s, upgrade: { draining_max: 1 } }";
    let gateway = Gateway::start(&with_server(server, &app(&[&upstream], "", "")), &[]).await;
    let socket = WebSocket::open(&gateway, "/ws", &[]).await;
    gateway.upgrade().await;
    let (went_well, said) = gateway.try_upgrade().await;
    assert!(!went_well && said.contains("draining_max"), "{said}");
    socket.close().await;
    gone(gateway.pid()).await;
    eventually("nobody drains", async || {
        let draining = gateway.status().await["upgrade"]["draining"].clone();
        (draining == json!([])).then_some(())
    })
    .await;
    gateway.upgrade().await;
}

#[tokio::test]
async fn the_keys_of_issuers_are_fetched_before_the_new_process_serves() {
    let signer = Signer::key("one");
    let issuer = KeyIssuer::of(&[&signer]).await;
    let yaml = format!(
        "identity: {{ users: {{ jwt: {{ jwks: 'http://{}/keys', audience: app }} }} }}
routes: {{ all: {{ respond: {{ body: ok }}, identity: users }} }}
",
        issuer.upstream
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    gateway.upgrade().await;
    assert_eq!(issuer.fetches(), 2);
    let token = format!("Bearer {}", signer.token("alice"));
    let mut client = Client::connect(&gateway).await;
    let headers = [("authorization", token.as_str())];
    let answer = client.request("GET", "/", &headers, b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
