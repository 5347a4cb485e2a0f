//! The exposition as a scraper sees it.

use super::*;
use crate::base::ending::Ending;
use crate::base::usage::Usage;
use http::Method;
use std::time::Duration;

fn finish(metrics: &Arc<Metrics>, route: &RouteMetrics, status: u16) {
    let listener = metrics.listener("http");
    route.finished(&Finished {
        listener: &listener,
        method: &Method::GET,
        status,
        ending: Ending::Completed,
        duration: Duration::from_millis(80),
        bytes_in: 10,
        bytes_out: 1000,
    });
}

/// Everything that can be counted, counted once.
fn busy() -> (Arc<Metrics>, Vec<Arc<dyn std::any::Any + Send + Sync>>) {
    let metrics = Metrics::new("1.2.3");
    let route = metrics.route("app \"quoted\"\nline");
    finish(&metrics, &route, 200);
    drop(route.websocket_opened());
    route.websocket_rejected("full");
    let pool = metrics.pool("app");
    pool.retried("ok");
    pool.queue_rejected("full");
    pool.looked_up("app.internal", false);
    pool.connect.observe(0.01);
    drop(pool.waiting());
    let endpoint = metrics.endpoint("app", "10.0.0.1:80");
    endpoint.attempted(Some(200));
    endpoint.attempted(None);
    endpoint.checked("ok");
    endpoint.ejected("connect");
    let listener = metrics.listener("http");
    drop(listener.accepted());
    listener.rejected("full");
    listener.shed("in_flight");
    listener.handshake("ok");
    let identity = metrics.identity("users");
    identity.known();
    identity.refused("expired");
    identity.fetched(true);
    identity.age(Duration::from_secs(7));
    let model = metrics.model("smart", "openai");
    model.attempted(None);
    model.attempted(Some("timed_out"));
    model.ended(&CallEnded {
        operation: "chat",
        ending: Ending::Completed,
        duration: Duration::from_secs(2),
        first_token: Some(Duration::from_millis(300)),
        queued: Duration::ZERO,
        usage: Usage {
            input: 10,
            output: 20,
            ..Usage::default()
        },
        unreadable: 1,
        fallback: true,
    });
    metrics.token_fetched("vertex", true);
    metrics.models_now(
        std::iter::once(("openai/gpt-5", true)),
        std::iter::once(("openai", 1, 0)),
    );
    let rule = metrics.rule("per_user");
    rule.refused.inc();
    metrics.limits().set_mode("redis");
    metrics.traces().dropped.inc();
    let store = metrics.store();
    store.duration.observe(0.000_07);
    assert!(store.answers(true) && !store.answers(true) && store.answers(false));
    configured(&metrics);
    (
        metrics,
        vec![route, pool, endpoint, listener, identity, rule, model],
    )
}

fn configured(metrics: &Metrics) {
    metrics.started(1_600_000_000, 2);
    metrics.revision_is(1);
    metrics.reloaded(true, 1_700_000_000);
    metrics.certificate("example.com", 1_800_000_000);
}

fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = metrics.render();
    let mut lines = text.lines();
    lines.find_map(|line| {
        line.strip_prefix(series)?
            .strip_prefix(' ')
            .map(str::to_owned)
    })
}

#[test]
fn every_row_is_shown_with_its_help_and_type() {
    let (metrics, _held) = busy();
    let text = metrics.render();
    for Row {
        name, kind, help, ..
    } in Metrics::ROWS
    {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}");
        assert!(text.contains(&head), "{head}\nin\n{text}");
    }
}

/// Every label, and what bounds the values that it can have.
const BOUNDS: [(&str, &str); 22] = [
    ("certificate", "the configuration"),
    ("class", "the code: classes of tokens"),
    ("code", "what is a status, and two names for all else"),
    ("ending", "the code"),
    (
        "endpoint",
        "the configuration, and what its names resolve to",
    ),
    ("listener", "the configuration"),
    (
        "method",
        "the methods that are standard and one name for others; or the configuration",
    ),
    ("mode", "the code"),
    (
        "model",
        "the configuration, which names what it does not list by its wildcard",
    ),
    ("name", "the configuration: names of endpoints"),
    ("operation", "the code"),
    ("outcome", "the code"),
    ("phase", "the code"),
    ("pool", "the configuration"),
    ("provider", "the configuration"),
    ("reason", "the code"),
    ("result", "the code"),
    ("route", "the configuration, and `none`"),
    ("rule", "the configuration"),
    ("target", "the configuration"),
    ("type", "the code"),
    ("version", "the program"),
];

#[test]
fn rows_follow_the_naming_rules() {
    for row in Metrics::ROWS {
        let counter = row.kind == "counter";
        assert_eq!(row.name.ends_with("_total"), counter, "{}", row.name);
        assert!(row.help.ends_with('.'), "{}", row.name);
        assert!(
            row.labels
                .iter()
                .all(|label| BOUNDS.iter().any(|(known, _)| known == label)),
            "{row:?}"
        );
    }
    for (label, _) in BOUNDS {
        let is_used = |row: &Row| row.labels.contains(&label);
        assert!(Metrics::ROWS.iter().any(is_used), "{label}");
    }
}

/// A sample is a name, labels in braces with escaped values, and a number.
fn is_sample(line: &str) -> bool {
    let Some((series, value)) = line.rsplit_once(' ') else {
        return false;
    };
    let name = series.split('{').next().unwrap_or_default();
    let labels = &series[name.len()..];
    let braces = labels.is_empty() || (labels.starts_with('{') && labels.ends_with("\"}"));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    value.parse::<f64>().is_ok() && !name.is_empty() && name.chars().all(word) && braces
}

#[test]
fn each_line_of_the_exposition_parses() {
    let (metrics, _held) = busy();
    let text = metrics.render();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        let comment = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
        assert!(comment || is_sample(line), "{line}");
    }
    assert!(text.contains(r#"route="app \"quoted\"\nline""#), "{text}");
}

#[test]
fn a_request_moves_every_metric_of_its_route() {
    let metrics = Metrics::new("1.2.3");
    let route = metrics.route("app");
    finish(&metrics, &route, 200);
    finish(&metrics, &route, 101);
    for (series, expected) in [
        (
            r#"onemind_http_requests_total{code="200",listener="http",method="GET",route="app"}"#,
            "1",
        ),
        (
            r#"onemind_http_requests_total{code="101",listener="http",method="GET",route="app"}"#,
            "1",
        ),
        (r#"onemind_http_request_bytes_total{route="app"}"#, "20"),
        (r#"onemind_http_response_bytes_total{route="app"}"#, "2000"),
        (
            r#"onemind_requests_ended_total{ending="completed",route="app"}"#,
            "2",
        ),
        (
            r#"onemind_http_request_duration_seconds_bucket{route="app",le="0.075"}"#,
            "0",
        ),
        (
            r#"onemind_http_request_duration_seconds_bucket{route="app",le="0.1"}"#,
            "1",
        ),
        (
            r#"onemind_http_request_duration_seconds_count{route="app"}"#,
            "1",
        ),
        (r#"onemind_build_info{version="1.2.3"}"#, "1"),
    ] {
        assert_eq!(
            value(&metrics, series).as_deref(),
            Some(expected),
            "{series}"
        );
    }
}

#[test]
fn a_route_that_was_never_asked_for_adds_no_series() {
    let metrics = Metrics::new("1.2.3");
    let before = metrics.render().lines().count();
    let _routes: Vec<_> = (0..1000).map(|at| metrics.route(&at.to_string())).collect();
    assert_eq!(metrics.render().lines().count(), before);
}

#[test]
fn series_leave_with_what_they_describe() {
    let (metrics, held) = busy();
    assert!(metrics.render().contains("10.0.0.1:80"));
    drop(held);
    metrics.forget_certificate("example.com");
    let text = metrics.render();
    for word in ["route=", "pool=", "endpoint=", "listener=", "certificate="] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}

#[test]
fn a_new_snapshot_takes_over_what_the_old_one_counted() {
    let metrics = Metrics::new("1.2.3");
    let series = r#"onemind_requests_ended_total{ending="completed",route="app"}"#;
    let old = metrics.route("app");
    finish(&metrics, &old, 200);
    let new = metrics.route("app");
    drop(old);
    finish(&metrics, &new, 200);
    assert_eq!(value(&metrics, series).as_deref(), Some("2"));
    drop(new);
    assert_eq!(value(&metrics, series), None);
}

#[test]
fn a_refused_reload_keeps_the_time_of_the_last_good_one() {
    let metrics = Metrics::new("1.2.3");
    metrics.started(50, 4);
    let name = "onemind_config_last_reload_timestamp_seconds";
    assert_eq!(value(&metrics, name).as_deref(), Some("50"));
    for (succeeded, at, successful) in [(true, 100, "1"), (false, 200, "0"), (true, 300, "1")] {
        metrics.reloaded(succeeded, at);
        let shown = value(&metrics, "onemind_config_last_reload_successful");
        assert_eq!(shown.as_deref(), Some(successful));
    }
    assert_eq!(value(&metrics, name).as_deref(), Some("300"));
    let failed = value(&metrics, r#"onemind_config_reloads_total{result="failed"}"#);
    assert_eq!(failed.as_deref(), Some("1"));
}

#[test]
fn a_gauge_goes_back_when_its_guard_is_dropped() {
    let metrics = Metrics::new("1.2.3");
    let listener = metrics.listener("http");
    let series = r#"onemind_http_requests_in_flight{listener="http"}"#;
    let guards = [listener.request_began(), listener.request_began()];
    assert_eq!(value(&metrics, series).as_deref(), Some("2"));
    drop(guards);
    assert_eq!(value(&metrics, series).as_deref(), Some("0"));
}

#[test]
fn only_a_change_of_a_name_s_fate_is_news() {
    let metrics = Metrics::new("1.2.3");
    let pool = metrics.pool("app");
    for (succeeded, news) in [(true, false), (false, true), (false, false), (true, true)] {
        assert_eq!(pool.looked_up("app.internal", succeeded), news);
    }
}

#[test]
fn many_threads_that_count_and_forget_leave_nothing_behind() {
    let metrics = Metrics::new("1.2.3");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for at in 0..200_u16 {
                    finish(&metrics, &metrics.route("app"), 200 + at % 5);
                }
            });
        }
    });
    assert!(!metrics.render().contains("route="));
}
