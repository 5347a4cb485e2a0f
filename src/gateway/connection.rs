//! The requests of one connection: one after the other in HTTP/1.1, side by side in HTTP/2.

use super::Gateway;
use super::caller::h1::{H1, NoRequest};
use super::caller::h2::{self as caller_h2, H2};
use super::flood::{Meter, Metered};
use super::life::{self, Lane};
use super::timer::{Signal, Timer};
use crate::base::reject::{Reject, RejectKind};
use crate::snapshot::ListenerRules;
use crate::stage::listen::conn::{Arrived, ConnectionFacts};
use crate::stage::upstream::connector::Connector;
use crate::wire::head::{HeadFault, HeadLimits, RequestHead};
use bytes::Bytes;
use pingora::protocols::Stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// For the first request.
const FIRST_REQUEST_MAX: Duration = Duration::from_mins(1);

/// What one caller may have on its way to us on one HTTP/2 connection; the 64 KiB of the protocol's
/// default would hold up uploads on long links.
const HTTP2_CONNECTION_WINDOW: u32 = 1 << 20;
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;

/// What waits for a caller that does not read, on each stream. The library's 400 KiB would let a hundred
/// streams hold 40 MiB.
const HTTP2_SEND_BUFFER_MAX: usize = 64 << 10;

/// Requests at once on one connection.
const HTTP2_STREAMS_MAX: u32 = 100;

/// Malformed requests before the connection is given up.
const HTTP2_FAULTS_MAX: usize = 32;

/// For the last words to a caller that is sent away.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What ends connections beside their callers.
#[derive(Clone)]
pub struct Closing {
    /// True once the process is about to stop: the next answer is the last on its connection.
    pub soon: watch::Receiver<bool>,
    /// True once those that rest must end.
    pub idle: watch::Receiver<bool>,
    /// True once WebSockets and streams of events must end, too.
    pub cut: watch::Receiver<bool>,
}

/// Serves until either side has enough.
pub async fn serve(
    gateway: &Gateway,
    connector: &Arc<Connector>,
    arrived: Arrived,
    closing: Closing,
) {
    let Arrived {
        stream,
        facts,
        http2,
    } = arrived;
    if http2 {
        Box::pin(serve_http2(gateway, connector, stream, facts, closing)).await;
    } else {
        serve_http1(Lane { gateway, connector }, stream, facts, closing).await;
    }
}

async fn serve_http1(lane: Lane<'_>, stream: Stream, facts: ConnectionFacts, closing: Closing) {
    let mut timer = Timer::new(closing.cut.clone());
    let mut ends = Signal::new(closing.idle);
    let mut h1 = Box::new(H1::new(stream));
    let mut rules = rules(lane.gateway, &facts);
    let mut rest = FIRST_REQUEST_MAX;
    let mut served = 0;
    while h1.wakes(rest, &mut timer, |cx| ends.poll(cx)).await {
        let limits = (rules.head, rules.head_timeout);
        let read = h1.read_head(limits, &mut timer).await;
        served += 1;
        let last = served >= rules.keepalive_requests || *closing.soon.borrow();
        let mut caller = match read {
            Ok(head) => h1.into_caller(head, facts.clone(), last),
            Err(NoRequest::Closed) => return,
            Err(no) => {
                h1.give_up_request();
                let mut caller = h1.into_caller(stand_in(), facts, true);
                let reject = reject_of(no);
                Box::pin(life::turn_away(lane, &mut caller, &mut timer, reject)).await;
                if let Some(h1) = caller.into_h1() {
                    Box::pin(h1.close(&mut timer)).await;
                }
                return;
            }
        };
        // Boxed: a connection at rest holds nothing of its requests.
        let life = Box::pin(life::live(lane, &mut caller, &mut timer));
        if let Some(now) = life.await {
            rules = now;
        }
        let Some(same) = caller.into_h1() else {
            return;
        };
        h1 = same;
        if !h1.can_go_on(&mut timer).await {
            return Box::pin(h1.close(&mut timer)).await;
        }
        rest = rules.keepalive;
    }
}

fn rules(gateway: &Gateway, facts: &ConnectionFacts) -> Arc<ListenerRules> {
    let snapshot = gateway.current.load();
    snapshot.rules_of(&facts.listener, &gateway.reporter.metrics)
}

/// In place of a head that could not be read.
fn stand_in() -> RequestHead {
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = http::Method::from_bytes(b"-").expect("a hyphen is a token");
    RequestHead {
        parts,
        spelling: crate::wire::fields::Spelling::default(),
    }
}

fn reject_of(no: NoRequest) -> Reject {
    match no {
        NoRequest::Closed => RejectKind::BadRequest.into(),
        NoRequest::TimedOut => RejectKind::HeadTimedOut.into(),
        NoRequest::Faulty(fault) => reject_of_fault(fault),
    }
}

fn reject_of_fault(fault: HeadFault) -> Reject {
    match fault {
        HeadFault::TooLarge => RejectKind::HeadTooLarge.because("too many bytes"),
        HeadFault::TooManyFields => RejectKind::HeadTooLarge.because("too many fields"),
        HeadFault::Version => RejectKind::VersionNotSupported.into(),
        HeadFault::Malformed(reason) => RejectKind::BadRequest.because(reason),
    }
}

/// Streams that run, so that an idle connection can be told from a busy one.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    idle: Notify,
}

struct Open(Arc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

impl Streams {
    fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(Arc::clone(self))
    }

    /// Returns when no stream has been open for so long.
    async fn rest(&self, keepalive: Duration) {
        while self.open.load(Relaxed) > 0 {
            self.idle.notified().await;
        }
        tokio::time::sleep(keepalive).await;
    }
}

fn http2_options(head: HeadLimits) -> h2::server::Builder {
    let mut options = h2::server::Builder::new();
    options
        .initial_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buffer_size(HTTP2_SEND_BUFFER_MAX)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(head.bytes.saturating_mul(2)).unwrap_or(u32::MAX));
    options
}

/// Says what it must to a caller that floods, and does not wait long to be heard.
async fn end_flood(connection: &mut h2::server::Connection<Metered, Bytes>, timer: &mut Timer) {
    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
    let farewell = std::future::poll_fn(|cx| connection.poll_closed(cx));
    // Whoever does not listen is not waited for.
    let _ = timer.within(FAREWELL_MAX, farewell).await;
}

async fn serve_http2(
    gateway: &Gateway,
    connector: &Arc<Connector>,
    stream: Stream,
    facts: ConnectionFacts,
    closing: Closing,
) {
    let mut timer = Timer::new(closing.cut.clone());
    let rules_now = rules(gateway, &facts);
    let head = rules_now.head;
    let meter = Arc::new(Meter::default());
    let metered = Metered::new(stream, Arc::clone(&meter), rules_now.head_timeout);
    let shaken = http2_options(head).handshake::<_, Bytes>(metered);
    let Some(Ok(mut connection)) = timer.within(FIRST_REQUEST_MAX, shaken).await else {
        return;
    };
    let streams = Arc::new(Streams::default());
    let mut ends = Signal::new(closing.soon);
    let mut ending = false;
    let (mut faults, mut served) = (0, 0);
    loop {
        let accepted = tokio::select! {
            biased;
            () = std::future::poll_fn(|cx| ends.poll(cx)), if !ending => {
                connection.graceful_shutdown();
                ending = true;
                continue;
            }
            accepted = connection.accept() => accepted,
            () = streams.rest(rules_now.keepalive) => return,
        };
        // None: closed in good order. An error: the caller left, or quarrelled with the library.
        let Some(Ok((request, respond))) = accepted else {
            if let Some(reason) = meter.verdict() {
                rules(gateway, &facts).metrics.rejected(reason);
            }
            return;
        };
        let mut caller = H2::caller(request, respond, facts.clone(), Arc::clone(&meter));
        let fault = caller_h2::check(&caller.head, head).err();
        faults += usize::from(fault.is_some());
        served += 1;
        if served >= rules_now.keepalive_requests && !ending {
            // What is under way is answered; the caller opens another connection for the rest.
            connection.graceful_shutdown();
            ending = true;
        }
        if faults > HTTP2_FAULTS_MAX || meter.gives_up_too_often() {
            rules(gateway, &facts).metrics.rejected("http2_flood");
            return end_flood(&mut connection, &mut timer).await;
        }
        let (gateway, connector) = (gateway.clone(), Arc::clone(connector));
        let open = streams.open();
        let cut = closing.cut.clone();
        tokio::spawn(async move {
            let _open = open;
            let mut timer = Timer::new(cut);
            let lane = Lane {
                gateway: &gateway,
                connector: &connector,
            };
            match fault.map(reject_of_fault) {
                Some(reject) => life::turn_away(lane, &mut caller, &mut timer, reject).await,
                None => drop(life::live(lane, &mut caller, &mut timer).await),
            }
        });
    }
}
