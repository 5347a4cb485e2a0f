//! One folder for each step of a request; the steps never use each other.

pub mod limit;
pub mod listen;
pub mod route;
pub mod identity;
pub mod upstream;
pub mod ai;
