//! Small endpoints for tests: they answer with fixed bytes over any transport.

use super::endpoint::{Address, Endpoint};
use super::peer::PeerTemplate;
use super::settings::{Settings, TlsSettings};
use crate::base::fault::{Faults, KeyPath};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell";

/// The one place where tests make endpoints.
pub fn endpoint(address: Address, host: Option<&str>) -> Arc<Endpoint> {
    let host = host.map(str::to_owned);
    Arc::new(Endpoint::new(address, host, 1, Instant::now()))
}

pub fn template(settings: &Settings) -> Arc<PeerTemplate> {
    let mut faults = Faults::default();
    let template = PeerTemplate::build("app", settings, &KeyPath::root(), &mut faults);
    Arc::new(template.unwrap_or_else(|| panic!("{:?}", faults.0)))
}

pub fn install_crypto() {
    // Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Polls until `condition` holds; panics with `what` after ten seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        let mut poll = tokio::time::interval(Duration::from_millis(2));
        while !condition() {
            poll.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .is_ok(),
        "never: {what}"
    );
}

/// An endpoint that runs until it is dropped.
pub struct Fake {
    pub address: Address,
    /// Heads of the requests, as they came; for HTTP/2 their URIs.
    pub heads: Arc<Mutex<Vec<String>>>,
    handle: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Reads one head, says `answer`, and waits for the other end to close. An empty answer is silence.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Vec<u8>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    let _ = stream.write_all(&answer).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

impl Fake {
    pub async fn tcp(answer: &str) -> Self {
        Self::tcp_at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    pub async fn tcp_at(address: SocketAddr, answer: &str) -> Self {
        let answer = answer.as_bytes().to_vec();
        Self::accepting(address, move |stream, heads| {
            serve(stream, answer.clone(), heads)
        })
        .await
    }

    pub async fn tls(answer: &str, acceptor: TlsAcceptor) -> Self {
        let answer = answer.as_bytes().to_vec();
        Self::accepting("127.0.0.1:0".parse().unwrap(), move |stream, heads| {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    serve_h2(stream, heads).await;
                } else {
                    serve(stream, answer, heads).await;
                }
            }
        })
        .await
    }

    pub async fn h2c() -> Self {
        Self::accepting("127.0.0.1:0".parse().unwrap(), serve_h2).await
    }

    pub fn unix(path: &Path, answer: &str) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let heads = Arc::default();
        let (log, answer) = (Arc::clone(&heads), answer.as_bytes().to_vec());
        let handle = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), Arc::clone(&log)));
            }
        });
        Self {
            address: Address::Unix(path.to_owned()),
            heads,
            handle,
        }
    }

    pub async fn accepting<F>(
        address: SocketAddr,
        serve: impl Fn(tokio::net::TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        let heads = Arc::default();
        let log = Arc::clone(&heads);
        let handle = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&log)));
            }
        });
        Self {
            address,
            heads,
            handle,
        }
    }

    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Ip(address) => address.port(),
            Address::Unix(_) => panic!("a socket has no port"),
        }
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve_h2(stream: impl AsyncRead + AsyncWrite + Unpin, heads: Arc<Mutex<Vec<String>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let uri = request.uri().to_string();
        heads.lock().unwrap().push(uri);
        let mut body = respond
            .send_response(http::Response::new(()), false)
            .unwrap();
        body.send_data("well".into(), true).unwrap();
    }
}

/// An authority of its own, and what it signed, as files.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        install_crypto();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            directory: tempfile::tempdir().unwrap(),
            issuer,
        };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Trusts this authority.
    pub fn settings(&self) -> TlsSettings {
        TlsSettings {
            ca: Some(self.path("ca.pem")),
            ..TlsSettings::default()
        }
    }

    /// Writes `{file}.pem` and `{file}.key`.
    pub fn sign(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let paths = (
            self.path(&format!("{file}.pem")),
            self.path(&format!("{file}.key")),
        );
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// A server for these names; with `clients`, it wants a certificate of this authority from them.
    pub fn acceptor(&self, names: &[&str], alpn: &[&str], clients: bool) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let builder = rustls::ServerConfig::builder();
        let builder = if clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![certificate.der().clone()];
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
