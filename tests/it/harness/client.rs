//! A caller: exact bytes over HTTP/1.1, plain or TLS, and what came back.

use super::certs::{Authority, Leaf};
use super::gateway::Gateway;
use super::in_time;
use super::wire::{Io, Wire, content_length, is_chunked, values};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An answer as it was on the wire.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The raw head.
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing promised.
    pub complete: bool,
    /// Heads of 1xx answers before it.
    pub informational: Vec<String>,
    pub trailers: Vec<String>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let all = values(&self.head, name);
        assert!(all.len() < 2, "several {name}: {all:?}");
        all.first().copied()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|fault| panic!("{fault}: {}", self.text()))
    }

    /// Asserts a refusal of the gateway itself: status, stable code, a sentence, a request id.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert!(
            body["message"].as_str().is_some_and(|m| !m.is_empty()),
            "{body}"
        );
        assert!(
            body["request_id"].as_str().is_some_and(|id| !id.is_empty()),
            "{body}"
        );
        let content_type = self.header("content-type").unwrap_or_default();
        assert!(
            content_type.starts_with("application/json"),
            "{}",
            self.head
        );
        assert!(self.complete);
    }
}

/// How to speak TLS: whom to trust, which name to ask for, what to offer.
pub struct Tls {
    config: ClientConfig,
    roots: RootCertStore,
    name: String,
}

impl Tls {
    pub fn to(authority: &Authority, name: &str) -> Self {
        let config = ClientConfig::builder()
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        Self {
            config,
            roots: authority.roots(),
            name: name.to_owned(),
        }
    }

    pub fn showing(authority: &Authority, name: &str, leaf: Leaf) -> Self {
        let config = ClientConfig::builder()
            .with_root_certificates(authority.roots())
            .with_client_auth_cert(vec![leaf.der], leaf.key)
            .unwrap();
        Self {
            config,
            roots: authority.roots(),
            name: name.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn offering(mut self, alpn: &[&[u8]]) -> Self {
        self.config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        self
    }

    /// Takes any certificate: for tests that look at it themselves.
    pub fn unverified(mut self) -> Self {
        let verifier = Arc::new(AnyCertificate);
        self.config.dangerous().set_certificate_verifier(verifier);
        self
    }

    pub fn only_tls12(mut self) -> Self {
        let roots = self.roots.clone();
        self.config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
            .with_root_certificates(roots)
            .with_no_client_auth();
        self
    }

    pub fn without_sni(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    pub async fn connect<S: Io + 'static>(self, stream: S) -> std::io::Result<Secured> {
        let name = ServerName::try_from(self.name).unwrap();
        let stream = TlsConnector::from(Arc::new(self.config))
            .connect(name, stream)
            .await?;
        let (_, session) = stream.get_ref();
        Ok(Secured {
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            certificate: session.peer_certificates().unwrap()[0].clone(),
            io: Box::new(stream),
        })
    }
}

/// Believes any certificate, so that a test can read which one was shown.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
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
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A TLS connection and what was agreed on it.
pub struct Secured {
    pub io: Box<dyn Io>,
    pub alpn: Option<Vec<u8>>,
    pub certificate: CertificateDer<'static>,
}

/// One connection of a caller.
pub struct Client {
    wire: Wire,
    sent: Option<Arc<AtomicU64>>,
    /// What is sent as `Host` unless a request says otherwise.
    pub host: String,
}

impl Client {
    /// To the listener `{{http}}`.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::connect_to(gateway, "http").await
    }

    /// To the listener that was given this placeholder.
    pub async fn connect_to(gateway: &Gateway, listener: &str) -> Self {
        let stream = in_time("connect", TcpStream::connect(gateway.address(listener))).await;
        Self::over(gateway, Box::new(stream.expect("the gateway accepts")))
    }

    /// TLS to the listener `{{https}}`.
    pub async fn secure(gateway: &Gateway, tls: Tls) -> Self {
        let host = tls.name.clone();
        let secured = Self::handshake(gateway, tls).await.expect("handshake");
        let mut client = Self::over(gateway, secured.io);
        client.host = host;
        client
    }

    pub async fn handshake(gateway: &Gateway, tls: Tls) -> std::io::Result<Secured> {
        let stream = TcpStream::connect(gateway.address("https")).await?;
        in_time("handshake", tls.connect(stream)).await
    }

    /// Over any connection; nothing is counted.
    pub fn stray(io: Box<dyn Io>) -> Self {
        Self {
            wire: Wire::new(io),
            sent: None,
            host: "test".to_owned(),
        }
    }

    pub fn over(gateway: &Gateway, io: Box<dyn Io>) -> Self {
        Self {
            wire: Wire::new(io),
            sent: Some(gateway.sent()),
            host: "test".to_owned(),
        }
    }

    /// To anything else, such as an upstream; nothing is counted.
    pub async fn direct(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::stray(Box::new(stream))
    }

    pub async fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, &[], b"").await
    }

    pub async fn post(&mut self, target: &str, body: &[u8]) -> Answer {
        self.request("POST", target, &[], body).await
    }

    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        match self.try_request(method, target, headers, body).await {
            Ok(answer) => answer,
            Err(fault) => panic!("{method} {target}: {fault}"),
        }
    }

    /// As `request`, but a broken connection is an error and not a failed test.
    pub async fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut bytes = self.head(method, target, headers).into_bytes();
        if !body.is_empty() || method == "POST" {
            bytes.truncate(bytes.len() - 2);
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        }
        self.count(1);
        let (small, large) = (body.len() < 16 << 10, !body.is_empty());
        if small {
            bytes.extend_from_slice(body);
        }
        // A refusal may come before the body is sent: then the answer is what counts.
        let _ = in_time("send a request", async {
            self.wire.send(&bytes).await?;
            if !small && large {
                self.wire.send(body).await?;
            }
            Ok::<_, std::io::Error>(())
        })
        .await;
        self.read_answer(method == "HEAD").await
    }

    /// POST in chunks of this size.
    pub async fn post_chunked(&mut self, target: &str, body: &[u8], size: usize) -> Answer {
        let answer = self.try_post_chunked(target, body, size).await;
        answer.expect("an answer")
    }

    pub async fn try_post_chunked(
        &mut self,
        target: &str,
        body: &[u8],
        size: usize,
    ) -> std::io::Result<Answer> {
        let head = self.head("POST", target, &[("transfer-encoding", "chunked")]);
        self.count(1);
        // A refusal may come before the body is sent: then the answer is what counts.
        let _ = in_time("send chunks", async {
            self.wire.send(head.as_bytes()).await?;
            for chunk in body.chunks(size) {
                let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                self.wire.send(&bytes).await?;
            }
            self.wire.send(b"0\r\n\r\n").await
        })
        .await;
        self.read_answer(false).await
    }

    fn head(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            let _ = write!(head, "host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// Exactly these bytes; count requests in them with `count`.
    pub async fn send(&mut self, bytes: &[u8]) {
        in_time("send", self.wire.send(bytes)).await.expect("send");
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        in_time("send", self.wire.send(bytes)).await
    }

    /// Notes that so many requests were sent by hand.
    pub fn count(&self, requests: u64) {
        if let Some(sent) = &self.sent {
            sent.fetch_add(requests, SeqCst);
        }
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Answer {
        self.read_answer(false).await.expect("an answer")
    }

    /// The next head, be it of an informational answer.
    pub async fn raw_head(&mut self) -> String {
        let head = in_time("a head", self.wire.head()).await;
        head.expect("a head").expect("not the end")
    }

    /// The next line of whatever comes.
    pub async fn raw_line(&mut self) -> String {
        in_time("a line", self.wire.line()).await.expect("a line")
    }

    pub async fn read_answer(&mut self, to_head: bool) -> std::io::Result<Answer> {
        in_time("an answer", self.read(to_head)).await
    }

    async fn read(&mut self, to_head: bool) -> std::io::Result<Answer> {
        let mut informational = Vec::new();
        loop {
            let Some(head) = self.wire.head().await? else {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            };
            let status: u16 = head[9..12].parse().expect("a status");
            if (100..200).contains(&status) && status != 101 {
                informational.push(head);
                continue;
            }
            let mut answer = Answer {
                status,
                head,
                body: Vec::new(),
                complete: true,
                informational,
                trailers: Vec::new(),
            };
            if !to_head && !matches!(status, 101 | 204 | 304) {
                self.read_body(&mut answer).await;
            }
            return Ok(answer);
        }
    }

    async fn read_body(&mut self, answer: &mut Answer) {
        let body = &mut answer.body;
        let mut sink = |part: &[u8]| body.extend_from_slice(part);
        let read = if is_chunked(&answer.head) {
            self.wire
                .chunked(&mut sink)
                .await
                .map(|trailers| answer.trailers = trailers)
        } else if let Some(length) = content_length(&answer.head) {
            self.wire.fixed(length, &mut sink).await
        } else {
            self.wire.until_end(&mut sink).await
        };
        answer.complete = read.is_ok();
    }

    /// Whether the gateway closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut rest = 0;
        let _ = in_time("close", self.wire.until_end(&mut |part| rest += part.len())).await;
        rest == 0
    }

    /// A connection of which every request is counted here.
    pub fn counted(stream: TcpStream, sent: &Arc<AtomicU64>) -> Self {
        Self {
            wire: Wire::new(Box::new(stream)),
            sent: Some(Arc::clone(sent)),
            host: "test".to_owned(),
        }
    }

    /// The connection, and what was read from it but not used.
    pub fn into_parts(self) -> (Box<dyn Io>, Vec<u8>) {
        let rest = self.wire.unused().to_vec();
        (self.wire.io, rest)
    }
}
