//! The load of a busy day in little more than a minute: 1,000 users that call models and hold `WebSockets`, before, during
//! and after a peak: `make bench-load`. Prints a table and draws the curves.

use crate::Outcome;
use crate::call::{self, Marks};
use crate::job::share;
use crate::plot;
use crate::process::{self, Running};
use crate::subject::{Ask, Started, Subject, World, free_port};
use crate::wire::Connection;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const USERS: usize = 1_000;
/// Three calls a minute of each user.
const USUAL: u32 = 50;
const PEAK: u32 = 500;
/// Whoever waits longer has lost patience.
const PATIENCE: Duration = Duration::from_secs(20);
/// Each socket says something so often.
const WORD_EVERY: Duration = Duration::from_secs(5);
const MEMORY_BAR: f64 = 256.0;
const SECRET: &str = "a secret of a benchmark, of more than thirty-two bytes";

/// Puts the load of a busy day on the gateway. Needs redis-server.
#[derive(Debug, Parser)]
pub struct Options {
    /// Seconds of the peak; before and after it come half as many.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..=3600))]
    peak: u32,
    /// Where the report is written as well; beside it go the curves, as `.svg`.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/load.md"))]
    out: PathBuf,
    /// The gateway to measure. Default: the one built with this benchmark.
    #[arg(long, env = "ONEMIND_BIN", default_value = env!("CARGO_BIN_EXE_onemind"))]
    onemind: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was seen in one phase, or one second; times in microseconds.
#[derive(Debug, Default)]
struct Seen {
    calls: u32,
    errors: u32,
    whole: Vec<u32>,
    overhead: Vec<u32>,
    transit: Vec<u32>,
    lost: u32,
    echoes: Vec<u32>,
    resident_kib: f64,
}

/// Everything that was seen, by the second in which it began.
struct Book {
    begin: Instant,
    seconds: Vec<Seen>,
    fault: Option<String>,
}

impl Book {
    fn at(&mut self, time: Instant) -> &mut Seen {
        let second = time.saturating_duration_since(self.begin).as_secs();
        let last = self.seconds.len() - 1;
        let at = usize::try_from(second).map_or(last, |second| second.min(last));
        &mut self.seconds[at]
    }

    fn error(&mut self, time: Instant, fault: &str) {
        self.at(time).errors += 1;
        self.fault.get_or_insert_with(|| fault.to_owned());
    }
}

type Shared = Rc<RefCell<Book>>;

pub async fn run(options: Options) -> Outcome<()> {
    let cores = process::claim_cores_and_files()?;
    let world = World::build(options.onemind.clone(), PathBuf::new(), &cores).await?;
    let echo = free_port()?;
    let arguments = ["backend".to_owned(), echo.to_string()];
    let log = world.path("echo.log");
    let mut backend = Running::start(&cores, &std::env::current_exe()?, &arguments, &log)?;
    backend.accepts(echo).await?;
    let [port, admin] = [free_port()?, free_port()?];
    let gateway = world
        .start_onemind(&config(&world, [port, admin, echo]), port)
        .await?;
    let direct = Started {
        subject: Subject::Direct,
        port: world.provider,
        running: None,
    };
    eprintln!("the provider alone");
    let request = direct.request(Ask::Chat { stream: false }, world.provider);
    let alone = Duration::from_secs(5);
    let mut alone = call::paced(world.provider, &request, (PEAK, 64), alone).await?;
    let half = options.peak / 2;
    let phases = [
        ("before", half, USUAL),
        ("peak", options.peak, PEAK),
        ("after", half, USUAL),
    ];
    let seconds: u32 = phases.iter().map(|phase| phase.1).sum();
    let tokens: Rc<Vec<String>> = Rc::new((0..USERS).map(token).collect());
    eprintln!("opening {USERS} WebSockets");
    let sockets = open_sockets(port, &tokens).await?;
    let book = Rc::new(RefCell::new(Book {
        begin: Instant::now(),
        seconds: (0..seconds).map(|_| Seen::default()).collect(),
        fault: None,
    }));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(play(&gateway, port, (phases, tokens, sockets), &book))
        .await;
    let book = Rc::try_unwrap(book)
        .map_err(|_| "a caller did not end")?
        .into_inner();
    let page = report(&phases, &book, &mut alone.all)?;
    println!("{page}");
    std::fs::write(&options.out, &page)?;
    let picture = options.out.with_extension("svg");
    std::fs::write(&picture, draw(&book))?;
    eprintln!(
        "written to {} and {}",
        options.out.display(),
        picture.display()
    );
    gateway.stop().await;
    Ok(())
}

type Phase = (&'static str, u32, u32);

/// Calls come when they are due, whatever becomes of those before.
async fn play(
    gateway: &Running,
    port: u16,
    (phases, tokens, sockets): ([Phase; 3], Rc<Vec<String>>, Vec<Connection>),
    book: &Shared,
) {
    let begin = book.borrow().begin;
    let seconds: u32 = phases.iter().map(|phase| phase.1).sum();
    let end = begin + Duration::from_secs(seconds.into());
    let mut tasks = JoinSet::new();
    for (nth, socket) in (0..).zip(sockets) {
        let first = Instant::now() + WORD_EVERY * nth / 1_000;
        tasks.spawn_local(talk(socket, Rc::clone(book), first, end));
    }
    let calling = async {
        let idle = Rc::new(RefCell::new(Vec::new()));
        let (mut due, mut nth) = (begin, 0);
        for (name, seconds, rate) in phases {
            eprintln!("{name}: {rate} calls a second for {seconds} s");
            for _ in 0..seconds * rate {
                sleep_until(due).await;
                let request = ask(&tokens[nth % USERS], nth % 2 == 1);
                let streamed = nth % 2 == 1;
                let call = (port, request, streamed, due);
                tasks.spawn_local(make(call, Rc::clone(&idle), Rc::clone(book)));
                due += Duration::from_secs(1) / rate;
                nth += 1;
            }
        }
        while tasks.join_next().await.is_some() {}
    };
    let watching = async {
        loop {
            book.borrow_mut().at(Instant::now()).resident_kib = gateway.resident_kib();
            sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = calling => {}
        () = watching => {}
    }
}

fn ask(token: &str, stream: bool) -> Vec<u8> {
    let words = "What is the answer to this question? ".repeat(20);
    let body = format!(
        r#"{{"model":"bench","messages":[{{"role":"user","content":"{words}"}}],"stream":{stream}}}"#
    );
    let headers = format!("Authorization: Bearer {token}\r\n");
    call::request("/v1/chat/completions", &headers, &body)
}

/// One call, on a connection that is free or a new one.
async fn make(
    (port, request, streamed, due): (u16, Vec<u8>, bool, Instant),
    idle: Rc<RefCell<Vec<Connection>>>,
    book: Shared,
) {
    let mut marks = Marks::default();
    let asked = async {
        let free = idle.borrow_mut().pop();
        let mut connection = match free {
            Some(connection) => connection,
            None => Connection::open(port).await?,
        };
        let answer = connection
            .exchange(&request, |piece| marks.read(piece))
            .await?;
        if answer.status != 200 {
            return Err(format!("status {}", answer.status).into());
        }
        if !answer.closes {
            idle.borrow_mut().push(connection);
        }
        Outcome::Ok(answer)
    };
    let asked = timeout(PATIENCE, asked).await;
    let mut book = book.borrow_mut();
    book.at(due).calls += 1;
    match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
        Ok(answer) => {
            let seen = book.at(due);
            seen.overhead.extend(answer.overhead_us);
            if streamed {
                let streamed = marks.end();
                seen.lost += streamed.lost;
                seen.transit.extend(streamed.transit);
            } else {
                let took = due.elapsed().as_micros();
                seen.whole.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
        }
        Err(fault) => book.error(due, &fault.to_string()),
    }
}

async fn open_sockets(port: u16, tokens: &[String]) -> Outcome<Vec<Connection>> {
    let mut sockets = Vec::new();
    for token in tokens {
        let mut socket = Connection::open(port).await?;
        let request = format!(
            "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer {token}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes()).await?;
        let head = timeout(PATIENCE, socket.take_head()).await??;
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Says a word every few seconds and waits for its echo.
async fn talk(mut socket: Connection, book: Shared, first: Instant, end: Instant) {
    // a final text frame of four bytes under a mask of zeros (RFC 6455, 5.2)
    let frame = [0x81, 0x84, 0, 0, 0, 0, b'w', b'o', b'r', b'd'];
    let mut due = first;
    while due < end {
        sleep_until(due).await;
        let said = async {
            let mut back = [0; 6];
            socket.stream.write_all(&frame).await?;
            socket.stream.read_exact(&mut back).await?;
            std::io::Result::Ok(back[2..] == frame[6..])
        };
        let came = matches!(timeout(PATIENCE, said).await, Ok(Ok(true)));
        let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut book = book.borrow_mut();
        if !came {
            return book.error(due, "a WebSocket was cut");
        }
        book.at(due).echoes.push(took);
        drop(book);
        due += WORD_EVERY;
    }
}

/// Users by their tokens, three limits in Redis, calls of models and `WebSockets`.
fn config(world: &World, [port, admin, echo]: [u16; 3]) -> String {
    let (folder, redis, provider) = (
        world.folder.path().display(),
        world.redis.url(),
        world.provider,
    );
    format!(
        "server:\n  threads: 1\n  access_log: {folder}/onemind.access\n  \
         shield: {{ connections_per_address: 8000, in_flight_per_address: 8000 }}\n\
         admin: {{ address: '127.0.0.1:{admin}' }}\nlisteners: {{ web: {{ address: '127.0.0.1:{port}' }} }}\n\
         redis: {{ url: '{redis}', timeout: 5s }}\n\
         identity: {{ users: {{ jwt: {{ secret: '{SECRET}', audience: bench }} }} }}\n\
         limits:\n  rules:\n    user: {{ by: user, requests: 1000 }}\n    \
         user_provider: {{ by: [user, provider], requests: 1000 }}\n    tokens: {{ by: user, tokens: 10000000 }}\n\
         providers: {{ chat: {{ kind: compatible, base_url: 'http://127.0.0.1:{provider}/v1', capacity: {{ max_in_flight: 8000 }} }} }}\n\
         models: {{ bench: {{ targets: chat/bench-1 }} }}\n\
         pools: {{ echo: {{ endpoints: ['127.0.0.1:{echo}'], health: {{ check: off }}, capacity: {{ max_in_flight: 4000 }} }} }}\n\
         routes:\n  ai: {{ path: '/v1/*', identity: users, ai: {{}} }}\n  \
         ws: {{ path: '/ws/*', identity: users, pool: echo, websocket: {{ max_per_user: 10 }} }}\n"
    )
}

/// HS256, for longer than any run.
fn token(nth: usize) -> String {
    let claims = format!(r#"{{"sub":"user-{nth}","aud":"bench","exp":4102444800}}"#);
    let text = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let message = format!(
        "{}.{}",
        text(r#"{"alg":"HS256","typ":"JWT"}"#),
        text(&claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

impl Seen {
    fn of(seconds: &[Self]) -> Self {
        let all = |of: fn(&Self) -> &Vec<u32>| seconds.iter().flat_map(of).copied().collect();
        Self {
            calls: seconds.iter().map(|one| one.calls).sum(),
            errors: seconds.iter().map(|one| one.errors).sum(),
            whole: all(|one| &one.whole),
            overhead: all(|one| &one.overhead),
            transit: all(|one| &one.transit),
            lost: seconds.iter().map(|one| one.lost).sum(),
            echoes: all(|one| &one.echoes),
            resident_kib: seconds
                .iter()
                .map(|one| one.resident_kib)
                .fold(0.0, f64::max),
        }
    }
}

fn report(phases: &[Phase], book: &Book, alone: &mut [u32]) -> Outcome<String> {
    let mut page = format!(
        "{USERS} users, {USERS} WebSockets, half of the calls streamed (100 events at 20 ms); onemind on one core with users by JWT, three \
         limits in Redis and an access log. The provider alone, at {PEAK} calls a second: p50 {:.3} ms, p99 {:.3} ms.\n\n\
         | phase | calls/s | calls | errors | whole answer p50 / p99 ms | overhead p50 / p99 us | event's way p50 / p99 ms | lost events \
         | WebSocket echo p50 / p99 ms | memory MiB |\n|---|---|---|---|---|---|---|---|---|---|\n",
        share(alone, 500)?,
        share(alone, 990)?
    );
    let mut from = 0;
    for (name, seconds, rate) in phases {
        let to = from + usize::try_from(*seconds)?;
        let mut seen = Seen::of(&book.seconds[from..to]);
        from = to;
        let overhead = (
            share(&mut seen.overhead, 500)? * 1e3,
            share(&mut seen.overhead, 990)? * 1e3,
        );
        let _ = writeln!(
            page,
            "| {name} | {rate} | {} | {} | {} | {:.0} / {:.0} | {} | {} | {} | {:.1} |",
            seen.calls,
            seen.errors,
            pair(&mut seen.whole)?,
            overhead.0,
            overhead.1,
            pair(&mut seen.transit)?,
            seen.lost,
            pair(&mut seen.echoes)?,
            seen.resident_kib / 1_024.0,
        );
    }
    let all = Seen::of(&book.seconds);
    let word = |met: bool| if met { "met" } else { "**missed**" };
    let memory = all.resident_kib / 1_024.0;
    let _ = writeln!(
        page,
        "\nNo errors, no lost events: {}. Memory under {MEMORY_BAR} MiB: {}.",
        word(all.errors == 0 && all.lost == 0),
        word(memory < MEMORY_BAR)
    );
    if let Some(fault) = &book.fault {
        let _ = writeln!(page, "The first error: {fault}");
    }
    Ok(page)
}

fn pair(times: &mut [u32]) -> Outcome<String> {
    Ok(format!(
        "{:.3} / {:.3}",
        share(times, 500)?,
        share(times, 990)?
    ))
}

fn draw(book: &Book) -> String {
    let by = |of: &dyn Fn(&Seen) -> f64| book.seconds.iter().map(of).collect::<Vec<f64>>();
    let p99 = |times: &[u32]| share(&mut times.to_vec(), 990).unwrap_or_default();
    plot::page(&[
        ("calls a second", by(&|seen| f64::from(seen.calls))),
        ("errors", by(&|seen| f64::from(seen.errors))),
        ("whole answer, p99 ms", by(&|seen| p99(&seen.whole))),
        (
            "overhead as the gateway says, p99 us",
            by(&|seen| p99(&seen.overhead) * 1e3),
        ),
        ("an event's way, p99 ms", by(&|seen| p99(&seen.transit))),
        ("WebSocket echo, p99 ms", by(&|seen| p99(&seen.echoes))),
        ("memory, MiB", by(&|seen| seen.resident_kib / 1_024.0)),
    ])
}
