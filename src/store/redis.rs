//! One connection to Redis for the whole process, and a limit on every wait for it.
//!
//! Invariant: a call takes at most [`Settings::timeout`], and none is tried while Redis is known to be gone:
//! then only the keeper asks for it, beside the requests.

use crate::base::secret::Secret;
use crate::base::units::Period;
use crate::observe::event;
use crate::observe::metrics::StoreMetrics;
use crate::store::sentinel::Sentinels;
use ::redis::aio::{MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisError, ServerErrorKind,
    TlsCertificates, Value,
};
use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// For one call. On one network Redis answers in under a millisecond.
const TIMEOUT: Period = Period::millis(50);

/// To connect, TLS and log-in included.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(200);

/// So many calls in a row may fail before Redis counts as gone.
const FAILURES_MAX: u32 = 3;

/// Between two attempts to connect, and half as much again at random: all instances lose Redis at once.
const RECONNECT_REST: Duration = Duration::from_millis(200);

/// How often an instance says that it lives.
const BEAT_PERIOD: Duration = Duration::from_secs(1);

/// An instance that was not heard of for so many seconds is dead.
const ALIVE_SECONDS: u32 = 5;

/// Where the instances of the gateway are counted.
const INSTANCES_KEY: &str = "onemind:instances";

/// Calls that may wait to be written; at 50 ms for each there is no use in more.
const WAITING_CALLS_MAX: usize = 4096;

/// What `url` says where there is no Redis.
const NO_REDIS: &str = "memory";

/// Redis (6 or newer) or Valkey, where what instances share is kept.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `redis://host:6379`, with TLS `rediss://…`, with a user and a database
    /// `rediss://user:password@host:6379/0`, behind Sentinels `redis+sentinel://one:26379,two:26379/mymaster`;
    /// or `memory`: nothing is shared.
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
            _ => Err("`url` is not the address of a Redis server".to_owned()),
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.url.expose().starts_with("rediss")
    }
}

fn fixed_part(error: &RedisError) -> String {
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
}

impl Script {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let hash = ::redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    fn command(&self, keys: usize, by_hash: bool) -> Cmd {
        let mut command = Cmd::new();
        if by_hash {
            command.arg("EVALSHA").arg(&self.hash);
        } else {
            command.arg("EVAL").arg(&self.text);
        }
        command.arg(keys);
        command
    }
}

/// Redis as the process sees it. Dropping it ends the connection.
pub struct Redis {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

struct Shared {
    settings: Settings,
    address: Address,
    /// None while Redis is gone.
    link: ArcSwapOption<Link>,
    /// The link was lost.
    lost: Arc<Notify>,
    /// Whether the first attempt to connect is over.
    tried: AtomicBool,
    /// The name of this process among those that share this Redis.
    instance: String,
    instances: AtomicU32,
    /// What went wrong last; seldom written, and read by operators only.
    error: Mutex<String>,
    alive: Script,
    metrics: Arc<StoreMetrics>,
}

/// A connection, and how many of its last calls failed.
struct Link {
    connection: MultiplexedConnection,
    failures: AtomicU32,
    /// Whether Redis has closed it.
    closed: Arc<AtomicBool>,
}

impl Redis {
    /// Begins to connect. Must be called inside the runtime that is to carry the connection.
    pub fn start(
        settings: &Settings,
        address: Address,
        (instance, metrics): (&str, Arc<StoreMetrics>),
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            address,
            link: ArcSwapOption::empty(),
            lost: Arc::default(),
            tried: AtomicBool::new(false),
            instance: instance.to_owned(),
            instances: AtomicU32::new(1),
            error: Mutex::default(),
            alive: Script::new(ALIVE),
            metrics,
        });
        let keeper = tokio::spawn(Arc::clone(&shared).keep()).abort_handle();
        Arc::new(Self { shared, keeper })
    }

    /// Whether Redis answers, as far as we know.
    pub fn is_up(&self) -> bool {
        self.shared.link.load().is_some()
    }

    /// Whether the first attempt to connect is over, in vain or not.
    pub fn was_tried(&self) -> bool {
        self.shared.tried.load(Relaxed)
    }

    /// Why it does not answer; none while it does.
    pub fn why_gone(&self) -> Option<String> {
        (!self.is_up()).then(|| self.shared.last_error())
    }

    /// Sets the gauge of whether Redis answers; a store that a reload has replaced may have set it last.
    pub fn refresh_metrics(&self) {
        self.shared.metrics.show(self.is_up());
    }

    /// Gateways that share this Redis now, this one included; while it is gone, as many as there were.
    pub fn instances(&self) -> u32 {
        self.shared.instances.load(Relaxed).max(1)
    }

    /// Runs a script whose keys and arguments `fill` writes, in one round trip.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Unavailable> {
        self.shared.script(script, keys, fill).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A client of one server: it waits for nothing but us, speaks RESP3 and sends each call at once.
fn client(settings: &Settings, address: ConnectionInfo) -> Result<Client, String> {
    let tcp = address.tcp_settings().clone().set_nodelay(true);
    let login = address.redis_settings().clone();
    let login = login.set_protocol(ProtocolVersion::RESP3);
    let address = address.set_tcp_settings(tcp).set_redis_settings(login);
    let failed = |error: RedisError| fixed_part(&error);
    match &settings.ca {
        Some(ca) if settings.is_tls() => {
            let pem = std::fs::read(ca)
                .map_err(|error| format!("cannot read `{}`: {error}", ca.display()))?;
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem),
            };
            Client::build_with_tls(address, certificates).map_err(failed)
        }
        _ => Client::open(address).map_err(failed),
    }
}

/// Notes that this instance lives, and counts those that do.
const ALIVE: &str = r"
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
return redis.call('ZCARD', KEYS[1])
";

impl Shared {
    /// Connects, again and again, as long as the process wants Redis.
    async fn keep(self: Arc<Self>) {
        loop {
            match self.connect().await {
                Ok(link) => {
                    self.link.store(Some(Arc::new(link)));
                    if self.beat().await.is_ok() {
                        event::store_found(&self.metrics);
                        self.tried.store(true, Relaxed);
                        self.stay().await;
                    } else {
                        event::store_lost(&self.metrics, &self.last_error());
                    }
                }
                Err(why) => {
                    event::store_lost(&self.metrics, &why);
                    self.note_error(why);
                }
            }
            self.link.store(None);
            self.tried.store(true, Relaxed);
            sleep(RECONNECT_REST.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn connect(&self) -> Result<Link, String> {
        let client_of = |address| client(&self.settings, address);
        let server = match &self.address {
            Address::Server(server) => (**server).clone(),
            Address::Sentinels(sentinels) => sentinels.master(client_of).await?,
        };
        let client = client_of(server)?;
        let closed = Arc::new(AtomicBool::new(false));
        let (flag, lost) = (Arc::clone(&closed), Arc::clone(&self.lost));
        let noticed = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                flag.store(true, Relaxed);
                lost.notify_one();
            }
            Ok::<(), SendError>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_push_sender(noticed)
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING_CALLS_MAX);
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        match timeout(CONNECT_TIME_MAX, connect).await {
            Ok(Ok(connection)) => Ok(Link {
                connection,
                failures: AtomicU32::new(0),
                closed,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT_TIME_MAX:?}")),
        }
    }

    /// Returns when the link is lost.
    async fn stay(&self) {
        while let Some(link) = self.link.load_full() {
            if link.closed.load(Relaxed) {
                return self.failed(&link, true, "it closed the connection");
            }
            drop(link);
            tokio::select! {
                () = self.lost.notified() => {}
                // What failed has been counted.
                () = sleep(BEAT_PERIOD) => drop(self.beat().await),
            }
        }
    }

    async fn beat(&self) -> Result<(), Unavailable> {
        let fill = |command: &mut Cmd| {
            command.arg(INSTANCES_KEY).arg(&self.instance);
            command.arg(ALIVE_SECONDS);
        };
        let count: u32 = self.script(&self.alive, 1, fill).await?;
        self.instances.store(count, Relaxed);
        Ok(())
    }

    async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Unavailable> {
        let Some(link) = self.link.load_full() else {
            self.metrics.not_tried.inc();
            return Err(Unavailable);
        };
        let mut connection = link.connection.clone();
        let started = Instant::now();
        let asked = timeout(
            self.settings.timeout.0,
            ask(&mut connection, script, keys, fill),
        )
        .await;
        let took = started.elapsed();
        self.metrics.duration.observe(took.as_secs_f64());
        let Ok(answer) = asked else {
            self.metrics.timed_out.inc();
            self.failed(&link, false, "it does not answer in time");
            return Err(Unavailable);
        };
        match answer.and_then(|value| Ok(::redis::from_redis_value(value)?)) {
            Ok(answer) => {
                self.metrics.ok.inc();
                link.failures.store(0, Relaxed);
                Ok(answer)
            }
            Err(error) => {
                self.metrics.failed.inc();
                // A master that became a replica will not be one again soon: ask for the new one.
                let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
                let is_over = error.is_unrecoverable_error() || is_replica;
                self.failed(&link, is_over, &error.to_string());
                Err(Unavailable)
            }
        }
    }

    fn last_error(&self) -> String {
        let error = self.error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_error(&self, why: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// After three failures in a row, or one that no other call can survive, nobody waits any more.
    fn failed(&self, link: &Arc<Link>, is_over: bool, why: &str) {
        self.note_error(why.to_owned());
        let failures = link.failures.fetch_add(1, Relaxed) + 1;
        if failures < FAILURES_MAX && !is_over {
            return;
        }
        let held = self.link.compare_and_swap(link, None);
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            event::store_lost(&self.metrics, why);
            self.lost.notify_one();
        }
    }
}

/// By the hash of the script; with its text where Redis has forgotten it.
async fn ask(
    connection: &mut MultiplexedConnection,
    script: &Script,
    keys: usize,
    fill: impl Fn(&mut Cmd),
) -> Result<Value, RedisError> {
    let command = |by_hash| {
        let mut command = script.command(keys, by_hash);
        fill(&mut command);
        command
    };
    match command(true).query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            command(false).query_async(connection).await
        }
        answered => answered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            let what = settings(url).address().expect_err(url);
            assert!(what.starts_with("`url`"), "{url}: {what}");
            assert!(!what.contains("hidden"), "{url}: {what}");
        }
    }
}
