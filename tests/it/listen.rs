//! Where callers connect: certificates, protocols, redirects.

use crate::harness::{Authority, Client, ClientH2, Gateway, Tls, Upstream, app, eventually};
use tempfile::TempDir;

/// A folder with certificates for `a.test` (the default), `*.b.test` and `c.test`.
fn certificates(authority: &Authority) -> TempDir {
    let dir = TempDir::new().unwrap();
    authority.write(dir.path(), "a", &["a.test"]);
    authority.write(dir.path(), "b", &["*.b.test", "b.test"]);
    authority.write(dir.path(), "c", &["c.test"]);
    authority.write_ca(&dir.path().join("ca.pem"));
    dir
}

const TLS: &str = "
listeners:
  secure:
    address: '{{https}}'
    tls:
      certificates:
        - { certificate: '{{dir}}/a.pem', key: '{{dir}}/a.key' }
        - { certificate: '{{dir}}/b.pem', key: '{{dir}}/b.key' }
        - { certificate: '{{dir}}/c.pem', key: '{{dir}}/c.key' }
";

const OK: &str = "routes: { all: { respond: { body: ok } } }\n";

async fn names_shown(gateway: &Gateway, tls: Tls) -> Vec<String> {
    // The certificate is looked at without verifying that it is for the name asked for.
    let secured = Client::handshake(gateway, tls).await.expect("handshake");
    let (_, certificate) = x509_parser::parse_x509_certificate(&secured.certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let gateway = Gateway::start_in(certificates(&authority), &format!("{TLS}{OK}"), &[]).await;
    for (name, shown) in [
        ("a.test", "a.test"),
        ("c.test", "c.test"),
        ("C.Test", "c.test"),
        ("x.b.test", "*.b.test"),
        ("b.test", "*.b.test"),
        ("unknown.test", "a.test"),
        ("y.x.b.test", "a.test"),
    ] {
        let names = names_shown(&gateway, Tls::to(&authority, name).unverified()).await;
        assert!(names[0].contains(shown), "{name}: {names:?}");
    }
    let names = names_shown(&gateway, Tls::to(&authority, "a.test").without_sni()).await;
    assert!(names[0].contains("a.test"), "{names:?}");
    let mut client = Client::secure(&gateway, Tls::to(&authority, "x.b.test")).await;
    assert_eq!(client.get("/").await.text(), "ok");
    gateway.settled().await;
    assert!(gateway.metric("onemind_tls_cert_not_after_seconds").await > 0.0);
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let authority = Authority::new();
    let off = TLS.replace("address:", "http2: false\n    address:");
    for (yaml, offered, agreed) in [
        (
            TLS,
            vec![b"h2".as_slice(), b"http/1.1"],
            Some(b"h2".as_slice()),
        ),
        (
            TLS,
            vec![b"http/1.1".as_slice()],
            Some(b"http/1.1".as_slice()),
        ),
        (TLS, vec![], None),
        (
            off.as_str(),
            vec![b"h2".as_slice(), b"http/1.1"],
            Some(b"http/1.1".as_slice()),
        ),
    ] {
        let gateway =
            Gateway::start_in(certificates(&authority), &format!("{yaml}{OK}"), &[]).await;
        let tls = Tls::to(&authority, "a.test").offering(&offered);
        let secured = Client::handshake(&gateway, tls).await.unwrap();
        assert_eq!(secured.alpn.as_deref(), agreed, "offered {}", offered.len());
    }
}

#[tokio::test]
async fn http2_serves_many_requests_on_one_connection() {
    let authority = Authority::new();
    let app = Upstream::named("app").await;
    let yaml = format!(
        "{TLS}pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}\nroutes: {{ all: {{ pool: app }} }}\n"
    );
    let gateway = Gateway::start_in(certificates(&authority), &yaml, &[("app", &app)]).await;
    let client = ClientH2::secure(&gateway, Tls::to(&authority, "a.test")).await;
    let all = (0..50).map(|nth| {
        let client = &client;
        async move { client.get(&format!("/{nth}")).await }
    });
    for answer in futures_util::future::join_all(all).await {
        assert_eq!((answer.status, answer.text().as_str()), (200, "app"));
    }
    assert_eq!(app.last().await.header("host"), Some("a.test"));
    client.get("/").await;
    gateway.settled().await;
    assert!(
        gateway.access_log()[0]["protocol"]
            .as_str()
            .unwrap()
            .starts_with("HTTP/2")
    );
}

#[tokio::test]
async fn h2c_is_taken_where_it_is_allowed() {
    let app = Upstream::named("app").await;
    let yaml = app_yaml("http2: true");
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    assert_eq!(ClientH2::plain(&gateway).await.get("/").await.text(), "app");
    assert_eq!(
        gateway.get("/").await.text(),
        "app",
        "and HTTP/1.1 beside it"
    );
    gateway.settled().await;

    let gateway = Gateway::start(&app_yaml("http2: false"), &[("app", &app)]).await;
    let before = app.count();
    let client = ClientH2::plain(&gateway).await;
    assert!(client.request("GET", "/", &[], b"").await.is_err());
    assert_eq!(app.count(), before);
}

fn app_yaml(listener: &str) -> String {
    format!(
        "
listeners: {{ web: {{ address: '{{{{http}}}}', {listener} }} }}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}
routes: {{ all: {{ pool: app }} }}
"
    )
}

#[tokio::test]
async fn callers_can_be_asked_for_a_certificate() {
    let (ours, other) = (Authority::new(), Authority::new());
    for required in [true, false] {
        let yaml = format!(
            "{TLS}      client_auth: {{ ca: '{{{{dir}}}}/ca.pem', required: {required} }}\n{OK}"
        );
        let gateway = Gateway::start_in(certificates(&ours), &yaml, &[]).await;
        let known = Tls::showing(&ours, "a.test", ours.issue(&["caller"]));
        assert_eq!(
            Client::secure(&gateway, known).await.get("/").await.text(),
            "ok"
        );

        // TLS 1.3 callers learn of a refusal only when they read.
        let mut outcome = Vec::new();
        for tls in [
            Tls::to(&ours, "a.test"),
            Tls::showing(&ours, "a.test", other.issue(&["stranger"])),
        ] {
            let answer = match Client::handshake(&gateway, tls).await {
                Ok(secured) => {
                    let mut client = Client::over(&gateway, secured.io);
                    client.try_request("GET", "/", &[], b"").await.is_ok()
                }
                Err(_) => false,
            };
            outcome.push(answer);
        }
        assert_eq!(outcome, [!required, false], "required: {required}");
    }
}

#[tokio::test]
async fn old_versions_can_be_turned_away() {
    let authority = Authority::new();
    for (setting, taken) in [("", true), ("      min_version: '1.3'\n", false)] {
        let yaml = format!("{TLS}{setting}{OK}");
        let gateway = Gateway::start_in(certificates(&authority), &yaml, &[]).await;
        let old = Tls::to(&authority, "a.test").only_tls12();
        assert_eq!(
            Client::handshake(&gateway, old).await.is_ok(),
            taken,
            "{setting}"
        );
        let new = Tls::to(&authority, "a.test");
        assert!(Client::handshake(&gateway, new).await.is_ok());
    }
}

#[tokio::test]
async fn a_replaced_certificate_is_served_without_a_restart() {
    let authority = Authority::new();
    let gateway = Gateway::start_in(certificates(&authority), &format!("{TLS}{OK}"), &[]).await;
    let mut open = Client::secure(&gateway, Tls::to(&authority, "c.test")).await;
    assert_eq!(open.get("/").await.text(), "ok");
    for _ in 0..2 {
        let leaf = authority.write(gateway.dir(), "c", &["c.test"]);
        eventually("the new certificate is served", async || {
            let secured = Client::handshake(&gateway, Tls::to(&authority, "c.test"))
                .await
                .ok()?;
            (secured.certificate == leaf.der).then_some(())
        })
        .await;
    }
    assert_eq!(open.get("/").await.text(), "ok", "open connections go on");
    // A broken one does not replace a good one.
    std::fs::write(gateway.path("c.pem"), "not a certificate").unwrap();
    gateway.admin("POST", "/reload").await;
    assert!(
        Client::handshake(&gateway, Tls::to(&authority, "c.test"))
            .await
            .is_ok()
    );
    gateway.settled().await;
}

#[tokio::test]
async fn plain_callers_are_sent_to_https() {
    let app = Upstream::named("app").await;
    let yaml = format!(
        "listeners: {{ web: {{ address: '{{{{http}}}}', redirect_to_https: 8443 }}, usual: {{ address: '{{{{usual}}}}', redirect_to_https: 443 }} }}\n{}",
        self::app(&[&app], "", "")
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    for (listener, host, target, location) in [
        (
            "http",
            "a.test",
            "/p/q?x=1&y=%20",
            "https://a.test:8443/p/q?x=1&y=%20",
        ),
        ("http", "a.test:8080", "/", "https://a.test:8443/"),
        ("usual", "a.test:80", "/x", "https://a.test/x"),
        ("usual", "[::1]:80", "/x", "https://[::1]/x"),
    ] {
        let mut client = Client::connect_to(&gateway, listener).await;
        for (method, body) in [("GET", b"".as_slice()), ("POST", b"body")] {
            let answer = client
                .request(method, target, &[("host", host)], body)
                .await;
            assert_eq!(
                (answer.status, answer.header("location")),
                (308, Some(location))
            );
        }
    }
    assert_eq!(app.count(), 0);
    gateway.settled().await;
}

#[tokio::test]
async fn hsts_is_sent_on_tls() {
    let authority = Authority::new();
    let app = Upstream::named("app").await;
    for (setting, expected) in [
        ("", None),
        ("      hsts: {}\n", Some("max-age=31536000")),
        (
            "      hsts: { max_age: 1d, include_subdomains: true, preload: true }\n",
            Some("max-age=86400; includeSubDomains; preload"),
        ),
    ] {
        let yaml = format!("{TLS}{setting}{}", self::app(&[&app], "", ""));
        let gateway = Gateway::start_in(certificates(&authority), &yaml, &[]).await;
        let mut client = Client::secure(&gateway, Tls::to(&authority, "a.test")).await;
        let answer = client.get("/").await;
        assert_eq!(
            answer.header("strict-transport-security"),
            expected,
            "{setting}"
        );
        gateway.settled().await;
    }
}

#[tokio::test]
async fn an_idle_caller_is_let_go() {
    let gateway = Gateway::start(
        &format!("listeners: {{ web: {{ address: '{{{{http}}}}', keepalive: 500ms }} }}\n{OK}"),
        &[],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert!(client.is_closed().await);
    gateway.settled().await;
}

#[tokio::test]
async fn ipv6_is_listened_on() {
    let port = crate::harness::Port::reserve().number();
    let yaml =
        format!("listeners: {{ web: {{ address: ['{{{{http}}}}', '[::1]:{port}'] }} }}\n{OK}");
    if std::net::TcpListener::bind(("::1", port)).is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let gateway = Gateway::start(&yaml, &[]).await;
    let stream = tokio::net::TcpStream::connect(("::1", port)).await.unwrap();
    let mut client = Client::over(&gateway, Box::new(stream));
    assert_eq!(client.get("/").await.text(), "ok");
    gateway.settled().await;
}
