//! A number for each type in an ABI table, so that the hash of the ABI distinguishes a pointer from
//! a number, and one function type from another. For a table only its name counts: its fields are
//! hashed separately, because tables may grow.

use std::ffi::c_void;

use super::{number, text};

/// A type of the ABI.
pub(crate) trait AbiType {
    /// Distinguishes it from other types; the same in every build.
    const SIGNATURE: u64;
}

/// The start of FNV-1a.
pub(super) const SEED: u64 = 0xcbf2_9ce4_8422_2325;

macro_rules! named {
    ($($type:ty),* $(,)?) => {
        $(impl $crate::layout::signature::AbiType for $type {
            const SIGNATURE: u64 =
                $crate::layout::text($crate::layout::signature::SEED, stringify!($type));
        })*
    };
}
pub(super) use named;

named! { (), u8, u16, u32, u64, usize, i32, i64, c_void }

impl<T: AbiType> AbiType for *const T {
    const SIGNATURE: u64 = text(T::SIGNATURE, "*const");
}

impl<T: AbiType> AbiType for *mut T {
    const SIGNATURE: u64 = text(T::SIGNATURE, "*mut");
}

// An optional function is a pointer that may be null.
impl<T: AbiType> AbiType for Option<T> {
    const SIGNATURE: u64 = text(T::SIGNATURE, "Option");
}

macro_rules! functions {
    ($(($($argument:ident),*))*) => {
        $(impl<R: AbiType, $($argument: AbiType),*> AbiType for unsafe extern "C" fn($($argument),*) -> R {
            const SIGNATURE: u64 = {
                let hash = number(text(SEED, "fn"), R::SIGNATURE);
                $(let hash = number(hash, $argument::SIGNATURE);)*
                hash
            };
        })*
    };
}

functions! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G) }
