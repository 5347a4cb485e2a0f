//! The jobs: what is asked of each proxy, and which numbers come of it.

use crate::load::{self, Seen};
use crate::product::{Product, Proxy, World};
use crate::table::Number;
use crate::{Effort, Outcome, client};
use clap::ValueEnum;
use std::time::Duration;
use tokio::time::sleep;

const WEBSOCKETS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Job {
    H1,
    Tls,
    H2,
    Handshake,
    Conns1000,
    Ws1000,
    Bulk,
    Idle,
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

    /// Starts `product`, warms it up, measures, and stops it.
    pub async fn run(self, world: &World, product: Product, effort: Effort) -> Outcome<Numbers> {
        if self == Self::Idle {
            return idle(world, product).await;
        }
        let proxy = world.start(product).await?;
        client::first_answer(proxy.http).await?;
        let numbers = self.measure(world, &proxy, effort).await;
        proxy.running.stop().await;
        numbers
    }

    async fn measure(self, world: &World, proxy: &Proxy, effort: Effort) -> Outcome<Numbers> {
        let http = |path: &str| format!("http://127.0.0.1:{}{path}", proxy.http);
        let https = |path: &str| format!("https://127.0.0.1:{}{path}", proxy.https);
        match self {
            Self::H1 => steady(proxy, effort, |time| wrk(http("/1k"), 64, time)).await,
            Self::Tls => steady(proxy, effort, |time| wrk(https("/1k"), 64, time)).await,
            Self::Conns1000 => steady(proxy, effort, |time| wrk(http("/1k"), 1_000, time)).await,
            Self::H2 => {
                let (url, log) = (https("/1k"), world.path("h2load.log"));
                steady(proxy, effort, |time| load::h2load(&url, &log, time)).await
            }
            Self::Handshake => {
                let (port, root) = (proxy.https, world.certificate());
                steady(proxy, effort, |time| {
                    client::handshakes(port, root.clone(), time)
                })
                .await
            }
            Self::Bulk => {
                let mut numbers = steady(proxy, effort, |time| wrk(http("/1m"), 16, time)).await?;
                let script = world.path("upload.lua");
                let url = http("/up/");
                let up = steady(proxy, effort, |time| {
                    load::wrk(&url, 16, Some(&script), time)
                })
                .await?;
                let cpu = up.into_iter().find(|(number, _)| *number == Number::Cpu);
                numbers.extend(cpu.map(|(_, value)| (Number::CpuUp, value)));
                Ok(numbers)
            }
            Self::Ws1000 => websockets(proxy, effort).await,
            Self::Idle => Err("idle starts the proxy itself".into()),
        }
    }
}

async fn wrk(url: String, connections: u32, time: Duration) -> Outcome<Seen> {
    load::wrk(&url, connections, None, time).await
}

/// Warms up, then measures once.
async fn steady<F, R>(proxy: &Proxy, effort: Effort, load: F) -> Outcome<Numbers>
where
    F: Fn(Duration) -> R,
    R: Future<Output = Outcome<Seen>>,
{
    load(effort.warm).await?;
    let before = proxy.running.cpu_us();
    let seen = load(effort.measured).await?;
    Ok(numbers(proxy.running.cpu_us() - before, &seen))
}

fn numbers(cpu_us: f64, seen: &Seen) -> Numbers {
    vec![
        (Number::Cpu, cpu_us / f64::from(seen.requests)),
        (Number::P50, seen.p50),
        (Number::P99, seen.p99),
    ]
}

async fn websockets(proxy: &Proxy, effort: Effort) -> Outcome<Numbers> {
    let resident = proxy.running.resident_kib();
    let sockets = client::websockets(proxy.http, WEBSOCKETS).await?;
    let (sockets, _) = client::echo(sockets, effort.warm).await?;
    let before = proxy.running.cpu_us();
    let (sockets, seen) = client::echo(sockets, effort.measured).await?;
    let mut numbers = numbers(proxy.running.cpu_us() - before, &seen);
    let each = (proxy.running.resident_kib() - resident) / 1_000.0;
    numbers.push((Number::MemoryEach, each));
    drop(sockets);
    Ok(numbers)
}

async fn idle(world: &World, product: Product) -> Outcome<Numbers> {
    let mut proxy = world.launch(product)?;
    let answered = client::first_answer(proxy.http).await;
    proxy.running.lives()?;
    answered?;
    let start = proxy.running.started.elapsed().as_secs_f64() * 1e3;
    // what it needed for the start only may be given back
    sleep(Duration::from_secs(1)).await;
    let resident = proxy.running.resident_kib() / 1_024.0;
    proxy.running.stop().await;
    Ok(vec![(Number::Resident, resident), (Number::Start, start)])
}
