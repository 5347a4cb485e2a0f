//! Puts `onemind` beside nginx, `HAProxy` and a bare Pingora proxy: same jobs, same machine, one core for the proxy.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark speaks to the person who started it"
)]

#[path = "../shared/backend.rs"]
mod backend;
#[path = "../shared/bare.rs"]
mod bare;
mod client;
mod job;
mod load;
#[path = "../shared/percentile.rs"]
mod percentile;
#[path = "../shared/process.rs"]
mod process;
mod product;
mod table;

use clap::Parser;
use job::Job;
use product::{Product, World};
use std::path::PathBuf;
use std::time::Duration;

/// A reason in plain words why something could not be measured.
type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Fault>;

/// Compares reverse proxies on one core. Needs nginx, wrk and h2load; haproxy by choice.
#[derive(Debug, Parser)]
struct Options {
    /// One short round: shows that everything runs, its numbers are rough.
    #[arg(long)]
    quick: bool,
    /// Only these jobs, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum)]
    jobs: Vec<Job>,
    /// Interleaved rounds; the median of them counts. Default 3 (quick: 1).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Where the table is written as well. Default: `compare.md` in cargo's directory for temporary files.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/compare.md"))]
    out: PathBuf,
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
        _ => process::run_alone(compare(Options::parse())),
    }
}

async fn compare(options: Options) -> Outcome<()> {
    let effort = effort(&options);
    let jobs = if options.jobs.is_empty() {
        Job::all()
    } else {
        options.jobs
    };
    let cores = process::claim_cores_and_files()?;
    let world = World::build(options.onemind, &cores).await?;
    let mut results = table::Results::default();
    for job in jobs {
        for round in 1..=effort.rounds {
            for product in Product::ALL {
                eprintln!("{} {round}/{}: {product}", job.name(), effort.rounds);
                match job.run(&world, product, effort).await {
                    Ok(numbers) => results.add(job, product, &numbers),
                    Err(fault) => results.miss(job, product, &fault),
                }
            }
        }
    }
    let page = results.page(&world, effort);
    println!("{page}");
    std::fs::write(&options.out, &page)?;
    eprintln!("written to {}", options.out.display());
    Ok(())
}

fn effort(options: &Options) -> Effort {
    let (rounds, warm, measured) = if options.quick {
        (1, 500, 1_500)
    } else {
        (3, 1_000, 4_000)
    };
    Effort {
        rounds: options.rounds.unwrap_or(rounds),
        warm: Duration::from_millis(warm),
        measured: Duration::from_millis(measured),
    }
}
