//! One caller's connection: a socket, and the facts that are known before its first request.

use super::socket::CallerSocket;
use crate::base::client::{Peer, ShownCertificate};
use async_trait::async_trait;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, raw_connect::ProxyDigest,
};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A connection that is ready for its first request.
pub struct Arrived {
    pub stream: Stream,
    pub facts: ConnectionFacts,
    /// Agreed on by ALPN, or begun with its preface.
    pub http2: bool,
}

/// What is known of a connection before its first request.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Name of the listener that accepted it.
    pub listener: Arc<str>,
    /// The caller, after the PROXY protocol if the listener speaks it.
    pub peer: Peer,
    /// Whether TLS ends here.
    pub tls: bool,
    /// The certificate that the caller has shown, and that was verified.
    pub certificate: Option<Arc<ShownCertificate>>,
    /// What was agreed on: version, cipher, the caller's certificate.
    pub handshake: Option<Arc<SslDigest>>,
}

/// A connection as Pingora takes it: any byte stream that can tell where it comes from.
#[derive(Debug)]
pub struct Connection {
    socket: CallerSocket,
    /// Bytes read ahead (behind a PROXY header, or while looking for an HTTP/2 preface).
    ahead: Vec<u8>,
    ahead_read: usize,
}

impl Connection {
    pub fn new(socket: CallerSocket, ahead: Vec<u8>) -> Self {
        Self {
            socket,
            ahead,
            ahead_read: 0,
        }
    }
}

/// Ends a connection so that its caller cannot take what it got for the whole: with a reset. Under TLS the
/// missing farewell says the same (RFC 8446 section 6.1).
pub fn reset_on_close(stream: &Stream) {
    if let Some(connection) = stream.as_any().downcast_ref::<Connection>() {
        connection.socket.reset_on_close();
    }
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
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

impl Ssl for Connection {}

#[async_trait]
impl Peek for Connection {}

// What Pingora would ask a connection about is told by `ConnectionFacts`.

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
