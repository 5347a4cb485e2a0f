//! A caller over HTTP/2, by ALPN on TLS or with prior knowledge.

use super::client::{Answer, Client, Tls};
use super::gateway::Gateway;
use super::in_time;
use super::wire::Io;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use std::fmt::Write as _;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const FRAME: usize = 16 << 10;

/// One HTTP/2 connection; requests may run at the same time on clones of it.
pub struct ClientH2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    sent: Arc<AtomicU64>,
    /// Scheme and authority of its requests.
    pub origin: String,
}

impl Drop for ClientH2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl ClientH2 {
    /// TLS to `{{https}}`; fails the test when `h2` is not agreed on.
    pub async fn secure(gateway: &Gateway, tls: Tls) -> Self {
        let origin = format!("https://{}", tls.name());
        let secured = Client::handshake(gateway, tls.offering(&[b"h2", b"http/1.1"])).await;
        let secured = secured.expect("handshake");
        assert_eq!(secured.alpn.as_deref(), Some(b"h2".as_slice()));
        Self::over(gateway, secured.io, origin).await
    }

    /// Prior knowledge on a plain listener.
    pub async fn plain(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address("http")).await.unwrap();
        Self::over(gateway, Box::new(stream), "http://test".to_owned()).await
    }

    /// To anything else, such as an upstream; nothing is counted.
    pub async fn direct(io: Box<dyn Io>) -> Self {
        Self::begin(Arc::default(), io, "http://test".to_owned()).await
    }

    async fn over(gateway: &Gateway, io: Box<dyn Io>, origin: String) -> Self {
        Self::begin(gateway.sent(), io, origin).await
    }

    async fn begin(sent: Arc<AtomicU64>, io: Box<dyn Io>, origin: String) -> Self {
        let handshake = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(io);
        let (sender, connection) = in_time("h2 handshake", handshake).await.expect("h2");
        Self {
            sender,
            connection: tokio::spawn(async move {
                let _ = connection.await;
            }),
            sent,
            origin,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        let answer = self.request("GET", path, &[], &[]).await;
        answer.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Answer {
        let answer = self.request("POST", path, &[], body).await;
        answer.expect("an answer")
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, h2::Error> {
        let request = self.head(method, path, headers);
        self.begin_exchange(request, body, None).await
    }

    /// A POST whose body is followed by trailers.
    pub async fn post_with_trailers(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        trailers: HeaderMap,
    ) -> Answer {
        let request = self.head("POST", path, headers);
        let answer = self.begin_exchange(request, body, Some(trailers)).await;
        answer.expect("an answer")
    }

    /// A POST whose body is sent in exactly these frames, the last of which ends the stream.
    pub async fn post_frames(&self, path: &str, frames: &[&str]) -> Answer {
        let request = self.head("POST", path, &[]);
        self.sent.fetch_add(1, SeqCst);
        in_time("an answer over h2", async {
            let mut sender = self.sender.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request, false).unwrap();
            for (nth, frame) in frames.iter().enumerate() {
                let last = nth + 1 == frames.len();
                let frame = Bytes::copy_from_slice(frame.as_bytes());
                stream.send_data(frame, last).unwrap();
            }
            read_answer(response).await.unwrap()
        })
        .await
    }

    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    async fn begin_exchange(
        &self,
        request: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        self.sent.fetch_add(1, SeqCst);
        in_time("an answer over h2", self.exchange(request, body, trailers)).await
    }

    async fn exchange(
        &self,
        request: Request<()>,
        body: &[u8],
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let has_body = !body.is_empty() || request.method() == "POST";
        let (response, mut stream) =
            sender.send_request(request, !has_body && trailers.is_none())?;
        if has_body || trailers.is_some() {
            // A refusal may come before the body is sent: then the answer is what counts.
            let _ = send_body(&mut stream, body, trailers).await;
        }
        read_answer(response).await
    }
}

async fn read_answer(mut response: ResponseFuture) -> Result<Answer, h2::Error> {
    let mut informational = Vec::new();
    while let Some(early) = poll_fn(|cx| response.poll_informational(cx)).await {
        informational.push(head_of(early?.status().as_u16(), &HeaderMap::new()));
    }
    let response = response.await?;
    let head = head_of(response.status().as_u16(), response.headers());
    let mut answer = Answer {
        status: response.status().as_u16(),
        head,
        body: Vec::new(),
        complete: true,
        informational,
        trailers: Vec::new(),
    };
    receive_body(response.into_body(), &mut answer).await;
    Ok(answer)
}

async fn receive_body(mut stream: RecvStream, answer: &mut Answer) {
    while let Some(part) = stream.data().await {
        let Ok(part) = part else {
            answer.complete = false;
            return;
        };
        let _ = stream.flow_control().release_capacity(part.len());
        answer.body.extend_from_slice(&part);
    }
    match stream.trailers().await {
        Ok(trailers) => answer.trailers = lines_of(&trailers.unwrap_or_default()),
        Err(_) => answer.complete = false,
    }
}

/// Sends a body within the peer's window, frame by frame.
pub async fn send_body(
    stream: &mut SendStream<Bytes>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    let mut rest = body;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(FRAME));
        let Some(granted) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Ok(());
        };
        let (part, after) = rest.split_at(granted?.min(rest.len()));
        rest = after;
        let last = rest.is_empty() && trailers.is_none();
        stream.send_data(Bytes::copy_from_slice(part), last)?;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None if body.is_empty() => stream.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

/// As if it had been HTTP/1.1, so that tests read both the same way.
fn head_of(status: u16, headers: &HeaderMap) -> String {
    let mut head = format!("HTTP/2.0 {status}\r\n");
    for line in lines_of(headers) {
        let _ = write!(head, "{line}\r\n");
    }
    head + "\r\n"
}

pub fn lines_of(headers: &HeaderMap) -> Vec<String> {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect()
}
