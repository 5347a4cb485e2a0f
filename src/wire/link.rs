//! One connection that speaks HTTP/1.1: bytes that came and were not understood yet, bytes that wait to leave.

use super::body::{BodyReader, Malformed, Piece};
use super::outgoing::Outgoing;
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Room for one read of a head.
pub const HEAD_ROOM: usize = 4 * 1024;

/// Room for one read of a body.
const BODY_ROOM: usize = 64 * 1024;

/// Below this many waiting bytes there is room for more.
const ROOM_BELOW: usize = 64 * 1024;

#[derive(Debug)]
pub struct Link<S> {
    pub io: S,
    /// Came, and not taken yet.
    pub inbox: BytesMut,
    pub out: Outgoing,
}

/// Why a body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The connection ended or failed within it.
    Cut(io::Error),
    Malformed(Malformed),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub fn new(io: S) -> Self {
        Self {
            io,
            inbox: BytesMut::new(),
            out: Outgoing::default(),
        }
    }

    /// Reads once, at least `room` bytes if they are there; 0: the other end has finished.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.inbox.reserve(room);
        // Holds no state between two polls, so it may be made anew for each.
        pin!(self.io.read_buf(&mut self.inbox)).poll(cx)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_flush(&mut self.io, cx)
    }

    /// Ready when more may be put in.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.waiting() < ROOM_BELOW {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// The next piece of a body, none at its end.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut BodyReader,
    ) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            match body.take(&mut self.inbox).map_err(BodyError::Malformed)? {
                Piece::Data(data) => return Poll::Ready(Ok(Some(data))),
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::More => {}
            }
            let room = body.expects().clamp(HEAD_ROOM, BODY_ROOM);
            let read = ready!(self.poll_fill(cx, room)).map_err(BodyError::Cut)?;
            if read == 0 {
                if body.may_end() {
                    return Poll::Ready(Ok(None));
                }
                return Poll::Ready(Err(BodyError::Cut(io::ErrorKind::UnexpectedEof.into())));
            }
        }
    }

    /// Whether the other end is there and silent, as it should be between two requests.
    pub fn rests(&mut self) -> bool {
        if !self.inbox.is_empty() || !self.out.is_empty() {
            return false;
        }
        let mut one = [0];
        let mut buf = tokio::io::ReadBuf::new(&mut one);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io)
            .poll_read(&mut cx, &mut buf)
            .is_pending()
    }

    /// Gives back what memory a connection at rest does not need.
    pub fn slim(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
    }
}
