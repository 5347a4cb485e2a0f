//! The credential of a request, from wherever the SDKs of this world put it; and the request without it.
//!
//! Invariant: what is read here is taken out here. Where a chain looks for credentials, nothing that
//! stands in such a place is passed on, whether it was used or not.

use super::chain::Reason;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::borrow::Cow;

/// The longest credential taken: twice the largest token in the wild, and less than a request head.
pub const CREDENTIAL_BYTES_MAX: usize = 8 << 10;

/// Before a key among the sub-protocols of a `WebSocket`, which is the only thing a browser lets a page choose.
const SUB_PROTOCOL: &str = "openai-insecure-api-key.";

/// The parameter of the query, as Google's SDKs name it.
const PARAMETER: &str = "key";

/// Headers that hold an API key and nothing else.
static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Where a chain looks for credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// `Authorization: Bearer` and the sub-protocols of a `WebSocket`.
    pub bearer: bool,
    /// Headers for API keys.
    pub headers: bool,
    /// `?key=`.
    pub query: bool,
}

impl Places {
    /// All that either looks at.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bearer: self.bearer || other.bearer,
            headers: self.headers || other.headers,
            query: self.query || other.query,
        }
    }
}

/// What a caller shows to be known by. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential<'a>(Cow<'a, str>);

impl<'a> Credential<'a> {
    /// Visible ASCII, not empty, at most [`CREDENTIAL_BYTES_MAX`].
    pub fn new(text: impl Into<Cow<'a, str>>) -> Result<Self, Reason> {
        let text = text.into();
        if text.len() > CREDENTIAL_BYTES_MAX {
            return Err(Reason::TooLarge);
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reason::Malformed);
        }
        Ok(Self(text))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Three parts, of which the first is an object in base64url (RFC 7519 3): a token, and no API key.
    pub fn is_token(&self) -> bool {
        self.0.starts_with("ey") && self.0.bytes().filter(|byte| *byte == b'.').count() == 2
    }
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The credential of a request; none where there is none. Two that differ are an error: endpoints and we
/// might go by different ones.
pub fn read(parts: &Parts, places: Places) -> Result<Option<Credential<'_>>, Reason> {
    let mut found = Found::default();
    if places.bearer {
        for value in parts.headers.get_all(header::AUTHORIZATION) {
            found.add(bearer(value)?)?;
        }
        for protocol in protocols(&parts.headers) {
            if let Some(key) = protocol.strip_prefix(SUB_PROTOCOL) {
                found.add(Credential::new(key)?)?;
            }
        }
    }
    if places.headers {
        for name in &KEY_HEADERS {
            for value in parts.headers.get_all(name) {
                found.add(Credential::new(text(value)?)?)?;
            }
        }
    }
    if places.query {
        let query = parts.uri.query().unwrap_or_default();
        for value in query.split('&').filter_map(key_in) {
            found.add(Credential::new(decoded(value))?)?;
        }
    }
    Ok(found.0)
}

#[derive(Default)]
struct Found<'a>(Option<Credential<'a>>);

impl<'a> Found<'a> {
    fn add(&mut self, credential: Credential<'a>) -> Result<(), Reason> {
        match &self.0 {
            Some(known) if *known != credential => Err(Reason::Several),
            _ => {
                self.0 = Some(credential);
                Ok(())
            }
        }
    }
}

fn text(value: &HeaderValue) -> Result<&str, Reason> {
    let text = value.to_str().map_err(|_| Reason::Malformed)?;
    Ok(text.trim_matches([' ', '\t']))
}

/// RFC 6750 2.1. Any other scheme is no credential that a chain could judge, so it is refused and not overlooked.
fn bearer(value: &HeaderValue) -> Result<Credential<'_>, Reason> {
    let text = text(value)?;
    let (scheme, token) = text.split_once(' ').ok_or(Reason::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Reason::Malformed);
    }
    Credential::new(token.trim_start_matches(' '))
}

/// The sub-protocols that a `WebSocket` is asked for (RFC 6455 11.3.4).
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    let parts = texts.flat_map(|text| text.split(','));
    parts
        .map(|part| part.trim_matches([' ', '\t']))
        .filter(|part| !part.is_empty())
}

/// The value of a parameter named `key`, however its name is escaped.
fn key_in(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (decoded(name) == PARAMETER).then_some(value)
}

/// Without its `%XX`. Bytes that make no text together are left as they are: they are no credential.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after
            .first_chunk::<2>()
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, taken) = escaped.map_or((first, 1), |byte| (byte, 3));
        bytes.push(byte);
        rest = &rest[taken..];
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Path and query without the credential; none when there was none.
pub fn target(path_and_query: &str, places: Places) -> Option<String> {
    let (path, query) = path_and_query.split_once('?')?;
    if !places.query || !query.split('&').any(|one| key_in(one).is_some()) {
        return None;
    }
    let kept = query.split('&').filter(|one| key_in(one).is_none());
    let kept: Vec<_> = kept.collect();
    Some(if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    })
}

/// What to do to a head so that no credential leaves with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// The changes that take the credential out of these headers.
pub fn strip(headers: &HeaderMap, places: Places) -> Stripped {
    let mut stripped = Stripped::default();
    if places.headers {
        let present = KEY_HEADERS
            .iter()
            .filter(|name| headers.contains_key(*name));
        stripped.remove.extend(present.cloned());
    }
    if !places.bearer {
        return stripped;
    }
    if headers.contains_key(header::AUTHORIZATION) {
        stripped.remove.push(header::AUTHORIZATION);
    }
    let is_key = |protocol: &&str| protocol.starts_with(SUB_PROTOCOL);
    // A line that we cannot read might be read by the endpoint.
    let mut lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let unreadable = lines.any(|line| line.to_str().is_err());
    if unreadable || protocols(headers).any(|protocol| is_key(&protocol)) {
        let kept: Vec<_> = protocols(headers).filter(|one| !is_key(one)).collect();
        stripped.remove.push(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(value) = HeaderValue::from_str(&kept.join(", "))
            && !kept.is_empty()
        {
            stripped.set.push((header::SEC_WEBSOCKET_PROTOCOL, value));
        }
    }
    stripped
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    const ALL: Places = Places {
        bearer: true,
        headers: true,
        query: true,
    };

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn said(parts: &Parts, places: Places) -> Result<Option<String>, Reason> {
        read(parts, places).map(|found| found.map(|found| found.text().to_owned()))
    }

    #[test]
    fn a_credential_is_taken_from_wherever_an_sdk_puts_it() {
        let key = Ok(Some("k-1".to_owned()));
        for (target, headers, expected) in [
            (
                "/",
                [("authorization", "Bearer k-1")].as_slice(),
                key.clone(),
            ),
            ("/", &[("authorization", "bearer   k-1")], key.clone()),
            ("/", &[("x-api-key", "k-1")], key.clone()),
            ("/", &[("api-key", " k-1 ")], key.clone()),
            ("/", &[("x-goog-api-key", "k-1")], key.clone()),
            ("/?key=k-1", &[], key.clone()),
            ("/?a=b&k%65y=k%2D1&c", &[], key.clone()),
            (
                "/",
                &[(
                    "sec-websocket-protocol",
                    "realtime, openai-insecure-api-key.k-1, v1",
                )],
                key.clone(),
            ),
            // The same in two places is one.
            ("/?key=k-1", &[("x-goog-api-key", "k-1")], key.clone()),
            (
                "/?keys=1&monkey=2",
                &[("x-key", "a"), ("cookie", "key=b")],
                Ok(None),
            ),
            ("/", &[("sec-websocket-protocol", "realtime")], Ok(None)),
        ] {
            assert_eq!(
                said(&parts(target, headers), ALL),
                expected,
                "{target} {headers:?}"
            );
        }
    }

    #[test]
    fn what_is_no_credential_is_refused_and_not_overlooked() {
        let (malformed, several) = (Reason::Malformed, Reason::Several);
        for (target, headers, expected) in [
            (
                "/",
                [("authorization", "Bearer a"), ("x-api-key", "b")].as_slice(),
                several,
            ),
            (
                "/",
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                several,
            ),
            ("/?key=a&key=b", &[], several),
            ("/?key=", &[], malformed),
            ("/?key", &[], malformed),
            ("/?key=%20", &[], malformed),
            ("/", &[("authorization", "Bearer")], malformed),
            ("/", &[("authorization", "Bearer ")], malformed),
            ("/", &[("authorization", "Bearer a b")], malformed),
            ("/", &[("authorization", "Basic YTpi")], malformed),
            ("/", &[("authorization", "k-1")], malformed),
            ("/", &[("x-api-key", "")], malformed),
            ("/", &[("x-api-key", "clé")], malformed),
        ] {
            let said = said(&parts(target, headers), ALL);
            assert_eq!(said, Err(expected), "{target} {headers:?}");
        }
    }

    #[test]
    fn a_place_that_is_not_looked_at_is_left_alone() {
        let headers = [("authorization", "Basic YTpi"), ("x-api-key", "a")];
        let parts = parts("/?key=b", &headers);
        let none = Places::default();
        assert_eq!(said(&parts, none), Ok(None));
        assert_eq!(strip(&parts.headers, none), Stripped::default());
        assert_eq!(target("/?key=b", none), None);
        let headers_only = Places {
            headers: true,
            ..none
        };
        assert_eq!(said(&parts, headers_only), Ok(Some("a".to_owned())));
        assert_eq!(strip(&parts.headers, headers_only).remove, ["x-api-key"]);
    }

    #[test]
    fn a_huge_credential_is_refused_for_its_size() {
        let huge = "a".repeat(CREDENTIAL_BYTES_MAX + 1);
        for (size, expected) in [
            (CREDENTIAL_BYTES_MAX, true),
            (CREDENTIAL_BYTES_MAX + 1, false),
        ] {
            let read = Credential::new(&huge[..size]);
            assert_eq!(read.err(), (!expected).then_some(Reason::TooLarge));
        }
    }

    #[test]
    fn tokens_look_like_tokens() {
        for (text, is_token) in [
            ("eyJhbGciOiJub25lIn0.e30.", true),
            ("eyJ.a.b", true),
            ("eyJ.a", false),
            ("eyJ.a.b.c.d", false),
            ("om_key.with.dots", false),
            ("sk-1", false),
        ] {
            assert_eq!(
                Credential::new(text).unwrap().is_token(),
                is_token,
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_leaves_the_query_and_nothing_else_does() {
        for (from, to) in [
            ("/a?key=x", Some("/a")),
            ("/a?b=c&key=x&d=e", Some("/a?b=c&d=e")),
            ("/a?%6bey=x&b", Some("/a?b")),
            ("/a?key", Some("/a")),
            ("/a?&key=x&&", Some("/a?&&")),
            ("/a?b=c", None),
            ("/a", None),
            ("/key=x?keys=1", None),
        ] {
            assert_eq!(target(from, ALL).as_deref(), to, "{from}");
        }
    }

    #[test]
    fn a_key_leaves_the_sub_protocols_and_the_others_stay() {
        for (from, to) in [
            (
                "realtime, openai-insecure-api-key.k, v1",
                Some("realtime, v1"),
            ),
            ("openai-insecure-api-key.k", None),
        ] {
            let head = parts("/", &[("sec-websocket-protocol", from)]);
            let stripped = strip(&head.headers, ALL);
            assert_eq!(stripped.remove, ["sec-websocket-protocol"]);
            let set = stripped
                .set
                .first()
                .map(|(_, value)| value.to_str().unwrap());
            assert_eq!(set, to, "{from}");
        }
    }

    proptest! {
        /// Whatever is sent, what is left of it holds no credential any more.
        #[test]
        fn what_is_read_is_taken_out(
            query in "(key=[a-z%0-9]{0,6}|k%65y=x|a=[key=]{0,4}|b|&){0,6}",
            scheme in "(Bearer|bearer|Basic|) ?[a-z. ]{0,8}",
            protocols in "(openai-insecure-api-key\\.[a-z]{0,3}|realtime|,| ){0,6}",
            key in "[ a-z]{0,6}",
        ) {
            let target_before = format!("/p?{query}");
            let headers = [
                ("authorization", scheme.as_str()),
                ("sec-websocket-protocol", &protocols),
                ("api-key", &key),
            ];
            let mut head = parts(&target_before, &headers);
            let _ = read(&head, ALL);
            let stripped = strip(&head.headers, ALL);
            for name in &stripped.remove {
                head.headers.remove(name);
            }
            for (name, value) in stripped.set {
                head.headers.insert(name, value);
            }
            if let Some(target) = target(&target_before, ALL) {
                head.uri = target.parse().unwrap();
            }
            prop_assert_eq!(said(&head, ALL), Ok(None));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut head = parts("/", &[]);
                for name in [header::AUTHORIZATION, KEY_HEADERS[0].clone(), header::SEC_WEBSOCKET_PROTOCOL] {
                    head.headers.insert(name, value.clone());
                }
                if let Ok(Some(credential)) = read(&head, ALL) {
                    prop_assert!(!credential.text().is_empty());
                    prop_assert!(credential.text().bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            let _ = decoded(&text);
            let _ = target(&text, ALL);
        }
    }
}
