//! How much is said: read as operators write it, and which of several words counts.

use std::time::{Duration, Instant};

/// Libraries that report each fault of a single caller, which the access log says better: only their errors are
/// shown unless they are named.
const QUIET: &str = "pingora=error,rustls=error,h2=error";

/// The longest text that is taken.
const BYTES_MAX: usize = 1024;

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// A level, or levels of parts, as written: `info,onemind_gateway::stage=trace`. The libraries' own parser takes
/// nearly anything for the name of a part; this one refuses what is most likely a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level(String);

impl Level {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > BYTES_MAX {
            return Err(format!("a log level has at most {BYTES_MAX} bytes"));
        }
        for part in text.split(',').map(str::trim) {
            let level = match part.split_once('=') {
                Some((name, level)) if is_name(name) => level,
                Some((name, _)) => {
                    return Err(format!("`{name}` is not the name of a part of the gateway"));
                }
                None => part,
            };
            if !LEVELS.contains(&level) {
                return Err(format!(
                    "`{level}` is not a log level: write one of {}",
                    LEVELS.join(", ")
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the subscriber reads it. What is named later goes before.
    pub fn filter(&self) -> String {
        format!("{QUIET},{}", self.0)
    }
}

impl Default for Level {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    !name.is_empty() && name.bytes().all(is_part)
}

/// Who has said how much is to be shown; the first of them that spoke counts.
#[derive(Debug, Default)]
pub struct Levels {
    /// An operator, while the process runs.
    by_hand: Option<ByHand>,
    /// The environment, in the words of the subscriber.
    at_start: Option<String>,
    /// The document.
    configured: Level,
}

#[derive(Debug)]
struct ByHand {
    level: Level,
    until: Option<Instant>,
}

impl Levels {
    pub fn new(at_start: Option<&str>) -> Self {
        Self {
            at_start: at_start.map(str::to_owned),
            ..Self::default()
        }
    }

    pub fn configure(&mut self, level: Level) {
        self.configured = level;
    }

    /// Goes before the others, until it ends or is taken back with none.
    pub fn set_by_hand(&mut self, level: Option<Level>, period: Option<Duration>, now: Instant) {
        self.by_hand = level.map(|level| ByHand {
            level,
            until: period.map(|period| now + period),
        });
    }

    /// Takes back what has ended; whether there was something.
    pub fn expire(&mut self, now: Instant) -> bool {
        let ended = |by_hand: &ByHand| by_hand.until.is_some_and(|until| until <= now);
        self.by_hand.take_if(|by_hand| ended(by_hand)).is_some()
    }

    /// As the subscriber reads it.
    pub fn filter(&self) -> String {
        match (&self.by_hand, &self.at_start) {
            (Some(by_hand), _) => by_hand.level.filter(),
            (None, Some(text)) => text.clone(),
            (None, None) => self.configured.filter(),
        }
    }

    /// As written, and by whom: `operator`, `environment` or `configuration`.
    pub fn in_force(&self) -> (&str, &'static str) {
        match (&self.by_hand, &self.at_start) {
            (Some(by_hand), _) => (by_hand.level.as_str(), "operator"),
            (None, Some(text)) => (text, "environment"),
            (None, None) => (self.configured.as_str(), "configuration"),
        }
    }

    /// How long what an operator has said still counts; none for as long as the process lives.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let until = self.by_hand.as_ref()?.until?;
        Some(until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_strictly() {
        for text in [
            "off",
            "debug",
            "info,onemind_gateway::stage=trace",
            "onemind_gateway=debug, pingora=warn",
        ] {
            assert_eq!(Level::parse(text).expect(text).as_str(), text);
        }
        for (text, expected) in [
            ("", "is not a log level"),
            ("verbose", "`verbose` is not a log level"),
            ("INFO", "is not a log level"),
            ("info,", "`` is not a log level"),
            ("=info", "is not the name"),
            ("a[b]=info", "is not the name"),
            ("a=b=info", "`b=info` is not a log level"),
            (&"info,".repeat(300), "at most 1024 bytes"),
        ] {
            let why = Level::parse(text).expect_err(text);
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn an_operator_goes_before_the_environment_and_that_before_the_document() {
        let now = Instant::now();
        let level = |text: &str| Level::parse(text).expect("a level");
        let mut levels = Levels::new(None);
        assert_eq!(levels.in_force(), ("info", "configuration"));
        levels.configure(level("warn"));
        assert_eq!(levels.in_force(), ("warn", "configuration"));
        levels.set_by_hand(Some(level("debug")), None, now);
        levels.configure(level("error"));
        assert_eq!(levels.in_force(), ("debug", "operator"));
        assert!(!levels.expire(now + Duration::from_hours(24)));
        levels.set_by_hand(None, None, now);
        assert_eq!(levels.in_force(), ("error", "configuration"));

        let mut levels = Levels::new(Some("trace"));
        levels.configure(level("warn"));
        assert_eq!(levels.in_force(), ("trace", "environment"));
        let period = Duration::from_secs(10);
        levels.set_by_hand(Some(level("off")), Some(period), now);
        assert_eq!(levels.in_force(), ("off", "operator"));
        let later = now + Duration::from_secs(4);
        assert_eq!(levels.left(later), Some(Duration::from_secs(6)));
        assert!(!levels.expire(later));
        assert!(levels.expire(now + period));
        assert_eq!(levels.in_force(), ("trace", "environment"));
        assert_eq!(levels.left(now), None);
    }
}
