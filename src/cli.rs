//! What the words of the command line do.

use crate::config::{self, Loaded};
use crate::demo;
use crate::server::{Server, StartError, process};
use clap::{Args, Subcommand};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub enum Command {
    /// Serve until told to stop (SIGTERM drains, SIGHUP reloads, SIGUSR1 reopens the access log)
    Run(File),
    /// Check a configuration: every fault at once, with its place and how to mend it; exit 0 or 1
    #[command(visible_alias = "test")]
    Check(File),
    /// Print the configuration in effect: defaults filled in, secrets masked
    Dump(File),
    /// Say which listener, route, pool and limits a request would meet, and why
    Explain(Explain),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Start the gateway in front of three example backends, with a certificate made on the spot
    Demo(demo::Options),
}

#[derive(Args)]
pub struct File {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "conf/gateway.yaml")]
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

pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Run(file) => serve(&file.config),
        Command::Check(file) => check(&file.config),
        Command::Dump(file) => with_config(&file.config, config::dump),
        Command::Explain(explain) => explain_request(&explain),
        Command::Schema => print(&format!("{:#}\n", config::schema())),
        Command::Demo(options) => finish(demo::run(&options)),
    }
}

fn serve(path: &Path) -> ExitCode {
    let served = process::start_log(config::log_filter().as_deref()).and_then(|metrics| {
        process::control_runtime()?.block_on(async {
            let server = Server::start(path, config::environment(), metrics).await?;
            Ok(server.run().await?)
        })
    });
    finish(served)
}

fn finish(served: Result<(), StartError>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
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
