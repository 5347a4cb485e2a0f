//! Bound addresses: opened, kept and closed as the configuration says, while traffic flows.

use super::drain::{Alive, Live};
use super::upgrade::Sockets;
use super::workers::Workers;
use crate::base::fault::{Faults, KeyPath};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::connection::{self, Closing};
use crate::observe::metrics::Metrics;
use crate::stage::listen::accept::{self, Greeter, Listener};
use crate::stage::listen::conn::Arrived;
use crate::stage::listen::resolver::Certificates;
use crate::stage::listen::settings::Settings;
use crate::stage::listen::shield::Shield;
use crate::stage::listen::tls::{TlsChange, TlsSlot, load_certificate};
use crate::stage::upstream::connector::Connector;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;

/// How often and how soon a taken address is asked for again.
const BIND_RETRIES: usize = 20;
const BIND_REST: Duration = Duration::from_millis(10);

/// One worker's share of the proxy, with its own kept connections to endpoints.
pub struct Worker {
    pub connector: Arc<Connector>,
    pub gateway: Gateway,
    pub closing: Closing,
    pub live: Arc<Live>,
    /// Loops that accept.
    pub accepting: Arc<Live>,
}

impl Greeter for Worker {
    type Place = Alive;

    fn place(&self) -> Alive {
        self.live.enter()
    }

    fn trusts(&self, peer: &SocketAddr) -> bool {
        self.gateway.current.load().trusted.contains(peer.ip())
    }

    fn shield(&self) -> Arc<Shield> {
        Arc::clone(&self.gateway.current.load().shield)
    }

    async fn serve(self: Arc<Self>, arrived: Arrived) {
        connection::serve(
            &self.gateway,
            &self.connector,
            arrived,
            self.closing.clone(),
        )
        .await;
    }
}

/// What is open now.
#[derive(Default)]
pub struct Listeners {
    open: HashMap<SocketAddr, Open>,
    /// Open before we were, at start; nobody's later.
    inherited: Sockets,
}

struct Open {
    listener: Arc<Listener>,
    stop: watch::Sender<bool>,
}

/// Everything that a configuration needs opened, before any of it is put in force.
#[derive(Default)]
pub struct Prepared {
    new: Vec<(SocketAddr, Arc<Listener>)>,
    changed: Vec<(Arc<TlsSlot>, TlsChange)>,
    wanted: Vec<SocketAddr>,
}

impl Listeners {
    /// None yet, but some of their sockets are open already.
    pub fn inheriting(inherited: Sockets) -> Self {
        Self {
            inherited,
            ..Self::default()
        }
    }

    /// A socket of the operators, inherited or bound.
    pub fn admin_socket(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let inherited = self.inherited.at(address);
        inherited.unwrap_or_else(|| accept::bind(address))
    }

    /// Closes what was inherited and is not used.
    pub fn close_unused(self) {
        self.inherited.close();
    }

    /// The sockets that are open, by the address as it is written.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let sockets = self.open.iter().map(|(address, open)| {
            let socket = open.listener.share_socket()?;
            Ok((*address, OwnedFd::from(socket)))
        });
        sockets.collect()
    }

    /// Binds what is new and reads all certificates; what serves now is not touched.
    pub fn prepare(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
        faults: &mut Faults,
    ) -> Prepared {
        let mut prepared = Prepared::default();
        for (name, settings) in &config.listeners {
            let here = KeyPath::root().key("listeners").key(name);
            for address in &settings.address {
                let opened = self.prepare_one(name, (*address, settings), metrics, &mut prepared);
                if let Err((key, what)) = opened {
                    faults.error(here.key(key), what, "");
                }
            }
        }
        prepared
    }

    fn prepare_one(
        &self,
        name: &str,
        (address, settings): (SocketAddr, &Settings),
        metrics: &Arc<Metrics>,
        prepared: &mut Prepared,
    ) -> Result<(), (&'static str, String)> {
        prepared.wanted.push(address);
        let certificates = load_all(settings).map_err(|what| ("tls", what))?;
        if let Some(open) = self.open.get(&address)
            && open.listener.serves_as(name, settings)
        {
            let parts = (&open.listener.tls, &settings.tls, certificates);
            if let (Some(slot), Some(tls), Some(certificates)) = parts {
                let change = slot.prepare(tls, settings.http2_enabled(), certificates);
                let change = change.map_err(|what| ("tls", what))?;
                prepared.changed.push((Arc::clone(slot), change));
            }
            return Ok(());
        }
        let socket = self.socket(address).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "; another process has it",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
                _ => "",
            };
            (
                "address",
                format!("cannot listen on {address}: {error}{hint}"),
            )
        })?;
        let failed = |error: io::Error| ("address", error.to_string());
        let metrics = metrics.listener(name);
        let mut listener = Listener::new(Arc::from(name), socket, metrics).map_err(failed)?;
        listener.proxy_protocol = settings.proxy_protocol;
        listener.h2c = settings.tls.is_none() && settings.http2_enabled();
        if let (Some(tls), Some(certificates)) = (&settings.tls, certificates) {
            let slot = TlsSlot::new(tls, settings.http2_enabled(), certificates);
            listener.tls = Some(Arc::new(slot.map_err(|what| ("tls", what))?));
        }
        prepared.new.push((address, Arc::new(listener)));
        Ok(())
    }

    /// A listener that only changes its manners keeps its socket, and with it those who wait there.
    fn socket(&self, address: SocketAddr) -> io::Result<TcpListener> {
        match self.open.get(&address) {
            Some(open) => open.listener.share_socket(),
            None => match self.inherited.at(address) {
                Some(inherited) => inherited,
                None => bind_patiently(address),
            },
        }
    }

    /// Puts a prepared configuration in force. Cannot fail.
    pub fn commit(&mut self, prepared: Prepared, workers: &Workers, greeters: &[Arc<Worker>]) {
        for (slot, change) in prepared.changed {
            slot.commit(change);
        }
        for (address, listener) in prepared.new {
            let (stop, stopped) = watch::channel(false);
            for (runtime, greeter) in workers.handles().iter().zip(greeters) {
                let (listener, stopped) = (Arc::clone(&listener), stopped.clone());
                let greeter = Arc::clone(greeter);
                let accepting = greeter.accepting.enter();
                runtime.spawn(async move {
                    let _accepting = accepting;
                    if let Err(error) = Arc::clone(&listener).run(greeter, stopped).await {
                        tracing::error!(listener = %listener.name, %error, "stopped accepting");
                    }
                });
            }
            tracing::info!(listener = %listener.name, address = %listener.address, "listening");
            if let Some(old) = self.open.insert(address, Open { listener, stop }) {
                old.close();
            }
        }
        let gone: Vec<_> = self
            .open
            .keys()
            .filter(|address| !prepared.wanted.contains(address))
            .copied()
            .collect();
        for address in gone {
            if let Some(old) = self.open.remove(&address) {
                tracing::info!(listener = %old.listener.name, %address, "no longer listening");
                old.close();
            }
        }
    }

    /// Stops accepting everywhere.
    pub fn close_all(&mut self) {
        for (_, open) in self.open.drain() {
            open.close();
        }
    }

    /// Names of the certificates in use, and when each expires.
    pub fn certificate_expiries(&self) -> Vec<(String, i64)> {
        let slots = self
            .open
            .values()
            .filter_map(|open| open.listener.tls.as_ref());
        let mut expiries: Vec<_> = slots
            .flat_map(|slot| slot.certificates().expiries().to_vec())
            .collect();
        expiries.sort();
        expiries.dedup();
        expiries
    }
}

impl Open {
    fn close(self) {
        // No receiver left means that no worker accepts here any more.
        let _ = self.stop.send(true);
        self.listener.close();
    }
}

/// A listener that a reload has just removed holds its address for some milliseconds more.
#[expect(
    clippy::disallowed_methods,
    reason = "rare, short, and on the thread beside the traffic"
)]
fn bind_patiently(address: SocketAddr) -> io::Result<TcpListener> {
    for _ in 0..BIND_RETRIES {
        match accept::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BIND_REST),
            bound => return bound,
        }
    }
    accept::bind(address)
}

fn load_all(settings: &Settings) -> Result<Option<Arc<Certificates>>, String> {
    let Some(tls) = &settings.tls else {
        return Ok(None);
    };
    let certificates = tls.certificates.iter().map(load_certificate);
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    Certificates::new(certificates).map(|all| Some(Arc::new(all)))
}
