//! Figures of each phase, and whether they meet the criteria.

use super::book::{Book, Second, whole};
use super::plan::{Phase, Plan};
use crate::percentile::milliseconds;
use serde::Serialize;

/// The criteria: 99 of 100 answers sooner than this, in milliseconds.
pub const P99_MS: f64 = 500.0;
/// Fewer of all requests than this may fail.
pub const FAILED_SHARE: f64 = 0.001;
/// No stretch of this many milliseconds may pass without an answer.
pub const SILENCE_MS: f64 = 1_000.0;

/// What one phase came to. Times in milliseconds; None where nothing of the kind happened.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub name: &'static str,
    pub users: u32,
    pub from_second: f64,
    pub to_second: f64,
    pub requests: usize,
    pub requests_per_second: f64,
    pub failed: u32,
    pub failed_share: f64,
    /// Requests that got no connection.
    pub unconnected: u32,
    /// The longest time between two answers.
    pub silence_ms: f64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub longest_ms: Option<f64>,
    pub event_p99_ms: Option<f64>,
    pub lost_events: u32,
    pub echo_p99_ms: Option<f64>,
    /// Of the gateway's own share in calls of a model.
    pub overhead_p99_ms: Option<f64>,
    pub sockets_moved: u32,
    pub resent: u32,
    pub memory_mib: Option<f64>,
    pub cores: Option<f64>,
    pub verdicts: Vec<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub criterion: &'static str,
    pub measured: String,
    pub met: bool,
}

/// Each phase of the plan, judged.
pub fn figures(plan: &Plan, book: &Book) -> Vec<Figures> {
    let last = plan.phases.len().saturating_sub(1);
    let each = plan.timed().enumerate();
    each.map(|(nth, (from, phase))| {
        let to = from + phase.seconds;
        let until = if nth == last { f64::INFINITY } else { to };
        of_phase(
            phase,
            (from, to),
            &gather(book, from, until),
            silence(book, from, to),
        )
    })
    .collect()
}

/// Whether nothing is left to say against the run.
pub fn passed(figures: &[Figures], book: &Book) -> bool {
    let mut verdicts = figures.iter().flat_map(|figures| &figures.verdicts);
    verdicts.all(|verdict| verdict.met) && book.marks.iter().all(|mark| mark.fault.is_none())
}

/// A second belongs to the phase in which it begins.
fn gather(book: &Book, from: f64, until: f64) -> Second {
    let first = whole(from.ceil());
    let end = whole(until.ceil()).min(book.seconds.len());
    let mut all = Second::default();
    for one in book.seconds.get(first..end).unwrap_or_default() {
        all.answers.extend(&one.answers);
        all.ways.extend(&one.ways);
        all.echoes.extend(&one.echoes);
        all.overheads.extend(&one.overheads);
        all.failed += one.failed;
        all.unconnected += one.unconnected;
        all.lost_events += one.lost_events;
        all.moved += one.moved;
        all.resent += one.resent;
        all.memory = most(all.memory, one.memory);
    }
    let cores = || {
        book.seconds[first.min(end)..end]
            .iter()
            .filter_map(|one| one.cores)
    };
    let count = u32::try_from(cores().count()).unwrap_or(u32::MAX);
    all.cores = (count > 0).then(|| cores().sum::<f64>() / f64::from(count));
    all
}

fn most(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

/// The longest time without an answer between these two moments, in milliseconds.
fn silence(book: &Book, from: f64, to: f64) -> f64 {
    let within = book.done.iter().filter(|at| (from..to).contains(*at));
    let ends = within.copied().chain([to]);
    let gaps = ends.scan(from, |before, at| Some(at - std::mem::replace(before, at)));
    gaps.fold(0.0, f64::max) * 1_000.0
}

fn of_phase(phase: &Phase, (from, to): (f64, f64), seen: &Second, silence_ms: f64) -> Figures {
    let share = |times: &[u32], share| milliseconds(&mut times.to_vec(), share);
    let requests = seen.answers.len() + seen.echoes.len() + seen.failed as usize;
    let count = u32::try_from(requests).map_or(f64::INFINITY, f64::from);
    let mut figures = Figures {
        name: phase.name,
        users: phase.users,
        from_second: from,
        to_second: to,
        requests,
        requests_per_second: count / phase.seconds.max(f64::MIN_POSITIVE),
        failed: seen.failed,
        failed_share: f64::from(seen.failed) / count.max(1.0),
        unconnected: seen.unconnected,
        silence_ms,
        p50_ms: share(&seen.answers, 500),
        p95_ms: share(&seen.answers, 950),
        p99_ms: share(&seen.answers, 990),
        longest_ms: share(&seen.answers, 1_000),
        event_p99_ms: share(&seen.ways, 990),
        lost_events: seen.lost_events,
        echo_p99_ms: share(&seen.echoes, 990),
        overhead_p99_ms: share(&seen.overheads, 990),
        sockets_moved: seen.moved,
        resent: seen.resent,
        memory_mib: seen.memory,
        cores: seen.cores,
        verdicts: Vec::new(),
    };
    figures.verdicts = verdicts(&figures);
    figures
}

/// Nothing measured meets nothing.
fn verdicts(figures: &Figures) -> Vec<Verdict> {
    let p99 = figures.p99_ms;
    let (failed, lost) = (figures.failed_share, figures.lost_events);
    vec![
        Verdict {
            criterion: "p99 < 500 ms",
            measured: p99.map_or("no answer".to_owned(), |p99| format!("{p99:.1} ms")),
            met: p99.is_some_and(|p99| p99 < P99_MS),
        },
        Verdict {
            criterion: "errors < 0.1 %",
            measured: format!(
                "{:.3} % ({} of {})",
                failed * 100.0,
                figures.failed,
                figures.requests
            ),
            met: figures.requests > 0 && failed < FAILED_SHARE && lost == 0,
        },
        Verdict {
            criterion: "zero downtime",
            measured: format!(
                "{} failed connections, longest silence {:.0} ms",
                figures.unconnected, figures.silence_ms
            ),
            met: figures.unconnected == 0 && figures.silence_ms < SILENCE_MS,
        },
    ]
}
