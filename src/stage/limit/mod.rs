//! How much: rules that say how many requests a caller may make, and the counts they are held against.
//!
//! ```text
//!  settings.rs     what an operator writes
//!  rule.rs         a rule ready to serve: to whom it applies, under which key it counts
//!  quota.rs        the arithmetic: windows, distances, places in flight; pure
//!  sliding.rs      the same of windows that slide
//!  counter/        where counts are kept, all or nothing: memory.rs, redis.rs
//!  counters.rs     the counter in use, and what happens while Redis is gone
//!  refusals.rs     what is known to be refused for some time, so that nobody need be asked
//!  purses.rs       units taken from Redis in advance, to be spent here
//!  permits.rs      what one request holds and was charged, while that may change
//!  corrections.rs  what charges turn out to have been, told to Redis beside the requests
//!  leases.rs       places in flight that are held in Redis: renewed, and given back
//!  limits.rs       the rules of one route, applied to one request
//!  headers.rs      how a caller is told
//! ```

mod corrections;
pub mod counter;
pub mod counters;
pub mod headers;
mod leases;
pub mod limits;
pub mod permits;
mod purses;
pub mod quota;
mod refusals;
pub mod rule;
pub mod settings;
mod sliding;
