//! What providers' refusals share: how long they ask to wait, and a message short enough to hand on.

use super::fault::MESSAGE_BYTES_MAX;
use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use std::time::Duration;

/// Longer waits are told as this: whoever asks for more has no use for an exact number.
pub const WAIT_MAX: Duration = Duration::from_hours(24);

/// What the headers ask to wait: `retry-after-ms` (`OpenAI`, Azure), else `retry-after` as seconds, which may
/// have a fraction, or as a date (RFC 9110 10.2.3), counted from the answer's own `date`, so that our clock does
/// not matter. At most [`WAIT_MAX`].
pub fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(number) {
        return seconds(millis / 1000.0);
    }
    let after = text(RETRY_AFTER.as_str())?;
    if let Some(wait) = number(after) {
        return seconds(wait);
    }
    let until = httpdate::parse_http_date(after).ok()?;
    let sent = httpdate::parse_http_date(text(DATE.as_str())?).ok()?;
    Some(until.duration_since(sent).unwrap_or_default().min(WAIT_MAX))
}

/// A length of time as providers write it: `6m0s`, `1.5s`, `20ms`, `1h2m3.5s`, `34.07s`; a number without a unit
/// is seconds. At most [`WAIT_MAX`].
pub fn span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Some(plain) = number(rest) {
        return seconds(plain);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount = number(&rest[..digits])?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += amount * unit_seconds(&rest[..unit])?;
        rest = &rest[unit..];
    }
    seconds(total)
}

/// At most [`MESSAGE_BYTES_MAX`] of a message, cut between characters.
pub fn cut(message: &str) -> String {
    let message = message.trim();
    message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned()
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

/// Digits and a point; not the `inf`, `1e9` and `-0` that the standard library reads too.
fn number(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

fn seconds(wait: f64) -> Option<Duration> {
    (wait >= 0.0).then(|| {
        Duration::try_from_secs_f64(wait)
            .unwrap_or(WAIT_MAX)
            .min(WAIT_MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(headers: &[(&'static str, &str)], millis: Option<u64>) {
        let map: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        assert_eq!(
            asked(&map),
            millis.map(Duration::from_millis),
            "{headers:?}"
        );
    }

    #[test]
    fn headers_ask_in_milliseconds_seconds_or_until_a_date() {
        check(&[], None);
        check(&[("retry-after", "7")], Some(7_000));
        check(&[("retry-after", " 0.25 ")], Some(250));
        check(&[("retry-after", "0")], Some(0));
        check(
            &[("retry-after-ms", "1500"), ("retry-after", "9")],
            Some(1_500),
        );
        check(
            &[("retry-after-ms", "soon"), ("retry-after", "9")],
            Some(9_000),
        );
        check(&[("retry-after", "-3")], None);
        check(&[("retry-after", "1e9")], None);
        check(&[("retry-after", "NaN")], None);
        check(&[("retry-after", "99999999999999999999")], Some(86_400_000));
        let until = ("retry-after", "Tue, 24 Nov 2026 14:00:30 GMT");
        check(
            &[until, ("date", "Tue, 24 Nov 2026 14:00:00 GMT")],
            Some(30_000),
        );
        check(&[until, ("date", "Tue, 24 Nov 2026 15:00:00 GMT")], Some(0));
        check(&[until], None);
    }

    #[test]
    fn spans_of_time_are_read_with_all_their_units() {
        for (text, millis) in [
            ("6m0s", Some(360_000)),
            ("1.5s", Some(1_500)),
            ("20ms", Some(20)),
            ("1h2m3.5s", Some(3_723_500)),
            ("34", Some(34_000)),
            ("2d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("5x", None),
            ("5s6", None),
            ("1.2.3s", None),
            ("-5s", None),
        ] {
            assert_eq!(span(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(cut(" short "), "short");
        let long = cut(&"ä".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(long.len(), MESSAGE_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), MESSAGE_BYTES_MAX - 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,20}|[0-9.]{0,30}(ms|m|s|h){0,3}[0-9.]{0,9}") {
            if let Some(wait) = span(&text) {
                prop_assert!(wait <= WAIT_MAX);
            }
        }
    }
}
