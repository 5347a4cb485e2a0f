//! Words that every module speaks: no behaviour that only one of them needs.

pub mod client;
pub mod ending;
pub mod fault;
pub mod line;
pub mod principal;
pub mod reject;
pub mod secret;
pub mod units;
pub mod usage;
