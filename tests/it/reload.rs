//! A new configuration takes over without a request noticing.

use crate::harness::{Client, Gateway, Load, Reply, Upstream, WebSocket, app, eventually};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Notify;

fn answering(text: &str) -> String {
    format!("routes: {{ all: {{ respond: {{ body: {text} }} }} }}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_cost_no_request() {
    let (a, b, c) = (
        Upstream::named("a").await,
        Upstream::named("b").await,
        Upstream::named("c").await,
    );
    let gateway = Gateway::of(&[&a, &b], "", "").await;
    let load = Load::start(&gateway, "/", 200, 8);
    let before = gateway.revision().await;
    for nth in 0..100 {
        let third = nth % 2 == 0;
        let pool = format!("dns_refresh: {}s\nslow_start: {}s", 10 + nth, nth % 3);
        let route = format!("response_headers: {{ set: {{ x-revision: '{nth}' }} }}");
        let yaml = if third {
            app(&[&a, &b, &c], &pool, &route)
        } else {
            app(&[&b, &a], &pool, &route)
        };
        gateway.reload(&yaml, &[]).await;
        let answer = gateway.get("/").await;
        let revision = nth.to_string();
        assert_eq!(
            answer.header("x-revision"),
            Some(revision.as_str()),
            "at once"
        );
        load.goes_on_for(3).await;
    }
    let done = load.stop_without_failures().await;
    println!("{done} requests over 100 reloads");
    assert!(gateway.revision().await >= before + 100);
    assert!(gateway.metric("onemind_config_reloads_total").await >= 100.0);
    gateway.settled().await;
}

#[tokio::test]
async fn a_faulty_document_leaves_the_old_one_serving() {
    let gateway = Gateway::start(&answering("old"), &[]).await;
    let revision = gateway.revision().await;
    for faulty in [
        "routes: { all: { respond: { bodi: new } } }",
        "routes: { all: { pool: nowhere } }",
        "routes: { all: { respond: { body: new } }",
        "pools: { app: { endpoints: [] } }\nroutes: { all: { pool: app } }",
    ] {
        let answer = gateway.try_reload(faulty, &[]).await;
        assert!(
            (400..500).contains(&answer.status),
            "{faulty}: {}",
            answer.head
        );
        assert!(
            answer.json()["faults"][0]["what"].is_string(),
            "{}",
            answer.text()
        );
        assert_eq!(gateway.get("/").await.text(), "old");
        let status = gateway.status().await;
        assert_eq!(status["config"]["ok"], false, "{status}");
        let faults = status["config"]["faults"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert!(!faults.is_empty(), "{status}");
        assert_eq!(gateway.revision().await, revision);
        let successful = gateway
            .metric("onemind_config_last_reload_successful")
            .await;
        assert!(successful < 0.5, "{faulty}");
    }
    assert!(
        gateway
            .metric("onemind_config_reloads_total{result=\"failed\"}")
            .await
            >= 4.0
    );
    assert!(gateway.errors().contains("bodi"), "{}", gateway.errors());
    assert_eq!(gateway.ready().await, Some(200), "it still serves");
    gateway.reload(&answering("new"), &[]).await;
    assert_eq!(gateway.get("/").await.text(), "new");
    let status = gateway.status().await;
    assert_eq!(
        (&status["config"]["ok"], &status["config"]["faults"]),
        (&json!(true), &json!([]))
    );
    assert!(gateway.revision().await > revision);
    gateway.settled().await;
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_so_is_a_signal() {
    let gateway = Gateway::start(&answering("one"), &[]).await;
    let serves = async |text: &str| {
        eventually(text, async || {
            (gateway.get("/").await.text() == text).then_some(())
        })
        .await;
    };
    serves("one").await;
    gateway.write(&answering("two"), &[]);
    serves("two").await;
    // Written in place, as some editors do.
    let text = std::fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    std::fs::write(gateway.path("gateway.yaml"), text.replace("two", "three")).unwrap();
    serves("three").await;
    let before = gateway.metric("onemind_config_reloads_total").await;
    gateway.signal("HUP");
    eventually("a reload by signal", async || {
        (gateway.metric("onemind_config_reloads_total").await > before).then_some(())
    })
    .await;
    assert!(gateway.is_running());
    serves("three").await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_link_that_is_turned_is_noticed() {
    // As Kubernetes does it: the file is a link through a folder that is replaced.
    let gateway = Gateway::start(&answering("one"), &[]).await;
    let file = gateway.path("gateway.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    for (folder, word) in [("..v1", "two"), ("..v2", "three")] {
        std::fs::create_dir(gateway.path(folder)).unwrap();
        std::fs::write(
            gateway.path(folder).join("gateway.yaml"),
            text.replace("one", word),
        )
        .unwrap();
        std::os::unix::fs::symlink(folder, gateway.path("..new")).unwrap();
        std::fs::rename(gateway.path("..new"), gateway.path("..data")).unwrap();
        if word == "two" {
            std::os::unix::fs::symlink("..data/gateway.yaml", gateway.path("link")).unwrap();
            std::fs::rename(gateway.path("link"), &file).unwrap();
        }
        eventually(word, async || {
            (gateway.get("/").await.text() == word).then_some(())
        })
        .await;
    }
    gateway.settled().await;
}

#[tokio::test]
async fn what_was_learned_survives() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    a.health(500, "");
    let pool = "health: { fast_interval: 50ms }\nejection: { base: 60s }";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    gateway.endpoint_is("app", &a, "up", json!(false)).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.text(), "b");
    }
    let counted = gateway.metric("onemind_http_requests_total").await;
    let probes = b.health_seen();
    for nth in 0..5 {
        let pool = format!("{pool}\ndns_refresh: {}s", 20 + nth);
        gateway.reload(&app(&[&b, &a], &pool, ""), &[]).await;
        let endpoint = gateway.endpoint("app", &a).await;
        assert_eq!(endpoint["up"], false, "known to be down: {endpoint}");
        assert_eq!(gateway.get("/").await.text(), "b");
    }
    assert!(gateway.metric("onemind_http_requests_total").await >= counted + 4.0);
    assert_eq!(
        b.health_seen(),
        probes,
        "unchanged endpoints are not probed anew"
    );
    assert_eq!(a.count(), 0);
    gateway.settled().await;
}

#[tokio::test]
async fn requests_in_flight_and_tunnels_outlive_their_configuration() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let old = Upstream::replying(move |seen| match seen.target() {
        "/slow" => Reply::held(&held, Reply::ok("old")),
        "/ws" => Reply::websocket("old"),
        _ => Reply::ok("old"),
    })
    .await;
    let new = Upstream::named("new").await;
    let gateway = Gateway::of(&[&old], "", "").await;
    let mut waiting = Client::connect(&gateway).await;
    waiting.count(1);
    waiting
        .send(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    let mut socket = WebSocket::open(&gateway, "/ws", &[]).await;
    eventually("both are there", async || (old.count() == 2).then_some(())).await;
    assert_eq!(gateway.endpoint("app", &old).await["in_flight"], 2);

    gateway
        .reload(&app(&[&old], "dns_refresh: 77s", ""), &[])
        .await;
    assert_eq!(
        gateway.endpoint("app", &old).await["in_flight"],
        2,
        "counted over a reload"
    );

    gateway.reload(&app(&[&new], "", ""), &[]).await;
    assert_eq!(gateway.get("/").await.text(), "new");
    socket.echo("still here").await;
    release.notify_waiters();
    assert_eq!(waiting.answer().await.text(), "old");
    assert_eq!(
        waiting.get("/").await.text(),
        "new",
        "the same connection, the next request"
    );
    socket.echo("still here").await;
    gateway.settled_after_tunnels(vec![socket]).await;
}

#[tokio::test]
async fn listeners_that_stay_keep_their_connections() {
    let gateway = Gateway::start(&answering("one"), &[]).await;
    let mut client = Client::connect(&gateway).await;
    for word in ["two", "three", "four"] {
        gateway.reload(&answering(word), &[]).await;
        assert_eq!(client.get("/").await.text(), word);
    }
    gateway.settled().await;
}
