//! Lines on their way to standard error: a bounded buffer and the one thread that empties it, so that nobody waits
//! for whoever reads.

use prometheus::IntCounter;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// What waits at most: some thousand lines.
const BYTES_MAX: usize = 1 << 20;
/// What a burst needed beyond this is given back.
const BYTES_KEPT: usize = 1 << 16;
/// Between two tries at a pipe that is full and set to non-blocking.
const PAUSE: Duration = Duration::from_millis(10);

/// The front: takes lines from any thread.
#[derive(Clone)]
pub struct Spool(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    emptied: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Lines lost that nobody was told of.
    lost: u64,
    /// The thread has taken some and not written them yet.
    busy: bool,
}

impl Spool {
    /// Writes to standard error from now on. `dropped` counts the lines that are lost.
    pub fn to_stderr(dropped: IntCounter) -> io::Result<Self> {
        // A copy: the standard library's own handle has a lock that whoever panics needs.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::to(stderr, dropped)
    }

    fn to(file: File, dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped,
        });
        let drain = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || drain.run(file))?;
        Ok(Self(shared))
    }

    /// Takes one line with its end, or drops it when too many wait.
    fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if queue.bytes.len() + line.len() > BYTES_MAX {
            queue.lost += 1;
            drop(queue);
            self.0.dropped.inc();
            return;
        }
        queue.bytes.extend_from_slice(line);
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Waits until everything is written, at most so long.
    pub fn flush(&self, at_most: Duration) {
        let waits = |queue: &mut Queue| queue.busy || !queue.bytes.is_empty();
        let queue = self.0.lock();
        let outcome = self.0.emptied.wait_timeout_while(queue, at_most, waits);
        drop(outcome.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic between two statements leaves whole lines.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut file: File) {
        let mut batch = Vec::new();
        loop {
            let empty = |queue: &mut Queue| queue.bytes.is_empty();
            let waited = self.filled.wait_while(self.lock(), empty);
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut queue.bytes, &mut batch);
            queue.busy = true;
            drop(queue);
            let failed = write_all(&mut file, &batch).err();
            let mut queue = self.lock();
            if let Some(rest) = failed {
                queue.lost += rest;
                self.dropped.inc_by(rest);
            }
            let lost = if failed.is_none() {
                std::mem::take(&mut queue.lost)
            } else {
                0
            };
            queue.busy = false;
            drop(queue);
            self.emptied.notify_all();
            batch.clear();
            batch.shrink_to(BYTES_KEPT);
            if lost > 0 {
                warn!(lines = lost, "lines of this log are lost: nobody took them");
            }
        }
    }
}

/// All of it; or how many lines could not be written. Who blocks is waited for: the buffer is bounded.
fn write_all(file: &mut File, batch: &[u8]) -> Result<(), u64> {
    let mut done = 0;
    while done < batch.len() {
        match file.write(&batch[done..]) {
            Ok(written @ 1..) => done += written,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) if why.kind() == ErrorKind::WouldBlock => thread::park_timeout(PAUSE),
            Ok(_) | Err(_) => {
                let lines = memchr::memchr_iter(b'\n', &batch[done..]).count();
                // A pause, so that a reader that has gone costs no processor time.
                thread::park_timeout(PAUSE);
                return Err(u64::try_from(lines).unwrap_or(u64::MAX));
            }
        }
    }
    Ok(())
}

impl<'w> MakeWriter<'w> for Spool {
    type Writer = Line<'w>;

    fn make_writer(&'w self) -> Line<'w> {
        Line(self)
    }
}

/// Takes one event, which the subscriber writes in one piece.
pub struct Line<'s>(&'s Spool);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    fn spool() -> (Spool, IntCounter, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let dropped = IntCounter::new("a", "b").expect("valid");
        let file = File::from(OwnedFd::from(ours));
        let spool = Spool::to(file, dropped.clone()).expect("a thread");
        (spool, dropped, theirs)
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_the_rest_comes_in_order() {
        let (spool, dropped, mut theirs) = spool();
        let mut pushed: u64 = 0;
        while dropped.get() == 0 {
            spool.push(format!("{pushed:999}\n").as_bytes());
            pushed += 1;
            assert!(pushed < 100_000, "nothing is dropped");
        }
        let whole = pushed - dropped.get();
        let mut read = vec![0; usize::try_from(whole).expect("few") * 1000];
        theirs.read_exact(&mut read).expect("all that was taken");
        let text = String::from_utf8(read).expect("text");
        for (nth, line) in text.lines().enumerate() {
            assert_eq!(line.trim(), nth.to_string());
        }
    }

    #[test]
    fn flushing_waits_for_the_last_line_and_not_for_ever() {
        let (spool, _, mut theirs) = spool();
        spool.push(b"last\n");
        spool.flush(Duration::from_secs(10));
        theirs.set_nonblocking(true).expect("a socket");
        let mut read = [0; 9];
        assert_eq!(theirs.read(&mut read).expect("it is there"), 5);
        let line = vec![b'x'; 1 << 16];
        for _ in 0..100 {
            spool.push(&line);
        }
        spool.flush(Duration::from_millis(20));
        let queue = spool.0.lock();
        assert!(queue.busy, "it is stuck, and was left");
    }

    #[test]
    fn a_reader_that_left_costs_lines_that_are_counted() {
        let (spool, dropped, theirs) = spool();
        drop(theirs);
        spool.push(b"a\n");
        spool.push(b"b\n");
        let until = Instant::now() + Duration::from_secs(10);
        while dropped.get() < 2 {
            assert!(Instant::now() < until, "{}", dropped.get());
            thread::yield_now();
        }
    }
}
