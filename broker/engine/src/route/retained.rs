//! The retained messages of one shard, by topic name (MQTT 5.0 section 3.3.1.3). Called by the pipeline of the shard
//! that owns the topics. Knows nothing of the messages but their size and when they expire; routes nothing.

mod walk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use walk::Walk;

/// Bounds of one shard's retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Messages.
    pub retained_messages_max: usize,
    /// Bytes, as the caller counts them in [`Retained::set`], topic names included.
    pub retained_bytes_max: usize,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        RetainedLimits { retained_messages_max: 1_000_000, retained_bytes_max: 1 << 30 }
    }
}

/// Why a message was not stored. Whatever the topic had before is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The shard holds as many messages as it may.
    #[error("the shard holds retained_messages_max = {0} retained messages; clear some or raise the limit")]
    Messages(usize),
    /// The message does not fit into what is left.
    #[error(
        "the retained messages of the shard would exceed retained_bytes_max = {0}; clear some or raise the limit"
    )]
    Bytes(usize),
}

/// How far a scan has come. The scan goes on there whatever has been set and cleared in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The first key that has not been looked at.
    from: String,
    /// Messages set after this one, by their number, are passed over.
    until: Option<u64>,
}

struct Entry<T> {
    message: Arc<T>,
    /// As given by the caller; the topic name counts on top.
    bytes: usize,
    expires_at_ms: Option<u64>,
    /// How many messages had been set before.
    number: u64,
}

/// A topic name as a key: each `/` is U+0000, which no topic name contains [MQTT-4.7.3-2] and which sorts before all else.
/// So the order of keys is the order of a walk through the tree of levels: each branch is one range, right after its root.
type Key = Rc<str>;

/// The retained messages of one shard.
pub struct Retained<T> {
    limits: RetainedLimits,
    entries: BTreeMap<Key, Entry<T>>,
    /// The keys of messages that expire, by time.
    expiries: BTreeSet<(u64, Key)>,
    bytes: usize,
    /// How many messages have been set.
    count: u64,
    scratch: String,
}

impl<T> Retained<T> {
    /// An empty store.
    pub fn new(limits: RetainedLimits) -> Self {
        Retained {
            limits,
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            count: 0,
            scratch: String::new(),
        }
    }

    /// Number of messages, those included that have expired and wait for [`Retained::expire`].
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all messages as given to [`Retained::set`], and of their topic names.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores a message for a topic name and returns the one it replaces [MQTT-3.3.1-5].
    ///
    /// `bytes` is what the message counts for; `expires_at_ms` is on whatever clock the caller keeps to. A message with an empty payload is not
    /// stored but clears its topic [MQTT-3.3.1-6]: that is the caller's to see.
    ///
    /// # Errors
    /// [`Full`] if a limit would be exceeded; the message it should have replaced is then still there.
    pub fn set(
        &mut self,
        topic: &str,
        message: Arc<T>,
        bytes: usize,
        expires_at_ms: Option<u64>,
    ) -> Result<Option<Arc<T>>, Full> {
        to_key(topic, &mut self.scratch);
        let old = self.entries.get_mut(self.scratch.as_str());
        let freed = old.as_ref().map_or(0, |old| old.bytes + topic.len());
        let total = (self.bytes - freed).saturating_add(bytes).saturating_add(topic.len());
        if total > self.limits.retained_bytes_max {
            return Err(Full::Bytes(self.limits.retained_bytes_max));
        }
        let new = Entry { message, bytes, expires_at_ms, number: self.count };
        let Some(old) = old else {
            if self.entries.len() >= self.limits.retained_messages_max {
                return Err(Full::Messages(self.limits.retained_messages_max));
            }
            let key = Key::from(self.scratch.as_str());
            self.expiries.extend(expires_at_ms.map(|at| (at, Rc::clone(&key))));
            self.entries.insert(key, new);
            self.bytes = total;
            self.count += 1;
            return Ok(None);
        };
        let old = std::mem::replace(old, new);
        self.bytes = total;
        self.count += 1;
        if old.expires_at_ms != expires_at_ms
            && let Some((key, _)) = self.entries.get_key_value(self.scratch.as_str())
        {
            if let Some(at) = old.expires_at_ms {
                self.expiries.remove(&(at, Rc::clone(key)));
            }
            self.expiries.extend(expires_at_ms.map(|at| (at, Rc::clone(key))));
        }
        Ok(Some(old.message))
    }

    /// Takes a topic's message out [MQTT-3.3.1-6].
    pub fn clear(&mut self, topic: &str) -> Option<Arc<T>> {
        to_key(topic, &mut self.scratch);
        let (key, entry) = self.entries.remove_entry(self.scratch.as_str())?;
        self.bytes -= entry.bytes + key.len();
        if let Some(at) = entry.expires_at_ms {
            self.expiries.remove(&(at, key));
        }
        Some(entry.message)
    }

    /// A topic's message, unless it has expired at `now_ms`.
    pub fn get(&mut self, topic: &str, now_ms: u64) -> Option<&Arc<T>> {
        to_key(topic, &mut self.scratch);
        self.entries
            .get(self.scratch.as_str())
            .filter(|entry| entry.is_alive(now_ms))
            .map(|entry| &entry.message)
    }

    /// Where a scan begins that passes over all messages set from now on: who asks gets those live.
    pub fn mark(&self) -> Cursor {
        Cursor { from: String::new(), until: Some(self.count) }
    }

    /// Appends messages whose topic names match the filter, in the order of the tree, and returns where to go on;
    /// `None` = done. A new scan begins with [`Retained::mark`], or with `Cursor::default()` to see what is set during it too.
    ///
    /// `budget` bounds the topics looked at, found or not (at least one, so that every slice gets on). A message that
    /// is there throughout the scan is found once; one that is set or cleared during it may or may not be. Those that
    /// have expired at `now_ms` are passed over.
    pub fn scan(
        &self,
        filter: &str,
        cursor: Cursor,
        budget: usize,
        now_ms: u64,
        out: &mut Vec<Arc<T>>,
    ) -> Option<Cursor> {
        let Cursor { from, until } = cursor;
        let mut walk = Walk::new(filter, from);
        let mut left = budget.max(1);
        'seek: loop {
            let ahead = (Bound::Included(walk.from()), Bound::Unbounded);
            for (key, entry) in self.entries.range::<str, _>(ahead) {
                if **key < *walk.from() {
                    // The next match is further on than the next key: a new descent instead of a walk over all between.
                    continue 'seek;
                }
                if left == 0 {
                    return Some(Cursor { from: key.to_string(), until });
                }
                left -= 1;
                let visit = walk.visit(key);
                let is_older = until.is_none_or(|until| entry.number < until);
                if visit.matches && is_older && entry.is_alive(now_ms) {
                    out.push(Arc::clone(&entry.message));
                }
                if visit.last {
                    return None;
                }
            }
            return None;
        }
    }

    /// Takes out up to `budget` messages that have expired at `now_ms`, the oldest first, and hands over
    /// each with its topic name. Returns how many; fewer than `budget` means that no more have.
    pub fn expire(&mut self, now_ms: u64, budget: usize, mut gone: impl FnMut(&str, Arc<T>)) -> usize {
        for done in 0..budget {
            if self.expiries.first().is_none_or(|(at, _)| *at > now_ms) {
                return done;
            }
            let Some((_, key)) = self.expiries.pop_first() else { return done };
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= entry.bytes + key.len();
                to_topic(&key, &mut self.scratch);
                gone(&self.scratch, entry.message);
            }
        }
        budget
    }

    /// When the next message expires, in milliseconds of the caller's clock.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(at, _)| *at)
    }
}

impl<T> Entry<T> {
    fn is_alive(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|at| at > now_ms)
    }
}

fn to_key(topic: &str, key: &mut String) {
    swap_chars(topic, '/', '\0', key);
}

fn to_topic(key: &str, topic: &mut String) {
    swap_chars(key, '\0', '/', topic);
}

fn swap_chars(text: &str, old: char, new: char, out: &mut String) {
    out.clear();
    for (nth, part) in text.split(old).enumerate() {
        if nth > 0 {
            out.push(new);
        }
        out.push_str(part);
    }
}
