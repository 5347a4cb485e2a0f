//! A credential in a cookie: read, taken out of what is passed on, and cleared.

use super::chain::Reason;
use super::credential::{Credential, Stripped};
use http::{HeaderMap, HeaderValue, header};

/// Where a browser keeps a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    pub name: String,
    /// As its `Domain` says; none for the host that has set it.
    pub domain: Option<String>,
}

impl Cookie {
    /// What the request shows; none where there is no such cookie. Two that differ are an error: an
    /// application and we might go by different ones.
    pub fn read<'a>(&self, headers: &'a HeaderMap) -> Result<Option<Credential<'a>>, Reason> {
        let mut found = None;
        for value in pairs(headers).filter_map(|pair| value_of(pair, &self.name)) {
            let text = std::str::from_utf8(value).map_err(|_| Reason::Malformed)?;
            let credential = Credential::new(text)?;
            match &found {
                Some(known) if *known != credential => return Err(Reason::Several),
                _ => found = Some(credential),
            }
        }
        Ok(found)
    }

    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        pairs(headers).any(|pair| value_of(pair, &self.name).is_some())
    }

    /// The `Set-Cookie` that makes a browser forget it (RFC 6265 5.3). Over TLS it is `Secure`, without which
    /// names that begin with `__Host-` or `__Secure-` could not be cleared.
    pub fn clear(&self, is_tls: bool) -> Option<HeaderValue> {
        let mut text = format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax", self.name);
        if let Some(domain) = &self.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if is_tls {
            text.push_str("; Secure");
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// The cookies of a request (RFC 6265 4.2.1), in however many lines: HTTP/2 may split them.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

/// Without the quotation marks that some put around it.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let value = pair[equals + 1..].trim_ascii();
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    (pair[..equals].trim_ascii() == name.as_bytes()).then(|| bare.unwrap_or(value))
}

/// Adds what takes these cookies out of a head; the others stay, in one line.
pub fn strip(headers: &HeaderMap, cookies: &[Cookie], stripped: &mut Stripped) {
    let is_ours = |pair: &&[u8]| {
        let mut names = cookies.iter().map(|cookie| cookie.name.as_str());
        names.any(|name| value_of(pair, name).is_some())
    };
    if cookies.is_empty() || !pairs(headers).any(|pair| is_ours(&pair)) {
        return;
    }
    let kept: Vec<_> = pairs(headers).filter(|pair| !is_ours(pair)).collect();
    stripped.remove.push(header::COOKIE);
    if let Ok(value) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
        && !kept.is_empty()
    {
        stripped.set.push((header::COOKIE, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cookie() -> Cookie {
        Cookie {
            name: "session".to_owned(),
            domain: None,
        }
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_is_found_by_its_name_alone() {
        let long = format!("session={}", "a".repeat(9000));
        for (lines, expected) in [
            (&[][..], Ok(None)),
            (&["a=b; c=session"], Ok(None)),
            (&["session"], Ok(None)),
            (&["Session=x; sessions=y; _session=z"], Ok(None)),
            (&["session=x"], Ok(Some("x"))),
            (&["a=b;session = \"x\" ; c=d"], Ok(Some("x"))),
            (&["a=b", "session=x=y"], Ok(Some("x=y"))),
            (&["session=x; session=x"], Ok(Some("x"))),
            (&["session=x", "session=y"], Err(Reason::Several)),
            (&["session="], Err(Reason::Malformed)),
            (&["session=a b"], Err(Reason::Malformed)),
            (&[long.as_str()], Err(Reason::TooLarge)),
        ] {
            let headers = headers(lines);
            let found = cookie().read(&headers);
            let text = found.map(|found| found.map(|found| found.text().to_owned()));
            assert_eq!(
                text,
                expected.map(|text| text.map(str::to_owned)),
                "{lines:?}"
            );
            assert_eq!(cookie().is_in(&headers), expected != Ok(None), "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        for (lines, remove, rest) in [
            (&["a=b"][..], false, None),
            (&["session=x"], true, None),
            (&["session=x; session=y", "session=z"], true, None),
            (&["a=b; session=x; c=d"], true, Some("a=b; c=d")),
            (&["a=b", "session=x;", ";c"], true, Some("a=b; c")),
            (&["session", "token=t"], true, Some("session")),
        ] {
            let mut stripped = Stripped::default();
            let other = Cookie {
                name: "token".to_owned(),
                domain: None,
            };
            strip(&headers(lines), &[cookie(), other], &mut stripped);
            assert_eq!(!stripped.remove.is_empty(), remove, "{lines:?}");
            let set = stripped
                .set
                .first()
                .map(|(_, value)| value.to_str().unwrap());
            assert_eq!(set, rest, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_is_cleared_where_it_was_set() {
        let plain = "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax";
        let wide = Cookie {
            domain: Some("example.com".to_owned()),
            ..cookie()
        };
        for (cookie, is_tls, more) in [
            (cookie(), false, ""),
            (cookie(), true, "; Secure"),
            (wide, true, "; Domain=example.com; Secure"),
        ] {
            assert_eq!(cookie.clear(is_tls).unwrap(), format!("{plain}{more}"));
        }
    }

    proptest! {
        /// Whatever was read once cannot be read again from what is passed on.
        #[test]
        fn no_session_is_passed_on(lines in proptest::collection::vec("[ ;=\"as\\x80-]|session=?|[a-z]{1,3}=", 0..6)) {
            let mut headers = headers(&[]);
            for line in &lines {
                if let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) {
                    headers.append(header::COOKIE, value);
                }
            }
            let mut stripped = Stripped::default();
            strip(&headers, &[cookie()], &mut stripped);
            for name in &stripped.remove {
                headers.remove(name);
            }
            for (name, value) in stripped.set {
                headers.insert(name, value);
            }
            prop_assert!(!cookie().is_in(&headers), "{headers:?}");
        }
    }
}
