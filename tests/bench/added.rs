//! What identity and three limits in Redis add to a request: one gateway on one core, the same endpoint by a route
//! without and by routes with them, in turns: `make bench-limits`.
//!
//! CPU is that of the gateway's process at 64 connections that ask as fast as they can, or rest (`--rest-ms`): the
//! fewer come at once, the more a request costs by any route. How long an answer takes is measured at a steady rate,
//! where waiting for a core is not most of it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    reason = "a report; and parts of others that do more than is needed here"
)]

#[path = "compare/load.rs"]
mod load;
#[path = "shared/percentile.rs"]
mod percentile;
#[path = "shared/process.rs"]
mod process;
#[path = "../it/harness/redis.rs"]
mod redis;
#[path = "shared/token.rs"]
mod token;

use clap::Parser;
use load::Seen;
use process::{PROXY_CORE, Running};
use redis::RedisServer;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use token::{SECRET, token};

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Fault>;

const CONNECTIONS: u32 = 64;
const USERS: usize = 64;
/// What may be added, in microseconds: to the CPU of a request, and to the 99th of a hundred.
const CPU_BAR: f64 = 8.0;
const P99_BAR: f64 = 300.0;

/// The routes, and what they have more than the first.
const ROUTES: [(&str, &str); 3] = [
    ("/plain", "nothing"),
    ("/known", "identity"),
    ("/limited", "identity and three limits"),
];

/// Measures what identity and three limits in Redis cost. Needs wrk and redis-server, and two cores.
#[derive(Debug, Parser)]
struct Options {
    /// Interleaved rounds; the median of them counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Milliseconds a connection rests between two requests while CPU is measured.
    #[arg(long, default_value_t = 0)]
    rest_ms: u32,
    /// Requests a second while answers are timed.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    rate: u32,
    /// The gateway to measure. Default: the one built with this benchmark.
    #[arg(long, env = "ONEMIND_BIN", default_value = env!("CARGO_BIN_EXE_onemind"))]
    onemind: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Of one route in one round: CPU in microseconds, p50 and p99 in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    /// Requests a second while CPU was measured.
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
}

fn main() -> Outcome<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> Outcome<()> {
    let cores = process::claim_cores_and_files()?;
    process::find("wrk").ok_or("wrk is not installed")?;
    let (folder, redis) = (tempfile::tempdir()?, RedisServer::start());
    let [app, http, admin] = [free_port()?, free_port()?, free_port()?];
    let endpoint = endpoint([app, free_port()?]);
    let _endpoint = serve(options, (&folder, "endpoint"), &cores, &endpoint, app).await?;
    let yaml = gateway(&redis.url(), [app, http, admin]);
    let gateway = serve(options, (&folder, "gateway"), PROXY_CORE, &yaml, http).await?;
    let tokens: Vec<String> = (0..USERS).map(token).collect();
    let script = folder.path().join("users.lua");
    std::fs::write(&script, users_script(&tokens, options.rest_ms))?;
    let mut rounds = [const { Vec::<Numbers>::new() }; ROUTES.len()];
    let period = Duration::from_secs(options.seconds);
    for round in 1..=options.rounds {
        for ((path, name), rounds) in ROUTES.iter().zip(&mut rounds) {
            eprintln!("{round}/{}: {name}", options.rounds);
            let url = format!("http://127.0.0.1:{http}{path}");
            let wrk = |time| load::wrk(&url, CONNECTIONS, Some(&script), time);
            wrk(Duration::from_secs(1)).await?;
            let before = gateway.cpu_us();
            let seen = wrk(period).await?;
            let cpu = (gateway.cpu_us() - before) / f64::from(seen.requests);
            let Seen { p50, p99, .. } = paced((http, path), &tokens, options.rate, period)?;
            let rate = f64::from(seen.requests) / period.as_secs_f64();
            rounds.push(Numbers {
                rate,
                cpu,
                p50,
                p99,
            });
        }
    }
    print!("{}", report(options, &rounds));
    Ok(())
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

async fn serve(
    options: &Options,
    (folder, name): (&TempDir, &str),
    cores: &str,
    yaml: &str,
    port: u16,
) -> Outcome<Running> {
    let file = folder.path().join(format!("{name}.yaml"));
    std::fs::write(&file, yaml)?;
    let arguments = [
        "run".to_owned(),
        "-c".to_owned(),
        file.display().to_string(),
    ];
    let log = folder.path().join(format!("{name}.log"));
    let mut running = Running::start(cores, &options.onemind, &arguments, &log)?;
    match running.accepts(port).await {
        Ok(()) => Ok(running),
        Err(fault) => Err(format!("{name}: {fault}; it said: {}", last_line(&log)).into()),
    }
}

fn last_line(log: &Path) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().last().unwrap_or("nothing").to_owned()
}

/// Answers at once.
fn endpoint([app, admin]: [u16; 2]) -> String {
    format!(
        "
server: {{ access_log: off }}
admin: {{ address: '127.0.0.1:{admin}' }}
listeners: {{ web: {{ address: '127.0.0.1:{app}' }} }}
routes: {{ all: {{ respond: {{ body: '{}' }} }} }}
",
        "x".repeat(1 << 10)
    )
}

/// Nobody is ever refused; Redis may take its time, so that each request is counted there.
fn gateway(redis: &str, [app, http, admin]: [u16; 3]) -> String {
    let quota = "requests: 10000000, per: day";
    format!(
        "
admin: {{ address: '127.0.0.1:{admin}' }}
listeners: {{ web: {{ address: '127.0.0.1:{http}' }} }}
redis: {{ url: '{redis}', timeout: 5s }}
identity: {{ users: {{ jwt: {{ secret: '{SECRET}', audience: bench }} }} }}
limits:
  rules:
    user: {{ by: user, {quota} }}
    user_route: {{ by: [user, route], {quota} }}
    all: {{ {quota} }}
pools: {{ app: {{ endpoints: ['127.0.0.1:{app}'], health: {{ check: off }} }} }}
routes:
  plain: {{ path: /plain, pool: app, limits: [] }}
  known: {{ path: /known, pool: app, identity: users, limits: [] }}
  limited: {{ path: /limited, pool: app, identity: users }}
"
    )
}

/// Each request of the next user. All routes are sent the same, so that the load costs the same.
fn users_script(tokens: &[String], rest_ms: u32) -> String {
    let mut text = "local ready, at = {}, 0\ninit = function()\n".to_owned();
    for token in tokens {
        let _ = writeln!(
            text,
            "  ready[#ready + 1] = wrk.format('GET', nil, {{ authorization = 'Bearer {token}' }})"
        );
    }
    let _ = writeln!(text, "end\ndelay = function()\n  return {rest_ms}");
    text + "end\nrequest = function()\n  at = at % #ready + 1\n  return ready[at]\nend\n"
}

/// A steady rate over all connections; an answer's time begins when its request is sent, or when it was due if the
/// answer before was late. Each connection has a thread of its own: they sleep to 50 microseconds, where a timer of a
/// runtime would send a millisecond's requests all at once.
fn paced(
    (port, path): (u16, &'static str),
    tokens: &[String],
    rate: u32,
    period: Duration,
) -> Outcome<Seen> {
    let every = Duration::from_secs(1) * CONNECTIONS / rate;
    let begin = Instant::now() + Duration::from_millis(50);
    let mut connections = Vec::new();
    for nth in 0..CONNECTIONS {
        let token = &tokens[nth as usize % tokens.len()];
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let first = begin + every * nth / CONNECTIONS;
        connections.push(thread::spawn(move || {
            ask_steadily(port, &request, first, (every, period))
        }));
    }
    let mut times = Vec::new();
    for connection in connections {
        times.extend(connection.join().map_err(|_| "a connection panicked")??);
    }
    Seen::of(times)
}

/// Microseconds of each answer.
#[expect(clippy::disallowed_methods, reason = "each connection has a thread")]
fn ask_steadily(
    port: u16,
    request: &str,
    first: Instant,
    (every, period): (Duration, Duration),
) -> Outcome<Vec<u32>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let (mut times, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let mut due = first;
    while due < first + period {
        let rest = due.saturating_duration_since(Instant::now());
        thread::sleep(rest);
        let started = if rest.is_zero() { due } else { Instant::now() };
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream, &mut buffer)?;
        times.push(u32::try_from(started.elapsed().as_micros())?);
        due += every;
    }
    Ok(times)
}

fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Outcome<()> {
    let mut come = 0;
    loop {
        let read = stream.read(&mut buffer[come..])?;
        if read == 0 {
            return Err("the gateway closed a connection".into());
        }
        come += read;
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(&buffer[..come])? else {
            continue;
        };
        if head.code != Some(200) {
            return Err(format!("status {:?}", head.code).into());
        }
        let body = head
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let body = body.ok_or("no content-length")?.value;
        let body: usize = std::str::from_utf8(body)?.parse()?;
        if come >= length + body {
            return Ok(());
        }
    }
}

fn report(options: &Options, rounds: &[Vec<Numbers>]) -> String {
    let median = |rounds: &[Numbers], of: fn(&Numbers) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let rows: Vec<Numbers> = rounds
        .iter()
        .map(|rounds| Numbers {
            rate: median(rounds, |numbers| numbers.rate),
            cpu: median(rounds, |numbers| numbers.cpu),
            p50: median(rounds, |numbers| numbers.p50),
            p99: median(rounds, |numbers| numbers.p99),
        })
        .collect();
    let mut text = format!(
        "{CONNECTIONS} connections; medians of {} rounds of {} s; p50 and p99 at {} requests a second\n\n\
         | the route has | requests/s | CPU µs | added | ratio | p50 ms | p99 ms | p99 added µs |\n|---|---|---|---|---|---|---|---|\n",
        options.rounds, options.seconds, options.rate
    );
    let plain = rows[0];
    for ((_, name), row) in ROUTES.iter().zip(&rows) {
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {:.1} | {:+.1} | {:.2} | {:.3} | {:.3} | {:+.0} |",
            row.rate,
            row.cpu,
            row.cpu - plain.cpu,
            row.cpu / plain.cpu,
            row.p50,
            row.p99,
            (row.p99 - plain.p99) * 1e3,
        );
    }
    let limited = rows[rows.len() - 1];
    let bars = [
        ("CPU", limited.cpu - plain.cpu, CPU_BAR),
        ("p99", (limited.p99 - plain.p99) * 1e3, P99_BAR),
    ];
    for (what, added, bar) in bars {
        let word = if added <= bar { "held" } else { "MISSED" };
        let _ = writeln!(text, "\n{what}: {added:+.1} µs, at most {bar} µs: {word}");
    }
    text
}
