//! WebSockets: through, back to the same endpoint, and within their limits.

use crate::harness::{
    Authority, Client, Gateway, Reply, Tls, Upstream, WebSocket, app, eventually, in_time, silence,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An upstream that takes WebSockets at `/ws` and answers all else with its name.
async fn echoing(name: &'static str) -> Upstream {
    Upstream::replying(move |seen| match seen.target() {
        target if target.starts_with("/ws") => Reply::websocket(name),
        _ => Reply::ok(name),
    })
    .await
}

#[tokio::test]
async fn messages_pass_both_ways() {
    let app = echoing("app").await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut socket =
        WebSocket::open(&gateway, "/ws?x=1", &[("sec-websocket-protocol", "chat")]).await;
    assert_eq!(socket.name, "app");
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        socket.echo(&"m".repeat(length)).await;
    }
    let seen = app.last().await;
    assert_eq!(seen.target(), "/ws?x=1");
    assert_eq!(seen.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(seen.header("host"), Some("test"));
    assert!((gateway.metric("onemind_websocket_connections").await - 1.0).abs() < 0.1);
    assert_eq!(gateway.endpoint("app", &app).await["in_flight"], 1);
    assert!(gateway.access_log().is_empty(), "it has not ended");
    socket.close().await;
    let line = gateway.ended("tunnel_closed").await;
    assert_eq!(
        (&line["status"], &line["websocket"]),
        (&101.into(), &true.into()),
        "{line}"
    );
    eventually("it is counted out", async || {
        (gateway.metric("onemind_websocket_connections").await < 0.5).then_some(())
    })
    .await;
    assert_eq!(gateway.endpoint("app", &app).await["in_flight"], 0);
    gateway.settled().await;
}

#[tokio::test]
async fn either_side_may_end_it() {
    let app = echoing("app").await;
    let gateway = Gateway::of(&[&app], "", "").await;
    // The caller goes without a word.
    drop(WebSocket::open(&gateway, "/ws", &[]).await);
    eventually("the upstream's side is closed", async || {
        (app.open() == 0).then_some(())
    })
    .await;
    // The upstream dies.
    let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
    app.stop().await;
    assert_eq!(socket.receive().await, None);
    gateway.settled().await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "tunnel_closed", "{line}");
    }
}

#[tokio::test]
async fn a_refusal_by_the_upstream_reaches_the_caller() {
    let app = Upstream::replying(|_| Reply::status(403, "not you")).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let answer = WebSocket::try_open(&gateway, "/ws", &[])
        .await
        .err()
        .expect("refused");
    assert_eq!((answer.status, answer.text().as_str()), (403, "not you"));
    gateway.ended("completed").await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let (dead, app) = (echoing("dead").await, echoing("app").await);
    dead.stop().await;
    let gateway = Gateway::of(&[&dead, &app], "retry: { budget: 100% }", "").await;
    for _ in 0..4 {
        let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
        socket.echo("still").await;
    }
    app.stop().await;
    let answer = WebSocket::try_open(&gateway, "/ws", &[])
        .await
        .err()
        .expect("refused");
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
    gateway.settled().await;
}

#[tokio::test]
async fn wss_passes_too() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    authority.write(dir.path(), "web", &["web.test"]);
    let app = echoing("app").await;
    let gateway = Gateway::start_in(
        dir,
        "
listeners: { web: { address: '{{https}}', tls: { certificates: [{ certificate: '{{dir}}/web.pem', key: '{{dir}}/web.key' }] } } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off }, sticky: {} } }
routes: { all: { pool: app } }
",
        &[("app", &app)],
    )
    .await;
    let tls = Tls::to(&authority, "web.test").offering(&[b"http/1.1"]);
    let mut socket = WebSocket::open_secure(&gateway, tls, "/ws").await;
    socket.echo("secret").await;
    let set = socket.answer.header("set-cookie").unwrap().to_owned();
    assert!(set.contains("Secure"), "{set}");
    drop(socket);
    gateway.settled().await;
}

#[tokio::test]
async fn a_cookie_brings_the_caller_back_over_reconnects_and_reloads() {
    let (a, b, c) = (echoing("a").await, echoing("b").await, echoing("c").await);
    let gateway = Gateway::of(&[&a, &b, &c], "sticky: {}", "").await;
    let mut names = BTreeSet::new();
    for _ in 0..6 {
        names.insert(WebSocket::open(&gateway, "/ws", &[]).await.name.clone());
    }
    assert_eq!(names.len(), 3, "without a cookie all take their turn");

    let first = WebSocket::open(&gateway, "/ws", &[]).await;
    let cookie = first.cookie().expect("a cookie is set");
    let set = first.answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("onemind_endpoint="), "{set}");
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=86400"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(!set.contains("Secure"), "{set}");
    assert!(!set.contains("127.0.0.1"), "an address is shown: {set}");
    let back = async || {
        let both = format!("x=1; {cookie}");
        WebSocket::open(&gateway, "/ws", &[("cookie", &both)]).await
    };
    for _ in 0..7 {
        let again = back().await;
        assert_eq!(again.name, first.name);
        assert_eq!(
            again.cookie(),
            None,
            "no new cookie while the old one holds"
        );
    }
    // A reload with the endpoints in another order, and a changed setting.
    let yaml = app(&[&c, &a, &b], "sticky: {}\ndns_refresh: 9s", "");
    gateway.reload(&yaml, &[]).await;
    for _ in 0..7 {
        assert_eq!(back().await.name, first.name);
    }
    // By default only WebSockets are sticky.
    let mut client = Client::connect(&gateway).await;
    let mut names = BTreeSet::new();
    for _ in 0..6 {
        names.insert(
            client
                .request("GET", "/", &[("cookie", &cookie)], b"")
                .await
                .text(),
        );
    }
    assert_eq!(names.len(), 3);
    drop(first);
    gateway.settled().await;
}

#[tokio::test]
async fn a_caller_whose_endpoint_is_gone_is_bound_anew() {
    let (a, b) = (echoing("a").await, echoing("b").await);
    let pool = "sticky: {}\nejection: { base: 60s }";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    let first = WebSocket::open(&gateway, "/ws", &[]).await;
    let cookie = first.cookie().unwrap();
    let (lost, kept) = if first.name == "a" {
        (&a, &b)
    } else {
        (&b, &a)
    };
    lost.stop().await;
    let second = WebSocket::open(&gateway, "/ws", &[("cookie", &cookie)]).await;
    assert_ne!(second.name, first.name);
    let new = second.cookie().expect("told by a new cookie");
    assert_ne!(new, cookie);
    let third = WebSocket::open(&gateway, "/ws", &[("cookie", &new)]).await;
    assert_eq!(
        (third.name.as_str(), third.cookie()),
        (second.name.as_str(), None)
    );

    // The same when the endpoint leaves the configuration.
    lost.start().await;
    gateway.reload(&app(&[lost], pool, ""), &[]).await;
    let fourth = WebSocket::open(&gateway, "/ws", &[("cookie", &new)]).await;
    assert_eq!(fourth.name, first.name);
    assert!(fourth.cookie().is_some());
    assert!(kept.count() >= 2);
    gateway
        .settled_after_tunnels(vec![first, second, third, fourth])
        .await;
}

#[tokio::test]
async fn a_forged_cookie_leads_nowhere() {
    let (a, b) = (echoing("a").await, echoing("b").await);
    let gateway = Gateway::of(&[&a, &b], "sticky: {}", "").await;
    let first = WebSocket::open(&gateway, "/ws", &[]).await;
    let cookie = first.cookie().unwrap();
    let mut forged = cookie.clone();
    let last = if forged.ends_with('A') { "B" } else { "A" };
    forged.replace_range(cookie.len() - 1.., last);
    for bad in [
        forged.as_str(),
        "onemind_endpoint=",
        "onemind_endpoint=v1.AAAA",
        "onemind_endpoint=%00",
    ] {
        let mut names = BTreeSet::new();
        for _ in 0..4 {
            let socket = WebSocket::open(&gateway, "/ws", &[("cookie", bad)]).await;
            assert!(socket.cookie().is_some(), "{bad}");
            names.insert(socket.name.clone());
        }
        assert_eq!(names.len(), 2, "{bad}");
    }
    gateway.settled_after_tunnels(vec![first]).await;
}

#[tokio::test]
async fn plain_requests_can_be_sticky_too_and_a_shared_secret_is_understood_elsewhere() {
    let (a, b, c) = (echoing("a").await, echoing("b").await, echoing("c").await);
    let pool =
        "sticky: { on: all, cookie: place, max_age: 1h, secret: 0123456789abcdef0123456789abcdef }";
    let one = Gateway::of(&[&a, &b, &c], pool, "").await;
    let other = Gateway::of(&[&a, &b, &c], pool, "").await;
    let mut client = Client::connect(&one).await;
    let first = client.get("/").await;
    let set = first.header("set-cookie").unwrap();
    assert!(
        set.starts_with("place=") && set.contains("Max-Age=3600"),
        "{set}"
    );
    let cookie = set.split(';').next().unwrap().to_owned();
    let mut elsewhere = Client::connect(&other).await;
    for _ in 0..7 {
        let again = client
            .request("GET", "/", &[("cookie", &cookie)], b"")
            .await;
        assert_eq!(
            (again.text(), again.header("set-cookie")),
            (first.text(), None)
        );
        let again = elsewhere
            .request("GET", "/", &[("cookie", &cookie)], b"")
            .await;
        assert_eq!(again.text(), first.text());
        let socket = WebSocket::open(&one, "/ws", &[("cookie", &cookie)]).await;
        assert_eq!(socket.name, first.text());
    }
    one.settled().await;
    other.settled().await;
}

#[tokio::test]
async fn origins_can_be_restricted() {
    let app = echoing("app").await;
    let route = "websocket: { origins: ['https://app.example.com', 'http://localhost:3000'] }";
    let gateway = Gateway::of(&[&app], "", route).await;
    for (origin, good) in [
        (Some("https://app.example.com"), true),
        (Some("http://localhost:3000"), true),
        (Some("https://evil.example.com"), false),
        (Some("https://app.example.com.evil.com"), false),
        (Some("http://app.example.com"), false),
        (Some("null"), false),
    ] {
        let headers: Vec<_> = origin.iter().map(|origin| ("origin", *origin)).collect();
        match WebSocket::try_open(&gateway, "/ws", &headers).await {
            Ok(socket) => {
                assert!(good, "{origin:?}");
                drop(socket);
            }
            Err(answer) => {
                assert!(!good, "{origin:?}");
                answer.assert_refused(403, "origin_not_allowed");
            }
        }
    }
    // An ordinary request is none of its business.
    let mut client = Client::connect(&gateway).await;
    let origin = [("origin", "https://evil.example.com")];
    assert_eq!(client.request("GET", "/", &origin, b"").await.status, 200);
    gateway.settled().await;
}

#[tokio::test]
async fn too_many_are_refused_until_one_goes() {
    for (route, code) in [
        ("websocket: { max: 2 }", "too_many_websockets"),
        ("websocket: { max_per_user: 2 }", "too_many_websockets"),
    ] {
        let app = echoing("app").await;
        let gateway = Gateway::of(&[&app], "", route).await;
        let one = WebSocket::open(&gateway, "/ws", &[]).await;
        let two = WebSocket::open(&gateway, "/ws", &[]).await;
        let mut client = Client::connect(&gateway).await;
        for _ in 0..2 {
            let refused = WebSocket::over(client, "/ws", &[])
                .await
                .err()
                .expect("refused");
            refused.assert_refused(429, code);
            client = Client::connect(&gateway).await;
        }
        assert_eq!(client.get("/").await.status, 200, "ordinary requests go on");
        one.close().await;
        let three = eventually("a place is free", async || {
            WebSocket::try_open(&gateway, "/ws", &[]).await.ok()
        })
        .await;
        gateway.settled_after_tunnels(vec![two, three]).await;
        let rejected = gateway.metric("onemind_websocket_rejections_total").await;
        assert!(rejected >= 2.0, "{route}: {rejected}");
    }
}

#[tokio::test]
async fn who_sends_too_many_messages_is_closed_with_a_reason() {
    let app = echoing("app").await;
    let route = "websocket: { messages_per_minute: 5 }";
    let gateway = Gateway::of(&[&app], "", route).await;
    let mut first = WebSocket::open(&gateway, "/ws", &[]).await;
    let mut second = WebSocket::open(&gateway, "/ws", &[]).await;
    // Of one address, on both together; control frames are free.
    for nth in 0..5 {
        first.ping().await;
        let socket = if nth % 2 == 0 {
            &mut first
        } else {
            &mut second
        };
        socket.echo("one of five").await;
    }
    first.send("the sixth").await;
    assert_eq!(
        first.close_frame().await,
        Some((1008, "too many messages".into()))
    );
    // The other stays open, until it speaks.
    second.ping().await;
    second.send("the seventh").await;
    assert_eq!(second.close_frame().await.map(|(code, _)| code), Some(1008));
    drop((first, second));
    eventually("both are counted", async || {
        let ended = "onemind_requests_ended_total{ending=\"tunnel_over_limit\"}";
        (gateway.metric(ended).await > 1.5).then_some(())
    })
    .await;
    let line = gateway
        .access_log_line(|line| line["websocket"] == true)
        .await;
    assert_eq!(line["ending"], "tunnel_over_limit");
    // Nothing is forgotten for being gone.
    let mut again = WebSocket::open(&gateway, "/ws", &[]).await;
    again.send("the eighth").await;
    assert_eq!(again.close_frame().await.map(|(code, _)| code), Some(1008));
    gateway.settled_after_tunnels(vec![again]).await;
}

#[tokio::test]
async fn a_route_may_take_none() {
    let app = echoing("app").await;
    let gateway = Gateway::of(&[&app], "", "websocket: { enabled: false }").await;
    let refused = WebSocket::try_open(&gateway, "/ws", &[])
        .await
        .err()
        .expect("refused");
    refused.assert_refused(403, "upgrade_not_allowed");
    assert_eq!(app.count(), 0);
    assert_eq!(gateway.get("/").await.status, 200);
    gateway.settled().await;
}

#[tokio::test]
async fn an_upgrade_header_opens_no_side_door() {
    let app = echoing("app").await;
    let gateway = Gateway::start(
        "
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes:
  open: { path: '/open/*', pool: app, method: [GET, POST], body_max: 10, request_headers: { set: { x-checked: 'yes' } } }
  none: { path: '/none/*', pool: app, websocket: { enabled: false } }
",
        &[("app", &app)],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    let upgrades = ["x", "h2c", "TLS/1.0", "websocket2", "x, websocket2"];
    for upgrade in upgrades {
        let headers = [("connection", "upgrade"), ("upgrade", upgrade)];
        // An ordinary request, with every rule of its route.
        for target in ["/open/a", "/none/a"] {
            let answer = client.request("GET", target, &headers, b"").await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "app"),
                "{upgrade} {target}"
            );
            let seen = app.last().await;
            assert_eq!(seen.header("upgrade"), None, "{}", seen.head);
        }
        client
            .request("GET", "/elsewhere", &headers, b"")
            .await
            .assert_refused(404, "no_route");
        client
            .request("DELETE", "/open/a", &headers, b"")
            .await
            .assert_refused(405, "method_not_allowed");
        let mut other = Client::connect(&gateway).await;
        let answer = other
            .request("POST", "/open/a", &headers, b"more than ten bytes")
            .await;
        answer.assert_refused(413, "body_too_large");
    }
    // A real one obeys the route as well.
    let refused = WebSocket::try_open(&gateway, "/elsewhere", &[])
        .await
        .err()
        .expect("refused");
    refused.assert_refused(404, "no_route");
    gateway.settled().await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_no_tunnel() {
    let app = Upstream::replying(|_| {
        Reply::raw("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw bytes").silence()
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "timeouts: { first_byte: 500ms, total: 2s }").await;
    let mut client = Client::connect(&gateway).await;
    if let Ok(answer) = client.try_request("GET", "/", &[], b"").await {
        assert!(matches!(answer.status, 502 | 504), "{}", answer.head);
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_silent_tunnel_is_closed_after_its_idle_limit_and_a_talking_one_is_not() {
    let app = echoing("app").await;
    let gateway = Gateway::of(
        &[&app],
        "",
        "websocket: { idle: 2s }\ntimeouts: { total: 1s, idle: 1s }",
    )
    .await;
    let started = Instant::now();
    let mut silent = WebSocket::open(&gateway, "/ws", &[]).await;
    let mut talking = WebSocket::open(&gateway, "/ws", &[]).await;
    let talk = async {
        for _ in 0..8 {
            silence(Duration::from_millis(600)).await;
            talking.echo("still here").await;
        }
    };
    let ((), gone) = tokio::join!(talk, async {
        let gone = silent.receive().await;
        (gone, started.elapsed())
    });
    assert_eq!(gone.0, None);
    assert!((1_900..4_500).contains(&gone.1.as_millis()), "{:?}", gone.1);
    let line = gateway.ended("tunnel_idle").await;
    assert_eq!(line["status"], 101, "{line}");
    gateway.settled_after_tunnels(vec![talking]).await;
}

/// A minute and a half is more than any default below us (60 s) and less than our own (10 min).
#[tokio::test]
async fn ninety_seconds_of_silence_are_survived() {
    let authority = Authority::new();
    let dir = TempDir::new().unwrap();
    authority.write(dir.path(), "web", &["web.test"]);
    let app = echoing("app").await;
    let gateway = Gateway::start_in(
        dir,
        "
listeners:
  web: { address: '{{http}}' }
  secure: { address: '{{https}}', tls: { certificates: [{ certificate: '{{dir}}/web.pem', key: '{{dir}}/web.key' }] } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
",
        &[("app", &app)],
    )
    .await;
    let tls = Tls::to(&authority, "web.test");
    let mut plain = WebSocket::open(&gateway, "/ws", &[]).await;
    let mut secure = WebSocket::open_secure(&gateway, tls, "/ws").await;
    silence(Duration::from_secs(91)).await;
    plain.echo("still here").await;
    secure.echo("still here").await;
    gateway.settled_after_tunnels(vec![plain, secure]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_echo_at_once() {
    // Two files for each at our side of either end, and as many in the gateway.
    let sockets_max = open_files_max() / 4;
    if sockets_max < 1_000 {
        println!("only {sockets_max} sockets: the limit of open files is low (ulimit -n)");
    }
    let count = sockets_max.min(1_000);
    let app = echoing("app").await;
    let gateway = Arc::new(Gateway::of(&[&app], "", "websocket: { max_per_user: 2000 }").await);
    WebSocket::open(&gateway, "/ws", &[]).await.close().await;
    let before = gateway.memory_kib("VmRSS");
    let mut sockets: Vec<WebSocket> = Vec::new();
    for _ in 0..count / 50 {
        let batch = (0..50).map(|_| WebSocket::open(&gateway, "/ws", &[]));
        sockets.extend(in_time("fifty sockets", futures_util::future::join_all(batch)).await);
    }
    let echo = async |sockets: &mut Vec<WebSocket>, text: &str| {
        let all = sockets.iter_mut().map(|socket| socket.echo(text));
        futures_util::future::join_all(all).await;
    };
    let started = Instant::now();
    for round in 0..5 {
        echo(&mut sockets, &format!("round {round}")).await;
    }
    let after = gateway.memory_kib("VmRSS");
    println!(
        "{count} WebSockets: {:.1} KiB each, {:?} for a round of echoes (build for tests)",
        (after.saturating_sub(before)) as f64 / count as f64,
        started.elapsed() / 5
    );
    assert!(
        (gateway.metric("onemind_websocket_connections").await - (count / 50 * 50) as f64).abs()
            < 0.1
    );
    gateway.settled_after_tunnels(sockets).await;
}

fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX)
}
