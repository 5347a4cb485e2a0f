//! A pool as it is written: its endpoints, how one is chosen, and when one is left alone.

use crate::base::secret::Secret;
use crate::base::units::{OneOrMany, Percent, Period};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// A pool: endpoints that can each answer the same requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `ip:port`, `name:port` (looked up again and again), `unix:/path`, or a section with `address` and `weight`.
    pub endpoints: Vec<EndpointSettings>,
    /// How an endpoint is chosen. Default `round_robin`.
    pub balance: BalanceSettings,
    /// Bring the same caller back to the same endpoint by a signed cookie.
    pub sticky: Option<StickySettings>,
    /// Active health checks. Default: `GET /health` every 30 s, unhealthy after 3 failures.
    pub health: HealthSettings,
    /// Leave an endpoint alone for a while when requests to it fail.
    pub ejection: EjectionSettings,
    /// Let a new or recovered endpoint's share grow from a tenth to the whole over this time. Default `30s`; `0s`: off.
    pub slow_start: SlowStart,
    /// Limits on requests in flight.
    pub capacity: CapacitySettings,
    /// When a failed request is tried on another endpoint.
    pub retry: RetrySettings,
    /// Connections kept open to endpoints.
    pub keepalive: KeepaliveSettings,
    /// What is spoken to the endpoints. Default `http1`.
    pub protocol: Protocol,
    /// TLS to the endpoints.
    pub tls: Option<TlsSettings>,
    /// How often names are looked up again. Default `30s`.
    pub dns_refresh: DnsRefresh,
}

/// A default that differs from zero, so that `Settings` can derive its own.
macro_rules! period_with_default {
    ($name:ident, $default:expr) => {
        #[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Period);

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }
    };
}

period_with_default!(SlowStart, Period::seconds(30));
period_with_default!(DnsRefresh, Period::seconds(30));

/// One endpoint; written as a string when only the address matters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointSettings {
    /// `ip:port`, `name:port` or `unix:/path`.
    pub address: String,
    /// Share of the traffic beside the others, 1 to 256. Default 1.
    pub weight: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointSection {
    /// `ip:port`, `name:port` or `unix:/path`.
    address: String,
    /// Share of the traffic beside the others, 1 to 256. Default 1.
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for EndpointSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointSettings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an address such as `10.0.0.1:8080`, or a section with `address` and `weight`",
                )
            }
            fn visit_str<E: Error>(self, address: &str) -> Result<Self::Value, E> {
                Ok(EndpointSettings {
                    address: address.to_owned(),
                    weight: 1,
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let EndpointSection { address, weight } =
                    Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EndpointSettings { address, weight })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for EndpointSettings {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<EndpointSection>();
        json_schema!({ "anyOf": [{ "type": "string" }, section] })
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BalanceSettings {
    /// In turn, smoothly by weight.
    #[default]
    RoundRobin,
    /// Of two picked at random, the one with fewer requests in flight for its weight.
    LeastLoaded,
    /// The same key goes to the same endpoint; when one endpoint leaves, only its own keys move.
    Hash(HashKey),
}

/// What `hash` is taken of. A request without it is spread as by `least_loaded`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The identified user; for callers without identity, their address.
    User,
    /// The caller's address (IPv6 by /64).
    Address,
    /// The value of this request header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
}

/// Stickiness by a signed cookie (`HttpOnly`, `SameSite=Lax`, `Secure` on TLS).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StickySettings {
    /// Name of the cookie. Default `onemind_endpoint`.
    pub cookie: String,
    /// Signs the cookie; instances that share it know each other's cookies. Absent: made up
    /// at start, kept over reloads and upgrades, lost with the process. At least 16 bytes.
    pub secret: Option<Secret>,
    /// Which requests are kept on their endpoint: `websocket` (default) or `all`.
    pub on: StickyOn,
    /// How long the cookie is good for. Default `1d`.
    pub max_age: Period,
}

impl Default for StickySettings {
    fn default() -> Self {
        Self {
            cookie: "onemind_endpoint".to_owned(),
            secret: None,
            on: StickyOn::Websocket,
            max_age: Period::seconds(86_400),
        }
    }
}

/// Which requests are sticky.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StickyOn {
    Websocket,
    All,
}

/// Active health checks; the defaults are those of the brief: `GET /health` every 30 s, out after 3 failures.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// `http` (default), `tcp` (a connection is enough) or `off`.
    pub check: HealthCheck,
    /// Default `/health`.
    pub path: String,
    /// `Host` of the probe. Absent: the endpoint's address.
    pub host: Option<String>,
    /// Port to probe, when it is not the endpoint's own.
    pub port: Option<u16>,
    /// Time between two probes of a settled endpoint, spread by a tenth either way. Default `30s`.
    pub interval: Period,
    /// Time between two probes while an endpoint is in doubt (failing, but not yet out; or out, and answering again). Default `1s`.
    pub fast_interval: Period,
    /// For one probe, connecting included. Default `5s`.
    pub timeout: Period,
    /// Failures in a row that take an endpoint out. Default 3.
    pub unhealthy_after: u32,
    /// Successes in a row that bring it back. Default 2.
    pub healthy_after: u32,
    /// Statuses that count as well: `200`, `200-299`. Default `200-299`.
    #[schemars(schema_with = "statuses")]
    pub expect_status: OneOrMany<String>,
    /// Text that the body (its first 64 KiB) must contain.
    pub expect_body: Option<String>,
}

/// A single status may be written as a number.
fn statuses(_: &mut SchemaGenerator) -> Schema {
    let one = json_schema!({ "type": ["string", "integer"] });
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            check: HealthCheck::Http,
            path: "/health".to_owned(),
            host: None,
            port: None,
            interval: Period::seconds(30),
            fast_interval: Period::seconds(1),
            timeout: Period::seconds(5),
            unhealthy_after: 3,
            healthy_after: 2,
            expect_status: OneOrMany(vec!["200-299".to_owned()]),
            expect_body: None,
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    Http,
    Tcp,
    Off,
}

/// Passive ejection: what requests themselves tell of an endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionSettings {
    /// Default `true`.
    pub enabled: bool,
    /// Failed connects in a row that eject. Default 1: a refused connection is certain.
    pub connect_failures: u32,
    /// Answers of 5xx, resets and time-outs in a row that eject. Default 5.
    pub errors: u32,
    /// First time out; each further one doubles it. Default `10s`.
    pub base: Period,
    /// Longest time out. Default `5m`.
    pub max: Period,
    /// Never eject more than this share of the pool, nor the last endpoint. Default `50%`.
    pub max_share: Percent,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            connect_failures: 1,
            errors: 5,
            base: Period::seconds(10),
            max: Period::seconds(300),
            max_share: Percent(50),
        }
    }
}

/// Requests in flight, and the wait for a place.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapacitySettings {
    /// Requests in flight at one endpoint. Default 1000.
    pub max_in_flight: u32,
    /// Requests that may wait when every endpoint is full. Default 1000.
    pub queue_max: u32,
    /// Longest wait. Default `1s`.
    pub queue_timeout: Period,
}

impl Default for CapacitySettings {
    fn default() -> Self {
        Self {
            max_in_flight: 1_000,
            queue_max: 1_000,
            queue_timeout: Period::seconds(1),
        }
    }
}

/// When a failed attempt is followed by another, on another endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Attempts in total, the first included, 1 to 16. Default 3.
    pub attempts: u32,
    /// Statuses of the endpoint after which a safe request is tried elsewhere. Default 502, 503, 504.
    pub statuses: Vec<u16>,
    /// Share of requests in the last 10 s that may be retries. Default `20%`.
    pub budget: Percent,
    /// Retries that are always allowed, in one second. Default 10.
    pub budget_min: u32,
    /// First wait before a retry after an answer; doubled each time, with full jitter. Default `25ms`.
    pub backoff: Period,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 3,
            statuses: vec![502, 503, 504],
            budget: Percent(20),
            budget_min: 10,
            backoff: Period::millis(25),
        }
    }
}

/// Connections kept open to endpoints between requests.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveSettings {
    /// Close a connection that was idle this long; keep it below the endpoint's own limit. `0s`: never keep one. Default `50s`.
    pub idle: Period,
    /// Requests at once on one HTTP/2 connection. Default 100.
    pub h2_streams: u32,
}

impl Default for KeepaliveSettings {
    fn default() -> Self {
        Self {
            idle: Period::seconds(50),
            h2_streams: 100,
        }
    }
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Http1,
    /// Over TLS by ALPN; without `tls`, with prior knowledge (h2c).
    Http2,
}

/// TLS to the endpoints.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Name to ask for (SNI) and to verify. Absent: the endpoint's own name.
    pub server_name: Option<String>,
    /// PEM file of the authorities to trust. Absent: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of a certificate to show, with `client_key`.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key: Option<PathBuf>,
    /// Whether the endpoint's certificate is verified. Default `true`.
    pub verify: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            server_name: None,
            ca: None,
            client_certificate: None,
            client_key: None,
            verify: true,
        }
    }
}
