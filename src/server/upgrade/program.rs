//! The program that follows this one: the file from which we were started, as it is on disk by then.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

/// Tells a process whose successor it is: the id of its parent, which speaks on standard input.
pub const PREDECESSOR: &str = "ONEMIND_UPGRADE";

/// What systemd gives to one process and not to its successor: sockets come from us.
const OF_ONE_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How this process was started, and how it can be started again.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be called at start: by the time of an upgrade the file may be another one.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        Ok(Self {
            path: locate(&name, &path, &env::current_exe()?),
            arguments: arguments.collect(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with one end of a line as its standard input.
    pub fn start(&self, line: OwnedFd, watched: bool) -> io::Result<tokio::process::Child> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env(PREDECESSOR, process::id().to_string())
            .stdin(Stdio::from(line));
        for name in OF_ONE_PROCESS {
            command.env_remove(name);
        }
        if !watched {
            command.env_remove("WATCHDOG_USEC");
        }
        tokio::process::Command::from(command).spawn()
    }
}

/// The name by which we were called, if it leads to the file that runs: it may be a link that is moved to
/// the next version. Else that file itself.
fn locate(name: &OsStr, path: &OsStr, running: &Path) -> PathBuf {
    let called = Path::new(name);
    let mut candidates: Vec<PathBuf> = Vec::new();
    if called.components().count() > 1 {
        candidates.extend(std::path::absolute(called).ok());
    } else if !name.is_empty() {
        candidates.extend(env::split_paths(path).map(|folder| folder.join(called)));
    }
    let leads_here = |candidate: &PathBuf| {
        candidate.is_absolute() && candidate.canonicalize().is_ok_and(|real| real == running)
    };
    let found = candidates.into_iter().find(leads_here);
    found.unwrap_or_else(|| running.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_link_by_which_we_were_called_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::write(at("onemind-1"), "").unwrap();
        fs::write(at("other"), "").unwrap();
        symlink(at("onemind-1"), at("onemind")).unwrap();
        symlink(at("other"), at("elsewhere")).unwrap();
        let running = at("onemind-1");
        let path = env::join_paths([Path::new("/nowhere"), &root]).unwrap();
        let link = at("onemind").into_os_string();
        for (name, path, found) in [
            (link.as_os_str(), OsStr::new(""), "onemind"),
            (OsStr::new("onemind"), path.as_os_str(), "onemind"),
            (OsStr::new("elsewhere"), path.as_os_str(), "onemind-1"),
            (OsStr::new("onemind"), OsStr::new("/nowhere"), "onemind-1"),
            (OsStr::new(""), path.as_os_str(), "onemind-1"),
        ] {
            assert_eq!(locate(name, path, &running), at(found), "{name:?}");
        }
    }
}
