//! The read-only pages of a mapped library, which nothing writes after the linker has finished. The
//! pages of a mapping that no load uses are given back. Code that still runs there reads them from
//! the file again; the mapping holds the file open although it has no name. Made where a library is
//! mapped.

use std::ffi::{CStr, OsStr, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::copies::Copies;
use super::elf::Image;

/// Ranges of whole pages in memory: begin and end address of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) struct ReadOnlyPages {
    /// Pages with the same content as the mapped file.
    clean: Vec<(usize, usize)>,
    /// Pages into which the linker has written addresses, and which it has made read-only.
    relocated: Vec<(usize, usize)>,
}

impl ReadOnlyPages {
    /// The pages of the library that was mapped from `copy` with the layout `image` and contains
    /// the address `inside`. Empty if the linker reports another file for that address.
    pub(in crate::plugin) fn of(copy: &Path, inside: *const c_void, image: &Image) -> ReadOnlyPages {
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: dladdr looks the address up among the mapped libraries, and fills in our struct.
        if unsafe { libc::dladdr(inside, &raw mut info) } == 0 || info.dli_fname.is_null() {
            return ReadOnlyPages::default();
        }
        // SAFETY: the text stays valid while the library is mapped.
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

    /// Gives the pages back. Relocated pages are first written to a file without a name in the
    /// folder of `copies`, and mapped from there. If that fails, for instance because the disk is
    /// full, they stay in memory.
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
    // SAFETY: the linker has reported that these pages are a private, read-only mapping of a file,
    // which stays mapped. Without the memory, the kernel reads the pages from the file again.
    match unsafe { libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Replaces pages by a mapping of a file with the same content.
fn replace((begin, end): (usize, usize), copies: &Copies) -> io::Result<()> {
    let bytes = end - begin;
    // SAFETY: the linker has mapped the pages for ever. They have been read-only since the linker
    // finished, which was before the library was opened.
    let content = unsafe { std::slice::from_raw_parts(begin as *const u8, bytes) };
    let file = copies.without_name(content)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: whole pages of a mapping that stays for ever. The kernel exchanges them in one step,
    // so that a concurrent reader finds the same bytes before and after.
    let mapped =
        unsafe { libc::mmap(begin as *mut c_void, bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
