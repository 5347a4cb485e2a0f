//! What an operator wants to see of the process log for a while, and its end.

use crate::observe::logging::{self, Level};
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Puts the level back when its time is over.
#[derive(Debug, Default)]
pub struct LogLevel {
    /// The one task that waits for that.
    back: Mutex<Option<AbortHandle>>,
}

impl LogLevel {
    pub fn status() -> Value {
        logging::control().map_or(Value::Null, logging::Control::status)
    }

    /// Must run inside the runtime beside the traffic.
    pub fn set(&self, level: Option<Level>, period: Option<Duration>) {
        let Some(control) = logging::control() else {
            return;
        };
        let word = level.as_ref().map_or("configured", Level::as_str);
        let word = word.to_owned();
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = back.take() {
            before.abort();
        }
        let over = period.map(|period| Instant::now() + period);
        let for_s = period.map(|period| period.as_secs_f64());
        // Told at the level of warnings, so that most of those who read only these know why they see more; and
        // before, by a log that may fall silent with it.
        let tell = || tracing::warn!(shows = word, for_s, "an operator has set the log level");
        let is_heard = tracing::enabled!(tracing::Level::WARN);
        if is_heard {
            tell();
        }
        control.set_level(level, period);
        if !is_heard {
            tell();
        }
        *back = over.map(|over| {
            let task = tokio::spawn(async move {
                // The log's own clock may be a moment behind.
                let mut at = over;
                sleep_until(at).await;
                while !control.expire(Instant::now().into_std()) {
                    at += Duration::from_millis(10);
                    sleep_until(at).await;
                }
                tracing::warn!("the log level of the operator is over");
            });
            task.abort_handle()
        });
    }
}
