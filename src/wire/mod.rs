//! HTTP on the wire: heads, bodies and what waits to be sent, for callers and endpoints alike.

pub mod body;
pub mod fetch;
pub mod fields;
pub mod frames;
pub mod head;
pub mod http2;
pub mod link;
pub mod outgoing;
pub mod websocket;
