//! The host that a request asks for, and the hosts that a route names.

use crate::base::reject::Reject;
use crate::base::reject::RejectKind;
use http::Version;
use http::header::HOST;
use http::request::Parts;
use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest name in DNS (RFC 1035 section 2.3.4), without the final dot.
const LENGTH_MAX: usize = 253;

/// The host a request asks for: lower case, no port, no final dot; IPv6 in brackets and in
/// its shortest form. Empty if the request names none (HTTP/1.0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'r>(Cow<'r, str>);

impl<'r> Host<'r> {
    /// From the authority of the target if there is one, else from the `Host` header.
    ///
    /// Refused: several `Host` headers, none with HTTP/1.1 (RFC 9112 section 3.2), one that
    /// is no host, and one that names another host than the target: whoever reads the other
    /// of the two would see another site than the one that was matched.
    pub fn of(parts: &'r Parts) -> Result<Self, Reject> {
        let header = Self::in_header(parts)?;
        let Some(authority) = parts.uri.authority() else {
            return match header {
                Some(host) => Ok(host),
                None if parts.version == Version::HTTP_11 => {
                    Err(RejectKind::BadRequest.because("no host header"))
                }
                None => Ok(Self(Cow::Borrowed(""))),
            };
        };
        let target = Self::parse(authority.as_str()).ok_or_else(|| bad(authority))?;
        match header {
            Some(host) if host != target => Err(RejectKind::BadRequest.because(format_args!(
                "the host header says {host}, the target {target}"
            ))),
            _ => Ok(target),
        }
    }

    /// `example.com`, `Example.com:8080`, `[::1]:8080`; `None` if that is no host.
    /// Borrows unless the name has capitals or is an IPv6 address.
    pub fn parse(text: &'r str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Cow::Borrowed("")));
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let (address, port) = bracketed.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return port_fits.then(|| Self(Cow::Owned(format!("[{address}]"))));
        }
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_port(port) || !is_name(name) {
            return None;
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Some(Self(Cow::Owned(name.to_ascii_lowercase())));
        }
        Some(Self(Cow::Borrowed(name)))
    }

    fn in_header(parts: &'r Parts) -> Result<Option<Self>, Reject> {
        let mut values = parts.headers.get_all(HOST).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(RejectKind::BadRequest.because("more than one host header"));
        }
        let host = value.to_str().ok().and_then(Self::parse);
        host.map(Some).ok_or_else(|| bad(format_args!("{value:?}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the request names no host at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn bad(what: impl fmt::Display) -> Reject {
    RejectKind::BadRequest.because(format_args!("{what} is no host"))
}

fn is_port(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let mut last = b'.';
    for byte in name.bytes() {
        if !fits(byte) || (byte == b'.' && last == b'.') {
            return false;
        }
        last = byte;
    }
    last != b'.' && name.len() <= LENGTH_MAX
}

/// The hosts that one entry of `host` names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// `*.example.com` as `example.com`: every name below it, however deep, but not itself.
    Below(Box<str>),
    Any,
}

impl HostPattern {
    /// The second text of the error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        if text == "*" {
            return Err((
                "`*` is not a host name".to_owned(),
                "leave `host` out to take any host".to_owned(),
            ));
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let host = Host::parse(name).filter(|host| !host.is_empty());
        let has_port = name.rsplit(']').next().is_some_and(|end| end.contains(':'));
        match host {
            Some(_) if has_port => Err((
                format!("`{text}` has a port in it"),
                "leave the port out; name a `listener` to tell ports apart".to_owned(),
            )),
            Some(host) if below && host.as_str().starts_with('[') => Err((
                format!("`{text}` asks for names below an address"),
                "write the address without `*.`".to_owned(),
            )),
            Some(host) if below => Ok(Self::Below(host.as_str().into())),
            Some(host) => Ok(Self::Exact(host.as_str().into())),
            None => Err((
                format!("`{text}` is not a host name"),
                "write `example.com` or `*.example.com` (other scripts as `xn--...`)".to_owned(),
            )),
        }
    }

    pub fn takes(&self, host: &Host<'_>) -> bool {
        match self {
            Self::Exact(name) => **name == *host.as_str(),
            Self::Below(name) => host
                .as_str()
                .strip_suffix(&**name)
                .is_some_and(|front| front.ends_with('.')),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Any => f.write_str("any host"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, host) in [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com:8443", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:80", Some("example.com")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]", Some("[::1]")),
            ("[0:0::0001]:80", Some("[::1]")),
            ("", Some("")),
            ("a_b.internal", Some("a_b.internal")),
            ("::1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("a:b", None),
            ("a:99999", None),
            ("a..b", None),
            (".a", None),
            (".", None),
            (":80", None),
            ("user@a", None),
            ("a/b", None),
            ("a b", None),
            ("caf\u{e9}.fr", None),
        ] {
            let parsed = Host::parse(text);
            assert_eq!(parsed.as_ref().map(Host::as_str), host, "{text}");
        }
        assert_eq!(Host::parse(&"a".repeat(254)), None);
    }

    fn host_of(target: &str, version: Version, hosts: &[&str]) -> Option<String> {
        let mut request = Request::builder().uri(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Host::of(&parts).ok().map(|host| host.to_string())
    }

    #[test]
    fn the_host_is_taken_from_one_place_only() {
        let v1 = Version::HTTP_11;
        for (target, version, hosts, expected) in [
            ("/", v1, &["a.com"][..], Some("a.com")),
            ("http://a.com/", v1, &[], Some("a.com")),
            ("http://a.com:80/", v1, &["A.com"], Some("a.com")),
            ("https://a.com/", Version::HTTP_2, &[], Some("a.com")),
            ("http://a.com/", v1, &["b.com"], None),
            ("http://u@a.com/", v1, &[], None),
            ("/", v1, &["a.com", "a.com"], None),
            ("/", v1, &[], None),
            ("/", v1, &[""], Some("")),
            ("/", Version::HTTP_10, &[], Some("")),
            ("/", v1, &["a.com/x"], None),
        ] {
            let found = host_of(target, version, hosts);
            assert_eq!(found.as_deref(), expected, "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_route_names_hosts_that_can_be_asked_for() {
        for (text, takes, refuses) in [
            ("Example.com.", "example.com", "www.example.com"),
            ("*.example.com", "a.b.example.com", "example.com"),
            ("*.example.com", "www.example.com", "wwwexample.com"),
            ("[0:0::1]", "[::1]", "[::2]"),
        ] {
            let pattern = HostPattern::parse(text).expect(text);
            assert!(
                pattern.takes(&Host::parse(takes).unwrap()),
                "{text} {takes}"
            );
            assert!(
                !pattern.takes(&Host::parse(refuses).unwrap()),
                "{text} {refuses}"
            );
        }
        for text in [
            "*",
            "",
            "*.",
            "a.com:80",
            "[::1]:80",
            "*.[::1]",
            "a.*.com",
            "caf\u{e9}.fr",
            "http://a.com",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Host::parse(&text);
            let _ = HostPattern::parse(&text);
        }
    }
}
