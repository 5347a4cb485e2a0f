//! Is it well: active probes and what they say of an endpoint.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What probes say of an endpoint. Starts well: the first probe follows at once.
#[derive(Debug)]
pub struct Health {
    up: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
        }
    }
}

impl Health {
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }
}
