//! One place a request can go; lives as long as the process, whatever is reloaded.

use super::health::Health;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

/// Where an endpoint listens, after names have been looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An endpoint of one pool. Identity is (pool, address); everything else may change.
#[derive(Debug)]
pub struct Endpoint {
    /// `address` as text: metric label, log field, part of the sticky cookie.
    pub name: String,
    pub address: Address,
    /// The name it was looked up by (`app.internal`), for `Host` and SNI; none for literal addresses.
    pub host: Option<String>,
    /// Share of the traffic beside the others, 1 to 256.
    pub weight: AtomicU32,
    pub in_flight: AtomicU32,
    pub health: Health,
}
