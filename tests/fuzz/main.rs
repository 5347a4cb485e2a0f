//! Whatever strangers send, and what operators mistype: no input makes a parser panic or lie.
//!
//! In the suite each body meets a few thousand inputs; `make fuzz` (or `FUZZ_SECONDS=600 cargo test
//! --test fuzz`) goes on for so long with each. What is found comes back shrunk, as a failed test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the whole of this crate is tests: a failure here is a failed test"
)]

mod config;
mod cookie;
mod forwarded;
mod http1;
mod identity;
mod mutate;
mod proxy_protocol;
mod route;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use std::time::{Duration, Instant};

/// Runs a body on so many inputs, or for as long as the environment says.
fn fuzz<S: Strategy>(
    name: &str,
    cases: u32,
    inputs: &S,
    body: impl Fn(S::Value) -> TestCaseResult,
) {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("FUZZ_SECONDS is a number"));
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut met = 0_u64;
    loop {
        // Each begins with a seed of its own.
        let mut runner = TestRunner::new(config.clone());
        if let Err(found) = runner.run(inputs, &body) {
            panic!("{name}, after {met} inputs: {found}");
        }
        met += u64::from(cases);
        match until {
            Some(until) if Instant::now() < until => {}
            Some(_) => return eprintln!("{name}: {met} inputs, nothing found"),
            None => return,
        }
    }
}
