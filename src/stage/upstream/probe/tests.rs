//! Tests of `probe`.

use super::super::fake::{Authority, Fake, OK, endpoint, install_crypto, template};
use super::super::settings::{Protocol, TlsSettings};
use super::*;
use crate::base::units::{OneOrMany, Period};
use tokio::net::TcpListener;

fn pool(health: HealthSettings, tls: Option<TlsSettings>) -> Settings {
    Settings {
        health,
        tls,
        ..Settings::default()
    }
}

fn probe(settings: &Settings) -> Probe {
    install_crypto();
    let mut faults = Faults::default();
    let probe = Probe::build(settings, template(settings), &KeyPath::root(), &mut faults);
    probe.unwrap_or_else(|| panic!("{:?}", faults.0))
}

async fn ask(settings: &Settings, fake: &Fake) -> Result<(), String> {
    let endpoint = endpoint(fake.address.clone(), None);
    let result = probe(settings).run(&ProbeConnector::new(), &endpoint).await;
    result.map_err(|error| error.0)
}

/// An HTTP/1.1 endpoint with one answer: the error contains the text, or there is none.
async fn check(name: &str, answer: &str, health: HealthSettings, error: Option<&str>) {
    let fake = Fake::tcp(answer).await;
    let result = ask(&pool(health, None), &fake).await;
    match (&result, error) {
        (Ok(()), None) => {}
        (Err(seen), Some(expected)) if seen.contains(expected) => {}
        _ => panic!("{name}: {result:?}, not {error:?}"),
    }
}

fn expecting(statuses: &[&str], body: Option<&str>) -> HealthSettings {
    HealthSettings {
        expect_status: OneOrMany(statuses.iter().map(|s| (*s).to_owned()).collect()),
        expect_body: body.map(str::to_owned),
        ..HealthSettings::default()
    }
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status() {
    let empty = |head: &str| format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let (none, broken, moved) = (empty("204 No"), empty("500 No"), empty("302 Found"));
    let (hinted, hints) = (format!("{hints}{OK}"), hints.repeat(20));
    let usual = &["200-299"][..];
    for (name, answer, statuses, error) in [
        ("well", OK, usual, None),
        ("204", &none, usual, None),
        ("500", &broken, usual, Some("status 500")),
        ("500 wanted", &broken, &["200", "500-503"], None),
        ("200 unwanted", OK, &["204"], Some("status 200")),
        ("redirect", &moved, usual, Some("status 302")),
        ("early hints", &hinted, usual, None),
        ("hints for ever", &hints, usual, Some("interim")),
        (
            "not http",
            "SSH-2.0\r\n\r\n",
            usual,
            Some("not a valid answer"),
        ),
    ] {
        check(name, answer, expecting(statuses, None), error).await;
    }
}

#[tokio::test]
async fn an_answer_is_judged_by_its_body() {
    let head = "HTTP/1.1 200 OK\r\n";
    let after = |before: usize| {
        let body = format!("{}well", "x".repeat(before));
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let (within, late) = (after(BODY_BYTES_MAX - 4), after(BODY_BYTES_MAX - 3));
    let endless = format!("{head}\r\nstill well and no end");
    let chunks = "2\r\nwe\r\n2\r\nll\r\n0\r\n\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}");
    let bad = format!("{head}Transfer-Encoding: chunked\r\n\r\nwell\r\n");
    for (name, answer, body, error) in [
        ("there", OK, "ell", None),
        ("missing", OK, "ill", Some("`ill` is not in the body")),
        ("in two chunks", &chunked, "well", None),
        ("without end", &endless, "well", None),
        ("just within", &within, "well", None),
        ("too late", &late, "well", Some("first 64 KiB")),
        ("bad chunk", &bad, "well", Some("")),
    ] {
        check(name, answer, expecting(&["200"], Some(body)), error).await;
    }
}

#[tokio::test]
async fn silence_ends_with_the_timeout_and_a_closed_port_at_once() {
    let quick = HealthSettings {
        timeout: Period::millis(50),
        ..HealthSettings::default()
    };
    check("silent", "", quick.clone(), Some("no answer within 50ms")).await;
    let slow_body = HealthSettings {
        expect_body: Some("never".to_owned()),
        ..quick.clone()
    };
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nwell";
    check(
        "half a body",
        answer,
        slow_body,
        Some("no answer within 50ms"),
    )
    .await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Ip(listener.local_addr().unwrap());
    drop(listener);
    let endpoint = endpoint(address, None);
    for health in [HealthSettings::default(), tcp()] {
        let probe = probe(&pool(health, None));
        let result = probe.run(&ProbeConnector::new(), &endpoint).await;
        assert_eq!(result, Err(ProbeError("connection refused".to_owned())));
    }
}

fn tcp() -> HealthSettings {
    HealthSettings {
        check: HealthCheck::Tcp,
        ..HealthSettings::default()
    }
}

#[tokio::test]
async fn a_request_says_who_asks_and_for_whom() {
    let fake = Fake::tcp(OK).await;
    let port = fake.port();
    let mut settings = pool(HealthSettings::default(), None);
    settings.health.path = "/up?deep=1".to_owned();
    ask(&settings, &fake).await.unwrap();
    let named = endpoint(fake.address.clone(), Some("app.internal"));
    let run = probe(&settings);
    run.run(&ProbeConnector::new(), &named).await.unwrap();
    settings.health.host = Some("other".to_owned());
    let run = probe(&settings);
    run.run(&ProbeConnector::new(), &named).await.unwrap();
    let hosts = [
        format!("127.0.0.1:{port}"),
        format!("app.internal:{port}"),
        "other".to_owned(),
    ];
    for (head, host) in fake.heads().iter().zip(hosts) {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("get /up?deep=1 http/1.1\r\n"), "{head}");
        for line in [
            format!("host: {host}"),
            "user-agent: onemind-health".to_owned(),
            "connection: close".to_owned(),
        ] {
            assert!(
                head.contains(&format!("\r\n{line}\r\n")),
                "{line} in {head}"
            );
        }
    }
}

#[tokio::test]
async fn another_port_can_be_probed() {
    let (real, other) = (Fake::tcp("").await, Fake::tcp(OK).await);
    let health = HealthSettings {
        port: Some(other.port()),
        ..HealthSettings::default()
    };
    assert_eq!(ask(&pool(health, None), &real).await, Ok(()));
    assert_eq!((real.heads().len(), other.heads().len()), (0, 1));
}

#[tokio::test]
async fn a_tcp_probe_needs_a_connection_and_no_more() {
    check("silent", "", tcp(), None).await;
}

#[tokio::test]
async fn a_socket_is_probed_like_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let fake = Fake::unix(&path, OK);
    for health in [HealthSettings::default(), tcp()] {
        assert_eq!(ask(&pool(health, None), &fake).await, Ok(()));
    }
    assert!(fake.heads()[0].contains("localhost"));
    drop(fake);
    std::fs::remove_file(&path).unwrap();
    let probe = probe(&pool(HealthSettings::default(), None));
    let gone = endpoint(Address::Unix(path), None);
    assert!(probe.run(&ProbeConnector::new(), &gone).await.is_err());
}

#[tokio::test]
async fn http_2_is_spoken_with_prior_knowledge() {
    let fake = Fake::h2c().await;
    let mut settings = pool(expecting(&["200"], Some("well")), None);
    settings.protocol = Protocol::Http2;
    assert_eq!(ask(&settings, &fake).await, Ok(()));
    assert_eq!(
        fake.heads(),
        [format!("http://127.0.0.1:{}/health", fake.port())]
    );
    settings.protocol = Protocol::Http1;
    assert!(ask(&settings, &fake).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_verified_by_the_pools_own_authority() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let local = &["127.0.0.1", "app.internal"][..];
    let named = |name: &str| TlsSettings {
        server_name: Some(name.to_owned()),
        ..ours.settings()
    };
    let blind = TlsSettings {
        verify: false,
        ..TlsSettings::default()
    };
    let unknown = Some("invalid peer certificate");
    for (name, names, tls, error) in [
        ("by address", local, ours.settings(), None),
        ("by name", local, named("app.internal"), None),
        (
            "wrong name",
            local,
            named("other.internal"),
            Some("not valid for name"),
        ),
        (
            "not for the address",
            &["app.internal"][..],
            ours.settings(),
            Some("not valid for name"),
        ),
        ("another authority", local, theirs.settings(), unknown),
        (
            "the system's authorities",
            local,
            TlsSettings::default(),
            unknown,
        ),
        ("not verified", &["elsewhere"][..], blind, None),
    ] {
        let fake = Fake::tls(OK, ours.acceptor(names, &[], false)).await;
        for health in [HealthSettings::default(), tcp()] {
            let result = ask(&pool(health, Some(tls.clone())), &fake).await;
            match (&result, error) {
                (Ok(()), None) => {}
                (Err(seen), Some(text)) if seen.contains("tls") && seen.contains(text) => {}
                _ => panic!("{name}: {result:?}"),
            }
        }
    }
}

#[tokio::test]
async fn over_tls_the_protocol_is_agreed_on() {
    let authority = Authority::new();
    let health = expecting(&["200"], Some("well"));
    for (offered, protocol, expected) in [
        (
            &["h2", "http/1.1"][..],
            Protocol::Http2,
            "https://127.0.0.1:",
        ),
        (&["h2", "http/1.1"], Protocol::Http1, "GET /health HTTP/1.1"),
        (&["http/1.1"], Protocol::Http2, "GET /health HTTP/1.1"),
        (&[], Protocol::Http2, "GET /health HTTP/1.1"),
    ] {
        let fake = Fake::tls(OK, authority.acceptor(&["127.0.0.1"], offered, false)).await;
        let mut settings = pool(health.clone(), Some(authority.settings()));
        settings.protocol = protocol;
        assert_eq!(
            ask(&settings, &fake).await,
            Ok(()),
            "{offered:?} {protocol:?}"
        );
        assert!(fake.heads()[0].starts_with(expected), "{:?}", fake.heads());
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let authority = Authority::new();
    let fake = Fake::tls(OK, authority.acceptor(&["127.0.0.1"], &[], true)).await;
    let without = authority.settings();
    let (certificate, key) = authority.sign("client", &["gateway"]);
    let with = TlsSettings {
        client_certificate: Some(certificate),
        client_key: Some(key),
        ..authority.settings()
    };
    let health = HealthSettings::default();
    assert!(
        ask(&pool(health.clone(), Some(without)), &fake)
            .await
            .is_err()
    );
    assert_eq!(ask(&pool(health, Some(with)), &fake).await, Ok(()));
}

#[test]
fn nonsense_is_refused_at_build_with_its_place() {
    let health = HealthSettings {
        path: "health".to_owned(),
        host: Some("a b".to_owned()),
        interval: Period::seconds(0),
        unhealthy_after: 0,
        ..expecting(&["200-199", "20", "2xx", "100", "600", "200-"], None)
    };
    let settings = pool(health, None);
    let mut faults = Faults::default();
    let at = KeyPath::root().key("pools").key("app");
    assert!(Probe::build(&settings, template(&settings), &at, &mut faults).is_none());
    let places: Vec<String> = faults.0.iter().map(|fault| fault.at.to_string()).collect();
    let place = |key: &str| {
        places
            .iter()
            .filter(|p| *p == &format!("pools.app.health.{key}"))
            .count()
    };
    assert_eq!(place("expect_status"), 6, "{places:?}");
    for key in ["path", "host", "interval", "unhealthy_after"] {
        assert_eq!(place(key), 1, "{key} in {places:?}");
    }
}
