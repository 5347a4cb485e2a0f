//! A span, and how it is written: OTLP in JSON (opentelemetry-proto `trace/v1`, in the JSON mapping of the OTLP specification).

use super::super::access_log::text::{number, string};

/// Bytes of one text; what is longer is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// Flags of `Span.flags`: it is known whether the parent is in another process, and it is.
const HAS_IS_REMOTE: u64 = 0x100;
const IS_REMOTE: u64 = 0x200;

/// Whose side of an exchange a span tells; the numbers are those of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Server = 2,
    Client = 3,
}

/// Times are nanoseconds since 1970.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    /// 32 hexadecimal digits.
    pub trace_id: &'a str,
    pub id: u64,
    pub parent: Option<Parent>,
    /// The flags of `traceparent`.
    pub flags: u8,
    pub kind: Kind,
    pub name: &'a str,
    pub start: u64,
    pub end: u64,
    pub attributes: Vec<Attribute<'a>>,
    pub events: Vec<(&'static str, u64)>,
    pub failed: bool,
}

/// The span above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub id: u64,
    /// Whether it is of another process.
    pub remote: bool,
}

pub type Attribute<'a> = (&'static str, Value<'a>);

/// What an attribute says. Text may be anything that a caller has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Text(&'a [u8]),
    Number(u64),
    Flag(bool),
    /// A number that is told as text, such as a status in `error.type`.
    Digits(u16),
    /// A list with one text.
    OneOf(&'a str),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl Span<'_> {
    /// Appends the span as a JSON object.
    pub fn write(&self, out: &mut Vec<u8>) {
        text(out, b"{\"traceId\":", self.trace_id);
        id(out, b",\"spanId\":", self.id);
        if let Some(parent) = self.parent {
            id(out, b",\"parentSpanId\":", parent.id);
        }
        out.extend_from_slice(b",\"flags\":");
        number(out, self.all_flags());
        text(out, b",\"name\":", self.name);
        out.extend_from_slice(b",\"kind\":");
        number(out, u64::from(self.kind as u8));
        quoted(out, b",\"startTimeUnixNano\":", self.start);
        quoted(out, b",\"endTimeUnixNano\":", self.end);
        out.extend_from_slice(b",\"attributes\":");
        attributes(out, &self.attributes);
        if !self.events.is_empty() {
            out.extend_from_slice(b",\"events\":[");
            separated(out, &self.events, |out, (name, at)| {
                quoted(out, b"{\"timeUnixNano\":", *at);
                text(out, b",\"name\":", name);
                out.push(b'}');
            });
            out.push(b']');
        }
        if self.failed {
            out.extend_from_slice(b",\"status\":{\"code\":2}");
        }
        out.push(b'}');
    }

    fn all_flags(&self) -> u64 {
        let parent = match self.parent {
            Some(Parent { remote: true, .. }) => HAS_IS_REMOTE | IS_REMOTE,
            _ => HAS_IS_REMOTE,
        };
        u64::from(self.flags) | parent
    }
}

/// Appends a list of attributes.
pub fn attributes(out: &mut Vec<u8>, list: &[Attribute<'_>]) {
    out.push(b'[');
    separated(out, list, |out, (key, value)| {
        text(out, b"{\"key\":", key);
        out.extend_from_slice(b",\"value\":{");
        match value {
            Value::Text(text) => {
                out.extend_from_slice(b"\"stringValue\":");
                string(out, text, TEXT_BYTES_MAX);
            }
            Value::Number(number) => quoted(out, b"\"intValue\":", *number),
            Value::Digits(number) => quoted(out, b"\"stringValue\":", u64::from(*number)),
            Value::Flag(true) => out.extend_from_slice(b"\"boolValue\":true"),
            Value::Flag(false) => out.extend_from_slice(b"\"boolValue\":false"),
            Value::OneOf(one) => {
                text(out, b"\"arrayValue\":{\"values\":[{\"stringValue\":", one);
                out.extend_from_slice(b"}]}");
            }
        }
        out.extend_from_slice(b"}}");
    });
    out.push(b']');
}

/// Appends all of them with commas between.
pub fn separated<T>(out: &mut Vec<u8>, list: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    for (nth, one) in list.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write(out, one);
    }
}

fn text(out: &mut Vec<u8>, before: &[u8], text: &str) {
    out.extend_from_slice(before);
    string(out, text.as_bytes(), TEXT_BYTES_MAX);
}

/// 64-bit numbers are texts in the JSON mapping.
fn quoted(out: &mut Vec<u8>, before: &[u8], value: u64) {
    out.extend_from_slice(before);
    out.push(b'"');
    number(out, value);
    out.push(b'"');
}

/// Ids are hexadecimal digits in OTLP, not base64 as the mapping has bytes otherwise.
fn id(out: &mut Vec<u8>, before: &[u8], id: u64) {
    out.extend_from_slice(before);
    out.extend_from_slice(format!("\"{id:016x}\"").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn written(span: &Span<'_>) -> Json {
        let mut out = Vec::new();
        span.write(&mut out);
        serde_json::from_slice(&out).expect("JSON")
    }

    fn span(attributes: Vec<Attribute<'_>>) -> Span<'_> {
        Span {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
            id: 0x2a,
            parent: None,
            flags: 3,
            kind: Kind::Server,
            name: "GET all",
            start: 1_700_000_000_000_000_001,
            end: 1_700_000_000_000_000_002,
            attributes,
            events: Vec::new(),
            failed: false,
        }
    }

    #[test]
    fn a_span_is_written_as_the_protocol_has_it() {
        let whole = Span {
            parent: Some(Parent {
                id: 1,
                remote: true,
            }),
            events: vec![("admitted", 1_700_000_000_000_000_002)],
            failed: true,
            ..span(vec![
                ("url.path", "/a\"b".into()),
                ("http.response.status_code", 503_u16.into()),
                ("gen_ai.response.finish_reasons", Value::OneOf("stop")),
                ("onemind.stream", true.into()),
                ("error.type", Value::Digits(503)),
            ])
        };
        let expected = json!({
            "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
            "spanId": "000000000000002a",
            "parentSpanId": "0000000000000001",
            "flags": 0x303,
            "name": "GET all",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000002",
            "attributes": [
                {"key": "url.path", "value": {"stringValue": "/a\"b"}},
                {"key": "http.response.status_code", "value": {"intValue": "503"}},
                {"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": [{"stringValue": "stop"}]}}},
                {"key": "onemind.stream", "value": {"boolValue": true}},
                {"key": "error.type", "value": {"stringValue": "503"}},
            ],
            "events": [{"timeUnixNano": "1700000000000000002", "name": "admitted"}],
            "status": {"code": 2},
        });
        assert_eq!(written(&whole), expected);
    }

    #[test]
    fn what_is_not_there_is_not_written() {
        let plain = written(&span(Vec::new()));
        for absent in ["parentSpanId", "events", "status"] {
            assert!(plain.get(absent).is_none(), "{plain}");
        }
        assert_eq!(plain["flags"], 0x103, "the parent is not remote");
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = vec![b'x'; 100_000];
        let mut out = Vec::new();
        span(vec![("url.path", Value::Text(&long))]).write(&mut out);
        assert!(out.len() < TEXT_BYTES_MAX + 500, "{}", out.len());
    }

    proptest! {
        #[test]
        fn whatever_callers_send_it_stays_json(text in prop::collection::vec(any::<u8>(), 0..200), id: u64, start: u64) {
            let span = Span { id, start, ..span(vec![("user_agent.original", Value::Text(&text))]) };
            let json = written(&span);
            prop_assert_eq!(json["startTimeUnixNano"].as_str().unwrap().parse::<u64>().unwrap(), start);
            prop_assert_eq!(u64::from_str_radix(json["spanId"].as_str().unwrap(), 16).unwrap(), id);
            let shown = json["attributes"][0]["value"]["stringValue"].as_str().unwrap();
            if let Ok(text) = std::str::from_utf8(&text) {
                prop_assert_eq!(shown, text);
            }
        }
    }
}
