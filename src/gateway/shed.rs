//! What the shield says to a request: too fast, or too many.

use super::context::RequestContext;
use crate::base::reject::{Reject, RejectKind};
use crate::observe::event;
use crate::stage::listen::shield::{OF_ADDRESS_IN_FLIGHT, Place};
use std::time::{Duration, Instant};

/// When to come back to a gateway that is full: requests end all the time.
const COME_BACK: Duration = Duration::from_secs(1);

/// Before anything else: whether its address may ask now.
pub fn rate(ctx: &RequestContext) -> Result<(), Reject> {
    let arrival = ctx.arrival.as_ref().ok_or(RejectKind::Internal)?;
    let asked = ctx
        .snapshot
        .shield
        .ask(arrival.client.counted(), Instant::now());
    asked.map_err(|wait| refusal(ctx, RejectKind::TooManyRequests, "rate_per_address", wait))
}

/// A place among the requests in flight, or the refusal: 503 when all are too many, 429 when this address
/// has too many.
pub fn place(ctx: &RequestContext) -> Result<Place, Reject> {
    let arrival = ctx.arrival.as_ref().ok_or(RejectKind::Internal)?;
    let place = ctx.snapshot.shield.work(arrival.client.counted());
    place.map_err(|setting| {
        let kind = if setting == OF_ADDRESS_IN_FLIGHT {
            RejectKind::TooManyRequests
        } else {
            RejectKind::Overloaded
        };
        refusal(ctx, kind, setting, COME_BACK)
    })
}

/// Counted and told under the name of the setting that stands in the way.
fn refusal(
    ctx: &RequestContext,
    kind: RejectKind,
    setting: &'static str,
    wait: Duration,
) -> Reject {
    if let Some(arrival) = &ctx.arrival {
        arrival.listener.metrics.shed(setting);
        if ctx.snapshot.shield.is_news(Instant::now()) {
            event::shield_closed(&arrival.listener.name, setting);
        }
    }
    Reject {
        retry_after: Some(wait),
        ..kind.because(setting)
    }
}
