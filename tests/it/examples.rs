//! Every file in `conf/` is loaded, and each example does what it promises.

use crate::harness::{
    Authority, Client, ClientH2, Collector, Fault, Gateway, Leaf, PROVIDER_KEY, Port, Provider,
    RedisServer, Reply, ReplyH2, Seen, Signer, Tls, Trouble, Upstream, UpstreamH2, WebSocket,
    body_of, claims, eventually, finish, hash, silence,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

async fn start(example: &str, values: &[(&str, &dyn Display)]) -> Gateway {
    start_in(TempDir::new().unwrap(), example, values).await
}

async fn start_in(dir: TempDir, example: &str, values: &[(&str, &dyn Display)]) -> Gateway {
    let file = conf().join("examples").join(example).with_extension("yaml");
    Gateway::start_file(dir, &file, values).await
}

/// An authority, a folder with its certificate and one for this name, and where these are.
struct Certified {
    authority: Authority,
    leaf: Leaf,
    dir: TempDir,
    cert: String,
    key: String,
    ca: String,
}

fn certified(name: &str) -> Certified {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    let leaf = authority.write(dir.path(), "site", &[name]);
    authority.write_ca(&dir.path().join("ca.pem"));
    let path = |file: &str| dir.path().join(file).display().to_string();
    Certified {
        cert: path("site.pem"),
        key: path("site.key"),
        ca: path("ca.pem"),
        authority,
        leaf,
        dir,
    }
}

/// Who answers so many requests in a row on one connection.
async fn answering(gateway: &Gateway, requests: usize) -> Vec<String> {
    let mut client = Client::connect(gateway).await;
    let mut names = Vec::new();
    for _ in 0..requests {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        names.push(answer.text());
    }
    names
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|one| *one == name).count()
}

async fn echoing(name: &'static str) -> Upstream {
    Upstream::replying(move |seen| match seen.header("upgrade") {
        Some(_) => Reply::websocket(name),
        None => Reply::ok(name),
    })
    .await
}

#[tokio::test]
async fn minimal_tls() {
    let (files, app) = (certified("a.test"), Upstream::named("app").await);
    let (cert, key) = (files.cert.clone(), files.key.clone());
    let values: &[(&str, &dyn Display)] = &[("CERT", &cert), ("KEY", &key), ("BACKEND_A", &app)];
    let gateway = start_in(files.dir, "minimal_tls", values).await;
    let mut client = Client::secure(&gateway, Tls::to(&files.authority, "a.test")).await;
    assert_eq!(client.get("/").await.text(), "app");
    let client = ClientH2::secure(&gateway, Tls::to(&files.authority, "a.test")).await;
    assert_eq!(client.get("/").await.text(), "app");
    assert_eq!(
        app.last().await.header("x-forwarded-proto"),
        Some("https"),
        "the endpoint is told"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn http_to_https() {
    let (files, app) = (certified("a.test"), Upstream::named("app").await);
    let (cert, key) = (files.cert.clone(), files.key.clone());
    let values: &[(&str, &dyn Display)] = &[
        ("CERT", &cert),
        ("KEY", &key),
        ("BACKEND_A", &app),
        ("PORT_TLS", &443),
    ];
    let gateway = start_in(files.dir, "http_to_https", values).await;
    let mut client = Client::connect(&gateway).await;
    let headers = [("host", "a.test:8080")];
    let answer = client.request("GET", "/x?y=1", &headers, b"").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("https://a.test/x?y=1"))
    );
    assert_eq!(app.count(), 0);
    let mut client = Client::secure(&gateway, Tls::to(&files.authority, "a.test")).await;
    let answer = client.get("/").await;
    assert_eq!(answer.text(), "app");
    assert_eq!(
        answer.header("strict-transport-security"),
        Some("max-age=2592000")
    );
    gateway.settled().await;
}

#[tokio::test]
async fn upgrade() {
    let app = echoing("app").await;
    let gateway = start("upgrade", &[("APP", &app)]).await;
    let mut socket = WebSocket::open(&gateway, "/", &[]).await;
    let before = gateway.pid();
    // By the signal: the command would have to be told the addresses of this test as well.
    gateway.signal("USR2");
    eventually("another process serves", async || {
        (gateway.serving_pid().await != before).then_some(())
    })
    .await;
    let status = gateway.status().await;
    assert_eq!(status["upgrade"]["state"], "took_over", "{status}");
    assert_eq!(status["upgrade"]["draining"], json!([before]), "{status}");
    assert_eq!(gateway.get("/").await.text(), "app");
    socket.echo("still there").await;
}

#[tokio::test]
async fn virtual_hosts() {
    let files = certified("shop.example.com");
    let tenants = files.authority.write(
        files.dir.path(),
        "tenants",
        &["*.tenants.example.com", "tenants.example.com"],
    );
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let path = |file: &str| files.dir.path().join(file).display().to_string();
    let (cert_tenants, key_tenants) = (path("tenants.pem"), path("tenants.key"));
    let values: &[(&str, &dyn Display)] = &[
        ("CERT", &files.cert),
        ("KEY", &files.key),
        ("CERT_TENANTS", &cert_tenants),
        ("KEY_TENANTS", &key_tenants),
        ("BACKEND_A", &a),
        ("BACKEND_B", &b),
    ];
    let gateway = start_in(files.dir, "virtual_hosts", values).await;
    for (host, certificate, status, body) in [
        ("shop.example.com", &files.leaf, 200, "a"),
        ("www.example.com", &files.leaf, 200, "a"),
        ("x.tenants.example.com", &tenants, 200, "b"),
        ("elsewhere.org", &files.leaf, 421, "no such site here\n"),
    ] {
        let tls = Tls::to(&files.authority, host).unverified();
        let secured = Client::handshake(&gateway, tls).await.expect("handshake");
        assert_eq!(secured.certificate, certificate.der, "{host}");
        let mut client = Client::over(&gateway, secured.io);
        let answer = client.request("GET", "/", &[("host", host)], b"").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (status, body),
            "{host}"
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn path_routing() {
    let (web, api) = (Upstream::named("web").await, Upstream::named("api").await);
    let gateway = start("path_routing", &[("BACKEND_A", &web), ("BACKEND_B", &api)]).await;
    let mut client = Client::connect(&gateway).await;
    for (path, body) in [
        ("/", "web"),
        ("/apiary", "web"),
        ("/api", "api"),
        ("/api/users/7", "api"),
        ("/api/users/7/avatar", "web"),
        ("/api/users/7/avatar/large", "api"),
        ("/api/version", "v1\n"),
        ("/api/version/1", "api"),
    ] {
        assert_eq!(client.get(path).await.text(), body, "{path}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn header_and_method_routing() {
    let (a, b) = (
        Upstream::named("stable").await,
        Upstream::named("canary").await,
    );
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &a), ("BACKEND_B", &b)];
    let gateway = start("header_and_method_routing", values).await;
    let mut client = Client::connect(&gateway).await;
    for (method, headers, body) in [
        ("GET", vec![], "stable"),
        ("GET", vec![("x-canary", "1")], "canary"),
        ("GET", vec![("x-canary", "2")], "stable"),
        ("POST", vec![("x-debug", "anything")], "canary"),
    ] {
        let answer = client.request(method, "/articles/1", &headers, b"").await;
        assert_eq!(answer.text(), body, "{method} {headers:?}");
    }
    let answer = client
        .request("HEAD", "/articles/1", &[("x-canary", "1")], b"")
        .await;
    assert_eq!((answer.status, b.last().await.method()), (200, "HEAD"));
    let refused = client.request("DELETE", "/articles/1", &[], b"").await;
    refused.assert_refused(405, "method_not_allowed");
    assert!(refused.header("allow").unwrap().contains("GET"));
    gateway.settled().await;
}

#[tokio::test]
async fn redirects_and_fixed_answers() {
    let gateway = start("redirects_and_fixed_answers", &[]).await;
    let mut client = Client::connect(&gateway).await;
    for (host, target, status, location) in [
        ("test", "/old/a/b?x=1", 308, "/new/a/b?x=1"),
        ("test", "/u/7", 302, "https://users.example.com/profile/7"),
        ("example.com", "/x", 301, "https://www.example.com/x"),
    ] {
        let answer = client.request("GET", target, &[("host", host)], b"").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (status, Some(location))
        );
    }
    let robots = client.get("/robots.txt").await;
    assert_eq!(
        (robots.status, robots.text().as_str()),
        (200, "User-agent: *\nDisallow: /\n")
    );
    let closed = client.get("/beta/x").await;
    assert_eq!(
        (closed.status, closed.header("content-type")),
        (503, Some("application/json"))
    );
    assert_eq!(closed.json()["message"], "back on Monday");
    gateway.settled().await;
}

#[tokio::test]
async fn rewrite_paths() {
    let app = Upstream::named("app").await;
    let gateway = start("rewrite_paths", &[("BACKEND_A", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    for (host, target, arrives, with_host) in [
        ("test", "/api/users?x=1", "/users?x=1", "test"),
        (
            "test",
            "/customers/7/orders/2026/1",
            "/orders/by-customer/7/2026/1",
            "test",
        ),
        (
            "a.example.com",
            "/files/x.txt",
            "/tenants/a.example.com/x.txt",
            "files.internal",
        ),
    ] {
        let answer = client.request("GET", target, &[("host", host)], b"").await;
        assert_eq!(answer.status, 200, "{target}");
        let seen = app.last().await;
        assert_eq!(
            (seen.target(), seen.header("host")),
            (arrives, Some(with_host))
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn header_rules() {
    let app = Upstream::replying(|_| {
        let headers = [("server", "old/1"), ("cache-control", "public")];
        Reply::with_headers(200, &headers, "app")
    })
    .await;
    let gateway = start("header_rules", &[("BACKEND_A", &app), ("API_KEY", &"ours")]).await;
    let mut client = Client::connect(&gateway).await;
    let claims = [
        ("x-api-key", "theirs"),
        ("x-internal-role", "admin"),
        ("cookie", "a=b"),
    ];
    let answer = client.request("GET", "/", &claims, b"").await;
    let seen = app.last().await;
    assert_eq!(seen.header("x-api-key"), Some("ours"));
    assert_eq!(seen.header("x-internal-role"), None);
    assert_eq!(seen.header("cookie"), None);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("server"), None);
    gateway.settled().await;
}

#[tokio::test]
async fn weighted_round_robin() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &a), ("BACKEND_B", &b)];
    let gateway = start("weighted_round_robin", values).await;
    let names = answering(&gateway, 40).await;
    for four in names.chunks(4) {
        assert_eq!((count(four, "a"), count(four, "b")), (3, 1), "{names:?}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn least_loaded() {
    let release = Arc::new(Notify::new());
    let holding = |name: &'static str| {
        let held = Arc::clone(&release);
        Upstream::replying(move |seen| match seen.target() {
            "/held" => Reply::held(&held, Reply::ok(name)),
            _ => Reply::ok(name),
        })
    };
    let (a, b) = (holding("a").await, holding("b").await);
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &a), ("BACKEND_B", &b)];
    let gateway = start("least_loaded", values).await;
    let mut busy = Client::connect(&gateway).await;
    busy.count(1);
    busy.send(b"GET /held HTTP/1.1\r\nhost: test\r\n\r\n").await;
    eventually("one is busy", async || {
        (a.count() + b.count() == 1).then_some(())
    })
    .await;
    let idle = if a.count() == 1 { "b" } else { "a" };
    assert_eq!(count(&answering(&gateway, 10).await, idle), 10);
    release.notify_waiters();
    assert_ne!(busy.answer().await.text(), idle);
    gateway.settled().await;
}

#[tokio::test]
async fn consistent_hash() {
    let (a, b, c) = (
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    );
    let values: &[(&str, &dyn Display)] =
        &[("BACKEND_A", &a), ("BACKEND_B", &b), ("BACKEND_C", &c)];
    let gateway = start("consistent_hash", values).await;
    let places = async || {
        let mut client = Client::connect(&gateway).await;
        let mut places = BTreeMap::new();
        for tenant in 0..60 {
            let tenant = format!("tenant-{tenant}");
            let headers = [("x-tenant", tenant.as_str())];
            let answer = client.request("GET", "/", &headers, b"").await;
            places.insert(tenant, answer.text());
        }
        places
    };
    let before = places().await;
    assert_eq!(before, places().await);
    b.stop().await;
    for (tenant, is) in places().await {
        let was = &before[&tenant];
        assert!(
            *was == "b" || *was == is,
            "{tenant} moved from {was} to {is}"
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn sticky_websocket() {
    let (a, b, c) = (echoing("a").await, echoing("b").await, echoing("c").await);
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_A", &a),
        ("BACKEND_B", &b),
        ("BACKEND_C", &c),
        ("STICKY_SECRET", &"0123456789abcdef"),
    ];
    let gateway = start("sticky_websocket", values).await;
    let origin = ("origin", "https://chat.example.com");
    let mut first = WebSocket::open(&gateway, "/chat/1", &[origin]).await;
    first.echo("hello").await;
    let set = first.answer.header("set-cookie").unwrap();
    assert!(set.contains("chat_endpoint=") && set.contains("Max-Age=604800"));
    let cookie = first.cookie().unwrap();
    let bound = [origin, ("cookie", cookie.as_str())];

    // Another instance with the same secret knows the cookie too.
    let other = start("sticky_websocket", values).await;
    let mut open = vec![first];
    for _ in 0..4 {
        let again = WebSocket::open(&gateway, "/chat/1", &bound).await;
        assert_eq!((&again.name, again.cookie()), (&open[0].name, None));
        open.push(again);
        let elsewhere = WebSocket::open(&other, "/chat/1", &bound).await;
        assert_eq!(elsewhere.name, open[0].name);
    }
    let foreign = [("origin", "https://evil.example")];
    let refused = WebSocket::try_open(&gateway, "/chat/1", &foreign).await;
    let refused = refused.err().expect("refused");
    refused.assert_refused(403, "origin_not_allowed");
    let sixth = WebSocket::try_open(&gateway, "/chat/1", &[origin]).await;
    let sixth = sixth.err().expect("refused");
    sixth.assert_refused(429, "too_many_websockets");

    let name = open[0].name.clone();
    gateway.settled_after_tunnels(open).await;
    let lost = [("a", &a), ("b", &b), ("c", &c)]
        .into_iter()
        .find(|(one, _)| *one == name);
    lost.unwrap().1.stop().await;
    let elsewhere = WebSocket::open(&gateway, "/chat/1", &bound).await;
    assert_ne!(elsewhere.name, name);
    assert!(elsewhere.cookie().is_some(), "told by a new cookie");
}

#[tokio::test]
async fn health_checks() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let probed = Upstream::named("probed").await;
    a.health(200, "ready");
    b.health(200, "ready");
    let port = probed.port();
    let values: &[(&str, &dyn Display)] =
        &[("BACKEND_A", &a), ("BACKEND_B", &b), ("PORT_PROBE", &port)];
    let gateway = start("health_checks", values).await;
    a.health(200, "an error page");
    gateway.endpoint_is("app", &a, "up", json!(false)).await;
    assert_eq!(count(&answering(&gateway, 6).await, "b"), 6);
    a.health(204, "");
    silence(Duration::from_millis(600)).await;
    assert_eq!(
        gateway.endpoint("app", &a).await["up"],
        false,
        "a body is expected"
    );
    a.health(200, "ready again");
    gateway.endpoint_is("app", &a, "up", json!(true)).await;

    let database = gateway.endpoint("database_proxy", &a).await;
    assert_eq!(
        (&database["up"], &database["known"]),
        (&json!(true), &json!(true))
    );
    probed.stop().await;
    gateway
        .endpoint_is("database_proxy", &a, "up", json!(false))
        .await;
    gateway.settled().await;
}

#[tokio::test]
async fn ejection_and_slow_start() {
    let ill = Arc::new(AtomicBool::new(true));
    let is_ill = Arc::clone(&ill);
    let a = Upstream::replying(move |_| {
        if is_ill.load(SeqCst) {
            Reply::status(500, "a fails")
        } else {
            Reply::ok("a")
        }
    })
    .await;
    let b = Upstream::named("b").await;
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &a), ("BACKEND_B", &b)];
    let gateway = start("ejection_and_slow_start", values).await;
    let mut client = Client::connect(&gateway).await;
    let failed = eventually("a is ejected", async || {
        client.get("/").await;
        let endpoint = gateway.endpoint("app", &a).await;
        (endpoint["ejected"] == true).then(|| a.count())
    })
    .await;
    assert_eq!(failed, 3, "three errors in a row");
    assert_eq!(count(&answering(&gateway, 10).await, "b"), 10);
    ill.store(false, SeqCst);
    eventually("a is asked again", async || {
        (client.get("/").await.text() == "a").then_some(())
    })
    .await;
    let names = answering(&gateway, 30).await;
    let share = count(&names, "a");
    assert!(share < 10, "its share grows slowly: {share} of 30");
    gateway.settled().await;
}

#[tokio::test]
async fn retries_and_timeouts() {
    let scripted = |name: &'static str| {
        Upstream::replying(move |seen: &Seen| match (name, seen.target()) {
            ("a", "/down") => Reply::status(503, "a is down"),
            (_, "/silent") => Reply::nothing(),
            (_, "/reports/slow") => {
                Reply::late(Duration::from_millis(1_500), Reply::ok("a report"))
            }
            _ => Reply::ok(name),
        })
    };
    let (a, b) = (scripted("a").await, scripted("b").await);
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &a), ("BACKEND_B", &b)];
    let gateway = start("retries_and_timeouts", values).await;
    let mut client = Client::connect(&gateway).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(client.post("/down", b"once only").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503], "a POST is not tried twice");
    for _ in 0..4 {
        assert_eq!(client.get("/down").await.text(), "b");
    }
    let retried = gateway
        .access_log_line(|line| line["retries"] == 1 && line["status"] == 200)
        .await;
    assert_eq!(retried["method"], "GET", "{retried}");

    let started = Instant::now();
    let late = client.post("/silent", b"").await;
    late.assert_refused(504, "first_byte_timed_out");
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(950) && waited < Duration::from_millis(2_900),
        "{waited:?}"
    );
    assert_eq!(client.get("/reports/slow").await.text(), "a report");
    gateway.settled().await;
}

#[tokio::test]
async fn limits() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let secret = "a secret of more than thirty-two bytes";
    // No more than a token must have.
    let alice = serde_json::json!({ "sub": "alice", "exp": claims("alice")["exp"] });
    let token = format!("Bearer {}", Signer::secret(secret).claims(&alice));
    let ours = [("authorization", token.as_str())];
    for url in ["memory".to_owned(), redis.url()] {
        let values: &[(&str, &dyn Display)] = &[
            ("BACKEND", &app),
            ("REDIS_URL", &url),
            ("JWT_SECRET", &secret),
        ];
        let supabase: &[(&str, &dyn Display)] = &[("JWT_AUDIENCE", &"authenticated")];
        let strict = start("limits", &[values, supabase].concat()).await;
        let mut client = Client::connect(&strict).await;
        let refused = client.request("GET", "/", &ours, b"").await;
        refused.assert_refused(401, "invalid_credential");
        let gateway = start("limits", values).await;
        let mut client = Client::connect(&gateway).await;
        assert_eq!(client.get("/").await.status, 401);
        let mut statuses = BTreeMap::new();
        for target in ["/", "/search", "/health"] {
            for _ in 0..40 {
                let answer = client.request("GET", target, &ours, b"").await;
                let status = answer.status;
                *statuses.entry((target, status)).or_insert(0) += 1;
            }
        }
        // A minute may have ended on the way, and a place in the bucket comes free every 100 ms.
        let count = |target, status| statuses.get(&(target, status)).copied().unwrap_or(0);
        assert!((30..=35).contains(&count("/", 200)), "{statuses:?}");
        assert!((5..=39).contains(&count("/search", 200)), "{statuses:?}");
        assert_eq!(count("/health", 200), 40);
        for status in [200, 200, 429] {
            let answer = client.request("POST", "/upload", &ours, b"file").await;
            assert_eq!(answer.status, status, "{}", answer.text());
            let policy = answer.header("ratelimit-policy").unwrap_or_default();
            assert!(policy.contains("\"uploads\";q=2;w=3600"), "{policy}");
        }
        let mut pro = alice.clone();
        pro["app_metadata"] = serde_json::json!({ "plan": "pro" });
        let token = format!("Bearer {}", Signer::secret(secret).claims(&pro));
        let theirs = [("authorization", token.as_str())];
        let answer = client.request("POST", "/upload", &theirs, b"file").await;
        assert_eq!(answer.status, 200, "a plan has more");
        let mode = gateway.status().await["limits"]["mode"].clone();
        let expected = if url == "memory" { "memory" } else { "redis" };
        assert_eq!(mode, expected);
        gateway.settled().await;
    }
    let minute = redis.ask("KEYS ratelimit:alice:*");
    assert!(!minute.is_empty(), "an application can read it");
}

#[tokio::test]
async fn limits_and_queue() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let app = Upstream::replying(move |seen| match seen.target() {
        "/held" => Reply::held(&held, Reply::ok("held")),
        _ => Reply::ok("app"),
    })
    .await;
    let gateway = start("limits_and_queue", &[("BACKEND_A", &app)]).await;
    let body = body_of((64 << 10) + 1);
    let mut client = Client::connect(&gateway).await;
    let refused = client.post("/", &body).await;
    refused.assert_refused(413, "body_too_large");
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.post("/upload", &body).await.status, 200);

    let mut first = Client::connect(&gateway).await;
    first.count(1);
    first
        .send(b"GET /held HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    eventually("the place is taken", async || {
        (gateway.endpoint("app", &app).await["in_flight"] == 1).then_some(())
    })
    .await;
    let mut second = Client::connect(&gateway).await;
    second.count(1);
    second.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    eventually("one waits", async || {
        (gateway.status().await["pools"]["app"]["waiting"] == 1).then_some(())
    })
    .await;
    let third = gateway.get("/").await;
    third.assert_refused(503, "queue_full");
    assert!(third.header("retry-after").is_some());
    release.notify_waiters();
    assert_eq!(first.answer().await.text(), "held");
    assert_eq!(second.answer().await.text(), "app");
    gateway.settled().await;
}

/// Serves `app` over TLS to callers with a certificate of this authority, and to nobody else.
async fn serve_the_known(authority: &Authority, name: &str) -> Port {
    let verifier = WebPkiClientVerifier::builder(Arc::new(authority.roots())).build();
    let leaf = authority.issue(&[name]);
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(vec![leaf.der], leaf.key)
        .unwrap();
    let (acceptor, port) = (TlsAcceptor::from(Arc::new(config)), Port::reserve());
    let listener = TcpListener::bind(port.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\napp";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn tls_to_endpoints() {
    let files = certified("gateway.internal");
    let stranger = Authority::new();
    stranger.write(files.dir.path(), "stranger", &["gateway.internal"]);
    let app = serve_the_known(&files.authority, "app.internal").await;
    let path = |file: &str| files.dir.path().join(file).display().to_string();
    for (cert, key, known) in [
        (files.cert.clone(), files.key.clone(), true),
        (path("stranger.pem"), path("stranger.key"), false),
    ] {
        let values: &[(&str, &dyn Display)] = &[
            ("BACKEND_A", &app),
            ("CA", &files.ca),
            ("CERT", &cert),
            ("KEY", &key),
        ];
        let gateway = start("tls_to_endpoints", values).await;
        let answer = gateway.get("/").await;
        assert_eq!(answer.text() == "app", known, "{}", answer.text());
        gateway.settled().await;
    }

    // An endpoint with another name is not ours.
    let other = serve_the_known(&files.authority, "other.internal").await;
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_A", &other),
        ("CA", &files.ca),
        ("CERT", &files.cert),
        ("KEY", &files.key),
    ];
    let gateway = start("tls_to_endpoints", values).await;
    assert_ne!(gateway.get("/").await.status, 200);
    gateway.settled().await;
}

#[tokio::test]
async fn http2_to_endpoints() {
    let files = certified("unused.test");
    let plain = UpstreamH2::plain(|_| ReplyH2::ok("plain")).await;
    let secure = UpstreamH2::tls(&files.authority, "app.internal", |_| ReplyH2::ok("secure")).await;
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_A", &plain),
        ("BACKEND_B", &secure),
        ("CA", &files.ca),
    ];
    let gateway = start("http2_to_endpoints", values).await;
    assert_eq!(gateway.get("/").await.text(), "plain");
    assert_eq!(gateway.get("/secure/x").await.text(), "secure");
    let client = ClientH2::plain(&gateway).await;
    // The first opens a connection, the others share it.
    client.get("/").await;
    let all = (0..20).map(|_| client.get("/"));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.text(), "plain");
    }
    assert!(plain.last().await.head.contains("HTTP/2"));
    // One for probes, one or two for each worker that was asked.
    let connections = plain.connections();
    assert!(connections < 10, "{connections} for 22 requests");
    gateway.settled().await;
}

#[tokio::test]
async fn unix_socket() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("app.sock");
    let app = Upstream::unix(&socket, |_| Reply::ok("app")).await;
    let gateway = start_in(dir, "unix_socket", &[("SOCKET", &socket.display())]).await;
    assert_eq!(gateway.get("/").await.text(), "app");
    assert_eq!(app.last().await.header("host"), Some("localhost"));
    gateway.settled().await;
}

#[tokio::test]
async fn unix_listener() {
    let (dir, app) = (TempDir::new().unwrap(), Upstream::named("app").await);
    let socket = dir.path().join("web.sock");
    let values: &[(&str, &dyn Display)] = &[("SOCKET", &socket.display()), ("APP", &app)];
    let gateway = start_in(dir, "unix_listener", values).await;
    let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut client = Client::over(&gateway, Box::new(stream));
    let said = [("x-forwarded-for", "203.0.113.9")];
    let answer = client.request("GET", "/", &said, b"").await;
    assert_eq!(answer.text(), "app");
    assert_eq!(app.last().await.header("x-real-ip"), Some("203.0.113.9"));
    gateway.settled().await;
}

#[tokio::test]
async fn dns_endpoints() {
    let app = Upstream::named("app").await;
    let name = format!("localhost:{}", app.port());
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_NAME", &name),
        ("BACKEND_NAME_NEXT", &"no-such-name.invalid:80"),
    ];
    let gateway = start("dns_endpoints", values).await;
    assert_eq!(gateway.get("/").await.text(), "app");
    let names = gateway.status().await["pools"]["app"]["names"].clone();
    let failing = |wanted: &str| {
        let names = names.as_array().unwrap().iter();
        let mut found = names.filter(|one| one["name"] == wanted);
        found.next().unwrap()["failing"].clone()
    };
    assert_eq!(failing(&name), false, "{names}");
    assert_eq!(failing("no-such-name.invalid:80"), true, "{names}");
    gateway.settled().await;
}

#[tokio::test]
async fn client_certificates() {
    let files = certified("a.test");
    let app = Upstream::named("app").await;
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_A", &app),
        ("CERT", &files.cert),
        ("KEY", &files.key),
        ("CLIENT_CA", &files.ca),
    ];
    let gateway = start("client_certificates", values).await;
    let (ours, stranger) = (&files.authority, Authority::new());
    for (tls, served) in [
        (Tls::showing(ours, "a.test", ours.issue(&["machine"])), true),
        (
            Tls::showing(ours, "a.test", stranger.issue(&["machine"])),
            false,
        ),
        (Tls::to(ours, "a.test"), false),
        (Tls::to(ours, "a.test").only_tls12(), false),
    ] {
        // TLS 1.3 callers learn of a refusal only when they read.
        let answer = match Client::handshake(&gateway, tls).await {
            Ok(secured) => {
                let mut client = Client::over(&gateway, secured.io);
                client.try_request("GET", "/", &[], b"").await.ok()
            }
            Err(_) => None,
        };
        assert_eq!(
            answer.map(|answer| answer.text()),
            served.then(|| "app".to_owned())
        );
    }
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn behind_a_load_balancer() {
    let app = Upstream::named("app").await;
    for (balancers, told) in [("127.0.0.0/8", "203.0.113.9"), ("10.0.0.0/8", "127.0.0.1")] {
        let http = Port::reserve();
        let values: &[(&str, &dyn Display)] = &[
            ("BACKEND_A", &app),
            ("LISTEN_HTTP", &http),
            ("BALANCERS", &balancers),
        ];
        let gateway = start("behind_a_load_balancer", values).await;
        let stream = TcpStream::connect(http.address()).await.unwrap();
        let mut client = Client::over(&gateway, Box::new(stream));
        let headers = [("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client.request("GET", "/", &headers, b"").await.status, 200);
        assert_eq!(app.last().await.header("x-real-ip"), Some(told));

        let before = app.count();
        let mut client = Client::connect(&gateway).await;
        let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 5555 80\r\n";
        let _ = client.try_send(header).await;
        let answer = client.try_request("GET", "/", &[], b"").await;
        if balancers == "127.0.0.0/8" {
            assert_eq!(answer.unwrap().text(), "app");
            let seen = app.last().await;
            assert_eq!(seen.header("x-real-ip"), Some("203.0.113.7"));
            gateway.settled().await;
        } else {
            assert_eq!(app.count(), before, "not one of the balancers");
        }
    }
}

#[tokio::test]
async fn h2c() {
    let app = Upstream::named("app").await;
    let gateway = start("h2c", &[("BACKEND_A", &app)]).await;
    assert_eq!(ClientH2::plain(&gateway).await.get("/").await.text(), "app");
    assert_eq!(gateway.get("/").await.text(), "app", "HTTP/1.1 beside it");
    gateway.settled().await;
    let protocols: Vec<_> = gateway
        .access_log()
        .iter()
        .map(|line| line["protocol"].clone())
        .collect();
    assert!(
        protocols[0].as_str().unwrap().starts_with("HTTP/2"),
        "{protocols:?}"
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one thing after the other, or one row for each"
)]
async fn ai() {
    let (openai, anthropic) = (Provider::openai().await, Provider::anthropic().await);
    let key = "the-key-of-one-app";
    let values: &[(&str, &dyn Display)] = &[
        ("GATEWAY_KEY", &key),
        ("OPENAI_API_KEY", &PROVIDER_KEY),
        ("ANTHROPIC_API_KEY", &PROVIDER_KEY),
        ("GEMINI_API_KEY", &""),
        ("OPENAI_BASE_URL", &openai.url()),
        ("ANTHROPIC_BASE_URL", &anthropic.url()),
        ("GEMINI_BASE_URL", &""),
    ];
    let gateway = start("ai", values).await;
    let bearer = format!("Bearer {key}");
    let mut client = Client::connect(&gateway).await;
    let mut ask = async |model: Option<&str>, bearer: &str| {
        let mut call = json!({ "messages": [{ "role": "user", "content": "hello" }] });
        if let Some(model) = model {
            call["model"] = model.into();
        }
        let headers = [
            ("content-type", "application/json"),
            ("authorization", bearer),
        ];
        let call = call.to_string();
        let path = "/v1/chat/completions";
        client
            .request("POST", path, &headers, call.as_bytes())
            .await
    };
    for (model, status, asked) in [
        (Some("smart"), 200, "openai gpt-5"),
        (Some("gpt-5-mini"), 200, "openai gpt-5-mini"),
        (Some("openai/gpt-5"), 200, "openai gpt-5"),
        (Some("claude-haiku-4-5"), 200, "anthropic claude-haiku-4-5"),
        (None, 200, "openai gpt-5-nano"),
        (Some("nobody"), 404, ""),
        (Some("nobody/gpt-5"), 404, ""),
        (Some("gemini-2.5-pro"), 503, ""),
    ] {
        let before = (openai.seen().len(), anthropic.seen().len());
        let answer = ask(model, &bearer).await;
        assert_eq!(answer.status, status, "{model:?} {}", answer.text());
        let seen = |name: &str, provider: &Provider, before: usize| {
            let seen = provider.seen().split_off(before);
            let models = seen.into_iter().map(|asked| {
                let model = asked.body["model"].as_str().map(str::to_owned);
                format!("{name} {}", model.unwrap())
            });
            models.collect::<Vec<_>>()
        };
        let mut seen_by = seen("openai", &openai, before.0);
        seen_by.extend(seen("anthropic", &anthropic, before.1));
        assert_eq!(seen_by.join(", "), asked, "{model:?}");
    }
    assert_eq!(ask(Some("smart"), "Bearer another").await.status, 401);
    openai.times(4, &Fault::Error(Trouble::Unavailable));
    let answer = ask(Some("smart"), &bearer).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = anthropic.seen().pop().unwrap();
    assert_eq!(asked.body["model"], "claude-sonnet-4-5");
    openai.calm();
    let status = gateway.status().await;
    let enabled = |name: &str| status["providers"][name]["enabled"].clone();
    assert_eq!(
        [enabled("openai"), enabled("anthropic"), enabled("gemini")],
        [true, true, false]
    );
    assert_eq!(status["targets"]["openai/gpt-5"]["breaker"], "closed");
    assert!(!status.to_string().contains(PROVIDER_KEY), "{status}");
}

/// Without the key of callers there is no gateway, and no open one.
#[test]
fn ai_without_a_key_for_callers_is_refused() {
    let document = conf().join("examples/ai.yaml");
    for (key, told) in [
        (None, "the environment variable `GATEWAY_KEY` is not set"),
        (Some(""), "the key is empty"),
    ] {
        let mut command = onemind();
        command.arg("check").arg("-c").arg(&document);
        command.env_remove("GATEWAY_KEY");
        command.envs(key.map(|key| ("GATEWAY_KEY", key)));
        let (status, stdout, stderr) = finish(&mut command);
        assert!(!status.success(), "{stdout}{stderr}");
        assert!(
            stderr.contains(told) || stdout.contains(told),
            "{stdout}{stderr}"
        );
    }
}

#[tokio::test]
async fn identity() {
    let app = Upstream::named("app").await;
    let secret = "a secret of more than thirty-two bytes";
    let hash = format!("sha256:{}", hash(b"om_robot"));
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND", &app),
        ("JWT_SECRET", &secret),
        ("KEY_HASH", &hash),
    ];
    let gateway = start("identity", values).await;
    let mut alice = claims("alice");
    alice["aud"] = "authenticated".into();
    alice["email"] = "alice@example.com".into();
    let token = format!("Bearer {}", Signer::secret(secret).claims(&alice));
    let (token, key) = (("authorization", token.as_str()), ("x-api-key", "om_robot"));
    let (page, wrong) = (
        ("origin", "https://app.example.com"),
        ("authorization", "Bearer ey.."),
    );
    let mut client = Client::connect(&gateway).await;
    for (path, header, status, user) in [
        ("/", page, 200, None),
        ("/", token, 200, Some("alice")),
        ("/", wrong, 401, None),
        ("/api/x", page, 401, None),
        ("/api/x", token, 200, Some("alice")),
        ("/api/x", key, 200, Some("robot")),
        ("/api/x?key=om_robot", page, 200, Some("robot")),
        ("/api/deploy/x", key, 200, Some("robot")),
        ("/api/deploy/x", token, 401, None),
    ] {
        let before = app.count();
        let answer = client.request("GET", path, &[header], b"").await;
        assert_eq!(answer.status, status, "{path} {}", answer.text());
        assert_eq!(app.count() - before, usize::from(status == 200));
        if status == 200 {
            let seen = app.last().await;
            assert_eq!(seen.header("x-user-id"), user, "{path}");
            let email = seen.header("x-user-email");
            assert_eq!(email.is_some(), user == Some("alice"), "{path}");
        }
    }
    let asked = [page, ("access-control-request-method", "DELETE")];
    let answer = client.request("OPTIONS", "/api/x", &asked, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(page.1));
}

#[tokio::test]
async fn sessions() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start(
        "sessions",
        &[("BACKEND", &app), ("REDIS_URL", &redis.url())],
    )
    .await;
    let token = "oms_alice.0123456789abcdef0123456789abcdef";
    let hash = hash(token.as_bytes());
    redis.ask(&format!(
        "HSET user:alice:session hash sha256:{hash} plan pro roles editor"
    ));
    let (cookie, bearer) = (format!("session={token}"), format!("Bearer {token}"));
    let (cookie, bearer) = (("cookie", cookie.as_str()), ("authorization", &*bearer));
    let nothing = ("accept", "*/*");
    let mut client = Client::connect(&gateway).await;
    for (method, path, header, status, user) in [
        ("GET", "/", nothing, 200, None),
        ("GET", "/", cookie, 200, Some("alice")),
        ("GET", "/account/x", nothing, 401, None),
        ("GET", "/account/x", bearer, 200, Some("alice")),
        ("GET", "/admin/x", cookie, 403, None),
        ("POST", "/auth/logout", cookie, 204, None),
        ("GET", "/", cookie, 401, None),
        ("GET", "/", nothing, 200, None),
    ] {
        let before = app.count();
        let answer = client.request(method, path, &[header], b"").await;
        assert_eq!(answer.status, status, "{path} {}", answer.text());
        assert_eq!(app.count() - before, usize::from(status == 200));
        if status == 200 {
            assert_eq!(app.last().await.header("x-user-id"), user, "{path}");
        }
    }
    assert_eq!(redis.ask("EXISTS user:alice:session"), "0");
}

fn shipped() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in [conf(), conf().join("examples")] {
        let entries = std::fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|ext| ext == "yaml")));
    }
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    files
}

fn onemind() -> Command {
    Command::new(env!("CARGO_BIN_EXE_onemind"))
}

#[test]
fn every_shipped_document_is_good() {
    let files = certified("a.test");
    for document in shipped() {
        let mut command = onemind();
        command.arg("check").arg("-c").arg(&document);
        // Certificates and folders are the operator's own; everything else has a default.
        for name in [
            "CERT",
            "CERT_TENANTS",
            "CA",
            "CLIENT_CA",
            "DEMO_CERTIFICATE",
        ] {
            command.env(name, &files.cert);
        }
        for name in ["KEY", "KEY_TENANTS", "DEMO_KEY"] {
            command.env(name, &files.key);
        }
        for name in [
            "GATEWAY_KEY",
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "GEMINI_API_KEY",
        ] {
            command.env(name, "0123456789abcdef");
        }
        command.env("SOCKET", files.dir.path().join("web.sock"));
        let (status, stdout, stderr) = finish(&mut command);
        let told = format!("{}: {stdout}{stderr}", document.display());
        assert!(status.success(), "{told}");
        // The demo alone has no secret: it is over in a moment.
        let may_warn = document.ends_with("demo.yaml");
        assert!(may_warn || !told.contains("warning"), "{told}");
    }
}

/// As the gateway reads it: defaults in the place of variables, and of the type they look like.
fn with_defaults(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, with_defaults(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(with_defaults).collect(),
        Value::String(text) => match text.split_once("${") {
            None => Value::String(text),
            Some((before, rest)) => {
                let (variable, after) = rest.split_once('}').unwrap();
                let default = variable.split_once(":-").map_or("", |(_, default)| default);
                let rest = with_defaults(Value::String(after.to_owned()));
                let text = format!("{before}{default}{}", rest.as_str().unwrap());
                text.parse::<u16>().map_or(Value::String(text), Value::from)
            }
        },
        other => other,
    }
}

#[test]
fn every_shipped_document_is_what_the_schema_tells_editors() {
    let (_, schema, _) = finish(onemind().arg("schema"));
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for document in shipped() {
        let text = std::fs::read_to_string(&document).unwrap();
        let mut value = with_defaults(serde_yaml::from_str(&text).unwrap());
        let faults: Vec<_> = validator.iter_errors(&value).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", document.display());
        value["listeners"]["surplus"] = json!({ "adress": "127.0.0.1:80" });
        assert!(!validator.is_valid(&value), "a misspelt key is seen");
    }
}

#[tokio::test]
async fn tracing() {
    let (collector, app) = (
        Collector::start(),
        Upstream::replying(|_| Reply::status(500, "no")).await,
    );
    let values: &[(&str, &dyn Display)] = &[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector),
        ("BACKEND_A", &app),
        ("TRUSTED", &"127.0.0.0/8"),
    ];
    let gateway = start("tracing", values).await;
    let mut client = Client::connect(&gateway).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    client
        .request("GET", "/broken", &[("traceparent", parent)], b"")
        .await;
    let request = collector.request("/broken").await;
    assert_eq!(request["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(collector.below(&request).len(), 1);
    gateway.settled().await;
}

#[tokio::test]
async fn shields() {
    let app = Upstream::named("app").await;
    let values: &[(&str, &dyn Display)] = &[("BACKEND_A", &app), ("MONITORING", &"127.0.0.9/32")];
    let gateway = start("shields", values).await;
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(gateway.address("http")).await
    };
    // The rate: a burst passes, then not everything does.
    let (mut fast, mut passed) = (Client::connect(&gateway).await, 0);
    let refused = loop {
        let answer = fast.get("/").await;
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
    };
    assert!(passed >= 40, "{passed}");
    refused.assert_refused(429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut monitoring = Client::over(&gateway, Box::new(from(9).await.unwrap()));
    for _ in 0..100 {
        assert_eq!(monitoring.get("/healthz").await.text(), "ok\n");
    }
    // Connections: a hundred of one address, and no more.
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(from(2).await.unwrap());
    }
    eventually("a hundred are open", async || {
        let taken = gateway.status().await["shield"]["connections"]["taken"].as_u64();
        (taken == Some(102)).then_some(())
    })
    .await;
    let more = async {
        let mut stream = from(2).await?;
        stream.read_u8().await
    };
    assert!(more.await.is_err(), "turned away");
    let mut other = Client::over(&gateway, Box::new(from(3).await.unwrap()));
    assert_eq!(other.get("/").await.text(), "app");
    drop(held);
    gateway.settled().await;
}

#[tokio::test]
async fn logs() {
    let app = Upstream::named("app").await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("access.log");
    let values: &[(&str, &dyn Display)] = &[
        ("BACKEND_A", &app),
        ("ACCESS_LOG", &log.display()),
        ("ACCESS_LOG_SIZE", &"4KiB"),
    ];
    let gateway = start_in(dir, "logs", values).await;
    assert_eq!(answering(&gateway, 10).await, ["app"; 10]);
    let old = gateway.path("access.log.1");
    eventually("the file has grown and was renamed", async || {
        old.exists().then_some(())
    })
    .await;
    let answer = gateway.admin("POST", "/log?level=debug&for=10m").await;
    assert_eq!(answer.json()["level"], "debug", "{}", answer.text());
    let status = gateway.status().await;
    assert_eq!(status["log"]["by"], "operator", "{status}");
    let answer = gateway.admin("POST", "/log?level=configured").await;
    assert_eq!(answer.json()["by"], "configuration", "{}", answer.text());
    assert_eq!(answer.json()["format"], "json", "{}", answer.text());
}
