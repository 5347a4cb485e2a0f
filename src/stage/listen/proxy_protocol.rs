//! The PROXY protocol, versions 1 and 2: a proxy before us says whose connection it passes on.
//!
//! As in `HAProxy`'s `doc/proxy-protocol.txt`, sections 2.1 and 2.2. Whether the peer may say so is
//! for the accept loop to decide: anybody can send a header.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// The longest version 1 header, with its line end.
const V1_BYTES_MAX: usize = 107;
/// The shortest version 1 header: `PROXY UNKNOWN`.
const V1_BYTES_MIN: usize = 15;
const V1_SIGNATURE: &[u8] = b"PROXY ";

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Addresses take 216 bytes at most, and what is added to them (TLS facts, identifiers) is known to fit
/// in a few hundred; more is nobody's header.
const V2_BYTES_MAX: usize = V2_FIXED + 4096;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing is wrong so far; the header has at least this many bytes in all, more than were given.
    Incomplete(usize),
    Done(Header),
    /// Not a header, or one that breaks the rules: close the connection.
    Invalid,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The caller; absent when the proxy speaks for itself (a health check), or over a socket
    /// without addresses.
    pub source: Option<SocketAddr>,
    /// Where the caller connected to.
    pub destination: Option<SocketAddr>,
    /// Bytes of the header; what follows is the caller's.
    pub consumed: usize,
}

/// Looks at the first bytes of a connection. Needs never more than 4,112 of them.
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.is_empty() {
        return Parsed::Incomplete(V1_BYTES_MIN);
    }
    if agrees(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else if agrees(bytes, V1_SIGNATURE) {
        parse_v1(bytes)
    } else {
        Parsed::Invalid
    }
}

/// Whether `bytes` begins with `signature`, or is its beginning.
fn agrees(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`
fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\r', window) else {
        return if bytes.len() >= V1_BYTES_MAX - 1 {
            Parsed::Invalid
        } else {
            Parsed::Incomplete(V1_BYTES_MIN.max(bytes.len() + 2))
        };
    };
    match window.get(end + 1) {
        Some(b'\n') => {}
        None if window.len() < V1_BYTES_MAX => return Parsed::Incomplete(end + 2),
        _ => return Parsed::Invalid,
    }
    let addresses = std::str::from_utf8(&window[V1_SIGNATURE.len()..end])
        .ok()
        .and_then(v1_addresses);
    match addresses {
        Some(pair) => done(pair, end + 2),
        None => Parsed::Invalid,
    }
}

type Pair = Option<(SocketAddr, SocketAddr)>;

fn done(pair: Pair, consumed: usize) -> Parsed {
    let (source, destination) = pair.unzip();
    Parsed::Done(Header {
        source,
        destination,
        consumed,
    })
}

/// The line after `PROXY `: outer `None` is a broken one, inner `None` one without addresses.
fn v1_addresses(line: &str) -> Option<Pair> {
    // Anything may follow `UNKNOWN`, and is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Some((
        SocketAddr::new(source, source_port),
        SocketAddr::new(destination, destination_port),
    )))
}

/// Digits only, and no leading zero: it could be meant as octal.
fn port(word: &str) -> Option<u16> {
    let plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return match bytes.get(V2_SIGNATURE.len()) {
            Some(command) if !matches!(command, 0x20 | 0x21) => Parsed::Invalid,
            // A header of version 1 would differ in its first byte, so these 16 are always there.
            _ => Parsed::Incomplete(V2_FIXED),
        };
    };
    let [command, family] = [fixed[12], fixed[13]];
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let total = V2_FIXED + length;
    let sound = matches!(command, 0x20 | 0x21) && family >> 4 <= 3 && family & 0xf <= 2;
    if !sound || total > V2_BYTES_MAX || length < v2_addresses_len(family) {
        return Parsed::Invalid;
    }
    let Some(body) = rest.get(..length) else {
        return Parsed::Incomplete(total);
    };
    // LOCAL: the proxy's own connection, whatever addresses it may show.
    let pair = if command == 0x21 {
        v2_addresses(family, body)
    } else {
        None
    };
    done(pair, total)
}

/// Bytes that the addresses of this family take; type-length-value fields may follow.
fn v2_addresses_len(family: u8) -> usize {
    match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    }
}

/// Addresses of TCP only: others are valid but nothing that we could serve, so the socket's own count.
fn v2_addresses(family: u8, body: &[u8]) -> Pair {
    match family {
        0x11 => v2_pair::<4>(body),
        0x21 => v2_pair::<16>(body),
        _ => None,
    }
}

/// Two addresses of `N` bytes, then two ports.
fn v2_pair<const N: usize>(body: &[u8]) -> Pair
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    let at = |address: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port))
    };
    Some((at(source, source_port), at(destination, destination_port)))
}

/// Reads the header that must open `stream`. Returns it, and the bytes of the caller that came
/// along (107 at most): they have to be put back before the stream is used.
///
/// Fails with `TimedOut` after `deadline`, `UnexpectedEof` if the peer leaves first, `InvalidData`
/// if there is no valid header.
pub async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    deadline: Instant,
) -> io::Result<(Header, Vec<u8>)> {
    timeout_at(deadline, read_whole(stream))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no whole PROXY protocol header in time",
            ))
        })
}

async fn read_whole<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<(Header, Vec<u8>)> {
    // The first read takes what a version 1 header could need: usually all of it, in one call.
    let mut bytes = Vec::with_capacity(V1_BYTES_MAX);
    let mut wanted = V1_BYTES_MAX;
    loop {
        let missing = u64::try_from(wanted - bytes.len()).unwrap_or(u64::MAX);
        if (&mut *stream).take(missing).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&bytes) {
            Parsed::Incomplete(total) => wanted = total.max(V1_BYTES_MAX),
            Parsed::Done(header) => {
                let leftover = bytes.split_off(header.consumed);
                return Ok((header, leftover));
            }
            Parsed::Invalid => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the connection does not begin with a PROXY protocol header",
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn tcp4_body() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb]
    }

    fn tcp6_body() -> Vec<u8> {
        let mut body = Ipv6Addr::LOCALHOST.octets().to_vec();
        body.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        body.extend([0, 80, 1, 187]);
        body
    }

    #[track_caller]
    fn check(bytes: &[u8], source: Option<&str>) {
        let source = source.map(|text| text.parse().unwrap());
        let mut followed = bytes.to_vec();
        followed.extend(b"GET / HTTP/1.1\r\n\r\n");
        for bytes in [bytes, &followed[..]] {
            match parse(bytes) {
                Parsed::Done(header) => {
                    assert_eq!(header.source, source);
                    assert_eq!(header.consumed, followed.len() - 18);
                }
                other => panic!("{other:?} for {:?}", bytes.escape_ascii().to_string()),
            }
        }
    }

    #[test]
    fn version_1_names_the_caller() {
        for (line, source) in [
            (
                "TCP4 192.0.2.1 198.51.100.1 56324 443",
                Some("192.0.2.1:56324"),
            ),
            (
                "TCP4 255.255.255.255 255.255.255.255 65535 65535",
                Some("255.255.255.255:65535"),
            ),
            ("TCP4 192.0.2.1 198.51.100.1 0 0", Some("192.0.2.1:0")),
            ("TCP6 2001:db8::1 ::1 4711 443", Some("[2001:db8::1]:4711")),
            (
                "TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            ("UNKNOWN", None),
            ("UNKNOWN whatever it may be", None),
            // The longest line there may be.
            (
                "UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                None,
            ),
        ] {
            check(format!("PROXY {line}\r\n").as_bytes(), source);
        }
    }

    #[test]
    fn version_2_names_the_caller_and_what_is_added_is_skipped() {
        let mut with_extras = tcp4_body();
        with_extras.extend([0x04, 0, 3, 1, 2, 3]);
        for (command, family, body, source) in [
            (0x21, 0x11, tcp4_body(), Some("192.0.2.1:56324")),
            (0x21, 0x11, with_extras, Some("192.0.2.1:56324")),
            (0x21, 0x21, tcp6_body(), Some("[::1]:80")),
            // LOCAL: a health check of the proxy itself.
            (0x20, 0x00, vec![], None),
            (0x20, 0x11, tcp4_body(), None),
            // No addresses, datagrams, Unix sockets: the socket's own address counts.
            (0x21, 0x00, vec![], None),
            (0x21, 0x12, tcp4_body(), None),
            (0x21, 0x31, vec![0; 216], None),
            (
                0x21,
                0x11,
                [tcp4_body(), vec![0; 4096 - 12]].concat(),
                Some("192.0.2.1:56324"),
            ),
        ] {
            check(&v2(command, family, &body), source);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_invalid() {
        for line in [
            "TCP4 192.0.2.1 198.51.100.1 56324",
            "TCP4 192.0.2.1 198.51.100.1 56324 443 1",
            "TCP4  192.0.2.1 198.51.100.1 56324 443",
            "TCP4 192.0.2.01 198.51.100.1 56324 443",
            "TCP4 192.0.2.1 198.51.100.1 056324 443",
            "TCP4 192.0.2.1 198.51.100.1 +56324 443",
            "TCP4 192.0.2.1 198.51.100.1 65536 443",
            "TCP4 ::1 198.51.100.1 1 443",
            "TCP6 192.0.2.1 198.51.100.1 1 443",
            "TCP6 [::1] ::1 1 443",
            "UDP4 192.0.2.1 198.51.100.1 1 443",
            "UNKNOWNS",
            "",
            "TCP4 192.0.2.1 198.51.100.1 1 443\rX",
        ] {
            assert_eq!(
                parse(format!("PROXY {line}\r\n").as_bytes()),
                Parsed::Invalid,
                "{line}"
            );
        }
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"proxy TCP4".to_vec(),
            format!("PROXY UNKNOWN {}", "x".repeat(92)).into_bytes(),
            v2(0x11, 0x11, &tcp4_body()),
            v2(0x22, 0x11, &tcp4_body()),
            v2(0x21, 0x41, &[0; 300]),
            v2(0x21, 0x13, &tcp4_body()),
            v2(0x21, 0x11, &tcp4_body()[..11]),
            v2(0x21, 0x21, &tcp4_body()),
            v2(0x20, 0x00, &[0; 4097]),
            v2(0x31, 0x00, &[])[..13].to_vec(),
        ] {
            assert_eq!(parse(&bytes), Parsed::Invalid, "{}", bytes.escape_ascii());
        }
    }

    fn headers() -> Vec<Vec<u8>> {
        vec![
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &tcp4_body()),
            v2(0x21, 0x21, &[tcp6_body(), vec![7; 400]].concat()),
            v2(0x20, 0x00, &[]),
        ]
    }

    #[test]
    fn every_beginning_of_a_header_asks_for_more_but_never_too_much() {
        for header in headers() {
            for end in 0..header.len() {
                match parse(&header[..end]) {
                    Parsed::Incomplete(total) => {
                        assert!(total > end && total <= header.len(), "{end}: {total}");
                    }
                    other => panic!("{other:?} after {end} of {}", header.escape_ascii()),
                }
            }
        }
    }

    /// Hands out a stream in pieces of the given sizes.
    struct Pieces {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let size = self.sizes.pop().unwrap_or(usize::MAX);
            let count = size.min(buffer.remaining()).min(self.bytes.len());
            let piece: Vec<u8> = self.bytes.drain(..count).collect();
            buffer.put_slice(&piece);
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_header_and_no_byte_of_the_caller_is_lost(
            which in 0..5_usize,
            sizes in prop::collection::vec(1..60_usize, 0..40),
            payload in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let header = headers()[which].clone();
            let expected = parse(&header);
            let mut stream = Pieces { bytes: [header, payload.clone()].concat(), sizes };
            let (read, mut rest) = run(async { read(&mut stream, soon()).await.unwrap() });
            prop_assert_eq!(Parsed::Done(read), expected);
            prop_assert!(rest.len() <= V1_BYTES_MAX);
            rest.extend(stream.bytes);
            prop_assert_eq!(rest, payload);
        }

        #[test]
        fn garbage_never_panics_and_an_answer_is_final(
            start in prop_oneof![Just(b"PROXY ".to_vec()), Just(V2_SIGNATURE.to_vec()), Just(vec![])],
            garbage in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let bytes = [start, garbage].concat();
            let whole = parse(&bytes);
            match whole {
                Parsed::Incomplete(total) => {
                    prop_assert!(total > bytes.len() && total <= V2_BYTES_MAX);
                }
                Parsed::Done(header) => {
                    prop_assert!(header.consumed <= bytes.len());
                    prop_assert_eq!(parse(&bytes[..header.consumed]), whole);
                }
                Parsed::Invalid => {}
            }
        }

        #[test]
        fn any_pair_of_addresses_survives_both_versions(source: SocketAddr, port: u16) {
            // The text forms have no room for scope and flow.
            let source = SocketAddr::new(source.ip(), source.port());
            let destination = SocketAddr::new(source.ip(), port);
            let (name, family) = if source.is_ipv4() { ("TCP4", 0x11) } else { ("TCP6", 0x21) };
            let octets = match source.ip() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let body = [octets.clone(), octets, source.port().to_be_bytes().to_vec(), port.to_be_bytes().to_vec()];
            let line = format!("PROXY {name} {} {} {} {port}\r\n", source.ip(), source.ip(), source.port());
            for bytes in [line.into_bytes(), v2(0x21, family, &body.concat())] {
                let expected = Header { source: Some(source), destination: Some(destination), consumed: bytes.len() };
                prop_assert_eq!(parse(&bytes), Parsed::Done(expected));
            }
        }
    }

    #[test]
    fn a_peer_that_leaves_stalls_or_lies_is_an_error_of_its_own() {
        let error = |bytes: &[u8]| {
            let mut stream = Pieces {
                bytes: bytes.to_vec(),
                sizes: vec![],
            };
            run(async { read(&mut stream, soon()).await.unwrap_err().kind() })
        };
        assert_eq!(error(b""), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(b"PROXY TCP4 "), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(b"GET / HTTP/1.1\r\n"), io::ErrorKind::InvalidData);
        let stalled = run(async {
            let (mut ours, _theirs) = tokio::io::duplex(64);
            read(&mut ours, soon()).await.unwrap_err().kind()
        });
        assert_eq!(stalled, io::ErrorKind::TimedOut);
    }
}
