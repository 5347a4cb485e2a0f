//! Tests of `peer`.

use super::super::fake::{Authority, install_crypto, template};
use super::*;
use crate::base::units::Period;
use pingora::upstreams::peer::Peer;

const TIMEOUTS: PeerTimeouts = PeerTimeouts {
    connect: Duration::from_secs(5),
    read: Some(Duration::from_mins(1)),
    write: None,
};

fn over(tls: TlsSettings) -> Settings {
    install_crypto();
    Settings {
        tls: Some(tls),
        ..Settings::default()
    }
}

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

fn reuse(template: &PeerTemplate) -> u64 {
    let peer = template.peer(&ip("10.0.0.1:443"), None, TIMEOUTS);
    peer.unwrap().reuse_hash()
}

#[test]
fn a_name_to_verify_is_always_there() {
    let named = TlsSettings {
        server_name: Some("app.example.com".to_owned()),
        ..TlsSettings::default()
    };
    let blind = TlsSettings {
        verify: false,
        ..TlsSettings::default()
    };
    let usual = TlsSettings::default();
    let socket = Address::Unix("/run/app.sock".into());
    for (tls, address, host, sni) in [
        (&usual, ip("10.0.0.1:443"), None, "10.0.0.1"),
        (&usual, ip("[::1]:443"), None, "::1"),
        (
            &usual,
            ip("10.0.0.1:443"),
            Some("app.internal"),
            "app.internal",
        ),
        (
            &named,
            ip("10.0.0.1:443"),
            Some("app.internal"),
            "app.example.com",
        ),
        (&named, socket.clone(), None, "app.example.com"),
        (&blind, socket, None, "localhost"),
    ] {
        let template = template(&over(tls.clone()));
        let peer = template.peer(&address, host, TIMEOUTS).unwrap();
        assert_eq!(peer.sni, sni);
        assert!(peer.is_tls());
        assert_eq!(peer.verify_cert(), tls.verify);
    }
}

#[test]
fn a_peer_carries_the_settings() {
    let settings = Settings {
        protocol: Protocol::Http2,
        ..Settings::default()
    };
    let template = template(&settings);
    let peer = template
        .peer(&ip("10.0.0.1:80"), Some("app"), TIMEOUTS)
        .unwrap();
    assert!(!peer.is_tls() && peer.sni.is_empty());
    let options = &peer.options;
    assert_eq!(options.total_connection_timeout, Some(TIMEOUTS.connect));
    assert_eq!(options.read_timeout, TIMEOUTS.read);
    assert_eq!(options.write_timeout, None);
    assert_eq!(options.idle_timeout, Some(Duration::from_secs(50)));
    assert_eq!(options.max_h2_streams, 100);
    assert_eq!(options.alpn.get_min_http_version(), 2);
    let upgrade = template
        .upgrade_peer(&ip("10.0.0.1:80"), None, TIMEOUTS)
        .unwrap();
    assert_eq!(upgrade.options.alpn.get_max_http_version(), 1);
    assert_ne!(upgrade.reuse_hash(), peer.reuse_hash());
}

#[test]
fn connections_made_under_other_terms_are_never_reused() {
    let (first, second) = (Authority::new(), Authority::new());
    let (certificate, key) = first.sign("client", &["gateway"]);
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = over(first.settings());
        change(&mut settings);
        reuse(&template(&settings))
    };
    let same = with(&|_| {});
    assert_eq!(same, with(&|_| {}), "a reload keeps connections");
    let others = [
        ("authority", with(&|s| s.tls = Some(second.settings()))),
        (
            "system authorities",
            with(&|s| s.tls = Some(TlsSettings::default())),
        ),
        ("plain", with(&|s| s.tls = None)),
        ("protocol", with(&|s| s.protocol = Protocol::Http2)),
        ("blind", with(&|s| s.tls.as_mut().unwrap().verify = false)),
        (
            "client certificate",
            with(&|s| {
                let tls = s.tls.as_mut().unwrap();
                tls.client_certificate = Some(certificate.clone());
                tls.client_key = Some(key.clone());
            }),
        ),
    ];
    for (at, (name, other)) in others.iter().enumerate() {
        assert_ne!(same, *other, "{name}");
        assert!(
            others[..at].iter().all(|(_, before)| before != other),
            "{name}"
        );
    }
    // The file behind the same path is another one.
    std::fs::copy(second.path("ca.pem"), first.path("ca.pem")).unwrap();
    assert_ne!(same, with(&|_| {}), "a renewed authority");
}

#[test]
fn pools_do_not_share_connections() {
    let build = |pool| {
        let mut faults = Faults::default();
        let settings = Settings::default();
        PeerTemplate::build(pool, &settings, &KeyPath::root(), &mut faults).unwrap()
    };
    assert_ne!(reuse(&build("a")), reuse(&build("b")));
}

#[test]
fn without_keepalive_no_connection_is_kept() {
    let mut settings = Settings::default();
    settings.keepalive.idle = Period::seconds(0);
    let kept = template(&Settings::default());
    let closed = template(&settings);
    assert!(kept.keeps_connections() && !closed.keeps_connections());
}

/// There is no template, and one fault, at `at`, that says `text`.
fn refused(settings: &Settings, at: &str, text: &str) {
    let mut faults = Faults::default();
    let built = PeerTemplate::build("app", settings, &KeyPath::root(), &mut faults);
    assert!(built.is_none(), "{text}");
    let [fault] = faults.0.as_slice() else {
        panic!("{text}: {:?}", faults.0);
    };
    assert_eq!(fault.at.to_string(), at);
    assert!(fault.what.contains(text), "{} lacks {text}", fault.what);
}

#[test]
fn endpoints_that_cannot_be_reached_or_verified_are_refused() {
    let (plain, tls) = (Settings::default(), over(TlsSettings::default()));
    let long = format!("unix:/{}", "x".repeat(107));
    let path = "cannot be the path of a socket";
    for (settings, address, text) in [
        (&tls, "unix:/run/app.sock", "socket has no name"),
        (&tls, "not a name:443", "`not a name`"),
        (&plain, "unix:", path),
        (&plain, &long, path),
    ] {
        let mut settings = settings.clone();
        settings.endpoints = vec![serde_json::from_value(address.into()).unwrap()];
        refused(&settings, "endpoints[0]", text);
    }
    let mut streamless = plain;
    streamless.keepalive.h2_streams = 0;
    refused(&streamless, "keepalive.h2_streams", "without streams");
    let named = TlsSettings {
        server_name: Some("not a name".to_owned()),
        ..TlsSettings::default()
    };
    refused(&over(named), "tls.server_name", "`not a name`");
}

#[test]
fn authorities_that_cannot_be_read_are_refused() {
    let authority = Authority::new();
    let block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(authority.path("empty.pem"), "").unwrap();
    std::fs::write(authority.path("broken.pem"), block).unwrap();
    for (file, text) in [
        ("none.pem", "none.pem"),
        ("empty.pem", "no certificate in PEM"),
        ("broken.pem", "broken.pem"),
        (".", "cannot read"),
    ] {
        let tls = TlsSettings {
            ca: Some(authority.path(file)),
            ..TlsSettings::default()
        };
        refused(&over(tls), "tls.ca", text);
    }
}

#[test]
fn client_certificates_that_do_not_go_with_their_key_are_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("one", &["gateway"]);
    let (_, other_key) = authority.sign("two", &["gateway"]);
    let client = |certificate: Option<&Path>, key: Option<&Path>| {
        over(TlsSettings {
            client_certificate: certificate.map(Path::to_owned),
            client_key: key.map(Path::to_owned),
            ..authority.settings()
        })
    };
    let (some, at) = (Some(certificate.as_path()), "tls.client_certificate");
    refused(&client(some, None), at, "without its key");
    refused(&client(some, Some(&other_key)), at, "does not go with");
    refused(&client(some, some), at, "no private key");
    let without = client(None, Some(&key));
    refused(&without, "tls.client_key", "without its certificate");
    assert!(
        template(&client(some, Some(&key)))
            .client_certificate
            .is_some()
    );
}

#[test]
fn ordinary_endpoints_have_names_that_can_be_verified() {
    for (address, host) in [
        ("app.internal:443", "app.internal"),
        ("10.0.0.1:443", "10.0.0.1"),
        ("[::1]:443", "::1"),
        ("my_app:443", "my_app"),
    ] {
        assert_eq!(host_of(address), host);
        assert!(ServerName::try_from(host).is_ok(), "{host}");
    }
}
