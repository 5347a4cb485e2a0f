//! Who is at the other end of the connection, as far as the network can tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// The other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Inet(SocketAddr),
    /// A process of this machine, behind a Unix socket: the permissions of its file let it in.
    Unix,
}

/// Facts about the caller that are settled once the request head is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The caller's own address: the socket's peer, or what a trusted peer says it is.
    pub address: IpAddr,
    /// The peer of the socket, after the PROXY protocol if the listener speaks it.
    pub peer: Peer,
    /// Whether `peer` lies in `trusted_proxies` or behind a Unix socket: only then are its forwarded headers read.
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
            peer: Peer::Inet(SocketAddr::new(address, 0)),
            trusted: false,
            tls: false,
            certificate: None,
        }
    }
}

impl Peer {
    /// Its address; a process behind a Unix socket stands for this machine, and has `127.0.0.1`.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Inet(address) => address.ip(),
            Self::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl Client {
    /// The address that limits count; none for a process behind a Unix socket that names no other caller.
    pub fn counted(&self) -> Option<IpAddr> {
        let is_local = self.peer == Peer::Unix && self.address.is_loopback();
        (!is_local).then_some(self.address)
    }

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
