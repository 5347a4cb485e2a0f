//! Frames as a terminal shows them.

use super::frame::{Gone, frame};
use super::history::History;
use super::paint::{Look, plain, screen};
use super::place;
use crate::admin::{Endpoint, Live, Model, Pool, Provider, Route, Rows, Rule, Target};
use crate::observe::metrics::{ModelFigures, RouteFigures, RuleFigures, Spread};

const GOLDEN: &str = include_str!("../../../tests/golden/live/frame_80x24.txt");

fn took(times: u64) -> Spread {
    Spread {
        bounds: vec![0.005, 0.01, 0.05, 0.1],
        counts: vec![50 * times, 90 * times, 98 * times, 100 * times],
        total: 100 * times,
        sum: 0.0,
    }
}

fn endpoint(name: &str, state: &str, requests: u64, failures: u64) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        state: state.to_owned(),
        in_flight: requests % 7,
        requests,
        failures,
        last_error: (failures > 0).then(|| "connect: refused\x1b[2J".to_owned()),
    }
}

/// A gateway after so many seconds of the same traffic.
fn live(second: u32) -> Live {
    let (times, count) = (u64::from(second), f64::from(second));
    let mut live = Live {
        pid: 4_711,
        version: "0.1.0".to_owned(),
        revision: 3,
        uptime_s: 93_784.0 + count,
        config_ok: true,
        ..Live::default()
    };
    live.traffic.requests = 100.0 * count;
    live.traffic.errors = 0.5 * count;
    live.traffic.in_flight = 12.0;
    live.traffic.connections = 321.0;
    live.traffic.websockets = 7.0;
    live.traffic.bytes_in = 20_000.0 * count;
    live.traffic.bytes_out = 3_000_000.0 * count;
    live.traffic.duration = took(times);
    live.process.cpu_seconds = Some(0.12 * count);
    live.process.memory_bytes = Some(64e6);
    live.process.open_files = Some(345.0);
    live.limits.mode = "redis".to_owned();
    live.limits.instances = 3;
    let endpoints = (0..12).map(|nth| match nth {
        9 => endpoint("10.0.0.9:3000", "unhealthy", 90, times),
        nth => endpoint(&format!("10.0.0.{nth}:3000"), "up", 10 * times, 0),
    });
    let pool = |name: &str, endpoints: Rows<Endpoint>| Pool {
        name: name.to_owned(),
        endpoints,
        ..Pool::default()
    };
    live.pools = [
        pool("app", endpoints.collect()),
        pool("a pool\x1b[31m of a name far too long", Rows::default()),
    ]
    .into_iter()
    .collect();
    let figures = RouteFigures {
        requests: 100.0 * count,
        errors: 0.5 * count,
        websockets: 7.0,
        duration: took(times),
    };
    let name = "api".to_owned();
    live.routes = std::iter::once(Route { name, figures }).collect();
    live
}

fn with_models(mut live: Live) -> Live {
    let figures = ModelFigures {
        calls: live.traffic.requests,
        tokens_in: 1_000.0 * live.traffic.requests,
        tokens_out: 10.0 * live.traffic.requests,
        first_token: live.traffic.duration.clone(),
        ..ModelFigures::default()
    };
    live.models = std::iter::once(Model {
        name: "smart".to_owned(),
        provider: "openai".to_owned(),
        figures,
    })
    .collect();
    let target = |name: &str, breaker: &str, open_s| Target {
        name: name.to_owned(),
        breaker: breaker.to_owned(),
        open_s,
        in_flight: 4,
        first_token_s: Some(0.32),
    };
    live.targets = [
        target("openai/gpt-5", "open", Some(12.0)),
        target("anthropic/claude", "closed", None),
    ]
    .into_iter()
    .collect();
    live.providers = std::iter::once(Provider {
        name: "openai".to_owned(),
        enabled: true,
        keys: 2,
        resting: 1,
    })
    .collect();
    let figures = RuleFigures {
        allowed: live.traffic.requests,
        refused: 0.2 * live.traffic.requests,
    };
    let name = "per_user".to_owned();
    live.rules = std::iter::once(Rule { name, figures }).collect();
    live
}

fn watched(seconds: u32, of: impl Fn(u32) -> Live) -> History {
    let mut history = History::default();
    for second in 1..=seconds {
        history.push(of(second));
    }
    history
}

fn drawn(history: &History, size: (usize, usize)) -> String {
    plain(&frame("127.0.0.1:9090", history, None, size, false))
}

#[test]
fn a_terminal_of_80_columns_and_24_lines_shows_what_matters() {
    let drawn = drawn(&watched(40, live), (80, 24));
    assert_eq!(drawn, GOLDEN, "\n{drawn}");
}

#[test]
fn a_frame_never_leaves_its_terminal() {
    let history = watched(70, |second| with_models(live(second)));
    for width in [40, 80, 81, 120, 300] {
        for height in [0, 1, 2, 5, 10, 24, 60] {
            for unicode in [true, false] {
                let lines = frame("a:1", &history, None, (width, height), unicode);
                assert!(lines.len() <= height, "{} of {height}", lines.len());
                let widest = lines.iter().map(super::paint::Line::width).max();
                assert!(widest.unwrap_or(0) <= width, "{width} x {height}");
                let look = Look {
                    colour: false,
                    unicode,
                };
                let sent = screen(&lines, look);
                let sent = ["\x1b[H", "\x1b[K", "\x1b[J", "\r\n"]
                    .iter()
                    .fold(sent, |sent, ours| sent.replace(ours, ""));
                assert!(!sent.chars().any(char::is_control), "{sent:?}");
            }
        }
    }
}

#[test]
fn models_targets_keys_and_limits_are_shown_where_there_are_any() {
    let drawn = drawn(
        &watched(9, |second| with_models(live(second))),
        (120, usize::MAX),
    );
    for (beginning, part) in [
        (" MODEL", "1ST WORD"),
        (" smart", "openai"),
        (" openai/gpt-5", "open          12 s          4    320 ms"),
        (" openai", "some rest        2          1"),
        (" per_user", "100         20"),
        (" tokens in/s", "100k"),
        (" app", "connect: refused?[2J"),
    ] {
        let mut lines = drawn.lines();
        let shown = lines.any(|line| line.starts_with(beginning) && line.contains(part));
        assert!(shown, "no {beginning}…{part} in\n{drawn}");
    }
}

#[test]
fn a_gateway_that_is_gone_is_said_to_be() {
    let gone = || {
        Some(Gone {
            seconds: 12,
            why: "connection refused",
        })
    };
    let size = (80, 24);
    let nothing = frame("127.0.0.1:9090", &History::default(), gone(), size, false);
    let nothing = plain(&nothing);
    assert!(
        nothing.contains(" no gateway: connection refused; trying again\n"),
        "{nothing}"
    );
    let before = frame("127.0.0.1:9090", &watched(2, live), gone(), size, false);
    let before = plain(&before);
    assert!(before.contains("gone for 12 s"), "{before}");
    assert!(
        before.contains(" connection refused; these are the last figures"),
        "{before}"
    );
}

#[test]
fn what_is_wrong_with_the_gateway_has_a_line() {
    type Change = fn(&mut Live);
    let rows: [(Change, &str); 4] = [
        (
            |live| live.config_ok = false,
            "\n the configuration on disk was refused",
        ),
        (
            |live| live.limits.error = Some("timed out".into()),
            "\n redis is gone: timed out\n",
        ),
        (
            |live| live.not_ready = vec!["dns: \x07slow".into()],
            "\n dns: ?slow\n",
        ),
        (|live| live.draining = true, "  draining  pid"),
    ];
    for (change, expected) in rows {
        let history = watched(2, |second| {
            let mut live = live(second);
            change(&mut live);
            live
        });
        let drawn = drawn(&history, (80, 24));
        assert!(drawn.contains(expected), "{drawn}");
    }
}

#[test]
fn colours_are_left_out_where_nobody_wants_them() {
    let lines = frame("a:1", &watched(2, live), None, (80, 24), true);
    let with = |colour| {
        screen(
            &lines,
            Look {
                colour,
                unicode: true,
            },
        )
    };
    assert!(with(true).contains("\x1b[1;31munhealthy"));
    assert!(!with(false).contains("\x1b[1;31m"));
    assert!(with(false).contains("unhealthy"));
}

#[test]
fn a_place_has_a_host_and_a_port() {
    for (text, good) in [
        ("127.0.0.1:9090", true),
        ("[::1]:9090", true),
        ("gateway.internal:9090", true),
        ("127.0.0.1", false),
        (":9090", false),
        ("a:0", false),
        ("a:70000", false),
    ] {
        assert_eq!(place(text).is_ok(), good, "{text}");
    }
}
