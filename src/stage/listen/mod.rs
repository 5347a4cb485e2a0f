//! Where from: sockets, TLS, the PROXY protocol, and who is really calling.

pub mod accept;
pub mod address;
pub mod conn;
pub mod forwarded;
pub mod proxy_protocol;
pub mod resolver;
pub mod settings;
pub mod shield;
mod shown;
pub mod socket;
pub mod tls;
pub mod trace;
