//! What a look-up costs in tables of 10 to 10,000 routes: `cargo bench --bench routes`.
#![expect(clippy::print_stdout, reason = "the table it prints is its result")]

use http::Request;
use http::request::Parts;
use onemind_gateway::base::units::OneOrMany;
use onemind_gateway::stage::route::conflict::conflicts;
use onemind_gateway::stage::route::host::Host;
use onemind_gateway::stage::route::settings::Settings;
use onemind_gateway::stage::route::table::Table;
use std::hint::black_box;
use std::time::Duration;
use std::time::Instant;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Of each measurement the best of so many rounds counts: the others were disturbed.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(10);

/// How the nth route looks, and a request for it.
struct Shape {
    name: &'static str,
    route: fn(usize) -> (String, String),
    request: fn(usize) -> (String, String),
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "many hosts, /*",
        route: |n| (format!("shop{n}.example.com"), "/*".to_owned()),
        request: |n| {
            (
                format!("shop{n}.example.com"),
                "/basket/items/17".to_owned(),
            )
        },
    },
    Shape {
        name: "many wildcard hosts, /api/*",
        route: |n| (format!("*.tenant{n}.example.com"), "/api/*".to_owned()),
        request: |n| {
            (
                format!("eu.tenant{n}.example.com"),
                "/api/items/17".to_owned(),
            )
        },
    },
    Shape {
        name: "one host, exact paths",
        route: |n| ("example.com".to_owned(), format!("/service{n}/health")),
        request: |n| ("example.com".to_owned(), format!("/service{n}/health")),
    },
    Shape {
        name: "one host, prefixes",
        route: |n| ("example.com".to_owned(), format!("/service{n}/*")),
        request: |n| {
            (
                "example.com".to_owned(),
                format!("/service{n}/users/17/posts"),
            )
        },
    },
    Shape {
        name: "any host, patterns",
        route: |n| {
            (
                String::new(),
                format!("/v1/service{n}/users/{{id}}/posts/{{post}}"),
            )
        },
        request: |n| {
            (
                "example.com".to_owned(),
                format!("/v1/service{n}/users/17/posts/4711"),
            )
        },
    },
];

fn settings(host: &str, path: &str) -> Settings {
    let mut settings = Settings {
        path: OneOrMany(vec![path.to_owned()]),
        ..Settings::default()
    };
    if !host.is_empty() {
        settings.host = OneOrMany(vec![host.to_owned()]);
    }
    settings
}

fn head(host: &str, path: &str) -> Parts {
    let request = Request::builder()
        .uri(path)
        .header("host", host)
        .header("user-agent", "bench");
    request.body(()).expect("a valid request").into_parts().0
}

fn routes(shape: &Shape, size: usize) -> Vec<(String, Settings)> {
    let route = |n| {
        let (host, path) = (shape.route)(n);
        (format!("route{n}"), settings(&host, &path))
    };
    (0..size).map(route).collect()
}

/// Nanoseconds for one look-up, the host's parsing included.
fn measure(shape: &Shape, size: usize) -> f64 {
    let routes = routes(shape, size);
    let table = Table::build(
        routes
            .iter()
            .enumerate()
            .map(|(at, (name, s))| (name.as_str(), s, at)),
    );
    let table = table.expect("sound routes");
    // The same few requests in all sizes, so that the caches see the table and not the requests.
    let asked: Vec<Parts> = (0..10)
        .map(|n| (shape.request)(n * (size / 10)))
        .map(|(host, path)| head(&host, &path))
        .collect();
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut count: u32 = 0;
        while began.elapsed() < ROUND {
            for _ in 0..20 {
                for parts in &asked {
                    let host = Host::of(black_box(parts)).expect("a host");
                    let found = table.find(parts, "web", &host).expect("a route");
                    black_box((found.route, found.rest()));
                    count += 1;
                }
            }
        }
        best = best.min(began.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    }
    best
}

fn main() {
    println!("look-up in ns; in brackets as a multiple of that among 10 routes\n");
    print!("{:<30}", "routes");
    for size in SIZES {
        print!("{size:>16}");
    }
    println!();
    for shape in &SHAPES {
        print!("{:<30}", shape.name);
        let mut first = None;
        for size in SIZES {
            let cost = measure(shape, size);
            let ratio = cost / *first.get_or_insert(cost);
            print!("{:>16}", format!("{cost:.0} ({ratio:.2}x)"));
        }
        println!();
    }
    let routes = routes(&SHAPES[4], 10_000);
    let began = Instant::now();
    let table = Table::build(
        routes
            .iter()
            .map(|(name, settings)| (name.as_str(), settings, ())),
    );
    println!(
        "\nbuilding a table of 10,000 patterns: {:?} ({})",
        began.elapsed(),
        table.is_ok()
    );
    let borrowed: Vec<(&str, &Settings)> =
        routes.iter().map(|(name, s)| (name.as_str(), s)).collect();
    let began = Instant::now();
    let count = conflicts(&borrowed).len();
    println!(
        "looking for conflicts among them:    {:?} ({count} found)",
        began.elapsed()
    );
}
