//! One GET to an issuer of keys.

use super::jwks::{Fetch, Fetched, Source};
use crate::wire::fetch::Place;
use http::{HeaderMap, StatusCode, header};
use std::time::Duration;

/// Fetches the keys of one issuer.
pub struct HttpFetch(Place);

impl HttpFetch {
    /// Fails for what is no URL, and when the system has no authorities to trust.
    pub fn new(source: &Source) -> Result<Self, String> {
        Place::new(&source.url, source.authorities.as_deref()).map(Self)
    }
}

impl Fetch for HttpFetch {
    async fn fetch(&self) -> Result<Fetched, String> {
        let answer = self.0.get().await?;
        if answer.status != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status));
        }
        Ok(Fetched {
            max_age: max_age(&answer.headers),
            body: answer.body,
        })
    }
}

/// RFC 9111 5.2.2.1; an answer that must not be kept is good for no time, which means the shortest.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let directives = texts.flat_map(|text| text.split(','));
    let ages = directives.filter_map(|directive| {
        let directive = directive.trim().to_ascii_lowercase();
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Some(0);
        }
        directive
            .strip_prefix("max-age=")?
            .trim_matches('"')
            .parse()
            .ok()
    });
    ages.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fetch::BODY_BYTES_MAX;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn the_age_is_what_the_issuer_says() {
        for (value, expected) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age=600, must-revalidate", Some(600)),
            ("max-age=600, max-age=30", Some(30)),
            ("no-store", Some(0)),
            ("max-age=600, no-cache", Some(0)),
            ("max-age=x", None),
            ("public", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            assert_eq!(
                max_age(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    async fn fetched(answer: String) -> Result<Fetched, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut seen = [0; 1024];
            let length = socket.read(&mut seen).await.unwrap();
            let head = String::from_utf8_lossy(&seen[..length]).to_lowercase();
            assert!(head.starts_with("get /keys?a=b http/1.1\r\n"), "{head}");
            assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
            let _ = socket.write_all(answer.as_bytes()).await;
        });
        let source = Source {
            url: format!("http://{address}/keys?a=b"),
            authorities: None,
            refresh: Duration::from_mins(1),
        };
        HttpFetch::new(&source)?.fetch().await
    }

    #[tokio::test]
    async fn an_answer_is_taken_whole_or_not_at_all() {
        let huge = "x".repeat(BODY_BYTES_MAX + 1);
        for (answer, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=7\r\n\r\n{}",
                Ok("{}"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                Ok("{}"),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n{}", Ok("{}")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
                Err("broke off"),
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
                Err("302"),
            ),
            ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Err("503")),
            (
                &format!("HTTP/1.1 200 OK\r\n\r\n{huge}"),
                Err("larger than"),
            ),
            ("SSH-2.0\r\n\r\n", Err("no answer")),
            ("", Err("no answer")),
        ] {
            let fetched = fetched(answer.to_owned()).await;
            let body = fetched
                .as_ref()
                .map(|one| String::from_utf8_lossy(&one.body));
            match expected {
                Ok(expected) => assert_eq!(body.unwrap(), expected),
                Err(part) => assert!(body.as_ref().unwrap_err().contains(part), "{body:?}"),
            }
        }
    }
}
