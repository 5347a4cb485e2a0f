//! What waits to be sent: small pieces together, large ones as they are.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces up to this size are copied behind the one before: head and body of a small answer leave in one write.
const COPY_MAX: usize = 8 * 1024;

/// Pieces handed to the system in one write.
const SLICES_MAX: usize = 16;

/// A larger buffer is given back when it is empty, so that connections at rest hold none.
const KEPT_MAX: usize = 1024;

/// Bytes in their order. The caller bounds them: it puts more in only when little is left.
#[derive(Debug, Default)]
pub struct Outgoing {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    /// Something was written that the stream may still hold back.
    unflushed: bool,
}

impl Outgoing {
    /// Bytes not sent yet.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Something was written past this queue.
    pub fn set_unflushed(&mut self) {
        self.unflushed = true;
    }

    /// Appends by writing into the buffer itself.
    pub fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.waiting += self.tail.len() - before;
    }

    pub fn put(&mut self, piece: Bytes) {
        if piece.len() <= COPY_MAX && self.tail.len() + piece.len() <= 2 * COPY_MAX {
            self.write(|tail| tail.extend_from_slice(&piece));
            return;
        }
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
        self.waiting += piece.len();
        self.queue.push_back(piece);
    }

    /// Writes until nothing waits, and passes it all on.
    pub fn poll_flush<S>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        if self.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while !self.is_empty() {
            let sent = ready!(self.poll_write(io, cx))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(sent);
        }
        if self.tail.capacity() > KEPT_MAX {
            self.tail = BytesMut::new();
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write<S>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        if self.queue.is_empty() {
            return Pin::new(io).poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let pieces = self.queue.iter().map(|piece| &piece[..]);
        for (slice, piece) in slices.iter_mut().zip(pieces.chain([&self.tail[..]])) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..used])
    }

    fn advance(&mut self, mut sent: usize) {
        self.waiting -= sent;
        while let Some(first) = self.queue.front_mut() {
            if sent < first.len() {
                first.advance(sent);
                return;
            }
            sent -= first.len();
            self.queue.pop_front();
        }
        self.tail.advance(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn everything_arrives_in_its_order(sizes in prop::collection::vec(0_usize..20_000, 0..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(3000);
                let mut out = Outgoing::default();
                let mut whole = Vec::new();
                for (nth, size) in sizes.iter().enumerate() {
                    let piece = vec![u8::try_from(nth).unwrap(); *size];
                    whole.extend_from_slice(&piece);
                    if nth % 3 == 0 {
                        out.write(|tail| tail.extend_from_slice(&piece));
                    } else {
                        out.put(Bytes::from(piece));
                    }
                }
                assert_eq!(out.waiting(), whole.len());
                let reading = tokio::spawn(async move {
                    let mut read = Vec::new();
                    far.read_to_end(&mut read).await.unwrap();
                    read
                });
                poll_fn(|cx| out.poll_flush(&mut near, cx)).await.unwrap();
                assert!(out.is_empty());
                drop(near);
                assert_eq!(reading.await.unwrap(), whole);
            });
        }
    }
}
