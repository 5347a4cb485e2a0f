//! Where from: sockets, TLS, the PROXY protocol, and who is really calling.

pub mod conn;
pub mod settings;
