//! The last messages of each topic that came in on one shard, within the limits of all and of each client, and what is read of them
//! page by page. No broker in here, but for the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use grapnel_plugin_abi::{
    EntryId, Error, Host, Journal, Leftovers, ShareLimits, Shares, Weigh, allocated, topic, tree_entry_bytes,
};

use crate::wire::{Reader, put};

/// What a message costs beside itself, as if it had its topic for itself: the topic's entry, and its list.
const BESIDE_EACH: u64 = tree_entry_bytes(size_of::<(Arc<str>, VecDeque<EntryId>)>()) + allocated(32);

/// Most messages that are looked at for one page, whether they match or not.
pub const PAGE_LOOKED_AT: usize = 1024;

/// Most messages of one page.
pub const PAGE_MESSAGES: usize = 256;

/// Most bytes of topics and payloads of one page, unless one message has more.
pub const PAGE_BYTES: usize = 128 << 10;

/// A message that is kept.
#[derive(Debug)]
struct Kept {
    /// When it came in, milliseconds since 1970; never before the one in front of it.
    at_ms: u64,
    topic: Arc<str>,
    payload: Box<[u8]>,
}

impl Weigh for Kept {
    fn heap_bytes(&self) -> u64 {
        self.topic.heap_bytes() + self.payload.heap_bytes()
    }
}

/// Where a message stands among those of all shards: what is compared when they are put in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// When it came in, milliseconds since 1970.
    pub at_ms: u64,
    /// On which shard.
    pub shard: u32,
    /// Which one of its shard's.
    pub number: u64,
}

/// A message of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// When it came in, milliseconds since 1970.
    pub at_ms: u64,
    /// Which one of its shard's.
    pub number: u64,
    /// How many messages of the same topic came in later, as far as is known.
    pub newer: u32,
    /// Its topic name.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// What is asked of one shard: messages in the order in which they came in.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Topics.
    pub filter: &'a str,
    /// Only what came after the message of this number.
    pub after: u64,
    /// Only what came up to the message of this number.
    pub upto: u64,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Messages, the oldest first.
    pub items: Vec<Item>,
    /// The number of the newest message that belongs to the answer.
    pub upto: u64,
    /// After which number the next page begins; `None` where there is none.
    pub next: Option<u64>,
}

/// The messages of one shard.
#[derive(Debug)]
pub struct Store {
    per_topic: usize,
    held: Shares<Kept>,
    topics: BTreeMap<Arc<str>, VecDeque<EntryId>>,
    last_ms: u64,
    /// The limits that are configured; those of `held` are higher as long as the version before has left more.
    limits: ShareLimits,
    journal: Journal<u64>,
}

impl Store {
    /// Keeps so many of each topic within these limits.
    pub fn new(per_topic: usize, limits: ShareLimits) -> Store {
        let held = Shares::new(limits).beside_each(BESIDE_EACH);
        let (topics, journal) = (BTreeMap::new(), Journal::default());
        Store { per_topic, held, topics, last_ms: 0, limits, journal }
    }

    /// Shown in `/metrics`.
    #[must_use]
    pub fn with_metrics(self, host: &Host) -> Store {
        Store { held: self.held.with_metrics(host, "kept_messages"), ..self }
    }

    /// Keeps a message of a client; the oldest go where there is no room, its own where its share is full. One that is too large for
    /// any of it is not kept.
    pub fn keep(&mut self, at_ms: u64, client: &str, name: &str, payload: &[u8]) {
        self.last_ms = self.last_ms.max(at_ms);
        let topic =
            self.topics.get_key_value(name).map_or_else(|| name.into(), |(topic, _)| Arc::clone(topic));
        let kept = Kept { at_ms: self.last_ms, topic: Arc::clone(&topic), payload: payload.into() };
        let (topics, journal) = (&mut self.topics, &mut self.journal);
        let gone = |id: EntryId, kept: Kept| {
            journal.note(&id.0);
            forget(topics, id, &kept.topic);
        };
        let Ok(id) = self.held.insert_over_oldest(client, kept, gone) else { return };
        self.journal.note(&id.0);
        let list = self.topics.entry(topic).or_default();
        list.push_back(id);
        if list.len() > self.per_topic
            && let Some(oldest) = list.pop_front()
        {
            self.journal.note(&oldest.0);
            self.held.remove(oldest);
        }
    }

    /// The next page of what is asked. It looks at a bounded number of messages, and may be empty though others follow.
    pub fn page(&self, span: Span<'_>) -> Page {
        let newest = self.held.newest().map_or(0, |id| id.0);
        let upto = span.upto.min(newest);
        let mut page = Page { items: Vec::new(), upto, next: None };
        let mut bytes = 0;
        let mut add = |id: EntryId, kept: &Kept, list: &VecDeque<EntryId>| {
            let seen = list.partition_point(|other| other.0 <= id.0);
            let newer = list.partition_point(|other| other.0 <= upto).saturating_sub(seen);
            let (topic, payload) = ((*kept.topic).to_owned(), kept.payload.to_vec());
            bytes += topic.len() + payload.len();
            page.items.push(Item { at_ms: kept.at_ms, number: id.0, newer: newer as u32, topic, payload });
            page.items.len() >= PAGE_MESSAGES || bytes >= PAGE_BYTES
        };
        if !span.filter.contains(['+', '#']) {
            // One topic: nothing else need be looked at.
            let Some(list) = self.topics.get(span.filter) else { return page };
            for id in list.iter().skip(list.partition_point(|id| id.0 <= span.after)) {
                let Some(kept) = self.held.get(*id).filter(|_| id.0 <= upto) else { break };
                if add(*id, kept, list) {
                    page.next = Some(id.0);
                    break;
                }
            }
            return page;
        }
        let behind = self.held.iter_behind(EntryId(span.after));
        for (looked_at, (id, _, kept)) in behind.take_while(|(id, ..)| id.0 <= upto).enumerate() {
            if looked_at == PAGE_LOOKED_AT {
                page.next = Some(id.0 - 1);
                break;
            }
            let list = self.topics.get(&kept.topic).filter(|_| topic::matches(span.filter, &kept.topic));
            if list.is_some_and(|list| add(id, kept, list)) {
                page.next = Some(id.0);
                break;
            }
        }
        page
    }

    /// How many messages of a topic, up to the one of this number, stand behind a place on another shard.
    pub fn newer(&self, shard: u32, upto: u64, name: &str, place: Place) -> u32 {
        let Some(list) = self.topics.get(name) else { return 0 };
        let before = |id: &EntryId| {
            let at_ms = self.held.get(*id).map_or(0, |kept| kept.at_ms);
            Place { at_ms, shard, number: id.0 } <= place
        };
        let end = list.partition_point(|id| id.0 <= upto);
        end.saturating_sub(list.partition_point(before)) as u32
    }

    /// What has changed since it went over.
    pub fn journal(&mut self) -> &mut Journal<u64> {
        &mut self.journal
    }

    /// The number of the message behind this one.
    pub fn next_number(&self, after: Option<&u64>) -> Option<u64> {
        self.held.iter_behind(EntryId(after.copied().unwrap_or(0))).next().map(|(id, ..)| id.0)
    }

    /// Appends a message as it goes over; false where there is none.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) -> bool {
        let id = EntryId(number);
        let (Some(client), Some(kept)) = (self.held.owner_of(id), self.held.get(id)) else { return false };
        out.extend(kept.at_ms.to_le_bytes());
        put(out, client.as_bytes());
        put(out, kept.topic.as_bytes());
        put(out, &kept.payload);
        true
    }

    /// Takes a message over, whatever the limits are; they come in the order in which they were kept.
    pub fn put(&mut self, number: u64, value: &[u8]) -> Result<(), Error> {
        let id = EntryId(number);
        if self.held.get(id).is_some() {
            // A message does not change.
            return Ok(());
        }
        let wrong = || Error::new("a message of the version before cannot be read");
        let mut reader = Reader(value);
        let (at_ms, client, name, payload) = read_kept(&mut reader).ok_or_else(wrong)?;
        let topic: Arc<str> =
            self.topics.get_key_value(name).map_or_else(|| name.into(), |(topic, _)| Arc::clone(topic));
        let kept = Kept { at_ms, topic: Arc::clone(&topic), payload: payload.into() };
        if !reader.is_empty() || !self.held.restore_as(id, client, kept) {
            return Err(wrong());
        }
        self.last_ms = self.last_ms.max(at_ms);
        self.topics.entry(topic).or_default().push_back(id);
        Ok(())
    }

    /// Lets go of a message.
    pub fn remove(&mut self, number: u64) {
        let id = EntryId(number);
        if let Some(kept) = self.held.remove(id) {
            self.journal.note(&number);
            forget(&mut self.topics, id, &kept.topic);
        }
    }

    /// Lets go of all; `left` frees it.
    pub fn clear_into(&mut self, left: &mut Leftovers) {
        self.held.clear_into(left);
        left.add(std::mem::take(&mut self.topics));
    }

    /// Comes nearer to the limits that are configured, if the version before had higher ones: so many of the oldest messages go at
    /// most. Whether more are to go.
    pub fn come_nearer(&mut self, messages: usize) -> bool {
        let is_beyond = |store: &Store| {
            let ShareLimits { entries_max, bytes_max, .. } = store.limits;
            store.held.len() as u64 > entries_max || store.held.bytes() > bytes_max
        };
        for _ in 0..messages {
            let Some(oldest) = self.held.oldest().filter(|_| is_beyond(self)) else { break };
            self.remove(oldest.0);
        }
        let (entries, bytes) = (self.held.len() as u64, self.held.bytes());
        let ShareLimits { entries_max, bytes_max, .. } = self.limits;
        // As much as there is stays until its turn comes: no message that comes in drives all of it out at once.
        let (entries_max, bytes_max) = (entries_max.max(entries), bytes_max.max(bytes));
        self.held.set_limits(ShareLimits { entries_max, bytes_max, ..self.limits });
        is_beyond(self)
    }
}

/// A message that `write` has written: when it came in, its client, topic and payload.
fn read_kept<'a>(reader: &mut Reader<'a>) -> Option<(u64, &'a str, &'a str, &'a [u8])> {
    Some((reader.number()?, reader.text()?, reader.text()?, reader.part()?))
}

/// Takes a message that has gone out of its topic's list.
fn forget(topics: &mut BTreeMap<Arc<str>, VecDeque<EntryId>>, id: EntryId, topic: &Arc<str>) {
    let Some(list) = topics.get_mut(topic) else { return };
    if let Ok(at) = list.binary_search(&id) {
        list.remove(at);
    }
    if list.is_empty() {
        topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LIMITS: ShareLimits = ShareLimits {
        entries_max: u64::MAX,
        bytes_max: 1 << 30,
        owner_entries_max: u64::MAX,
        owner_bytes_max: 1 << 30,
    };

    fn all(store: &Store, filter: &str) -> (Vec<Item>, usize) {
        let (mut items, mut pages, mut after, mut upto) = (Vec::new(), 0, 0, u64::MAX);
        loop {
            let page = store.page(Span { filter, after, upto });
            items.extend(page.items);
            (pages, upto) = (pages + 1, page.upto);
            match page.next {
                Some(next) => after = next,
                None => return (items, pages),
            }
        }
    }

    fn texts(store: &Store, filter: &str) -> Vec<String> {
        let text = |item: Item| format!("{}={}", item.topic, String::from_utf8_lossy(&item.payload));
        all(store, filter).0.into_iter().map(text).collect()
    }

    #[test]
    fn the_last_of_each_topic_are_kept() {
        let mut store = Store::new(2, LIMITS);
        for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("a/b", "5")] {
            store.keep(1, "me", topic, payload.as_bytes());
        }
        assert_eq!(texts(&store, "#"), ["b=2", "a=3", "a=4", "a/b=5"]);
        assert_eq!(texts(&store, "a"), ["a=3", "a=4"]);
        assert_eq!(texts(&store, "+/b"), ["a/b=5"]);
        assert_eq!(texts(&store, "c"), Vec::<String>::new());
        let newer: Vec<u32> = all(&store, "a").0.iter().map(|item| item.newer).collect();
        assert_eq!(newer, [1, 0]);
        let mut other = Store::new(1, LIMITS);
        other.keep(1, "me", "trial", b"gone");
        let mut left = Leftovers::default();
        other.clear_into(&mut left);
        assert_eq!((other.held.len(), other.held.bytes(), other.topics.len()), (0, 0, 0));
        while left.free(1) {}
        let mut last = None;
        while let Some(number) = store.next_number(last.as_ref()) {
            let mut value = Vec::new();
            assert!(store.write(number, &mut value));
            // Twice is once.
            (0..2).for_each(|_| other.put(number, &value).unwrap());
            assert!(other.put(number + 100, &value[1..]).is_err());
            last = Some(number);
        }
        assert_eq!(texts(&other, "#"), texts(&store, "#"), "limits are not looked at");
        assert!(!store.write(1000, &mut Vec::new()), "no such message");
        store.keep(2, "me", "a", b"6");
        other.keep(2, "me", "a", b"6");
        assert_eq!(other.held.newest(), store.held.newest(), "numbers go on");
    }

    /// 1.2 million empty messages took 40 times the memory that they were counted with.
    #[test]
    fn empty_messages_are_not_free() {
        let mut store = Store::new(9, ShareLimits { bytes_max: 100_000, ..LIMITS });
        for n in 0..10_000 {
            store.keep(1, "me", &format!("{n}"), b"");
        }
        assert!(store.held.bytes() <= 100_000);
        assert!((200..500).contains(&store.held.len()), "{}", store.held.len());
        assert_eq!(store.topics.len(), store.held.len());
        assert_eq!(texts(&store, "#").last().map(String::as_str), Some("9999="));
    }

    #[test]
    fn a_client_drives_out_its_own_and_leaves_no_list_behind() {
        let one = |payload: usize| {
            let mut store = Store::new(9, LIMITS);
            store.keep(1, "c", "a", &vec![0; payload]);
            store.held.bytes()
        };
        let limits = ShareLimits { owner_entries_max: 2, bytes_max: 4 * one(5), ..LIMITS };
        let mut store = Store::new(9, limits);
        for (client, topic, payload) in [("c", "a", "1"), ("d", "a", "2"), ("c", "b", "3"), ("c", "c", "4")] {
            store.keep(1, client, topic, payload.as_bytes());
        }
        assert_eq!(texts(&store, "#"), ["a=2", "b=3", "c=4"]);
        store.keep(1, "e", "x", &vec![0; 1 << 20]);
        assert_eq!(store.held.len(), 3, "what can never be kept drives nothing out");
        store.keep(1, "e", "x", &[b'y'; 100]);
        assert_eq!(store.topics.keys().map(|name| &**name).collect::<Vec<_>>().last(), Some(&"x"));
        assert!(store.held.bytes() <= limits.bytes_max);
    }

    /// A page looks at so many and no more, however many there are, and all of them together are complete.
    #[test]
    fn pages_are_bounded_and_complete() {
        let mut store = Store::new(9, LIMITS);
        let count = 3 * PAGE_LOOKED_AT;
        for n in 0..count {
            store.keep(1, "me", if n % 500 == 0 { "rare" } else { "often" }, b"");
            store.keep(1, "me", &format!("x/{n}"), b"");
        }
        let (items, pages) = all(&store, "x/#");
        assert_eq!((items.len(), pages), (count, count.div_ceil(PAGE_MESSAGES) + 1));
        assert!(items.windows(2).all(|two| two[0].number < two[1].number));
        let (none, pages) = all(&store, "none/+");
        assert_eq!((none.len(), pages), (0, 4), "three times as many as one page looks at, and some");
        assert_eq!(all(&store, "rare").0.len(), 7);

        // What comes while it is read is not part of it; what goes meanwhile is no obstacle.
        let first = store.page(Span { filter: "x/#", after: 0, upto: u64::MAX });
        store.keep(1, "me", "x/new", b"");
        let next = first.next.unwrap();
        let (oldest, second) = (store.held.oldest().unwrap(), EntryId(next));
        store.held.remove(second);
        store.held.remove(oldest);
        let rest = store.page(Span { filter: "x/#", after: next, upto: first.upto });
        assert!(rest.items[0].number > next && rest.upto == first.upto);

        let mut large = Store::new(9, LIMITS);
        for _ in 0..5 {
            large.keep(1, "me", "a/b", &vec![0; PAGE_BYTES]);
        }
        assert_eq!(large.page(Span { filter: "#", after: 0, upto: u64::MAX }).items.len(), 1);
        assert_eq!(all(&large, "#").0.len(), 5);
    }

    #[test]
    fn what_is_newer_on_this_shard_is_counted_by_place() {
        let mut store = Store::new(9, LIMITS);
        for at_ms in [10, 20, 15] {
            store.keep(at_ms, "me", "a", b"");
        }
        let newer = |shard, number, at_ms| store.newer(1, u64::MAX, "a", Place { at_ms, shard, number });
        assert_eq!(
            [newer(0, 1, 9), newer(0, 1, 10), newer(2, 1, 10), newer(0, 9, 20), newer(2, 9, 20)],
            [3, 3, 2, 2, 0]
        );
        assert_eq!(store.newer(1, 2, "a", Place { at_ms: 9, shard: 0, number: 1 }), 2, "up to the second");
        assert_eq!(store.newer(1, 2, "b", Place { at_ms: 9, shard: 0, number: 1 }), 0);
    }
}
