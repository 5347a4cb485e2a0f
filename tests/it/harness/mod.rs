//! Four words for tests: `Gateway::start`, `Upstream::replying`, `client.get`, `gateway.metric`.
//! Each is RAII: dropping it stops it. Every wait has a deadline.

mod browser;
mod certs;
mod client;
mod client_h2;
mod collector;
mod gateway;
mod load;
mod ports;
mod prometheus;
mod provider;
mod redis;
mod redis_cluster;
#[cfg(test)]
mod tests;
mod relay;
mod reply;
mod terminal;
mod tokens;
mod upstream;
mod upstream_h2;
mod wire;
mod ws;

pub use browser::{Browser, Tab};
pub use certs::{Authority, Leaf};
pub use client::{Answer, Client, Tls};
pub use client_h2::ClientH2;
pub use collector::{Collector, Mood, attribute};
pub use gateway::{Gateway, app, finish, runs};
pub use load::Load;
pub use ports::{BlackHole, Port};
pub use prometheus::{Alert, Prometheus, Sample, promtool};
pub use provider::{
    ACCESS_KEY_ID, Asked, Fault, LOCATION, PROJECT, PROVIDER_KEY, Provider, REGION,
    SECRET_ACCESS_KEY, SESSION_TOKEN, Trouble,
};
pub use redis::RedisServer;
pub use redis_cluster::RedisCluster;
pub use relay::Relay;
pub use reply::{Reply, Seen};
pub use terminal::Terminal;
pub use tokens::{KeyIssuer, Signer, claims, key_set, unix_now};
pub use upstream::Upstream;
pub use upstream_h2::{ReplyH2, UpstreamH2, map_of};
pub use ws::WebSocket;

use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};

/// No single step of a test may take longer.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(10);

/// Runs `work` and fails the test when it does not end in time.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not done within {DEADLINE:?}"))
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: not seen within {DEADLINE:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Lets time pass where time itself is what is tested (silence, idle limits).
pub async fn silence(period: Duration) {
    tokio::time::sleep(period).await;
}

/// SHA-256 as hex: whether two bodies are the same bytes.
pub fn hash(body: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A body that differs at every place, so that a lost, doubled or moved part is seen.
pub fn body_of(size: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(size as u64 + 1);
    let mut body = vec![0; size];
    rng.fill(&mut body);
    body
}

/// One provider for every TLS user of the process.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
