//! The buffers that the kernel receives into: a ring of them that kernel and shard share. The
//! kernel takes one for each receive, and the shard gives it back when its bytes were used.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The buffers' group in the ring. There is one.
pub(super) const GROUP: u16 = 0;

/// Number of buffers; a power of two, as the kernel wants.
const COUNT: u16 = 32;

/// The kernel wants the shared ring at the beginning of a page.
const PAGE_BYTES: usize = 4096;

/// The buffers and the ring in which they are given to the kernel.
#[derive(Debug)]
pub(super) struct Buffers {
    entries: NonNull<BufRingEntry>,
    /// All buffers, one after the other.
    memory: NonNull<u8>,
    /// Size of one, bytes.
    size: usize,
    tail: u16,
    /// Buffers that the kernel has, and may use.
    free: u16,
}

fn entries_layout() -> Layout {
    // The size is a constant and no more than a page.
    Layout::from_size_align(usize::from(COUNT) * size_of::<BufRingEntry>(), PAGE_BYTES)
        .unwrap_or(Layout::new::<[u8; PAGE_BYTES]>())
}

fn memory_layout(size: usize) -> Layout {
    Layout::array::<u8>(usize::from(COUNT) * size).unwrap_or(Layout::new::<u8>())
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: both layouts have a size that is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Buffers {
    /// Makes buffers of this size, at least one byte each, and registers them with the ring.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` if it is too old for them (before 5.19).
    pub fn new(ring: &IoUring, size: usize) -> io::Result<Buffers> {
        let size = size.max(1);
        let mut buffers = Buffers {
            entries: allocate(entries_layout()).cast(),
            memory: allocate(memory_layout(size)),
            size,
            tail: 0,
            free: 0,
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the memory is at the beginning of a page, holds `COUNT` entries, and is freed only
        // after the ring was closed: the driver drops its ring first.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        for buffer in 0..COUNT {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that the kernel has filled.
    pub fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        let (buffer, len) = (usize::from(buffer % COUNT), len.min(self.size));
        // SAFETY: the buffer lies within `memory`, all of which is initialised. The kernel writes
        // into it only after it was given back, and its caller holds its chunk until then.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(buffer * self.size), len) }
    }

    /// Counts a buffer that the kernel has filled.
    pub fn taken(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    /// Number of buffers that the kernel has, when all completions have been taken.
    pub fn free(&self) -> usize {
        usize::from(self.free)
    }

    /// Gives a buffer to the kernel.
    pub fn give_back(&mut self, buffer: u16) {
        let place = usize::from(self.tail % COUNT);
        // SAFETY: the buffer's beginning lies within `memory`.
        let address = unsafe { self.memory.as_ptr().add(usize::from(buffer % COUNT) * self.size) };
        // SAFETY: `place` is one of the `COUNT` entries; the kernel reads an entry only after the
        // tail has moved beyond it. The entry's last two bytes are the tail in the first entry,
        // which the three setters do not write.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(address as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(buffer % COUNT);
        }
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        // SAFETY: the address is that of the tail within the first entry, which is aligned, and
        // which kernel and shard access as an atomic from now on.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts and are freed once.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout());
            dealloc(self.memory.as_ptr(), memory_layout(self.size));
        }
    }
}
