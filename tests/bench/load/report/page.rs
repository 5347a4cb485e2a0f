//! The report as one page that needs nothing else: no script, no font, no picture from elsewhere.

use super::judge::{Figures, P99_MS};
use super::plot::{self, Curve, Line, Panel};
use super::{Report, Row};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// Explains how the figures came about.
const MANNER: &str = "Requests come when they are due, whatever became of those before (a Poisson process), and their times begin then: a stall is in them in full. \
Times are those of whole answers, of streams the first event; a word on a WebSocket is a request as well, with a time of its own (echo). Up to 1 ms of each is the timer of the load.";

pub fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>OneMind Gateway: load report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Load report: {}</h1>\n<p class=\"quiet\">OneMind Gateway, {}</p>\n",
        verdict(report.passed),
        escape(&report.begun)
    );
    criteria(&mut out, report);
    if !report.marks.is_empty() {
        events(&mut out, report);
    }
    out.push_str("<h2>Over time</h2>\n");
    curves(&mut out, report);
    phases(&mut out, &report.phases);
    reasons(&mut out, report);
    machine(&mut out, report);
    out.push_str("</body>\n</html>\n");
    out
}

fn verdict(met: bool) -> &'static str {
    if met {
        "<span class=\"good\">passed</span>"
    } else {
        "<span class=\"bad\">failed</span>"
    }
}

fn criteria(out: &mut String, report: &Report) {
    out.push_str("<h2>Criteria</h2>\n<table class=\"judged\">\n<thead><tr><th>phase</th>");
    let verdicts = report.phases.first().map(|phase| &phase.verdicts);
    for verdict in verdicts.into_iter().flatten() {
        let _ = write!(out, "<th>{}</th>", escape(verdict.criterion));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for phase in &report.phases {
        let _ = write!(out, "<tr><td>{}</td>", phase.name);
        for one in &phase.verdicts {
            let (class, mark) = if one.met {
                ("good", "pass")
            } else {
                ("bad", "fail")
            };
            let _ = write!(
                out,
                "<td data-of=\"{}\"><span class=\"{class}\">{mark}</span> {}</td>",
                escape(one.criterion),
                escape(&one.measured)
            );
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
}

fn events(out: &mut String, report: &Report) {
    out.push_str("<h2>What was injected</h2>\n<table>\n<tbody>\n");
    for (nth, mark) in (1..).zip(&report.marks) {
        let became = match &mark.fault {
            Some(fault) => format!("<span class=\"bad\">{}</span>", escape(fault)),
            None => format!("done in {:.0} ms", mark.took_ms),
        };
        let _ = writeln!(
            out,
            "<tr class=\"row\"><td>{nth}</td><td>{:.1} s</td><td>{}</td><td>{became}</td></tr>",
            mark.second,
            mark.event.name()
        );
    }
    out.push_str("</tbody>\n</table>\n");
}

fn curves(out: &mut String, report: &Report) {
    let of = |name, class, value: fn(&Row) -> Option<f64>| Curve {
        name,
        class,
        values: report.seconds.iter().map(value).collect(),
    };
    let panel = |title, logarithmic, curves| Panel {
        title,
        logarithmic,
        curves,
        bar: None,
    };
    let latency = vec![
        of("p50", "a", |row| row.p50_ms),
        of("p95", "b", |row| row.p95_ms),
        of("p99", "c", |row| row.p99_ms),
    ];
    let sides = vec![
        of("way of a stream's event", "a", |row| row.event_p99_ms),
        of("echo of a WebSocket", "b", |row| row.echo_p99_ms),
    ];
    let requests = |row: &Row| u32::try_from(row.requests).ok().map(f64::from);
    let panels = [
        Panel {
            bar: Some(P99_MS),
            ..panel("Answers, ms", true, latency)
        },
        panel(
            "Errors a second",
            false,
            vec![of("failed", "c", |row| Some(row.failed.into()))],
        ),
        panel(
            "Requests a second",
            false,
            vec![of("requests", "a", requests)],
        ),
        panel("99th of 100, ms", true, sides),
        panel(
            "Memory of the gateway, MiB",
            false,
            vec![of("resident", "a", |row| row.memory_mib)],
        ),
        panel(
            "CPU of the gateway, cores",
            false,
            vec![of("used", "a", |row| row.cores)],
        ),
    ];
    let phases: Vec<Line<'_>> = report.phases.iter().map(line).collect();
    let events = (1..).zip(&report.marks).map(|(nth, mark)| Line {
        second: mark.second,
        label: format!("{nth}"),
        title: mark.event.name(),
    });
    let events: Vec<Line<'_>> = events.collect();
    let seconds = report.phases.last().map_or(1.0, |phase| phase.to_second);
    for panel in &panels {
        out.push_str(&plot::figure(panel, seconds, &phases, &events));
    }
}

fn line(phase: &Figures) -> Line<'_> {
    Line {
        second: phase.from_second,
        label: phase.name.to_owned(),
        title: phase.name,
    }
}

fn phases(out: &mut String, phases: &[Figures]) {
    let columns = "<h2>Figures</h2>\n<div class=\"wide\">\n<table class=\"numbers\">\n<tr><th>phase</th><th>from, s</th><th>users</th><th>requests</th><th>a second</th>\
         <th>failed</th><th>p50 ms</th><th>p95</th><th>p99</th><th>longest</th><th>event p99 ms</th><th>lost events</th><th>echo p99 ms</th>\
         <th>gateway's share p99 ms</th><th>sockets moved</th><th>asked again</th><th>memory MiB</th><th>cores</th></tr>\n";
    out.push_str(columns);
    for phase in phases {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{:.0}</td><td>{}</td><td>{}</td><td>{:.0}</td><td>{}</td>",
            phase.name,
            phase.from_second,
            phase.users,
            phase.requests,
            phase.requests_per_second,
            phase.failed
        );
        let times = [phase.p50_ms, phase.p95_ms, phase.p99_ms, phase.longest_ms];
        for value in times.into_iter().chain([phase.event_p99_ms]) {
            cell(out, value, 1);
        }
        let _ = write!(out, "<td>{}</td>", phase.lost_events);
        cell(out, phase.echo_p99_ms, 1);
        cell(out, phase.overhead_p99_ms, 2);
        let _ = write!(
            out,
            "<td>{}</td><td>{}</td>",
            phase.sockets_moved, phase.resent
        );
        cell(out, phase.memory_mib, 0);
        cell(out, phase.cores, 2);
        out.push_str("</tr>\n");
    }
    let _ = writeln!(out, "</table>\n</div>\n<p class=\"quiet\">{MANNER}</p>");
}

fn cell(out: &mut String, value: Option<f64>, digits: usize) {
    let _ = match value {
        Some(value) => write!(out, "<td>{value:.digits$}</td>"),
        None => write!(out, "<td></td>"),
    };
}

fn reasons(out: &mut String, report: &Report) {
    if report.reasons.is_empty() {
        return;
    }
    out.push_str("<h2>Why requests failed</h2>\n<ul>\n");
    for (reason, count) in &report.reasons {
        let _ = writeln!(out, "<li>{count}: {}</li>", escape(reason));
    }
    out.push_str("</ul>\n");
}

fn machine(out: &mut String, report: &Report) {
    let machine = &report.machine;
    let rows = [
        ("processor", machine.cpu.clone()),
        ("cores", machine.cores.to_string()),
        ("memory", format!("{} MiB", machine.memory_mib)),
        ("kernel", machine.kernel.clone()),
        ("load average before", format!("{:.2}", machine.load_before)),
        ("arrangement", machine.arrangement.clone()),
        ("gateway", machine.onemind.clone()),
        ("Redis", machine.redis.clone()),
    ];
    out.push_str("<h2>Machine</h2>\n<table>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
    }
    out.push_str("</table>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
