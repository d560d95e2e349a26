//! Checks before the first shard starts what the machine must provide: file descriptors, /proc, and
//! io_uring where the configuration requires it. An error names what is missing and the remedy.
//! Called by `program` once.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rt::{Io, IoChoice, try_ring};

/// Exit code if the machine lacks something: EX_CONFIG of sysexits.
pub const EXIT_CODE: u8 = 78;

/// Descriptors per shard besides connections, at least: a ring or an epoll, an eventfd and listeners.
const FILES_PER_SHARD_MIN: u64 = 16;

/// The open files of this process. Private copies of plugins are loaded through it.
const FILES_OF_PROCESS: &str = "/proc/self/fd";

/// Why the broker cannot run on this machine, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// `io_uring_setup` does not exist.
    #[error(
        "this kernel has no io_uring; run the broker on Linux 6.1 or later, built with CONFIG_IO_URING, or with io = \"epoll\" in [runtime]"
    )]
    NoRing,
    /// The administrator has switched io_uring off.
    #[error("io_uring is switched off on this machine (kernel.io_uring_disabled = {value}); {remedy}")]
    SwitchedOff {
        /// What the sysctl says, 1 or 2.
        value: u8,
        /// What the administrator can do.
        remedy: &'static str,
    },
    /// The kernel refuses with EPERM, most likely because of a seccomp filter.
    #[error(
        "this process may not use io_uring (EPERM), most likely because of a container's seccomp profile; \
         allow io_uring_setup, io_uring_enter and io_uring_register in it, or run the container with \
         --security-opt seccomp=unconfined, or set io = \"epoll\" in [runtime]"
    )]
    Forbidden,
    /// A ring was refused for another reason.
    #[error(
        "the kernel refuses an io_uring ring: {cause}; see `ulimit -l` (locked memory) and `ulimit -n` (open files)"
    )]
    Refused {
        /// What the kernel said.
        cause: String,
    },
    /// The ring lacks what the shards need.
    #[error(
        "this kernel's io_uring is too old; run the broker on Linux 6.1 or later, or with io = \"epoll\" in [runtime]"
    )]
    TooOld,
    /// Too few descriptors.
    #[error(
        "this process may open {have} files and needs {need} before the first client, of which {free} stay free for whoever \
         operates it (limits.descriptors_free_min); raise it with `ulimit -n`, LimitNOFILE= in a systemd unit, or --ulimit \
         nofile= for a container"
    )]
    OpenFiles {
        /// The hard limit.
        have: u64,
        /// What the shards need, and what stays free.
        need: u64,
        /// What stays free.
        free: u64,
    },
    /// The proc file system cannot be read.
    #[error(
        "{FILES_OF_PROCESS} cannot be read: {cause}; plugins are loaded through it, so mount the proc file system at /proc (in a \
         chroot: `mount -t proc proc /proc`)"
    )]
    NoProc {
        /// What the system said.
        cause: String,
    },
}

/// What the machine provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Open files of the process, after the soft limit was raised to the hard one.
    pub open_files: u64,
    /// How the shards wait for their sockets.
    pub io: Io,
}

/// Checks the machine for this number of shards and of descriptors that clients leave free. Raises
/// the soft limits of locked memory and open files to the hard ones. Where the choice is automatic
/// and io_uring cannot be used, the log says why, and the shards use epoll.
///
/// # Errors
/// The first thing that is missing, with its remedy; the process exits with [`EXIT_CODE`].
pub fn check(choice: IoChoice, shards: usize, descriptors_free: u64) -> Result<Granted, PreflightError> {
    let open_files = raise(Resource::Nofile);
    check_files(open_files, shards, descriptors_free)?;
    check_proc(Path::new(FILES_OF_PROCESS))?;
    let io = match choice {
        IoChoice::Only(Io::Epoll) => Io::Epoll,
        IoChoice::Only(Io::IoUring) => check_io_uring().map(|()| Io::IoUring)?,
        IoChoice::Auto => match check_io_uring() {
            Ok(()) => Io::IoUring,
            Err(reason) => {
                tracing::info!("waits for sockets with epoll, because io_uring cannot be used: {reason}");
                Io::Epoll
            }
        },
    };
    Ok(Granted { open_files, io })
}

/// Whether this process can use io_uring as the shards do.
fn check_io_uring() -> Result<(), PreflightError> {
    // Some kernels count the memory of rings as locked.
    raise(Resource::Memlock);
    try_ring().map_err(|error| refusal(&error, ring_switch()))
}

/// What the kernel's refusal of a ring means.
fn refusal(error: &std::io::Error, switch: u8) -> PreflightError {
    match Errno::from_io_error(error) {
        Some(Errno::NOSYS) => PreflightError::NoRing,
        // `None`: it lacks what every kernel with deferred task work has.
        Some(Errno::INVAL) | None => PreflightError::TooOld,
        Some(Errno::PERM | Errno::ACCESS) => match switch {
            1 => PreflightError::SwitchedOff {
                value: 1,
                remedy: "the administrator can set it to 0, or put the broker's group into kernel.io_uring_group",
            },
            2 => PreflightError::SwitchedOff {
                value: 2,
                remedy: "the administrator can allow it with `sysctl kernel.io_uring_disabled=0`",
            },
            _ => PreflightError::Forbidden,
        },
        Some(_) => PreflightError::Refused { cause: error.to_string() },
    }
}

fn check_files(hard: u64, shards: usize, free: u64) -> Result<(), PreflightError> {
    let need = 64 + FILES_PER_SHARD_MIN * shards as u64 + free;
    if hard < need {
        return Err(PreflightError::OpenFiles { have: hard, need, free });
    }
    Ok(())
}

fn check_proc(files: &Path) -> Result<(), PreflightError> {
    match std::fs::read_dir(files) {
        Ok(_) => Ok(()),
        Err(error) => Err(PreflightError::NoProc { cause: error.to_string() }),
    }
}

/// The sysctl `kernel.io_uring_disabled`; 0 if the kernel is too old to have it.
fn ring_switch() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Raises a soft limit to the hard one. Returns the limit in force; `u64::MAX` means no limit.
fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    // The kernel may refuse this in a sandbox; then the soft limit stays in force.
    let raised = setrlimit(resource, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes_and_gets_its_hard_limit_of_files() {
        let granted =
            check(IoChoice::Only(Io::IoUring), 2, 192).expect("the machine of the tests has io_uring");
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), granted.open_files);
    }

    #[test]
    fn each_refusal_names_its_remedy() {
        let refused = |errno: Errno, switch| refusal(&std::io::Error::from(errno), switch).to_string();
        assert!(refused(Errno::NOSYS, 0).contains("Linux 6.1"));
        assert!(refused(Errno::INVAL, 0).contains("io = \"epoll\""));
        assert!(refused(Errno::PERM, 0).contains("seccomp"));
        assert!(refused(Errno::PERM, 1).contains("io_uring_group"));
        assert!(refused(Errno::PERM, 2).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(refused(Errno::NOMEM, 0).contains("ulimit -l"));
    }

    #[test]
    fn a_machine_without_proc_is_refused() {
        let home = tempfile::tempdir().expect("a place for temporary files");
        let missing = check_proc(&home.path().join("self/fd")).expect_err("there is none").to_string();
        assert!(missing.starts_with("/proc/self/fd cannot be read: No such file or directory"), "{missing}");
        assert!(missing.contains("mount the proc file system at /proc"), "{missing}");
    }

    #[test]
    fn few_files_are_refused_with_both_numbers() {
        let files = check_files(256, 64, 0).expect_err("64 shards need more");
        assert!(files.to_string().contains("may open 256 files and needs 1088"), "{files}");
        assert_eq!(check_files(1088, 64, 0), Ok(()));
        let files = check_files(1088, 64, 1).expect_err("one is to stay free");
        assert!(
            files.to_string().contains("needs 1089 before the first client, of which 1 stay free"),
            "{files}"
        );
    }
}
