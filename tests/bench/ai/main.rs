//! Puts `onemind` between callers and a provider of models, beside plain proxies and other gateways: `make bench-ai`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    reason = "a report; and parts of others that do more than is needed here"
)]

#[path = "../shared/backend.rs"]
mod backend;
#[path = "../shared/bare.rs"]
mod bare;
mod call;
mod job;
#[path = "../shared/marks.rs"]
mod marks;
#[path = "../shared/percentile.rs"]
mod percentile;
#[path = "../shared/process.rs"]
mod process;
#[path = "../shared/provider.rs"]
mod provider;
#[path = "../../it/harness/redis.rs"]
mod redis;
mod subject;
mod table;
#[path = "../shared/wire.rs"]
mod wire;

use clap::Parser;
use job::Job;
use std::path::PathBuf;
use std::time::Duration;
use subject::{Subject, World};

/// A reason in plain words why something could not be measured.
type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Fault>;

/// Compares gateways of models on one core. Needs nginx and redis-server; `LiteLLM` and Portkey by choice.
#[derive(Debug, Parser)]
struct Options {
    /// One short round: shows that everything runs, its numbers are rough.
    #[arg(long)]
    quick: bool,
    /// Only these jobs, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    jobs: Vec<Job>,
    /// Only these subjects, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    subjects: Vec<Subject>,
    /// Interleaved rounds; the median of them counts. Default 3 (quick: 1).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Where the table is written as well. Default: `ai.md` in cargo's directory for temporary files.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/ai.md"))]
    out: PathBuf,
    /// Where other gateways are installed.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/gateways"))]
    gateways: PathBuf,
    /// The gateway to measure. Default: the one built with this benchmark.
    #[arg(long, env = "ONEMIND_BIN", default_value = env!("CARGO_BIN_EXE_onemind"))]
    onemind: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: u32,
    warm: Duration,
    measured: Duration,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("bare") => bare::run(&arguments[1..]),
        Some("backend") => backend::run(&arguments[1..]),
        Some("provider") => provider::run(&arguments[1..]),
        _ => process::run_alone(compare(Options::parse())),
    }
}

async fn compare(options: Options) -> Outcome<()> {
    let effort = effort(&options);
    let jobs = some_or(options.jobs, Job::all());
    let subjects = some_or(options.subjects, Subject::ALL.into());
    let cores = process::claim_cores_and_files()?;
    let world = World::build(options.onemind, options.gateways, &cores).await?;
    let mut results = table::Results::default();
    for job in jobs {
        for round in 1..=effort.rounds {
            for &subject in subjects.iter().filter(|&&subject| job.suits(subject)) {
                eprintln!("{} {round}/{}: {subject}", job.name(), effort.rounds);
                match job.run(&world, subject, effort).await {
                    Ok(numbers) => results.add(job, subject, &numbers),
                    Err(fault) => results.miss(job, subject, &fault),
                }
            }
        }
    }
    let page = results.page(&subjects, effort);
    println!("{page}");
    std::fs::write(&options.out, &page)?;
    eprintln!("written to {}", options.out.display());
    Ok(())
}

fn some_or<T>(chosen: Vec<T>, all: Vec<T>) -> Vec<T> {
    if chosen.is_empty() { all } else { chosen }
}

fn effort(options: &Options) -> Effort {
    let (rounds, warm, measured) = if options.quick {
        (1, 500, 2_000)
    } else {
        (3, 1_000, 5_000)
    };
    Effort {
        rounds: options.rounds.unwrap_or(rounds),
        warm: Duration::from_millis(warm),
        measured: Duration::from_millis(measured),
    }
}
