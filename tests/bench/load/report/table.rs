//! The figures that matter as a table for terminals and documents.

use super::Report;
use std::fmt::Write as _;

pub fn table(report: &Report) -> String {
    let mut out = "| phase | users | requests | errors | p50, p95, p99 ms | failed connections | longest silence ms | memory MiB | CPU of a core | |\n\
                   |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for phase in &report.phases {
        let met = phase.verdicts.iter().all(|verdict| verdict.met);
        // writing to a string cannot fail
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {}, {}, {} | {} | {:.0} | {} | {} % | {} |",
            phase.name,
            phase.users,
            phase.requests,
            phase.failed,
            number(phase.p50_ms, 1),
            number(phase.p95_ms, 1),
            number(phase.p99_ms, 1),
            phase.unconnected,
            phase.silence_ms,
            number(phase.memory_mib, 0),
            number(phase.cores.map(|cores| cores * 100.0), 0),
            if met { "pass" } else { "**fail**" }
        );
    }
    for mark in &report.marks {
        let became = mark.fault.as_deref().unwrap_or("done");
        let _ = writeln!(
            out,
            "\n{:.1} s: {}: {became} in {:.0} ms",
            mark.second,
            mark.event.name(),
            mark.took_ms
        );
    }
    for (reason, count) in &report.reasons {
        let _ = writeln!(out, "\n{count} failed: {reason}");
    }
    let word = if report.passed { "passed" } else { "FAILED" };
    let _ = writeln!(
        out,
        "\n{word}: p99 < 500 ms, errors < 0.1 %, no failed connection"
    );
    out
}
