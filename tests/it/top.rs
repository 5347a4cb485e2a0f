//! `onemind top`: what an operator sees of a running gateway, and how the terminal is left.

use crate::ai::{Ai, Speaks};
use crate::harness::{
    BlackHole, Gateway, Load, Port, Relay, Terminal, Upstream, eventually, finish,
};
use std::process::Command;

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
    command.arg("top").args(arguments);
    command.env_remove("COLUMNS").env_remove("NO_COLOR");
    command.env("LC_ALL", "C").env("TERM", "xterm");
    command
}

fn once(arguments: &[&str]) -> (bool, String) {
    let (status, stdout, stderr) = finish(&mut top(arguments));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.success(), stdout + &stderr)
}

/// The number after a word of the frame.
fn figure(frame: &str, word: &str) -> f64 {
    let after = frame
        .split(word)
        .nth(1)
        .unwrap_or_else(|| panic!("no {word} in\n{frame}"));
    let value = after.split_whitespace().next().unwrap();
    value
        .parse()
        .unwrap_or_else(|_| panic!("{word} is {value} in\n{frame}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn one_frame_as_text_shows_traffic_pools_and_routes() {
    let upstream = Upstream::named("a").await;
    let dead = Port::reserve();
    let gateway = Gateway::of(
        &[&upstream, &dead],
        "health: { interval: 100ms, fast_interval: 30ms }",
        "",
    )
    .await;
    gateway
        .endpoint_is("app", &dead, "state", "unhealthy".into())
        .await;
    let load = Load::start(&gateway, "/", 100, 4);
    load.goes_on_for(50).await;
    let file = gateway.path("gateway.yaml").display().to_string();
    let (good, frame) = blocking(move || once(&["-c", &file])).await;
    load.stop_without_failures().await;
    assert!(good, "{frame}");
    assert!(figure(&frame, "requests/s") > 1.0, "{frame}");
    assert!(frame.contains(" ready  pid "), "{frame}");
    assert!(frame.is_ascii() && !frame.contains('\x1b'), "{frame}");
    let line = |name: String| {
        let line = frame.lines().find(|line| line.contains(&name));
        line.unwrap_or_else(|| panic!("no {name} in\n{frame}"))
            .to_owned()
    };
    assert!(line(upstream.to_string()).contains(" up "), "{frame}");
    assert!(line(dead.to_string()).contains(" unhealthy "), "{frame}");
    assert!(line(" ROUTE ".to_owned()).contains(" P99 "), "{frame}");
}

#[tokio::test]
async fn models_and_limits_are_in_the_frame() {
    let document = "limits: { rules: { each: { by: provider, requests: 100 } } }
routes: { ai: { ai: {}, limits: [each] } }
";
    let ai = Ai::start("", document).await;
    let admin = ai.gateway.address("admin").to_string();
    assert_eq!(ai.ask(Speaks::Chat, "gpt", true).await.status, 200);
    let (good, frame) = blocking(move || once(&["--once", "--admin", &admin])).await;
    assert!(good, "{frame}");
    for part in [
        "tokens in/s",
        "1st word p50",
        " MODEL ",
        " gpt ",
        " TARGET ",
        " openai/gpt-5 ",
        " closed ",
        " LIMIT ",
        " each ",
    ] {
        assert!(frame.contains(part), "no {part} in\n{frame}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_an_error_for_scripts() {
    let nobody = Port::reserve().to_string();
    let (good, said) = blocking(move || once(&["--once", "--admin", &nobody])).await;
    assert!(!good && said.contains("refused"), "{said}");
    let (good, said) = blocking(|| once(&["--once", "-c", "/nowhere.yaml"])).await;
    assert!(!good && said.contains("/nowhere.yaml"), "{said}");
}

#[tokio::test]
async fn something_else_that_listens_there_is_told_from_a_gateway() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    // The door for callers, not for operators.
    let door = gateway.address("http").to_string();
    gateway
        .sent()
        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let (good, said) = blocking(move || once(&["--once", "--admin", &door])).await;
    assert!(!good, "{said}");
    assert!(
        said.contains("cannot be understood") || said.contains("is that the admin"),
        "{said}"
    );
}

#[tokio::test]
async fn a_terminal_is_drawn_on_resized_and_given_back() {
    let upstream = Upstream::named("a").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    let admin = gateway.address("admin").to_string();
    for leave in ["q", "\x03", "SIGTERM"] {
        let mut terminal = Terminal::run(&mut top(&["--admin", &admin]), 80, 24);
        terminal.shows(" ready  pid ").await;
        terminal.shows(&upstream.to_string()).await;
        assert!(!terminal.is_as_before(), "typing would be echoed");
        let frame = terminal.frame();
        assert!(frame.len() <= 24, "{frame:#?}");
        assert!(
            frame.iter().all(|line| line.chars().count() <= 80),
            "{frame:#?}"
        );
        terminal.resize(50, 6);
        eventually("a smaller frame", async || {
            let frame = terminal.frame();
            let fits = frame.len() <= 6 && frame.iter().all(|line| line.chars().count() <= 50);
            fits.then_some(())
        })
        .await;
        match leave {
            "SIGTERM" => gateway.signal_to(terminal.pid(), "TERM"),
            keys => terminal.type_in(keys),
        }
        let status = terminal.exit().await;
        assert!(status.success(), "{leave}: {status}");
        assert!(terminal.is_as_before(), "{leave}");
        eventually("the screen is given back", async || {
            terminal
                .drawn()
                .ends_with("\x1b[?25h\x1b[?1049l")
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_is_kept_waiting_by_a_gateway_that_hangs() {
    let hole = BlackHole::dig();
    let mut terminal = Terminal::run(&mut top(&["--admin", &hole.to_string()]), 80, 24);
    // Drawn before anything is answered, and it will not be.
    terminal.shows(" onemind ").await;
    terminal.type_in("xyq");
    assert!(terminal.exit().await.success());
    assert!(terminal.is_as_before());
    let hole = hole.to_string();
    let (good, said) = blocking(move || once(&["--admin", &hole])).await;
    assert!(!good && said.contains("no answer within 2 s"), "{said}");
}

#[tokio::test]
async fn a_gateway_that_goes_is_said_to_be_gone_and_found_again() {
    let upstream = Upstream::named("a").await;
    let relay = Relay::start().await;
    let place = relay.address().to_string();
    let mut terminal = Terminal::run(&mut top(&["--admin", &place]), 100, 30);
    terminal.shows(" no gateway: ").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    relay.leads_to(Some(gateway.address("admin")));
    terminal
        .shows(&format!(" ready  pid {}", gateway.pid()))
        .await;
    drop(gateway);
    terminal.shows(" gone for ").await;
    terminal.shows("these are the last figures").await;
    let gateway = Gateway::of(&[&upstream], "", "").await;
    relay.leads_to(Some(gateway.address("admin")));
    terminal
        .shows(&format!(" ready  pid {}", gateway.pid()))
        .await;
    terminal.type_in("q");
    assert!(terminal.exit().await.success());
}
