//! Locks that one broker holds as long as its process runs: of its state folder and of its control
//! socket. The kernel releases them however the process ends, so a lock file that is left behind
//! locks nobody out. Taken by `program` and `control` before they touch anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Name of the lock in the state folder.
const STATE_LOCK: &str = "lock";
/// Pause between two attempts at what a process that has just died may still hold.
const PAUSE: Duration = Duration::from_millis(20);
/// Attempts at a lock file that others keep removing.
const ATTEMPTS_MAX: usize = 8;
/// More than a process id and a line's end.
const PID_BYTES_MAX: u64 = 32;

/// A lock that is held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
    path: PathBuf,
}

/// Why a lock is not had.
#[derive(Debug)]
pub(crate) enum LockError {
    /// A process holds it.
    Held {
        /// Which, where it has written that down.
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
    /// Takes the lock that a file stands for, which is made where it is not there, and writes this process's id into it.
    /// Returns at once.
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
            // Whoever held it before may have removed the file in between: others would lock a new one.
            if lock.is_named() {
                lock.write_pid();
                return Ok(lock);
            }
        }
        Err(LockError::System(io::Error::other("it was removed again and again")))
    }

    /// Whether the path still leads to the file that is locked.
    fn is_named(&self) -> bool {
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let ours = self.file.metadata().map(identity);
        let named = std::fs::symlink_metadata(&self.path).map(identity);
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    fn write_pid(&mut self) {
        // For people: on a full disk, and where it can only be read, the lock holds just as well.
        let _ = self.file.set_len(0).and_then(|()| writeln!(self.file, "{}", std::process::id()));
    }

    /// Frees the lock and removes its file.
    pub(crate) fn remove(self) {
        if self.is_named() {
            // What cannot be removed locks nobody out.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens a lock's file without following a link or waiting for anything that somebody else has put there.
fn open(path: &Path) -> io::Result<File> {
    open_as(path, File::options().read(true).write(true).create(true).truncate(false).mode(0o600))
}

/// Opens a lock's file that is there, to lock it where nothing can be written.
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

/// Who has written itself down in a lock's file, if it is there: who holds a file that it cannot write has not.
fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
}

/// "another broker (process 123)", for sentences.
pub(crate) fn another_broker(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another broker".to_owned(), |pid| format!("another broker (process {pid})"))
}

/// Tries again, for a moment, what may have failed only because a process has just died: the kernel frees what it held some time
/// after it is gone, and tells nobody. `may_pass` says which failures these are.
pub(crate) fn patiently<T, E: std::fmt::Display>(
    patience: Duration,
    may_pass: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    let mut told = false;
    loop {
        match attempt() {
            Err(error) if may_pass(&error) && began.elapsed() < patience => {
                if !std::mem::replace(&mut told, true) {
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

/// Why the broker does not start over a state folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// It has a broker.
    #[error(
        "cannot use the state folder {}: {} uses it; stop that one, or give this one a folder of its own with state.dir or \
         GRAPNEL_STATE_DIR",
        dir.display(), another_broker(*pid)
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        pid: Option<u32>,
    },
    /// It is not known whether it has one.
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
    /// What is remembered there cannot be read.
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

/// That a state folder is this process's own, until this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    /// Its lock file; `None` where none can be made.
    _file: Option<FileLock>,
    /// The folder itself; `None` where there is none. It is locked too, so that a broker that could make no file is not joined by
    /// one that can, once there is room.
    _folder: Option<File>,
}

/// Makes the state folder this process's own, for as long as it lives. Where nothing can be written there, what is remembered is
/// read, and nothing new is remembered, which is said in the log.
///
/// # Errors
/// Where another broker has the folder, or where it is not known what is in it.
pub(crate) fn lock_state(dir: &Path, patience: Duration) -> Result<StateLock, StateError> {
    lock_state_with(dir, patience, open)
}

/// With the function that opens or makes the lock file, which tests have fail.
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
            // Why there is no folder says more than that there is no file in it.
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

/// Locks a folder that is there. Some network file systems lock no folder, which its file makes up for.
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

/// Whether a lock file cannot be made or written where it is, rather than that something else is wrong with it.
fn is_unwritable(error: &io::Error) -> bool {
    use io::ErrorKind::{
        NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kinds = [NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    kinds.contains(&error.kind())
}

/// Whether there is no lock file, for sure.
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
    fn a_lock_is_one_process_s_and_names_it() {
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
    fn a_lock_whose_file_was_removed_guards_nothing_of_others() {
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
    fn what_somebody_else_has_put_there_is_neither_followed_nor_waited_for() {
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
        // Its holder goes while the next one tries.
        let waiting =
            std::thread::spawn(move || lock_state(&dir, Duration::from_secs(10)).map(|_lock| has_file(&dir)));
        drop(first);
        assert!(waiting.join().unwrap().unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_reason_not_to_start() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), "").unwrap();
        lock_state(&home.path().join("file/state"), NONE).unwrap();
        // A lock that cannot be taken is one.
        let dir = home.path().join("state");
        std::fs::create_dir_all(dir.join(STATE_LOCK)).unwrap();
        let error = lock_state(&dir, NONE).unwrap_err().to_string();
        assert!(error.contains("its file lock cannot be locked: "), "{error}");
    }

    /// What a file system says that takes nothing: one that is full, in blocks or by quota, read-only, or another user's.
    const REFUSALS: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::ACCESS];

    #[test]
    fn a_folder_that_takes_no_file_is_locked_itself() {
        for errno in REFUSALS {
            let dir = tempfile::tempdir().unwrap();
            let refuse = |_: &Path| Err(errno.into());
            let first = lock_state_with(dir.path(), NONE, refuse).unwrap();
            assert!(!dir.path().join(STATE_LOCK).exists(), "{errno}");
            // Also from one that comes when there is room again.
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
    fn a_lock_file_that_cannot_be_written_is_locked_all_the_same() {
        for errno in REFUSALS {
            let dir = tempfile::tempdir().unwrap();
            let refuse = |_: &Path| Err(errno.into());
            std::fs::write(dir.path().join(STATE_LOCK), "left behind").unwrap();
            let writer = lock_state(dir.path(), NONE).unwrap();
            let error = lock_state_with(dir.path(), NONE, refuse).unwrap_err();
            let pid = std::process::id();
            assert!(matches!(error, StateError::InUse { pid: Some(by), .. } if by == pid), "{error}");
            drop(writer);
            // No process has that number.
            std::fs::write(dir.path().join(STATE_LOCK), "4294967294\n").unwrap();
            let _reader = lock_state_with(dir.path(), NONE, refuse).unwrap();
            assert!(has_file(dir.path()), "{errno}");
            let error = lock_state(dir.path(), NONE).unwrap_err();
            assert!(matches!(error, StateError::InUse { pid: None, .. }), "{errno}: {error}");
        }
    }

    #[test]
    fn what_is_remembered_and_cannot_be_read_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        // Opened for reading, it is no file either.
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
    fn what_will_not_pass_is_not_tried_again() {
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
