//! The table of metrics against a gateway in which everything happens.

use super::World;
use crate::harness::{Client, WebSocket, eventually};
use onemind_gateway::observe::metrics::{Metrics, Row};
use std::collections::{BTreeMap, BTreeSet};

/// What a test cannot move, and why; each is declared and shown all the same.
const UNMOVED: [(&str, &str); 4] = [
    (
        "onemind_limit_uncounted_total",
        "takes more callers than are kept in memory: a unit test of `limit/counter/memory.rs` has them",
    ),
    (
        "onemind_limit_leases_left_total",
        "takes a queue of thousands of places that are given back while Redis hangs",
    ),
    (
        "onemind_log_lines_dropped_total",
        "takes a standard error that nobody reads: `tests/it/logs.rs` has one",
    ),
    (
        "onemind_log_lines_suppressed_total",
        "takes more than twenty errors of the library in a minute: a unit test of `observe/logging.rs` has them",
    ),
];

/// The largest sum of each family that was seen at any time.
#[derive(Default)]
struct Seen {
    most: BTreeMap<String, f64>,
    faults: BTreeSet<String>,
}

impl Seen {
    async fn look(&mut self, world: &World) {
        let page = world.gateway.admin("GET", "/metrics").await.text();
        let mut family = None;
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for line in page.lines() {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').unwrap();
                family = Metrics::ROWS.iter().find(|row| row.name == name);
                let declared = family.is_some_and(|row| row.kind == kind);
                self.fault_unless(declared, || format!("undeclared: {told}"));
            } else if let (false, Some(row)) = (line.starts_with('#'), family) {
                *sums.entry(row.name.to_owned()).or_default() += self.sample(line, row);
            }
        }
        for (name, sum) in sums {
            let most = self.most.entry(name).or_insert(0.0);
            *most = most.max(sum);
        }
    }

    /// What a sample adds to its family: of a histogram, the count.
    fn sample(&mut self, line: &str, row: &Row) -> f64 {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let part = name.strip_prefix(row.name);
        let parts: &[&str] = if row.kind == "histogram" {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        self.fault_unless(part.is_some_and(|part| parts.contains(&part)), || {
            format!("not of {}: {line}", row.name)
        });
        let mut labels: BTreeSet<&str> = labels_of(series).collect();
        labels.remove("le");
        let declared: BTreeSet<&str> = row.labels.iter().copied().collect();
        self.fault_unless(labels == declared, || {
            format!("labels of {}: {line}", row.name)
        });
        if matches!(part, Some("" | "_count")) {
            value.parse().unwrap()
        } else {
            0.0
        }
    }

    fn fault_unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.faults.insert(what());
        }
    }
}

/// Names of the labels of a series; no value here has a comma in it.
fn labels_of(series: &str) -> impl Iterator<Item = &str> {
    let labels = series.split_once('{').map_or("", |(_, labels)| labels);
    let pairs = labels.trim_end_matches('}').split(',');
    pairs.filter_map(|pair| Some(pair.split_once('=')?.0))
}

#[tokio::test]
async fn every_metric_of_the_table_is_seen_to_move_and_there_is_no_other() {
    let world = World::start().await;
    world.mode_is("redis").await;
    let mut seen = Seen::default();
    world.round().await;
    seen.look(&world).await;
    world.trouble(async || seen.look(&world).await).await;
    eventually("keys grow old", async || {
        (world.gateway.metric("onemind_jwks_age_seconds").await > 0.5).then_some(())
    })
    .await;
    seen.look(&world).await;
    // An older process drains as long as somebody holds on to it.
    let socket = WebSocket::open(&world.gateway, "/ws", &[]).await;
    world.gateway.upgrade().await;
    seen.look(&world).await;
    drop(socket);
    for row in Metrics::ROWS {
        let most = seen.most.get(row.name);
        let excused = UNMOVED.iter().any(|(name, _)| *name == row.name);
        seen.faults.extend(match most {
            None => Some(format!("never shown: {}", row.name)),
            Some(most) if (*most > 0.0) == excused => Some(format!("{}: {most}", row.name)),
            Some(_) => None,
        });
    }
    assert!(seen.faults.is_empty(), "{:#?}", seen.faults);
}

#[tokio::test]
async fn nothing_that_callers_make_up_becomes_a_label() {
    let world = World::start().await;
    world.mode_is("redis").await;
    let made_up = "madeup";
    let mut client = Client::connect(&world.gateway).await;
    let path = format!("/{made_up}?{made_up}={made_up}");
    for (method, target) in [("MADEUP", path.as_str()), ("GET", &path), ("GET", "/known")] {
        let headers = [
            ("host", "madeup.test"),
            ("user-agent", made_up),
            ("x-api-key", made_up),
            ("x-request-id", made_up),
            ("origin", "https://madeup.test"),
            ("x-forwarded-for", made_up),
        ];
        client.request(method, target, &headers, b"").await;
    }
    for model in [made_up, "openai/madeup", "nobody/madeup"] {
        world.ask(model, false).await.unwrap();
    }
    let page = world.gateway.admin("GET", "/metrics").await.text();
    let told: Vec<_> = page
        .lines()
        .filter(|line| line.to_lowercase().contains(made_up))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
}
