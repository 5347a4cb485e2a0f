//! The end: not ready, accept a little longer, finish what runs, leave as soon as idle.

use crate::gateway::connection::Closing;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::{Notify, watch};

/// What tells connections to end, each for all of them at once.
#[derive(Debug, Default)]
pub struct Switches {
    /// The next answer is the last on its connection.
    pub soon: watch::Sender<bool>,
    /// Those that rest end now.
    pub idle: watch::Sender<bool>,
    /// WebSockets and streams of events say goodbye.
    pub cut: watch::Sender<bool>,
}

impl Switches {
    pub fn closing(&self) -> Closing {
        Closing {
            soon: self.soon.subscribe(),
            idle: self.idle.subscribe(),
            cut: self.cut.subscribe(),
        }
    }
}

/// Connections that are open, so that a drain knows when the last one has ended.
#[derive(Debug, Default)]
pub struct Live {
    open: AtomicUsize,
    changed: Notify,
}

/// One open connection.
#[derive(Debug)]
pub struct Alive(Arc<Live>);

impl Live {
    pub fn enter(self: &Arc<Self>) -> Alive {
        self.open.fetch_add(1, SeqCst);
        Alive(Arc::clone(self))
    }

    pub fn count(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Returns when nothing is open any more.
    pub async fn wait_idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_is_reached_when_the_last_connection_ends() {
        let live = Arc::new(Live::default());
        let (first, second) = (live.enter(), live.enter());
        let waiting = tokio::spawn({
            let live = Arc::clone(&live);
            async move { live.wait_idle().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting)
            .await
            .expect("idle")
            .expect("no panic");
    }
}
