//! Where to: pools of endpoints, who of them is well, and who takes this request.

pub mod balance;
pub mod broken;
pub mod connector;
pub mod dns;
pub mod ejection;
pub mod endpoint;
pub mod exchange;
#[cfg(test)]
mod fake;
pub mod health;
pub mod learned;
pub mod peer;
pub mod pool;
pub mod probe;
pub mod prober;
mod queue;

pub mod retry;
pub mod settings;
mod siphash;
pub mod slow_start;
pub mod socket;
pub mod sticky;
mod turnover;
