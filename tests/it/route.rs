//! What goes where: matching, redirects, fixed answers, and what is changed on the way.

use crate::harness::{Client, Gateway, Reply, Upstream};

#[tokio::test]
async fn the_most_specific_route_wins() {
    let gateway = Gateway::start(
        "
routes:
  any: { respond: { body: any } }
  exact_host: { host: a.test, respond: { body: exact_host } }
  wildcard: { host: '*.test', respond: { body: wildcard } }
  exact_path: { path: /p/x, respond: { body: exact_path } }
  pattern: { path: '/p/{id}', respond: { body: pattern } }
  prefix: { path: '/p/*', respond: { body: prefix } }
  longer_prefix: { path: '/p/q/*', respond: { body: longer_prefix } }
  post: { path: '/p/*', method: POST, respond: { body: post } }
  header: { path: '/p/*', headers: { x-kind: blue }, respond: { body: header } }
  any_value: { path: /v, headers: { x-any: '*' }, respond: { body: any_value } }
",
        &[],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    for (method, host, target, header, expected) in [
        ("GET", "other.example", "/", "x: y", "any"),
        ("GET", "a.test", "/", "x: y", "exact_host"),
        ("GET", "A.Test:8080", "/", "x: y", "exact_host"),
        ("GET", "b.test", "/", "x: y", "wildcard"),
        ("GET", "c.b.test", "/", "x: y", "wildcard"),
        ("GET", "test", "/", "x: y", "any"),
        ("GET", "example", "/p/x", "x: y", "exact_path"),
        ("GET", "example", "/p/x?a=/p/q/", "x: y", "exact_path"),
        ("GET", "example", "/p/y", "x: y", "pattern"),
        ("GET", "example", "/p/y/z", "x: y", "prefix"),
        ("GET", "example", "/p", "x: y", "prefix"),
        ("GET", "example", "/pq", "x: y", "any"),
        ("GET", "example", "/p/q/r", "x: y", "longer_prefix"),
        ("POST", "example", "/p/y/z", "x: y", "post"),
        ("GET", "example", "/p/y/z", "x-kind: blue", "header"),
        ("GET", "example", "/p/y/z", "x-kind: red", "prefix"),
        ("GET", "example", "/v", "x-any: thing", "any_value"),
        ("GET", "example", "/v", "x: y", "any"),
        ("GET", "a.test", "/p/x", "x: y", "exact_host"),
    ] {
        let (name, value) = header.split_once(": ").unwrap();
        let headers = [("host", host), (name, value)];
        let answer = client.request(method, target, &headers, b"").await;
        assert_eq!(answer.text(), expected, "{method} {host}{target} {header}");
        assert_eq!(answer.status, 200);
    }
    gateway.settled().await;
}

#[tokio::test]
async fn an_absolute_target_is_matched_by_its_own_host() {
    let gateway = Gateway::start(
        "
routes:
  a: { host: a.test, respond: { body: a } }
  b: { host: b.test, respond: { body: b } }
",
        &[],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    client.host = "a.test".to_owned();
    let answer = client.get("http://a.test/x").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
    gateway.settled().await;
}

#[tokio::test]
async fn a_request_without_a_route_is_told_so_and_keeps_its_connection() {
    let gateway =
        Gateway::start("routes: { a: { host: a.test, respond: { body: a } } }", &[]).await;
    let mut client = Client::connect(&gateway).await;
    for _ in 0..2 {
        client.get("/").await.assert_refused(404, "no_route");
        client
            .post("/", b"some body")
            .await
            .assert_refused(404, "no_route");
    }
    client.host = "a.test".to_owned();
    assert_eq!(client.get("/").await.text(), "a");
    gateway.settled().await;
    assert_eq!(gateway.access_log()[0]["ending"], "no_route");
    let refused = gateway
        .metric("onemind_requests_ended_total{ending=\"no_route\"}")
        .await;
    assert!((refused - 4.0).abs() < 0.1, "{refused}");
}

#[tokio::test]
async fn a_wrong_method_is_told_which_ones_are_right() {
    let gateway = Gateway::start(
        "
routes:
  read: { path: /x, method: GET, respond: { body: read } }
  write: { path: /x, method: [POST, PUT], respond: { body: write } }
",
        &[],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.get("/x").await.text(), "read");
    assert_eq!(client.post("/x", b"").await.text(), "write");
    assert_eq!(client.request("HEAD", "/x", &[], b"").await.status, 200);
    let answer = client.request("DELETE", "/x", &[], b"").await;
    answer.assert_refused(405, "method_not_allowed");
    let allow = answer.header("allow").unwrap_or_default().to_owned();
    for method in ["GET", "HEAD", "POST", "PUT"] {
        assert!(allow.contains(method), "{allow}");
    }
    assert_eq!(
        client.get("/x").await.text(),
        "read",
        "the connection is kept"
    );
    gateway.settled().await;
}

#[tokio::test]
async fn redirects_and_fixed_answers_are_filled_in() {
    let gateway = Gateway::start(
        "
routes:
  moved: { path: '/old/*', redirect: { to: '/new/{*}' } }
  user: { path: '/u/{id}', redirect: { to: 'https://{host}/users/{id}', status: 302 } }
  teapot: { path: /tea, respond: { status: 418, body: '{\"tea\":1}', content_type: application/json } }
  empty: { path: /empty, respond: { status: 204 } }
",
        &[],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    let moved = client.get("/old/a/b").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (308, Some("/new/a/b"))
    );
    let user = client
        .request("POST", "/u/7", &[("host", "h.test")], b"body")
        .await;
    assert_eq!(user.status, 302);
    assert_eq!(user.header("location"), Some("https://h.test/users/7"));
    let tea = client.get("/tea").await;
    assert_eq!((tea.status, tea.text().as_str()), (418, "{\"tea\":1}"));
    assert_eq!(tea.header("content-type"), Some("application/json"));
    let empty = client.get("/empty").await;
    assert_eq!((empty.status, empty.header("content-length")), (204, None));
    let head = client.request("HEAD", "/tea", &[], b"").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (418, Some("9"))
    );
    gateway.settled().await;
    for line in gateway.access_log() {
        assert_eq!(line["ending"], "answered", "{line}");
    }
}

#[tokio::test]
async fn a_redirect_cannot_be_split_into_two_headers() {
    let gateway = Gateway::start(
        "routes: { moved: { path: '/old/*', redirect: { to: '/new/{*}' } } }",
        &[],
    )
    .await;
    let answer = gateway.get("/old/a%0d%0aset-cookie:%20a=b").await;
    assert_eq!(answer.header("set-cookie"), None, "{}", answer.head);
    gateway.settled().await;
}

#[tokio::test]
async fn paths_are_stripped_and_rewritten_and_queries_kept() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::start(
        "
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes:
  plain: { path: '/plain/*', pool: app }
  strip: { path: '/api/*', strip_prefix: /api, pool: app }
  rewrite: { path: '/users/{id}/posts', rewrite_path: '/p/{id}', pool: app }
  tail: { path: '/files/*', rewrite_path: '/store/{*}', pool: app }
",
        &[("app", &app)],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    for (target, expected) in [
        ("/plain/a?b=c", "/plain/a?b=c"),
        ("/plain/a%2Fb%20c?d=%26", "/plain/a%2Fb%20c?d=%26"),
        ("/api/a/b?c=d", "/a/b?c=d"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/users/7/posts?x=1", "/p/7?x=1"),
        ("/files/a/b.txt?v=2", "/store/a/b.txt?v=2"),
    ] {
        assert_eq!(client.get(target).await.status, 200);
        assert_eq!(app.last().await.target(), expected, "{target}");
    }
    gateway.settled().await;
}

#[tokio::test]
async fn headers_are_set_removed_and_the_host_replaced() {
    let app = Upstream::replying(|_| {
        Reply::with_headers(
            200,
            &[("x-secret", "inner"), ("server", "old"), ("x-kept", "yes")],
            "app",
        )
    })
    .await;
    let gateway = Gateway::start(
        "
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes:
  kept: { path: /kept, pool: app }
  changed:
    path: /changed
    pool: app
    host_header: inner.example
    request_headers: { set: { x-added: one, x-replaced: new }, remove: x-gone }
    response_headers: { set: { server: ours, x-more: two }, remove: [x-secret] }
",
        &[("app", &app)],
    )
    .await;
    let mut client = Client::connect(&gateway).await;
    let sent = [
        ("host", "outer.example"),
        ("x-gone", "1"),
        ("x-replaced", "old"),
    ];
    let kept = client.request("GET", "/kept", &sent, b"").await;
    assert_eq!(kept.header("x-secret"), Some("inner"));
    let seen = app.last().await;
    assert_eq!(seen.header("host"), Some("outer.example"));
    assert_eq!(seen.header("x-gone"), Some("1"));

    let changed = client.request("GET", "/changed", &sent, b"").await;
    let seen = app.last().await;
    assert_eq!(seen.header("host"), Some("inner.example"));
    assert_eq!(seen.header("x-gone"), None);
    assert_eq!(seen.header("x-added"), Some("one"));
    assert_eq!(seen.headers("x-replaced"), ["new"]);
    assert_eq!(changed.header("x-secret"), None);
    assert_eq!(changed.headers("server"), ["ours"]);
    assert_eq!(changed.header("x-more"), Some("two"));
    assert_eq!(changed.header("x-kept"), Some("yes"));
    gateway.settled().await;
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let app = Upstream::replying(|_| {
        Reply::with_headers(
            200,
            &[
                ("connection", "keep-alive, x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
            ],
            "app",
        )
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    let sent = [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("te", "gzip"),
        ("proxy-authorization", "secret"),
    ];
    let answer = client.request("GET", "/", &sent, b"").await;
    let seen = app.last().await;
    assert_eq!(seen.header("x-mine"), None, "{}", seen.head);
    assert_eq!(seen.header("te"), None, "{}", seen.head);
    assert_eq!(answer.header("x-hop"), None, "{}", answer.head);
    assert_eq!(answer.header("keep-alive"), None, "{}", answer.head);
    gateway.settled().await;
}

#[tokio::test]
async fn a_route_can_belong_to_one_listener() {
    let gateway = Gateway::start(
        "
listeners:
  web: { address: ['{{http}}', '{{second}}'] }
  inner: { address: '{{inner}}' }
routes:
  all: { respond: { body: all } }
  inner: { path: /inner, listener: inner, respond: { body: inner } }
",
        &[],
    )
    .await;
    for (listener, expected) in [("http", "all"), ("second", "all"), ("inner", "inner")] {
        let mut client = Client::connect_to(&gateway, listener).await;
        assert_eq!(client.get("/inner").await.text(), expected, "{listener}");
    }
    gateway.settled().await;
}
