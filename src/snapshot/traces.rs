//! What makes spans of requests: the one in force, or another where the document says so.

use super::tokens::authorities;
use super::{State, at};
use crate::base::fault::Faults;
use crate::config::Config;
use crate::observe::trace::Tracing;
use std::sync::Arc;

/// None where no spans are made, or something stands in the way.
pub(super) fn build(config: &Config, state: &State, faults: &mut Faults) -> Option<Arc<Tracing>> {
    let settings = config.tracing.as_ref()?;
    let trusted = match settings.ca.as_deref().map(authorities).transpose() {
        Ok(trusted) => trusted,
        Err(what) => {
            faults.error(at("tracing", "ca"), what, "");
            return None;
        }
    };
    let before = state.tracing();
    let same = before.filter(|one| one.settings == *settings && one.authorities == trusted);
    if same.is_some() {
        return same;
    }
    match Tracing::new(settings, trusted, &state.instance, &state.metrics) {
        Ok(tracing) => Some(Arc::new(tracing)),
        Err(what) => {
            faults.error(at("tracing", "endpoint"), what, "");
            None
        }
    }
}
