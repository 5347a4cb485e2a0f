//! Another program takes the place of this one: it gets the sockets, proves itself, accepts; then we drain.
//!
//! Invariant: until the successor has said that it accepts, everything here stays as it is, and whatever
//! goes wrong is only told.

mod channel;
mod elders;
mod heritage;
mod program;
mod succeed;

pub(super) use channel::{Channel, Message};
pub use heritage::{Heritage, Sockets};

use super::Server;
use crate::observe::event;
use crate::snapshot::unix_now;
use crate::stage::listen::address::ListenAddress;
use crate::stage::listen::socket::ListenSocket;
use crate::stage::upstream::learned::Learned;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use channel::{ENDPOINTS_MAX, SOCKETS_MAX};
use elders::Elders;
use program::Program;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::timeout;

/// For a successor that is ready to begin to accept; it takes milliseconds.
const SERVING_MAX: Duration = Duration::from_secs(10);

/// Longest reason that is kept, in bytes: faults of a configuration can be many.
const REASON_BYTES_MAX: usize = 4 << 10;

/// Process 1 of a container: the container ends with it.
const INIT: u32 = 1;

/// What a process knows of its successors and of those before it.
pub(super) struct Upgrades {
    /// None: this process cannot have a successor.
    program: Option<Program>,
    report: Mutex<Report>,
    /// True while one is tried; reloads wait.
    trying: watch::Sender<bool>,
    /// True once a successor serves.
    handed_over: watch::Sender<bool>,
    /// The line to the successor that serves.
    line: Mutex<Option<Channel>>,
    pub(super) elders: Elders,
    /// Upgrades that went well, over all processes of this name.
    succeeded: u64,
}

/// How the last upgrade went.
#[derive(Debug, Default)]
struct Report {
    state: State,
    why: String,
    at_unix_seconds: u64,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    None,
    /// This process is the successor of another.
    TookOver,
    UnderWay,
    Failed,
    HandedOver,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TookOver => "took_over",
            Self::UnderWay => "under_way",
            Self::Failed => "failed",
            Self::HandedOver => "handed_over",
        }
    }
}

impl Upgrades {
    pub(super) fn new(heritage: Heritage) -> Self {
        let report = match heritage.upgrades {
            0 => Report::default(),
            _ => Report {
                state: State::TookOver,
                why: String::new(),
                at_unix_seconds: unix_now(),
            },
        };
        Self {
            program: heritage.program,
            report: Mutex::new(report),
            trying: watch::Sender::new(false),
            handed_over: watch::Sender::new(false),
            line: Mutex::default(),
            elders: heritage.elders,
            succeeded: heritage.upgrades,
        }
    }

    /// True while a successor is being tried.
    pub(super) fn trying(&self) -> watch::Receiver<bool> {
        self.trying.subscribe()
    }

    /// True once a successor serves.
    pub(super) fn handed_over(&self) -> watch::Receiver<bool> {
        self.handed_over.subscribe()
    }

    /// The line to the successor, to whoever listens to it.
    pub(super) fn take_line(&self) -> Option<Channel> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.take()
    }

    pub(super) fn status(&self) -> Value {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "state": report.state.name(),
            "why": report.why,
            "at": report.at_unix_seconds,
            "succeeded": self.succeeded,
            "draining": self.elders.pids(),
        })
    }

    fn note(&self, state: State, why: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        *report = Report {
            state,
            why: why.to_owned(),
            at_unix_seconds: unix_now(),
        };
    }
}

impl Server {
    /// Starts the program as it is on disk now and hands everything over to it. Its process id; or why
    /// this process goes on. Takes up to `server.upgrade.ready_within` and some seconds more.
    pub(super) async fn upgrade(&self) -> Result<u32, String> {
        let upgrades = &self.upgrades;
        if *self.switches.soon.borrow() || *upgrades.handed_over.borrow() {
            return Err("this process is about to leave".to_owned());
        }
        let first = upgrades.trying.send_if_modified(|trying| {
            let first = !*trying;
            *trying = true;
            first
        });
        if !first {
            tracing::warn!("an upgrade is under way: asked for another in vain");
            return Err("an upgrade is under way".to_owned());
        }
        let _trying = Trying(&upgrades.trying);
        let _no_reload = self.reloading.lock().await;
        upgrades.note(State::UnderWay, "");
        tracing::info!("upgrade: starting the successor");
        let mut stopping = self.switches.soon.subscribe();
        let outcome = tokio::select! {
            biased;
            outcome = self.try_successor() => outcome,
            _ = stopping.wait_for(|stop| *stop) => Err("told to stop meanwhile".to_owned()),
        };
        match &outcome {
            Ok(pid) => {
                upgrades.note(State::HandedOver, "");
                event::upgrade_succeeded(&self.state.metrics, *pid);
                upgrades.handed_over.send_replace(true);
            }
            Err(why) => {
                upgrades.note(State::Failed, why);
                event::upgrade_failed(&self.state.metrics, why);
            }
        }
        outcome
    }

    async fn try_successor(&self) -> Result<u32, String> {
        let program = self.may_upgrade()?;
        let limit = self
            .gateway
            .current
            .load()
            .config
            .server
            .upgrade
            .ready_within;
        let (line, theirs) = Channel::pair().map_err(because("cannot make a line"))?;
        let child = program
            .start(theirs, self.systemd.is_watched())
            .map_err(|error| format!("cannot start {}: {error}", program.path().display()))?;
        let mut successor = Successor {
            pid: child.id().unwrap_or_default(),
            child: Some(child),
        };
        match timeout(limit.0, self.prove(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(None)) => return Err(successor.ended().await),
            Ok(Err(Some(why))) => return Err(why),
            Err(_) => return Err(format!("the new process was not ready within {limit}")),
        }
        line.send(&Message::Go, &[])
            .await
            .map_err(because("cannot tell the new process to accept"))?;
        match timeout(SERVING_MAX, expect(&line, &Message::Serving)).await {
            Ok(Ok(())) => {}
            Ok(Err(None)) => return Err(successor.ended().await),
            Ok(Err(Some(why))) => return Err(why),
            Err(_) => return Err("the new process was ready, but did not accept".to_owned()),
        }
        // From here on it serves, whatever happens to us.
        let pid = successor.let_go();
        self.systemd.main_process(pid);
        if let Err(error) = line.send(&Message::Yours, &[]).await {
            tracing::warn!(%error, "cannot tell the new process that it is alone");
        }
        let mut kept = self
            .upgrades
            .line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = Some(line);
        Ok(pid)
    }

    fn may_upgrade(&self) -> Result<&Program, String> {
        let Some(program) = &self.upgrades.program else {
            return Err("this process cannot be upgraded: start it with `run`".to_owned());
        };
        if process::id() == INIT {
            let what = "process 1 of a container cannot be upgraded: replace the container";
            return Err(what.to_owned());
        }
        let draining = self.upgrades.elders.pids().len();
        let most = self
            .gateway
            .current
            .load()
            .config
            .server
            .upgrade
            .draining_max;
        if draining >= most as usize {
            return Err(format!(
                "{draining} older processes are still draining, and `server.upgrade.draining_max` is {most}"
            ));
        }
        Ok(program)
    }

    /// Gives the successor everything, and waits until it is ready. None: it has gone.
    async fn prove(&self, line: &Channel) -> Result<(), Option<String>> {
        match self.hand_over(line).await {
            // It has gone, and may have said why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            handed_over => handed_over.map_err(because("cannot hand over"))?,
        }
        expect(line, &Message::Ready).await
    }

    async fn hand_over(&self, line: &Channel) -> io::Result<()> {
        let sockets = self.sockets()?;
        for sockets in sockets.chunks(SOCKETS_MAX) {
            let addresses = sockets.iter().map(|(address, _)| address.clone()).collect();
            let foreign = sockets.iter().filter(|(_, socket)| socket.is_foreign());
            let foreign = foreign.map(|(address, _)| address.clone()).collect();
            let sockets: Vec<BorrowedFd<'_>> =
                sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
            let message = Message::Sockets { addresses, foreign };
            line.send(&message, &sockets).await?;
        }
        self.upgrades.elders.hand_over(line).await?;
        for endpoints in self.learned(Instant::now()).chunks(ENDPOINTS_MAX) {
            let endpoints = endpoints.to_vec();
            line.send(&Message::Endpoints { endpoints }, &[]).await?;
        }
        let begin = Message::Begin {
            secret: BASE64.encode(self.state.made_up_secret()),
            upgrades: self.upgrades.succeeded + 1,
        };
        line.send(&begin, &[]).await
    }

    /// Every listening socket, that of the operators included.
    fn sockets(&self) -> io::Result<Vec<(ListenAddress, ListenSocket)>> {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut sockets = listeners.sockets()?;
        let admin = self.admin_socket.lock();
        if let Some(admin) = &*admin.unwrap_or_else(PoisonError::into_inner) {
            let admin = ListenSocket::from(admin.try_clone()?);
            sockets.push((self.admin_address.into(), admin));
        }
        Ok(sockets)
    }

    /// Bad news of the endpoints in use.
    fn learned(&self, now: Instant) -> Vec<Learned> {
        let snapshot = self.gateway.current.load();
        let pools = snapshot.upstreams.iter();
        pools
            .flat_map(|(name, upstream)| {
                let members = upstream.pool.members();
                let learned = members.iter().map(|one| Learned::of(name, one, now));
                learned.flatten().collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Waits for one word. None: the other side has gone.
async fn expect(line: &Channel, word: &Message) -> Result<(), Option<String>> {
    loop {
        match line.receive().await {
            Ok(Some((said, _))) if said == *word => return Ok(()),
            Ok(Some((Message::Failed { why }, _))) => return Err(Some(shortened(why))),
            Ok(Some(_)) => {}
            Ok(None) => return Err(None),
            Err(error) => {
                let what = "cannot understand the other process";
                return Err(Some(format!("{what}: {error}")));
            }
        }
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

fn because<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// A process that has not proved itself yet: killed when it is given up.
struct Successor {
    pid: u32,
    child: Option<Child>,
}

impl Successor {
    /// How it ended; it has closed its line already.
    async fn ended(&mut self) -> String {
        let how = match &mut self.child {
            Some(child) => timeout(SERVING_MAX, child.wait()).await,
            None => return "the new process has left".to_owned(),
        };
        match how {
            Ok(Ok(status)) => format!("the new process ended before it was ready: {status}"),
            Ok(Err(error)) => format!("the new process ended before it was ready: {error}"),
            Err(_) => {
                "the new process does not speak to us: it may be of a version without upgrades"
                    .to_owned()
            }
        }
    }

    fn let_go(&mut self) -> u32 {
        self.child = None;
        self.pid
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // An error means that it has ended already.
        let _ = child.start_kill();
        tokio::spawn(async move { child.wait().await });
    }
}

/// Reloads go on when it is dropped.
struct Trying<'a>(&'a watch::Sender<bool>);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
