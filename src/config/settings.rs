//! The whole document as it is written; each section is owned by the stage it configures.

use crate::base::units::Period;
use crate::observe::settings::{AccessLogSettings, LogSettings};
use crate::observe::trace;
use crate::stage::{ai, identity, limit, listen, route, upstream};
use crate::store::redis;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The configuration of `OneMind` Gateway.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The process itself.
    pub server: ServerSettings,
    /// Health, metrics and status for operators; keep it off the public network.
    pub admin: AdminSettings,
    /// Redis, for what instances share. Absent: it is kept in this process, and not shared.
    pub redis: Option<redis::Settings>,
    /// Spans of requests for an OpenTelemetry collector. Absent: none are made, and a trusted peer's `traceparent` is
    /// passed on unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<trace::settings::Settings>,
    /// Where callers connect, by name.
    pub listeners: BTreeMap<String, listen::settings::Settings>,
    /// Where requests can go, by name.
    pub pools: BTreeMap<String, upstream::settings::Settings>,
    /// Providers of models, by name; no pool may have the same name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, ai::settings::ProviderSettings>,
    /// What callers may ask for, by name: `smart`, `gpt-5`, or `gpt-*` for all names that begin so. An exact name goes
    /// before the longest beginning. Names that are not here are looked for as `provider/model`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ai::settings::ModelSettings>,
    /// Ways to tell who is calling, by name. Routes choose among them.
    pub identity: BTreeMap<String, identity::settings::Settings>,
    /// How many requests a caller may make.
    pub limits: limit::settings::Settings,
    /// What goes where, by name.
    pub routes: BTreeMap<String, route::settings::Settings>,
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Worker threads. Absent: one for each processor. Takes effect at start.
    pub threads: Option<usize>,
    /// Networks of proxies before us, whose `X-Forwarded-*`, `Forwarded`, `X-Request-Id`,
    /// `traceparent` and PROXY headers are believed.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The process's own log, on standard error: how much it says, and how it looks.
    pub log: LogSettings,
    /// One JSON line for each request: `stdout` (default), `off`, `syslog`, the path of a file, or a section. No request
    /// ever waits for it: lines that nobody takes are dropped and counted.
    pub access_log: AccessLogSettings,
    /// On SIGTERM: not ready at once, but go on accepting for this long. Default `5s`.
    pub drain_delay: Period,
    /// On SIGTERM: leave after this, finished or not. Default `30s`.
    pub drain_deadline: Period,
    /// What all callers together, and each address, may hold of the process.
    pub shield: listen::shield::settings::Settings,
    /// How another program takes the place of this one (`onemind upgrade`, SIGUSR2).
    pub upgrade: UpgradeSettings,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            threads: None,
            trusted_proxies: Vec::new(),
            log: LogSettings::default(),
            access_log: AccessLogSettings::default(),
            drain_delay: Period::seconds(5),
            drain_deadline: Period::seconds(30),
            shield: listen::shield::settings::Settings::default(),
            upgrade: UpgradeSettings::default(),
        }
    }
}

/// How another program takes the place of this one.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeSettings {
    /// The new process must have checked its configuration and probed its endpoints within this time, or
    /// it is given up and the old one goes on. Default `60s`.
    pub ready_within: Period,
    /// The old process leaves as soon as its last connection has ended, or else after this. On SIGTERM
    /// `server.drain_deadline` takes its place. Default `10m`.
    pub drain_deadline: Period,
    /// Older processes that may still be draining; an upgrade beyond that is refused. Default 8.
    pub draining_max: u32,
}

impl Default for UpgradeSettings {
    fn default() -> Self {
        Self {
            ready_within: Period::seconds(60),
            drain_deadline: Period::seconds(600),
            draining_max: 8,
        }
    }
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// Default `127.0.0.1:9090`. Takes effect at start.
    #[schemars(with = "String")]
    pub address: SocketAddr,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 9090)),
        }
    }
}
