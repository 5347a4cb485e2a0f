//! What the figures were measured on.

use crate::Outcome;
use crate::report::Machine;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

/// Asked before this process binds itself to some of the cores.
pub fn describe(onemind: &Path) -> Outcome<Machine> {
    let cores = available_parallelism()?.get();
    Ok(Machine {
        cpu: of_file("/proc/cpuinfo", "model name"),
        cores,
        memory_mib: of_file("/proc/meminfo", "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or_default()
            / 1_024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        load_before: fs::read_to_string("/proc/loadavg")?
            .split_whitespace()
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or_default(),
        onemind: said(Command::new(onemind).arg("--version"))?,
        redis: said(Command::new("redis-server").arg("--version"))?
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        arrangement: "the gateway on one core; users, three backends, the provider of models and Redis on what is left"
            .to_owned(),
    })
}

/// What stands behind `name:` in a file of the kernel's; some machines do not say.
fn of_file(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The first line.
fn said(command: &mut Command) -> Outcome<String> {
    let done = command
        .output()
        .map_err(|fault| format!("{command:?}: {fault}"))?;
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(text.lines().next().unwrap_or("unknown").to_owned())
}
