//! The process's own log: one line an event, to standard error, JSON unless a person is watching.
//!
//! Libraries below the gateway write through the `log` crate; their records arrive here too. They
//! report each fault of a single caller as an error, which the access log says better, so by
//! default only their errors are shown and of those a few in a minute: what is held back is counted.

use prometheus::IntCounter;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// What is shown when nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,pingora=error,rustls=error,h2=error";

/// Targets that begin with this are held back when there are too many.
const NOISY: &str = "pingora";
/// Lines of those that are shown in each minute.
const NOISY_MAX: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object each.
    Json,
    /// For people, in colour.
    Pretty,
}

impl Format {
    /// For people when standard error is a terminal.
    pub fn detect() -> Self {
        if io::stderr().is_terminal() {
            Self::Pretty
        } else {
            Self::Json
        }
    }
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The filter cannot be understood.
    Filter(ParseError),
    /// The log was started before.
    Twice,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(why) => write!(f, "cannot understand the log filter: {why}"),
            Self::Twice => f.write_str("the log was started before"),
        }
    }
}

impl std::error::Error for StartError {}

/// Starts the log for the whole process. `filter` is written as for `RUST_LOG`:
/// `debug`, `info,onemind_gateway::stage=trace`. `suppressed` counts lines held back.
pub fn start(
    filter: Option<&str>,
    format: Format,
    suppressed: IntCounter,
) -> Result<(), StartError> {
    let filter = filter.unwrap_or(DEFAULT_FILTER);
    let subscriber = subscriber(filter, format, suppressed, io::stderr)?;
    // Also makes the records of the `log` crate arrive here.
    subscriber.try_init().map_err(|_| StartError::Twice)
}

fn subscriber<W>(
    filter: &str,
    format: Format,
    suppressed: IntCounter,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, StartError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(StartError::Filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Pretty => lines.boxed(),
    };
    let throttle = Throttle {
        minute: Mutex::default(),
        suppressed,
    };
    // The last one is asked first: what the filter refuses is not counted as held back.
    let layers = tracing_subscriber::registry().with(lines).with(throttle);
    Ok(Box::new(layers.with(filter)))
}

/// Holds back what exceeds the limit of a minute.
struct Throttle {
    minute: Mutex<Minute>,
    suppressed: IntCounter,
}

impl<S: Subscriber> Layer<S> for Throttle {
    // Not in `enabled`: its answers are remembered, and for one record it is asked twice.
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if !is_noisy(event) {
            return true;
        }
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = minute.admit(Instant::now());
        drop(minute);
        if !shown {
            self.suppressed.inc();
        }
        shown
    }
}

/// Records of the `log` crate all have the target `log`, and their own one in a field.
fn is_noisy(event: &Event<'_>) -> bool {
    struct Target(bool);
    impl Visit for Target {
        fn record_str(&mut self, field: &Field, value: &str) {
            self.0 |= field.name() == "log.target" && value.starts_with(NOISY);
        }
        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }
    match event.metadata().target() {
        "log" => {
            let mut target = Target(false);
            event.record(&mut target);
            target.0
        }
        target => target.starts_with(NOISY),
    }
}

/// Lines shown since a minute began.
#[derive(Default)]
struct Minute {
    began: Option<Instant>,
    shown: u32,
}

impl Minute {
    fn admit(&mut self, now: Instant) -> bool {
        let over = |began: Instant| now.saturating_duration_since(began) >= MINUTE;
        if self.began.is_none_or(over) {
            *self = Self {
                began: Some(now),
                shown: 0,
            };
        }
        self.shown = self.shown.saturating_add(1);
        self.shown <= NOISY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::Write;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that are shown of what `act` says.
    fn shown(filter: &str, act: impl FnOnce()) -> (Vec<Value>, u64) {
        let (seen, suppressed) = (Seen::default(), IntCounter::new("a", "b").expect("valid"));
        let make = {
            let seen = seen.clone();
            move || seen.clone()
        };
        let subscriber =
            subscriber(filter, Format::Json, suppressed.clone(), make).expect("a valid filter");
        tracing::subscriber::with_default(subscriber, act);
        let bytes = seen.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line));
        (lines.collect(), suppressed.get())
    }

    #[test]
    fn a_line_has_its_fields_at_the_top() {
        let (lines, _) = shown(DEFAULT_FILTER, || {
            tracing::warn!(pool = "app", endpoint = "a:1", "left rotation");
            tracing::debug!("not shown");
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["pool"], "app");
        assert_eq!(lines[0]["message"], "left rotation");
        assert_eq!(lines[0]["level"], "WARN");
    }

    #[test]
    fn libraries_below_are_shown_from_errors_on() {
        let (lines, suppressed) = shown(DEFAULT_FILTER, || {
            tracing::warn!(target: "pingora_proxy", "not shown");
            tracing::warn!(target: "rustls::msgs::handshake", "a caller's fault, not shown");
            tracing::error!(target: "pingora_core::services::listening", "shown");
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(suppressed, 0);
    }

    #[test]
    fn a_flood_from_below_is_cut_and_counted() {
        let (lines, suppressed) = shown(DEFAULT_FILTER, || {
            for _ in 0..NOISY_MAX + 30 {
                tracing::error!(target: "pingora_proxy", "the same again");
            }
            tracing::error!("our own");
        });
        assert_eq!(lines.len(), 21);
        assert_eq!(suppressed, 30);
    }

    #[test]
    fn records_of_the_log_crate_arrive_and_are_cut_too() {
        let suppressed = || IntCounter::new("a", "b").expect("valid");
        start(Some("off"), Format::Json, suppressed()).expect("the first start");
        assert!(start(None, Format::Json, suppressed()).is_err());
        log::set_max_level(log::LevelFilter::Trace);
        let (lines, suppressed) = shown(DEFAULT_FILTER, || {
            log::warn!(target: "pingora_proxy", "not shown");
            for _ in 0..NOISY_MAX + 5 {
                log::error!(target: "pingora_proxy", "the same again");
            }
        });
        assert_eq!(lines.len(), 20);
        assert_eq!(suppressed, 5);
        assert_eq!(lines[0]["message"], "the same again");
    }

    #[test]
    fn a_new_minute_shows_lines_again() {
        let start = Instant::now();
        let mut minute = Minute::default();
        let mut shown_at = |second| {
            let now = start + Duration::from_secs(second);
            (0..100).filter(|_| minute.admit(now)).count()
        };
        assert_eq!((shown_at(0), shown_at(59), shown_at(60)), (20, 0, 20));
    }

    #[test]
    fn a_filter_that_cannot_be_understood_is_an_error() {
        let suppressed = IntCounter::new("a", "b").expect("valid");
        let result = subscriber("info,=x=y", Format::Json, suppressed, io::sink);
        let Err(why) = result else {
            panic!("taken");
        };
        assert!(
            why.to_string()
                .starts_with("cannot understand the log filter")
        );
    }
}
