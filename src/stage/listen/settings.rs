//! A listener as it is written: addresses, protocols, certificates.

use super::address::{ListenAddress, SocketMode};
use crate::base::units::{Bytes, OneOrMany, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Where callers connect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// One or more of `0.0.0.0:8080`, `[::]:8080`, `unix:/run/onemind/web.sock`. Whoever may open a Unix
    /// socket is trusted as if in `trusted_proxies`, and no limit by address holds for it.
    pub address: OneOrMany<ListenAddress>,
    /// Who may connect to the Unix sockets among its addresses: the mode of their files, in octal.
    /// A socket of systemd keeps its own. Default `"0660"`.
    #[schemars(with = "Option<String>")]
    pub mode: Option<SocketMode>,
    /// End TLS here.
    pub tls: Option<TlsSettings>,
    /// HTTP/2: offered by ALPN on TLS; on a plain listener taken with prior knowledge (h2c).
    /// Default: `true` with `tls`, `false` without.
    pub http2: Option<bool>,
    /// Answer every request with a redirect to `https` on this port; nothing else is served here.
    pub redirect_to_https: Option<u16>,
    /// Expect a PROXY protocol header (v1 or v2) on every connection. Its peers must lie in `trusted_proxies`.
    pub proxy_protocol: bool,
    /// An idle connection is closed after this. Default `60s`.
    pub keepalive: Keepalive,
    /// Requests on one connection; with the last answer it is closed. Default: no limit.
    pub keepalive_requests: Option<NonZeroU32>,
    /// What a request head may be.
    pub head: HeadSettings,
    /// Bytes a second that a caller must send of its body, or take of its answer, on average over the time
    /// that is spent on waiting for it; as much as the route's `timeouts.idle` is free. Default `240B`; `0B`: no limit.
    pub min_rate: MinRate,
}

/// What a request head may be, in whichever protocol. A larger one is answered with 431.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadSettings {
    /// The whole head must arrive within this, counted from its first byte; else 408. Default `10s`.
    pub timeout: Period,
    /// Largest head, request line and all fields together. Default `32KiB`.
    pub bytes: Bytes,
    /// Most fields, 1 to 256. Default 100.
    pub fields: u16,
}

impl Default for HeadSettings {
    fn default() -> Self {
        Self {
            timeout: Period::seconds(10),
            bytes: Bytes(32 * 1024),
            fields: 100,
        }
    }
}

/// A pace in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct MinRate(pub Bytes);

impl Default for MinRate {
    fn default() -> Self {
        Self(Bytes(240))
    }
}

/// How long an idle connection is kept.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Keepalive(pub Period);

impl Default for Keepalive {
    fn default() -> Self {
        Self(Period::seconds(60))
    }
}

impl Settings {
    pub fn socket_mode(&self) -> SocketMode {
        self.mode.unwrap_or_default()
    }

    pub fn http2_enabled(&self) -> bool {
        self.http2.unwrap_or(self.tls.is_some())
    }
}

/// TLS towards callers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Chosen by the name asked for (SNI), which is compared with the names in each certificate;
    /// the first is the default. Files are read again when they change.
    pub certificates: Vec<CertificateSettings>,
    /// The oldest version taken: `"1.2"` (default) or `"1.3"`.
    pub min_version: TlsVersion,
    /// Verify certificates of callers.
    pub client_auth: Option<ClientAuthSettings>,
    /// Send `Strict-Transport-Security`.
    pub hsts: Option<HstsSettings>,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateSettings {
    /// The certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// The oldest TLS version taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Verification of callers' certificates.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuthSettings {
    /// PEM file of the authorities that sign callers.
    pub ca: PathBuf,
    /// Whether a caller without a certificate is turned away. Default `true`.
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

/// `Strict-Transport-Security` (RFC 6797).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HstsSettings {
    /// Default `365d`.
    pub max_age: Period,
    /// Default `false`.
    pub include_subdomains: bool,
    /// Default `false`.
    pub preload: bool,
}

impl Default for HstsSettings {
    fn default() -> Self {
        Self {
            max_age: Period::seconds(365 * 86_400),
            include_subdomains: false,
            preload: false,
        }
    }
}
