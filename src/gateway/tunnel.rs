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
    let mut cutting = false;
    timer.set(idle, None);
    let ended = poll_fn(|cx| {
        let before = (bytes, up.state, down.state);
        let upward = up.poll(cx, &mut near.link, &mut endpoint, &mut bytes.0);
        let downward = down.poll(cx, &mut endpoint, &mut near.link, &mut bytes.1);
        match (upward, downward) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(())))
            | (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_))) => return Poll::Ready(ending(cutting, false)),
            _ => {}
        }
        if !cutting && timer.poll_cut(cx).is_ready() {
            cutting = true;
            timer.set(FAREWELL_MAX, None);
            up.farewell = Some(websocket::going_away_masked(
                fastrand::u32(..).to_be_bytes(),
            ));
            down.farewell = Some(websocket::going_away());
            // Both may be able to say it at once.
            cx.waker().wake_by_ref();
        }
        let is_whole = up.state == State::Open && down.state == State::Open;
        if before != (bytes, up.state, down.state) && !cutting {
            let limit = if is_whole {
                idle
            } else {
                idle.min(HALF_OPEN_MAX)
            };
            timer.set(limit, None);
        }
        timer.poll(cx).map(|()| ending(cutting, is_whole))
    })
    .await;
    caller.bytes_in = bytes.0;
    ctx.traffic.bytes_out = bytes.1;
    ctx.end(ended);
}

fn ending(cutting: bool, idle: bool) -> Ending {
    match (cutting, idle) {
        (true, _) => Ending::CutByDrain,
        (false, true) => Ending::TunnelIdle,
        (false, false) => Ending::TunnelClosed,
    }
}

#[derive(Debug, Default)]
struct Direction {
    state: State,
    frames: FrameTracker,
    /// To be said as soon as the frame under way has ended.
    farewell: Option<Bytes>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The last word was said; whatever still comes is for nobody.
    Said,
    /// Its source has ended; its target must be told.
    Ending,
    Closed,
}

impl Direction {
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
                State::Open if self.farewell.is_some() && self.frames.is_between_frames() => {
                    to.out.put(self.farewell.take().unwrap_or_default());
                    self.state = State::Said;
                }
                State::Open if from.inbox.is_empty() => {
                    let moved = ready!(self.move_once(cx, from, to))?;
                    *bytes += moved as u64;
                    if moved == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Open => {
                    // What came together with the heads.
                    let part = self.pass(&from.inbox);
                    *bytes += part as u64;
                    to.out.put(from.inbox.split_to(part).freeze());
                    from.slim();
                }
                State::Said => {
                    from.inbox.clear();
                    if ready!(from.poll_fill(cx, SCRATCH))? == 0 {
                        self.state = State::Ending;
                    }
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

    /// How much of these bytes may go: all, or what the last frame still needs.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.farewell.is_some() {
            return self.frames.pass_frame(bytes);
        }
        self.frames.pass(bytes);
        bytes.len()
    }

    /// One read, and what the other side takes of it at once; the rest waits for it. 0: the end.
    fn move_once<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Link<A>,
        to: &mut Link<B>,
    ) -> Poll<io::Result<usize>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buf = ReadBuf::new(buffer);
            ready!(Pin::new(&mut from.io).poll_read(cx, &mut buf))?;
            let part = self.pass(buf.filled());
            let part = &buf.filled()[..part];
            if part.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let sent = match Pin::new(&mut to.io).poll_write(cx, part) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < part.len() {
                to.out.put(Bytes::copy_from_slice(&part[sent..]));
            }
            to.out.set_unflushed();
            Poll::Ready(Ok(part.len()))
        })
    }
}
