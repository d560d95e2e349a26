//! Parts that most clients never use. An idle client has a pointer in the place of each, and the
//! memory is allocated when the part is first changed. Sessions use it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Deref;

/// A type with an empty value that needs no memory.
pub(crate) trait Empty: Default + 'static {
    /// The empty value.
    const EMPTY: &'static Self;
}

impl<T: 'static> Empty for VecDeque<T> {
    const EMPTY: &'static VecDeque<T> = &VecDeque::new();
}

impl<T: 'static> Empty for BTreeSet<T> {
    const EMPTY: &'static BTreeSet<T> = &BTreeSet::new();
}

/// A value that reads as empty until it is first changed. Its memory stays until it is released, so
/// that one that is used again and again does not allocate each time.
#[derive(Debug)]
pub(crate) struct OnDemand<T>(Option<Box<T>>);

impl<T> Default for OnDemand<T> {
    fn default() -> Self {
        OnDemand(None)
    }
}

impl<T: Empty> OnDemand<T> {
    /// The value, to change; allocates if it has no memory.
    #[inline]
    pub(crate) fn make(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }

    /// The value, to change; `None` if it has no memory, so that it is empty.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Bytes of its memory, without what the value itself has allocated.
    #[inline]
    pub(crate) fn memory(&self) -> usize {
        if self.0.is_some() { size_of::<T>() } else { 0 }
    }

    /// Makes it empty and frees its memory.
    pub(crate) fn release(&mut self) {
        self.0 = None;
    }

    /// Makes it empty and returns the value.
    pub(crate) fn take(&mut self) -> T {
        self.0.take().map(|value| *value).unwrap_or_default()
    }
}

impl<T: Empty> Deref for OnDemand<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_allocated_at_the_first_change_and_stays_until_it_is_released() {
        let mut set = OnDemand::<BTreeSet<u16>>::default();
        assert!(set.is_empty() && set.get_mut().is_none());
        set.make().insert(7);
        assert!(set.contains(&7));
        assert_eq!(set.get_mut().map(|set| set.remove(&7)), Some(true));
        assert!(set.is_empty() && set.get_mut().is_some());
        set.release();
        assert!(set.is_empty() && set.get_mut().is_none());
        set.make().insert(8);
        assert_eq!(set.take(), BTreeSet::from([8]));
        assert!(set.get_mut().is_none());
        assert_eq!(size_of_val(&set), size_of::<usize>());
    }
}
