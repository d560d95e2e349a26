//! The pages of a mapped library that are as they are in its file. What no load uses any more gives them back; whoever is still inside
//! reads them from the file again, which the mapping keeps although it has no name. Made where a library is mapped.

use std::ffi::{CStr, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Runs of whole pages in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CleanPages(Vec<(usize, usize)>);

impl CleanPages {
    /// Those of the library that was mapped from `copy` and holds the address `inside`; `runs` are its clean pages from its
    /// beginning on. None where the linker says otherwise.
    pub(super) fn of(copy: &Path, inside: *const c_void, runs: &[(u64, u64)]) -> CleanPages {
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: it looks the address up among the libraries that are mapped, and fills in a table of ours.
        if unsafe { libc::dladdr(inside, &raw mut info) } == 0 || info.dli_fname.is_null() {
            return CleanPages::default();
        }
        // SAFETY: a text that stays while the library is mapped.
        let file = unsafe { CStr::from_ptr(info.dli_fname) };
        if Path::new(OsStr::from_bytes(file.to_bytes())) != copy {
            return CleanPages::default();
        }
        let base = info.dli_fbase as usize;
        let run = |run: &(u64, u64)| {
            Some((base + usize::try_from(run.0).ok()?, base + usize::try_from(run.1).ok()?))
        };
        CleanPages(runs.iter().filter_map(run).collect())
    }

    /// Gives them back.
    pub(super) fn give_back(&self) {
        for (begin, end) in &self.0 {
            // SAFETY: pages of a private mapping of a file that its segments do not let anybody write, and nobody else's: the linker
            // has said where it is mapped, and it stays so. Without the memory they are read from the file again.
            let given = unsafe { libc::madvise(*begin as *mut c_void, end - begin, libc::MADV_DONTNEED) };
            if given != 0 {
                let error = std::io::Error::last_os_error();
                tracing::debug!(%error, "the pages of a plugin that has ended stay in memory");
            }
        }
    }
}
