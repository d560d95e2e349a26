//! Checks before the first executor starts what the machine must provide: an io_uring ring, locked
//! memory for it, file descriptors, /proc. Without these the runtime would panic or exit; here the
//! error is one sentence with the remedy. Called by `program` once, before any shard.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rt::{RingProbe, probe_ring};

/// Exit code if the machine lacks something: EX_CONFIG of sysexits.
pub const EXIT_CODE: u8 = 78;

/// Locked memory that the runtime needs, bytes.
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Descriptors per shard besides connections, at least: three rings, an eventfd and listeners.
const FILES_PER_SHARD_MIN: u64 = 16;

/// The open files of this process. Private copies of plugins are loaded through it.
const FILES_OF_PROCESS: &str = "/proc/self/fd";

/// Why the broker cannot run on this machine, and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// `io_uring_setup` does not exist.
    #[error(
        "this kernel has no io_uring, which the broker needs; run it on Linux 5.8 or later, built with CONFIG_IO_URING"
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
         --security-opt seccomp=unconfined"
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
    /// The ring lacks operations.
    #[error("this kernel's io_uring is too old: it lacks {missing}; run the broker on Linux 5.8 or later")]
    TooOld {
        /// Names of the operations.
        missing: String,
    },
    /// Too little locked memory.
    #[error(
        "this process may lock {have} bytes of memory and needs {need}; raise it with `ulimit -l unlimited`, LimitMEMLOCK= \
         in a systemd unit, or --ulimit memlock=-1 for a container"
    )]
    LockedMemory {
        /// The hard limit.
        have: u64,
        /// What the rings need.
        need: u64,
    },
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
}

/// Checks the machine for this number of shards and of descriptors that clients leave free. Raises
/// the soft limits of locked memory and open files to the hard ones.
///
/// # Errors
/// The first thing that is missing, with its remedy; the process exits with [`EXIT_CODE`].
pub fn check(shards: usize, descriptors_free: u64) -> Result<Granted, PreflightError> {
    let open_files = raise(Resource::Nofile);
    check_files(open_files, shards, descriptors_free)?;
    check_memlock(raise(Resource::Memlock))?;
    let numbers: Vec<u8> = OPERATIONS.iter().map(|&(number, _)| number).collect();
    check_ring(probe_ring(&numbers), ring_switch())?;
    check_proc(Path::new(FILES_OF_PROCESS))?;
    Ok(Granted { open_files })
}

/// Operations that the runtime needs, with their numbers in the kernel's ABI.
const OPERATIONS: [(u8, &str); 23] = [
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

fn check_ring(probe: RingProbe, switch: u8) -> Result<(), PreflightError> {
    match probe {
        RingProbe::Made { missing } if missing.is_empty() => Ok(()),
        RingProbe::Made { missing } => {
            let named = OPERATIONS.iter().filter(|(number, _)| missing.contains(number));
            let names: Vec<&str> = named.map(|&(_, name)| name).collect();
            Err(PreflightError::TooOld { missing: names.join(", ") })
        }
        RingProbe::Refused(Errno::NOSYS) => Err(PreflightError::NoRing),
        // Kernels before 5.6 have rings, but no probe for their operations.
        RingProbe::Refused(Errno::INVAL) => Err(PreflightError::TooOld { missing: "the probe".to_owned() }),
        RingProbe::Refused(Errno::PERM | Errno::ACCESS) => Err(match switch {
            1 => PreflightError::SwitchedOff {
                value: 1,
                remedy: "the administrator can set it to 0, or put the broker's group into kernel.io_uring_group",
            },
            2 => PreflightError::SwitchedOff {
                value: 2,
                remedy: "the administrator can allow it with `sysctl kernel.io_uring_disabled=0`",
            },
            _ => PreflightError::Forbidden,
        }),
        RingProbe::Refused(errno) => {
            Err(PreflightError::Refused { cause: std::io::Error::from(errno).to_string() })
        }
    }
}

fn check_memlock(hard: u64) -> Result<(), PreflightError> {
    if hard < MEMLOCK_MIN_BYTES {
        return Err(PreflightError::LockedMemory { have: hard, need: MEMLOCK_MIN_BYTES });
    }
    Ok(())
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
        let granted = check(2, 192).expect("the machine of the tests has io_uring");
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), granted.open_files);
    }

    #[test]
    fn the_kernel_reports_its_io_uring_features() {
        // No kernel has an operation 255.
        let RingProbe::Made { missing } = probe_ring(&[0, 6, 255]) else { panic!("no ring on this machine") };
        assert_eq!(missing, [255]);
    }

    #[test]
    fn each_refusal_names_its_remedy() {
        let refused =
            |errno, switch| check_ring(RingProbe::Refused(errno), switch).expect_err("refused").to_string();
        assert!(refused(Errno::NOSYS, 0).contains("Linux 5.8"));
        assert!(refused(Errno::PERM, 0).contains("seccomp"));
        assert!(refused(Errno::PERM, 1).contains("io_uring_group"));
        assert!(refused(Errno::PERM, 2).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(refused(Errno::NOMEM, 0).contains("ulimit -l"));
        let old = check_ring(RingProbe::Made { missing: vec![22, 27] }, 0).expect_err("lacks two");
        assert!(old.to_string().contains("lacks READ, RECV;"), "{old}");
    }

    #[test]
    fn a_machine_without_proc_is_refused_by_its_name() {
        let home = tempfile::tempdir().expect("a place for temporary files");
        let missing = check_proc(&home.path().join("self/fd")).expect_err("there is none").to_string();
        assert!(missing.starts_with("/proc/self/fd cannot be read: No such file or directory"), "{missing}");
        assert!(missing.contains("mount the proc file system at /proc"), "{missing}");
    }

    #[test]
    fn little_memory_or_few_files_are_refused_with_both_numbers() {
        let memory = check_memlock(65536).expect_err("the default of old systems");
        assert!(memory.to_string().contains("may lock 65536 bytes of memory and needs 524288"), "{memory}");
        let files = check_files(256, 64, 0).expect_err("64 shards have 192 rings");
        assert!(files.to_string().contains("may open 256 files and needs 1088"), "{files}");
        assert_eq!(check_files(1088, 64, 0), Ok(()));
        let files = check_files(1088, 64, 1).expect_err("one is to stay free");
        assert!(
            files.to_string().contains("needs 1089 before the first client, of which 1 stay free"),
            "{files}"
        );
    }
}
