//! Start, wire, reload, drain, stop.

mod drain;
mod identities;
mod listeners;
mod memory;
mod pools;
pub mod process;
mod reload;
mod status;
mod workers;

use crate::admin;
use crate::base::fault::{Fault, Faults};
use crate::config::{self, Loaded};
use crate::gateway::Gateway;
use crate::gateway::connection::Closing;
use crate::gateway::finish::Reporter;
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::metrics::{Metrics, NO_ROUTE};
use crate::snapshot::{Snapshot, State};
use crate::stage::upstream::connector::Connector;
use arc_swap::ArcSwap;
use drain::Live;
use identities::Identities;
use listeners::{Listeners, Worker};
use pools::Pools;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use workers::Workers;

/// How often connections to endpoints that rest are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// For the last words of WebSockets and streams when the drain deadline has passed.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

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
    live: Arc<Live>,
    closing: watch::Sender<bool>,
    idle_closing: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    /// True when nothing is left to show to operators.
    stopped: watch::Sender<bool>,
    draining: AtomicBool,
    reloading: tokio::sync::Mutex<()>,
    last_reload: Mutex<reload::Report>,
    watching: reload::Watching,
    admin_address: SocketAddr,
}

/// Why the gateway did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is at fault: already rendered for people.
    Config(String),
    System(String),
}

impl Server {
    /// Reads the configuration, binds every address and begins to serve. Must run inside the
    /// runtime that will carry everything beside the traffic.
    pub fn start(
        path: &Path,
        environment: config::Environment,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StartError> {
        // First of all: what changes from here on must be noticed.
        let watching = reload::Watching::start(path);
        let loaded = config::load(path, &environment);
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
        if !loaded.faults.is_empty() {
            tracing::warn!("{}", loaded.render());
        }
        let as_faults =
            |faults: Vec<Fault>| StartError::Config(config::render(&loaded.source, &faults));
        let state = State::new(Arc::clone(&metrics), process::raise_open_files());
        let state = Arc::new(state.map_err(|error| StartError::System(error.to_owned()))?);
        let snapshot = Snapshot::build(config, &state, 1).map_err(as_faults)?;

        let mut faults = Faults::default();
        let prepared = Listeners::default().prepare(&snapshot.config, &metrics, &mut faults);
        let admin_address = snapshot.config.admin.address;
        let admin = match accept_admin(admin_address) {
            Ok(admin) => Some(admin),
            Err(error) => {
                let at = crate::base::fault::KeyPath::root()
                    .key("admin")
                    .key("address");
                faults.error(at, format!("cannot listen on {admin_address}: {error}"), "");
                None
            }
        };
        if faults.has_errors() {
            return Err(as_faults(faults.0));
        }

        let server = Self::assemble((path, environment), watching, state, snapshot)?;
        server.put_in_force(prepared);
        tokio::spawn(Arc::clone(&server.pools.prober).run());
        tokio::spawn(Arc::clone(&server).watch_memory());
        if let Some(admin) = admin {
            let view: Arc<dyn admin::AdminView> = Arc::clone(&server) as _;
            tokio::spawn(Arc::clone(&server).watch_expiries());
            let stopped = server.stopped.subscribe();
            tokio::spawn(admin::serve(admin, view, metrics, stopped));
            tracing::info!(address = %admin_address, "admin listening");
        }
        Ok(server)
    }

    fn assemble(
        (path, environment): (&Path, config::Environment),
        watching: reload::Watching,
        state: Arc<State>,
        snapshot: Snapshot,
    ) -> io::Result<Arc<Self>> {
        let server = &snapshot.config.server;
        let threads = server
            .threads
            .map_or_else(thread::available_parallelism, |count| {
                count.try_into().map_err(io::Error::other)
            })?;
        let target = Target::parse(&server.access_log);
        let access_log = AccessLog::open(&target, &state.metrics)?;
        let reporter = Arc::new(Reporter {
            no_route: state.metrics.route(NO_ROUTE),
            access_log: ArcSwap::from_pointee(access_log),
            metrics: Arc::clone(&state.metrics),
        });
        let admin_address = snapshot.config.admin.address;
        let gateway = Gateway::new(Arc::new(snapshot), reporter);
        let workers = Workers::start(threads.get())?;
        let closing = watch::Sender::new(false);
        let idle_closing = watch::Sender::new(false);
        let cut = watch::Sender::new(false);
        let live = Arc::new(Live::default());
        let greeters = workers.handles().iter().map(|runtime| {
            // Pingora's connector belongs to the runtime that it is made on.
            let _inside = runtime.enter();
            let connector = Arc::new(Connector::new());
            runtime.spawn(sweep(Arc::downgrade(&connector)));
            Arc::new(Worker {
                connector,
                gateway: gateway.clone(),
                closing: Closing {
                    soon: closing.subscribe(),
                    idle: idle_closing.subscribe(),
                    cut: cut.subscribe(),
                },
                live: Arc::clone(&live),
            })
        });
        Ok(Arc::new(Self {
            path: path.to_owned(),
            environment,
            greeters: greeters.collect(),
            listeners: Mutex::default(),
            pools: Pools::new(Arc::clone(&state)),
            identities: Identities::new(Arc::clone(&state)),
            state,
            gateway,
            workers,
            live,
            closing,
            idle_closing,
            cut,
            stopped: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            reloading: tokio::sync::Mutex::default(),
            last_reload: Mutex::default(),
            watching,
            admin_address,
        }))
    }

    /// The snapshot in force gets its pools, listeners and gauges.
    fn put_in_force(&self, prepared: listeners::Prepared) {
        let snapshot = self.gateway.current.load_full();
        self.pools.apply(&snapshot);
        self.identities.apply(&snapshot);
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

    /// Serves until a signal ends it, then drains.
    pub async fn run(self: Arc<Self>) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reload("SIGHUP").await,
                () = self.watching.changed() => self.reload("file changed").await,
                _ = reopen.recv() => self.gateway.reporter.access_log.load().reopen(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tokio::select! {
            () = self.drain() => {}
            _ = terminate.recv() => tracing::warn!("told to stop twice: leaving now"),
            _ = interrupt.recv() => tracing::warn!("told to stop twice: leaving now"),
        }
        self.stopped.send_replace(true);
        Ok(())
    }

    /// Not ready, but accepting, so that balancers notice; then finish what runs.
    pub async fn drain(&self) {
        self.draining.store(true, Relaxed);
        let config = self.gateway.current.load().config.server.clone();
        let (delay, deadline) = (config.drain_delay.0, config.drain_deadline.0);
        tracing::info!(
            connections = self.live.count(),
            ?delay,
            ?deadline,
            "draining"
        );
        let drained = async {
            // From now on each answer is the last on its connection.
            self.closing.send_replace(true);
            tokio::time::sleep(delay).await;
            self.stop_accepting();
            self.idle_closing.send_replace(true);
            self.live.wait_idle().await;
        };
        if tokio::time::timeout(deadline, drained).await.is_ok() {
            tracing::info!("drained");
        } else {
            tracing::warn!(cut = self.live.count(), "the drain deadline has passed");
            // WebSockets are told to come back elsewhere, readers of events too.
            self.cut.send_replace(true);
            let _ = tokio::time::timeout(FAREWELL_MAX, self.live.wait_idle()).await;
        }
    }

    fn stop_accepting(&self) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.close_all();
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error.to_string())
    }
}

fn accept_admin(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = crate::stage::listen::accept::bind(address)?;
    tokio::net::TcpListener::from_std(socket)
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
