//! Header fields as they are written in HTTP/1.1, each name spelled as its sender spelled it.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};
use smallvec::SmallVec;

/// What concerns one connection and goes no further (RFC 9110 section 7.6.1); HTTP/2 must not say it at all
/// (RFC 9113 section 8.2.2).
pub const OF_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// How the sender spelled the names of its fields (`X-Request-ID`, `ETag`). Names compare without
/// regard to case (RFC 9110 section 5.1), but not all programs at the other end know that.
#[derive(Debug, Clone, Default)]
pub struct Spelling {
    /// The head as it came; empty where the protocol knows lower case only.
    head: Bytes,
    /// Where the names stand in it, in their order.
    names: SmallVec<[(u16, u16); 24]>,
}

impl Spelling {
    pub(super) fn new(head: Bytes, names: SmallVec<[(u16, u16); 24]>) -> Self {
        Self { head, names }
    }

    /// The spelling of `name`; `at` is where to look first, and is moved on.
    fn of<'a>(&'a self, name: &'a HeaderName, at: &mut usize) -> &'a [u8] {
        let spelled = |index: usize| {
            let (start, end) = *self.names.get(index)?;
            let text = self.head.get(usize::from(start)..usize::from(end))?;
            text.eq_ignore_ascii_case(name.as_str().as_bytes())
                .then_some(text)
        };
        // Fields are nearly always written in the order in which they came.
        if let Some(text) = spelled(*at) {
            *at += 1;
            return text;
        }
        for index in 0..self.names.len() {
            if let Some(text) = spelled(index) {
                *at = index + 1;
                return text;
            }
        }
        name.as_str().as_bytes()
    }
}

/// Writes all fields that `skip` does not name, each with its line end.
pub fn put(
    out: &mut BytesMut,
    headers: &HeaderMap,
    spelling: &Spelling,
    skip: impl Fn(&HeaderName) -> bool,
) {
    let mut at = 0;
    for (name, value) in headers {
        if skip(name) {
            continue;
        }
        let (name, value) = (spelling.of(name, &mut at), value.as_bytes());
        out.reserve(name.len() + value.len() + 4);
        out.put_slice(name);
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(b"\r\n");
    }
}

/// The members of a comma-separated list over all fields of this name, without white space around them;
/// fields that are no text are passed over.
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// Whether a list has this member, in any case.
pub fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    headers.contains_key(name) && list(headers, name).any(|each| each.eq_ignore_ascii_case(member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    #[test]
    fn names_keep_the_spelling_that_they_came_with() {
        let head = Bytes::from_static(b"ETag: 1\r\nX-ID: 2\r\n");
        let spelling = Spelling::new(head, SmallVec::from_slice(&[(0, 4), (9, 13)]));
        let mut headers = HeaderMap::new();
        headers.insert("x-id", "2".parse().unwrap());
        headers.insert(header::ETAG, "1".parse().unwrap());
        headers.insert("x-new", "3".parse().unwrap());
        headers.insert(header::CONNECTION, "close".parse().unwrap());
        let mut out = BytesMut::new();
        put(&mut out, &headers, &spelling, |name| {
            *name == header::CONNECTION
        });
        assert_eq!(&out[..], b"X-ID: 2\r\nETag: 1\r\nx-new: 3\r\n");
    }

    #[test]
    fn lists_are_read_over_all_fields() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, "a, B ,".parse().unwrap());
        headers.append(header::CONNECTION, "c".parse().unwrap());
        let members: Vec<_> = list(&headers, &header::CONNECTION).collect();
        assert_eq!(members, ["a", "B", "c"]);
        assert!(lists(&headers, &header::CONNECTION, "b"));
        assert!(!lists(&headers, &header::CONNECTION, "d"));
    }
}
