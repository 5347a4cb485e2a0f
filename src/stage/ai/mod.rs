//! AI: what callers ask of models and what models answer, in no vendor's words; bytes in and bytes out, no I/O.
//!
//! A wire format ([`dialect::Dialect`]) reads and writes a [`call::Call`], a [`reply::Reply`] and a stream of
//! [`event::Event`]s. Where caller and provider speak the same one, bytes pass through; where they do not, one
//! reads and the other writes.

pub mod address;
pub mod allowance;
pub mod base_url;
pub mod breaker;
pub mod call;
pub mod count;
pub mod dialect;
pub mod door;
pub mod effort;
pub mod event;
pub mod eventstream;
pub mod fault;
pub mod form;
pub mod google;
pub mod json;
mod key_line;
pub mod key_ring;
pub mod list;
pub mod names;
pub mod order;
pub mod peek;
pub mod price;
pub mod provider;
pub mod realtime;
pub mod relay;
pub mod reply;
pub mod retry;
pub mod settings;
pub mod sigv4;
pub mod sse;
pub mod target;
pub mod tokens;
pub mod usage;
pub mod wait;

#[cfg(test)]
mod golden;
