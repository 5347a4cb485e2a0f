//! One request to one place, over a connection of its own: for what is asked a few times an hour beside the traffic.
//!
//! By hyper alone, which is in the program already: a client of all comforts would bring forty crates
//! for one small file every ten minutes. Redirects are not followed: the operator named the place.

use http::request::Builder;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A set of 64 keys with certificates has about 200 KiB.
pub const BODY_BYTES_MAX: usize = 256 << 10;

/// A place that is asked.
pub struct Place {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What it says, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most [`BODY_BYTES_MAX`].
    pub body: Vec<u8>,
}

impl Place {
    /// `authorities`: who signs its certificate; none: those of the system. Fails for what is no URL, and when the
    /// system has no authorities to trust.
    pub fn new(url: &str, authorities: Option<&[CertificateDer<'static>]>) -> Result<Self, String> {
        let (uri, is_tls) = parse(url)?;
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| format!("`{host}` is not the name of a server"))?;
            Some((TlsConnector::from(tls_config(authorities)?), name))
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

    /// Has no limit of time.
    pub async fn get(&self) -> Result<Answer, String> {
        self.ask(self.request(Method::GET), String::new()).await
    }

    /// A form, whose fields are encoded already. Has no limit of time.
    pub async fn post(&self, form: String) -> Result<Answer, String> {
        let request = self
            .request(Method::POST)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::CONTENT_LENGTH, form.len());
        self.ask(request, form).await
    }

    /// JSON, with further headers. Has no limit of time.
    pub async fn post_json(&self, headers: &HeaderMap, json: String) -> Result<Answer, String> {
        let mut request = self
            .request(Method::POST)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, json.len());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.ask(request, json).await
    }

    async fn ask(&self, request: Builder, body: String) -> Result<Answer, String> {
        let request = request.body(body).map_err(|error| error.to_string())?;
        let tcp = self.connect().await?;
        match &self.tls {
            None => exchange(tcp, request).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|error| format!("no TLS with {}: {error}", self.host))?;
                exchange(tls, request).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let address = (self.host.as_str(), self.port);
        let connected = TcpStream::connect(address).await;
        connected.map_err(|error| format!("cannot connect to {}:{}: {error}", self.host, self.port))
    }

    fn request(&self, method: Method) -> Builder {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("onemind/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close")
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
        return Err("a user in a URL is not sent".to_owned());
    }
    Ok((uri, is_tls))
}

fn tls_config(
    authorities: Option<&[CertificateDer<'static>]>,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(authorities) = authorities {
        for authority in authorities {
            let added = roots.add(authority.clone());
            added.map_err(|error| format!("not usable as an authority: {error}"))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let fix = "install `ca-certificates`, or name a file of authorities";
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

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<String>,
) -> Result<Answer, String> {
    let failed = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: whole(body).await?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

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

    #[tokio::test]
    async fn a_form_is_posted_and_answered_whatever_the_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"a=b") {
                let mut piece = [0; 1024];
                let length = socket.read(&mut piece).await.unwrap();
                assert!(length > 0, "{}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&piece[..length]);
            }
            let answer = b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}";
            socket.write_all(answer).await.unwrap();
            String::from_utf8(seen).unwrap().to_lowercase()
        });
        let place = Place::new(&format!("http://{address}/token"), None).unwrap();
        let answer = place.post("a=b".to_owned()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body), (400, b"{}".to_vec()));
        let seen = serving.await.unwrap();
        assert!(seen.starts_with("post /token http/1.1\r\n"), "{seen}");
        for line in [
            "content-type: application/x-www-form-urlencoded\r\n",
            "content-length: 3\r\n",
        ] {
            assert!(seen.contains(line), "{seen}");
        }
    }
}
