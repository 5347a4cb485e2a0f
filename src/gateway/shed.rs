//! What the shield says to a request: too fast, or too many.

use super::context::RequestContext;
use crate::base::reject::{Reject, RejectKind};
use std::time::Instant;

/// Before anything else: whether its address may ask now.
pub fn rate(ctx: &RequestContext, now: Instant) -> Result<(), Reject> {
    let arrival = ctx.arrival.as_ref().ok_or(RejectKind::Internal)?;
    let asked = ctx.snapshot.shield.ask(arrival.client.address, now);
    asked.map_err(|wait| {
        arrival.listener.metrics.shed("rate_per_address");
        Reject {
            retry_after: Some(wait),
            ..RejectKind::TooManyRequests.because("rate_per_address")
        }
    })
}
