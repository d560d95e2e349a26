//! The subscriptions of a session by their full filter, with the bytes that they are charged for.
//! All changes go through this type, so that the count is right.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Subscription;
use crate::topic;

/// Number of subscriptions up to which they are in a short list.
const FEW: usize = 8;

/// Subscriptions in the order of their filters, so that they can be processed in slices. Most
/// clients have one or a few. A tree would take memory for eleven of them at once.
#[derive(Debug)]
enum Map {
    Few(Vec<(Box<str>, Subscription)>),
    #[allow(
        clippy::box_collection,
        reason = "most sessions have few, and the map would take three words of each"
    )]
    Many(Box<BTreeMap<Box<str>, Subscription>>),
}

impl Default for Map {
    fn default() -> Map {
        Map::Few(Vec::new())
    }
}

/// Where a filter is in a short list, or where it belongs.
fn find(few: &[(Box<str>, Subscription)], filter: &str) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| (**known).cmp(filter))
}

impl Map {
    fn insert(&mut self, filter: Box<str>, subscription: Subscription) -> Option<Subscription> {
        let few = match self {
            Map::Many(many) => return many.insert(filter, subscription),
            Map::Few(few) => few,
        };
        match find(few, &filter) {
            Ok(place) => return Some(std::mem::replace(&mut few[place].1, subscription)),
            Err(place) if few.len() < FEW => {
                // Room for 1, 2, 4 or 8. The default is to begin with 4.
                if few.len() == few.capacity() {
                    few.reserve_exact(few.len().max(1));
                }
                few.insert(place, (filter, subscription));
            }
            Err(_) => {
                let mut many: BTreeMap<_, _> = std::mem::take(few).into_iter().collect();
                many.insert(filter, subscription);
                *self = Map::Many(Box::new(many));
            }
        }
        None
    }

    fn remove(&mut self, filter: &str) -> Option<Subscription> {
        let gone = match self {
            Map::Few(few) => find(few, filter).ok().map(|place| few.remove(place).1),
            Map::Many(many) => many.remove(filter),
        };
        self.shrink();
        gone
    }

    /// Gives memory back that is no longer used. Half of the short list stays free, so that a
    /// subscription more or less does not change the kind each time.
    fn shrink(&mut self) {
        match self {
            Map::Few(few) if few.is_empty() => *few = Vec::new(),
            Map::Many(many) if many.len() <= FEW / 2 => {
                *self = Map::Few(std::mem::take(&mut **many).into_iter().collect());
            }
            Map::Few(_) | Map::Many(_) => {}
        }
    }
}

/// What a subscription is charged for beside its filter, in the session and in the shard's tries.
const SUBSCRIPTION_BYTES: usize = 128;

/// Subscriptions by full filter.
#[derive(Debug, Default)]
pub struct Subscriptions {
    map: Map,
    bytes: usize,
}

/// What a level of a filter with wildcards is charged for: a node of the trie.
const LEVEL_BYTES: usize = 56;

/// Bytes that one is charged for: its filter is stored in the session and in a trie.
fn charge(filter: &str) -> usize {
    let levels = if topic::has_wildcard(filter) { topic::levels(filter).count() } else { 0 };
    SUBSCRIPTION_BYTES + 2 * filter.len() + LEVEL_BYTES * levels
}

impl Subscriptions {
    /// Inserts one; returns the earlier one with the same filter.
    pub fn insert(&mut self, filter: Box<str>, subscription: Subscription) -> Option<Subscription> {
        let bytes = charge(&filter);
        let before = self.map.insert(filter, subscription);
        if before.is_none() {
            self.bytes += bytes;
        }
        before
    }

    /// One of them, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut Subscription> {
        match &mut self.map {
            Map::Few(few) => find(few, filter).ok().map(|place| &mut few[place].1),
            Map::Many(many) => many.get_mut(filter),
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, filter: &str) -> Option<Subscription> {
        let gone = self.map.remove(filter)?;
        self.bytes -= charge(filter);
        Some(gone)
    }

    /// Takes the first one out.
    pub fn pop_first(&mut self) -> Option<(Box<str>, Subscription)> {
        let first = match &mut self.map {
            Map::Few(few) if few.is_empty() => None,
            Map::Few(few) => Some(few.remove(0)),
            Map::Many(many) => many.pop_first(),
        };
        let (filter, gone) = first?;
        self.map.shrink();
        self.bytes -= charge(&filter);
        Some((filter, gone))
    }

    /// Number of subscriptions.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.map {
            Map::Few(few) => few.len(),
            Map::Many(many) => many.len(),
        }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The subscription with this filter.
    pub fn get(&self, filter: &str) -> Option<&Subscription> {
        match &self.map {
            Map::Few(few) => find(few, filter).ok().map(|place| &few[place].1),
            Map::Many(many) => many.get(filter),
        }
    }

    /// Whether there is one with this filter.
    pub fn contains_key(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Box<str>, &Subscription)> {
        self.range(Bound::Unbounded)
    }

    /// All filters, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Box<str>> {
        self.iter().map(|(filter, _)| filter)
    }

    /// Those from this filter on, in order.
    pub fn range<'a>(
        &'a self,
        from: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Box<str>, &'a Subscription)> + use<'a> {
        let (few, many) = match &self.map {
            Map::Few(few) => {
                let begin = match from {
                    Bound::Unbounded => 0,
                    Bound::Included(filter) => find(few, filter).unwrap_or_else(|place| place),
                    Bound::Excluded(filter) => {
                        find(few, filter).map_or_else(|place| place, |place| place + 1)
                    }
                };
                (&few[begin..], None)
            }
            Map::Many(many) => (&[][..], Some(many.range::<str, _>((from, Bound::Unbounded)))),
        };
        few.iter().map(|(filter, subscription)| (filter, subscription)).chain(many.into_iter().flatten())
    }

    /// Full filters of the shared subscriptions in order, after this one.
    pub(crate) fn shared_after(&self, filter: Option<&str>) -> impl Iterator<Item = &str> {
        let from = filter.map_or(Bound::Included(topic::SHARE_PREFIX), Bound::Excluded);
        let rest = self.range(from).map(|(filter, _)| &**filter);
        rest.take_while(|filter| filter.starts_with(topic::SHARE_PREFIX))
    }

    /// Bytes that they are charged for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Recomputes `bytes`.
    pub fn recount(&self) -> usize {
        self.keys().map(|filter| charge(filter)).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::{QoS, SubscriptionOptions};
    use crate::session::Recheck;

    fn subscription(id: u32) -> Subscription {
        let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
        Subscription { options, id, reader: 0, recheck: Recheck::None }
    }

    /// From none to many and back, in orders that are not sorted, compared with a tree.
    #[test]
    fn a_short_list_and_a_tree_give_the_same_answers() {
        let (mut ours, mut tree) = (Subscriptions::default(), BTreeMap::<Box<str>, Subscription>::new());
        let same = |ours: &Subscriptions, tree: &BTreeMap<Box<str>, Subscription>| {
            assert_eq!((ours.len(), ours.is_empty()), (tree.len(), tree.is_empty()));
            assert!(ours.iter().eq(tree.iter()) && ours.keys().eq(tree.keys()));
            assert_eq!(ours.bytes(), ours.recount());
            for filter in (0..21).map(|n| format!("f/{n}")) {
                assert_eq!(ours.get(&filter), tree.get(&*filter));
                assert_eq!(ours.contains_key(&filter), tree.contains_key(&*filter));
                for from in [Bound::Included(&*filter), Bound::Excluded(&*filter)] {
                    assert!(ours.range(from).eq(tree.range::<str, _>((from, Bound::Unbounded))));
                }
            }
        };
        let filter = |n: u32| -> Box<str> { format!("f/{}", n * 7 % 20).into() };
        for peak in [1, 2, 7, 8, 9, 20] {
            for n in 0..peak {
                let added = ours.insert(filter(n), subscription(n));
                assert_eq!(added, tree.insert(filter(n), subscription(n)));
                let again = ours.insert(filter(n), subscription(n + 100));
                assert_eq!(again, tree.insert(filter(n), subscription(n + 100)));
                ours.get_mut(&filter(n)).unwrap().id += 1;
                tree.get_mut(&filter(n)).unwrap().id += 1;
                same(&ours, &tree);
            }
            for n in (0..peak).rev() {
                match n % 2 {
                    0 => assert_eq!(ours.pop_first(), tree.pop_first()),
                    _ => {
                        let filter = tree.keys().last().cloned().unwrap();
                        assert_eq!(ours.remove(&filter), tree.remove(&filter));
                    }
                }
                assert_eq!(ours.remove("f/none"), None);
                same(&ours, &tree);
            }
            assert_eq!((ours.pop_first(), ours.bytes()), (None, 0));
            assert!(matches!(&ours.map, Map::Few(few) if few.capacity() == 0), "no memory is left");
        }
    }

    #[test]
    fn shared_subscriptions_are_found_from_any_place_on() {
        let mut ours = Subscriptions::default();
        for filter in ["$share/a/x", "$share/b/x", "$sys", "a", "z"] {
            ours.insert(filter.into(), subscription(0));
        }
        let after = |filter| ours.shared_after(filter).collect::<Vec<_>>();
        assert_eq!(after(None), ["$share/a/x", "$share/b/x"]);
        assert_eq!(after(Some("$share/a/x")), ["$share/b/x"]);
        assert_eq!(after(Some("$share/b/x")), [""; 0]);
    }
}
