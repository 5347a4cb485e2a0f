//! The shield as it is written.

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
    /// an office of 170 browsers with six connections each, and a twelfth of all.
    pub connections_per_address: u32,
    /// Connections that have not yet finished their greeting: PROXY header, TLS handshake, first bytes of
    /// HTTP/2. A greeting has ten seconds, and two when more than half of this are under way. Default `2048`.
    pub greetings: u32,
    /// Of these, from one address. Default `256`.
    pub greetings_per_address: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 12_000,
            connections_per_address: 1024,
            greetings: 2048,
            greetings_per_address: 256,
        }
    }
}
