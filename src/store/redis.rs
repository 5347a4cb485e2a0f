//! Redis for the whole process: one connection to each of its servers, and a limit on every wait for it.
//!
//! Invariant: a call takes at most [`Settings::timeout`], and none is tried while Redis is known to be gone:
//! then only the keeper asks for it, beside the requests.

use super::cluster::{Cluster, Seeds};
use super::known::Known;
use super::sentinel::Sentinels;
use super::single::{Place, Single};
use crate::base::secret::Secret;
use crate::base::units::Period;
use crate::observe::metrics::StoreMetrics;
use ::redis::{Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// For one call. On one network Redis answers in under a millisecond.
const TIMEOUT: Period = Period::millis(50);

/// Where the instances of the gateway are counted.
pub(super) const INSTANCES_KEY: &str = "onemind:instances";

/// What `url` says where there is no Redis.
const NO_REDIS: &str = "memory";

/// How `url` begins for a Cluster.
const CLUSTER: &str = "redis+cluster";
const TLS_CLUSTER: &str = "rediss+cluster";

/// Redis (6 or newer) or Valkey, where what instances share is kept.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `redis://host:6379`, with TLS `rediss://…`, with a user and a database
    /// `rediss://user:password@host:6379/0`, behind Sentinels `redis+sentinel://one:26379,two:26379/mymaster`,
    /// a Cluster by some of its servers `redis+cluster://one:6379,two:6379` (the others are asked for; with
    /// `rediss+cluster` certificates must be good for what the Cluster calls its servers); or `memory`:
    /// nothing is shared. In a Cluster, all counts are in one slot: their keys begin with `{ratelimit}:`.
    pub url: Secret,
    /// PEM file of the authorities to trust with `rediss://`. Absent: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// For one call, at most; a request waits no longer for Redis. After three such calls in a row Redis
    /// counts as gone. Default `50ms`.
    #[serde(default = "timeout_of_a_call")]
    pub timeout: Period,
}

fn timeout_of_a_call() -> Period {
    TIMEOUT
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub enum Address {
    Server(Box<ConnectionInfo>),
    /// Behind Sentinels, who know which server is the master.
    Sentinels(Box<Sentinels>),
    /// In a Cluster, of which these servers know the others.
    Cluster(Box<Seeds>),
}

impl Settings {
    /// Where to connect, none for `memory`; or what is wrong, without a word of the URL.
    pub fn address(&self) -> Result<Option<Address>, String> {
        let url = self.url.expose();
        if url == NO_REDIS {
            return Ok(None);
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        if url.contains('#') {
            return Err("`url` has a `#`, which means nothing here".to_owned());
        }
        match scheme {
            "redis" | "rediss" => {
                // The cause of the library may repeat what is secret, but for its fixed part.
                let info = url.into_connection_info();
                let info =
                    info.map_err(|error| format!("`url` cannot be read: {}", fixed_part(&error)))?;
                Ok(Some(Address::Server(Box::new(info))))
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let sentinels = Sentinels::parse(rest, scheme.starts_with("rediss"));
                let sentinels = sentinels.ok_or("`url` does not name Sentinels and a service")?;
                Ok(Some(Address::Sentinels(Box::new(sentinels))))
            }
            CLUSTER | TLS_CLUSTER => {
                let seeds = Seeds::parse(rest, scheme == TLS_CLUSTER);
                let seeds = seeds.ok_or("`url` does not name servers of a Cluster")?;
                Ok(Some(Address::Cluster(Box::new(seeds))))
            }
            _ => Err("`url` is not the address of a Redis server".to_owned()),
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.url.expose().starts_with("rediss")
    }

    /// Whether keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        let scheme = self.url.expose().split_once("://");
        scheme.is_some_and(|(scheme, _)| scheme == CLUSTER || scheme == TLS_CLUSTER)
    }
}

/// What the library says of an error, without what it may repeat of a secret.
pub(super) fn fixed_part(error: &RedisError) -> String {
    let text = error.to_string();
    let end = text.find(" - ").or(text.find(": ")).unwrap_or(text.len());
    text[..end].to_lowercase()
}

/// Redis cannot be asked now, or did not answer in time. What was asked may have been done all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// A script, sent by its hash.
pub struct Script {
    text: String,
    hash: String,
    is_of_one_key: bool,
}

impl Script {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let hash = ::redis::Script::new(&text).get_hash().to_owned();
        Self {
            text,
            hash,
            is_of_one_key: false,
        }
    }

    /// It has one key and touches nothing else. So while the key's slot moves from one server of a Cluster to
    /// another, whoever does not have the key may point to the other. All other scripts must not follow:
    /// what they touch may be in part here and in part there, and would be counted twice.
    #[must_use]
    pub fn of_one_key(self) -> Self {
        Self {
            is_of_one_key: true,
            ..self
        }
    }

    pub(super) fn is_of_one_key(&self) -> bool {
        self.is_of_one_key
    }

    pub(super) fn by_hash(&self, keys: usize, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut command = ::redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys);
        fill(&mut command);
        command
    }

    pub(super) fn by_text(&self, keys: usize, fill: impl Fn(&mut Cmd)) -> Cmd {
        let mut command = ::redis::cmd("EVAL");
        command.arg(&self.text).arg(keys);
        fill(&mut command);
        command
    }
}

/// Redis as the process sees it. Dropping it ends its connections.
pub struct Redis {
    servers: Servers,
    keeper: AbortHandle,
}

enum Servers {
    One(Arc<Single>),
    Many(Arc<Cluster>),
}

impl Redis {
    /// Begins to connect. Must be called inside the runtime that is to carry the connections.
    pub fn start(
        settings: &Settings,
        address: Address,
        (instance, metrics): (&str, Arc<StoreMetrics>),
    ) -> Arc<Self> {
        let known = Known::new(settings, instance, metrics);
        let one = |place, known| {
            let single = Arc::new(Single::new(settings, place, known));
            let keeper = tokio::spawn(Arc::clone(&single).keep());
            (Servers::One(single), keeper)
        };
        let (servers, keeper) = match address {
            Address::Server(server) => one(Place::Server(server), known),
            Address::Sentinels(sentinels) => one(Place::Sentinels(sentinels), known),
            Address::Cluster(seeds) => {
                let cluster = Arc::new(Cluster::new(settings, *seeds, known));
                let keeper = tokio::spawn(Arc::clone(&cluster).keep());
                (Servers::Many(cluster), keeper)
            }
        };
        Arc::new(Self {
            servers,
            keeper: keeper.abort_handle(),
        })
    }

    /// Whether Redis answers, as far as we know; of a Cluster, the server with the counts of limits.
    pub fn is_up(&self) -> bool {
        match &self.servers {
            Servers::One(single) => single.is_up(),
            Servers::Many(cluster) => cluster.is_up(),
        }
    }

    /// Whether the first attempt to connect is over, in vain or not.
    pub fn was_tried(&self) -> bool {
        self.known().was_tried()
    }

    /// Why it does not answer; none while it does.
    pub fn why_gone(&self) -> Option<String> {
        (!self.is_up()).then(|| self.known().last_error())
    }

    /// Sets the gauge of whether Redis answers; a store that a reload has replaced may have set it last.
    pub fn refresh_metrics(&self) {
        self.known().show(self.is_up());
    }

    /// Gateways that share this Redis now, this one included; while it is gone, as many as there were.
    pub fn instances(&self) -> u32 {
        self.known().instances()
    }

    /// Runs a script whose keys and arguments `fill` writes, in one round trip. In a Cluster, by the server that
    /// has its first key.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Unavailable> {
        match &self.servers {
            Servers::One(single) => single.script(script, keys, fill).await,
            Servers::Many(cluster) => cluster.script(script, keys, fill).await,
        }
    }

    fn known(&self) -> &Known {
        match &self.servers {
            Servers::One(single) => &single.known,
            Servers::Many(cluster) => &cluster.known,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::link::client;

    fn settings(url: &str) -> Settings {
        Settings {
            url: Secret::new(url.to_owned()),
            ca: None,
            timeout: TIMEOUT,
        }
    }

    #[test]
    fn every_form_of_address_is_read() {
        for (url, address, user, database) in [
            ("redis://h", "h:6379", None, 0),
            ("redis://h:7000/3", "h:7000", None, 3),
            ("redis://:pass@h", "h:6379", None, 0),
            ("rediss://me:pass%2F@h:1", "h:1", Some("me"), 0),
            ("redis://[::1]:6380", "::1:6380", None, 0),
        ] {
            let Some(Address::Server(info)) = settings(url).address().expect(url) else {
                panic!("{url} is a server");
            };
            assert_eq!(info.addr().to_string(), address, "{url}");
            assert_eq!(info.redis_settings().username(), user, "{url}");
            assert_eq!(info.redis_settings().db(), database, "{url}");
            let client = client(&settings(url), *info).expect(url);
            assert!(
                client.get_connection_info().tcp_settings().nodelay(),
                "{url}"
            );
        }
        assert!(settings("memory").address().unwrap().is_none());
        let behind = settings("rediss+sentinel://a,b/m").address();
        assert!(matches!(behind, Ok(Some(Address::Sentinels(_)))));
        assert!(!settings("redis+sentinel://a/m").is_cluster());
        for url in ["redis+cluster://a", "rediss+cluster://me:p@a:1,[::1]:2"] {
            let address = settings(url).address();
            assert!(matches!(address, Ok(Some(Address::Cluster(_)))), "{url}");
            assert!(settings(url).is_cluster());
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        for url in [
            "",
            "h:6379",
            "http://hidden@h",
            "redis://",
            "redis://me:hidden@",
            "redis://me:hidden@h/one",
            "redis://me:hidden@h:port",
            "redis://me:hidden@h?protocol=hidden",
            "rediss://me:hidden@h/#insecure",
            "redis+sentinel://me:hidden@h",
            "redis+cluster://",
            "redis+cluster://me:hidden@",
            "redis+cluster://me:hidden@a/1",
        ] {
            let what = settings(url).address().expect_err(url);
            assert!(what.starts_with("`url`"), "{url}: {what}");
            assert!(!what.contains("hidden"), "{url}: {what}");
        }
    }
}
