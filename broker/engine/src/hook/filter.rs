//! The topic filters of a chain: all filters of all links in one trie, so that an event walks it
//! once, whatever the number of links. Built when a chain is compiled. The dispatch loop gets the
//! links for a topic from it.

use std::collections::BTreeMap;

use crate::topic;

/// Maximum number of links in a chain.
pub const LINKS_MAX: usize = 256;

/// A set of link indexes in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSet([u64; LINKS_MAX / 64]);

impl LinkSet {
    /// The empty set.
    pub const NONE: LinkSet = LinkSet([0; LINKS_MAX / 64]);

    /// The first `count` indexes, at most [`LINKS_MAX`].
    pub fn first(count: usize) -> LinkSet {
        LinkSet(std::array::from_fn(|word| match count.saturating_sub(word * 64) {
            0 => 0,
            left @ 1..64 => (1 << left) - 1,
            _ => u64::MAX,
        }))
    }

    /// Its indexes, lowest first.
    #[inline]
    pub fn places(self) -> Places {
        Places { bits: self.0[0], word: 0, set: self }
    }

    /// Adds an index; one beyond [`LINKS_MAX`] is ignored.
    pub fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// Removes an index.
    pub fn remove(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
    }

    /// Whether it contains an index.
    #[inline]
    pub fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    #[inline]
    fn add(&mut self, other: &LinkSet) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }
}

/// The indexes of a set, in order.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The remaining bits of the word.
    bits: u64,
    word: usize,
    set: LinkSet,
}

impl Places {
    /// Continues with the indexes of another set after this index.
    pub fn go_on_in(&mut self, set: LinkSet, behind: usize) {
        let next = behind + 1;
        let bits = set.0.get(next / 64).map_or(0, |bits| bits & u64::MAX << (next % 64));
        *self = Places { bits, word: next / 64, set };
    }
}

impl Iterator for Places {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 {
            self.word += 1;
            self.bits = *self.set.0.get(self.word)?;
        }
        let place = self.word * 64 + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(place)
    }
}

const ROOT: usize = 0;

#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, usize>,
    plus: Option<usize>,
    /// Links with a filter that ends at this node.
    here: LinkSet,
    /// Links with a filter that continues here with `#`; it matches this level too (section
    /// 4.7.1.2).
    multi: LinkSet,
}

/// The filters of a chain's links. They come from plugins and not from clients, so their number is
/// bounded. The longest filter bounds the depth of a walk.
#[derive(Debug)]
pub struct Filters {
    nodes: Vec<Node>,
    /// Links without a filter, which match every topic.
    always: LinkSet,
}

impl Filters {
    /// The filters of the links, in their order; `None` if no link has one.
    pub fn of<'a>(links: impl Iterator<Item = Option<&'a [Box<str>]>> + Clone) -> Option<Box<Filters>> {
        if links.clone().all(|topics| topics.is_none()) {
            return None;
        }
        let mut filters = Filters { nodes: vec![Node::default()], always: LinkSet::NONE };
        for (place, topics) in links.enumerate() {
            match topics {
                None => filters.always.insert(place),
                Some(topics) => topics.iter().for_each(|filter| filters.insert(filter, place)),
            }
        }
        Some(Box::new(filters))
    }

    fn insert(&mut self, filter: &str, place: usize) {
        if topic::validate_filter(filter).is_err() {
            // The loader has refused it; here it matches nothing.
            return;
        }
        let mut at = ROOT;
        for level in filter.split('/') {
            if level == "#" {
                self.nodes[at].multi.insert(place);
                return;
            }
            at = self.child(at, level);
        }
        self.nodes[at].here.insert(place);
    }

    fn child(&mut self, at: usize, level: &str) -> usize {
        let next = self.nodes.len();
        let node = &mut self.nodes[at];
        let known = match level {
            "+" => *node.plus.get_or_insert(next),
            level => match node.children.get(level) {
                Some(child) => *child,
                None => *node.children.entry(level.into()).or_insert(next),
            },
        };
        if known == next {
            self.nodes.push(Node::default());
        }
        known
    }

    /// The links that match a topic.
    pub fn matching(&self, topic: &str) -> LinkSet {
        let mut set = self.always;
        // A wildcard at the first level does not match a topic that begins with `$` [MQTT-4.7.2-1].
        self.walk(ROOT, Some(topic), !topic.starts_with('$'), &mut set);
        set
    }

    /// Recurses once for each level. The filters of the plugins bound the depth, because the walk
    /// follows only their nodes.
    fn walk(&self, at: usize, rest: Option<&str>, wild: bool, set: &mut LinkSet) {
        let node = &self.nodes[at];
        if wild {
            set.add(&node.multi);
        }
        let Some(rest) = rest else {
            set.add(&node.here);
            return;
        };
        let (level, below) = match rest.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (rest, None),
        };
        if let Some(child) = node.children.get(level) {
            self.walk(*child, below, true, set);
        }
        if let Some(plus) = node.plus.filter(|_| wild) {
            self.walk(plus, below, true, set);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn filters(lists: &[Option<&[&str]>]) -> Option<Box<Filters>> {
        let lists: Vec<Option<Vec<Box<str>>>> = lists
            .iter()
            .map(|list| list.map(|list| list.iter().map(|filter| Box::from(*filter)).collect()))
            .collect();
        Filters::of(lists.iter().map(|list| list.as_deref()))
    }

    #[test]
    fn links_without_a_filter_need_no_trie() {
        assert!(filters(&[None, None]).is_none());
    }

    #[test]
    fn a_link_without_a_filter_among_others_gets_every_topic() {
        let filters = filters(&[None, Some(&["a/#"])]).unwrap();
        assert!(filters.matching("b").contains(0));
        assert!(!filters.matching("b").contains(1));
        assert!(filters.matching("a").contains(1), "a/# matches a too (section 4.7.1.2)");
    }

    #[test]
    fn a_wildcard_at_the_first_level_leaves_out_topics_of_the_broker() {
        let filters = filters(&[Some(&["#"]), Some(&["+/x"]), Some(&["$SYS/#"])]).unwrap();
        let set = filters.matching("$SYS/x");
        assert_eq!([0, 1, 2].map(|place| set.contains(place)), [false, false, true]);
    }

    #[test]
    fn a_link_beyond_the_limit_is_in_no_set() {
        let mut set = LinkSet::NONE;
        set.insert(LINKS_MAX);
        assert!(set.is_empty() && !set.contains(LINKS_MAX));
        set.insert(LINKS_MAX - 1);
        assert!(set.contains(LINKS_MAX - 1));
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("$c".to_owned())]
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![4 => level(), 2 => Just("+".to_owned())];
        (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn the_trie_says_what_each_filter_says_alone(
            lists in prop::collection::vec(prop::collection::vec(filter(), 1..4), 1..8),
            name in prop::collection::vec(level(), 1..5),
        ) {
            let name = name.join("/");
            let lists: Vec<Vec<Box<str>>> =
                lists.into_iter().map(|list| list.into_iter().map(String::into_boxed_str).collect()).collect();
            let filters = Filters::of(lists.iter().map(|list| Some(list.as_slice()))).unwrap();
            let set = filters.matching(&name);
            for (place, list) in lists.iter().enumerate() {
                let alone = list
                    .iter()
                    .any(|filter| topic::validate_filter(filter).is_ok() && topic::matches(filter, &name));
                prop_assert_eq!(set.contains(place), alone, "{:?} and {}", list, name);
            }
        }
    }
}
