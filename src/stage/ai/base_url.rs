//! Where a provider is, taken apart from its base URL.

use super::provider::Kind;
use http::Uri;

/// A base URL, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    pub tls: bool,
    /// As `Host` says it: with the port only where it is not the usual one.
    pub authority: String,
    /// As an endpoint is written: `name:port`, `ip:port` or `[ip]:port`.
    pub address: String,
    /// Before each path; without a slash at its end.
    pub path: String,
}

impl BaseUrl {
    /// What is wrong and how to write it instead, or the URL.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, (String, &'static str)> {
        const FIX: &str = "write `https://api.example.com` or `http://localhost:11434`";
        let wrong = |what: &str| (format!("`{text}` {what}"), FIX);
        if text.contains(['#', '?']) {
            return Err(wrong("has a query, which a base cannot have"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(wrong("begins neither with `https://` nor with `http://`")),
            None => return Err(wrong("does not begin with `https://` or `http://`")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            let fix = "write the key under `keys`";
            return Err((
                "a base URL cannot have a user or a password".to_owned(),
                fix,
            ));
        }
        let usual = if tls { 443 } else { 80 };
        let port = match authority.as_str().split_at(authority.host().len()).1 {
            "" => Some(usual),
            rest => rest[1..].parse().ok().filter(|port: &u16| *port > 0),
        };
        let port = port.ok_or_else(|| wrong("has a port that is none"))?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let suffix = if port == usual {
            String::new()
        } else {
            format!(":{port}")
        };
        Ok(Self {
            tls,
            authority: format!("{host}{suffix}"),
            address: format!("{host}:{port}"),
            path: kind.base_path_of(uri.path()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::ai::provider::{ANTHROPIC, GEMINI, OPENAI};

    #[test]
    fn a_base_url_is_taken_apart() {
        for (kind, text, tls, authority, address, path) in [
            (
                &OPENAI,
                "https://api.openai.com/v1",
                true,
                "api.openai.com",
                "api.openai.com:443",
                "/v1",
            ),
            (
                &OPENAI,
                "https://API.openai.com/",
                true,
                "api.openai.com",
                "api.openai.com:443",
                "/v1",
            ),
            (
                &OPENAI,
                "http://127.0.0.1:8000",
                false,
                "127.0.0.1:8000",
                "127.0.0.1:8000",
                "/v1",
            ),
            (
                &ANTHROPIC,
                "http://[::1]:80/v1/",
                false,
                "[::1]",
                "[::1]:80",
                "",
            ),
            (
                &GEMINI,
                "https://proxy.example:443/gemini/v1beta",
                true,
                "proxy.example",
                "proxy.example:443",
                "/gemini",
            ),
            (
                &OPENAI,
                "https://host:8443/a/b/",
                true,
                "host:8443",
                "host:8443",
                "/a/b",
            ),
        ] {
            let expected = BaseUrl {
                tls,
                authority: authority.to_owned(),
                address: address.to_owned(),
                path: path.to_owned(),
            };
            assert_eq!(BaseUrl::parse(text, kind), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_told_apart() {
        for (text, part) in [
            ("api.openai.com", "does not begin with"),
            ("/v1", "does not begin with"),
            ("ftp://host/", "begins neither with"),
            ("unix:/run/x", "`unix:/run/x`"),
            ("https://", "is not a URL"),
            ("https://host/?x=1", "has a query"),
            ("https://host/#x", "has a query"),
            ("https://me:secret@host/", "a user or a password"),
            ("https://host:0/", "a port that is none"),
            ("https://host:99999/", "port"),
            ("https://a b/", "is not a URL"),
        ] {
            let (what, _) = BaseUrl::parse(text, &OPENAI).unwrap_err();
            assert!(what.contains(part), "{text}: {what}");
            assert!(!what.contains("secret"), "{what}");
        }
    }
}
