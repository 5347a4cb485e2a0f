//! Start, wire, reload, drain, stop.

mod drain;
mod identities;
mod leave;
mod listeners;
mod log;
mod live;
mod memory;
mod pools;
pub mod process;
mod reload;
mod status;
mod systemd;
mod tokens;
mod traces;
mod upgrade;
mod workers;

pub use leave::End;
pub use upgrade::Heritage;

use crate::admin;
use crate::base::fault::{Fault, Faults, KeyPath};
use crate::config::{self, Loaded};
use crate::gateway::Gateway;
use crate::gateway::finish::Reporter;
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::logging;
use crate::observe::metrics::{Metrics, NO_ROUTE};
use crate::snapshot::{Snapshot, State, unix_now};
use crate::stage::upstream::connector::Connector;
use arc_swap::ArcSwap;
use drain::{Live, Switches};
use identities::Identities;
use leave::Signals;
use listeners::{Listeners, Worker};
use log::LogLevel;
use pools::Pools;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use systemd::Systemd;
use tokens::Renewals;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use traces::Exports;
use upgrade::Upgrades;
use workers::Workers;

/// How often connections to endpoints that rest are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A running gateway.
pub struct Server {
    path: PathBuf,
    environment: config::Environment,
    state: Arc<State>,
    gateway: Gateway,
    workers: Workers,
    greeters: Vec<Arc<Worker>>,
    listeners: Mutex<Listeners>,
    pools: Pools,
    identities: Identities,
    renewals: Renewals,
    exports: Exports,
    live: Arc<Live>,
    /// Loops that accept.
    accepting: Arc<Live>,
    switches: Switches,
    /// True when nothing is left to show to operators.
    stopped: watch::Sender<bool>,
    draining: AtomicBool,
    reloading: tokio::sync::Mutex<()>,
    last_reload: Mutex<reload::Report>,
    watching: reload::Watching,
    admin_address: SocketAddr,
    /// To be handed over; `admin` accepts on a copy.
    admin_socket: Mutex<Option<TcpListener>>,
    admin: Mutex<Option<JoinHandle<()>>>,
    /// Heard from the start on; `run` takes them.
    signals: Mutex<Option<Signals>>,
    systemd: Systemd,
    upgrades: Upgrades,
    log_level: LogLevel,
}

/// Where to accept, once it is time.
struct Opened {
    listeners: listeners::Prepared,
    admin: TcpListener,
}

/// What was opened and read before anything runs.
struct Groundwork {
    watching: reload::Watching,
    state: Arc<State>,
    snapshot: Snapshot,
    prepared: listeners::Prepared,
    admin_socket: TcpListener,
}

/// Why the gateway did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is at fault: already rendered for people.
    Config(String),
    System(String),
}

impl Server {
    /// Reads the configuration, binds every address and begins to serve; or, as the successor of another
    /// process, first proves to it that we can. Must run inside the runtime that will carry everything
    /// beside the traffic.
    pub async fn start(
        path: &Path,
        environment: config::Environment,
        metrics: Arc<Metrics>,
        mut heritage: Heritage,
    ) -> Result<Arc<Self>, StartError> {
        let Some(predecessor) = heritage.predecessor.take() else {
            let (server, opened) = Self::build((path, environment), metrics, heritage)?;
            server.serve(opened)?;
            return Ok(server);
        };
        let (server, opened) = match Self::build((path, environment), metrics, heritage) {
            Ok(built) => built,
            Err(error) => {
                predecessor.give_up(&error).await;
                return Err(error);
            }
        };
        predecessor.ask_to_begin(&server).await?;
        server.serve(opened)?;
        predecessor.take_over(&server).await;
        Ok(server)
    }

    /// Everything but accepting: pools are probed, names looked up, keys of issuers fetched.
    fn build(
        (path, environment): (&Path, config::Environment),
        metrics: Arc<Metrics>,
        mut heritage: Heritage,
    ) -> Result<(Arc<Self>, Opened), StartError> {
        let sockets = std::mem::take(&mut heritage.sockets);
        let mut groundwork =
            Self::prepare((path, &environment), &metrics, (sockets, &mut heritage))?;
        let opened = Opened {
            listeners: std::mem::take(&mut groundwork.prepared),
            admin: groundwork.admin_socket.try_clone()?,
        };
        let server = Self::assemble((path, environment), groundwork, heritage)?;
        let snapshot = server.gateway.current.load_full();
        server.pools.apply(&snapshot);
        // A successor has to be ready before it serves: it needs the keys of issuers for that.
        server.identities.apply(&snapshot);
        tokio::spawn(Arc::clone(&server.pools.prober).run());
        Ok((server, opened))
    }

    fn prepare(
        (path, environment): (&Path, &config::Environment),
        metrics: &Arc<Metrics>,
        (sockets, heritage): (upgrade::Sockets, &mut Heritage),
    ) -> Result<Groundwork, StartError> {
        // First of all: what changes from here on must be noticed.
        let watching = reload::Watching::start(path);
        let loaded = config::load(path, environment);
        if let Some(config) = &loaded.config {
            watching.also(config);
        }
        let config = match &loaded {
            Loaded {
                config: Some(config),
                ..
            } => config.clone(),
            refused => return Err(StartError::Config(refused.render())),
        };
        if let Some(log) = logging::control() {
            log.configure(&config.server.log);
        }
        if !loaded.faults.is_empty() {
            tracing::warn!("{}", loaded.render());
        }
        let as_faults =
            |faults: Vec<Fault>| StartError::Config(config::render(&loaded.source, &faults));
        let state = State::new(
            Arc::clone(metrics),
            heritage.secret,
            process::raise_open_files(),
        );
        let state = Arc::new(state.map_err(|error| StartError::System(error.to_owned()))?);
        state
            .endpoints
            .expect(std::mem::take(&mut heritage.endpoints));
        let snapshot = Snapshot::build(config, &state, 1).map_err(as_faults)?;

        let mut faults = Faults::default();
        let listeners = Listeners::inheriting(sockets);
        let mut prepared = listeners.prepare(&snapshot.config, metrics, &mut faults);
        let admin_address = snapshot.config.admin.address;
        let admin_socket = listeners.admin_socket(admin_address);
        if let Err(error) = &admin_socket {
            let at = KeyPath::root().key("admin").key("address");
            faults.error(at, format!("cannot listen on {admin_address}: {error}"), "");
        }
        if faults.has_errors() {
            return Err(as_faults(faults.0));
        }
        listeners.close_unused(&mut prepared);
        Ok(Groundwork {
            watching,
            state,
            snapshot,
            prepared,
            admin_socket: admin_socket?,
        })
    }

    /// Begins to accept, callers and operators.
    fn serve(self: &Arc<Self>, opened: Opened) -> io::Result<()> {
        // Endpoints that come to be from now on were not known before.
        self.state.endpoints.expect(Vec::new());
        let socket = tokio::net::TcpListener::from_std(opened.admin)?;
        self.put_in_force(opened.listeners);
        let view: Arc<dyn admin::AdminView> = Arc::clone(self) as _;
        let metrics = Arc::clone(&self.state.metrics);
        let stopped = self.stopped.subscribe();
        let admin = tokio::spawn(admin::serve(socket, view, metrics, stopped));
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
        tracing::info!(address = %self.admin_address, "admin listening");
        tokio::spawn(Arc::clone(self).watch_expiries());
        tokio::spawn(Arc::clone(self).watch_memory());
        Ok(())
    }

    fn assemble(
        (path, environment): (&Path, config::Environment),
        groundwork: Groundwork,
        heritage: Heritage,
    ) -> io::Result<Arc<Self>> {
        let Groundwork {
            watching,
            state,
            snapshot,
            admin_socket,
            ..
        } = groundwork;
        let threads = &snapshot.config.server.threads;
        let threads = threads.map_or_else(thread::available_parallelism, |count| {
            count.try_into().map_err(io::Error::other)
        })?;
        let admin_address = snapshot.config.admin.address;
        let gateway = gateway(snapshot, &state.metrics)?;
        let workers = Workers::start(threads.get())?;
        state.metrics.started(unix_now(), threads.get());
        let switches = Switches::default();
        let live = Arc::new(Live::default());
        let accepting = Arc::new(Live::default());
        let greeters = workers.handles().iter().map(|runtime| {
            Arc::new(Worker {
                connector: connector(runtime),
                gateway: gateway.clone(),
                closing: switches.closing(),
                live: Arc::clone(&live),
                accepting: Arc::clone(&accepting),
            })
        });
        let systemd = Systemd::find(&environment);
        state.metrics.upgraded(true, heritage.upgrades);
        Ok(Arc::new(Self {
            path: path.to_owned(),
            environment,
            greeters: greeters.collect(),
            listeners: Mutex::default(),
            pools: Pools::new(Arc::clone(&state)),
            identities: Identities::new(Arc::clone(&state)),
            renewals: Renewals::new(Arc::clone(&state.metrics)),
            exports: Exports::new(Arc::clone(&state)),
            state,
            gateway,
            workers,
            live,
            accepting,
            switches,
            stopped: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            reloading: tokio::sync::Mutex::default(),
            last_reload: Mutex::default(),
            watching,
            admin_address,
            admin_socket: Mutex::new(Some(admin_socket)),
            admin: Mutex::default(),
            signals: Mutex::new(Some(Signals::listen()?)),
            systemd,
            upgrades: Upgrades::new(heritage),
            log_level: LogLevel::default(),
        }))
    }

    /// The snapshot in force gets its pools, listeners and gauges.
    fn put_in_force(&self, prepared: listeners::Prepared) {
        let snapshot = self.gateway.current.load_full();
        self.pools.apply(&snapshot);
        self.identities.apply(&snapshot);
        self.renewals.apply(&snapshot);
        self.exports.apply(&snapshot);
        let (wanted, max) = (
            snapshot.config.server.shield.connections,
            snapshot.shield.connections().max,
        );
        if max < wanted {
            tracing::warn!(
                wanted,
                max,
                "fewer connections than configured: the limit on open files is too low"
            );
        }
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.commit(prepared, &self.workers, &self.greeters);
        drop(listeners);
        self.watch_certificates();
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error.to_string())
    }
}

fn gateway(snapshot: Snapshot, metrics: &Arc<Metrics>) -> io::Result<Gateway> {
    let target = Target::from(&snapshot.config.server.access_log);
    let unopened = |error: io::Error| {
        let what = "cannot open the access log (`server.access_log`)";
        io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    let access_log = AccessLog::open(&target, metrics).map_err(unopened)?;
    let reporter = Reporter {
        no_route: metrics.route(NO_ROUTE),
        access_log: ArcSwap::from_pointee(access_log),
        metrics: Arc::clone(metrics),
    };
    Ok(Gateway::new(Arc::new(snapshot), Arc::new(reporter)))
}

/// A worker's connections to endpoints.
fn connector(runtime: &Handle) -> Arc<Connector> {
    // Pingora's connector belongs to the runtime that it is made on.
    let _inside = runtime.enter();
    let connector = Arc::new(Connector::new());
    runtime.spawn(sweep(Arc::downgrade(&connector)));
    connector
}

/// Closes connections to endpoints that rested for too long, as long as their worker runs.
async fn sweep(connector: Weak<Connector>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let Some(connector) = connector.upgrade() else {
            return;
        };
        connector.sweep(Instant::now());
    }
}
