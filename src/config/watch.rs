//! Says when the document, or a file it names, has changed.
//!
//! The folders are watched and not the files: editors and Kubernetes put a new file in
//! the place of the old one. What counts is the content; touching a file changes nothing.

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Writing a file is several events; wait until they are over.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// A folder that is never quiet is looked at after this many waits all the same.
const DEBOUNCE_ROUNDS: usize = 10;
/// Without a watcher the files are looked at this often.
const POLL: Duration = Duration::from_secs(2);
/// With a watcher too, but rarely: network mounts tell nothing, and queues of events can overflow.
const POLL_BESIDE_WATCHER: Duration = Duration::from_secs(30);
/// No file that we read is larger; more of one is not looked at.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Watches as long as it lives.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    wake: PipeWriter,
}

#[derive(Debug)]
struct Shared {
    files: Mutex<BTreeSet<PathBuf>>,
    seen: Mutex<Seen>,
    document: PathBuf,
    stopped: AtomicBool,
}

/// Watches `path` and calls `on_change` with the files whose content has changed, on a thread of its own.
pub fn watch(
    path: &Path,
    on_change: impl FnMut(&[PathBuf]) + Send + 'static,
) -> std::io::Result<Watch> {
    let (signals, wake) = pipe()?;
    let document = std::path::absolute(path)?;
    let shared = Arc::new(Shared {
        files: Mutex::new(BTreeSet::from([document.clone()])),
        seen: Mutex::default(),
        document,
        stopped: AtomicBool::new(false),
    });
    // Before the thread starts: a change from here on is seen.
    shared.seen().begin(&shared.files());
    let inotify = Inotify::init()
        .inspect_err(|error| tracing::warn!(%error, "cannot watch for changes of files; looking every 2 s instead"))
        .ok();
    let follower = Follower {
        shared: Arc::clone(&shared),
        signals,
        inotify,
        on_change,
    };
    std::thread::Builder::new()
        .name("config-watch".to_owned())
        .spawn(|| follower.run())?;
    Ok(Watch { shared, wake })
}

impl Watch {
    /// Watches these files too, such as certificates, in place of those given before. To be said
    /// before they are read: what changes from here on is told.
    pub fn also(&self, files: impl IntoIterator<Item = PathBuf>) {
        let document = self.shared.document.clone();
        let files: BTreeSet<PathBuf> = files.into_iter().chain([document]).collect();
        self.shared.seen().begin(&files);
        *self.shared.lock() = files;
        // The thread has ended if nobody reads; then nobody needs to look.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // The pipe ends with its writer, and that wakes the thread.
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        self.lock().clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// What can change which content a name has. Writing is told when the file is closed, so that a busy
/// file beside the document, such as a log, costs nothing; reading is not told at all.
fn changes() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::ONLYDIR
}

/// Names fit several times over; what they are is not asked.
const EVENT_BYTES: usize = 4096;

/// The thread behind a [`Watch`].
struct Follower<F> {
    shared: Arc<Shared>,
    signals: PipeReader,
    inotify: Option<Inotify>,
    on_change: F,
}

impl<F: FnMut(&[PathBuf])> Follower<F> {
    fn run(mut self) {
        // What changed before the folders were watched is seen by a first look.
        let mut wait = DEBOUNCE;
        self.watch_folders();
        while self.signalled(wait) {
            // Again each time: a folder may have been replaced, a link may lead elsewhere.
            // Before looking, so that no change can fall between the two.
            wait = if self.watch_folders() {
                POLL_BESIDE_WATCHER
            } else {
                POLL
            };
            let changed = self.shared.seen().changed(&self.shared.files());
            if !changed.is_empty() {
                (self.on_change)(&changed);
            }
        }
    }

    /// Whether every folder is watched.
    fn watch_folders(&mut self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut all = true;
        for folder in folders(&self.shared.files()) {
            all &= inotify.watches().add(&folder, changes()).is_ok();
        }
        all
    }

    /// Waits for a signal and then for quiet; false when the watch is over.
    fn signalled(&mut self, wait: Duration) -> bool {
        let mut quiet = self.is_quiet_for(wait);
        for _ in 0..DEBOUNCE_ROUNDS {
            if quiet || self.shared.stopped() {
                break;
            }
            quiet = self.is_quiet_for(DEBOUNCE);
        }
        !self.shared.stopped()
    }

    /// Takes what was signalled meanwhile; an end of the pipe is a signal too.
    fn is_quiet_for(&mut self, wait: Duration) -> bool {
        let mut sources = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let inotify = self.inotify.as_ref().map(AsFd::as_fd);
        sources.extend(inotify.map(|inotify| PollFd::from_borrowed_fd(inotify, PollFlags::IN)));
        // A time too long to be told is as good as none.
        let timeout = Timespec::try_from(wait).ok();
        // Interrupted counts as a signal: to look once too often does no harm.
        if poll(&mut sources, timeout.as_ref()) == Ok(0) {
            return true;
        }
        let spoke = |at: usize, sources: &[PollFd<'_>]| {
            let source = sources.get(at);
            source.is_some_and(|source| !source.revents().is_empty())
        };
        let (by_handle, by_files) = (spoke(0, &sources), spoke(1, &sources));
        if by_handle {
            let _ = self.signals.read(&mut [0; 16]);
        }
        if let Some(inotify) = self.inotify.as_mut().filter(|_| by_files) {
            let _ = inotify.read_events(&mut [0; EVENT_BYTES]);
        }
        false
    }
}

/// The folder of each file, and the folder of what it links to.
fn folders(files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let real = files.iter().filter_map(|file| file.canonicalize().ok());
    let all = files.iter().cloned().chain(real);
    all.filter_map(|file| file.parent().map(Path::to_owned))
        .collect()
}

/// What the files held when we last looked.
#[derive(Debug, Default)]
struct Seen(BTreeMap<PathBuf, Option<u64>>);

impl Seen {
    /// Takes up the files that are new here as they are now.
    fn begin(&mut self, files: &BTreeSet<PathBuf>) {
        for file in files {
            self.0.entry(file.clone()).or_insert_with(|| hash(file));
        }
    }

    /// The files whose content is not what it was; one that is new here has not changed.
    fn changed(&mut self, files: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let now: BTreeMap<_, _> = files
            .iter()
            .map(|file| (file.clone(), hash(file)))
            .collect();
        let before = std::mem::replace(&mut self.0, now);
        let differs = |(file, hash): &(&PathBuf, &Option<u64>)| {
            before.get(*file).is_some_and(|before| before != *hash)
        };
        let changed = self.0.iter().filter(differs);
        changed.map(|(file, _)| file.clone()).collect()
    }
}

/// None for a file that cannot be read.
fn hash(file: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file).ok()?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn started(path: &Path) -> (Watch, mpsc::Receiver<Vec<PathBuf>>) {
        let (send, changes) = mpsc::channel();
        let watch = watch(path, move |files| send.send(files.to_vec()).unwrap()).unwrap();
        (watch, changes)
    }

    #[test]
    fn a_file_written_or_replaced_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        fs::write(&path, "one").unwrap();
        let (_watch, changes) = started(&path);
        fs::write(&path, "two").unwrap();
        assert_eq!(changes.recv_timeout(DEADLINE).unwrap(), [path.as_path()]);
        let new = folder.path().join("new");
        fs::write(&new, "three").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(changes.recv_timeout(DEADLINE).unwrap(), [path.as_path()]);
        assert!(changes.try_recv().is_err());
    }

    #[test]
    fn a_swapped_link_is_followed_as_kubernetes_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.yaml"), content).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/gateway.yaml", at("gateway.yaml")).unwrap();
        let (_watch, changes) = started(&at("gateway.yaml"));
        for version in ["v2", "v3"] {
            symlink(version, at("..tmp")).unwrap();
            fs::rename(at("..tmp"), at("..data")).unwrap();
            assert_eq!(
                changes.recv_timeout(DEADLINE).unwrap(),
                [at("gateway.yaml")]
            );
        }
    }

    #[test]
    fn files_in_other_folders_can_be_watched_too() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path().join("gateway.yaml");
        let certificate = other.path().join("cert.pem");
        fs::write(&path, "one").unwrap();
        fs::write(&certificate, "old").unwrap();
        let (watch, changes) = started(&path);
        watch.also([certificate.clone()]);
        // The thread takes the new file up at its own time; a change before that is its beginning.
        let mut renewed = 0;
        let told = loop {
            renewed += 1;
            fs::write(&certificate, format!("new {renewed}")).unwrap();
            match changes.recv_timeout(Duration::from_secs(1)) {
                Err(_) if renewed < 10 => {}
                told => break told.unwrap(),
            }
        };
        assert_eq!(told, [certificate]);
    }

    #[test]
    fn the_thread_ends_with_its_handle() {
        let folder = tempfile::tempdir().unwrap();
        let (watch, changes) = started(&folder.path().join("gateway.yaml"));
        drop(watch);
        let end = changes.recv_timeout(DEADLINE);
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn only_content_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        let files = BTreeSet::from([path.clone()]);
        let mut seen = Seen::default();
        assert!(seen.changed(&files).is_empty(), "the first look");
        for (content, changed) in [("one", true), ("one", false), ("two", true), ("", true)] {
            fs::write(&path, content).unwrap();
            assert_eq!(!seen.changed(&files).is_empty(), changed, "`{content}`");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(seen.changed(&files), [path]);
        assert!(seen.changed(&files).is_empty(), "it stays away");
    }

    #[test]
    fn what_is_written_and_read_beside_the_document_is_no_signal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        fs::write(&path, "one").unwrap();
        let mut log = fs::File::create(folder.path().join("access.log")).unwrap();
        let mut inotify = Inotify::init().unwrap();
        inotify.watches().add(folder.path(), changes()).unwrap();
        for _ in 0..10 {
            log.write_all(b"line").unwrap();
            fs::read(&path).unwrap();
        }
        let mut buffer = [0; EVENT_BYTES];
        assert!(inotify.read_events(&mut buffer).is_err(), "nothing to read");
        fs::write(&path, "two").unwrap();
        assert!(inotify.read_events(&mut buffer).unwrap().next().is_some());
    }
}
