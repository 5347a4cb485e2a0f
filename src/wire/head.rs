//! Heads of HTTP/1.1 requests and answers: found, checked and read once, in one piece.

use super::body::Malformed;
use super::fields::{self, Spelling};
use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use smallvec::SmallVec;
use std::ops::{Deref, DerefMut};

/// Largest head read from an endpoint.
pub const ANSWER_HEAD_MAX: usize = 64 * 1024;

/// Most fields in any head.
const FIELDS_MAX: usize = 256;

/// Empty lines before a request line are forgiven (RFC 9112 section 2.2), this many bytes of them.
const EMPTY_LINES_MAX: usize = 8;

/// Fields that are added to a head on its way: so much room is made at once.
const FIELDS_ADDED: usize = 10;

/// What a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub bytes: usize,
    pub fields: usize,
}

/// Why a head is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    TooLarge,
    TooManyFields,
    /// `HTTP/1.0` and `HTTP/1.1` are spoken here.
    Version,
    Malformed(&'static str),
}

impl From<Malformed> for HeadFault {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Malformed(reason)
    }
}

/// A request head, of whichever protocol.
#[derive(Debug)]
pub struct RequestHead {
    pub parts: Parts,
    pub spelling: Spelling,
}

impl Deref for RequestHead {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl DerefMut for RequestHead {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }
}

/// The head of an answer, of whichever protocol.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    /// The phrase behind the status, where it is not the usual one.
    pub reason: Option<Bytes>,
    pub spelling: Spelling,
}

impl ResponseHead {
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            version: Version::HTTP_11,
            headers: HeaderMap::with_capacity(FIELDS_ADDED),
            reason: None,
            spelling: Spelling::default(),
        }
    }

    /// Whether another head follows (RFC 9110 section 15.2); 101 is the last one.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Looks for the end of a head, remembering how far it has looked: no byte is looked at twice.
#[derive(Debug, Default)]
pub struct HeadFinder {
    looked: usize,
}

impl HeadFinder {
    /// The head's length once it is there whole. A lone line feed ends a line for some readers and
    /// not for others, so it is refused wherever it stands.
    pub fn find(&mut self, buf: &[u8], max: usize) -> Result<Option<usize>, HeadFault> {
        for at in memchr::memchr_iter(b'\n', &buf[self.looked..]) {
            let at = self.looked + at;
            if at == 0 || buf[at - 1] != b'\r' {
                return Err(HeadFault::Malformed("a line ends in a lone line feed"));
            }
            if at >= 3 && &buf[at - 3..at] == b"\r\n\r" {
                if at >= max {
                    return Err(HeadFault::TooLarge);
                }
                return Ok(Some(at + 1));
            }
        }
        self.looked = buf.len();
        if buf.len() >= max {
            return Err(HeadFault::TooLarge);
        }
        Ok(None)
    }
}

/// Takes empty lines away that stand before a request, and refuses what cannot become one: a TLS
/// greeting, say. Looks at the first bytes only.
pub fn begin_request(buf: &mut BytesMut) -> Result<(), HeadFault> {
    let empty = buf
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    if empty > EMPTY_LINES_MAX {
        return Err(HeadFault::Malformed("nothing but empty lines"));
    }
    // A line end may have come in part; the rest will be looked at when it is there.
    let whole = empty - usize::from(empty > 0 && buf[empty - 1] == b'\r');
    let _ = buf.split_to(whole);
    match buf.first() {
        Some(first) if !is_token(*first) && *first != b'\r' => {
            Err(HeadFault::Malformed("this is not HTTP"))
        }
        _ => Ok(()),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads a whole request head, and checks whatever could be understood in two ways.
pub fn parse_request(head: Bytes, fields_max: usize) -> Result<RequestHead, HeadFault> {
    let mut found = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut found);
    match request.parse(&head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadFault::Malformed("an unfinished head")),
        Err(error) => return Err(fault_of(error)),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HeadFault::Malformed("an unfinished request line"));
    };
    if request.headers.len() > fields_max {
        return Err(HeadFault::TooManyFields);
    }
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| HeadFault::Malformed("the method is no token"))?;
    let uri = parse_target(&method, head.slice_ref(target.as_bytes()))?;
    let mut parts = http::Request::new(()).into_parts().0;
    let (headers, names) = read_fields(&head, request.headers)?;
    parts.method = method;
    parts.uri = uri;
    parts.version = version_of(version);
    parts.headers = headers;
    check_host(&parts)?;
    Ok(RequestHead {
        parts,
        spelling: Spelling::new(head, names),
    })
}

fn fault_of(error: httparse::Error) -> HeadFault {
    match error {
        httparse::Error::TooManyHeaders => HeadFault::TooManyFields,
        httparse::Error::Version => HeadFault::Version,
        httparse::Error::HeaderName => HeadFault::Malformed("a header name is no token"),
        httparse::Error::HeaderValue => HeadFault::Malformed("a header value is malformed"),
        httparse::Error::Status => HeadFault::Malformed("the status is malformed"),
        httparse::Error::Token | httparse::Error::NewLine => {
            HeadFault::Malformed("the first line is malformed")
        }
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

/// RFC 9112 section 3.2: a path, `*` for `OPTIONS`, or a whole `http` URI.
fn parse_target(method: &Method, target: Bytes) -> Result<Uri, HeadFault> {
    const FAULT: HeadFault = HeadFault::Malformed("the request target is no URI");
    if *method == Method::CONNECT {
        // Refused later, by its method.
        return Ok(Uri::default());
    }
    let is_asterisk = &target[..] == b"*" && *method == Method::OPTIONS;
    let is_path = target.first() == Some(&b'/');
    let uri = Uri::from_maybe_shared(target).map_err(|_| FAULT)?;
    let is_whole = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
    if is_whole {
        return with_path(uri).ok_or(FAULT);
    }
    if is_asterisk || is_path {
        return Ok(uri);
    }
    Err(FAULT)
}

/// `http://host?query` has the path `/` (RFC 9110 section 4.2.3), and says so from here on.
fn with_path(uri: Uri) -> Option<Uri> {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if path.starts_with('/') {
        return Some(uri);
    }
    let path = format!("/{path}").parse().ok()?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

type Fields = (HeaderMap, SmallVec<[(u16, u16); 24]>);

fn read_fields(head: &Bytes, found: &[httparse::Header<'_>]) -> Result<Fields, HeadFault> {
    let mut headers = HeaderMap::with_capacity(found.len() + FIELDS_ADDED);
    let mut names = SmallVec::with_capacity(found.len());
    let base = head.as_ptr().addr();
    for field in found {
        let start = field.name.as_ptr().addr() - base;
        let place = (start, start + field.name.len());
        if let (Ok(start), Ok(end)) = (u16::try_from(place.0), u16::try_from(place.1)) {
            names.push((start, end));
        }
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| HeadFault::Malformed("a header name is no token"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| HeadFault::Malformed("a header value is malformed"))?;
        headers.append(name, value);
    }
    Ok((headers, names))
}

/// RFC 9112 section 3.2: exactly one `Host` in HTTP/1.1, at most one before, and the same as in the target.
fn check_host(parts: &Parts) -> Result<(), HeadFault> {
    let mut hosts = parts.headers.get_all(header::HOST).into_iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadFault::Malformed("more than one Host"));
    }
    if host.is_none() && parts.version == Version::HTTP_11 {
        return Err(HeadFault::Malformed("no Host"));
    }
    check_authority(parts)
}

/// The authority in the target and the one in `Host` must not contradict each other, or one decides on
/// the route and the other arrives at the endpoint (RFC 9113 section 8.3.1 says the same of HTTP/2).
pub fn check_authority(parts: &Parts) -> Result<(), HeadFault> {
    let Some(authority) = parts.uri.authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        return Err(HeadFault::Malformed("credentials in the request target"));
    }
    match parts.headers.get(header::HOST) {
        Some(host)
            if !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Err(HeadFault::Malformed(
                "Host is another one than in the request target",
            ))
        }
        _ => Ok(()),
    }
}

/// Reads a whole head of an answer.
pub fn parse_response(head: Bytes) -> Result<ResponseHead, HeadFault> {
    let mut found = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut found);
    let mut config = httparse::ParserConfig::default();
    // Old endpoints fold lines; they are unfolded below, before anybody else sees them.
    config.allow_obsolete_multiline_headers_in_responses(true);
    match config.parse_response(&mut response, &head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadFault::Malformed("an unfinished head")),
        Err(error) => return Err(fault_of(error)),
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadFault::Malformed("the status is malformed"))?;
    let reason = response
        .reason
        .filter(|reason| !reason.is_empty() && Some(*reason) != status.canonical_reason())
        .map(|reason| head.slice_ref(reason.as_bytes()));
    let version = version_of(response.version.unwrap_or(1));
    let folded = response
        .headers
        .iter()
        .any(|field| field.value.contains(&b'\n'));
    let (headers, names) = if folded {
        (unfold(response.headers)?, SmallVec::new())
    } else {
        read_fields(&head, response.headers)?
    };
    Ok(ResponseHead {
        status,
        version,
        headers,
        reason,
        spelling: Spelling::new(head, names),
    })
}

/// RFC 9112 section 5.2: each fold becomes spaces.
fn unfold(found: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadFault> {
    let mut headers = HeaderMap::with_capacity(found.len() + FIELDS_ADDED);
    for field in found {
        let value: Vec<u8> = field
            .value
            .iter()
            .map(|byte| {
                if matches!(byte, b'\r' | b'\n') {
                    b' '
                } else {
                    *byte
                }
            })
            .collect();
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| HeadFault::Malformed("a header name is no token"))?;
        let value = HeaderValue::from_bytes(&value)
            .map_err(|_| HeadFault::Malformed("a header value is malformed"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Writes a request head, up to its last field: whoever calls adds the framing and the empty line.
pub fn put_request(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    fields: (&HeaderMap, &Spelling),
    skip: impl Fn(&HeaderName) -> bool,
) {
    out.reserve(256 + target.len());
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    fields::put(out, fields.0, fields.1, skip);
}

/// Writes the head of an answer, up to its last field.
pub fn put_response(out: &mut BytesMut, head: &ResponseHead, skip: impl Fn(&HeaderName) -> bool) {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    match &head.reason {
        Some(reason) => out.put_slice(reason),
        None => out.put_slice(head.status.canonical_reason().unwrap_or("").as_bytes()),
    }
    out.put_slice(b"\r\n");
    fields::put(out, &head.headers, &head.spelling, skip);
}

#[cfg(test)]
mod tests;
