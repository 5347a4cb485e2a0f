//! The wire to an endpoint: a socket, plain or under TLS.

use super::endpoint::Address;
use pingora::protocols::Stream;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection that is silent this long is asked whether its other end is still there, so that
/// quiet tunnels outlive the idle limits of firewalls and dead ones are found.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub const TCP_KEEPALIVE_COUNT: u32 = 3;

#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Stream),
}

impl Wire {
    /// Connects in the clear. Whoever calls limits the time.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(TCP_KEEPALIVE_IDLE)
                    .with_interval(TCP_KEEPALIVE_INTERVAL)
                    .with_retries(TCP_KEEPALIVE_COUNT);
                SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
                Ok(Self::Tcp(tcp))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
    }
}

/// Whether we lack what a connection needs (descriptors, ports), of which no endpoint knows anything.
pub fn is_our_own_want(error: &io::Error) -> bool {
    // `ENFILE` and `EMFILE`, which `ErrorKind` does not name.
    matches!(error.raw_os_error(), Some(23 | 24)) || error.kind() == io::ErrorKind::AddrNotAvailable
}

macro_rules! on {
    ($wire:expr, $io:ident => $call:expr) => {
        match $wire.get_mut() {
            Wire::Tcp($io) => $call,
            Wire::Unix($io) => $call,
            Wire::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_want_is_told_apart_from_an_endpoint_that_does_not_answer() {
        for (code, ours) in [
            (23, true),
            (24, true),
            (99, true),
            (111, false),
            (110, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(is_our_own_want(&error), ours, "os error {code}");
        }
    }
}
