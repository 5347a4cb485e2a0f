//! The load test of the whole: users of an application in ever greater numbers, then a backend killed, Redis killed, a
//! reload and an upgrade, and a report of it: `make load`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    reason = "a report; and parts of others that do more than is needed here"
)]

#[path = "../shared/backend.rs"]
mod backend;
mod machine;
#[path = "../shared/marks.rs"]
mod marks;
#[path = "../shared/percentile.rs"]
mod percentile;
#[path = "../../it/harness/ports.rs"]
mod ports;
#[path = "../shared/process.rs"]
mod process;
mod progress;
#[path = "../shared/provider.rs"]
mod provider;
#[path = "../../it/harness/redis.rs"]
mod redis;
mod report;
#[path = "../shared/token.rs"]
mod token;
mod users;
mod watch;
#[path = "../shared/wire.rs"]
mod wire;
mod world;

use clap::Parser;
use progress::Progress;
use report::Report;
use report::book::{Book, Mark, whole};
use report::plan::Plan;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use users::{PATIENCE, Town};
use watch::Watch;
use world::World;

/// A reason in plain words why something could not be measured.
type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Fault>;

const SECONDS: u32 = 240;
const SECONDS_QUICK: u32 = 60;

/// Loads the gateway as 100, 500 and 1,000 users do, breaks what is around it, and writes a report. Exit status 1 when a
/// criterion is not met. Needs redis-server and two cores.
#[derive(Debug, Parser)]
struct Options {
    /// One minute in place of four.
    #[arg(long)]
    quick: bool,
    /// Seconds of the whole run.
    #[arg(long, value_parser = clap::value_parser!(u32).range(24..=86_400))]
    seconds: Option<u32>,
    /// Plays a busy day of 1,000 users that call models instead: so many seconds at 500 calls a second, and half as many
    /// before and after at 50.
    #[arg(long, conflicts_with_all = ["quick", "seconds"], value_parser = clap::value_parser!(u32).range(4..=3_600))]
    peak: Option<u32>,
    /// Where the report is written; beside it, as `.json`, what machines read.
    #[arg(long, default_value = "load-report.html")]
    out: PathBuf,
    /// The gateway to measure. Default: the one built with this benchmark.
    #[arg(long, env = "ONEMIND_BIN", default_value = env!("CARGO_BIN_EXE_onemind"))]
    onemind: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Outcome<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("backend") => backend::run(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        Some("provider") => provider::run(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        _ => process::run_alone(load(Options::parse())),
    }
}

async fn load(options: Options) -> Outcome<ExitCode> {
    let plan = plan(&options);
    let begun = httpdate::fmt_http_date(std::time::SystemTime::now());
    let machine = machine::describe(&options.onemind)?;
    let cores = process::claim_cores_and_files()?;
    eprintln!("starting Redis, three backends, a provider of models and the gateway");
    let world = World::build(&options.onemind, &cores).await?;
    let book = LocalSet::new().run_until(play(world, &plan)).await?;
    let report = Report::of(begun, machine, &plan, &book);
    let json = options.out.with_extension("json");
    std::fs::write(&options.out, report::page::page(&report))?;
    std::fs::write(&json, serde_json::to_string_pretty(&report)? + "\n")?;
    print!("{}", report::table::table(&report));
    eprintln!(
        "written to {} and {}",
        options.out.display(),
        json.display()
    );
    Ok(ExitCode::from(u8::from(!report.passed)))
}

fn plan(options: &Options) -> Plan {
    let quick = if options.quick {
        SECONDS_QUICK
    } else {
        SECONDS
    };
    match options.peak {
        Some(peak) => Plan::of_a_peak(peak.into()),
        None => Plan::of_everything(options.seconds.unwrap_or(quick).into()),
    }
}

/// All users, all injections, one clock.
async fn play(mut world: World, plan: &Plan) -> Outcome<Book> {
    let book = Rc::new(RefCell::new(Book::of(whole(plan.seconds().ceil()))));
    let begin = Instant::now() + Duration::from_millis(200);
    let town = Rc::new(Town::new(
        world.port(),
        plan.users(),
        begin,
        Rc::clone(&book),
    ));
    town.warm_up().await?;
    let watch = Watch::start(world.config(), begin.into_std());
    let mut progress = Progress::of(plan);
    let end = begin + Duration::from_secs_f64(plan.seconds());
    let injecting = async {
        for (second, event) in plan.events() {
            sleep_until(begin + Duration::from_secs_f64(second)).await;
            let started = Instant::now();
            let second = (started - begin).as_secs_f64();
            town.happens(event);
            let fault = world.inject(event).await.err();
            let took_ms = started.elapsed().as_secs_f64() * 1_000.0;
            let fault = fault.map(|fault| fault.to_string());
            let mark = Mark {
                second,
                event,
                took_ms,
                fault,
            };
            book.borrow_mut().marks.push(mark);
        }
        sleep_until(end).await;
    };
    let showing = progress.follow(begin, &book);
    let users = Town::play(&town, plan);
    tokio::select! {
        ((), ()) = async { tokio::join!(injecting, users) } => {}
        () = showing => {}
    }
    let left = timeout_at(end + PATIENCE, town.all_answered()).await;
    progress.end();
    if left.is_err() {
        return Err("requests were still open long after the end".into());
    }
    let mut book = std::mem::take(&mut *book.borrow_mut());
    watch.stop(&mut book)?;
    Ok(book)
}
