//! AI: what callers ask of models and what models answer, in no vendor's words; bytes in and bytes out, no I/O.
//!
//! A wire format ([`dialect::Dialect`]) reads and writes a [`call::Call`], a [`reply::Reply`] and a stream of
//! [`event::Event`]s. Where caller and provider speak the same one, bytes pass through; where they do not, one
//! reads and the other writes.

pub mod call;
pub mod dialect;
pub mod effort;
pub mod event;
pub mod fault;
pub mod json;
pub mod peek;
pub mod reply;
pub mod sse;
pub mod tokens;
pub mod wait;

#[cfg(test)]
mod golden;
