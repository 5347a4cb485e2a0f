//! The real binary between scripted upstreams and real clients: one file per stage.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the whole of this crate is tests: a failure here is a failed test"
)]

mod harness;

mod ai;
mod alerts;
mod body;
mod cli;
mod cluster;
mod deploy;
mod docs;
mod examples;
mod exchange;
mod failover;
mod forwarded;
mod front;
mod health;
mod hostile;
mod identity;
mod limit;
mod listen;
mod logs;
mod observe;
mod reload;
mod route;
mod runbooks;
mod sdk;
mod secrets;
mod session;
mod shield;
mod shutdown;
mod soak;
mod status_page;
mod systemd;
mod traces;
mod top;
mod unix;
mod upgrade;
mod upstream;
mod watched;
mod websocket;
