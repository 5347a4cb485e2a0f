//! What is seen from outside: metrics, the access log, events and the process's own log.

pub mod metrics;
pub mod access_log;
pub mod event;
pub mod logging;
pub mod trace;
pub mod settings;
