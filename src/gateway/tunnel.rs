//! Bytes in both directions, once it is no HTTP any more. A tunnel at rest holds no buffer.

use super::attempt::Held;
use super::life::Flight;
use crate::base::ending::Ending;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::link::Link;
use crate::wire::websocket::{self, FrameTracker};
use bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once, into a buffer that all tunnels of a worker share.
const SCRATCH: usize = 16 * 1024;

/// When one side has ended, the other has this long to do the same.
const HALF_OPEN_MAX: Duration = Duration::from_secs(10);

/// For the close frames of a process that ends, and what they are answered with.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Passes bytes until both sides have ended, or both are silent for too long.
pub async fn run(held: Held<'_>, flight: &mut Flight<'_>) {
    let Flight {
        caller, ctx, timer, ..
    } = flight;
    let Some(Exchange::H1(h1)) = held.take() else {
        return ctx.end(Ending::Internal);
    };
    let mut endpoint = h1.into_link();
    let Some(near) = caller.as_tunnel() else {
        return ctx.end(Ending::Internal);
    };
    let idle = ctx.tunnel_limit();
    let mut bytes = (0_u64, 0_u64);
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut farewell = Farewell::NotYet;
    timer.set(idle, None);
    let ending = poll_fn(|cx| {
        let before = (bytes, up.state, down.state);
        let upward = up.poll(cx, &mut near.link, &mut endpoint, &mut bytes.0);
        let downward = down.poll(cx, &mut endpoint, &mut near.link, &mut bytes.1);
        match (upward, downward) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(())))
            | (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_))) => return Poll::Ready(farewell.ending()),
            _ => {}
        }
        if farewell == Farewell::NotYet && timer.poll_cut(cx).is_ready() {
            farewell = Farewell::Due;
            timer.set(FAREWELL_MAX, None);
        }
        if farewell == Farewell::Due && up.is_between_frames() && down.is_between_frames() {
            near.link.out.put(websocket::going_away());
            let mask = fastrand::u32(..).to_be_bytes();
            endpoint.out.put(websocket::going_away_masked(mask));
            farewell = Farewell::Said;
            // Their own close frames, and the ends of their connections, are all that may follow.
            let _ = (near.link.poll_flush(cx), endpoint.poll_flush(cx));
        }
        let is_whole = up.state == State::Open && down.state == State::Open;
        if before != (bytes, up.state, down.state) && farewell == Farewell::NotYet {
            let limit = if is_whole {
                idle
            } else {
                idle.min(HALF_OPEN_MAX)
            };
            timer.set(limit, None);
        }
        timer.poll(cx).map(|()| match farewell {
            Farewell::NotYet if is_whole => Ending::TunnelIdle,
            farewell => farewell.ending(),
        })
    })
    .await;
    caller.bytes_in = bytes.0;
    ctx.traffic.bytes_out = bytes.1;
    ctx.end(ending);
}

/// What is said to both sides before the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    NotYet,
    Due,
    Said,
}

impl Farewell {
    fn ending(self) -> Ending {
        match self {
            Self::NotYet => Ending::TunnelClosed,
            Self::Due | Self::Said => Ending::CutByDrain,
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    state: State,
    frames: FrameTracker,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Its source has ended; its target must be told.
    Ending,
    Closed,
}

impl Direction {
    fn is_between_frames(&self) -> bool {
        self.state == State::Open && self.frames.is_between_frames()
    }

    /// Moves what can be moved now. Ready when there will be nothing more.
    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Link<A>,
        to: &mut Link<B>,
        bytes: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            ready!(to.poll_flush(cx))?;
            match self.state {
                State::Open if from.inbox.is_empty() => {
                    let read = ready!(move_once(cx, from, to, &mut self.frames))?;
                    *bytes += read as u64;
                    if read == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Open => {
                    // What came together with the heads.
                    *bytes += from.inbox.len() as u64;
                    self.frames.pass(&from.inbox);
                    to.out.put(from.inbox.split().freeze());
                    from.slim();
                }
                State::Ending => {
                    // Nobody is left to tell when this fails.
                    let _ = ready!(Pin::new(&mut to.io).poll_shutdown(cx));
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// One read, and what the other side takes of it at once; the rest waits for it. 0: the end.
fn move_once<A, B>(
    cx: &mut Context<'_>,
    from: &mut Link<A>,
    to: &mut Link<B>,
    frames: &mut FrameTracker,
) -> Poll<io::Result<usize>>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    BUFFER.with_borrow_mut(|buffer| {
        let mut buf = ReadBuf::new(buffer);
        ready!(Pin::new(&mut from.io).poll_read(cx, &mut buf))?;
        let read = buf.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(0));
        }
        frames.pass(read);
        let sent = match Pin::new(&mut to.io).poll_write(cx, read) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        if sent < read.len() {
            to.out.put(Bytes::copy_from_slice(&read[sent..]));
        }
        to.out.set_unflushed();
        Poll::Ready(Ok(read.len()))
    })
}
