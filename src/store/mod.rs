//! What instances share: servers beside the gateway, and what becomes of a request while they are gone.

pub mod cluster;
mod hosts;
mod known;
mod link;
pub mod redis;
pub mod sentinel;
mod single;
mod slots;
/// A server of its own for each test that needs one.
#[cfg(test)]
#[path = "../../tests/it/harness/redis.rs"]
pub mod server;
