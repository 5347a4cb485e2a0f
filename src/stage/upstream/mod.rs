//! Where to: pools of endpoints, who of them is well, and who takes this request.

pub mod dns;
pub mod endpoint;
#[cfg(test)]
mod fake;
pub mod health;
pub mod peer;
pub mod probe;
pub mod prober;
pub mod settings;
