//! The matches of a topic name, collected from the filters: sessions here, other shards, and
//! groups. `Routes` builds it on a cache miss; the routing of a message reads it. It delivers
//! nothing.

use smallvec::{SmallVec, smallvec};

use super::filters::{Filter, Filters};
use super::hash::HashedMap;
use super::subscriber_set::Subscriber;
use super::{GroupRef, SubOptions};
use crate::id::{SessionKey, ShardSet};

/// Up to this number of targets a merge searches the list; beyond it, it uses a hash map.
const SEARCH_UNTIL: usize = if cfg!(test) { 2 } else { 16 };

/// Everything that matches one topic name.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// Sessions of this shard with plain subscriptions, each once, in no special order.
    pub local: Box<[Target]>,
    /// Other shards with plain subscriptions. It may contain one too many, but never lacks one.
    pub shards: ShardSet,
    /// Shared subscriptions with members on any shard, this one included.
    pub groups: Box<[GroupRef]>,
}

/// A subscription that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedSub {
    /// Its options.
    pub options: SubOptions,
    /// Number of its filter; at most one subscription of a session has it at a time.
    pub filter: u32,
}

/// The matching subscriptions of a session. Two fit without an allocation.
pub type MatchedSubs = SmallVec<[MatchedSub; 2]>;

/// A session and all its plain subscriptions that match: at least one.
///
/// The caller delivers once with the highest QoS and all subscription identifiers ([MQTT-3.3.4-2],
/// [MQTT-3.3.4-4]).
#[derive(Clone, Debug)]
pub struct Target {
    /// The session.
    pub session: SessionKey,
    /// Its matching subscriptions, in no special order.
    pub subs: MatchedSubs,
}

impl Matched {
    /// Whether there is no subscriber on any shard.
    pub fn is_empty(&self) -> bool {
        self.local.is_empty() && self.shards.is_empty() && self.groups.is_empty()
    }

    /// Memory it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let spilled: usize = self
            .local
            .iter()
            .filter(|target| target.subs.spilled())
            .map(|target| target.subs.capacity())
            .sum();
        size_of::<Matched>()
            + size_of_val::<[Target]>(&self.local)
            + size_of_val::<[GroupRef]>(&self.groups)
            + spilled * size_of::<MatchedSub>()
    }
}

/// Collects the matches of the filters with these numbers; `shards` have plain subscribers to the
/// literal topic.
pub(super) fn gather(filters: &Filters, found: &[u32], shards: ShardSet) -> Matched {
    let mut matched = Matched { shards, ..Matched::default() };
    let all = || found.iter().map(|at| filters.get(*at));
    for filter in all() {
        matched.shards = matched.shards.union(filter.shards);
    }
    matched.groups = all().flat_map(|filter| filter.groups().iter().copied()).collect();
    matched.local = merge(found.iter().map(|at| (*at, filters.get(*at))));
    matched
}

/// One target for each session, with the options of all its subscriptions.
fn merge<'a>(filters: impl Iterator<Item = (u32, &'a Filter)> + Clone) -> Box<[Target]> {
    let mut lists =
        filters.map(|(at, filter)| (at, filter.subscribers.as_slice())).filter(|(_, list)| !list.is_empty());
    let count: usize = lists.clone().map(|(_, list)| list.len()).sum();
    let mut targets: Vec<Target> = Vec::with_capacity(count);
    // A session subscribes to a filter only once, so a single list needs no merge.
    if let Some((at, list)) = lists.next() {
        targets.extend(list.iter().map(|one| target(one, at)));
    }
    let rest = lists.flat_map(|(at, list)| list.iter().map(move |one| (at, one)));
    if count <= SEARCH_UNTIL {
        for (at, one) in rest {
            match targets.iter_mut().find(|target| target.session == one.session) {
                Some(known) => known.subs.push(matched_sub(one, at)),
                None => targets.push(target(one, at)),
            }
        }
    } else if targets.len() < count {
        let mut places = HashedMap::<u64, usize>::with_capacity_and_hasher(count, Default::default());
        places.extend(targets.iter().enumerate().map(|(at, target)| (hash_of(target.session), at)));
        for (at, one) in rest {
            let place = *places.entry(hash_of(one.session)).or_insert(targets.len());
            match targets.get_mut(place) {
                Some(known) => known.subs.push(matched_sub(one, at)),
                None => targets.push(target(one, at)),
            }
        }
    }
    targets.into_boxed_slice()
}

/// A hash of a session, different for each. The broker chooses session keys, so clients cannot cause
/// collisions, and no secret is needed.
fn hash_of(session: SessionKey) -> u64 {
    let key = u64::from(session.generation) << 32 | u64::from(session.index);
    // An odd factor loses nothing. The high half, which depends on all bits, is folded into the low
    // one, which selects the place in a table.
    let product = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ product >> 32
}

fn target(one: &Subscriber, filter: u32) -> Target {
    Target { session: one.session, subs: smallvec![matched_sub(one, filter)] }
}

fn matched_sub(one: &Subscriber, filter: u32) -> MatchedSub {
    MatchedSub { options: one.options, filter }
}
