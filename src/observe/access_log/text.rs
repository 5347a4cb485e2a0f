//! Text, numbers and times as JSON, appended to a buffer without allocation.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Shows that a value was longer than its limit.
const CUT_MARK: &str = "…";

/// Appends a JSON string of at most `bytes_max` bytes of the value.
pub fn string(out: &mut Vec<u8>, value: &[u8], bytes_max: usize) {
    out.push(b'"');
    let (value, was_cut) = cut(value, bytes_max);
    escaped(out, value);
    if was_cut {
        out.extend_from_slice(CUT_MARK.as_bytes());
    }
    out.push(b'"');
}

/// The beginning of a value, not ending inside a character, and whether something is missing.
pub fn cut(value: &[u8], bytes_max: usize) -> (&[u8], bool) {
    if value.len() <= bytes_max {
        return (value, false);
    }
    let continues = |at: usize| value[at] & 0b1100_0000 == 0b1000_0000;
    // A character has at most three bytes after its first.
    let mut end = bytes_max;
    while end > 0 && bytes_max - end < 3 && continues(end) {
        end -= 1;
    }
    (&value[..end], true)
}

/// Appends a value as it stands between the quotes of a JSON string (RFC 8259 7).
/// Bytes that are not UTF-8 become U+FFFD; whatever could break the line or move a
/// terminal's cursor becomes an escape.
pub fn escaped(out: &mut Vec<u8>, value: &[u8]) {
    // Almost every value is plain. Looking at all of it without an early end goes many bytes at a time.
    if value
        .iter()
        .fold(true, |plain, byte| plain & is_plain(*byte))
    {
        out.extend_from_slice(value);
        return;
    }
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        // All that is not ASCII at once: UTF-8 can only be judged as a whole.
        let special = rest
            .iter()
            .position(|byte| is_plain(*byte))
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(special);
        for chunk in run.utf8_chunks() {
            chunk.valid().chars().for_each(|c| character(out, c));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

fn character(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        c if c.is_control() || is_line_end_or_direction(c) => {
            // All of them lie below U+10000, so that one escape is enough.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => {
            let mut bytes = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        }
    }
}

/// Line and paragraph separators, and characters that turn the direction of the text around them.
fn is_line_end_or_direction(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a number in decimal.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The last decimal digit of a number.
fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or_default()
}

fn two_digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&[digit(value / 10), digit(value)]);
}

fn three_digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&[digit(value / 100), digit(value / 10), digit(value)]);
}

/// Appends milliseconds with three decimals: `12.345`.
pub fn millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    out.push(b'.');
    three_digits(out, micros % 1000);
}

/// Appends an address as it is usually written, without quotes.
pub fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (at, part) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(part));
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Appends an address and its port: `10.0.0.1:80`, `[::1]:80`.
pub fn socket(out: &mut Vec<u8>, address: SocketAddr) {
    if address.is_ipv6() {
        out.push(b'[');
    }
    ip(out, address.ip());
    out.extend_from_slice(if address.is_ipv6() { b"]:" } else { b":" });
    number(out, u64::from(address.port()));
}

/// Appends a time as RFC 3339 in UTC with milliseconds: `2026-08-21T09:30:00.123Z`.
/// Times before 1970 are shown as its beginning.
pub fn time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    number(out, year);
    for part in [month, day] {
        out.push(b'-');
        two_digits(out, part);
    }
    out.push(b'T');
    two_digits(out, second / 3600);
    out.push(b':');
    two_digits(out, second / 60 % 60);
    out.push(b':');
    two_digits(out, second % 60);
    out.push(b'.');
    three_digits(out, u64::from(since.subsec_millis()));
    out.push(b'Z');
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    // Years begin in March here: the leap day is then the last of its year.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    fn shown(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        append(&mut out);
        String::from_utf8(out).expect("what is written is UTF-8")
    }

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            assert_eq!(shown(|out| time(out, at)), expected);
        }
    }

    #[test]
    fn what_could_break_a_line_or_a_terminal_is_escaped() {
        for (value, expected) in [
            (&b"plain"[..], r"plain"),
            (b"a\"b\\c", r#"a\"b\\c"#),
            (b"\n\r\t\0\x1b[31m\x7f", r"\n\r\t\u0000\u001b[31m\u007f"),
            ("grün €🦀".as_bytes(), "grün €🦀"),
            ("\u{85}\u{2028}\u{202e}".as_bytes(), r"\u0085\u2028\u202e"),
            (b"a\xffb\xe2\x82", "a\u{fffd}b\u{fffd}"),
        ] {
            assert_eq!(shown(|out| escaped(out, value)), expected);
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters_and_marked() {
        for (value, expected) in [
            ("abcd", "\"abcd\""),
            ("abcde", "\"abcd…\""),
            ("abc€", "\"abc…\""),
            ("a🦀b", "\"a…\""),
        ] {
            assert_eq!(shown(|out| string(out, value.as_bytes(), 4)), expected);
        }
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        for (micros, expected) in [(0, "0.000"), (7, "0.007"), (12_345, "12.345")] {
            let value = Duration::from_micros(micros);
            assert_eq!(shown(|out| millis(out, value)), expected);
        }
    }

    proptest! {
        #[test]
        fn text_comes_back_as_it_was(value: String) {
            let json = shown(|out| string(out, value.as_bytes(), usize::MAX));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), value);
        }

        #[test]
        fn numbers_and_addresses_come_back_as_they_were(value: u64, address: SocketAddr) {
            prop_assert_eq!(shown(|out| number(out, value)), value.to_string());
            prop_assert_eq!(shown(|out| ip(out, address.ip())), address.ip().to_string());
            let plain = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(shown(|out| socket(out, address)), plain.to_string());
        }

        #[test]
        fn each_day_follows_the_day_before(days in 0_u64..3_000_000) {
            let (year, month, day) = date(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month { 2 => 28 + u64::from(leap), 4 | 6 | 9 | 11 => 30, _ => 31 };
            let next = if day < last { (year, month, day + 1) }
                else if month < 12 { (year, month + 1, 1) }
                else { (year + 1, 1, 1) };
            prop_assert_eq!(date(days + 1), next);
        }

        #[test]
        fn a_cut_never_splits_a_character(value: String, bytes_max in 0_usize..40) {
            let (kept, was_cut) = cut(value.as_bytes(), bytes_max);
            prop_assert_eq!(was_cut, value.len() > bytes_max);
            prop_assert_eq!(std::str::from_utf8(kept).is_ok(), true);
            prop_assert_eq!(kept.len() <= bytes_max, true);
        }

        #[test]
        fn any_bytes_give_one_json_string_on_one_line(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let json = shown(|out| string(out, &value, 256));
            prop_assert_eq!(serde_json::from_str::<String>(&json).is_ok(), true);
            prop_assert_eq!(json.lines().count(), 1);
        }
    }
}
