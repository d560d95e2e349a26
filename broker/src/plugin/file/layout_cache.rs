//! The cache of files whose layout has been checked. abi_stable stores every library that it checks
//! for ever, so a file that is loaded a thousand times is checked once. Used by `library` between
//! mapping a file and its first call.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Maximum number of files. Further files are checked at every load, which costs some hundred bytes
/// each time.
const FILES_MAX: usize = 1024;

/// A 128-bit hash of a file's content, with secret keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::plugin) struct Content(u64, u64);

/// The files that have been checked in this process.
#[derive(Default)]
pub(in crate::plugin) struct LayoutCache {
    keys: (RandomState, RandomState),
    good: HashSet<Content>,
}

impl LayoutCache {
    /// The hash of a file's content.
    pub(in crate::plugin) fn content(&self, mapped: &[u8]) -> Content {
        Content(self.keys.0.hash_one(mapped), self.keys.1.hash_one(mapped))
    }

    /// Whether a file with this content has passed the check.
    pub(in crate::plugin) fn has_passed(&self, content: Content) -> bool {
        self.good.contains(&content)
    }

    /// Stores that a file with this content has passed the check.
    pub(in crate::plugin) fn passed(&mut self, content: Content) {
        if self.good.len() < FILES_MAX {
            self.good.insert(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identical_files_are_cached_up_to_a_limit() {
        let mut known = LayoutCache::default();
        let content = known.content(b"code");
        assert!(!known.has_passed(content));
        known.passed(content);
        assert!(known.has_passed(known.content(b"code")));
        assert!(!known.has_passed(known.content(b"codf")));
        (0..2 * FILES_MAX).for_each(|file| known.passed(known.content(&file.to_le_bytes())));
        assert_eq!(known.good.len(), FILES_MAX);
    }
}
