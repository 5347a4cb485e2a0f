//! Each alert provoked in a running gateway that a real Prometheus watches, and its runbook's first commands.
//!
//! So that this takes seconds, every window of the rules becomes `WINDOW` and every `for` becomes 0; a test
//! that changes a threshold as well says so where it does. How long alerts wait is held by `alerts.rs`.

use crate::ai::{self, Ai, Speaks};
use crate::harness::{
    Alert, Authority, Client, Fault, Gateway, Port, Prometheus, RedisServer, Reply, Sample,
    Upstream, app, finish, unix_now,
};
use rcgen::{CertificateParams, KeyPair};
use std::fmt::Display;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Notify;

/// Long enough for `rate` on a busy machine, where scrapes of one second may be late.
const WINDOW: &str = "10s";
const FIXED: &str = "routes: { all: { respond: { body: ok } } }\n";

/// A Prometheus that watches this gateway by our rules. `thresholds` are parts of rules and what is there
/// in their place.
async fn watch(gateway: &Gateway, thresholds: &[(&str, &str)]) -> Prometheus {
    let mut rules = quick(&std::fs::read_to_string("conf/prometheus/rules.yaml").unwrap());
    for (written, here) in thresholds {
        assert_eq!(rules.matches(written).count(), 1, "{written}\n{rules}");
        rules = rules.replace(written, here);
    }
    let file = gateway.path("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    Prometheus::start(&[("onemind", gateway.address("admin"))], &[file]).await
}

/// The same rules, in seconds.
fn quick(rules: &str) -> String {
    let mut text = String::new();
    for line in rules.lines() {
        if line.trim_start().starts_with("for: ") {
            continue;
        }
        let mut parts = line.split('[');
        text.push_str(parts.next().unwrap());
        for part in parts {
            let is_window = part.starts_with(|c: char| c.is_ascii_digit());
            let rest = part.split_once(']').filter(|_| is_window);
            text.push('[');
            if let Some((_, rest)) = rest {
                text.push_str(WINDOW);
                text.push(']');
                text.push_str(rest);
            } else {
                text.push_str(part);
            }
        }
        text.push('\n');
    }
    text
}

/// Runs the first commands of the runbook against this gateway and looks for the cause in what they say.
async fn tells(alert: &str, gateway: &Gateway, causes: &[&str]) {
    let said = run_first_commands(alert, gateway).await;
    for cause in causes {
        assert!(said.contains(cause), "{alert}: no {cause} in\n{said}");
    }
}

async fn run_first_commands(alert: &str, gateway: &Gateway) -> String {
    let page = std::fs::read_to_string(format!("docs/runbooks/{alert}.md")).unwrap();
    let (_, after) = page.split_once("```sh\n").expect("commands");
    let (commands, _) = after.split_once("```").expect("their end");
    let file = gateway.path("gateway.yaml").display().to_string();
    let commands = commands
        .replace("127.0.0.1:9090", &gateway.address("admin").to_string())
        .replace("/etc/onemind/gateway.yaml", &file);
    let programs = Path::new(env!("CARGO_BIN_EXE_onemind")).parent().unwrap();
    // `onemind` is a word of the runbooks, found where installations put it.
    let commands = format!("PATH=\"{}:$PATH\"\n{commands}", programs.display());
    let mut command = Command::new("sh");
    command.arg("-c").arg(&commands);
    let run = tokio::task::spawn_blocking(move || finish(&mut command));
    let (_, out, err) = run.await.unwrap();
    format!("{out}{err}")
}

/// Some requests, whatever becomes of them.
async fn ask(gateway: &Gateway, requests: usize) {
    for _ in 0..requests {
        let mut client = Client::connect(gateway).await;
        let _ = client.try_request("GET", "/", &[], b"").await;
    }
}

#[test]
fn windows_become_short_and_nothing_else_changes() {
    let rules = "expr: rate(x{a=~\"[bc]\"}[5m]) > rate(y[1d])\n  for: 2m\nlabels: { a: b }\n";
    let expected = "expr: rate(x{a=~\"[bc]\"}[10s]) > rate(y[10s])\nlabels: { a: b }\n";
    assert_eq!(quick(rules), expected);
}

#[tokio::test]
async fn an_instance_that_is_gone() {
    let gateway = Gateway::start(FIXED, &[]).await;
    let prometheus = watch(&gateway, &[]).await;
    tells("OneMindDown", &gateway, &["ok\n", "is fine"]).await;
    gateway.signal("KILL");
    gateway.wait_exit().await;
    let alert: Alert = prometheus.fires("OneMindDown", async || {}).await;
    let instance = gateway.address("admin").to_string();
    assert!(
        alert.annotations["description"].contains(&instance),
        "{alert:?}"
    );
    tells("OneMindDown", &gateway, &["Failed to connect", "is fine"]).await;
}

#[tokio::test]
async fn requests_that_fail() {
    let nobody = Port::reserve();
    let pool = "ejection: { enabled: false }\nretry: { attempts: 1 }";
    let gateway = Gateway::of(&[&nobody], pool, "").await;
    let prometheus = watch(&gateway, &[]).await;
    for name in [
        "OneMindHighErrorRate",
        "OneMindErrorBudgetBurnsFast",
        "OneMindErrorBudgetBurnsSlowly",
    ] {
        let alert = prometheus
            .fires(name, async || ask(&gateway, 3).await)
            .await;
        assert!(
            alert.annotations["description"].contains("100%"),
            "{alert:?}"
        );
        let endpoint = format!("\"name\":\"{nobody}\"");
        let causes = ["ending=\"connect_failed\"", "code=\"none\"", &endpoint];
        tells(name, &gateway, &causes).await;
    }
}

#[tokio::test]
async fn answers_that_are_late() {
    let late = Duration::from_millis(700);
    let app = Upstream::replying(move |_| Reply::late(late, Reply::ok("late"))).await;
    let gateway = Gateway::of(&[&app], "", "").await;
    let prometheus = watch(&gateway, &[]).await;
    let name = "OneMindHighLatency";
    let alert = prometheus
        .fires(name, async || ask(&gateway, 1).await)
        .await;
    assert_eq!(alert.labels["route"], "all");
    let said = run_first_commands(name, &gateway).await;
    let line = said
        .lines()
        .find(|line| line.contains("phase=\"first_byte\""));
    let seconds = line
        .unwrap_or_else(|| panic!("{said}"))
        .trim_start()
        .split(' ')
        .next();
    let seconds: f64 = seconds.unwrap().parse().unwrap();
    assert!(seconds >= 0.7, "{said}");
}

#[tokio::test]
async fn refusals_by_the_hundred() {
    let upstream = Upstream::named("app").await;
    let limits = "limits: { rules: { user: { by: user, requests: 1, per: day } } }\n";
    let yaml = limits.to_owned() + &app(&[&upstream], "", "");
    let gateway = Gateway::start(&yaml, &[]).await;
    let prometheus = watch(&gateway, &[]).await;
    let name = "OneMindTooManyRefusals";
    prometheus
        .fires(name, async || ask(&gateway, 20).await)
        .await;
    tells(name, &gateway, &["rule=\"user\"", "result=\"refused"]).await;
}

#[tokio::test]
async fn a_pool_without_a_healthy_endpoint() {
    let app = Upstream::named("app").await;
    app.health(503, "");
    let pool = "health: { interval: 50ms, fast_interval: 20ms }";
    let gateway = Gateway::of(&[&app], pool, "").await;
    let prometheus = watch(&gateway, &[]).await;
    let name = "OneMindNoHealthyEndpoint";
    let alert = prometheus.fires(name, async || {}).await;
    assert_eq!(alert.labels["pool"], "app");
    tells(name, &gateway, &["\"pool\":\"app\"", "\"up\":false", "503"]).await;
}

/// The threshold is lowered from 5 changes to 2: in a window of ten seconds there is no time for more.
#[tokio::test]
async fn an_endpoint_that_comes_and_goes() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let pool = "health: { interval: 50ms, fast_interval: 20ms }";
    let gateway = Gateway::of(&[&a, &b], pool, "").await;
    let prometheus = watch(&gateway, &[("[10s]) > 5", "[10s]) > 2")]).await;
    let name = "OneMindHealthFlapping";
    let mut up = true;
    let alert = prometheus
        .fires(name, async || {
            up = !up;
            a.health(if up { 200 } else { 503 }, "");
            let seen = format!(
                "onemind_endpoint_up{{endpoint=\"{a}\"}} == {}",
                i32::from(up)
            );
            let seen: Vec<Sample> = prometheus.query_until(&seen).await;
            assert_eq!(seen.len(), 1, "{seen:?}");
        })
        .await;
    assert_eq!(alert.labels["endpoint"], a.to_string());
    let failed =
        format!("onemind_health_checks_total{{endpoint=\"{a}\",pool=\"app\",result=\"failed\"}}");
    tells(name, &gateway, &[&failed, "\"last_error\":"]).await;
}

#[tokio::test]
async fn a_pool_that_is_full() {
    let done = Arc::new(Notify::new());
    let held = Arc::clone(&done);
    let app = Upstream::replying(move |_| Reply::held(&held, Reply::ok("late"))).await;
    let pool = "capacity: { max_in_flight: 1, queue_max: 1, queue_timeout: 20ms }";
    let gateway = Gateway::of(&[&app], pool, "").await;
    let prometheus = watch(&gateway, &[]).await;
    let mut first = Client::connect(&gateway).await;
    first.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    app.last().await;
    let name = "OneMindQueueSaturated";
    let alert = prometheus
        .fires(name, async || ask(&gateway, 5).await)
        .await;
    assert_eq!(alert.labels["pool"], "app");
    let full = format!("onemind_endpoint_in_flight{{endpoint=\"{app}\",pool=\"app\"}} 1");
    tells(name, &gateway, &["reason=\"timed_out\"", &full]).await;
    done.notify_waiters();
}

#[tokio::test]
async fn a_provider_that_does_not_answer() {
    let breaker = "retry: { backoff: 1ms, attempts: 1 }, breaker: { failures: 3, open: 60s }";
    let ai = Ai::start(breaker, ai::ROUTE).await;
    ai.openai.stop().await;
    let prometheus = watch(&ai.gateway, &[]).await;
    let name = "OneMindProviderDown";
    let alert = prometheus
        .fires(name, async || {
            ai.ask(Speaks::Chat, "gpt", false).await;
        })
        .await;
    assert_eq!(alert.labels["provider"], "openai");
    let causes = ["outcome=\"connect_failed\"", "\"breaker\":\"open\""];
    tells(name, &ai.gateway, &causes).await;
}

/// The threshold is lowered from 10 seconds to 200 ms.
#[tokio::test]
async fn a_model_that_takes_long_to_begin() {
    let ai = Ai::usual().await;
    let prometheus = watch(&ai.gateway, &[(")) > 10", ")) > 0.2")]).await;
    let name = "OneMindSlowFirstToken";
    let alert = prometheus
        .fires(name, async || {
            ai.openai.then(Fault::FirstLate(Duration::from_millis(400)));
            ai.ask(Speaks::Chat, "gpt", true).await;
        })
        .await;
    assert_eq!(alert.labels["model"], "gpt");
    let causes = [
        "\"target\":\"openai/gpt-5\"",
        "\"first_token_ms\":",
        "{model=\"gpt\",provider=\"openai\"}",
    ];
    tells(name, &ai.gateway, &causes).await;
}

/// The threshold is lowered from 70 % to 1 %, which a test reaches on any machine.
#[tokio::test]
async fn processors_that_are_busy() {
    let gateway = Gateway::start(FIXED, &[]).await;
    let prometheus = watch(
        &gateway,
        &[("onemind_workers > 0.7", "onemind_workers > 0.01")],
    )
    .await;
    let name = "OneMindHighCpu";
    prometheus
        .fires(name, async || ask(&gateway, 100).await)
        .await;
    let causes = [
        "process_cpu_seconds_total ",
        "onemind_workers ",
        "onemind_http_requests_total{code=\"200\"",
        "onemind_connections_accepted_total{listener=\"web\"}",
    ];
    tells(name, &gateway, &causes).await;
}

/// The threshold is lowered from 800 MiB to 1 MiB, which every process has.
#[tokio::test]
async fn memory_that_runs_out() {
    let gateway = Gateway::start(FIXED, &[]).await;
    let prometheus = watch(&gateway, &[("> 800 * 2^20", "> 2^20")]).await;
    let name = "OneMindHighMemory";
    prometheus.fires(name, async || {}).await;
    let causes = [
        "process_resident_memory_bytes ",
        "onemind_connections{",
        "\"short_of_memory\":false",
    ];
    tells(name, &gateway, &causes).await;
}

#[tokio::test]
async fn redis_that_is_gone() {
    let redis = RedisServer::start();
    let limits = "redis: { url: '{{redis}}' }\nlimits: { rules: { user: { by: user, requests: 9, per: day } } }\n";
    let yaml = format!("{limits}{FIXED}");
    let gateway = Gateway::start(&yaml, &[("redis", &redis.url() as &dyn Display)]).await;
    let prometheus = watch(&gateway, &[]).await;
    redis.kill();
    let name = "OneMindRedisFallback";
    prometheus
        .fires(name, async || ask(&gateway, 1).await)
        .await;
    tells(
        name,
        &gateway,
        &["\"mode\":\"local\"", "\"error\":\"", "onemind_store_up 0"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_expires_tomorrow() {
    let dir = TempDir::new().unwrap();
    // Beside this one, one that is good for long: it is not told.
    Authority::new().write(dir.path(), "good", &["good.test"]);
    let mut params = CertificateParams::new(vec!["old.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    let from_2025 = unix_now() - 1_735_689_600 + 86_400 + 600;
    params.not_after = params.not_before + Duration::from_secs(from_2025);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.path().join("old.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.path().join("old.key"), key.serialize_pem()).unwrap();
    let pair = |name: &str| {
        format!("{{ certificate: '{{{{dir}}}}/{name}.pem', key: '{{{{dir}}}}/{name}.key' }}")
    };
    let listener = format!(
        "listeners: {{ web: {{ address: '{{{{https}}}}', tls: {{ certificates: [{}, {}] }} }} }}\n",
        pair("good"),
        pair("old")
    );
    let gateway = Gateway::start_in(dir, &format!("{listener}{FIXED}"), &[]).await;
    let prometheus = watch(&gateway, &[]).await;
    let name = "OneMindCertificateExpires";
    let alert = prometheus.fires(name, async || {}).await;
    assert!(alert.labels["certificate"].contains("old"), "{alert:?}");
    tells(name, &gateway, &["expires in 1.0 days", "/old.pem"]).await;
}

#[tokio::test]
async fn a_configuration_that_is_refused() {
    let gateway = Gateway::start(FIXED, &[]).await;
    let prometheus = watch(&gateway, &[]).await;
    let refused = gateway
        .try_reload(&FIXED.replace("all:", "all: { pool: none },\n b:"), &[])
        .await;
    assert_eq!(refused.status, 422);
    let name = "OneMindReloadFailed";
    prometheus.fires(name, async || {}).await;
    tells(
        name,
        &gateway,
        &["\"ok\": false", "none", "gateway.yaml:1:"],
    )
    .await;
}

#[tokio::test]
async fn a_log_that_nobody_can_write() {
    let yaml = format!("server: {{ access_log: /dev/full }}\n{FIXED}");
    let gateway = Gateway::start(&yaml, &[]).await;
    let prometheus = watch(&gateway, &[]).await;
    let name = "OneMindLogDropped";
    prometheus
        .fires(name, async || ask(&gateway, 2).await)
        .await;
    let dropped = "onemind_access_log_lines_total{result=\"dropped\"} ";
    tells(name, &gateway, &[dropped, "\"to\":\"/dev/full\""]).await;
}
