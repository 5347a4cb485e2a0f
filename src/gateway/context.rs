//! One request, from its birth to its one line in the access log.

use super::finish::Reporter;
use super::infer::record::Inference;
use super::pace::Pace;
use crate::base::client::Client;
use crate::base::ending::Ending;
use crate::base::principal::Principal;
use crate::base::reject::Reject;
use crate::observe::metrics::Counted;
use crate::observe::trace::Tracing;
use crate::snapshot::{ListenerRules, Measures, Meter, Route, Snapshot, Tunnel};
use crate::stage::ai::dialect::DialectName;
use crate::stage::limit::headers::{Headers as LimitHeaders, Standing};
use crate::stage::limit::limits::Levels;
use crate::stage::limit::permits::Permits;
use crate::stage::listen::forwarded::ForwardedHeaders;
use crate::stage::listen::shield::Place;
use crate::stage::listen::trace::{Trace, X_REQUEST_ID};
use crate::stage::route::cors::Said;
use crate::stage::upstream::endpoint::Endpoint;
use crate::stage::upstream::pool::Lease;
use crate::stage::upstream::retry::Failure;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For answers to requests that no route takes.
const LIMIT_WITHOUT_ROUTE: Duration = Duration::from_secs(30);

/// What is known of a request grows by stage; a field is `None` until its stage has run.
pub struct RequestContext {
    /// Pinned at birth: a request sees one configuration, whatever is reloaded meanwhile.
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    pub arrival: Option<Arrival>,
    pub admission: Option<Admission>,
    /// The place among all requests in flight; given back with the context.
    pub place: Option<Place>,
    /// The place at an endpoint that is held now, or was taken for the next attempt.
    pub lease: Option<Lease>,
    pub attempts: Vec<Attempt>,
    /// When it had a place at an endpoint, or its targets; noted only where spans are made.
    pub admitted: Option<Duration>,
    /// What a call of a model came to; none for other requests.
    pub inference: Option<Box<Inference>>,
    pub traffic: Traffic,
    pub reject: Option<Reject>,
    /// What the last failed attempt would be answered with, should no other attempt be possible.
    pub failed: Option<(Ending, Reject)>,
    pub ending: Option<Ending>,
    /// Status sent to the caller, 0 for none.
    pub status: u16,
    pub(super) reporter: Arc<Reporter>,
    pub(super) reported: bool,
}

/// Facts from the connection and the request head.
pub struct Arrival {
    pub listener: Arc<ListenerRules>,
    /// Counts the request as in flight.
    pub counted: Counted,
    pub client: Client,
    pub forwarded: ForwardedHeaders,
    pub trace: Trace,
    pub request_id: HeaderValue,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    /// The authority asked for, as it was written.
    pub host: Option<HeaderValue>,
    pub user_agent: Option<HeaderValue>,
    pub tls_version: Option<Cow<'static, str>>,
}

/// Proof that a request was routed and is within its limits.
pub struct Admission {
    pub route: Arc<Route>,
    /// Who is calling; none on a route that asks nobody.
    pub principal: Option<Arc<Principal>>,
    /// What the answer says to pages of other origins.
    pub cors: Said,
    /// Makes the browser forget a credential that is over.
    pub cleared: Option<HeaderValue>,
    /// Path and query to forward when they differ from the caller's.
    pub target: Option<String>,
    /// What the pool's `hash` is taken of.
    pub hash_key: Option<u64>,
    /// Whether the request carries a body that is not kept for another attempt.
    pub large_body: bool,
    /// The place of a WebSocket among those open; given back on drop.
    pub tunnel: Option<Tunnel>,
    /// The cookie that binds the caller to an endpoint must be sent: none came, or a stale one.
    pub sticky: Sticky,
    /// How the caller stands to its limits, for every answer.
    pub limit_headers: Option<LimitHeaders>,
    /// How it stands to the tightest rule about requests, and about tokens; told to callers of models.
    pub standings: [Option<Standing>; 2],
    /// How it stands to each rule, should another provider answer.
    pub levels: Levels,
    /// Places in flight that the request holds; given back on drop.
    pub permits: Permits,
}

impl Admission {
    pub fn of(route: Arc<Route>) -> Self {
        Self {
            route,
            principal: None,
            cors: Said::new(),
            cleared: None,
            target: None,
            hash_key: None,
            large_body: false,
            tunnel: None,
            sticky: Sticky::Off,
            limit_headers: None,
            standings: [None; 2],
            levels: Levels::new(),
            permits: Permits::default(),
        }
    }
}

/// How a request stands to the pool's stickiness.
#[derive(Debug, Clone)]
pub enum Sticky {
    Off,
    /// No cookie, or one that leads nowhere any more: tell the caller where it went.
    Unbound,
    /// The cookie names this endpoint; a new one is due when `renew` is set.
    Bound {
        endpoint: Arc<Endpoint>,
        renew: bool,
    },
}

/// One try at one endpoint.
pub struct Attempt {
    pub endpoint: Arc<Endpoint>,
    pub started: Instant,
    /// Time to connect; none for a connection used again.
    pub connected: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub status: Option<u16>,
    pub failure: Option<Failure>,
    /// How it failed, where it was an attempt at a model.
    pub reason: Option<&'static str>,
    pub took: Duration,
    /// Whether its connection had served another request before.
    pub reused: bool,
    /// Of which provider which model was asked for; only where spans are made of it.
    pub asked: Option<Box<Asked>>,
}

/// What an attempt at a model asks for.
pub struct Asked {
    /// Its kind, as OpenTelemetry names it.
    pub kind: &'static str,
    /// As it is configured.
    pub provider: String,
    /// As the provider calls it.
    pub model: String,
}

impl Attempt {
    pub fn new(endpoint: Arc<Endpoint>, started: Instant) -> Self {
        Self {
            endpoint,
            started,
            connected: None,
            first_byte: None,
            status: None,
            failure: None,
            reason: None,
            took: Duration::ZERO,
            reused: false,
            asked: None,
        }
    }

    pub fn measures(&self) -> Measures<'_> {
        Measures {
            endpoint: &self.endpoint,
            status: self.status,
            connect: self.connected,
            first_byte: self.first_byte,
            total: self.took,
        }
    }
}

/// Bytes of bodies, as the caller sees them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl RequestContext {
    pub fn new(snapshot: Arc<Snapshot>, reporter: Arc<Reporter>, started: Instant) -> Self {
        Self {
            snapshot,
            started,
            arrival: None,
            admission: None,
            place: None,
            lease: None,
            attempts: Vec::new(),
            admitted: None,
            inference: None,
            traffic: Traffic::default(),
            reject: None,
            failed: None,
            ending: None,
            status: 0,
            reporter,
            reported: false,
        }
    }

    /// Empty only for a request that came through no listener.
    pub fn request_id(&self) -> HeaderValue {
        let arrival = self.arrival.as_ref();
        arrival.map_or(HeaderValue::from_static(""), |arrival| {
            arrival.request_id.clone()
        })
    }

    /// What becomes of the call of a model. Only to be asked where there is one.
    pub fn inference(&self) -> &Inference {
        self.inference
            .as_deref()
            .expect("it is there from the door on")
    }

    /// As [`Self::inference`].
    pub fn inference_mut(&mut self) -> &mut Inference {
        self.inference
            .as_deref_mut()
            .expect("it is there from the door on")
    }

    /// What makes spans of it, if anything does.
    pub fn tracing(&self) -> Option<&Arc<Tracing>> {
        self.snapshot.tracing.as_ref()
    }

    pub fn route(&self) -> Option<&Arc<Route>> {
        self.admission.as_ref().map(|admission| &admission.route)
    }

    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.admission.as_ref()?.principal.as_ref()
    }

    /// When the request must be over; tunnels have no such time.
    pub fn deadline(&self) -> Option<Instant> {
        let admission = self.admission.as_ref()?;
        if admission.tunnel.is_some() {
            return None;
        }
        self.started
            .checked_add(admission.route.settings.timeouts.total.0)
    }

    pub fn is_over_total(&self) -> bool {
        self.deadline()
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Until the deadline; none where there is none.
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether an attempt has met a kept connection that was closed at the other end.
    pub fn found_stale_connection(&self) -> bool {
        let failures = self.attempts.iter().filter_map(|attempt| attempt.failure);
        failures
            .into_iter()
            .any(|failure| failure == Failure::ReusedClosedSilent)
    }

    /// The pace that the caller must keep in one direction.
    pub fn pace(&self) -> Pace {
        let arrival = self.arrival.as_ref();
        let min_rate = arrival.map_or(0, |arrival| arrival.listener.min_rate);
        Pace::new(min_rate, self.idle_limit())
    }

    /// How long nothing may move.
    pub fn idle_limit(&self) -> Duration {
        self.route()
            .map_or(LIMIT_WITHOUT_ROUTE, |route| route.settings.timeouts.idle.0)
    }

    /// How long an endpoint that was sent everything may take to begin its answer.
    pub fn first_byte_limit(&self) -> Duration {
        self.route().map_or(LIMIT_WITHOUT_ROUTE, |route| {
            route.settings.timeouts.first_byte.0
        })
    }

    /// How long a tunnel may be silent.
    pub fn tunnel_limit(&self) -> Duration {
        self.route()
            .map_or(LIMIT_WITHOUT_ROUTE, |route| route.settings.websocket.idle.0)
    }

    /// Counts the messages of a WebSocket, if they are limited.
    pub fn message_meter(&self) -> Option<Meter> {
        let tunnel = self.admission.as_ref()?.tunnel.as_ref()?;
        tunnel.meter().cloned()
    }

    /// Whether the request asked for a WebSocket and was admitted as one.
    pub fn is_tunnel(&self) -> bool {
        self.admission
            .as_ref()
            .is_some_and(|admission| admission.tunnel.is_some())
    }

    /// The first word on how the request ended stands.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    pub fn refused(&mut self, reject: Reject) {
        self.end(super::endings::of_reject(reject.kind));
        self.reject = Some(reject);
    }

    /// Headers that every answer carries, ours or an endpoint's.
    pub fn decorate(&self, headers: &mut HeaderMap) {
        let Some(arrival) = &self.arrival else {
            return;
        };
        if let Some(hsts) = &arrival.listener.hsts {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        if let Some(admission) = &self.admission {
            super::identify::decorate(headers, admission);
        }
        let admission = self.admission.as_ref();
        if let Some(limits) = admission.and_then(|admission| admission.limit_headers.as_ref()) {
            limits.write(headers);
        }
        if let Some(inference) = &self.inference {
            super::infer::headers::standings(headers, self.admission.as_ref());
            if inference.dialect == DialectName::Messages {
                // Where Anthropic's SDKs look for it.
                headers.insert("request-id", arrival.request_id.clone());
            }
        }
        if let Some(route) = self.route() {
            super::forward::change(headers, &route.response_headers);
        }
        headers.insert(X_REQUEST_ID, arrival.request_id.clone());
    }
}

impl Drop for RequestContext {
    /// A task may be cut (a panic, the end of a drain): the request still gets its line, and its
    /// place in the gauges is given back.
    fn drop(&mut self) {
        if !self.reported {
            super::finish::report(self);
        }
    }
}
