//! The memory cost of a value: the bytes that the allocator reserves for it, including rounding,
//! not the requested bytes. [`Shares`](super::Shares) counts with it. A plugin implements it for
//! its own types.

use std::rc::Rc;
use std::sync::Arc;

/// A type whose memory can be counted.
pub trait Weigh {
    /// Whether values of this type use no heap, so that a list of them need not be iterated.
    const FLAT: bool = false;

    /// Bytes that the value uses on the heap, as [`allocated`] counts them. The value's own size is
    /// not included: the code that stores the value counts it.
    fn heap_bytes(&self) -> u64;
}

/// Bytes that the allocator reserves for a request of this size: glibc's header and rounding, and
/// whole pages for large requests. 0 for a size of 0, which is not allocated.
pub const fn allocated(bytes: usize) -> u64 {
    const HEADER: usize = 8;
    const PAGE: usize = 4096;
    const MAPPED_FROM: usize = 128 << 10;
    match bytes {
        0 => 0,
        1..=24 => 32,
        25..MAPPED_FROM => ((bytes + HEADER + 15) & !15) as u64,
        _ => bytes.saturating_add(2 * HEADER + PAGE - 1) as u64 & !(PAGE as u64 - 1),
    }
}

/// Maximum bytes that an entry of a `BTreeMap` or `BTreeSet` costs when there are several: its part
/// of a minimally filled node, and its part of the nodes above. `pair_bytes` is the size of key and
/// value together.
pub const fn tree_entry_bytes(pair_bytes: usize) -> u64 {
    // At least 5 of the 11 entries of a node are used; an inner node has 12 more pointers.
    let leaf = 16 + 11 * pair_bytes;
    (allocated(leaf) + allocated(leaf + 96) / 5).div_ceil(5)
}

macro_rules! flat {
    ($($type:ty),*) => {$(
        impl Weigh for $type {
            const FLAT: bool = true;

            fn heap_bytes(&self) -> u64 {
                0
            }
        }
    )*};
}

flat! { (), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64 }

fn of_each<T: Weigh>(values: &[T]) -> u64 {
    if T::FLAT { 0 } else { values.iter().map(Weigh::heap_bytes).sum() }
}

impl Weigh for String {
    fn heap_bytes(&self) -> u64 {
        allocated(self.capacity())
    }
}

impl Weigh for Box<str> {
    fn heap_bytes(&self) -> u64 {
        allocated(self.len())
    }
}

/// Counted as if this were the only reference.
impl Weigh for Arc<str> {
    fn heap_bytes(&self) -> u64 {
        allocated(16 + self.len())
    }
}

/// Counted as if this were the only reference.
impl Weigh for Rc<str> {
    fn heap_bytes(&self) -> u64 {
        allocated(16 + self.len())
    }
}

impl<T: Weigh> Weigh for Vec<T> {
    fn heap_bytes(&self) -> u64 {
        allocated(self.capacity().saturating_mul(size_of::<T>())) + of_each(self)
    }
}

impl<T: Weigh> Weigh for Box<[T]> {
    fn heap_bytes(&self) -> u64 {
        allocated(size_of_val::<[T]>(self)) + of_each(self)
    }
}

impl<T: Weigh> Weigh for Box<T> {
    fn heap_bytes(&self) -> u64 {
        allocated(size_of::<T>()) + T::heap_bytes(self)
    }
}

impl<T: Weigh> Weigh for Option<T> {
    const FLAT: bool = T::FLAT;

    fn heap_bytes(&self) -> u64 {
        self.as_ref().map_or(0, Weigh::heap_bytes)
    }
}

impl<A: Weigh, B: Weigh> Weigh for (A, B) {
    const FLAT: bool = A::FLAT && B::FLAT;

    fn heap_bytes(&self) -> u64 {
        self.0.heap_bytes() + self.1.heap_bytes()
    }
}

impl<A: Weigh, B: Weigh, C: Weigh> Weigh for (A, B, C) {
    const FLAT: bool = A::FLAT && B::FLAT && C::FLAT;

    fn heap_bytes(&self) -> u64 {
        self.0.heap_bytes() + self.1.heap_bytes() + self.2.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outgoing;

    #[test]
    fn empty_texts_of_a_list_are_charged() {
        let pairs = vec![(String::new(), String::new()); 64];
        assert_eq!(pairs.heap_bytes(), allocated(64 * 48));
        assert_eq!(Vec::<(String, String)>::new().heap_bytes(), 0);
        assert_eq!((String::new().heap_bytes(), "x".to_owned().heap_bytes()), (0, 32));
        let message = Outgoing::new("t", b"p".as_slice()).user_property("", "");
        assert!(message.heap_bytes() >= 3 * 32, "topic, payload, and a list of properties");
    }

    #[test]
    fn a_size_is_rounded_up_as_by_the_allocator() {
        let rounded = [(0, 0), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (131_071, 131_088)];
        for (requested, given) in rounded {
            assert_eq!(allocated(requested), given, "{requested}");
        }
        assert_eq!(allocated(131_072), 131_072 + 4096);
        assert_eq!(allocated(131_072 + 4080), 131_072 + 4096);
        assert_eq!(allocated(131_072 + 4081), 131_072 + 8192);
    }
}
