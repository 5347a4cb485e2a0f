//! The rules of `limits`, built once and shared by the routes that take them.

use super::{State, at};
use crate::base::fault::Faults;
use crate::config::Config;
use crate::config::check::limits::taken_by;
use crate::stage::limit::counters::Counters;
use crate::stage::limit::limits::Limits;
use crate::stage::limit::rule::Rule;
use crate::stage::route::settings::Settings as RouteSettings;
use crate::store::cluster::home_prefix;
use crate::store::redis::{Redis, Settings};
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
    let is_cluster = config.redis.as_ref().is_some_and(Settings::is_cluster);
    let by_name = rules.filter_map(|(name, mut settings)| {
        if is_cluster {
            settings.prefix = Some(home_prefix(&settings.prefix(&name)));
        }
        let rule = Rule::build(&name, &settings, &state.metrics)?;
        Some((name, Arc::new(rule)))
    });
    Some(Rules {
        by_name: by_name.collect(),
        counters,
    })
}

impl Rules {
    /// The Redis in which they count; there is one connection for all that is kept there.
    pub(super) fn redis(&self) -> Option<&Arc<Redis>> {
        self.counters.redis()
    }

    pub(super) fn all(&self) -> Limits {
        let rules = self.by_name.values().cloned();
        Limits::new(rules.collect(), Arc::clone(&self.counters))
    }

    /// Those that a route takes, in the order of their names: so they are told in headers.
    pub(super) fn of_route(&self, settings: &RouteSettings) -> Limits {
        let names = taken_by(settings, self.by_name.keys());
        let rules = names.iter().filter_map(|name| self.by_name.get(*name));
        Limits::new(rules.cloned().collect(), Arc::clone(&self.counters))
    }
}
