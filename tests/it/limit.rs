//! Limits: exact over all instances, told to callers, and as stated while Redis is gone.

use crate::harness::{
    Answer, Authority, Client, ClientH2, Gateway, RedisServer, Reply, Tls, Upstream, WebSocket,
    eventually, finish, in_time,
};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Notify;

/// One route to one pool. Callers say their address in `X-Forwarded-For`, and calls of Redis have the time
/// that a busy machine may need.
fn document(limits: &str, route: &str) -> String {
    format!(
        "
server: {{ trusted_proxies: [127.0.0.0/8] }}
redis: {{ url: '{{{{redis}}}}', timeout: 5s }}
{limits}
pools: {{ app: {{ endpoints: ['{{{{app}}}}'], health: {{ check: off }} }} }}
routes: {{ all: {{ pool: app, {route} }} }}
"
    )
}

async fn start(limits: &str, redis: &str, app: &Upstream) -> Gateway {
    let gateway = Gateway::start(&document(limits, ""), &[("redis", &redis), ("app", app)]).await;
    let mode = if redis == "memory" { "memory" } else { "redis" };
    mode_is(&gateway, mode).await;
    gateway
}

/// With the time limit on calls of Redis that is the default.
async fn start_impatient(limits: &str, redis: &str, app: &Upstream) -> Gateway {
    let yaml = document(limits, "").replace(", timeout: 5s", "");
    let gateway = Gateway::start(&yaml, &[("redis", &redis), ("app", app)]).await;
    mode_is(&gateway, "redis").await;
    gateway
}

async fn mode_is(gateway: &Gateway, mode: &str) {
    eventually(&format!("limits are counted in {mode}"), async || {
        (gateway.status().await["limits"]["mode"] == mode).then_some(())
    })
    .await;
}

async fn from(client: &mut Client, address: &str) -> Answer {
    let headers = [("x-forwarded-for", address)];
    client.request("GET", "/", &headers, b"").await
}

/// So many requests of one address, one after the other: how many were let through.
async fn granted(gateway: &Gateway, address: &str, requests: usize) -> usize {
    let mut client = Client::connect(gateway).await;
    let mut granted = 0;
    for _ in 0..requests {
        match from(&mut client, address).await.status {
            200 => granted += 1,
            429 => {}
            status => panic!("{status}"),
        }
    }
    granted
}

async fn decisions(gateway: &Gateway, rule: &str, result: &str) -> usize {
    let selector = format!("onemind_limit_decisions_total{{rule=\"{rule}\",result=\"{result}\"}}");
    gateway.metric(&selector).await as usize
}

async fn settled(gateways: &[Gateway]) {
    for gateway in gateways {
        gateway.settled().await;
    }
}

/// Whose request the nth is.
type UserOf = fn(usize) -> usize;

/// What 64 callers got, by user and status. They take turns at the gateways, and the users at so many
/// requests; a gateway that is not there any more is left out.
async fn crowd(
    gateways: &[Gateway],
    requests: usize,
    user_of: UserOf,
) -> BTreeMap<(usize, u16), usize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|nth| {
            let address = gateways[nth % gateways.len()].address("http");
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let (mut client, mut seen) = (Client::direct(address).await, Vec::new());
                loop {
                    let turn = asked.fetch_add(1, SeqCst);
                    if turn >= requests {
                        return seen;
                    }
                    let user = user_of(turn);
                    let address = format!("10.0.{}.{}", user / 250, user % 250);
                    let headers = [("x-forwarded-for", address.as_str())];
                    match client.try_request("GET", "/", &headers, b"").await {
                        Ok(answer) => seen.push((user, answer.status)),
                        Err(_) => return seen,
                    }
                }
            })
        })
        .collect();
    let mut counts = BTreeMap::new();
    for task in tasks {
        for seen in in_time("a caller", task).await.unwrap() {
            *counts.entry(seen).or_default() += 1;
        }
    }
    counts
}

#[tokio::test]
async fn three_gateways_grant_exactly_the_limit_to_64_callers() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "
limits:
  rules:
    user: { by: user, requests: 30, per: day }
    all: { requests: 500, per: day, algorithm: fixed_window }
    smooth: { by: route, requests: 100000, per: day, algorithm: gcra }
    slots: { by: user, in_flight: 1000 }
";
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(start(limits, &redis.url(), &app).await);
    }
    // 12 users who may have 30 each; then 40 who share what is left of 500, for refusals take nothing.
    let rounds: [(_, _, UserOf); 2] = [
        (0..12, 360, |turn| turn % 12),
        (20..60, 140, |turn| 20 + turn % 40),
    ];
    for (users, left, user_of) in rounds {
        let counts = crowd(&gateways, users.len() * 45, user_of).await;
        let count = |user, status| counts.get(&(user, status)).copied().unwrap_or(0_usize);
        for user in users.clone() {
            assert_eq!(count(user, 200) + count(user, 429), 45, "{counts:?}");
            assert!(count(user, 200) <= 30, "user {user} of {counts:?}");
        }
        let granted: usize = users.map(|user| count(user, 200)).sum();
        assert_eq!(granted, left, "{counts:?}");
    }
    let key = redis.ask("KEYS limit:all:*");
    assert_eq!(redis.ask(&format!("GET {key}")), "500");
    eventually("whatever was in flight has been given back", async || {
        redis.ask("KEYS *:held").is_empty().then_some(())
    })
    .await;
    let mut sum = 0;
    for gateway in &gateways {
        eventually("three gateways know of each other", async || {
            (gateway.status().await["limits"]["instances"] == 3).then_some(())
        })
        .await;
        sum += decisions(gateway, "all", "allowed").await;
    }
    assert_eq!(sum, 500);
}

#[tokio::test]
async fn instances_that_pay_in_advance_grant_the_limit_but_for_what_is_in_their_purses() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "
limits:
  rules:
    all: { requests: 500, per: day, prepaid: 10 }
    fixed: { requests: 600, per: day, prepaid: 7, algorithm: fixed_window }
    user: { by: user, requests: 50, per: day }
";
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(start(limits, &redis.url(), &app).await);
    }
    // Each user asks for more than it may have: what is refused goes back into the purse.
    let counts = crowd(&gateways, 1_500, |turn| turn % 20).await;
    let granted: usize = counts
        .iter()
        .filter(|((_, status), _)| *status == 200)
        .map(|(_, count)| count)
        .sum();
    assert!(
        (500 - 3 * 9..=500).contains(&granted),
        "{granted}: {counts:?}"
    );
    let key = redis.ask("KEYS limit:all:[0-9]*");
    eventually(
        "Redis has counted all that was granted, and the purses",
        async || {
            let counted: usize = redis.ask(&format!("GET {key}")).parse().unwrap();
            (granted..=500).contains(&counted).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn whoever_pays_in_advance_asks_redis_seldom() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { all: { requests: 55, per: day, prepaid: 10 } } }";
    let gateway = start(limits, &redis.url(), &app).await;
    assert_eq!(granted(&gateway, "10.0.0.1", 100).await, 55);
    let stats = redis.ask("INFO commandstats");
    let line = stats.lines().find(|line| line.contains("_incrby:"));
    let calls = line.unwrap().split("calls=").nth(1).unwrap();
    assert_eq!(calls.split(',').next(), Some("6"), "{stats}");
    let refused = gateway.get("/").await;
    assert!(refused.header("ratelimit").unwrap().contains("\"all\";r=0"));
    gateway.settled().await;
}

#[tokio::test]
async fn one_gateway_grants_exactly_the_limit_from_memory() {
    let app = Upstream::named("app").await;
    let limits = "
limits:
  rules:
    user: { by: user, requests: 30, per: day }
    bucket: { by: user, requests: 40, per: day, algorithm: gcra }
    slots: { by: user, in_flight: 64 }
";
    let gateways = [start(limits, "memory", &app).await];
    let counts = crowd(&gateways, 12 * 45, |turn| turn % 12).await;
    for user in 0..12 {
        assert_eq!(
            counts.get(&(user, 200)),
            Some(&30),
            "user {user}: {counts:?}"
        );
        assert_eq!(
            counts.get(&(user, 429)),
            Some(&15),
            "user {user}: {counts:?}"
        );
    }
}

#[tokio::test]
async fn a_thousand_notice_nothing_of_ten_who_hammer() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 30, per: day } } }";
    let mut gateways = Vec::new();
    for _ in 0..2 {
        gateways.push(start(limits, &redis.url(), &app).await);
    }
    // Every second request is of one of the ten.
    let user_of = |turn: usize| match turn % 2 {
        0 => 1_000 + turn / 2 % 10,
        _ => turn / 2 % 1_000,
    };
    let counts = crowd(&gateways, 6_000, user_of).await;
    for user in 0..1_010 {
        let count = |status| counts.get(&(user, status)).copied().unwrap_or(0);
        let expected = if user < 1_000 { (3, 0) } else { (30, 270) };
        assert_eq!((count(200), count(429)), expected, "user {user}");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_costs_no_handshake() {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    authority.write(dir.path(), "site", &["a.test"]);
    let app = Upstream::named("app").await;
    let yaml = "
listeners:
  web:
    address: '{{https}}'
    tls: { certificates: [{ certificate: site.pem, key: site.key }] }
limits: { rules: { all: { requests: 1, per: day } } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
";
    let gateway = Gateway::start_in(dir, yaml, &[("app", &app)]).await;
    let mut client = Client::secure(&gateway, Tls::to(&authority, "a.test")).await;
    assert_eq!(client.get("/").await.status, 200);
    let http2 = ClientH2::secure(&gateway, Tls::to(&authority, "a.test")).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 429);
        assert_eq!(client.post("/", b"body").await.status, 429);
        let answer = http2.get("/").await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.json()["rule"], "all");
    }
    let handshakes = "onemind_tls_handshakes_total{result=\"ok\"}";
    assert!((gateway.metric(handshakes).await - 2.0).abs() < 0.1);
    gateway.settled().await;
}

#[tokio::test]
async fn a_caller_is_told_where_it_stands() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "
limits:
  preset: standard
  rules: { user: { by: user, requests: 2, per: day } }
";
    let gateway = start(limits, &redis.url(), &app).await;
    let mut client = Client::connect(&gateway).await;
    for left in [1, 0] {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200);
        // The rule by provider is not about a request that goes to none.
        let policy = "\"global\";q=10000;w=60, \"user\";q=2;w=86400";
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
        let state = answer.header("ratelimit").expect("RateLimit");
        assert!(state.contains(&format!("\"user\";r={left};t=")), "{state}");
        assert!(state.contains("\"global\";r=999"), "{state}");
    }
    // Refused by Redis, and then from memory; always on the same connection.
    for _ in 0..3 {
        let answer = client.get("/").await;
        answer.assert_refused(429, "limit_reached");
        assert_eq!(answer.json()["rule"], "user");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=2 * 86_400).contains(&wait), "{wait}");
        let state = answer.header("ratelimit").expect("RateLimit");
        assert!(state.contains(&format!("\"user\";r=0;t={wait}")), "{state}");
    }
    assert_eq!(app.count(), 2, "what is refused goes nowhere");
    assert_eq!(decisions(&gateway, "user", "allowed").await, 2);
    assert_eq!(decisions(&gateway, "user", "refused").await, 1);
    assert_eq!(decisions(&gateway, "user", "refused_locally").await, 2);
    let line = gateway.access_log_line(|line| line["status"] == 429).await;
    assert_eq!(line["limit"], "user");
    assert_eq!(line["code"], "limit_reached");
    assert_eq!(line["ending"], "refused");
    gateway.settled().await;
}

#[tokio::test]
async fn an_application_can_read_what_was_counted() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let gateway = start("limits: { preset: standard }", &redis.url(), &app).await;
    assert_eq!(granted(&gateway, "10.0.0.7", 3).await, 3);
    let keys = redis.ask("KEYS ratelimit:~10.0.0.7:[0-9]*");
    let mut sum = 0;
    for key in keys.lines() {
        let minute: u64 = key.rsplit(':').next().unwrap().parse().unwrap();
        let now: u64 = redis.ask("TIME").lines().next().unwrap().parse().unwrap();
        assert!(now / 60 - minute <= 1, "{key} at {now}");
        // The next minute will still look at it.
        let seconds: u64 = redis.ask(&format!("TTL {key}")).parse().unwrap();
        assert!((61..=120).contains(&seconds), "{seconds}");
        sum += redis.ask(&format!("GET {key}")).parse::<u64>().unwrap();
    }
    assert_eq!(sum, 3, "{keys}");
    gateway.settled().await;
}

#[tokio::test]
async fn no_second_holds_more_than_the_limit_wherever_it_begins() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 20, per: second } } }";
    for url in ["memory".to_owned(), redis.url()] {
        let gateway = start(limits, &url, &app).await;
        let mut client = Client::connect(&gateway).await;
        // Each was counted at some moment between these two.
        let (begun, mut granted) = (Instant::now(), Vec::new());
        in_time("three times the limit", async {
            while granted.len() < 60 {
                let asked = begun.elapsed();
                if from(&mut client, "10.0.0.1").await.status == 200 {
                    granted.push((asked, begun.elapsed()));
                }
            }
        })
        .await;
        for (at, (asked, _)) in granted.iter().enumerate() {
            let until = *asked + Duration::from_secs(1);
            let within = granted[at..].iter().filter(|(_, here)| *here < until);
            assert!(within.count() <= 20, "{url}: {granted:?}");
        }
        gateway.settled().await;
    }
}

#[tokio::test]
async fn whoever_is_refused_costs_redis_nothing() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 1, per: day } } }";
    let gateway = start(limits, &redis.url(), &app).await;
    assert_eq!(granted(&gateway, "10.0.0.1", 2).await, 1);
    let looked_at = || {
        let stats = redis.ask("INFO commandstats");
        let line = stats.lines().find(|line| line.contains("_hmget:"));
        let calls = line.unwrap().split("calls=").nth(1).unwrap();
        calls.split(',').next().unwrap().to_owned()
    };
    assert_eq!(looked_at(), "2", "once for a grant, once for a refusal");
    assert_eq!(granted(&gateway, "10.0.0.1", 100).await, 0);
    assert_eq!(looked_at(), "2");
    assert_eq!(decisions(&gateway, "user", "refused_locally").await, 100);
    gateway.settled().await;
}

#[tokio::test]
async fn without_redis_each_rule_does_what_it_says_and_recovers() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = |without: &str| {
        format!(
            "limits: {{ rules: {{ user: {{ by: user, requests: 10, per: day, without_redis: {without} }} }} }}"
        )
    };
    let mut gateways = Vec::new();
    for without in ["local", "local", "allow", "refuse"] {
        gateways.push(start(&limits(without), &redis.url(), &app).await);
    }
    for gateway in &gateways {
        eventually("four gateways know of each other", async || {
            (gateway.status().await["limits"]["instances"] == 4).then_some(())
        })
        .await;
    }
    assert_eq!(granted(&gateways[0], "10.0.0.1", 1).await, 1);
    redis.kill();
    for gateway in &gateways {
        mode_is(gateway, "local").await;
        let up = gateway.metric("onemind_store_up").await;
        assert!(up.abs() < 0.1, "{up}");
        let mode = gateway.metric("onemind_limit_mode{mode=\"local\"}").await;
        assert!((mode - 1.0).abs() < 0.1, "{mode}");
    }
    // Four instances: each allows a quarter of ten.
    assert_eq!(granted(&gateways[0], "10.0.0.2", 20).await, 2);
    assert_eq!(granted(&gateways[1], "10.0.0.2", 20).await, 2);
    assert_eq!(granted(&gateways[2], "10.0.0.2", 20).await, 20);
    assert_eq!(decisions(&gateways[2], "user", "unchecked").await, 20);
    let refused = gateways[3].get("/").await;
    refused.assert_refused(503, "limits_unavailable");
    assert_eq!(refused.json()["rule"], "user");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(decisions(&gateways[3], "user", "unavailable").await, 1);
    let ready = gateways[3].admin("GET", "/readyz").await;
    assert_eq!(ready.status, 200, "it serves, as it was told");
    assert_eq!(ready.text(), "ok\nlimits: local\n");

    redis.restart();
    for gateway in &gateways {
        mode_is(gateway, "redis").await;
        let ready = gateway.admin("GET", "/readyz").await;
        assert_eq!(ready.text(), "ok\nlimits: redis\n");
    }
    // Exact again, over all of them.
    let mut sum = 0;
    for gateway in &gateways {
        sum += granted(gateway, "10.0.0.3", 8).await;
    }
    assert_eq!(sum, 10);
    let said = gateways[0].errors();
    assert_eq!(said.matches("redis is gone").count(), 1, "{said}");
    settled(&gateways).await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_left_alone_until_it_answers() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 1000, per: day } } }";
    let gateway = start_impatient(limits, &redis.url(), &app).await;
    redis.signal("STOP");
    assert_eq!(granted(&gateway, "10.0.0.1", 200).await, 200);
    mode_is(&gateway, "local").await;
    // Three in a row at most waited for it, and the gateway's own signs of life.
    let waited = "onemind_store_calls_total{result=\"timed_out\"}";
    let waited = gateway.metric(waited).await;
    assert!((1.0..=4.0).contains(&waited), "{waited} of 200");
    redis.signal("CONT");
    mode_is(&gateway, "redis").await;
    assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 5);
    gateway.settled().await;
}

/// A caller whose request has reached the endpoint, once the place of the one before is free.
async fn hold(gateway: &Gateway, app: &Upstream, target: &str) -> Client {
    let reached = || {
        let seen = app.seen();
        seen.iter().filter(|seen| seen.target() == target).count()
    };
    let before = reached();
    eventually("a place for the request", async || {
        let mut client = Client::connect(gateway).await;
        client
            .send(format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes())
            .await;
        client.count(1);
        tokio::select! {
            refused = client.answer() => {
                assert_eq!(refused.status, 429);
                return None;
            }
            () = eventually("it is sent on", async || (reached() > before).then_some(())) => {}
        }
        Some(client)
    })
    .await
}

#[tokio::test]
async fn a_place_in_flight_is_given_back_on_every_ending() {
    let (release, redis) = (Arc::new(Notify::new()), RedisServer::start());
    let held = Arc::clone(&release);
    let app = Upstream::replying(move |seen| match (seen.target(), seen.header("upgrade")) {
        (_, Some(_)) => Reply::websocket("app"),
        ("/held", _) => Reply::held(&held, Reply::ok("late")),
        ("/silent", _) => Reply::nothing(),
        ("/broken", _) => Reply::default().reset(),
        _ => Reply::ok("app"),
    })
    .await;
    for url in ["memory".to_owned(), redis.url()] {
        let limits = "limits: { rules: { slots: { by: address, in_flight: 1 } } }";
        let gateway = start(limits, &url, &app).await;
        let is_free = async |what: &str| {
            eventually(what, async || {
                (gateway.get("/").await.status == 200).then_some(())
            })
            .await;
        };
        // Answered.
        let mut client = hold(&gateway, &app, "/held").await;
        gateway.get("/").await.assert_refused(429, "limit_reached");
        release.notify_one();
        assert_eq!(client.answer().await.text(), "late");
        is_free("free after an answer").await;
        // The caller leaves.
        drop(hold(&gateway, &app, "/silent").await);
        is_free("free when the caller has left").await;
        // The endpoint breaks off.
        eventually("a place for the one that breaks", async || {
            (gateway.get("/broken").await.status == 502).then_some(())
        })
        .await;
        is_free("free after a failure").await;
        // A WebSocket holds it as long as it is open.
        let mut tunnel = eventually("a place for a WebSocket", async || {
            WebSocket::try_open(&gateway, "/", &[]).await.ok()
        })
        .await;
        assert!(
            tunnel
                .answer
                .header("ratelimit")
                .unwrap()
                .contains("\"slots\";r=0")
        );
        let refused = gateway.get("/").await;
        refused.assert_refused(429, "limit_reached");
        assert_eq!(refused.header("retry-after"), Some("1"));
        tunnel.echo("still open").await;
        tunnel.close().await;
        is_free("free when the WebSocket is closed").await;
        gateway.settled().await;
    }
}

#[tokio::test]
async fn places_of_an_instance_that_is_killed_expire() {
    let redis = RedisServer::start();
    let app = Upstream::replying(|seen| match seen.target() {
        "/held" => Reply::nothing(),
        _ => Reply::ok("app"),
    })
    .await;
    let limits = "limits: { rules: { slots: { in_flight: 1 } } }";
    let (first, second) = (
        start(limits, &redis.url(), &app).await,
        start(limits, &redis.url(), &app).await,
    );
    let _client = hold(&first, &app, "/held").await;
    first.signal("KILL");
    first.wait_exit().await;
    assert_eq!(second.get("/").await.status, 429, "nobody gave it back");
    eventually("the place expires", async || {
        (second.get("/").await.status == 200).then_some(())
    })
    .await;
    second.settled().await;
}

#[tokio::test]
async fn a_place_outlives_a_redis_that_forgot_it() {
    let (release, redis) = (Arc::new(Notify::new()), RedisServer::start());
    let held = Arc::clone(&release);
    let app = Upstream::replying(move |seen| match seen.target() {
        "/held" => Reply::held(&held, Reply::ok("late")),
        _ => Reply::ok("app"),
    })
    .await;
    let limits = "limits: { rules: { slots: { in_flight: 1 } } }";
    let gateway = start(limits, &redis.url(), &app).await;
    let mut client = hold(&gateway, &app, "/held").await;
    redis.ask("FLUSHALL");
    eventually("it is renewed", async || {
        (redis.ask("ZCARD limit:slots:held") == "1").then_some(())
    })
    .await;
    release.notify_one();
    assert_eq!(client.answer().await.text(), "late");
    eventually("it is given back", async || {
        (redis.ask("EXISTS limit:slots:held") == "0").then_some(())
    })
    .await;
    gateway.settled().await;
}

#[tokio::test]
async fn an_operator_sees_where_a_user_stands_and_can_give_a_fresh_start() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "
limits:
  rules:
    user: { by: user, requests: 3, per: day }
    bucket: { by: user, requests: 4, per: day, algorithm: gcra }
    slots: { by: user, in_flight: 9 }
    all: { requests: 100, per: day }
    model: { by: [user, model], requests: 1 }
";
    for url in ["memory".to_owned(), redis.url()] {
        let gateway = start(limits, &url, &app).await;
        let remaining = async || {
            let page = "/status/limits?address=10.0.0.1";
            let seen = gateway.admin("GET", page).await.json();
            let rules = seen["rules"].as_array().expect("rules").clone();
            let rules = rules.into_iter().map(|rule| {
                let name = rule["rule"].as_str().unwrap_or_default().to_owned();
                (name, rule["remaining"].as_u64().expect("a number"))
            });
            rules.collect::<BTreeMap<_, _>>()
        };
        let of =
            |rows: [(&str, u64); 4]| BTreeMap::from(rows.map(|(name, n)| (name.to_owned(), n)));
        let fresh = [("all", 100), ("bucket", 4), ("slots", 9), ("user", 3)];
        assert_eq!(remaining().await, of(fresh), "{url}");
        assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 3);
        eventually(
            "places are given back, and the rest is counted",
            async || {
                let spent = [("all", 97), ("bucket", 1), ("slots", 9), ("user", 0)];
                (remaining().await == of(spent)).then_some(())
            },
        )
        .await;
        let page = "/limits/reset?address=10.0.0.1";
        let reset = gateway.admin("POST", page).await;
        assert_eq!(
            reset.json()["reset"],
            serde_json::json!(["bucket", "slots", "user"])
        );
        let after = [("all", 97), ("bucket", 4), ("slots", 9), ("user", 3)];
        assert_eq!(remaining().await, of(after), "{url}");
        assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 3, "{url}");
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_script_that_redis_has_forgotten_is_sent_again() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 3, per: day } } }";
    let gateway = start(limits, &redis.url(), &app).await;
    assert_eq!(granted(&gateway, "10.0.0.1", 1).await, 1);
    redis.ask("SCRIPT FLUSH");
    assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 2);
    gateway.settled().await;
}

/// Names the connections of gateways at this Redis.
fn connections(redis: &RedisServer) -> Vec<String> {
    let list = redis.ask("CLIENT LIST TYPE NORMAL");
    let lines = list.lines().filter(|line| line.contains("cmd=evalsha"));
    let id = |line: &str| line.split_whitespace().next().map(str::to_owned);
    lines.filter_map(id).collect()
}

#[tokio::test]
async fn each_worker_asks_on_a_connection_of_its_own_and_gets_another_when_that_is_closed() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = "limits: { rules: { user: { by: user, requests: 1000, per: day } } }";
    let yaml = document(limits, "").replace("server: {", "server: { threads: 2,");
    let names: &[(&str, &dyn Display)] = &[("redis", &redis.url()), ("app", &app)];
    let gateway = Gateway::start(&yaml, names).await;
    mode_is(&gateway, "redis").await;
    let each_has_one = async |what: &str| {
        eventually(what, async || {
            // The system spreads connections over the workers.
            granted(&gateway, "10.0.0.1", 1).await;
            let known = connections(&redis);
            // That of the control thread beside those of the two workers.
            (known.len() == 3).then_some(known)
        })
        .await
    };
    let before = each_has_one("both workers are connected").await;
    for id in &before {
        redis.ask(&format!("CLIENT KILL {}", id.replace("id=", "ID ")));
    }
    let after = each_has_one("both workers are connected again").await;
    assert!(before.iter().all(|id| !after.contains(id)));
    gateway.settled().await;
}

#[tokio::test]
async fn a_reload_keeps_what_was_counted() {
    let (redis, app) = (RedisServer::start(), Upstream::named("app").await);
    let limits = |requests: u32| {
        let rule = format!("user: {{ by: user, requests: {requests}, per: day }}");
        document(&format!("limits: {{ rules: {{ {rule} }} }}"), "")
    };
    for url in ["memory".to_owned(), redis.url()] {
        let names: &[(&str, &dyn Display)] = &[("redis", &url), ("app", &app)];
        let gateway = Gateway::start(&limits(3), names).await;
        assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 3);
        gateway.reload(&limits(5), names).await;
        assert_eq!(granted(&gateway, "10.0.0.1", 5).await, 2, "{url}");
        gateway.reload(&document("", ""), names).await;
        assert_eq!(granted(&gateway, "10.0.0.1", 20).await, 20);
        assert_eq!(gateway.get("/").await.header("ratelimit-policy"), None);
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_route_takes_the_rules_that_it_names() {
    let app = Upstream::named("app").await;
    let yaml = "
limits: { rules: { few: { requests: 1, per: day }, more: { requests: 2, per: day } } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes:
  all: { path: /all, pool: app }
  more: { path: /more, pool: app, limits: more }
  none: { path: /none, pool: app, limits: [] }
  fixed: { path: /fixed, respond: {} }
  limited: { path: /limited, respond: {}, limits: more }
  moved: { path: /moved, redirect: { to: /x }, limits: more }
";
    let gateway = Gateway::start(yaml, &[("app", &app)]).await;
    for (path, statuses) in [
        ("/all", [200, 429]),
        ("/more", [200, 429]),
        ("/none", [200, 200]),
        ("/fixed", [200, 200]),
        ("/limited", [429, 429]),
        ("/moved", [429, 429]),
    ] {
        for status in statuses {
            assert_eq!(gateway.get(path).await.status, status, "{path}");
        }
    }
    let file = gateway.path("gateway.yaml");
    let mut explain = Command::new(env!("CARGO_BIN_EXE_onemind"));
    explain.arg("explain").arg("-c").arg(file);
    let (_, told, _) = finish(explain.args(["GET", "http://a.test/more"]));
    let line = "limit       more: 2 requests a day of all callers together, by sliding_window; without Redis: local";
    assert!(told.contains(line), "{told}");
    assert!(!told.contains("few"), "{told}");
    gateway.settled().await;
}

#[tokio::test]
async fn subscribers_are_told_apart_by_address_or_network() {
    let app = Upstream::named("app").await;
    let limits = "limits: { rules: { user: { by: user, requests: 1, per: day } } }";
    let gateway = start(limits, "memory", &app).await;
    for (address, status) in [
        ("10.0.0.1", 200),
        ("10.0.0.2", 200),
        ("10.0.0.1", 429),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1::2", 429),
        ("2001:db8:0:2::1", 200),
    ] {
        let mut client = Client::connect(&gateway).await;
        assert_eq!(from(&mut client, address).await.status, status, "{address}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls_by_a_user_with_a_password() {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    authority.write(dir.path(), "redis", &["localhost"]);
    authority.write_ca(&dir.path().join("ca.pem"));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls_port = crate::harness::Port::reserve();
    let number = tls_port.number().to_string();
    let (cert, key, ca) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &number,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--user",
        "gate",
        "on",
        ">pass/word",
        "~*",
        "+@all",
    ]);
    let app = Upstream::named("app").await;
    let yaml = format!(
        "
redis: {{ url: 'rediss://gate:pass%2Fword@localhost:{number}/3', ca: '{ca}', timeout: 5s }}
limits: {{ rules: {{ user: {{ by: user, requests: 2, per: day }} }} }}
pools: {{ app: {{ endpoints: ['{app}'], health: {{ check: off }} }} }}
routes: {{ all: {{ pool: app }} }}
"
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    mode_is(&gateway, "redis").await;
    assert_eq!(granted(&gateway, "127.0.0.1", 4).await, 2);
    assert_eq!(redis.ask("SELECT 3"), "OK");
    assert!(redis.ask("INFO keyspace").contains("db3:"));
    assert!(!gateway.errors().contains("word"), "{}", gateway.errors());
    gateway.settled().await;
}

#[tokio::test]
async fn the_master_that_sentinels_name_is_followed() {
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
    // The first one named does not exist.
    let nobody = crate::harness::Port::reserve();
    let url = format!("redis+sentinel://{nobody},{}/main", sentinel.address());
    let limits = "limits: { rules: { user: { by: user, requests: 10, per: day } } }";
    let gateway = start(limits, &url, &app).await;
    assert_eq!(granted(&gateway, "10.0.0.1", 4).await, 4);
    eventually("the replica has the count", async || {
        let key = replica.ask("KEYS limit:user:*:[0-9]*");
        (replica.ask(&format!("GET {key}")) == "4").then_some(())
    })
    .await;
    master.kill();
    mode_is(&gateway, "local").await;
    mode_is(&gateway, "redis").await;
    assert_eq!(
        granted(&gateway, "10.0.0.1", 20).await,
        6,
        "what was counted is known"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn a_redis_that_refuses_to_count_is_a_redis_that_is_gone() {
    let app = Upstream::named("app").await;
    let user = [
        "--user",
        "gate",
        "on",
        ">word",
        "~*",
        "+@all",
        "-@scripting",
    ];
    let redis = RedisServer::start_with(&user);
    let url = redis.url().replace("redis://", "redis://gate:word@");
    let limits = "limits: { rules: { user: { by: user, requests: 2, per: day } } }";
    let names: &[(&str, &dyn Display)] = &[("redis", &url), ("app", &app)];
    let gateway = Gateway::start(&document(limits, ""), names).await;
    mode_is(&gateway, "local").await;
    assert_eq!(granted(&gateway, "10.0.0.1", 4).await, 2);
    let error = gateway.status().await["limits"]["error"].to_string();
    assert!(error.to_lowercase().contains("permission"), "{error}");
    let said = gateway.errors();
    assert_eq!(said.matches("redis is gone").count(), 1, "{said}");
    assert!(said.to_lowercase().contains("permission"), "{said}");
    gateway.settled().await;
}
