//! Checks a plugin's file before the dynamic linker opens it: a truncated file would end the
//! process with SIGBUS inside dlopen, and a file for another machine gives an unclear error. Runs
//! and maps nothing.

use std::path::Path;

use object::Endianness;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::ReadRef;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

use crate::plugin::error::LoadError;

/// What the linker will map of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct Image {
    /// Bytes from the beginning of the file that are mapped; the rest is for debuggers.
    pub loaded_file_bytes: usize,
    /// Bytes of memory that its segments take, in whole pages.
    pub memory_bytes: u64,
    /// Whole pages that stay as they are in the file: begin and end of each range, counted from the
    /// beginning of the image. These are code and constants, not pages that the linker or the
    /// plugin may write.
    pub clean: Vec<(u64, u64)>,
    /// As `clean`: pages into which the linker writes addresses and which are read-only after that.
    pub relocated: Vec<(u64, u64)>,
}

/// The machine for which this broker was built, as ELF numbers it.
const MACHINE: elf::Machine = if cfg!(target_arch = "x86_64") {
    elf::EM_X86_64
} else if cfg!(target_arch = "aarch64") {
    elf::EM_AARCH64
} else if cfg!(target_arch = "riscv64") {
    elf::EM_RISCV
} else {
    elf::EM_NONE
};

/// Checks the headers of a shared library against the size of the file. `page_bytes` is the page
/// size of the machine. Reads little more of `data` than the headers.
pub(in crate::plugin) fn check<'data, R: ReadRef<'data>>(
    file: &Path,
    data: R,
    page_bytes: u64,
) -> Result<Image, LoadError> {
    let library = LibraryFile::parse(file, data)?;
    let header_ends = header_ends(library.header, library.endian);
    library.holds(header_ends.ok_or_else(|| library.not("its headers make no sense"))?)?;
    let image = library.image(page_bytes)?;
    library.holds_its_sections()?;
    Ok(image)
}

/// As [`check`], for the part that will be mapped: the file may have been written since the first
/// check.
pub(in crate::plugin) fn check_loaded(
    file: &Path,
    mapped: &[u8],
    page_bytes: u64,
) -> Result<Image, LoadError> {
    let library = LibraryFile::parse(file, mapped)?;
    let image = library.image(page_bytes)?;
    library.holds(image.loaded_file_bytes as u64)?;
    Ok(image)
}

/// A library file whose ELF header has been read.
struct LibraryFile<'a, 'data, R> {
    file: &'a Path,
    data: R,
    bytes: u64,
    header: &'data FileHeader64<Endianness>,
    endian: Endianness,
}

impl<'a, 'data, R: ReadRef<'data>> LibraryFile<'a, 'data, R> {
    fn parse(file: &'a Path, data: R) -> Result<Self, LoadError> {
        let not = |what: &str| LoadError::NotALibrary { file: file.to_owned(), what: what.to_owned() };
        let unreadable = |()| not("it cannot be read");
        let bytes = data.len().map_err(unreadable)?;
        if bytes == 0 {
            return Err(not("the file is empty"));
        }
        let magic = data.read_bytes_at(0, bytes.min(elf::ELFMAG.len() as u64)).map_err(unreadable)?;
        if magic != elf::ELFMAG {
            return Err(not("it is not an ELF file"));
        }
        let need = size_of::<FileHeader64<Endianness>>() as u64;
        if bytes < need {
            return Err(LoadError::Truncated { file: file.to_owned(), have: bytes, need });
        }
        let header = FileHeader64::<Endianness>::parse(data)
            .map_err(|_| not("it is an ELF file, but not a 64-bit one"))?;
        let endian = header.endian().map_err(|_| not("it has no byte order"))?;
        if endian != Endianness::default() || header.e_machine(endian) != MACHINE {
            return Err(not("it was built for another kind of processor"));
        }
        if header.e_type(endian) != elf::ET_DYN {
            return Err(not("it is an ELF file, but not a shared library"));
        }
        Ok(LibraryFile { file, data, bytes, header, endian })
    }

    fn not(&self, what: &str) -> LoadError {
        LoadError::NotALibrary { file: self.file.to_owned(), what: what.to_owned() }
    }

    /// Checks that the file has at least `need` bytes.
    fn holds(&self, need: u64) -> Result<(), LoadError> {
        if need > self.bytes {
            return Err(LoadError::Truncated { file: self.file.to_owned(), have: self.bytes, need });
        }
        Ok(())
    }

    /// Reads the segments; all of them must be in the file.
    fn image(&self, page_bytes: u64) -> Result<Image, LoadError> {
        let (endian, header) = (self.endian, self.header);
        let senseless = || self.not("its segments make no sense");
        let segments = header.program_headers(endian, self.data).map_err(|_| senseless())?;
        let mut loaded_file_bytes = header.e_phoff(endian).max(size_of_val(header) as u64);
        loaded_file_bytes += size_of_val(segments) as u64;
        let (mut memory_bytes, mut need) = (0_u64, 0);
        for segment in segments {
            let end = segment.p_offset(endian).checked_add(segment.p_filesz(endian));
            let end = end.ok_or_else(senseless)?;
            if segment.p_type(endian) == elf::PT_LOAD {
                let start = segment.p_vaddr(endian);
                let end = start.checked_add(segment.p_memsz(endian)).ok_or_else(senseless)?;
                let pages = end.div_ceil(page_bytes) - start / page_bytes;
                memory_bytes = memory_bytes.saturating_add(pages.saturating_mul(page_bytes));
            }
            if !is_for_debuggers(segment.p_type(endian)) {
                loaded_file_bytes = loaded_file_bytes.max(end);
                need = need.max(end);
            }
        }
        self.holds(need)?;
        if !segments.iter().any(|segment| segment.p_type(endian) == elf::PT_DYNAMIC) {
            return Err(self.not("it is an ELF file, but not a dynamic library"));
        }
        Ok(Image {
            loaded_file_bytes: loaded_file_bytes as usize,
            memory_bytes,
            clean: clean_pages(segments, endian, self.data, page_bytes),
            relocated: relocated_pages(segments, endian, page_bytes),
        })
    }

    fn holds_its_sections(&self) -> Result<(), LoadError> {
        let senseless = || self.not("its sections make no sense");
        let sections = self.header.section_headers(self.endian, self.data).map_err(|_| senseless())?;
        for section in sections {
            if section.sh_type(self.endian) != elf::SHT_NOBITS {
                let end = section.sh_offset(self.endian).checked_add(section.sh_size(self.endian));
                self.holds(end.ok_or_else(senseless)?)?;
            }
        }
        Ok(())
    }
}

/// The pages that belong only to segments that are never writable.
fn clean_pages<'data, R: ReadRef<'data>>(
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
    data: R,
    page_bytes: u64,
) -> Vec<(u64, u64)> {
    // If the linker has to write addresses into code (text relocations), it makes the code writable
    // for a while.
    let writes_code = segments.iter().any(|segment| {
        let dynamic = segment.dynamic(endian, data).ok().flatten().unwrap_or_default();
        dynamic.iter().any(|entry| {
            let (tag, value) = (entry.d_tag(endian), entry.d_val(endian));
            tag == elf::DT_TEXTREL || tag == elf::DT_FLAGS && value & elf::DF_TEXTREL.0 != 0
        })
    });
    if writes_code {
        return Vec::new();
    }
    let loaded = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
    let (written, clean): (Vec<_>, Vec<_>) = loaded
        .filter_map(|segment| {
            let start = segment.p_vaddr(endian);
            let end = start.checked_add(segment.p_memsz(endian))?.checked_next_multiple_of(page_bytes)?;
            let may_be_written = segment.p_flags(endian).0 & elf::PF_W.0 != 0;
            Some((may_be_written, (start / page_bytes * page_bytes, end)))
        })
        .partition(|(may_be_written, _)| *may_be_written);
    let apart = |run: &(u64, u64)| written.iter().all(|(_, other)| run.1 <= other.0 || other.1 <= run.0);
    clean.into_iter().map(|(_, run)| run).filter(|run| apart(run)).collect()
}

/// The pages of segments that become read-only after relocation (GNU_RELRO), if they are in a
/// writable mapping. Rounded as the linker rounds when it protects them.
fn relocated_pages(
    segments: &[ProgramHeader64<Endianness>],
    endian: Endianness,
    page_bytes: u64,
) -> Vec<(u64, u64)> {
    let pages = |segment: &ProgramHeader64<Endianness>| {
        let start = segment.p_vaddr(endian);
        let end = start.checked_add(segment.p_memsz(endian))?;
        Some((start / page_bytes * page_bytes, end))
    };
    let of_kind = |kind| segments.iter().filter(move |segment| segment.p_type(endian) == kind);
    let mapped: Vec<(u64, u64)> = of_kind(elf::PT_LOAD)
        .filter(|segment| segment.p_flags(endian).0 & elf::PF_W.0 != 0)
        .filter_map(pages)
        .collect();
    let is_mapped = |run: &(u64, u64)| mapped.iter().any(|other| other.0 <= run.0 && run.1 <= other.1);
    let relocated = of_kind(elf::PT_GNU_RELRO).filter_map(pages).filter(is_mapped);
    let whole = relocated.map(|(start, end)| (start, end / page_bytes * page_bytes));
    whole.filter(|(start, end)| start < end).collect()
}

/// Where the two tables of headers end; `None` if the numbers overflow.
fn header_ends(header: &FileHeader64<Endianness>, endian: Endianness) -> Option<u64> {
    let table = |offset: u64, count: u16, size: u16| {
        if offset == 0 { Some(0) } else { offset.checked_add(u64::from(count) * u64::from(size)) }
    };
    let segments = table(header.e_phoff(endian), header.e_phnum(endian), header.e_phentsize(endian))?;
    let sections = table(header.e_shoff(endian), header.e_shnum(endian), header.e_shentsize(endian))?;
    Some(segments.max(sections))
}

/// Segments that the linker does not read.
fn is_for_debuggers(kind: elf::ProgramType) -> bool {
    kind == elf::PT_NULL
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The executable of this test: a position-independent executable has the form of a shared
    /// library.
    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn error_of(bytes: &[u8]) -> String {
        check(Path::new("x.so"), bytes, 4096).unwrap_err().to_string()
    }

    #[test]
    fn a_library_is_valid_if_its_loaded_part_is_complete() {
        let bytes = own();
        let image = check(Path::new("x.so"), bytes.as_slice(), 4096).unwrap();
        assert!(image.loaded_file_bytes < bytes.len(), "symbols and debug lines lie behind");
        assert!(image.memory_bytes > 4096 && image.memory_bytes.is_multiple_of(4096));
    }

    #[test]
    fn a_library_truncated_anywhere_is_refused() {
        let bytes = own();
        let image = check(Path::new("x.so"), bytes.as_slice(), 4096).unwrap();
        for end in
            [5, 63, 64, 200, 4096, image.loaded_file_bytes - 1, image.loaded_file_bytes, bytes.len() - 1]
        {
            assert!(
                error_of(&bytes[..end]).contains("truncated"),
                "cut at {end}: {}",
                error_of(&bytes[..end])
            );
        }
    }

    /// The file may have been written since the first check.
    #[test]
    fn the_part_that_is_mapped_is_checked_by_itself() {
        let bytes = own();
        let image = check(Path::new("x.so"), bytes.as_slice(), 4096).unwrap();
        let mapped = &bytes[..image.loaded_file_bytes];
        assert_eq!(check_loaded(Path::new("x.so"), mapped, 4096).unwrap(), image);
        let short = check_loaded(Path::new("x.so"), &mapped[..mapped.len() - 1], 4096).unwrap_err();
        assert!(short.to_string().contains("truncated"), "{short}");
        // Its first segment now claims more bytes than were read.
        let mut grown = mapped.to_vec();
        let size_at = 64 + 32;
        grown[size_at..size_at + 8].copy_from_slice(&u64::MAX.wrapping_div(2).to_le_bytes());
        assert!(check_loaded(Path::new("x.so"), &grown, 4096).is_err());
    }

    #[test]
    fn a_file_that_is_no_library_is_named_in_the_error() {
        assert!(error_of(b"").contains("the file is empty"));
        assert!(error_of(b"#!/bin/sh\n").contains("not an ELF file"));
        let mut narrow = own();
        narrow[4] = 1;
        assert!(error_of(&narrow).contains("not a 64-bit one"));
        let mut foreign = own();
        foreign[18..20].copy_from_slice(&0x1234_u16.to_le_bytes());
        assert!(error_of(&foreign).contains("another kind of processor"));
        let mut object = own();
        object[16..18].copy_from_slice(&1_u16.to_le_bytes());
        assert!(error_of(&object).contains("not a shared library"));
    }

    #[test]
    fn invalid_headers_do_not_panic() {
        let whole = own();
        let mut bytes = whole[..4096].to_vec();
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let before = std::mem::replace(&mut bytes[at], value);
                let _ = check(Path::new("x.so"), bytes.as_slice(), 4096);
                bytes[at] = before;
            }
        }
    }
}
