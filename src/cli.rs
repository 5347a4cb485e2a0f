//! What the words of the command line do.

mod top;

use crate::base::units::Moment;
use crate::config::{self, Loaded};
use crate::demo;
use crate::observe::logging;
use crate::server::{End, Heritage, Server, StartError, process};
use crate::stage::identity::api_key;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// For each step of asking a gateway whether it is ready.
const READY_TIME_MAX: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Told to stop twice.
const LEFT_AT_ONCE: u8 = 3;

const EXIT_STATUS: &str = "\
Exit status:
  0  told to stop, and drained or at the drain deadline; or followed by a successor
  1  did not start: the configuration or the system is at fault
  2  the command line is wrong
  3  told to stop twice, and left at once";

/// What a running gateway takes longer than the time it gives a successor.
const UPGRADE_SLACK: Duration = Duration::from_secs(30);

#[derive(Subcommand)]
pub enum Command {
    /// Serve until told to stop (SIGTERM drains, SIGHUP reloads, SIGUSR1 reopens the access log, SIGUSR2 upgrades)
    #[command(after_help = EXIT_STATUS)]
    Run(File),
    /// Check a configuration: every fault at once, with its place and how to mend it; exit 0 or 1
    #[command(visible_alias = "test")]
    Check(File),
    /// Print the configuration in effect: defaults filled in, secrets masked
    Dump(File),
    /// Say which listener, route, pool and limits a request would meet, and why
    Explain(Explain),
    /// Make API keys
    #[command(subcommand)]
    Key(Key),
    /// Print the JSON Schema of the configuration, for editors
    Schema(Schema),
    /// Ask a running gateway whether it is ready; exit 0 or 1, for health checks of containers
    Ready(File),
    /// Let the program that is on disk now take the place of the running one; exit 0 or 1
    Upgrade(File),
    /// Watch a running gateway: traffic, pools, models and limits, in the terminal
    Top(top::Options),
    /// Start the gateway in front of three example backends, with a certificate made on the spot
    Demo(demo::Options),
}

#[derive(Args)]
pub struct File {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "ONEMIND_CONFIG",
        default_value = "conf/gateway.yaml"
    )]
    config: PathBuf,
}

#[derive(Args)]
pub struct Explain {
    #[command(flatten)]
    file: File,
    /// For example GET
    method: String,
    /// For example <https://example.com/api/x?y=1>
    url: String,
    /// A header of the request, `Name: value`; may be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
}

#[derive(Args)]
pub struct Schema {
    /// The reference for people instead: `docs/configuration.md`
    #[arg(long)]
    markdown: bool,
}

#[derive(Subcommand)]
pub enum Key {
    /// Make a key: it is shown once, with what to write in the configuration
    New(NewKey),
}

#[derive(Args)]
pub struct NewKey {
    /// What the key is called in logs and limits
    #[arg(long)]
    name: String,
    /// Who calls with it; the name of the key if absent
    #[arg(long)]
    user: Option<String>,
    /// What the user has booked
    #[arg(long)]
    plan: Option<String>,
    /// Taken until this moment: 2027-01-31 or 2027-01-31T12:00:00Z
    #[arg(long, value_parser = moment)]
    expires: Option<Moment>,
    /// The `pepper` of the method, if it has one; better given by the environment
    #[arg(long, env = "ONEMIND_PEPPER", hide_env_values = true)]
    pepper: Option<String>,
}

fn moment(text: &str) -> Result<Moment, &'static str> {
    Moment::parse(text).ok_or("write a date such as 2027-01-31")
}

pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Run(file) => serve(&file.config),
        Command::Check(file) => check(&file.config),
        Command::Dump(file) => with_config(&file.config, config::dump),
        Command::Explain(explain) => explain_request(&explain),
        Command::Key(Key::New(new)) => new_key(&new),
        Command::Schema(Schema { markdown: true }) => print(&config::reference()),
        Command::Schema(_) => print(&format!("{:#}\n", config::schema())),
        Command::Ready(file) => ready(&file.config),
        Command::Upgrade(file) => upgrade(&file.config),
        Command::Top(options) => top::run(&options),
        Command::Demo(options) => finish(demo::run(&options).map(|()| End::Drained)),
    }
}

fn serve(path: &Path) -> ExitCode {
    let served = process::start_log(config::log_filter().as_deref()).and_then(|metrics| {
        process::control_runtime()?.block_on(async {
            let environment = config::environment();
            let heritage = Heritage::take(&environment).await?;
            let server = Server::start(path, environment, metrics, heritage).await?;
            Ok(server.run().await?)
        })
    });
    finish(served)
}

fn finish(served: Result<End, StartError>) -> ExitCode {
    // Before the last word is written beside it.
    logging::flush();
    match served {
        Ok(End::AtOnce) => ExitCode::from(LEFT_AT_ONCE),
        Ok(End::Drained | End::DeadlinePassed) => ExitCode::SUCCESS,
        Err(StartError::Config(rendered)) => complain(&rendered),
        Err(StartError::System(why)) => complain(&format!("error: {why}\n")),
    }
}

fn check(path: &Path) -> ExitCode {
    let loaded = config::load(path, &config::environment());
    let rendered = loaded.render();
    if loaded.config.is_none() {
        return complain(&rendered);
    }
    print(&format!("{rendered}{} is fine\n", path.display()))
}

fn with_config(path: &Path, show: impl Fn(&config::Config) -> String) -> ExitCode {
    match config::load(path, &config::environment()) {
        Loaded {
            config: Some(config),
            ..
        } => print(&show(&config)),
        refused => complain(&refused.render()),
    }
}

fn explain_request(explain: &Explain) -> ExitCode {
    let loaded = config::load(&explain.file.config, &config::environment());
    let Some(config) = &loaded.config else {
        return complain(&loaded.render());
    };
    match crate::snapshot::explain(config, &explain.method, &explain.url, &explain.headers) {
        Ok(text) => print(&text),
        Err(what) => complain(&format!("error: {what}\n")),
    }
}

/// The key goes to standard output with what to write, and is kept nowhere.
fn new_key(new: &NewKey) -> ExitCode {
    let pepper = new.pepper.as_deref().map_or(usize::MAX, str::len);
    if pepper < api_key::PEPPER_BYTES_MIN {
        let least = api_key::PEPPER_BYTES_MIN;
        return complain(&format!("error: a pepper has at least {least} bytes\n"));
    }
    let made = match api_key::new_key(new.pepper.as_deref()) {
        Ok(made) => made,
        Err(why) => return complain(&format!("error: {why}\n")),
    };
    let mut text = format!("The key, shown this once: {}\n\n", made.key);
    text.push_str("Write this under `known` of a method of `keys`:\n\n");
    let expires = new.expires.map(|moment| moment.to_string());
    let lines = [
        ("- name", Some(&new.name)),
        ("  prefix", Some(&made.prefix)),
        ("  hash", Some(&made.hash)),
        ("  user", new.user.as_ref()),
        ("  plan", new.plan.as_ref()),
        ("  expires", expires.as_ref()),
    ];
    for (key, value) in lines {
        let Some(value) = value else { continue };
        // A JSON string is a YAML string; `$${` is how a literal `${` is written.
        let value = serde_json::Value::from(value.replace("${", "$${"));
        writeln!(text, "{key}: {value}").expect("text grows");
    }
    print(&text)
}

fn ready(path: &Path) -> ExitCode {
    let loaded = config::load(path, &config::environment());
    let Some(config) = &loaded.config else {
        return complain(&loaded.render());
    };
    match ask(config.admin.address, "GET /readyz", READY_TIME_MAX) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => print("ready\n"),
        Ok(answer) => complain(&format!("not ready: {}\n", body_of(&answer))),
        Err(error) => complain(&format!("not ready: {}: {error}\n", config.admin.address)),
    }
}

fn upgrade(path: &Path) -> ExitCode {
    let loaded = config::load(path, &config::environment());
    let Some(config) = &loaded.config else {
        return complain(&loaded.render());
    };
    let limit = config
        .server
        .upgrade
        .ready_within
        .0
        .saturating_add(UPGRADE_SLACK);
    match ask(config.admin.address, "POST /upgrade", limit) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
            print(&format!("{}\n", body_of(&answer)))
        }
        Ok(answer) => complain(&format!("not upgraded: {}\n", body_of(&answer))),
        Err(error) => complain(&format!(
            "not upgraded: {}: {error}\n",
            config.admin.address
        )),
    }
}

/// The answer of a gateway's admin listener, head and body.
fn ask(admin: SocketAddr, what: &str, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&loopback_of(admin), READY_TIME_MAX)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "{what} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where this machine reaches what listens on all addresses.
fn loopback_of(mut admin: SocketAddr) -> SocketAddr {
    if admin.ip().is_unspecified() {
        admin.set_ip(match admin.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    admin
}

fn body_of(answer: &str) -> &str {
    answer
        .split_once("\r\n\r\n")
        .map_or(answer, |(_, body)| body)
}

/// A reader that has gone (`| head`) is no fault of ours.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn complain(text: &str) -> ExitCode {
    // With nowhere to complain to, the exit status still tells.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}
