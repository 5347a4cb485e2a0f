//! The load tools of Debian, and what their output means.

use crate::percentile;
use crate::process::output;
use crate::{Fault, Outcome};
use std::path::Path;
use std::time::Duration;

/// What a tool saw.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub requests: u32,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
}

/// HTTP/1.1 from `connections` that each ask again as soon as they have their answer.
pub async fn wrk(
    url: &str,
    connections: u32,
    script: Option<&Path>,
    time: Duration,
) -> Outcome<Seen> {
    // wrk takes whole seconds only
    let seconds = time.as_secs_f64().ceil();
    let mut arguments = vec![
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "--latency".to_owned(),
        "--timeout=10s".to_owned(),
    ];
    if let Some(script) = script {
        arguments.extend(["-s".to_owned(), script.display().to_string()]);
    }
    arguments.push(url.to_owned());
    let said = output("wrk", &arguments, time + Duration::from_secs(30)).await?;
    read_wrk(&said)
}

fn read_wrk(said: &str) -> Outcome<Seen> {
    if let Some(bad) = said
        .lines()
        .find(|line| line.contains("Non-2xx") || line.contains("Socket errors"))
    {
        return Err(bad.trim().to_owned().into());
    }
    let share = |share: &str| {
        let mut lines = said.lines().map(str::trim);
        let value = lines.find_map(|line| line.strip_prefix(share))?.trim();
        milliseconds(value)
    };
    let requests = said
        .lines()
        .find_map(|line| line.split_once(" requests in"));
    let requests = requests.and_then(|(count, _)| count.trim().parse().ok());
    match (requests, share("50%"), share("99%")) {
        (Some(requests), Some(p50), Some(p99)) if requests > 0 => Ok(Seen { requests, p50, p99 }),
        _ => Err("wrk saw no answer".into()),
    }
}

/// `1.23ms`, `45.00us`, `1.00s`, `1.20m`
fn milliseconds(value: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)];
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = value.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

/// HTTP/2 over TLS: 8 connections with 8 requests at a time on each.
pub async fn h2load(url: &str, log: &Path, time: Duration) -> Outcome<Seen> {
    // h2load appends
    let _ = std::fs::remove_file(log);
    let seconds = time.as_secs_f64().ceil();
    let arguments = [
        "-c8".to_owned(),
        "-m8".to_owned(),
        "-t1".to_owned(),
        format!("-D{seconds}"),
        "--npn-list=h2".to_owned(),
        format!("--log-file={}", log.display()),
        url.to_owned(),
    ];
    let said = output("h2load", &arguments, time + Duration::from_secs(30)).await?;
    read_h2load(&said, &std::fs::read_to_string(log)?)
}

fn read_h2load(said: &str, log: &str) -> Outcome<Seen> {
    if !said.contains("Application protocol: h2") {
        return Err("HTTP/2 was not agreed on".into());
    }
    // start in us, status, duration in us
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let (Some(status), Some(time)) = (fields.next(), fields.next()) else {
            continue;
        };
        if status != "200" {
            return Err(format!("h2load saw status {status}").into());
        }
        times.push(time.trim().parse()?);
    }
    Seen::of(times)
}

impl Seen {
    /// From the time of each exchange in microseconds.
    pub fn of(mut times: Vec<u32>) -> Outcome<Self> {
        let (Some(p50), Some(p99)) = (
            percentile::milliseconds(&mut times, 500),
            percentile::milliseconds(&mut times, 990),
        ) else {
            return Err(Fault::from("no exchange was finished"));
        };
        Ok(Self {
            requests: u32::try_from(times.len())?,
            p50,
            p99,
        })
    }
}
