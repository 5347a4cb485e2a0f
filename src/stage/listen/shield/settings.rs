//! The shield as it is written.

use crate::base::units::{Bytes, Period};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What all callers together, and each address, may hold of the process. An IPv6 caller is counted by
/// its /64, the smallest network that one subscriber gets.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Connections open at once, over all listeners; the next is closed at once. Three quarters of the open
    /// files that the process may have are the bound where that is less: the rest is for endpoints. Default `12000`.
    pub connections: u32,
    /// Of these, from one address. Behind PROXY protocol the caller counts, not the proxy. Default `1024`:
    /// an office of 170 browsers with six connections each. Where a share is less than the whole, here and
    /// below, an address also never holds more than are still free: a few greedy ones cannot fill the house.
    pub connections_per_address: u32,
    /// Connections that have not yet finished their greeting: PROXY header, TLS handshake, first bytes of
    /// HTTP/2. A greeting has ten seconds, and two when more than half of this are under way. Default `4096`.
    pub greetings: u32,
    /// Of these, from one address. Default `512`.
    pub greetings_per_address: u32,
    /// Requests in flight at once that are forwarded; beyond it the answer is 503 with `Retry-After`.
    /// Redirects and fixed answers are always given, and WebSockets count only until they are open: their
    /// own limit is `websocket.max`. A request holds some 30 KiB, up to 100 KiB while its caller is slow.
    /// Default `8000`.
    pub in_flight: u32,
    /// Of these, from one address; beyond it the answer is 429. Default `1024`.
    pub in_flight_per_address: u32,
    /// While the process has more than this in memory, nothing is forwarded: 503 with `Retry-After`. For
    /// containers, whose limit kills: write some four fifths of it. Memory must fall below it again when
    /// requests end, or all are refused for ever. Absent: no bound but those above.
    pub memory: Option<Bytes>,
    /// How fast one address may ask; beyond it the answer is 429 with `Retry-After`. The caller counts, not
    /// the trusted proxy before it. Absent: as fast as it likes, since behind one address may be an office
    /// or a server that asks for thousands.
    pub rate_per_address: Option<RateSettings>,
    /// Networks for which no limit by address holds, such as that of your own monitoring. Those in
    /// `trusted_proxies` need not be named: they speak for many.
    #[schemars(with = "Vec<String>")]
    pub exempt: Vec<IpNet>,
}

/// A bucket of tokens: each request takes one, and they come back at a constant rate.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateSettings {
    /// So many requests in each `per`.
    pub requests: u32,
    /// Default `1s`.
    #[serde(default = "one_second")]
    pub per: Period,
    /// So many at once after a rest. Default: as `requests`.
    #[serde(default)]
    pub burst: Option<u32>,
}

fn one_second() -> Period {
    Period::seconds(1)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 12_000,
            connections_per_address: 1024,
            greetings: 4096,
            greetings_per_address: 512,
            in_flight: 8000,
            in_flight_per_address: 1024,
            memory: None,
            rate_per_address: None,
            exempt: Vec::new(),
        }
    }
}
