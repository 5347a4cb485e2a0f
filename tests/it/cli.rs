//! The command line: what is wrong, where, and what would happen.

use crate::harness::{Client, Port, eventually, finish};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn onemind(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    let (status, stdout, stderr) = finish(command.args(arguments));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.code().unwrap_or(-1), stdout, stderr)
}

/// A document in a folder of its own.
struct Document {
    _dir: TempDir,
    path: PathBuf,
}

impl Document {
    fn of(yaml: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, yaml).unwrap();
        Self { _dir: dir, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn check(&self) -> (i32, String) {
        let (code, stdout, stderr) = onemind(&["check", "-c", self.path()]);
        (code, stdout + &stderr)
    }
}

const GOOD: &str = "\
listeners:
  web: { address: '127.0.0.1:18080' }
pools:
  app: { endpoints: ['127.0.0.1:19001'] }
routes:
  api: { host: api.example.com, path: '/v1/*', method: GET, pool: app }
  all: { pool: app }
";

#[test]
fn a_good_document_is_said_to_be_good() {
    let (code, said) = Document::of(GOOD).check();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let document = Document::of(
        "\
listeners:
  web: { addres: '127.0.0.1:18080' }
pools:
  app:
    endpoints: []
  other:
    endpoints: [{ address: '127.0.0.1:19001', weight: 0 }]
routes:
  one: { pool: ap }
  two: { path: /x, pool: other, respond: {} }
",
    );
    let (code, said) = document.check();
    assert_eq!(code, 1, "{said}");
    for place in [":2:", ":4:", ":7:", ":9:", ":10:"] {
        let place = format!("gateway.yaml{place}");
        assert!(said.contains(&place), "no {place} in\n{said}");
    }
    for word in [
        "listeners.web",
        "address",
        "pools.app",
        "routes.one",
        "app",
        "weight",
    ] {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
}

#[test]
fn each_fault_has_its_row() {
    for (what, yaml, expected) in [
        ("unknown key", GOOD.replace("pools:", "poools:"), "pools"),
        (
            "duplicate key",
            GOOD.replace("routes:", "routes:\n  all: { pool: app }"),
            "all",
        ),
        ("not YAML", GOOD.replace(']', ""), "gateway.yaml"),
        (
            "bad period",
            GOOD.replace(
                "pool: app }\n  all",
                "pool: app, timeouts: { idle: 5 parsecs } }\n  all",
            ),
            "parsecs",
        ),
        (
            "no such pool",
            GOOD.replace("all: { pool: app", "all: { pool: apq"),
            "app",
        ),
        (
            "nothing to do",
            GOOD.replace("all: { pool: app", "all: { body_max: 1MiB"),
            "all",
        ),
        (
            "no certificate",
            GOOD.replace(
                "web: {",
                "web: { tls: { certificates: [{ certificate: /nowhere.pem, key: /nowhere.key }] },",
            ),
            "/nowhere.pem",
        ),
        (
            "shadowed",
            GOOD.replace(
                "all: { pool: app }",
                "all: { pool: app }\n  again: { pool: app }",
            ),
            "again",
        ),
        (
            "bad address",
            GOOD.replace("127.0.0.1:18080", "127.0.0.1"),
            "127.0.0.1",
        ),
        (
            "unset variable",
            GOOD.replace("'127.0.0.1:19001'", "'${ONEMIND_IT_UNSET}'"),
            "ONEMIND_IT_UNSET",
        ),
    ] {
        assert_ne!(yaml, GOOD, "{what}");
        let (code, said) = Document::of(&yaml).check();
        assert_eq!(code, 1, "{what}: {said}");
        assert!(said.contains(expected), "{what}: no {expected} in\n{said}");
    }
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let (code, _, said) = onemind(&["check", "-c", "/nowhere/gateway.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("/nowhere/gateway.yaml"), "{said}");
    let (code, _, said) = onemind(&["run", "-c", "/nowhere/gateway.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("/nowhere/gateway.yaml"), "{said}");
}

#[test]
fn run_refuses_what_check_refuses() {
    let document = Document::of(&GOOD.replace("all: { pool: app", "all: { pool: apq"));
    let (code, _, said) = onemind(&["run", "-c", document.path()]);
    assert_eq!(code, 1);
    assert!(said.contains("apq"), "{said}");
}

#[test]
fn a_name_that_does_not_resolve_is_no_fault() {
    let document = Document::of(&GOOD.replace("127.0.0.1:19001", "no-such-name.invalid:80"));
    let (code, said) = document.check();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn what_is_dumped_can_be_loaded_and_says_the_same() {
    let with_secret = GOOD.replace(
        "endpoints: ['127.0.0.1:19001']",
        "endpoints: ['${ONEMIND_IT_UNSET:-127.0.0.1:19001}'], sticky: { secret: 'top-secret-top-secret' }",
    );
    for yaml in [GOOD, with_secret.as_str()] {
        let document = Document::of(yaml);
        let (code, dumped, said) = onemind(&["dump", "-c", document.path()]);
        assert_eq!(code, 0, "{said}");
        assert!(!dumped.contains("top-secret"), "{dumped}");
        for filled_in in [
            "drain_delay: 5s",
            "interval: 30s",
            "body_max: 16MiB",
            "127.0.0.1:19001",
        ] {
            assert!(dumped.contains(filled_in), "no {filled_in} in\n{dumped}");
        }
        if yaml == GOOD {
            let again = Document::of(&dumped);
            let (code, twice, said) = onemind(&["dump", "-c", again.path()]);
            assert_eq!(code, 0, "{said}");
            assert_eq!(dumped, twice);
        }
    }
}

#[test]
fn a_url_is_explained() {
    let document = Document::of(GOOD);
    let explain = |method: &str, url: &str| {
        let (code, stdout, stderr) = onemind(&["explain", "-c", document.path(), method, url]);
        (code, stdout + &stderr)
    };
    let (code, said) = explain("GET", "http://api.example.com/v1/users");
    assert_eq!(code, 0, "{said}");
    for word in ["web", "api", "app"] {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
    let (_, said) = explain("GET", "http://other.example.com/v1/users");
    assert!(said.contains("all"), "{said}");
}

#[test]
fn the_schema_is_json_and_knows_every_section() {
    let (code, stdout, stderr) = onemind(&["schema"]);
    assert_eq!(code, 0, "{stderr}");
    let schema: Value = serde_json::from_str(&stdout).expect("JSON");
    for section in ["server", "admin", "listeners", "pools", "routes"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn the_version_is_told() {
    let (code, stdout, _) = onemind(&["--version"]);
    assert_eq!(code, 0);
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")), "{stdout}");
}

#[test]
fn help_and_mistakes_are_answered() {
    let (code, stdout, _) = onemind(&["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "check", "dump", "explain", "schema", "demo"] {
        assert!(stdout.contains(command), "{stdout}");
    }
    let (code, _, stderr) = onemind(&["fly"]);
    assert_ne!(code, 0);
    assert!(stderr.contains("fly"), "{stderr}");
}

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_demo_serves_and_leaves_by_itself() {
    let (http, https, admin) = (Port::reserve(), Port::reserve(), Port::reserve());
    let dir = TempDir::new().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_onemind"))
        .args(["demo", "--for", "5s"])
        .args(["--http", &http.to_string()])
        .args(["--https", &https.to_string()])
        .args(["--admin", &admin.to_string()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", dir.path())
        // Real models are not asked.
        .env_remove("OPENAI_API_KEY")
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("GEMINI_API_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let started = Instant::now();
    eventually("the demo is ready", async || {
        tokio::net::TcpStream::connect(admin.address()).await.ok()?;
        let mut client = Client::direct(admin.address()).await;
        let answer = client.try_request("GET", "/readyz", &[], b"").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let mut client = Client::direct(http.address()).await;
    client.host = "localhost".to_owned();
    let mut bodies = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let answer = client.get("/").await;
        assert!(matches!(answer.status, 200 | 308), "{}", answer.head);
        bodies.insert(answer.text());
    }
    println!("{bodies:?}");
    let body = br#"{"model":"smart","messages":[{"role":"user","content":"good day"}]}"#;
    let json = [("content-type", "application/json")];
    let path = "/v1/chat/completions";
    let answer = client.request("POST", path, &json, body).await;
    let said = answer.json()["choices"][0]["message"]["content"].clone();
    assert_eq!(
        said,
        "You said: good day And every word of this came by itself."
    );
    let status = eventually("the demo leaves", async || running.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}
