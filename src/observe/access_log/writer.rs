//! The bounded buffer between requests and the file, and the one thread that empties it.
//!
//! Each thread appends to its own shard, so that requests do not meet at one lock. The writing
//! thread sleeps while nothing is buffered, lets lines gather for a moment, then takes all shards
//! by swapping their buffers and writes them. What a server does not take now is tried again each second, while
//! the shards fill up behind it.

use super::output::{Done, Output, lines};
use prometheus::IntCounter;
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tracing::{error, info};

/// More than the threads that usually write, so that few share one.
const SHARDS: usize = 16;
/// What a shard holds at most: with 16 of them, 16 MiB while the disk does not answer.
const SHARD_BYTES_MAX: usize = 1 << 20;
/// A shard this full is written without waiting for the moment to pass.
const SHARD_BYTES_HURRY: usize = 1 << 17;
/// How long lines gather: few writes under load, and nobody who watches the log notices.
const GATHER: Duration = Duration::from_millis(100);
/// Between two tries at a server that is away.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Between two reports of the same trouble.
const REPORT_EVERY: Duration = Duration::from_mins(1);

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
    /// What is wrong with the place that lines go to; none while they arrive.
    trouble: Mutex<Option<String>>,
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
            trouble: Mutex::default(),
        }
    }
}

/// Numbers threads in the order in which they first log.
static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

impl Writer {
    /// Starts the writing thread.
    pub fn start(output: Output, counters: Counters) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(counters));
        let (says_ended, ended) = channel();
        let mut drain = Drain::new(Arc::clone(&shared), output);
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

    /// What is wrong with the place that lines go to.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.shared.trouble).clone()
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
    output: Output,
    /// Swapped with each shard in turn, so that none allocates again.
    spare: Vec<u8>,
    /// What was not taken, and when it is tried again.
    held: Vec<u8>,
    again: Instant,
    closing: bool,
    trouble: Trouble,
}

impl Drain {
    fn new(shared: Arc<Shared>, output: Output) -> Self {
        Self {
            shared,
            output,
            spare: Vec::new(),
            held: Vec::new(),
            again: Instant::now(),
            closing: false,
            trouble: Trouble::default(),
        }
    }

    fn run(&mut self, says_ended: Sender<()>) {
        while !self.closing {
            self.wait();
            // Before anything is looked at: what comes later then wakes us again. A swap, because
            // it also makes visible what was stored before the flag was raised.
            self.shared.pending.swap(false, Ordering::AcqRel);
            self.shared.hurry.swap(false, Ordering::AcqRel);
            self.closing = self.shared.closing.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel)
                && let Err(why) = self.output.reopen()
            {
                self.report("cannot reopen the access log; the old file stays", &why);
            }
            self.write_all();
        }
        drop(says_ended);
    }

    fn wait(&self) {
        if self.held.is_empty() {
            self.wait_for_lines();
        } else {
            self.wait_for_another_try();
        }
    }

    /// Until there is something, and then for a moment more.
    fn wait_for_lines(&self) {
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

    fn wait_for_another_try(&self) {
        let told = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        while !told(&self.shared.closing) && !told(&self.shared.reopen) {
            let left = self.again.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
    }

    /// What was held back first; the shards only when all of that is taken.
    fn write_all(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.write(&held);
        }
        for at in 0..SHARDS {
            if !self.held.is_empty() {
                return;
            }
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

    /// Holds back what was not taken, for another try; at the end of the process there is none.
    fn write(&mut self, batch: &[u8]) {
        let done = self.output.write(batch);
        let Done {
            taken,
            mut lost,
            trouble,
        } = done;
        self.shared
            .counters
            .written
            .inc_by(lines(&batch[..taken]) - lost);
        let rest = &batch[taken..];
        if self.closing {
            lost += lines(rest);
        } else if !rest.is_empty() {
            self.held.extend_from_slice(rest);
            self.again = Instant::now() + AGAIN;
        }
        self.shared.counters.dropped.inc_by(lost);
        match trouble {
            Some(why) => self.report("cannot write the access log", &why),
            None => self.recovered(),
        }
    }

    fn report(&mut self, what: &str, why: &io::Error) {
        *lock(&self.shared.trouble) = Some(why.to_string());
        let dropped = self.shared.counters.dropped.get();
        if let Some(lines) = self.trouble.due(dropped, Instant::now()) {
            error!(lost = lines, %why, "{what}");
        }
    }

    fn recovered(&mut self) {
        if lock(&self.shared.trouble).take().is_some()
            && let Some(lines) = self.trouble.over(self.shared.counters.dropped.get())
        {
            info!(lost = lines, "the access log is written again");
        }
    }
}

/// Reports trouble once in a while, with all that was lost since.
#[derive(Debug, Default)]
struct Trouble {
    reported: Option<Instant>,
    /// Of all lines lost so far, those that a report was about.
    counted: u64,
    /// The last report was of trouble.
    told: bool,
}

impl Trouble {
    /// The lines lost since the last report, if it is time for the next. `dropped`: all lines lost so far, be it
    /// here or because the buffer was full.
    fn due(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let waits = |at: Instant| now.saturating_duration_since(at) < REPORT_EVERY;
        if self.reported.is_some_and(waits) {
            return None;
        }
        self.reported = Some(now);
        self.told = true;
        Some(self.since(dropped))
    }

    /// The lines lost since the last report, if that was of trouble: so who comes and goes is not told each time.
    fn over(&mut self, dropped: u64) -> Option<u64> {
        std::mem::take(&mut self.told).then(|| self.since(dropped))
    }

    fn since(&mut self, dropped: u64) -> u64 {
        dropped.saturating_sub(std::mem::replace(&mut self.counted, dropped))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic between two statements leaves whole lines: they are worth writing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::file::FileOutput;
    use super::super::syslog::Syslog;
    use super::*;
    use crate::observe::settings::{SyslogAddress, SyslogSettings};
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn output(socket: UnixStream) -> Output {
        Output::File(FileOutput::new(File::from(OwnedFd::from(socket))))
    }

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
        let drain = Drain::new(Arc::new(Shared::new(counters())), output(ours));
        (drain, theirs)
    }

    #[test]
    fn trouble_is_reported_once_a_minute_with_all_that_was_lost() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        for (second, dropped, expected) in [
            (0, 3, Some(3)),
            (1, 7, None),
            (59, 12, None),
            (60, 13, Some(10)),
            (121, 13, Some(0)),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(trouble.due(dropped, now), expected, "{second}");
        }
        let soon = start + Duration::from_secs(122);
        assert_eq!(trouble.due(15, soon), None);
        assert_eq!((trouble.over(15), trouble.over(15)), (Some(2), None));
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
        reader.set_nonblocking(true).expect("a socket");
        let mut read = Vec::new();
        let _ = reader.read_to_end(&mut read);
        drain.write(b"whole\n");
        drop(drain);
        let _ = reader.read_to_end(&mut read);
        assert!(read.ends_with(b"\nwhole\n"), "{}", read.len());
        let torn = read.split(|byte| *byte == b'\n').map(<[u8]>::len);
        assert_eq!(torn.filter(|length| *length == 999).count() as u64, written);
    }

    #[test]
    fn a_server_that_is_away_is_tried_again_and_loses_nothing() {
        let dir = tempfile::TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let settings = SyslogSettings {
            address: SyslogAddress::Unix(path.clone()),
            ..SyslogSettings::default()
        };
        let output = Output::Syslog(Box::new(Syslog::new(&settings)));
        let mut drain = Drain::new(Arc::new(Shared::new(counters())), output);
        let push = |drain: &Drain, line: &[u8]| {
            lock(&drain.shared.shards[3]).extend_from_slice(line);
        };
        push(&drain, b"1\n2\n");
        drain.write_all();
        assert_eq!(drain.held, b"1\n2\n");
        assert!(lock(&drain.shared.trouble).is_some());
        push(&drain, b"3\n");
        drain.write_all();
        assert_eq!(lock(&drain.shared.shards[3]).as_slice(), b"3\n", "it waits");
        let server = UnixDatagram::bind(&path).expect("a socket");
        drain.write_all();
        for expected in ["1", "2", "3"] {
            let mut bytes = [0; 200];
            let length = server.recv(&mut bytes).expect("a message");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            assert!(text.ends_with(&format!(" access - {expected}")), "{text}");
        }
        assert_eq!(drain.shared.counters.written.get(), 3);
        assert_eq!(*lock(&drain.shared.trouble), None);
        drop(server);
        drain.closing = true;
        push(&drain, b"4\n5\n");
        drain.write_all();
        assert_eq!(
            drain.shared.counters.dropped.get(),
            2,
            "nobody is left to send them"
        );
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
        let writer = Writer::start(output(ours), counters()).expect("a thread");
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
