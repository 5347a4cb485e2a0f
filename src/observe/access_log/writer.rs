//! The bounded buffer between requests and the file, and the one thread that empties it.
//!
//! Each thread appends to its own shard, so that requests do not meet at one lock. The writing
//! thread sleeps while nothing is buffered, lets lines gather for a moment, then takes all shards
//! by swapping their buffers and writes them.

use prometheus::IntCounter;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tracing::error;

/// More than the threads that usually write, so that few share one.
const SHARDS: usize = 16;
/// What a shard holds at most: with 16 of them, 16 MiB while the disk does not answer.
const SHARD_BYTES_MAX: usize = 1 << 20;
/// A shard this full is written without waiting for the moment to pass.
const SHARD_BYTES_HURRY: usize = 1 << 17;
/// How long lines gather: few writes under load, and nobody who watches the log notices.
const GATHER: Duration = Duration::from_millis(100);
/// How long to wait for a pipe that is full and set to non-blocking, before its lines are dropped.
const PIPE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Between two reports of the same trouble.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// Where lines end up.
#[derive(Debug, Clone)]
pub enum Sink {
    Stdout,
    File(PathBuf),
}

impl Sink {
    /// Standard output is duplicated: the standard library's own handle would buffer lines again.
    fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Self::File(path) => OpenOptions::new().append(true).create(true).open(path),
        }
    }
}

/// Lines written, and lines lost for whatever reason.
pub struct Counters {
    pub written: IntCounter,
    pub dropped: IntCounter,
}

/// The front: takes lines from any thread. Dropping it writes what is left.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Thread,
    ended: Mutex<Receiver<()>>,
}

struct Shared {
    shards: [Mutex<Vec<u8>>; SHARDS],
    /// Whether the writing thread knows that there is something to do.
    pending: AtomicBool,
    /// Some shard is filling up.
    hurry: AtomicBool,
    reopen: AtomicBool,
    closing: AtomicBool,
    counters: Counters,
}

impl Shared {
    fn new(counters: Counters) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            pending: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            counters,
        }
    }
}

/// Numbers threads in the order in which they first log.
static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

impl Writer {
    /// Opens the sink and starts the writing thread.
    pub fn start(sink: Sink, counters: Counters) -> io::Result<Self> {
        let file = sink.open()?;
        Self::with_file(sink, file, counters)
    }

    fn with_file(sink: Sink, file: File, counters: Counters) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(counters));
        let (says_ended, ended) = channel();
        let mut drain = Drain::new(Arc::clone(&shared), sink, file);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || drain.run(says_ended))?
            .thread()
            .clone();
        Ok(Self {
            shared,
            thread,
            ended: Mutex::new(ended),
        })
    }

    /// Takes one line with its end, or drops it when the shard is full.
    pub fn push(&self, line: &[u8]) {
        let Shared {
            shards,
            pending,
            hurry,
            counters,
            ..
        } = &*self.shared;
        let length = {
            let mut shard = lock(&shards[SHARD.get()]);
            if shard.len() + line.len() > SHARD_BYTES_MAX {
                drop(shard);
                counters.dropped.inc();
                return;
            }
            shard.extend_from_slice(line);
            shard.len()
        };
        let hurries = length > SHARD_BYTES_HURRY && !hurry.swap(true, Ordering::AcqRel);
        // Mostly true under load, so a plain look first keeps the word shared between processors.
        let asleep = !pending.load(Ordering::Acquire) && !pending.swap(true, Ordering::AcqRel);
        if hurries || asleep {
            self.thread.unpark();
        }
    }

    /// Opens the file anew before the next line is written.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.shared.pending.store(true, Ordering::Release);
        self.shared.hurry.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.wake();
        // A thread that hangs in a write cannot be stopped: after the deadline it is left behind.
        let _ = lock(&self.ended).recv_timeout(CLOSE_DEADLINE);
    }
}

/// The writing thread.
struct Drain {
    shared: Arc<Shared>,
    sink: Sink,
    file: File,
    /// Swapped with each shard in turn, so that none allocates again.
    spare: Vec<u8>,
    /// The last write ended inside a line.
    torn: bool,
    trouble: Trouble,
}

impl Drain {
    fn new(shared: Arc<Shared>, sink: Sink, file: File) -> Self {
        Self {
            shared,
            sink,
            file,
            spare: Vec::new(),
            torn: false,
            trouble: Trouble::default(),
        }
    }

    fn run(&mut self, says_ended: Sender<()>) {
        loop {
            self.wait();
            // Before anything is looked at: what comes later then wakes us again. A swap, because
            // it also makes visible what was stored before the flag was raised.
            self.shared.pending.swap(false, Ordering::AcqRel);
            self.shared.hurry.swap(false, Ordering::AcqRel);
            let closing = self.shared.closing.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.open_anew();
            }
            self.write_all();
            if closing {
                break;
            }
        }
        drop(says_ended);
    }

    /// Until there is something, and then for a moment more.
    fn wait(&self) {
        while !self.shared.pending.load(Ordering::Acquire) {
            thread::park();
        }
        let until = Instant::now() + GATHER;
        while !self.shared.hurry.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
    }

    fn open_anew(&mut self) {
        match self.sink.open() {
            Ok(file) => {
                self.file = file;
                self.torn = false;
            }
            Err(why) => self.report("cannot reopen the access log; the old file stays", 0, &why),
        }
    }

    fn write_all(&mut self) {
        for at in 0..SHARDS {
            let mut batch = std::mem::take(&mut self.spare);
            std::mem::swap(&mut *lock(&self.shared.shards[at]), &mut batch);
            if !batch.is_empty() {
                self.write(&batch);
                batch.clear();
                // What a burst needed is given back.
                batch.shrink_to(2 * SHARD_BYTES_HURRY);
            }
            self.spare = batch;
        }
    }

    fn write(&mut self, batch: &[u8]) {
        let mut done = 0;
        if self.torn {
            // Ends the half line, so that it spoils only itself.
            match self.file.write(b"\n") {
                Ok(1) => self.torn = false,
                Ok(_) => {}
                Err(why) => return self.lost(batch, 0, &why),
            }
        }
        let mut patience: Option<Instant> = None;
        while done < batch.len() {
            match self.file.write(&batch[done..]) {
                Ok(0) => return self.lost(batch, done, &ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if now > *patience.get_or_insert(now + PIPE_PATIENCE) {
                        return self.lost(batch, done, &why);
                    }
                    thread::park_timeout(Duration::from_millis(5));
                }
                Err(why) => return self.lost(batch, done, &why),
            }
        }
        self.shared.counters.written.inc_by(lines(batch));
    }

    /// Counts what was and was not written of a batch, and says so.
    fn lost(&mut self, batch: &[u8], done: usize, why: &io::Error) {
        let written = lines(&batch[..done]);
        let lost = lines(batch) - written;
        self.torn |= done > 0 && batch[done - 1] != b'\n';
        self.shared.counters.written.inc_by(written);
        self.shared.counters.dropped.inc_by(lost);
        self.report("cannot write the access log; lines are lost", lost, why);
    }

    fn report(&mut self, what: &str, lost: u64, why: &io::Error) {
        if let Some(lines) = self.trouble.due(lost, Instant::now()) {
            error!(lines, %why, "{what}");
        }
    }
}

/// Reports trouble once in a while, with all that was lost since.
#[derive(Debug, Default)]
struct Trouble {
    reported: Option<Instant>,
    lost: u64,
}

impl Trouble {
    /// The lines lost since the last report, if it is time for the next.
    fn due(&mut self, lost: u64, now: Instant) -> Option<u64> {
        self.lost += lost;
        let waits = |at: Instant| now.saturating_duration_since(at) < REPORT_EVERY;
        if self.reported.is_some_and(waits) {
            return None;
        }
        self.reported = Some(now);
        Some(std::mem::take(&mut self.lost))
    }
}

fn lines(batch: &[u8]) -> u64 {
    u64::try_from(memchr::memchr_iter(b'\n', batch).count()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between two statements leaves whole lines: they are worth writing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn counters() -> Counters {
        let counter = || IntCounter::new("a", "b").expect("valid");
        Counters {
            written: counter(),
            dropped: counter(),
        }
    }

    /// A drain that writes to a socket, and the socket's other end.
    fn drain_to_socket() -> (Drain, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_nonblocking(true).expect("a socket");
        let file = File::from(OwnedFd::from(ours));
        (
            Drain::new(Arc::new(Shared::new(counters())), Sink::Stdout, file),
            theirs,
        )
    }

    #[test]
    fn trouble_is_reported_once_a_minute_with_all_that_was_lost() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        for (second, lost, expected) in [
            (0, 3, Some(3)),
            (1, 4, None),
            (59, 5, None),
            (60, 1, Some(10)),
            (121, 0, Some(0)),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(trouble.due(lost, now), expected, "{second}");
        }
    }

    #[test]
    fn a_line_that_was_torn_spoils_only_itself() {
        let (mut drain, mut reader) = drain_to_socket();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let batch = line.repeat(5000);
        drain.write(&batch);
        let written = drain.shared.counters.written.get();
        let dropped = drain.shared.counters.dropped.get();
        assert_eq!(written + dropped, 5000);
        assert!(dropped > 0, "the socket took five megabytes at once");
        drain.torn = true;
        reader.set_nonblocking(true).expect("a socket");
        let mut read = Vec::new();
        let _ = reader.read_to_end(&mut read);
        drain.write(b"whole\n");
        drop(drain);
        let _ = reader.read_to_end(&mut read);
        assert!(read.ends_with(b"\nwhole\n"), "{}", read.len());
    }

    #[test]
    fn a_reader_that_left_costs_lines_and_nothing_else() {
        let (mut drain, reader) = drain_to_socket();
        drop(reader);
        drain.write(b"a\nb\n");
        drain.write(b"c\n");
        assert_eq!(drain.shared.counters.dropped.get(), 3);
        assert_eq!(drain.shared.counters.written.get(), 0);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let file = File::from(OwnedFd::from(ours));
        let writer = Writer::with_file(Sink::Stdout, file, counters()).expect("a thread");
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let start = Instant::now();
        let mut pushed: u64 = 0;
        while writer.shared.counters.dropped.get() == 0 {
            writer.push(&line);
            pushed += 1;
            assert!(start.elapsed() < Duration::from_secs(10), "{pushed}");
        }
        let held: usize = writer
            .shared
            .shards
            .iter()
            .map(|shard| lock(shard).len())
            .sum();
        assert!(held <= SHARD_BYTES_MAX, "one thread fills one shard");
        // The write that hangs fails now, and closing need not wait for its deadline.
        drop(theirs);
        drop(writer);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
