//! Redis Cluster: counts in one slot and sessions in theirs, followed wherever they go.

use crate::harness::{
    Authority, Client, Gateway, Port, RedisCluster, RedisServer, Upstream, eventually, hash,
};
use std::fmt::Display;
use tempfile::TempDir;

/// Callers say their address in `X-Forwarded-For`; calls of Redis have the time that a busy machine may need.
const LIMITED: &str = "
server: { trusted_proxies: [127.0.0.0/8] }
redis: { url: '{{redis}}', timeout: 5s }
limits:
  preset: standard
  rules:
    user: { by: user, requests: 10, per: day, prefix: ratelimit }
    all: { requests: 1000, per: day, algorithm: gcra }
    slots: { by: user, in_flight: 5 }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
";

async fn start(yaml: &str, cluster: &RedisCluster, app: &Upstream) -> Gateway {
    let names: &[(&str, &dyn Display)] = &[("redis", &cluster.url()), ("app", app)];
    let gateway = Gateway::start(yaml, names).await;
    mode_is(&gateway, "redis").await;
    gateway
}

async fn mode_is(gateway: &Gateway, mode: &str) {
    eventually(&format!("limits are counted in {mode}"), async || {
        (gateway.status().await["limits"]["mode"] == mode).then_some(())
    })
    .await;
}

/// So many requests of one address, one after the other: how many were let through.
async fn granted(gateway: &Gateway, address: &str, requests: usize) -> usize {
    let mut client = Client::connect(gateway).await;
    let mut granted = 0;
    for _ in 0..requests {
        let headers = [("x-forwarded-for", address)];
        match client.request("GET", "/", &headers, b"").await.status {
            200 => granted += 1,
            429 => {}
            status => panic!("{status}"),
        }
    }
    granted
}

async fn calls(gateway: &Gateway, result: &str) -> f64 {
    let selector = format!("onemind_store_calls_total{{result=\"{result}\"}}");
    gateway.metric(&selector).await
}

#[tokio::test]
async fn counts_of_all_rules_are_exact_over_instances_and_read_by_applications() {
    let (cluster, app) = (
        RedisCluster::start(3, 0).await,
        Upstream::named("app").await,
    );
    let gateways = [
        start(LIMITED, &cluster, &app).await,
        start(LIMITED, &cluster, &app).await,
    ];
    assert_eq!(granted(&gateways[0], "10.0.0.7", 4).await, 4);
    assert_eq!(granted(&gateways[1], "10.0.0.7", 20).await, 6);
    let (_, home) = cluster.owner_of("{ratelimit}");
    for (nth, master) in cluster.masters.iter().enumerate() {
        assert_eq!(master.ask("DBSIZE") == "0", nth != home, "all in one slot");
    }
    let keys = cluster.masters[home].ask("KEYS {ratelimit}:~10.0.0.7:*");
    // Beside the counts of periods there is what slides, which is ours.
    let periods = keys.lines().filter(|key| !key.ends_with('s'));
    let counts = periods.map(|key| cluster.masters[home].ask(&format!("GET {key}")));
    assert_eq!(counts.collect::<Vec<_>>(), ["10"], "{keys}");
    for gateway in &gateways {
        eventually("two gateways know of each other", async || {
            (gateway.status().await["limits"]["instances"] == 2).then_some(())
        })
        .await;
        assert!(calls(gateway, "failed").await.abs() < 0.1);
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_and_nothing_is_counted_twice() {
    // With one key, the server to which its slot moves would take it for a new one.
    let one = "  rules: { user: { by: user, requests: 10, per: day, algorithm: fixed_window } }";
    let (before, after) = (
        LIMITED.find("  preset:").expect("limits"),
        LIMITED.find("pools:").expect("pools"),
    );
    let yaml = format!("{}{one}\n{}", &LIMITED[..before], &LIMITED[after..]);
    let (mut cluster, app) = (
        RedisCluster::start(3, 0).await,
        Upstream::named("app").await,
    );
    let gateways = [
        start(&yaml, &cluster, &app).await,
        start(&yaml, &cluster, &app).await,
    ];
    // To a server that nobody knew when the gateways started.
    cluster.grow().await;
    let (slot, home) = cluster.owner_of("{ratelimit}");
    assert_eq!(granted(&gateways[0], "10.0.0.7", 4).await, 4);
    let (from, to) = (home, 3);
    cluster.begin_move(slot, from, to);
    // Half of ten is the share of each of two.
    assert_eq!(granted(&gateways[0], "10.0.0.7", 2).await, 2);
    for gateway in &gateways {
        mode_is(gateway, "local").await;
    }
    // The count, and who is alive; nothing was begun anew where it moves to.
    assert_eq!(cluster.move_keys(slot, from, to), 2);
    cluster.end_move(slot, to);
    for gateway in &gateways {
        mode_is(gateway, "redis").await;
    }
    assert_eq!(granted(&gateways[1], "10.0.0.7", 20).await, 6);
    for gateway in &gateways {
        gateway.settled().await;
    }
}

#[tokio::test]
async fn a_slot_that_has_moved_at_once_is_followed_without_a_gap() {
    let (cluster, app) = (
        RedisCluster::start(3, 0).await,
        Upstream::named("app").await,
    );
    let gateway = start(LIMITED, &cluster, &app).await;
    let (slot, home) = cluster.owner_of("{ratelimit}");
    // Nothing is in it that could be in the wrong place.
    cluster.masters[home].ask("FLUSHALL");
    cluster.end_move(slot, (home + 1) % 3);
    assert_eq!(granted(&gateway, "10.0.0.8", 20).await, 10);
    assert!(calls(&gateway, "not_tried").await.abs() < 0.1);
    assert_eq!(gateway.status().await["limits"]["mode"], "redis");
    gateway.settled().await;
}

#[tokio::test]
async fn the_replica_of_a_dead_master_is_followed() {
    let (cluster, app) = (
        RedisCluster::start(3, 3).await,
        Upstream::named("app").await,
    );
    let gateway = start(LIMITED, &cluster, &app).await;
    assert_eq!(granted(&gateway, "10.0.0.7", 4).await, 4);
    let (_, home) = cluster.owner_of("{ratelimit}");
    cluster.is_copied(home).await;
    cluster.masters[home].kill();
    mode_is(&gateway, "local").await;
    mode_is(&gateway, "redis").await;
    assert_eq!(
        granted(&gateway, "10.0.0.7", 20).await,
        6,
        "what was counted is known"
    );
    gateway.settled().await;
}

const SESSIONS: &str = "
redis: { url: '{{redis}}', timeout: 5s }
identity: { people: { session: { idle: 1h, logout: /logout } } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app, identity: people } }
";

fn token_of(user: &str) -> String {
    format!("oms_{user}.0123456789012345678901")
}

/// Writes a session where it belongs.
fn log_in(cluster: &RedisCluster, user: &str) {
    let key = format!("user:{user}:session");
    let (_, owner) = cluster.owner_of(&key);
    let hash = hash(token_of(user).as_bytes());
    let written = cluster.masters[owner].ask(&format!("HSET {key} hash sha256:{hash}"));
    assert_eq!(written, "1");
    cluster.masters[owner].ask(&format!("EXPIRE {key} 3600"));
}

async fn status_of(gateway: &Gateway, user: &str, method: &str, target: &str) -> u16 {
    let authorization = format!("Bearer {}", token_of(user));
    let headers = [("authorization", authorization.as_str())];
    let mut client = Client::connect(gateway).await;
    client.request(method, target, &headers, b"").await.status
}

#[tokio::test]
async fn sessions_are_found_in_their_own_slots_wherever_these_move() {
    let (cluster, app) = (
        RedisCluster::start(3, 0).await,
        Upstream::named("app").await,
    );
    let gateway = start(SESSIONS, &cluster, &app).await;
    let users: Vec<String> = (0..12).map(|nth| format!("user{nth}")).collect();
    let mut owners = std::collections::BTreeSet::new();
    for user in &users {
        log_in(&cluster, user);
        owners.insert(cluster.owner_of(&format!("user:{user}:session")).1);
        assert_eq!(status_of(&gateway, user, "GET", "/").await, 200, "{user}");
    }
    assert_eq!(owners.len(), 3, "all servers have some");
    // A slot under way: the session is still here, then there already, and then its slot is as well.
    let user = &users[0];
    let (slot, from) = cluster.owner_of(&format!("user:{user}:session"));
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to);
    assert_eq!(status_of(&gateway, user, "GET", "/").await, 200);
    assert_eq!(cluster.move_keys(slot, from, to), 1);
    assert_eq!(status_of(&gateway, user, "GET", "/").await, 200);
    cluster.end_move(slot, to);
    assert_eq!(status_of(&gateway, user, "GET", "/").await, 200);
    // Over for good.
    assert_eq!(status_of(&gateway, user, "POST", "/logout").await, 204);
    assert_eq!(status_of(&gateway, user, "GET", "/").await, 401);
    assert_eq!(status_of(&gateway, &users[1], "GET", "/").await, 200);
    assert!(calls(&gateway, "failed").await.abs() < 0.1);
    gateway.settled().await;
}

#[tokio::test]
async fn a_cluster_is_spoken_to_over_tls_by_a_user_with_a_password() {
    let (authority, dir) = (Authority::new(), TempDir::new().unwrap());
    authority.write(dir.path(), "redis", &["localhost"]);
    authority.write_ca(&dir.path().join("ca.pem"));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key, ca) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
    let tls_port = Port::reserve();
    let number = tls_port.number().to_string();
    let tls = [
        "--tls-port",
        &number,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ];
    let trust = [
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--tls-cluster",
        "yes",
    ];
    let user = ["--user", "gate", "on", ">pass/word", "~*", "+@all"];
    // One that is alone does not know its own name: it is called as it was asked.
    let redis = RedisServer::start_of_cluster_with(&[&tls[..], &trust, &user].concat());
    assert_eq!(redis.ask("CLUSTER ADDSLOTSRANGE 0 16383"), "OK");
    let app = Upstream::named("app").await;
    let url = format!("rediss+cluster://gate:pass%2Fword@localhost:{number}");
    let yaml = LIMITED.replace("timeout:", &format!("ca: '{ca}', timeout:"));
    let names: &[(&str, &dyn Display)] = &[("redis", &url), ("app", &app)];
    let gateway = Gateway::start(&yaml, names).await;
    mode_is(&gateway, "redis").await;
    assert_eq!(granted(&gateway, "10.0.0.7", 20).await, 10);
    assert!(!gateway.errors().contains("word"), "{}", gateway.errors());
    gateway.settled().await;
}
