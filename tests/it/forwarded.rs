//! Who is calling: what is believed, of whom, and what is passed on.

use crate::harness::{Authority, Client, Gateway, Seen, Tls, Upstream};
use std::fmt::Display;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const UNTRUSTED: &str = "server: { trusted_proxies: ['10.0.0.0/8'] }\n";
const TRUSTED: &str = "server: { trusted_proxies: ['127.0.0.0/8', '10.0.0.0/8'] }\n";

async fn gateway(trust: &str, app: &dyn Display) -> Gateway {
    let yaml = format!("{trust}{}", crate::harness::app(&[app], "", ""));
    Gateway::start(&yaml, &[]).await
}

const CLAIMS: &[(&str, &str)] = &[
    ("x-forwarded-for", "1.2.3.4, 10.1.1.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "outer.example"),
    ("x-real-ip", "6.6.6.6"),
    ("x-request-id", "theirs-1"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("tracestate", "vendor=1"),
];

#[tokio::test]
async fn what_an_untrusted_peer_claims_is_dropped() {
    let app = Upstream::named("app").await;
    let gateway = gateway(UNTRUSTED, &app).await;
    let mut client = Client::connect(&gateway).await;
    client.request("GET", "/", CLAIMS, b"").await;
    let seen = app.last().await;
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("test"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    let forwarded = seen.header("forwarded").expect("RFC 7239");
    for part in ["for=127.0.0.1", "proto=http", "host=test"] {
        assert!(forwarded.contains(part), "{forwarded}");
    }
    let id = seen.header("x-request-id").expect("a request id");
    assert_ne!(id, "theirs-1");
    let trace = seen.header("traceparent").expect("a trace");
    assert!(
        !trace.contains("4bf92f3577b34da6a3ce929d0e0e4736"),
        "{trace}"
    );
    assert_eq!(seen.header("tracestate"), None);
    let line = gateway.access_log_line(|_| true).await;
    assert_eq!(
        (line["client"].as_str(), line["request_id"].as_str()),
        (Some("127.0.0.1"), Some(id))
    );
    gateway.settled().await;
}

#[tokio::test]
async fn forwarded_of_an_untrusted_peer_is_rebuilt() {
    let app = Upstream::named("app").await;
    let gateway = gateway(UNTRUSTED, &app).await;
    let mut client = Client::connect(&gateway).await;
    let claim = [
        ("forwarded", "for=1.2.3.4;proto=https"),
        ("x_forwarded_for", "1.2.3.4"),
    ];
    client.request("GET", "/", &claim, b"").await;
    let seen = app.last().await;
    assert!(!seen.head.contains("1.2.3.4"), "{}", seen.head);
    gateway.settled().await;
}

#[tokio::test]
async fn what_a_trusted_peer_says_is_continued() {
    let app = Upstream::named("app").await;
    let gateway = gateway(TRUSTED, &app).await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.request("GET", "/", CLAIMS, b"").await;
    let seen = app.last().await;
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("1.2.3.4, 10.1.1.1, 127.0.0.1")
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("outer.example"));
    assert_eq!(seen.header("x-real-ip"), Some("1.2.3.4"));
    assert_eq!(seen.header("x-request-id"), Some("theirs-1"));
    let trace = CLAIMS.iter().find(|(name, _)| *name == "traceparent");
    assert_eq!(
        seen.header("traceparent"),
        trace.map(|(_, value)| *value),
        "without spans of our own it is passed on"
    );
    assert_eq!(seen.header("tracestate"), Some("vendor=1"));
    if let Some(id) = answer.header("x-request-id") {
        assert_eq!(id, "theirs-1");
    }
    let line = gateway.access_log_line(|_| true).await;
    assert_eq!(line["client"], "1.2.3.4", "{line}");
    assert_eq!(line["request_id"], "theirs-1", "{line}");
    assert_eq!(
        line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736",
        "{line}"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn the_nearest_untrusted_hop_is_the_caller() {
    let app = Upstream::named("app").await;
    let gateway = gateway(TRUSTED, &app).await;
    let mut client = Client::connect(&gateway).await;
    for (header, value, caller) in [
        ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.2.2.2", "1.2.3.4"),
        ("x-forwarded-for", "10.3.3.3", "10.3.3.3"),
        ("x-forwarded-for", "garbage", "127.0.0.1"),
        ("x-forwarded-for", "1.2.3.4, garbage", "127.0.0.1"),
        ("x-forwarded-for", "2001:db8::1", "2001:db8::1"),
        (
            "forwarded",
            "for=1.2.3.4;proto=https, for=10.1.1.1",
            "1.2.3.4",
        ),
        ("forwarded", "for=\"[2001:db8::7]:99\"", "2001:db8::7"),
    ] {
        client.request("GET", "/", &[(header, value)], b"").await;
        assert_eq!(
            app.last().await.header("x-real-ip"),
            Some(caller),
            "{header}: {value}"
        );
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_malformed_trace_or_id_is_replaced() {
    let app = Upstream::named("app").await;
    let gateway = gateway(TRUSTED, &app).await;
    let mut client = Client::connect(&gateway).await;
    let long = "x".repeat(2_000);
    for (name, value) in [
        ("traceparent", "00-zzzz-1-01"),
        (
            "traceparent",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ),
        (
            "traceparent",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-request-id", long.as_str()),
        ("x-request-id", ""),
    ] {
        client.request("GET", "/", &[(name, value)], b"").await;
        let seen = app.last().await;
        let passed = seen.header(name).expect("one of our own");
        assert_ne!(passed, value, "{name}");
        assert!(!passed.is_empty());
    }
    gateway.settled().await;
}

#[tokio::test]
async fn tls_callers_are_said_to_be_so() {
    let authority = Authority::new();
    let (dir, app) = (TempDir::new().unwrap(), Upstream::named("app").await);
    authority.write(dir.path(), "a", &["a.test"]);
    let yaml = format!(
        "{UNTRUSTED}{SECURE}{}",
        crate::harness::app(&[&app], "", "")
    );
    let gateway = Gateway::start_in(dir, &yaml, &[]).await;
    let mut client = Client::secure(&gateway, Tls::to(&authority, "a.test")).await;
    client
        .request("GET", "/", &[("x-forwarded-proto", "http")], b"")
        .await;
    let seen = app.last().await;
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("a.test"));
    gateway.settled().await;
}

const SECURE: &str = "
listeners:
  secure: { address: '{{https}}', tls: { certificates: [{ certificate: '{{dir}}/a.pem', key: '{{dir}}/a.key' }] } }
";

/// PROXY protocol on a plain and on a TLS listener.
const PROXIED: &str = "
server: { trusted_proxies: ['127.0.0.0/8'] }
listeners:
  web: { address: '{{http}}', proxy_protocol: true }
  secure: { address: '{{https}}', proxy_protocol: true, tls: { certificates: [{ certificate: '{{dir}}/a.pem', key: '{{dir}}/a.key' }] } }
";

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.99 5555 80\r\n").into_bytes()
}

/// Version 2 for an IPv4 source; `command` 1 is PROXY, 0 is LOCAL.
fn v2(source: [u8; 4], command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[0x20 | command, 0x11, 0, 12 + 4]);
    header.extend_from_slice(&source);
    header.extend_from_slice(&[192, 0, 2, 99, 0x15, 0xb3, 0, 80]);
    // A TLV that nobody knows.
    header.extend_from_slice(&[0xe0, 0, 1, 7]);
    header
}

async fn proxied() -> (Authority, Upstream, Gateway) {
    let authority = Authority::new();
    let (dir, app) = (TempDir::new().unwrap(), Upstream::named("app").await);
    authority.write(dir.path(), "a", &["a.test"]);
    let yaml = format!("{PROXIED}{}", crate::harness::app(&[&app], "", ""));
    let gateway = Gateway::start_in(dir, &yaml, &[]).await;
    (authority, app, gateway)
}

#[tokio::test]
async fn the_proxy_protocol_tells_the_caller() {
    let (authority, app, gateway) = proxied().await;
    for (header, caller) in [
        (v1("203.0.113.7"), "203.0.113.7"),
        (v2([203, 0, 113, 8], 1), "203.0.113.8"),
        (v2([203, 0, 113, 9], 0), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (
            b"PROXY TCP6 2001:db8::5 2001:db8::6 5555 80\r\n".to_vec(),
            "2001:db8::5",
        ),
    ] {
        let mut client = Client::connect(&gateway).await;
        client.send(&header).await;
        for _ in 0..2 {
            assert_eq!(client.get("/").await.status, 200);
            assert_eq!(told(&app.last().await), caller);
        }
        let mut stream = TcpStream::connect(gateway.address("https")).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let secured = Tls::to(&authority, "a.test")
            .connect(stream)
            .await
            .expect("handshake");
        let mut client = Client::over(&gateway, secured.io);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(told(&app.last().await), caller);
    }
    gateway.settled().await;
}

fn told(seen: &Seen) -> String {
    seen.header("x-real-ip").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_caller_without_a_proxy_header_is_not_served() {
    let (_, app, gateway) = proxied().await;
    for bytes in [
        b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
        b"PROXY TCP4 bad worse 1 2\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4".repeat(100),
    ] {
        let mut client = Client::connect(&gateway).await;
        let _ = client.try_send(&bytes).await;
        if let Ok(answer) = client.read_answer(false).await {
            assert_eq!(answer.status, 400);
        }
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn a_proxy_header_from_an_untrusted_peer_is_not_believed() {
    let app = Upstream::named("app").await;
    let yaml = format!(
        "{UNTRUSTED}listeners: {{ web: {{ address: '{{{{http}}}}', proxy_protocol: true }} }}\n{}",
        crate::harness::app(&[&app], "", "")
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut client = Client::connect(&gateway).await;
    let mut bytes = v1("203.0.113.7");
    bytes.extend_from_slice(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let _ = client.try_send(&bytes).await;
    let _ = client.read_answer(false).await;
    for seen in app.seen() {
        assert!(!seen.head.contains("203.0.113.7"), "{}", seen.head);
    }
}
