//! Connections to endpoints: kept ones first, else new ones.
//!
//! HTTP/1.1 connections at rest are kept here; those of HTTP/2, and everything about TLS, by Pingora's
//! connector. Each worker has its own connector, so nothing is shared and nothing waits.

use super::broken::Broken;
use super::endpoint::Endpoint;
use super::exchange::{Exchange, H1};
use super::peer::PeerTemplate;
use super::socket::Wire;
use crate::wire::link::Link;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v2;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Connections at rest that one worker keeps, over all pools.
const KEPT_MAX: usize = 2048;

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Usual,
    /// A request that cannot be sent twice: a kept connection may turn out to be closed when part of
    /// it is gone already.
    Fresh,
    /// Another protocol after the answer: HTTP/1.1, whatever the pool speaks.
    Upgrade,
}

pub struct Connector {
    kept: Mutex<Kept>,
    pingora: v2::Connector,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<u64, Vec<Resting>>,
    count: usize,
}

struct Resting {
    h1: Box<H1>,
    until: Instant,
}

/// Which connection, and how soon.
struct Wanted<'a> {
    peers: &'a PeerTemplate,
    endpoint: &'a Endpoint,
    purpose: Purpose,
    limit: Duration,
}

/// A connection, and whether it was used before.
pub struct Connected {
    pub exchange: Exchange,
    pub reused: bool,
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// Reads the system's certificate authorities.
    pub fn new() -> Self {
        Self {
            kept: Mutex::default(),
            pingora: v2::Connector::new(Some(ConnectorOptions::new(KEPT_MAX))),
        }
    }

    /// A connection to this endpoint within `limit`, TLS included.
    pub async fn connect(
        &self,
        peers: &PeerTemplate,
        endpoint: &Endpoint,
        purpose: Purpose,
        limit: Duration,
    ) -> Result<Connected, Broken> {
        let key = peers.connection_key(endpoint, purpose == Purpose::Upgrade);
        if purpose == Purpose::Usual
            && let Some(h1) = self.take(key)
        {
            return Ok(Connected {
                exchange: Exchange::H1(h1),
                reused: true,
            });
        }
        let key = peers.keeps_connections().then_some(key);
        let wanted = Wanted {
            peers,
            endpoint,
            purpose,
            limit,
        };
        // Boxed: a handshake needs kilobytes that a request on a kept connection must not hold.
        Box::pin(self.open(wanted, key)).await
    }

    async fn open(&self, wanted: Wanted<'_>, key: Option<u64>) -> Result<Connected, Broken> {
        let Wanted {
            peers,
            endpoint,
            purpose,
            limit,
        } = wanted;
        let upgrade = purpose == Purpose::Upgrade;
        let exchange = if peers.speaks_http2() && !upgrade {
            let peer = peers.peer_of(endpoint, limit, false)?;
            if let Some(session) = self.on_open_connection(&peer).await {
                return Ok(Connected {
                    exchange: Exchange::h2(session, peer),
                    reused: true,
                });
            }
            self.dial_http2(peer, key).await?
        } else if peers.is_tls() {
            let peer = peers.peer_of(endpoint, limit, upgrade)?;
            let stream = self.pingora.transport().new_stream(&*peer).await;
            let stream = stream.map_err(|error| Broken::of_connector(&error))?;
            Exchange::h1(Link::new(Wire::Tls(stream)), key)
        } else {
            let dialed = timeout(limit, Wire::connect(&endpoint.address)).await;
            let wire = dialed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let wire = wire.map_err(|error| Broken::connecting(&error, &endpoint.name))?;
            Exchange::h1(Link::new(wire), key)
        };
        Ok(Connected {
            exchange,
            reused: false,
        })
    }

    /// Another stream on a connection that is open already; a failure only means that there is none.
    async fn on_open_connection(
        &self,
        peer: &HttpPeer,
    ) -> Option<pingora::protocols::http::v2::client::Http2Session> {
        self.pingora.reused_http_session(peer).await.ok().flatten()
    }

    async fn dial_http2(&self, peer: Box<HttpPeer>, key: Option<u64>) -> Result<Exchange, Broken> {
        let session = self.pingora.new_http_session::<HttpPeer, ()>(&peer).await;
        match session.map_err(|error| Broken::of_connector(&error))? {
            HttpSession::H2(session) => Ok(Exchange::h2(session, peer)),
            HttpSession::H1(session) => Ok(Exchange::h1(
                Link::new(Wire::Tls(session.into_inner())),
                key,
            )),
            HttpSession::Custom(()) => {
                Err(Broken::Malformed("no protocol that we speak".to_owned()))
            }
        }
    }

    /// Gives a connection back: it is kept if another request may follow, for at most `idle`.
    pub fn release(&self, exchange: Exchange, idle: Duration) {
        match exchange {
            Exchange::H1(mut h1) => {
                if let (true, Some(key)) = (h1.can_rest(), h1.key) {
                    h1.link.slim();
                    self.keep(key, h1, Instant::now() + idle);
                }
            }
            Exchange::H2(h2) => {
                let super::exchange::H2 { session, peer, .. } = *h2;
                // Also when it failed: the connection itself may be well.
                self.pingora
                    .release_http_session(session, &*peer, Some(idle));
            }
        }
    }

    fn keep(&self, key: u64, h1: Box<H1>, until: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.count < KEPT_MAX {
            kept.count += 1;
            kept.by_key
                .entry(key)
                .or_default()
                .push(Resting { h1, until });
        }
    }

    /// The connection that was used last: the others may then grow old and be closed.
    fn take(&self, key: u64) -> Option<Box<H1>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let resting = kept.by_key.get_mut(&key)?.pop()?;
            kept.count -= 1;
            let mut h1 = resting.h1;
            if h1.link.rests() {
                return Some(h1);
            }
        }
    }

    /// Lets go of connections that were idle for too long, or that their endpoint has closed. To be called
    /// about once a second.
    pub fn sweep(&self, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        kept.by_key.retain(|_, resting| {
            resting.retain_mut(|one| one.until > now && one.h1.link.rests());
            count += resting.len();
            !resting.is_empty()
        });
        kept.count = count;
    }
}
