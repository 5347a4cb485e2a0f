//! Calls of models as the benchmark makes them: at a steady rate for whole answers, all at once for streams.

use crate::Outcome;
use crate::marks::{Marks, Streamed};
use crate::provider::{EVENTS, EVERY};
use crate::wire::Connection;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Streams are opened over this time, so that they are out of step.
const OPENING: Duration = Duration::from_secs(1);
/// How much longer than the provider takes a stream may take: one that has not ended by then has lost the rest.
const GRACE: Duration = Duration::from_secs(12);

/// What came of whole answers.
#[derive(Debug, Default)]
pub struct Times {
    /// Microseconds from when each request was due.
    pub all: Vec<u32>,
    /// Answers in a second.
    pub reached: f64,
}

/// Keeps up `rate` requests a second over `connections`, as far as the other side can; each waits for its answer.
pub async fn paced(
    port: u16,
    request: &[u8],
    (rate, connections): (u32, u32),
    period: Duration,
) -> Outcome<Times> {
    let request: Rc<[u8]> = request.into();
    let every = Duration::from_secs(1) * connections / rate;
    let begin = Instant::now() + Duration::from_millis(50);
    let local = tokio::task::LocalSet::new();
    let mut tasks = JoinSet::new();
    for nth in 0..connections {
        let first = begin + every * nth / connections;
        let request = Rc::clone(&request);
        tasks.spawn_local_on(steadily(port, request, (first, every, period)), &local);
    }
    let mut all = Vec::new();
    local
        .run_until(async {
            while let Some(done) = tasks.join_next().await {
                all.extend(done??);
            }
            Outcome::Ok(())
        })
        .await?;
    let count = u32::try_from(all.len())?;
    let reached = f64::from(count) / begin.elapsed().as_secs_f64();
    Ok(Times { all, reached })
}

async fn steadily(
    port: u16,
    request: Rc<[u8]>,
    (first, every, period): (Instant, Duration, Duration),
) -> Outcome<Vec<u32>> {
    let mut connection = Connection::open(port).await?;
    let (mut times, mut due) = (Vec::new(), first);
    while due < first + period && Instant::now() < first + period {
        sleep_until(due).await;
        // one that is late already makes the next late, and no more than that
        let started = due.max(Instant::now() - every);
        let answer = connection.exchange(&request, |_| {}).await?;
        if answer.status != 200 {
            return Err(format!("status {}", answer.status).into());
        }
        times.push(u32::try_from(started.elapsed().as_micros())?);
        if answer.closes {
            connection = Connection::open(port).await?;
        }
        due += every;
    }
    Ok(times)
}

/// So many streams at once, each to its end.
pub async fn streams(port: u16, request: &[u8], count: u32) -> Outcome<Streamed> {
    let request: Rc<[u8]> = request.into();
    let begin = Instant::now();
    let end = begin + OPENING + EVERY * EVENTS + GRACE;
    let local = tokio::task::LocalSet::new();
    let mut tasks = JoinSet::new();
    for nth in 0..count {
        let first = begin + OPENING * nth / count;
        let request = Rc::clone(&request);
        tasks.spawn_local_on(stream(port, request, (first, end)), &local);
    }
    let mut all = Streamed::default();
    local
        .run_until(async {
            while let Some(done) = tasks.join_next().await {
                all.add(done?);
            }
            Outcome::Ok(())
        })
        .await?;
    Ok(all)
}

async fn stream(port: u16, request: Rc<[u8]>, (first, end): (Instant, Instant)) -> Streamed {
    sleep_until(first).await;
    let mut marks = Marks::default();
    let asked = async {
        let mut connection = Connection::open(port).await?;
        let answer = connection
            .exchange(&request, |piece| marks.read(piece))
            .await?;
        match answer.status {
            200 => Outcome::Ok(()),
            status => Err(format!("status {status}").into()),
        }
    };
    let ended = timeout_at(end, asked)
        .await
        .unwrap_or_else(|_| Err("a stream did not end in time".into()));
    let mut seen = marks.end();
    seen.failed = ended.is_err().into();
    seen.reason = ended.err().map(|fault| fault.to_string());
    seen
}
