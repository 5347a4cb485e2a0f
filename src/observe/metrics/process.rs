//! The process's own figures, read from `/proc` at each scrape. Where there is no `/proc` they are absent.

use super::Row;
use std::fmt::Write;
use std::fs;

/// The kernel reports times to programs in hundredths of a second, whatever its own clock (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Names as Prometheus' own clients give them.
pub const ROWS: [Row; 7] = [
    row(
        "process_cpu_seconds_total",
        "counter",
        "Processor time used, in seconds.",
    ),
    row(
        "process_resident_memory_bytes",
        "gauge",
        "Memory that is in RAM.",
    ),
    row("process_virtual_memory_bytes", "gauge", "Address space."),
    row("process_threads", "gauge", "Threads."),
    row("process_open_fds", "gauge", "Open file descriptors."),
    row("process_max_fds", "gauge", "Open file descriptors allowed."),
    row(
        "process_start_time_seconds",
        "gauge",
        "When the process started, in seconds since 1970.",
    ),
];

const fn row(name: &'static str, kind: &'static str, help: &'static str) -> Row {
    Row {
        name,
        kind,
        labels: &[],
        help,
    }
}

/// Appends the figures that can be read, in Prometheus text format.
pub fn write(text: &mut String) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    let status = read("/proc/self/status");
    let limits = read("/proc/self/limits");
    let open = fs::read_dir("/proc/self/fd").map(Iterator::count);
    // In the order of the rows.
    let values = [
        cpu_seconds(&stat),
        kib(&status, "VmRSS:"),
        kib(&status, "VmSize:"),
        number_after(&status, "Threads:"),
        open.ok().and_then(number),
        number_after(&limits, "Max open files"),
        started(&stat, &read("/proc/stat")),
    ];
    for (
        Row {
            name, kind, help, ..
        },
        value,
    ) in ROWS.iter().zip(values)
    {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        }
    }
}

/// Bytes of the process that are in RAM; none where there is no `/proc`.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Fields of `/proc/self/stat` from the third on: the second, the name, may hold spaces and brackets.
fn stat_field(stat: &str, field: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

/// The few of them that are shown live.
pub fn figures() -> super::Process {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
    let open = fs::read_dir("/proc/self/fd").map(Iterator::count);
    super::Process {
        cpu_seconds: cpu_seconds(&stat),
        memory_bytes: kib(&status, "VmRSS:"),
        threads: number_after(&status, "Threads:"),
        open_files: open.ok().and_then(number),
    }
}

fn started(stat: &str, system: &str) -> Option<f64> {
    Some(number_after(system, "btime")? + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn number_after(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn kib(text: &str, key: &str) -> Option<f64> {
    number_after(text, key).map(|kib| kib * 1024.0)
}

fn number(count: usize) -> Option<f64> {
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 1 2 3 4 150 50 0 0 20 0 4 0 1000 9 9";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(started(stat, "cpu 1\nbtime 500\n"), Some(510.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn every_figure_can_be_read_here() {
        let mut text = String::new();
        write(&mut text);
        assert_eq!(text.matches("# TYPE process_").count(), 7, "{text}");
        // A young process has used no whole tick yet.
        let nothing = |line: &&str| line.ends_with(" 0") && !line.starts_with("process_cpu");
        assert_eq!(text.lines().find(nothing), None, "{text}");
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
