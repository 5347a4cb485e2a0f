//! Sockets that listen, of both kinds, and those that they accept.

use super::address::{ListenAddress, SocketMode};
use crate::base::client::Peer;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fs::{self, Permissions};
use std::io::{self, IoSlice};
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections that wait in the kernel; it takes the smaller of this and `somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens.
#[derive(Debug)]
pub enum ListenSocket {
    Inet(net::TcpListener),
    /// None: its file is somebody else's, such as systemd's.
    Unix(unix::UnixListener, Option<SocketFile>),
}

/// The file of a Unix socket. It outlives the socket, and must be removed by the last process that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: what was put in its place meanwhile is not ours.
    identity: (u64, u64),
}

/// Where connections come from.
#[derive(Debug)]
pub enum Acceptor {
    Inet(TcpListener),
    Unix(UnixListener),
}

/// A connection that was accepted.
#[derive(Debug)]
pub enum CallerSocket {
    Inet(TcpStream),
    Unix(UnixStream),
}

/// Binds an address. `IPv6` addresses take `IPv6` only, so that `[::]` and `0.0.0.0` can stand side by side.
pub fn bind(address: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds a path, in place of a socket that nobody listens on any more. Who comes before the mode is set
/// is refused: only then does it listen.
fn bind_path(path: &Path, mode: SocketMode) -> io::Result<(unix::UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    remove_stale(path)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::at(path)?;
    let listening = file.set_mode(mode).and_then(|()| socket.listen(BACKLOG));
    if let Err(error) = listening {
        file.remove();
        return Err(error);
    }
    Ok((OwnedFd::from(socket).into(), file))
}

/// A socket whose process has gone refuses connections; one that answers, or is too busy to, is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let what = "there is a file that is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    caller.set_nonblocking(true)?;
    match caller.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
            io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        },
    }
}

impl ListenSocket {
    pub fn bind(address: &ListenAddress, mode: SocketMode) -> io::Result<Self> {
        match address {
            ListenAddress::Inet(address) => bind(*address).map(Self::Inet),
            ListenAddress::Unix(path) => {
                let (socket, file) = bind_path(path, mode)?;
                Ok(Self::Unix(socket, Some(file)))
            }
        }
    }

    /// Takes a socket that listens already; `owned` says whether the file of a Unix socket is ours from now on.
    pub fn adopt(socket: OwnedFd, owned: bool) -> io::Result<Self> {
        let socket = Socket::from(socket);
        let local = socket.local_addr()?;
        if socket.r#type()? != Type::STREAM {
            return Err(io::Error::other("not a stream socket"));
        }
        socket.set_nonblocking(true)?;
        if local.as_socket().is_some() {
            return Ok(Self::Inet(socket.into()));
        }
        let Some(path) = local.as_pathname() else {
            return Err(io::Error::other(
                "neither TCP nor a Unix socket with a path",
            ));
        };
        // If it was removed meanwhile there is no file to care for.
        let file = owned.then(|| SocketFile::at(path).ok()).flatten();
        Ok(Self::Unix(OwnedFd::from(socket).into(), file))
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Inet(socket) => socket.try_clone().map(Self::Inet),
            Self::Unix(socket, file) => Ok(Self::Unix(socket.try_clone()?, file.clone())),
        }
    }

    /// For whoever serves TCP only.
    pub fn into_tcp(self) -> io::Result<net::TcpListener> {
        match self {
            Self::Inet(socket) => Ok(socket),
            Self::Unix(..) => Err(io::Error::other("not a TCP socket")),
        }
    }

    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Inet(socket) => socket.local_addr().map(ListenAddress::Inet),
            Self::Unix(socket, _) => {
                let local = socket.local_addr()?;
                let path = local.as_pathname().unwrap_or(Path::new(""));
                Ok(ListenAddress::Unix(path.to_owned()))
            }
        }
    }

    /// The file that must be removed when nobody listens any more.
    pub fn file(&self) -> Option<&SocketFile> {
        match self {
            Self::Inet(_) => None,
            Self::Unix(_, file) => file.as_ref(),
        }
    }

    /// Whether it has a file that others look after.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Unix(_, None))
    }

    /// Must be called inside a runtime.
    pub fn into_acceptor(self) -> io::Result<Acceptor> {
        match self {
            Self::Inet(socket) => TcpListener::from_std(socket).map(Acceptor::Inet),
            Self::Unix(socket, _) => UnixListener::from_std(socket).map(Acceptor::Unix),
        }
    }
}

impl From<net::TcpListener> for ListenSocket {
    fn from(socket: net::TcpListener) -> Self {
        Self::Inet(socket)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Inet(socket) => socket.as_fd(),
            Self::Unix(socket, _) => socket.as_fd(),
        }
    }
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (found.dev(), found.ino()),
        })
    }

    /// Does nothing if another file stands there by now.
    pub fn remove(&self) {
        if Self::at(&self.path).is_ok_and(|now| now == *self)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the Unix socket");
        }
    }

    pub fn set_mode(&self, mode: SocketMode) -> io::Result<()> {
        if Self::at(&self.path)? != *self {
            return Err(io::Error::other("another file stands in its place"));
        }
        fs::set_permissions(&self.path, Permissions::from_mode(mode.0))
    }
}

impl Acceptor {
    /// The next connection. Nothing is lost when this is dropped before it is done.
    pub async fn accept(&self) -> io::Result<(CallerSocket, Peer)> {
        match self {
            Self::Inet(socket) => {
                let (caller, peer) = socket.accept().await?;
                Ok((CallerSocket::Inet(caller), Peer::Inet(peer)))
            }
            Self::Unix(socket) => {
                let (caller, _) = socket.accept().await?;
                Ok((CallerSocket::Unix(caller), Peer::Unix))
            }
        }
    }
}

impl CallerSocket {
    /// What TCP needs to be prompt, and to find callers that vanished without a word.
    pub fn set_options(&self) -> io::Result<()> {
        let Self::Inet(tcp) = self else {
            // The kernel knows whether the other process is there.
            return Ok(());
        };
        tcp.set_nodelay(true)?;
        // After 60 s of silence, six probes in one minute.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_mins(1))
            .with_interval(Duration::from_secs(10))
            .with_retries(6);
        SockRef::from(tcp).set_tcp_keepalive(&keepalive)
    }

    /// Closing will be a reset; on a Unix socket there is no such thing, and it is just closed.
    pub fn reset_on_close(&self) {
        if let Self::Inet(tcp) = self {
            // The caller may be gone already.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsRawFd for CallerSocket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Inet(tcp) => tcp.as_raw_fd(),
            Self::Unix(unix) => unix.as_raw_fd(),
        }
    }
}

impl AsyncRead for CallerSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inet(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Inet(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Inet(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inet(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Inet(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &tempfile::TempDir) -> ListenAddress {
        ListenAddress::Unix(folder.path().join("web.sock"))
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (address, mode) = (at(&folder), SocketMode(0o600));
        let first = ListenSocket::bind(&address, mode).unwrap();
        let refused = ListenSocket::bind(&address, mode).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let stale = first.file().unwrap().clone();
        drop(first);
        let second = ListenSocket::bind(&address, mode).unwrap();
        let file = second.file().unwrap();
        let found = fs::metadata(&file.path).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        if stale != *file {
            stale.remove();
            assert!(file.path.exists(), "it is another one's by now");
        }
        file.remove();
        assert!(!file.path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        fs::write(&path, "precious").unwrap();
        let refused = ListenSocket::bind(&at(&folder), SocketMode::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn an_adopted_socket_keeps_its_kind_and_its_file_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let address = at(&folder);
        let socket = ListenSocket::bind(&address, SocketMode::default()).unwrap();
        for owned in [true, false] {
            let copy = socket.as_fd().try_clone_to_owned().unwrap();
            let adopted = ListenSocket::adopt(copy, owned).unwrap();
            assert_eq!(adopted.address().unwrap(), address);
            assert_eq!(adopted.file(), socket.file().filter(|_| owned));
        }
        let datagrams = unix::UnixDatagram::unbound().unwrap();
        assert!(ListenSocket::adopt(datagrams.into(), false).is_err());
    }
}
