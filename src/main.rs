//! The command line: each word leads to one function of the library.

use clap::Parser;
use onemind_gateway::cli::Command;
use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `OneMind` Gateway: reverse proxy and AI gateway.
#[derive(Parser)]
#[command(name = "onemind", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Before anything else: two providers are compiled in, and rustls will not choose by itself.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    debug_assert!(installed.is_ok(), "the provider is installed once");
    onemind_gateway::cli::run(Arguments::parse().command)
}
