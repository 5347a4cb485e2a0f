//! Random rules at random times: the memory counter, the script in a real Redis, and a model that keeps
//! every request and forgets nothing must agree.

use super::memory::Memory;
use super::redis::{self, Shared};
use super::{Change, Charge, Correction, Mark, Taken};
use crate::base::secret::Secret;
use crate::base::units::Period;
use crate::observe::metrics::Metrics;
use crate::stage::limit::quota::{LEASE_MS, Quota};
use crate::stage::limit::sliding::bucket_ms;
use crate::store::redis::{Redis, Settings};
use crate::store::server::RedisServer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Where a test has its clock: the last two arguments.
const CLOCK: &str = "{ ARGV[#ARGV - 1], ARGV[#ARGV] }";

/// Some minute, begun 12 s ago: windows are not to begin with the test.
const START_US: u64 = 1_700_000_052_000_000;

/// One request: how long after the one before, which rules are about it, and how many units it takes of each.
/// Or what one turns out to have taken, or a place given back.
#[derive(Debug, Clone)]
enum Step {
    Take {
        after_us: u64,
        rules: Vec<usize>,
        units: u64,
    },
    Settle {
        which: usize,
        units: u64,
    },
    GiveBack {
        which: usize,
    },
}

/// A log of all that was granted, with nothing added up.
#[derive(Default)]
struct Model {
    /// Rule, microseconds, units; those given back below 0.
    log: Vec<(usize, u64, i64)>,
    held: Vec<(usize, u64, String)>,
}

impl Model {
    fn allows(&self, rule: usize, quota: Quota, now: u64, units: u64) -> bool {
        let log = self.log.iter().filter(|(of, ..)| *of == rule);
        match quota {
            Quota::Window {
                limit,
                window_ms,
                sliding,
            } => {
                let width = if sliding {
                    bucket_ms(window_ms)
                } else {
                    window_ms
                };
                let back = if sliding { window_ms / width } else { 0 };
                let number = |at: u64| at / 1_000 / width;
                let counts = log.filter(|(_, at, _)| number(*at) + back >= number(now));
                counts.map(|(.., units)| units).sum::<i64>() + units.cast_signed()
                    <= limit.cast_signed()
            }
            Quota::Gcra {
                limit,
                window_ms,
                burst,
            } => {
                let every = (window_ms * 1_000).div_ceil(limit);
                let due = log.fold(0, |due: u64, (_, at, units)| {
                    due.max(*at)
                        .saturating_add_signed(units * every.cast_signed())
                });
                due.max(now) + units * every <= now + burst * every
            }
            Quota::InFlight { limit } => {
                let held = self.held.iter().filter(|(of, ..)| *of == rule);
                let held = held.filter(|(_, at, _)| at / 1_000 + LEASE_MS > now / 1_000);
                (held.count() as u64) < limit
            }
        }
    }
}

/// What was granted under one rule, and may be settled once.
struct Grant {
    rule: usize,
    at: u64,
    units: u64,
    mark: Mark,
    settled: bool,
}

/// Whatever was settled later: no stretch of time as long as a window that slides holds more grants than its
/// limit.
fn hold_to_the_limit(quotas: &[Quota], grants: &[Grant]) {
    for from in grants {
        let Quota::Window {
            limit,
            window_ms,
            sliding: true,
        } = quotas[from.rule]
        else {
            continue;
        };
        let within = |grant: &&Grant| {
            grant.rule == from.rule && (from.at..from.at + window_ms * 1_000).contains(&grant.at)
        };
        let held: u64 = grants.iter().filter(within).map(|grant| grant.units).sum();
        assert!(held <= limit, "{held} of {limit} in {window_ms} ms");
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
        12 => (after_us, about, prop_oneof![3 => Just(1u64), 1 => 1u64..9])
            .prop_map(|(after_us, rules, units)| {
                let rules = rules.into_iter().collect();
                Step::Take { after_us, rules, units }
            }),
        2 => (0usize..30, 0u64..12).prop_map(|(which, units)| Step::Settle { which, units }),
        1 => (0usize..8).prop_map(|which| Step::GiveBack { which }),
    ]
}

fn case() -> impl Strategy<Value = (Vec<Quota>, Vec<Step>)> {
    proptest::collection::vec(quota(), 1..5).prop_flat_map(|quotas| {
        let steps = proptest::collection::vec(step(quotas.len()), 1..120);
        (Just(quotas), steps)
    })
}

/// One case: the memory counter, the one in Redis, and the model, over the same steps.
struct Run<'a> {
    case: u32,
    quotas: &'a [Quota],
    memory: Memory,
    model: Model,
    grants: Vec<Grant>,
    now: u64,
    ask: &'a dyn Fn(Asked<'_>) -> Taken,
}

impl Run<'_> {
    fn key(&self, rule: usize) -> String {
        format!("{}:{rule}", self.case)
    }

    fn step(&mut self, nth: usize, step: &Step) {
        match step {
            Step::Take {
                after_us,
                rules,
                units,
            } => {
                self.now += after_us;
                self.take(nth, rules, *units);
            }
            Step::Settle { which, units } => self.settle(*which, *units),
            Step::GiveBack { which } => {
                if !self.model.held.is_empty() {
                    let which = which % self.model.held.len();
                    let (rule, _, lease) = self.model.held.remove(which);
                    let key = self.key(rule);
                    self.memory.give_back(&key, &lease);
                    (self.ask)(Asked::GiveBack((key, lease)));
                }
            }
        }
    }

    fn take(&mut self, nth: usize, rules: &[usize], units: u64) {
        let now = self.now;
        let units_of = |rule: usize| match self.quotas[rule] {
            Quota::InFlight { .. } => 1,
            _ => units,
        };
        let charges: Vec<Charge> = rules
            .iter()
            .map(|rule| Charge {
                key: self.key(*rule),
                quota: self.quotas[*rule],
                units: units_of(*rule),
                most: units_of(*rule),
                may_change: true,
            })
            .collect();
        let lease = format!("lease {nth}");
        let allows = |rule: &usize| {
            let units = units_of(*rule);
            self.model.allows(*rule, self.quotas[*rule], now, units)
        };
        let allowed: Vec<bool> = rules.iter().map(allows).collect();
        let here = self.memory.take(&charges, &lease, now);
        let there = (self.ask)(Asked::Take(&charges, &lease, now));
        let told: Vec<bool> = here.levels.iter().map(|level| level.allows).collect();
        assert_eq!(here, there, "memory and Redis, step {nth} of {charges:?}");
        assert_eq!(told, allowed, "memory and model, step {nth} of {charges:?}");
        assert_eq!(here.granted, allowed.iter().all(|allows| *allows));
        if !here.granted {
            return;
        }
        for (rule, mark) in rules.iter().zip(here.marks) {
            if matches!(self.quotas[*rule], Quota::InFlight { .. }) {
                self.model.held.push((*rule, now, lease.clone()));
                continue;
            }
            self.model.log.push((*rule, now, units.cast_signed()));
            self.grants.push(Grant {
                rule: *rule,
                at: now,
                units,
                mark,
                settled: false,
            });
        }
    }

    fn settle(&mut self, which: usize, units: u64) {
        let now = self.now;
        let latest = self.grants.iter_mut().rev().nth(which);
        let Some(grant) = latest.filter(|grant| !grant.settled) else {
            return;
        };
        grant.settled = true;
        let what = match units.checked_sub(grant.units) {
            Some(0) => return,
            Some(more) => Change::More(more),
            None => Change::Less(grant.units - units, grant.mark),
        };
        let quota = self.quotas[grant.rule];
        let at = match (&what, quota) {
            // Where it was counted, but for a debt, which is one.
            (Change::Less(..), Quota::Window { .. }) => grant.at,
            _ => now,
        };
        let change = units.cast_signed() - grant.units.cast_signed();
        self.model.log.push((grant.rule, at, change));
        grant.units = grant.units.min(units);
        let key = format!("{}:{}", self.case, grant.rule);
        let correction = Correction { key, quota, what };
        self.memory.correct(&correction, now);
        (self.ask)(Asked::Correct(correction, now));
    }
}

enum Asked<'a> {
    Take(&'a [Charge], &'a str, u64),
    Correct(Correction, u64),
    GiveBack((String, String)),
}

fn agree(quotas: &[Quota], steps: &[Step], ask: &dyn Fn(Asked<'_>) -> Taken) {
    static CASES: AtomicU32 = AtomicU32::new(0);
    let mut run = Run {
        case: CASES.fetch_add(1, Relaxed),
        quotas,
        memory: Memory::new(1_000, LEASE_MS),
        model: Model::default(),
        grants: Vec::new(),
        now: START_US,
        ask,
    };
    for (nth, step) in steps.iter().enumerate() {
        run.step(nth, step);
    }
    hold_to_the_limit(quotas, &run.grants);
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
    let ask = |asked: Asked<'_>| {
        runtime.block_on(async {
            let take = async |charges: &[Charge], corrections: &[Correction], lease, now| {
                let what = redis::Asked {
                    charges,
                    corrections,
                    undone: &[],
                };
                let taken = shared.take_at(what, (lease, LEASE_MS), Some(now));
                taken.await.expect("redis answers")
            };
            match asked {
                Asked::Take(charges, lease, now) => take(charges, &[], lease, now).await,
                Asked::Correct(correction, now) => take(&[], &[correction], "", now).await,
                Asked::GiveBack(place) => {
                    shared.give_back(&[place]).await.expect("redis answers");
                    take(&[], &[], "", START_US).await
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
        agree(&quotas, &steps, &ask);
        Ok(())
    });
    agreed.unwrap();
}
