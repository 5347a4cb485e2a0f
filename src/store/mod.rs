//! What instances share: servers beside the gateway, and what becomes of a request while they are gone.

pub mod redis;
