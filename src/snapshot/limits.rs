//! The rules of `limits`, built once and shared by the routes that take them.

use super::{State, at};
use crate::base::fault::Faults;
use crate::config::Config;
use crate::config::check::limits::taken_by;
use crate::stage::limit::counters::Counters;
use crate::stage::limit::limits::Limits;
use crate::stage::limit::rule::Rule;
use crate::stage::route::settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Rules {
    by_name: BTreeMap<String, Arc<Rule>>,
    counters: Arc<Counters>,
}

pub(super) fn build_all(config: &Config, state: &State, faults: &mut Faults) -> Option<Rules> {
    let counters = match state.counters(config.redis.as_ref()) {
        Ok(counters) => counters,
        Err(what) => {
            faults.error(at("redis", "url"), what, "");
            return None;
        }
    };
    let rules = config.limits.rules().into_iter();
    let by_name = rules.filter_map(|(name, settings)| {
        let rule = Rule::build(&name, &settings, &state.metrics)?;
        Some((name, Arc::new(rule)))
    });
    Some(Rules {
        by_name: by_name.collect(),
        counters,
    })
}

impl Rules {
    pub(super) fn all(&self) -> Limits {
        let rules = self.by_name.values().cloned();
        Limits::new(rules.collect(), Arc::clone(&self.counters))
    }

    /// Those that a route takes, in the order of their names: so they are told in headers.
    pub(super) fn of_route(&self, settings: &Settings) -> Limits {
        let names = taken_by(settings, self.by_name.keys());
        let rules = names.iter().filter_map(|name| self.by_name.get(*name));
        Limits::new(rules.cloned().collect(), Arc::clone(&self.counters))
    }
}
