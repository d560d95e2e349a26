//! The Unix socket of the API: private from its first moment, in the place of a dead broker's socket but never of a living
//! one's, and gone when the broker has gone.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "cannot use the control socket {path}: another broker uses it; stop that one, or choose another with --socket"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error(
        "cannot use the control socket {path}: there is a file of that name which is no socket; remove it, or choose another with --socket"
    )]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot use the control socket {path}: {error}; choose another place with --socket")]
    System {
        /// The socket.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// A socket file that is removed with this value, unless another file has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Who removed it meanwhile did our work.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path` for this user alone.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    remove_stale(path)?;
    let system = |error| SocketError::System { path: path.to_path_buf(), error };
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        Ok(socket)
    };
    let socket = bind().map_err(system)?;
    let file = SocketFile { path: path.to_path_buf(), identity: identity(path).map_err(system)? };
    // Nobody can connect before `listen`, so the mode comes in time.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system)?;
    socket.listen(128).map_err(system)?;
    Ok((std::os::fd::OwnedFd::from(socket).into(), file))
}

/// Makes room where a broker died; an error where something lives.
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
    match UnixStream::connect(path) {
        // A full backlog is a living broker too.
        Ok(_) => Err(SocketError::InUse { path: path.to_path_buf() }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::InUse { path: path.to_path_buf() })
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_socket_is_private_and_goes_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let (_listener, file) = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_brokers_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let living = UnixListener::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::InUse { .. })));
        drop(living);
        assert!(path.exists(), "the standard library leaves the file");
        let (_listener, _file) = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        std::fs::write(&path, "dear diary").unwrap();
        assert!(matches!(listen(&path), Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.sock");
        let (_listener, file) = listen(&path).unwrap();
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = listen(Path::new("/nowhere/g.sock")).unwrap_err().to_string();
        assert!(error.starts_with("cannot use the control socket /nowhere/g.sock: No such file"), "{error}");
    }
}
