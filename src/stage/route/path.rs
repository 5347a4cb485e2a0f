//! The one spelling of a path: what is matched, and what is forwarded when it differs.
//!
//! A path can be written in many ways that a backend reads as the same. If the
//! gateway matched the bytes as they came, `/%61dmin`, `//admin` or `/x/../admin`
//! would walk past a route for `/admin/*`. So each path is brought to one spelling
//! first (RFC 3986 section 6.2.2):
//!
//! * escapes of unreserved characters are decoded, all others get capital digits;
//! * characters that may not stand in a path are escaped;
//! * `.` and `..` are resolved, and runs of `/` become one.
//!
//! The backend is sent this spelling too, so it cannot read another one than was matched.
//!
//! An escaped slash (`%2F`) stays what it is: data in a segment, not a separator.
//! Because some backends decode it all the same, [`loose_reading`] gives the path as
//! such a backend would see it; a table takes a request only if both lead to the same route.

use std::borrow::Cow;
use std::fmt;

/// Why a path cannot be brought to one spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPath {
    /// It does not begin with `/`.
    NotAbsolute,
    /// `%` without two hexadecimal digits after it.
    Escape,
    /// `%00`.
    Nul,
    /// A space, a control character, or bytes that are no UTF-8.
    Character,
    /// `..` above the root.
    Climbs,
    /// `..;x`: `..` with a parameter, which some servers resolve and others do not.
    DotParameter,
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not begin with `/`",
            Self::Escape => "the path has a `%` without two hexadecimal digits",
            Self::Nul => "the path has a NUL in it",
            Self::Character => "the path has a space or a control character in it",
            Self::Climbs => "the path climbs above the root",
            Self::DotParameter => "the path has `..;` in it",
        })
    }
}

impl std::error::Error for BadPath {}

/// Brings a path (without its query) to its one spelling. Borrows if it already has it,
/// which one pass over the bytes tells, nearly always. Doing it twice changes nothing.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let normal = rebuild(path)?;
    Ok(if normal == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normal)
    })
}

/// What a backend sees that decodes escapes before it splits the path, and takes `\` for
/// `/`. `None` if that is the path itself. Expects a normalised path.
pub fn loose_reading(path: &str) -> Result<Option<String>, BadPath> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Ok(None);
    }
    let mut loose = String::with_capacity(path.len());
    let mut rest = path;
    let mut differs = false;
    while let Some(at) = rest.find('%') {
        let escape = rest.get(at..at + 3).ok_or(BadPath::Escape)?;
        loose.push_str(&rest[..at]);
        match loosely_decoded(escape) {
            Some(decoded) => {
                loose.push(decoded);
                differs = true;
            }
            None => loose.push_str(escape),
        }
        rest = &rest[at + 3..];
    }
    loose.push_str(rest);
    if !differs {
        return Ok(None);
    }
    normalise(&loose).map(|normal| Some(normal.into_owned()))
}

fn loosely_decoded(escape: &str) -> Option<char> {
    let byte = u8::from_str_radix(&escape[1..], 16).ok()?;
    match byte {
        b'\\' => Some('/'),
        byte if byte == b'/' || is_path_byte(byte) => Some(char::from(byte)),
        _ => None,
    }
}

/// `unreserved` of RFC 3986: an escape of these means the same as the character.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a segment unescaped: `pchar` of RFC 3986.
const fn path_bytes() -> [bool; 256] {
    let mut allowed = [false; 256];
    let plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@";
    let mut at = 0;
    while at < plain.len() {
        allowed[plain[at] as usize] = true;
        at += 1;
    }
    allowed
}

static PATH_BYTES: [bool; 256] = path_bytes();

pub(super) fn is_path_byte(byte: u8) -> bool {
    PATH_BYTES[usize::from(byte)]
}

/// True only if `rebuild` would return the same; when in doubt, false.
fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match byte {
            byte if is_path_byte(byte) => at += 1,
            b'/' => {
                match path.get(at + 1) {
                    Some(b'/') => return false,
                    Some(b'.') if matches!(path.get(at + 2), None | Some(b'.' | b'/' | b';')) => {
                        return false;
                    }
                    _ => {}
                }
                at += 1;
            }
            b'%' if is_normal_escape(path.get(at + 1..at + 3)) => at += 3,
            _ => return false,
        }
    }
    true
}

fn is_normal_escape(digits: Option<&[u8]>) -> bool {
    let Some(&[high, low]) = digits else {
        return false;
    };
    let capitals = !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
    capitals && unescape(high, low).is_some_and(|byte| byte != 0 && !is_unreserved(byte))
}

fn unescape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}

fn rebuild(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut ends_in_slash = false;
    for segment in path[1..].split('/') {
        let start = out.len();
        out.push('/');
        spell(segment, &mut out)?;
        ends_in_slash = match &out[start + 1..] {
            "" | "." => {
                out.truncate(start);
                true
            }
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(BadPath::Climbs)?;
                out.truncate(parent);
                true
            }
            dots if dots.starts_with(".;") || dots.starts_with("..;") => {
                return Err(BadPath::DotParameter);
            }
            _ => false,
        };
    }
    if ends_in_slash {
        out.push('/');
    }
    Ok(out)
}

/// Writes one segment in its one spelling.
fn spell(segment: &str, out: &mut String) -> Result<(), BadPath> {
    // A replacement character means that the bytes were no UTF-8 and are lost already.
    if segment.contains(char::REPLACEMENT_CHARACTER) {
        return Err(BadPath::Character);
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
                    return Err(BadPath::Escape);
                };
                match unescape(high, low).ok_or(BadPath::Escape)? {
                    0 => return Err(BadPath::Nul),
                    plain if is_unreserved(plain) => out.push(char::from(plain)),
                    other => escape(other, out),
                }
            }
            byte if is_path_byte(byte) => out.push(char::from(byte)),
            byte if byte == b' ' || byte.is_ascii_control() => return Err(BadPath::Character),
            other => escape(other, out),
        }
    }
    Ok(())
}

pub(super) fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        for (written, normal) in [
            ("/", "/"),
            ("/admin/x", "/admin/x"),
            ("/%61dmin/x", "/admin/x"),
            ("/x/../admin/y", "/admin/y"),
            ("/x/%2e%2E/admin/y", "/admin/y"),
            ("//admin//x", "/admin/x"),
            ("/./admin/./x/.", "/admin/x/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a//../b", "/b"),
            ("/a/", "/a/"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\b", "/a%5Cb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/{x}|", "/%7Bx%7D%7C"),
            ("/a?b#c", "/a%3Fb%23c"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%25%36%31", "/%2561"),
        ] {
            assert_eq!(normalise(written).as_deref(), Ok(normal), "{written}");
        }
    }

    #[test]
    fn a_path_that_has_no_honest_reading_is_refused() {
        for (written, why) in [
            ("", BadPath::NotAbsolute),
            ("*", BadPath::NotAbsolute),
            ("a/b", BadPath::NotAbsolute),
            ("/%", BadPath::Escape),
            ("/%4", BadPath::Escape),
            ("/%zz", BadPath::Escape),
            ("/%+1", BadPath::Escape),
            ("/%\u{e9}", BadPath::Escape),
            ("/a%00", BadPath::Nul),
            ("/a\0", BadPath::Character),
            ("/a b", BadPath::Character),
            ("/a\r\nb", BadPath::Character),
            ("/\u{fffd}", BadPath::Character),
            ("/..", BadPath::Climbs),
            ("/a/../..", BadPath::Climbs),
            ("/a/..;/admin", BadPath::DotParameter),
            ("/a/%2e.;x/admin", BadPath::DotParameter),
        ] {
            assert_eq!(normalise(written), Err(why), "{written}");
        }
    }

    #[test]
    fn a_path_in_its_one_spelling_is_borrowed() {
        for path in ["/", "/a/b", "/a%2Fb", "/.well-known/", "/a;b:c@d/e+f,g=h"] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn the_loose_reading_is_what_a_decoding_backend_sees() {
        for (path, loose) in [
            ("/a/b", None),
            ("/a%20b", None),
            ("/caf%C3%A9", None),
            ("/a%252Fb", None),
            ("/admin%2Fx", Some("/admin/x")),
            ("/admin%5Cx", Some("/admin/x")),
            ("/a/..%2Fadmin", Some("/admin")),
            ("/v1/x%3Adelete", Some("/v1/x:delete")),
        ] {
            let read = loose_reading(path).expect(path);
            assert_eq!(read.as_deref(), loose, "{path}");
        }
        assert_eq!(loose_reading("/..%2F.."), Err(BadPath::Climbs));
        assert_eq!(loose_reading("/a%2F..%3B%2Fb"), Err(BadPath::DotParameter));
    }

    fn paths() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "/(/|\\.|\\.\\.|%2[eEfF]|%5c|%6[0-9a-f]|%[0-9a-g]{0,2}|[a-c;\\\\ é]){0,12}",
            "(/(\\.{0,3}|%2e|[ab]{1,3})){1,8}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn normalising_twice_changes_nothing(path in paths()) {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(matches!(again, Ok(Cow::Borrowed(_))), "{} is not recognised", normal);
                prop_assert!(normal.starts_with('/') && !normal.contains("//"));
                prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }

        #[test]
        fn the_quick_look_agrees_with_the_long_one(path in paths()) {
            if path.starts_with('/') && is_normal(path.as_bytes()) {
                prop_assert_eq!(rebuild(&path), Ok(path));
            }
        }

        #[test]
        fn the_loose_reading_never_panics(path in paths()) {
            if let Ok(Some(loose)) = loose_reading(&path) {
                prop_assert!(loose.starts_with('/'));
            }
        }
    }
}
