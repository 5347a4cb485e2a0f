//! What happens beside the requests: each event writes one line and moves its metric.

use super::metrics::{EndpointMetrics, IdentityMetrics, Metrics, PoolMetrics, StoreMetrics};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// A certificate that ends sooner than this is worth a line: renewal usually comes 30 days ahead.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// An endpoint takes no more requests, because of what probes say of it.
pub fn endpoint_left(endpoint: &EndpointMetrics, why: &str) {
    endpoint.up.set(0);
    let (pool, name) = (endpoint.pool(), endpoint.name());
    warn!(pool, endpoint = name, why, "endpoint left rotation");
}

/// An endpoint takes requests again.
pub fn endpoint_returned(endpoint: &EndpointMetrics) {
    endpoint.up.set(1);
    let (pool, name) = (endpoint.pool(), endpoint.name());
    info!(pool, endpoint = name, "endpoint returned to rotation");
}

/// An endpoint is left alone for this long, because requests to it failed.
pub fn endpoint_ejected(endpoint: &EndpointMetrics, reason: &'static str, period: Duration) {
    endpoint.ejected(reason);
    let (pool, name, period_s) = (endpoint.pool(), endpoint.name(), period.as_secs_f64());
    warn!(pool, endpoint = name, reason, period_s, "endpoint ejected");
}

/// A name could not be looked up; the addresses known before stay in use.
pub fn dns_failing(pool: &PoolMetrics, name: &str, why: &str) {
    let news = pool.looked_up(name, false);
    let pool = pool.name();
    // A name that stays broken is an alarm of the metric, not a line every refresh.
    if news {
        warn!(
            pool,
            name, why, "name cannot be looked up; the last known addresses stay"
        );
    } else {
        debug!(pool, name, why, "name still cannot be looked up");
    }
}

/// A name was looked up.
pub fn dns_answered(pool: &PoolMetrics, name: &str, addresses: usize) {
    if pool.looked_up(name, true) {
        let pool = pool.name();
        info!(pool, name, addresses, "name can be looked up again");
    }
}

/// The keys of an issuer were fetched; `news`: for the first time, or again.
pub fn jwks_fetched(method: &IdentityMetrics, keys: usize, news: bool) {
    method.fetched(true);
    let method = method.name();
    if news {
        info!(method, keys, "keys of the issuer fetched");
    } else {
        debug!(method, keys, "keys of the issuer fetched again");
    }
}

/// The keys of an issuer could not be fetched; the last good ones stay.
pub fn jwks_failing(method: &IdentityMetrics, why: &str, news: bool) {
    method.fetched(false);
    let method = method.name();
    if news {
        warn!(
            method,
            why, "keys of the issuer cannot be fetched; the last good ones stay"
        );
    } else {
        debug!(method, why, "keys of the issuer still cannot be fetched");
    }
}

/// A token for a provider was got; `news`: for the first time, or again.
pub fn token_fetched(metrics: &Metrics, provider: &str, good_for: Duration, news: bool) {
    metrics.token_fetched(provider, true);
    let good_for_s = good_for.as_secs();
    if news {
        info!(provider, good_for_s, "token for the provider got");
    } else {
        debug!(provider, good_for_s, "token for the provider renewed");
    }
}

/// No token for a provider could be got; the last one stays as long as it is good.
pub fn token_failing(metrics: &Metrics, provider: &str, why: &str, news: bool) {
    metrics.token_fetched(provider, false);
    if news {
        warn!(
            provider,
            why, "no token for the provider can be got; the last one stays while it is good"
        );
    } else {
        debug!(provider, why, "still no token for the provider can be got");
    }
}

/// The collector takes spans again.
pub fn spans_taken() {
    info!("spans are sent again");
}

/// The collector does not take spans; they wait, and are lost when there are too many.
pub fn spans_not_taken(why: &str, news: bool) {
    if news {
        warn!(
            why,
            "spans cannot be sent; what does not fit the queue is lost"
        );
    } else {
        debug!(why, "spans still cannot be sent");
    }
}

/// The store cannot be used; what it is for goes on without, as each user of it says.
pub fn store_lost(store: &StoreMetrics, why: &str) {
    // One that stays away is an alarm of the metric, not a line for every attempt.
    if store.answers(false) {
        warn!(
            why,
            "redis is gone; limits are kept without it until it is back"
        );
    } else {
        debug!(why, "redis is still gone");
    }
}

/// The store can be used.
pub fn store_found(store: &StoreMetrics) {
    if store.answers(true) {
        info!("redis answers");
    }
}

/// Callers are being turned away, for want of what this setting of the shield bounds.
pub fn shield_closed(listener: &str, setting: &str) {
    warn!(
        listener,
        setting, "the shield turns callers away; metrics count them"
    );
}

/// A new configuration serves since `at_unix_seconds`.
pub fn config_reloaded(metrics: &Metrics, revision: u64, at_unix_seconds: u64) {
    metrics.reloaded(true, at_unix_seconds);
    info!(revision, "configuration reloaded");
}

/// A configuration was refused, for these faults; the one before it serves on.
pub fn config_refused(metrics: &Metrics, faults: &str) {
    metrics.reloaded(false, 0);
    error!(faults, "configuration refused; the one before it stays");
}

/// Another process has taken the place of this one.
pub fn upgrade_succeeded(metrics: &Metrics, pid: u32) {
    metrics.upgraded(true, 1);
    info!(pid, "upgraded: another process serves");
}

/// Another process was to take the place of this one, and did not.
pub fn upgrade_failed(metrics: &Metrics, why: &str) {
    metrics.upgraded(false, 1);
    error!(why, "upgrade failed; this process goes on");
}

/// A certificate was loaded, or looked at again; times are in seconds since 1970.
pub fn certificate_seen(metrics: &Metrics, name: &str, not_after: i64, now: i64) {
    metrics.certificate(name, not_after);
    match Validity::of(not_after, now) {
        Validity::Long => {}
        Validity::Short { days } => {
            warn!(certificate = name, days, "certificate is about to expire");
        }
        Validity::Over => error!(certificate = name, "certificate has expired"),
    }
}

/// How much time a certificate has left.
#[derive(Debug, PartialEq, Eq)]
enum Validity {
    Long,
    Short { days: u64 },
    Over,
}

impl Validity {
    fn of(not_after: i64, now: i64) -> Self {
        match u64::try_from(not_after.saturating_sub(now)) {
            Err(_) | Ok(0) => Self::Over,
            Ok(left) if left < EXPIRES_SOON.as_secs() => Self::Short {
                days: left / 86_400,
            },
            Ok(_) => Self::Long,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_announced_two_weeks_ahead() {
        let day = 86_400;
        for (left, expected) in [
            (14 * day, Validity::Long),
            (14 * day - 1, Validity::Short { days: 13 }),
            (1, Validity::Short { days: 0 }),
            (0, Validity::Over),
            (i64::MIN, Validity::Over),
            (i64::MAX, Validity::Long),
        ] {
            assert_eq!(Validity::of(left, 0), expected, "{left}");
        }
    }

    #[test]
    fn each_event_moves_its_metric() {
        let metrics = Metrics::new("1.2.3");
        let endpoint = metrics.endpoint("app", "a:1");
        let pool = metrics.pool("app");
        let shows = |line: &str| {
            let text = metrics.render();
            assert!(text.contains(line), "{line} in\n{text}");
        };
        endpoint_left(&endpoint, "three probes failed");
        shows("onemind_endpoint_up{endpoint=\"a:1\",pool=\"app\"} 0\n");
        endpoint_returned(&endpoint);
        shows("onemind_endpoint_up{endpoint=\"a:1\",pool=\"app\"} 1\n");
        endpoint_ejected(&endpoint, "connect", Duration::from_secs(30));
        shows(
            "onemind_endpoint_ejections_total{endpoint=\"a:1\",pool=\"app\",reason=\"connect\"} 1\n",
        );
        dns_failing(&pool, "app.internal", "no such name");
        shows("onemind_dns_failing{name=\"app.internal\",pool=\"app\"} 1\n");
        dns_answered(&pool, "app.internal", 2);
        shows("onemind_dns_failing{name=\"app.internal\",pool=\"app\"} 0\n");
        config_reloaded(&metrics, 2, 1_700_000_000);
        shows("onemind_config_last_reload_timestamp_seconds 1700000000\n");
        config_refused(&metrics, "no pool named `ap`");
        shows("onemind_config_last_reload_successful 0\n");
        certificate_seen(&metrics, "example.com", 1_800_000_000, 1_700_000_000);
        shows("onemind_tls_cert_not_after_seconds{certificate=\"example.com\"} 1800000000\n");
    }
}
