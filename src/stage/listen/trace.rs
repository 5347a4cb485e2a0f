//! One request, one identity: W3C trace context continued or begun, and the request id.
//!
//! Without `tracing` no span of ours will ever be found, so a trace that a trusted peer has begun is passed on
//! as it came. With it, ours stand between that peer's span and those of endpoints.

use crate::observe::trace::rules::Rules;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroU64;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const TRACEPARENT_BYTES: usize = 55;
/// Where the span and the flags are.
const SPAN_AT: usize = 36;
const FLAGS_AT: usize = 53;
/// Longer than any scheme in use; every log line and every answer carries it.
const REQUEST_ID_BYTES_MAX: usize = 128;

const SAMPLED: u8 = 1;
/// Flags that have a meaning: sampled, and (Level 2) that the trace id is random.
const FLAGS: u8 = SAMPLED | 2;
/// Of a trace that begins here while we make no spans. Sampled, for endpoints commonly decide as their parent did:
/// a trace begun with 0 would switch off the tracing of everything behind us.
const FLAGS_BEGUN: u8 = FLAGS;

/// A `traceparent` as it was sent (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub parent_id: u64,
    pub flags: u8,
}

impl TraceParent {
    /// Lower-case digits only and no id of zeros. A later version than 00 may have more at its end,
    /// which is not read.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(TRACEPARENT_BYTES)?;
        let dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
        let version = hexadecimal(&known[..2])?;
        let ends_well = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let parsed = Self {
            trace_id: hexadecimal(&known[3..35])?,
            parent_id: u64::try_from(hexadecimal(&known[36..52])?).ok()?,
            flags: u8::try_from(hexadecimal(&known[53..])?).ok()? & FLAGS,
        };
        (dashes && ends_well && parsed.trace_id != 0 && parsed.parent_id != 0).then_some(parsed)
    }
}

/// At most 32 lower-case digits.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// By hand: every request writes one, and the formatter was a third of what a trace costs.
fn write_hexadecimal(text: &mut Vec<u8>, number: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in number {
        text.extend([
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 0xf)],
        ]);
    }
}

/// The trace that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// A `traceparent` whose span is ours, or the peer's where ours is not made; the ids are read from it.
    text: Bytes,
    /// The span of the peer before us.
    parent: Option<NonZeroU64>,
    /// Whether spans are made of what we do.
    own: bool,
    /// Whether the trace began before us. Only then is `tracestate` passed on: it belongs to that
    /// trace.
    pub continued: bool,
}

impl Trace {
    /// Continues the trace of a trusted peer, or begins a new one. `rules`: of the spans that are made; none if none are.
    pub fn begin(headers: &HeaderMap, trusted: bool, rules: Option<&Rules>) -> Self {
        IDS.with_borrow_mut(|ids| Self::begin_with((headers, trusted), rules, ids))
    }

    fn begin_with(
        (headers, trusted): (&HeaderMap, bool),
        rules: Option<&Rules>,
        ids: &mut fastrand::Rng,
    ) -> Self {
        let parent = only(headers, &TRACEPARENT)
            .filter(|_| trusted)
            .and_then(|value| TraceParent::parse(value.as_bytes()));
        let (trace_id, mut flags) = match parent {
            Some(parent) => (parent.trace_id, parent.flags),
            None => (ids.u128(..).max(1), FLAGS_BEGUN),
        };
        if let Some(rules) = rules {
            let before = parent.map(|parent| parent.flags & SAMPLED != 0);
            let sampled = rules.samples(trace_id, before);
            flags = flags & !SAMPLED | if sampled { SAMPLED } else { 0 };
        }
        let span_id = match parent {
            Some(parent) if rules.is_none() => parent.parent_id,
            _ => ids.u64(..).max(1),
        };
        Self {
            text: written(trace_id, span_id, flags),
            parent: parent.and_then(|parent| NonZeroU64::new(parent.parent_id)),
            own: rules.is_some(),
            continued: parent.is_some(),
        }
    }

    /// What to send on in place of what came; none where that is passed on unchanged.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let unchanged = self.continued && !self.own;
        (!unchanged).then(|| visible(self.text.clone()))
    }

    /// What to send with a span of ours that is below the one of the request. `span`: not 0.
    pub fn traceparent_of(&self, span: u64) -> HeaderValue {
        let mut text = self.text.to_vec();
        text.truncate(SPAN_AT);
        write_hexadecimal(&mut text, &span.to_be_bytes());
        text.extend_from_slice(&self.text[FLAGS_AT - 1..]);
        visible(text.into())
    }

    /// Whether a `traceparent` of this trace is what these bytes are.
    pub fn is_of(&self, traceparent: &HeaderValue) -> bool {
        traceparent.as_bytes().get(..SPAN_AT) == Some(&self.text[..SPAN_AT])
    }

    /// The span of the request, if spans are made.
    pub fn span(&self) -> u64 {
        let id = hexadecimal(&self.text[SPAN_AT..FLAGS_AT - 1]);
        id.and_then(|id| u64::try_from(id).ok()).unwrap_or(1)
    }

    /// The span of the trusted peer that the request came from.
    pub fn parent(&self) -> Option<u64> {
        self.parent.map(NonZeroU64::get)
    }

    pub fn flags(&self) -> u8 {
        let flags = hexadecimal(&self.text[FLAGS_AT..]);
        flags
            .and_then(|flags| u8::try_from(flags).ok())
            .unwrap_or(0)
    }

    pub fn is_sampled(&self) -> bool {
        self.flags() & SAMPLED != 0
    }

    /// 32 digits, for the log.
    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.text[3..35]).unwrap_or_default()
    }

    /// The id that logs, answers and endpoints quote: a trusted peer's own if it is 1 to 128
    /// visible ASCII characters.
    ///
    /// Otherwise it is the trace id: 128 bits, and one search finds the log line and the trace.
    pub fn request_id(&self, headers: &HeaderMap, trusted: bool) -> HeaderValue {
        only(headers, &X_REQUEST_ID)
            .filter(|value| trusted && is_sane(value.as_bytes()))
            .cloned()
            .unwrap_or_else(|| visible(self.text.slice(3..35)))
    }
}

fn written(trace_id: u128, span_id: u64, flags: u8) -> Bytes {
    let mut text = Vec::with_capacity(TRACEPARENT_BYTES);
    text.extend_from_slice(b"00-");
    write_hexadecimal(&mut text, &trace_id.to_be_bytes());
    text.push(b'-');
    write_hexadecimal(&mut text, &span_id.to_be_bytes());
    text.push(b'-');
    write_hexadecimal(&mut text, &[flags]);
    text.into()
}

fn is_sane(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The value of a header that is there once. Two contradict each other, so neither is believed.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn visible(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("digits and dashes are visible")
}

thread_local! {
    /// Good enough to tell requests apart, and a few nanoseconds. Never for secrets: who has seen a
    /// few ids can compute all that follow. Seeded by the system, not by the clock, so that two
    /// gateways started at once differ.
    static IDS: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::with_seed(RandomState::new().hash_one(())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_valid_traceparent_is_taken() {
        for (end, flags) in [("01", 1), ("00", 0), ("ff", 3)] {
            let text = GIVEN.replace("-01", &format!("-{end}"));
            let parent = TraceParent::parse(text.as_bytes()).expect("valid");
            assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
            assert_eq!(parent.parent_id, 0x00f0_67aa_0ba9_02b7);
            assert_eq!(parent.flags, flags, "{text}");
        }
        // A later version, which may have more at its end.
        for later in [
            GIVEN.replacen("00", "cc", 1),
            GIVEN.replacen("00", "cc", 1) + "-more",
        ] {
            let parent = TraceParent::parse(later.as_bytes());
            assert_eq!(parent, TraceParent::parse(GIVEN.as_bytes()), "{later}");
        }
    }

    #[test]
    fn an_invalid_traceparent_is_not() {
        for text in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "",
        ] {
            assert_eq!(TraceParent::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_trace_is_continued_for_trusted_peers_and_begun_for_all_others() {
        let given = [(TRACEPARENT, GIVEN)];
        let twice = [(TRACEPARENT, GIVEN), (TRACEPARENT, GIVEN)];
        for (lines, trusted, continued) in [
            (&given[..], true, true),
            (&given[..], false, false),
            (&twice[..], true, false),
            (&[(TRACEPARENT, "nonsense")], true, false),
            (&[], true, false),
        ] {
            let trace = Trace::begin(&headers(lines), trusted, None);
            assert_eq!(trace.continued, continued, "{lines:?}");
            assert_eq!(trace.trace_id() == &GIVEN[3..35], continued, "{lines:?}");
            let sent = trace.traceparent();
            assert_eq!(sent.is_none(), continued, "it is passed on: {lines:?}");
            if let Some(sent) = sent {
                let sent = TraceParent::parse(sent.as_bytes()).expect("we send what we would take");
                assert_eq!(sent.flags & SAMPLED, SAMPLED);
            }
        }
    }

    fn rules(sample: f64, follow_parent: bool) -> Rules {
        let settings = serde_json::json!({
            "endpoint": "http://c:4318",
            "sample": sample,
            "follow_parent": follow_parent,
        });
        Rules::new(&serde_json::from_value(settings).unwrap())
    }

    #[test]
    fn with_spans_of_our_own_ours_is_sent_and_the_peer_s_is_its_parent() {
        let unsampled = GIVEN.replace("-01", "-00");
        for (given, trusted, sample, follows, sampled) in [
            (GIVEN, true, 0.0, true, true),
            (unsampled.as_str(), true, 1.0, true, false),
            (GIVEN, true, 0.0, false, false),
            (unsampled.as_str(), true, 1.0, false, true),
            (GIVEN, false, 0.0, true, false),
            (unsampled.as_str(), false, 1.0, true, true),
            ("nonsense", true, 1.0, true, true),
        ] {
            let rules = rules(sample, follows);
            let trace = Trace::begin(&headers(&[(TRACEPARENT, given)]), trusted, Some(&rules));
            let continued = trusted && given != "nonsense";
            assert_eq!(trace.continued, continued, "{given}");
            let parent = continued.then_some(0x00f0_67aa_0ba9_02b7);
            assert_eq!(trace.parent(), parent, "{given}");
            assert_eq!(trace.is_sampled(), sampled, "{given} {sample} {follows}");
            let sent = trace.traceparent().expect("one of our own");
            let sent = TraceParent::parse(sent.as_bytes()).unwrap();
            assert_eq!(sent.parent_id, trace.span());
            assert_ne!(Some(sent.parent_id), parent);
            let below = trace.traceparent_of(7);
            assert!(trace.is_of(&below));
            assert!(!trace.is_of(&HeaderValue::from_static("x")));
            let below = TraceParent::parse(below.as_bytes()).unwrap();
            assert_eq!(below.parent_id, 7);
            assert_eq!((below.trace_id, below.flags), (sent.trace_id, sent.flags));
        }
    }

    #[test]
    fn a_request_id_is_kept_only_if_it_is_sane_and_from_a_trusted_peer() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        let too_long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        let trace = Trace::begin(&HeaderMap::new(), false, None);
        for (lines, trusted, kept) in [
            (vec!["abc-123"], true, true),
            (vec![longest.as_str()], true, true),
            (vec![too_long.as_str()], true, false),
            (vec!["abc-123"], false, false),
            (vec!["with space"], true, false),
            (vec!["\u{e9}"], true, false),
            (vec![""], true, false),
            (vec!["a", "b"], true, false),
            (vec![], true, false),
        ] {
            let lines: Vec<_> = lines.into_iter().map(|line| (X_REQUEST_ID, line)).collect();
            let id = trace.request_id(&headers(&lines), trusted);
            let expected = if kept { lines[0].1 } else { trace.trace_id() };
            assert_eq!(id, expected, "{lines:?}");
        }
    }

    #[test]
    fn ids_differ_within_a_thread_and_between_threads() {
        let some = || {
            (0..1000)
                .map(|_| {
                    Trace::begin(&HeaderMap::new(), false, None)
                        .trace_id()
                        .to_owned()
                })
                .collect()
        };
        let mut ids: Vec<String> = some();
        for thread in [std::thread::spawn(some), std::thread::spawn(some)] {
            ids.extend(thread.join().unwrap());
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in prop::collection::vec(any::<u8>(), 0..70), seed: u64) {
            let _ = TraceParent::parse(&text);
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                headers.append(TRACEPARENT, value.clone());
                headers.append(X_REQUEST_ID, value);
            }
            let trace = Trace::begin_with((&headers, true), None, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(TraceParent::parse(&trace.text).is_some());
            prop_assert!(is_sane(trace.request_id(&headers, true).as_bytes()));
        }
    }
}
