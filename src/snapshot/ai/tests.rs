//! Names that lead to targets, keys that run out, and a reload that forgets nothing.

use super::*;
use crate::config;
use crate::observe::metrics::Metrics;
use crate::snapshot::{Action, Snapshot};
use crate::stage::ai::allowance::Need;
use crate::stage::ai::key_ring::Why;
use std::path::Path;
use std::time::Duration;

const DOCUMENT: &str = "
listeners: { http: { address: '127.0.0.1:8080' } }
providers:
  openai: { keys: [a, b] }
  anthropic: { keys: c, base_url: 'http://127.0.0.1:9/v1/' }
  gemini: { keys: '' }
  ollama: { kind: compatible, base_url: 'http://[::1]:11434' }
models:
  smart: { targets: [openai/gpt-5, anthropic/claude-sonnet-4-5] }
  gpt-5: { targets: openai/gpt-5-2025-08-07 }
  gpt-*: { targets: [openai/*, ollama/*] }
  gpt-5-*: { targets: openai/* }
  gone: { targets: gemini/gemini-2.5-pro }
  half: { targets: [openai/gpt-5, gemini/x, ollama/y], strategy: weighted, by: user }
  ollama/llama*: { targets: openai/gpt-5 }
routes:
  all: { ai: { default: smart } }
  some: { path: /some/*, ai: { models: [smart, gpt-*] } }
  direct: { path: /direct/*, ai: { models: smart, direct: true, default: ollama/llama3 } }
";

fn state() -> State {
    State::new(Metrics::new("test"), None, 1024).unwrap()
}

fn build(text: &str, state: &State) -> Snapshot {
    let loaded = config::parse(text, "x.yaml", &|_| None, Path::new("/"));
    let said = loaded.render();
    Snapshot::build(loaded.config.expect(&said), state, 1).unwrap()
}

fn route<'s>(snapshot: &'s Snapshot, name: &str) -> &'s AiRoute {
    let mut routes = snapshot.routes.iter();
    let route = routes.find(|route| route.name == name).unwrap();
    match &route.action {
        Action::Infer(ai) => ai,
        _ => panic!("{name} asks no model"),
    }
}

/// Where a plan leads: each target's provider, and what it is asked for.
fn places(plan: &Plan) -> Vec<String> {
    let targets = plan.model.targets.iter();
    let places = targets.map(|one| format!("{}:{}", one.provider.name, plan.model_at(one)));
    places.collect()
}

#[test]
fn a_name_leads_to_targets_where_the_route_takes_it() {
    let (state, none) = (state(), [].as_slice());
    let snapshot = build(DOCUMENT, &state);
    let smart = ["openai:gpt-5", "anthropic:claude-sonnet-4-5"].as_slice();
    for (name, asked, expected) in [
        ("all", "smart", Some(smart)),
        ("all", "", Some(smart)),
        ("all", "gpt-5", Some(&["openai:gpt-5-2025-08-07"])),
        ("all", "gpt-5-mini", Some(&["openai:gpt-5-mini"])),
        ("all", "gpt-4o", Some(&["openai:gpt-4o", "ollama:gpt-4o"])),
        ("all", "gpt-", None),
        ("all", "gone", Some(none)),
        ("all", "unknown", None),
        ("all", "unknown/x", None),
        ("all", "openai/", None),
        ("all", "openai/gpt-*", Some(&["openai:gpt-*"])),
        ("all", "gemini/gemini-2.5-pro", Some(none)),
        ("all", "ollama/a/b", Some(&["ollama:a/b"])),
        ("all", "ollama/llama3", Some(&["openai:gpt-5"])),
        ("some", "smart", Some(smart)),
        ("some", "", None),
        ("some", "gpt-5", Some(&["openai:gpt-5", "ollama:gpt-5"])),
        ("some", "half", None),
        ("some", "openai/gpt-5", None),
        ("direct", "gpt-5", None),
        ("direct", "openai/gpt-5", Some(&["openai:gpt-5"])),
        ("direct", "", Some(&["ollama:llama3"])),
    ] {
        let found = route(&snapshot, name).find(asked);
        let found = found.as_ref().map(places);
        assert_eq!(
            found.as_deref(),
            expected
                .map(|places: &[&str]| places.iter().map(ToString::to_string).collect::<Vec<_>>())
                .as_deref(),
            "{name} {asked}"
        );
    }
}

#[test]
fn names_are_listed_that_can_be_asked_for() {
    let (state, names) = (state(), |route: &AiRoute| {
        let names: Vec<_> = route.listed().map(|model| model.name.clone()).collect();
        names.join(" ")
    });
    let snapshot = build(DOCUMENT, &state);
    assert_eq!(names(route(&snapshot, "all")), "gpt-5 half smart");
    assert_eq!(names(route(&snapshot, "some")), "smart");
}

#[test]
fn a_provider_is_a_pool_of_one_place_and_one_without_a_key_is_none() {
    let state = state();
    let snapshot = build(DOCUMENT, &state);
    assert_eq!(snapshot.catalogue.disabled, ["gemini"]);
    for (name, host, base, address, tls, protocol) in [
        (
            "openai",
            "api.openai.com",
            "/v1",
            "api.openai.com:443",
            true,
            Protocol::Http2,
        ),
        (
            "anthropic",
            "127.0.0.1:9",
            "",
            "127.0.0.1:9",
            false,
            Protocol::Http1,
        ),
        (
            "ollama",
            "[::1]:11434",
            "/v1",
            "[::1]:11434",
            false,
            Protocol::Http1,
        ),
    ] {
        let provider = &snapshot.catalogue.providers[name];
        let pool = &provider.upstream.settings;
        assert_eq!(
            (provider.host.to_str().unwrap(), provider.base_path.as_str()),
            (host, base)
        );
        assert_eq!(pool.endpoints[0].address, address);
        assert_eq!(
            (pool.tls.is_some(), pool.protocol),
            (tls, protocol),
            "{name}"
        );
        assert!(Arc::ptr_eq(&snapshot.upstreams[name], &provider.upstream));
    }
    assert!(!snapshot.upstreams.contains_key("gemini"));
}

#[test]
fn a_target_without_a_free_key_is_not_tried_where_there_is_another() {
    let state = state();
    let snapshot = build(DOCUMENT, &state);
    let plan = route(&snapshot, "all").find("smart").unwrap();
    let order = |now| {
        let targets = plan.order(&Choice::default(), now);
        let names = targets.in_order.iter().map(|one| one.name.clone());
        (names.collect::<Vec<_>>().join(" "), targets.earliest)
    };
    let (now, wait) = (Instant::now(), Duration::from_secs(30));
    assert_eq!(order(now).0, "openai/gpt-5 anthropic/claude-sonnet-4-5");
    let keys = |name: &str| &snapshot.catalogue.providers[name].keys;
    for _ in 0..2 {
        let key = keys("openai").pick(&Need::default(), now).unwrap();
        keys("openai").cool(&key, (Why::RateLimited, "gpt-5"), Some(wait), now);
    }
    assert_eq!(order(now).0, "anthropic/claude-sonnet-4-5");
    let key = keys("anthropic").pick(&Need::default(), now).unwrap();
    keys("anthropic").cool(&key, (Why::Quota, ""), Some(2 * wait), now);
    // With nobody else left, whether a key is waited for is settled when it is picked.
    assert_eq!(order(now).0, "openai/gpt-5 anthropic/claude-sonnet-4-5");
    assert_eq!(order(now + wait).0, "openai/gpt-5");
}

#[test]
fn a_user_keeps_its_half_and_each_model_has_halves_of_its_own() {
    let state = state();
    let snapshot = build(DOCUMENT, &state);
    let find = |name| route(&snapshot, "all").find(name).unwrap();
    let (half, smart) = (find("half"), find("smart"));
    assert_eq!(half.key("alice", 1), half.key("alice", 2));
    assert_ne!(half.key("alice", 1), half.key("bob", 1));
    assert_eq!((smart.key("alice", 1), smart.key("bob", 2)), (1, 2));
}

#[test]
fn what_was_learned_outlives_a_reload() {
    let state = state();
    let before = build(DOCUMENT, &state);
    state.keep(before.upstreams.values());
    state.keep_catalogue(&before.catalogue);
    let now = Instant::now();
    let keys = &before.catalogue.providers["openai"].keys;
    let key = keys.pick(&Need::default(), now).unwrap();
    keys.cool(&key, (Why::Refused, ""), None, now);
    // One key goes, and one comes; a model gets another name.
    let changed = DOCUMENT
        .replace("[a, b]", "[x, a]")
        .replace("smart", "clever");
    let after = build(&changed, &state);
    let status = after.catalogue.providers["openai"].keys.status(now);
    let cooled: Vec<_> = status.iter().map(|key| key.cooled.is_some()).collect();
    assert_eq!(cooled, [false, true]);
    let name = "anthropic/claude-sonnet-4-5";
    let targets = [&before, &after].map(|snapshot| &snapshot.catalogue.targets[name]);
    assert!(Arc::ptr_eq(targets[0], targets[1]));
    let upstreams = [&before, &after].map(|snapshot| &snapshot.upstreams["ollama"]);
    assert!(Arc::ptr_eq(upstreams[0], upstreams[1]));
    // A build that never came into force has taken nothing away.
    let again = build(DOCUMENT, &state);
    assert!(Arc::ptr_eq(&again.catalogue.targets[name], targets[0]));
}
