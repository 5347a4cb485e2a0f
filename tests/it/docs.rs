//! The pages for people: every command is run or read, every document is checked, every link leads somewhere.
//!
//! A fence says what becomes of it: `sh` is run beside a gateway, `sh not-run` is only read by the shell (and what it
//! names of ours must exist), `yaml` is a whole configuration, `yaml fragment` a part of one, `yaml other` belongs to
//! another program, `text` is nothing to run. Any other fails.

use crate::harness::{Authority, Gateway, PROVIDER_KEY, Provider, Upstream, finish};
use onemind_gateway::observe::metrics::Metrics;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Long enough for a README that says what there is, short enough to be read.
const README_LINES_MAX: usize = 120;
const GATEWAY_KEY: &str = "the-key-of-one-app-in-the-pages";
const REFERENCE: &str = "docs/configuration.md";
const FENCE: &str = "```";

/// What a fragment is put into.
const LEAST: &str = "\
listeners: { web: { address: '127.0.0.1:8080' } }
pools: { app: { endpoints: ['127.0.0.1:3000'] } }
routes: { app: { pool: app } }
";

/// What the commands of the pages ask.
const RUNNING: &str = "\
listeners: { web: { address: '{{http}}' } }
identity: { apps: { keys: { known: [{ name: app, secret: '{{key}}' }] } } }
limits: { rules: { user: { by: user, requests: 1000, per: minute } } }
pools: { app: { endpoints: ['{{app}}'], health: { path: / } } }
providers: { openai: { base_url: '{{openai}}', keys: '{{provider_key}}' } }
models: { smart: { targets: openai/gpt-5 } }
routes:
  app: { pool: app }
  ai: { path: /v1/*, identity: apps, ai: { default: smart } }
";

struct Block {
    /// `docs/install.md:12`.
    at: String,
    info: String,
    text: String,
}

/// A page of the repository, and what stands in it.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, text }
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for (at, line) in self.text.lines().enumerate() {
            match line.trim_start().strip_prefix(FENCE) {
                Some(info) if !inside => blocks.push(Block {
                    at: format!("{}:{}", self.path.display(), at + 1),
                    info: info.trim().to_owned(),
                    text: String::new(),
                }),
                None if inside => {
                    let block = blocks.last_mut().unwrap();
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                _ => {}
            }
            inside ^= line.trim_start().starts_with(FENCE);
        }
        assert!(!inside, "{}: a fence has no end", self.path.display());
        blocks
    }

    /// Lines outside of fences, without what stands between backticks.
    fn prose(&self) -> Vec<String> {
        let mut inside = false;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with(FENCE) {
                inside = !inside;
            } else if !inside {
                lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join("_"));
            }
        }
        lines
    }

    /// Where its links lead, as they are written.
    fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for line in self.prose() {
            let targets = line.split("](").skip(1);
            links.extend(targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
        links
    }

    /// What can be linked to in it.
    fn anchors(&self) -> BTreeSet<String> {
        let mut inside = false;
        let mut anchors = BTreeSet::new();
        for line in self.text.lines() {
            inside ^= line.trim_start().starts_with(FENCE);
            if !inside && line.starts_with('#') {
                anchors.insert(anchor(line.trim_start_matches('#').trim()));
            }
        }
        anchors
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '_' | '-' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page whose blocks are held to be true.
fn pages() -> Vec<Page> {
    let mut pages = vec![Page::read(PathBuf::from("README.md"))];
    for folder in ["docs", "docs/runbooks"] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| Path::new(folder).join(entry.unwrap().file_name()))
            .filter(|path| path.extension().is_some_and(|is| is == "md"))
            .collect();
        files.sort();
        pages.extend(files.into_iter().map(Page::read));
    }
    pages
}

/// The pages whose links are followed.
fn linked_pages() -> Vec<Page> {
    let others = [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "conf/grafana/README.md",
    ];
    let mut pages = pages();
    pages.extend(
        others
            .into_iter()
            .map(|path| Page::read(PathBuf::from(path))),
    );
    pages
}

/// Of runbooks the first block is run by `runbooks.rs`, in the trouble that it is for.
fn is_runbook(block: &Block) -> bool {
    block.at.starts_with("docs/runbooks/")
}

fn onemind(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    for name in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"] {
        command.env(name, PROVIDER_KEY);
    }
    command.env("GATEWAY_KEY", GATEWAY_KEY);
    command.env("STICKY_SECRET", "sixteen bytes and more of it");
    let (status, out, err) = finish(command.args(arguments));
    (status.success(), out + &err)
}

/// What the folder `/etc/onemind` of the pages has in it.
fn etc() -> TempDir {
    let dir = TempDir::new().unwrap();
    let tls = dir.path().join("tls");
    std::fs::create_dir(&tls).unwrap();
    let authority = Authority::new();
    authority.write(&tls, "site", &["example.com"]);
    std::fs::rename(tls.join("site.pem"), tls.join("site.crt")).unwrap();
    authority.write_ca(&tls.join("ca.pem"));
    dir
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The document that a block stands for; none if it is not ours, or why there is none.
fn document(block: &Block) -> Result<Option<String>, String> {
    let parsed: Result<Value, _> = serde_yaml::from_str(&block.text);
    let part = parsed.map_err(|error| format!("{}: {error}", block.at))?;
    match block.info.as_str() {
        "yaml" => Ok(Some(block.text.clone())),
        "yaml fragment" => {
            let mut whole: Value = serde_yaml::from_str(LEAST).unwrap();
            merge(&mut whole, part);
            Ok(Some(whole.to_string()))
        }
        _ => Ok(None),
    }
}

/// What `onemind check` has to say against a block.
fn document_fault(block: &Block, etc: &Path) -> Option<String> {
    let document = match document(block) {
        Ok(document) => document?,
        Err(fault) => return Some(fault),
    };
    let file = etc.join("block.yaml");
    let document = document.replace("/etc/onemind", &etc.display().to_string());
    std::fs::write(&file, document).unwrap();
    let (good, said) = onemind(&["check", "-c", file.to_str().unwrap()]);
    (!good).then(|| format!("{}: {said}", block.at))
}

/// What a shell says of the syntax of a block, and what it names of ours that does not exist.
fn shell_faults(block: &Block) -> Vec<String> {
    let mut faults = Vec::new();
    let (status, _, said) = finish(Command::new("sh").args(["-n", "-c", &block.text]));
    if !status.success() {
        faults.push(format!("{}: {said}", block.at));
    }
    let (_, help) = onemind(&["--help"]);
    let makefile = std::fs::read_to_string("Makefile").unwrap();
    for line in block.text.lines() {
        let code = line.split(" #").next().unwrap_or_default();
        let words: Vec<&str> = code.split_whitespace().collect();
        for (at, pair) in words.windows(2).enumerate() {
            let is_command = at == 0 || begins_a_command(words[at - 1]);
            let is_word = pair[1].starts_with(|c: char| c.is_ascii_lowercase());
            let exists = match pair[0] {
                _ if !(is_command && is_word) => true,
                "onemind" | "target/release/onemind" => help.contains(&format!("\n  {} ", pair[1])),
                "make" => makefile.contains(&format!("\n{}:", pair[1])),
                _ => true,
            };
            if !exists {
                faults.push(format!("{}: there is no `{}`", block.at, pair.join(" ")));
            }
        }
        for word in words {
            if word.starts_with("conf/") && !Path::new(word).exists() {
                faults.push(format!("{}: there is no {word}", block.at));
            }
        }
    }
    faults
}

/// Whether what follows this word is the name of a program: `exec CONTAINER onemind …`, `A=b make …`.
fn begins_a_command(word: &str) -> bool {
    ["--", "&&", "|", "onemind"].contains(&word) || word.contains('=')
}

/// Everything that can be said against a block without a gateway that runs.
fn faults_of(block: &Block, etc: &Path) -> Vec<String> {
    match block.info.as_str() {
        "sh" | "sh not-run" => shell_faults(block),
        "yaml" | "yaml fragment" | "yaml other" => document_fault(block, etc).into_iter().collect(),
        "text" => Vec::new(),
        other => vec![format!("{}: what is a fence of {other:?}?", block.at)],
    }
}

/// Where the link leads that is in this page, seen from the root.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{link} leaves the repository"),
            part => path.push(part),
        }
    }
    path
}

fn link_faults(page: &Page) -> Vec<String> {
    let mut faults = Vec::new();
    for link in page.links() {
        if link.starts_with("https://") {
            continue;
        }
        let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
        let path = match file {
            "" => page.path.clone(),
            file => resolve(&page.path, file),
        };
        let is_there = path.exists();
        let is_good = is_there
            && (fragment.is_empty() || Page::read(path.clone()).anchors().contains(fragment));
        if !is_good {
            faults.push(format!("{}: {link} leads nowhere", page.path.display()));
        }
    }
    faults
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_block_is_good() {
    let etc = etc();
    let blocks: Vec<Block> = pages().iter().flat_map(Page::blocks).collect();
    assert!(blocks.len() > 60, "{}", blocks.len());
    let faults = blocks
        .iter()
        .flat_map(|block| faults_of(block, etc.path()))
        .collect::<Vec<_>>();
    assert_none(&faults);
}

#[test]
fn every_link_leads_somewhere() {
    let pages = linked_pages();
    let links: usize = pages.iter().map(|page| page.links().len()).sum();
    assert!(links > 100, "{links}");
    let faults: Vec<String> = pages.iter().flat_map(link_faults).collect();
    assert_none(&faults);
}

/// The keys of each section, by its path, as the reference has them; those of the document by an empty one.
fn keys() -> BTreeMap<String, BTreeSet<String>> {
    let page = Page::read(PathBuf::from(REFERENCE));
    let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut path = String::new();
    for line in page.text.lines() {
        if let Some(heading) = line.strip_prefix("##") {
            heading.trim_start_matches('#').trim().clone_into(&mut path);
            sections.entry(path.clone()).or_default();
        } else if let Some((key, _)) = line
            .strip_prefix("| `")
            .and_then(|row| row.split_once("` |"))
        {
            let of_section = sections.entry(path.clone()).or_default();
            of_section.insert(key.to_owned());
        }
    }
    sections
}

/// Whether there is such a key; true of words that are none.
fn is_key(word: &str, sections: &BTreeMap<String, BTreeSet<String>>) -> bool {
    let Some((section, key)) = word.rsplit_once('.') else {
        return true;
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let first = word.split('.').next().unwrap_or_default();
    if !word.chars().all(is_name) || !sections.contains_key(first) {
        return true;
    }
    let of_section = sections.get(section);
    sections.contains_key(word) || of_section.is_some_and(|keys| keys.contains(key))
}

#[test]
fn keys_that_pages_name_exist() {
    let sections = keys();
    for (word, exists) in [
        ("server.shield.memory", true),
        ("pools.NAME.health", true),
        ("server.shield.memories", false),
        ("routes.NAME.tls", false),
        ("upgrade.why", true),
    ] {
        assert_eq!(is_key(word, &sections), exists, "{word}");
    }
    let mut faults = Vec::new();
    for page in pages() {
        let quoted = page.text.split('`').skip(1).step_by(2);
        for word in quoted.filter(|word| !is_key(word, &sections)) {
            faults.push(format!("{}: there is no key {word}", page.path.display()));
        }
    }
    assert_none(&faults);
}

#[test]
fn metrics_that_pages_name_exist() {
    let is_other = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut found = BTreeSet::new();
    for page in pages() {
        // The reference has names that are none: of a cookie, of a library.
        if page.path == Path::new(REFERENCE) {
            continue;
        }
        let words = page.text.split(is_other);
        found.extend(
            words
                .filter(|word| word.starts_with("onemind_"))
                .map(str::to_owned),
        );
    }
    assert!(found.len() > 20, "{found:?}");
    for name in &found {
        let mut rows = Metrics::ROWS.iter();
        assert!(
            rows.any(|row| is_series(name, row.name)),
            "there is no metric {name}"
        );
    }
}

/// Whether this names the metric, one of its series, or, with `_` at its end, several that begin so.
fn is_series(name: &str, metric: &str) -> bool {
    let ending = name.strip_prefix(metric).unwrap_or("no");
    let of_one = ["", "_", "_bucket", "_sum", "_count"].contains(&ending);
    of_one || name.ends_with('_') && metric.starts_with(name)
}

/// Every page can be reached from the index.
#[test]
fn the_index_names_every_page() {
    let index = Page::read(PathBuf::from("docs/README.md"));
    let linked: BTreeSet<PathBuf> = index
        .links()
        .iter()
        .map(|link| resolve(&index.path, link.split('#').next().unwrap()))
        .collect();
    for page in pages().iter().filter(|page| page.path.starts_with("docs")) {
        let is_index = page.path == index.path;
        let of_alert = page.path.starts_with("docs/runbooks") && !page.path.ends_with("README.md");
        assert!(
            is_index || of_alert || linked.contains(&page.path),
            "docs/README.md does not name {}",
            page.path.display()
        );
    }
}

#[test]
fn the_readme_stays_short() {
    let lines = std::fs::read_to_string("README.md")
        .unwrap()
        .lines()
        .count();
    assert!(
        lines <= README_LINES_MAX,
        "{lines} lines: move some to docs"
    );
}

#[test]
fn faults_in_pages_are_found() {
    let etc = etc();
    for (page, said) in [
        ("```sh\nif true\n```\n", "yntax"),
        ("```sh not-run\nonemind chekc -c x\n```\n", "onemind chekc"),
        ("```sh not-run\nmake coffee\n```\n", "make coffee"),
        (
            "```sh not-run\ncp conf/systemd/one.service /x\n```\n",
            "conf/systemd/one.service",
        ),
        ("```yaml\nlistenerz: {}\n```\n", "listenerz"),
        ("```yaml fragment\nserver: { drain: 5s }\n```\n", "drain"),
        ("```yaml other\na: [\n```\n", "page.md:1"),
        ("```ruby\nputs 1\n```\n", "ruby"),
        ("```\nputs 1\n```\n", "fence"),
    ] {
        let page = Page {
            path: PathBuf::from("page.md"),
            text: page.to_owned(),
        };
        let blocks = page.blocks();
        assert_eq!(blocks.len(), 1);
        let faults = faults_of(&blocks[0], etc.path()).join("\n");
        assert!(faults.contains(said), "{}: {faults:?}", page.text);
    }
    let text = "[a](ARCHITECTURE.md#layers) [b](nowhere.md) [c](README.md#no-such) `[d](e.md)`";
    let page = Page {
        path: PathBuf::from("page.md"),
        text: text.to_owned(),
    };
    let faults = link_faults(&page);
    assert_eq!(faults.len(), 2, "{faults:?}");
}

/// The example of `docs/tuning.md` stays within the memory that the page says it needs.
#[test]
fn the_example_for_a_small_machine_fits() {
    let page = Page::read(PathBuf::from("docs/tuning.md"));
    let blocks = page.blocks();
    let block = blocks.iter().find(|block| block.info == "yaml").unwrap();
    let document: Value = serde_yaml::from_str(&block.text).unwrap();
    let shield = &document["server"]["shield"];
    let number = |key: &str| shield[key].as_u64().unwrap_or_else(|| panic!("{key}"));
    // 16 MiB at rest, 8 KiB a connection, at worst 100 KiB a request: docs/tuning.md and ARCHITECTURE.md.
    let kib = 16 * 1024 + number("connections") * 8 + number("in_flight") * 100;
    assert!(kib < 700 * 1024, "{kib} KiB");
    assert_eq!(shield["memory"], "700MiB");
}

#[tokio::test]
async fn every_command_runs() {
    let (app, openai) = (Upstream::named("app").await, Provider::openai().await);
    let url = openai.url();
    let names: &[(&str, &dyn Display)] = &[
        ("app", &app),
        ("openai", &url),
        ("key", &GATEWAY_KEY),
        ("provider_key", &PROVIDER_KEY),
    ];
    let gateway = Gateway::start(RUNNING, names).await;
    let blocks: Vec<Block> = pages().iter().flat_map(Page::blocks).collect();
    let to_run = blocks
        .into_iter()
        .filter(|block| block.info == "sh" && !is_runbook(block));
    let mut count = 0;
    for block in to_run {
        let (good, said) = run(&block, &gateway).await;
        assert!(good, "{}\n{}\n{said}", block.at, block.text);
        // `jq` says so of what is not there.
        let is_whole = said.lines().all(|line| line != "null");
        assert!(is_whole, "{}\n{}\n{said}", block.at, block.text);
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

/// Runs a block beside this gateway; each of its lines must succeed.
async fn run(block: &Block, gateway: &Gateway) -> (bool, String) {
    let programs = Path::new(env!("CARGO_BIN_EXE_onemind")).parent().unwrap();
    let commands = block
        .text
        .replace("127.0.0.1:9090", &gateway.address("admin").to_string())
        .replace("127.0.0.1:8080", &gateway.address("http").to_string())
        .replace("/etc/onemind", &gateway.dir().display().to_string());
    let commands = format!("PATH=\"{}:$PATH\"\n{commands}", programs.display());
    let mut command = Command::new("sh");
    command
        .args(["-e", "-c", &commands])
        .current_dir(gateway.dir())
        .env("GATEWAY_KEY", GATEWAY_KEY);
    let run = tokio::task::spawn_blocking(move || finish(&mut command));
    let (status, out, err) = run.await.unwrap();
    (status.success(), out + &err)
}
