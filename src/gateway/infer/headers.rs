//! Headers towards providers, of which each is chosen, and ours on the answer.

use super::Run;
use super::prepare::ANTHROPIC_VERSION;
use super::send::Question;
use crate::gateway::context::Admission;
use crate::snapshot::{Proof, Target, unix_now};
use crate::stage::ai::dialect::{DialectName, Framing};
use crate::stage::ai::key_ring::Picked;
use crate::stage::ai::provider::{Auth, BEDROCK, VERTEX, Way};
use crate::stage::ai::sigv4::{self, Scope};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;

const PROVIDER: HeaderName = HeaderName::from_static("x-onemind-provider");
const MODEL: HeaderName = HeaderName::from_static("x-onemind-model");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-onemind-attempts");
const OVERHEAD: HeaderName = HeaderName::from_static("x-onemind-overhead-us");
/// How long the call waited for a place at a provider, and for a key of it.
const QUEUED: HeaderName = HeaderName::from_static("x-onemind-queue-ms");
/// Fields of the call that the provider's dialect cannot say, and that were left out by rule.
const DROPPED: HeaderName = HeaderName::from_static("x-onemind-dropped");

const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
const OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");
/// The version of Anthropic's API that we speak where the caller names none.
const ANTHROPIC_VERSION_SPOKEN: &str = "2023-06-01";

const USER_AGENT: &str = concat!("onemind-gateway/", env!("CARGO_PKG_VERSION"));

/// What is sent to a provider. Nothing of the caller's goes there but what its dialect needs.
pub fn to_provider(
    caller: &HeaderMap,
    (target, way): (&Target, &Way),
    content_type: Option<&HeaderValue>,
    stream: bool,
) -> HeaderMap {
    let provider = &target.provider;
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(header::HOST, provider.host.clone());
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, content_type.cloned().unwrap_or(json));
    let dialect = way.operation.dialect();
    let framing = dialect.map_or(Framing::Events, |name| name.dialect().framing());
    let accept = if stream { framing.media_type() } else { "*/*" };
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    if *provider.kind == VERTEX {
        // Which says its version in the body.
        pass(caller, &mut headers, &ANTHROPIC_BETA);
    } else if way.auth(provider.kind) == Auth::XApiKey || dialect == Some(DialectName::Messages) {
        let spoken = HeaderValue::from_static(ANTHROPIC_VERSION_SPOKEN);
        let asked = caller.get(&ANTHROPIC_VERSION).cloned();
        headers.insert(ANTHROPIC_VERSION, asked.unwrap_or(spoken));
        pass(caller, &mut headers, &ANTHROPIC_BETA);
    } else {
        pass(caller, &mut headers, &OPENAI_BETA);
    }
    for (name, value) in &provider.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// Shows the provider who asks: a key, a token, or a signature over all of the rest.
pub fn show(
    question: &mut Question,
    (target, way): (&Target, &Way),
    (key, token): (&Picked, Option<&HeaderValue>),
) {
    let provider = &target.provider;
    let mut shown = Vec::new();
    if let Some(secret) = key.secret() {
        shown.push(way.auth(provider.kind).header(secret));
    } else if let Some(token) = token {
        question
            .headers
            .insert(header::AUTHORIZATION, token.clone());
    } else if let Some(Proof::Signature(credentials, region)) = &provider.proof {
        let scope = Scope {
            region,
            service: BEDROCK.name,
        };
        let text = |name| {
            let value: Option<&HeaderValue> = question.headers.get(name);
            value.and_then(|value| value.to_str().ok())
        };
        let request = sigv4::Request {
            method: question.method.as_str(),
            path: &question.target,
            host: text(header::HOST).unwrap_or_default(),
            content_type: text(header::CONTENT_TYPE),
            body: &question.body,
        };
        shown = sigv4::sign(credentials, scope, &request, unix_now());
    }
    for (name, value) in shown {
        if let Ok(mut value) = HeaderValue::from_str(&value) {
            value.set_sensitive(true);
            question
                .headers
                .insert(HeaderName::from_static(name), value);
        }
    }
}

/// What opens a WebSocket at a provider. No extension is offered: what passes must be readable.
pub fn to_realtime(caller: &HeaderMap, at: (&Target, &Way)) -> HeaderMap {
    let mut headers = to_provider(caller, at, None, false);
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::ACCEPT);
    pass(caller, &mut headers, &header::SEC_WEBSOCKET_KEY);
    pass(caller, &mut headers, &header::SEC_WEBSOCKET_VERSION);
    let offered: Vec<&str> = sub_protocols(caller).collect();
    if let Ok(offered) = HeaderValue::from_str(&offered.join(", "))
        && !offered.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    headers
}

/// Those of the caller's sub-protocols that a provider may see: `realtime` and versions of it. The others hold
/// credentials (`openai-insecure-api-key.…`) or name the caller's own account.
pub fn sub_protocols(caller: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = caller.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let words = lines.filter_map(|line| line.to_str().ok());
    let words = words.flat_map(|line| line.split(',')).map(str::trim);
    words.filter(|word| *word == "realtime" || word.starts_with("openai-beta."))
}

fn pass(from: &HeaderMap, to: &mut HeaderMap, name: &HeaderName) {
    for value in from.get_all(name) {
        to.append(name.clone(), value.clone());
    }
}

impl Run<'_> {
    /// Who answers, how many attempts that took, and what of the time was ours.
    pub fn decorate(&self, headers: &mut HeaderMap) {
        self.decorate_own(headers);
        self.ctx.decorate(headers);
    }

    /// The same without what every answer carries.
    pub fn decorate_own(&self, headers: &mut HeaderMap) {
        let Some(inference) = &self.ctx.inference else {
            return;
        };
        let mut insert = |name: HeaderName, value: Option<&str>| {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        };
        insert(PROVIDER, inference.provider.as_deref());
        insert(MODEL, inference.model.as_deref());
        if !self.dropped.is_empty() {
            insert(DROPPED, Some(&self.dropped.join(", ")));
        }
        headers.insert(ATTEMPTS, self.ctx.attempts.len().into());
        let queued = u64::try_from(inference.queued.as_millis()).unwrap_or(u64::MAX);
        headers.insert(QUEUED, queued.into());
        let overhead = self.ctx.started.elapsed();
        let overhead = overhead.saturating_sub(inference.waited + self.waits());
        headers.insert(OVERHEAD, micros(overhead).into());
    }

    /// How long the provider that is asked now has been waited for.
    fn waits(&self) -> Duration {
        self.waiting_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// `x-ratelimit-limit-requests` and its like, by which `OpenAI`'s SDKs and many tools know where they stand.
pub fn standings(headers: &mut HeaderMap, admission: Option<&Admission>) {
    let Some(admission) = admission else { return };
    for (standing, names) in admission.standings.iter().zip(&STANDINGS) {
        let Some(standing) = standing else { continue };
        headers.insert(names[0].clone(), standing.limit.into());
        headers.insert(names[1].clone(), standing.remaining.into());
        if let Ok(reset) = HeaderValue::try_from(span(standing.reset)) {
            headers.insert(names[2].clone(), reset);
        }
    }
}

const STANDINGS: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

/// As `OpenAI` writes a length of time: `12ms`, `1.5s`, `6m0s`.
fn span(time: Duration) -> String {
    let millis = time.as_millis();
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let seconds = millis % 60_000;
    let fraction = match seconds % 1_000 {
        0 => String::new(),
        rest => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    let seconds = format!("{}{fraction}s", seconds / 1_000);
    match (hours, minutes) {
        (0, 0) if millis < 1_000 => format!("{millis}ms"),
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_written_as_openai_does() {
        for (millis, text) in [
            (0, "0ms"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (59_999, "59.999s"),
            (360_000, "6m0s"),
            (3_661_020, "1h1m1.02s"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
