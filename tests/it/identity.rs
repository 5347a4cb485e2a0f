//! Who is calling: credentials in all places, tokens and their issuers, and what an endpoint is told.

use crate::harness::{
    Authority, Client, ClientH2, Gateway, KeyIssuer, RedisServer, Reply, Signer, Tls, Upstream,
    WebSocket, claims, eventually, finish, hash, key_set, unix_now,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use tempfile::TempDir;

const SECRET: &str = "a shared secret of more than thirty-two bytes";
const KEY: &str = "om_abcdefgh0123456789";

/// The hash of a key as the configuration has it.
fn hashed(key: &str) -> String {
    format!("sha256:{}", hash(key.as_bytes()))
}

/// One route to `app`, with these methods, this chain and further lines of the route.
fn document(methods: &str, chain: &str, route: &str) -> String {
    let mut text = format!("identity:\n{methods}\n");
    text.push_str("pools:\n  app: { endpoints: ['{{app}}'], health: { check: off } }\n");
    text.push_str("routes:\n  all:\n    pool: app\n");
    text + &format!("    identity: {chain}\n{route}\n")
}

/// A method `apps` with the key of alice.
fn apps() -> String {
    let hash = hashed(KEY);
    format!(
        "  apps: {{ keys: {{ known: [{{ name: laptop, hash: '{hash}', user: alice, plan: pro, roles: admin }}] }} }}\n"
    )
}

/// A method `users` of tokens signed with the secret.
fn users() -> String {
    format!(
        "  users: {{ jwt: {{ secret: '{SECRET}', audience: app, headers: {{ X-User-Email: email }} }} }}\n"
    )
}

/// A method `users` of tokens whose keys are fetched from here.
fn fetched(url: &str, more: &str) -> String {
    format!("  users: {{ jwt: {{ jwks: '{url}', audience: app{more} }} }}\n")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn status_of(gateway: &Gateway, token: &str) -> u16 {
    let mut client = Client::connect(gateway).await;
    let headers = [("authorization", bearer(token))];
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    client.request("GET", "/", &headers, b"").await.status
}

#[tokio::test]
async fn a_key_is_taken_from_wherever_an_sdk_puts_it_and_goes_no_further() {
    let app = Upstream::replying(|seen| match seen.header("upgrade") {
        Some(_) => Reply::websocket("app"),
        None => Reply::ok("app"),
    })
    .await;
    let gateway = Gateway::start(&document(&apps(), "apps", ""), &[("app", &app)]).await;
    let in_query = format!("/v1/models?a=b&key={KEY}&c=d");
    let escaped = format!("/v1/models?k%65y={KEY}");
    let (authorization, protocol) = (bearer(KEY), format!("openai-insecure-api-key.{KEY}"));
    let mut client = Client::connect(&gateway).await;
    for (target, headers, forwarded) in [
        (
            "/v1/models",
            vec![("authorization", authorization.as_str())],
            "/v1/models",
        ),
        ("/v1/models", vec![("x-api-key", KEY)], "/v1/models"),
        ("/v1/models", vec![("api-key", KEY)], "/v1/models"),
        (
            "/v1/models",
            vec![("x-goog-api-key", KEY), ("authorization", &authorization)],
            "/v1/models",
        ),
        (&in_query, vec![], "/v1/models?a=b&c=d"),
        (&escaped, vec![], "/v1/models"),
        (
            "/v1/models",
            vec![("sec-websocket-protocol", &protocol)],
            "/v1/models",
        ),
    ] {
        let answer = client.request("GET", target, &headers, b"").await;
        assert_eq!(answer.status, 200, "{headers:?} {}", answer.text());
        let seen = app.last().await;
        assert_eq!(seen.header("x-user-id"), Some("alice"));
        assert_eq!(seen.target(), forwarded);
        assert!(!seen.head.contains(KEY), "{}", seen.head);
    }
    let protocols = format!("realtime, {protocol}, beta");
    let headers = [("sec-websocket-protocol", protocols.as_str())];
    let socket = WebSocket::open(&gateway, "/v1/realtime", &headers).await;
    let seen = app.last().await;
    assert_eq!(
        seen.header("sec-websocket-protocol"),
        Some("realtime, beta")
    );
    assert!(!seen.head.contains(KEY), "{}", seen.head);
    gateway.settled_after_tunnels(vec![socket]).await;
    for line in gateway.access_log() {
        assert_eq!(line["user"], "alice", "{line}");
        assert_eq!(line["key"], "laptop", "{line}");
        assert!(!line.to_string().contains(&KEY[3..]), "{line}");
    }
    assert!(!gateway.errors().contains(&KEY[3..]));
    let known = gateway
        .metric("onemind_identity_known_total{method=\"apps\"}")
        .await;
    assert!((known - 8.0).abs() < 0.5, "{known}");
}

#[tokio::test]
async fn a_flood_of_refusals_uses_one_connection() {
    let app = Upstream::named("app").await;
    let route = "    allow: { plan: enterprise }";
    let gateway = Gateway::start(&document(&apps(), "apps", route), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    let ours = bearer(KEY);
    for round in 0..50 {
        let (invalid, error) = ("invalid_credential", "error=\"invalid_token\"");
        for (method, header, status, code, error) in [
            ("GET", ("accept", "*/*"), 401, "unknown_caller", ""),
            (
                "GET",
                ("authorization", "Bearer wrong"),
                401,
                invalid,
                error,
            ),
            ("POST", ("x-api-key", "wrong"), 401, invalid, error),
            ("POST", ("authorization", &ours), 403, "not_allowed", ""),
        ] {
            let size = if method == "POST" { 3000 } else { 0 };
            let (headers, body) = ([header], vec![b'x'; size]);
            let answer = client.request(method, "/", &headers, &body).await;
            answer.assert_refused(status, code);
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge.is_some(), status == 401, "{}", answer.head);
            let challenge = challenge.unwrap_or_default().to_owned();
            assert!(
                status != 401 || challenge.starts_with("Bearer realm="),
                "{challenge}"
            );
            assert!(challenge.contains(error), "{challenge}");
            assert_ne!(answer.header("connection"), Some("close"), "round {round}");
        }
    }
    assert_eq!(app.count(), 0);
    gateway.settled().await;
    for (metric, expected) in [
        ("connections_accepted_total{listener=\"web\"}", 1.0),
        (
            "identity_refusals_total{method=\"none\",reason=\"missing\"}",
            50.0,
        ),
        (
            "identity_refusals_total{method=\"apps\",reason=\"unknown_key\"}",
            100.0,
        ),
        (
            "identity_refusals_total{method=\"apps\",reason=\"not_allowed\"}",
            50.0,
        ),
    ] {
        let counted = gateway.metric(&format!("onemind_{metric}")).await;
        assert!((counted - expected).abs() < 0.5, "{metric}: {counted}");
    }
    let known = gateway.access_log_line(|line| line["status"] == 403).await;
    let told = (&known["user"], &known["ending"]);
    assert_eq!(told, (&json!("alice"), &json!("refused")));
}

#[tokio::test]
async fn nobody_can_say_who_he_is_but_us() {
    let app = Upstream::named("app").await;
    let yaml = format!(
        "{}  open: {{ path: /open, pool: app }}\n",
        document(&users(), "users", "    path: /*")
    );
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let mut claims = claims("alice");
    claims["email"] = "alice@example.com".into();
    let token = bearer(&Signer::secret(SECRET).claims(&claims));
    let forged = [
        ("X-User-Id", "admin"),
        ("x-user-id", "root"),
        ("X_User_Id", "admin"),
        ("x-user-email", "admin@example.com"),
        ("x_user_email", "admin@example.com"),
        ("x-user-ids", "kept"),
    ];
    let mut client = Client::connect(&gateway).await;
    for (target, user, email) in [
        ("/open", None, None),
        ("/other", Some("alice"), Some("alice@example.com")),
    ] {
        let mut headers = forged.to_vec();
        headers.push(("authorization", &token));
        // Nor can a caller have it lost on the way.
        headers.push(("connection", "x-user-id, x-user-email"));
        let answer = client.request("GET", target, &headers, b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = app.last().await;
        assert_eq!(seen.header("x-user-id"), user);
        assert_eq!(seen.header("x-user-email"), email);
        assert_eq!(seen.header("x-user-ids"), Some("kept"));
        assert!(
            !seen.head.contains("admin") && !seen.head.contains("root"),
            "{}",
            seen.head
        );
        // On a route that asks nobody, credentials are the endpoint's business.
        assert_eq!(seen.header("authorization").is_some(), user.is_none());
    }
}

#[tokio::test]
async fn trailers_say_no_more_than_headers_may() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::start(&document(&apps(), "apps", ""), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    let head = format!("POST / HTTP/1.1\r\nhost: t\r\nx-api-key: {KEY}\r\n");
    let chunks = "transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
    let trailers =
        "x-user-id: admin\r\nX_User_Id: admin\r\nx-forwarded-for: 1.2.3.4\r\nx-sum: 9\r\n\r\n";
    client
        .send(format!("{head}{chunks}{trailers}").as_bytes())
        .await;
    assert_eq!(client.answer().await.status, 200);
    let seen = app.last().await;
    assert_eq!(seen.header("x-user-id"), Some("alice"));
    assert_eq!(seen.trailers, ["x-sum: 9"]);
}

#[tokio::test]
async fn each_token_gets_what_it_deserves() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::start(&document(&users(), "users", ""), &[("app", &app)]).await;
    let signer = Signer::secret(SECRET);
    let now = unix_now();
    let with = |name: &str, value: Value| {
        let mut changed = claims("alice");
        changed[name] = value;
        signer.claims(&changed)
    };
    let good = claims("alice").to_string();
    let twice = good.replacen('{', "{\"sub\":\"admin\",", 1);
    let hs256 = r#"{"alg":"HS256"}"#;
    let unsigned = signer.raw(r#"{"alg":"none"}"#, &good);
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    for (token, status, reason) in [
        (signer.token("alice"), 200, ""),
        (with("sub", json!("jürgen \u{1F600}")), 200, ""),
        (with("exp", json!(now - 31)), 401, "expired"),
        (with("nbf", json!(now + 90)), 401, "not_yet"),
        (with("aud", json!("other")), 401, "audience"),
        (with("sub", json!("a\r\nX-Admin: 1")), 401, "no_user"),
        (with("pad", json!("x".repeat(7000))), 401, "too_large"),
        (signer.raw(hs256, &twice), 401, "malformed"),
        (unsigned, 401, "algorithm"),
        (signer.raw(r#"{"alg":"RS256"}"#, &good), 401, "algorithm"),
        (
            Signer::secret("another secret").token("alice"),
            401,
            "signature",
        ),
        ("not-a-token".to_owned(), 401, "not_taken"),
    ] {
        let counted = format!("onemind_identity_refusals_total{{reason=\"{reason}\"}}");
        let before = gateway.metric(&counted).await;
        assert_eq!(
            status_of(&gateway, &token).await,
            status,
            "{reason} {token}"
        );
        if status != 200 {
            let after = gateway.metric(&counted).await;
            assert!(
                (after - before - 1.0).abs() < 0.5,
                "{reason}: {before} {after}"
            );
        }
    }
    gateway.settled().await;
}

#[tokio::test]
async fn keys_can_be_replaced_under_load() {
    let (old, new) = (Signer::key("a"), Signer::key("b"));
    let issuer = KeyIssuer::of(&[&old]).await;
    let app = Upstream::named("app").await;
    let methods = fetched(&format!("http://{}/keys", issuer.upstream), "");
    let gateway = Gateway::start(&document(&methods, "users", ""), &[("app", &app)]).await;
    let rotated = Arc::new(AtomicBool::new(false));
    let (by_old, by_new) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tokens = (bearer(&old.token("alice")), bearer(&new.token("alice")));
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (rotated, by_old, by_new) = (
            Arc::clone(&rotated),
            Arc::clone(&by_old),
            Arc::clone(&by_new),
        );
        let tokens = tokens.clone();
        let mut client = Client::connect(&gateway).await;
        callers.push(tokio::spawn(async move {
            while by_new.load(SeqCst) < 400 {
                let is_new = rotated.load(SeqCst);
                let (token, count) = if is_new {
                    (&tokens.1, &by_new)
                } else {
                    (&tokens.0, &by_old)
                };
                let headers = [("authorization", token.as_str())];
                let answer = client.request("GET", "/", &headers, b"").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                count.fetch_add(1, SeqCst);
            }
        }));
    }
    let enough = |count: &Arc<AtomicU64>| (count.load(SeqCst) >= 200).then_some(());
    eventually("the old key is in use", async || enough(&by_old)).await;
    issuer.publish(&[&old, &new]);
    rotated.store(true, SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    // All callers met the new key at once, and led to one fetch: their own, beside the first.
    assert_eq!(issuer.fetches(), 2);
    gateway.settled().await;
}

#[tokio::test]
async fn while_the_issuer_is_down_known_keys_go_on() {
    let (known, unknown) = (Signer::key("a"), Signer::key("b"));
    let issuer = KeyIssuer::of(&[&known]).await;
    issuer.upstream.stop().await;
    let app = Upstream::named("app").await;
    let methods = fetched(
        &format!("http://{}/keys", issuer.upstream),
        ", jwks_refresh: 1s",
    );
    let gateway = Gateway::start(&document(&methods, "users", ""), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    let (good, strange) = (
        bearer(&known.token("alice")),
        bearer(&unknown.token("alice")),
    );
    let answer = client
        .request("GET", "/", &[("authorization", &good)], b"")
        .await;
    answer.assert_refused(503, "identity_unavailable");
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert!(gateway.status().await["identity"]["users"]["error"].is_string());

    issuer.upstream.start().await;
    eventually("the keys are fetched", async || {
        let answer = client
            .request("GET", "/", &[("authorization", &good)], b"")
            .await;
        (answer.status == 200).then_some(())
    })
    .await;
    let status = gateway.status().await;
    assert_eq!(status["identity"]["users"]["keys"], 1);
    assert_eq!(status["identity"]["users"]["error"], Value::Null);

    issuer.upstream.stop().await;
    eventually("a refresh fails", async || {
        let status = gateway.status().await;
        status["identity"]["users"]["error"]
            .is_string()
            .then_some(())
    })
    .await;
    let answer = client
        .request("GET", "/", &[("authorization", &good)], b"")
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Whether this key is one of the issuer's cannot be said: the caller should keep its token.
    let answer = client
        .request("GET", "/", &[("authorization", &strange)], b"")
        .await;
    answer.assert_refused(503, "identity_unavailable");
    for (result, least) in [("ok", 1.0), ("failed", 2.0)] {
        let fetches = format!("onemind_jwks_fetches_total{{method=\"users\",result=\"{result}\"}}");
        assert!(gateway.metric(&fetches).await >= least, "{result}");
    }
    assert!(
        gateway
            .metric("onemind_jwks_age_seconds{method=\"users\"}")
            .await
            >= 0.0
    );
    let line = gateway.access_log_line(|line| line["status"] == 503).await;
    assert_eq!(line["ending"], "identity_unavailable");
}

#[tokio::test]
async fn inventing_names_of_keys_leads_to_few_fetches() {
    let known = Signer::key("a");
    let issuer = KeyIssuer::of(&[&known]).await;
    let app = Upstream::named("app").await;
    let methods = fetched(&format!("http://{}/keys", issuer.upstream), "");
    let gateway = Gateway::start(&document(&methods, "users", ""), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    for nth in 0..100 {
        let token = bearer(&Signer::key(&format!("x{nth}")).token("alice"));
        let answer = client
            .request("GET", "/", &[("authorization", &token)], b"")
            .await;
        answer.assert_refused(401, "invalid_credential");
    }
    // The first, a burst of four, and as many more as tens of seconds may have passed.
    assert!((2..=8).contains(&issuer.fetches()), "{}", issuer.fetches());
    assert_eq!(status_of(&gateway, &known.token("alice")).await, 200);
}

#[tokio::test]
async fn keys_are_fetched_over_tls_from_whom_we_trust() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let signer = Signer::key("a");
    let set = key_set(&[&signer]);
    let issuer = Upstream::tls(&authority, "localhost", move |_| Reply::ok(set.clone())).await;
    let app = Upstream::named("app").await;
    for (trusted, status) in [(&authority, 200), (&stranger, 503)] {
        let dir = TempDir::new().unwrap();
        trusted.write_ca(&dir.path().join("issuer.pem"));
        let url = format!("https://localhost:{}/keys", issuer.port());
        let yaml = document(&fetched(&url, ", jwks_ca: issuer.pem"), "users", "");
        let gateway = Gateway::start_in(dir, &yaml, &[("app", &app)]).await;
        assert_eq!(status_of(&gateway, &signer.token("alice")).await, status);
    }
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Signer::key("a"), Signer::key("b"));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, key_set(&[&old])).unwrap();
    let app = Upstream::named("app").await;
    let methods = "  users: { jwt: { key_file: keys.json, audience: app } }";
    let yaml = document(methods, "users", "");
    let gateway = Gateway::start_in(dir, &yaml, &[("app", &app)]).await;
    assert_eq!(status_of(&gateway, &old.token("alice")).await, 200);
    assert_eq!(status_of(&gateway, &new.token("alice")).await, 401);
    std::fs::write(&file, key_set(&[&new])).unwrap();
    eventually("the new key is taken", async || {
        (status_of(&gateway, &new.token("alice")).await == 200).then_some(())
    })
    .await;
    assert_eq!(status_of(&gateway, &old.token("alice")).await, 401);
}

#[tokio::test]
async fn an_absent_credential_lets_the_next_method_try_and_a_wrong_one_never_does() {
    let app = Upstream::named("app").await;
    let methods = apps() + &users() + "  visitors: { anonymous: { plan: free } }\n";
    let yaml = document(&methods, "[apps, users, visitors]", "")
        + "  tokens: { path: /tokens, pool: app, identity: [users, visitors] }\n";
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let signer = Signer::secret(SECRET);
    let (token, key) = (bearer(&signer.token("bob")), bearer(KEY));
    let wrong = bearer(&Signer::secret("another secret").token("bob"));
    let mut client = Client::connect(&gateway).await;
    for (headers, user) in [
        (vec![], Some(Value::Null)),
        (vec![("authorization", token.as_str())], Some("bob".into())),
        (vec![("authorization", &key)], Some("alice".into())),
        (vec![("authorization", &wrong)], None),
        (vec![("authorization", "Bearer sk-unknown")], None),
        (vec![("authorization", "Basic YTpi")], None),
        (vec![("authorization", &token), ("x-api-key", KEY)], None),
    ] {
        let nth = gateway.count_sent();
        let answer = client
            .request("GET", &format!("/{nth}"), &headers, b"")
            .await;
        let path = format!("/{nth}");
        let line = gateway
            .access_log_line(|line| line["path"] == path.as_str())
            .await;
        match user {
            Some(user) => {
                assert_eq!(answer.status, 200, "{headers:?} {}", answer.text());
                let told = app.last().await;
                assert_eq!(told.header("x-user-id"), user.as_str());
                assert_eq!(line["user"], user);
            }
            None => answer.assert_refused(401, "invalid_credential"),
        }
    }
    // A key where only tokens are taken is wrong, and not nothing.
    for (shown, status) in [(&token, 200), (&key, 401)] {
        let headers = [("authorization", shown.as_str())];
        let answer = client.request("GET", "/tokens", &headers, b"").await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_page_of_another_origin_may_call_as_far_as_the_route_says() {
    let app = Upstream::replying(|_| {
        let own = [("access-control-allow-origin", "*"), ("vary", "accept")];
        Reply::with_headers(200, &own, "app")
    })
    .await;
    let route = "    method: [GET, POST]\n    cors: { origins: 'https://a.test', credentials: true, headers: [Authorization], expose: X-Request-Id, max_age: 1h }";
    let gateway = Gateway::start(&document(&apps(), "apps", route), &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    let asks = |origin: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ]
    };
    let answer = client
        .request("OPTIONS", "/x", &asks("https://a.test"), b"")
        .await;
    assert_eq!((answer.status, app.count()), (204, 0), "{}", answer.head);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "Authorization"),
        ("access-control-max-age", "3600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    let answer = client
        .request("OPTIONS", "/x", &asks("https://b.test"), b"")
        .await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // A page must be able to read why it was refused.
    let ours = [("origin", "https://a.test")];
    let answer = client.request("GET", "/x", &ours, b"").await;
    answer.assert_refused(401, "unknown_caller");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a.test")
    );
    for (origin, allowed) in [
        ("https://a.test", Some("https://a.test")),
        ("https://b.test", None),
    ] {
        let headers = [("origin", origin), ("x-api-key", KEY)];
        let answer = client.request("GET", "/x", &headers, b"").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
        assert_eq!(answer.headers("vary"), ["accept", "Origin"]);
    }
    // Not a preflight, and no method of the route.
    let answer = client.request("OPTIONS", "/x", &ours, b"").await;
    answer.assert_refused(405, "method_not_allowed");
    gateway.settled().await;
}

#[tokio::test]
async fn a_certificate_says_who_calls() {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    authority.write(dir.path(), "site", &["a.test"]);
    authority.write_ca(&dir.path().join("ca.pem"));
    let app = Upstream::named("app").await;
    let methods = apps() + "  machines: { client_certificate: { user: common_name, plan: pro } }\n";
    let yaml = document(&methods, "[machines, apps]", "")
        + "  strict: { path: /strict, pool: app, identity: machines }\n"
        + "listeners:\n  https: { address: '{{https}}', tls: { certificates: [{ certificate: site.pem, key: site.key }], client_auth: { ca: ca.pem, required: false } } }\n";
    let gateway = Gateway::start_in(dir, &yaml, &[("app", &app)]).await;
    let shown = || Tls::showing(&authority, "a.test", authority.issue(&["machine-7"]));
    let mut client = Client::secure(&gateway, shown()).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(app.last().await.header("x-user-id"), Some("machine-7"));
    }
    let client = ClientH2::secure(&gateway, shown()).await;
    assert_eq!(client.get("/strict").await.status, 200);
    assert_eq!(app.last().await.header("x-user-id"), Some("machine-7"));
    let mut client = Client::secure(&gateway, Tls::to(&authority, "a.test")).await;
    client.get("/").await.assert_refused(401, "unknown_caller");
    client
        .get("/strict")
        .await
        .assert_refused(403, "certificate_required");
    let answer = client.request("GET", "/", &[("x-api-key", KEY)], b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(app.last().await.header("x-user-id"), Some("alice"));
}

#[tokio::test]
async fn a_user_stays_with_an_endpoint_and_has_places_of_its_own() {
    let websocket = |name: &'static str| async move {
        Upstream::replying(move |seen| match seen.header("upgrade") {
            Some(_) => Reply::websocket(name),
            None => Reply::ok(name),
        })
        .await
    };
    let (a, b) = (websocket("a").await, websocket("b").await);
    let yaml = format!(
        "identity:\n{}\npools:\n  app: {{ endpoints: ['{a}', '{b}'], balance: {{ hash: user }}, health: {{ check: off }} }}\nroutes:\n  all: {{ pool: app, identity: users, websocket: {{ max_per_user: 2 }} }}\n",
        users()
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let signer = Signer::secret(SECRET);
    let mut client = Client::connect(&gateway).await;
    let mut homes = BTreeSet::new();
    for user in 0..24 {
        let token = bearer(&signer.token(&format!("user-{user}")));
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let answer = client
                .request("GET", "/", &[("authorization", &token)], b"")
                .await;
            assert_eq!(answer.status, 200);
            seen.insert(answer.text());
        }
        assert_eq!(seen.len(), 1, "user {user} wanders");
        homes.extend(seen);
    }
    assert_eq!(homes.len(), 2, "one address, but many users");
    let mut sockets = Vec::new();
    for user in ["alice", "bob"] {
        let token = bearer(&signer.token(user));
        let headers = [("authorization", token.as_str())];
        for _ in 0..2 {
            sockets.push(WebSocket::open(&gateway, "/", &headers).await);
        }
        let refused = WebSocket::try_open(&gateway, "/", &headers).await;
        let refused = refused.err().expect("a third one is refused");
        refused.assert_refused(429, "too_many_websockets");
    }
    gateway.settled_after_tunnels(sockets).await;
}

#[tokio::test]
async fn limits_count_users_and_not_addresses() {
    let app = Upstream::named("app").await;
    let methods = apps() + &users() + "  visitors: { anonymous: {} }\n";
    let yaml = document(&methods, "[apps, users, visitors]", "")
        + "limits: { rules: { user: { by: user, requests: 2, per: day, plans: { pro: 4 } }, key: { by: key, requests: 3, per: day } } }\n";
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let signer = Signer::secret(SECRET);
    let (bob, carol, alice) = (signer.token("bob"), signer.token("carol"), KEY.to_owned());
    let shown = [bearer(&bob), bearer(&carol), bearer(&alice)];
    let mut client = Client::connect(&gateway).await;
    for (caller, granted) in [(Some(0), 2), (Some(1), 2), (Some(2), 3), (None, 2)] {
        let header = match caller {
            Some(caller) => ("authorization", shown[caller].as_str()),
            None => ("accept", "*/*"),
        };
        for nth in 0..6 {
            let answer = client.request("GET", "/", &[header], b"").await;
            let expected = if nth < granted { 200 } else { 429 };
            assert_eq!(
                answer.status,
                expected,
                "{caller:?} {nth}: {}",
                answer.text()
            );
        }
    }
    // Who is nobody is refused before anything is counted.
    let wrong = [("authorization", "Bearer wrong")];
    let answer = client.request("GET", "/", &wrong, b"").await;
    answer.assert_refused(401, "invalid_credential");
    assert!(answer.header("ratelimit").is_none());
}

const OWN_KEY: &str = "a-key-with-a-quota-of-its-own";

#[tokio::test]
async fn keys_users_and_plans_have_quotas_of_their_own() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let hash = hashed(KEY);
    let methods = format!(
        "  apps: {{ keys: {{ known: [{{ name: ci, hash: '{hash}', user: robot, plan: internal }}, {{ name: own, secret: {OWN_KEY}, user: clerk, plan: internal }}] }} }}
  users: {{ jwt: {{ secret: '{SECRET}', audience: app, plan: app_metadata.plan }} }}
"
    );
    let limits = "
limits:
  rules:
    user: { by: user, requests: 2, per: day, plans: { pro: 4, internal: 5 }, users: { alice: 6, clerk: 6 }, keys: { own: 7 } }
    bucket: { by: user, requests: 3, per: day, algorithm: gcra, plans: { pro: 9, internal: 9 }, users: { alice: 9 } }
";
    let yaml = document(&methods, "[apps, users]", "")
        + limits
        + "redis: { url: '{{redis}}', timeout: 5s }\n";
    let signer = Signer::secret(SECRET);
    let token = |user: &str, plan: Option<&str>| {
        let mut told = claims(user);
        if let Some(plan) = plan {
            told["app_metadata"] = json!({ "plan": plan });
        }
        signer.claims(&told)
    };
    for url in ["memory".to_owned(), redis.url()] {
        let gateway = Gateway::start(&yaml, &[("app", &app), ("redis", &url)]).await;
        for (credential, user, plan, quota) in [
            (token("bob", None), "bob", None, 2),
            (token("carol", Some("free")), "carol", Some("free"), 2),
            (token("dave", Some("pro")), "dave", Some("pro"), 4),
            // A user of its own comes before its plan.
            (token("alice", Some("pro")), "alice", Some("pro"), 6),
            (KEY.to_owned(), "robot", Some("internal"), 5),
            // And a key of its own before both.
            (OWN_KEY.to_owned(), "clerk", Some("internal&key=own"), 7),
        ] {
            let shown = bearer(&credential);
            let headers = [("authorization", shown.as_str())];
            let mut client = Client::connect(&gateway).await;
            for nth in 0..8 {
                let answer = client.request("GET", "/", &headers, b"").await;
                let expected = if nth < quota { 200 } else { 429 };
                assert_eq!(answer.status, expected, "{user} {nth} in {url}");
                let policy = answer.header("ratelimit-policy").unwrap_or_default();
                let item = format!("\"user\";q={quota};w=86400");
                assert!(policy.contains(&item), "{user}: {policy}");
            }
            // Operators are told the same.
            let plan = plan.map(|plan| format!("&plan={plan}")).unwrap_or_default();
            let page = format!("/status/limits?user={user}{plan}");
            let told = gateway.admin("GET", &page).await.json();
            let rules = told["rules"].as_array().cloned().unwrap_or_default();
            let rule = rules.iter().find(|rule| rule["rule"] == "user").unwrap();
            assert_eq!(rule["limit"], quota, "{told}");
            assert_eq!(rule["remaining"], 0, "{told}");
        }
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_reload_changes_who_may_and_keeps_what_was_fetched() {
    let signer = Signer::key("a");
    let issuer = KeyIssuer::of(&[&signer]).await;
    let app = Upstream::named("app").await;
    let url = format!("http://{}/keys", issuer.upstream);
    let names: &[(&str, &dyn Display)] = &[("app", &app)];
    let methods = apps() + &fetched(&url, "");
    let gateway = Gateway::start(&document(&methods, "[apps, users]", ""), names).await;
    assert_eq!(status_of(&gateway, &signer.token("bob")).await, 200);
    assert_eq!(status_of(&gateway, KEY).await, 200);
    let without_key = document(&fetched(&url, ""), "users", "");
    gateway.reload(&without_key, names).await;
    assert_eq!(status_of(&gateway, &signer.token("bob")).await, 200);
    assert_eq!(status_of(&gateway, KEY).await, 401);
    assert_eq!(issuer.fetches(), 1, "kept over the reload");
    // A key that is broken is refused as a whole; what was in force stays.
    let broken = without_key.replace("audience: app", "audience: app, leeway: 1h");
    assert_eq!(gateway.try_reload(&broken, names).await.status, 422);
    assert_eq!(status_of(&gateway, &signer.token("bob")).await, 200);
}

#[tokio::test]
async fn a_key_does_not_follow_a_redirect() {
    let app = Upstream::named("app").await;
    let yaml = format!(
        "{}  old: {{ path: '/old/*', identity: apps, redirect: {{ to: '/new/{{*}}' }} }}\n  fixed: {{ path: /fixed, identity: apps, respond: {{ body: hello }} }}\n",
        document(&apps(), "apps", "")
    );
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    client
        .get("/old/x")
        .await
        .assert_refused(401, "unknown_caller");
    client
        .get("/fixed")
        .await
        .assert_refused(401, "unknown_caller");
    let answer = client.get(&format!("/old/x?a=b&key={KEY}")).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("/new/x?a=b"))
    );
    let answer = client.get(&format!("/fixed?key={KEY}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

fn onemind(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    let (status, out, err) = finish(command.args(arguments).env_remove("ONEMIND_PEPPER"));
    assert!(status.success(), "{arguments:?}: {err}");
    out
}

#[tokio::test]
async fn a_new_key_is_shown_once_and_opens_the_route() {
    let app = Upstream::named("app").await;
    for pepper in [None, Some("a pepper of sixteen bytes")] {
        let mut words = vec![
            "key",
            "new",
            "--name",
            "ci",
            "--user",
            "bob",
            "--plan",
            "pro",
            "--expires",
            "2099-01-31",
        ];
        words.extend(pepper.iter().flat_map(|pepper| ["--pepper", pepper]));
        let said = onemind(&words);
        let key = said
            .lines()
            .find_map(|line| line.strip_prefix("The key, shown this once: "))
            .unwrap();
        let entry = &said[said.find("- name").unwrap()..];
        let pepper = pepper
            .map(|pepper| format!("      pepper: {pepper}\n"))
            .unwrap_or_default();
        let indented = format!("\n{}", entry.trim_end()).replace('\n', "\n        ");
        assert!(!entry.contains(&key[11..]), "{entry}");
        let methods = format!("  apps:\n    keys:\n{pepper}      known:{indented}\n");
        let gateway = Gateway::start(&document(&methods, "apps", ""), &[("app", &app)]).await;
        assert_eq!(status_of(&gateway, key).await, 200);
        assert_eq!(app.last().await.header("x-user-id"), Some("bob"));
        assert_eq!(status_of(&gateway, &key.to_lowercase()).await, 401);
        let file = gateway.path("gateway.yaml");
        let url = "http://a.test/x";
        let told = onemind(&["explain", "-c", file.to_str().unwrap(), "GET", url]);
        assert!(told.contains("identity    apps (keys)"), "{told}");
        let dumped = onemind(&["dump", "-c", file.to_str().unwrap()]);
        assert!(!dumped.contains("a pepper of"), "{dumped}");
    }
}

#[test]
fn the_chain_of_a_request_is_explained() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples/identity.yaml");
    let site = ["identity    users (jwt), then visitors (anonymous)"];
    let api = [
        "identity    apps (keys), then users (jwt)",
        "cors        pages of https://app.example.com",
    ];
    let deploy = [
        "identity    apps (keys)",
        "allowed     role deploy; others 403",
    ];
    for (path, lines) in [
        ("/", &site[..]),
        ("/api/x", &api),
        ("/api/deploy/x", &deploy),
    ] {
        let url = format!("http://a.test{path}");
        let told = onemind(&["explain", "-c", file, "GET", &url]);
        for line in lines {
            assert!(told.lines().any(|one| one == *line), "{line} in\n{told}");
        }
    }
}

#[test]
fn a_key_with_a_poor_pepper_is_not_made() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    let words = ["key", "new", "--name", "ci", "--pepper", "short"];
    let (status, out, err) = finish(command.args(words));
    assert!(!status.success() && out.is_empty(), "{out}");
    assert!(err.contains("at least 16 bytes"), "{err}");
}
