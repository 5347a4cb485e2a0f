//! Who: credentials, and the methods that make a principal of them.

pub mod anonymous;
pub mod api_key;
pub mod build;
pub mod chain;
pub mod claims;
pub mod client_certificate;
pub mod credential;
pub mod fetch;
pub mod jwks;
pub mod jwt;
pub mod key;
pub mod settings;
mod verified;
