//! The process's own log: one line an event, to standard error, JSON unless a person is watching.
//!
//! Nobody waits for it: lines go through a bounded buffer to a thread of their own, and what is lost is counted.
//! How much is said, and how it looks, may change while the process runs ([`Control`]).
//!
//! Libraries below the gateway write through the `log` crate; their records arrive here too. They
//! report each fault of a single caller as an error, which the access log says better, so by
//! default only their errors are shown and of those a few in a minute: what is held back is counted.
//! Beyond `info` they print what passes through them, secrets of callers included, so that is never shown.

mod level;
mod lines;
mod spool;

pub use level::Level;

use super::settings::{FormatSetting, LogSettings};
use level::Levels;
use lines::{Fields, Lines, Pretty};
use prometheus::IntCounter;
use serde_json::{Value, json};
use spool::Spool;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Targets that begin with this are held back when there are too many.
const NOISY: &str = "pingora";
/// Lines of those that are shown in each minute.
const NOISY_MAX: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// Events with this target, and below it, are ours.
const OURS: &str = "onemind_gateway";
/// How long the end of the process waits for the last lines.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// There is one log in a process, as there is one standard error.
static CONTROL: OnceLock<Control> = OnceLock::new();

/// Why the log could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The filter cannot be understood.
    Filter(ParseError),
    /// The log was started before.
    Twice,
    /// Standard error cannot be had, or no thread.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(why) => write!(f, "cannot understand the log filter: {why}"),
            Self::Twice => f.write_str("the log was started before"),
            Self::System(why) => write!(f, "cannot start the log: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What is counted of the log.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Lines of libraries held back.
    pub suppressed: IntCounter,
    /// Lines that nobody took.
    pub dropped: IntCounter,
}

/// Starts the log for the whole process. `filter` is written as for `RUST_LOG`:
/// `debug`, `info,onemind_gateway::stage=trace`; it goes before what the document says.
pub fn start(filter: Option<&str>, counters: Counters) -> Result<(), StartError> {
    let spool = Spool::to_stderr(counters.dropped.clone()).map_err(StartError::System)?;
    let levels = Levels::new(filter);
    let pretty = Pretty::new(wants_pretty(FormatSetting::Auto));
    let (subscriber, swap) = subscriber(
        &levels.filter(),
        &pretty,
        counters.suppressed,
        spool.clone(),
    )?;
    // Also makes the records of the `log` crate arrive here.
    subscriber.try_init().map_err(|_| StartError::Twice)?;
    let control = Control {
        swap,
        pretty,
        spool,
        dropped: counters.dropped,
        levels: Mutex::new(levels),
    };
    bound_libraries();
    CONTROL.set(control).map_err(|_| StartError::Twice)
}

/// The log of this process, once it is started.
pub fn control() -> Option<&'static Control> {
    CONTROL.get()
}

/// Waits for the last lines, at most two seconds; for the end of the process.
pub fn flush() {
    if let Some(control) = control() {
        control.spool.flush(FLUSH_MAX);
    }
}

/// Changes the log while the process runs.
pub struct Control {
    swap: Swap,
    pretty: Pretty,
    spool: Spool,
    dropped: IntCounter,
    levels: Mutex<Levels>,
}

/// Puts another filter in the place of the one in force.
type Swap = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl Control {
    /// What the document says; it counts unless the environment or an operator has said something else.
    pub fn configure(&self, settings: &LogSettings) {
        self.pretty.set(wants_pretty(settings.format));
        // The check of the document has refused what cannot be read.
        if let Ok(level) = Level::parse(&settings.level) {
            self.change(|levels| levels.configure(level));
        }
    }

    /// Shows so much from now on, for a while or until it is changed again. With none, what was said
    /// otherwise counts again.
    pub fn set_level(&self, level: Option<Level>, period: Option<Duration>) {
        self.change(|levels| levels.set_by_hand(level, period, Instant::now()));
    }

    /// Takes back what an operator had said for a while, if that is over; whether it was.
    pub fn expire(&self, now: Instant) -> bool {
        let mut over = false;
        self.change(|levels| over = levels.expire(now));
        over
    }

    /// As operators see it.
    pub fn status(&self) -> Value {
        let levels = self.lock();
        let (level, by) = levels.in_force();
        json!({
            "level": level,
            "by": by,
            "left_s": levels.left(Instant::now()).map(|left| left.as_secs()),
            "format": if self.pretty.get() { "pretty" } else { "json" },
            "dropped": self.dropped.get(),
        })
    }

    fn change(&self, change: impl FnOnce(&mut Levels)) {
        let mut levels = self.lock();
        let before = levels.filter();
        change(&mut levels);
        let after = levels.filter();
        // Under the lock, so that two changes take effect in their order.
        if before != after
            && let Ok(filter) = EnvFilter::try_new(&after)
        {
            (self.swap)(filter);
            bound_libraries();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wants_pretty(format: FormatSetting) -> bool {
    match format {
        FormatSetting::Auto => io::stderr().is_terminal(),
        FormatSetting::Json => false,
        FormatSetting::Pretty => true,
    }
}

/// Whoever writes through the `log` crate asks this first, and it is not told of changes by itself.
fn bound_libraries() {
    let level = match LevelFilter::current() {
        LevelFilter::OFF => log::LevelFilter::Off,
        LevelFilter::ERROR => log::LevelFilter::Error,
        LevelFilter::WARN => log::LevelFilter::Warn,
        _ => log::LevelFilter::Info,
    };
    log::set_max_level(level);
}

fn subscriber<W>(
    filter: &str,
    pretty: &Pretty,
    suppressed: IntCounter,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Swap), StartError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(StartError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(Fields::new(pretty.clone()))
        .event_format(Lines::new(pretty.clone()))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(writer);
    let throttle = Throttle {
        minute: Mutex::default(),
        suppressed,
    };
    // The last one is asked first: what the filter refuses is not counted as held back.
    let layers = tracing_subscriber::registry().with(lines).with(throttle);
    let swap = move |filter| {
        // An error says that the log is gone, which is not before the process is.
        let _ = handle.reload(filter);
    };
    Ok((Box::new(layers.with(Bound).with(filter)), Box::new(swap)))
}

/// Refuses what libraries say beyond `info`, whatever was asked for.
struct Bound;

impl<S: Subscriber> Layer<S> for Bound {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO || is_ours(metadata.target())
    }
}

fn is_ours(target: &str) -> bool {
    let rest = target.strip_prefix(OURS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
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

    fn counters() -> Counters {
        let counter = || IntCounter::new("a", "b").expect("valid");
        Counters {
            suppressed: counter(),
            dropped: counter(),
        }
    }

    /// The lines that are shown of what `act` says; what it is given puts another filter in force.
    fn shown(filter: &str, act: impl FnOnce(&dyn Fn(&str))) -> (Vec<Value>, u64) {
        let (seen, suppressed) = (Seen::default(), IntCounter::new("a", "b").expect("valid"));
        let make = {
            let seen = seen.clone();
            move || seen.clone()
        };
        let pretty = Pretty::new(false);
        let (subscriber, swap) =
            subscriber(filter, &pretty, suppressed.clone(), make).expect("a valid filter");
        let then = |filter: &str| swap(EnvFilter::try_new(filter).expect("a valid filter"));
        tracing::subscriber::with_default(subscriber, || act(&then));
        let bytes = seen.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line));
        (lines.collect(), suppressed.get())
    }

    #[test]
    fn a_line_has_its_fields_at_the_top() {
        let (lines, _) = shown(&Level::default().filter(), |_| {
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
        let (lines, suppressed) = shown(&Level::default().filter(), |_| {
            tracing::warn!(target: "pingora_proxy", "not shown");
            tracing::warn!(target: "rustls::msgs::handshake", "a caller's fault, not shown");
            tracing::error!(target: "pingora_core::services::listening", "shown");
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(suppressed, 0);
    }

    #[test]
    fn a_flood_from_below_is_cut_and_counted() {
        let (lines, suppressed) = shown(&Level::default().filter(), |_| {
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
        start(Some("off"), counters()).expect("the first start");
        assert!(start(None, counters()).is_err());
        log::set_max_level(log::LevelFilter::Trace);
        let (lines, suppressed) = shown(&Level::default().filter(), |_| {
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
    fn what_libraries_say_beyond_info_is_never_shown() {
        let (lines, _) = shown("trace,h2=trace", |_| {
            tracing::trace!("ours");
            tracing::trace!(target: "onemind_gateway", "ours");
            tracing::trace!(target: "onemind_gateway_not", "theirs, not shown");
            tracing::debug!(target: "h2::codec", "theirs, not shown");
            tracing::info!(target: "h2::codec", "theirs");
        });
        let said: Vec<&Value> = lines.iter().map(|line| &line["message"]).collect();
        assert_eq!(said, ["ours", "ours", "theirs"]);
    }

    #[test]
    fn another_filter_takes_effect_at_once() {
        let (lines, _) = shown("warn", |then| {
            let say = |nth: u32| tracing::debug!(nth, "here");
            say(1);
            then("debug");
            say(2);
            then("info");
            say(3);
        });
        let said: Vec<&Value> = lines.iter().map(|line| &line["nth"]).collect();
        assert_eq!(said, [2]);
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
        let result = subscriber("info,=x=y", &Pretty::new(false), suppressed, io::sink);
        let Err(why) = result else {
            panic!("taken");
        };
        assert!(
            why.to_string()
                .starts_with("cannot understand the log filter")
        );
    }
}
