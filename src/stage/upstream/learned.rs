//! What one process knows of an endpoint that takes no requests, for the process that follows it.

use super::endpoint::Endpoint;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The bad news of one endpoint. Endpoints of which there is none are not mentioned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    pub pool: String,
    /// The address, as [`Endpoint::name`] has it.
    pub name: String,
    pub host: Option<String>,
    /// Its probes fail, lately with this error.
    pub down: Option<String>,
    /// It failed requests.
    pub ejected: Option<Ejected>,
}

/// An ejection that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejected {
    /// Until a trial request may be sent, in milliseconds.
    pub left_ms: u64,
    /// Times ejected in its recent past.
    pub times: u32,
}

impl Learned {
    /// None: there is nothing bad to tell.
    pub fn of(pool: &str, endpoint: &Endpoint, now: Instant) -> Option<Self> {
        let health = endpoint.health.report();
        let down = (!health.up).then(|| health.last_error.unwrap_or_default());
        let ejected = endpoint
            .ejection
            .left(endpoint.at(now))
            .map(|left_ms| Ejected {
                left_ms,
                times: endpoint.ejection.times(),
            });
        (down.is_some() || ejected.is_some()).then(|| Self {
            pool: pool.to_owned(),
            name: endpoint.name.clone(),
            host: endpoint.host.clone(),
            down,
            ejected,
        })
    }

    pub(super) fn is_of(&self, pool: &str, endpoint: &Endpoint) -> bool {
        self.pool == pool && self.name == endpoint.name && self.host == endpoint.host
    }

    /// Begins where the other process stood.
    pub(super) fn teach(&self, endpoint: &Endpoint, now: Instant) {
        if let Some(error) = &self.down {
            endpoint.health.begin_down(error, now);
        }
        if let Some(Ejected { left_ms, times }) = self.ejected {
            let left = Duration::from_millis(left_ms);
            endpoint.ejection.begin_out(endpoint.at(now + left), times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ejection::Gate;
    use super::super::endpoint::{Address, Place, Registry};
    use super::super::settings::{EjectionSettings, HealthSettings};
    use super::*;

    fn place() -> Place {
        Place {
            address: Address::Ip("10.0.0.1:80".parse().unwrap()),
            host: Some("app.internal".to_owned()),
            weight: 1,
        }
    }

    /// The endpoint as a process knows it that was told this.
    fn after(learned: Option<Learned>, pool: &str, now: Instant) -> std::sync::Arc<Endpoint> {
        let registry = Registry::default();
        registry.expect(learned.into_iter().collect());
        registry.endpoints(pool, vec![place()], now).remove(0)
    }

    #[test]
    fn a_healthy_endpoint_is_not_worth_a_word() {
        let now = Instant::now();
        assert_eq!(Learned::of("app", &after(None, "app", now), now), None);
    }

    #[test]
    fn what_is_down_begins_down_and_comes_back_by_its_probes() {
        let now = Instant::now();
        let old = after(None, "app", now);
        let settings = HealthSettings::default();
        for _ in 0..settings.unhealthy_after {
            old.health.record(Err("refused"), &settings, now);
        }
        let learned = Learned::of("app", &old, now).expect("bad news");
        assert!(after(Some(learned.clone()), "other", now).health.is_up());
        let new = after(Some(learned), "app", now);
        assert!(!new.health.is_up() && new.health.is_known());
        assert_eq!(new.health.report().last_error.as_deref(), Some("refused"));
        for _ in 0..settings.healthy_after {
            new.health.record(Ok(()), &settings, now);
        }
        assert!(new.health.is_up());
    }

    #[test]
    fn an_ejection_lasts_as_long_as_it_would_have() {
        let now = Instant::now();
        let old = after(None, "app", now);
        old.ejection.eject(&EjectionSettings::default(), (0, 0.0));
        let learned = Learned::of("app", &old, now).expect("bad news");
        let left = learned.ejected.expect("ejected").left_ms;
        assert!(left > 0);
        let new = after(Some(learned), "app", now);
        assert_eq!(new.ejection.times(), 1);
        let gate = |ms| new.gate(now + Duration::from_millis(ms));
        assert_eq!((gate(left - 1), gate(left)), (Gate::Shut, Gate::Ready));
    }
}
