//! Bytes in both directions, once it is no HTTP any more. A tunnel at rest holds no buffer.

use super::attempt::Held;
use super::caller::Caller;
use super::context::RequestContext;
use super::timer::Timer;
use crate::base::ending::Ending;
use crate::snapshot::Meter;
use crate::stage::ai::realtime::Tally;
use crate::stage::upstream::exchange::Exchange;
use crate::wire::link::Link;
use crate::wire::websocket::{Close, FrameTracker, begins_message};
use bytes::Bytes;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once, into a buffer that all tunnels of a worker share.
const SCRATCH: usize = 16 * 1024;

/// When one side has ended, the other has this long to do the same.
const HALF_OPEN_MAX: Duration = Duration::from_secs(10);

/// For close frames of ours, and what they are answered with.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Passes bytes until both sides have ended, or both are silent for too long.
pub async fn run(held: Held<'_>, caller: &mut Caller, ctx: &mut RequestContext, timer: &mut Timer) {
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
    up.meter = ctx.message_meter();
    down.tally = ctx.inference.as_ref().map(|_| Box::default());
    // Why we have said goodbye, if we have.
    let mut leaving = None;
    timer.set(idle, None);
    let ended = poll_fn(|cx| {
        let before = (bytes, up.state, down.state);
        let upward = up.poll(cx, &mut near.link, &mut endpoint, &mut bytes.0);
        let downward = down.poll(cx, &mut endpoint, &mut near.link, &mut bytes.1);
        if let (Some(tally), Some(inference)) = (&down.tally, &mut ctx.inference) {
            inference.tallied(tally);
        }
        match (upward, downward) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(())))
            | (Poll::Ready(Err(_)), _)
            | (_, Poll::Ready(Err(_))) => return Poll::Ready(ending(leaving, false)),
            _ => {}
        }
        if leaving.is_none() {
            leaving = if up.is_over {
                Some(Close::TooManyMessages)
            } else if timer.poll_cut(cx).is_ready() {
                Some(Close::GoingAway)
            } else {
                None
            };
            if let Some(close) = leaving {
                timer.set(FAREWELL_MAX, None);
                up.say(close.masked_frame(fastrand::u32(..).to_be_bytes()));
                down.say(close.frame());
                // Both may be able to say it at once.
                cx.waker().wake_by_ref();
            }
        }
        let is_whole = up.state == State::Open && down.state == State::Open;
        if before != (bytes, up.state, down.state) && leaving.is_none() {
            let limit = if is_whole {
                idle
            } else {
                idle.min(HALF_OPEN_MAX)
            };
            timer.set(limit, None);
        }
        timer.poll(cx).map(|()| ending(leaving, is_whole))
    })
    .await;
    caller.bytes_in = bytes.0;
    ctx.traffic.bytes_out = bytes.1;
    ctx.end(ended);
}

fn ending(leaving: Option<Close>, idle: bool) -> Ending {
    match (leaving, idle) {
        (Some(Close::GoingAway), _) => Ending::CutByDrain,
        (Some(Close::TooManyMessages), _) => Ending::TunnelOverLimit,
        (None, true) => Ending::TunnelIdle,
        (None, false) => Ending::TunnelClosed,
    }
}

#[derive(Debug, Default)]
struct Direction {
    state: State,
    frames: FrameTracker,
    /// To be said as soon as the frame under way has ended.
    farewell: Option<Bytes>,
    /// How many messages may pass, if that is limited.
    meter: Option<Meter>,
    /// What a model's provider says it counted, where there is one at the other end.
    tally: Option<Box<Tally>>,
    /// A message came that was one too many; nothing passes any more.
    is_over: bool,
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
                // Whoever runs us says goodbye.
                State::Open if self.is_over => return Poll::Pending,
                State::Open if from.inbox.is_empty() => {
                    match ready!(self.move_once(cx, from, to))? {
                        Some(moved) => *bytes += moved as u64,
                        None => self.state = State::Ending,
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

    fn say(&mut self, farewell: Bytes) {
        self.farewell = Some(farewell);
    }

    /// How much of these bytes may go: all, what the last frame still needs, or what comes before a message
    /// that is too many.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let part = self.measure(bytes);
        if let Some(tally) = &mut self.tally {
            tally.pass(&bytes[..part]);
        }
        part
    }

    fn measure(&mut self, bytes: &[u8]) -> usize {
        if self.farewell.is_some() {
            return self.frames.pass_frame(bytes);
        }
        let Some(meter) = &self.meter else {
            self.frames.pass(bytes);
            return bytes.len();
        };
        let mut passed = 0;
        while let Some(first) = bytes.get(passed) {
            let begins = self.frames.is_between_frames() && begins_message(*first);
            if begins && !meter.take(Instant::now()) {
                self.is_over = true;
                break;
            }
            passed += self.frames.pass_frame(&bytes[passed..]);
        }
        passed
    }

    /// One read, and what the other side takes of it at once; the rest waits for it. None: the end.
    fn move_once<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Link<A>,
        to: &mut Link<B>,
    ) -> Poll<io::Result<Option<usize>>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buf = ReadBuf::new(buffer);
            ready!(Pin::new(&mut from.io).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(None));
            }
            let part = self.pass(buf.filled());
            let part = &buf.filled()[..part];
            if part.is_empty() {
                return Poll::Ready(Ok(Some(0)));
            }
            let sent = match Pin::new(&mut to.io).poll_write(cx, part) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < part.len() {
                to.out.put(Bytes::copy_from_slice(&part[sent..]));
            }
            to.out.set_unflushed();
            Poll::Ready(Ok(Some(part.len())))
        })
    }
}
