//! Lines into a file, a named pipe or standard output; and a new file when one has grown.
//!
//! Two processes may append to one file during an upgrade. Each writes whole batches of lines, which the
//! kernel puts one behind the other (`O_APPEND`). Who finds the file too large locks it, looks
//! whether the name still leads to it, and renames it only then; the other one notices that the name leads
//! elsewhere before its next batch, and follows.

use super::output::{Done, lines};
use crate::observe::settings::RotateSettings;
use rustix::io::ioctl_fionbio;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait for a pipe that is full and set to non-blocking, before its lines are dropped.
const PIPE_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at such a pipe, or at a file that another process is renaming.
const PAUSE: Duration = Duration::from_millis(5);
/// For another process that is renaming the file, which takes it a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// An open file, and how it came to be.
pub struct FileOutput {
    /// None: standard output.
    path: Option<PathBuf>,
    rotate: Option<RotateSettings>,
    file: File,
    /// The last write ended inside a line.
    torn: bool,
}

impl FileOutput {
    pub fn stdout() -> io::Result<Self> {
        // A copy: the standard library's own handle would buffer lines again.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::new(file))
    }

    pub fn open(path: &Path, rotate: Option<RotateSettings>) -> io::Result<Self> {
        let file = open(path)?;
        let path = match rotate {
            // The files beside it belong where a link leads, not where it lies.
            Some(_) => fs::canonicalize(path)?,
            None => path.to_owned(),
        };
        Ok(Self {
            path: Some(path),
            rotate,
            file,
            torn: false,
        })
    }

    pub(super) fn new(file: File) -> Self {
        Self {
            path: None,
            rotate: None,
            file,
            torn: false,
        }
    }

    /// If it cannot be opened the old one stays in use. Of standard output there is only one.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = open(path)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Takes whole lines. What is not written is lost.
    pub fn write(&mut self, batch: &[u8]) -> Done {
        let mut done = Done::default();
        while done.taken < batch.len() && done.lost == 0 {
            let rest = &batch[done.taken..];
            let room = self.room(first_line(rest)).unwrap_or_else(|why| {
                done.trouble = Some(why);
                None
            });
            let fits = room.map_or(rest.len(), |room| whole_lines(rest, room));
            if let Err((written, why)) = self.append(&rest[..fits]) {
                done.lost = lines(&rest[written..]);
                done.trouble = Some(why);
            }
            done.taken += fits;
        }
        done.taken = batch.len();
        done
    }

    /// All of it; or how much, and what was in the way.
    fn append(&mut self, batch: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            // Ends the half line, so that it spoils only itself.
            self.file.write_all(b"\n").map_err(|why| (0, why))?;
            self.torn = false;
        }
        let mut done = 0;
        let mut patience: Option<Instant> = None;
        while done < batch.len() {
            let why = match self.file.write(&batch[done..]) {
                Ok(written @ 1..) => {
                    done += written;
                    continue;
                }
                Ok(0) => ErrorKind::WriteZero.into(),
                Err(why) => why,
            };
            match why.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock if is_patient(&mut patience) => thread::park_timeout(PAUSE),
                _ => {
                    self.torn = done > 0 && batch[done - 1] != b'\n';
                    // Lines that are torn are not written.
                    let whole = memchr::memrchr(b'\n', &batch[..done]).map_or(0, |at| at + 1);
                    return Err((whole, why));
                }
            }
        }
        Ok(())
    }

    /// Bytes that go into the file before it is full, enough for a line of this length; a new file is begun
    /// where there are not. None: as many as one likes.
    fn room(&mut self, line: u64) -> io::Result<Option<u64>> {
        let (Some(rotate), Some(path)) = (self.rotate, self.path.clone()) else {
            return Ok(None);
        };
        if !self.is_at(&path)? {
            self.reopen()?;
        }
        let mut metadata = self.file.metadata()?;
        if metadata.is_file() && is_full(&metadata, rotate, line) {
            self.rotate(&path, rotate, line)?;
            metadata = self.file.metadata()?;
        }
        let left = rotate.size.0.saturating_sub(metadata.len());
        Ok(metadata.is_file().then_some(left))
    }

    /// Whether this name still leads to the file that is open.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Renames the file and those before it, unless another process has done so, and begins a new one.
    fn rotate(&mut self, path: &Path, rotate: RotateSettings, line: u64) -> io::Result<()> {
        lock(&self.file)?;
        let shifted = self.shift(path, rotate, line);
        if shifted.is_err() {
            // The file stays in use, and must not stay locked.
            self.file.unlock()?;
        }
        shifted?;
        // The lock ends with the old file.
        self.reopen()
    }

    /// Under the lock: what was seen before may be over.
    fn shift(&self, path: &Path, rotate: RotateSettings, line: u64) -> io::Result<()> {
        if self.is_at(path)? && is_full(&self.file.metadata()?, rotate, line) {
            shift(path, rotate.keep)?;
        }
        Ok(())
    }
}

/// A named pipe is opened for reading too: that needs nobody at its other end, and nobody who leaves
/// that end breaks it. It never blocks: when it is full its lines are dropped after a moment.
fn open(path: &Path) -> io::Result<File> {
    let is_pipe = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    if !is_pipe {
        return OpenOptions::new().append(true).create(true).open(path);
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    ioctl_fionbio(&file, true)?;
    Ok(file)
}

/// Whether the file should be followed by a new one before a line of this length. An empty one never is, however long
/// the line.
fn is_full(file: &Metadata, rotate: RotateSettings, line: u64) -> bool {
    file.len() > 0 && file.len().saturating_add(line) > rotate.size.0
}

fn lock(file: &File) -> io::Result<()> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(why)) => return Err(why),
            Err(TryLockError::WouldBlock) if Instant::now() > until => {
                return Err(io::Error::other("another process holds the lock on it"));
            }
            Err(TryLockError::WouldBlock) => thread::park_timeout(PAUSE),
        }
    }
}

/// `log` becomes `log.1`, that `log.2` and so on; the last one is replaced.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    for nth in (1..keep).rev() {
        match fs::rename(numbered(path, nth), numbered(path, nth + 1)) {
            Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, nth: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{nth}"));
    PathBuf::from(name)
}

/// Whether it is worth to wait on; the time begins with the first question.
fn is_patient(until: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    now <= *until.get_or_insert(now + PIPE_PATIENCE)
}

/// The length of the first line with its end.
fn first_line(batch: &[u8]) -> u64 {
    let length = memchr::memchr(b'\n', batch).map_or(batch.len(), |at| at + 1);
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The length of as many whole lines as there is room for; at least of one.
fn whole_lines(batch: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(batch.len());
    match memchr::memrchr(b'\n', &batch[..room]) {
        Some(at) => at + 1,
        None => memchr::memchr(b'\n', batch).map_or(batch.len(), |at| at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Bytes;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
    use tempfile::TempDir;

    fn rotating(path: &Path, size: u64, keep: u32) -> FileOutput {
        let size = Bytes(size);
        FileOutput::open(path, Some(RotateSettings { size, keep })).expect("a file")
    }

    /// The oldest first.
    fn all_files(path: &Path, keep: u32) -> Vec<String> {
        let old = (1..=keep).rev().map(|nth| numbered(path, nth));
        let files = old.chain([path.to_owned()]);
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect()
    }

    fn line(nth: u32, length: usize) -> String {
        format!("{nth:0length$}\n")
    }

    #[test]
    fn a_file_is_followed_by_a_new_one_before_it_is_too_large() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let mut output = rotating(&path, 25, 2);
        for batch in [vec![1], vec![2, 3], vec![4, 5, 6, 7, 8]] {
            let batch: String = batch.into_iter().map(|nth| line(nth, 9)).collect();
            let done = output.write(batch.as_bytes());
            assert_eq!((done.taken, done.lost), (batch.len(), 0));
            assert!(done.trouble.is_none(), "{done:?}");
        }
        let expected = [[3, 4], [5, 6], [7, 8]]
            .map(|pair| pair.map(|nth| line(nth, 9)).concat())
            .to_vec();
        assert_eq!(all_files(&path, 9), expected, "1 and 2 are gone");
    }

    #[test]
    fn files_are_shifted_where_a_link_leads_and_the_link_stays() {
        let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (link, path) = (here.path().join("log"), there.path().join("log"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut output = rotating(&link, 10, 5);
        for nth in 0..3 {
            output.write(line(nth, 9).as_bytes());
        }
        assert_eq!(all_files(&path, 5).len(), 3);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_longer_than_a_file_gets_one_of_its_own() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let mut output = rotating(&path, 10, 5);
        output.write(b"short\nlonger than ten bytes\nshort\n");
        let files = all_files(&path, 5);
        assert_eq!(files, ["short\n", "longer than ten bytes\n", "short\n"]);
    }

    #[test]
    fn who_renames_the_file_himself_is_followed() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let mut output = rotating(&path, 1000, 5);
        output.write(b"1\n");
        fs::rename(&path, dir.path().join("taken")).expect("renamed");
        output.write(b"2\n");
        assert_eq!(fs::read_to_string(&path).expect("a new file"), "2\n");
    }

    #[test]
    fn a_name_that_is_taken_costs_rotation_and_no_line() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        fs::create_dir_all(numbered(&path, 1).join("in the way")).expect("a folder");
        let mut output = rotating(&path, 10, 1);
        for nth in 1..=3 {
            let done = output.write(line(nth, 9).as_bytes());
            assert_eq!((done.lost, done.trouble.is_some()), (0, nth > 1));
        }
        assert_eq!(fs::metadata(&path).expect("it stays").len(), 30);
        fs::remove_dir_all(numbered(&path, 1)).expect("removed");
        assert!(output.write(b"x\n").trouble.is_none());
        assert_eq!(fs::read_to_string(&path).expect("a new file"), "x\n");
    }

    #[test]
    fn two_processes_lose_nothing_to_each_other() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("log");
        let write = |first: u32| {
            let mut output = rotating(&path, 2_000, 1000);
            for nth in 0..1_000 {
                let done = output.write(line(first + nth, 7).as_bytes());
                assert!(done.lost == 0 && done.trouble.is_none(), "{done:?}");
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| write(0));
            scope.spawn(|| write(1_000));
        });
        let files = all_files(&path, 1000);
        let mut seen: Vec<u32> = files
            .iter()
            .flat_map(|text| text.lines())
            .map(|line| line.parse().expect("a whole line"))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..2_000).collect::<Vec<_>>());
        // A line that was on its way while the other one renamed may be one too many.
        let (least, most) = (7, 9);
        assert!((least..=most).contains(&files.len()), "{}", files.len());
        assert!(files.iter().all(|text| text.len() <= 2_016));
    }

    #[test]
    fn a_named_pipe_without_a_reader_opens_and_drops_lines() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        let mut output = FileOutput::open(&path, None).expect("a pipe");
        let batch = line(1, 999).repeat(200);
        let done = output.write(batch.as_bytes());
        assert!((100..200).contains(&done.lost), "{done:?}");
        let why = done.trouble.expect("it is full");
        assert_eq!(why.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_told() {
        let mut output = FileOutput::open(Path::new("/dev/full"), None).expect("it opens");
        let done = output.write(b"1\n2\n");
        assert_eq!((done.taken, done.lost), (4, 2));
        let why = done.trouble.expect("it is full");
        assert_eq!(why.kind(), ErrorKind::StorageFull);
    }

    proptest! {
        #[test]
        fn lines_are_never_torn_apart(batch in "([a-z]{0,9}\n){1,9}", room in 0..100_u64) {
            let fits = whole_lines(batch.as_bytes(), room);
            prop_assert_eq!(batch.as_bytes()[fits - 1], b'\n');
            let one = first_line(batch.as_bytes());
            prop_assert!(fits as u64 <= room.max(one));
        }

        #[test]
        fn files_hold_all_lines_in_order(lengths in proptest::collection::vec(1..30_usize, 1..60), cut in any::<u8>().prop_map(usize::from)) {
            let dir = TempDir::new().expect("a folder");
            let path = dir.path().join("log");
            let mut output = rotating(&path, 64, 100);
            let all: Vec<String> = lengths.iter().map(|length| line(7, *length)).collect();
            let (early, late) = all.split_at(cut.min(all.len()));
            output.write(early.concat().as_bytes());
            output.write(late.concat().as_bytes());
            let files = all_files(&path, 100);
            prop_assert_eq!(files.concat(), all.concat());
            prop_assert!(files.iter().all(|file| file.len() <= 64));
        }
    }
}
