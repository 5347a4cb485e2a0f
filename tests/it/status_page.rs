//! The status page in a real browser: alive, inert to what names contain, readable on a phone.

use crate::ai::{Ai, Speaks};
use crate::harness::{Browser, Client, Gateway, Load, Port, Relay, Tab, Upstream};
use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::task::JoinHandle;

const PHONE: (u32, u32) = (390, 844);
const DESK: (u32, u32) = (1280, 900);

/// Requests since the start, as the page tells them.
const COUNTED: &str =
    "Number(document.querySelector('.card .more').textContent.replace(/\\D/g, ''))";
const FITS: &str = "document.documentElement.scrollWidth <= window.innerWidth";

async fn is_without_faults(tab: &mut Tab) {
    // Whatever was said until now has been heard when this is answered.
    tab.value("0").await;
    assert!(tab.complaints.is_empty(), "{:#?}", tab.complaints);
}

#[tokio::test]
async fn the_figures_are_alive_on_a_phone_and_on_a_desk() {
    let upstream = Upstream::named("a").await;
    let dead = Port::reserve();
    let pool = "health: { interval: 100ms, fast_interval: 30ms }";
    let gateway = Gateway::of(&[&upstream, &dead], pool, "").await;
    gateway
        .endpoint_is("app", &dead, "state", "unhealthy".into())
        .await;
    let load = Load::start(&gateway, "/", 50, 2);
    let browser = Browser::start();
    for (name, (width, height)) in [("phone", PHONE), ("desk", DESK)] {
        let mut tab = browser.tab(width, height).await;
        tab.open(&format!("http://{}/", gateway.address("admin")))
            .await;
        tab.sees("document.getElementById('state').textContent === 'ready'")
            .await;
        tab.sees("parseFloat(document.querySelector('.card .figure').textContent) > 0")
            .await;
        let before = tab.value(COUNTED).await.as_f64().unwrap();
        tab.sees(&format!("{COUNTED} > {before}")).await;
        let states =
            "[...document.querySelectorAll('td .pill')].map((pill) => pill.textContent).join()";
        assert_eq!(tab.value(states).await, "up,unhealthy");
        assert_eq!(tab.value(FITS).await, true, "{name} scrolls to the side");
        tab.sees("document.querySelector('polyline').getAttribute('points').split(' ').length > 4")
            .await;
        tab.picture(&format!("{name}.png")).await;
        is_without_faults(&mut tab).await;
    }
    load.stop_without_failures().await;
}

#[tokio::test]
async fn the_page_can_be_read_aloud_and_in_the_dark() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let browser = Browser::start();
    let mut tab = browser.tab(DESK.0, DESK.1).await;
    tab.open(&format!("http://{}/", gateway.address("admin")))
        .await;
    tab.sees("document.querySelectorAll('tbody tr').length > 0")
        .await;
    let faults = "[...document.querySelectorAll('table')].filter((table) =>
        !document.getElementById(table.getAttribute('aria-labelledby')).textContent
        || [...table.tHead.rows[0].cells].some((cell) => cell.scope !== 'col' || !cell.textContent)
        || [...table.tBodies[0].rows].some((row) => row.cells[0].scope !== 'row')).length
        + document.querySelectorAll('html:not([lang]), #state:not([aria-live=polite])').length";
    assert_eq!(tab.value(faults).await, 0);
    // What changes each second is not read aloud.
    assert_eq!(
        tab.value("document.querySelectorAll('main [aria-live], main[aria-live]').length")
            .await,
        0
    );
    let mut contrasts = Vec::new();
    for scheme in ["light", "dark"] {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        tab.ask("Emulation.setEmulatedMedia", media).await;
        let luminance = "((colour) => { const [r, g, b] = colour.match(/\\d+/g).map((part) => {
            const share = part / 255; return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; })";
        let of = |what: &str, property: &str| {
            format!("{luminance}(getComputedStyle(document.querySelector('{what}')).{property})")
        };
        for (text, back) in [
            ("body", "body"),
            ("thead th", ".table"),
            (".pill.good", ".pill.good"),
            (".card h2", ".card"),
        ] {
            let dark = tab.value(&of(text, "color")).await.as_f64().unwrap();
            let light = tab
                .value(&of(back, "backgroundColor"))
                .await
                .as_f64()
                .unwrap();
            let contrast = (dark.max(light) + 0.05) / (dark.min(light) + 0.05);
            // WCAG 2.2, 1.4.3.
            assert!(
                contrast >= 4.5,
                "{scheme}: {text} on {back} has {contrast:.1}"
            );
        }
        contrasts.push(
            tab.value(&of("body", "backgroundColor"))
                .await
                .as_f64()
                .unwrap(),
        );
        tab.picture(&format!("{scheme}.png")).await;
    }
    assert!(contrasts[0] > 0.8 && contrasts[1] < 0.05, "{contrasts:?}");
    is_without_faults(&mut tab).await;
}

#[tokio::test]
async fn a_lost_connection_is_told_and_found_again() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let relay = Relay::start().await;
    relay.leads_to(Some(gateway.address("admin")));
    let browser = Browser::start();
    let mut tab = browser.tab(PHONE.0, PHONE.1).await;
    tab.open(&format!("http://{}/", relay.address())).await;
    let pid = |gateway: &Gateway| {
        format!(
            "document.getElementById('facts').textContent.endsWith('pid {}')",
            gateway.pid()
        )
    };
    tab.sees(&pid(&gateway)).await;
    relay.leads_to(None);
    drop(gateway);
    tab.sees("document.getElementById('state').textContent === 'connection lost'")
        .await;
    tab.sees(
        "document.body.classList.contains('lost') && !document.getElementById('notice').hidden",
    )
    .await;
    tab.picture("lost.png").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    relay.leads_to(Some(gateway.address("admin")));
    tab.sees(&pid(&gateway)).await;
    tab.sees("document.getElementById('state').textContent === 'ready'")
        .await;
    tab.sees(
        "!document.body.classList.contains('lost') && document.getElementById('notice').hidden",
    )
    .await;
}

#[tokio::test]
async fn models_and_limits_have_their_tables() {
    let document = "limits: { rules: { each: { by: provider, requests: 100 } } }
routes: { ai: { ai: {}, limits: [each] } }
";
    let ai = Ai::start("", document).await;
    for _ in 0..3 {
        assert_eq!(ai.ask(Speaks::Chat, "gpt", true).await.status, 200);
    }
    let browser = Browser::start();
    for (name, (width, height)) in [("phone", PHONE), ("desk", DESK)] {
        let mut tab = browser.tab(width, height).await;
        tab.open(&format!("http://{}/", ai.gateway.address("admin")))
            .await;
        let shown = "[...document.querySelectorAll('.table:not([hidden]) h2')].map((title) => title.textContent).join()";
        tab.sees(&format!(
            "{shown} === 'Pools,Routes,Models,Targets,Providers,Limits'"
        ))
        .await;
        tab.sees("[...document.querySelectorAll('tbody th')].some((name) => name.textContent === 'each')").await;
        assert_eq!(tab.value(FITS).await, true, "{name} scrolls to the side");
        tab.picture(&format!("models-{name}.png")).await;
        is_without_faults(&mut tab).await;
    }
}

/// The files of the page as the gateway sends them, and figures of a test's making.
async fn stand_in(gateway: &Gateway, live: Value) -> (SocketAddr, JoinHandle<()>) {
    let mut router = Router::new().route("/status/live", get(|| async move { axum::Json(live) }));
    for path in ["/", "/status.js", "/status.css"] {
        let mut client = Client::direct(gateway.address("admin")).await;
        let answer = client
            .request("GET", path, &[("accept", "text/html")], b"")
            .await;
        assert_eq!(answer.status, 200);
        let header = |name: &str| answer.header(name).unwrap().to_owned();
        let headers = [
            (CONTENT_TYPE, header("content-type")),
            (CONTENT_SECURITY_POLICY, header("content-security-policy")),
        ];
        let text = answer.text();
        router = router.route(path, get(|| async move { (headers, text).into_response() }));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, task)
}

/// Every text that a gateway could be given, given to the page.
fn hostile() -> (String, Value) {
    let name = format!(
        "<script>window.harmed=1</script><img src=x onerror=window.harmed=2>\u{202e}{}",
        "x".repeat(150)
    );
    let spread = json!({ "bounds": [0.1], "counts": [1], "total": 2, "sum": 1.0 });
    let rows = |row: Value| json!({ "rows": [row], "left_out": 3 });
    let live = json!({
        "pid": 1, "version": name, "revision": 1, "uptime_s": 5.0, "not_ready": [name],
        "draining": false, "config_ok": true, "limits": { "mode": name, "instances": 1, "error": name },
        "traffic": { "requests": 2, "errors": 1, "shed": 0, "in_flight": 1, "connections": 1, "websockets": 0,
            "bytes_in": 1, "bytes_out": 1, "duration": spread },
        "process": { "cpu_seconds": 1, "memory_bytes": null, "threads": 1, "open_files": 1 },
        "routes": rows(json!({ "name": name, "requests": 1, "errors": 1, "websockets": 0, "duration": spread })),
        "pools": rows(json!({ "name": name, "eligible": 0, "waiting": 2, "endpoints": rows(json!({
            "name": name, "state": name, "in_flight": 1, "requests": 1, "failures": 1, "last_error": name,
        })) })),
        "providers": rows(json!({ "name": name, "enabled": true, "keys": 2, "resting": 1 })),
        "models": rows(json!({ "name": name, "provider": name, "calls": 1, "failed": 1, "fallbacks": 1,
            "tokens_in": 1, "tokens_out": 1, "first_token": spread })),
        "targets": rows(json!({ "name": name, "breaker": name, "open_s": 3, "in_flight": 1, "first_token_s": 1 })),
        "rules": rows(json!({ "name": name, "allowed": 1, "refused": 1 })),
    });
    (name, live)
}

#[tokio::test]
async fn names_are_text_and_never_markup() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let (name, live) = hostile();
    let (address, task) = stand_in(&gateway, live).await;
    let browser = Browser::start();
    for (width, height) in [PHONE, DESK] {
        let mut tab = browser.tab(width, height).await;
        tab.open(&format!("http://{address}/")).await;
        let named = format!(
            "[...document.querySelectorAll('tbody th')].filter((cell) => cell.textContent.includes({})).length",
            json!(name.replace('\u{202e}', "\u{fffd}"))
        );
        tab.sees(&format!("{named} === 6")).await;
        let made = "document.scripts.length + ' ' + document.images.length + ' ' + window.harmed";
        assert_eq!(tab.value(made).await, "1 0 undefined");
        assert_eq!(
            tab.value(FITS).await,
            true,
            "long names make {width} scroll to the side"
        );
        tab.picture(&format!("hostile-{width}.png")).await;
        is_without_faults(&mut tab).await;
    }
    task.abort();
}

#[tokio::test]
async fn what_is_forbidden_to_the_page_is_forbidden_by_the_browser() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let browser = Browser::start();
    let mut tab = browser.tab(DESK.0, DESK.1).await;
    tab.open(&format!("http://{}/", gateway.address("admin")))
        .await;
    let tries = "(() => {
        const script = document.createElement('script');
        try { script.text = 'window.harmed = 1'; document.head.append(script); } catch { }
        try { document.getElementById('notice').innerHTML = '<b>markup</b>'; } catch { }
        try { eval('window.harmed = 2'); } catch { }
        return `${window.harmed} ${document.querySelectorAll('#notice b').length}`;
    })()";
    assert_eq!(tab.value(tries).await, "undefined 0");
}

#[tokio::test]
async fn the_page_reckons_as_the_gateway_does() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let browser = Browser::start();
    let mut tab = browser.tab(DESK.0, DESK.1).await;
    tab.open(&format!("http://{}/", gateway.address("admin")))
        .await;
    let cases = include_str!("../golden/live/quantiles.json");
    let wrong = format!(
        "({cases}).filter((one) => {{
            const found = quantile(since(one.now, one.then), one.of);
            return one.is === null ? found !== null : !(Math.abs(found - one.is) < 1e-9);
        }}).map((one) => one.why).join()"
    );
    assert_eq!(tab.value(&wrong).await, "");
    let words = "[number(0.04), number(9.96), number(12345), bytes(64225280), duration(0.0096), uptime(273845)].join('|')";
    assert_eq!(tab.value(words).await, "0.0|10|12k|61 MiB|9.6 ms|3 d 04:04");
}
