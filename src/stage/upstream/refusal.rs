//! The endpoint of last resort: takes one request, gives one answer of our own, and is gone.
//!
//! Why: when an attempt has failed, Pingora lets us answer the caller only by ending its connection.
//! An answer that comes from an endpoint keeps it, so the answer is made to come from one.

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr as AnySocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A peer that says this, whatever it is asked. `answer` is a whole HTTP/1.1 response with
/// `Connection: close`.
pub fn peer(answer: Bytes) -> HttpPeer {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut peer = HttpPeer::new(nowhere, false, String::new());
    peer.options.set_http_version(1, 1);
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.custom_l4 = Some(Arc::new(Speaker(answer)));
    peer
}

#[derive(Debug)]
struct Speaker(Bytes);

#[async_trait]
impl L4Connect for Speaker {
    async fn connect(&self, _: &AnySocketAddr) -> pingora::Result<Stream> {
        let words = Box::new(Words(self.0.clone()));
        Ok(Stream::from(VirtualSocketStream::new(words)))
    }
}

/// What is left to say. Listens to everything and remembers nothing.
#[derive(Debug)]
struct Words(Bytes);

impl AsyncRead for Words {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let part = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0[..part]);
        self.0.advance(part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Words {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl VirtualSocket for Words {
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}
