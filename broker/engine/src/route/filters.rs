//! The filters that one shard stores: subscribers here, other shards with subscribers, and groups.
//! `Routes` calls it. A literal filter is found by hash and a wildcard filter through the trie.
//! Other modules use the filter number.

use slab::Slab;

use super::hash::{HashedMap, Hashes};
use super::subscriber_set::Subscribers;
use super::trie::Trie;
use super::{GroupRef, SPARE};
use crate::id::ShardSet;
use crate::shrink;

const NONE: u32 = u32::MAX;

/// Whether a filter has a wildcard (section 4.7.1). In a valid filter, `+` and `#` are always
/// wildcards.
pub(super) fn is_wildcard(filter: &str) -> bool {
    crate::topic::has_wildcard(filter)
}

/// One filter. It has 64 bytes, because there may be millions.
pub(super) struct Filter {
    pub(super) name: Box<str>,
    /// Plain subscriptions of this shard.
    pub(super) subscribers: Subscribers,
    #[expect(clippy::box_collection, reason = "most filters have no group: 8 bytes instead of 24")]
    groups: Option<Box<Vec<GroupRef>>>,
    /// Other shards with plain subscriptions, only for wildcard filters. The flat table has them
    /// for literal ones.
    pub(super) shards: ShardSet,
    /// The sequence number of the batch that adds this shard's interest; 0 = not announced.
    pub(super) announced_seq: u64,
    /// Next literal filter with the same fingerprint.
    next: u32,
    /// Whether it waits for the sweep.
    pub(super) idle: bool,
    wildcard: bool,
}

impl Filter {
    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn groups(&self) -> &[GroupRef] {
        self.groups.as_deref().map_or(&[], Vec::as_slice)
    }

    pub(super) fn add_group(&mut self, group: GroupRef) {
        self.groups.get_or_insert_default().push(group);
    }

    pub(super) fn remove_group(&mut self, group: GroupRef) {
        if let Some(groups) = &mut self.groups {
            groups.retain(|one| *one != group);
            if groups.is_empty() {
                self.groups = None;
            }
        }
    }
}

/// All filters of a shard.
pub(super) struct Filters {
    slots: Slab<Filter>,
    /// Fingerprint → first literal filter that has it.
    literals: HashedMap<u64, u32>,
    trie: Trie,
    hashes: Hashes,
}

impl Filters {
    pub(super) fn new(hashes: &Hashes) -> Self {
        Filters {
            slots: Slab::new(),
            literals: HashedMap::default(),
            trie: Trie::new(hashes),
            hashes: hashes.clone(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn trie_nodes(&self) -> usize {
        self.trie.len()
    }

    pub(super) fn get(&self, at: u32) -> &Filter {
        &self.slots[at as usize]
    }

    /// The filter with a number that may be unused.
    pub(super) fn get_live(&self, at: u32) -> Option<&Filter> {
        self.slots.get(at as usize)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Filter {
        &mut self.slots[at as usize]
    }

    /// The number of a stored filter.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        if is_wildcard(name) {
            self.trie.find(name)
        } else {
            self.find_literal(self.hashes.fingerprint(name), name)
        }
    }

    /// The number of a filter, which is added if it is new.
    pub(super) fn obtain(&mut self, name: &str) -> u32 {
        if let Some(at) = self.find(name) {
            return at;
        }
        let wildcard = is_wildcard(name);
        let at = self.slots.insert(Filter {
            name: name.into(),
            subscribers: Subscribers::None,
            groups: None,
            shards: ShardSet::EMPTY,
            announced_seq: 0,
            next: NONE,
            idle: false,
            wildcard,
        }) as u32;
        if wildcard {
            self.trie.insert(name, at);
        } else {
            let first = self.literals.insert(self.hashes.fingerprint(name), at);
            self.get_mut(at).next = first.unwrap_or(NONE);
        }
        at
    }

    /// Removes the filter if nothing uses it.
    pub(super) fn release(&mut self, at: u32) {
        let filter = self.get(at);
        let needed = !filter.subscribers.is_empty()
            || filter.groups.is_some()
            || !filter.shards.is_empty()
            || filter.announced_seq != 0
            || filter.idle;
        if needed {
            return;
        }
        let filter = self.slots.remove(at as usize);
        if filter.wildcard {
            self.trie.remove(&filter.name);
        } else {
            self.unlink_literal(self.hashes.fingerprint(&filter.name), at, filter.next);
        }
    }

    /// Whether another literal filter with the fingerprint of `at` has been announced.
    pub(super) fn is_fingerprint_announced(&self, fingerprint: u64, at: u32) -> bool {
        self.chain(fingerprint).any(|other| other != at && self.get(other).announced_seq != 0)
    }

    /// Appends the numbers of all filters that match a topic name.
    pub(super) fn matches(&mut self, fingerprint: u64, topic: &str, out: &mut Vec<u32>) {
        out.extend(self.find_literal(fingerprint, topic));
        self.trie.matches(topic, out);
    }

    fn find_literal(&self, fingerprint: u64, name: &str) -> Option<u32> {
        self.chain(fingerprint).find(|at| *self.get(*at).name == *name)
    }

    fn chain(&self, fingerprint: u64) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.literals.get(&fingerprint).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let found = (at != NONE).then_some(at)?;
            at = self.get(found).next;
            Some(found)
        })
    }

    /// Removes a literal filter, followed by `next`, from its chain.
    fn unlink_literal(&mut self, fingerprint: u64, gone: u32, next: u32) {
        if self.literals.get(&fingerprint) != Some(&gone) {
            let before = self.chain_until(fingerprint, gone);
            self.get_mut(before).next = next;
        } else if next != NONE {
            self.literals.insert(fingerprint, next);
        } else {
            self.literals.remove(&fingerprint);
            shrink::map(&mut self.literals, SPARE);
        }
    }

    fn chain_until(&self, fingerprint: u64, follower: u32) -> u32 {
        let mut at = self.literals[&fingerprint];
        while self.get(at).next != follower {
            at = self.get(at).next;
        }
        at
    }
}
