//! How an endpoint is connected to: everything Pingora wants to know, prepared once per pool.
//!
//! Invariant: traffic and probes connect by the same template, so a probe proves what traffic meets.
//! Pingora's own key for reusing connections covers neither the authorities nor the protocol: the
//! group key here does, so a connection verified in one way is never used in another.

use super::broken::Broken;
use super::endpoint::{Address, Endpoint};
use super::settings::{Protocol, Settings, TlsSettings};
use super::socket::{TCP_KEEPALIVE_COUNT, TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL};
use crate::base::fault::{Faults, KeyPath};
use pingora::protocols::TcpKeepalive;
use pingora::protocols::tls::CaType;
use pingora::tls::{CertificateDer, PrivateKeyDer, RootCertStore, ServerName};
use pingora::upstreams::peer::{HttpPeer, PeerOptions};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How often an HTTP/2 connection is asked whether its other end is still there: a dead
/// one would hold up to a hundred requests.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// Largest certificate or key file read.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Sent as SNI where there is nothing better and nothing is verified; rustls needs some name.
const NO_NAME: &str = "localhost";

/// Time limits of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTimeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// For one read: the first byte, then each gap. None: no limit.
    pub read: Option<Duration>,
    /// For one write. None: no limit.
    pub write: Option<Duration>,
}

/// Makes the peers of one pool. Files are read when it is built; making a peer touches neither disk
/// nor DNS.
#[derive(Debug)]
pub struct PeerTemplate {
    tls: bool,
    server_name: Option<String>,
    client_certificate: Option<Arc<CertKey>>,
    options: PeerOptions,
    group_key: u64,
    /// For upgrades, which speak HTTP/1.1 also where the pool speaks HTTP/2.
    upgrade_group_key: u64,
    keepalive: bool,
    http2: bool,
}

impl PeerTemplate {
    /// Reads and checks all that `settings` name; `at` is the place of the pool in the document. On
    /// errors there is no template, and all of them are in `faults`.
    pub fn build(
        pool: &str,
        settings: &Settings,
        at: &KeyPath,
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut problems = Faults::default();
        check_keepalive(settings, at, &mut problems);
        check_sockets(settings, at, &mut problems);
        let trust = settings.tls.as_ref().map(|tls| {
            check_names(settings, tls, at, &mut problems);
            Trust::read(tls, &at.key("tls"), &mut problems)
        });
        let failed = problems.has_errors();
        faults.0.append(&mut problems.0);
        if failed {
            return None;
        }
        let trust = trust.unwrap_or_default();
        let tls = settings.tls.as_ref();
        let options = options(settings, trust.authorities.clone());
        let key = |alpn: &str| group_key(pool, tls, &trust, alpn);
        Some(Self {
            tls: tls.is_some(),
            server_name: tls.and_then(|tls| tls.server_name.clone()),
            group_key: key(&options.alpn.to_string()),
            upgrade_group_key: key("upgrade"),
            client_certificate: trust.client_certificate,
            options,
            keepalive: !settings.keepalive.idle.0.is_zero(),
            http2: settings.protocol == Protocol::Http2,
        })
    }

    /// The peer of an endpoint; `host` is the name it was looked up by. Fails only for socket paths that
    /// [`PeerTemplate::build`] refuses.
    pub fn peer(
        &self,
        address: &Address,
        host: Option<&str>,
        timeouts: PeerTimeouts,
    ) -> Result<HttpPeer, String> {
        self.make(address, host, timeouts, self.group_key)
    }

    /// The peer for a request that asks for an upgrade: always HTTP/1.1.
    pub fn upgrade_peer(
        &self,
        address: &Address,
        host: Option<&str>,
        timeouts: PeerTimeouts,
    ) -> Result<HttpPeer, String> {
        let mut peer = self.make(address, host, timeouts, self.upgrade_group_key)?;
        peer.options.set_http_version(1, 1);
        peer.options.h2_ping_interval = None;
        Ok(peer)
    }

    /// The peer of an endpoint that traffic goes to; with an own time limit only for connecting: what
    /// comes after has limits of its own, which change as a request goes on.
    pub(super) fn peer_of(
        &self,
        endpoint: &Endpoint,
        connect: Duration,
        upgrade: bool,
    ) -> Result<Box<HttpPeer>, Broken> {
        let timeouts = PeerTimeouts {
            connect,
            read: None,
            write: None,
        };
        let (address, host) = (&endpoint.address, endpoint.host.as_deref());
        let peer = if upgrade {
            self.upgrade_peer(address, host, timeouts)
        } else {
            self.peer(address, host, timeouts)
        };
        peer.map(Box::new).map_err(|cause| Broken::NotConnected {
            timed_out: false,
            our_own_want: true,
            cause,
        })
    }

    /// Equal for connections that can stand in for each other.
    pub(super) fn connection_key(&self, endpoint: &Endpoint, upgrade: bool) -> u64 {
        let group = if upgrade {
            self.upgrade_group_key
        } else {
            self.group_key
        };
        let mut hasher = DefaultHasher::new();
        (group, &endpoint.address).hash(&mut hasher);
        if self.tls {
            endpoint.host.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// False for `idle: 0s`: requests over HTTP/1.1 then say `Connection: close`.
    pub fn keeps_connections(&self) -> bool {
        self.keepalive
    }

    /// Whether endpoints speak TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether endpoints may be spoken to in HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.http2
    }

    /// The same for two templates that connect in the same way.
    pub fn fingerprint(&self) -> u64 {
        self.group_key
    }

    fn make(
        &self,
        address: &Address,
        host: Option<&str>,
        timeouts: PeerTimeouts,
        group_key: u64,
    ) -> Result<HttpPeer, String> {
        let name = if self.tls {
            self.name_of(address, host)
        } else {
            String::new()
        };
        let mut peer = match address {
            // A socket address, never a name: Pingora would look a name up here and now.
            Address::Ip(address) => HttpPeer::new(address, self.tls, name),
            Address::Unix(path) => socket_peer(path, self.tls, name)?,
        };
        peer.options = self.options.clone();
        peer.options.connection_timeout = Some(timeouts.connect);
        peer.options.total_connection_timeout = Some(timeouts.connect);
        peer.options.read_timeout = timeouts.read;
        peer.options.write_timeout = timeouts.write;
        peer.client_cert_key.clone_from(&self.client_certificate);
        peer.group_key = group_key;
        Ok(peer)
    }

    /// SNI and the name that is verified. An address is verified against the addresses in the
    /// certificate, and not sent (RFC 6066, section 3). Never empty: that would switch verification off.
    fn name_of(&self, address: &Address, host: Option<&str>) -> String {
        match (&self.server_name, host, address) {
            (Some(name), _, _) => name.clone(),
            (None, Some(host), _) => host.to_owned(),
            (None, None, Address::Ip(address)) => address.ip().to_string(),
            (None, None, Address::Unix(_)) => NO_NAME.to_owned(),
        }
    }
}

/// Refuses what the system does not take (over 107 bytes, a zero byte), and the empty path, at which
/// Pingora would panic when it connects.
fn socket_peer(path: &Path, tls: bool, name: String) -> Result<HttpPeer, String> {
    path.to_str()
        .filter(|text| !text.is_empty())
        .and_then(|text| HttpPeer::new_uds(text, tls, name).ok())
        .ok_or_else(|| format!("`{}` cannot be the path of a socket", path.display()))
}

/// Certificates and keys that were read for one pool.
#[derive(Default)]
struct Trust {
    authorities: Option<Arc<CaType>>,
    client_certificate: Option<Arc<CertKey>>,
    /// Contents of the files, for the group key.
    contents: Vec<Vec<u8>>,
}

impl Trust {
    fn read(tls: &TlsSettings, at: &KeyPath, faults: &mut Faults) -> Self {
        let mut trust = Self::default();
        if let Some(path) = &tls.ca {
            match authorities(path, &mut trust.contents) {
                Ok(authorities) => trust.authorities = Some(authorities),
                Err(what) => faults.error(at.key("ca"), what, ""),
            }
        } else if !tls.verify {
            trust.authorities = placeholder_authority();
        }
        match (&tls.client_certificate, &tls.client_key) {
            (Some(certificate), Some(key)) => {
                match client_certificate(certificate, key, &mut trust.contents) {
                    Ok(pair) => trust.client_certificate = Some(pair),
                    Err(what) => faults.error(at.key("client_certificate"), what, ""),
                }
            }
            (None, None) => {}
            (Some(_), None) => faults.error(
                at.key("client_certificate"),
                "a client certificate without its key",
                "add `client_key`",
            ),
            (None, Some(_)) => faults.error(
                at.key("client_key"),
                "a client key without its certificate",
                "add `client_certificate`",
            ),
        }
        trust
    }
}

/// Pingora builds a verifier even where nothing is verified, and rustls refuses one that trusts
/// nobody: on a machine without system authorities, `verify: false` would fail every connection.
fn placeholder_authority() -> Option<Arc<CaType>> {
    let made = rcgen::generate_simple_self_signed(Vec::new()).ok()?;
    Some(Arc::new([WrappedX509::new(
        made.cert.der().to_vec(),
        parse_x509,
    )]))
}

fn authorities(path: &Path, contents: &mut Vec<Vec<u8>>) -> Result<Arc<CaType>, String> {
    let mut store = RootCertStore::empty();
    let mut wrapped = Vec::new();
    for der in certificates(path, contents)? {
        store
            .add(der.clone())
            .map_err(|error| format!("`{}` holds no usable authority: {error}", path.display()))?;
        wrapped.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    Ok(wrapped.into())
}

fn client_certificate(
    certificate_path: &Path,
    key_path: &Path,
    contents: &mut Vec<Vec<u8>>,
) -> Result<Arc<CertKey>, String> {
    let chain = certificates(certificate_path, contents)?;
    let pem = read(key_path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        format!(
            "`{}` holds no private key in PEM: {error}",
            key_path.display()
        )
    })?;
    let der = key.secret_der().to_vec();
    // Pingora guesses the kind of the key from its bytes, and panics if it cannot.
    PrivateKeyDer::try_from(der.as_slice())
        .map_err(|error| format!("`{}`: {error}", key_path.display()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
        format!(
            "the certificate in `{}` does not go with the key in `{}`: {error}",
            certificate_path.display(),
            key_path.display()
        )
    })?;
    contents.push(pem);
    let chain = chain.into_iter().map(|der| der.to_vec()).collect();
    Ok(Arc::new(CertKey::new(chain, der)))
}

/// At least one certificate, each one parsed: Pingora parses them again, and panics if it cannot.
fn certificates(
    path: &Path,
    contents: &mut Vec<Vec<u8>>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found =
        found.map_err(|error| format!("`{}` is not readable PEM: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("`{}` holds no certificate in PEM", path.display()));
    }
    for der in &found {
        X509Certificate::from_der(der)
            .map_err(|error| format!("`{}` holds a broken certificate: {error}", path.display()))?;
    }
    contents.push(pem);
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| format!("cannot read `{}`: {error}", path.display());
    let mut content = Vec::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(PEM_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > PEM_BYTES_MAX {
        return Err(format!("`{}` is larger than 1 MiB", path.display()));
    }
    Ok(content)
}

fn check_keepalive(settings: &Settings, at: &KeyPath, faults: &mut Faults) {
    if settings.keepalive.h2_streams == 0 {
        faults.error(
            at.key("keepalive").key("h2_streams"),
            "a connection without streams carries no request",
            "write 1 or more",
        );
    }
}

fn check_sockets(settings: &Settings, at: &KeyPath, faults: &mut Faults) {
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let Some(path) = endpoint.address.strip_prefix("unix:") else {
            continue;
        };
        if let Err(what) = socket_peer(Path::new(path), false, String::new()) {
            let fix = "write `unix:/path`, at most 107 bytes long";
            faults.error(at.key("endpoints").key(index), what, fix);
        }
    }
}

/// Each endpoint needs a name to verify: the setting's, its own, or its IP address.
fn check_names(settings: &Settings, tls: &TlsSettings, at: &KeyPath, faults: &mut Faults) {
    if let Some(name) = &tls.server_name {
        if ServerName::try_from(name.as_str()).is_err() {
            let what = format!("`{name}` cannot be the name in a certificate");
            faults.error(at.key("tls").key("server_name"), what, "");
        }
        return;
    }
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let at = at.key("endpoints").key(index);
        if endpoint.address.starts_with("unix:") {
            if tls.verify {
                faults.error(
                    at,
                    "a socket has no name that its certificate could be verified by",
                    "add `server_name` to `tls`, or `verify: false`",
                );
            }
            continue;
        }
        let name = host_of(&endpoint.address);
        if ServerName::try_from(name).is_err() {
            let what = format!("`{name}` cannot be the name in a certificate");
            faults.error(at, what, "add `server_name` to `tls`");
        }
    }
}

/// `[::1]:443` is `::1`, `app.internal:443` is `app.internal`.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn options(settings: &Settings, authorities: Option<Arc<CaType>>) -> PeerOptions {
    let mut options = PeerOptions::new();
    match (settings.protocol, &settings.tls) {
        (Protocol::Http1, _) => options.set_http_version(1, 1),
        // Agreed on by ALPN; an endpoint that does not offer HTTP/2 is spoken to in HTTP/1.1.
        (Protocol::Http2, Some(_)) => options.set_http_version(2, 1),
        // Nothing to agree by: "at least 2" makes Pingora start with the HTTP/2 preface.
        (Protocol::Http2, None) => options.set_http_version(2, 2),
    }
    if settings.protocol == Protocol::Http2 {
        options.h2_ping_interval = Some(H2_PING_INTERVAL);
        options.max_h2_streams = settings.keepalive.h2_streams as usize;
    }
    if let Some(tls) = &settings.tls {
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
    }
    options.ca = authorities;
    options.idle_timeout = Some(settings.keepalive.idle.0);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: TCP_KEEPALIVE_IDLE,
        interval: TCP_KEEPALIVE_INTERVAL,
        count: TCP_KEEPALIVE_COUNT as usize,
        // Zero leaves it to the system.
        user_timeout: Duration::ZERO,
    });
    options
}

/// The same inputs give the same key for the life of the process, so connections survive a reload.
/// Each part goes in with its length.
fn group_key(pool: &str, tls: Option<&TlsSettings>, trust: &Trust, alpn: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pool, alpn, &trust.contents).hash(&mut hasher);
    if let Some(tls) = tls {
        (&tls.server_name, tls.verify).hash(&mut hasher);
        (tls.ca.is_some(), tls.client_certificate.is_some()).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
