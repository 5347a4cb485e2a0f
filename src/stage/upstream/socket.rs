//! The wire to an endpoint: a socket that gives up when it has been silent for too long.
//!
//! Pingora has one time limit for all reads of an answer, fixed when the attempt begins.
//! We have three (first byte, between bytes, everything), so the limit lives here, and
//! the attempt moves it as it goes on.

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::Digest;
use pingora::protocols::GetProxyDigest;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr as AnySocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::{Error, ErrorType};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

/// How long one connection may be silent. Set by the attempt that holds the connection.
#[derive(Debug)]
pub struct Silence {
    /// Times below count milliseconds from here; 0 means none.
    origin: Instant,
    limit_ms: AtomicU64,
    last_ms: AtomicU64,
    until_ms: AtomicU64,
    /// Whether the caller is not through with its request: until then the endpoint owes no answer,
    /// and only what it does not take from us counts as its silence.
    sending: AtomicBool,
    /// Counts the attempts that held this connection.
    turn: AtomicU64,
}

impl Silence {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            limit_ms: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            until_ms: AtomicU64::new(0),
            sending: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        }
    }

    /// A new attempt holds the connection; its number is needed to [`lift`](Self::lift) its limits.
    pub fn begin(&self) -> u64 {
        self.turn.fetch_add(1, Relaxed) + 1
    }

    /// From now on at most `limit` without a byte in either direction, and nothing at all after `until`.
    pub fn limit(&self, limit: Duration, until: Option<Instant>) {
        self.set(limit, until, false);
    }

    /// The same while the request is being sent, when the endpoint may be silent for as long as the
    /// caller is: at most `limit` without taking what we send.
    pub fn limit_sending(&self, limit: Duration, until: Option<Instant>) {
        self.set(limit, until, true);
    }

    fn set(&self, limit: Duration, until: Option<Instant>, sending: bool) {
        // Rounded up: whoever is woken must find that the time has passed.
        let until_ms = until.map_or(0, |until| self.since_origin(until) + 1);
        self.heard();
        self.until_ms.store(until_ms, Relaxed);
        self.sending.store(sending, Relaxed);
        self.limit_ms.store(millis(limit).max(1), Relaxed);
    }

    /// No limit any more: the connection rests in the pool, unless the next attempt has it already.
    pub fn lift(&self, turn: u64) {
        if self.turn.load(Relaxed) == turn {
            self.limit_ms.store(0, Relaxed);
            self.until_ms.store(0, Relaxed);
        }
    }

    fn heard(&self) {
        self.last_ms
            .store(self.since_origin(Instant::now()), Relaxed);
    }

    fn since_origin(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.origin))
    }

    fn deadline(&self, way: Way) -> Option<Instant> {
        let limit_ms = self.limit_ms.load(Relaxed);
        if limit_ms == 0 {
            return None;
        }
        let silent_ms = if way == Way::Read && self.sending.load(Relaxed) {
            u64::MAX
        } else {
            self.last_ms.load(Relaxed).saturating_add(limit_ms)
        };
        let at_ms = match self.until_ms.load(Relaxed) {
            0 if silent_ms == u64::MAX => return None,
            0 => silent_ms,
            until_ms => silent_ms.min(until_ms),
        };
        self.origin.checked_add(Duration::from_millis(at_ms))
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The limit of the connection that this digest describes; none for HTTP/2, where many share one.
pub fn silence_of(digest: &Digest) -> Option<&Arc<Silence>> {
    let carried = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    carried.downcast_ref()
}

/// Opens sockets whose silence is limited. The time to connect is limited by the peer's options.
#[derive(Debug)]
pub struct Dial;

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &AnySocketAddr) -> pingora::Result<Stream> {
        let wire = match address {
            AnySocketAddr::Inet(address) => TcpStream::connect(address).await.map(Wire::Tcp),
            AnySocketAddr::Unix(unix) => {
                let path = unix.as_pathname().unwrap_or(Path::new(""));
                UnixStream::connect(path).await.map(Wire::Unix)
            }
        };
        let wire = wire.map_err(|error| connect_error(address, error))?;
        let silence = Arc::new(Silence::new());
        let socket = QuietSocket {
            wire,
            silence: Arc::clone(&silence),
            sleep: None,
        };
        let mut stream = Stream::from(VirtualSocketStream::new(Box::new(socket)));
        stream.set_proxy_digest(carry(silence));
        Ok(stream)
    }
}

fn connect_error(address: &AnySocketAddr, error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, format!("connecting to {address}"), error)
}

fn carry(silence: Arc<Silence>) -> ProxyDigest {
    let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
    ProxyDigest::new(Box::new(response), Some(Box::new(silence)))
}

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

#[derive(Debug)]
struct QuietSocket {
    wire: Wire,
    silence: Arc<Silence>,
    /// Armed at the earliest time that matters and left alone while the true deadline is later:
    /// a busy connection touches the timer once in a limit, not once in a read.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl QuietSocket {
    /// Ready when the silence has lasted too long.
    fn poll_silence(&mut self, way: Way, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(deadline) = self.silence.deadline(way) {
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            let deadline = tokio::time::Instant::from_std(deadline);
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if sleep.is_elapsed() || sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        Poll::Pending
    }
}

impl AsyncRead for QuietSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = match &mut this.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Wire::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        };
        match read {
            Poll::Ready(result) => {
                this.silence.heard();
                Poll::Ready(result)
            }
            Poll::Pending => {
                std::task::ready!(this.poll_silence(Way::Read, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for QuietSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match &mut this.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Wire::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        };
        if let Poll::Ready(result) = written {
            this.silence.heard();
            return Poll::Ready(result);
        }
        // An endpoint that does not take what we send is as silent as one that sends nothing.
        std::task::ready!(this.poll_silence(Way::Write, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Wire::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Wire::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

impl VirtualSocket for QuietSocket {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        let Wire::Tcp(tcp) = &self.wire else {
            return Ok(());
        };
        match option {
            VirtualSockOpt::NoDelay => tcp.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(tcp, &keepalive).map_err(io::Error::other)
            }
            _ => Ok(()),
        }
    }
}
