//! A file that a plugin reads at load and after each change: [`WatchedFile`] owns the thread that
//! checks the file, and [`View`] is a shard's own copy of the last content. Used by auth-file and
//! acl-file. A shard never waits for the disk and never frees old content. When a change is
//! reported, no view returns the old value any more.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        why: std::io::Error,
    },
    /// It is larger than the plugin's limit.
    #[error("{} is larger than file_bytes_max = {bytes_max}; raise the limit or split the file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// It is not text.
    #[error("{}:{line}: not UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line of the first byte that is not UTF-8, from 1.
        line: usize,
    },
    /// A line is wrong.
    #[error("{}:{}: {}", path.display(), at.line, at.reason)]
    Line {
        /// The file.
        path: PathBuf,
        /// Where and why.
        at: LineError,
    },
    /// The thread that checks for changes did not start.
    #[error("cannot start the thread that watches {}: {why}", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// The system's error.
        why: std::io::Error,
    },
}

/// A parser's error for a line.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// The error and what is expected instead.
    pub reason: String,
}

/// How a file is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The file.
    pub path: PathBuf,
    /// Interval between checks for changes. Zero: no checks after load.
    pub every: Duration,
    /// Maximum size of the file, bytes.
    pub bytes_max: u64,
    /// Name of the watching thread.
    pub thread: String,
}

/// The result of reading a changed file. Passed to the plugin on the watching thread.
#[derive(Debug)]
pub enum Change<'a, T> {
    /// It was read, and is in force from now on.
    Taken(&'a T),
    /// It is invalid; the previous content stays in force. Reported once for each state of the
    /// file.
    Refused(FileError),
}

/// A file's parsed content, and the thread that updates it. Dropping it ends the thread.
#[derive(Debug)]
pub struct WatchedFile<T> {
    latest: Arc<Latest<T>>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Latest<T> {
    /// Incremented after `value` was replaced, so that a shard detects with one load that nothing
    /// changed.
    version: AtomicU64,
    /// Locked only to count a reference or to replace the pointer: views do not block each other.
    value: RwLock<Arc<T>>,
}

#[derive(Default, Debug)]
struct Stop {
    requested: Mutex<bool>,
    wake: Condvar,
}

/// The locks of this crate protect single assignments, so a panic cannot leave a partial state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + Sync + 'static> WatchedFile<T> {
    /// Reads and parses the file, and starts to watch it.
    ///
    /// A change is applied once the file has been the same in two successive checks, so that a file
    /// that is being written in place is not read halfway. `on_change` runs on the watching thread.
    ///
    /// # Errors
    /// The file cannot be read, is too large or not UTF-8, has a line that `parse` refuses, or no
    /// thread can be started.
    pub fn open(
        watch: Watch,
        parse: impl Fn(&str) -> Result<T, LineError> + Send + 'static,
        notify: impl Fn(Change<'_, T>) + Send + 'static,
    ) -> Result<WatchedFile<T>, FileError> {
        // The state is taken before the file is read: a change in between is detected later, never
        // missed.
        let seen = FileStamp::at(&watch.path);
        let value = Arc::new(read(&watch, &parse)?);
        let latest = Arc::new(Latest { version: AtomicU64::new(0), value: RwLock::new(value) });
        let stop = Arc::new(Stop::default());
        let mut file = WatchedFile { latest: Arc::clone(&latest), stop: Arc::clone(&stop), thread: None };
        if !watch.every.is_zero() {
            let (path, name, every) = (watch.path.clone(), watch.thread.clone(), watch.every);
            let mut watcher = Watcher {
                watch,
                parse,
                on_change: notify,
                latest,
                seen: seen.clone(),
                pending: seen,
                retired: Vec::new(),
            };
            let run = move || {
                while !stop.requested_within(every) {
                    watcher.look();
                }
            };
            let thread = std::thread::Builder::new().name(name).spawn(run);
            file.thread = Some(thread.map_err(|why| FileError::Thread { path, why })?);
        }
        Ok(file)
    }

    /// A shard's own copy, to be read with [`View::get`].
    pub fn view(&self) -> View<T> {
        // The version is read first: if the value changes in between, the next call updates the
        // copy again.
        let version = self.latest.version.load(Ordering::Acquire);
        View { version, value: self.latest(), latest: Arc::clone(&self.latest) }
    }

    /// The last content.
    pub fn latest(&self) -> Arc<T> {
        self.latest.get()
    }
}

impl<T> Latest<T> {
    fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Drop for WatchedFile<T> {
    fn drop(&mut self) {
        *lock(&self.stop.requested) = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the panic hook; there is nothing left to
            // undo here.
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Waits at most this long; returns true once the end was requested.
    fn requested_within(&self, wait: Duration) -> bool {
        let requested = lock(&self.requested);
        let (requested, _) = self
            .wake
            .wait_timeout_while(requested, wait, |requested| !*requested)
            .unwrap_or_else(PoisonError::into_inner);
        *requested
    }
}

/// A shard's own copy of the file's content at its last call.
#[derive(Debug)]
pub struct View<T> {
    version: u64,
    value: Arc<T>,
    latest: Arc<Latest<T>>,
}

impl<T> View<T> {
    /// The file's content. Costs one load of a number that rarely changes. After a change it copies
    /// the new pointer once, and may wait while the watching thread replaces the pointer.
    #[inline]
    pub fn get(&mut self) -> &T {
        if self.latest.version.load(Ordering::Acquire) != self.version {
            self.refresh();
        }
        &self.value
    }

    #[cold]
    fn refresh(&mut self) {
        // The version is read first: if the value changes in between, the next call updates the
        // copy again.
        self.version = self.latest.version.load(Ordering::Acquire);
        self.value = self.latest.get();
    }
}

/// Distinguishes states of a file without reading it. None: the file does not exist or is not
/// accessible.
#[derive(Clone, PartialEq, Eq, Debug)]
struct FileStamp(Option<(u64, u64, u64, i64, i64, i64, i64)>);

impl FileStamp {
    fn at(path: &Path) -> FileStamp {
        let tell =
            |m: Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        FileStamp(fs::metadata(path).ok().map(tell))
    }
}

/// The state of the watching thread.
struct Watcher<T, P, R> {
    watch: Watch,
    parse: P,
    on_change: R,
    latest: Arc<Latest<T>>,
    /// The state that was last read or refused.
    seen: FileStamp,
    /// A state that differs from `seen`, until it is seen a second time.
    pending: FileStamp,
    /// Values that a shard may still use. They are stored here so that they are freed on this
    /// thread; at most one for each shard.
    retired: Vec<Arc<T>>,
}

impl<T, P, R> Watcher<T, P, R>
where
    P: Fn(&str) -> Result<T, LineError>,
    R: Fn(Change<'_, T>),
{
    fn look(&mut self) {
        self.retired.retain(|value| Arc::strong_count(value) > 1);
        let now = FileStamp::at(&self.watch.path);
        let settled = now == self.pending;
        self.pending = now;
        if !settled || self.pending == self.seen {
            return;
        }
        self.seen = self.pending.clone();
        match read(&self.watch, &self.parse) {
            Ok(value) => self.take(Arc::new(value)),
            Err(error) => (self.on_change)(Change::Refused(error)),
        }
    }

    fn take(&mut self, value: Arc<T>) {
        let old = {
            let mut latest = self.latest.value.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *latest, Arc::clone(&value))
        };
        self.latest.version.fetch_add(1, Ordering::Release);
        self.retired.push(old);
        (self.on_change)(Change::Taken(&value));
    }
}

fn read<T>(watch: &Watch, parse: &impl Fn(&str) -> Result<T, LineError>) -> Result<T, FileError> {
    let path = || watch.path.clone();
    let failed = |why| FileError::Read { path: path(), why };
    // The buffer is not sized by the file: the file may grow meanwhile, and special files report 0.
    let mut bytes = Vec::new();
    let file = File::open(&watch.path).map_err(failed)?;
    file.take(watch.bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > watch.bytes_max {
        return Err(FileError::TooLarge { path: path(), bytes_max: watch.bytes_max });
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        FileError::NotUtf8 { path: path(), line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() }
    })?;
    parse(text).map_err(|at| FileError::Line { path: path(), at })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// In one step, as the README tells operators to: no reader sees half of it.
    fn replace(path: &Path, content: &str) {
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(&new, path).unwrap();
    }

    fn number(text: &str) -> Result<u32, LineError> {
        text.trim().parse().map_err(|_| LineError { line: 1, reason: "not a number".into() })
    }

    fn watch(path: &Path) -> Watch {
        Watch {
            path: path.to_owned(),
            every: Duration::from_millis(2),
            bytes_max: 100,
            thread: "watch".into(),
        }
    }

    fn watched(path: &Path) -> (WatchedFile<u32>, mpsc::Receiver<Result<u32, String>>) {
        let (sender, changes) = mpsc::channel();
        let notify = move |change: Change<'_, u32>| {
            let _ = sender.send(match change {
                Change::Taken(value) => Ok(*value),
                Change::Refused(error) => Err(error.to_string()),
            });
        };
        (WatchedFile::open(watch(path), number, notify).unwrap(), changes)
    }

    #[test]
    fn a_change_reaches_every_view_and_a_refused_one_keeps_the_old_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1").unwrap();
        let (file, changes) = watched(&path);
        let mut view = file.view();
        assert_eq!(*view.get(), 1);

        replace(&path, "22");
        assert_eq!(changes.recv_timeout(PATIENCE).unwrap(), Ok(22));
        assert_eq!(*view.get(), 22);

        replace(&path, "none");
        let refused = changes.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(refused, format!("{}:1: not a number", path.display()));
        assert_eq!(*view.get(), 22);

        fs::remove_file(&path).unwrap();
        let refused = changes.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert!(refused.starts_with(&format!("cannot read {}", path.display())), "{refused}");
        assert_eq!(*view.get(), 22);

        replace(&path, "3");
        assert_eq!(changes.recv_timeout(PATIENCE).unwrap(), Ok(3));
        assert_eq!(*view.get(), 3);
    }

    /// Many shards read at once while the value changes: none of them gets the old one after the
    /// change was reported.
    #[test]
    fn no_view_returns_an_old_value_after_a_change_was_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "0").unwrap();
        let file: WatchedFile<u32> =
            WatchedFile::open(Watch { every: Duration::ZERO, ..watch(&path) }, number, |_| ()).unwrap();
        let announced = AtomicU64::new(0);
        let ended = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut view = file.view();
                let (announced, ended) = (&announced, &ended);
                scope.spawn(move || {
                    while ended.load(Ordering::Acquire) == 0 {
                        let least = announced.load(Ordering::Acquire);
                        let given = u64::from(*view.get());
                        assert!(given >= least, "{given} was given when {least} had been told");
                    }
                });
            }
            let mut watcher = Watcher {
                watch: watch(&path),
                parse: number,
                on_change: |change: Change<'_, u32>| {
                    if let Change::Taken(value) = change {
                        announced.store(u64::from(*value), Ordering::Release);
                    }
                },
                latest: Arc::clone(&file.latest),
                seen: FileStamp::at(&path),
                pending: FileStamp::at(&path),
                retired: Vec::new(),
            };
            for value in 1..3_000 {
                watcher.take(Arc::new(value));
                watcher.retired.clear();
            }
            ended.store(1, Ordering::Release);
        });
        // Nor does it while another shard takes the new value at that moment.
        let mut view = file.view();
        let seen = FileStamp::at(&path);
        let mut watcher = Watcher {
            watch: watch(&path),
            parse: number,
            on_change: |_: Change<'_, u32>| (),
            latest: Arc::clone(&file.latest),
            seen: seen.clone(),
            pending: seen,
            retired: Vec::new(),
        };
        watcher.take(Arc::new(9_999));
        let another = file.latest.value.read().unwrap();
        assert_eq!(*view.get(), 9_999);
        drop(another);
    }

    #[test]
    fn old_values_are_stored_until_no_view_uses_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1").unwrap();
        let file: WatchedFile<u32> =
            WatchedFile::open(Watch { every: Duration::ZERO, ..watch(&path) }, number, |_| ()).unwrap();
        let mut view = file.view();
        let seen = FileStamp::at(&path);
        let mut watcher = Watcher {
            watch: watch(&path),
            parse: number,
            on_change: |_: Change<'_, u32>| (),
            latest: Arc::clone(&file.latest),
            seen: seen.clone(),
            pending: seen,
            retired: Vec::new(),
        };
        replace(&path, "22");
        watcher.look();
        assert_eq!(*view.get(), 1, "taken only once it has stayed the same");
        watcher.look();
        assert_eq!(watcher.retired.len(), 1);
        watcher.look();
        assert_eq!(watcher.retired.len(), 1, "the view still holds it");
        assert_eq!(*view.get(), 22);
        watcher.look();
        assert!(watcher.retired.is_empty());
    }

    #[test]
    fn unusable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let open = || WatchedFile::open(watch(&path), number, |_| ()).unwrap_err().to_string();
        assert!(open().contains("No such file"));
        fs::write(&path, [b'x'; 101]).unwrap();
        assert!(open().ends_with("file_bytes_max = 100; raise the limit or split the file"));
        fs::write(&path, b"1\n\xff").unwrap();
        assert_eq!(open(), format!("{}:2: not UTF-8", path.display()));
    }

    #[test]
    fn dropping_a_watched_file_ends_its_thread_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1").unwrap();
        let slow = Watch { every: Duration::from_secs(3600), ..watch(&path) };
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            drop(WatchedFile::open(slow, number, |_| ()).unwrap());
            ended.send(()).unwrap();
        });
        end.recv_timeout(PATIENCE).unwrap();
    }
}
