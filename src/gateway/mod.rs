//! The table of contents: how a request moves through the gateway.
//!
//! ```text
//!  hook                        moment     file         what is decided
//!  new_ctx                     birth      context.rs   the snapshot is pinned
//!  early_request_filter        arrive     admit.rs     who calls: client, request id, trace
//!  request_filter              admit      admit.rs     route, limits; ends in Next or Reject
//!                              identify   identify.rs  who is calling, and whether they may
//!                              answer     answer.rs    redirects and fixed responses
//!                              refuse     refuse.rs    every "no", in one place
//!  upstream_peer               dispatch   dispatch.rs  an endpoint, again for each attempt
//!  connected_to_upstream
//!  fail_to_connect
//!  error_while_proxy                                   another attempt, or the end
//!  upstream_request_filter     forward    forward.rs   what leaves
//!  request_body_filter
//!  upstream_response_filter    relay      relay.rs     what comes back
//!  response_filter
//!  response_body_filter
//!  fail_to_proxy               refuse     refuse.rs    the last word, when nothing worked
//!  logging                     finish     finish.rs    counted and logged, exactly once
//! ```

mod admit;
mod answer;
pub mod connection;
mod context;
mod dispatch;
mod endings;
pub mod finish;
mod forward;
mod headers;
mod hooks;
mod identify;
mod refuse;
mod relay;

use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use context::RequestContext;
use finish::Reporter;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The proxy itself: cheap to clone, one for each worker.
#[derive(Clone)]
pub struct Gateway {
    pub current: Arc<ArcSwap<Snapshot>>,
    pub reporter: Arc<Reporter>,
}

impl Gateway {
    pub fn new(snapshot: Arc<Snapshot>, reporter: Arc<Reporter>) -> Self {
        Self {
            current: Arc::new(ArcSwap::new(snapshot)),
            reporter,
        }
    }

    /// How long a connection of this listener may rest; none when it is in the configuration no more.
    fn keepalive_of(&self, listener: &str) -> Option<Duration> {
        let snapshot = self.current.load();
        let rules = snapshot.listeners.get(listener)?;
        Some(rules.keepalive)
    }

    fn begin(&self) -> RequestContext {
        RequestContext::new(
            self.current.load_full(),
            Arc::clone(&self.reporter),
            Instant::now(),
        )
    }
}
