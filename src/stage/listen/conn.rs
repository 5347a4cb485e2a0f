//! One caller's connection: a socket that gathers small writes, and the facts a request asks about.

use crate::base::client::ShownCertificate;
use async_trait::async_trait;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr as AnySocketAddr;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, raw_connect::ProxyDigest,
};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// Writes up to this many bytes wait for a flush: head and body of a small answer leave as one packet.
const GATHER_MAX: usize = 16 * 1024;

/// A larger buffer is given back after a flush, so that idle connections hold none.
const GATHER_KEPT: usize = 2 * 1024;

/// What is known of a connection before its first request.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Name of the listener that accepted it.
    pub listener: Arc<str>,
    /// The caller, after the PROXY protocol if the listener speaks it.
    pub peer: SocketAddr,
    /// Whether TLS ends here.
    pub tls: bool,
    /// Filled by the handshake when the caller shows a certificate.
    pub certificate: Arc<OnceLock<Arc<ShownCertificate>>>,
}

/// A connection as Pingora takes it: any byte stream that can tell where it comes from.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    /// Bytes read ahead (behind a PROXY header, or while looking for an HTTP/2 preface).
    ahead: Vec<u8>,
    ahead_read: usize,
    gathered: Vec<u8>,
    gathered_sent: usize,
    http2: bool,
    accepted: SystemTime,
    facts: Arc<ProxyDigest>,
    digest: Arc<SocketDigest>,
}

impl Connection {
    pub fn new(socket: TcpStream, ahead: Vec<u8>, facts: ConnectionFacts) -> Self {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // The digest is new, so neither cell can be taken.
        let _ = digest.peer_addr.set(Some(AnySocketAddr::Inet(facts.peer)));
        Self {
            ahead,
            ahead_read: 0,
            gathered: Vec::new(),
            gathered_sent: 0,
            http2: false,
            accepted: SystemTime::now(),
            facts: Arc::new(carry(facts)),
            digest: Arc::new(digest),
            socket,
        }
    }

    /// What is known of the connection itself.
    pub fn facts(&self) -> &ConnectionFacts {
        let carried = self.facts.user_data.as_ref();
        carried
            .and_then(|carried| carried.downcast_ref())
            .expect("the facts were put there when the connection was made")
    }

    /// Waits until there is something to read, or the caller has left.
    pub async fn readable(&self) -> io::Result<()> {
        if self.ahead_read < self.ahead.len() {
            return Ok(());
        }
        self.socket.readable().await
    }

    /// Speak HTTP/2 without ALPN: the caller has sent its preface.
    pub fn set_http2(&mut self) {
        self.http2 = true;
    }

    fn poll_send_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gathered_sent < self.gathered.len() {
            let rest = &self.gathered[self.gathered_sent..];
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered_sent += sent;
        }
        self.gathered_sent = 0;
        self.gathered.clear();
        if self.gathered.capacity() > GATHER_KEPT {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    /// What was never flushed, such as the alert of a handshake that failed, is the last word of a
    /// connection: it goes out if the socket takes it at once.
    fn drop(&mut self) {
        let rest = &self.gathered[self.gathered_sent..];
        if !rest.is_empty() {
            // Whoever has left already needs no explanation.
            let _ = self.socket.try_write(rest);
        }
    }
}

/// Pingora hands nothing of ours from a connection to its requests, on HTTP/2 least of all,
/// except the digest of a CONNECT proxy; we never speak to one, so its slot is free.
fn carry(facts: ConnectionFacts) -> ProxyDigest {
    let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
    ProxyDigest::new(Box::new(response), Some(Box::new(facts)))
}

/// The facts that [`Connection`] carries, wherever Pingora shows its digest.
pub fn facts_of(digest: &pingora::protocols::Digest) -> Option<&ConnectionFacts> {
    let carried = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    carried.downcast_ref()
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead_read < this.ahead.len() {
            let rest = &this.ahead[this.ahead_read..];
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..taken]);
            this.ahead_read += taken;
            if this.ahead_read == this.ahead.len() {
                this.ahead = Vec::new();
                this.ahead_read = 0;
            }
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        if read.is_pending() && !this.gathered.is_empty() {
            // Nothing more is at hand in either direction: what was gathered goes out now. Else a
            // slow answer would be held back until it is whole, and lost when it breaks off.
            if let Poll::Ready(Err(error)) = this.poll_send_gathered(cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.gathered.len() + total <= GATHER_MAX {
            for buf in bufs {
                this.gathered.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(total));
        }
        ready!(this.poll_send_gathered(cx))?;
        Pin::new(&mut this.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_gathered(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_gathered(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // The caller may be gone already; there is nobody to tell.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Ssl for Connection {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.http2.then_some(ALPN::H2)
    }
}

#[async_trait]
impl Peek for Connection {}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        let mut digest = Vec::with_capacity(2);
        digest.push(Some(TimingDigest {
            established_ts: self.accepted,
            ..TimingDigest::default()
        }));
        digest
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.facts))
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}
