//! One JSON line for each request, written beside the request path.
//!
//! Invariant: a request never waits for the log. Its line goes into a bounded buffer that one thread
//! empties; when the buffer is full the line is dropped and counted.

mod file;
mod line;
mod output;
mod redact;
mod syslog;
pub(super) mod text;
mod writer;

use super::metrics::Metrics;
use super::settings::{AccessLogSettings, RotateSettings, SyslogSettings};
use crate::base::client::Peer;
use crate::base::ending::Ending;
use crate::base::usage::Usage;
use file::FileOutput;
use output::Output;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};
use syslog::Syslog;
use writer::Writer;

/// Everything the log says of one request. Text from callers is taken as bytes: it may be anything.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the request head had arrived.
    pub time: SystemTime,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    /// The caller, as far as trusted peers say.
    pub client: IpAddr,
    /// The peer of the socket; `unix` for one behind a Unix socket.
    pub peer: Peer,
    pub listener: &'a str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// The version of TLS towards the caller.
    pub tls: Option<&'a str>,
    pub method: &'a str,
    pub host: &'a [u8],
    /// Path and query; values of secret parameters are replaced by `***`.
    pub path: &'a [u8],
    /// As sent, or 499 when the caller left before.
    pub status: u16,
    /// As the last endpoint answered.
    pub upstream_status: Option<u16>,
    /// Who is calling; none without identity, and for anonymous callers.
    pub user: Option<&'a str>,
    /// Name of the API key that was shown.
    pub key: Option<&'a str>,
    pub route: Option<&'a str>,
    pub pool: Option<&'a str>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<&'a str>,
    /// All attempts in order; written only if there was more than one.
    pub attempts: &'a [Attempt<'a>],
    pub duration: Duration,
    /// To connect in the last attempt; none for a connection used again.
    pub connect: Option<Duration>,
    /// From the request sent to the first byte of the answer, in the last attempt.
    pub first_byte: Option<Duration>,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    pub user_agent: Option<&'a [u8]>,
    pub ending: Ending,
    /// The code of the refusal, as the caller was told.
    pub code: Option<&'a str>,
    /// The rule of `limits` that refused.
    pub limit: Option<&'a str>,
    pub websocket: bool,
    /// What a call of a model came to; written only for such.
    pub inference: Option<Inference<'a>>,
}

/// A call of a model.
#[derive(Debug, Clone)]
pub struct Inference<'a> {
    /// `chat`, `messages`, `embeddings`.
    pub operation: &'a str,
    /// As the caller named it.
    pub model: &'a str,
    /// The one that answered, or was tried last, and what it calls the model.
    pub provider: Option<&'a str>,
    pub provider_model: Option<&'a str>,
    pub stream: bool,
    /// How the answer ended: `stop`, `length`, `tool_calls`, `content_filter`.
    pub stop: Option<&'a str>,
    pub usage: Usage,
    /// `reported` by the provider, `estimated` by us, or `none`.
    pub usage_source: &'a str,
    /// Waited for a place at a provider, and for a key of it.
    pub queued: Option<Duration>,
    /// From the request's head to the first content.
    pub first_token: Option<Duration>,
    /// Of the answer, from its first content on.
    pub tokens_per_second: Option<f64>,
}

/// One try at one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub endpoint: &'a str,
    /// How it ended: `completed`, or a word such as `connect_failed`.
    pub reason: &'a str,
    pub duration: Duration,
}

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Off,
    Stdout,
    /// Appended to; made if it is absent.
    File(PathBuf, Option<RotateSettings>),
    Syslog(SyslogSettings),
}

impl From<&AccessLogSettings> for Target {
    fn from(settings: &AccessLogSettings) -> Self {
        match settings.to.as_str() {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            "syslog" => Self::Syslog(settings.syslog.clone().unwrap_or_default()),
            path => Self::File(PathBuf::from(path), settings.rotate),
        }
    }
}

/// The access log. Dropping it writes what is buffered, for at most two seconds.
pub struct AccessLog {
    /// As an operator knows it.
    to: String,
    writer: Option<Writer>,
}

/// Between two looks whether a request still holds a log that was replaced.
const RETIRE_PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// Where this thread makes its lines: made here, then copied, so that a lock is held for a copy only.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// Opens the target and starts the writing thread.
    pub fn open(target: &Target, metrics: &Metrics) -> io::Result<Self> {
        let counters = writer::Counters {
            written: metrics.access_log_written.clone(),
            dropped: metrics.access_log_dropped.clone(),
        };
        let (to, output) = match target {
            Target::Off => ("off".to_owned(), None),
            Target::Stdout => (
                "stdout".to_owned(),
                Some(Output::File(FileOutput::stdout()?)),
            ),
            Target::File(path, rotate) => (
                path.display().to_string(),
                Some(Output::File(FileOutput::open(path, *rotate)?)),
            ),
            Target::Syslog(settings) => (
                format!("syslog {}", settings.address),
                Some(Output::Syslog(Box::new(Syslog::new(settings)))),
            ),
        };
        let writer = output.map(|output| Writer::start(output, counters));
        Ok(Self {
            to,
            writer: writer.transpose()?,
        })
    }

    /// Ends a log that was replaced, on a thread of its own: a request that happens to hold it last
    /// must not be the one that waits for its last lines.
    pub fn retire(mut log: Arc<Self>) {
        let wait = move || {
            // Requests hold it for the length of a line.
            while let Err(held) = Arc::try_unwrap(log) {
                log = held;
                thread::park_timeout(RETIRE_PAUSE);
            }
        };
        let thread = thread::Builder::new().name("access-log-end".to_owned());
        if let Err(why) = thread.spawn(wait) {
            tracing::warn!(%why, "no thread for the end of the old access log");
        }
    }

    /// As operators see it.
    pub fn status(&self) -> Value {
        let trouble = self.writer.as_ref().and_then(Writer::trouble);
        json!({ "to": self.to, "error": trouble })
    }

    /// Takes one line. Costs about a microsecond and never waits for the disk.
    pub fn write(&self, record: &Record<'_>) {
        let Some(writer) = &self.writer else {
            return;
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            line::write(line, record);
            writer.push(line);
        });
    }

    /// Opens the file anew, after it was renamed. If that fails the old one stays in use.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }
}

#[cfg(test)]
mod tests;
