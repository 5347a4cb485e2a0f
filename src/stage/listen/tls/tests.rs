//! Tests of `tls`.

use super::*;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{ALPN, Ssl};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Files of certificates, and the authority that signs them.
struct Workshop {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Workshop {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn authority(&self) -> PathBuf {
        self.write("authority.pem", &self.authority.pem())
    }

    fn sign(&self, file: &str, params: &CertificateParams, key: &KeyPair) -> CertificateSettings {
        let signed = params.signed_by(key, &self.authority).unwrap();
        CertificateSettings {
            certificate: self.write(
                &format!("{file}.pem"),
                &(signed.pem() + &self.authority.pem()),
            ),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    fn issue(&self, names: &[&str]) -> CertificateSettings {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example Works");
        self.sign("issued", &params, &KeyPair::generate().unwrap())
    }

    fn load(&self, names: &[&str]) -> Certificate {
        load_certificate(&self.issue(names)).unwrap()
    }

    fn certificates(&self, names: &[&[&str]]) -> Arc<Certificates> {
        let loaded = names.iter().map(|names| self.load(names)).collect();
        Arc::new(Certificates::new(loaded).unwrap())
    }

    fn slot(&self, settings: &TlsSettings, http2: bool) -> TlsSlot {
        TlsSlot::new(settings, http2, self.certificates(&[&["a.example"]])).unwrap()
    }
}

/// Takes every certificate: these tests look at what is shown, not at whether it is good.
#[derive(Debug)]
struct TakesAll(Vec<SignatureScheme>);

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const ONLY_12: Versions = &[&TLS12];
const ONLY_13: Versions = &[&TLS13];

/// How a caller behaves.
struct Caller {
    versions: Versions,
    schemes: Vec<SignatureScheme>,
    alpn: &'static [&'static str],
    own: Option<Certificate>,
}

impl Default for Caller {
    fn default() -> Self {
        Self {
            versions: rustls::ALL_VERSIONS,
            schemes: vec![
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA256,
                SignatureScheme::ECDSA_NISTP256_SHA256,
            ],
            alpn: &[],
            own: None,
        }
    }
}

impl Caller {
    fn config(self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAll(self.schemes)));
        let mut config = match self.own {
            Some(own) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own.key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }
}

/// What both ends know after a handshake over a real connection.
#[derive(Debug)]
struct Met {
    names: Vec<String>,
    kind: HandshakeKind,
    alpn: Option<ALPN>,
    digest: Arc<SslDigest>,
}

async fn meet(slot: &TlsSlot, caller: &Arc<ClientConfig>, name: &str) -> Result<Met, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = Acceptor::from_server_config(slot.config());
        let mut stream = acceptor
            .tls_handshake(Stream::from(stream))
            .await
            .map_err(|error| error.to_string())?;
        stream
            .write_all(b"hello")
            .await
            .map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        Ok((
            stream.selected_alpn_proto(),
            stream.get_ssl_digest().expect("a digest"),
        ))
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(caller));
        let mut stream = connector.connect(name, stream).await?;
        stream.read_exact(&mut [0; 5]).await?;
        let session = stream.get_ref().1;
        let shown = Facts::read(&session.peer_certificates().expect("shown")[0]).unwrap();
        Ok((shown.names, session.handshake_kind().unwrap()))
    };
    let both = Box::pin(async { tokio::join!(server, client) });
    let (server, client): (Result<_, String>, std::io::Result<_>) =
        tokio::time::timeout(Duration::from_secs(10), both)
            .await
            .expect("no handshake takes that long");
    let (alpn, digest) = server?;
    let (names, kind) = client.map_err(|error| error.to_string())?;
    Ok(Met {
        names,
        kind,
        alpn,
        digest,
    })
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_asked_for() {
    let workshop = Workshop::new();
    let names: &[&[&str]] = &[
        &["a.example", "127.0.0.1"],
        &["*.wild.example"],
        &["b.example", "x.wild.example"],
    ];
    let settings = TlsSettings::default();
    let slot = TlsSlot::new(&settings, false, workshop.certificates(names)).unwrap();
    let caller = Caller::default().config();
    for (name, first) in [
        ("a.example", "a.example"),
        ("b.example", "b.example"),
        ("B.Example", "b.example"),
        ("y.wild.example", "*.wild.example"),
        // An exact name goes before a star.
        ("x.wild.example", "b.example"),
        // A star is one label, and not none.
        ("y.y.wild.example", "a.example"),
        ("wild.example", "a.example"),
        ("unknown.example", "a.example"),
        // Callers of an address name nobody.
        ("127.0.0.1", "a.example"),
    ] {
        let met = meet(&slot, &caller, name).await.unwrap();
        assert_eq!(met.names[0], first, "{name}");
    }
}

#[tokio::test]
async fn elliptic_curves_are_preferred_and_rsa_serves_those_who_lack_them() {
    let workshop = Workshop::new();
    let rsa_key =
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let rsa = load_certificate(&workshop.sign("rsa", &params, &rsa_key)).unwrap();
    params
        .subject_alt_names
        .push(rcgen::SanType::DnsName("ec.example".try_into().unwrap()));
    let ec =
        load_certificate(&workshop.sign("ec", &params, &KeyPair::generate().unwrap())).unwrap();
    let certificates = Certificates::new(vec![rsa, ec]).unwrap();
    let slot = TlsSlot::new(&TlsSettings::default(), false, Arc::new(certificates)).unwrap();
    let only_rsa = || {
        vec![
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    };
    for versions in [ONLY_12, ONLY_13] {
        for (schemes, count) in [(Caller::default().schemes, 2), (only_rsa(), 1)] {
            let caller = Caller {
                versions,
                schemes,
                ..Caller::default()
            };
            let met = meet(&slot, &caller.config(), "a.example").await.unwrap();
            assert_eq!(met.names.len(), count, "{versions:?}");
        }
    }
    // The default stays the first: the other has other names as well.
    let met = meet(&slot, &Caller::default().config(), "unknown.example")
        .await
        .unwrap();
    assert_eq!(met.names, ["a.example"]);
}

#[tokio::test]
async fn a_reload_is_seen_by_the_next_handshake() {
    let workshop = Workshop::new();
    let settings = TlsSettings::default();
    let slot = workshop.slot(&settings, false);
    let before = meet(&slot, &Caller::default().config(), "b.example")
        .await
        .unwrap();
    let change = slot
        .prepare(&settings, false, workshop.certificates(&[&["b.example"]]))
        .unwrap();
    let prepared = meet(&slot, &Caller::default().config(), "b.example")
        .await
        .unwrap();
    slot.commit(change);
    let after = meet(&slot, &Caller::default().config(), "b.example")
        .await
        .unwrap();
    assert_eq!(
        [before.names, prepared.names, after.names],
        [["a.example"], ["a.example"], ["b.example"]]
    );
    assert_eq!(slot.certificates().expiries()[0].0, "b.example");
}

#[tokio::test]
async fn the_oldest_version_is_held_to() {
    let workshop = Workshop::new();
    for (min_version, versions, agreed) in [
        (TlsVersion::Tls12, ONLY_12, Some("TLSv1_2")),
        (TlsVersion::Tls12, ONLY_13, Some("TLSv1_3")),
        (TlsVersion::Tls13, ONLY_12, None),
        (TlsVersion::Tls13, ONLY_13, Some("TLSv1_3")),
    ] {
        let slot = workshop.slot(
            &TlsSettings {
                min_version,
                ..TlsSettings::default()
            },
            false,
        );
        let caller = Caller {
            versions,
            ..Caller::default()
        }
        .config();
        let met = meet(&slot, &caller, "a.example").await;
        let digest = met.ok().map(|met| met.digest);
        assert_eq!(
            digest.as_ref().map(|digest| &*digest.version),
            agreed,
            "{min_version:?}"
        );
        assert!(digest.is_none_or(|digest| digest.cipher.starts_with("TLS")));
    }
}

#[tokio::test]
async fn http_2_is_agreed_on_only_where_it_is_offered() {
    let workshop = Workshop::new();
    for (http2, alpn, agreed) in [
        (true, &["h2", "http/1.1"][..], Some(ALPN::H2)),
        (true, &["http/1.1", "h2"][..], Some(ALPN::H2)),
        (true, &["http/1.1"][..], Some(ALPN::H1)),
        (true, &[][..], None),
        (false, &["h2", "http/1.1"][..], Some(ALPN::H1)),
    ] {
        let slot = workshop.slot(&TlsSettings::default(), http2);
        let caller = Caller {
            alpn,
            ..Caller::default()
        }
        .config();
        let met = meet(&slot, &caller, "a.example").await.unwrap();
        assert_eq!(met.alpn, agreed, "{http2} {alpn:?}");
    }
    let slot = workshop.slot(&TlsSettings::default(), false);
    let caller = Caller {
        alpn: &["h2"],
        ..Caller::default()
    }
    .config();
    assert!(meet(&slot, &caller, "a.example").await.is_err());
}

#[tokio::test]
async fn callers_show_certificates_of_the_right_authority() {
    let (workshop, strangers) = (Workshop::new(), Workshop::new());
    for versions in [ONLY_12, ONLY_13] {
        for (required, own, welcome) in [
            (true, Some(&workshop), true),
            (true, Some(&strangers), false),
            (true, None, false),
            (false, Some(&workshop), true),
            (false, Some(&strangers), false),
            (false, None, true),
        ] {
            let ca = workshop.authority();
            let client_auth = Some(ClientAuthSettings { ca, required });
            let slot = workshop.slot(
                &TlsSettings {
                    client_auth,
                    ..TlsSettings::default()
                },
                false,
            );
            let own = own.map(|from| from.load(&["caller.example"]));
            let shown = own.is_some();
            let caller = Caller {
                versions,
                own,
                ..Caller::default()
            }
            .config();
            let met = meet(&slot, &caller, "a.example").await;
            assert_eq!(met.is_ok(), welcome, "{required} {shown} {met:?}");
            let Ok(met) = met else { continue };
            let organization = shown.then(|| "Example Works".to_owned());
            assert_eq!(met.digest.organization, organization, "{required}");
            assert_eq!(met.digest.serial_number.is_some(), shown, "{required}");
            assert_eq!(
                met.digest.cert_digest.len(),
                if shown { 32 } else { 0 },
                "{required}"
            );
        }
    }
}

#[tokio::test]
async fn sessions_resume_until_the_terms_change() {
    let workshop = Workshop::new();
    let client_auth = |required| {
        let ca = workshop.authority();
        TlsSettings {
            client_auth: Some(ClientAuthSettings { ca, required }),
            ..TlsSettings::default()
        }
    };
    for versions in [ONLY_12, ONLY_13] {
        let slot = workshop.slot(&client_auth(false), false);
        let own = Some(workshop.load(&["caller.example"]));
        let caller = Caller {
            versions,
            own,
            ..Caller::default()
        }
        .config();
        let first = meet(&slot, &caller, "a.example").await.unwrap();
        assert_ne!(first.kind, HandshakeKind::Resumed);
        // New certificates, the same terms: tickets stay good, and say who the caller is.
        let change = slot
            .prepare(
                &client_auth(false),
                false,
                workshop.certificates(&[&["a.example"]]),
            )
            .unwrap();
        slot.commit(change);
        let second = meet(&slot, &caller, "a.example").await.unwrap();
        assert_eq!(second.kind, HandshakeKind::Resumed, "{versions:?}");
        assert_eq!(second.digest.cert_digest, first.digest.cert_digest);
        let change = slot
            .prepare(&client_auth(true), false, slot.certificates())
            .unwrap();
        slot.commit(change);
        let third = meet(&slot, &caller, "a.example").await.unwrap();
        assert_ne!(third.kind, HandshakeKind::Resumed, "{versions:?}");
    }
}

#[test]
fn a_certificate_tells_its_names_and_its_time() {
    let workshop = Workshop::new();
    let mut params = CertificateParams::new(vec![
        "A.Example".to_owned(),
        "::1".to_owned(),
        "*.a.example".to_owned(),
    ])
    .unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let certificate =
        load_certificate(&workshop.sign("old", &params, &KeyPair::generate().unwrap())).unwrap();
    assert_eq!(certificate.names, ["a.example", "::1", "*.a.example"]);
    assert_eq!(
        (certificate.not_before, certificate.not_after),
        (1_577_836_800, 1_609_459_200)
    );
    assert!(!certificate.expired_at(1_609_459_200) && certificate.expired_at(1_609_459_201));
    assert_eq!(certificate.key.cert.len(), 2);

    let mut old = CertificateParams::new(vec![]).unwrap();
    old.distinguished_name
        .push(DnType::CommonName, "Common.Example");
    let common =
        load_certificate(&workshop.sign("common", &old, &KeyPair::generate().unwrap())).unwrap();
    assert_eq!(common.names, ["common.example"]);
}

#[test]
fn each_certificate_is_one_row_of_expiries() {
    let workshop = Workshop::new();
    let certificate = |name: &str, not_after| Certificate {
        not_after,
        ..workshop.load(&[name])
    };
    let certificates = Certificates::new(vec![
        certificate("b", 7),
        certificate("a", 9),
        certificate("b", 5),
    ])
    .unwrap();
    assert_eq!(
        certificates.expiries(),
        [("a".to_owned(), 9), ("b".to_owned(), 5)]
    );
    assert!(
        Certificates::new(vec![])
            .unwrap_err()
            .contains("at least one")
    );
}

#[test]
fn a_fault_names_the_file_and_the_remedy() {
    let workshop = Workshop::new();
    let (good, other) = (workshop.issue(&["a.example"]), Workshop::new());
    let foreign = other.issue(&["b.example"]);
    let empty = workshop.write("empty.pem", "");
    let broken = workshop.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
    );
    let fake = workshop.write(
        "fake.pem",
        "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
    );
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = workshop.write("locked.key", locked);
    let missing = workshop.dir.path().join("missing.pem");
    let swapped = (&good.key, &good.certificate);
    for ((certificate, key), file, words) in [
        ((&missing, &good.key), "missing.pem", "no such file"),
        ((&good.certificate, &missing), "missing.pem", "no such file"),
        ((&empty, &good.key), "empty.pem", "no certificate in it"),
        (
            (&good.certificate, &empty),
            "empty.pem",
            "no private key in it",
        ),
        (swapped, "issued.key", "no certificate in it"),
        ((&broken, &good.key), "broken.pem", "broken PEM"),
        ((&fake, &good.key), "fake.pem", "not an X.509 certificate"),
        ((&good.certificate, &locked), "locked.key", "openssl pkey"),
        (
            (&good.certificate, &foreign.key),
            "issued.key",
            "does not belong",
        ),
        (
            (&good.certificate, &foreign.key),
            "issued.pem",
            "does not belong",
        ),
    ] {
        let settings = CertificateSettings {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let error = load_certificate(&settings).unwrap_err();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }
}

#[test]
fn a_fault_of_the_authorities_names_the_file_as_well() {
    let workshop = Workshop::new();
    let missing = workshop.dir.path().join("missing.pem");
    let empty = workshop.write("empty.pem", "");
    let fake = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let fake = workshop.write("fake.pem", fake);
    for (ca, words) in [
        (&missing, "no such file"),
        (&empty, "no certificate"),
        (&fake, "not usable as an authority"),
    ] {
        let client_auth = Some(ClientAuthSettings {
            ca: ca.clone(),
            required: true,
        });
        let settings = TlsSettings {
            client_auth,
            ..TlsSettings::default()
        };
        let error = TlsSlot::new(&settings, false, workshop.certificates(&[&["a"]])).unwrap_err();
        assert!(
            error.contains(words) && error.contains(ca.to_str().unwrap()),
            "{error}"
        );
    }
}
