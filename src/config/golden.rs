//! Documents and what is said of them, side by side in `tests/golden/config`.

use super::*;
use std::path::PathBuf;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config")
}

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "8080",
        "THREADS" => "4",
        "FLAG" => "true",
        "WORD" => "null",
        "CAPITALS" => "XYZZY-PLUGH",
        "LONG" => "plugh-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-xyzzy",
        "SHORT" => "tiny-word",
        "SECRET_WORD" => "xyzzy-plugh",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse_golden(text: &str, origin: &str) -> Loaded {
    parse(text, origin, &env, &folder().join("files"))
}

fn cases() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

fn said_of(text: &str, name: &str) -> String {
    let loaded = parse_golden(text, name);
    let said = render(&loaded.source, &loaded.faults);
    let said = said.replace(&folder().join("files").display().to_string(), "FOLDER");
    let end = if loaded.config.is_some() {
        "accepted"
    } else {
        "refused"
    };
    format!("{said}{end}\n")
}

/// With `GOLDEN=write` what is said now is written down where nothing is written yet.
#[test]
#[expect(clippy::disallowed_methods, reason = "the switch of this test")]
fn each_document_is_answered_as_written_down() {
    let write = std::env::var("GOLDEN").is_ok_and(|value| value == "write");
    let mut wrong = Vec::new();
    assert!(cases().len() >= 25);
    for path in cases() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let said = said_of(&std::fs::read_to_string(&path).unwrap(), &name);
        let expected = path.with_extension("expected");
        match std::fs::read_to_string(&expected) {
            Ok(expected) if expected == said => {}
            Ok(expected) => wrong.push(format!("{name}: expected\n{expected}\nfound\n{said}")),
            Err(_) if write => std::fs::write(&expected, said).unwrap(),
            Err(_) => wrong.push(format!("{name}: nothing is written down; it is\n{said}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_from_the_environment_or_a_secret_is_ever_shown() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = parse_golden(&text, "x.yaml");
        let json = faults_json(&loaded.source, &loaded.faults).to_string();
        let all = format!("{}{json}", render(&loaded.source, &loaded.faults));
        let all = all.to_lowercase();
        for hidden in ["xyzzy", "plugh", "hunter2", "tiny", "correct horse"] {
            assert!(
                !all.contains(hidden),
                "{}: {hidden} in {all}",
                path.display()
            );
        }
    }
}

#[test]
fn a_dump_says_the_same_when_it_is_read_again() {
    for name in ["ok-minimal", "ok-full"] {
        let text = std::fs::read_to_string(folder().join(name).with_extension("yaml")).unwrap();
        let mut config = parse_golden(&text, name).config.unwrap();
        // A masked secret cannot come back.
        for pool in config.pools.values_mut() {
            if let Some(sticky) = &mut pool.sticky {
                sticky.secret = None;
            }
        }
        config.redis = None;
        // A dump says what is in force.
        for route in config.routes.values_mut() {
            route.body_max = Some(route.body_max());
        }
        let dumped = dump(&config);
        let again = parse(&dumped, name, &|_| None, Path::new("/elsewhere"));
        let faults = render(&again.source, &again.faults);
        assert_eq!(again.config.as_ref(), Some(&config), "{faults}{dumped}");
    }
}

#[test]
fn a_dump_shows_no_secrets() {
    let text = "
listeners: { http: { address: '127.0.0.1:8080' } }
pools: { app: { endpoints: ['10.0.0.1:80'], sticky: { secret: 0123456789abcdef0 } } }
routes:
  app: { pool: app, request_headers: { set: { Authorization: Bearer 0123456789abcdef0, x-other: shown } } }
";
    let config = parse_golden(text, "x.yaml").config.unwrap();
    let dumped = dump(&config);
    assert!(!dumped.contains("0123456789"), "{dumped}");
    assert!(dumped.contains("x-other: shown"), "{dumped}");
    assert!(!format!("{:?}", config.pools).contains("0123456789"));
}

#[test]
fn large_documents_take_time_in_proportion() {
    use std::fmt::Write;
    // Without a fault; with a fault in every route that the checks find; with faults at the end that stop the typed read.
    for (routes, first, last, faults) in [
        (10_000, "respond: {}, path: /%", "respond: {}, path: /%", 0),
        (10_000, "pool: nowhere, path: x", "pool: nowhere", 101),
        (1_000, "respond: {}, path: /%", "respond: 1", 101),
    ] {
        let mut text = "listeners: { http: { address: '127.0.0.1:8080' } }\nroutes:\n".to_owned();
        for at in 0..routes {
            let content = if at < routes - 200 { first } else { last };
            let content = content.replace('%', &format!("r{at}"));
            writeln!(text, "  r{at}: {{ {content} }}").unwrap();
        }
        let began = std::time::Instant::now();
        let loaded = parse_golden(&text, "x.yaml");
        assert_eq!(loaded.faults.len(), faults);
        render(&loaded.source, &loaded.faults);
        assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    }
}

proptest::proptest! {
    #[test]
    fn no_document_can_stop_the_reader(at in 0usize..2_000, junk in "[\\[\\]{}:,&*!|>'\"#$\\n\\t a-z0-9-]{0,8}") {
        let text = std::fs::read_to_string(folder().join("ok-full.yaml")).unwrap();
        let at = text.char_indices().map(|(at, _)| at).nth(at).unwrap_or(text.len());
        let text = format!("{}{junk}{}", &text[..at], &text[at..]);
        let loaded = parse_golden(&text, "x.yaml");
        let shown = render(&loaded.source, &loaded.faults);
        proptest::prop_assert!(loaded.config.is_some() || shown.contains("error: "));
    }
}
