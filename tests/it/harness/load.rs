//! Requests at a constant rate, and everything that went wrong with them.

use super::client::{Answer, Client};
use super::gateway::Gateway;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// A constant load over several connections; ends when stopped or dropped.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    target: String,
    gateway_sent: Arc<AtomicU64>,
    stop: AtomicBool,
    /// Whether an answer that closes its connection is fine (it is while draining).
    done: AtomicU64,
    failures: Mutex<Vec<String>>,
    is_good: fn(&Answer) -> bool,
}

impl Load {
    /// `rate` requests a second in all, over `connections` connections; 200 is success.
    pub fn start(gateway: &Gateway, target: &str, rate: u32, connections: u32) -> Self {
        let shared = Arc::new(Shared {
            address: gateway.address("http"),
            target: target.to_owned(),
            gateway_sent: gateway.sent(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            failures: Mutex::default(),
            is_good: |answer| answer.status == 200 && answer.complete,
        });
        let pause = Duration::from_secs(1) * connections / rate;
        let workers = (0..connections)
            .map(|nth| tokio::spawn(work(Arc::clone(&shared), pause, pause * nth / connections)))
            .collect();
        Self { shared, workers }
    }

    /// Requests answered well so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(SeqCst)
    }

    /// Waits for so many more good answers.
    pub async fn goes_on_for(&self, answers: u64) {
        let until = self.done() + answers;
        super::eventually("the load goes on", async || {
            (self.done() >= until || !self.failures().is_empty()).then_some(())
        })
        .await;
    }

    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }

    /// Ends the load; how many went well, and what went wrong.
    pub async fn stop(mut self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, SeqCst);
        for worker in std::mem::take(&mut self.workers) {
            let _ = super::in_time("a worker stops", worker).await;
        }
        (self.done(), self.failures())
    }

    /// Ends the load and fails the test if any request failed.
    pub async fn stop_without_failures(self) -> u64 {
        let (done, failures) = self.stop().await;
        assert!(
            failures.is_empty(),
            "{} of {} failed: {:?}",
            failures.len(),
            done + failures.len() as u64,
            &failures[..failures.len().min(5)]
        );
        done
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

async fn work(shared: Arc<Shared>, pause: Duration, offset: Duration) {
    tokio::time::sleep(offset).await;
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    while !shared.stop.load(SeqCst) {
        ticks.tick().await;
        if client.is_none() {
            match TcpStream::connect(shared.address).await {
                Ok(stream) => client = Some(Client::counted(stream, &shared.gateway_sent)),
                Err(fault) => {
                    shared.fail(format!("connect: {fault}"));
                    continue;
                }
            }
        }
        let open = client.as_mut().expect("just connected");
        match open.try_request("GET", &shared.target, &[], b"").await {
            Ok(answer) if (shared.is_good)(&answer) => {
                shared.done.fetch_add(1, SeqCst);
                if answer.header("connection") == Some("close") {
                    client = None;
                }
            }
            Ok(answer) => shared.fail(format!("{} {}", answer.status, answer.text())),
            Err(fault) => {
                shared.fail(fault.to_string());
                client = None;
            }
        }
    }
}

impl Shared {
    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }
}
