//! What a process sets up before it serves: its log, its metrics, the runtime beside the traffic.

use super::StartError;
use crate::observe::logging;
use crate::observe::metrics::Metrics;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// Threads for what blocks: name look-ups, above all.
const BLOCKING_THREADS_MAX: usize = 16;

/// The log comes first, and it counts.
pub fn start_log(filter: Option<&str>) -> Result<Arc<Metrics>, StartError> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let counters = logging::Counters {
        suppressed: metrics.log_lines_suppressed.clone(),
        dropped: metrics.log_lines_dropped.clone(),
    };
    logging::start(filter, counters).map_err(|error| StartError::System(error.to_string()))?;
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
    let Rlimit {
        current: soft,
        maximum: hard,
    } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: hard,
        maximum: hard,
    };
    let allowed = match setrlimit(Resource::Nofile, all) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, ?soft, ?hard, "cannot raise the limit on open files");
            soft
        }
    };
    // None: without a limit.
    allowed.unwrap_or(u64::MAX)
}
