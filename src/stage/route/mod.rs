//! Which: from a request head to the route that serves it.

pub mod conflict;
pub mod cors;
pub mod explain;
pub mod host;
pub mod path;
pub mod pattern;
pub mod rewrite;
pub mod rule;
pub mod settings;
pub mod table;
mod template;
mod trie;
