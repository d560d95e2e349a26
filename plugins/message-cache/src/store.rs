//! The last messages of each topic that one shard received, within the limits of all and of each
//! client, and their pages. Knows no broker, except for the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use grapnel_plugin_abi::{
    EntryId, Error, Host, Journal, Leftovers, ShareLimits, Shares, Weigh, allocated, topic, tree_entry_bytes,
};

use crate::wire::{Reader, put};

/// What a message costs beside itself, as if it had its topic for itself: the topic's entry, and its list.
const BESIDE_EACH: u64 = tree_entry_bytes(size_of::<(Arc<str>, VecDeque<EntryId>)>()) + allocated(32);

/// Most messages that go for one that comes while more is held than may be, beside those that `Shares` lets go of for it.
pub const EVICTED_FOR_ONE: usize = 512;

/// Most messages that go for one large one that comes, in place of its bytes. Of the smallest ones these are more than 1 MiB.
pub const GONE_FOR_LARGE: usize = 4096;

/// Most messages that are looked at for one page, whether they match or not.
pub const PAGE_LOOKED_AT: usize = 1024;

/// Most messages of one page.
pub const PAGE_MESSAGES: usize = 256;

/// Most bytes of memory that one page takes.
pub const PAGE_BYTES: u64 = 128 << 10;

/// A message that is kept.
#[derive(Debug)]
struct StoredMessage {
    /// When it came in, milliseconds since 1970; never before the one in front of it.
    at_ms: u64,
    topic: Arc<str>,
    payload: Box<[u8]>,
    /// Whether there was no room for its payload: that it came is known, so that none before it is taken for the last one.
    lost: bool,
}

/// What [`Item::absent`] is where the payload has not been kept.
pub const LOST: u64 = u64::MAX;

impl Weigh for StoredMessage {
    fn heap_bytes(&self) -> u64 {
        self.topic.heap_bytes() + self.payload.heap_bytes()
    }
}

/// Where a message stands among those of all shards: what is compared when they are put in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
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
    /// Bytes of its payload where it has been left out, since there was no room for it in a page: it is fetched alone. [`LOST`] where
    /// it has not been kept.
    pub absent: u64,
}

impl Item {
    /// Bytes of memory that it takes beside its place in a list.
    pub fn heap_bytes(&self) -> u64 {
        allocated(self.topic.capacity()) + allocated(self.payload.capacity())
    }
}

/// Bytes that a message takes in a page, in a list that may be twice as long as it need be.
pub fn bytes_in_page(topic: &str, payload_len: usize) -> u64 {
    2 * size_of::<Item>() as u64 + allocated(topic.len()) + allocated(payload_len)
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
    /// Most bytes of memory that the page takes. A message that is larger alone comes without its payload.
    pub room: u64,
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
    stored: Shares<StoredMessage>,
    /// Bytes that the smallest message takes: each that goes makes room for so many.
    least_bytes: u64,
    topics: BTreeMap<Arc<str>, VecDeque<EntryId>>,
    last_ms: u64,
    /// After a state was taken over: in front of this one, no topic has more messages than are kept.
    looked_upto: Option<Bound<Arc<str>>>,
    journal: Journal<u64>,
}

impl Store {
    /// Keeps so many of each topic within these limits.
    pub fn new(per_topic: usize, limits: ShareLimits) -> Store {
        let held = Shares::new(limits).beside_each(BESIDE_EACH);
        let smallest = StoredMessage { at_ms: 0, topic: "".into(), payload: Box::default(), lost: false };
        let least_bytes = held.bytes_of(&smallest);
        let (topics, journal) = (BTreeMap::new(), Journal::default());
        Store { per_topic, stored: held, least_bytes, topics, last_ms: 0, looked_upto: None, journal }
    }

    /// Shown in `/metrics`.
    #[must_use]
    pub fn with_metrics(self, host: &Host) -> Store {
        Store { stored: self.stored.with_metrics(host, "kept_messages"), ..self }
    }

    /// Keeps a message of a client; the oldest go where there is no room, its own where its share is full: as many as its bytes need,
    /// at most [`GONE_FOR_LARGE`] and those of [`EVICTED_FOR_ONE`], and the rest in [`Store::come_nearer`]. Of one that is too large for
    /// any of it, or for which there is no room while more is held than may be, only that it came.
    pub fn keep(&mut self, at_ms: u64, client: &str, name: &str, payload: &[u8]) {
        if self.is_beyond() {
            // Room for the newest one, as far as it can be made at once.
            self.come_nearer(EVICTED_FOR_ONE);
        }
        self.last_ms = self.last_ms.max(at_ms);
        let topic =
            self.topics.get_key_value(name).map_or_else(|| name.into(), |(topic, _)| Arc::clone(topic));
        let stored = StoredMessage {
            at_ms: self.last_ms,
            topic: Arc::clone(&topic),
            payload: payload.into(),
            lost: false,
        };
        let steps = (self.stored.bytes_of(&stored) + allocated(client.len())) / self.least_bytes + 1;
        let (mut gone, journal) = (Vec::new(), &mut self.journal);
        let mut note = |id: EntryId, stored: StoredMessage| {
            journal.note(&id.0);
            gone.push((stored.topic, id));
        };
        let stored = self.stored.insert_over_oldest(client, stored, &mut note).or_else(|rejected| {
            let stub = StoredMessage { payload: Box::default(), lost: true, ..rejected.value };
            self.stored.insert_over_oldest(client, stub, &mut note)
        });
        forget(&mut self.topics, gone);
        let Ok(id) = stored else { return };
        self.journal.note(&id.0);
        let list = self.topics.entry(topic).or_default();
        list.push_back(id);
        if let Some(oldest) = self.first_beyond(name) {
            self.remove(oldest.0);
        }
        if self.is_beyond() {
            // At once, so that the next one finds room, however soon it comes.
            self.come_nearer(
                usize::try_from(steps).map_or(GONE_FOR_LARGE, |steps| steps.min(GONE_FOR_LARGE)),
            );
        }
    }

    /// The oldest message of a topic that has more than are kept.
    fn first_beyond(&self, name: &str) -> Option<EntryId> {
        let list = self.topics.get(name).filter(|list| list.len() > self.per_topic)?;
        list.front().copied()
    }

    /// The next page of what is asked. It looks at a bounded number of messages, and may be empty though others follow.
    pub fn page(&self, span: Span<'_>) -> Page {
        let newest = self.stored.newest().map_or(0, |id| id.0);
        let upto = span.upto.min(newest);
        let mut page = Page { items: Vec::new(), upto, next: None };
        let mut bytes = 0;
        // Whether there is room for it.
        let mut add = |id: EntryId, stored: &StoredMessage, list: &VecDeque<EntryId>| {
            let whole = bytes_in_page(&stored.topic, stored.payload.len());
            let (payload, absent) = match (stored.lost, whole <= span.room) {
                (true, _) => (&[][..], LOST),
                (false, true) => (&*stored.payload, 0),
                (false, false) => (&[][..], stored.payload.len() as u64),
            };
            bytes += bytes_in_page(&stored.topic, payload.len());
            if !page.items.is_empty() && (page.items.len() >= PAGE_MESSAGES || bytes > span.room) {
                return false;
            }
            let seen = list.partition_point(|other| other.0 <= id.0);
            let newer = list.partition_point(|other| other.0 <= upto).saturating_sub(seen) as u32;
            let (topic, payload) = ((*stored.topic).to_owned(), payload.to_vec());
            page.items.push(Item { at_ms: stored.at_ms, number: id.0, newer, topic, payload, absent });
            true
        };
        if !span.filter.contains(['+', '#']) {
            // One topic: nothing else need be looked at.
            let Some(list) = self.topics.get(span.filter) else { return page };
            for id in list.iter().skip(list.partition_point(|id| id.0 <= span.after)) {
                let Some(stored) = self.stored.get(*id).filter(|_| id.0 <= upto) else { break };
                if !add(*id, stored, list) {
                    page.next = Some(id.0 - 1);
                    break;
                }
            }
            return page;
        }
        let behind = self.stored.iter_after(EntryId(span.after));
        for (looked_at, (id, _, stored)) in behind.take_while(|(id, ..)| id.0 <= upto).enumerate() {
            if looked_at == PAGE_LOOKED_AT {
                page.next = Some(id.0 - 1);
                break;
            }
            let list = self.topics.get(&stored.topic).filter(|_| topic::matches(span.filter, &stored.topic));
            if list.is_some_and(|list| !add(id, stored, list)) {
                page.next = Some(id.0 - 1);
                break;
            }
        }
        page
    }

    /// How many messages of a topic, up to the one of this number, stand behind a place on another shard.
    pub fn newer(&self, shard: u32, upto: u64, name: &str, place: Position) -> u32 {
        let Some(list) = self.topics.get(name) else { return 0 };
        let before = |id: &EntryId| {
            let at_ms = self.stored.get(*id).map_or(0, |stored| stored.at_ms);
            Position { at_ms, shard, number: id.0 } <= place
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
        self.stored.iter_after(EntryId(after.copied().unwrap_or(0))).next().map(|(id, ..)| id.0)
    }

    /// Appends a message as it goes over; false where there is none.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) -> bool {
        let id = EntryId(number);
        let (Some(client), Some(stored)) = (self.stored.owner_of(id), self.stored.get(id)) else {
            return false;
        };
        out.push(u8::from(stored.lost));
        out.extend(stored.at_ms.to_le_bytes());
        put(out, client.as_bytes());
        put(out, stored.topic.as_bytes());
        put(out, &stored.payload);
        true
    }

    /// Takes a message over, whatever the limits are; they come in the order in which they were kept.
    pub fn put(&mut self, number: u64, value: &[u8]) -> Result<(), Error> {
        let id = EntryId(number);
        if self.stored.get(id).is_some() {
            // A message does not change.
            return Ok(());
        }
        let wrong = || Error::new("a message of the version before cannot be read");
        let (lost, value) = value.split_first().ok_or_else(wrong)?;
        let mut reader = Reader(value);
        let (at_ms, client, name, payload) = read_stored(&mut reader).ok_or_else(wrong)?;
        let topic: Arc<str> =
            self.topics.get_key_value(name).map_or_else(|| name.into(), |(topic, _)| Arc::clone(topic));
        let stored =
            StoredMessage { at_ms, topic: Arc::clone(&topic), payload: payload.into(), lost: *lost != 0 };
        if !reader.is_empty() || !self.stored.restore_as(id, client, stored) {
            return Err(wrong());
        }
        self.last_ms = self.last_ms.max(at_ms);
        self.topics.entry(topic).or_default().push_back(id);
        Ok(())
    }

    /// Lets go of a message.
    pub fn remove(&mut self, number: u64) {
        let id = EntryId(number);
        if let Some(stored) = self.stored.remove(id) {
            self.journal.note(&number);
            forget_of(&mut self.topics, &stored.topic, &[(Arc::clone(&stored.topic), id)]);
        }
    }

    /// Lets go of all; `left` frees it.
    pub fn clear_into(&mut self, left: &mut Leftovers) {
        self.stored.clear_into(left);
        left.add(std::mem::take(&mut self.topics));
        self.looked_upto = None;
    }

    /// Topics are looked at again: they may have more messages than are kept, if the version before kept more.
    pub fn look_at_topics(&mut self) {
        self.looked_upto = Some(Bound::Unbounded);
    }

    /// Whether more is held than the limits allow.
    pub fn is_beyond(&self) -> bool {
        self.looked_upto.is_some() || self.stored.is_beyond()
    }

    /// Comes nearer to the limits, in so many steps at most: of a topic, a client or all the oldest message goes, or a topic is looked
    /// at. Whether there is more to do.
    pub fn come_nearer(&mut self, steps: usize) -> bool {
        let mut left = steps;
        while left > 0
            && let Some(upto) = self.looked_upto.take()
        {
            left -= 1;
            let next = self.topics.range::<Arc<str>, _>((upto.clone(), Bound::Unbounded)).next();
            let Some(name) = next.map(|(name, _)| Arc::clone(name)) else { break };
            // It is looked at again, until it has no more than it may have.
            self.looked_upto = match self.first_beyond(&name) {
                Some(oldest) => {
                    self.remove(oldest.0);
                    Some(upto)
                }
                None => Some(Bound::Excluded(name)),
            };
        }
        let (mut gone, journal) = (Vec::new(), &mut self.journal);
        self.stored.evict_beyond(left, |id, stored| {
            journal.note(&id.0);
            gone.push((stored.topic, id));
        });
        forget(&mut self.topics, gone);
        self.is_beyond()
    }
}

/// A message that `write` has written: when it came in, its client, topic and payload.
fn read_stored<'a>(reader: &mut Reader<'a>) -> Option<(u64, &'a str, &'a str, &'a [u8])> {
    Some((reader.number()?, reader.text()?, reader.text()?, reader.part()?))
}

/// How many messages are taken out of a list one by one, which moves what is beside each; more go in one walk along it.
const ONE_BY_ONE: usize = 64;

/// Takes messages that have gone out of the lists of their topics.
fn forget(topics: &mut BTreeMap<Arc<str>, VecDeque<EntryId>>, mut gone: Vec<(Arc<str>, EntryId)>) {
    // All messages of a topic have its name in common.
    let name = |topic: &Arc<str>| Arc::as_ptr(topic).cast::<u8>();
    gone.sort_unstable_by_key(|(topic, id)| (name(topic), *id));
    for of_topic in gone.chunk_by(|(one, _), (other, _)| name(one) == name(other)) {
        if let Some((topic, _)) = of_topic.first() {
            forget_of(topics, topic, of_topic);
        }
    }
}

/// The same of one topic; they are in order.
fn forget_of(
    topics: &mut BTreeMap<Arc<str>, VecDeque<EntryId>>,
    topic: &Arc<str>,
    mut gone: &[(Arc<str>, EntryId)],
) {
    let Some(list) = topics.get_mut(topic) else { return };
    // Most are the oldest of their topic.
    while let Some(((_, id), others)) = gone.split_first()
        && list.front() == Some(id)
    {
        list.pop_front();
        gone = others;
    }
    if gone.len() > ONE_BY_ONE {
        list.retain(|id| gone.binary_search_by_key(id, |(_, gone)| *gone).is_err());
    } else {
        for (_, id) in gone {
            if let Ok(at) = list.binary_search(id) {
                list.remove(at);
            }
        }
    }
    if list.len() < list.capacity() / 4 {
        list.shrink_to(2 * list.len());
    }
    if list.is_empty() {
        topics.remove(topic);
    }
}

#[cfg(test)]
mod tests;
