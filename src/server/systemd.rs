//! What systemd wants to hear (`sd_notify(3)`): ready, reloading, stopping, which process, alive.

use crate::config::Environment;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

/// A manager that does not read must not hold us up.
const SEND_MAX: Duration = Duration::from_secs(1);

/// From the end of a drain to the end of the process.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// The service manager, if there is one.
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Asks the environment for `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn find(environment: &Environment) -> Self {
        let socket = environment("NOTIFY_SOCKET").and_then(|name| {
            let open = open(&name);
            if let Err(error) = &open {
                tracing::warn!(name, %error, "cannot speak to the service manager");
            }
            open.ok()
        });
        let watchdog = watchdog(
            environment("WATCHDOG_USEC").as_deref(),
            environment("WATCHDOG_PID").as_deref(),
            process::id(),
        );
        Self { socket, watchdog }
    }

    pub fn ready(&self) {
        self.say("READY=1\nSTATUS=Serving");
    }

    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Asks for as much time as a drain may take, should the unit give less.
    pub fn stopping(&self, connections: usize, limit: Duration) {
        let micros = limit.saturating_add(STOP_SLACK).as_micros();
        self.say(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS=Draining {connections} connections"
        ));
    }

    /// The service is another process from now on.
    pub fn main_process(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// How often to say [`alive`](Self::alive): half the time after which we would be killed.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    pub fn is_watched(&self) -> bool {
        self.watchdog.is_some()
    }

    fn say(&self, what: &str) {
        let Some((socket, manager)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), manager) {
            tracing::warn!(%error, what, "the service manager does not listen");
        }
    }
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::other("neither a path nor an abstract socket")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok((socket, address))
}

/// None: nobody watches this process.
fn watchdog(limit: Option<&str>, of: Option<&str>, pid: u32) -> Option<Duration> {
    let ours = of.is_none_or(|of| of == pid.to_string());
    let micros = limit?.parse().ok().filter(|micros| *micros > 0)?;
    ours.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_a_process_that_is_watched_sends_signs_of_life() {
        let second = Some(Duration::from_secs(1));
        for (limit, of, expected) in [
            (None, None, None),
            (Some("1000000"), None, second),
            (Some("1000000"), Some("7"), second),
            (Some("1000000"), Some("8"), None),
            (Some("0"), Some("7"), None),
            (Some("soon"), None, None),
        ] {
            assert_eq!(watchdog(limit, of, 7), expected, "{limit:?} {of:?}");
        }
    }

    #[test]
    fn a_manager_at_a_path_or_in_the_abstract_hears_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("onemind-test-{}", process::id());
        let rows = [
            (path.display().to_string(), SocketAddr::from_pathname(&path)),
            (format!("@{name}"), SocketAddr::from_abstract_name(&name)),
        ];
        for (name, address) in rows {
            let manager = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
            let environment: Environment =
                Arc::new(move |key| (key == "NOTIFY_SOCKET").then(|| name.clone()));
            Systemd::find(&environment).reloading();
            let mut heard = [0; 128];
            let length = manager.recv(&mut heard).unwrap();
            let heard = std::str::from_utf8(&heard[..length]).unwrap();
            let micros = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
            assert!(micros.unwrap().parse::<u64>().unwrap() > 0, "{heard}");
        }
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let nobody: Environment = Arc::new(|_| None);
        Systemd::find(&nobody).ready();
        let odd: Environment = Arc::new(|_| Some("vsock:2:1234".to_owned()));
        Systemd::find(&odd).ready();
    }
}
