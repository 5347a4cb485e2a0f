//! The two logs: changed at run time, rotated, sent to syslog; never in the way of a request.

use crate::harness::{Authority, Client, Gateway, Load, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROUTES: &str = "routes: { all: { respond: { body: ok } } }\n";

/// Without what the environment of the tests says of levels.
async fn start(dir: TempDir, yaml: &str) -> Gateway {
    Gateway::start_by(dir, yaml, &[], |mut command| {
        command.env_remove("ONEMIND_LOG").env_remove("RUST_LOG");
        command
    })
    .await
}

/// Runs the gateway as `"$@"` of a shell script.
fn by_shell(script: &str) -> impl FnOnce(Command) -> Command {
    let script = script.to_owned();
    move |command| wrapped(Command::new("sh").args(["-c", &script, "sh"]), &command)
}

fn wrapped(wrapper: &mut Command, command: &Command) -> Command {
    let mut whole = Command::new(wrapper.get_program());
    whole.args(wrapper.get_args());
    whole.arg(command.get_program()).args(command.get_args());
    whole.stdin(Stdio::null());
    whole
}

/// A document whose gateway says something at `debug` when it is poked.
fn with_tls(dir: &TempDir, log: &str) -> String {
    let authority = Authority::new();
    authority.write(dir.path(), "site", &["a.test"]);
    format!(
        "server: {{ log: {{ {log} }} }}
listeners:
  web: {{ address: '{{{{http}}}}' }}
  tls: {{ address: '{{{{https}}}}', tls: {{ certificates: [{{ certificate: site.pem, key: site.key }}] }} }}
{ROUTES}"
    )
}

/// Speaks no TLS where TLS is spoken, and waits until that is noticed.
async fn poke(gateway: &Gateway) {
    let mut stream = TcpStream::connect(gateway.address("https")).await.unwrap();
    stream
        .write_all(b"no greeting at all\r\n\r\n")
        .await
        .unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn pokes_told(gateway: &Gateway) -> usize {
    gateway.errors().matches("no TLS handshake").count()
}

async fn is_told_of_a_poke(gateway: &Gateway) {
    let before = pokes_told(gateway);
    poke(gateway).await;
    eventually("it is told", async || {
        (pokes_told(gateway) > before).then_some(())
    })
    .await;
}

async fn log_is(gateway: &Gateway, level: &str, by: &str) {
    let log = gateway.admin("GET", "/log").await.json();
    assert_eq!((&log["level"], &log["by"]), (&level.into(), &by.into()));
    assert_eq!(gateway.status().await["log"]["level"], level);
}

#[tokio::test]
async fn the_level_changes_while_the_gateway_runs_and_goes_back_by_itself() {
    let dir = TempDir::new().unwrap();
    let (quiet, loud) = (with_tls(&dir, ""), with_tls(&dir, "level: debug"));
    let gateway = start(dir, &quiet).await;
    log_is(&gateway, "info", "configuration").await;
    poke(&gateway).await;
    let answer = gateway.admin("POST", "/log?level=debug&for=1h").await;
    let left = answer.json()["left_s"].as_u64();
    assert!(matches!(left, Some(3590..=3600)), "{}", answer.text());
    // Lines come in order: whatever was said of the poke would be there by now.
    eventually("the change is told", async || {
        let errors = gateway.errors();
        errors
            .contains("an operator has set the log level")
            .then_some(())
    })
    .await;
    assert_eq!(pokes_told(&gateway), 0, "not at this level");
    is_told_of_a_poke(&gateway).await;
    gateway.admin("POST", "/log?level=error&for=50ms").await;
    eventually("what is configured counts again", async || {
        let log = gateway.admin("GET", "/log").await.json();
        (log["by"] == "configuration" && log["level"] == "info").then_some(())
    })
    .await;
    gateway.reload(&loud, &[]).await;
    log_is(&gateway, "debug", "configuration").await;
    is_told_of_a_poke(&gateway).await;
    gateway.admin("POST", "/log?level=off").await;
    gateway.reload(&quiet, &[]).await;
    log_is(&gateway, "off", "operator").await;
    gateway.admin("POST", "/log?level=configured").await;
    log_is(&gateway, "info", "configuration").await;
    let unknown = with_tls(&TempDir::new().unwrap(), "level: deafening");
    let refused = gateway.try_reload(&unknown, &[]).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
}

#[tokio::test]
async fn the_environment_goes_before_the_document_and_an_operator_before_both() {
    let dir = TempDir::new().unwrap();
    let yaml = with_tls(&dir, "level: warn");
    let gateway = Gateway::start_by(dir, &yaml, &[], |mut command| {
        command.env("ONEMIND_LOG", "onemind_gateway=debug");
        command
    })
    .await;
    log_is(&gateway, "onemind_gateway=debug", "environment").await;
    is_told_of_a_poke(&gateway).await;
    gateway.admin("POST", "/log?level=error").await;
    log_is(&gateway, "error", "operator").await;
    gateway.admin("POST", "/log?level=configured").await;
    log_is(&gateway, "onemind_gateway=debug", "environment").await;
}

#[tokio::test]
async fn the_format_changes_with_a_reload() {
    let server = |format: &str| format!("server: {{ log: {{ format: {format} }} }}\n{ROUTES}");
    let gateway = start(TempDir::new().unwrap(), &server("json")).await;
    let line = async |nth: u32| {
        let level = format!("info,onemind_gateway::mark{nth}=debug");
        gateway.admin("POST", &format!("/log?level={level}")).await;
        eventually("a line", async || {
            let errors = gateway.errors();
            let found = errors.lines().find(|line| line.contains(&level));
            found.map(str::to_owned)
        })
        .await
    };
    let json: Value = serde_json::from_str(&line(1).await).unwrap();
    assert_eq!(json["level"], "WARN", "{json}");
    gateway.reload(&server("pretty"), &[]).await;
    let text = line(2).await;
    assert!(
        text.contains(" WARN onemind_gateway::") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert_eq!(gateway.status().await["log"]["format"], "pretty");
}

#[tokio::test]
async fn a_standard_error_that_nobody_reads_costs_lines_and_nothing_else() {
    let shell = by_shell("mkfifo errors; exec \"$@\" 2<>errors");
    let gateway = Gateway::start_by(TempDir::new().unwrap(), ROUTES, &[], shell).await;
    let load = Load::start(&gateway, "/", 100, 4);
    let mut admin = Client::direct(gateway.address("admin")).await;
    let long = format!("info,onemind_gateway::{}=debug", "a".repeat(900));
    eventually("lines are lost", async || {
        for _ in 0..100 {
            let target = format!("/log?level={long}");
            assert_eq!(admin.request("POST", &target, &[], b"").await.status, 200);
        }
        let dropped = gateway.metric("onemind_log_lines_dropped_total").await;
        (dropped > 0.5).then_some(())
    })
    .await;
    load.goes_on_for(20).await;
    load.stop_without_failures().await;
    let pipe = std::fs::File::open(gateway.path("errors")).unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.any(|line| line.contains("lines of this log are lost"))
    });
    assert!(told.await.unwrap(), "the loss is told");
}

/// Every line in the files of this log, as JSON.
fn lines_of(log: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for nth in 0..=1000 {
        let file = match nth {
            0 => log.to_owned(),
            nth => PathBuf::from(format!("{}.{nth}", log.display())),
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        lines.extend(whole.lines().map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{why} in {line}"))
        }));
    }
    lines
}

fn ids(lines: &[Value]) -> BTreeSet<String> {
    lines
        .iter()
        .map(|line| line["request_id"].to_string())
        .collect()
}

#[tokio::test]
async fn files_are_rotated_under_load_by_two_processes_and_no_line_is_lost() {
    let server = |size: &str| {
        format!(
            "server: {{ access_log: {{ to: 'access.log', rotate: {{ size: {size}, keep: 1000 }} }} }}\n{ROUTES}"
        )
    };
    let gateway = Gateway::start(&server("8KiB"), &[]).await;
    let log = gateway.path("access.log");
    let load = Load::start(&gateway, "/", 300, 6);
    load.goes_on_for(100).await;
    gateway.signal("USR1");
    load.goes_on_for(100).await;
    gateway.reload(&server("12KiB"), &[]).await;
    load.goes_on_for(100).await;
    gateway.upgrade().await;
    load.goes_on_for(100).await;
    let done = load.stop_without_failures().await;
    let lines = eventually("each request has its line", async || {
        let lines = lines_of(&log);
        (ids(&lines).len() as u64 == done).then_some(lines)
    })
    .await;
    assert_eq!(lines.len() as u64, done, "and only one");
    let old = PathBuf::from(format!("{}.9", log.display()));
    assert!(old.exists(), "several files were begun");
    for nth in 1..9 {
        let file = format!("{}.{nth}", log.display());
        let length = std::fs::metadata(&file).unwrap().len();
        // Two processes that write at one moment may exceed it by what one of them had gathered.
        assert!(length <= 3 * (12 << 10), "{file} has {length}");
    }
}

#[tokio::test]
async fn no_more_files_are_kept_than_configured() {
    let yaml = format!(
        "server: {{ access_log: {{ to: 'access.log', rotate: {{ size: 4KiB, keep: 2 }} }} }}\n{ROUTES}"
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..60 {
        client.get("/").await;
    }
    eventually("all are written", async || {
        let written = gateway.metric("onemind_access_log_lines_total{result=\"written\"}");
        (written.await > 59.5).then_some(())
    })
    .await;
    let mut names: Vec<String> = std::fs::read_dir(gateway.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("access.log"))
        .collect();
    names.sort();
    assert_eq!(names, ["access.log", "access.log.1", "access.log.2"]);
    for name in names {
        let length = std::fs::metadata(gateway.path(&name)).unwrap().len();
        assert!(length <= 4096, "{name} has {length}");
    }
}

async fn counted(gateway: &Gateway, result: &str) -> u64 {
    let selector = format!("onemind_access_log_lines_total{{result=\"{result}\"}}");
    gateway.metric(&selector).await as u64
}

/// With this load lines are lost, and told; once `mend` was called they are written again; and no request fails.
async fn survives(gateway: &Gateway, load: Load, mend: impl FnOnce()) {
    eventually("lines are lost", async || {
        (counted(gateway, "dropped").await > 0).then_some(())
    })
    .await;
    load.goes_on_for(50).await;
    mend();
    let before = counted(gateway, "written").await;
    eventually("lines are written again", async || {
        (counted(gateway, "written").await > before + 20).then_some(())
    })
    .await;
    let done = load.stop_without_failures().await;
    eventually("each line is counted", async || {
        let all = counted(gateway, "written").await + counted(gateway, "dropped").await;
        (all == done).then_some(())
    })
    .await;
    assert_eq!(gateway.status().await["access_log"]["error"], Value::Null);
}

#[tokio::test]
async fn a_full_disk_costs_lines_until_there_is_space_again() {
    let script = "mkdir disk; mount -t tmpfs -o size=64k tmpfs disk && exec \"$@\"";
    let yaml = format!("server: {{ access_log: 'disk/access.log' }}\n{ROUTES}");
    let make = |command| {
        let mut outer = Command::new("unshare");
        wrapped(outer.args(["-rm", "sh", "-c", script, "sh"]), &command)
    };
    let gateway = Gateway::start_by(TempDir::new().unwrap(), &yaml, &[], make).await;
    // The disk is to be seen in the gateway's own view of the file system only.
    let root = PathBuf::from(format!("/proc/{}/root", gateway.pid()));
    let inside = gateway.path("disk/access.log");
    let log = root.join(inside.strip_prefix("/").unwrap());
    let load = Load::start(&gateway, "/", 300, 6);
    eventually("the disk is full", async || {
        let status = gateway.status().await;
        let error = status["access_log"]["error"].as_str()?;
        error.contains("No space left").then_some(())
    })
    .await;
    survives(&gateway, load, || {
        drop(std::fs::File::create(&log).unwrap());
    })
    .await;
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.lines().last().unwrap();
    let line: Value = serde_json::from_str(last).unwrap();
    assert_eq!(line["status"], 200);
    let told = gateway.errors();
    assert!(told.contains("cannot write the access log"), "{told}");
}

/// Reads all there is and will be, on a thread that ends with its pipe.
fn read_on(pipe: &Path) {
    let mut pipe = std::fs::File::open(pipe).unwrap();
    std::thread::spawn(move || {
        let mut part = vec![0; 1 << 16];
        while let Ok(1..) = pipe.read(&mut part) {}
    });
}

#[tokio::test]
async fn a_named_pipe_that_nobody_reads_costs_lines_until_somebody_does() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("lines");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let yaml = format!("server: {{ access_log: 'lines' }}\n{ROUTES}");
    let gateway = Gateway::start_in(dir, &yaml, &[]).await;
    let load = Load::start(&gateway, "/", 300, 6);
    survives(&gateway, load, || read_on(&pipe)).await;
}

#[tokio::test]
async fn a_standard_output_that_nobody_reads_costs_lines_until_somebody_does() {
    let shell = by_shell("mkfifo lines; exec \"$@\" 1<>lines");
    let gateway = Gateway::start_by(TempDir::new().unwrap(), ROUTES, &[], shell).await;
    let target = format!("/?{}", "x".repeat(3_000));
    let load = Load::start(&gateway, &target, 600, 6);
    survives(&gateway, load, || read_on(&gateway.path("lines"))).await;
}

async fn start_with_syslog(dir: TempDir, address: &str) -> Gateway {
    let yaml = format!(
        "server: {{ access_log: {{ to: syslog, syslog: {{ address: '{address}', facility: local5, tag: gate }} }} }}\n{ROUTES}"
    );
    Gateway::start_in(dir, &yaml, &[]).await
}

/// One message of RFC 5424, about this path.
fn assert_message(message: &str, gateway: &Gateway, path: &str) {
    let (head, line) = message.split_once(" - ").unwrap();
    let words: Vec<&str> = head.split(' ').collect();
    let line: Value = serde_json::from_str(line).unwrap();
    // local5 is 21 (RFC 5424, 6.2.1), and 6 informational.
    assert_eq!(words[0], format!("<{}>1", 21 * 8 + 6), "{message}");
    assert_eq!(words[1], line["time"], "{message}");
    let pid = gateway.pid().to_string();
    assert_eq!(words[3..], ["gate", &pid, "access"], "{message}");
    assert_eq!(line["path"], path);
}

#[tokio::test]
async fn lines_go_to_syslog_on_this_machine() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let address = format!("unix:{}", path.display());
    let gateway = start_with_syslog(dir, &address).await;
    // There is no server yet: nothing is lost that has room.
    gateway.get("/early").await;
    eventually("it is told", async || {
        let log = gateway.status().await["access_log"].clone();
        assert_eq!(log["to"], format!("syslog {address}"));
        log["error"].is_string().then_some(())
    })
    .await;
    let server = UnixDatagram::bind(&path).unwrap();
    gateway.get("/late").await;
    server
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    for path in ["/early", "/late"] {
        let mut bytes = [0; 4096];
        let length = server.recv(&mut bytes).unwrap();
        assert_message(&String::from_utf8_lossy(&bytes[..length]), &gateway, path);
    }
    assert_eq!(counted(&gateway, "dropped").await, 0);
}

#[tokio::test]
async fn lines_go_to_syslog_by_udp() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let address = format!("udp://{}", server.local_addr().unwrap());
    let gateway = start_with_syslog(TempDir::new().unwrap(), &address).await;
    for path in ["/a", "/b"] {
        gateway.get(path).await;
        let mut bytes = [0; 4096];
        let length = server.recv(&mut bytes).unwrap();
        assert_message(&String::from_utf8_lossy(&bytes[..length]), &gateway, path);
    }
}

/// Messages from one connection, each with its length before it (RFC 6587, 3.4.1).
fn read_messages(server: &TcpListener, count: usize) -> Vec<String> {
    let (stream, _) = server.accept().unwrap();
    let timeout = Some(Duration::from_secs(20));
    stream.set_read_timeout(timeout).unwrap();
    let mut stream = BufReader::new(stream);
    let message = |_| {
        let mut length = Vec::new();
        stream.read_until(b' ', &mut length).unwrap();
        let length = String::from_utf8(length).unwrap();
        let mut message = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut message).unwrap();
        String::from_utf8(message).unwrap()
    };
    (0..count).map(message).collect()
}

#[tokio::test]
async fn lines_go_to_syslog_by_tcp_and_wait_for_a_server_that_is_away() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = server.local_addr().unwrap();
    let gateway = start_with_syslog(TempDir::new().unwrap(), &format!("tcp://{address}")).await;
    gateway.get("/first").await;
    let messages = read_messages(&server, 1);
    assert_message(&messages[0], &gateway, "/first");
    drop(server);
    for path in ["/second", "/third"] {
        assert_eq!(gateway.get(path).await.status, 200);
    }
    eventually("it is told", async || {
        let log = gateway.status().await["access_log"].clone();
        log["error"].is_string().then_some(())
    })
    .await;
    let server = TcpListener::bind(address).unwrap();
    let messages = read_messages(&server, 2);
    // Each worker has its own part of the buffer: which comes first is left open.
    for path in ["/second", "/third"] {
        let message = messages.iter().find(|message| message.contains(path));
        assert_message(message.unwrap(), &gateway, path);
    }
    assert_eq!(counted(&gateway, "dropped").await, 0);
}

#[tokio::test]
async fn a_log_may_move_with_a_reload_while_requests_run() {
    let to = |place: &str| format!("server: {{ access_log: {place} }}\n{ROUTES}");
    let gateway = Gateway::start(&to("'one.log'"), &[]).await;
    let load = Load::start(&gateway, "/", 300, 6);
    load.goes_on_for(50).await;
    let rotating = "{ to: 'two.log', rotate: { size: 8KiB, keep: 100 } }";
    gateway.reload(&to(rotating), &[]).await;
    load.goes_on_for(50).await;
    // Nobody listens there; what waits for it is lost with the next change, and counted.
    gateway
        .reload(
            &to("{ to: syslog, syslog: { address: 'unix:/nobody/listens' } }"),
            &[],
        )
        .await;
    load.goes_on_for(50).await;
    gateway.reload(&to("'one.log'"), &[]).await;
    load.goes_on_for(50).await;
    let done = load.stop_without_failures().await;
    eventually(
        "each request has its line, or that is counted as lost",
        async || {
            let logs = ["one.log", "two.log"].map(|log| lines_of(&gateway.path(log)).len());
            let lost = counted(&gateway, "dropped").await;
            (logs.iter().sum::<usize>() as u64 + lost == done).then_some(())
        },
    )
    .await;
}
