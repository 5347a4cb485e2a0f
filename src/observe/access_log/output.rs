//! Where lines go, and what became of them.

use super::file::FileOutput;
use super::syslog::Syslog;
use std::io;

/// What became of a batch of lines.
#[derive(Debug, Default)]
pub struct Done {
    /// Bytes that were dealt with; the rest, from the beginning of a line on, may be tried again later.
    pub taken: usize,
    /// Lines among them that are lost.
    pub lost: u64,
    /// The last trouble there was.
    pub trouble: Option<io::Error>,
}

/// One place for lines.
pub enum Output {
    File(FileOutput),
    Syslog(Box<Syslog>),
}

impl Output {
    /// Takes whole lines.
    pub fn write(&mut self, batch: &[u8]) -> Done {
        match self {
            Self::File(file) => file.write(batch),
            Self::Syslog(syslog) => syslog.write(batch),
        }
    }

    /// Opens the file anew. If that fails the old one stays in use.
    pub fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Syslog(syslog) => {
                syslog.disconnect();
                Ok(())
            }
        }
    }
}

/// Lines in whole.
pub fn lines(batch: &[u8]) -> u64 {
    u64::try_from(memchr::memchr_iter(b'\n', batch).count()).unwrap_or(u64::MAX)
}
