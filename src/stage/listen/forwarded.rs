//! Who is really calling: what proxies before us say, believed only as far as they are trusted.

use crate::base::client::{Client, Peer};
use bytes::Bytes;
use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// A chain longer than this is read no further: no real one is.
const HOPS_MAX: usize = 32;

/// Networks of proxies whose word is believed.
///
/// IPv4 addresses in IPv6 clothing (`::ffff:10.0.0.1`, as dual-stack sockets show them) count as
/// IPv4, here and in the addresses asked about. `::/0` therefore means every IPv6 address, and no
/// IPv4 one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    v4: Ranges,
    v6: Ranges,
}

impl TrustedProxies {
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            let (first, last) = (network.network(), network.broadcast());
            match (first.to_canonical(), last.to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.to_bits().into(), last.to_bits().into()));
                }
                _ => v6.push((number(first), number(last))),
            }
        }
        Self {
            v4: Ranges::new(v4),
            v6: Ranges::new(v6),
        }
    }

    /// Whether its word is believed. A process behind a Unix socket was let in by the permissions of its file.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Inet(peer) => self.contains(peer.ip()),
            Peer::Unix => true,
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.contains(v4.to_bits().into()),
            IpAddr::V6(v6) => self.v6.contains(v6.to_bits()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Ranges of numbers, ends included, sorted and apart: a binary search finds the only candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut apart: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    fn contains(&self, number: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.0[after - 1].1
    }
}

/// The facts about a caller, from the socket's peer and what it says if it is trusted.
///
/// The chain (`X-Forwarded-For`, or `Forwarded` where that is absent) is walked from its right end,
/// where our own peer wrote, to the first address that is not a trusted proxy: what lies further
/// left is anybody's invention. A hop that is no address (`unknown`, an obfuscated name, garbage)
/// ends the walk at the proxy that reported it.
///
/// `tls` says whether the socket itself is encrypted; `X-Forwarded-Proto` (or `proto=`) of a
/// trusted peer overrides it. A trusted proxy must itself overwrite or append to the header that is
/// read here.
pub fn client(
    peer: impl Into<Peer>,
    headers: &HeaderMap,
    trusted: &TrustedProxies,
    tls: bool,
) -> Client {
    let peer = peer.into();
    let mut client = Client {
        address: peer.ip().to_canonical(),
        peer,
        trusted: trusted.trusts(peer),
        tls,
        certificate: None,
    };
    if !client.trusted {
        return client;
    }
    let mut depth = 0;
    if headers.contains_key(X_FORWARDED_FOR) {
        for hop in elements(headers, &X_FORWARDED_FOR).take(HOPS_MAX) {
            if !step(&mut client.address, hop, trusted, &mut depth) {
                break;
            }
        }
    } else {
        for element in elements(headers, &FORWARDED).take(HOPS_MAX) {
            let hop = parameter(element, "for").unwrap_or_default();
            let known = depth;
            let goes_on = step(&mut client.address, hop, trusted, &mut depth);
            // The protocol is said beside the caller that it is about.
            if depth > known {
                client.tls = parameter(element, "proto")
                    .and_then(encrypted)
                    .unwrap_or(client.tls);
            }
            if !goes_on {
                break;
            }
        }
    }
    // One word is about the caller. A list runs parallel to the chain, so the walk tells how far to go.
    let proto = elements(headers, &X_FORWARDED_PROTO)
        .take(depth.max(1))
        .last();
    client.tls = proto.and_then(encrypted).unwrap_or(client.tls);
    client
}

/// Takes over one hop; whether the one before it is to be believed as well.
fn step(address: &mut IpAddr, hop: &str, trusted: &TrustedProxies, depth: &mut usize) -> bool {
    let Some(said) = node_address(hop) else {
        return false;
    };
    *address = said;
    *depth += 1;
    trusted.contains(said)
}

fn encrypted(proto: &str) -> Option<bool> {
    match proto {
        _ if proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss") => Some(true),
        _ if proto.eq_ignore_ascii_case("http") || proto.eq_ignore_ascii_case("ws") => Some(false),
        _ => None,
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node_address(node: &str) -> Option<IpAddr> {
    let address = if let Some(rest) = node.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        let port_is_sound = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        let v6: Ipv6Addr = inside.parse().ok()?;
        port_is_sound.then_some(IpAddr::V6(v6))?
    } else if let Ok(plain) = node.parse() {
        plain
    } else {
        let (v4, port) = node.split_once(':')?;
        is_port(port)
            .then(|| v4.parse().ok().map(IpAddr::V4))
            .flatten()?
    };
    Some(address.to_canonical())
}

/// RFC 7239, 6.3 also allows a port to be hidden: `_` and a name.
fn is_port(text: &str) -> bool {
    let hidden = text.strip_prefix('_').is_some_and(|name| !name.is_empty());
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    hidden || digits
}

/// The elements of a list header over all its lines, from the right. One that is empty, or not ASCII text,
/// is nothing to believe, and the end of a walk. What stands to its right is not touched by it, or a caller
/// could hide behind the proxy that appended its address.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().rev();
    lines.flat_map(|line| split(line.as_bytes(), b','))
}

fn split(bytes: &[u8], separator: u8) -> FromTheRight<'_> {
    FromTheRight {
        rest: Some(bytes),
        separator,
    }
}

/// Splits where a separator is not inside quotes, starting at the right: what the last proxy
/// appended is understood whatever stands before it, such as a quote that is never closed.
struct FromTheRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromTheRight<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let mut quoted = false;
        let end = rest.iter().enumerate().rev().find(|(at, byte)| {
            if **byte == b'"' && !escaped(&rest[..*at]) {
                quoted = !quoted;
            }
            **byte == self.separator && !quoted
        });
        let (before, element) = match end {
            Some((at, _)) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.rest = before;
        let text = str::from_utf8(element).ok().filter(|text| text.is_ascii());
        Some(text.unwrap_or_default().trim_ascii())
    }
}

/// Whether what follows `before` is escaped: an odd number of backslashes precedes it.
fn escaped(before: &[u8]) -> bool {
    before
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count()
        % 2
        == 1
}

/// One parameter of an element of `Forwarded`, without its quotes.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    split(element.as_bytes(), b';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim_ascii();
        let plain = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        key.trim_ascii()
            .eq_ignore_ascii_case(name)
            .then(|| plain.unwrap_or(value))
    })
}

/// What only a trusted peer may say, beside what is rebuilt anyway.
const CLAIMS: &[&str] = &[
    "forwarded",
    "traceparent",
    "tracestate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-request-id",
];

/// The headers that must not be passed on as they came from an untrusted peer: usually none, and
/// then nothing is allocated.
///
/// `x_forwarded_for` counts like `x-forwarded-for`: backends that turn names into variables (CGI,
/// WSGI) cannot tell them apart.
pub fn claims(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .keys()
        .filter(|name| is_claim(name.as_str()))
        .cloned()
        .collect()
}

fn is_claim(name: &str) -> bool {
    let same = |claim: &&str| {
        let as_dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
        claim.len() == name.len() && claim.bytes().eq(name.bytes().map(as_dash))
    };
    // Most headers begin otherwise.
    matches!(name.as_bytes().first(), Some(b'f' | b't' | b'x')) && CLAIMS.iter().any(same)
}

/// What is said to the endpoint about the caller. Each replaces what came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedHeaders {
    /// `X-Forwarded-For`: what a trusted peer sent, and the peer; from an untrusted one the peer alone.
    pub forwarded_for: HeaderValue,
    /// `X-Forwarded-Proto`: `http` or `https`.
    pub proto: HeaderValue,
    /// `X-Forwarded-Host`: what a trusted peer said, otherwise the `Host` asked for.
    pub host: Option<HeaderValue>,
    /// `X-Real-IP`: the caller's address alone.
    pub real_ip: HeaderValue,
    /// `Forwarded` (RFC 7239).
    pub forwarded: HeaderValue,
}

impl ForwardedHeaders {
    /// `host` is the authority asked for: of HTTP/2 the `:authority`, which is not among the headers.
    /// Absent: the `Host` header. All that is written shares one buffer.
    pub fn new(client: &Client, headers: &HeaderMap, host: Option<HeaderValue>) -> Self {
        let said_host = || {
            headers
                .get_all(X_FORWARDED_HOST)
                .into_iter()
                .next_back()
                .cloned()
        };
        let asked_host = || host.or_else(|| headers.get(HOST).cloned());
        let host = client.trusted.then(said_host).flatten().or_else(asked_host);
        let mut out = Vec::with_capacity(192);
        let (forwarded, real_ip) = write_forwarded(&mut out, client, headers, host.as_ref());
        let forwarded_for = write_forwarded_for(&mut out, client, headers);
        let written = Bytes::from(out);
        Self {
            forwarded_for: value(&written, forwarded_for.unwrap_or_else(|| real_ip.clone())),
            proto: HeaderValue::from_static(if client.tls { "https" } else { "http" }),
            host,
            real_ip: value(&written, real_ip),
            forwarded: value(&written, forwarded),
        }
    }

    /// Each header with its value, to be set.
    pub fn into_pairs(self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let always = [
            (X_FORWARDED_FOR, self.forwarded_for),
            (X_FORWARDED_PROTO, self.proto),
            (X_REAL_IP, self.real_ip),
            (FORWARDED, self.forwarded),
        ];
        always
            .into_iter()
            .chain(self.host.map(|host| (X_FORWARDED_HOST, host)))
    }
}

/// Where in the buffer a value stands.
type Span = Range<usize>;

fn value(written: &Bytes, span: Span) -> HeaderValue {
    HeaderValue::from_maybe_shared(written.slice(span))
        .expect("made of addresses and of parts of header values")
}

/// Writes `Forwarded`, and in or after it the caller's address alone.
fn write_forwarded(
    out: &mut Vec<u8>,
    client: &Client,
    headers: &HeaderMap,
    host: Option<&HeaderValue>,
) -> (Span, Span) {
    let peer = client.peer.ip().to_canonical();
    let start = out.len();
    // Only the chain that was believed goes on; the other one is made from what is believed.
    if client.trusted && headers.contains_key(FORWARDED) && !headers.contains_key(X_FORWARDED_FOR) {
        join(out, headers, &FORWARDED);
        write_node(out, peer);
        let end = out.len();
        return (start..end, write_address(out, client.address));
    }
    let address = write_node(out, client.address);
    if let Some(host) = host {
        write_host(out, host.as_bytes());
    }
    out.extend_from_slice(if client.tls {
        b";proto=https"
    } else {
        b";proto=http"
    });
    if client.address != peer {
        out.extend_from_slice(b", ");
        write_node(out, peer);
    }
    (start..out.len(), address)
}

/// Writes `X-Forwarded-For`, unless it is the caller's address alone.
fn write_forwarded_for(out: &mut Vec<u8>, client: &Client, headers: &HeaderMap) -> Option<Span> {
    let peer = client.peer.ip().to_canonical();
    let start = out.len();
    if client.trusted && headers.contains_key(X_FORWARDED_FOR) {
        join(out, headers, &X_FORWARDED_FOR);
    } else if client.address == peer {
        return None;
    } else {
        write_address(out, client.address);
        out.extend_from_slice(b", ");
    }
    write_address(out, peer);
    Some(start..out.len())
}

/// All lines of a header as one, with a comma after each. An empty one stays where it hides what stands
/// before it, so that who reads the line comes to the same end.
fn join(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) {
    let start = out.len();
    for line in headers.get_all(name) {
        if !line.is_empty() || out.len() > start {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b", ");
        }
    }
}

/// `for=192.0.2.1` or `for="[2001:db8::1]"`; where the address itself stands.
fn write_node(out: &mut Vec<u8>, address: IpAddr) -> Span {
    let (before, after): (&[u8], &[u8]) = match address {
        IpAddr::V4(_) => (b"for=", b""),
        IpAddr::V6(_) => (b"for=\"[", b"]\""),
    };
    out.extend_from_slice(before);
    let span = write_address(out, address);
    out.extend_from_slice(after);
    span
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) -> Span {
    let start = out.len();
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets() {
                write_octet(out, octet);
                out.push(b'.');
            }
            out.pop();
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect("memory takes all"),
    }
    start..out.len()
}

/// By hand: every request writes its caller, and the formatter was a third of the cost of all these
/// headers.
fn write_octet(out: &mut Vec<u8>, octet: u8) {
    if octet >= 100 {
        out.push(b'0' + octet / 100);
    }
    if octet >= 10 {
        out.push(b'0' + octet / 10 % 10);
    }
    out.push(b'0' + octet % 10);
}

/// `;host=example.com` or `;host="example.com:8080"`; nothing if even quotes could not hold it.
fn write_host(out: &mut Vec<u8>, host: &[u8]) {
    let needs = host.iter().map(|byte| HOST_BYTES[usize::from(*byte)]).max();
    let quote: &[u8] = match needs {
        Some(TOKEN) => b"",
        Some(QUOTED) => b"\"",
        _ => return,
    };
    out.extend_from_slice(b";host=");
    out.extend_from_slice(quote);
    out.extend_from_slice(host);
    out.extend_from_slice(quote);
}

const TOKEN: u8 = 0;
const QUOTED: u8 = 1;
const UNFIT: u8 = 2;

/// What each byte of a host needs in order to be a value: nothing (RFC 9110, 5.6.2), quotes, or
/// more than that.
const HOST_BYTES: [u8; 256] = {
    let mut needs = [UNFIT; 256];
    let mut byte = 0_u8;
    while byte < 0x7f {
        needs[byte as usize] = match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => TOKEN,
            b'"' | b'\\' => UNFIT,
            b'!'..=b'~' => QUOTED,
            _ => UNFIT,
        };
        byte += 1;
    }
    needs
};

#[cfg(test)]
mod tests;
