//! A set of the topic filters of one session, to find the messages they match. [`super::Routes`]
//! makes it, because it has the hash keys.

use super::hash::Hashes;
use super::trie::Trie;

/// Topic filters, without `$share` prefixes.
pub struct FilterSet {
    trie: Trie,
    found: Vec<u32>,
}

impl FilterSet {
    pub(super) fn new(hashes: &Hashes) -> FilterSet {
        FilterSet { trie: Trie::new(hashes), found: Vec::new() }
    }

    /// Adds a valid filter.
    pub fn insert(&mut self, filter: &str) {
        if self.trie.find(filter).is_none() {
            self.trie.insert(filter, 0);
        }
    }

    /// Whether one of them matches a topic name.
    pub fn matches(&mut self, topic: &str) -> bool {
        self.found.clear();
        self.trie.matches(topic, &mut self.found);
        !self.found.is_empty()
    }
}
