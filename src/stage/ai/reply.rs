//! An answer that comes whole.

use super::call::Part;
use super::event::Stop;
use crate::base::usage::Usage;

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The provider's name for it.
    pub id: String,
    /// The model that gave it.
    pub model: String,
    /// Seconds since 1970; 0 where the provider does not say.
    pub created: u64,
    pub parts: Vec<Part>,
    pub stop: Stop,
    /// None where the provider did not count.
    pub usage: Option<Usage>,
}
