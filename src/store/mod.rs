//! What instances share: servers beside the gateway, and what becomes of a request while they are gone.

pub mod redis;
pub mod sentinel;
/// A server of its own for each test that needs one.
#[cfg(test)]
#[path = "../../tests/it/harness/redis.rs"]
pub mod server;
