//! AWS event streams (`application/vnd.amazon.eventstream`): bytes as they come, cut anywhere, into whole messages,
//! and back.
//!
//! A message is its length, the length of its headers, a checksum of both, headers, payload, and a checksum of all
//! before (<https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html>).

use super::dialect::Frame;
use bytes::{Buf, Bytes, BytesMut};
use serde_json::json;
use std::fmt;

/// Lengths and their checksum.
const PRELUDE: usize = 12;
/// The least that a message is: prelude and checksum.
const MESSAGE_MIN: usize = PRELUDE + 4;

/// Finds messages in a stream. No more than one of them is held.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    held: BytesMut,
    broken: Option<Broken>,
}

/// Nothing more can be read of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A message says that it is longer than the limit, in bytes.
    TooLong(usize),
    /// A length that cannot be, or a checksum that is wrong.
    Malformed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(limit) => write!(f, "a message is longer than {limit} bytes"),
            Self::Malformed => f.write_str("a message is not of an AWS event stream"),
        }
    }
}

impl Decoder {
    /// `limit`: of one message, in bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: BytesMut::new(),
            broken: None,
        }
    }

    /// Takes what came. Call [`Self::next`] until it has nothing before pushing again.
    pub fn push(&mut self, bytes: &Bytes) {
        if self.broken.is_none() {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The next whole message: [`Frame::event`] is the type of its event, of its exception, or its error's code.
    #[expect(
        clippy::should_implement_trait,
        reason = "more may come after nothing, as with server-sent events"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let frame = self.message();
        if let Err(broken) = &frame {
            self.broken = Some(*broken);
            self.held = BytesMut::new();
        }
        frame
    }

    /// Whether the stream would end within a message.
    pub fn rest(&self) -> bool {
        !self.held.is_empty()
    }

    fn message(&mut self) -> Result<Option<Frame>, Broken> {
        let Some(prelude) = self.held.first_chunk::<PRELUDE>() else {
            return Ok(None);
        };
        let (lengths, checksum) = prelude.split_at(8);
        if number(checksum) != u64::from(crc32(lengths)) {
            return Err(Broken::Malformed);
        }
        let total = length(&lengths[..4])?;
        let headers = length(&lengths[4..])?;
        if total > self.limit {
            return Err(Broken::TooLong(self.limit));
        }
        if total < MESSAGE_MIN || headers > total - MESSAGE_MIN {
            return Err(Broken::Malformed);
        }
        if self.held.len() < total {
            return Ok(None);
        }
        let raw = self.held.split_to(total).freeze();
        let (body, checksum) = raw.split_at(total - 4);
        if number(checksum) != u64::from(crc32(body)) {
            return Err(Broken::Malformed);
        }
        let payload = raw.slice(PRELUDE + headers..total - 4);
        let headers = raw.slice(PRELUDE..PRELUDE + headers);
        read_headers(headers, payload, raw).map(Some)
    }
}

fn read_headers(mut headers: Bytes, payload: Bytes, raw: Bytes) -> Result<Frame, Broken> {
    let mut kind = Bytes::new();
    let mut event = None;
    let mut message = None;
    while headers.has_remaining() {
        let name_length = usize::from(headers.get_u8());
        let name = take(&mut headers, name_length)?;
        let value = header_value(&mut headers)?;
        match name.as_ref() {
            b":message-type" => kind = value,
            b":event-type" | b":exception-type" | b":error-code" => event = Some(value),
            b":error-message" => message = Some(value),
            _ => {}
        }
    }
    let data = match message {
        Some(message) if kind == "error" => {
            let message = String::from_utf8_lossy(&message);
            json!({ "message": message }).to_string().into()
        }
        _ => payload,
    };
    Ok(Frame { event, data, raw })
}

/// Only texts and bytes are of use here; of other kinds only the length is.
fn header_value(headers: &mut Bytes) -> Result<Bytes, Broken> {
    let kind = take(headers, 1)?[0];
    let length = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let length = take(headers, 2)?;
            usize::from(u16::from_be_bytes([length[0], length[1]]))
        }
        _ => return Err(Broken::Malformed),
    };
    take(headers, length)
}

fn take(bytes: &mut Bytes, count: usize) -> Result<Bytes, Broken> {
    if bytes.len() < count {
        return Err(Broken::Malformed);
    }
    Ok(bytes.split_to(count))
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn length(bytes: &[u8]) -> Result<usize, Broken> {
    usize::try_from(number(bytes)).map_err(|_| Broken::Malformed)
}

/// Appends a message: `kind` is `event` or `exception`, `name` the type of either, at most 65,535 bytes.
pub fn encode(kind: &str, name: &str, payload: &[u8], out: &mut Vec<u8>) {
    let mut headers = Vec::new();
    let rows = [
        (":message-type", kind),
        (&*format!(":{kind}-type"), name),
        (":content-type", "application/json"),
    ];
    for (name, value) in rows {
        headers.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        headers.extend_from_slice(&length.to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let begin = out.len();
    let total = MESSAGE_MIN + headers.len() + payload.len();
    for length in [total, headers.len()] {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
    }
    let checksum = crc32(&out[begin..]);
    out.extend_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(&headers);
    out.extend_from_slice(payload);
    let checksum = crc32(&out[begin..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}

/// CRC-32 of IEEE 802.3, as in gzip (RFC 1952 section 8).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let mut crc = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(name: &str, payload: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode("event", name, payload.as_bytes(), &mut out);
        out
    }

    fn decode<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<(String, Bytes)>, Option<Broken>, bool) {
        let mut decoder = Decoder::new(1 << 16);
        let mut found = Vec::new();
        for chunk in chunks {
            decoder.push(&Bytes::copy_from_slice(chunk));
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        let event = frame.event.unwrap_or_default();
                        found.push((String::from_utf8_lossy(&event).into_owned(), frame.data));
                    }
                    Ok(None) => break,
                    Err(broken) => return (found, Some(broken), false),
                }
            }
        }
        (found, None, decoder.rest())
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// The example of the documentation of AWS: a message without headers, and with `{'foo':'bar'}`.
    #[test]
    fn the_documented_message_is_read() {
        let bytes = [
            0x00, 0x00, 0x00, 0x1d, 0x00, 0x00, 0x00, 0x00, 0xfd, 0x52, 0x8c, 0x5a, 0x7b, 0x27,
            0x66, 0x6f, 0x6f, 0x27, 0x3a, 0x27, 0x62, 0x61, 0x72, 0x27, 0x7d, 0xc3, 0x65, 0x39,
            0x36,
        ];
        let (found, broken, rest) = decode([&bytes[..]]);
        assert_eq!((broken, rest), (None, false));
        assert_eq!(
            found,
            [(String::new(), Bytes::from_static(b"{'foo':'bar'}"))]
        );
    }

    #[test]
    fn what_is_not_whole_waits_and_what_is_wrong_ends_the_stream() {
        let whole = message("messageStart", "{}");
        assert!(decode([&whole[..whole.len() - 1]]).2);
        for place in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[place] ^= 1;
            let (found, broken, _) = decode([&wrong[..]]);
            assert_eq!(
                (found.len(), broken),
                (0, Some(Broken::Malformed)),
                "{place}"
            );
        }
        let long = message("x", &"y".repeat(1 << 16));
        assert_eq!(decode([&long[..]]).1, Some(Broken::TooLong(1 << 16)));
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_its_messages_are_the_same(
            messages in proptest::collection::vec(("[a-zA-Z]{1,20}", "\\PC{0,40}"), 0..6),
            size in 1..40_usize,
        ) {
            let stream: Vec<u8> = messages
                .iter()
                .flat_map(|(name, payload)| message(name, payload))
                .collect();
            let expected: Vec<(String, Bytes)> = messages
                .into_iter()
                .map(|(name, payload)| (name, Bytes::from(payload)))
                .collect();
            prop_assert_eq!(decode(stream.chunks(size)), (expected, None, false));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode([&bytes[..]]);
        }

        #[test]
        fn no_headers_make_it_panic(headers in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = read_headers(headers.into(), Bytes::new(), Bytes::new());
        }
    }
}
