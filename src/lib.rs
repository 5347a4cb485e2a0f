//! `OneMind` Gateway: one binary between the callers and everything behind it.
//!
//! The life of a request, in the order of the modules below: a connection is accepted
//! (`stage::listen`), its head is read (`wire`) and matched to a route (`stage::route`), the caller is
//! identified (`stage::identity`) and held to its limits (`stage::limit`), an endpoint is picked and
//! tried (`stage::upstream`), or a model asked (`stage::ai`), the answer streams back, and `gateway::finish` counts and logs how it ended.
//! `gateway/mod.rs` is the table of contents, `gateway/life.rs` the story.

pub mod cli;
pub mod demo;
pub mod server;
pub mod gateway;
pub mod stage;
pub mod admin;
pub mod snapshot;
pub mod config;
pub mod store;
pub mod observe;
pub mod wire;
pub mod base;
