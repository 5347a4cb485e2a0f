//! The terminal: taken over while frames are shown, and given back as it was.

use super::paint::{Line, Look, screen};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};
use tokio::sync::mpsc;

/// A screen of its own, without a cursor and without going on in the next line.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Where the terminal does not say.
const SIZE: (u16, u16) = (80, 24);
/// Ctrl-C and Ctrl-D, which come as they are typed.
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
/// Keys that are waiting to be looked at.
const TYPED_MAX: usize = 64;

/// Gives the terminal back when dropped.
pub struct Screen {
    /// How standard input was; none where it is no terminal, and keys are not heard.
    before: Option<Termios>,
}

/// What is typed.
pub struct Keys(Option<mpsc::Receiver<io::Result<u8>>>);

impl Screen {
    pub fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = if stdin.is_terminal() {
            let before = tcgetattr(&stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw)?;
            Some(before)
        } else {
            None
        };
        // From here on the terminal is given back whatever fails.
        let opened = Self { before };
        say(ENTER)?;
        Ok(opened)
    }

    /// Heard by a thread that nobody waits for: it ends with the process.
    pub fn keys(&self) -> Keys {
        let heard = self.before.is_some();
        Keys(heard.then(|| {
            let (typed, keys) = mpsc::channel(TYPED_MAX);
            std::thread::spawn(move || listen(&typed));
            keys
        }))
    }

    /// Columns and lines.
    #[expect(clippy::unused_self, reason = "only a screen that is open has a size")]
    pub fn size(&self) -> (u16, u16) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
            _ => SIZE,
        }
    }

    #[expect(clippy::unused_self, reason = "only a screen that is open is drawn on")]
    pub fn draw(&self, lines: &[Line], look: Look) -> io::Result<()> {
        say(&screen(lines, look))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody who could be told.
        let _ = say(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

impl Keys {
    /// Until somebody wants to leave; for ever where keys are not heard.
    pub async fn leave(&mut self) -> io::Result<()> {
        let Some(keys) = &mut self.0 else {
            return std::future::pending().await;
        };
        while let Some(key) = keys.recv().await {
            if leaves(key?) {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn listen(typed: &mpsc::Sender<io::Result<u8>>) {
    for key in io::stdin().lock().bytes() {
        if typed.blocking_send(key).is_err() {
            return;
        }
    }
}

fn leaves(key: u8) -> bool {
    matches!(key, b'q' | b'Q' | CTRL_C | CTRL_D)
}

fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
