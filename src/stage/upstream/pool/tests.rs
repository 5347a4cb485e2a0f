//! Tests of `pool`.

use super::super::balance::testing::endpoints;
use super::super::settings::{BalanceSettings, HealthSettings};
use super::*;
use crate::base::units::{Percent, Period};
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

/// No test waits longer for what must come.
const SOON: Duration = Duration::from_secs(20);

fn pool_with(weights: &[u32], change: impl FnOnce(&mut Settings)) -> Arc<Pool> {
    let now = clock();
    let mut settings = Settings::default();
    change(&mut settings);
    let mut pool = Pool::new("app", &settings, now);
    // A wake-up that is lost shall be seen in tests, not mended.
    pool.look_around = Duration::from_hours(1);
    let pool = Arc::new(pool);
    pool.set_members(endpoints(weights, now), now);
    pool
}

fn full_at(max: u32, queue: u32) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.capacity.max_in_flight = max;
        settings.capacity.queue_max = queue;
    }
}

fn take_down(endpoint: &Endpoint, now: Instant) {
    let settings = HealthSettings {
        unhealthy_after: 1,
        ..HealthSettings::default()
    };
    endpoint.health.record(Err("refused"), &settings, now);
    assert!(!endpoint.health.is_up());
}

fn throw_out(endpoint: &Endpoint, now: Instant) {
    let when = (endpoint.at(now), 0.0);
    endpoint.ejection.eject(&Settings::default().ejection, when);
}

fn at_once(pool: &Arc<Pool>, want: &Want<'_>) -> Result<Lease, Option<Unavailable>> {
    pool.try_acquire(want).map_err(|refusal| match refusal {
        Refusal::Full => None,
        Refusal::Final(why) => Some(why),
    })
}

fn in_flight(pool: &Pool) -> Vec<u32> {
    let members = pool.members();
    members.iter().map(|m| m.in_flight.load(SeqCst)).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn requests_take_turns_and_give_their_places_back() {
    let pool = pool_with(&[1, 1, 1], |_| ());
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(pool.acquire(Want::any(clock())).await.unwrap());
    }
    assert_eq!(in_flight(&pool), [2, 2, 2]);
    drop(leases);
    assert_eq!(in_flight(&pool), [0, 0, 0]);
}

#[tokio::test]
async fn a_place_comes_back_when_its_request_panics() {
    let pool = pool_with(&[1], |_| ());
    let lease = pool.acquire(Want::any(clock())).await.unwrap();
    let panicked = tokio::spawn(async move {
        assert!(lease.endpoint().name.is_empty(), "on purpose");
    });
    assert!(panicked.await.is_err());
    assert_eq!(in_flight(&pool), [0]);
}

#[test]
fn the_sticky_endpoint_is_taken_while_it_is_eligible() {
    let (pool, now) = (pool_with(&[1, 1, 1], full_at(2, 0)), clock());
    let members = pool.members();
    let want = Want {
        sticky: Some(&members[2]),
        ..Want::any(now)
    };
    let leases: Vec<_> = (0..3).map(|_| at_once(&pool, &want).unwrap()).collect();
    assert_eq!(in_flight(&pool)[2], 2, "two, then it is full");
    drop(leases);
    take_down(&members[2], now);
    let lease = at_once(&pool, &want).unwrap();
    assert!(!Arc::ptr_eq(lease.endpoint(), &members[2]));
}

#[test]
fn a_retry_goes_elsewhere_and_to_the_same_only_if_allowed() {
    let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
    let members = pool.members();
    let mut want = Want {
        tried: &members[..1],
        ..Want::any(now)
    };
    for _ in 0..4 {
        let lease = at_once(&pool, &want).unwrap();
        assert!(Arc::ptr_eq(lease.endpoint(), &members[1]));
    }
    want.tried = &members;
    assert_eq!(
        at_once(&pool, &want).unwrap_err(),
        Some(Unavailable::NothingElse)
    );
    want.allow_same = true;
    assert!(at_once(&pool, &want).is_ok());
}

#[test]
fn a_pool_without_a_healthy_endpoint_says_when_to_come_back() {
    let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
    for member in pool.members().iter() {
        take_down(member, now);
    }
    let why = at_once(&pool, &Want::any(now)).unwrap_err().unwrap();
    let retry_after = Duration::from_secs(2);
    assert_eq!(why, Unavailable::NoHealthyEndpoint { retry_after });
    let reject = Reject::from(why);
    assert_eq!(reject.kind, RejectKind::NoHealthyEndpoint);
    assert_eq!(reject.retry_after, Some(retry_after));
    pool.set_members(Vec::new(), now);
    assert!(at_once(&pool, &Want::any(now)).is_err());
}

#[test]
fn with_nobody_else_left_an_ejected_endpoint_is_asked() {
    let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
    let members = pool.members();
    throw_out(&members[0], now);
    take_down(&members[1], now);
    let lease = at_once(&pool, &Want::any(now)).unwrap();
    assert!(Arc::ptr_eq(lease.endpoint(), &members[0]));
}

/// Reports as many connect failures to each endpoint in turn, and counts who is out.
fn out_after_failures_of_all(members: usize, share: u8) -> usize {
    let (pool, now) = (
        pool_with(&vec![1; members], |s| s.ejection.max_share = Percent(share)),
        clock(),
    );
    for _ in 0..3 {
        for member in pool.members().iter() {
            let want = Want {
                sticky: Some(member),
                ..Want::any(now)
            };
            let mut lease = at_once(&pool, &want).unwrap();
            lease.report(Outcome::ConnectFailure, now);
        }
    }
    let members = pool.members();
    members.iter().filter(|m| m.ejection.is_out()).count()
}

#[test]
fn some_may_be_ejected_but_never_all() {
    for (members, share, out) in [
        (1, 100, 0),
        (2, 50, 1),
        (2, 10, 1),
        (2, 100, 1),
        (3, 50, 1),
        (4, 50, 2),
        (10, 50, 5),
        (10, 100, 9),
    ] {
        let got = out_after_failures_of_all(members, share);
        assert_eq!(got, out, "{members} members, {share}%");
    }
}

#[test]
fn an_ejected_endpoint_returns_by_one_good_trial_and_grows_again() {
    let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
    let members = pool.members();
    throw_out(&members[0], now);
    let later = now + Duration::from_secs(11);
    let want = Want {
        sticky: Some(&members[0]),
        ..Want::any(later)
    };
    let mut trial = at_once(&pool, &want).unwrap();
    assert!(Arc::ptr_eq(trial.endpoint(), &members[0]));
    assert_eq!(members[0].state(later), State::Trial);
    let second = at_once(&pool, &want).unwrap();
    assert!(
        Arc::ptr_eq(second.endpoint(), &members[1]),
        "one trial only"
    );
    trial.report(Outcome::Success, later);
    assert_eq!(members[0].state(later), State::SlowStart);
    assert_eq!(members[0].weight_at(later), 100);
}

#[test]
fn a_trial_whose_caller_left_is_followed_by_another() {
    let (pool, now) = (pool_with(&[1, 1], |_| ()), clock());
    let members = pool.members();
    throw_out(&members[0], now);
    let later = now + Duration::from_secs(11);
    let want = Want {
        sticky: Some(&members[0]),
        ..Want::any(later)
    };
    for _ in 0..3 {
        let trial = at_once(&pool, &want).unwrap();
        assert!(Arc::ptr_eq(trial.endpoint(), &members[0]));
    }
}

#[test]
fn only_one_that_joins_others_starts_slowly() {
    let (pool, now) = (pool_with(&[1], |_| ()), clock());
    let first = pool.members();
    assert_eq!(first[0].weight_at(now), 1_000, "there at the start");
    let mut members = endpoints(&[1, 1], now);
    members[0] = Arc::clone(&first[0]);
    pool.set_members(members.clone(), now);
    assert_eq!(members[0].weight_at(now), 1_000);
    assert_eq!(members[1].weight_at(now), 100);
    let reloaded = Arc::new(Pool::new("app", &Settings::default(), now));
    reloaded.set_members(members.clone(), now + Duration::from_secs(30));
    let shares = members
        .iter()
        .map(|m| m.weight_at(now + Duration::from_secs(30)));
    assert_eq!(
        shares.collect::<Vec<_>>(),
        [1_000, 1_000],
        "a reload is no beginning"
    );
    reloaded.set_members(vec![Arc::clone(&members[1])], now);
    assert_eq!(reloaded.state_of(&members[0], now), State::Draining);
}

#[tokio::test]
async fn those_who_wait_are_served_in_their_order() {
    let pool = pool_with(&[1], full_at(1, 10));
    let held = pool.acquire(Want::any(clock())).await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    for i in 0..10 {
        let (in_pool, served) = (Arc::clone(&pool), Arc::clone(&served));
        waiters.push(tokio::spawn(async move {
            let lease = in_pool.acquire(Want::any(clock())).await.unwrap();
            served.lock().unwrap().push(i);
            drop(lease);
        }));
        until("it joins the line", || pool.waiting() == i + 1).await;
    }
    let one_too_many = pool.acquire(Want::any(clock())).await.unwrap_err();
    assert!(matches!(one_too_many, Unavailable::QueueFull { .. }));
    drop(held);
    for waiter in waiters {
        tokio::time::timeout(SOON, waiter).await.unwrap().unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..10).collect::<Vec<_>>());
    assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0]));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit_or_the_deadline() {
    let pool = pool_with(&[1], full_at(1, 10));
    let _held = pool.acquire(Want::any(clock())).await.unwrap();
    for (deadline_ms, waited_ms) in [
        (None, 1_000),
        (Some(300), 300),
        (Some(5_000), 1_000),
        (Some(0), 0),
    ] {
        let now = clock();
        let want = Want {
            deadline: deadline_ms.map(|ms| now + Duration::from_millis(ms)),
            ..Want::any(now)
        };
        let why = pool.acquire(want).await.unwrap_err();
        assert!(matches!(why, Unavailable::WaitedInVain { .. }), "{why:?}");
        let waited = clock() - now;
        assert!(
            waited.abs_diff(Duration::from_millis(waited_ms)) < Duration::from_millis(5),
            "{waited:?}"
        );
        assert_eq!(pool.waiting(), 0);
    }
}

#[tokio::test]
async fn one_that_leaves_the_line_takes_nothing_with_it() {
    let pool = pool_with(&[1], full_at(1, 10));
    let held = pool.acquire(Want::any(clock())).await.unwrap();
    let mut leaver = Box::pin(pool.acquire(Want::any(clock())));
    assert!(futures_util::poll!(&mut leaver).is_pending());
    let mut stayer = Box::pin(pool.acquire(Want::any(clock())));
    assert!(futures_util::poll!(&mut stayer).is_pending());
    // The place goes to the first, who leaves without having seen it.
    drop(held);
    assert_eq!((pool.waiting(), in_flight(&pool)), (1, vec![1]));
    drop(leaver);
    let lease = tokio::time::timeout(SOON, stayer).await.unwrap().unwrap();
    drop(lease);
    assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0]));
}

#[tokio::test]
async fn a_new_member_serves_those_who_wait() {
    let pool = pool_with(&[1], full_at(1, 10));
    let _held = pool.acquire(Want::any(clock())).await.unwrap();
    let mut waiter = Box::pin(pool.acquire(Want::any(clock())));
    assert!(futures_util::poll!(&mut waiter).is_pending());
    pool.set_members(endpoints(&[1, 1], clock()), clock());
    assert!(tokio::time::timeout(SOON, waiter).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_told_when_the_last_endpoint_fails() {
    let pool = pool_with(&[1], |settings| {
        full_at(1, 10)(settings);
        settings.capacity.queue_timeout = Period::seconds(60);
    });
    let held = pool.acquire(Want::any(clock())).await.unwrap();
    let mut waiter = Box::pin(pool.acquire(Want::any(clock())));
    assert!(futures_util::poll!(&mut waiter).is_pending());
    take_down(held.endpoint(), clock());
    drop(held);
    let why = waiter.await.unwrap_err();
    assert!(
        matches!(why, Unavailable::NoHealthyEndpoint { .. }),
        "{why:?}"
    );
}

#[tokio::test]
async fn who_wants_another_endpoint_does_not_hold_up_the_line() {
    let pool = pool_with(&[1, 1], full_at(1, 10));
    let members = pool.members();
    let first = pool
        .acquire(Want {
            sticky: Some(&members[0]),
            ..Want::any(clock())
        })
        .await
        .unwrap();
    let _second = pool
        .acquire(Want {
            sticky: Some(&members[1]),
            ..Want::any(clock())
        })
        .await
        .unwrap();
    let picky = Want {
        tried: &members[..1],
        ..Want::any(clock())
    };
    let mut picky = Box::pin(pool.acquire(picky));
    assert!(futures_util::poll!(&mut picky).is_pending());
    let mut easy = Box::pin(pool.acquire(Want::any(clock())));
    assert!(futures_util::poll!(&mut easy).is_pending());
    drop(first);
    assert!(tokio::time::timeout(SOON, easy).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_place_that_comes_free_before_the_line_is_joined_is_seen() {
    let pool = pool_with(&[1], full_at(1, 10));
    // As after a first look that found all full, when the lease ended in that moment.
    let late = pool.wait(Want::any(clock()));
    assert!(tokio::time::timeout(SOON, late).await.unwrap().is_ok());
}

#[test]
fn a_place_that_is_gone_since_the_look_is_not_taken() {
    let (pool, now) = (pool_with(&[1], full_at(2, 10)), clock());
    let members = pool.members();
    let take = || pool.take(&members[0], Entry::ByTheGate, now);
    let _held = (take().unwrap(), take().unwrap());
    assert!(take().is_none());
    assert_eq!(in_flight(&pool), [2]);
}

#[test]
fn threads_that_snatch_places_never_pass_the_limit() {
    let (pool, now) = (pool_with(&[1], full_at(2, 10)), clock());
    let members = pool.members();
    let most = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let seen = (0..20_000).filter_map(|_| {
                        let lease = pool.take(&members[0], Entry::ByTheGate, now)?;
                        Some(lease.endpoint().in_flight.load(SeqCst))
                    });
                    seen.max().unwrap_or(1)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).max()
    });
    assert!((1..=2).contains(&most.unwrap()), "{most:?}");
    assert_eq!(in_flight(&pool), [0]);
}

/// Many threads, few places: every request is served, nobody above the limit, nothing lost.
fn stress(balance: BalanceSettings, cancel: bool) {
    const TASKS: usize = 64;
    const ROUNDS: usize = 300;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(8)
        .enable_time()
        .build()
        .unwrap();
    let pool = pool_with(&[1, 2, 3], |settings| {
        full_at(2, 1_000)(settings);
        settings.capacity.queue_timeout = Period::seconds(600);
        settings.balance = balance;
    });
    let served = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (pool, served) = (Arc::clone(&pool), Arc::clone(&served));
                tokio::spawn(async move {
                    for _ in 0..ROUNDS {
                        let mut place = Box::pin(pool.acquire(Want::any(clock())));
                        if cancel && fastrand::u8(..3) == 0 {
                            let _ = futures_util::poll!(&mut place);
                            tokio::task::yield_now().await;
                            drop(place);
                            continue;
                        }
                        let lease = place.await.unwrap();
                        let load = lease.endpoint().in_flight.load(SeqCst);
                        assert!((1..=2).contains(&load), "{load}");
                        served.fetch_add(1, Relaxed);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(SOON, task)
                .await
                .expect("a wake-up was lost")
                .unwrap();
        }
    });
    if !cancel {
        assert_eq!(served.load(Relaxed), TASKS * ROUNDS);
    }
    assert_eq!((pool.waiting(), in_flight(&pool)), (0, vec![0, 0, 0]));
}

#[test]
fn no_wake_up_is_lost_and_no_limit_is_passed() {
    stress(BalanceSettings::RoundRobin, false);
    stress(BalanceSettings::LeastLoaded, false);
}

#[test]
fn callers_that_leave_at_any_moment_lose_no_place() {
    stress(BalanceSettings::RoundRobin, true);
}

proptest! {
    #[test]
    fn only_eligible_endpoints_are_taken(
        states in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..20),
        kind in 0..3_u8,
        key in any::<Option<u64>>(),
    ) {
        let balance = match kind {
            0 => BalanceSettings::RoundRobin,
            1 => BalanceSettings::LeastLoaded,
            _ => BalanceSettings::Hash(super::super::settings::HashKey::User),
        };
        let pool = pool_with(&vec![1; states.len()], |settings| {
            full_at(1, 0)(settings);
            settings.balance = balance;
        });
        let (now, members) = (clock(), pool.members());
        let mut tried = Vec::new();
        for (member, (down, out, full, was_tried)) in members.iter().zip(&states) {
            if *down { take_down(member, now); }
            if *out { throw_out(member, now); }
            if *full { member.in_flight.store(1, SeqCst); }
            if *was_tried { tried.push(Arc::clone(member)); }
        }
        let up: Vec<_> = states.iter().filter(|s| !s.0).collect();
        // With nobody up and in, ejections are passed over.
        let heed = up.iter().any(|s| !s.1);
        let good = |s: &(bool, bool, bool, bool)| !(s.0 || heed && s.1 || s.2 || s.3);
        let want = Want { key, tried: &tried, ..Want::any(now) };
        match at_once(&pool, &want) {
            Ok(lease) => {
                let at = members.iter().position(|m| Arc::ptr_eq(m, lease.endpoint())).unwrap();
                prop_assert!(good(&states[at]), "{:?}", states[at]);
            }
            Err(why) => {
                prop_assert!(!states.iter().any(good));
                let none_up = matches!(why, Some(Unavailable::NoHealthyEndpoint { .. }));
                prop_assert_eq!(none_up, up.is_empty());
            }
        }
    }
}

/// One that waits for a place in `pool`, already in its line.
async fn waits(pool: &Arc<Pool>, user: u64) -> tokio::task::JoinHandle<Result<Lease, Unavailable>> {
    let before = pool.waiting();
    let joining = Arc::clone(pool);
    let waiter = tokio::spawn(async move {
        let want = Want {
            user: Some(user),
            ..Want::any(clock())
        };
        joining.acquire(want).await
    });
    until("it waits", || pool.waiting() > before).await;
    waiter
}

#[tokio::test]
async fn one_that_leaves_loses_its_turn_and_nobody_else_does() {
    let pool = pool_with(&[1], full_at(1, 10));
    let held = pool.acquire(Want::any(clock())).await.unwrap();
    let first = waits(&pool, 1).await;
    let second = waits(&pool, 1).await;
    let third = waits(&pool, 1).await;
    let light = waits(&pool, 2).await;
    second.abort();
    until("it has left", || pool.waiting() == 3).await;
    drop(held);
    let lease = first.await.unwrap().unwrap();
    assert_eq!(pool.waiting(), 2);
    drop(lease);
    let lease = light.await.unwrap().unwrap();
    assert_eq!(pool.waiting(), 1, "the others had no turn yet");
    drop(lease);
    drop(third.await.unwrap().unwrap());
    assert_eq!(in_flight(&pool), [0]);
}

#[tokio::test]
async fn a_full_line_has_room_for_who_has_less_in_it() {
    let pool = pool_with(&[1], full_at(1, 2));
    let held = pool.acquire(Want::any(clock())).await.unwrap();
    let (first, last) = (waits(&pool, 1).await, waits(&pool, 1).await);
    let want = |user| Want {
        user: Some(user),
        ..Want::any(clock())
    };
    let full =
        |answer: Result<Lease, Unavailable>| matches!(answer, Err(Unavailable::QueueFull { .. }));
    assert!(full(pool.acquire(want(1)).await));
    let joining = Arc::clone(&pool);
    let want_2 = want(2);
    let other = tokio::spawn(async move { joining.acquire(want_2).await });
    assert!(full(last.await.unwrap()), "it made room");
    assert_eq!(pool.waiting(), 2);
    assert!(full(pool.acquire(want(2)).await), "now they have alike");
    drop(held);
    drop(first.await.unwrap().unwrap());
    drop(other.await.unwrap().unwrap());
}
