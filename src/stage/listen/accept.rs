//! Accept, greet, hand over: what happens to a connection before its first request.

use super::address::ListenAddress;
use super::conn::{Arrived, Connection, ConnectionFacts};
use super::proxy_protocol;
use super::settings::Settings;
use super::shield::{Entry, GREETING_MAX, Shield};
use super::shown;
use super::socket::{CallerSocket, ListenSocket, SocketFile};
use super::tls::TlsSlot;
use crate::base::client::Peer;
use crate::observe::event;
use crate::observe::metrics::ListenerMetrics;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Ssl};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Rest after `accept` failed for want of descriptors: trying again at once would only burn the processor.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// RFC 9113 section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One bound address of a listener.
pub struct Listener {
    pub name: Arc<str>,
    pub address: ListenAddress,
    /// None once closed: connections outlive their listener, and must not keep it open.
    socket: Mutex<Option<ListenSocket>>,
    /// The certificates in force; none on a plain listener.
    pub tls: Option<Arc<TlsSlot>>,
    /// On a plain listener: take HTTP/2 from callers that begin with its preface.
    pub h2c: bool,
    pub proxy_protocol: bool,
    pub metrics: Arc<ListenerMetrics>,
}

/// What a listener does beside accepting, decided by others.
pub trait Greeter: Send + Sync + 'static {
    /// Held by a connection from its first moment to its last.
    type Place: Send + 'static;

    fn place(&self) -> Self::Place;

    /// Whether this peer may speak for others by the PROXY protocol.
    fn trusts(&self, peer: Peer) -> bool;

    /// The limits in force.
    fn shield(&self) -> Arc<Shield>;

    /// Serves the requests of a connection until it ends.
    fn serve(self: Arc<Self>, arrived: Arrived) -> impl Future<Output = ()> + Send;
}

impl Listener {
    pub fn new(
        name: Arc<str>,
        socket: ListenSocket,
        metrics: Arc<ListenerMetrics>,
    ) -> io::Result<Self> {
        Ok(Self {
            name,
            address: socket.address()?,
            socket: Mutex::new(Some(socket)),
            tls: None,
            h2c: false,
            proxy_protocol: false,
            metrics,
        })
    }

    /// Whether these settings differ from the listener's only in what can change while it serves.
    pub fn serves_as(&self, name: &str, settings: &Settings) -> bool {
        *self.name == *name
            && self.tls.is_some() == settings.tls.is_some()
            && self.h2c == (settings.tls.is_none() && settings.http2_enabled())
            && self.proxy_protocol == settings.proxy_protocol
    }

    /// The same socket for another listener at this address.
    pub fn share_socket(&self) -> io::Result<ListenSocket> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match &*socket {
            Some(socket) => socket.try_clone(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The file of its socket, if it is a Unix socket of ours.
    pub fn file(&self) -> Option<SocketFile> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.as_ref()?.file().cloned()
    }

    /// Lets go of the socket; the loops of [`run`](Self::run) hold their own until they are told to stop.
    pub fn close(&self) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        *socket = None;
    }

    /// Accepts until told to stop. Each worker runs its own loop over the one socket:
    /// whoever is free takes the next connection.
    pub async fn run<G: Greeter>(
        self: Arc<Self>,
        greeter: Arc<G>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let socket = match self.share_socket() {
            // Closed before this loop began.
            Err(_) if *stop.borrow() => return Ok(()),
            shared => shared?.into_acceptor()?,
        };
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            match accepted {
                Ok((caller, peer)) => self.admit(caller, peer, &greeter),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.metrics.rejected("accept_failed");
                    tracing::error!(listener = %self.name, %error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Turned away here, a connection costs neither a task nor a byte that is kept.
    fn admit<G: Greeter>(self: &Arc<Self>, socket: CallerSocket, peer: Peer, greeter: &Arc<G>) {
        let shield = greeter.shield();
        // Who is behind a proxy is not known before its header.
        let caller = match peer {
            Peer::Inet(peer) if !self.proxy_protocol => Some(peer.ip()),
            _ => None,
        };
        let greets = self.tls.is_some() || self.h2c || self.proxy_protocol;
        match shield.enter(caller, greets) {
            Ok(entry) => {
                let (listener, greeter) = (Arc::clone(self), Arc::clone(greeter));
                let place = greeter.place();
                tokio::spawn(listener.welcome((socket, peer), (shield, entry), greeter, place));
            }
            Err(limit) => {
                turn_away(socket);
                self.metrics.rejected(limit);
                self.tell(&shield, limit);
            }
        }
    }

    fn tell(&self, shield: &Shield, limit: &str) {
        if shield.is_news(Instant::now().into_std()) {
            event::shield_closed(&self.name, limit);
        }
    }

    async fn welcome<G: Greeter>(
        self: Arc<Self>,
        (socket, peer): (CallerSocket, Peer),
        (shield, mut entry): (Arc<Shield>, Entry),
        greeter: Arc<G>,
        _place: G::Place,
    ) {
        let _open = self.metrics.accepted();
        let patience = shield.greeting_max();
        // Boxed: a handshake needs 7 KiB that the connection must not hold for the rest of its life.
        let greeting = Box::pin(self.greet(socket, peer, (&shield, &mut entry), &*greeter));
        let outcome = timeout(patience, greeting).await;
        // Limits may change while it is served.
        drop(shield);
        match outcome {
            Ok(Ok(arrived)) => {
                entry.greeted();
                greeter.serve(arrived).await;
            }
            Ok(Err(reason)) => self.metrics.rejected(reason),
            Err(_) => self.metrics.rejected("greeting_timed_out"),
        }
    }

    /// From a bare socket to a stream that speaks HTTP; or the reason why it never will.
    async fn greet<G: Greeter>(
        &self,
        mut socket: CallerSocket,
        peer: Peer,
        (shield, entry): (&Shield, &mut Entry),
        greeter: &G,
    ) -> Result<Arrived, &'static str> {
        socket.set_options().map_err(|_| "socket_failed")?;
        let mut facts = ConnectionFacts {
            listener: Arc::clone(&self.name),
            peer,
            tls: self.tls.is_some(),
            certificate: None,
            handshake: None,
        };
        let mut ahead = Vec::new();
        if self.proxy_protocol {
            if !greeter.trusts(peer) {
                return Err("proxy_untrusted");
            }
            let header = proxy_protocol::read(&mut socket, Instant::now() + GREETING_MAX).await;
            let (header, rest) = header.map_err(|_| "proxy_header_invalid")?;
            facts.peer = header.source.map_or(peer, Peer::Inet);
            if let Peer::Inet(caller) = facts.peer
                && let Err(limit) = shield.introduce(entry, caller.ip())
            {
                turn_away(socket);
                self.tell(shield, limit);
                return Err(limit);
            }
            ahead = rest;
        }
        let Some(tls) = &self.tls else {
            let http2 = self.h2c && begins_with_preface(&mut socket, &mut ahead).await;
            return Ok(Arrived {
                stream: Box::new(Connection::new(socket, ahead)),
                facts,
                http2,
            });
        };
        let acceptor = Acceptor::from_server_config(tls.config());
        let shaken = acceptor.tls_handshake(Connection::new(socket, ahead)).await;
        self.metrics
            .handshake(if shaken.is_ok() { "ok" } else { "failed" });
        match shaken {
            Ok(stream) => {
                let shown = stream.get_ssl().and_then(|tls| tls.peer_certificate_der());
                facts.certificate = shown.and_then(shown::read).map(Arc::new);
                facts.handshake = stream.get_ssl_digest();
                Ok(Arrived {
                    http2: stream.selected_alpn_proto() == Some(ALPN::H2),
                    stream: Box::new(stream),
                    facts,
                })
            }
            Err(error) => {
                tracing::debug!(listener = %self.name, ?peer, %error, "no TLS handshake");
                Err("tls_handshake_failed")
            }
        }
    }
}

/// Closes at once, and without a trace: a reset leaves nothing behind in the kernel, and a caller may
/// safely try again.
fn turn_away(caller: CallerSocket) {
    caller.reset_on_close();
    drop(caller);
}

/// Reads no further than it takes to know. A caller that goes away meanwhile speaks nothing.
async fn begins_with_preface(socket: &mut CallerSocket, ahead: &mut Vec<u8>) -> bool {
    loop {
        let known = ahead.len().min(HTTP2_PREFACE.len());
        if ahead[..known] != HTTP2_PREFACE[..known] {
            return false;
        }
        if known == HTTP2_PREFACE.len() {
            return true;
        }
        match socket.read_buf(ahead).await {
            Ok(read) if read > 0 => {}
            _ => return false,
        }
    }
}

/// Errors that concern the connection that was about to be accepted, not the listener (`accept(2)`).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
    )
}
