//! The wire to an endpoint, and the one who watches that it is not silent for too long.
//!
//! Pingora has one time limit for all reads of an answer, fixed when the attempt begins. We have
//! three (first byte, between bytes, everything). So each connection has a watcher: the attempt
//! that holds the connection says when it heard something and how long it will wait, and the watcher
//! shuts the socket when the time is over. A busy connection costs its watcher one look in a limit.

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr as AnySocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, GetProxyDigest};
use pingora::{Error, ErrorType};
use socket2::{SockRef, Socket};
use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// No time: there is no limit, or the watcher sleeps until it is called.
const NEVER: u64 = u64::MAX;

/// How long one connection may be silent. Times are milliseconds since the connection stood.
#[derive(Debug)]
pub struct Silence {
    origin: Instant,
    limit: AtomicU64,
    heard: AtomicU64,
    until: AtomicU64,
    /// Counts the attempts that held this connection.
    turn: AtomicU64,
    /// The attempt whose time was over.
    broken: AtomicU64,
    /// When the watcher will look next.
    armed: AtomicU64,
    wake: Arc<Notify>,
}

impl Silence {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            limit: AtomicU64::new(NEVER),
            heard: AtomicU64::new(0),
            until: AtomicU64::new(NEVER),
            turn: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            armed: AtomicU64::new(NEVER),
            wake: Arc::default(),
        }
    }

    /// A new attempt holds the connection; its number names it from here on.
    pub fn begin(&self) -> u64 {
        self.turn.fetch_add(1, SeqCst) + 1
    }

    /// From now on at most `limit` without a byte in either direction, and nothing at all after `until`.
    pub fn limit(&self, limit: Duration, until: Option<Instant>) {
        self.heard();
        // Rounded up: whoever learns that the time has passed must find that it has.
        let until = until.map_or(NEVER, |until| self.since_origin(until) + 1);
        self.until.store(until, SeqCst);
        self.limit.store(millis(limit).max(1), SeqCst);
        // Later than the watcher's next look: it will find out by itself.
        if self.deadline() < self.armed.load(SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Something came or went.
    pub fn heard(&self) {
        self.heard.store(self.since_origin(Instant::now()), SeqCst);
    }

    /// No limit any more: the connection rests in the pool, unless the next attempt has it already.
    pub fn lift(&self, turn: u64) {
        if self.turn.load(SeqCst) == turn {
            self.limit.store(NEVER, SeqCst);
            self.until.store(NEVER, SeqCst);
        }
    }

    /// Whether this attempt's time was over, so that the connection was shut under it.
    pub fn was_broken(&self, turn: u64) -> bool {
        self.broken.load(SeqCst) == turn
    }

    fn since_origin(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.origin))
    }

    fn deadline(&self) -> u64 {
        let limit = self.limit.load(SeqCst);
        if limit == NEVER {
            return NEVER;
        }
        let silent = self.heard.load(SeqCst).saturating_add(limit);
        silent.min(self.until.load(SeqCst))
    }
}

impl Drop for Silence {
    /// The connection is gone: its watcher finds nobody and leaves.
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// Shuts the socket when its silence has lasted too long. `socket` is a second handle of the same
/// connection, so that it can never be mistaken for another one.
async fn watch(silence: Weak<Silence>, wake: Arc<Notify>, socket: Socket) {
    loop {
        let Some(watched) = silence.upgrade() else {
            return;
        };
        let (deadline, now) = (watched.deadline(), watched.since_origin(Instant::now()));
        if deadline <= now {
            watched.broken.store(watched.turn.load(SeqCst), SeqCst);
            // An error means that the other end was quicker.
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
        watched.armed.store(deadline, SeqCst);
        // A limit that came between the look and the arming is seen here, or wakes us.
        if watched.deadline() < deadline {
            continue;
        }
        let at = watched.origin.checked_add(Duration::from_millis(deadline));
        drop(watched);
        match at.filter(|_| deadline != NEVER) {
            // Woken or not, the next look tells.
            Some(at) => drop(timeout_at(at.into(), wake.notified()).await),
            None => wake.notified().await,
        }
    }
}

/// The limit of the connection that this digest describes; none for HTTP/2, where many share one.
pub fn silence_of(digest: &Digest) -> Option<&Arc<Silence>> {
    let carried = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    carried.downcast_ref()
}

/// Opens watched connections. The time to connect is limited by the peer's options.
#[derive(Debug)]
pub struct Dial;

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &AnySocketAddr) -> pingora::Result<Stream> {
        let opened = match address {
            AnySocketAddr::Inet(address) => TcpStream::connect(address).await.and_then(|tcp| {
                let handle = SockRef::from(&tcp).try_clone()?;
                Ok((Stream::from(tcp), handle))
            }),
            AnySocketAddr::Unix(unix) => {
                let path = unix.as_pathname().unwrap_or(Path::new(""));
                UnixStream::connect(path).await.and_then(|socket| {
                    let handle = SockRef::from(&socket).try_clone()?;
                    Ok((Stream::from(socket), handle))
                })
            }
        };
        let (mut stream, handle) = opened.map_err(|error| connect_error(address, error))?;
        let silence = Arc::new(Silence::new());
        let wake = Arc::clone(&silence.wake);
        tokio::spawn(watch(Arc::downgrade(&silence), wake, handle));
        stream.set_proxy_digest(carry(silence));
        Ok(stream)
    }
}

fn connect_error(address: &AnySocketAddr, error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        // Our own want, of which no endpoint knows anything.
        _ if is_out_of_descriptors(&error) => ErrorType::SocketError,
        io::ErrorKind::AddrNotAvailable => ErrorType::SocketError,
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, format!("connecting to {address}"), error)
}

/// `ENFILE` and `EMFILE`, which `ErrorKind` does not name.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The digest of a CONNECT proxy, which we never use, is the one thing that travels with a connection.
fn carry(silence: Arc<Silence>) -> ProxyDigest {
    let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
    ProxyDigest::new(Box::new(response), Some(Box::new(silence)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    struct Watched {
        silence: Arc<Silence>,
        other_end: std::net::TcpStream,
        _socket: Socket,
    }

    fn watched() -> Watched {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other_end, _) = listener.accept().unwrap();
        let socket = Socket::from(socket);
        let silence = Arc::new(Silence::new());
        let handle = socket.try_clone().unwrap();
        tokio::spawn(watch(
            Arc::downgrade(&silence),
            Arc::clone(&silence.wake),
            handle,
        ));
        Watched {
            silence,
            other_end,
            _socket: socket,
        }
    }

    impl Watched {
        async fn ends(mut self) -> bool {
            let read = tokio::task::spawn_blocking(move || self.other_end.read(&mut [0]));
            read.await.unwrap().is_ok_and(|bytes| bytes == 0)
        }

        async fn waits(&self) -> bool {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            self.other_end.set_nonblocking(true).unwrap();
            let read = (&self.other_end).read(&mut [0]);
            self.other_end.set_nonblocking(false).unwrap();
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        }
    }

    #[test]
    fn our_own_want_is_told_apart_from_an_endpoint_that_does_not_answer() {
        let address = AnySocketAddr::Inet("127.0.0.1:1".parse().unwrap());
        for (code, kind) in [
            (23, ErrorType::SocketError),
            (24, ErrorType::SocketError),
            (99, ErrorType::SocketError),
            (111, ErrorType::ConnectRefused),
            (110, ErrorType::ConnectTimedout),
        ] {
            let error = connect_error(&address, io::Error::from_raw_os_error(code));
            assert_eq!(*error.etype(), kind, "os error {code}");
        }
    }

    #[tokio::test]
    async fn silence_beyond_the_limit_shuts_the_socket() {
        let watched = watched();
        let turn = watched.silence.begin();
        watched.silence.limit(Duration::from_millis(20), None);
        let silence = Arc::clone(&watched.silence);
        assert!(watched.ends().await);
        assert!(silence.was_broken(turn));
        assert!(!silence.was_broken(turn + 1));
    }

    #[tokio::test]
    async fn the_end_of_all_time_counts_although_something_is_heard() {
        let watched = watched();
        watched.silence.begin();
        let until = Instant::now() + Duration::from_millis(20);
        watched.silence.limit(Duration::from_hours(1), Some(until));
        watched.silence.heard();
        assert!(watched.ends().await);
    }

    #[tokio::test]
    async fn a_shorter_limit_replaces_a_longer_one() {
        let watched = watched();
        watched.silence.begin();
        watched.silence.limit(Duration::from_hours(1), None);
        assert!(watched.waits().await);
        watched.silence.limit(Duration::from_millis(20), None);
        assert!(watched.ends().await);
    }

    #[tokio::test]
    async fn a_lifted_limit_is_none_unless_another_attempt_has_begun() {
        let watched = watched();
        let first = watched.silence.begin();
        watched.silence.limit(Duration::from_hours(1), None);
        watched.silence.lift(first);
        assert_eq!(watched.silence.deadline(), NEVER);
        let _second = watched.silence.begin();
        watched.silence.limit(Duration::from_hours(1), None);
        watched.silence.lift(first);
        assert_ne!(watched.silence.deadline(), NEVER);
        assert!(watched.waits().await);
    }
}
