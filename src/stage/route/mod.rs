//! Which: from a request head to the route that serves it.

pub mod settings;
