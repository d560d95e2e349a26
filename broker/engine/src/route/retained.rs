//! The retained messages of one shard, by topic name (MQTT 5.0 section 3.3.1.3). The flows of the
//! shard that owns the topics call it. Of a message it uses only the size and the expiry; it routes
//! nothing.

mod walk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use walk::Walk;

/// Limits of one shard's retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Maximum number of messages.
    pub retained_messages_max: usize,
    /// Maximum bytes, as the caller counts them in [`Retained::set`], topic names included.
    pub retained_bytes_max: usize,
    /// Maximum number of messages of one holder.
    pub retained_client_messages_max: usize,
    /// Maximum bytes of one holder.
    pub retained_client_bytes_max: usize,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        RetainedLimits {
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            retained_client_messages_max: 250_000,
            retained_client_bytes_max: 1 << 28,
        }
    }
}

/// Why a message was not stored. The former message of the topic is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The shard has the maximum number of messages.
    #[error("the shard holds retained_messages_max = {0} retained messages; clear some or raise the limit")]
    Messages(usize),
    /// The message exceeds the remaining bytes.
    #[error(
        "the retained messages of the shard would exceed retained_bytes_max = {0}; clear some or raise the limit"
    )]
    Bytes(usize),
    /// The holder has the maximum number of messages.
    #[error(
        "one client has retained_client_messages_max = {0} retained messages on the shard; clear some or raise the limit"
    )]
    ClientMessages(usize),
    /// The message exceeds the remaining bytes of its holder.
    #[error(
        "the retained messages of one client on the shard would exceed retained_client_bytes_max = {0}; clear some or raise the limit"
    )]
    ClientBytes(usize),
}

/// The position of a scan. The scan can continue there, whatever was set and cleared in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first key that was not visited.
    from: String,
    /// Messages with a higher number are skipped.
    until: u64,
}

impl Cursor {
    /// Before the first message, for messages with a number up to `until`: a [`Retained::mark`], or
    /// `u64::MAX` for all.
    pub fn until(until: u64) -> Cursor {
        Cursor { from: String::new(), until }
    }

    /// From the [`Cursor::key`] of another cursor, for all messages. Any text is valid.
    pub fn from_key(key: &str) -> Cursor {
        Cursor { from: key.to_owned(), until: u64::MAX }
    }

    /// The position as text.
    pub fn key(&self) -> &str {
        &self.from
    }

    /// The same scan, continued at this topic.
    #[must_use]
    pub fn at(&self, topic: &str) -> Cursor {
        let mut from = String::with_capacity(topic.len());
        to_key(topic, &mut from);
        Cursor { from, until: self.until }
    }
}

/// The result of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Where to continue; `None` = all were visited.
    pub next: Option<Cursor>,
    /// Number of visited topics, matching or not.
    pub visited: usize,
}

struct Entry<T> {
    message: Arc<T>,
    /// As given by the caller; the topic name is counted in addition.
    bytes: usize,
    expires_at_ms: Option<u64>,
    /// The holder that is charged.
    holder: Arc<str>,
    /// See [`Retained::mark`].
    number: u64,
}

/// The charge of a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charge {
    messages: usize,
    bytes: usize,
}

/// A topic name as a key: each `/` becomes U+0000, which no topic name contains [MQTT-4.7.3-2] and
/// which sorts before all other characters. So keys have the order of a tree walk: each branch is
/// one range, directly after its root.
type Key = Rc<str>;

/// The retained messages of one shard.
pub struct Retained<T> {
    limits: RetainedLimits,
    entries: BTreeMap<Key, Entry<T>>,
    /// The keys of messages that expire, by time.
    expiries: BTreeSet<(u64, Key)>,
    bytes: usize,
    /// The charge of each holder; only holders with messages are stored.
    holders: HashMap<Arc<str>, Charge, ahash::RandomState>,
    /// How many messages have been set or cleared.
    count: u64,
    scratch: String,
}

impl<T> Retained<T> {
    /// An empty store; `hasher` is keyed, because clients choose the names of holders.
    pub fn new(limits: RetainedLimits, hasher: ahash::RandomState) -> Self {
        Retained {
            limits,
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            holders: HashMap::with_hasher(hasher),
            count: 0,
            scratch: String::new(),
        }
    }

    /// Replaces the limits. Messages that are stored stay, also if they are more than that.
    pub fn set_limits(&mut self, limits: RetainedLimits) {
        self.limits = limits;
    }

    /// Number of messages, those included that have expired and wait for [`Retained::expire`].
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all messages as given to [`Retained::set`], and of their topic names.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores a message for a topic name and returns the one it replaces [MQTT-3.3.1-5].
    ///
    /// `bytes` is the size of the message; `expires_at_ms` is on the clock of the caller. The
    /// caller must handle an empty payload, which clears the topic [MQTT-3.3.1-6]. The message is
    /// charged to `holder`, and the charge of the replaced one ends. An empty holder name has no
    /// limit of its own.
    ///
    /// # Errors
    /// [`Full`] if a limit would be exceeded; the message that it would have replaced is unchanged.
    pub fn set(
        &mut self,
        topic: &str,
        message: Arc<T>,
        bytes: usize,
        expires_at_ms: Option<u64>,
        holder: &Arc<str>,
    ) -> Result<Option<Arc<T>>, Full> {
        to_key(topic, &mut self.scratch);
        let old = self.entries.get_mut(self.scratch.as_str());
        let freed = old.as_ref().map_or(0, |old| old.bytes + topic.len());
        let total = (self.bytes - freed).saturating_add(bytes).saturating_add(topic.len());
        if total > self.limits.retained_bytes_max {
            return Err(Full::Bytes(self.limits.retained_bytes_max));
        }
        if !holder.is_empty() {
            let mut charge = self.holders.get(holder).copied().unwrap_or_default();
            if old.as_ref().is_some_and(|old| old.holder == *holder) {
                charge.messages -= 1;
                charge.bytes -= freed;
            }
            if charge.messages >= self.limits.retained_client_messages_max {
                return Err(Full::ClientMessages(self.limits.retained_client_messages_max));
            }
            if charge.bytes.saturating_add(bytes + topic.len()) > self.limits.retained_client_bytes_max {
                return Err(Full::ClientBytes(self.limits.retained_client_bytes_max));
            }
        }
        let new = Entry { message, bytes, expires_at_ms, holder: Arc::clone(holder), number: self.count + 1 };
        let Some(old) = old else {
            if self.entries.len() >= self.limits.retained_messages_max {
                return Err(Full::Messages(self.limits.retained_messages_max));
            }
            let key = Key::from(self.scratch.as_str());
            self.expiries.extend(expires_at_ms.map(|at| (at, Rc::clone(&key))));
            self.entries.insert(key, new);
            self.bytes = total;
            self.count += 1;
            charge(&mut self.holders, holder, bytes + topic.len());
            return Ok(None);
        };
        let old = std::mem::replace(old, new);
        self.bytes = total;
        self.count += 1;
        reduce_charge(&mut self.holders, &old.holder, freed);
        charge(&mut self.holders, holder, bytes + topic.len());
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

    /// Removes the message of a topic [MQTT-3.3.1-6]. A clear has a number too, even if there was
    /// no message.
    pub fn clear(&mut self, topic: &str) -> Option<Arc<T>> {
        self.count += 1;
        to_key(topic, &mut self.scratch);
        let (key, entry) = self.entries.remove_entry(self.scratch.as_str())?;
        self.bytes -= entry.bytes + key.len();
        reduce_charge(&mut self.holders, &entry.holder, entry.bytes + key.len());
        if let Some(at) = entry.expires_at_ms {
            self.expiries.remove(&(at, key));
        }
        Some(entry.message)
    }

    /// The message of a topic; `None` if it has expired at `now_ms`.
    pub fn get(&mut self, topic: &str, now_ms: u64) -> Option<&Arc<T>> {
        to_key(topic, &mut self.scratch);
        self.entries
            .get(self.scratch.as_str())
            .filter(|entry| entry.is_alive(now_ms))
            .map(|entry| &entry.message)
    }

    /// The number of the last set or clear, from 1 on, rising. A message with a number up to this
    /// mark was set before it. A scan up to the mark skips all messages set later.
    pub fn mark(&self) -> u64 {
        self.count
    }

    /// Passes messages whose topic names match the filter, with their numbers, to `take`, in the
    /// order of the tree. If `take` does not accept a message, the scan ends, and its cursor
    /// continues with that message.
    ///
    /// `budget` limits the visited topics, matching or not (at least one, so that every slice makes
    /// progress). A message that exists throughout the scan is found once; one that is set or
    /// cleared during it may be missed. Messages that have expired at `now_ms` are skipped.
    pub fn scan(
        &self,
        filter: &str,
        cursor: Cursor,
        budget: usize,
        now_ms: u64,
        mut take: impl FnMut(u64, &Arc<T>) -> bool,
    ) -> Scanned {
        let Cursor { from, until } = cursor;
        let mut walk = Walk::new(filter, from);
        let budget = budget.max(1);
        let mut visited = 0;
        'seek: loop {
            let ahead = (Bound::Included(walk.from()), Bound::Unbounded);
            for (key, entry) in self.entries.range::<str, _>(ahead) {
                if **key < *walk.from() {
                    // The next match is beyond the next key: seeks there instead of visiting all
                    // keys between.
                    continue 'seek;
                }
                if visited == budget {
                    return Scanned { next: Some(Cursor { from: key.to_string(), until }), visited };
                }
                visited += 1;
                let visit = walk.visit(key);
                let is_wanted = visit.matches && entry.number <= until && entry.is_alive(now_ms);
                if is_wanted && !take(entry.number, &entry.message) {
                    return Scanned { next: Some(Cursor { from: key.to_string(), until }), visited };
                }
                if visit.last {
                    return Scanned { next: None, visited };
                }
            }
            return Scanned { next: None, visited };
        }
    }

    /// Whether a message may match the filter: false only if none does. Visits at most `budget`
    /// topics; also returns how many.
    pub fn may_match(&self, filter: &str, budget: usize, now_ms: u64) -> (bool, usize) {
        let Scanned { next, visited } =
            self.scan(filter, Cursor::until(u64::MAX), budget, now_ms, |_, _| false);
        (next.is_some(), visited)
    }

    /// Removes up to `budget` messages that have expired at `now_ms`, the oldest first, and passes
    /// each with its topic name to `gone`. Returns how many; fewer than `budget` means that there
    /// are no more.
    pub fn expire(&mut self, now_ms: u64, budget: usize, mut gone: impl FnMut(&str, Arc<T>)) -> usize {
        for done in 0..budget {
            if self.expiries.first().is_none_or(|(at, _)| *at > now_ms) {
                return done;
            }
            let Some((_, key)) = self.expiries.pop_first() else { return done };
            if let Some(entry) = self.entries.remove(&key) {
                self.bytes -= entry.bytes + key.len();
                reduce_charge(&mut self.holders, &entry.holder, entry.bytes + key.len());
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

fn charge(holders: &mut HashMap<Arc<str>, Charge, ahash::RandomState>, holder: &Arc<str>, bytes: usize) {
    if holder.is_empty() {
        return;
    }
    let charge = holders.entry(Arc::clone(holder)).or_default();
    charge.messages += 1;
    charge.bytes += bytes;
}

fn reduce_charge(holders: &mut HashMap<Arc<str>, Charge, ahash::RandomState>, holder: &str, bytes: usize) {
    let Some(charge) = holders.get_mut(holder) else { return };
    charge.messages -= 1;
    charge.bytes -= bytes;
    if charge.messages == 0 {
        holders.remove(holder);
    }
}

fn to_key(topic: &str, key: &mut String) {
    swap_chars(topic, b'/', '\0', key);
}

fn to_topic(key: &str, topic: &mut String) {
    swap_chars(key, 0, '/', topic);
}

/// Writes the text with another character for `old`, which is ASCII.
fn swap_chars(text: &str, old: u8, new: char, out: &mut String) {
    out.clear();
    let mut rest = text;
    while let Some((part, after)) =
        rest.bytes().position(|byte| byte == old).and_then(|at| Some((rest.get(..at)?, rest.get(at + 1..)?)))
    {
        out.push_str(part);
        out.push(new);
        rest = after;
    }
    out.push_str(rest);
}
