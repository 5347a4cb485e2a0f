//! HTTP/1.1 as bytes, for both ends: read a head, read a body in either framing.

use bytes::{Buf, BytesMut};
use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A head longer than this is a fault of the test.
const HEAD_MAX: usize = 4 << 20;

/// One connection and what was read from it but not yet used.
pub struct Wire {
    pub io: Box<dyn Io>,
    buffer: BytesMut,
}

impl Wire {
    pub fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// The next head, its last blank line included; none when the peer closed before a first byte.
    pub async fn head(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(at + 4);
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            assert!(self.buffer.len() < HEAD_MAX, "a head without an end");
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Exactly `length` bytes of body.
    pub async fn fixed(&mut self, mut length: usize, sink: &mut impl FnMut(&[u8])) -> Result<()> {
        while length > 0 {
            self.need(1).await?;
            let part = length.min(self.buffer.len());
            sink(&self.buffer[..part]);
            self.buffer.advance(part);
            length -= part;
        }
        Ok(())
    }

    /// A chunked body; the answer is its trailers, one `name: value` each.
    pub async fn chunked(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<Vec<String>> {
        loop {
            let size = self.line().await?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|_| Error::new(ErrorKind::InvalidData, format!("chunk size {size:?}")))?;
            if size == 0 {
                break;
            }
            self.fixed(size, sink).await?;
            let end = self.line().await?;
            if !end.is_empty() {
                return Err(Error::new(ErrorKind::InvalidData, "chunk without an end"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Ok(trailers),
                line => trailers.push(line),
            }
        }
    }

    /// Everything until the peer closes.
    pub async fn until_end(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<()> {
        loop {
            sink(&self.buffer);
            self.buffer.clear();
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Waits until the peer closes or breaks off; what it sends meanwhile is kept for later.
    pub async fn closed(&mut self) {
        while self.fill().await.is_ok_and(|read| read > 0) {}
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// What has been read beyond what was used.
    pub fn unused(&self) -> &[u8] {
        &self.buffer
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.need(self.buffer.len() + 1).await?;
        }
    }

    async fn need(&mut self, length: usize) -> Result<()> {
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(64 << 10);
        self.io.read_buf(&mut self.buffer).await
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// The values of a header in a raw head.
pub fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

pub fn is_chunked(head: &str) -> bool {
    values(head, "transfer-encoding")
        .iter()
        .any(|value| value.eq_ignore_ascii_case("chunked"))
}

pub fn content_length(head: &str) -> Option<usize> {
    values(head, "content-length").first()?.parse().ok()
}
