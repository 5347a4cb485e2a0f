//! `onemind top`: the running gateway in a terminal, a frame a second.

mod ask;
mod frame;
mod history;
mod paint;
mod screen;
mod table;

use super::{complain, loopback_of, print};
use crate::config::{self, Config};
use ask::ask;
use clap::Args;
use frame::{Gone, frame};
use history::History;
use paint::Look;
use screen::{Keys, Screen};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Between two frames, and between the two looks that one frame alone takes.
const PERIOD: Duration = Duration::from_secs(1);
/// Of a frame that is not for a terminal, unless `COLUMNS` says otherwise.
const COLUMNS: u16 = 120;
/// Of any frame: narrower ones could not be read, wider ones would be mistakes.
const COLUMNS_MIN: u16 = 40;
const COLUMNS_MAX: u16 = 500;

#[derive(Args)]
pub struct Options {
    /// The configuration, which says where the admin listener is
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "ONEMIND_CONFIG",
        default_value = "conf/gateway.yaml"
    )]
    config: PathBuf,
    /// Where the admin listener is, instead: 127.0.0.1:9090
    #[arg(long, value_name = "HOST:PORT", value_parser = place)]
    admin: Option<String>,
    /// Print one frame as plain text and leave; what is done anyway when the output is no terminal
    #[arg(long)]
    once: bool,
}

fn place(text: &str) -> Result<String, &'static str> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err("write a host and a port such as 127.0.0.1:9090"),
    }
}

pub fn run(options: &Options) -> ExitCode {
    let place = match &options.admin {
        Some(place) => place.clone(),
        None => match admin_of(&options.config) {
            Ok(place) => place,
            Err(refused) => return complain(&refused),
        },
    };
    // A thread of its own looks names up; nothing else is done beside.
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(why) => return complain(&format!("error: {why}\n")),
    };
    let code = if options.once || !io::stdout().is_terminal() {
        runtime.block_on(once(&place))
    } else {
        runtime.block_on(watch(&place))
    };
    // A look-up that hangs must not hold up whoever leaves.
    runtime.shutdown_background();
    code
}

fn admin_of(path: &std::path::Path) -> Result<String, String> {
    let loaded = config::load(path, &config::environment());
    let admin = |config: &Config| loopback_of(config.admin.address).to_string();
    let admin = loaded.config.as_ref().map(admin);
    admin.ok_or_else(|| loaded.render())
}

/// Rates need two looks.
async fn once(place: &str) -> ExitCode {
    let mut history = History::default();
    for look in 0..2 {
        if look > 0 {
            sleep(PERIOD).await;
        }
        match ask(place).await {
            Ok(live) => history.push(live),
            Err(why) => {
                // It may be what a stranger has answered.
                let why = paint::safe(&why, unicode());
                return complain(&format!("{place}: {why}\n"));
            }
        }
    }
    let columns = variable("COLUMNS").and_then(|columns| columns.parse().ok());
    let width = usable(columns.unwrap_or(COLUMNS));
    let lines = frame(place, &history, None, (width, usize::MAX), unicode());
    print(&paint::plain(&lines))
}

fn usable(columns: u16) -> usize {
    usize::from(columns.clamp(COLUMNS_MIN, COLUMNS_MAX))
}

/// Of the environment; none when it is empty.
fn variable(name: &str) -> Option<String> {
    config::environment()(name).filter(|value| !value.is_empty())
}

/// Whether the terminal is told to show more than ASCII.
fn unicode() -> bool {
    let locale = variable("LC_ALL")
        .or_else(|| variable("LC_CTYPE"))
        .or_else(|| variable("LANG"));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Until somebody leaves. The terminal is as before then, however it ends.
async fn watch(place: &str) -> ExitCode {
    let watched = async {
        let mut signals = Signals::listen()?;
        let screen = Screen::open()?;
        let mut keys = screen.keys();
        Watch::of(place, &screen).run(&mut signals, &mut keys).await
    };
    match watched.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&format!("error: no terminal: {why}\n")),
    }
}

struct Signals {
    resized: Signal,
    told_to_leave: [Signal; 3],
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            told_to_leave: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
        })
    }

    async fn leave(signals: &mut [Signal; 3]) {
        let [interrupt, terminate, hangup] = signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What is shown, and to whom.
struct Watch<'a> {
    place: &'a str,
    screen: &'a Screen,
    look: Look,
    history: History,
    gone: Option<(Instant, String)>,
}

impl<'a> Watch<'a> {
    fn of(place: &'a str, screen: &'a Screen) -> Self {
        Self {
            place,
            screen,
            look: Look {
                colour: variable("NO_COLOR").is_none(),
                unicode: unicode(),
            },
            history: History::default(),
            gone: None,
        }
    }

    async fn run(mut self, signals: &mut Signals, keys: &mut Keys) -> io::Result<()> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.draw()?;
        loop {
            // Asked apart from the keys: a gateway that hangs does not keep anybody here.
            let next = async {
                ticks.tick().await;
                ask(self.place).await
            };
            let mut next = std::pin::pin!(next);
            let answer = loop {
                tokio::select! {
                    answer = next.as_mut() => break answer,
                    _ = signals.resized.recv() => self.draw()?,
                    () = Signals::leave(&mut signals.told_to_leave) => return Ok(()),
                    leave = keys.leave() => {
                        leave?;
                        return Ok(());
                    }
                }
            };
            match answer {
                Ok(live) => {
                    self.history.push(live);
                    self.gone = None;
                }
                Err(why) => {
                    let since = self.gone.take().map(|(since, _)| since);
                    self.gone = Some((since.unwrap_or_else(Instant::now), why));
                }
            }
            self.draw()?;
        }
    }

    fn draw(&self) -> io::Result<()> {
        let (columns, rows) = self.screen.size();
        let gone = self.gone.as_ref().map(|(since, why)| Gone {
            seconds: since.elapsed().as_secs(),
            why,
        });
        let size = (usable(columns), usize::from(rows));
        let lines = frame(self.place, &self.history, gone, size, self.look.unicode);
        self.screen.draw(&lines, self.look)
    }
}

#[cfg(test)]
mod tests;
