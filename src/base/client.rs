//! Who is at the other end of the connection, as far as the network can tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Facts about the caller that are settled once the request head is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The caller's own address: the socket's peer, or what a trusted peer says it is.
    pub address: IpAddr,
    /// The peer of the socket, after the PROXY protocol if the listener speaks it.
    pub peer: SocketAddr,
    /// Whether `peer` lies in `trusted_proxies`: only then are its forwarded headers read.
    pub trusted: bool,
    /// Whether the caller's own connection is encrypted, as far as we can know.
    pub tls: bool,
    /// The certificate that the peer of the socket has shown, verified by the listener.
    pub certificate: Option<Arc<ShownCertificate>>,
}

/// What a verified certificate of a caller says about its holder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShownCertificate {
    pub common_name: Option<String>,
    /// DNS names among the subject alternative names.
    pub dns: Vec<String>,
    /// URIs among them, such as `spiffe://example.org/app`.
    pub uris: Vec<String>,
    /// E-mail addresses among them.
    pub emails: Vec<String>,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub fingerprint: String,
}

impl Default for Client {
    fn default() -> Self {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            address,
            peer: SocketAddr::new(address, 0),
            trusted: false,
            tls: false,
            certificate: None,
        }
    }
}

impl Client {
    /// The address as a key for counting: IPv6 by its /64, which is what one subscriber holds.
    pub fn subscriber(&self) -> IpAddr {
        subscriber(self.address)
    }
}

/// An address as a key for counting: IPv6 by its /64, which is what one subscriber holds.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}
