//! Where to: pools of endpoints, who of them is well, and who takes this request.

pub mod dns;
pub mod endpoint;
pub mod health;
pub mod peer;
pub mod settings;
