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
    /// What is needed; at least 1.
    pub units: u64,
    /// What is taken in advance with it, if there is so much: this many in all. Only windows in Redis have that.
    pub most: u64,
    /// Whether it may turn out to have been something else, so that it must be known where it was counted.
    pub may_change: bool,
}

/// What became of a request's charges: counted all, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub granted: bool,
    /// One for each charge, in their order.
    pub levels: Levels,
    /// One for each charge, in their order; empty where nothing was counted, and void where nobody needs them.
    pub marks: SmallVec<[Mark; 4]>,
}

impl Taken {
    /// What becomes of no charges.
    pub fn of_nothing() -> Self {
        Self {
            granted: true,
            levels: Levels::new(),
            marks: SmallVec::new(),
        }
    }
}

/// Where units were counted, so that they can be given back there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// With what was taken in advance.
    pub units: u64,
    /// Of a window that slides.
    pub bucket: u64,
    /// The window's number since 1970.
    pub index: u64,
}

/// What a charge turns out to have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    pub key: String,
    pub quota: Quota,
    pub what: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So many more units, counted now whatever is left.
    More(u64),
    /// So many units less, where they were counted.
    Less(u64, Mark),
}

impl Charge {
    /// Whether more may be taken than is needed.
    pub fn is_prepaid(&self) -> bool {
        self.most > self.units
    }

    /// Whether it must be known where it was counted.
    pub fn needs_mark(&self) -> bool {
        self.may_change || self.is_prepaid()
    }

    pub fn correction(&self, what: Change) -> Correction {
        Correction {
            key: self.key.clone(),
            quota: self.quota,
            what,
        }
    }
}

/// Seldom more than four rules apply to a request.
pub type Levels = SmallVec<[Level; 4]>;
