//! The document: whatever is written, it is read or refused with places that exist.

use crate::fuzz;
use crate::mutate::mutated;
use onemind_gateway::config::{self, Loaded};
use onemind_gateway::observe::metrics::Metrics;
use onemind_gateway::snapshot::{Snapshot, State};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const WORDS: &[&str] = &[
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    ": ",
    ":",
    "[",
    "]",
    "{",
    "}",
    ",",
    "#",
    "'",
    "\"",
    "\\",
    "|",
    ">",
    "|2-\n",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "!x ",
    "%YAML 1.2\n",
    "---\n",
    "...\n",
    "? ",
    "\t",
    "\r\n",
    "\u{feff}",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "é",
    "🦀",
    "~",
    "null",
    "true",
    "0x10",
    "1e9",
    "-1",
    "18446744073709551616",
    "${",
    "${A}",
    "${A:-",
    "${HOME}",
    "$${",
    "file:/dev/null",
    "file:x",
    "unix:/x",
    "10s",
    "99999999999999999999d",
    "100%",
    "16MiB",
    "[::1]:80",
    "127.0.0.1:0",
    "server",
    "listeners",
    "pools",
    "routes",
    "tls",
    "secret",
    "hash: user",
    "{*}",
    "{id}",
    "/a/*",
    "*.a",
    "{ respond: {} }",
    "redirect: { to: \"{host}\" }",
    "shield: { connections: 0 }",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config")
}

/// Every document of ours that is not made large on purpose.
fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["conf", "conf/examples", "tests/golden/config"];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let files = files.map(|file| file.unwrap().path());
    let mut documents: Vec<PathBuf> = files
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    documents.sort();
    let texts = documents.iter().map(|file| std::fs::read(file).unwrap());
    texts.filter(|text| text.len() < 8_000).collect()
}

fn parse(text: &str) -> Loaded {
    let env = |name: &str| (name == "A").then(|| "8080".to_owned());
    config::parse(text, "x.yaml", &env, &folder().join("files"))
}

#[test]
fn a_document_is_read_or_refused_with_places_in_it() {
    fuzz("configuration", 3_000, &mutated(seeds(), WORDS), |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let loaded = parse(&text);
        let faults = &loaded.faults;
        let has_errors = faults
            .iter()
            .any(|fault| fault.severity == onemind_gateway::base::fault::Severity::Error);
        prop_assert_eq!(loaded.config.is_none(), has_errors, "{}", loaded.render());
        prop_assert!(faults.len() <= 101);
        let lines: Vec<&str> = text.split('\n').collect();
        for fault in faults {
            prop_assert!(!fault.what.is_empty());
            if let Some(place) = loaded.source.place(fault) {
                prop_assert!(
                    (1..=lines.len()).contains(&place.line),
                    "{place:?} {fault:?}"
                );
                let line = lines[place.line - 1];
                prop_assert!(
                    (1..=line.chars().count() + 1).contains(&place.column),
                    "{place:?} in {line:?}: {fault:?}"
                );
            }
        }
        let shown = loaded.render();
        prop_assert!(
            !shown.chars().any(|c| c.is_control() && c != '\n'),
            "{shown:?}"
        );
        config::faults_json(&loaded.source, faults);
        Ok(())
    });
}

#[test]
fn what_is_read_can_be_dumped_and_says_the_same() {
    fuzz("dump", 1_000, &mutated(seeds(), WORDS), |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let Some(config) = parse(&text).config else {
            return Ok(());
        };
        let dumped = config::dump(&config);
        if dumped.contains("***") {
            // A masked secret cannot come back.
            return Ok(());
        }
        let again = parse(&dumped);
        // What depends on the rest of its section is filled in by the dump.
        let mut config = config;
        for route in config.routes.values_mut() {
            route.body_max = Some(route.body_max());
        }
        prop_assert_eq!(
            again.config.as_ref(),
            Some(&config),
            "{}\n{}",
            again.render(),
            dumped
        );
        Ok(())
    });
}

#[test]
fn what_is_read_can_be_served() {
    // Endpoints are made with their resolvers, which belong to a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let _inside = runtime.enter();
    fuzz("snapshot", 1_000, &mutated(seeds(), WORDS), |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let Some(config) = parse(&text).config else {
            return Ok(());
        };
        let state = State::new(Metrics::new("test"), None, 1024).unwrap();
        if let Err(faults) = Snapshot::build(config, &state, 1) {
            prop_assert!(false, "{faults:?}");
        }
        Ok(())
    });
}
