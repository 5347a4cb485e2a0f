//! A terminal of a test's own: what a program draws, what is typed to it, and how it leaves.

use super::eventually;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// The program is killed when this is dropped.
pub struct Terminal {
    ours: File,
    /// Kept open, so that what was drawn last can still be read.
    theirs: File,
    child: Child,
    drawn: Arc<Mutex<String>>,
}

impl Terminal {
    pub fn run(command: &mut Command, columns: u16, lines: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            options.read(true).write(true);
            options.open(name.to_str().unwrap()).unwrap()
        };
        let theirs = open();
        let terminal = |file: File| Stdio::from(file);
        size(&theirs, columns, lines);
        let child = command
            .stdin(terminal(open()))
            .stdout(terminal(open()))
            .stderr(terminal(open()))
            .spawn()
            .expect("the binary is built");
        let ours = File::from(ours);
        let drawn = Arc::default();
        listen(ours.try_clone().unwrap(), Arc::clone(&drawn));
        Self {
            ours,
            theirs,
            child,
            drawn,
        }
    }

    pub fn type_in(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// As when somebody pulls at the corner of a window.
    pub fn resize(&self, columns: u16, lines: u16) {
        size(&self.theirs, columns, lines);
        // Only the program that controls its terminal is told by the kernel.
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }

    /// Everything that was ever written to it.
    pub fn drawn(&self) -> String {
        self.drawn.lock().unwrap().clone()
    }

    /// The lines of the last frame that is whole.
    pub fn frame(&self) -> Vec<String> {
        let drawn = self.drawn();
        let frame = drawn
            .rsplit("\x1b[H")
            .find(|frame| frame.contains("\x1b[J"));
        let frame = frame.unwrap_or_default();
        let (frame, _) = frame.split_once("\x1b[J").unwrap_or_default();
        frame.split("\r\n").map(without_colours).collect()
    }

    /// Waits until some line of the frame has this.
    pub async fn shows(&self, what: &str) -> String {
        eventually(&format!("{what} is shown"), async || {
            let mut lines = self.frame().into_iter();
            lines.find(|line| line.contains(what))
        })
        .await
    }

    /// Whether what is typed is seen, and comes line by line: as a shell wants it.
    pub fn is_as_before(&self) -> bool {
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn exit(&mut self) -> ExitStatus {
        eventually("the program leaves", async || {
            self.child.try_wait().unwrap()
        })
        .await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(terminal: &File, columns: u16, lines: u16) {
    let size = Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

fn listen(mut ours: File, drawn: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut part = [0; 4096];
        loop {
            match ours.read(&mut part) {
                Ok(count @ 1..) => kept.extend_from_slice(&part[..count]),
                // Nobody has it open.
                Ok(0) | Err(_) => return,
            }
            *drawn.lock().unwrap() = String::from_utf8_lossy(&kept).into_owned();
        }
    });
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic());
        plain.push_str(&part[end.map_or(part.len(), |end| end + 1)..]);
    }
    plain
}
