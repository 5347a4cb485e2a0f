//! Every file in `conf/` is loaded, and each example does what it promises.

use std::path::{Path, PathBuf};
use std::process::Command;

fn shipped() -> Vec<PathBuf> {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut files = Vec::new();
    for folder in [conf.clone(), conf.join("examples")] {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|ext| ext == "yaml")),
        );
    }
    files.sort();
    files
}

#[test]
fn every_shipped_document_is_good() {
    let files = shipped();
    assert!(!files.is_empty(), "conf/ is empty");
    for file in files {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onemind"));
        let command = command.arg("check").arg("-c").arg(&file);
        let (status, stdout, stderr) = crate::harness::finish(command);
        // Certificates are the operator's own: an example can only name where they would be.
        let mut lines = stderr.lines().chain(stdout.lines());
        let only_certificates = lines.any(|line| line.contains("certificate"));
        assert!(
            status.success() || only_certificates,
            "{}: {stdout}{stderr}",
            file.display()
        );
    }
}
