//! The dashboards under `conf/grafana`: written here as data, drawn from the table of metrics, held to it.
//!
//! A metric that is renamed, a label that is dropped, or a file that is changed by hand fails a test.
//! `GOLDEN=write cargo test --test dashboards` writes the files; read the difference before you commit it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the whole of this crate is tests: a failure here is a failed test"
)]

mod deploys;
mod grafana;
mod limits;
mod models;
mod overview;
mod panel;
mod pools;
mod promql;

use grafana::{INSTANCE, draw, row_of};
use onemind_gateway::base::ending::Ending;
use onemind_gateway::observe::metrics::{Row, Unit};
use panel::{COLUMNS, Dashboard, Panel};
use promql::{Expression, Use};
use std::collections::HashSet;
use std::path::PathBuf;

fn all() -> [Dashboard; 5] {
    [
        overview::dashboard(),
        pools::dashboard(),
        limits::dashboard(),
        models::dashboard(),
        deploys::dashboard(),
    ]
}

/// Every query with the dashboard and panel it is in.
fn each(mut check: impl FnMut(&str, &Dashboard, &Panel, &panel::Query)) {
    for dashboard in all() {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let place = format!("{}, {}", dashboard.name, panel.title);
            for query in &panel.queries {
                check(
                    &format!("{place}: {}", query.promql),
                    &dashboard,
                    panel,
                    query,
                );
            }
        }
    }
}

fn row_for(place: &str, name: &str) -> &'static Row {
    row_of(name).unwrap_or_else(|| panic!("{place}: no metric is called {name}"))
}

/// Labels that a series has when it is scraped.
fn labels_of(used: &Use<'_>, row: &Row) -> HashSet<&'static str> {
    let mut labels: HashSet<_> = row.labels.iter().copied().collect();
    labels.extend(["instance", "job"]);
    if used.name.ends_with("_bucket") {
        labels.insert("le");
    }
    labels
}

#[test]
fn queries_name_metrics_and_labels_that_exist() {
    each(|place, _, _, query| {
        let expression = promql::read(query.promql);
        assert!(!expression.uses.is_empty(), "{place}");
        let mut known: HashSet<&str> = HashSet::new();
        for used in &expression.uses {
            let labels = labels_of(used, row_for(place, used.name));
            for (label, _) in &used.matchers {
                assert!(
                    labels.contains(label),
                    "{place}: {} has no label {label}",
                    used.name
                );
            }
            known.extend(labels);
        }
        // A label that a function makes is made from one that exists.
        if expression.functions.contains(&"label_replace") {
            known.insert("pool");
        }
        for label in &expression.groups {
            assert!(
                known.contains(label),
                "{place}: nothing here has a label {label}"
            );
        }
    });
}

#[test]
fn endings_are_spelled_as_the_gateway_spells_them() {
    let known: HashSet<&str> = Ending::ALL.iter().map(|ending| ending.name()).collect();
    each(|place, _, _, query| {
        for used in promql::read(query.promql).uses {
            let endings = used.matchers.iter().filter(|(label, _)| *label == "ending");
            for ending in endings.flat_map(|(_, value)| value.split('|')) {
                assert!(
                    known.contains(ending),
                    "{place}: no request ends as {ending}"
                );
            }
        }
    });
}

#[test]
fn counters_are_rates_and_gauges_are_not() {
    each(|place, _, _, query| {
        let expression = promql::read(query.promql);
        for used in &expression.uses {
            let counts = row_for(place, used.name).kind != "gauge";
            let is_rate = used.ranged && matches!(used.within, Some("rate" | "increase"));
            // How often something was done ever says when a process is older than the others.
            let told_whole = used.name == "onemind_upgrades_total";
            assert!(counts == is_rate || told_whole, "{place}: {}", used.name);
        }
        let quantile = expression.functions.contains(&"histogram_quantile");
        let buckets = expression
            .uses
            .iter()
            .any(|used| used.name.ends_with("_bucket"));
        let summed = expression.groups.contains(&"le");
        assert_eq!((quantile, quantile), (buckets, summed), "{place}");
    });
}

/// What Grafana may call the result of a query.
fn fitting(expression: &Expression<'_>, promql: &str, unit: Unit) -> &'static [&'static str] {
    let rate = expression.functions.contains(&"rate");
    match unit {
        _ if promql.contains(") / ") || promql.contains("_fds / ") => &["percentunit", "short"],
        Unit::Seconds => &["s"],
        Unit::Date if promql.contains("time()") => &["s"],
        Unit::Date => &["dateTimeFromNow"],
        Unit::Bytes if rate => &["Bps"],
        Unit::Bytes => &["bytes"],
        Unit::Tokens if rate => &["short"],
        Unit::Flag | Unit::Count if rate => &["reqps", "ops", "cps", "short"],
        Unit::Tokens | Unit::Flag | Unit::Count => &["short"],
    }
}

#[test]
fn units_are_those_of_the_metrics() {
    each(|place, _, panel, query| {
        let expression = promql::read(query.promql);
        let unit = row_for(place, expression.uses[0].name).unit();
        let fitting = fitting(&expression, query.promql, unit);
        assert!(
            fitting.contains(&panel.unit),
            "{place}: {} is none of {fitting:?}",
            panel.unit
        );
    });
}

#[test]
fn legends_name_labels_that_the_result_has() {
    each(|place, _, _, query| {
        let expression = promql::read(query.promql);
        let row = row_for(place, expression.uses[0].name);
        for label in query.legend.split("{{").skip(1) {
            let label = label.split("}}").next().unwrap();
            let aggregated = expression
                .functions
                .iter()
                .any(|name| ["sum", "max", "min", "count"].contains(name));
            let has = if aggregated {
                expression.groups.contains(&label)
            } else {
                label == "instance" || row.labels.contains(&label)
            };
            assert!(has, "{place}: the result has no label {label}");
        }
    });
}

#[test]
fn filters_are_labels_of_the_metrics_that_list_them() {
    for dashboard in all() {
        for filter in dashboard.filters {
            let labels = row_for(dashboard.name, filter.of).labels;
            assert!(
                labels.contains(&filter.label),
                "{}: {}",
                dashboard.name,
                filter.label
            );
            let mut narrowed = false;
            each(|_, other, _, query| {
                narrowed |= other.name == dashboard.name
                    && promql::read(query.promql).uses.iter().any(|used| {
                        row_of(used.name).is_some_and(|row| row.labels.contains(&filter.label))
                    });
            });
            assert!(
                narrowed,
                "{}: {} narrows nothing",
                dashboard.name, filter.label
            );
        }
    }
    assert!(row_of(INSTANCE.of).is_some());
}

#[test]
fn panels_fill_their_lines_and_do_not_overlap() {
    for dashboard in all() {
        let drawn = draw(&dashboard);
        let mut taken = HashSet::new();
        let (mut ids, mut lines) = (HashSet::new(), std::collections::BTreeMap::new());
        for panel in drawn["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    assert!(x < u64::from(COLUMNS) && taken.insert((x, y)), "{panel}");
                }
            }
            *lines.entry(of("y")).or_insert(0) += of("w");
        }
        for (line, width) in lines {
            assert_eq!(width, u64::from(COLUMNS), "{}, line {line}", dashboard.name);
        }
    }
}

#[test]
fn titles_are_told_apart() {
    for dashboard in all() {
        for row in &dashboard.rows {
            let titles: HashSet<_> = row.panels.iter().map(|panel| panel.title).collect();
            assert_eq!(
                titles.len(),
                row.panels.len(),
                "{}, {}",
                dashboard.name,
                row.title
            );
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the switch of this test")]
fn the_files_are_what_is_drawn() {
    let write = std::env::var("GOLDEN").is_ok_and(|value| value == "write");
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/grafana"));
    for dashboard in all() {
        let file = folder.join(dashboard.name).with_extension("json");
        let drawn = serde_json::to_string_pretty(&draw(&dashboard)).unwrap() + "\n";
        if write {
            std::fs::write(&file, &drawn).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        let hint = "write it with `GOLDEN=write cargo test --test dashboards`";
        assert!(
            written == drawn,
            "{} is not what is drawn: {hint}",
            file.display()
        );
    }
}
