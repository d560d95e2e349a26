//! Reads the tables that a plugin passes to [`HostApi`](crate::raw::HostApi). A plugin may be built
//! with an older or newer header, so its table may be shorter or longer than the host's. Only the
//! common part is read.

use std::mem::{MaybeUninit, offset_of};

use crate::layout::TABLES;
use crate::module::Mount;
use crate::raw::{MetricKind, NewMessage, NewMetric, NewThread, OnBehalf, Slice, Status};

/// A table that begins with its size, a number of four bytes.
pub(super) trait Table: Sized {
    /// Its name in [`TABLES`].
    const NAME: &'static str;
    /// Minimum size of a plugin's table, bytes.
    const LEAST: usize = size_of::<u32>();
    /// Values for fields that the plugin's table does not contain.
    const ABSENT: Self;
}

/// A copy of the part of a plugin's table that both the plugin and this host know.
///
/// # Errors
/// [`Status::INVALID`] for null, a table below the minimum size, and one that ends within a field.
///
/// # Safety
/// The table must be null, or aligned and readable for the number of bytes in its first field, and
/// unchanged during the call.
pub(super) unsafe fn copied<T: Table>(table: *const T) -> Result<T, Status> {
    if table.is_null() {
        return Err(Status::INVALID);
    }
    // SAFETY: the caller guarantees it; the size is the first field of each.
    let size = unsafe { table.cast::<u32>().read() } as usize;
    if size < T::LEAST || (size < size_of::<T>() && !ends_a_field(T::NAME, size)) {
        return Err(Status::INVALID);
    }
    let mut copy = MaybeUninit::new(T::ABSENT);
    // SAFETY: the caller guarantees `size` bytes, and `copy` has the rest of these at least. Whole
    // fields are replaced by whole fields of the same type, so that it stays a table.
    unsafe {
        let to = copy.as_mut_ptr().cast::<u8>();
        std::ptr::copy_nonoverlapping(table.cast::<u8>(), to, size.min(size_of::<T>()));
        Ok(copy.assume_init())
    }
}

fn ends_a_field(name: &str, size: usize) -> bool {
    let table = TABLES.iter().find(|table| table.name == name);
    table.is_some_and(|table| table.fields.iter().any(|field| field.offset + field.size == size))
}

impl Table for NewMessage {
    const NAME: &'static str = "NewMessage";
    const ABSENT: NewMessage = NewMessage {
        size: 0,
        qos: 0,
        retain: 0,
        payload_format: 255,
        store_only: 0,
        message_expiry_s: 0,
        flow: 0,
        topic: Slice::EMPTY,
        payload: Slice::EMPTY,
        content_type: Slice::EMPTY,
        response_topic: Slice::EMPTY,
        correlation_data: Slice::EMPTY,
        from: Slice::EMPTY,
        user_properties: std::ptr::null(),
        user_properties_len: 0,
        flags: 0,
        reserved: 0,
    };
}

impl Table for OnBehalf {
    const NAME: &'static str = "OnBehalf";
    const ABSENT: OnBehalf =
        OnBehalf { size: 0, flags: 0, identity: Slice::EMPTY, client_id: Slice::EMPTY, number: 0 };
}

impl Table for NewMetric {
    const NAME: &'static str = "NewMetric";
    const ABSENT: NewMetric = NewMetric {
        size: 0,
        kind: MetricKind(0),
        name: Slice::EMPTY,
        help: Slice::EMPTY,
        bounds: std::ptr::null(),
        bounds_len: 0,
    };
}

impl Table for NewThread {
    const NAME: &'static str = "NewThread";
    /// Without a body there is no thread.
    const LEAST: usize = offset_of!(NewThread, arg) + size_of::<*mut ()>();
    const ABSENT: NewThread = NewThread {
        size: 0,
        reserved: 0,
        name: Slice::EMPTY,
        run: no_body,
        arg: std::ptr::null_mut(),
        join_ms: 0,
    };
}

unsafe extern "C" fn no_body(_arg: *mut std::ffi::c_void) {}

impl Table for Mount {
    const NAME: &'static str = "Mount";
    const ABSENT: Mount = Mount::EMPTY;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A table of a plugin that knows `size` bytes of it, in its own allocation of this size. Bytes
    /// that the host does not know are 0xAA.
    fn read<T: Table>(table: T, size: usize) -> Result<T, Status> {
        let mut words = vec![0xAAAA_AAAA_AAAA_AAAA_u64; size.div_ceil(8)];
        let known = size.min(size_of::<T>());
        let bytes = words.as_mut_ptr().cast::<u8>();
        // SAFETY: both are as long, and the first four bytes are the size.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const table).cast::<u8>(), bytes, known);
            bytes.cast::<u32>().write(size as u32);
            copied(words.as_ptr().cast::<T>())
        }
    }

    fn metric() -> NewMetric {
        NewMetric { name: Slice::of(b"seen"), help: Slice::of(b"what"), bounds_len: 7, ..NewMetric::ABSENT }
    }

    /// For each size that an older header may have: it is accepted if it ends at the end of a
    /// field, and the fields after it are absent.
    #[test]
    fn a_table_of_an_older_header_is_read_as_far_as_it_goes() {
        let ends = |name| {
            let table = TABLES.iter().find(|table| table.name == name).unwrap();
            table.fields.iter().map(|field| field.offset + field.size).collect::<Vec<_>>()
        };
        for size in 4..size_of::<NewMetric>() {
            let taken = read(metric(), size).ok();
            assert_eq!(taken.is_some(), ends("NewMetric").contains(&size), "{size}");
            let Some(taken) = taken else { continue };
            assert_eq!(
                (taken.name.len, taken.help.len),
                (if size < 24 { 0 } else { 4 }, if size < 40 { 0 } else { 4 })
            );
            assert_eq!((taken.bounds_len, taken.bounds.is_null()), (0, true));
        }
        let behalf = || OnBehalf { number: 9, client_id: Slice::of(b"c"), ..OnBehalf::ABSENT };
        let without_number = read(behalf(), offset_of!(OnBehalf, number)).unwrap();
        assert_eq!((without_number.client_id.len, without_number.number), (1, 0));
        let message = read(NewMessage { qos: 1, payload_format: 1, ..NewMessage::ABSENT }, 5).unwrap();
        assert_eq!((message.qos, message.payload_format), (1, 255), "which is none");
    }

    #[test]
    fn a_table_of_a_newer_header_is_read_as_far_as_it_is_known() {
        for more in [1, 4, 8, 100] {
            let taken = read(metric(), size_of::<NewMetric>() + more).unwrap();
            assert_eq!((taken.name.len, taken.help.len, taken.bounds_len), (4, 4, 7));
        }
        assert_eq!(read(OnBehalf { number: 9, ..OnBehalf::ABSENT }, 400).unwrap().number, 9);
    }

    #[test]
    fn a_value_that_is_no_table_is_refused() {
        // SAFETY: null is what is tested.
        assert_eq!(unsafe { copied::<NewMetric>(std::ptr::null()) }.err(), Some(Status::INVALID));
        for size in [0_u32, 3] {
            let table = OnBehalf { size, ..OnBehalf::ABSENT };
            // SAFETY: it is longer than it says.
            assert_eq!(unsafe { copied(&raw const table) }.err(), Some(Status::INVALID), "{size}");
        }
        let without_body = NewThread { size: 24, ..NewThread::ABSENT };
        // SAFETY: likewise.
        assert_eq!(unsafe { copied(&raw const without_body) }.err(), Some(Status::INVALID));
    }
}
