//! The pages of a mapped library that nobody writes after the linker has finished. A mapping that
//! no load uses gives them back; code that still runs there reads them from the file again, which
//! the mapping keeps open although it has no name. Made where a library is mapped.

use std::ffi::{CStr, OsStr, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::copies::Copies;
use super::elf::Image;

/// Runs of whole pages in memory: begin and end of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct ReadOnlyPages {
    /// They are as in the file that is mapped there.
    clean: Vec<(usize, usize)>,
    /// The linker has written addresses into them, and has taken the right to write away.
    relocated: Vec<(usize, usize)>,
}

impl ReadOnlyPages {
    /// Those of the library that was mapped from `copy`, whose file is `image`, and that holds the address `inside`. None where
    /// the linker says otherwise.
    pub(in crate::plugin) fn of(copy: &Path, inside: *const c_void, image: &Image) -> ReadOnlyPages {
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: it looks the address up among the libraries that are mapped, and fills in a table of ours.
        if unsafe { libc::dladdr(inside, &raw mut info) } == 0 || info.dli_fname.is_null() {
            return ReadOnlyPages::default();
        }
        // SAFETY: a text that stays while the library is mapped.
        let file = unsafe { CStr::from_ptr(info.dli_fname) };
        if Path::new(OsStr::from_bytes(file.to_bytes())) != copy {
            return ReadOnlyPages::default();
        }
        let base = info.dli_fbase as usize;
        let run = |run: &(u64, u64)| {
            Some((base + usize::try_from(run.0).ok()?, base + usize::try_from(run.1).ok()?))
        };
        ReadOnlyPages {
            clean: image.clean.iter().filter_map(run).collect(),
            relocated: image.relocated.iter().filter_map(run).collect(),
        }
    }

    /// Gives them back. What the linker has written is written to a file without a name in the folder of `copies` first, and
    /// mapped from there; where that fails, for instance because the disk is full, it stays in memory.
    pub(in crate::plugin) fn give_back(&self, copies: &Copies) {
        let given =
            self.clean.iter().map(forget).chain(self.relocated.iter().map(|run| replace(*run, copies)));
        for error in given.filter_map(Result::err) {
            tracing::debug!(%error, "pages of a plugin that has ended stay in memory");
        }
    }
}

fn forget(run: &(usize, usize)) -> io::Result<()> {
    let (begin, end) = *run;
    // SAFETY: pages of a private mapping of a file that its segments do not let anybody write, and nobody else's: the linker
    // has said where it is mapped, and it stays so. Without the memory they are read from the file again.
    match unsafe { libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts pages of a file with the same content in the place of these.
fn replace((begin, end): (usize, usize), copies: &Copies) -> io::Result<()> {
    let bytes = end - begin;
    // SAFETY: the linker has mapped them for good, and nobody has the right to write them since it has ended its work, which was
    // before the library was opened.
    let content = unsafe { std::slice::from_raw_parts(begin as *const u8, bytes) };
    let file = copies.without_name(content)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: whole pages of a mapping that stays for ever; whoever reads them meanwhile finds the same bytes before and after,
    // since the kernel exchanges them in one step.
    let mapped =
        unsafe { libc::mmap(begin as *mut c_void, bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
