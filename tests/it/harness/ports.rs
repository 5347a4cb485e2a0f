//! Ports that nobody else takes while a test holds them.

use socket2::{Domain, Socket, Type};
use std::fmt;
use std::net::SocketAddr;

/// A port on 127.0.0.1, held by a socket that is bound but never listens. The kernel gives it to
/// nobody else, yet a program that names it (with `SO_REUSEADDR`, as servers do) may listen there.
pub struct Port {
    address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port exists");
        // Only after the bind: with the option set before, two holders could be given one port.
        socket.set_reuse_address(true).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _held: socket,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn number(&self) -> u16 {
        self.address.port()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// An address that neither accepts nor refuses: its queue is full and nobody takes from it.
pub struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl BlackHole {
    pub fn dig() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = (0..4)
            .map(|_| {
                let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                filler.set_nonblocking(true).unwrap();
                let _ = filler.connect(&address.into());
                filler
            })
            .collect();
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

impl fmt::Display for BlackHole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
