//! What one address, and all together, may hold: connections, greetings, requests.

use crate::harness::{
    Answer, Authority, Client, ClientH2, Gateway, Reply, Tls, Upstream, WebSocket, app as app_of,
    eventually, in_time, silence,
};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const ANSWER: &str = "routes: { all: { respond: { body: ok } } }";

/// All of 127.0.0.0/8 is this machine: each caller may have an address of its own.
fn caller(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// A bare connection from this address.
async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    try_connect(from, to).await.expect("the gateway accepts")
}

async fn try_connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    in_time("connect", socket.connect(to)).await
}

async fn client(gateway: &Gateway, last: u8) -> Client {
    let stream = connect(caller(last), gateway.address("http")).await;
    Client::over(gateway, Box::new(stream))
}

/// Whether a connection from there is hung up on without a word; the reset may come so soon that
/// connecting fails.
async fn is_turned_away(from: IpAddr, to: SocketAddr) -> bool {
    match try_connect(from, to).await {
        Ok(stream) => hangs_up(stream).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn hangs_up(mut stream: TcpStream) -> bool {
    let read = in_time("an end", stream.read(&mut [0; 16])).await;
    matches!(read, Ok(0) | Err(_))
}

async fn rejected(gateway: &Gateway, reason: &str) -> f64 {
    let name = "onemind_connections_rejected_total";
    gateway
        .metric(&format!("{name}{{reason=\"{reason}\"}}"))
        .await
}

/// Waits until so many connections were turned away for this reason.
async fn are_rejected(gateway: &Gateway, reason: &str, count: u32) {
    eventually(&format!("{count} turned away: {reason}"), async || {
        (rejected(gateway, reason).await >= f64::from(count)).then_some(())
    })
    .await;
    assert!((rejected(gateway, reason).await - f64::from(count)).abs() < 0.5);
}

/// Waits until `/status` shows so many places of this kind taken.
async fn taken(gateway: &Gateway, kind: &str, count: u32) {
    eventually(&format!("{count} {kind}"), async || {
        (gateway.status().await["shield"][kind]["taken"] == json!(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_address_fills_its_own_share_and_nobody_elses() {
    let yaml = format!("server: {{ shield: {{ connections_per_address: 50 }} }}\n{ANSWER}");
    let gateway = Gateway::start(&yaml, &[]).await;
    let address = gateway.address("http");
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(connect(caller(1), address).await);
    }
    taken(&gateway, "connections", 50).await;
    for _ in 0..250 {
        assert!(is_turned_away(caller(1), address).await);
    }
    are_rejected(&gateway, "connections_per_address", 250).await;
    let told = gateway
        .errors()
        .matches("the shield turns callers away")
        .count();
    assert!((1..=3).contains(&told), "{told} lines for 250 of them");
    for last in 2..=20 {
        assert_eq!(client(&gateway, last).await.get("/").await.text(), "ok");
    }
    // Those who are inside are served, and what they leave is free again.
    let mut inside = Client::over(&gateway, Box::new(held.pop().unwrap()));
    assert_eq!(inside.get("/").await.text(), "ok");
    drop((inside, held));
    taken(&gateway, "connections", 0).await;
    assert_eq!(
        gateway.status().await["shield"]["connections"]["addresses"],
        0
    );
    assert_eq!(client(&gateway, 1).await.get("/").await.text(), "ok");
    gateway.settled().await;
}

#[tokio::test]
async fn a_full_house_turns_everybody_away_until_somebody_leaves() {
    let yaml = format!("server: {{ shield: {{ connections: 100 }} }}\n{ANSWER}");
    let gateway = Gateway::start(&yaml, &[]).await;
    let address = gateway.address("http");
    let mut held = Vec::new();
    for last in 1..=100 {
        held.push(connect(caller(last), address).await);
    }
    taken(&gateway, "connections", 100).await;
    for last in 101..=200 {
        assert!(is_turned_away(caller(last), address).await);
    }
    are_rejected(&gateway, "connections", 100).await;
    assert_eq!(
        gateway.ready().await,
        Some(200),
        "operators have a door of their own"
    );
    drop(held.pop());
    taken(&gateway, "connections", 99).await;
    assert_eq!(client(&gateway, 201).await.get("/").await.text(), "ok");
    gateway.settled().await;
}

#[tokio::test]
async fn a_few_greedy_addresses_cannot_fill_the_house() {
    let shield = "connections: 300, connections_per_address: 200";
    let yaml = format!("server: {{ shield: {{ {shield} }} }}\n{ANSWER}");
    let gateway = Gateway::start(&yaml, &[]).await;
    let address = gateway.address("http");
    let mut held = Vec::new();
    for _ in 0..120 {
        for last in 1..=5 {
            // The reset may come before the connection is made.
            held.extend(try_connect(caller(last), address).await);
        }
    }
    let taken = eventually("all were answered", async || {
        let taken = gateway.status().await["shield"]["connections"]["taken"].as_f64()?;
        let refused = rejected(&gateway, "connections_per_address").await;
        (taken + refused > 599.5).then_some(taken)
    })
    .await;
    // Of n places, k of them leave n / (k + 1); workers that accept at the same time may differ by one each.
    assert!((250.0..=255.0).contains(&taken), "{taken}");
    for last in 6..=50 {
        held.push(connect(caller(last), address).await);
    }
    let mut guest = Client::over(&gateway, Box::new(held.pop().unwrap()));
    assert_eq!(guest.get("/").await.text(), "ok");
    gateway.settled().await;
}

#[tokio::test]
async fn a_reload_changes_the_limits_and_forgets_nobody() {
    let yaml = |most: u32| {
        format!("server: {{ shield: {{ connections_per_address: {most} }} }}\n{ANSWER}")
    };
    let gateway = Gateway::start(&yaml(2), &[]).await;
    let address = gateway.address("http");
    let _two = [
        connect(caller(1), address).await,
        connect(caller(1), address).await,
    ];
    taken(&gateway, "connections", 2).await;
    assert!(is_turned_away(caller(1), address).await);
    gateway.reload(&yaml(3), &[]).await;
    let mut third = client(&gateway, 1).await;
    assert_eq!(third.get("/").await.text(), "ok");
    assert!(is_turned_away(caller(1), address).await);
    gateway.settled().await;
}

#[tokio::test]
async fn behind_a_proxy_each_caller_has_its_own_share() {
    let yaml = format!(
        "server: {{ trusted_proxies: [127.0.0.0/8], shield: {{ connections_per_address: 2 }} }}\n\
         listeners: {{ web: {{ address: '{{{{http}}}}', proxy_protocol: true }} }}\n{ANSWER}"
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let from = async |source: &str| {
        let mut stream = connect(caller(1), gateway.address("http")).await;
        let family = if source.contains(':') { "TCP6" } else { "TCP4" };
        let to = if source.contains(':') {
            "::1"
        } else {
            "192.0.2.99"
        };
        let header = format!("PROXY {family} {source} {to} 1234 80\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        stream
    };
    // Two addresses of one /64 are one caller.
    let _held = [from("2001:db8::1").await, from("2001:db8::ffff").await];
    taken(&gateway, "connections", 2).await;
    eventually("both are known", async || {
        (gateway.status().await["shield"]["connections"]["addresses"] == 1).then_some(())
    })
    .await;
    assert!(hangs_up(from("2001:db8::2").await).await);
    are_rejected(&gateway, "connections_per_address", 1).await;
    for source in ["2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"] {
        let mut client = Client::over(&gateway, Box::new(from(source).await));
        assert_eq!(client.get("/").await.text(), "ok", "{source}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn handshakes_that_never_end_are_bounded_and_leave_room_for_others() {
    let authority = Authority::new();
    let dir = tempfile::TempDir::new().unwrap();
    authority.write(dir.path(), "a", &["a.test"]);
    let yaml = format!(
        "server: {{ shield: {{ greetings: 80, greetings_per_address: 30 }} }}\n\
         listeners: {{ secure: {{ address: '{{{{https}}}}', tls: {{ certificates: [{{ certificate: '{{{{dir}}}}/a.pem', \
         key: '{{{{dir}}}}/a.key' }}] }} }} }}\n{ANSWER}"
    );
    let gateway = Gateway::start_in(dir, &yaml, &[]).await;
    let address = gateway.address("https");
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(connect(caller(2), address).await);
    }
    taken(&gateway, "greetings", 30).await;
    for _ in 0..100 {
        assert!(is_turned_away(caller(2), address).await);
    }
    are_rejected(&gateway, "greetings_per_address", 100).await;
    let mut good = Client::secure(&gateway, Tls::to(&authority, "a.test")).await;
    assert_eq!(good.get("/").await.text(), "ok");
    // A connection that has been greeted holds no place for it.
    taken(&gateway, "greetings", 30).await;
    for last in 3..53 {
        silent.push(connect(caller(last), address).await);
    }
    taken(&gateway, "greetings", 80).await;
    assert!(is_turned_away(caller(53), address).await);
    are_rejected(&gateway, "greetings", 1).await;
    assert_eq!(good.get("/").await.text(), "ok", "who is inside is served");
    // Over half of them are taken, so that the last comers are given two seconds and not ten.
    eventually("the last comers are hung up on", async || {
        (rejected(&gateway, "greeting_timed_out").await >= 35.0).then_some(())
    })
    .await;
    drop(silent);
    taken(&gateway, "greetings", 0).await;
    gateway.settled().await;
}

#[tokio::test]
async fn an_address_that_asks_too_fast_is_slowed_down_and_nobody_else() {
    let app = Upstream::named("app").await;
    let yaml = "server: { shield: { rate_per_address: { requests: 5, per: 1h, burst: 3 } } }\n";
    let yaml = yaml.to_owned() + &app_of(&[&app], "", "");
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut fast = client(&gateway, 1).await;
    for _ in 0..3 {
        assert_eq!(fast.get("/").await.text(), "app");
    }
    for _ in 0..50 {
        // On the same connection: it is cheaper to keep than another would be to take.
        let answer = fast.get("/").await;
        answer.assert_refused(429, "too_many_requests");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((700..=720).contains(&wait), "one in twelve minutes: {wait}");
    }
    // Another connection is another door to the same bucket.
    let refused = client(&gateway, 1).await.get("/none").await;
    refused.assert_refused(429, "too_many_requests");
    assert_eq!(client(&gateway, 2).await.get("/").await.text(), "app");
    assert_eq!(app.count(), 4, "the endpoint saw nothing of it");
    let shed = "onemind_http_requests_shed_total{listener=\"web\",reason=\"rate_per_address\"}";
    assert!((gateway.metric(shed).await - 51.0).abs() < 0.5);
    let line = gateway.access_log_line(|line| line["status"] == 429).await;
    assert_eq!(
        (&line["ending"], &line["code"]),
        (&json!("refused"), &json!("too_many_requests"))
    );
    gateway.settled().await;
}

#[tokio::test]
async fn the_rate_is_that_of_the_caller_whom_a_trusted_proxy_names() {
    let yaml = format!(
        "server: {{ trusted_proxies: [127.0.0.1/32], shield: {{ rate_per_address: {{ requests: 2, per: 1h }}, \
         exempt: ['2001:db8:1::/48'] }} }}\n{ANSWER}"
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut proxy = client(&gateway, 1).await;
    for (caller, passed) in [
        ("192.0.2.1", 2),
        ("192.0.2.2", 2),
        ("2001:db8::1", 2),
        ("2001:db8::2", 0),
        ("2001:db8:1::1", 4),
    ] {
        let mut answered = 0;
        for _ in 0..4 {
            let headers = [("x-forwarded-for", caller)];
            let answer = proxy.request("GET", "/", &headers, b"").await;
            answered += u32::from(answer.status == 200);
        }
        assert_eq!(answered, passed, "{caller}");
    }
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.status, 200, "the proxy itself");
    }
    // Whoever is not trusted is counted as itself, whatever it says.
    let mut liar = client(&gateway, 2).await;
    let mut answered = 0;
    for last in 0..4 {
        let claims = format!("198.51.100.{last}");
        let headers = [("x-forwarded-for", claims.as_str())];
        let answer = liar.request("GET", "/", &headers, b"").await;
        answered += u32::from(answer.status == 200);
    }
    assert_eq!(answered, 2);
    gateway.settled().await;
}

/// An upstream that answers `/held` only when it is let go, and everything else at once.
async fn holding() -> (Upstream, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let held = Arc::clone(&go);
    let upstream = Upstream::replying(move |seen| match (seen.target(), seen.header("upgrade")) {
        (_, Some(_)) => Reply::websocket("app"),
        ("/held", _) => Reply::held(&held, Reply::ok("held")),
        _ => Reply::ok("app"),
    })
    .await;
    (upstream, go)
}

/// Requests that are under way until the upstream is let go.
async fn held(gateway: &Gateway, last: u8, count: usize) -> JoinSet<Answer> {
    let mut held = JoinSet::new();
    for _ in 0..count {
        let mut client = client(gateway, last).await;
        held.spawn(async move { client.get("/held").await });
    }
    held
}

/// Lets all of them go; each must be answered.
async fn let_go(mut held: JoinSet<Answer>, go: &Notify) {
    while !held.is_empty() {
        go.notify_waiters();
        tokio::select! {
            answer = held.join_next() => {
                let answer = answer.expect("one is left").expect("no panic");
                assert_eq!((answer.status, answer.text().as_str()), (200, "held"));
            }
            // Who had not begun to wait is called again.
            () = silence(Duration::from_millis(20)) => {}
        }
    }
}

#[tokio::test]
async fn beyond_what_the_process_takes_requests_are_shed_and_health_is_not() {
    let (app, go) = holding().await;
    let yaml = format!(
        "server: {{ shield: {{ in_flight: 200 }} }}\n{}  health: {{ path: /healthz, respond: {{ body: fine }} }}\n",
        app_of(&[&app], "", "")
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    let waiting = held(&gateway, 1, 200).await;
    taken(&gateway, "in_flight", 200).await;
    let mut other = client(&gateway, 2).await;
    for _ in 0..100 {
        let refused = other.get("/").await;
        refused.assert_refused(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(other.get("/healthz").await.text(), "fine");
    assert_eq!(gateway.ready().await, Some(200));
    let shed = "onemind_http_requests_shed_total{listener=\"web\",reason=\"in_flight\"}";
    assert!((gateway.metric(shed).await - 100.0).abs() < 0.5);
    let ended = "onemind_requests_ended_total{ending=\"overloaded\"}";
    assert!((gateway.metric(ended).await - 100.0).abs() < 0.5);
    let_go(waiting, &go).await;
    taken(&gateway, "in_flight", 0).await;
    assert_eq!(other.get("/").await.text(), "app");
    assert_eq!(app.count(), 201, "the endpoint saw none of those refused");
    gateway.settled().await;
}

#[tokio::test]
async fn one_address_has_its_share_of_what_is_in_flight_over_all_its_connections_and_streams() {
    let (app, go) = holding().await;
    let yaml = format!(
        "server: {{ shield: {{ in_flight_per_address: 60 }} }}\n\
         listeners: {{ web: {{ address: '{{{{http}}}}', http2: true }} }}\n{}",
        app_of(&[&app], "", "")
    );
    let gateway = Gateway::start(&yaml, &[]).await;
    // All HTTP/2 here comes from 127.0.0.1: thirty streams of one connection, and thirty connections.
    let streams = ClientH2::plain(&gateway).await;
    let streams = async || {
        let asked = (0..30).map(|_| streams.get("/held"));
        futures_util::future::join_all(asked).await
    };
    let plain = held(&gateway, 1, 30).await;
    let refused_and_let_go = async {
        taken(&gateway, "in_flight", 60).await;
        let refused = client(&gateway, 1).await.get("/").await;
        refused.assert_refused(429, "too_many_requests");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(client(&gateway, 2).await.get("/").await.text(), "app");
        let_go(plain, &go).await;
    };
    let (answers, ()) = tokio::join!(streams(), refused_and_let_go);
    assert!(answers.iter().all(|answer| answer.status == 200));
    taken(&gateway, "in_flight", 0).await;
    gateway.settled().await;
}

#[tokio::test]
async fn open_websockets_are_no_requests_in_flight() {
    let (app, go) = holding().await;
    let yaml = "server: { shield: { in_flight: 3 } }\n".to_owned()
        + &app_of(&[&app], "", "websocket: { enabled: true }");
    let gateway = Gateway::start(&yaml, &[]).await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(WebSocket::open(&gateway, "/", &[]).await);
    }
    assert_eq!(gateway.get("/").await.text(), "app");
    taken(&gateway, "in_flight", 0).await;
    // But none is opened while the process has enough to do.
    let waiting = held(&gateway, 1, 3).await;
    taken(&gateway, "in_flight", 3).await;
    let refused = WebSocket::try_open(&gateway, "/", &[]).await;
    let refused = refused.map(drop).expect_err("it has enough to do");
    refused.assert_refused(503, "overloaded");
    let_go(waiting, &go).await;
    gateway.settled_after_tunnels(sockets).await;
}

#[tokio::test]
async fn places_of_callers_that_leave_are_given_back() {
    let (app, _go) = holding().await;
    let yaml = "server: { shield: { in_flight: 50 } }\n".to_owned() + &app_of(&[&app], "", "");
    let gateway = Gateway::start(&yaml, &[]).await;
    for _ in 0..3 {
        let mut waiting = held(&gateway, 1, 50).await;
        taken(&gateway, "in_flight", 50).await;
        waiting.shutdown().await;
        taken(&gateway, "in_flight", 0).await;
    }
    assert_eq!(gateway.get("/").await.text(), "app");
    gateway.settled().await;
}

#[tokio::test]
async fn nothing_is_forwarded_while_memory_is_short() {
    let app = Upstream::named("app").await;
    let yaml = |memory: &str| {
        format!(
            "server: {{ shield: {{ memory: {memory} }} }}\n{}  health: {{ path: /healthz, respond: {{ body: fine }} }}\n",
            app_of(&[&app], "", "")
        )
    };
    let gateway = Gateway::start(&yaml("1MiB"), &[]).await;
    let mut client = client(&gateway, 1).await;
    eventually("it notices", async || {
        (client.get("/").await.status == 503).then_some(())
    })
    .await;
    let refused = client.get("/").await;
    refused.assert_refused(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(client.get("/healthz").await.text(), "fine");
    assert_eq!(gateway.ready().await, Some(200));
    let shed = "onemind_http_requests_shed_total{listener=\"web\",reason=\"memory\"}";
    assert!(gateway.metric(shed).await >= 2.0);
    assert_eq!(gateway.status().await["shield"]["short_of_memory"], true);
    gateway.reload(&yaml("8GiB"), &[]).await;
    eventually("it takes requests again", async || {
        (client.get("/").await.status == 200).then_some(())
    })
    .await;
    gateway.settled().await;
}
