//! Memory and processor time of all processes of the gateway: after an upgrade there are two.

use crate::Outcome;
use crate::report::book::Book;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The kernel's unit in `/proc/<pid>/stat`; 100 a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A thread of its own, so that looking does not delay the load.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

struct Sample {
    second: f64,
    memory: f64,
    cores: f64,
}

impl Watch {
    /// Looks at each full second after `begin` at the processes that run this configuration.
    pub fn start(config: PathBuf, begin: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || look(&config, begin, &told));
        Self { stop, thread }
    }

    pub fn stop(self, book: &mut Book) -> Outcome<()> {
        self.stop.store(true, Relaxed);
        let samples = self.thread.join().map_err(|_| "the watch panicked")?;
        for sample in samples {
            let at = book.at(sample.second);
            at.memory = Some(sample.memory);
            at.cores = Some(sample.cores);
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread has nothing else to do"
)]
fn look(config: &Path, begin: Instant, stop: &AtomicBool) -> Vec<Sample> {
    let (mut samples, mut known) = (Vec::new(), BTreeMap::new());
    let (mut due, mut before) = (begin, begin);
    used(config, &mut known);
    while !stop.load(Relaxed) {
        due += Duration::from_secs(1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let (kib, ticks) = used(config, &mut known);
        samples.push(Sample {
            // the second that has just ended
            second: (due - begin).as_secs_f64() - 0.5,
            memory: f64::from(kib) / 1_024.0,
            cores: f64::from(ticks) / TICKS_PER_SECOND / (now - before).as_secs_f64(),
        });
        before = now;
    }
    samples
}

/// KiB in use now, and ticks since the last look.
fn used(config: &Path, known: &mut BTreeMap<u32, u32>) -> (u32, u32) {
    let (mut kib, mut more) = (0, 0);
    for pid in processes(config) {
        let Some((resident, ticks)) = of_process(pid) else {
            continue;
        };
        let before = known.insert(pid, ticks).unwrap_or_default();
        kib += resident;
        more += ticks.saturating_sub(before);
    }
    (kib, more)
}

/// Every process `onemind run -c <config>`.
pub fn processes(config: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let runs_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"run".as_slice())
            && words.contains(&config.as_os_str().as_encoded_bytes())
    };
    pids.filter(runs_it).collect()
}

/// Resident KiB, and user and system time: fields 14 and 15, counted behind the name in parentheses.
fn of_process(pid: u32) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some((line.split_whitespace().nth(1)?.parse().ok()?, ticks))
}
