//! An answer of chat completions that comes in chunks.

mod read;
mod write;

pub use read::ChatReader;
pub use write::ChatWriter;
