//! The report of `make load`, from samples that are known: what is counted where, what passes, and what the page shows.

#[path = "bench/shared/percentile.rs"]
mod percentile;
#[path = "bench/load/report/mod.rs"]
mod report;

use percentile::{milliseconds, of_thousand};
use proptest::prelude::*;
use report::book::{Book, Mark, Trouble};
use report::plan::{Event, Plan};
use report::{Machine, Report};

/// Each second has 100 answers of 1 to 100 ms.
fn good_book(plan: &Plan) -> Book {
    let seconds = report::book::whole(plan.seconds());
    let mut book = Book::of(seconds);
    for (second, at) in (0_u32..).zip(&mut book.seconds) {
        at.answers = (1..=100).map(|ms| ms * 1_000).collect();
        at.ways = vec![2_000, 3_000];
        at.echoes = vec![4_000];
        at.memory = Some(30.0 + f64::from(second) / 10.0);
        at.cores = Some(0.25);
        let tenths = (0..10).map(|tenth| f64::from(second) + f64::from(tenth) / 10.0);
        book.done.extend(tenths);
    }
    for (second, event) in plan.events() {
        let mark = Mark {
            second,
            event,
            took_ms: 12.0,
            fault: None,
        };
        book.marks.push(mark);
    }
    book
}

fn machine() -> Machine {
    Machine {
        cpu: "A <processor>".to_owned(),
        cores: 2,
        memory_mib: 4_096,
        kernel: "6.1".to_owned(),
        load_before: 0.5,
        onemind: "onemind 0.1.0".to_owned(),
        redis: "Redis server v=7".to_owned(),
        arrangement: "one and one".to_owned(),
    }
}

fn report(plan: &Plan, book: &Book) -> Report {
    let begun = "Tue, 24 Nov 2026 20:00:00 GMT";
    Report::of(begun.to_owned(), machine(), plan, book)
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let hundred: Vec<u32> = (1..=100).collect();
    for (sorted, share, expected) in [
        (&hundred[..], 500, Some(50)),
        (&hundred, 950, Some(95)),
        (&hundred, 990, Some(99)),
        (&hundred, 999, Some(100)),
        (&hundred, 1_000, Some(100)),
        (&hundred, 0, Some(1)),
        (&[7], 500, Some(7)),
        (&[1, 2], 500, Some(1)),
        (&[1, 2, 3], 500, Some(2)),
        (&[], 990, None),
    ] {
        assert_eq!(
            of_thousand(sorted, share),
            expected,
            "{share} of {sorted:?}"
        );
    }
    assert_eq!(milliseconds(&mut [3_000, 1_500, 2_000], 500), Some(2.0));
}

proptest! {
    #[test]
    fn so_many_take_no_longer_and_one_fewer_would_not_do(
        mut times in prop::collection::vec(0_u32..50, 1..300),
        share in 1_usize..=1_000,
    ) {
        times.sort_unstable();
        let found = of_thousand(&times, share).unwrap();
        let no_longer = times.iter().filter(|time| **time <= found).count();
        let shorter = times.iter().filter(|time| **time < found).count();
        prop_assert!(no_longer * 1_000 >= times.len() * share);
        prop_assert!(shorter * 1_000 < times.len() * share);
    }
}

#[test]
fn the_plan_does_everything_in_its_time() {
    for seconds in [24.0, 60.0, 240.0, 3_600.0] {
        let plan = Plan::of_everything(seconds);
        assert!((plan.seconds() - seconds).abs() < 1e-6);
        let users: Vec<u32> = plan.phases.iter().map(|phase| phase.users).collect();
        assert_eq!(users[..3], [100, 500, 1_000]);
        assert_eq!(plan.users(), 1_000);
        let (times, events): (Vec<f64>, Vec<Event>) = plan.events().into_iter().unzip();
        assert!(times.is_sorted() && times.iter().all(|time| *time < seconds));
        assert_eq!(
            events,
            [
                Event::BackendKilled,
                Event::BackendBack,
                Event::RedisKilled,
                Event::RedisBack,
                Event::Reload,
                Event::Upgrade
            ]
        );
    }
    let plan = Plan::of_everything(240.0);
    for (second, phase) in [
        (0.0, 0),
        (39.9, 0),
        (40.0, 1),
        (125.0, 3),
        (239.0, 6),
        (999.0, 6),
    ] {
        assert_eq!(plan.phase_at(second), phase, "{second}");
    }
    let peak = Plan::of_a_peak(40.0);
    assert!((peak.seconds() - 80.0).abs() < 1e-6 && peak.events().is_empty());
}

#[test]
fn figures_of_a_good_run_pass() {
    let plan = Plan::of_everything(48.0);
    let report = report(&plan, &good_book(&plan));
    assert!(report.passed);
    let first = &report.phases[0];
    assert_eq!((first.requests, first.failed), (808, 0));
    assert_eq!((first.p50_ms, first.p99_ms), (Some(50.0), Some(99.0)));
    assert_eq!(
        (first.event_p99_ms, first.echo_p99_ms),
        (Some(3.0), Some(4.0))
    );
    assert_eq!(first.memory_mib, Some(30.7));
    assert_eq!(first.cores, Some(0.25));
    let all: usize = report.phases.iter().map(|phase| phase.requests).sum();
    assert_eq!(all, 48 * 101);
    assert_eq!(report.seconds.len(), 48);
    assert_eq!(report.seconds[3].p95_ms, Some(95.0));
}

/// What spoils a run, and the criterion that says so; in the fourth phase.
#[test]
fn each_criterion_can_fail() {
    type Spoil = fn(&mut Book);
    let plan = Plan::of_everything(48.0);
    let cases: [(&str, &[&str], Spoil); 6] = [
        ("slow", &["p99 < 500 ms"], |book| {
            book.at(25.0).answers.extend([600_000; 20]);
        }),
        ("failed", &["errors < 0.1 %"], |book| {
            book.fail(25.0, Trouble::Answer, "status 502");
        }),
        ("refused", &["errors < 0.1 %", "zero downtime"], |book| {
            book.fail(25.0, Trouble::Connection, "connect: refused");
        }),
        ("lost", &["errors < 0.1 %"], |book| {
            book.at(25.0).lost_events = 1;
        }),
        ("silent", &["zero downtime"], |book| {
            book.done.retain(|at| !(24.6..26.0).contains(at));
        }),
        (
            "dead",
            &["p99 < 500 ms", "errors < 0.1 %", "zero downtime"],
            |book| {
                for second in &mut book.seconds[24..30] {
                    *second = report::book::Second::default();
                }
                book.done.retain(|at| !(24.0..30.0).contains(at));
            },
        ),
    ];
    for (name, criteria, spoil) in cases {
        let mut book = good_book(&plan);
        spoil(&mut book);
        let report = report(&plan, &book);
        assert!(!report.passed, "{name}");
        for (nth, phase) in report.phases.iter().enumerate() {
            let missed = phase.verdicts.iter().filter(|verdict| !verdict.met);
            let missed: Vec<_> = missed.map(|verdict| verdict.criterion).collect();
            let expected = if nth == 3 { criteria } else { &[] };
            assert_eq!(missed, expected, "{name}: {}", phase.name);
        }
    }
}

#[test]
fn an_injection_that_did_not_happen_fails_the_run() {
    let plan = Plan::of_everything(48.0);
    let mut book = good_book(&plan);
    book.marks[5].fault = Some("it failed: <why>".to_owned());
    let report = report(&plan, &book);
    assert!(!report.passed);
    assert!(report::page::page(&report).contains("it failed: &lt;why&gt;"));
    assert!(report::table::table(&report).contains("FAILED"));
}

#[test]
fn the_page_shows_all_of_it_and_needs_nothing_else() {
    let plan = Plan::of_everything(48.0);
    let mut book = good_book(&plan);
    book.at(7.0).answers.clear();
    let page = report::page::page(&report(&plan, &book));
    let count = |what: &str| page.matches(what).count();
    assert_eq!(count("<svg"), 6);
    assert_eq!(count("class=\"curve "), 9);
    assert_eq!(count("class=\"event\""), 6 * 6);
    assert_eq!(count("class=\"badge\""), 6 * 6);
    assert_eq!(count(">pass</span>"), 7 * 3);
    assert!(page.contains("A &lt;processor&gt;"));
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("name=\"viewport\""));
    for outside in [
        "http://", "https://", "<script", "src=", "@import", "NaN", "inf",
    ] {
        assert_eq!(count(outside), 0, "{outside}");
    }
    for element in [
        "div", "figure", "table", "span", "svg", "tr", "td", "p", "body", "html",
    ] {
        let opened = count(&format!("<{element}>")) + count(&format!("<{element} "));
        assert_eq!(opened, count(&format!("</{element}>")), "{element}");
    }
    // A second without an answer is a gap, not a line through it: the curve begins twice.
    let curve = page.split("class=\"curve a\" d=\"").nth(1).unwrap();
    let path = curve.split('"').next().unwrap();
    assert_eq!(path.matches('M').count(), 2, "{path}");
    assert!(path.starts_with("M10.4 "), "{path}");
}

#[test]
fn what_machines_read_has_the_same_figures() {
    let plan = Plan::of_a_peak(8.0);
    let report = report(&plan, &good_book(&plan));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["passed"], true);
    assert_eq!(json["phases"][1]["name"], "peak");
    assert_eq!(json["phases"][1]["p99_ms"], 99.0);
    assert_eq!(json["phases"][1]["verdicts"][0]["met"], true);
    assert_eq!(json["seconds"][15]["requests"], 101);
    assert_eq!(json["machine"]["cores"], 2);
}
