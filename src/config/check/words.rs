//! The forms that words of the document must have; pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What is wrong with a word, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub what: String,
    pub fix: String,
}

fn wrong<T>(what: impl Into<String>, fix: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        what: what.into(),
        fix: fix.into(),
    })
}

/// Characters of names of headers, cookies and methods (RFC 9110 5.6.2).
fn is_token(text: &str) -> bool {
    let part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(part)
}

/// Control characters, and what Unicode has for line ends and for nothing at all.
pub fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}')
}

/// A name of a header or a cookie.
pub fn name(kind: &str, text: &str) -> Result<(), Wrong> {
    if is_token(text) {
        return Ok(());
    }
    let fix = "use letters, digits, `-` and `_`";
    wrong(format!("`{text}` is not the name of a {kind}"), fix)
}

/// A value of a header (RFC 9110 5.5): no control characters, no spaces around it.
pub fn header_value(text: &str) -> Result<(), Wrong> {
    if http::HeaderValue::from_str(text).is_err() {
        return wrong(
            "a control character cannot be sent in a header",
            "remove it, and line breaks with it",
        );
    }
    if text.trim_matches([' ', '\t']) != text {
        return wrong(
            "spaces around the value of a header are lost on the way",
            "remove them",
        );
    }
    Ok(())
}

/// A method such as `GET`.
pub fn method(text: &str) -> Result<(), Wrong> {
    if !is_token(text) {
        return wrong(
            format!("`{text}` is not a method"),
            "write a name such as `GET`",
        );
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let upper = text.to_uppercase();
        return wrong(
            format!("the method `{text}` has small letters, and methods differ by them"),
            format!("write `{upper}`"),
        );
    }
    Ok(())
}

/// A host name or an IP address, without port, in lower case.
pub fn host(text: &str) -> Result<(), Wrong> {
    let address = text.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if let Some((before, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        let fix = format!("write `{before}`");
        return wrong(format!("the host `{text}` has a port"), fix);
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        let fix = format!("write `{}`", text.to_lowercase());
        return wrong(format!("the host `{text}` has capital letters"), fix);
    }
    if !is_domain(text) {
        let fix = "write a name such as `example.com`";
        return wrong(format!("`{text}` is not a host name"), fix);
    }
    Ok(())
}

/// What a route takes as host: a name, or `*.` and a name.
pub fn host_pattern(text: &str) -> Result<(), Wrong> {
    match text.strip_prefix("*.") {
        Some(name) => host(name),
        None if text == "*" => wrong(
            "`*` is not a host name",
            "remove the key: then any host matches",
        ),
        None if text.contains('*') => wrong(
            format!("`{text}` is not a host name"),
            "`*` may only be the whole first label: `*.example.com`",
        ),
        None => host(text),
    }
}

/// Labels of letters, digits, `-` and `_`, as certificates and DNS in practice have them.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(part)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// What to write as `Host`: a host, with a port or without.
pub fn host_header(text: &str) -> Result<(), Wrong> {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => text,
    };
    host(name)
}

/// The address of an endpoint: `ip:port`, `[v6]:port`, `name:port`, `unix:/path`.
pub fn endpoint(text: &str) -> Result<(), Wrong> {
    let forms =
        "write `10.0.0.1:8080`, `[fd00::1]:8080`, `app.internal:8080` or `unix:/run/app.sock`";
    if let Some(path) = text.strip_prefix("unix:") {
        // The kernel's limit for `sun_path`, the closing zero included.
        return match path.len() {
            0 => wrong("the path of the Unix socket is missing", forms),
            1..108 => Ok(()),
            _ => wrong(
                "the path of a Unix socket has at most 107 bytes",
                "use a shorter path",
            ),
        };
    }
    if text.contains("://") {
        let scheme = "without `http://` or `https://`: that is for the pool's `tls` to say";
        return wrong(format!("`{text}` is a URL, not an address"), scheme);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return port(address.port());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return wrong(
            format!("`{text}` has no port"),
            format!("write `[{text}]:8080`"),
        );
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        return wrong(
            format!("`{text}` has no port"),
            format!("write `{text}:8080`"),
        );
    };
    match digits.parse::<u32>() {
        Ok(number) => port(u16::try_from(number).unwrap_or_default())?,
        Err(_) => return wrong(format!("`{text}` has no port"), forms),
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric || !is_domain(host) {
        return wrong(format!("`{host}` is neither an address nor a name"), forms);
    }
    Ok(())
}

fn port(port: u16) -> Result<(), Wrong> {
    if port == 0 {
        return wrong("the port must be from 1 to 65535", "");
    }
    Ok(())
}

/// A status or a range of them: `200`, `200-299`.
pub fn statuses(text: &str) -> Result<(), Wrong> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        let number: u16 = text.parse().ok().filter(|_| digits)?;
        (100..=599).contains(&number).then_some(number)
    };
    match (status(from), status(to)) {
        (Some(from), Some(to)) if from <= to => Ok(()),
        (Some(_), Some(_)) => wrong(
            format!("the range `{text}` is empty"),
            format!("write `{to}-{from}`"),
        ),
        _ => wrong(
            format!("`{text}` is not a status"),
            "write `200` or `200-299`, from 100 to 599",
        ),
    }
}

/// The path of a route, and the names in its braces. `*` stands for what a last `/*` matches.
pub fn path_pattern(text: &str) -> Result<BTreeSet<String>, Wrong> {
    let Some(rest) = text.strip_prefix('/') else {
        return wrong(
            format!("the path `{text}` does not begin with `/`"),
            format!("write `/{text}`"),
        );
    };
    plain_path(text)?;
    let mut names = BTreeSet::new();
    let segments: Vec<&str> = rest.split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        if *segment == "*" && at + 1 == segments.len() {
            names.insert("*".to_owned());
        } else if segment.contains('*') {
            return wrong(
                format!("`*` in `{text}` is not the whole last segment"),
                "end the path with `/*`, or name a segment: `{name}`",
            );
        } else if let Some(name) = segment_name(text, segment)?
            && !names.insert(name.to_owned())
        {
            return wrong(
                format!("`{{{name}}}` stands twice in `{text}`"),
                "use a name for each",
            );
        }
    }
    Ok(names)
}

/// `name` of a segment `{name}`; none for a segment without braces.
fn segment_name<'a>(path: &str, segment: &'a str) -> Result<Option<&'a str>, Wrong> {
    if !segment.contains(['{', '}']) {
        return Ok(None);
    }
    let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
    match name {
        Some(name) if is_placeholder(name) => Ok(Some(name)),
        _ => wrong(
            format!("`{segment}` in `{path}` is not a name in braces"),
            "a whole segment such as `{id}`: letters, digits and `_`",
        ),
    }
}

fn is_placeholder(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A path as it can stand in a request line.
pub fn path(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return wrong(
            format!("the path `{text}` does not begin with `/`"),
            format!("write `/{text}`"),
        );
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong(
            format!("the path `{text}` has a character that a URL cannot have"),
            "write it percent-encoded, such as `%20`",
        );
    }
    Ok(())
}

/// A path without query.
pub fn plain_path(text: &str) -> Result<(), Wrong> {
    path(text)?;
    if text.contains(['?', '#']) {
        return wrong(
            format!("the path `{text}` has a query"),
            "routes are found by path alone: remove `?` and what follows",
        );
    }
    Ok(())
}

/// The names in braces of a template such as `/v2/{id}/{*}`.
pub fn placeholders(text: &str) -> Result<Vec<&str>, Wrong> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let inside = rest[at..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        match inside {
            Some((name, after)) if name == "*" || is_placeholder(name) => {
                names.push(name);
                rest = after;
            }
            _ => {
                return wrong(
                    format!("a brace in `{text}` is not closed, or what it holds is not a name"),
                    "write `{name}` or `{*}`",
                );
            }
        }
    }
    Ok(names)
}

/// A value of `Origin` (RFC 6454 7): scheme, host, and the port unless it is the usual one.
pub fn origin(text: &str) -> Result<(), Wrong> {
    let fix = "write `https://app.example.com`, with a port if it is unusual, without a path";
    if text == "null" {
        return Ok(());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong(format!("`{text}` is not an origin"), fix);
    };
    let known = is_token(scheme) && scheme.bytes().all(|b| !b.is_ascii_uppercase());
    if !known || host_header(rest).is_err() {
        return wrong(format!("`{text}` is not an origin"), fix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T>(form: impl Fn(&str) -> Result<T, Wrong>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(form(text).is_ok(), "`{text}` should be taken");
        }
        for text in bad {
            assert!(form(text).is_err(), "`{text}` should be refused");
        }
    }

    #[test]
    fn endpoints_are_addresses_with_a_port() {
        let good = [
            "10.0.0.1:80",
            "[::1]:65535",
            "app:1",
            "app-1.svc.cluster.local:8080",
            "unix:/run/a.sock",
            "unix:a.sock",
        ];
        let long = format!("unix:/{}", "x".repeat(107));
        let bad = [
            "",
            "app",
            "app:",
            "app:0",
            "app:65536",
            "app:99999999999",
            "::1",
            "10.0.0.256:80",
            "http://app:80",
            "app:80/x",
            "a b:80",
            "-a:80",
            ":80",
            "unix:",
            long.as_str(),
        ];
        check(endpoint, &good, &bad);
    }

    #[test]
    fn hosts_are_names_without_port_in_lower_case() {
        let bad = [
            "",
            "Example.com",
            "a.com:80",
            "a..b",
            "*",
            "a.*.com",
            "*a.com",
            "a b",
            "é.com",
        ];
        check(
            host_pattern,
            &[
                "example.com",
                "*.example.com",
                "localhost",
                "10.0.0.1",
                "[::1]",
            ],
            &bad,
        );
        check(
            host_header,
            &["a.com", "a.com:8080", "[::1]:80"],
            &["a.com:x", "", "a/b"],
        );
    }

    #[test]
    fn paths_have_stars_at_the_end_and_names_in_whole_segments() {
        let good = [
            "/",
            "/*",
            "/a",
            "/a/*",
            "/a/{id}/b",
            "/{a}/{b}/*",
            "/a/",
            "/a%20b",
        ];
        let bad = [
            "", "a", "*", "/a*", "/*/a", "/a/b*", "/{id}x", "/{}", "/{a}/{a}", "/{a", "/a?b=1",
            "/a b", "/{*}", "/é",
        ];
        check(path_pattern, &good, &bad);
    }

    #[test]
    fn statuses_are_three_digits_or_a_range() {
        let bad = [
            "",
            "20",
            "600",
            "099",
            "299-200",
            "2xx",
            "200-",
            "200-299-300",
            "+20",
        ];
        check(statuses, &["100", "599", "200-299", "204-204"], &bad);
    }

    #[test]
    fn the_other_words() {
        check(method, &["GET", "M-SEARCH"], &["get", "", "G T"]);
        check(
            |text| name("header", text),
            &["x-a", "X_A"],
            &["", "a b", "a:", "é"],
        );
        check(header_value, &["", "a b", "é"], &["a\nb", " a", "a\0"]);
        check(
            |text| placeholders(text).map(|_| ()),
            &["/a", "/{a}/{*}"],
            &["/{", "/}", "/{a b}", "{{a}}"],
        );
        check(
            origin,
            &["https://a.com", "http://a.com:8080", "null"],
            &["a.com", "https://a.com/", "https://A.com", "://a"],
        );
    }

    proptest! {
        #[test]
        fn no_word_can_stop_the_checks(text in "[a-z0-9:/.*{}\\[\\] é?-]{0,24}") {
            let _ = (endpoint(&text), host_pattern(&text), path_pattern(&text), statuses(&text));
            let _ = (placeholders(&text), origin(&text), host_header(&text), header_value(&text), method(&text));
        }
    }
}
