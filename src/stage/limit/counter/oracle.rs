//! Random rules at random times: the memory counter, the script in a real Redis, and a model that keeps
//! every request and forgets nothing must agree.

use super::memory::Memory;
use super::redis::Shared;
use super::{Charge, Taken};
use crate::base::secret::Secret;
use crate::base::units::Period;
use crate::observe::metrics::Metrics;
use crate::stage::limit::quota::{LEASE_MS, Quota};
use crate::store::redis::{Redis, Settings};
use crate::store::server::RedisServer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Where a test has its clock: the last two arguments.
const CLOCK: &str = "{ ARGV[#ARGV - 1], ARGV[#ARGV] }";

/// Some minute, begun 12 s ago: windows are not to begin with the test.
const START_US: u64 = 1_700_000_052_000_000;

/// One request: how long after the one before, and which rules are about it. Or a place given back.
#[derive(Debug, Clone)]
enum Step {
    Take { after_us: u64, rules: Vec<usize> },
    GiveBack { which: usize },
}

/// Every request that was granted, with nothing added up.
#[derive(Default)]
struct Model {
    granted: Vec<(usize, u64)>,
    held: Vec<(usize, u64, String)>,
}

impl Model {
    fn allows(&self, rule: usize, quota: Quota, now: u64) -> bool {
        let times = self.granted.iter().filter(|(of, _)| *of == rule);
        let times = times.map(|(_, at)| *at);
        match quota {
            Quota::Window {
                limit,
                window_ms,
                sliding,
            } => {
                let (width, limit) = (u128::from(window_ms), u128::from(limit));
                let window_of = |at: u64| at / 1_000 / window_ms;
                let (here, passed) = (window_of(now), u128::from(now / 1_000 % window_ms));
                let now = times.clone().filter(|at| window_of(*at) == here).count() as u128;
                let before = times.filter(|at| window_of(*at) + 1 == here).count() as u128;
                // now + 1 + before x (1 - passed / width) <= limit
                let weighed = if sliding {
                    before * (width - passed)
                } else {
                    0
                };
                (now + 1) * width + weighed <= limit * width
            }
            Quota::Gcra {
                limit,
                window_ms,
                burst,
            } => {
                let every = (window_ms * 1_000).div_ceil(limit);
                let due = times.fold(0, |due: u64, at| due.max(at) + every);
                due.max(now) + every <= now + burst * every
            }
            Quota::InFlight { limit } => {
                let held = self
                    .held
                    .iter()
                    .filter(|(of, at, _)| *of == rule && at / 1_000 + LEASE_MS > now / 1_000);
                (held.count() as u64) < limit
            }
        }
    }
}

fn quota() -> impl Strategy<Value = Quota> {
    let limit = prop_oneof![1u64..8, 1u64..200];
    let window_ms = prop_oneof![Just(1_000u64), Just(60_000), Just(3_600_000)];
    (limit, window_ms, 0u8..4, 1u64..8).prop_map(|(limit, window_ms, kind, burst)| match kind {
        0 | 1 => Quota::Window {
            limit,
            window_ms,
            sliding: kind == 0,
        },
        2 => Quota::Gcra {
            limit,
            window_ms,
            burst: burst.min(limit),
        },
        _ => Quota::InFlight { limit },
    })
}

fn step(rules: usize) -> impl Strategy<Value = Step> {
    let after_us = prop_oneof![
        6 => 0u64..2_000,
        6 => 0u64..200_000,
        2 => 0u64..2_000_000,
        2 => 0u64..70_000_000,
        1 => 0u64..7_200_000_000,
    ];
    let about = proptest::collection::hash_set(0..rules, 1..=rules);
    prop_oneof![
        8 => (after_us, about).prop_map(|(after_us, rules)| Step::Take {
            after_us, rules: rules.into_iter().collect(),
        }),
        1 => (0usize..8).prop_map(|which| Step::GiveBack { which }),
    ]
}

fn case() -> impl Strategy<Value = (Vec<Quota>, Vec<Step>)> {
    proptest::collection::vec(quota(), 1..5).prop_flat_map(|quotas| {
        let steps = proptest::collection::vec(step(quotas.len()), 1..120);
        (Just(quotas), steps)
    })
}

fn agree(shared: &Shared, quotas: &[Quota], steps: &[Step], ask: &dyn Fn(Asked<'_>) -> Taken) {
    static CASES: AtomicU32 = AtomicU32::new(0);
    let case = CASES.fetch_add(1, Relaxed);
    let (memory, mut model) = (Memory::new(1_000, LEASE_MS), Model::default());
    let mut now = START_US;
    for (nth, step) in steps.iter().enumerate() {
        let (after_us, rules) = match step {
            Step::Take { after_us, rules } => (after_us, rules),
            Step::GiveBack { which } => {
                if !model.held.is_empty() {
                    let place = model.held.remove(which % model.held.len());
                    let key = format!("{case}:{}", place.0);
                    memory.give_back(&key, &place.2);
                    ask(Asked::GiveBack(shared, (key, place.2)));
                }
                continue;
            }
        };
        now += after_us;
        let charges: Vec<Charge> = rules
            .iter()
            .map(|rule| Charge {
                key: format!("{case}:{rule}"),
                quota: quotas[*rule],
            })
            .collect();
        let lease = format!("lease {nth}");
        let allowed: Vec<bool> = rules
            .iter()
            .map(|rule| model.allows(*rule, quotas[*rule], now))
            .collect();
        let here = memory.take(&charges, &lease, now);
        let there = ask(Asked::Take(shared, &charges, &lease, now));
        let told: Vec<bool> = here.levels.iter().map(|level| level.allows).collect();
        assert_eq!(here, there, "memory and Redis, step {nth} of {charges:?}");
        assert_eq!(told, allowed, "memory and model, step {nth} of {charges:?}");
        assert_eq!(here.granted, allowed.iter().all(|allows| *allows));
        if here.granted {
            model.granted.extend(rules.iter().map(|rule| (*rule, now)));
            let held = rules
                .iter()
                .filter(|rule| matches!(quotas[**rule], Quota::InFlight { .. }));
            model
                .held
                .extend(held.map(|rule| (*rule, now, lease.clone())));
        }
    }
}

enum Asked<'a> {
    Take(&'a Shared, &'a [Charge], &'a str, u64),
    GiveBack(&'a Shared, (String, String)),
}

#[test]
fn memory_redis_and_the_model_agree() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let settings = Settings {
        url: Secret::new(server.url()),
        ca: None,
        // Right, however busy the machine is.
        timeout: Period::seconds(10),
    };
    let shared = runtime.block_on(async {
        let address = settings.address().unwrap().unwrap();
        let metrics = Metrics::new("0").store();
        let redis = Redis::start(&settings, address, ("one", metrics));
        while !redis.is_up() {
            tokio::task::yield_now().await;
        }
        Shared::with_clock(redis, Some(CLOCK))
    });
    let none = || Taken {
        granted: true,
        levels: super::Levels::default(),
    };
    let ask = |asked: Asked<'_>| {
        runtime.block_on(async {
            match asked {
                Asked::Take(shared, charges, lease, now) => shared
                    .take_at(charges, (lease, LEASE_MS), Some(now))
                    .await
                    .expect("redis answers"),
                Asked::GiveBack(shared, place) => {
                    shared.give_back(&[place]).await.expect("redis answers");
                    none()
                }
            }
        })
    };
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let agreed = runner.run(&case(), |(quotas, steps)| {
        agree(&shared, &quotas, &steps, &ask);
        Ok(())
    });
    agreed.unwrap();
}
