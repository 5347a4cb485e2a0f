//! The pages as an operator sees them, over real connections.

use super::*;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(10);

/// A gateway that is as ready, and as broken, as a test says.
#[derive(Default)]
struct View {
    waits_for_dns: AtomicBool,
    broken: AtomicBool,
    revision: AtomicU64,
    reloading_now: AtomicU64,
    reloading_most: AtomicU64,
    may_reload: Notify,
    hold: AtomicBool,
    metrics: Option<Arc<Metrics>>,
    level: std::sync::Mutex<Option<(Option<String>, Option<Duration>)>>,
}

#[async_trait]
impl AdminView for View {
    fn readiness(&self) -> Vec<Part> {
        let waits = self.waits_for_dns.load(Ordering::SeqCst);
        let part = |name: &str, ready: bool, why: &str| Part {
            name: name.to_owned(),
            ready,
            why: why.to_owned(),
        };
        vec![
            part("listeners", true, ""),
            part(
                "dns",
                !waits,
                if waits { "app.internal is unknown" } else { "" },
            ),
        ]
    }

    fn limit_mode(&self) -> &'static str {
        "local"
    }

    fn status(&self) -> Value {
        json!({ "revision": self.revision.load(Ordering::SeqCst) })
    }

    fn log(&self) -> Value {
        json!({ "level": self.level.lock().expect("no panic").clone() })
    }

    fn set_log_level(&self, level: Option<Level>, period: Option<Duration>) {
        let level = level.map(|level| level.as_str().to_owned());
        *self.level.lock().expect("no panic") = Some((level, period));
    }

    async fn reload(&self) -> Result<u64, Value> {
        let now = self.reloading_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.reloading_most.fetch_max(now, Ordering::SeqCst);
        // Another reload could come in between here, if it were let.
        tokio::task::yield_now().await;
        if self.hold.load(Ordering::SeqCst) {
            self.may_reload.notified().await;
        }
        self.reloading_now.fetch_sub(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(json!([{ "at": "pools.app", "what": "no endpoints" }]));
        }
        Ok(self.revision.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn limits(&self, caller: &Caller) -> Value {
        json!(caller)
    }

    async fn reset_limits(&self, caller: &Caller) -> Result<Vec<String>, &'static str> {
        let user = caller.user.clone().ok_or("the store is gone")?;
        Ok(vec![user])
    }

    async fn upgrade(&self) -> Result<u32, String> {
        if self.broken.load(Ordering::SeqCst) {
            return Err("it is broken".to_owned());
        }
        Ok(7)
    }

    fn live(&self) -> Live {
        Live {
            pid: 7,
            ..Live::default()
        }
    }

    fn refresh_metrics(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.certificate("seen at scrape", 7);
        }
    }
}

struct Running {
    view: Arc<View>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn start() -> Running {
    let metrics = Metrics::new("1.2.3");
    let view = Arc::new(View {
        metrics: Some(Arc::clone(&metrics)),
        ..View::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, shutdown) = watch::channel(false);
    let served: Arc<dyn AdminView> = Arc::<View>::clone(&view);
    let task = tokio::spawn(serve(listener, served, metrics, shutdown));
    Running {
        view,
        address,
        stop,
        task,
    }
}

impl Running {
    /// Sends what is given and returns all that comes back.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        // A connection that is reset after its answer has still been answered.
        let _ = read.expect("an answer in time");
        String::from_utf8(answer).expect("UTF-8")
    }

    async fn ask(&self, head: &str) -> String {
        let request = format!("{head}\r\nhost: a\r\nconnection: close\r\n\r\n");
        self.raw(request.as_bytes()).await
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(&View) -> bool) {
        let wait = async {
            while !holds(&self.view) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, wait).await.expect(what);
    }
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).expect("a status line");
    status.parse().expect("a number")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a body").1
}

fn json_body(answer: &str) -> Value {
    serde_json::from_str(body(answer)).expect(answer)
}

async fn answers(admin: &Running, head: &str, expected: u16) {
    let answer = admin.ask(head).await;
    assert_eq!(status(&answer), expected, "{head}: {answer}");
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    if head.starts_with("HEAD") {
        assert_eq!(body(&answer), "", "{answer}");
    } else if expected >= 400 {
        assert!(json_body(&answer)["code"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn each_page_answers_as_promised() {
    let admin = start().await;
    for (head, expected) in [
        ("GET /livez HTTP/1.1", 200),
        ("HEAD /livez HTTP/1.1", 200),
        ("GET /readyz HTTP/1.1", 200),
        ("GET /status HTTP/1.1", 200),
        ("HEAD /status HTTP/1.1", 200),
        ("GET /status/live HTTP/1.1", 200),
        ("GET / HTTP/1.1", 404),
        ("GET / HTTP/1.1\r\naccept: application/json, */*", 404),
        ("GET / HTTP/1.1\r\naccept: text/html,*/*;q=0.8", 200),
        ("GET /status.js HTTP/1.1", 200),
        ("GET /status.css HTTP/1.1", 200),
        ("POST / HTTP/1.1", 405),
        ("GET /metrics HTTP/1.1", 200),
        ("POST /reload HTTP/1.1", 200),
        ("GET /reload HTTP/1.1", 405),
        ("DELETE /status HTTP/1.1", 405),
        ("GET /nothing HTTP/1.1", 404),
        ("POST /reload HTTP/1.1\r\norigin: https://evil.example", 403),
        ("POST /reload HTTP/1.1\r\norigin: null", 403),
        ("POST /reload HTTP/1.1\r\nsec-fetch-site: cross-site", 403),
        ("POST /reload HTTP/1.1\r\nsec-fetch-site: same-site", 403),
        ("POST /reload HTTP/1.1\r\nsec-fetch-site: none", 200),
        ("GET /status/limits?user=42&address=::1 HTTP/1.1", 200),
        ("GET /status/limits?usr=42 HTTP/1.1", 400),
        ("GET /status/limits?address=42 HTTP/1.1", 400),
        ("POST /limits/reset?user=42 HTTP/1.1", 200),
        ("POST /limits/reset HTTP/1.1", 400),
        ("POST /limits/reset?route=a HTTP/1.1", 503),
        (
            "POST /limits/reset?user=42 HTTP/1.1\r\norigin: http://a",
            403,
        ),
        ("GET /limits/reset?user=42 HTTP/1.1", 405),
        ("POST /upgrade HTTP/1.1", 200),
        ("GET /upgrade HTTP/1.1", 405),
        (
            "POST /upgrade HTTP/1.1\r\norigin: https://evil.example",
            403,
        ),
        ("POST /upgrade HTTP/1.1\r\nsec-fetch-site: cross-site", 403),
    ] {
        answers(&admin, head, expected).await;
    }
}

#[tokio::test]
async fn the_metrics_page_is_prometheus_text_with_gauges_of_this_moment() {
    let admin = start().await;
    let answer = admin.ask("GET /metrics HTTP/1.1").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    for line in [
        "onemind_build_info{version=\"1.2.3\"} 1\n",
        "onemind_tls_cert_not_after_seconds{certificate=\"seen at scrape\"} 7\n",
        "# TYPE process_cpu_seconds_total counter\n",
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline() {
    let admin = start().await;
    for (head, kind) in [
        ("GET / HTTP/1.1\r\naccept: text/html", "text/html"),
        ("GET /status.js HTTP/1.1", "text/javascript"),
        ("GET /status.css HTTP/1.1", "text/css"),
    ] {
        let answer = admin.ask(head).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        for part in [
            &format!("content-type: {kind}; charset=utf-8"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
        ] {
            assert!(head.contains(part), "{part} in {head}");
        }
        for elsewhere in ["https://", "<style", "innerHTML", "style=\""] {
            assert!(!body.contains(elsewhere), "{elsewhere} in {kind}");
        }
    }
}

#[tokio::test]
async fn readiness_names_the_part_that_is_not_ready() {
    let admin = start().await;
    let answer = admin.ask("GET /readyz HTTP/1.1").await;
    assert!(answer.ends_with("ok\nlimits: local\n"), "{answer}");
    admin.view.waits_for_dns.store(true, Ordering::SeqCst);
    let answer = admin.ask("GET /readyz HTTP/1.1").await;
    assert_eq!(status(&answer), 503);
    assert_eq!(json_body(&answer)["limits"], "local");
    let expected = json!([{ "name": "dns", "ready": false, "why": "app.internal is unknown" }]);
    assert_eq!(json_body(&answer)["not_ready"], expected);
    assert_eq!(status(&admin.ask("GET /livez HTTP/1.1").await), 200);
}

#[tokio::test]
async fn an_upgrade_tells_the_new_process_or_why_there_is_none() {
    let admin = start().await;
    let answer = admin.ask("POST /upgrade HTTP/1.1").await;
    assert_eq!(json_body(&answer), json!({ "pid": 7 }));
    admin.view.broken.store(true, Ordering::SeqCst);
    let answer = admin.ask("POST /upgrade HTTP/1.1").await;
    assert_eq!(status(&answer), 409);
    assert_eq!(json_body(&answer)["message"], "it is broken");
}

#[tokio::test]
async fn the_level_of_the_log_is_asked_for_and_set_as_promised() {
    let admin = start().await;
    for (head, expected) in [
        ("GET /log HTTP/1.1", 200),
        ("POST /log?level=debug HTTP/1.1", 200),
        (
            "POST /log?level=info,onemind_gateway::stage=trace&for=10m HTTP/1.1",
            200,
        ),
        ("POST /log?level=configured HTTP/1.1", 200),
        ("POST /log HTTP/1.1", 400),
        ("POST /log?level=loud HTTP/1.1", 400),
        ("POST /log?level=debug&for=ever HTTP/1.1", 400),
        ("POST /log?level=debug&for=0s HTTP/1.1", 400),
        ("POST /log?level=debug&for=8d HTTP/1.1", 400),
        ("POST /log?level=configured&for=1m HTTP/1.1", 400),
        ("POST /log?level=debug&until=1m HTTP/1.1", 400),
        ("PUT /log?level=debug HTTP/1.1", 405),
        ("POST /log?level=debug HTTP/1.1\r\norigin: http://a", 403),
        (
            "POST /log?level=debug HTTP/1.1\r\nsec-fetch-site: cross-site",
            403,
        ),
    ] {
        answers(&admin, head, expected).await;
    }
}

#[tokio::test]
async fn a_level_is_set_for_a_while_or_taken_back() {
    let admin = start().await;
    for (query, expected) in [
        ("level=debug", json!(["debug", null])),
        (
            "level=debug&for=1m",
            json!(["debug", { "secs": 60, "nanos": 0 }]),
        ),
        ("level=configured", json!([null, null])),
    ] {
        let answer = admin.ask(&format!("POST /log?{query} HTTP/1.1")).await;
        assert_eq!(json_body(&answer)["level"], expected, "{query}");
    }
    let answer = admin.ask("POST /log?level=loud HTTP/1.1").await;
    assert_eq!(json_body(&answer)["code"], "not_a_level");
}

#[tokio::test]
async fn a_reload_tells_the_new_revision_or_the_faults() {
    let admin = start().await;
    let answer = admin.ask("POST /reload HTTP/1.1").await;
    assert_eq!(json_body(&answer), json!({ "revision": 1 }));
    admin.view.broken.store(true, Ordering::SeqCst);
    let answer = admin.ask("POST /reload HTTP/1.1").await;
    assert_eq!(status(&answer), 422);
    assert_eq!(json_body(&answer)["faults"][0]["at"], "pools.app");
    let answer = admin.ask("GET /status HTTP/1.1").await;
    assert_eq!(json_body(&answer), json!({ "revision": 1 }));
}

#[tokio::test]
async fn reloads_take_turns() {
    let admin = start().await;
    let post = || admin.ask("POST /reload HTTP/1.1");
    let (a, b, c, d) = tokio::join!(post(), post(), post(), post());
    let mut revisions = [a, b, c, d].map(|answer| json_body(&answer)["revision"].as_u64());
    revisions.sort_unstable();
    assert_eq!(revisions, [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(admin.view.reloading_most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_its_reload() {
    let admin = start().await;
    admin.view.hold.store(true, Ordering::SeqCst);
    let mut stream = TcpStream::connect(admin.address).await.expect("connected");
    let request = b"POST /reload HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    admin
        .wait_until("a reload begins", |view| {
            view.reloading_now.load(Ordering::SeqCst) == 1
        })
        .await;
    drop(stream);
    admin.view.hold.store(false, Ordering::SeqCst);
    admin.view.may_reload.notify_one();
    // This one waits for its turn, so the first has ended when it is answered.
    let answer = admin.ask("POST /reload HTTP/1.1").await;
    assert_eq!(json_body(&answer), json!({ "revision": 2 }));
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let admin = start().await;
    let large = "x".repeat(BODY_BYTES_MAX + 1);
    let length = large.len();
    let request = format!(
        "POST /reload HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{large}"
    );
    let answer = admin.raw(request.as_bytes()).await;
    assert_eq!(status(&answer), 413);
    assert_eq!(admin.view.revision.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let admin = start().await;
    let large = "x".repeat(32 << 10);
    let answer = admin
        .ask(&format!("GET /livez HTTP/1.1\r\nx-large: {large}"))
        .await;
    assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_one_to_end() {
    let admin = start().await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(admin.address).await.expect("connected");
        let request = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        // Its answer proves that it has one of the places.
        let mut first = [0; 1];
        let read = timeout(DEADLINE, stream.read_exact(&mut first)).await;
        read.expect("in time").expect("an answer");
        idle.push(stream);
    }
    let mut one_more = Box::pin(admin.ask("GET /livez HTTP/1.1"));
    let answered = timeout(Duration::from_millis(100), &mut one_more).await;
    assert!(answered.is_err(), "the 65th was served");
    idle.pop();
    assert_eq!(status(&one_more.await), 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_never_finishes_its_head_is_let_go() {
    let admin = start().await;
    let mut stream = TcpStream::connect(admin.address).await.expect("connected");
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nx-slow: ")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    let read = timeout(Duration::from_mins(1), stream.read_to_end(&mut answer)).await;
    read.expect("closed within a minute").expect("an end");
    assert!(answer.is_empty() || status(&String::from_utf8_lossy(&answer)) == 408);
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_ends() {
    let admin = start().await;
    let mut idle = TcpStream::connect(admin.address).await.expect("connected");
    let request = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    idle.write_all(request).await.expect("sent");
    let mut first = [0; 1];
    let read = timeout(DEADLINE, idle.read_exact(&mut first)).await;
    read.expect("in time").expect("an answer");
    admin.stop.send(true).expect("the server listens");
    timeout(DEADLINE, admin.task)
        .await
        .expect("in time")
        .expect("no panic");
    let mut rest = Vec::new();
    let end = timeout(DEADLINE, idle.read_to_end(&mut rest)).await;
    end.expect("closed in time").expect("an end");
    assert!(TcpStream::connect(admin.address).await.is_err());
}
