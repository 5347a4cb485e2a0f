//! What one line of the access log and one finished request cost the thread that reports them.
//!
//! `cargo bench --bench access_log`: nanoseconds for each, best of five rounds.

use onemind_gateway::base::ending::Ending;
use onemind_gateway::observe::access_log::{AccessLog, Record, Target};
use onemind_gateway::observe::metrics::{Finished, Metrics};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

const ROUNDS: usize = 5;
const LINES: u32 = 200_000;

fn record(time: SystemTime) -> Record<'static> {
    Record {
        time,
        request_id: "0198c2f0a1b24c3d8e4f5061728394a5",
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        client: [203, 0, 113, 9].into(),
        peer: SocketAddr::from(([10, 0, 0, 7], 40_123)).into(),
        listener: "https",
        protocol: "HTTP/2",
        tls: Some("TLSv1.3"),
        method: "GET",
        host: b"app.example.com",
        path: b"/api/v1/users/12345/posts?page=2&order=newest",
        status: 200,
        upstream_status: Some(200),
        user: None,
        key: None,
        route: Some("app"),
        pool: Some("app"),
        endpoint: Some("10.0.0.1:8080"),
        attempts: &[],
        duration: Duration::from_micros(12_345),
        connect: None,
        first_byte: Some(Duration::from_micros(9_001)),
        bytes_in: 0,
        bytes_out: 1024,
        user_agent: Some(
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
        ),
        ending: Ending::Completed,
        code: None,
        limit: None,
        websocket: false,
        inference: None,
    }
}

/// Best of some rounds, in nanoseconds for each of `count` calls.
fn best(count: u32, mut call: impl FnMut()) -> u128 {
    let round = |_| {
        let start = Instant::now();
        (0..count).for_each(|_| call());
        start.elapsed().as_nanos() / u128::from(count)
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

#[allow(clippy::print_stdout, reason = "the report of a benchmark")]
fn main() {
    let metrics = Metrics::new("bench");
    let target = Target::File("/dev/null".into(), None);
    let log = AccessLog::open(&target, &metrics).expect("/dev/null opens");
    let line = best(LINES, || log.write(&record(SystemTime::now())));
    drop(log);
    let (written, dropped) = (&metrics.access_log_written, &metrics.access_log_dropped);
    println!(
        "access line   {line:5} ns  ({} written, {} dropped)",
        written.get(),
        dropped.get()
    );

    let (route, listener) = (metrics.route("app"), metrics.listener("https"));
    let finished = Finished {
        listener: &listener,
        method: &http::Method::GET,
        status: 200,
        ending: Ending::Completed,
        duration: Duration::from_micros(12_345),
        bytes_in: 0,
        bytes_out: 1024,
    };
    let count = best(LINES, || route.finished(&finished));
    println!("finished      {count:5} ns");
    let in_flight = best(LINES, || drop(listener.request_began()));
    println!("in flight     {in_flight:5} ns");
}
