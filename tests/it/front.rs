//! The front door: what is no request is answered like one, and nothing can be read in two ways.

use crate::harness::{Client, ClientH2, Gateway, Reply, Upstream, eventually, in_time};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Never to reach an endpoint as a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: test\r\n\r\n";

/// What a parser in front and one behind could read differently: text, status, code.
const CORPUS: &[(&str, &str, u16, &str)] = &[
    ("no host", "GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    (
        "two hosts",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "the same host twice",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "credentials in host",
        "GET / HTTP/1.1\r\nhost: u:p@test\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "another host in the target",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "credentials in the target",
        "GET http://u@a/ HTTP/1.1\r\nhost: u@a\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a scheme that is not HTTP",
        "GET file:///etc HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "no colon",
        "GET / HTTP/1.1\r\nhost: test\r\nbad header\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "an empty name",
        "GET / HTTP/1.1\r\nhost: test\r\n: x\r\n\r\n",
        400,
        "bad_request",
    ),
    ("no version", "GET /\r\n\r\n", 400, "bad_request"),
    (
        "another version",
        "GET / HTTP/1.9\r\nhost: test\r\n\r\n",
        505,
        "version_not_supported",
    ),
    (
        "the preface of HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
        "version_not_supported",
    ),
    ("TLS", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", 400, "bad_request"),
    (
        "a tunnel to elsewhere",
        "CONNECT evil:443 HTTP/1.1\r\nhost: evil:443\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    (
        "a line feed alone",
        "GET / HTTP/1.1\nhost: test\n\n",
        400,
        "bad_request",
    ),
    (
        "a line feed alone between fields",
        "GET / HTTP/1.1\r\nhost: test\r\nx: y\ncontent-length: 37\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a carriage return alone",
        "GET / HTTP/1.1\r\nhost: test\r\nx: y\rcontent-length: 37\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a zero byte",
        "GET / HTTP/1.1\r\nhost: test\r\nx: \u{0}\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a folded line",
        "POST / HTTP/1.1\r\nhost: test\r\nx: y\r\n transfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a space before the colon",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding : chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a space before the first field",
        "GET / HTTP/1.1\r\n host: test\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "length and chunked",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 37\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "chunked and length",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding:\tchunked\r\ncontent-length: 0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\ncontent-length: 37\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "the same length twice",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a list of lengths",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0, 37\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a negative length",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: -1\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a length with a sign",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: +37\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a length in hexadecimal",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 0x25\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "an empty length",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: \r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a length beyond numbers",
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999999999999999\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "an unknown coding",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: xchunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "chunked is not last",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "chunked in quotation marks",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: \"chunked\"\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a no-break space",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: \u{a0}chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a vertical tab",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: \u{b}chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a chunk without a size",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a chunk of negative size",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        400,
        "bad_request",
    ),
    (
        "a chunk that is longer than its size",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a chunk that ends in a line feed",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\na\n0\n\n",
        400,
        "bad_request",
    ),
    (
        "a line feed in an extension",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1;a\nb\r\nc\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    (
        "a size of 65 bits",
        "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
];

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_hides_nothing() {
    let app = Upstream::replying(|seen| Reply::ok(seen.target().to_owned())).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    for (what, text, status, code) in CORPUS {
        println!("{what}");
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        let _ = client.try_send(format!("{text}{HIDDEN}").as_bytes()).await;
        client.answer().await.assert_refused(*status, code);
        // A request after it shows what the endpoint made of the bytes.
        assert_eq!(gateway.get("/after").await.text(), "/after", "{what}");
    }
    for seen in app.seen() {
        assert_ne!(seen.target(), "/hidden", "{}", seen.head);
    }
    gateway.settled().await;
}

#[tokio::test]
async fn large_heads_are_refused_before_they_are_read() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let fields = "x: y\r\n".repeat(101);
    let huge = "a".repeat(2 << 20);
    for head in [
        format!("GET / HTTP/1.1\r\nhost: test\r\nx-huge: {huge}\r\n\r\n"),
        format!("GET /{huge} HTTP/1.1\r\nhost: test\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: test\r\n{fields}\r\n"),
    ] {
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        // It may hang up before it has heard everything.
        let _ = client.try_send(head.as_bytes()).await;
        let answer = client.read_answer(false).await;
        if let Ok(answer) = answer {
            answer.assert_refused(431, "head_too_large");
        }
        let line = gateway
            .access_log_line(|line| line["code"] == "head_too_large")
            .await;
        assert_eq!(line["status"], 431);
    }
    assert_eq!(app.count(), 0);
    gateway.settled().await;
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_their_order() {
    let app = Upstream::replying(|seen| Reply::ok(seen.target().to_owned())).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(3);
    client
        .send(
            b"GET /1 HTTP/1.1\r\nhost: test\r\n\r\n\
              POST /2 HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody\
              GET /3 HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .await;
    for target in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().await.text(), target);
    }
    gateway.settled().await;
}

#[tokio::test]
async fn fields_for_the_endpoint_cannot_be_declared_a_matter_of_the_connection() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    let fields = [
        (
            "connection",
            "authorization, cookie, x-forwarded-for, x-mine, keep-alive",
        ),
        ("authorization", "Bearer a"),
        ("cookie", "b=c"),
        ("x-mine", "d"),
    ];
    assert_eq!(client.request("GET", "/", &fields, b"").await.status, 200);
    let seen = app.last().await;
    assert_eq!(seen.header("authorization"), Some("Bearer a"));
    assert_eq!(seen.header("cookie"), Some("b=c"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-mine"), None, "this one is nobody else's");
    assert_eq!(seen.header("connection"), None);
    gateway.settled().await;
}

#[tokio::test]
async fn an_answer_that_lasts_until_the_connection_ends_is_never_cut_in_silence() {
    let app = Upstream::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").close()
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client.send(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n").await;
    let answer = client.read_answer(false).await;
    assert!(
        answer.as_ref().map_or(true, |answer| !answer.complete),
        "half an answer looks whole: {answer:?}"
    );
    gateway.ended("upstream_cut").await;
    gateway.settled().await;
}

#[tokio::test]
async fn names_keep_their_spelling() {
    let app = Upstream::replying(|_| {
        Reply::raw("HTTP/1.1 200 Fine So Far\r\nX-ODD-Name: 1\r\ncontent-length: 0\r\n\r\n")
    })
    .await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client
        .send(b"GET / HTTP/1.1\r\nHost: test\r\nSOAPAction: x\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(
        answer.head.starts_with("HTTP/1.1 200 Fine So Far\r\n"),
        "{}",
        answer.head
    );
    assert!(answer.head.contains("X-ODD-Name: 1"), "{}", answer.head);
    let seen = app.last().await;
    assert!(seen.head.contains("SOAPAction: x"), "{}", seen.head);
    gateway.settled().await;
}

#[tokio::test]
async fn a_head_must_come_in_time() {
    let app = Upstream::named("app").await;
    let yaml = "listeners: { web: { address: '{{http}}', head: { timeout: 300ms }, keepalive_requests: 3 } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
";
    let gateway = Gateway::start(yaml, &[("app", &app)]).await;
    let mut client = Client::connect(&gateway).await;
    client.count(1);
    client.send(b"GET / HTTP/1.1\r\nhost:").await;
    client.answer().await.assert_refused(408, "head_timed_out");
    assert!(client.is_closed().await);
    let line = gateway.ended("client_timed_out").await;
    assert_eq!(line["status"], 408);

    let mut client = Client::connect(&gateway).await;
    for last in [false, false, true] {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection") == Some("close"), last);
    }
    assert!(client.is_closed().await);
    gateway.settled().await;
}

#[tokio::test]
async fn a_connection_of_http2_takes_so_many_requests_as_well() {
    let app = Upstream::named("app").await;
    let yaml = HTTP2.replace("http2: true", "http2: true, keepalive_requests: 3");
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    let client = ClientH2::plain(&gateway).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    eventually("the connection to be over", async || {
        let refused = client.request("GET", "/", &[], &[]).await.is_err();
        refused.then_some(())
    })
    .await;
    assert_eq!(app.count(), 3);
}

#[tokio::test]
async fn a_head_of_http2_must_come_in_time_too() {
    let app = Upstream::named("app").await;
    let yaml = HTTP2.replace("http2: true", "http2: true, head: { timeout: 300ms }");
    let gateway = Gateway::start(&yaml, &[("app", &app)]).await;
    // `GET`, and the rest later: within a frame, or in another one.
    let begun = frame(1, 0, 1, &[0x82]);
    let cut = frame(1, 4, 1, &[0x82, 0x84, 0x86]);
    for rest in [&begun[..], &cut[..cut.len() - 1]] {
        let mut stream = TcpStream::connect(gateway.address("http")).await.unwrap();
        let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        wire.extend(frame(4, 0, 0, &[]));
        wire.extend(rest);
        stream.write_all(&wire).await.unwrap();
        let mut answer = Vec::new();
        let ended = in_time("the end", stream.read_to_end(&mut answer)).await;
        println!("{ended:?}");
    }
    eventually("both to be counted", async || {
        let selector = "onemind_connections_rejected_total{reason=\"head_timed_out\"}";
        (gateway.metric(selector).await >= 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_must_keep_some_pace() {
    let large = "b".repeat(64 << 20);
    let app = Upstream::replying(move |seen| match seen.target() {
        "/large" => Reply::ok(large.clone()),
        _ => Reply::ok("small"),
    })
    .await;
    let yaml = "listeners: { web: { address: '{{http}}', min_rate: 10KiB } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app, timeouts: { idle: 2s } } }
";
    let gateway = Gateway::start(yaml, &[("app", &app)]).await;
    let sender = async {
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        client
            .send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n")
            .await;
        // Never silent for as long as `idle`, and yet it would take half a day.
        for _ in 0..60 {
            if client.try_send(b"x").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        client.answer().await.assert_refused(408, "body_timed_out");
    };
    let reader = async {
        let mut client = Client::connect(&gateway).await;
        client.count(1);
        client
            .send(b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n")
            .await;
        gateway
            .access_log_line(|line| line["path"] == "/large")
            .await
    };
    let ((), line) = tokio::join!(sender, reader);
    assert_eq!(line["ending"], "client_timed_out");
    gateway.settled().await;
}

const HTTP2: &str = "listeners: { web: { address: '{{http}}', http2: true } }
pools: { app: { endpoints: ['{{app}}'], health: { check: off } } }
routes: { all: { pool: app } }
";

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    let app = Upstream::named("app").await;
    let gateway = Gateway::start(HTTP2, &[("app", &app)]).await;
    // A head that never ends: `GET`, and then one more field after another.
    let endless = frame(1, 0, 1, &[0x82]);
    for (what, begin, flood) in [
        ("pings", vec![], frame(6, 0, 0, b"12345678")),
        ("settings", vec![], frame(4, 0, 0, &[])),
        ("priorities", vec![], frame(2, 0, 1, &[0, 0, 0, 3, 7])),
        ("window updates", vec![], frame(8, 0, 0, &[0, 0, 0, 1])),
        (
            "continuations",
            endless,
            frame(9, 0, 1, &[0, 1, b'a', 1, b'b']),
        ),
    ] {
        let stream = TcpStream::connect(gateway.address("http")).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        start.extend(frame(4, 0, 0, &[]));
        start.extend(begin);
        to.write_all(&start).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut sink = vec![0; 64 << 10];
            while from.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        });
        let many = flood.repeat(1000);
        let mut sent = 0;
        while sent < 64 << 20 && to.write_all(&many).await.is_ok() {
            sent += many.len();
        }
        assert!(sent < 64 << 20, "{what}: as many as it liked");
        reading.await.unwrap();
        let rested = gateway.rests().await;
        println!("{what}: cut off after {sent} bytes, idle {rested:?} later");
    }
    eventually("the floods to be counted", async || {
        let selector = "onemind_connections_rejected_total{reason=\"http2_flood\"}";
        (gateway.metric(selector).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn requests_that_are_given_up_again_and_again_end_the_connection() {
    let app = Upstream::replying(|_| Reply::late(Duration::from_mins(1), Reply::ok("late"))).await;
    let gateway = Gateway::start(HTTP2, &[("app", &app)]).await;
    let stream = TcpStream::connect(gateway.address("http")).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut made = 0;
    while made < 20_000 {
        let Ok(ready) = requests.clone().ready().await else {
            break;
        };
        requests = ready;
        let request = http::Request::get("http://test/").body(()).unwrap();
        let Ok((_, mut body)) = requests.send_request(request, false) else {
            break;
        };
        // The gateway has taken it before it is given up.
        tokio::task::yield_now().await;
        body.send_reset(h2::Reason::CANCEL);
        made += 1;
    }
    assert!(made < 20_000, "as many as it liked");
    assert!(driving.await.unwrap().is_err());
    assert!(app.count() < 20_000);
    let rested = gateway.rests().await;
    println!("requests given up: cut off after {made}, idle {rested:?} later");
}

/// A head of HTTP/2 in which every field is written out (RFC 7541 section 6.2.3).
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    // END_HEADERS, END_STREAM
    frame(1, 0x5, 1, &block)
}

/// The kinds of frames that come back, up to the first that decides on the stream, or the end.
async fn verdict(mut stream: TcpStream) -> Option<u8> {
    let decided = async {
        loop {
            let mut start = [0; 9];
            stream.read_exact(&mut start).await.ok()?;
            let length =
                usize::from(start[0]) << 16 | usize::from(start[1]) << 8 | usize::from(start[2]);
            stream.read_exact(&mut vec![0; length]).await.ok()?;
            if matches!(start[3], 1 | 3 | 7) {
                return Some(start[3]);
            }
        }
    };
    in_time("a verdict", decided).await
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one row for each thing that must not be said"
)]
async fn what_http2_must_not_say_never_reaches_an_endpoint() {
    let app = Upstream::replying(|seen| Reply::ok(seen.target().to_owned())).await;
    let gateway = Gateway::start(HTTP2, &[("app", &app)]).await;
    let usual = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/hidden"),
    ];
    let with = |name, value| {
        let mut fields = usual.to_vec();
        fields.push((name, value));
        fields
    };
    let instead = |name, value| {
        let mut fields = usual.to_vec();
        let at = fields.iter().position(|(one, _)| *one == name).unwrap();
        fields[at].1 = value;
        fields
    };
    let without = |name| {
        let mut fields = usual.to_vec();
        fields.retain(|(one, _)| *one != name);
        fields
    };
    let mut late = usual.to_vec();
    late.insert(0, ("x", "y"));
    for (what, fields) in [
        ("a line end in a value", with("x", "a\r\nhidden: 1")),
        ("a line feed in a value", with("x", "a\nhidden: 1")),
        ("a zero byte in a value", with("x", "a\0b")),
        ("a line end in a name", with("x\r\ny", "z")),
        ("a colon in a name", with("x:y", "z")),
        ("a name in upper case", with("X-Up", "1")),
        ("an empty name", with("", "1")),
        (
            "a line end in the path",
            instead(":path", "/hidden HTTP/1.1\r\nhost: x\r\n"),
        ),
        ("a space in the path", instead(":path", "/hidden HTTP/1.1")),
        (
            "another URI in the path",
            instead(":path", "http://evil/hidden"),
        ),
        ("an empty path", instead(":path", "")),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("two paths", with(":path", "/other")),
        ("two methods", with(":method", "POST")),
        ("an unknown pseudo field", with(":hidden", "1")),
        ("a pseudo field after another field", late),
        (
            "a line end in the method",
            instead(":method", "GET /hidden HTTP/1.1\r\nx:"),
        ),
        (
            "a line end in the authority",
            instead(":authority", "test\r\nx: y"),
        ),
        (
            "credentials in the authority",
            instead(":authority", "u:p@test"),
        ),
        ("no authority", without(":authority")),
        ("another host", with("host", "other")),
        ("a matter of the connection", with("connection", "x")),
        ("a coding", with("transfer-encoding", "chunked")),
        ("an upgrade", with("upgrade", "websocket")),
        ("a body that does not come", with("content-length", "5")),
        ("a length that is no number", with("content-length", "x")),
    ] {
        let mut stream = TcpStream::connect(gateway.address("http")).await.unwrap();
        let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        wire.extend(frame(4, 0, 0, &[]));
        wire.extend(head(&fields));
        stream.write_all(&wire).await.unwrap();
        println!("{what}: {:?}", verdict(stream).await);
        // A request after it shows what the endpoint made of the bytes.
        assert_eq!(gateway.get("/after").await.text(), "/after", "{what}");
    }
    for seen in app.seen() {
        assert_eq!(seen.target(), "/after", "{}", seen.head);
    }
    // What was sent is sound but for the one thing that is wrong with it.
    let mut stream = TcpStream::connect(gateway.address("http")).await.unwrap();
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wire.extend(frame(4, 0, 0, &[]));
    wire.extend(head(&usual));
    stream.write_all(&wire).await.unwrap();
    assert_eq!(verdict(stream).await, Some(1));
    assert_eq!(app.last().await.target(), "/hidden");
}
