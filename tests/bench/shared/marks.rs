//! Follows a stream of the provider's: which of its events have come, and how long each was on its way.

use crate::provider::EVENTS;
use crate::wire::now_us;
use memchr::memchr;
use std::time::Duration;
use tokio::time::Instant;

/// Longer than this between two events is seen by whoever reads along.
const STALL: Duration = Duration::from_millis(200);

/// What came of streams.
#[derive(Debug, Default)]
pub struct Streamed {
    /// Microseconds of each event from the provider's hand to the caller's.
    pub transit: Vec<u32>,
    pub stalls: u32,
    pub lost: u32,
    /// Streams that ended badly, by the first of their reasons.
    pub failed: u32,
    pub reason: Option<String>,
}

impl Streamed {
    pub fn add(&mut self, other: Self) {
        self.transit.extend(other.transit);
        self.stalls += other.stalls;
        self.lost += other.lost;
        self.failed += other.failed;
        self.reason = self.reason.take().or(other.reason);
    }
}

/// Finds what the provider has written into its events: `@microseconds#number;`.
#[derive(Debug, Default)]
pub struct Marks {
    /// A mark that was cut.
    partial: Vec<u8>,
    /// The number that must come next.
    next: u32,
    last: Option<Instant>,
    seen: Streamed,
}

impl Marks {
    /// What was seen, once nothing more comes.
    pub fn end(self) -> Streamed {
        Streamed {
            lost: EVENTS - self.next,
            ..self.seen
        }
    }

    pub fn read(&mut self, mut piece: &[u8]) {
        let now = (Instant::now(), now_us());
        if !self.partial.is_empty() {
            let Some(end) = memchr(b';', piece) else {
                return self.partial.extend_from_slice(piece);
            };
            let mut mark = std::mem::take(&mut self.partial);
            mark.extend_from_slice(&piece[..end]);
            self.note(&mark, now);
            piece = &piece[end..];
        }
        while let Some(begin) = memchr(b'@', piece) {
            piece = &piece[begin + 1..];
            let Some(end) = memchr(b';', piece) else {
                self.partial = [b"@", piece].concat();
                return;
            };
            self.note(&piece[..end], now);
            piece = &piece[end..];
        }
    }

    /// One event has come. Those that are out of order are as good as lost.
    fn note(&mut self, mark: &[u8], (now, now_us): (Instant, u64)) {
        let mark = String::from_utf8_lossy(mark);
        let Some((sent, nth)) = mark.trim_start_matches('@').split_once('#') else {
            return;
        };
        let (Ok(sent), Ok(nth)) = (sent.parse::<u64>(), nth.parse::<u32>()) else {
            return;
        };
        if nth != self.next {
            return;
        }
        self.next += 1;
        let transit = now_us.saturating_sub(sent);
        self.seen
            .transit
            .push(u32::try_from(transit).unwrap_or(u32::MAX));
        let stalled = self.last.is_some_and(|last| now - last > STALL);
        self.seen.stalls += u32::from(stalled);
        self.last = Some(now);
    }
}
