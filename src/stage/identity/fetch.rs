//! One GET to an issuer of keys, over a connection of its own.
//!
//! By hyper alone, which is in the program already: a client of all comforts would bring forty crates
//! for one small file every ten minutes. Redirects are not followed: the operator named the place.

use super::jwks::{Fetch, Fetched, Source};
use http::{HeaderMap, Request, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A set of 64 keys with certificates has about 200 KiB.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Fetches the keys of one issuer.
pub struct HttpFetch {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl HttpFetch {
    /// Fails for what is no URL, and when the system has no authorities to trust.
    pub fn new(source: &Source) -> Result<Self, String> {
        let (uri, is_tls) = parse(&source.url)?;
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| format!("`{host}` is not the name of a server"))?;
            Some((TlsConnector::from(tls_config(source)?), name))
        } else {
            None
        };
        Ok(Self {
            uri,
            host,
            port,
            tls,
        })
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let address = (self.host.as_str(), self.port);
        let connected = TcpStream::connect(address).await;
        connected.map_err(|error| format!("cannot connect to {}:{}: {error}", self.host, self.port))
    }

    fn request(&self) -> Result<Request<String>, String> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("onemind/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close");
        request
            .body(String::new())
            .map_err(|error| error.to_string())
    }
}

impl Fetch for HttpFetch {
    async fn fetch(&self) -> Result<Fetched, String> {
        let tcp = self.connect().await?;
        match &self.tls {
            None => get(tcp, self.request()?).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|error| format!("no TLS with {}: {error}", self.host))?;
                get(tls, self.request()?).await
            }
        }
    }
}

/// The URL, and whether it is one of https.
pub fn parse(url: &str) -> Result<(Uri, bool), String> {
    let uri: Uri = url.parse().map_err(|_| format!("`{url}` is not a URL"))?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("`{url}` does not begin with `https://`")),
    };
    if uri.host().is_none_or(str::is_empty) {
        return Err(format!("`{url}` names no host"));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("a user in the URL of keys is not sent".to_owned());
    }
    Ok((uri, is_tls))
}

fn tls_config(source: &Source) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(authorities) = &source.authorities {
        for authority in authorities {
            let added = roots.add(authority.clone());
            added.map_err(|error| format!("not usable as an authority: {error}"))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let fix = "install `ca-certificates`, or name a file with `jwks_ca`";
            return Err(format!("the system has no authorities to trust: {fix}"));
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn get(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<String>,
) -> Result<Fetched, String> {
    let failed = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()));
        }
        let max_age = max_age(answer.headers());
        let body = whole(answer.into_body()).await?;
        Ok(Fetched { body, max_age })
    };
    let mut answered = std::pin::pin!(answered);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut answered => return answer,
        // The connection may end with the last byte; then the answer is whole, or never will be.
        _ = &mut connection => {}
    }
    answered.await
}

/// The body, if it is not too large.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > BODY_BYTES_MAX {
            return Err(format!(
                "the answer is larger than {} KiB",
                BODY_BYTES_MAX >> 10
            ));
        }
    }
    Ok(bytes)
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

    #[test]
    fn only_urls_are_taken() {
        for (url, taken) in [
            ("https://issuer.test/jwks.json", Some(true)),
            ("http://127.0.0.1:8000/k?a=b", Some(false)),
            ("https://[::1]/k", Some(true)),
            ("issuer.test/jwks.json", None),
            ("ftp://issuer.test/", None),
            ("https://", None),
            ("https://me:pw@issuer.test/", None),
            ("/jwks.json", None),
        ] {
            assert_eq!(parse(url).ok().map(|(_, is_tls)| is_tls), taken, "{url}");
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
