//! HTTP/1.1 of the benchmark, on both sides, as bare as can be: the core that it runs on is shared by load and provider.

use crate::Outcome;
use memchr::memmem;
use std::io;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const HEAD_MAX: usize = 16 * 1024;
const READ_BYTES: usize = 8 * 1024;

/// A connection, and what was read of it and not yet used.
pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// What matters of an answer's head.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    /// What the gateway says of its own share of the time, in microseconds.
    pub overhead_us: Option<u32>,
    /// Whether the other side keeps no connection.
    pub closes: bool,
}

/// How a body is delimited, and how much of it is to come.
enum Body {
    Length(usize),
    /// Bytes left in the chunk, and whether its line end is due before the next.
    Chunked(usize, bool),
}

/// A request, ready to be sent.
pub fn request(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Microseconds since 1970: what two processes agree on.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

impl Connection {
    pub fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub async fn open(port: u16) -> io::Result<Self> {
        Self::of(TcpStream::connect(("127.0.0.1", port)).await?)
    }

    /// The same from this address of ours: callers are told apart by theirs.
    pub async fn open_from(from: Ipv4Addr, port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        Self::of(socket.connect(([127, 0, 0, 1], port).into()).await?)
    }

    /// Whether the other side still holds it; asked before a kept one is used again.
    pub fn is_open(&self) -> bool {
        let read = self.stream.try_read(&mut [0; 1]);
        read.is_err_and(|fault| fault.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and hands over the body of its answer as it comes.
    pub async fn exchange(
        &mut self,
        request: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Outcome<Answer> {
        self.stream.write_all(request).await?;
        let end = self.head().await?.ok_or("closed without an answer")?;
        let (answer, mut left) = read_answer(&self.buffer[..end])?;
        self.buffer.drain(..end);
        loop {
            let (used, whole) = left.pass(&self.buffer, &mut body)?;
            self.buffer.drain(..used);
            if whole {
                return Ok(answer);
            }
            if !self.more().await? {
                return Err("closed within an answer".into());
            }
        }
    }

    /// Waits for a head and says where it ends; none when the other side has left before it began.
    pub async fn head(&mut self) -> Outcome<Option<usize>> {
        loop {
            if let Some(at) = memmem::find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(at + 4));
            }
            if self.buffer.len() > HEAD_MAX {
                return Err("a head without an end".into());
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// A head, as it came.
    pub async fn take_head(&mut self) -> Outcome<Vec<u8>> {
        let end = self.head().await?.ok_or("closed without an answer")?;
        Ok(self.buffer.drain(..end).collect())
    }

    /// A request's target and body; none when the caller has left.
    pub async fn request(&mut self) -> Outcome<Option<(String, Vec<u8>)>> {
        let Some(end) = self.head().await? else {
            return Ok(None);
        };
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut head = httparse::Request::new(&mut fields);
        head.parse(&self.buffer[..end])?;
        let target = head.path.unwrap_or_default().to_owned();
        let mut left = Body::of(head.headers)?.unwrap_or(Body::Length(0));
        self.buffer.drain(..end);
        let mut all = Vec::new();
        loop {
            let (used, whole) =
                left.pass(&self.buffer, &mut |piece| all.extend_from_slice(piece))?;
            self.buffer.drain(..used);
            if whole {
                return Ok(Some((target, all)));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

fn read_answer(bytes: &[u8]) -> Outcome<(Answer, Body)> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Response::new(&mut fields);
    head.parse(bytes)?;
    let body = Body::of(head.headers)?.ok_or("an answer of unknown length")?;
    let overhead = field(head.headers, "x-onemind-overhead-us");
    let connection = field(head.headers, "connection").unwrap_or_default();
    let answer = Answer {
        status: head.code.unwrap_or_default(),
        overhead_us: overhead.and_then(|value| value.parse().ok()),
        closes: connection.eq_ignore_ascii_case("close"),
    };
    Ok((answer, body))
}

fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let found = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

impl Body {
    fn of(fields: &[httparse::Header<'_>]) -> Outcome<Option<Self>> {
        if field(fields, "transfer-encoding").is_some() {
            return Ok(Some(Self::Chunked(0, false)));
        }
        Ok(match field(fields, "content-length") {
            Some(length) => Some(Self::Length(length.parse()?)),
            None => None,
        })
    }

    /// Hands over what has come of it; says how many bytes were used, and whether it is whole.
    fn pass(&mut self, bytes: &[u8], to: &mut impl FnMut(&[u8])) -> Outcome<(usize, bool)> {
        match self {
            Self::Length(left) => {
                let here = bytes.len().min(*left);
                if here > 0 {
                    to(&bytes[..here]);
                }
                *left -= here;
                Ok((here, *left == 0))
            }
            Self::Chunked(left, line_due) => pass_chunks(bytes, (left, line_due), to),
        }
    }
}

fn pass_chunks(
    bytes: &[u8],
    (left, line_due): (&mut usize, &mut bool),
    to: &mut impl FnMut(&[u8]),
) -> Outcome<(usize, bool)> {
    let mut used = 0;
    loop {
        let rest = &bytes[used..];
        if *left > 0 {
            let here = rest.len().min(*left);
            if here == 0 {
                return Ok((used, false));
            }
            to(&rest[..here]);
            (used, *left) = (used + here, *left - here);
            *line_due = true;
            continue;
        }
        let line = if *line_due { 2 } else { 0 };
        if rest.len() < line {
            return Ok((used, false));
        }
        let parsed = httparse::parse_chunk_size(&rest[line..]);
        let httparse::Status::Complete((head, size)) = parsed.map_err(|_| "a broken chunk")? else {
            return Ok((used, false));
        };
        let end = line + head;
        if size == 0 {
            // nobody here sends trailers
            return Ok(if rest.len() < end + 2 {
                (used, false)
            } else {
                (used + end + 2, true)
            });
        }
        (used, *left, *line_due) = (used + end, usize::try_from(size)?, false);
    }
}
