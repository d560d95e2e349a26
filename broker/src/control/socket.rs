//! The Unix socket of the API. Only this user can connect. It replaces the socket of a broker that
//! has ended, but not that of a running broker, and is removed at the end. A lock file beside it
//! decides between brokers that start at the same time.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::lock::{FileLock, LockError, another_broker, patiently};

/// Why the socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another broker uses it.
    #[error(
        "cannot use the control socket {path}: {} uses it; stop that one, or choose another with --socket",
        another_broker(*pid)
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process id of that broker, if it is known.
        pid: Option<u32>,
    },
    /// The path is a file that is not a socket.
    #[error(
        "cannot use the control socket {path}: there is a file of that name which is no socket; remove it, or choose another with --socket"
    )]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The system has returned an error.
    #[error("cannot use the control socket {path}: {error}; choose another place with --socket")]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The lock file beside the socket cannot be locked.
    #[error(
        "cannot use the control socket {path}: cannot lock {lock}: {error}; choose another place with --socket"
    )]
    Lock {
        /// The socket.
        path: PathBuf,
        /// The lock's file.
        lock: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The socket file. It is removed when this is dropped, unless another file has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Held until the socket has been removed.
    lock: Option<FileLock>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If another process has removed it, there is nothing to do.
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}

/// Listens at `path`; only this user can connect. If another broker uses the path, tries again for
/// up to `patience`, because a broker that has just been killed may hold it a little longer.
pub(super) fn listen(path: &Path, patience: Duration) -> Result<(UnixListener, SocketFile), SocketError> {
    let in_use = |error: &SocketError| matches!(error, SocketError::InUse { .. });
    patiently(patience, in_use, || listen_now(path))
}

fn listen_now(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    // While this lock is held, no other broker checks, removes or binds the socket.
    let lock = take_lock(path)?;
    remove_stale(path)?;
    let system = |error| SocketError::System { path: path.to_path_buf(), error };
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        Ok(socket)
    };
    let socket = bind().map_err(system)?;
    let file =
        SocketFile { path: path.to_path_buf(), identity: identity(path).map_err(system)?, lock: Some(lock) };
    // No client can connect before `listen`, so the mode is set early enough.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
    socket.listen(128).map_err(system)?;
    Ok((std::os::fd::OwnedFd::from(socket).into(), file))
}

fn take_lock(path: &Path) -> Result<FileLock, SocketError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let lock = PathBuf::from(name);
    FileLock::take(&lock).map_err(|error| match error {
        LockError::Held { pid } => SocketError::InUse { path: path.to_path_buf(), pid },
        LockError::System(error) => SocketError::Lock { path: path.to_path_buf(), lock, error },
    })
}

/// Removes the socket of a broker that has ended. It is an error if a process answers there or the
/// file is not a socket.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |error| SocketError::System { path: path.to_path_buf(), error };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
    };
    if !kind.is_socket() {
        return Err(SocketError::NoSocket { path: path.to_path_buf() });
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system)?;
    // Otherwise `connect` would block if the backlog of the other broker is full.
    probe.set_nonblocking(true).map_err(system)?;
    match probe.connect(&SockAddr::unix(path).map_err(system)?) {
        Ok(()) => Err(SocketError::InUse { path: path.to_path_buf(), pid: listener_of(&probe) }),
        // A full backlog means that a broker is running.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::InUse { path: path.to_path_buf(), pid: None })
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(error)),
    }
}

/// The id of the process that listens on the socket.
fn listener_of(probe: &Socket) -> Option<u32> {
    let credentials = socket_peercred(probe).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Does not try again.
    fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
        super::listen(path, Duration::ZERO)
    }

    #[test]
    fn the_socket_is_private_and_removed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let (_listener, file) = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the lock goes too");
    }

    #[test]
    fn of_brokers_that_start_together_one_gets_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        for round in 0..50 {
            if round % 2 == 1 {
                // In every other round, the socket of a broker that has ended exists.
                drop(UnixListener::bind(&path).unwrap());
            }
            let starting = std::sync::Barrier::new(4);
            let started: Vec<_> = std::thread::scope(|scope| {
                let start = || {
                    starting.wait();
                    listen(&path)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (winners, losers): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert!(losers.iter().all(|loser| matches!(loser, Err(SocketError::InUse { .. }))), "{losers:?}");
            UnixStream::connect(&path).expect("the winner's socket is there");
        }
    }

    #[test]
    fn the_socket_of_a_dead_broker_is_replaced_and_of_a_running_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let living = UnixListener::bind(&path).unwrap();
        // The process of a listener without a lock file is found through its socket.
        let error = listen(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!("another broker (process {}) uses it", std::process::id())),
            "{error}"
        );
        drop(living);
        assert!(path.exists(), "the standard library leaves the file");
        let (_listener, _file) = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        std::fs::write(&path, "dear diary").unwrap();
        assert!(matches!(listen(&path), Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn the_socket_of_another_broker_is_not_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let (_listener, file) = listen(&path).unwrap();
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_missing_folder_is_named_in_the_error() {
        let error = listen(Path::new("/nowhere/g.sock")).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot use the control socket /nowhere/g.sock: cannot lock /nowhere/g.sock.lock: No such file"),
            "{error}"
        );
    }
}
