//! The spans of a request: one for itself, one below it for each attempt. Nothing is gathered for them on the way:
//! they are written from what the request knows of itself once it has ended, and only if they are kept.
//!
//! Names are those of OpenTelemetry's conventions for HTTP and for generative AI (`http.route` is the name of our
//! route); `onemind.*` is what they have no word for. No query, no header but `User-Agent`, no body and no credential is in any of them.

use super::context::{Arrival, Attempt, RequestContext};
use super::infer::record::{Inference, Source};
use crate::base::ending::{Ending, Fault};
use crate::observe::trace::Tracing;
use crate::observe::trace::rules::Seen;
use crate::observe::trace::span::{Attribute, Kind, Parent, Span, Value};
use crate::stage::ai::event::StopReason;
use crate::stage::listen::trace::TRACEPARENT;
use crate::stage::upstream::endpoint::{Address, Endpoint};
use crate::stage::upstream::retry::Failure;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Version};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Attempts beyond this many have no spans; `onemind.attempts` still counts them.
const ATTEMPTS_MAX: usize = 16;

/// The request has a place at an endpoint, or targets that may be asked.
pub fn admitted(ctx: &mut RequestContext) {
    if ctx.tracing().is_some() {
        ctx.admitted = Some(ctx.started.elapsed());
    }
}

/// Names the span of the attempt that has begun as the parent of what its endpoint does, unless the route has
/// put something else in its place.
pub fn tell(headers: &mut HeaderMap, ctx: &RequestContext) {
    let (Some(_), Some(arrival)) = (ctx.tracing(), &ctx.arrival) else {
        return;
    };
    let ours = headers.get(TRACEPARENT);
    if ours.is_some_and(|sent| arrival.trace.is_of(sent)) {
        let nth = ctx.attempts.len().saturating_sub(1);
        let span = span_of_attempt(arrival.trace.span(), nth);
        headers.insert(TRACEPARENT, arrival.trace.traceparent_of(span));
    }
}

/// The same for a provider. It is told ids only, and no `tracestate`, which may hold what is not for it.
pub fn show(headers: &mut HeaderMap, ctx: &RequestContext, nth: usize) {
    let (Some(_), Some(arrival)) = (ctx.tracing(), &ctx.arrival) else {
        return;
    };
    let span = span_of_attempt(arrival.trace.span(), nth);
    let traceparent = arrival.trace.traceparent_of(span);
    headers.entry(TRACEPARENT).or_insert(traceparent);
}

/// What each attempt is known by follows from the request's own span, so that none has to be kept.
/// (The finisher of splitmix64: different numbers stay different.)
fn span_of_attempt(request: u64, nth: usize) -> u64 {
    let step = (nth as u64).wrapping_add(1);
    let mut id = request.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (id ^ (id >> 31)).max(1)
}

/// A request that has ended.
struct Ended<'a> {
    ctx: &'a RequestContext,
    arrival: &'a Arrival,
    ending: Ending,
    /// 0 for none.
    status: u16,
    took: Duration,
    /// When it began, since 1970.
    began: Duration,
}

/// Sends its spans, if they are kept.
pub fn report(
    ctx: &RequestContext,
    (tracing, arrival): (&Tracing, &Arrival),
    ending: Ending,
    (status, took): (u16, Duration),
) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ended = Ended {
        ctx,
        arrival,
        ending,
        status,
        took,
        began: now.unwrap_or_default().saturating_sub(took),
    };
    let seen = Seen {
        sampled: arrival.trace.is_sampled(),
        failed: ended.has_failed(),
        took: ended.slow_after(),
    };
    if !tracing.decide(seen) {
        return;
    }
    let name = ended.name();
    let attempts = ctx.attempts.iter().take(ATTEMPTS_MAX).enumerate();
    let names: Vec<String> = attempts
        .clone()
        .map(|(_, attempt)| ended.name_of(attempt))
        .collect();
    let mut spans = vec![ended.request(&name)];
    for ((nth, attempt), name) in attempts.zip(&names) {
        spans.push(ended.attempt((nth, attempt), name));
    }
    tracing.put(&spans);
}

impl<'a> Ended<'a> {
    /// By the fault of somebody behind the caller.
    fn has_failed(&self) -> bool {
        self.status >= 500 || self.is_cut()
    }

    /// Whether the ending says more than the status.
    fn is_cut(&self) -> bool {
        matches!(self.ending.fault(), Fault::Upstream | Fault::Gateway)
    }

    /// The time by which it may be slow; none for what stays open.
    fn slow_after(&self) -> Option<Duration> {
        if self.ctx.is_tunnel() {
            return None;
        }
        let inference = self.ctx.inference.as_ref();
        let streamed = inference.filter(|inference| inference.streamed);
        let first_token = streamed.and_then(|inference| inference.first_token);
        Some(first_token.unwrap_or(self.took))
    }

    fn name(&self) -> String {
        let method = method(&self.arrival.method).unwrap_or("HTTP");
        match self.ctx.route() {
            Some(route) => format!("{method} {}", route.name),
            None => method.to_owned(),
        }
    }

    fn name_of(&self, attempt: &Attempt) -> String {
        match (&attempt.asked, &self.ctx.inference) {
            (Some(asked), Some(inference)) => {
                format!("{} {}", operation(inference.operation), asked.model)
            }
            _ => method(&self.arrival.method).unwrap_or("HTTP").to_owned(),
        }
    }

    /// The span of the request itself.
    fn request(&'a self, name: &'a str) -> Span<'a> {
        let trace = &self.arrival.trace;
        let failed = self.has_failed();
        let mut events = Vec::new();
        if let Some(admitted) = self.ctx.admitted {
            events.push(("admitted", self.at(admitted)));
        }
        let last = self.ctx.attempts.last();
        if let Some((last, first_byte)) = last.and_then(|last| Some((last, last.first_byte?))) {
            events.push(("first_byte", self.at(self.since(last.started) + first_byte)));
        }
        let inference = self.ctx.inference.as_deref();
        if let Some(first_token) = inference.and_then(|one| one.first_token) {
            events.push(("first_token", self.at(first_token)));
        }
        Span {
            trace_id: trace.trace_id(),
            id: trace.span(),
            parent: trace.parent().map(|id| Parent { id, remote: true }),
            flags: trace.flags(),
            kind: Kind::Server,
            name,
            start: nanos(self.began),
            end: self.at(self.took),
            attributes: self.attributes(failed),
            events,
            failed,
        }
    }

    fn attributes(&'a self, failed: bool) -> Vec<Attribute<'a>> {
        let (ctx, arrival) = (self.ctx, self.arrival);
        let mut list = Vec::with_capacity(28);
        method_of(&mut list, &arrival.method);
        list.push(("url.path", arrival.uri.path().into()));
        let scheme = if arrival.client.tls { "https" } else { "http" };
        list.push(("url.scheme", scheme.into()));
        list.push(("network.protocol.name", "http".into()));
        list.push(("network.protocol.version", version(arrival.version).into()));
        if let Some(route) = ctx.route() {
            list.push(("http.route", route.name.as_str().into()));
        }
        if self.status > 0 {
            list.push(("http.response.status_code", self.status.into()));
        }
        host(&mut list, arrival.host.as_ref());
        if let Some(agent) = &arrival.user_agent {
            list.push(("user_agent.original", Value::Text(agent.as_bytes())));
        }
        if failed {
            let known = Some(self.ending.name()).filter(|_| self.is_cut());
            let status = Value::Digits(self.status);
            list.push(("error.type", known.map_or(status, Value::from)));
        }
        list.push(("http.request.body.size", ctx.traffic.bytes_in.into()));
        list.push(("http.response.body.size", ctx.traffic.bytes_out.into()));
        list.push(("onemind.ending", self.ending.name().into()));
        list.push(("onemind.listener", arrival.listener.name.as_str().into()));
        let id = arrival.request_id.as_bytes();
        list.push(("onemind.request_id", Value::Text(id)));
        list.push(("onemind.attempts", (ctx.attempts.len() as u64).into()));
        if let Some(reject) = &ctx.reject {
            list.push(("onemind.code", reject.code().into()));
        }
        if ctx.is_tunnel() {
            list.push(("onemind.websocket", true.into()));
        }
        if let Some(inference) = &ctx.inference {
            list.push(("onemind.model", inference.asked.as_str().into()));
            list.push(("onemind.stream", inference.streamed.into()));
            list.push(("onemind.queue_ms", millis(inference.queued).into()));
        }
        list
    }

    /// The span of one attempt.
    fn attempt(&'a self, (nth, attempt): (usize, &'a Attempt), name: &'a str) -> Span<'a> {
        let trace = &self.arrival.trace;
        let began = self.since(attempt.started);
        let failed = self.failure_of(nth, attempt).is_some();
        let mut events = Vec::new();
        for (name, moment) in [
            ("connected", attempt.connected),
            ("first_byte", attempt.first_byte),
        ] {
            if let Some(moment) = moment {
                events.push((name, self.at(began + moment)));
            }
        }
        Span {
            trace_id: trace.trace_id(),
            id: span_of_attempt(trace.span(), nth),
            parent: Some(Parent {
                id: trace.span(),
                remote: false,
            }),
            flags: trace.flags(),
            kind: Kind::Client,
            name,
            start: self.at(began),
            end: self.at(began + attempt.took),
            attributes: self.attributes_of(nth, attempt),
            events,
            failed,
        }
    }

    fn attributes_of(&'a self, nth: usize, attempt: &'a Attempt) -> Vec<Attribute<'a>> {
        let mut list = Vec::with_capacity(24);
        if attempt.asked.is_some() && !self.ctx.is_tunnel() {
            list.push(("http.request.method", "POST".into()));
        } else {
            method_of(&mut list, &self.arrival.method);
        }
        place(&mut list, &attempt.endpoint);
        list.push(("onemind.endpoint", attempt.endpoint.name.as_str().into()));
        if let Some(upstream) = self.ctx.route().and_then(|route| route.upstream()) {
            list.push(("onemind.pool", upstream.pool.name.as_str().into()));
        }
        list.push(("onemind.connection.reused", attempt.reused.into()));
        if nth > 0 {
            list.push(("http.request.resend_count", (nth as u64).into()));
        }
        if let Some(status) = attempt.status {
            list.push(("http.response.status_code", status.into()));
        }
        if let Some(reason) = self.failure_of(nth, attempt) {
            list.push(("error.type", reason));
        }
        if let Some(inference) = &self.ctx.inference {
            self.of_model(&mut list, (nth, attempt), inference);
        }
        list
    }

    fn of_model(
        &'a self,
        list: &mut Vec<Attribute<'a>>,
        (nth, attempt): (usize, &'a Attempt),
        inference: &'a Inference,
    ) {
        let Some(asked) = &attempt.asked else {
            return;
        };
        // What speaks like OpenAI may be anybody: then its configured name says more.
        let kind = Some(asked.kind).filter(|kind| *kind != "compatible");
        let kind = kind.unwrap_or(asked.provider.as_str());
        let operation = operation(inference.operation);
        list.push(("gen_ai.operation.name", operation.into()));
        list.push(("gen_ai.provider.name", kind.into()));
        list.push(("gen_ai.request.model", asked.model.as_str().into()));
        list.push(("onemind.provider", asked.provider.as_str().into()));
        if nth + 1 < self.ctx.attempts.len() || inference.source == Source::None {
            return;
        }
        let answered_by = inference.answered_by.as_deref().unwrap_or_default();
        if !answered_by.is_empty() {
            list.push(("gen_ai.response.model", answered_by.into()));
        }
        if let Some(stop) = inference.stop.map(StopReason::name) {
            list.push(("gen_ai.response.finish_reasons", Value::OneOf(stop)));
        }
        let usage = &inference.usage;
        let write = usage.cache_write.saturating_add(usage.cache_write_hour);
        list.push(("gen_ai.usage.input_tokens", usage.total_input().into()));
        list.push(("gen_ai.usage.output_tokens", usage.total_output().into()));
        for (name, tokens) in [
            ("gen_ai.usage.cache_read.input_tokens", usage.cache_read),
            ("gen_ai.usage.cache_creation.input_tokens", write),
        ] {
            if tokens > 0 {
                list.push((name, tokens.into()));
            }
        }
        list.push(("onemind.usage", inference.source.name().into()));
    }

    /// How an attempt failed: a word of ours, or the status that it was answered with.
    fn failure_of(&self, nth: usize, attempt: &Attempt) -> Option<Value<'static>> {
        let known = attempt.reason.or(attempt.failure.map(Failure::name));
        let is_last = nth + 1 == self.ctx.attempts.len();
        let cut = Some(self.ending.name()).filter(|_| is_last && self.is_cut());
        let status = attempt.status.filter(|status| *status >= 400);
        let word = known.or(cut).map(Value::from);
        word.or(status.map(Value::Digits))
    }

    /// From the beginning of the request.
    fn since(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.ctx.started)
    }

    fn at(&self, since: Duration) -> u64 {
        nanos(self.began + since)
    }
}

/// What a caller asks for, in whichever dialect, as the conventions name it; our own word where they have none.
fn operation(door: &'static str) -> &'static str {
    match door {
        "responses" | "messages" => "chat",
        "embed_content" | "batch_embed_contents" => "embeddings",
        other => other,
    }
}

/// The methods of RFC 9110 and `PATCH`; others are made up by callers, and no names of spans.
fn method(method: &Method) -> Option<&str> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ];
    KNOWN.contains(method).then_some(method.as_str())
}

fn method_of<'a>(list: &mut Vec<Attribute<'a>>, given: &'a Method) {
    let known = method(given);
    list.push(("http.request.method", known.unwrap_or("_OTHER").into()));
    if known.is_none() {
        list.push(("http.request.method_original", given.as_str().into()));
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// The host that was asked for, if it is one.
fn host<'a>(list: &mut Vec<Attribute<'a>>, asked: Option<&'a HeaderValue>) {
    let Some(asked) = asked.and_then(|asked| asked.to_str().ok()) else {
        return;
    };
    let Ok(authority) = asked.parse::<Authority>() else {
        return;
    };
    // Borrowed from what was asked: the parsed one does not live as long.
    let after_user = asked.rsplit('@').next().unwrap_or(asked);
    let name = &after_user[..authority.host().len().min(after_user.len())];
    list.push(("server.address", name.into()));
    if let Some(port) = authority.port_u16() {
        list.push(("server.port", port.into()));
    }
}

fn place<'a>(list: &mut Vec<Attribute<'a>>, endpoint: &'a Endpoint) {
    match (&endpoint.address, &endpoint.host) {
        (Address::Ip(address), Some(host)) => {
            list.push(("server.address", host.as_str().into()));
            list.push(("server.port", address.port().into()));
        }
        (Address::Ip(address), None) => {
            let (name, _) = endpoint.name.rsplit_once(':').unwrap_or_default();
            let name = name.trim_start_matches('[').trim_end_matches(']');
            list.push(("server.address", name.into()));
            list.push(("server.port", address.port().into()));
        }
        (Address::Unix(_), _) => {
            let path = endpoint.name.trim_start_matches("unix:");
            list.push(("server.address", path.into()));
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_host_is_told_without_port_and_user() {
        for (asked, name, port) in [
            ("a.test", Some("a.test"), None),
            ("a.test:8443", Some("a.test"), Some(8443)),
            ("me:pw@a.test:80", Some("a.test"), Some(80)),
            ("[::1]:80", Some("[::1]"), Some(80)),
            ("a b", None, None),
        ] {
            let value = HeaderValue::from_static(asked);
            let mut list = Vec::new();
            host(&mut list, Some(&value));
            let mut expected: Vec<Attribute<'_>> = Vec::new();
            expected.extend(name.map(|name| ("server.address", Value::from(name))));
            expected.extend(port.map(|port: u16| ("server.port", Value::from(port))));
            assert_eq!(list, expected, "{asked}");
        }
    }

    #[test]
    fn methods_that_callers_make_up_are_no_names() {
        let made_up = Method::from_bytes(b"BREW").unwrap();
        let mut list = Vec::new();
        method_of(&mut list, &made_up);
        method_of(&mut list, &Method::GET);
        assert_eq!(
            list,
            [
                ("http.request.method", "_OTHER".into()),
                ("http.request.method_original", "BREW".into()),
                ("http.request.method", "GET".into()),
            ]
        );
    }

    proptest! {
        #[test]
        fn attempts_and_their_request_have_ids_of_their_own(request in 1_u64..) {
            let ids: HashSet<u64> = (0..ATTEMPTS_MAX).map(|nth| span_of_attempt(request, nth)).chain([request]).collect();
            prop_assert_eq!(ids.len(), ATTEMPTS_MAX + 1);
            prop_assert!(!ids.contains(&0));
        }
    }
}
