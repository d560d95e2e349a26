//! The counters. Each shard writes its own block with plain stores; the reporter reads all blocks
//! concurrently. No lock, no read-modify-write, and no allocation except for the first message of a
//! group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::config::Config;

/// Drop causes, as in the broker; any other cause counts as [`OTHER`].
const CAUSES: [&str; 8] = [
    "no_subscribers",
    "queue_full",
    "expired",
    "too_large",
    "hook",
    "lane_full",
    "no_member",
    "not_authorized",
];

/// Name of the group of all other topics.
pub const OTHER: &str = "(other)";

/// The counters of one group on one shard. Only that shard writes them. They fill a whole cache
/// line, so that shards do not share one.
#[derive(Default, Debug)]
#[repr(align(64))]
struct Slot {
    name: OnceLock<Box<str>>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// A shard's counters.
#[derive(Debug)]
#[repr(align(64))]
struct Block {
    /// Slots in use. Stored after the slot has its name.
    used: AtomicUsize,
    /// Messages dropped, by cause; the last one is for [`OTHER`].
    drops: [AtomicU64; CAUSES.len() + 1],
    /// The last one is for [`OTHER`].
    slots: Box<[Slot]>,
}

/// The counters of all shards.
#[derive(Debug)]
pub struct Counts {
    blocks: Box<[Block]>,
    groups_max: usize,
}

impl Counts {
    /// Counters for this many shards.
    pub fn new(config: &Config, shards: usize) -> Arc<Counts> {
        let block = |_| {
            let slots: Box<[Slot]> = (0..=config.groups_max).map(|_| Slot::default()).collect();
            let block = Block { used: AtomicUsize::new(0), drops: Default::default(), slots };
            config.prefixes.iter().for_each(|prefix| {
                block.name(prefix);
            });
            block
        };
        Arc::new(Counts { blocks: (0..shards).map(block).collect(), groups_max: config.groups_max })
    }

    /// The counts so far, summed over the shards, largest group first. A message that is being
    /// counted may be in one of the two numbers and not yet in the other.
    pub fn totals(&self) -> Vec<Total> {
        let mut sums: HashMap<&str, Total> = HashMap::new();
        let mut add = |name, slot: &Slot| {
            let total =
                sums.entry(name).or_insert_with(|| Total { group: name.into(), messages: 0, bytes: 0 });
            total.messages += slot.messages.load(Ordering::Relaxed);
            total.bytes += slot.bytes.load(Ordering::Relaxed);
        };
        for block in &self.blocks {
            for slot in &block.slots[..block.used.load(Ordering::Acquire)] {
                if let Some(name) = slot.name.get() {
                    add(name, slot);
                }
            }
            if let Some(other) = block.slots.last() {
                add(OTHER, other);
            }
        }
        let mut totals: Vec<Total> = sums.into_values().filter(|total| total.messages > 0).collect();
        totals.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.group.cmp(&b.group)));
        self.fold(totals)
    }

    /// Number of dropped messages and deliveries by cause, summed over the shards. Causes with 0
    /// are omitted.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let sum = |place: usize| {
            self.blocks.iter().map(|block| block.drops[place].load(Ordering::Relaxed)).sum::<u64>()
        };
        let names = CAUSES.iter().copied().chain([OTHER]);
        names.enumerate().map(|(place, name)| (name, sum(place))).filter(|(_, drops)| *drops > 0).collect()
    }

    /// Shards may have different groups: those above the common limit are added to [`OTHER`].
    fn fold(&self, totals: Vec<Total>) -> Vec<Total> {
        let (others, mut named): (Vec<_>, Vec<_>) =
            totals.into_iter().partition(|total| &*total.group == OTHER);
        let beyond = named.split_off(named.len().min(self.groups_max));
        let mut other = Total { group: OTHER.into(), messages: 0, bytes: 0 };
        for total in others.into_iter().chain(beyond) {
            other.messages += total.messages;
            other.bytes += total.bytes;
        }
        if other.messages > 0 {
            named.push(other);
        }
        named
    }
}

impl Block {
    /// Names the next free slot; `None` if all are used. Called by the owning shard, or before it
    /// exists.
    fn name(&self, name: &str) -> Option<usize> {
        let index = self.used.load(Ordering::Relaxed);
        if index + 1 >= self.slots.len() {
            return None;
        }
        // A slot beyond `used` has no name yet, so this cannot fail.
        let _ = self.slots[index].name.set(name.into());
        self.used.store(index + 1, Ordering::Release);
        Some(index)
    }
}

/// The counts of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Total {
    /// Prefix, leading levels, or [`OTHER`].
    pub group: Box<str>,
    /// Messages published.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// The counter of one shard.
#[derive(Debug)]
pub struct Counter {
    counts: Arc<Counts>,
    shard: usize,
    groups: Groups,
}

#[derive(Debug)]
enum Groups {
    /// Prefixes with their slots, longest first.
    Prefixes(Vec<(Box<str>, usize)>),
    /// The leading levels found so far.
    Levels { levels: usize, name_bytes_max: usize, slots: HashMap<Box<str>, usize> },
}

impl Counter {
    /// The counter of one shard. There must be only one for each shard.
    pub fn new(config: &Config, counts: Arc<Counts>, shard: usize) -> Counter {
        let groups = if config.prefixes.is_empty() {
            let (levels, name_bytes_max) = (config.levels, config.group_name_bytes_max);
            Groups::Levels { levels, name_bytes_max, slots: HashMap::new() }
        } else {
            let slot = |(slot, prefix): (usize, &String)| (prefix.as_str().into(), slot);
            let mut prefixes: Vec<(Box<str>, usize)> = config.prefixes.iter().enumerate().map(slot).collect();
            prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
            Groups::Prefixes(prefixes)
        };
        Counter { counts, shard, groups }
    }

    /// Counts one message that was dropped.
    pub fn count_drop(&mut self, cause: &str) {
        let Some(block) = self.counts.blocks.get(self.shard) else { return };
        let place = CAUSES.iter().position(|known| *known == cause).unwrap_or(CAUSES.len());
        // Only this shard writes here, as in `count`.
        let drops = &block.drops[place];
        drops.store(drops.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Counts one message.
    pub fn count(&mut self, topic: &str, payload_bytes: usize) {
        let Some(block) = self.counts.blocks.get(self.shard) else { return };
        let index = match &mut self.groups {
            Groups::Prefixes(prefixes) => {
                prefixes.iter().find(|(prefix, _)| topic.starts_with(&**prefix)).map(|&(_, slot)| slot)
            }
            Groups::Levels { levels, name_bytes_max, slots } => {
                let group = leading_levels(topic, *levels);
                match slots.get(group) {
                    Some(&slot) => Some(slot),
                    None if group.len() > *name_bytes_max => None,
                    None => {
                        let slot = block.name(group);
                        slot.inspect(|&slot| {
                            slots.insert(group.into(), slot);
                        })
                    }
                }
            }
        };
        let slot = &block.slots[index.unwrap_or(block.slots.len() - 1)];
        // Only this shard writes here: a load and a store are enough, and need no atomic
        // read-modify-write.
        slot.messages.store(slot.messages.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let bytes = slot.bytes.load(Ordering::Relaxed).wrapping_add(payload_bytes as u64);
        slot.bytes.store(bytes, Ordering::Relaxed);
    }
}

fn leading_levels(topic: &str, levels: usize) -> &str {
    match topic.match_indices('/').nth(levels - 1) {
        Some((end, _)) => &topic[..end],
        None => topic,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn total(group: &str, messages: u64, bytes: u64) -> Total {
        Total { group: group.into(), messages, bytes }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let prefixes = ["sensors/", "sensors/indoor/", "actors"].map(String::from).to_vec();
        let config = Config { prefixes, ..Config::default() };
        let counts = Counts::new(&config, 2);
        let mut first = Counter::new(&config, Arc::clone(&counts), 0);
        let mut second = Counter::new(&config, Arc::clone(&counts), 1);
        for topic in ["sensors/a", "sensors/indoor/b", "sensors", "actors/x", "actorsy"] {
            first.count(topic, 10);
        }
        second.count("actors", 1);
        let expected = [
            total("actors", 3, 21),
            total("sensors/", 1, 10),
            total("sensors/indoor/", 1, 10),
            total(OTHER, 1, 10),
        ];
        assert_eq!(counts.totals(), expected);
    }

    #[test]
    fn leading_levels_are_the_groups_where_there_are_no_prefixes() {
        let config = Config { levels: 2, ..Config::default() };
        let counts = Counts::new(&config, 1);
        let mut counter = Counter::new(&config, Arc::clone(&counts), 0);
        for topic in ["a/b/c", "a/b", "a", "a/", "/", "a/b/"] {
            counter.count(topic, 1);
        }
        let expected = [total("a/b", 3, 3), total("/", 1, 1), total("a", 1, 1), total("a/", 1, 1)];
        assert_eq!(counts.totals(), expected);
    }

    #[test]
    fn drops_are_counted_by_cause_over_all_shards() {
        let config = Config::default();
        let counts = Counts::new(&config, 2);
        for (shard, causes) in [(0, &["expired", "queue_full"][..]), (1, &["expired", "of a later broker"])] {
            let mut counter = Counter::new(&config, Arc::clone(&counts), shard);
            causes.iter().for_each(|cause| counter.count_drop(cause));
        }
        assert_eq!(counts.drops(), [("queue_full", 1), ("expired", 2), (OTHER, 1)]);
    }

    #[test]
    fn groups_are_bounded_on_each_shard_and_together() {
        let config = Config { groups_max: 2, group_name_bytes_max: 3, ..Config::default() };
        let counts = Counts::new(&config, 2);
        let mut first = Counter::new(&config, Arc::clone(&counts), 0);
        let mut second = Counter::new(&config, Arc::clone(&counts), 1);
        for topic in ["long/", "a", "a", "a", "b", "b", "c", "c/d"] {
            first.count(topic, 1);
        }
        assert_eq!(counts.totals(), [total("a", 3, 3), total("b", 2, 2), total(OTHER, 3, 3)]);
        for topic in ["c", "c", "c", "c", "b"] {
            second.count(topic, 1);
        }
        assert_eq!(counts.totals(), [total("c", 4, 4), total("a", 3, 3), total(OTHER, 6, 6)]);
    }

    #[test]
    fn reading_while_others_count_loses_nothing() {
        const EACH: u64 = 20_000;
        let config = Config::default();
        let counts = Counts::new(&config, 3);
        std::thread::scope(|scope| {
            for shard in 0..3 {
                let mut counter = Counter::new(&config, Arc::clone(&counts), shard);
                scope.spawn(move || {
                    for n in 0..EACH {
                        counter.count(["a", "b", "c/d"][(n % 3) as usize], 2);
                    }
                });
            }
            let mut before = 0;
            while before < 3 * EACH {
                let now = counts.totals().iter().map(|total| total.messages).sum();
                assert!(now >= before);
                before = now;
            }
        });
        let totals = counts.totals();
        assert_eq!(totals.iter().map(|total| total.messages).sum::<u64>(), 3 * EACH);
        assert_eq!(totals.iter().map(|total| total.bytes).sum::<u64>(), 6 * EACH);
    }

    #[test]
    fn a_known_group_costs_no_allocation() {
        let prefixes = vec!["sensors/".to_owned(), "sensors/indoor/".to_owned()];
        for config in [
            Config::default(),
            Config { prefixes, ..Config::default() },
            Config { groups_max: 1, ..Config::default() },
        ] {
            let counts = Counts::new(&config, 1);
            let mut counter = Counter::new(&config, Arc::clone(&counts), 0);
            let mut count_all = || {
                for topic in ["sensors/a", "sensors/indoor/b", "actors/c", "d"] {
                    counter.count(topic, 100);
                }
            };
            count_all();
            let allocated = allocation_counter::measure(|| (0..100).for_each(|_| count_all()));
            assert_eq!(allocated.count_total, 0, "{config:?}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let error_of = |config: Config| config.check().unwrap_err();
        assert_eq!(error_of(Config { levels: 0, ..Config::default() }), "levels = 0: must be from 1 to 200");
        let two = vec!["a".to_owned(), "b".to_owned()];
        let few = Config { prefixes: two, groups_max: 1, ..Config::default() };
        assert_eq!(error_of(few), "2 prefixes are more than groups_max = 1; raise it");
        assert!(Config::default().check().is_ok());
    }
}
