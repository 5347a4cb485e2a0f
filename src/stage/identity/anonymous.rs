//! Anybody, told apart by address only: IPv6 by /64, which is what one subscriber holds.

use super::chain::{Caller, Identify, Verdict};
use super::credential::Places;
use super::settings::AnonymousSettings;
use crate::base::principal::Principal;
use std::sync::Arc;

pub struct Anonymous {
    method: Arc<str>,
    plan: Option<Arc<str>>,
}

impl Anonymous {
    pub fn new(method: Arc<str>, settings: &AnonymousSettings) -> Self {
        Self {
            method,
            plan: settings.plan.as_deref().map(Arc::from),
        }
    }
}

impl Identify for Anonymous {
    fn places(&self) -> Places {
        Places::default()
    }

    fn identify(&self, caller: &Caller<'_>) -> Verdict {
        let mut principal = Principal::anonymous(caller.client.subscriber(), &self.method);
        principal.plan.clone_from(&self.plan);
        Verdict::Known(Arc::new(principal))
    }
}
