//! What is known of the store, be it one server or many: whether it answers, for whom else, and why not.

use super::redis::{Script, Settings, Unavailable};
use crate::observe::event;
use crate::observe::metrics::StoreMetrics;
use ::redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many calls in a row may fail before a server counts as gone.
pub const FAILURES_MAX: u32 = 3;

/// Between two attempts to connect, and half as much again at random: all instances lose Redis at once.
const RECONNECT_REST: Duration = Duration::from_millis(200);

/// How often an instance says that it lives.
pub const BEAT_PERIOD: Duration = Duration::from_secs(1);

/// An instance that was not heard of for so many seconds is dead.
const ALIVE_SECONDS: u32 = 5;

/// Notes that this instance lives, and counts those that do.
const ALIVE: &str = r"
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
return redis.call('ZCARD', KEYS[1])
";

pub fn reconnect_rest() -> Duration {
    RECONNECT_REST.mul_f64(1.0 + fastrand::f64() / 2.0)
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody was asked: the server is known to be gone.
    NotTried,
    Late,
    Failed {
        why: String,
        /// Whether no other call can survive on this connection either.
        is_over: bool,
    },
}

impl Trouble {
    pub fn of(error: &RedisError) -> Self {
        // A master that became a replica will not be one again soon: ask for the new one.
        let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        Self::Failed {
            why: error.to_string(),
            is_over: error.is_unrecoverable_error() || is_replica,
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Self::NotTried => "there is no connection",
            Self::Late => "it does not answer in time",
            Self::Failed { why, .. } => why,
        }
    }

    pub fn is_over(&self) -> bool {
        match self {
            Self::NotTried | Self::Late => false,
            Self::Failed { is_over, .. } => *is_over,
        }
    }
}

pub struct Known {
    /// For one call.
    pub timeout: Duration,
    /// The name of this process among those that share the store.
    instance: String,
    instances: AtomicU32,
    /// Signs of life in a row, since the store was found.
    beats: AtomicU32,
    /// Whether the first attempt to connect is over.
    tried: AtomicBool,
    /// What went wrong last; seldom written, and read by operators only.
    error: Mutex<String>,
    alive: Script,
    metrics: Arc<StoreMetrics>,
}

impl Known {
    pub fn new(settings: &Settings, instance: &str, metrics: Arc<StoreMetrics>) -> Self {
        Self {
            timeout: settings.timeout.0,
            instance: instance.to_owned(),
            instances: AtomicU32::new(1),
            beats: AtomicU32::new(0),
            tried: AtomicBool::new(false),
            error: Mutex::default(),
            alive: Script::new(ALIVE),
            metrics,
        }
    }

    pub fn was_tried(&self) -> bool {
        self.tried.load(Relaxed)
    }

    pub fn set_tried(&self) {
        self.tried.store(true, Relaxed);
    }

    /// Gateways that share the store now, this one included; while it is gone, as many as there were.
    pub fn instances(&self) -> u32 {
        self.instances.load(Relaxed).max(1)
    }

    /// What was counted with a sign of life. A store that has just come back has not heard of all of us yet: were
    /// it lost again at once, too few would share what is allowed without it.
    pub fn set_instances(&self, count: u32) {
        let beats = self.beats.fetch_add(1, Relaxed).saturating_add(1);
        if count >= self.instances() || beats > ALIVE_SECONDS {
            self.instances.store(count, Relaxed);
        }
    }

    pub fn last_error(&self) -> String {
        let error = self.error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn note_error(&self, why: &str) {
        why.clone_into(&mut self.error.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn found(&self) {
        event::store_found(&self.metrics);
    }

    pub fn lost(&self, why: &str) {
        self.beats.store(0, Relaxed);
        event::store_lost(&self.metrics, why);
    }

    pub fn show(&self, is_up: bool) {
        self.metrics.show(is_up);
    }

    /// The script that says that this instance lives, and what it is told but for its keys.
    pub fn beat(&self) -> (&Script, impl Fn(&mut Cmd)) {
        let told = |command: &mut Cmd| {
            command.arg(&self.instance).arg(ALIVE_SECONDS);
        };
        (&self.alive, told)
    }

    /// Reads what a call was answered, and counts it.
    pub fn measure<T: FromRedisValue>(
        &self,
        started: Instant,
        answer: Result<Value, Trouble>,
    ) -> Result<T, Trouble> {
        if !matches!(answer, Err(Trouble::NotTried)) {
            let took = started.elapsed().as_secs_f64();
            self.metrics.duration.observe(took);
        }
        let read = answer.and_then(|value| {
            ::redis::from_redis_value(value).map_err(|error| Trouble::of(&error.into()))
        });
        let result = match &read {
            Ok(_) => &self.metrics.ok,
            Err(Trouble::NotTried) => &self.metrics.not_tried,
            Err(Trouble::Late) => &self.metrics.timed_out,
            Err(Trouble::Failed { .. }) => &self.metrics.failed,
        };
        result.inc();
        read
    }
}

impl From<Trouble> for Unavailable {
    fn from(_: Trouble) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::base::units::Period;
    use crate::observe::metrics::Metrics;

    #[test]
    fn a_store_that_is_back_is_believed_that_we_are_fewer_after_a_while_only() {
        let settings = Settings {
            url: Secret::new("redis://h".to_owned()),
            ca: None,
            timeout: Period::millis(50),
        };
        let known = Known::new(&settings, "a", Metrics::new("0").store());
        let told = |count| {
            known.set_instances(count);
            known.instances()
        };
        assert_eq!((told(1), told(3)), (1, 3));
        known.lost("it is tested");
        assert_eq!((told(1), told(2)), (3, 3));
        assert_eq!(told(4), 4, "more are believed at once");
        for _ in 3..ALIVE_SECONDS {
            assert_eq!(told(2), 4);
        }
        assert_eq!(told(2), 2);
    }
}
