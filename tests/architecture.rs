//! The shape of the code, checked like any other behaviour.
#![expect(clippy::panic, reason = "a module without a layer is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Low to high. A module may use itself and whatever stands on an earlier line;
/// modules on one line, such as the stages, never use each other.
const LAYERS: &[&str] = &[
    "base",
    "wire",
    "observe",
    "store",
    "stage/*",
    "config",
    "snapshot",
    "gateway admin",
    "server",
    "demo",
    "cli",
    "lib main",
];
const SPEAKS_PINGORA: &[&str] = &["stage/listen", "stage/upstream", "gateway", "server"];
const FILE_LINES_MAX: usize = 600;
const LIFE_LINES_MAX: usize = 12;

#[test]
fn the_tree_keeps_its_shape() {
    let mut faults = Vec::new();
    visit(Path::new("src"), &mut |path, text| {
        let module = module_of(path);
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let mut fault = |what: String| faults.push(format!("{}: {what}", path.display()));

        if !text.starts_with("//! ") {
            fault("begin with a `//!` line that says what this file is for".into());
        }
        if code.lines().count() > FILE_LINES_MAX {
            fault(format!(
                "over {FILE_LINES_MAX} lines before its tests: split it by duty"
            ));
        }
        if code.contains("crate::{") {
            fault("write one `use crate::module::…` per module, so that layers can be read".into());
        }
        if names_pingora(code) && !SPEAKS_PINGORA.contains(&module.as_str()) {
            fault(format!("`{module}` speaks `http` types, not Pingora's"));
        }
        for used in code
            .split("crate::")
            .skip(1)
            .map(module_at)
            .filter(|used| *used != module)
        {
            if layer_of(&used) >= layer_of(&module) {
                fault(format!("`{module}` may not use `{used}`"));
            }
        }
        if path.ends_with("gateway/life.rs") {
            for (name, lines) in functions(code).filter(|(_, lines)| *lines > LIFE_LINES_MAX) {
                fault(format!(
                    "`{name}` has {lines} lines, but the life of a request is told in few: hand its work to a sibling file"
                ));
            }
        }
    });
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn each_example_has_a_test_of_its_name() {
    let tests = fs::read_to_string("tests/it/examples.rs").expect("the tests of the examples");
    let missing: BTreeSet<String> = fs::read_dir("conf/examples")
        .expect("conf/examples is readable")
        .map(|entry| entry.expect("entry is readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !tests.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "examples without a test: {missing:?}");
}

/// Uses of the crate, not the word in a comment.
fn names_pingora(code: &str) -> bool {
    code.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .any(|line| line.contains("pingora::") || line.contains("use pingora"))
}

fn visit(dir: &Path, see: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            visit(&path, see);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            see(&path, &fs::read_to_string(&path).expect("source is UTF-8"));
        }
    }
}

/// `src/stage/limit/gcra.rs` is in `stage/limit`; `src/base/clock.rs` in `base`.
fn module_of(path: &Path) -> String {
    let path = path.with_extension("");
    module_at(
        &path
            .iter()
            .skip(1)
            .map(|part| part.to_string_lossy())
            .collect::<Vec<_>>()
            .join("::"),
    )
}

fn module_at(use_path: &str) -> String {
    let mut words = use_path
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty());
    match (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    ) {
        ("stage", "mod") => "lib".to_owned(),
        ("stage", part) => format!("stage/{part}"),
        (module, _) => module.to_owned(),
    }
}

fn layer_of(module: &str) -> usize {
    let group = module
        .split_once('/')
        .map_or_else(|| module.to_owned(), |(group, _)| format!("{group}/*"));
    LAYERS
        .iter()
        .position(|layer| layer.split(' ').any(|name| name == group))
        .unwrap_or_else(|| panic!("give `{module}` a layer"))
}

fn functions(code: &str) -> impl Iterator<Item = (&str, usize)> {
    code.split("\n    async fn ")
        .flat_map(|part| part.split("\n    fn "))
        .skip(1)
        .map(|part| {
            let name = part.split('(').next().unwrap_or_default();
            let body = part.split("{\n").nth(1).unwrap_or_default();
            let lines = body.split("\n    }").next().unwrap_or_default();
            (name, lines.lines().count())
        })
}
