//! A certificate for one run, in a folder that only we can read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Removed when the demo ends.
pub struct Files {
    folder: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub fn make() -> io::Result<Files> {
    let folder = std::env::temp_dir().join(format!("onemind-demo-{}", std::process::id()));
    // Left by a process of the same number that was killed.
    let _ = fs::remove_dir_all(&folder);
    DirBuilder::new().mode(0o700).create(&folder)?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    let files = Files {
        certificate: folder.join("demo.crt"),
        key: folder.join("demo.key"),
        folder,
    };
    write(&files.certificate, &made.cert.pem())?;
    write(&files.key, &made.signing_key.serialize_pem())?;
    Ok(files)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed is a certificate for localhost that nobody trusts.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
