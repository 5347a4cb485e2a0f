//! Alert rules: valid, tested one by one, each with a runbook, and only of metrics that exist.

use crate::harness::promtool;
use onemind_gateway::observe::metrics::{Metrics, Row};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

const FOLDER: &str = "conf/prometheus";
const HEADINGS: [&str; 5] = [
    "## What it means",
    "## What users see",
    "## How to confirm",
    "## What to do",
    "## How to know it is over",
];

/// All rules of the file, alerts and records, as they are written.
fn rules() -> Vec<Value> {
    let document = read_yaml(&Path::new(FOLDER).join("rules.yaml"));
    let groups = document["groups"].as_array().unwrap().clone();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

fn alerts() -> Vec<Value> {
    let of_alerts = |rule: &Value| rule["alert"].is_string();
    rules().into_iter().filter(of_alerts).collect()
}

fn names() -> BTreeSet<String> {
    alerts().iter().map(|rule| text(&rule["alert"])).collect()
}

fn read_yaml(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Names without their endings of the files with this ending.
fn stems(folder: &str, ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|is| is == ending))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn prometheus_takes_the_rules_and_the_example() {
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["check", "config", "prometheus.yaml"],
    ] {
        let arguments = arguments.each_ref().map(|word| word as &dyn Display);
        let (fine, said) = promtool(Path::new(FOLDER), &arguments);
        assert!(fine, "{said}");
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let folder = Path::new(FOLDER).join("tests");
    let files: Vec<String> = stems(folder.to_str().unwrap(), "yaml")
        .iter()
        .map(|name| format!("{name}.yaml"))
        .collect();
    let mut arguments: Vec<&dyn Display> = vec![&"test", &"rules"];
    arguments.extend(files.iter().map(|file| file as &dyn Display));
    let (fine, said) = promtool(&folder, &arguments);
    assert!(fine, "{said}");
}

#[test]
fn each_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on() {
    for rule in alerts() {
        let name = text(&rule["alert"]);
        let severity = text(&rule["labels"]["severity"]);
        assert!(
            ["critical", "warning"].contains(&severity.as_str()),
            "{name}"
        );
        let annotations = &rule["annotations"];
        assert!(!text(&annotations["summary"]).is_empty(), "{name}");
        let description = text(&annotations["description"]);
        assert!(description.contains("{{ $labels."), "{name}: {description}");
        let runbook = text(&annotations["runbook_url"]);
        assert_eq!(runbook, format!("docs/runbooks/{name}.md"));
    }
}

#[test]
fn each_alert_has_a_unit_test_for_each_severity_and_one_of_silence() {
    let tested = stems(&format!("{FOLDER}/tests"), "yaml");
    assert_eq!(tested, names(), "one file of tests for each alert");
    for name in names() {
        let of_name = |rule: &Value| rule["alert"] == name.as_str();
        let severities: BTreeSet<String> = alerts()
            .iter()
            .filter(|rule| of_name(rule))
            .map(|rule| text(&rule["labels"]["severity"]))
            .collect();
        let document = read_yaml(&Path::new(FOLDER).join(format!("tests/{name}.yaml")));
        let (mut fires, mut is_silent) = (BTreeSet::new(), false);
        for case in document["tests"].as_array().unwrap() {
            for look in case["alert_rule_test"].as_array().unwrap() {
                assert_eq!(look["alertname"], name.as_str());
                let expected = look["exp_alerts"].as_array().cloned().unwrap_or_default();
                is_silent |= expected.is_empty();
                let of = |alert: &Value| text(&alert["exp_labels"]["severity"]);
                fires.extend(expected.iter().map(of));
            }
        }
        assert_eq!(fires, severities, "{name}");
        assert!(is_silent, "{name}: no test of when it does not fire");
    }
}

#[test]
fn each_alert_has_a_runbook_that_says_it_all() {
    let mut pages = stems("docs/runbooks", "md");
    assert!(pages.remove("README"));
    assert_eq!(pages, names(), "one page for each alert");
    let index = std::fs::read_to_string("docs/runbooks/README.md").unwrap();
    for name in names() {
        assert!(index.contains(&format!("[{name}]({name}.md)")), "{name}");
        let page = std::fs::read_to_string(format!("docs/runbooks/{name}.md")).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        let at: Vec<_> = HEADINGS.iter().map(|heading| page.find(heading)).collect();
        assert!(
            at.iter().all(Option::is_some) && at.is_sorted(),
            "{name}: {at:?}"
        );
        for link in page.split("](").skip(1) {
            let file = PathBuf::from("docs/runbooks").join(link.split(')').next().unwrap());
            assert!(file.exists(), "{name}: {file:?}");
        }
    }
}

#[test]
fn each_alert_was_provoked_in_a_running_gateway() {
    let tests = include_str!("runbooks.rs");
    let missing: Vec<_> = names()
        .into_iter()
        .filter(|name| !tests.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_metric_of_a_rule_exists_with_its_labels() {
    let rules = rules();
    let records: BTreeSet<String> = rules.iter().map(|rule| text(&rule["record"])).collect();
    for rule in &rules {
        let expression = text(&rule["expr"]);
        let mut labels = BTreeSet::from(["job", "instance", "le"]);
        let names = words(&without_strings(&expression));
        for name in names.iter().filter(|name| name.contains(':')) {
            assert!(records.contains(name), "no rule records {name}");
        }
        let metrics = names.iter().filter(|name| is_metric(name));
        for name in metrics {
            let row = row_of(name).unwrap_or_else(|| panic!("no metric {name}: {expression}"));
            labels.extend(row.labels);
        }
        // What `label_replace` makes is a label as well.
        labels.extend(
            expression
                .contains("\"provider\", \"$1\"")
                .then_some("provider"),
        );
        for label in named_labels(&without_strings(&expression)) {
            assert!(
                labels.contains(label.as_str()),
                "no label {label}: {expression}"
            );
        }
    }
}

fn is_metric(name: &str) -> bool {
    let ours = ["onemind_", "gen_ai_", "process_"];
    ours.iter().any(|prefix| name.starts_with(prefix))
}

/// The row of a series; those of a histogram have three names.
fn row_of(name: &str) -> Option<&'static Row> {
    let rows = Metrics::ROWS.iter();
    rows.into_iter().find(|row| {
        let of_histogram = name.strip_prefix(row.name).unwrap_or("no");
        name == row.name && row.kind != "histogram"
            || row.kind == "histogram" && ["_bucket", "_sum", "_count"].contains(&of_histogram)
    })
}

fn without_strings(expression: &str) -> String {
    let parts = expression.split('"').step_by(2);
    parts.collect::<Vec<_>>().join("\"\"")
}

fn words(expression: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !is_part(c));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// In `by (…)`, `on (…)` and `{…}`.
fn named_labels(expression: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for (open, close) in [("by (", ')'), ("on (", ')'), ("{", '}')] {
        for part in expression.split(open).skip(1) {
            labels.extend(words(part.split(close).next().unwrap()));
        }
    }
    labels
}

#[test]
fn a_wrong_name_or_label_would_be_seen() {
    assert!(row_of("onemind_http_requests_total").is_some());
    assert!(row_of("onemind_http_request_duration_seconds_bucket").is_some());
    for wrong in [
        "onemind_http_requests",
        "onemind_http_request_duration_seconds",
        "onemind_connections_count",
    ] {
        assert!(row_of(wrong).is_none(), "{wrong}");
    }
    let expression =
        without_strings("sum by (job, x) (rate(a_total{y=\"z w\",q=~\"1\"}[5m])) on (p) b");
    assert_eq!(named_labels(&expression), ["job", "x", "p", "y", "q"]);
}
