//! What three limits cost a request: in memory, refused from memory, paid in advance, and in a Redis on loopback
//! with 64 callers at once: `cargo bench --bench limits`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "a report; and a harness that does more than is needed here"
)]

#[path = "../it/harness/redis.rs"]
mod redis;

use onemind_gateway::base::secret::Secret;
use onemind_gateway::base::units::{OneOrMany, Period};
use onemind_gateway::observe::metrics::Metrics;
use onemind_gateway::stage::limit::counters::{Counters, Mode, Now};
use onemind_gateway::stage::limit::limits::Limits;
use onemind_gateway::stage::limit::rule::{Rule, Subject};
use onemind_gateway::stage::limit::settings::{Dimension, Per, RuleSettings};
use onemind_gateway::store::redis::Settings;
use redis::RedisServer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 5;
const CALLS: u32 = 20_000;
const CALLERS: u32 = 64;

/// By user, by user and provider, and of all, as the preset has them, but with this quota.
fn limits(quota: u64, counters: &Arc<Counters>, metrics: &Arc<Metrics>) -> Limits {
    let rules = [
        ("user", &[Dimension::User][..]),
        ("user_provider", &[Dimension::User, Dimension::Provider]),
        ("global", &[]),
    ];
    let rules = rules.map(|(name, by)| {
        let settings = RuleSettings {
            by: OneOrMany(by.to_vec()),
            requests: Some(quota),
            per: Per::Day,
            ..RuleSettings::default()
        };
        Arc::new(Rule::build(name, &settings, metrics).unwrap())
    });
    Limits::new(rules.to_vec(), Arc::clone(counters))
}

/// One of all callers together, of which each instance takes so many units in advance.
fn prepaid(units: u64, counters: &Arc<Counters>, metrics: &Arc<Metrics>) -> Limits {
    let settings = RuleSettings {
        requests: Some(10_000_000),
        prepaid: Some(units),
        ..RuleSettings::default()
    };
    let rule = Rule::build("prepaid", &settings, metrics).unwrap();
    Limits::new(vec![Arc::new(rule)], Arc::clone(counters))
}

fn subject(user: &str) -> Subject<'_> {
    Subject {
        user: Some(user),
        plan: None,
        key: None,
        provider: Some("openai"),
        model: None,
        route: Some("chat"),
        address: None,
        tokens: 0,
    }
}

fn runtime(name: &str) -> Runtime {
    // As the gateway has it: one thread for the traffic, another for what is beside it.
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).thread_name(name).enable_all();
    builder.build().unwrap()
}

/// Nanoseconds of one call, one after the other; the best of some rounds.
fn alone(limits: &Limits, user: &str) -> u128 {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let round = |_| {
        let started = Instant::now();
        runtime.block_on(async {
            for _ in 0..CALLS {
                limits.acquire(&subject(user), Now::read).await;
            }
        });
        started.elapsed().as_nanos() / u128::from(CALLS)
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

/// Microseconds that this process has spent on its processors.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|f| f.parse::<u64>().unwrap())
        .sum();
    ticks * 10_000
}

/// 64 callers, each a user: microseconds by the clock and of CPU for one call, and how long the 50th and
/// the 99th of a hundred waited.
fn together(limits: &Arc<Limits>) -> (f64, f64, Duration, Duration) {
    let (traffic, left) = (runtime("traffic"), Arc::new(AtomicU32::new(CALLS * 5)));
    let (started, cpu) = (Instant::now(), cpu_us());
    let callers: Vec<_> = (0..CALLERS)
        .map(|nth| {
            let (limits, left) = (Arc::clone(limits), Arc::clone(&left));
            traffic.spawn(async move {
                let (user, mut waits) = (nth.to_string(), Vec::new());
                while left
                    .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let asked = Instant::now();
                    let decision = limits.acquire(&subject(&user), Now::read).await;
                    assert!(decision.reject.is_none());
                    waits.push(asked.elapsed());
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.extend(traffic.block_on(caller).unwrap());
    }
    let calls = f64::from(CALLS * 5);
    let clock = started.elapsed().as_secs_f64() * 1e6 / calls;
    let cpu = Duration::from_micros(cpu_us() - cpu).as_secs_f64() * 1e6 / calls;
    waits.sort();
    let nth = |of_hundred: usize| waits[waits.len() * of_hundred / 100];
    (clock, cpu, nth(50), nth(99))
}

fn main() {
    let metrics = Metrics::new("bench");
    let memory = Counters::start(None, "bench", &metrics).unwrap();
    let granted = alone(&limits(10_000_000, &memory, &metrics), "42");
    println!("three limits in memory                {granted:6} ns");

    let server = RedisServer::start();
    let settings = Settings {
        url: Secret::new(server.url()),
        ca: None,
        timeout: Period::seconds(5),
    };
    let control = runtime("control");
    let counters = {
        let _inside = control.enter();
        Counters::start(Some(&settings), "bench", &metrics).unwrap()
    };
    while counters.mode() != Mode::Redis {
        std::thread::yield_now();
    }
    let few = limits(1, &counters, &metrics);
    let refused = alone(&few, "refused");
    println!("refused from memory                   {refused:6} ns");
    for units in [100, 10_000] {
        let spent = alone(&prepaid(units, &counters, &metrics), "42");
        println!("one limit, {units:5} paid in advance      {spent:6} ns");
    }
    let many = Arc::new(limits(10_000_000, &counters, &metrics));
    let in_advance = Arc::new(prepaid(100, &counters, &metrics));
    for (what, limits) in [
        ("three limits in Redis", &many),
        ("one, 100 in advance", &in_advance),
    ]
    .into_iter()
    .cycle()
    .take(2 * ROUNDS)
    {
        let (clock, cpu, half, most) = together(limits);
        println!(
            "{what:22}, 64 callers   {clock:6.1} µs by the clock, {cpu:5.1} µs of CPU, p50 {half:?}, p99 {most:?}"
        );
    }
}
