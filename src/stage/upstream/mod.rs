//! Where to: pools of endpoints, who of them is well, and who takes this request.

pub mod balance;
pub mod ejection;
pub mod dns;
pub mod endpoint;
#[cfg(test)]
mod fake;
pub mod health;
pub mod pool;
mod queue;
pub mod retry;
pub mod peer;
pub mod probe;
pub mod prober;
pub mod settings;
pub mod socket;
pub mod siphash;
pub mod slow_start;
pub mod sticky;
