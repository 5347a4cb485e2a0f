//! One request, one identity: W3C trace context continued or begun, and the request id.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const TRACEPARENT_BYTES: usize = 55;
/// Longer than any scheme in use; every log line and every answer carries it.
const REQUEST_ID_BYTES_MAX: usize = 128;

const SAMPLED: u8 = 1;
/// Flags that have a meaning: sampled, and (Level 2) that the trace id is random.
const FLAGS: u8 = SAMPLED | 2;
/// Of a trace that begins here. Sampled, for endpoints commonly decide as their parent did:
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

/// The trace that a request belongs to, with this gateway as the latest span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The `traceparent` to send; the ids are read from it.
    text: Bytes,
    /// Whether the trace began before us. Only then is `tracestate` passed on: it belongs to that
    /// trace.
    pub continued: bool,
}

impl Trace {
    /// Continues the trace of a trusted peer with a span of our own, or begins a new one.
    pub fn begin(headers: &HeaderMap, trusted: bool) -> Self {
        IDS.with_borrow_mut(|ids| Self::begin_with(headers, trusted, ids))
    }

    fn begin_with(headers: &HeaderMap, trusted: bool, ids: &mut fastrand::Rng) -> Self {
        let parent = only(headers, &TRACEPARENT)
            .filter(|_| trusted)
            .and_then(|value| TraceParent::parse(value.as_bytes()));
        let (trace_id, flags) = match parent {
            Some(parent) => (parent.trace_id, parent.flags),
            None => (ids.u128(..).max(1), FLAGS_BEGUN),
        };
        let span_id = ids.u64(..).max(1);
        let mut text = Vec::with_capacity(TRACEPARENT_BYTES);
        text.extend_from_slice(b"00-");
        write_hexadecimal(&mut text, &trace_id.to_be_bytes());
        text.push(b'-');
        write_hexadecimal(&mut text, &span_id.to_be_bytes());
        text.push(b'-');
        write_hexadecimal(&mut text, &[flags]);
        Self {
            text: text.into(),
            continued: parent.is_some(),
        }
    }

    /// What to send on.
    pub fn traceparent(&self) -> HeaderValue {
        visible(self.text.clone())
    }

    /// 32 digits, for the log.
    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.text[3..35]).unwrap_or_default()
    }

    /// 16 digits, for the log.
    pub fn span_id(&self) -> &str {
        std::str::from_utf8(&self.text[36..52]).unwrap_or_default()
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
            let trace = Trace::begin(&headers(lines), trusted);
            assert_eq!(trace.continued, continued, "{lines:?}");
            assert_eq!(trace.trace_id() == &GIVEN[3..35], continued, "{lines:?}");
            assert_ne!(trace.span_id(), &GIVEN[36..52], "{lines:?}");
            let sent = TraceParent::parse(trace.traceparent().as_bytes())
                .expect("we send what we would take");
            assert_eq!(sent.flags & SAMPLED, SAMPLED);
        }
        let unsampled = headers(&[(TRACEPARENT, &GIVEN.replace("-01", "-00"))]);
        assert!(
            Trace::begin(&unsampled, true)
                .traceparent()
                .to_str()
                .unwrap()
                .ends_with("-00")
        );
    }

    #[test]
    fn a_request_id_is_kept_only_if_it_is_sane_and_from_a_trusted_peer() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        let too_long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        let trace = Trace::begin(&HeaderMap::new(), false);
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
                .map(|_| Trace::begin(&HeaderMap::new(), false).trace_id().to_owned())
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
            let trace = Trace::begin_with(&headers, true, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(TraceParent::parse(trace.traceparent().as_bytes()).is_some());
            prop_assert!(is_sane(trace.request_id(&headers, true).as_bytes()));
        }
    }
}
