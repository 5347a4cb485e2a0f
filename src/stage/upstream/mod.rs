//! Where to: pools of endpoints, who of them is well, and who takes this request.

pub mod balance;
pub mod ejection;
pub mod endpoint;
pub mod health;
pub mod pool;
mod queue;
pub mod retry;
pub mod settings;
pub mod socket;
pub mod siphash;
pub mod slow_start;
pub mod sticky;
