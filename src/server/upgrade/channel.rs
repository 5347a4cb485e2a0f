//! The line between a process and its successor: small packets of JSON, with sockets beside them.
//!
//! Invariant: the two may be of different versions. A packet that one of them does not know is
//! [`Message::Unknown`] and means nothing; fields that it does not know are ignored.

use crate::stage::listen::address::ListenAddress;
use crate::stage::upstream::learned::Learned;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Longest packet, in bytes; well below what the kernel lets a socket hold.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// Sockets in one packet; the kernel takes 253.
pub const SOCKETS_MAX: usize = 64;

/// Endpoints in one packet: with the longest names and errors they fill half of it.
pub const ENDPOINTS_MAX: usize = 32;

const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(SOCKETS_MAX));

/// What the two say to each other, in the order of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Message {
    /// Old: listening sockets, one for each address. The files of the `foreign` ones are not for us to remove.
    Sockets {
        addresses: Vec<ListenAddress>,
        #[serde(default)]
        foreign: Vec<ListenAddress>,
    },
    /// Old: the line to an older process that is still draining.
    Elder { pid: u32 },
    /// Old: what it knows of endpoints that take no requests.
    Endpoints { endpoints: Vec<Learned> },
    /// Old: that was all. The secret signs sticky cookies, in base64.
    Begin { secret: String, upgrades: u64 },
    /// New: its configuration stands, its probes are done; it does not accept yet.
    Ready,
    /// New: it will not serve, and leaves.
    Failed { why: String },
    /// Old: begin to accept.
    Go,
    /// New: it accepts.
    Serving,
    /// Old: it accepts no more; the name of the service belongs to the new one.
    Yours,
    /// New: open the access log anew.
    Reopen,
    /// New: told to stop; do not take longer than it.
    Stop,
    #[serde(other)]
    Unknown,
}

/// One end of the line. It is over when the other process is.
#[derive(Debug)]
pub struct Channel(
    /// Its socket keeps packets apart, which a stream would not; the type is only how the runtime waits for it.
    UnixStream,
);

impl Channel {
    /// Our end, and the one to be inherited. Must be called inside a runtime.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(ours)?, theirs))
    }

    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Self)
    }

    /// Sends a packet; at most [`SOCKETS_MAX`] sockets.
    pub async fn send(&self, message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > PACKET_BYTES_MAX || sockets.len() > SOCKETS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let send = || send(self.as_fd(), &packet, sockets);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next packet; none when the other process has gone.
    pub async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let receive = || receive(self.as_fd());
        match self.0.async_io(Interest::READABLE, receive).await {
            Ok((packet, _)) if packet.is_empty() => Ok(None),
            Ok((packet, sockets)) => Ok(Some((serde_json::from_slice(&packet)?, sockets))),
            // It left without having read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send(line: BorrowedFd<'_>, packet: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let packet = [IoSlice::new(packet)];
    // A packet is sent whole or not at all.
    retry(|| sendmsg(line, &packet, &mut beside, SendFlags::NOSIGNAL)).map(drop)
}

fn receive(line: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        let mut into = [IoSliceMut::new(&mut packet)];
        recvmsg(line, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    let sockets = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::other("a packet of the other process was cut"));
    }
    packet.truncate(received.bytes);
    Ok((packet, sockets))
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::new(theirs).unwrap())
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_over_still_accepts_those_who_waited() {
        let (old, new) = pair();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let _waiting = TcpStream::connect(address).unwrap();
        let message = Message::Sockets {
            addresses: vec![address.into()],
            foreign: Vec::new(),
        };
        old.send(&message, &[socket.as_fd()]).await.unwrap();
        drop(socket);
        let (received, mut sockets) = new.receive().await.unwrap().unwrap();
        assert_eq!(received, message);
        assert_eq!(sockets.len(), 1);
        let socket = TcpListener::from(sockets.remove(0));
        socket.accept().unwrap();
    }

    #[tokio::test]
    async fn every_message_comes_through_as_it_was_sent() {
        let (old, new) = pair();
        let messages = [
            Message::Elder { pid: 7 },
            Message::Endpoints {
                endpoints: Vec::new(),
            },
            Message::Begin {
                secret: "AA==".to_owned(),
                upgrades: 3,
            },
            Message::Ready,
            Message::Failed {
                why: "no".to_owned(),
            },
            Message::Go,
            Message::Serving,
            Message::Yours,
            Message::Reopen,
            Message::Stop,
        ];
        for message in &messages {
            old.send(message, &[]).await.unwrap();
        }
        for message in messages {
            let (received, sockets) = new.receive().await.unwrap().unwrap();
            assert_eq!((received, sockets.len()), (message, 0));
        }
        drop(old);
        assert!(new.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn words_of_another_version_mean_nothing_and_do_no_harm() {
        let (old, new) = pair();
        for (packet, understood) in [
            (r#"{"say":"sing","loud":true}"#, Message::Unknown),
            (
                r#"{"say":"elder","pid":4,"name":"x"}"#,
                Message::Elder { pid: 4 },
            ),
        ] {
            send(old.as_fd(), packet.as_bytes(), &[]).unwrap();
            assert_eq!(new.receive().await.unwrap().unwrap().0, understood);
        }
        send(old.as_fd(), b"not json", &[]).unwrap();
        assert!(new.receive().await.is_err());
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_sent() {
        let (old, _new) = pair();
        let why = "x".repeat(PACKET_BYTES_MAX);
        assert!(old.send(&Message::Failed { why }, &[]).await.is_err());
    }
}
