//! One probe: ask an endpoint whether it is well, by the connection that traffic would make.

use super::endpoint::{Address, Endpoint};
use super::peer::{PeerTemplate, PeerTimeouts};
use super::settings::{HealthCheck, HealthSettings, Settings};
use crate::base::fault::{Faults, KeyPath};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, header};
use memchr::memmem;
use pingora::connectors::http::v2;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const USER_AGENT: &str = "onemind-health";

/// Of a body, this much is searched for `expect_body`.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Answers 1xx before the real one; an endpoint that sends more is not well.
const INTERIM_MAX: usize = 8;

/// What the probes of one pool do: its settings, read once.
#[derive(Debug)]
pub struct Probe {
    settings: HealthSettings,
    path: PathAndQuery,
    host: Option<Authority>,
    statuses: Vec<RangeInclusive<u16>>,
    peers: Arc<PeerTemplate>,
    fingerprint: u64,
}

/// Why an endpoint did not pass; one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeError(pub String);

/// Opens a new connection for each probe, and keeps none: a probe on a kept connection would not
/// tell whether new ones are taken.
pub struct ProbeConnector(v2::Connector);

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProbeError {}

impl Default for ProbeConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl ProbeConnector {
    /// Reads the system's certificate authorities. Pingora panics if they are there but unreadable.
    pub fn new() -> Self {
        // Despite its name it also speaks HTTP/1.1, and in contrast to the common connector it never
        // looks for a kept connection.
        Self(v2::Connector::new(None))
    }
}

impl Probe {
    /// Checks the `health` section of a pool; `at` is the place of the pool in the document.
    pub fn build(
        settings: &Settings,
        peers: Arc<PeerTemplate>,
        at: &KeyPath,
        faults: &mut Faults,
    ) -> Option<Self> {
        let at = at.key("health");
        let health = &settings.health;
        let path = parse_path(health, &at, faults);
        let host = parse_host(health, &at, faults);
        let statuses = parse_statuses(health, &at, faults);
        let timing = check_timing(health, &at, faults);
        let mut hasher = DefaultHasher::new();
        (format!("{health:?}"), peers.fingerprint()).hash(&mut hasher);
        timing?;
        Some(Self {
            settings: health.clone(),
            path: path?,
            host: host?,
            statuses: statuses?,
            fingerprint: hasher.finish(),
            peers,
        })
    }

    pub fn settings(&self) -> &HealthSettings {
        &self.settings
    }

    /// The same for two probes that ask the same question in the same way.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Asks once. Takes at most the `timeout` of the settings, connecting included.
    pub async fn run(
        &self,
        connector: &ProbeConnector,
        endpoint: &Endpoint,
    ) -> Result<(), ProbeError> {
        let limit = self.settings.timeout;
        match timeout(limit.0, self.attempt(connector, endpoint)).await {
            Ok(result) => result.map_err(ProbeError),
            Err(_) => Err(ProbeError(format!("no answer within {limit}"))),
        }
    }

    async fn attempt(&self, connector: &ProbeConnector, endpoint: &Endpoint) -> Result<(), String> {
        let address = self.address(&endpoint.address);
        let peer = self.peer(&address, endpoint.host.as_deref())?;
        match self.settings.check {
            HealthCheck::Off => Ok(()),
            HealthCheck::Tcp => {
                let connected = connector.0.transport().new_stream(&peer).await;
                connected.map(drop).map_err(|error| describe(&error))
            }
            HealthCheck::Http => {
                let session = connector.0.new_http_session::<HttpPeer, ()>(&peer).await;
                let mut session = session.map_err(|error| describe(&error))?;
                let authority = self.authority(&address, endpoint.host.as_deref())?;
                let h2 = matches!(session, HttpSession::H2(_));
                let request = self.request(authority, h2)?;
                self.exchange(&mut session, request).await
            }
        }
    }

    /// With the other port, if one is set; sockets have none.
    fn address(&self, address: &Address) -> Address {
        match (address, self.settings.port) {
            (Address::Ip(ip), Some(port)) => Address::Ip(SocketAddr::new(ip.ip(), port)),
            _ => address.clone(),
        }
    }

    fn peer(&self, address: &Address, host: Option<&str>) -> Result<HttpPeer, String> {
        let limit = self.settings.timeout.0;
        let timeouts = PeerTimeouts {
            connect: limit,
            read: Some(limit),
            write: Some(limit),
        };
        let mut peer = self.peers.peer(address, host, timeouts)?;
        // One stream per connection: it closes with the probe.
        peer.options.max_h2_streams = 1;
        peer.options.h2_ping_interval = None;
        Ok(peer)
    }

    /// `Host`: the setting's, else the endpoint's name or address as a browser would write it.
    fn authority(&self, address: &Address, host: Option<&str>) -> Result<Authority, String> {
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        let Address::Ip(address) = address else {
            return Ok(Authority::from_static("localhost"));
        };
        let usual = if self.peers.is_tls() { 443 } else { 80 };
        let text = match (host, address.port() == usual) {
            (Some(host), true) => host.to_owned(),
            (Some(host), false) => format!("{host}:{}", address.port()),
            (None, true) if address.is_ipv6() => format!("[{}]", address.ip()),
            (None, true) => address.ip().to_string(),
            (None, false) => address.to_string(),
        };
        Authority::try_from(text).map_err(|error| format!("cannot write `Host`: {error}"))
    }

    fn request(&self, authority: Authority, h2: bool) -> Result<Box<RequestHeader>, String> {
        let failed = |error: &dyn fmt::Display| format!("cannot write the request: {error}");
        let path = self.path.as_str().as_bytes();
        let mut request =
            RequestHeader::build(Method::GET, path, None).map_err(|error| failed(&error))?;
        let mut add = |name: header::HeaderName, value: &str| {
            request
                .insert_header(name, value)
                .map_err(|error| failed(&error))
        };
        add(header::USER_AGENT, USER_AGENT)?;
        add(header::ACCEPT, "*/*")?;
        if !h2 {
            add(header::HOST, authority.as_str())?;
            add(header::CONNECTION, "close")?;
            return Ok(Box::new(request));
        }
        // The pseudo-headers of HTTP/2 (RFC 9113, section 8.3.1) are taken from the URI.
        let scheme = if self.peers.is_tls() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(self.path.clone())
            .build()
            .map_err(|error| failed(&error))?;
        request.set_uri(uri);
        Ok(Box::new(request))
    }

    async fn exchange(
        &self,
        session: &mut HttpSession<()>,
        request: Box<RequestHeader>,
    ) -> Result<(), String> {
        let failed = |error: Box<pingora::Error>| describe(&error);
        session
            .write_request_header(request)
            .await
            .map_err(failed)?;
        session.finish_request_body().await.map_err(failed)?;
        let status = final_status(session).await?;
        // A redirect is an answer like any other, and not followed: it says nothing about this endpoint.
        if !self.statuses.iter().any(|range| range.contains(&status)) {
            return Err(format!("status {status}"));
        }
        match &self.settings.expect_body {
            None => Ok(()),
            Some(text) => expect_body(session, text).await,
        }
    }
}

async fn final_status(session: &mut HttpSession<()>) -> Result<u16, String> {
    for _ in 0..=INTERIM_MAX {
        session
            .read_response_header()
            .await
            .map_err(|error| describe(&error))?;
        let status = session
            .response_header()
            .map_or(0, |head| head.status.as_u16());
        if !(100..=199).contains(&status) || status == 101 {
            return Ok(status);
        }
    }
    Err(format!("more than {INTERIM_MAX} interim answers"))
}

/// Stops as soon as the text was seen, so that an endless body may contain it.
async fn expect_body(session: &mut HttpSession<()>, text: &str) -> Result<(), String> {
    let finder = memmem::Finder::new(text);
    let mut body = Vec::new();
    loop {
        // From where a match could begin that the last chunk did not complete.
        let from = body.len().saturating_sub(text.len().saturating_sub(1));
        let chunk = session.read_response_body().await;
        let Some(chunk) = chunk.map_err(|error| describe(&error))? else {
            return Err(format!("`{text}` is not in the body"));
        };
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if finder.find(&body[from..]).is_some() {
            return Ok(());
        }
        if body.len() == BODY_BYTES_MAX {
            return Err(format!("`{text}` is not in the first 64 KiB of the body"));
        }
    }
}

/// Pingora's errors in a few words: what failed, and the innermost reason.
fn describe(error: &pingora::Error) -> String {
    use pingora::ErrorType as Kind;
    let what = match error.etype() {
        Kind::ConnectRefused => return "connection refused".to_owned(),
        Kind::ConnectNoRoute => return "no route to the address".to_owned(),
        Kind::ConnectTimedout => return "no connection in time".to_owned(),
        Kind::ConnectionClosed => return "connection closed before an answer".to_owned(),
        Kind::TLSHandshakeFailure => "tls handshake failed",
        Kind::InvalidCert => "certificate not usable",
        Kind::ConnectError => "cannot connect",
        Kind::H2Error => "http/2 error",
        Kind::InvalidHTTPHeader => "not a valid answer",
        other => other.as_str(),
    };
    let reason = match (
        &error.context,
        error.root_cause().downcast_ref::<pingora::Error>(),
    ) {
        // The reason of a failed handshake is in the text that pingora made of it.
        (Some(context), _) if *error.etype() == Kind::TLSHandshakeFailure => {
            Some(innermost(context.as_str()).to_owned())
        }
        (_, None) => Some(error.root_cause().to_string()),
        (_, Some(root)) => root
            .context
            .as_ref()
            .map(|context| context.as_str().to_owned()),
    };
    match reason {
        Some(reason) => format!("{what}: {}", reason.trim()),
        None => what.to_owned(),
    }
}

/// `TLS connect() failed: … cause: the reason, SNI: name` is `the reason, SNI: name`.
fn innermost(text: &str) -> &str {
    text.rsplit_once("cause: ")
        .map_or(text, |(_, reason)| reason)
}

fn parse_path(health: &HealthSettings, at: &KeyPath, faults: &mut Faults) -> Option<PathAndQuery> {
    match PathAndQuery::try_from(health.path.as_str()) {
        Ok(path) if health.path.starts_with('/') => Some(path),
        _ => {
            let what = format!("`{}` is not a path", health.path);
            faults.error(at.key("path"), what, "write a path such as `/health`");
            None
        }
    }
}

/// The outer `None` is a fault.
#[expect(
    clippy::option_option,
    reason = "a fault is not the absence of the setting"
)]
fn parse_host(
    health: &HealthSettings,
    at: &KeyPath,
    faults: &mut Faults,
) -> Option<Option<Authority>> {
    let Some(host) = &health.host else {
        return Some(None);
    };
    match Authority::try_from(host.as_str()) {
        Ok(authority) if !host.contains('@') => Some(Some(authority)),
        _ => {
            let what = format!("`{host}` cannot be sent as `Host`");
            faults.error(at.key("host"), what, "write a name such as `app.internal`");
            None
        }
    }
}

fn parse_statuses(
    health: &HealthSettings,
    at: &KeyPath,
    faults: &mut Faults,
) -> Option<Vec<RangeInclusive<u16>>> {
    let statuses: Vec<_> = health
        .expect_status
        .iter()
        .map(|text| parse_status(text))
        .collect();
    for (text, parsed) in health.expect_status.iter().zip(&statuses) {
        if parsed.is_none() {
            let what = format!("`{text}` is neither a status nor a range of them");
            faults.error(at.key("expect_status"), what, "write `200` or `200-299`");
        }
    }
    if statuses.is_empty() {
        let fix = "write `200-299`, or leave it out";
        faults.error(at.key("expect_status"), "no status counts as well", fix);
        return None;
    }
    statuses.into_iter().collect()
}

/// `200` or `200-299`, within 200 to 599.
fn parse_status(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.trim().parse().ok()?;
    let last: u16 = last.trim().parse().ok()?;
    (200 <= first && first <= last && last <= 599).then_some(first..=last)
}

fn check_timing(health: &HealthSettings, at: &KeyPath, faults: &mut Faults) -> Option<()> {
    let before = faults.0.len();
    let periods = [
        ("interval", health.interval),
        ("fast_interval", health.fast_interval),
        ("timeout", health.timeout),
    ];
    for (key, period) in periods {
        if period.0 < Duration::from_millis(10) {
            faults.error(at.key(key), "shorter than 10ms", "write a longer time");
        }
    }
    for (key, count) in [
        ("unhealthy_after", health.unhealthy_after),
        ("healthy_after", health.healthy_after),
    ] {
        if count == 0 {
            faults.error(at.key(key), "no verdict after no probe", "write 1 or more");
        }
    }
    if health
        .expect_body
        .as_ref()
        .is_some_and(|text| text.len() > BODY_BYTES_MAX)
    {
        faults.error(at.key("expect_body"), "longer than what is searched", "");
    }
    (faults.0.len() == before).then_some(())
}

#[cfg(test)]
mod tests;
