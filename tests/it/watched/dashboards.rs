//! Every query of every dashboard, asked of a real Prometheus that scrapes a gateway at work.

use super::World;
use crate::harness::{DEADLINE, Load, Prometheus, Sample};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// Variables of Grafana, as it would fill them in.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "20s"), ("$__range", "1m")];

/// Queries that a dashboard, its annotations and its variables make, each with its place.
fn queries() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/grafana");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 5, "{files:?}");
    files.iter().flat_map(|file| queries_of(file)).collect()
}

fn queries_of(file: &Path) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let variables: Vec<Value> = list(&dashboard["templating"]["list"]);
    let names = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap().to_owned());
    let names: Vec<String> = names.collect();
    let filled_in = |promql: &str| {
        let mut filled = promql.to_owned();
        for (variable, value) in VARIABLES {
            filled = filled.replace(variable, value);
        }
        for name in &names {
            filled = filled.replace(&format!("\"${name}\""), "\".*\"");
        }
        filled
    };
    let mut found = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            let place = format!("{name}: {}: {}", panel["title"], target["legendFormat"]);
            found.push((place, filled_in(target["expr"].as_str().unwrap())));
        }
    }
    for mark in list(&dashboard["annotations"]["list"]) {
        found.push((
            format!("{name}: {}", mark["name"]),
            filled_in(mark["expr"].as_str().unwrap()),
        ));
    }
    for variable in &variables {
        if let Some(listed) = variable["definition"].as_str() {
            let listed = listed
                .strip_prefix("label_values(")
                .unwrap()
                .trim_end_matches(')');
            let (metric, label) = listed.split_once(", ").unwrap();
            found.push((
                format!("{name}: ${label}"),
                format!("group by ({label}) ({metric})"),
            ));
        }
    }
    found
}

fn says_something(samples: &[Sample]) -> bool {
    samples.iter().any(|sample| !sample.value.is_nan())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_every_dashboard_is_answered_with_data() {
    let world = World::start().await;
    world.mode_is("redis").await;
    let address = world.gateway.address("admin");
    let prometheus = Prometheus::start(&[("onemind", address)], &[]).await;
    let load = Load::start(&world.gateway, "/", 40, 2);
    world.round().await;
    world.trouble(async || {}).await;
    let queries = queries();
    assert!(queries.len() > 100, "{}", queries.len());
    let (mut open, started) = (queries, Instant::now());
    while !open.is_empty() {
        assert!(started.elapsed() < 2 * DEADLINE, "without data: {open:#?}");
        world.round().await;
        let mut without = Vec::new();
        for (place, promql) in open {
            if !says_something(&prometheus.query(&promql).await) {
                without.push((place, promql));
            }
        }
        open = without;
    }
    load.stop_without_failures().await;
}
