//! A model provider that speaks to the letter of its documentation, and misbehaves when a script says so.
//!
//! `Provider::openai().await` answers by itself: it echoes the last message, calls a tool when the prompt says
//! `call NAME` (with the JSON behind the name, if there is some), and follows the schema when one is asked for.
//! Tokens are words. `then(Fault::…)` disturbs one request, in the order in which they come; a prompt can do so too:
//! `fail with rate_limit` (`quota`, `server`, `overload`, `context_length`), `break off`, `be silent`.

#![expect(
    clippy::result_large_err,
    reason = "a refusal is made once in a request, and only in tests"
)]

mod anthropic;
mod bedrock;
mod cohere;
mod embeddings;
mod fault;
mod gemini;
mod media;
mod openai;
mod prompt;
mod realtime;
mod refusal;
mod responses;
mod server;
mod vertex;
#[cfg(test)]
mod tests;

pub use bedrock::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN};
pub use fault::Fault;
pub use refusal::Trouble;
pub use vertex::{LOCATION, PROJECT};

use super::certs::Authority;
use super::eventually;
use super::ports::Port;
use super::reply::Reply;
use bytes::Bytes;
use fault::{Due, Flavour};
use refusal::Refusal;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The credential that is taken unless others are named.
pub const PROVIDER_KEY: &str = "sk-scripted-provider-key";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    OpenAi,
    Anthropic,
    Gemini,
    Bedrock,
    Vertex,
    Cohere,
    Azure,
}

/// A scripted provider; dropping it stops it.
pub struct Provider {
    port: Port,
    /// The name in its certificate.
    tls: Option<String>,
    shared: Arc<Shared>,
    running: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    kind: Kind,
    tls: Option<TlsAcceptor>,
    behaviour: Mutex<Behaviour>,
    script: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Tokens that a service account was given, and that are taken.
    issued: Mutex<Vec<String>>,
}

/// What holds for every request.
#[derive(Clone)]
pub struct Behaviour {
    keys: Vec<String>,
    /// None: whatever begins like a model of this provider.
    models: Option<Vec<String>>,
    /// None: an echo.
    answer: Option<String>,
    strict: bool,
    cached: u64,
    every: Duration,
    chunk: Option<usize>,
    comments: bool,
    /// How long a token is said to be good, and whether any is given.
    token_seconds: u64,
    gives_tokens: bool,
    headers: Vec<(String, String)>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// How many came before it.
    pub nth: usize,
    pub connection: usize,
    pub method: String,
    pub path: String,
    /// What stands behind `?`, empty if nothing does.
    pub query: String,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// JSON; of a form its fields, files as `{filename, content_type, bytes}`; null if it is neither.
    pub body: Value,
    pub raw: Bytes,
    pub at: Instant,
    /// When the caller closed or broke off before it had the whole answer.
    pub cut: Option<Instant>,
    /// Whether all of the answer was sent.
    pub done: bool,
}

impl Asked {
    /// The only value of a header; fails the test when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        let all: Vec<&str> = named.map(|(_, value)| value.as_str()).collect();
        assert!(all.len() < 2, "several {name}: {all:?}");
        all.first().copied()
    }

    fn content_type(&self) -> &str {
        self.header("content-type").unwrap_or_default()
    }

    fn query_value(&self, name: &str) -> Option<&str> {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .next()
    }
}

impl Provider {
    pub async fn openai() -> Self {
        Self::start_new(Kind::OpenAi, None).await
    }

    pub async fn anthropic() -> Self {
        Self::start_new(Kind::Anthropic, None).await
    }

    pub async fn gemini() -> Self {
        Self::start_new(Kind::Gemini, None).await
    }

    pub async fn bedrock() -> Self {
        Self::start_new(Kind::Bedrock, None).await
    }

    /// Gives tokens too; see [`Provider::key_file`].
    pub async fn vertex() -> Self {
        Self::start_new(Kind::Vertex, None).await
    }

    pub async fn cohere() -> Self {
        Self::start_new(Kind::Cohere, None).await
    }

    /// `OpenAI`'s models by deployments and dated versions of the API.
    pub async fn azure() -> Self {
        Self::start_new(Kind::Azure, None).await
    }

    /// As `openai`, over TLS with a certificate for this name.
    pub async fn openai_tls(authority: &Authority, name: &str) -> Self {
        Self::start_new(Kind::OpenAi, Some((authority, name))).await
    }

    pub async fn anthropic_tls(authority: &Authority, name: &str) -> Self {
        Self::start_new(Kind::Anthropic, Some((authority, name))).await
    }

    pub async fn gemini_tls(authority: &Authority, name: &str) -> Self {
        Self::start_new(Kind::Gemini, Some((authority, name))).await
    }

    async fn start_new(kind: Kind, tls: Option<(&Authority, &str)>) -> Self {
        let behaviour = Behaviour {
            keys: vec![PROVIDER_KEY.to_owned()],
            models: None,
            answer: None,
            strict: false,
            cached: 0,
            every: Duration::ZERO,
            chunk: None,
            comments: false,
            token_seconds: 3_600,
            gives_tokens: true,
            headers: Vec::new(),
        };
        let acceptor = tls.map(|(authority, name)| authority.server(name, &[b"http/1.1"]));
        let provider = Self {
            port: Port::reserve(),
            tls: tls.map(|(_, name)| name.to_owned()),
            shared: Arc::new(Shared {
                kind,
                tls: acceptor.map(TlsAcceptor::from),
                behaviour: Mutex::new(behaviour),
                script: Mutex::new(VecDeque::new()),
                seen: Mutex::new(Vec::new()),
                connections: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                issued: Mutex::default(),
            }),
            running: Mutex::new(None),
        };
        provider.start().await;
        provider
    }

    /// Listens (again) at its address.
    pub async fn start(&self) {
        let listener = TcpListener::bind(self.port.address()).await.unwrap();
        let task = tokio::spawn(server::accept(Arc::clone(&self.shared), listener));
        *self.running.lock().unwrap() = Some(task);
    }

    /// From now on connections are refused, and those that are open break.
    pub async fn stop(&self) {
        let task = self.running.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        eventually("connections close", async || {
            (self.open() == 0).then_some(())
        })
        .await;
    }

    /// Always says this.
    pub fn answering(&self, text: &str) -> &Self {
        self.set(|behaviour| behaviour.answer = Some(text.to_owned()))
    }

    /// What happens to the next request that nothing was said about yet.
    pub fn then(&self, fault: Fault) -> &Self {
        self.shared.script.lock().unwrap().push_back(fault);
        self
    }

    /// The same for so many requests.
    pub fn times(&self, count: usize, fault: &Fault) -> &Self {
        for _ in 0..count {
            self.then(fault.clone());
        }
        self
    }

    /// Forgets what of the script was not played yet.
    pub fn calm(&self) -> &Self {
        self.shared.script.lock().unwrap().clear();
        self
    }

    /// The credentials that are taken.
    pub fn keys(&self, keys: &[&str]) -> &Self {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.set(|behaviour| behaviour.keys = keys)
    }

    /// The models that are known.
    pub fn models(&self, models: &[&str]) -> &Self {
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        self.set(|behaviour| behaviour.models = Some(models))
    }

    /// Refuses, as the real ones do, unknown fields, and settings that its newest models do not take.
    pub fn strict(&self) -> &Self {
        self.set(|behaviour| behaviour.strict = true)
    }

    /// How many tokens of each prompt are told to be cached.
    pub fn cached(&self, tokens: u64) -> &Self {
        self.set(|behaviour| behaviour.cached = tokens)
    }

    /// Waits this long before each event but the first.
    pub fn every(&self, period: Duration) -> &Self {
        self.set(|behaviour| behaviour.every = period)
    }

    /// Cuts streams at every so many bytes, wherever events end.
    pub fn chunks(&self, bytes: usize) -> &Self {
        self.set(|behaviour| behaviour.chunk = Some(bytes))
    }

    /// A comment before each event.
    pub fn comments(&self) -> &Self {
        self.set(|behaviour| behaviour.comments = true)
    }

    /// The JSON key file of the account that is given tokens here.
    pub fn key_file(&self) -> String {
        vertex::key_file(&self.origin())
    }

    /// How long tokens are said to be good from now on.
    pub fn token_seconds(&self, seconds: u64) -> &Self {
        self.set(|behaviour| behaviour.token_seconds = seconds)
    }

    /// Whether tokens are given from now on.
    pub fn gives_tokens(&self, gives: bool) -> &Self {
        self.set(|behaviour| behaviour.gives_tokens = gives)
    }

    /// No token that was given so far is taken any more.
    pub fn revoke(&self) -> &Self {
        self.shared.issued.lock().unwrap().clear();
        self
    }

    /// How often tokens were asked for.
    pub fn token_requests(&self) -> usize {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|asked| asked.path == "/token").count()
    }

    /// Says so with each answer, such as what is left of a limit.
    pub fn saying(&self, headers: &[(&str, &str)]) -> &Self {
        let pairs = headers.iter();
        let headers = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.set(|behaviour| behaviour.headers = headers.collect())
    }

    fn set(&self, change: impl FnOnce(&mut Behaviour)) -> &Self {
        change(&mut self.shared.behaviour.lock().unwrap());
        self
    }

    /// As the provider's own SDK wants its base URL: with `/v1` for `OpenAI`, without a path for the others.
    pub fn url(&self) -> String {
        match self.shared.kind {
            Kind::OpenAi => format!("{}/v1", self.origin()),
            _ => self.origin(),
        }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        match &self.tls {
            Some(name) => format!("https://{name}:{}", self.port.number()),
            None => format!("http://{}", self.port),
        }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.port.address()
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The latest request; waits for one.
    pub async fn last(&self) -> Asked {
        eventually("a request at the provider", async || {
            self.shared.seen.lock().unwrap().last().cloned()
        })
        .await
    }

    /// When the caller broke off the request with this number; waits for it.
    pub async fn cut(&self, nth: usize) -> Instant {
        eventually("the caller breaks off", async || {
            self.shared.seen.lock().unwrap().get(nth)?.cut
        })
        .await
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let task = self.running.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Shared {
    fn reply(&self, asked: &Asked, fault: &Fault) -> Reply {
        let behaviour = self.behaviour.lock().unwrap().clone();
        if self.kind == Kind::Vertex && asked.path == "/token" {
            return vertex::token(self, asked).perform(&Fault::Fine, &behaviour);
        }
        let wished = match fault {
            Fault::Fine => fault::asked_for(&asked.raw),
            _ => None,
        };
        let fault = wished.as_ref().unwrap_or(fault);
        let (flavour, answered) = match self.kind {
            Kind::OpenAi => openai::answer(asked, &behaviour),
            Kind::Anthropic => anthropic::answer(asked, &behaviour),
            Kind::Gemini => gemini::answer(asked, &behaviour),
            Kind::Bedrock => bedrock::answer(asked, &behaviour),
            Kind::Vertex => vertex::answer(self, asked, &behaviour),
            Kind::Cohere => cohere::answer(asked, &behaviour),
            Kind::Azure => openai::answer(&by_deployment(asked), &behaviour),
        };
        let refusal = match (answered, fault) {
            (Err(refusal), _) => refusal,
            (Ok(due), Fault::Error(Trouble::ContentPolicy)) if flavour == Flavour::Gemini => {
                return gemini::blocked(&due).perform(&Fault::Fine, &behaviour);
            }
            (Ok(_), Fault::Error(trouble)) => Refusal::of(flavour, *trouble),
            (Ok(mut due), _) => {
                due.headers.extend(self.usual_headers());
                due.headers.extend(behaviour.headers.iter().cloned());
                return due.perform(fault, &behaviour);
            }
        };
        let mut due = Due::json(flavour, &refusal.body(flavour));
        due.status = refusal.status;
        due.headers.extend(self.usual_headers());
        due.headers.extend(refusal.headers);
        due.perform(&Fault::Fine, &behaviour)
    }

    /// Whether a WebSocket of the realtime API is opened here.
    fn opens(&self, asked: &Asked, fault: &Fault) -> bool {
        let behaviour = self.behaviour.lock().unwrap().clone();
        let is_asked = self.kind == Kind::OpenAi && realtime::is_asked(asked);
        is_asked && matches!(fault, Fault::Fine) && openai::answer(asked, &behaviour).1.is_ok()
    }

    fn usual_headers(&self) -> Vec<(String, String)> {
        let id = fresh_id("req_");
        let headers: &[(&str, &str)] = match self.kind {
            Kind::OpenAi | Kind::Azure => &[
                ("x-request-id", &id),
                ("openai-organization", "org-scripted"),
                ("openai-version", "2020-10-01"),
                ("openai-processing-ms", "3"),
            ],
            Kind::Anthropic => &[
                ("request-id", &id),
                (
                    "anthropic-organization-id",
                    "00000000-0000-4000-8000-000000000000",
                ),
            ],
            Kind::Bedrock => &[("x-amzn-requestid", &id)],
            Kind::Cohere => &[("x-debug-trace-id", &id)],
            Kind::Gemini | Kind::Vertex => &[
                ("x-frame-options", "SAMEORIGIN"),
                ("server", "scaffolding on HTTPServer2"),
            ],
        };
        let pairs = headers.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }
}

impl Behaviour {
    fn knows_key(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known == key)
    }

    /// Whether there is such a model; names of a provider begin alike.
    fn knows_model(&self, model: &str, beginnings: &[&str]) -> bool {
        match &self.models {
            Some(models) => models.iter().any(|known| known == model),
            None => beginnings.iter().any(|start| model.starts_with(start)),
        }
    }

    /// All models by name.
    fn listed(&self, usual: &[&str]) -> Vec<String> {
        let usual = || usual.iter().map(|model| (*model).to_owned()).collect();
        self.models.clone().unwrap_or_else(usual)
    }
}

/// What came to Azure, as `OpenAI` would have been asked it; without a version it is asked something unheard of.
fn by_deployment(asked: &Asked) -> Asked {
    let mut asked = asked.clone();
    let rest = asked.path.strip_prefix("/openai/deployments/");
    let rest = rest.and_then(|rest| rest.split_once('/'));
    let version = asked.query_value("api-version");
    asked.path = match (rest, version) {
        (Some((_, rest)), Some(_)) => format!("/v1/{rest}"),
        _ => "/unheard-of".to_owned(),
    };
    let key = asked.header("api-key").unwrap_or_default().to_owned();
    let bearer = ("authorization".to_owned(), format!("Bearer {key}"));
    asked.headers.push(bearer);
    asked
}

/// What is answered, and in whose words.
type Answered = (Flavour, Result<Due, Refusal>);

/// Unlike any other id of this process.
fn fresh_id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}{:08}", NEXT.fetch_add(1, SeqCst))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The first field of the body that is not of this list.
fn unknown_field<'a>(body: &'a Value, known: &[&str]) -> Option<&'a str> {
    let names = body.as_object()?.keys();
    names.map(String::as_str).find(|name| !known.contains(name))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
