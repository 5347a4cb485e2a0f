//! Where counts are kept. Every counter takes all charges of a request or none, in one step.

pub mod memory;
#[cfg(test)]
mod oracle;
pub mod redis;

use super::quota::{Level, Quota};
use smallvec::SmallVec;

/// What a request would add to one count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Without the number of a window, which the counter's own clock gives.
    pub key: String,
    pub quota: Quota,
}

/// What became of a request's charges: counted all, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub granted: bool,
    /// One for each charge, in their order.
    pub levels: Levels,
}

/// Seldom more than four rules apply to a request.
pub type Levels = SmallVec<[Level; 4]>;
