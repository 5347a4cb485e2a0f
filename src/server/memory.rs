//! Tells the shield how much memory the process has, as long as it wants to know.

use super::Server;
use crate::observe::metrics::resident_bytes;
use std::sync::Arc;
use std::time::Duration;

/// Reading it takes some 20 µs; at 1 GB/s a flood gets 100 MB further before it is noticed.
const PERIOD: Duration = Duration::from_millis(100);

/// How soon a reload is noticed that begins to bound it.
const PERIOD_UNBOUND: Duration = Duration::from_secs(1);

impl Server {
    pub(super) async fn watch_memory(self: Arc<Self>) {
        loop {
            let shield = Arc::clone(&self.gateway.current.load().shield);
            let bound = shield.bounds_memory();
            shield.remember(bound.then(resident_bytes).flatten().unwrap_or(0));
            drop(shield);
            tokio::time::sleep(if bound { PERIOD } else { PERIOD_UNBOUND }).await;
        }
    }
}
