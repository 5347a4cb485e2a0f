//! Bound addresses: opened, kept and closed as the configuration says, while traffic flows.

use super::drain::{Alive, Live};
use super::upgrade::Sockets;
use super::workers::Workers;
use crate::base::client::Peer;
use crate::base::fault::{Faults, KeyPath};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::connection::{self, Closing};
use crate::observe::metrics::Metrics;
use crate::stage::listen::accept::{Greeter, Listener};
use crate::stage::listen::address::{ListenAddress, SocketMode};
use crate::stage::listen::conn::Arrived;
use crate::stage::listen::resolver::Certificates;
use crate::stage::listen::settings::Settings;
use crate::stage::listen::shield::Shield;
use crate::stage::listen::socket::{self, ListenSocket, SocketFile};
use crate::stage::listen::tls::{TlsChange, TlsSlot, load_certificate};
use crate::stage::upstream::connector::Connector;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
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

    fn trusts(&self, peer: Peer) -> bool {
        self.gateway.current.load().trusted.trusts(peer)
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
    open: HashMap<ListenAddress, Open>,
    /// Open before we were, at start; nobody's later.
    inherited: Sockets,
}

struct Open {
    listener: Arc<Listener>,
    stop: watch::Sender<bool>,
}

/// What becomes of an address that is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Another listener or process accepts there.
    Kept,
    Gone,
}

/// Everything that a configuration needs opened, before any of it is put in force.
#[derive(Default)]
pub struct Prepared {
    new: Vec<(ListenAddress, Arc<Listener>)>,
    changed: Vec<(Arc<TlsSlot>, TlsChange)>,
    wanted: Vec<ListenAddress>,
    /// Unix sockets that were open before, which may have another mode from now on.
    kept: Vec<(SocketFile, SocketMode)>,
    /// Unix sockets that were inherited, and nobody wants.
    unwanted: Vec<SocketFile>,
    bound: Bound,
}

/// Unix sockets that did not exist before; they go again if nothing comes of it.
#[derive(Default)]
struct Bound(Vec<SocketFile>);

impl Drop for Bound {
    fn drop(&mut self) {
        for file in &self.0 {
            file.remove();
        }
    }
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
        match self.inherited.at(&address.into()) {
            Some(inherited) => inherited?.into_tcp(),
            None => socket::bind(address),
        }
    }

    /// Closes what was inherited and is not used.
    pub fn close_unused(self, prepared: &mut Prepared) {
        prepared.unwanted = self.inherited.close();
    }

    /// The sockets that are open, by the address as it is written.
    pub fn sockets(&self) -> io::Result<Vec<(ListenAddress, ListenSocket)>> {
        let sockets = self
            .open
            .iter()
            .map(|(address, open)| Ok((address.clone(), open.listener.share_socket()?)));
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
                let opened = self.prepare_one(name, (address, settings), metrics, &mut prepared);
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
        (address, settings): (&ListenAddress, &Settings),
        metrics: &Arc<Metrics>,
        prepared: &mut Prepared,
    ) -> Result<(), (&'static str, String)> {
        prepared.wanted.push(address.clone());
        let certificates = load_all(settings).map_err(|what| ("tls", what))?;
        if let Some(open) = self.open.get(address)
            && open.listener.serves_as(name, settings)
        {
            let parts = (&open.listener.tls, &settings.tls, certificates);
            if let (Some(slot), Some(tls), Some(certificates)) = parts {
                let change = slot.prepare(tls, settings.http2_enabled(), certificates);
                let change = change.map_err(|what| ("tls", what))?;
                prepared.changed.push((Arc::clone(slot), change));
            }
            let file = open.listener.file().into_iter();
            prepared
                .kept
                .extend(file.map(|file| (file, settings.socket_mode())));
            return Ok(());
        }
        let socket = self.socket((address, settings), prepared);
        let socket = socket.map_err(|error| ("address", cannot_listen(address, &error)))?;
        let failed = |error: io::Error| ("address", error.to_string());
        let metrics = metrics.listener(name);
        let mut listener = Listener::new(Arc::from(name), socket, metrics).map_err(failed)?;
        listener.proxy_protocol = settings.proxy_protocol;
        listener.h2c = settings.tls.is_none() && settings.http2_enabled();
        if let (Some(tls), Some(certificates)) = (&settings.tls, certificates) {
            let slot = TlsSlot::new(tls, settings.http2_enabled(), certificates);
            listener.tls = Some(Arc::new(slot.map_err(|what| ("tls", what))?));
        }
        prepared.new.push((address.clone(), Arc::new(listener)));
        Ok(())
    }

    /// A listener that only changes its manners keeps its socket, and with it those who wait there.
    fn socket(
        &self,
        (address, settings): (&ListenAddress, &Settings),
        prepared: &mut Prepared,
    ) -> io::Result<ListenSocket> {
        let mode = settings.socket_mode();
        let open = self.open.get(address);
        let open = open.map(|open| open.listener.share_socket());
        if let Some(socket) = open.or_else(|| self.inherited.at(address)) {
            let socket = socket?;
            let file = socket.file().cloned();
            prepared.kept.extend(file.map(|file| (file, mode)));
            return Ok(socket);
        }
        let socket = bind_patiently(address, mode)?;
        prepared.bound.0.extend(socket.file().cloned());
        Ok(socket)
    }

    /// Puts a prepared configuration in force. Cannot fail.
    pub fn commit(&mut self, mut prepared: Prepared, workers: &Workers, greeters: &[Arc<Worker>]) {
        prepared.bound.0.clear();
        for file in &prepared.unwanted {
            file.remove();
        }
        for (file, mode) in &prepared.kept {
            if let Err(error) = file.set_mode(*mode) {
                tracing::warn!(%error, %mode, "cannot set the mode of a Unix socket");
            }
        }
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
                old.close(Fate::Kept);
            }
        }
        let gone: Vec<_> = self
            .open
            .keys()
            .filter(|address| !prepared.wanted.contains(address))
            .cloned()
            .collect();
        for address in gone {
            if let Some(old) = self.open.remove(&address) {
                tracing::info!(listener = %old.listener.name, %address, "no longer listening");
                old.close(Fate::Gone);
            }
        }
    }

    /// Stops accepting everywhere.
    pub fn close_all(&mut self, fate: Fate) {
        for (_, open) in self.open.drain() {
            open.close(fate);
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
    fn close(self, fate: Fate) {
        if fate == Fate::Gone {
            // First, so that nobody comes whom nobody would serve.
            self.listener.file().iter().for_each(SocketFile::remove);
        }
        // No receiver left means that no worker accepts here any more.
        let _ = self.stop.send(true);
        self.listener.close();
    }
}

/// A listener that a reload has just removed holds its port for some milliseconds more.
#[expect(
    clippy::disallowed_methods,
    reason = "rare, short, and on the thread beside the traffic"
)]
fn bind_patiently(address: &ListenAddress, mode: SocketMode) -> io::Result<ListenSocket> {
    let is_port = address.port().is_some();
    for _ in 0..BIND_RETRIES {
        match ListenSocket::bind(address, mode) {
            Err(error) if is_port && error.kind() == io::ErrorKind::AddrInUse => {
                thread::sleep(BIND_REST);
            }
            bound => return bound,
        }
    }
    ListenSocket::bind(address, mode)
}

fn cannot_listen(address: &ListenAddress, error: &io::Error) -> String {
    let is_port = address.port().is_some();
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it",
        io::ErrorKind::PermissionDenied if is_port => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::PermissionDenied => "; this user must be allowed to write to its folder",
        _ => "",
    };
    format!("cannot listen on {address}: {error}{hint}")
}

fn load_all(settings: &Settings) -> Result<Option<Arc<Certificates>>, String> {
    let Some(tls) = &settings.tls else {
        return Ok(None);
    };
    let certificates = tls.certificates.iter().map(load_certificate);
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    Certificates::new(certificates).map(|all| Some(Arc::new(all)))
}
