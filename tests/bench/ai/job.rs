//! The jobs: what is asked of each subject, and which numbers come of it.

use crate::call::{self, Times};
use crate::marks::Streamed;
use crate::percentile::milliseconds;
use crate::process::Running;
use crate::subject::{Ask, Started, Subject, World};
use crate::table::Number;
use crate::{Effort, Outcome};
use clap::ValueEnum;
use std::time::Duration;
use tokio::time::sleep;

const STREAMS: u32 = 1_000;
const SAMPLE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Job {
    /// 200 requests a second.
    Rate200,
    /// 1,000 requests a second.
    Rate1000,
    /// 64 connections that ask as fast as they are answered.
    Full,
    /// 1,000 streams at once.
    Streams,
    /// The same, by a provider of another dialect.
    Translated,
}

/// What one run of a job found.
pub type Numbers = Vec<(Number, f64)>;

impl Job {
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn suits(self, subject: Subject) -> bool {
        self != Self::Translated || subject.translates() || subject == Subject::Direct
    }

    /// Starts `subject`, warms it up, measures, and stops it.
    pub async fn run(self, world: &World, subject: Subject, effort: Effort) -> Outcome<Numbers> {
        let started = world.start(subject).await?;
        let numbers = match self {
            Self::Rate200 => paced(world, &started, (200, 32), effort).await,
            Self::Rate1000 => paced(world, &started, (1_000, 64), effort).await,
            Self::Full => paced(world, &started, (u32::MAX, 64), effort).await,
            Self::Streams => streams(world, &started, Ask::Chat { stream: true }).await,
            Self::Translated => streams(world, &started, Ask::Translated).await,
        };
        if let Some(running) = started.running {
            running.stop().await;
        }
        numbers
    }
}

async fn paced(
    world: &World,
    started: &Started,
    rate: (u32, u32),
    effort: Effort,
) -> Outcome<Numbers> {
    let request = started.request(Ask::Chat { stream: false }, world.provider);
    let idle = resident(started);
    call::paced(started.port, &request, rate, effort.warm).await?;
    let before = cpu(started);
    let Times { mut all, reached } =
        call::paced(started.port, &request, rate, effort.measured).await?;
    let used = cpu(started)
        .zip(before)
        .map(|(after, before)| after - before);
    let mut numbers = vec![
        (Number::Reached, reached),
        (Number::P50, share(&mut all, 500)?),
        (Number::P99, share(&mut all, 990)?),
    ];
    let count = f64::from(u32::try_from(all.len())?);
    numbers.extend(used.map(|used| (Number::Cpu, used / count)));
    numbers.extend(idle.map(|kib| (Number::Idle, kib / 1_024.0)));
    numbers.extend(resident(started).map(|kib| (Number::Resident, kib / 1_024.0)));
    Ok(numbers)
}

async fn streams(world: &World, started: &Started, ask: Ask) -> Outcome<Numbers> {
    let request = started.request(ask, world.provider);
    let (before, idle) = (cpu(started), resident(started));
    let mut most = idle.unwrap_or_default();
    let sampling = async {
        loop {
            sleep(SAMPLE).await;
            most = resident(started).map_or(most, |kib| kib.max(most));
        }
    };
    let mut seen: Streamed = tokio::select! {
        seen = call::streams(started.port, &request, STREAMS) => seen?,
        never = sampling => never,
    };
    if seen.transit.is_empty() {
        return Err(seen
            .reason
            .unwrap_or_else(|| "no event came".to_owned())
            .into());
    }
    if let Some(reason) = &seen.reason {
        eprintln!("  {} streams failed, such as: {reason}", seen.failed);
    }
    let mut numbers = vec![
        (Number::Lost, f64::from(seen.lost)),
        (Number::Stalls, f64::from(seen.stalls)),
        (Number::P50, share(&mut seen.transit, 500)?),
        (Number::P99, share(&mut seen.transit, 990)?),
    ];
    let events = f64::from(u32::try_from(seen.transit.len())?);
    let used = cpu(started)
        .zip(before)
        .map(|(after, before)| after - before);
    numbers.extend(used.map(|used| (Number::Cpu, used / events)));
    let each = idle.map(|idle| (most - idle) / f64::from(STREAMS));
    numbers.extend(each.map(|each| (Number::MemoryEach, each)));
    Ok(numbers)
}

fn cpu(started: &Started) -> Option<f64> {
    started.running.as_ref().map(Running::cpu_us)
}

fn resident(started: &Started) -> Option<f64> {
    started.running.as_ref().map(Running::resident_kib)
}

/// So many of a thousand took no longer, in milliseconds; `times` are microseconds.
fn share(times: &mut [u32], of_thousand: usize) -> Outcome<f64> {
    Ok(milliseconds(times, of_thousand).ok_or("nothing was answered")?)
}
