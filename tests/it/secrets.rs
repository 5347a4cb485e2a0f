//! Secrets of callers, of providers and of the gateway itself: sent through every door, and found nowhere.

use crate::harness::{
    Authority, Client, ClientH2, Gateway, PROVIDER_KEY, Provider, Reply, Signer, Tls, Upstream,
    WebSocket, claims, eventually,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fmt::Display;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Marks whatever nobody may ever find again.
const MARK: &str = "s3kr3t";
const KNOWN: &str = "om_s3kr3t_known_to_the_gateway_0123456789";
const UNKNOWN: &str = "om_s3kr3t_nobody_knows_this_key_0123456789";
const SHARED: &str = "s3kr3t that signs tokens, of more than thirty-two bytes";

/// A gateway that knows secrets of its own, and asks for those of callers in every way.
async fn keeper(app: &Upstream, provider: &Provider) -> (Gateway, Authority) {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new());
    authority.write(dir.path(), "site", &["a.test"]);
    let yaml = format!(
        "server: {{ log: {{ level: trace }} }}
listeners:
  web: {{ address: '{{{{http}}}}' }}
  tls: {{ address: '{{{{https}}}}', tls: {{ certificates: [{{ certificate: site.pem, key: site.key }}] }} }}
redis: {{ url: 'redis://me:{MARK}-of-redis@127.0.0.1:1/0' }}
identity:
  apps: {{ keys: {{ known: [{{ name: ci, secret: '{KNOWN}', user: robot }}] }} }}
  users: {{ jwt: {{ secret: '{SHARED}', audience: app }} }}
limits: {{ rules: {{ user: {{ by: user, requests: 10000, without_redis: allow }} }} }}
providers:
  openai: {{ kind: openai, base_url: '{{{{openai}}}}', keys: ['{MARK}-key-of-a-provider', {PROVIDER_KEY}] }}
models: {{ gpt: {{ targets: openai/gpt-5 }} }}
pools:
  app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }}, sticky: {{ cookie: stick }} }}
  gone: {{ endpoints: ['127.0.0.1:1'], health: {{ check: off }} }}
routes:
  ai: {{ path: [/v1/*, /v1beta/*], ai: {{}}, identity: [apps, users] }}
  gone: {{ path: /gone/*, pool: gone }}
  open: {{ path: /open/*, pool: app, request_headers: {{ set: {{ x-backend-token: {MARK}-set-by-us }} }} }}
  all: {{ pool: app, identity: [apps, users] }}
"
    );
    let url = provider.url();
    let names: [(&str, &dyn Display); 2] = [("app", app), ("openai", &url)];
    let gateway = Gateway::start_by(dir, &yaml, &names, |mut command| {
        command.env("ONEMIND_LOG", "trace");
        command
    })
    .await;
    (gateway, authority)
}

/// Every place that an SDK, a browser or a script puts a credential, with a good one, a bad one, and one nobody asks for.
fn places(secret: &str) -> Vec<(String, Vec<(&'static str, String)>)> {
    let plain = |name, value: String| ("/p".to_owned(), vec![(name, value)]);
    vec![
        plain("authorization", format!("Bearer {secret}")),
        plain(
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("me:{secret}"))),
        ),
        plain("authorization", secret.to_owned()),
        plain("proxy-authorization", format!("Bearer {secret}")),
        plain("x-api-key", secret.to_owned()),
        plain("api-key", secret.to_owned()),
        plain("x-goog-api-key", secret.to_owned()),
        plain("x-auth-token", secret.to_owned()),
        plain("cookie", format!("session={secret}; stick={secret}")),
        plain(
            "sec-websocket-protocol",
            format!("realtime, openai-insecure-api-key.{secret}"),
        ),
        (format!("/p?key={secret}"), vec![]),
        (format!("/p?a=b&api_key={secret}&c=d"), vec![]),
        (format!("/p?access_token={secret}"), vec![]),
        (format!("/p?k%65y={secret}"), vec![]),
        (
            format!("/v1beta/models/gpt:generateContent?key={secret}"),
            vec![],
        ),
        (
            "/v1/models".to_owned(),
            vec![("authorization", format!("Bearer {secret}"))],
        ),
    ]
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// Through every door: both versions of HTTP, WebSockets, models, and what is refused before it is a request.
async fn knock(gateway: &Gateway, authority: &Authority, secret: &str) {
    let second = ClientH2::secure(gateway, Tls::to(authority, "a.test")).await;
    for (target, headers) in places(secret) {
        for before in ["", "/open", "/gone"] {
            let target = format!("{before}{target}");
            let headers = borrowed(&headers);
            let body = format!("{{\"password\":\"{secret}-in-a-body\"}}");
            let mut client = Client::connect(gateway).await;
            client
                .request("POST", &target, &headers, body.as_bytes())
                .await;
            // What is refused before it is a request resets its stream.
            let _ = second
                .request("POST", &target, &headers, body.as_bytes())
                .await;
            if let Ok(mut socket) = WebSocket::try_open(gateway, &target, &headers).await {
                socket.echo(&format!("{secret}-in-a-message")).await;
                socket.close().await;
            }
        }
    }
    let call = json!({ "model": "gpt", "messages": [{ "role": "user", "content": format!("{MARK}-in-a-prompt") }] });
    for path in [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/realtime?model=gpt",
    ] {
        let key = [("authorization", format!("Bearer {secret}"))];
        let mut client = Client::connect(gateway).await;
        let body = call.to_string();
        client
            .request("POST", path, &borrowed(&key), body.as_bytes())
            .await;
    }
    for head in [
        format!("GET /open/p?key={secret} HTTP/1.1\r\nhost: a\r\nbad header: {secret}\r\n\r\n"),
        format!("GET /open/p HTTP/1.1\r\nauthorization Bearer {secret}\r\n\r\n"),
        format!("GET /open/{{{secret}}} HTTP/9.9\r\nhost: a\r\n\r\n"),
        format!("{secret} / HTTP/1.1\r\nno colon\r\n\r\n"),
        format!("POST /open/p HTTP/1.1\r\nhost: a\r\ncontent-length: {secret}\r\n\r\n"),
        format!(
            "POST /open/p HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\ntransfer-encoding: chunked\r\n\r\n{secret}\r\n"
        ),
    ] {
        for listener in ["http", "https"] {
            let mut stream = TcpStream::connect(gateway.address(listener)).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }
}

/// Says a secret with each answer, and with some that are no answers.
async fn application() -> Upstream {
    Upstream::replying(|seen| match (seen.header("upgrade"), seen.target()) {
        (Some(_), _) => Reply::websocket("app"),
        (_, target) if target.contains("api_key") => {
            Reply::raw(format!("HTTP/1.1 200 OK\r\nset-cookie {MARK}-torn\r\n\r\n"))
        }
        _ => Reply::with_headers(
            200,
            &[("set-cookie", "s3kr3t-of-the-app=1"), ("x-token", "s3kr3t")],
            "s3kr3t-of-an-answer",
        ),
    })
    .await
}

/// Tokens: a good one, one that has ended, and one that somebody else has signed.
fn tokens() -> [String; 3] {
    let signer = Signer::secret(SHARED);
    let mut old = claims("robot");
    old["exp"] = 1.into();
    let stranger = Signer::secret("another secret of more than thirty-two bytes");
    [
        signer.token("robot"),
        signer.claims(&old),
        stranger.token("robot"),
    ]
}

/// All that operators can see of it.
async fn pages(gateway: &Gateway) -> String {
    let mut pages = String::new();
    for page in [
        "/status",
        "/metrics",
        "/log",
        "/readyz",
        "/status/limits?user=robot&key=ci",
    ] {
        pages += &gateway.admin("GET", page).await.text();
    }
    pages
}

#[tokio::test]
async fn no_secret_is_ever_in_a_log_or_on_a_page() {
    let (app, provider) = (application().await, Provider::openai().await);
    let (gateway, authority) = keeper(&app, &provider).await;
    let tokens = tokens();
    for secret in [KNOWN, UNKNOWN]
        .into_iter()
        .chain(tokens.iter().map(String::as_str))
    {
        knock(&gateway, &authority, secret).await;
    }
    assert!(app.count() > 0 && provider.count() > 0, "the doors open");
    let pages = pages(&gateway).await;
    gateway.signal("TERM");
    gateway.wait_exit().await;
    let errors = eventually("the last line", async || {
        let errors = gateway.errors();
        errors.contains("draining").then_some(errors)
    })
    .await;
    assert!(
        errors.contains("no TLS handshake"),
        "the log says all it can"
    );
    let lines: Vec<String> = gateway.access_log().iter().map(Value::to_string).collect();
    assert!(lines.len() > 300, "{}", lines.len());
    let basic = [KNOWN, UNKNOWN].map(|key| STANDARD.encode(format!("me:{key}")));
    let mut hidden = vec![MARK, PROVIDER_KEY];
    hidden.extend(basic.iter().map(String::as_str));
    // The part of a token that proves it, and so the whole.
    hidden.extend(tokens.iter().filter_map(|token| token.rsplit('.').next()));
    let written = || {
        let written = pages.lines().chain(errors.lines());
        written.chain(lines.iter().map(String::as_str))
    };
    for secret in hidden {
        let found: Vec<&str> = written()
            .filter(|line| line.contains(secret))
            .take(5)
            .collect();
        assert!(found.is_empty(), "{secret} is in {found:#?}");
    }
}
