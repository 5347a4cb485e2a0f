//! The table of contents: how a request moves through the gateway.
//!
//! ```text
//!  moment     file            what happens
//!  connect    connection.rs   a connection's requests, one after the other or side by side
//!             caller/         the caller's side of one request: HTTP/1.1, HTTP/2
//!             flood.rs        what HTTP/2 lets a caller send without asking for anything
//!  live       life.rs         ONE REQUEST FROM BIRTH TO END, told in one function
//!  birth      context.rs      the snapshot is pinned; what is known grows from here
//!  arrive     admit.rs        who calls: client, request id, trace
//!  admit      admit.rs        route, limits, a place at an endpoint; ends in Next or Reject
//!             identify.rs     who is calling, and whether they may
//!             limit.rs        the rules of the route, asked once
//!             shed.rs         what the shield says: too fast, or too many
//!  answer     answer.rs       redirects and fixed responses
//!  refuse     refuse.rs       every "no", in one place
//!  infer      infer/          a model: the call read whole, its targets tried, the answer held back until it has content
//!  dispatch   dispatch.rs     an endpoint, again for each attempt; another attempt, or the end
//!  attempt    attempt.rs      one try: connect, send, wait for the head of the answer
//!  forward    forward.rs      what leaves: the head as the endpoint will see it
//!             upload.rs       the body, kept for another attempt as long as it is small
//!  relay      relay.rs        what comes back: head and body on their way to the caller
//!             pace.rs         how slow a caller may be
//!             tunnel.rs       bytes in both directions, once it is no HTTP any more
//!  finish     finish.rs       counted and logged, exactly once, under one ending
//!             trace.rs        its spans, if it is traced
//! ```

mod admit;
mod answer;
mod attempt;
mod caller;
pub mod connection;
mod context;
mod dispatch;
mod endings;
pub mod finish;
mod flood;
mod forward;
mod identify;
mod infer;
mod life;
mod limit;
mod pace;
mod refuse;
mod relay;
mod shed;
mod timer;
mod trace;
mod tunnel;
mod upload;

use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use context::RequestContext;
use finish::Reporter;
use std::sync::Arc;
use std::time::Instant;

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

    fn begin(&self) -> Box<RequestContext> {
        Box::new(RequestContext::new(
            self.current.load_full(),
            Arc::clone(&self.reporter),
            Instant::now(),
        ))
    }
}
