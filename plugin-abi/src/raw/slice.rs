//! Borrowed bytes, as every table of the ABI has them.

use abi_stable::StableAbi;

/// Borrowed bytes; valid during the call they were given in. `ptr` may be null where `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Slice {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl Slice {
    /// No bytes.
    pub const EMPTY: Slice = Slice { ptr: std::ptr::null(), len: 0 };

    /// A view of these bytes; the caller keeps them alive for as long as the view is used.
    pub const fn of(bytes: &[u8]) -> Slice {
        Slice { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes again.
    ///
    /// # Safety
    /// What the view was made of must be alive and unchanged for `'a`.
    pub const unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: non-null, and the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// The bytes as text; an empty one where they are not UTF-8.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub unsafe fn text<'a>(self) -> &'a str {
        // SAFETY: the caller vouches for the view.
        std::str::from_utf8(unsafe { self.bytes() }).unwrap_or("")
    }
}
