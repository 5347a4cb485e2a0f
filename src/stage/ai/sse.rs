//! Server-sent events (WHATWG HTML, 9.2): bytes as they come, cut anywhere, into whole events, and back.

use super::dialect::Frame;
use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use std::fmt;
use std::ops::Range;

/// The longest event, its empty line included. A picture of 1,024 x 1,024 in base64 fits, which has up to 3 MiB;
/// of text an event has some 300 bytes.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Finds events in a stream. Where one chunk holds a whole event, the [`Frame`] is slices of that chunk; only
/// an event that was cut is copied together, and no more than one of them is held.
///
/// Empty lines between events are passed over: a flood of them takes no memory and makes no frames.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// What came and is not yet decoded, if no event was cut; `held` is empty then.
    chunk: Bytes,
    /// The event that was cut, from its first byte; `chunk` is empty then.
    held: BytesMut,
    lines: Lines,
    /// The byte order mark may only be at the very beginning.
    begun: bool,
    failed: bool,
}

/// An event is longer than the limit: nothing more can be read of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    pub limit: usize,
}

/// How far the event that `chunk` or `held` begins with was read; positions count from its first byte.
#[derive(Debug, Default)]
struct Lines {
    /// Where the line begins that is not yet whole.
    line: usize,
    /// All bytes before are known to end no line.
    seen: usize,
    /// The line before ended with a carriage return alone.
    bare_return: bool,
    event: Option<Range<usize>>,
    data: Data,
}

#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Range<usize>),
    Joined(Vec<u8>),
}

impl Decoder {
    /// `limit`: of one event, in bytes; see [`EVENT_BYTES_MAX`].
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            held: BytesMut::new(),
            lines: Lines::default(),
            begun: false,
            failed: false,
        }
    }

    /// Takes what came. Call [`Self::next`] until it has nothing before pushing again, else chunks are copied.
    pub fn push(&mut self, bytes: Bytes) {
        if self.failed || bytes.is_empty() {
            return;
        }
        if self.chunk.is_empty() && self.held.is_empty() {
            self.chunk = bytes;
            return;
        }
        if self.held.is_empty() {
            // Room for both at once; growing is amortized from here on.
            self.held.reserve(self.chunk.len() + bytes.len());
            self.held.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
        self.held.extend_from_slice(&bytes);
    }

    /// The next whole event; none: push more.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end at the first none"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, TooLong> {
        if self.failed {
            return Err(self.too_long());
        }
        if !self.skip_blank() {
            return Ok(None);
        }
        let bytes: &[u8] = if self.held.is_empty() {
            &self.chunk
        } else {
            &self.held
        };
        let end = self.lines.find_end(bytes);
        if end.unwrap_or(bytes.len()) > self.limit {
            self.failed = true;
            self.chunk = Bytes::new();
            self.held = BytesMut::new();
            return Err(self.too_long());
        }
        Ok(end.map(|end| self.take(end)))
    }

    /// Whether an event was begun that never came to its end; asked when the connection has ended.
    pub fn rest(&self) -> bool {
        !self.chunk.is_empty() || !self.held.is_empty()
    }

    fn too_long(&self) -> TooLong {
        TooLong { limit: self.limit }
    }

    /// Passes over what no event begins with; false: what came may yet be a byte order mark.
    fn skip_blank(&mut self) -> bool {
        if self.lines.seen > 0 {
            return true;
        }
        if !self.held.is_empty() {
            // Only chunks that were pushed without asking for events in between.
            self.chunk = std::mem::take(&mut self.held).freeze();
        }
        if !self.begun {
            if self.chunk.starts_with(BYTE_ORDER_MARK) {
                self.chunk.advance(BYTE_ORDER_MARK.len());
            } else if BYTE_ORDER_MARK.starts_with(&self.chunk) {
                return false;
            }
            self.begun = true;
        }
        let blank = self
            .chunk
            .iter()
            .position(|byte| !matches!(byte, b'\r' | b'\n'))
            .unwrap_or(self.chunk.len());
        self.chunk.advance(blank);
        true
    }

    fn take(&mut self, end: usize) -> Frame {
        if !self.held.is_empty() {
            self.chunk = std::mem::take(&mut self.held).freeze();
        }
        let raw = self.chunk.split_to(end);
        let lines = std::mem::take(&mut self.lines);
        Frame {
            event: lines
                .event
                .filter(|range| !range.is_empty())
                .map(|range| raw.slice(range)),
            data: match lines.data {
                Data::None => Bytes::new(),
                Data::One(range) => raw.slice(range),
                Data::Joined(bytes) => bytes.into(),
            },
            raw,
        }
    }
}

impl Lines {
    /// Reads on, to behind the empty line that ends the event.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(at) = memchr2(b'\r', b'\n', &bytes[self.seen..]) {
            let end = self.seen + at;
            let empty = end == self.line;
            let bare = match (bytes[end], bytes.get(end + 1)) {
                (b'\n', _) | (_, Some(b'\n')) => false,
                (_, Some(_)) => true,
                // A line feed may still come. A peer that ends lines with bare returns is not made to wait for
                // its next event; if a line feed does come, it is one more empty line.
                (_, None) if empty && self.bare_return => true,
                (_, None) => {
                    self.seen = end;
                    return None;
                }
            };
            let next = end + 1 + usize::from(bytes[end] == b'\r' && !bare);
            if empty {
                // The same end, wherever the bytes are cut.
                return Some(if self.bare_return { end + 1 } else { next });
            }
            self.read_line(bytes, self.line..end);
            self.bare_return = bare;
            self.line = next;
            self.seen = next;
        }
        self.seen = bytes.len();
        None
    }

    fn read_line(&mut self, bytes: &[u8], line: Range<usize>) {
        let text = &bytes[line.clone()];
        let name = memchr(b':', text).unwrap_or(text.len());
        let mut value = (line.start + name + 1).min(line.end)..line.end;
        if bytes[value.clone()].first() == Some(&b' ') {
            value.start += 1;
        }
        match &text[..name] {
            b"data" => self.add_data(bytes, value),
            b"event" => self.event = Some(value),
            // A comment, `id`, `retry`, or nothing known: in `raw` only.
            _ => {}
        }
    }

    fn add_data(&mut self, bytes: &[u8], value: Range<usize>) {
        self.data = match std::mem::take(&mut self.data) {
            Data::None => Data::One(value),
            Data::One(first) => Data::Joined([&bytes[first], &bytes[value]].join(&b'\n')),
            Data::Joined(mut joined) => {
                joined.push(b'\n');
                joined.extend_from_slice(&bytes[value]);
                Data::Joined(joined)
            }
        };
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event is longer than {} bytes", self.limit)
    }
}

/// Appends one event. `event` has no line ends; those of `data` become lines of their own.
pub fn write_event(out: &mut Vec<u8>, event: Option<&str>, data: &[u8]) {
    out.reserve(data.len() + event.map_or(0, str::len) + 16);
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    let mut rest = data;
    loop {
        let end = memchr2(b'\r', b'\n', rest);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { break };
        let width = if rest[end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + width..];
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> (Vec<Frame>, bool) {
        let mut decoder = Decoder::new(limit);
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = decoder.next().expect("short events") {
                frames.push(frame);
            }
        }
        (frames, decoder.rest())
    }

    /// `event|data` of each frame.
    fn check(stream: &str, expected: &[&str], rest: bool) {
        let (frames, left) = decode([stream.as_bytes()], EVENT_BYTES_MAX);
        let found: Vec<String> = frames
            .iter()
            .map(|frame| {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let event = frame.event.as_ref().map(text).unwrap_or_default();
                format!("{event}|{}", text(&frame.data))
            })
            .collect();
        assert_eq!(found, expected, "{stream:?}");
        assert_eq!(left, rest, "{stream:?}");
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(decode(bytes, EVENT_BYTES_MAX), (frames, left), "{stream:?}");
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        check("data: a\n\ndata: b\n\n", &["|a", "|b"], false);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["|a", "|b"], false);
        check("data: a\r\rdata: b\r\r", &["|a", "|b"], false);
        check("\u{feff}data: a\n\n", &["|a"], false);
        check("data: a\n\u{feff}data: b\n\n", &["|a"], false);
        check("event: x\ndata:a\n\n", &["x|a"], false);
        check("event: x\nevent: y\ndata:  a\n\n", &["y| a"], false);
        check("event:\ndata: a\n\n", &["|a"], false);
        check(
            "data: a\ndata: b\ndata\ndata: c\n\n",
            &["|a\nb\n\nc"],
            false,
        );
        check(": keep-alive\n\n", &["|"], false);
        check(
            "id: 1\nretry: 10\ndatax: n\ndata: a:b\n\n",
            &["|a:b"],
            false,
        );
        check("\n\n\r\n\r\rdata: a\n\n\n\n\n", &["|a"], false);
        check("data: a\n\ndata: b\n", &["|a"], true);
        check("data: a\n\ndata: b", &["|a"], true);
        check("data: a\r\n\r\n\r\n", &["|a"], false);
        check("data: a\r\r\ndata: b\n\n", &["|a", "|b"], false);
        check("", &[], false);
    }

    #[test]
    fn a_whole_event_is_not_copied() {
        let chunk = Bytes::from_static(b"event: x\ndata: hello\n\ndata: there\n\n");
        let mut decoder = Decoder::new(EVENT_BYTES_MAX);
        decoder.push(chunk.clone());
        let frame = decoder.next().unwrap().unwrap();
        assert_eq!(frame.raw.as_ptr(), chunk.as_ptr());
        assert_eq!(frame.data.as_ptr(), chunk[15..].as_ptr());
        let frame = decoder.next().unwrap().unwrap();
        assert_eq!(frame.raw.as_ptr(), chunk[22..].as_ptr());
    }

    #[test]
    fn an_event_that_ends_with_bare_returns_does_not_wait_for_the_next() {
        let mut decoder = Decoder::new(EVENT_BYTES_MAX);
        decoder.push(Bytes::from_static(b"data: a\r\r"));
        assert_eq!(decoder.next().unwrap().unwrap().data, "a");
        assert!(!decoder.rest());
    }

    #[test]
    fn an_event_over_the_limit_ends_the_stream() {
        for chunks in [
            vec!["data: 0123456789\n\n"],
            vec!["data: 01", "23456789ab"],
            vec![": 0", "12345\n: 6", "789abcdef"],
        ] {
            let mut decoder = Decoder::new(16);
            let mut last = Ok(None);
            for chunk in chunks {
                decoder.push(Bytes::from_static(chunk.as_bytes()));
                last = decoder.next();
            }
            assert_eq!(last, Err(TooLong { limit: 16 }));
            decoder.push(Bytes::from_static(b"data: a\n\n"));
            assert_eq!(decoder.next(), Err(TooLong { limit: 16 }));
        }
        let (frames, _) = decode([&b"data: 01234567\n\n"[..]], 16);
        assert_eq!(frames.len(), 1, "sixteen bytes are not too long");
    }

    #[test]
    fn a_flood_of_empty_lines_is_nothing() {
        let mut decoder = Decoder::new(16);
        for _ in 0..1000 {
            decoder.push(Bytes::from_static(&[b'\n'; 1000]));
            assert_eq!(decoder.next(), Ok(None));
            assert!(!decoder.rest());
        }
        assert_eq!(decoder.held.capacity(), 0);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for data in ["", "a", "a\nb", "a\r\nb\rc", "\n", " x"] {
            let mut out = Vec::new();
            write_event(&mut out, Some("e"), data.as_bytes());
            let (frames, rest) = decode([&out[..]], EVENT_BYTES_MAX);
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(frames[0].data, lines.as_bytes(), "{data:?}");
            assert_eq!(frames[0].event.as_deref(), Some(&b"e"[..]));
            assert!(!rest && frames.len() == 1);
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
        let piece = prop::sample::select(vec![
            "\u{feff}",
            "data",
            "event",
            ":",
            ": ",
            "id",
            "x",
            "{}",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "data: ",
            "\r\n\r\n",
            "event: y\n",
        ]);
        prop::collection::vec(piece, 0..40)
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_same_frames_come_out(
            pieces in pieces(),
            cuts in prop::collection::vec(1..9_usize, 1..20),
            lazy in any::<bool>(),
        ) {
            let stream = pieces.concat();
            let whole = decode([stream.as_bytes()], EVENT_BYTES_MAX);
            let mut rest = stream.as_bytes();
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            if lazy {
                let mut decoder = Decoder::new(EVENT_BYTES_MAX);
                for chunk in chunks { decoder.push(Bytes::copy_from_slice(chunk)); }
                let mut frames = Vec::new();
                while let Some(frame) = decoder.next().unwrap() { frames.push(frame); }
                prop_assert_eq!((frames, decoder.rest()), whole);
            } else {
                prop_assert_eq!(decode(chunks, EVENT_BYTES_MAX), whole);
            }
        }
    }
}
