//! Bodies of HTTP/1.1: where they end (RFC 9112 section 6), and what is in them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::io::Write;

/// Longest line that says how large a chunk is, extensions included.
const SIZE_LINE_MAX: usize = 1024;

/// Largest trailer section.
const TRAILERS_BYTES_MAX: usize = 8 * 1024;
const TRAILERS_MAX: usize = 64;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Answers only: the body lasts until the connection ends.
    UntilClose,
}

/// A body, or its framing, that is not HTTP; the reason is for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// What a buffer had to give.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// Nothing before more bytes come.
    More,
    End,
}

/// Takes a body out of the bytes of its connection, and not one byte of what follows.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    trailers: Option<HeaderMap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    /// Before the line with the size of a chunk.
    Size,
    /// Within a chunk.
    Data(u64),
    /// Before the line end that follows a chunk.
    DataEnd,
    Trailers,
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            trailers: None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub fn may_end(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Bytes that are known to be missing still.
    pub fn expects(&self) -> usize {
        match self.state {
            State::Length(left) | State::Data(left) => usize::try_from(left).unwrap_or(usize::MAX),
            State::UntilClose => usize::MAX,
            _ => 0,
        }
    }

    /// Fields that came behind a chunked body, when it has ended.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    pub fn take(&mut self, buf: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Length(_) | State::Data(_) | State::UntilClose if buf.is_empty() => {
                    return Ok(Piece::More);
                }
                State::UntilClose => return Ok(Piece::Data(buf.split().freeze())),
                State::Length(left) => {
                    let (data, left) = split(buf, left);
                    self.state = if left == 0 {
                        State::Done
                    } else {
                        State::Length(left)
                    };
                    return Ok(Piece::Data(data));
                }
                State::Data(left) => {
                    let (data, left) = split(buf, left);
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(Piece::Data(data));
                }
                State::Size => match take_line(buf, SIZE_LINE_MAX)? {
                    None => return Ok(Piece::More),
                    Some(line) => {
                        let size = chunk_size(&line)?;
                        self.state = if size == 0 {
                            State::Trailers
                        } else {
                            State::Data(size)
                        };
                    }
                },
                State::DataEnd => {
                    if buf.len() < 2 {
                        return Ok(Piece::More);
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err(Malformed("a chunk is longer than its size"));
                    }
                    buf.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => match take_trailers(buf)? {
                    None => return Ok(Piece::More),
                    Some(trailers) => {
                        self.trailers = (!trailers.is_empty()).then_some(trailers);
                        self.state = State::Done;
                    }
                },
            }
        }
    }
}

fn split(buf: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let part = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    (buf.split_to(part).freeze(), left - part as u64)
}

/// A line without its end, which must be CR LF: a lone LF is read by some as an end and by others not.
fn take_line(buf: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', &buf[..buf.len().min(max)]) else {
        if buf.len() >= max {
            return Err(Malformed("a line of a chunked body is too long"));
        }
        return Ok(None);
    };
    let mut line = buf.split_to(end + 1);
    line.truncate(end);
    if line.last() != Some(&b'\r') {
        return Err(Malformed(
            "a line of a chunked body ends in a lone line feed",
        ));
    }
    line.truncate(end - 1);
    Ok(Some(line.freeze()))
}

/// `1*HEXDIG [ chunk-ext ]` (RFC 9112 section 7.1); extensions say nothing to us.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let rest = line[digits..].trim_ascii_start();
    let extension_is_sound = rest.is_empty()
        || (rest[0] == b';'
            && rest
                .iter()
                .all(|byte| *byte == b'\t' || (32..127).contains(byte) || *byte > 127));
    if !(1..=16).contains(&digits) || !extension_is_sound {
        return Err(Malformed("the size of a chunk is no number"));
    }
    let text = std::str::from_utf8(&line[..digits]).expect("hexadecimal digits are text");
    let size = u64::from_str_radix(text, 16).expect("16 digits fit");
    if size > u64::MAX / 4 {
        return Err(Malformed("a chunk is larger than anything"));
    }
    Ok(size)
}

fn take_trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let searched = &buf[..buf.len().min(TRAILERS_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(searched, b"\r\n\r\n") else {
        if buf.len() >= TRAILERS_BYTES_MAX {
            return Err(Malformed("the trailers are too large"));
        }
        return Ok(None);
    };
    let section = buf.split_to(end + 4).freeze();
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    match httparse::parse_headers(&section, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                match (name, value) {
                    (Ok(name), Ok(value)) if may_trail(&name) => _ = trailers.append(name, value),
                    (Ok(_), Ok(_)) => {}
                    _ => return Err(Malformed("a trailer is malformed")),
                }
            }
            Ok(Some(trailers))
        }
        _ => Err(Malformed("the trailers are malformed")),
    }
}

/// Framing, routing and credentials may not come late (RFC 9110 section 6.5.1): such fields are dropped.
fn may_trail(name: &HeaderName) -> bool {
    ![
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::CACHE_CONTROL,
        header::EXPECT,
        header::MAX_FORWARDS,
    ]
    .contains(name)
}

/// The framing that fields ask for, strictly: what two readers could read in two ways is refused
/// (RFC 9112 section 6.3). None: neither field is there.
pub fn framing(headers: &HeaderMap) -> Result<Option<Framing>, Malformed> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).into_iter();
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed("Transfer-Encoding and Content-Length together")),
        (Some(coding), None) => {
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("a Transfer-Encoding other than `chunked`"));
            }
            Ok(Some(Framing::Chunked))
        }
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err(Malformed("Content-Length was given more than once"));
            }
            parse_length(length.as_bytes()).map(|length| Some(Framing::Length(length)))
        }
    }
}

/// Digits and nothing else: no sign, no list, no white space within.
fn parse_length(text: &[u8]) -> Result<u64, Malformed> {
    const FAULT: Malformed = Malformed("the Content-Length is no number");
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return Err(FAULT);
    }
    let text = std::str::from_utf8(text).map_err(|_| FAULT)?;
    text.parse().map_err(|_| FAULT)
}

/// How a body is written, and how much of it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyWriter {
    framing: Framing,
    left: u64,
}

impl BodyWriter {
    pub fn new(framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        Self { framing, left }
    }

    /// Appends a piece of the body in its framing. More than was announced is cut off.
    pub fn put(&mut self, out: &mut super::outgoing::Outgoing, mut piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        match self.framing {
            Framing::Empty => {}
            Framing::UntilClose => out.put(piece),
            Framing::Length(_) => {
                let fits = usize::try_from(self.left).unwrap_or(usize::MAX);
                piece.truncate(fits);
                self.left -= piece.len() as u64;
                out.put(piece);
            }
            Framing::Chunked => {
                out.write(|tail| {
                    // Writing to memory does not fail.
                    let _ = write!(tail.writer(), "{:x}\r\n", piece.len());
                });
                out.put(piece);
                out.write(|tail| tail.put_slice(b"\r\n"));
            }
        }
    }

    /// Appends the end. False when less came than was announced: the connection must not be used again.
    pub fn finish(
        &mut self,
        out: &mut super::outgoing::Outgoing,
        trailers: Option<&HeaderMap>,
    ) -> bool {
        match self.framing {
            Framing::Chunked => {
                out.write(|tail| {
                    tail.put_slice(b"0\r\n");
                    if let Some(trailers) = trailers {
                        super::fields::put(
                            tail,
                            trailers,
                            &super::fields::Spelling::default(),
                            |_| false,
                        );
                    }
                    tail.put_slice(b"\r\n");
                });
                true
            }
            Framing::Length(_) => self.left == 0,
            Framing::Empty => true,
            Framing::UntilClose => false,
        }
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }
}

#[cfg(test)]
mod tests;
