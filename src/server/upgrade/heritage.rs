//! What a process finds when it starts: the sockets of its predecessor or of systemd, and what the former knew.

use super::channel::{Channel, Message};
use super::elders::Elders;
use super::program::{PREDECESSOR, Program};
use crate::config::Environment;
use crate::server::StartError;
use crate::stage::listen::address::ListenAddress;
use crate::stage::listen::socket::{ListenSocket, SocketFile};
use crate::stage::upstream::learned::Learned;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::stdio::dup2_stdin;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// For a predecessor to say everything; it says it at once.
const RECEIVE_MAX: Duration = Duration::from_secs(10);

/// Handed to [`Server::start`](crate::server::Server::start).
#[derive(Default)]
pub struct Heritage {
    pub sockets: Sockets,
    pub(in crate::server) endpoints: Vec<Learned>,
    pub(in crate::server) elders: Elders,
    /// Upgrades that went well before this process came to be.
    pub(in crate::server) upgrades: u64,
    pub(in crate::server) secret: Option<[u8; 32]>,
    pub(in crate::server) predecessor: Option<Predecessor>,
    /// None: this process cannot have a successor.
    pub(in crate::server) program: Option<Program>,
}

/// The process whose place we are to take.
#[derive(Debug)]
pub struct Predecessor {
    pub pid: u32,
    pub line: Channel,
}

impl Heritage {
    /// Takes what was left for us; nothing, for a process that is started like any other. To be called
    /// once, at start, inside a runtime.
    pub async fn take(environment: &Environment) -> Result<Self, StartError> {
        let mut heritage = Self {
            program: Some(Program::of_this_process()?),
            ..Self::default()
        };
        let parent = parent_id();
        if environment(PREDECESSOR).is_some_and(|pid| pid == parent.to_string()) {
            let receiving = heritage.receive(parent);
            let received = tokio::time::timeout(RECEIVE_MAX, receiving).await;
            let received = received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            received.map_err(|error| {
                StartError::System(format!("cannot take over from process {parent}: {error}"))
            })?;
        } else {
            heritage.sockets = Sockets::of_systemd()?;
        }
        Ok(heritage)
    }

    async fn receive(&mut self, pid: u32) -> io::Result<()> {
        let line = io::stdin().as_fd().try_clone_to_owned()?;
        dup2_stdin(File::open("/dev/null")?)?;
        let line = Channel::new(line)?;
        loop {
            let Some((message, beside)) = line.receive().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match message {
                Message::Sockets { addresses, foreign } => {
                    self.sockets.add(addresses, &foreign, beside)?;
                }
                Message::Elder { pid } => {
                    for line in beside {
                        self.elders.add(pid, Channel::new(line)?);
                    }
                }
                Message::Endpoints { endpoints } => self.endpoints.extend(endpoints),
                Message::Begin { secret, upgrades } => {
                    self.upgrades = upgrades;
                    let secret = BASE64.decode(secret).map_err(io::Error::other)?;
                    self.secret = secret.try_into().ok();
                    break;
                }
                _ => {}
            }
        }
        self.predecessor = Some(Predecessor { pid, line });
        Ok(())
    }
}

/// Listening sockets that are open already, by the address they are bound to.
#[derive(Debug, Default)]
pub struct Sockets {
    open: Vec<Inherited>,
    taken: Mutex<Vec<ListenAddress>>,
}

#[derive(Debug)]
struct Inherited {
    address: ListenAddress,
    /// As the unit of systemd names it; empty otherwise.
    name: String,
    socket: ListenSocket,
}

impl Sockets {
    /// Socket activation (`sd_listen_fds(3)`).
    fn of_systemd() -> Result<Self, StartError> {
        let passed = sd_listen_fds::get().map_err(|error| StartError::System(error.to_string()))?;
        let mut sockets = Self::default();
        for (name, socket) in passed {
            let (name, socket) = (name.unwrap_or_default(), socket.into_std());
            // They come without it; the next program must not hold them by accident.
            fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(io::Error::from)?;
            let socket = ListenSocket::adopt(socket, false);
            let known = socket.and_then(|socket| Ok((socket.address()?, socket)));
            let (address, socket) = known.map_err(|error| {
                StartError::System(format!("the socket `{name}` of systemd: {error}"))
            })?;
            tracing::info!(%address, name, "a socket of systemd");
            sockets.open.push(Inherited {
                address,
                name,
                socket,
            });
        }
        Ok(sockets)
    }

    fn add(
        &mut self,
        addresses: Vec<ListenAddress>,
        foreign: &[ListenAddress],
        sockets: Vec<OwnedFd>,
    ) -> io::Result<()> {
        if addresses.len() != sockets.len() {
            return Err(io::Error::other("sockets were lost on the way"));
        }
        for (address, socket) in addresses.into_iter().zip(sockets) {
            let socket = ListenSocket::adopt(socket, !foreign.contains(&address))?;
            self.open.push(Inherited {
                address,
                name: String::new(),
                socket,
            });
        }
        Ok(())
    }

    /// The socket that is bound to this address already; none when we must bind it ourselves.
    pub fn at(&self, address: &ListenAddress) -> Option<io::Result<ListenSocket>> {
        let found = self.open.iter().find(|open| open.address == *address)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.push(address.clone());
        Some(found.socket.try_clone())
    }

    /// Closes what no listener wants. What systemd holds stays open all the same, and nobody accepts there.
    /// The files of those that are ours: as long as a predecessor may go on they must stay.
    pub fn close(self) -> Vec<SocketFile> {
        let taken = self.taken.into_inner();
        let taken = taken.unwrap_or_else(PoisonError::into_inner);
        let mut files = Vec::new();
        for Inherited {
            address,
            name,
            socket,
        } in self.open
        {
            if taken.contains(&address) {
                continue;
            }
            if name.is_empty() {
                tracing::info!(%address, "no longer listening");
            } else {
                tracing::warn!(
                    %address,
                    name,
                    "no listener has the address of this socket of systemd: nobody accepts there"
                );
            }
            files.extend(socket.file().cloned());
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_serves_the_listener_that_has_its_address() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let address = ListenAddress::from(at);
        let mut sockets = Sockets::default();
        sockets
            .add(vec![address.clone()], &[], vec![OwnedFd::from(socket)])
            .unwrap();
        let taken = sockets.at(&address).unwrap().unwrap();
        assert_eq!(taken.address().unwrap(), address);
        assert!(sockets.at(&"127.0.0.1:1".parse().unwrap()).is_none());
        // Whoever took it has it for good.
        sockets.close();
        std::net::TcpStream::connect(at).unwrap();
    }

    #[test]
    fn addresses_without_their_sockets_are_refused() {
        let address = "127.0.0.1:1".parse().unwrap();
        assert!(
            Sockets::default()
                .add(vec![address], &[], Vec::new())
                .is_err()
        );
    }
}
