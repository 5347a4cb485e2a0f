//! Which: from a request head to the route that serves it.

pub mod host;
pub mod path;
pub mod pattern;
pub mod rule;
pub mod settings;
pub mod table;
mod trie;
