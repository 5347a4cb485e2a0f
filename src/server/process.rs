//! What a process sets up before it serves: its log, its metrics, the runtime beside the traffic.

use super::StartError;
use crate::observe::logging;
use crate::observe::metrics::Metrics;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// Threads for what blocks: name look-ups, above all.
const BLOCKING_THREADS_MAX: usize = 16;

/// What systems allow a process that did not ask.
const OPEN_FILES_USUAL: u64 = 1024;

/// The log comes first, and it counts.
pub fn start_log(filter: Option<&str>) -> Result<Arc<Metrics>, StartError> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let suppressed = metrics.log_lines_suppressed.clone();
    logging::start(filter, logging::Format::detect(), suppressed)
        .map_err(|error| StartError::System(error.to_string()))?;
    Ok(metrics)
}

/// Carries what is beside the traffic: probes, look-ups, reloads, the admin listener.
pub fn control_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Asks for as many descriptors as the system allows, since each connection needs one or two, and says
/// how many there are.
pub fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return OPEN_FILES_USUAL;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "cannot raise the limit on open files");
            soft
        }
    }
}
