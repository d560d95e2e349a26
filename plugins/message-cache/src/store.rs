//! The last messages of each topic that one shard received, within the limits in total and for each
//! client, and their pages. Independent of the broker, except for the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use grapnel_plugin_abi::{
    DropQueue, EntryId, Error, Host, Journal, ShareLimits, Shares, Weigh, allocated, topic, tree_entry_bytes,
};

use crate::wire::{Reader, put};

/// Memory of a message in addition to itself, as if it were the only one of its topic: the topic's
/// entry, and its list.
const BESIDE_EACH: u64 = tree_entry_bytes(size_of::<(Arc<str>, VecDeque<EntryId>)>()) + allocated(32);

/// Maximum number of messages that are removed for a new one while the limits are exceeded, in
/// addition to those that `Shares` evicts for it.
pub const EVICTED_FOR_ONE: usize = 512;

/// Maximum number of messages that are removed for a large new one. With the smallest messages,
/// these are more than 1 MiB.
pub const GONE_FOR_LARGE: usize = 4096;

/// Maximum number of messages that are examined for one page, including those that do not match.
pub const PAGE_LOOKED_AT: usize = 1024;

/// Maximum number of messages in one page.
pub const PAGE_MESSAGES: usize = 256;

/// Maximum bytes of memory of one page.
pub const PAGE_BYTES: u64 = 128 << 10;

/// A stored message.
#[derive(Debug)]
struct StoredMessage {
    /// Time of arrival, milliseconds since 1970; never earlier than that of the previous message.
    at_ms: u64,
    topic: Arc<str>,
    payload: Box<[u8]>,
    /// Whether there was no memory for its payload. The entry remains, so that no older message is
    /// treated as the last one.
    lost: bool,
}

/// Value of [`Item::absent`] if the payload was not stored.
pub const LOST: u64 = u64::MAX;

impl Weigh for StoredMessage {
    fn heap_bytes(&self) -> u64 {
        self.topic.heap_bytes() + self.payload.heap_bytes()
    }
}

/// The position of a message among those of all shards; its order is the order of the answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// Time of arrival, milliseconds since 1970.
    pub at_ms: u64,
    /// The shard.
    pub shard: u32,
    /// Its number on that shard.
    pub number: u64,
}

/// A message of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Time of arrival, milliseconds since 1970.
    pub at_ms: u64,
    /// Its number on its shard.
    pub number: u64,
    /// How many later messages the same topic has, as far as is known.
    pub newer: u32,
    /// Its topic name.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Bytes of its payload if the page had no space for it: the payload is then fetched alone.
    /// [`LOST`] if the payload was not stored.
    pub absent: u64,
}

impl Item {
    /// Bytes of memory that it uses, without its place in a list.
    pub fn heap_bytes(&self) -> u64 {
        allocated(self.topic.capacity()) + allocated(self.payload.capacity())
    }
}

/// Bytes of a message in a page, whose list may have twice the capacity that it needs.
pub fn bytes_in_page(topic: &str, payload_len: usize) -> u64 {
    2 * size_of::<Item>() as u64 + allocated(topic.len()) + allocated(payload_len)
}

/// A request to one shard: messages in order of arrival.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Topic filter.
    pub filter: &'a str,
    /// Only messages after this number.
    pub after: u64,
    /// Only messages up to this number.
    pub upto: u64,
    /// Maximum bytes of memory of the page. A single message that is larger comes without its
    /// payload.
    pub room: u64,
}

/// A page of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Messages, the oldest first.
    pub items: Vec<Item>,
    /// The number of the newest message of the answer.
    pub upto: u64,
    /// The next page begins after this number; `None` if there is none.
    pub next: Option<u64>,
}

/// The messages of one shard.
#[derive(Debug)]
pub struct Store {
    per_topic: usize,
    stored: Shares<StoredMessage>,
    /// Bytes of the smallest message: each removed message frees at least this many.
    least_bytes: u64,
    topics: BTreeMap<Arc<str>, VecDeque<EntryId>>,
    last_ms: u64,
    /// After a reload: all topics before this one have been checked for too many messages.
    checked_up_to: Option<Bound<Arc<str>>>,
    journal: Journal<u64>,
}

impl Store {
    /// A store with this many messages of each topic and these limits.
    pub fn new(per_topic: usize, limits: ShareLimits) -> Store {
        let held = Shares::new(limits).beside_each(BESIDE_EACH);
        let smallest = StoredMessage { at_ms: 0, topic: "".into(), payload: Box::default(), lost: false };
        let least_bytes = held.bytes_of(&smallest);
        let (topics, journal) = (BTreeMap::new(), Journal::default());
        Store { per_topic, stored: held, least_bytes, topics, last_ms: 0, checked_up_to: None, journal }
    }

    /// Shows the usage in `/metrics`.
    #[must_use]
    pub fn with_metrics(self, host: &Host) -> Store {
        Store { stored: self.stored.with_metrics(host, "kept_messages"), ..self }
    }

    /// Stores a message of a client. If a limit is reached, the oldest messages are removed, or the
    /// client's own if its limit is reached: as many as are needed, up to [`GONE_FOR_LARGE`] and
    /// [`EVICTED_FOR_ONE`]; [`Store::evict_over_limit`] removes the rest. Of a message that is
    /// larger than a limit, or for which there is no memory while the limits are exceeded, only the
    /// arrival is stored.
    pub fn keep(&mut self, at_ms: u64, client: &str, name: &str, payload: &[u8]) {
        if self.is_over_limit() {
            // Frees memory for the newest message, as far as one call may.
            self.evict_over_limit(EVICTED_FOR_ONE);
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
        if self.is_over_limit() {
            // Now, so that there is memory for the next message, even if it comes soon.
            self.evict_over_limit(
                usize::try_from(steps).map_or(GONE_FOR_LARGE, |steps| steps.min(GONE_FOR_LARGE)),
            );
        }
    }

    /// The oldest message of a topic with too many messages.
    fn first_beyond(&self, name: &str) -> Option<EntryId> {
        let list = self.topics.get(name).filter(|list| list.len() > self.per_topic)?;
        list.front().copied()
    }

    /// The next page. It examines a limited number of messages, so it may be empty even if others
    /// follow.
    pub fn page(&self, span: Span<'_>) -> Page {
        let newest = self.stored.newest().map_or(0, |id| id.0);
        let upto = span.upto.min(newest);
        let mut page = Page { items: Vec::new(), upto, next: None };
        let mut bytes = 0;
        // Returns whether there was space for the message.
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
            // A single topic: no other topic is examined.
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
        for (examined, (id, _, stored)) in behind.take_while(|(id, ..)| id.0 <= upto).enumerate() {
            if examined == PAGE_LOOKED_AT {
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

    /// How many messages of a topic, up to this number, come after a position on another shard.
    pub fn newer(&self, shard: u32, upto: u64, name: &str, place: Position) -> u32 {
        let Some(list) = self.topics.get(name) else { return 0 };
        let before = |id: &EntryId| {
            let at_ms = self.stored.get(*id).map_or(0, |stored| stored.at_ms);
            Position { at_ms, shard, number: id.0 } <= place
        };
        let end = list.partition_point(|id| id.0 <= upto);
        end.saturating_sub(list.partition_point(before)) as u32
    }

    /// The journal of changes for a reload.
    pub fn journal(&mut self) -> &mut Journal<u64> {
        &mut self.journal
    }

    /// The number of the next message.
    pub fn next_number(&self, after: Option<&u64>) -> Option<u64> {
        self.stored.iter_after(EntryId(after.copied().unwrap_or(0))).next().map(|(id, ..)| id.0)
    }

    /// Appends a message for the transfer; false if there is none.
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

    /// Takes over a message without checking the limits. Messages come in the order in which they
    /// were stored.
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

    /// Removes a message.
    pub fn remove(&mut self, number: u64) {
        let id = EntryId(number);
        if let Some(stored) = self.stored.remove(id) {
            self.journal.note(&number);
            forget_of(&mut self.topics, &stored.topic, &[(Arc::clone(&stored.topic), id)]);
        }
    }

    /// Removes all messages; `left` frees them.
    pub fn clear_into(&mut self, left: &mut DropQueue) {
        self.stored.clear_into(left);
        left.add(std::mem::take(&mut self.topics));
        self.checked_up_to = None;
    }

    /// Starts a check of all topics: they may have too many messages if the old version stored
    /// more.
    pub fn check_all_topics(&mut self) {
        self.checked_up_to = Some(Bound::Unbounded);
    }

    /// Whether the limits are exceeded.
    pub fn is_over_limit(&self) -> bool {
        self.checked_up_to.is_some() || self.stored.is_over_limit()
    }

    /// Removes messages until the limits are met, in at most this many steps. A step removes the
    /// oldest message of a topic, a client or all, or checks a topic. Returns whether more steps
    /// are needed.
    pub fn evict_over_limit(&mut self, steps: usize) -> bool {
        let mut left = steps;
        while left > 0
            && let Some(upto) = self.checked_up_to.take()
        {
            left -= 1;
            let next = self.topics.range::<Arc<str>, _>((upto.clone(), Bound::Unbounded)).next();
            let Some(name) = next.map(|(name, _)| Arc::clone(name)) else { break };
            // The topic is checked again until it has no message too many.
            self.checked_up_to = match self.first_beyond(&name) {
                Some(oldest) => {
                    self.remove(oldest.0);
                    Some(upto)
                }
                None => Some(Bound::Excluded(name)),
            };
        }
        let (mut gone, journal) = (Vec::new(), &mut self.journal);
        self.stored.evict_over_limit(left, |id, stored| {
            journal.note(&id.0);
            gone.push((stored.topic, id));
        });
        forget(&mut self.topics, gone);
        self.is_over_limit()
    }
}

/// Reads a message that `write` has written: time of arrival, client, topic and payload.
fn read_stored<'a>(reader: &mut Reader<'a>) -> Option<(u64, &'a str, &'a str, &'a [u8])> {
    Some((reader.number()?, reader.text()?, reader.text()?, reader.part()?))
}

/// Maximum number of messages that are removed from a list one by one, which moves their
/// neighbours. More are removed in one pass over the list.
const ONE_BY_ONE: usize = 64;

/// Removes messages from the lists of their topics.
fn forget(topics: &mut BTreeMap<Arc<str>, VecDeque<EntryId>>, mut gone: Vec<(Arc<str>, EntryId)>) {
    // All messages of a topic share its name.
    let name = |topic: &Arc<str>| Arc::as_ptr(topic).cast::<u8>();
    gone.sort_unstable_by_key(|(topic, id)| (name(topic), *id));
    for of_topic in gone.chunk_by(|(one, _), (other, _)| name(one) == name(other)) {
        if let Some((topic, _)) = of_topic.first() {
            forget_of(topics, topic, of_topic);
        }
    }
}

/// Removes messages, which are in order, from the list of one topic.
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
