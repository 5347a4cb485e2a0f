//! Processes on their cores: started, measured from `/proc`, and never left behind.

use crate::{Fault, Outcome};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// The core that belongs to the proxy under test.
pub const PROXY_CORE: &str = "0";
const START_DEADLINE: Duration = Duration::from_mins(1);
const EXIT_DEADLINE: Duration = Duration::from_secs(5);
/// The kernel's unit in `/proc/<pid>/stat`; 100 a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The core or cores of the backend and of the load, before this process is bound to them.
fn load_cores() -> Outcome<String> {
    match available_parallelism()?.get() {
        1 => Err("two cores are needed: one for the proxy, one for the load".into()),
        2 => Ok("1".to_owned()),
        n => Ok(format!("1-{}", n - 1)),
    }
}

/// Moves this process off the proxy's core and lifts its limit of open files to the hard one;
/// whatever it starts inherits both. Returns the cores of the load.
pub fn claim_cores_and_files() -> Outcome<String> {
    let cores = load_cores()?;
    let me = std::process::id().to_string();
    let hard = open_files_max()?;
    helper("taskset", &["-a", "-p", "-c", &cores, &me])?;
    helper(
        "prlimit",
        &["--pid", &me, &format!("--nofile={hard}:{hard}")],
    )?;
    Ok(cores)
}

/// The hard limit of open files.
pub fn open_files_max() -> Outcome<u64> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(4));
    Ok(hard.unwrap_or("1024").parse().unwrap_or(1 << 20))
}

fn helper(program: &str, arguments: &[&str]) -> Outcome<()> {
    let done = std::process::Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    if done.success() {
        Ok(())
    } else {
        Err(format!("{program} {} failed", arguments.join(" ")).into())
    }
}

/// A process that dies with this value, and with this program however that ends.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: u32,
    pub started: Instant,
}

impl Running {
    /// Starts `program` on `cores`; what it prints goes to the file `log`.
    pub fn start<S: AsRef<OsStr>>(
        cores: &str,
        program: &Path,
        arguments: &[S],
        log: &Path,
    ) -> Outcome<Self> {
        let log = fs::File::create(log)?;
        let started = Instant::now();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", cores])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("setpriv: {e}"))?;
        let pid = child.id().ok_or("it ended at once")?;
        Ok(Self {
            child,
            pid,
            started,
        })
    }

    /// Waits until it accepts on `port`.
    pub async fn accepts(&mut self, port: u16) -> Outcome<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            self.lives()?;
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("nothing accepts on port {port}").into());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// An error once it has ended.
    pub fn lives(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("it ended: {status}").into()),
        }
    }

    /// Processor time used so far by it and its children, in microseconds; steps of 10 ms.
    pub fn cpu_us(&self) -> f64 {
        let ticks: u64 = family(self.pid).into_iter().filter_map(ticks).sum();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
        let seconds = ticks as f64 / TICKS_PER_SECOND;
        seconds * 1e6
    }

    /// Resident memory of it and its children, in KiB.
    pub fn resident_kib(&self) -> f64 {
        let sum: u32 = family(self.pid).into_iter().filter_map(resident).sum();
        f64::from(sum)
    }

    /// Kills it and waits until it is gone.
    pub async fn stop(mut self) {
        let _ = timeout(EXIT_DEADLINE, self.child.kill()).await;
    }
}

/// Runs a benchmark on this thread until it ends or is told to. Dropping it kills every process that it started and
/// removes its directory.
pub fn run_alone<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut left_alone = signal(SignalKind::hangup())?;
        tokio::select! {
            done = work => done,
            _ = interrupted.recv() => Err("interrupted".into()),
            _ = terminated.recv() => Err("terminated".into()),
            _ = left_alone.recv() => Err("the terminal is gone".into()),
        }
    })
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut seen = 0;
    while let Some(&parent) = all.get(seen) {
        seen += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
        }
    }
    all
}

/// User and system time: fields 14 and 15, counted behind the name in parentheses.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn resident(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a load tool to its end and returns what it printed.
pub async fn output(program: &str, arguments: &[String], longest: Duration) -> Outcome<String> {
    let run = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = timeout(longest, run)
        .await
        .map_err(|_| format!("{program} did not end in {longest:?}"))?
        .map_err(|e| Fault::from(format!("{program}: {e}")))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{program} failed: {}", said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Where `program` is on the search path; Debian keeps servers in `/usr/sbin`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
