//! Limits while 64 callers press at three gateways: exact as long as nothing breaks, and never over the stated bound
//! whatever does.

use super::much;
use crate::harness::{
    Client, Gateway, RedisCluster, RedisServer, Upstream, eventually, in_time, silence,
};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CALLERS: usize = 64;

/// What one user may have.
const QUOTA: usize = 30;

/// For how long Redis hangs, at least.
const HANGS: Duration = Duration::from_secs(2);

/// How soon counting must be exact again, once it can be. Held to in long runs, when nothing else runs beside.
const RECOVERY_MAX: Duration = Duration::from_secs(2);

/// `burst` and `slots` refuse many requests, and take nothing from `user` with it.
fn document(timeout: &str) -> String {
    format!(
        "
server: {{ trusted_proxies: [127.0.0.0/8] }}
redis: {{ url: '{{{{redis}}}}'{timeout} }}
limits:
  rules:
    user: {{ by: user, requests: {QUOTA}, per: day }}
    burst: {{ requests: 400, per: second, algorithm: gcra, burst: 20 }}
    slots: {{ by: user, in_flight: 40 }}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}
routes: {{ all: {{ pool: app }} }}
"
    )
}

async fn start(yaml: &str, redis: &str, app: &Upstream) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let names: &[(&str, &dyn Display)] = &[("redis", &redis), ("app", app)];
        gateways.push(Gateway::start(yaml, names).await);
    }
    know_each_other(&gateways).await;
    gateways
}

async fn know_each_other(gateways: &[Gateway]) {
    for gateway in gateways {
        eventually("all gateways know of each other", async || {
            let limits = gateway.status().await["limits"].clone();
            let fine = limits["mode"] == "redis" && limits["instances"] == gateways.len();
            fine.then_some(())
        })
        .await;
    }
}

/// Callers who all press for one user, until it has had its quota, and then for the next.
struct Crowd {
    shared: Arc<Shared>,
    callers: JoinSet<()>,
}

struct Shared {
    stop: AtomicBool,
    /// Of each caller.
    answers: Vec<AtomicU64>,
    /// Microseconds.
    slowest: AtomicU64,
    /// Of each user, what was granted, and how many callers were told that this is all.
    users: Mutex<BTreeMap<usize, (usize, usize)>>,
}

impl Crowd {
    fn start(gateways: &[Gateway]) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            answers: (0..CALLERS).map(|_| AtomicU64::new(0)).collect(),
            slowest: AtomicU64::new(0),
            users: Mutex::default(),
        });
        let addresses: Vec<SocketAddr> = gateways.iter().map(|one| one.address("http")).collect();
        let mut callers = JoinSet::new();
        for nth in 0..CALLERS {
            let mut addresses = addresses.clone();
            addresses.rotate_left(nth % gateways.len());
            callers.spawn(press(Arc::clone(&shared), nth, addresses));
        }
        Self { shared, callers }
    }

    /// For a while, and in any case until each caller has been answered twice: so nobody waits for what is broken
    /// meanwhile.
    async fn goes_on_for(&self, period: Duration) {
        let answers = || self.shared.answers.iter().map(|mine| mine.load(SeqCst));
        let before: Vec<u64> = answers().collect();
        silence(period).await;
        eventually("each caller is answered", async || {
            let mut pairs = answers().zip(&before);
            pairs.all(|(now, before)| now >= before + 2).then_some(())
        })
        .await;
    }

    /// What was granted to each user, and whether all callers were told that it is all.
    async fn stop(mut self, what: &str) -> BTreeMap<usize, (usize, bool)> {
        self.shared.stop.store(true, SeqCst);
        while let Some(ended) = in_time("a caller stops", self.callers.join_next()).await {
            ended.unwrap();
        }
        let users = self.shared.users.lock().unwrap().clone();
        let answers: u64 = self
            .shared
            .answers
            .iter()
            .map(|mine| mine.load(SeqCst))
            .sum();
        let slowest = self.shared.slowest.load(SeqCst) as f64 / 1e3;
        let granted: usize = users.values().map(|(granted, _)| granted).sum();
        let most = users.values().map(|(granted, _)| *granted).max();
        println!(
            "{what}: {answers} answers, {granted} granted to {} users of {QUOTA}, at most {} to one; \
             slowest answer {slowest:.0} ms",
            users.len(),
            most.unwrap_or_default(),
        );
        let all = |(user, (granted, told))| (user, (granted, told == CALLERS));
        users.into_iter().map(all).collect()
    }
}

/// At the first of these gateways, and at the next one when it dies.
async fn press(shared: Arc<Shared>, nth: usize, mut addresses: Vec<SocketAddr>) {
    let (mut user, mut client) = (0, None);
    while !shared.stop.load(SeqCst) {
        if client.is_none() {
            let stream = TcpStream::connect(addresses[0]).await.ok();
            client = stream.map(|stream| Client::counted(stream, &Arc::default()));
        }
        let Some(mut open) = client.take() else {
            addresses.rotate_left(1);
            continue;
        };
        let address = format!("10.{}.{}.{}", user / 62_500, user / 250 % 250, user % 250);
        let headers = [("x-forwarded-for", address.as_str())];
        let asked = Instant::now();
        let Ok(answer) = open.try_request("GET", "/", &headers, b"").await else {
            // Its gateway was killed: the next one will do.
            addresses.rotate_left(1);
            continue;
        };
        let took = u64::try_from(asked.elapsed().as_micros()).unwrap();
        shared.slowest.fetch_max(took, SeqCst);
        shared.answers[nth].fetch_add(1, SeqCst);
        client = Some(open);
        match answer.status {
            200 => shared.users.lock().unwrap().entry(user).or_default().0 += 1,
            429 if answer.json()["rule"] == "user" => {
                shared.users.lock().unwrap().entry(user).or_default().1 += 1;
                user += 1;
            }
            // Of `burst` or `slots`: soon again.
            429 => silence(Duration::from_millis(5)).await,
            status => panic!("{status} {}", answer.text()),
        }
    }
}

/// Waits until limits are counted so, as the metric says; how long that took.
async fn mode_is(gateways: &[Gateway], mode: &str) -> Duration {
    let started = Instant::now();
    let selector = format!("onemind_limit_mode{{mode=\"{mode}\"}}");
    for gateway in gateways {
        eventually(&format!("limits are counted in {mode}"), async || {
            (gateway.metric(&selector).await > 0.5).then_some(())
        })
        .await;
    }
    started.elapsed()
}

/// Exact again by itself, and in time.
async fn recovers(gateways: &[Gateway], from: &str) {
    let took = mode_is(gateways, "redis").await;
    println!("exact again {took:.0?} after {from}");
    assert!(
        took <= much(RECOVERY_MAX, crate::harness::DEADLINE),
        "{from}"
    );
}

/// A while of load between two faults.
fn a_while() -> Duration {
    much(Duration::from_secs(8), Duration::from_millis(300))
}

/// Nobody had more than so many times its quota, and some were served after the last fault.
fn held_to(times: usize, users: &BTreeMap<usize, (usize, bool)>) {
    for (user, (granted, _)) in users {
        assert!(*granted <= times * QUOTA, "user {user}: {granted}");
    }
    let exact = users
        .values()
        .filter(|(granted, _)| *granted == QUOTA)
        .count();
    assert!(exact > 0, "{users:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_callers_get_the_limit_to_the_request() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    // Exactness is what is tested, on however busy a machine.
    let gateways = start(&document(", timeout: 5s"), &redis.url(), &app).await;
    let crowd = Crowd::start(&gateways);
    crowd
        .goes_on_for(much(Duration::from_mins(1), Duration::from_secs(3)))
        .await;
    let users = crowd.stop("nothing breaks").await;
    let done = users.iter().filter(|(_, (_, is_all))| *is_all);
    for (user, (granted, _)) in done.clone() {
        assert_eq!(*granted, QUOTA, "user {user}");
    }
    assert!(done.count() > 0, "{users:?}");
    assert!(users.values().all(|(granted, _)| *granted <= QUOTA));
    for gateway in &gateways {
        let refused = |rule: &str| {
            let labels = format!("{{rule=\"{rule}\",result=\"refused\"}}");
            format!("onemind_limit_decisions_total{labels}")
        };
        assert!(gateway.metric(&refused("burst")).await > 0.5, "it was met");
        let failed = gateway.metric("onemind_store_calls_total{result=\"timed_out\"}");
        assert!(failed.await < 0.5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_killed_and_redis_dies_and_hangs() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let mut gateways = start(&document(""), &redis.url(), &app).await;
    let crowd = Crowd::start(&gateways);
    crowd.goes_on_for(a_while()).await;
    let killed = gateways.remove(0);
    killed.signal("KILL");
    killed.wait_exit().await;
    crowd.goes_on_for(a_while()).await;
    know_each_other(&gateways).await;
    let until = Instant::now() + much(Duration::from_secs(36), Duration::ZERO);
    loop {
        redis.kill();
        mode_is(&gateways, "local").await;
        crowd.goes_on_for(a_while() / 4).await;
        redis.restart();
        recovers(&gateways, "a restart").await;
        crowd.goes_on_for(a_while() / 2).await;
        redis.signal("STOP");
        mode_is(&gateways, "local").await;
        crowd.goes_on_for(HANGS).await;
        redis.signal("CONT");
        recovers(&gateways, "a pause").await;
        crowd.goes_on_for(a_while() / 2).await;
        if Instant::now() > until {
            break;
        }
    }
    // What Redis counted before, what all have without it, and what a Redis counts that has forgotten.
    held_to(3, &crowd.stop("one redis").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_make_a_replica_the_master() {
    let (master, app) = (RedisServer::start(), Upstream::named("app").await);
    let replica = RedisServer::replica_of(&master);
    let sentinel = RedisServer::sentinel_of(&master);
    eventually("the sentinel knows the replica", async || {
        let known = sentinel.ask("SENTINEL replicas main");
        known
            .contains(&replica.address().port().to_string())
            .then_some(())
    })
    .await;
    let url = format!("redis+sentinel://{}/main", sentinel.address());
    let gateways = start(&document(""), &url, &app).await;
    let crowd = Crowd::start(&gateways);
    crowd.goes_on_for(3 * a_while()).await;
    master.kill();
    mode_is(&gateways, "local").await;
    is_master(&replica).await;
    recovers(&gateways, "a failover by sentinels").await;
    crowd.goes_on_for(3 * a_while()).await;
    // The replica may not have heard of the last ones.
    held_to(3, &crowd.stop("sentinels").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_the_slot_of_the_counts_and_loses_its_master() {
    let (cluster, app) = (
        RedisCluster::start(3, 3).await,
        Upstream::named("app").await,
    );
    let gateways = start(&document(""), &cluster.url(), &app).await;
    let crowd = Crowd::start(&gateways);
    crowd.goes_on_for(2 * a_while()).await;
    let (slot, from) = cluster.owner_of("{ratelimit}");
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to);
    mode_is(&gateways, "local").await;
    crowd.goes_on_for(a_while() / 4).await;
    let moved = cluster.move_keys(slot, from, to);
    assert!(moved > 0);
    cluster.end_move(slot, to);
    recovers(&gateways, &format!("a slot with {moved} keys has moved")).await;
    crowd.goes_on_for(2 * a_while()).await;
    cluster.masters[to].kill();
    mode_is(&gateways, "local").await;
    is_master(&cluster.replicas[to]).await;
    recovers(&gateways, "a failover in the cluster").await;
    crowd.goes_on_for(2 * a_while()).await;
    held_to(3, &crowd.stop("a cluster").await);
}

async fn is_master(replica: &RedisServer) {
    eventually("the replica is the master", async || {
        // Who is made a master hangs up on everybody.
        let told = replica.try_ask("INFO replication").ok()?;
        told.contains("role:master").then_some(())
    })
    .await;
}
