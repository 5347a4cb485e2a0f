//! The table by example, and against a plain scan with the documented order.

use super::*;
use crate::base::units::OneOrMany;
use http::Request;
use http::Version;
use proptest::prelude::*;
use std::cmp::Reverse;

fn many(texts: &[&str]) -> OneOrMany<String> {
    OneOrMany(texts.iter().map(ToString::to_string).collect())
}

fn on(hosts: &[&str], paths: &[&str]) -> Settings {
    Settings {
        host: many(hosts),
        path: many(paths),
        ..Settings::default()
    }
}

fn with(hosts: &[&str], paths: &[&str], change: impl Fn(&mut Settings)) -> Settings {
    let mut settings = on(hosts, paths);
    change(&mut settings);
    settings
}

fn table(routes: &[(&str, Settings)]) -> Table<usize> {
    let numbered = routes.iter().enumerate();
    Table::build(numbered.map(|(at, (name, settings))| (*name, settings, at)))
        .expect("sound routes")
}

fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .version(Version::HTTP_11);
    request = request.header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request").into_parts().0
}

/// The name of the route, or the status and what is allowed.
fn answer(table: &Table<usize>, parts: &Parts) -> String {
    let host = match Host::of(parts) {
        Ok(host) => host,
        Err(reject) => return reject.kind.status().to_string(),
    };
    match table.find(parts, "web", &host) {
        Ok(found) => found.name.to_owned(),
        Err(reject) => {
            let allow = reject
                .allow
                .map(|allow| format!(" {allow}"))
                .unwrap_or_default();
            format!("{}{allow}", reject.kind.status())
        }
    }
}

#[test]
fn the_most_specific_host_and_path_win() {
    let table = table(&[
        ("any", on(&[], &["/*"])),
        ("any-x", on(&[], &["/only-any"])),
        ("below", on(&["*.a.com"], &["/*"])),
        ("deeper", on(&["*.b.a.com"], &["/*"])),
        ("exact", on(&["www.a.com"], &["/app/*", "/users/{id}"])),
        ("v6", on(&["[::1]"], &["/*"])),
    ]);
    for (host, path, wins) in [
        ("x.com", "/", "any"),
        ("www.a.com", "/app", "exact"),
        ("WWW.A.com:8443", "/app/x", "exact"),
        ("www.a.com.", "/users/7", "exact"),
        ("www.a.com", "/", "below"),
        ("c.b.a.com", "/", "deeper"),
        ("b.a.com", "/", "below"),
        ("a.com", "/", "any"),
        ("x.com", "/only-any", "any-x"),
        ("[0::1]:80", "/", "v6"),
        ("x y", "/", "400"),
    ] {
        assert_eq!(
            answer(&table, &request("GET", host, path, &[])),
            wins,
            "{host}{path}"
        );
    }
}

#[test]
fn no_spelling_walks_past_a_more_specific_route() {
    let table = table(&[
        ("open", on(&[], &["/*"])),
        ("admin", on(&[], &["/admin/*"])),
        ("delete", on(&[], &["/v1/x:delete"])),
    ]);
    for (path, wins) in [
        ("/admin", "admin"),
        ("/%61dmin/x", "admin"),
        ("/x/../admin/y", "admin"),
        ("/x/%2e%2e/admin/y", "admin"),
        ("//admin/x", "admin"),
        ("/./admin/x", "admin"),
        ("/admin%2Fx", "400"),
        ("/admin%2fx", "400"),
        ("/x/..%2Fadmin", "400"),
        ("/x%2F..%2fadmin", "400"),
        ("/x%5C..%5Cadmin", "400"),
        ("/x/..;/admin", "400"),
        ("/..%2F..%2Fetc", "400"),
        ("/../admin", "400"),
        ("/%2561dmin", "open"),
        ("/v1/x%3Adelete", "400"),
        ("/v1/x:delete", "delete"),
        ("/group%2Fproject", "open"),
        ("/%", "400"),
        ("/%00", "400"),
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            let mut parts = request(method, "a.com", path, &[("upgrade", "websocket")]);
            assert_eq!(answer(&table, &parts), wins, "{method} {path}");
            parts.uri = format!("http://a.com{path}").parse().unwrap();
            assert_eq!(answer(&table, &parts), wins, "absolute {method} {path}");
        }
    }
    let mut parts = request("CONNECT", "a.com:443", "/", &[]);
    parts.uri = "a.com:443".parse().unwrap();
    assert_eq!(answer(&table, &parts), "400");
    parts = request("OPTIONS", "a.com", "*", &[]);
    assert_eq!(answer(&table, &parts), "400");
}

#[test]
fn a_path_that_takes_other_methods_says_which() {
    let table = table(&[
        ("read", with(&[], &["/a"], |s| s.method = many(&["GET"]))),
        (
            "write",
            with(&[], &["/a"], |s| s.method = many(&["POST", "PUT"])),
        ),
        ("head", with(&[], &["/h"], |s| s.method = many(&["HEAD"]))),
        ("get", with(&[], &["/h"], |s| s.method = many(&["GET"]))),
        (
            "host",
            with(&["a.com"], &["/a"], |s| s.method = many(&["PATCH"])),
        ),
        (
            "admin",
            with(&[], &["/b"], |s| s.listener = many(&["admin"])),
        ),
    ]);
    for (method, host, path, wins) in [
        ("GET", "b.com", "/a", "read"),
        ("HEAD", "b.com", "/a", "read"),
        ("PUT", "b.com", "/a", "write"),
        ("DELETE", "b.com", "/a", "405 GET, HEAD, POST, PUT"),
        ("DELETE", "a.com", "/a", "405 GET, HEAD, PATCH, POST, PUT"),
        ("GET", "a.com", "/a", "read"),
        ("HEAD", "b.com", "/h", "head"),
        ("GET", "b.com", "/h", "get"),
        ("GET", "b.com", "/b", "404"),
        ("GET", "b.com", "/c", "404"),
    ] {
        assert_eq!(
            answer(&table, &request(method, host, path, &[])),
            wins,
            "{method} {host}{path}"
        );
    }
}

#[test]
fn the_route_that_asks_for_more_wins() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let table = table(&[
        ("plain", on(&[], &["/a"])),
        ("post", with(&[], &["/a"], |s| s.method = many(&["POST"]))),
        ("web", with(&[], &["/a"], |s| s.listener = many(&["web"]))),
        (
            "some",
            with(&[], &["/a"], |s| s.headers = [header("x-v", "*")].into()),
        ),
        (
            "two",
            with(&[], &["/a"], |s| s.headers = [header("X-V", "2")].into()),
        ),
        (
            "both",
            with(&[], &["/a"], |s| {
                s.headers = [header("x-v", "*"), header("x-w", "*")].into();
            }),
        ),
    ]);
    for (method, headers, wins) in [
        ("GET", &[][..], "web"),
        ("POST", &[], "post"),
        ("POST", &[("x-v", "1")], "some"),
        ("GET", &[("x-v", "2")], "two"),
        ("GET", &[("x-v", "1"), ("x-v", "2")], "two"),
        ("GET", &[("x-v", "2"), ("x-w", "")], "both"),
    ] {
        assert_eq!(
            answer(&table, &request(method, "a.com", "/a", headers)),
            wins,
            "{method} {headers:?}"
        );
    }
}

#[test]
fn a_match_tells_what_the_pattern_took() {
    let table = table(&[("r", on(&["*.a.com"], &["/x", "/users/{id}/{what}/*"]))]);
    let parts = request("GET", "w.a.com", "//users/%7e7/a%2fb/c/d/?q", &[]);
    let host = Host::of(&parts).unwrap();
    let found = table.find(&parts, "web", &host).expect("a match");
    let captures: Vec<_> = found.captures().collect();
    assert_eq!(captures, [("id", "~7"), ("what", "a%2Fb")]);
    assert_eq!(found.capture("what"), Some("a%2Fb"));
    assert_eq!(found.capture("other"), None);
    assert_eq!(found.rest(), Some("c/d/"));
    assert_eq!(found.path, "/users/~7/a%2Fb/c/d/");
    assert!(found.path_changed);
    assert_eq!(
        found.why.to_string(),
        "wildcard host *.a.com, prefix /users/{id}/{what}/*"
    );
}

/// A plain scan over what the operator wrote. Shares no code with the table but `normalise`.
fn scan(
    routes: &[(String, Settings)],
    method: &str,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> String {
    let mut best = None;
    let mut allow = BTreeSet::new();
    for (at, (name, settings)) in routes.iter().enumerate() {
        let Some(place) = best_place(settings, host, path) else {
            continue;
        };
        let carried = |(name, value): (&String, &String)| {
            headers
                .iter()
                .any(|(n, v)| n == name && (value == "*" || v == value))
        };
        let on_listener =
            settings.listener.is_empty() || settings.listener.0.contains(&"web".to_owned());
        if !on_listener || !settings.headers.iter().all(carried) {
            continue;
        }
        let methods = &settings.method.0;
        let listed = |method: &str| methods.iter().any(|m| m == method);
        if !(methods.is_empty() || listed(method) || (method == "HEAD" && listed("GET"))) {
            allow.extend(methods.clone());
            continue;
        }
        let exact = settings
            .headers
            .values()
            .filter(|value| *value != "*")
            .count();
        let asks = Reverse((settings.headers.len(), exact, !methods.is_empty()));
        let rank = (
            place,
            asks,
            (settings.listener.is_empty(), !listed("HEAD")),
            at,
        );
        if best.as_ref().is_none_or(|(other, _)| rank < *other) {
            best = Some((rank, name.clone()));
        }
    }
    if let Some((_, name)) = best {
        return name;
    }
    if allow.is_empty() {
        return "404".to_owned();
    }
    if allow.contains("GET") {
        allow.insert("HEAD".to_owned());
    }
    format!("405 {}", allow.into_iter().collect::<Vec<_>>().join(", "))
}

type HostRank = (u8, Reverse<usize>);
type PathRank = (bool, Reverse<usize>, Vec<u8>);

fn best_place(settings: &Settings, host: &str, path: &str) -> Option<(HostRank, PathRank)> {
    let any = [String::new()];
    let hosts = if settings.host.is_empty() {
        &any[..]
    } else {
        &settings.host.0
    };
    let host = hosts
        .iter()
        .filter_map(|pattern| host_rank(pattern, host))
        .min()?;
    let path = settings
        .path
        .iter()
        .filter_map(|pattern| path_rank(pattern, path))
        .min()?;
    Some((host, path))
}

fn host_rank(pattern: &str, host: &str) -> Option<HostRank> {
    match pattern.strip_prefix('*') {
        _ if pattern.is_empty() => Some((2, Reverse(0))),
        None => (pattern == host).then_some((0, Reverse(0))),
        Some(suffix) => host.ends_with(suffix).then_some((1, Reverse(suffix.len()))),
    }
}

/// Whole paths before prefixes, longer prefixes first, then literals (0) before names (1).
fn path_rank(pattern: &str, path: &str) -> Option<PathRank> {
    let given: Vec<&str> = path[1..].split('/').collect();
    let mut asked: Vec<&str> = pattern[1..].split('/').collect();
    let open = asked.last() == Some(&"*");
    asked.truncate(asked.len() - usize::from(open));
    if asked.len() > given.len() || (!open && asked.len() < given.len()) {
        return None;
    }
    let mut kinds = Vec::new();
    for (asked, given) in asked.iter().zip(&given) {
        match asked.starts_with('{') {
            true if !given.is_empty() => kinds.push(1),
            false if asked == given => kinds.push(0),
            _ => return None,
        }
    }
    let length = if open { asked.len() } else { 0 };
    Some((open, Reverse(length), kinds))
}

fn some_of(words: &'static [&'static str], max: usize) -> impl Strategy<Value = OneOrMany<String>> {
    prop::collection::vec(prop::sample::select(words), 0..=max)
        .prop_map(|words| OneOrMany(words.into_iter().map(str::to_owned).collect()))
}

fn pattern() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(prop::sample::select(&["a", "b", "{}", "{}"][..]), 0..5);
    (segments, prop::sample::select(&["", "", "/", "/*"][..])).prop_map(|(segments, end)| {
        let mut text = String::new();
        for (at, segment) in segments.iter().enumerate() {
            let name = format!("{{p{at}}}");
            text.push('/');
            text.push_str(if *segment == "{}" { &name } else { segment });
        }
        text.push_str(end);
        if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let headers = prop::collection::btree_map(
        prop::sample::select(&["x-a", "x-b"][..]).prop_map(str::to_owned),
        prop::sample::select(&["1", "2", "*"][..]).prop_map(str::to_owned),
        0..3,
    );
    let rarely = prop_oneof![4 => Just(OneOrMany::default()), 1 => some_of(&["web", "other"], 2)];
    (
        some_of(&["a.com", "w.a.com", "*.a.com", "*.w.a.com", "*.com"], 2),
        prop::collection::vec(pattern(), 1..3),
        prop_oneof![2 => Just(OneOrMany::default()), 1 => some_of(&["GET", "HEAD", "POST"], 2)],
        prop_oneof![2 => Just(std::collections::BTreeMap::new()), 1 => headers],
        rarely,
    )
        .prop_map(|(host, path, method, headers, listener)| Settings {
            host,
            path: OneOrMany(path),
            method,
            headers,
            listener,
            ..Settings::default()
        })
}

const HEADERS: &[&[(&str, &str)]] = &[
    &[],
    &[("x-a", "1")],
    &[("x-a", "2"), ("x-b", "1")],
    &[("x-b", "3")],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_agrees_with_a_plain_scan(
        routes in prop::collection::vec(settings(), 1..24),
        asked in prop::collection::vec(
            (
                prop::sample::select(&["GET", "HEAD", "POST", "PUT"][..]),
                prop::sample::select(&["a.com", "w.a.com", "v.w.a.com", "b.com", "x.org"][..]),
                "(/[abc]){0,5}/?",
                prop::sample::select(HEADERS),
            ),
            1..16,
        ),
    ) {
        let named: Vec<(String, Settings)> =
            routes.into_iter().enumerate().map(|(at, settings)| (format!("r{at}"), settings)).collect();
        let table = Table::build(named.iter().enumerate().map(|(at, (name, s))| (name.as_str(), s, at)));
        let table = table.expect("sound routes");
        for (method, host, path, headers) in asked {
            let path = if path.is_empty() { "/" } else { &path };
            let expected = scan(&named, method, host, path, headers);
            let found = answer(&table, &request(method, host, path, headers));
            prop_assert_eq!(found, expected, "{} {}{} {:?}", method, host, path, headers);
        }
    }

    #[test]
    fn no_request_target_makes_the_table_panic(target in any::<String>(), tail in "[/a.%;2fF5cC\\\\]{0,16}") {
        let table = table(&[("r", on(&[], &["/{a}/{b}/*", "/a/*", "/*"]))]);
        for target in [target, format!("/{tail}")] {
            let Ok(uri) = target.parse::<http::Uri>() else { continue };
            let mut parts = request("GET", "a.com", "/", &[]);
            parts.uri = uri;
            let Ok(host) = Host::of(&parts) else { continue };
            if let Ok(found) = table.find(&parts, "web", &host) {
                prop_assert!(found.path.starts_with('/'));
                prop_assert!(found.rest().is_none_or(|rest| !rest.starts_with('/')));
            }
        }
    }
}
