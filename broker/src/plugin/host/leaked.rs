//! Values that are leaked on purpose, because plugins may keep their address, and interned texts.
//! Used by services and transactions. A load takes one element of a chunk here and makes no
//! allocation of its own.

use std::collections::{BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;

/// Elements of one chunk.
const CHUNK: usize = 64;

/// Values that are never dropped and never move. They are stored in chunks, so that 64 of them cost
/// one allocation.
pub(in crate::plugin) struct Leaked<T: 'static> {
    /// The unused part of the last chunk.
    free: &'static mut [MaybeUninit<T>],
}

impl<T> Leaked<T> {
    /// Empty, without a chunk.
    pub(in crate::plugin) const fn new() -> Leaked<T> {
        Leaked { free: &mut [] }
    }

    /// Stores a value for ever.
    pub(in crate::plugin) fn leak(&mut self, value: T) -> &'static T {
        let mut free = std::mem::take(&mut self.free);
        if free.is_empty() {
            free = Box::leak(Box::new_uninit_slice(CHUNK));
        }
        let (place, rest) = free.split_first_mut().expect("a new chunk has places");
        self.free = rest;
        place.write(value)
    }
}

/// Paths that are stored for ever, each of them once.
pub(in crate::plugin) struct Paths {
    leaked: BTreeSet<&'static Path>,
}

impl Paths {
    /// Empty.
    pub(in crate::plugin) const fn new() -> Paths {
        Paths { leaked: BTreeSet::new() }
    }

    /// Returns the one copy of a path.
    pub(in crate::plugin) fn leak(&mut self, path: &Path) -> &'static Path {
        if let Some(path) = self.leaked.get(path) {
            return path;
        }
        let path: &'static Path = Box::leak(path.into());
        self.leaked.insert(path);
        path
    }
}

/// Interned texts, numbered from 1 in the order in which they came.
#[derive(Default)]
pub(in crate::plugin) struct Texts {
    in_order: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Texts {
    /// The number of a text, which is stored if it is new.
    pub(in crate::plugin) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let text: Arc<str> = text.into();
        self.in_order.push(Arc::clone(&text));
        let number = self.in_order.len() as u32;
        self.numbers.insert(text, number);
        number
    }

    /// The text with a number.
    pub(in crate::plugin) fn text(&self, number: u32) -> Option<&Arc<str>> {
        self.in_order.get((number as usize).checked_sub(1)?)
    }

    /// Returns the one copy of a text.
    pub(in crate::plugin) fn intern(&mut self, text: &str) -> Arc<str> {
        let number = self.number(text);
        Arc::clone(&self.in_order[number as usize - 1])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_path_is_stored_once() {
        let mut paths = Paths::new();
        let first = paths.leak(Path::new("/p/a.so"));
        assert_eq!(paths.leak(Path::new("/p/b.so")), Path::new("/p/b.so"));
        assert!(std::ptr::eq(paths.leak(&Path::new("/p").join("a.so")), first));
    }

    #[test]
    fn values_keep_their_address_when_chunks_are_added() {
        let mut leaked = Leaked::new();
        let values: Vec<&'static usize> = (0..3 * CHUNK + 1).map(|value| leaked.leak(value)).collect();
        assert!(values.iter().enumerate().all(|(at, value)| at == **value));
        let address = |value: &&usize| std::ptr::from_ref(*value) as usize;
        let apart = |pair: &&[&usize]| address(&pair[1]) != address(&pair[0]) + size_of::<usize>();
        assert!(values.windows(2).filter(apart).count() <= 3, "those of a chunk lie side by side");
    }

    #[test]
    fn each_text_is_stored_once_with_one_number() {
        let mut texts = Texts::default();
        assert_eq!((texts.text(0), texts.text(1)), (None, None));
        let first = texts.intern("tap");
        assert_eq!((texts.number("guard"), texts.number("tap"), texts.number("")), (2, 1, 3));
        assert!(Arc::ptr_eq(&first, &texts.intern("tap")) && Arc::ptr_eq(&first, texts.text(1).unwrap()));
        assert_eq!((&**texts.text(2).unwrap(), texts.text(4)), ("guard", None));
    }
}
