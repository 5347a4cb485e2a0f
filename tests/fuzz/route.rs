//! Hosts, paths and patterns: one spelling, and a table that agrees with its patterns.

use crate::fuzz;
use crate::mutate::mutated;
use http::Request;
use onemind_gateway::base::units::OneOrMany;
use onemind_gateway::stage::route::host::{Host, HostPattern};
use onemind_gateway::stage::route::path::{loose_reading, normalise};
use onemind_gateway::stage::route::pattern::Pattern;
use onemind_gateway::stage::route::settings::Settings;
use onemind_gateway::stage::route::table::Table;
use proptest::prelude::*;

const WORDS: &[&str] = &[
    "/", "//", "/.", "/..", "/../", ".", ";", "..;", "%", "%2F", "%2f", "%5C", "%00", "%61", "%25",
    "%2e%2e", "%C3%A9", "%FF", "\\", "*", "/*", "{", "}", "{a}", "{b}", "{*}", "{host}", " ", "?",
    "#", "é", "🦀", "\u{0}", "a", "b", ":", "@", "[::1]", "*.", ":80",
];

fn paths() -> Vec<Vec<u8>> {
    let paths = [
        "/",
        "/a",
        "/a/",
        "/a/*",
        "/*",
        "/a/{a}",
        "/{a}/b",
        "/{a}/{b}/*",
        "/a/b/a",
        "/a%2Fb",
        "/caf%C3%A9",
        "/a/../b",
        "/a;x=1/b",
    ];
    paths.iter().map(|path| path.as_bytes().to_vec()).collect()
}

fn hosts() -> Vec<Vec<u8>> {
    let hosts = [
        "example.com",
        "*.example.com",
        "EXAMPLE.com.:8443",
        "[::1]:80",
        "127.0.0.1",
        "a_b.internal",
    ];
    hosts.iter().map(|host| host.as_bytes().to_vec()).collect()
}

fn text(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = String> {
    mutated(seeds, WORDS).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn a_path_has_one_spelling_and_a_host_too() {
    fuzz(
        "path and host",
        4_000,
        &(text(paths()), text(hosts())),
        |(path, host)| {
            if let Ok(normal) = normalise(&path) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                if let Ok(Some(loose)) = loose_reading(&normal) {
                    let again = normalise(&loose);
                    prop_assert_eq!(again.as_deref(), Ok(loose.as_str()));
                }
            }
            if let Some(parsed) = Host::parse(&host) {
                let again = Host::parse(parsed.as_str());
                prop_assert_eq!(again.as_ref().map(Host::as_str), Some(parsed.as_str()));
            }
            if let Ok(pattern) = HostPattern::parse(&host) {
                prop_assert!(HostPattern::parse(&pattern.to_string()) == Ok(pattern));
            }
            Ok(())
        },
    );
}

#[test]
fn the_table_finds_what_a_pattern_takes_and_nothing_else() {
    fuzz(
        "pattern and table",
        4_000,
        &(text(paths()), text(paths())),
        |(pattern, path)| {
            let Ok(parsed) = Pattern::parse(&pattern) else {
                return Ok(());
            };
            let again = Pattern::parse(&parsed.to_string());
            prop_assert_eq!(again.as_ref(), Ok(&parsed));
            let settings = Settings {
                path: OneOrMany(vec![pattern]),
                ..Settings::default()
            };
            let table = Table::build([("r", &settings, ())]);
            let table = table.map_err(|faults| TestCaseError::fail(format!("{:?}", faults.0)))?;
            let Ok(request) = Request::get(path).header("host", "test").body(()) else {
                return Ok(());
            };
            let (parts, ()) = request.into_parts();
            let host = Host::of(&parts);
            let Ok(host) = host else {
                return Ok(());
            };
            match (
                table.find(&parts, "web", &host),
                normalise(parts.uri.path()),
            ) {
                (Ok(found), Ok(normal)) => {
                    prop_assert!(parsed.takes(&normal));
                    prop_assert_eq!(&found.path, &normal);
                }
                (Ok(_), Err(why)) => prop_assert!(false, "found although {}", why),
                (Err(reject), Ok(normal)) => {
                    // What can be read in two ways is refused, though the pattern takes one of them.
                    let loose = loose_reading(&normal);
                    let ambiguous = !matches!(loose, Ok(None));
                    prop_assert!(ambiguous || !parsed.takes(&normal), "{reject:?}");
                }
                (Err(_), Err(_)) => {}
            }
            Ok(())
        },
    );
}
