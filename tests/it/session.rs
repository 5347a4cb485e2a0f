//! Sessions: whose they are, how long they last, and how they end, for all instances at once.

use crate::harness::{
    Answer, Authority, Client, ClientH2, Gateway, RedisServer, Tls, Upstream, eventually, finish,
    hash,
};
use std::process::Command;
use tempfile::TempDir;

const ALICE: &str = "oms_alice.0123456789abcdef0123456789abcdef";
const BOB: &str = "oms_bob@example.com.0123456789abcdef0123456789abcdef";

/// A public site and a private part. Calls of Redis have the time that a busy machine may need.
fn document(more: &str) -> String {
    format!(
        "
redis: {{ url: '{{{{redis}}}}', timeout: 5s }}
identity:
  people: {{ session: {{ cookie: sid{more} }} }}
  visitors: {{ anonymous: {{}} }}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}
routes:
  site: {{ pool: app, identity: [people, visitors] }}
  mine: {{ path: /mine/*, pool: app, identity: people, allow: {{ role: editor }} }}
"
    )
}

async fn start(more: &str, redis: &RedisServer, app: &Upstream) -> Gateway {
    let names: &[(&str, &dyn std::fmt::Display)] = &[("redis", &redis.url()), ("app", app)];
    let gateway = Gateway::start(&document(more), names).await;
    store_is(&gateway, "redis").await;
    gateway
}

async fn store_is(gateway: &Gateway, mode: &str) {
    eventually(&format!("the store is {mode}"), async || {
        (gateway.status().await["limits"]["mode"] == mode).then_some(())
    })
    .await;
}

/// As an application logs somebody in; for so many milliseconds.
fn log_in(redis: &RedisServer, token: &str, fields: &str, lasts_ms: u64) {
    let user = user_of(token);
    let hash = hash(token.as_bytes());
    let key = format!("user:{user}:session");
    redis.ask(&format!("HSET {key} hash sha256:{hash} {fields}"));
    assert_eq!(redis.ask(&format!("PEXPIRE {key} {lasts_ms}")), "1");
}

fn user_of(token: &str) -> &str {
    let user = token
        .strip_prefix("oms_")
        .and_then(|rest| rest.rsplit_once('.'));
    user.unwrap().0
}

fn lasts_ms(redis: &RedisServer, user: &str) -> i64 {
    let lasts = redis.ask(&format!("PTTL user:{user}:session"));
    lasts.parse().unwrap()
}

async fn by_cookie(gateway: &Gateway, method: &str, target: &str, cookie: &str) -> Answer {
    let mut client = Client::connect(gateway).await;
    client
        .request(method, target, &[("cookie", cookie)], b"")
        .await
}

async fn by_bearer(gateway: &Gateway, target: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut client = Client::connect(gateway).await;
    let headers = [("authorization", bearer.as_str())];
    client.request("GET", target, &headers, b"").await
}

async fn counted(gateway: &Gateway, metric: &str, expected: f64) {
    let found = gateway.metric(&format!("onemind_identity_{metric}")).await;
    assert!((found - expected).abs() < 0.5, "{metric}: {found}");
}

#[tokio::test]
async fn a_session_is_known_by_cookie_or_bearer_and_its_token_goes_no_further() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start("", &redis, &app).await;
    log_in(&redis, ALICE, "plan pro roles admin,editor", 60_000);
    log_in(&redis, BOB, "name bob", 60_000);
    for (token, user) in [(ALICE, "alice"), (BOB, "bob@example.com")] {
        let cookies = format!("theme=dark; sid={token}; lang=en");
        for (answer, cookie) in [
            (
                by_cookie(&gateway, "GET", "/", &cookies).await,
                Some("theme=dark; lang=en"),
            ),
            (
                by_cookie(&gateway, "GET", "/", &cookies[12..]).await,
                Some("lang=en"),
            ),
            (by_bearer(&gateway, "/", token).await, None),
        ] {
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("set-cookie"), None);
            let seen = app.seen();
            let seen = seen
                .iter()
                .rev()
                .find(|seen| seen.header("cookie") == cookie);
            let seen = seen.expect("the other cookies are passed on");
            assert_eq!(seen.header("x-user-id"), Some(user), "{}", seen.head);
            assert!(!seen.head.contains(token), "{}", seen.head);
        }
    }
    // Roles are fields of the session.
    assert_eq!(by_bearer(&gateway, "/mine/x", ALICE).await.status, 200);
    let refused = by_bearer(&gateway, "/mine/x", BOB).await;
    refused.assert_refused(403, "not_allowed");
    counted(&gateway, "known_total{method=\"people\"}", 8.0).await;
    gateway.settled().await;
    let line = gateway.access_log_line(|line| line["status"] == 403).await;
    assert_eq!(line["user"], "bob@example.com");
    let logged = format!("{:?}{}", gateway.access_log(), gateway.errors());
    assert!(!logged.contains("0123456789abcdef"), "{logged}");
}

#[tokio::test]
async fn an_absent_session_lets_the_next_method_try_and_an_invalid_one_does_not() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start(", domain: example.com", &redis, &app).await;
    log_in(&redis, ALICE, "", 60_000);
    redis.ask("SET user:carol:session text");
    let wrong = ALICE.replace("def", "fed");
    let several = format!("sid={ALICE}; sid={wrong}");
    let carol = ALICE.replace("alice", "carol");
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(gateway.get("/mine/x").await.status, 401);
    let before = (app.count(), lasts_ms(&redis, "alice"));
    for (cookie, code) in [
        (format!("sid={wrong}"), "expired_credential"),
        (
            format!("sid={}", ALICE.replace("alice", "nobody")),
            "expired_credential",
        ),
        // Something else under that key is no session, and no failure of Redis.
        (format!("sid={carol}"), "expired_credential"),
        ("sid=".to_owned(), "invalid_credential"),
        ("sid=something".to_owned(), "invalid_credential"),
        (several, "invalid_credential"),
    ] {
        let answer = by_cookie(&gateway, "GET", "/", &cookie).await;
        answer.assert_refused(401, code);
        let cleared = "sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Domain=example.com";
        assert_eq!(answer.header("set-cookie"), Some(cleared), "{cookie}");
    }
    let answer = by_bearer(&gateway, "/", &wrong).await;
    answer.assert_refused(401, "expired_credential");
    assert_eq!(answer.header("set-cookie"), None, "it came by no cookie");
    assert_eq!(app.count(), before.0);
    let refusals = |reason| format!("refusals_total{{method=\"people\",reason=\"{reason}\"}}");
    for (reason, times) in [
        ("wrong_secret", 2.0),
        ("no_session", 2.0),
        ("malformed", 2.0),
        ("several", 1.0),
    ] {
        counted(&gateway, &refusals(reason), times).await;
    }
    // Who does not know the secret does not keep a session alive.
    assert!(lasts_ms(&redis, "alice") <= before.1);
    let failed = gateway
        .metric("onemind_store_calls_total{result=\"failed\"}")
        .await;
    assert!(failed.abs() < 0.5, "{failed}");
    gateway.settled().await;
}

#[tokio::test]
async fn a_session_lasts_while_it_is_used_and_ends_when_it_is_not() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start(", idle: 1h", &redis, &app).await;
    // (what the application says, the least that it lasts after a request)
    for (lasts, least) in [(60_000, 3_500_000), (7_200_000, 7_100_000)] {
        log_in(&redis, ALICE, "", lasts);
        assert_eq!(by_bearer(&gateway, "/", ALICE).await.status, 200);
        let found = lasts_ms(&redis, "alice");
        assert!((least..=7_200_000).contains(&found), "{lasts}: {found}");
    }
    redis.ask("PERSIST user:alice:session");
    assert_eq!(by_bearer(&gateway, "/", ALICE).await.status, 200);
    assert!((1..=3_600_000).contains(&lasts_ms(&redis, "alice")));
    // Unused until its end; a request would prolong it.
    redis.ask("PEXPIRE user:alice:session 1");
    eventually("the session is over", async || {
        (redis.ask("EXISTS user:alice:session") == "0").then_some(())
    })
    .await;
    let answer = by_bearer(&gateway, "/", ALICE).await;
    answer.assert_refused(401, "expired_credential");
    gateway.settled().await;
}

#[tokio::test]
async fn a_log_out_is_seen_by_all_instances_at_once() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let (one, two) = (start("", &redis, &app).await, start("", &redis, &app).await);
    let cookie = format!("sid={ALICE}");
    for (path, status) in [("/auth/logout", 204), ("/auth/logout?a=b", 204)] {
        log_in(&redis, ALICE, "", 60_000);
        assert_eq!(by_cookie(&two, "GET", "/", &cookie).await.status, 200);
        let before = app.count();
        let wrong = cookie.replace("def", "fed");
        assert_eq!(by_cookie(&one, "POST", path, &wrong).await.status, 401);
        assert_eq!(by_cookie(&two, "GET", "/", &cookie).await.status, 200);
        let answer = by_cookie(&one, "POST", path, &cookie).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let cleared = answer.header("set-cookie").unwrap_or_default();
        assert!(cleared.starts_with("sid=; Path=/; Max-Age=0"), "{cleared}");
        assert_eq!(redis.ask("EXISTS user:alice:session"), "0");
        for gateway in [&two, &one] {
            let refused = by_cookie(gateway, "GET", "/", &cookie).await;
            refused.assert_refused(401, "expired_credential");
        }
        assert_eq!(
            app.count(),
            before + 1,
            "the log-out is not for the endpoint"
        );
    }
    // Who has no session has none to end, and is not passed on as a visitor.
    let mut client = Client::connect(&one).await;
    client
        .post("/auth/logout", b"")
        .await
        .assert_refused(401, "unknown_caller");
    // Any other request to that path is the application's.
    assert_eq!(one.get("/auth/logout").await.status, 200);
    one.settled().await;
    two.settled().await;
}

#[tokio::test]
async fn without_redis_a_session_is_answered_later_and_a_visitor_now() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start("", &redis, &app).await;
    log_in(&redis, ALICE, "", 60_000);
    assert_eq!(by_bearer(&gateway, "/", ALICE).await.status, 200);
    redis.kill();
    store_is(&gateway, "local").await;
    let cookie = format!("sid={ALICE}");
    for (method, target) in [("GET", "/"), ("GET", "/mine/x"), ("POST", "/auth/logout")] {
        let answer = by_cookie(&gateway, method, target, &cookie).await;
        answer.assert_refused(503, "identity_unavailable");
        assert_eq!(answer.header("retry-after"), Some("2"));
        assert_eq!(answer.header("set-cookie"), None, "it may be good yet");
    }
    assert_eq!(gateway.get("/").await.status, 200);
    gateway
        .get("/mine/x")
        .await
        .assert_refused(401, "unknown_caller");
    counted(
        &gateway,
        "refusals_total{method=\"people\",reason=\"no_store\"}",
        3.0,
    )
    .await;
    let line = gateway.access_log_line(|line| line["status"] == 503).await;
    assert_eq!(line["ending"], "identity_unavailable");
    redis.restart();
    store_is(&gateway, "redis").await;
    log_in(&redis, ALICE, "", 60_000);
    assert_eq!(by_bearer(&gateway, "/", ALICE).await.status, 200);
    gateway.settled().await;
}

#[tokio::test]
async fn over_tls_and_http_2_the_cookie_comes_in_pieces_and_is_cleared_securely() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(dir.path(), "site", &["a.test"]);
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let yaml = document("").replace("sid", "__Host-sid")
        + "listeners: { web: { address: '{{https}}', tls: { certificates: [{ certificate: site.pem, key: site.key }] } } }\n";
    let names: &[(&str, &dyn std::fmt::Display)] = &[("redis", &redis.url()), ("app", &app)];
    let gateway = Gateway::start_in(dir, &yaml, names).await;
    store_is(&gateway, "redis").await;
    log_in(&redis, ALICE, "", 60_000);
    let cookie = format!("__Host-sid={ALICE}");
    let client = ClientH2::secure(&gateway, Tls::to(&authority, "a.test")).await;
    let pieces = [("cookie", "a=b"), ("cookie", &cookie), ("cookie", "c=d")];
    let answer = client.request("GET", "/", &pieces, b"").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(app.last().await.header("cookie"), Some("a=b; c=d"));
    let answer = client
        .request("POST", "/auth/logout", &pieces, b"")
        .await
        .unwrap();
    assert_eq!(answer.status, 204);
    let cleared = "__Host-sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure";
    assert_eq!(answer.header("set-cookie"), Some(cleared));
    gateway.settled().await;
}

#[test]
fn explain_tells_how_a_session_ends() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("gateway.yaml");
    let yaml = document("")
        .replace("{{redis}}", "redis://h")
        .replace("{{app}}", "h:1");
    let yaml = yaml + "listeners: { web: { address: '127.0.0.1:8080' } }\n";
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    command.arg("explain").arg("-c").arg(&file);
    let (status, told, err) = finish(command.args(["GET", "http://a.test/"]));
    assert!(status.success(), "{err}");
    for line in [
        "identity    people (session), then visitors (anonymous)",
        "logout      POST /auth/logout ends the session of people: 204",
    ] {
        assert!(told.contains(line), "{told}");
    }
}
