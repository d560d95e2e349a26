//! File locks that a broker holds as long as its process runs: for its state folder and for its
//! control socket. The kernel releases them however the process ends, so a lock file without a
//! process does not block another broker. Taken by `program` and `control` before they change
//! anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Name of the lock in the state folder.
const STATE_LOCK: &str = "lock";
/// Pause between two attempts in [`patiently`].
const PAUSE: Duration = Duration::from_millis(20);
/// Attempts to lock a file that another process removes each time.
const ATTEMPTS_MAX: usize = 8;
/// Bytes read from a lock file: enough for a process id and a newline.
const PID_BYTES_MAX: u64 = 32;

/// A lock that is held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
}

/// Why a lock could not be taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it.
    Held {
        /// The id of that process, if the file has it.
        pid: Option<u32>,
    },
    /// The file cannot be opened or locked.
    System(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> LockError {
        LockError::System(error)
    }
}

impl FileLock {
    /// Locks a file, which is created if it does not exist, and writes this process's id into it.
    /// Does not wait.
    pub(crate) fn take(path: &Path) -> Result<FileLock, LockError> {
        FileLock::take_with(path, open)
    }

    fn take_with(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<FileLock, LockError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(LockError::Held { pid: pid_in(&mut file) }),
                Err(errno) => return Err(LockError::System(errno.into())),
            }
            let mut lock = FileLock { file, path: path.to_owned() };
            // The previous holder may have removed the file after it was opened here. Then another
            // process could lock a new file of the same name, so this lock would guard nothing.
            if lock.is_named() {
                lock.write_pid();
                return Ok(lock);
            }
        }
        Err(LockError::System(io::Error::other("it was removed again and again")))
    }

    /// Whether the path still names the file that is locked.
    fn is_named(&self) -> bool {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let ours = self.file.metadata().map(identity);
        let named = std::fs::symlink_metadata(&self.path).map(identity);
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    fn write_pid(&mut self) {
        // The id is only for error messages. The lock works without it, so a full disk or a
        // read-only file system is no error.
        let _ = self.file.set_len(0).and_then(|()| writeln!(self.file, "{}", std::process::id()));
    }

    /// Releases the lock and removes its file.
    pub(crate) fn remove(self) {
        if self.is_named() {
            // A file that stays does not block another broker, because it is not locked.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens or creates a lock file. Follows no symbolic link and does not block on a FIFO, because
/// another user may have created the path.
fn open(path: &Path) -> io::Result<File> {
    open_as(path, File::options().read(true).write(true).create(true).truncate(false).mode(0o600))
}

/// Opens an existing lock file for reading, to lock it on a file system that cannot be written.
fn open_to_read(path: &Path) -> io::Result<File> {
    open_as(path, File::options().read(true))
}

fn open_as(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(file)
}

/// The process id in a lock file, if that process exists. A holder that could not write the file is
/// not in it.
fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
}

/// "another broker (process 123)", for error messages.
pub(crate) fn another_broker(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another broker".to_owned(), |pid| format!("another broker (process {pid})"))
}

/// Repeats an attempt for up to `patience` if it may have failed only because another process has
/// just ended: the kernel frees ports and locks some time after that, without a notification.
/// `may_pass` says for which errors to repeat.
pub(crate) fn patiently<T, E: std::fmt::Display>(
    patience: Duration,
    may_pass: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    let mut is_logged = false;
    loop {
        match attempt() {
            Err(error) if may_pass(&error) && began.elapsed() < patience => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::info!("{error}; tries again for {} ms", patience.as_millis());
                }
                pause();
            }
            done => return done,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the kernel gives no sign when it frees a port or a lock")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// Why the broker does not start with a state folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Another broker uses it.
    #[error(
        "cannot use the state folder {}: {} uses it; stop that one, or give this one a folder of its own with state.dir or \
         GRAPNEL_STATE_DIR",
        dir.display(), another_broker(*pid)
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process id of that broker, if it is known.
        pid: Option<u32>,
    },
    /// Its lock file cannot be locked, so it is not known whether another broker uses it.
    #[error(
        "cannot use the state folder {}: its file {STATE_LOCK} cannot be locked: {error}; choose another folder with state.dir or \
         GRAPNEL_STATE_DIR",
        dir.display()
    )]
    System {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The stored state cannot be read.
    #[error(
        "cannot use the state folder {}: what it remembers cannot be read: {error}; give it to the user that this broker runs as, \
         or choose another folder with state.dir or GRAPNEL_STATE_DIR",
        dir.display()
    )]
    Hidden {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The locks of a state folder. This process uses it alone until this is dropped or the process
/// ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    /// Its lock file; `None` if none can be created.
    _file: Option<FileLock>,
    /// The folder itself; `None` if there is none. It is locked too: a broker that could not create
    /// the lock file, for example on a full disk, still keeps out one that can create it later.
    _folder: Option<File>,
}

/// Locks the state folder for this process. If nothing can be written there, stored state is still
/// read, nothing new is stored, and the log says so. Tries for up to `patience` if another broker
/// holds the lock.
///
/// # Errors
/// If another broker uses the folder, or if its lock file or state cannot be read.
pub(crate) fn lock_state(dir: &Path, patience: Duration) -> Result<StateLock, StateError> {
    lock_state_with(dir, patience, open)
}

/// As [`lock_state`], with the function that opens or creates the lock file. Tests pass one that
/// fails.
fn lock_state_with(
    dir: &Path,
    patience: Duration,
    open: impl Fn(&Path) -> io::Result<File>,
) -> Result<StateLock, StateError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let path = dir.join(STATE_LOCK);
    let held = |error: &StateError| matches!(error, StateError::InUse { .. });
    let failed = |error: LockError| match error {
        LockError::Held { pid } => StateError::InUse { dir: dir.to_owned(), pid },
        LockError::System(error) => StateError::System { dir: dir.to_owned(), error },
    };
    patiently(patience, held, || {
        let (file, unwritten) = match FileLock::take_with(&path, &open) {
            Ok(lock) => (Some(lock), None),
            Err(LockError::System(error)) if is_unwritable(&error) => match FileLock::take_with(&path, open_to_read) {
                Ok(lock) => (Some(lock), Some(error)),
                Err(LockError::System(read)) if is_absent(&read) => (None, Some(error)),
                Err(LockError::System(read)) => {
                    return Err(StateError::Hidden { dir: dir.to_owned(), error: read });
                }
                Err(error) => return Err(failed(error)),
            },
            Err(error) => return Err(failed(error)),
        };
        let folder = lock_folder(dir).map_err(failed)?;
        Ok((StateLock { _file: file, _folder: folder }, unwritten))
    })
    .map(|(lock, unwritten)| {
        if let Some(error) = unwritten {
            // If the folder could not be created, that error says more than the one about the file.
            let error = made.err().unwrap_or(error);
            tracing::warn!(
                "nothing can be written in the state folder {}: {error}; what is loaded or changed with grapnel-ctl is forgotten \
                 at the end; make it writable, or choose another folder with state.dir or GRAPNEL_STATE_DIR",
                dir.display()
            );
        }
        lock
    })
}

/// Locks a folder; `None` if it cannot be opened. Some network file systems cannot lock a folder;
/// the lock file is enough there.
fn lock_folder(dir: &Path) -> Result<Option<File>, LockError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(dir) else {
        return Ok(None);
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(LockError::Held { pid: None }),
        Ok(()) | Err(_) => Ok(Some(folder)),
    }
}

/// Whether the error means that the place cannot be written. Other errors are faults of the lock
/// file itself.
fn is_unwritable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kinds = [NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    kinds.contains(&error.kind())
}

/// Whether the error means that the lock file does not exist.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NONE: Duration = Duration::ZERO;

    /// Whether the lock file of a folder is locked.
    fn has_file(dir: &Path) -> bool {
        let path = dir.join(STATE_LOCK);
        path.exists() && matches!(FileLock::take(&path), Err(LockError::Held { .. }))
    }

    #[test]
    fn a_lock_belongs_to_one_process_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "left behind by one that was killed, and longer than an id").unwrap();
        let lock = FileLock::take(&path).unwrap();
        let pid = std::process::id();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        assert!(matches!(FileLock::take(&path), Err(LockError::Held { pid: Some(by) }) if by == pid));
        drop(lock);
        FileLock::take(&path).unwrap().remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_whose_file_was_removed_does_not_block_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let old = FileLock::take(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = FileLock::take(&path).unwrap();
        old.remove();
        assert!(path.exists(), "the file is another lock's by now");
        assert!(matches!(FileLock::take(&path), Err(LockError::Held { .. })));
        drop(new);
    }

    #[test]
    fn symlinks_and_fifos_of_other_users_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link, fifo) =
            (dir.path().join("target"), dir.path().join("link"), dir.path().join("fifo"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for path in [&link, &fifo] {
            assert!(matches!(FileLock::take(path), Err(LockError::System(_))), "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_state_folder_has_one_broker() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("deep/state");
        let first = lock_state(&dir, NONE).unwrap();
        assert!(has_file(&dir));
        let error = lock_state(&dir, NONE).unwrap_err().to_string();
        let pid = std::process::id();
        assert_eq!(
            error,
            format!(
                "cannot use the state folder {}: another broker (process {pid}) uses it; stop that one, or give this one a folder of \
                 its own with state.dir or GRAPNEL_STATE_DIR",
                dir.display()
            )
        );
        // The holder releases the lock while the next one tries.
        let waiting =
            std::thread::spawn(move || lock_state(&dir, Duration::from_secs(10)).map(|_lock| has_file(&dir)));
        drop(first);
        assert!(waiting.join().unwrap().unwrap());
    }

    #[test]
    fn an_unwritable_folder_does_not_stop_the_start() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), "").unwrap();
        lock_state(&home.path().join("file/state"), NONE).unwrap();
        // A lock file that cannot be locked is a reason.
        let dir = home.path().join("state");
        std::fs::create_dir_all(dir.join(STATE_LOCK)).unwrap();
        let error = lock_state(&dir, NONE).unwrap_err().to_string();
        assert!(error.contains("its file lock cannot be locked: "), "{error}");
    }

    /// The errors of a file system that cannot be written: it is full, over quota, read-only, or
    /// belongs to another user.
    const REFUSALS: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::ACCESS];

    #[test]
    fn an_unwritable_folder_is_locked_itself() {
        for errno in REFUSALS {
            let dir = tempfile::tempdir().unwrap();
            let refuse = |_: &Path| Err(errno.into());
            let first = lock_state_with(dir.path(), NONE, refuse).unwrap();
            assert!(!dir.path().join(STATE_LOCK).exists(), "{errno}");
            // The second attempt is a broker that can write to the folder again.
            for error in [
                lock_state_with(dir.path(), NONE, refuse).unwrap_err(),
                lock_state(dir.path(), NONE).unwrap_err(),
            ] {
                assert!(matches!(error, StateError::InUse { pid: None, .. }), "{errno}: {error}");
            }
            drop(first);
            let _lock = lock_state(dir.path(), NONE).unwrap();
            assert!(has_file(dir.path()), "{errno}");
        }
    }

    #[test]
    fn a_read_only_lock_file_is_still_locked() {
        for errno in REFUSALS {
            let dir = tempfile::tempdir().unwrap();
            let refuse = |_: &Path| Err(errno.into());
            std::fs::write(dir.path().join(STATE_LOCK), "left behind").unwrap();
            let writer = lock_state(dir.path(), NONE).unwrap();
            let error = lock_state_with(dir.path(), NONE, refuse).unwrap_err();
            let pid = std::process::id();
            assert!(matches!(error, StateError::InUse { pid: Some(by), .. } if by == pid), "{error}");
            drop(writer);
            // No process has this id.
            std::fs::write(dir.path().join(STATE_LOCK), "4294967294\n").unwrap();
            let _reader = lock_state_with(dir.path(), NONE, refuse).unwrap();
            assert!(has_file(dir.path()), "{errno}");
            let error = lock_state(dir.path(), NONE).unwrap_err();
            assert!(matches!(error, StateError::InUse { pid: None, .. }), "{errno}: {error}");
        }
    }

    #[test]
    fn an_unreadable_state_file_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        // The lock file is a folder, so it cannot be opened as a file for reading either.
        std::fs::create_dir(dir.path().join(STATE_LOCK)).unwrap();
        let refuse = |_: &Path| Err(Errno::ACCESS.into());
        let error = lock_state_with(dir.path(), NONE, refuse).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot use the state folder {}: what it remembers cannot be read: it is no file; give it to the user that this broker \
                 runs as, or choose another folder with state.dir or GRAPNEL_STATE_DIR",
                dir.path().display()
            )
        );
    }

    #[test]
    fn permanent_errors_are_not_retried() {
        let mut tried = 0;
        let result: Result<(), String> = patiently(
            Duration::from_secs(60),
            |_| false,
            || {
                tried += 1;
                Err("taken for good".to_owned())
            },
        );
        assert_eq!((result, tried), (Err("taken for good".to_owned()), 1));
    }
}
