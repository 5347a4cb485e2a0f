//! Lines as messages of RFC 5424, to a socket of this machine or a server, by UDP or TCP.
//!
//! Only the writing thread waits here, and each wait has a limit. When the server is away, lines stay in the bounded
//! buffer and are sent when it is back.

use super::output::Done;
use crate::observe::settings::{SyslogAddress, SyslogSettings};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// For a connection to one address.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// For a server that does not take what is sent.
const SEND_MAX: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// By TCP this much goes in one write.
const CHUNK_BYTES: usize = 1 << 16;
/// `Informational` (RFC 5424, 6.2.1).
const SEVERITY: u32 = 6;
/// Longest name of a host (RFC 5424, 6).
const HOST_BYTES_MAX: usize = 255;
/// What stands for something that is not known (RFC 5424, 6).
const NIL: &str = "-";

/// A server, connected when there is something to say.
pub struct Syslog {
    address: SyslogAddress,
    link: Option<Link>,
    /// `<134>1 `, before the time.
    before: Vec<u8>,
    /// ` host onemind 4711 access - `, behind it.
    behind: Vec<u8>,
    /// Messages on their way, and where each ends: in here, and its line in the batch.
    chunk: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

enum Link {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub fn new(settings: &SyslogSettings) -> Self {
        let pid = std::process::id();
        let (host, tag) = (host(), &settings.tag);
        let priority = settings.facility as u32 * 8 + SEVERITY;
        Self {
            address: settings.address.clone(),
            link: None,
            before: format!("<{priority}>1 ").into_bytes(),
            behind: format!(" {host} {tag} {pid} access - ").into_bytes(),
            chunk: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// A new connection is made for what comes next.
    pub fn disconnect(&mut self) {
        self.link = None;
    }

    /// Takes whole lines, as far as the server does.
    pub fn write(&mut self, batch: &[u8]) -> Done {
        let mut done = Done::default();
        if let Err(why) = self.send_all(batch, &mut done) {
            self.link = None;
            done.trouble = Some(why);
        }
        done
    }

    fn send_all(&mut self, batch: &[u8], done: &mut Done) -> io::Result<()> {
        let mut link = match self.link.take() {
            Some(link) if !link.has_ended() => link,
            _ => Link::to(&self.address)?,
        };
        match &mut link {
            Link::Tcp(stream) => self.send_stream(stream, batch, done)?,
            Link::Unix(socket) => self.send_each(batch, done, |message| socket.send(message))?,
            Link::Udp(socket) => self.send_each(batch, done, |message| socket.send(message))?,
        }
        self.link = Some(link);
        Ok(())
    }

    /// One message, one datagram. One that is too large for the socket is lost.
    fn send_each(
        &mut self,
        batch: &[u8],
        done: &mut Done,
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while let Some(line) = next_line(batch, done.taken) {
            self.chunk.clear();
            self.message(line);
            match retry(|| send(&self.chunk)) {
                Ok(_) => {}
                Err(why) if is_too_large(&why) => {
                    done.lost += 1;
                    done.trouble = Some(why);
                }
                Err(why) => return Err(why),
            }
            done.taken += line.len() + 1;
        }
        Ok(())
    }

    /// Each message with its length before it (RFC 6587, 3.4.1). A message of which a part was taken is sent again
    /// in whole on the next connection.
    fn send_stream(
        &mut self,
        stream: &mut TcpStream,
        batch: &[u8],
        done: &mut Done,
    ) -> io::Result<()> {
        while done.taken < batch.len() {
            self.gather(batch, done.taken);
            let mut sent = 0;
            while sent < self.chunk.len() {
                match retry(|| stream.write(&self.chunk[sent..])) {
                    Ok(written @ 1..) => sent += written,
                    outcome => {
                        let whole = self.ends.iter().rev().find(|(end, _)| *end <= sent);
                        done.taken = whole.map_or(done.taken, |(_, line)| *line);
                        return Err(outcome.err().unwrap_or(ErrorKind::WriteZero.into()));
                    }
                }
            }
            done.taken = self.ends.last().map_or(batch.len(), |(_, line)| *line);
        }
        Ok(())
    }

    /// Fills the chunk with the lines of the batch from here on.
    fn gather(&mut self, batch: &[u8], from: usize) {
        self.chunk.clear();
        self.ends.clear();
        let mut at = from;
        while let Some(line) = next_line(batch, at) {
            let length = self.message_length(line);
            self.chunk
                .extend_from_slice(format!("{length} ").as_bytes());
            self.message(line);
            at += line.len() + 1;
            self.ends.push((self.chunk.len(), at));
            if self.chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
    }

    fn message(&mut self, line: &[u8]) {
        self.chunk.extend_from_slice(&self.before);
        self.chunk.extend_from_slice(time_of(line));
        self.chunk.extend_from_slice(&self.behind);
        self.chunk.extend_from_slice(line);
    }

    fn message_length(&self, line: &[u8]) -> usize {
        self.before.len() + time_of(line).len() + self.behind.len() + line.len()
    }
}

impl Link {
    fn to(address: &SyslogAddress) -> io::Result<Self> {
        match address {
            SyslogAddress::Unix(path) => unix(path).map(Self::Unix),
            SyslogAddress::Udp(place) => first(place, udp).map(Self::Udp),
            SyslogAddress::Tcp(place) => first(place, tcp).map(Self::Tcp),
        }
    }

    /// Whether the server has closed the connection: what is written then is lost without a word.
    fn has_ended(&self) -> bool {
        let Self::Tcp(stream) = self else {
            return false;
        };
        let looked = stream.set_nonblocking(true).and_then(|()| {
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            seen
        });
        // A server has nothing to say here; what it says all the same is left where it is.
        match looked {
            Ok(seen) => seen == 0,
            Err(why) => why.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn unix(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
    stream.set_write_timeout(Some(SEND_MAX))?;
    Ok(stream)
}

/// The first address of the name that takes us.
fn first<T>(place: &str, connect: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut trouble = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in place.to_socket_addrs()?.take(ADDRESSES_MAX) {
        match connect(address) {
            Ok(connected) => return Ok(connected),
            Err(why) => trouble = why,
        }
    }
    Err(trouble)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// `EMSGSIZE`.
fn is_too_large(why: &io::Error) -> bool {
    let code = rustix::io::Errno::MSGSIZE.raw_os_error();
    why.raw_os_error() == Some(code)
}

/// The line that begins here, without its end.
fn next_line(batch: &[u8], from: usize) -> Option<&[u8]> {
    let rest = batch.get(from..).filter(|rest| !rest.is_empty())?;
    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Each line begins with its time, as RFC 5424 wants it.
fn time_of(line: &[u8]) -> &[u8] {
    let rest = line.strip_prefix(b"{\"time\":\"");
    let time = rest.and_then(|rest| memchr::memchr(b'"', rest).map(|end| &rest[..end]));
    time.unwrap_or(NIL.as_bytes())
}

/// As the kernel knows it, if it can be written in a message.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_sound = !name.is_empty()
        && name.len() <= HOST_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_sound { name } else { NIL }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::settings::Facility;
    use std::io::Read;
    use std::net::TcpListener;
    use tempfile::TempDir;

    fn syslog(address: &str) -> Syslog {
        Syslog::new(&SyslogSettings {
            address: address.parse().expect("an address"),
            facility: Facility::Local3,
            tag: "gate".to_owned(),
        })
    }

    fn line(nth: u32) -> String {
        format!("{{\"time\":\"2026-11-24T17:34:06.123Z\",\"nth\":{nth}}}\n")
    }

    fn message(nth: u32) -> String {
        let (host, pid) = (host(), std::process::id());
        let line = line(nth);
        let line = line.trim_end();
        format!("<158>1 2026-11-24T17:34:06.123Z {host} gate {pid} access - {line}")
    }

    #[test]
    fn a_socket_of_this_machine_gets_one_message_for_each_line() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let mut syslog = syslog(&format!("unix:{}", path.display()));
        let batch = line(1) + &line(2);
        let done = syslog.write(batch.as_bytes());
        assert_eq!((done.taken, done.lost), (0, 0), "there is no server yet");
        assert!(done.trouble.is_some());
        let server = UnixDatagram::bind(&path).expect("a socket");
        let done = syslog.write(batch.as_bytes());
        assert_eq!((done.taken, done.lost), (batch.len(), 0), "{done:?}");
        for nth in 1..=2 {
            let mut bytes = [0; 500];
            let length = server.recv(&mut bytes).expect("a message");
            assert_eq!(String::from_utf8_lossy(&bytes[..length]), message(nth));
        }
    }

    #[test]
    fn a_server_that_stands_still_gets_no_more_than_it_takes() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let _server = UnixDatagram::bind(&path).expect("a socket");
        let mut syslog = syslog(&format!("unix:{}", path.display()));
        let batch = line(1).repeat(10_000);
        let done = syslog.write(batch.as_bytes());
        assert!(done.taken < batch.len() && done.taken > 0, "{done:?}");
        assert_eq!(done.taken % line(1).len(), 0, "only whole lines");
        assert!(done.trouble.is_some());
    }

    #[test]
    fn a_datagram_that_is_too_large_is_lost_and_the_others_are_not() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("an address");
        let mut syslog = syslog(&format!("udp://{address}"));
        let batch = line(1) + &"x".repeat(70_000) + "\n" + &line(2);
        let done = syslog.write(batch.as_bytes());
        assert_eq!((done.taken, done.lost), (batch.len(), 1), "{done:?}");
        for nth in 1..=2 {
            let mut bytes = [0; 500];
            let length = server.recv(&mut bytes).expect("a message");
            assert_eq!(String::from_utf8_lossy(&bytes[..length]), message(nth));
        }
    }

    #[test]
    fn a_stream_has_a_length_before_each_message_and_is_connected_again() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("an address");
        let mut syslog = syslog(&format!("tcp://{address}"));
        for nth in 1..=3 {
            let done = syslog.write((line(nth) + &line(9)).as_bytes());
            assert!(done.trouble.is_none(), "{done:?}");
            let (mut stream, _) = server.accept().expect("a connection");
            let expected = [nth, 9]
                .map(message)
                .map(|one| format!("{} {one}", one.len()));
            let mut bytes = vec![0; expected.concat().len()];
            stream.read_exact(&mut bytes).expect("two messages");
            assert_eq!(String::from_utf8_lossy(&bytes), expected.concat());
            // Here the server leaves, and the next line goes to the one that follows it.
        }
    }

    #[test]
    fn a_line_without_a_time_says_so() {
        for (line, expected) in [
            (&b"{\"time\":\"now\",\"a\":1}"[..], &b"now"[..]),
            (b"x", b"-"),
            (b"{\"time\":\"", b"-"),
        ] {
            assert_eq!(time_of(line), expected);
        }
    }
}
