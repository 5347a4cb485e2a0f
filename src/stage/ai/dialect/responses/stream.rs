//! An answer of responses that comes in events.

mod read;
mod write;

pub use read::ResponsesReader;
pub use write::ResponsesWriter;
