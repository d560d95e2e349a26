//! The messages that one shard holds, ordered by due time, until the broker has answered for them.
//! Knows no clock and no broker, except for the metrics.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use grapnel_plugin_abi::{
    EntryId, Error, Full, Host, Journal, Leftovers, ShareLimits, Shares, Weigh, allocated, tree_entry_bytes,
};

use crate::delayed::DelayedMessage;
use crate::queues::{BYTES_OF_CLIENT, BYTES_OF_EACH, Queues};

/// When a message is due, milliseconds of a clock that is never set, and its number, which it keeps in the version that takes over.
pub type Due = (u64, u64);

/// Most messages that come into their clients' queues for one that may be published.
const QUEUED_AT_ONCE: usize = 256;

/// A message: as the bytes that it is handed over in, which are one piece of memory.
#[derive(Debug)]
struct StoredMessage {
    due: Due,
    bytes: Box<[u8]>,
    /// When it was published first; 0 for never.
    tried_ms: Cell<u64>,
}

/// Bytes that a message takes from when it was published first until it has gone.
const BYTES_OF_PUBLISHED: u64 = tree_entry_bytes(size_of::<(u64, EntryId)>());

impl Weigh for StoredMessage {
    fn heap_bytes(&self) -> u64 {
        allocated(self.bytes.len())
    }
}

/// The messages of a shard: those of a client that are due at the same time in the order in which they came.
#[derive(Debug)]
pub struct Store {
    stored: Shares<StoredMessage>,
    due: BTreeMap<Due, EntryId>,
    /// Those up to this one are in their clients' queues.
    queued: Due,
    queues: Queues,
    /// Those that have been published, by the number that the answer has.
    published: BTreeMap<u64, EntryId>,
    /// The highest number of a message.
    last: u64,
    journal: Journal<Due>,
}

impl Store {
    /// Without messages, within these limits. Numbers of messages begin behind this one: in each version behind those of the version
    /// before, whose answers may still come.
    pub fn new(limits: ShareLimits, last: u64) -> Store {
        let held = Shares::new(limits)
            .beside_each(tree_entry_bytes(size_of::<(Due, EntryId)>()) + BYTES_OF_EACH)
            .beside_owner(BYTES_OF_CLIENT);
        let (queues, journal) = (Queues::default(), Journal::default());
        let (due, published) = (BTreeMap::new(), BTreeMap::new());
        Store { stored: held, due, queued: (0, 0), queues, published, last, journal }
    }

    /// Shown in `/metrics`.
    #[must_use]
    pub fn with_metrics(self, host: &Host) -> Store {
        Store { stored: self.stored.with_metrics(host, "waiting_messages"), ..self }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Keeps a message until then, for the client that it is from.
    ///
    /// # Errors
    /// The limit that it would pass, the client's or that of all.
    pub fn store(&mut self, due_ms: u64, delayed: &DelayedMessage) -> Result<(), Full> {
        let due = (due_ms, self.last + 1);
        let stored = StoredMessage { due, bytes: delayed.bytes(), tried_ms: Cell::new(0) };
        let id = self.stored.insert(&delayed.from, stored).map_err(|rejected| rejected.full)?;
        self.last += 1;
        self.journal.note(&due);
        self.add(due, id);
        Ok(())
    }

    fn add(&mut self, due: Due, id: EntryId) {
        self.due.insert(due, id);
        if due <= self.queued {
            self.queue(due, id);
        }
    }

    fn queue(&mut self, due: Due, id: EntryId) {
        // What the version before has published waits for its answer.
        if let Some(client) =
            self.stored.owner_name(id).filter(|client| !self.queues.is_unanswered(client, due))
        {
            self.queues.push(client, due);
        }
    }

    /// The message that may be published next; it stays. `None` where there is none now.
    pub fn next(&mut self, now_ms: u64) -> Option<(EntryId, DelayedMessage)> {
        self.queues.wake(now_ms);
        for _ in 0..QUEUED_AT_ONCE {
            // What is in the queues was due before what is not.
            if self.queues.first().is_some() {
                break;
            }
            let (due, id) = self.next_queued().filter(|((due_ms, _), _)| *due_ms <= now_ms)?;
            self.queued = due;
            self.queue(due, id);
        }
        let id = *self.due.get(&self.queues.first()?)?;
        match self.read(id) {
            Some(delayed) => Some((id, delayed)),
            // What was kept can be read; if it ever cannot, it is in nobody's way.
            None => {
                self.end(id);
                None
            }
        }
    }

    fn next_queued(&self) -> Option<(Due, EntryId)> {
        self.due.range((Excluded(self.queued), Unbounded)).next().map(|(due, id)| (*due, *id))
    }

    /// A message.
    pub fn read(&self, id: EntryId) -> Option<DelayedMessage> {
        DelayedMessage::of(&self.stored.get(id)?.bytes)
    }

    /// When the next one may be published or looked at, if nothing comes of what is on its way.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let ready = self.queues.first().map(|_| now_ms);
        let due = self.next_queued().map(|((due_ms, _), _)| due_ms);
        ready.into_iter().chain(due).chain(self.queues.next_ms()).min()
    }

    /// A message has been published, and what became of it is waited for until then.
    pub fn published(&mut self, id: EntryId, now_ms: u64, until_ms: u64) {
        if let Some(stored) = self.stored.get(id).filter(|stored| stored.tried_ms.get() == 0) {
            stored.tried_ms.set(now_ms);
        }
        if let Some((client, due)) = self.place_of(id) {
            self.queues.published(&client, due, until_ms);
            self.note_published(due, id);
            self.journal.note(&due);
        }
    }

    fn note_published(&mut self, due: Due, id: EntryId) {
        self.published.insert(due.1, id);
        self.stored.charge(id, BYTES_OF_PUBLISHED);
    }

    /// The number that the answer to a message has: no other message of this or an earlier version has it.
    pub fn number_of(&self, id: EntryId) -> Option<u64> {
        self.stored.get(id).map(|stored| stored.due.1)
    }

    /// The message that was published and has this number.
    pub fn of_number(&self, number: u64) -> Option<EntryId> {
        self.published.get(&number).copied()
    }

    /// The broker had no room for a message, or nobody knows what became of it: it is published again after a pause. False for
    /// one whose answer has been there, or that has gone.
    pub fn put_off(&mut self, id: EntryId, now_ms: u64) -> bool {
        let Some((client, due)) = self.place_of(id) else { return false };
        let unanswered = self.queues.is_unanswered(&client, due);
        if unanswered {
            self.queues.put_off(&client, due, now_ms);
            self.journal.note(&due);
        }
        unanswered
    }

    /// A message that is waited for for too long.
    pub fn late(&self, now_ms: u64) -> Option<EntryId> {
        self.due.get(&self.queues.late(now_ms)?).copied()
    }

    /// What becomes of it is waited for until then.
    pub fn wait_on(&mut self, id: EntryId, until_ms: u64) {
        if let Some((client, due)) = self.place_of(id) {
            self.queues.wait_on(&client, due, until_ms);
        }
    }

    /// How long ago a message was published first.
    pub fn tried_for_ms(&self, id: EntryId, now_ms: u64) -> Option<u64> {
        let tried_ms = self.stored.get(id)?.tried_ms.get();
        (tried_ms > 0).then(|| now_ms.saturating_sub(tried_ms))
    }

    /// The broker has taken a message: it goes.
    pub fn taken(&mut self, id: EntryId) {
        if let Some((client, _)) = self.place_of(id) {
            self.queues.taken(&client);
            self.end(id);
        }
    }

    /// A message goes, whatever became of it.
    pub fn end(&mut self, id: EntryId) {
        if let Some((_, due)) = self.place_of(id) {
            self.journal.note(&due);
            self.remove(&due);
        }
    }

    fn place_of(&self, id: EntryId) -> Option<(Arc<str>, Due)> {
        Some((Arc::clone(self.stored.owner_name(id)?), self.stored.get(id)?.due))
    }

    /// What has changed since it went over.
    pub fn journal(&mut self) -> &mut Journal<Due> {
        &mut self.journal
    }

    /// The message that is due after this one.
    pub fn next_due(&self, after: Option<&Due>) -> Option<Due> {
        let from = after.map_or(Unbounded, |after| Excluded(*after));
        self.due.range((from, Unbounded)).next().map(|(due, _)| *due)
    }

    /// Appends a message as it goes over; false where there is none.
    pub fn write(&self, due: &Due, out: &mut Vec<u8>) -> bool {
        let Some(id) = self.due.get(due).copied() else { return false };
        let (Some(stored), Some(client)) = (self.stored.get(id), self.stored.owner_name(id)) else {
            return false;
        };
        out.push(u8::from(self.queues.is_unanswered(client, *due)));
        out.extend(stored.tried_ms.get().to_le_bytes());
        out.extend_from_slice(&stored.bytes);
        true
    }

    /// Takes a message over. What was acknowledged stays, also beyond limits that are lower now. One that is published and not
    /// answered is answered to this version: that is waited for until then.
    pub fn put(&mut self, due: Due, value: &[u8], until_ms: u64) -> Result<(), Error> {
        let read = || {
            let (unanswered, value) = value.split_first()?;
            let (tried_ms, bytes) = value.split_first_chunk()?;
            Some((*unanswered != 0, u64::from_le_bytes(*tried_ms), bytes, DelayedMessage::of(bytes)?))
        };
        let read = read().ok_or_else(|| Error::new("a message of the version before cannot be read"))?;
        let (unanswered, tried_ms, bytes, delayed) = read;
        self.remove(&due);
        self.last = self.last.max(due.1);
        let stored = StoredMessage { due, bytes: bytes.into(), tried_ms: Cell::new(tried_ms) };
        let id = self.stored.restore(&delayed.from, stored);
        if tried_ms > 0 {
            self.note_published(due, id);
        }
        if let Some(client) = self.stored.owner_name(id).filter(|_| unanswered) {
            self.queues.take_over_published(client, due, until_ms);
        }
        self.add(due, id);
        Ok(())
    }

    /// Lets go of a message.
    pub fn remove(&mut self, due: &Due) {
        if let Some(id) = self.due.remove(due) {
            if let Some(client) = self.stored.owner_name(id) {
                self.queues.remove(client, *due);
            }
            self.published.remove(&due.1);
            if self.published.is_empty() {
                // An empty tree keeps a node.
                self.published = BTreeMap::new();
            }
            self.stored.remove(id);
        }
    }

    /// Lets go of all; `left` frees it.
    pub fn clear_into(&mut self, left: &mut Leftovers) {
        self.stored.clear_into(left);
        left.add(std::mem::take(&mut self.due));
        left.add(std::mem::take(&mut self.published));
        std::mem::take(&mut self.queues).clear_into(left);
        self.queued = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LIMITS: ShareLimits = ShareLimits {
        entries_max: 900,
        bytes_max: 1 << 20,
        owner_entries_max: 900,
        owner_bytes_max: 1 << 20,
    };

    fn held(topic: &str) -> DelayedMessage {
        DelayedMessage {
            from: "me".to_owned(),
            identity: None,
            topic: topic.to_owned(),
            payload: vec![0, 255],
            qos: 2,
            retain: true,
            payload_format: Some(0),
            expiry_s: 7,
            content_type: Some(String::new()),
            response_topic: "answer".to_owned(),
            correlation_data: Some(vec![1]),
            user_properties: vec![("k".to_owned(), "v".to_owned()), (String::new(), "ü".to_owned())],
        }
    }

    /// The topics of what may be published now. The broker takes it at once, in this order.
    fn take(store: &mut Store, now_ms: u64) -> Vec<DelayedMessage> {
        let mut came = Vec::new();
        while let Some((id, delayed)) = store.next(now_ms) {
            store.published(id, now_ms, now_ms + 1);
            store.taken(id);
            came.push(delayed);
        }
        came
    }

    #[test]
    fn messages_leave_when_they_are_due_and_in_order() {
        let mut store = Store::new(LIMITS, 0);
        for (due_ms, topic) in [(20, "b"), (10, "a"), (20, "c"), (30, "d")] {
            store.store(due_ms, &held(topic)).unwrap();
        }
        assert_eq!((store.len(), store.next_ms(0)), (4, Some(10)));
        assert_eq!(take(&mut store, 9), []);
        assert_eq!(take(&mut store, 29), ["a", "b", "c"].map(held));
        assert_eq!((store.len(), store.next_ms(29)), (1, Some(30)));
        assert_eq!(take(&mut store, 30), [held("d")]);
        assert_eq!((store.len(), store.stored.bytes(), store.next_ms(99)), (0, 0, None));
    }

    /// It is held until the broker has taken it, and leaves nothing behind.
    #[test]
    fn a_message_stays_until_it_has_been_taken() {
        let mut store = Store::new(LIMITS, 0);
        store.store(10, &held("a")).unwrap();
        let (id, _) = store.next(10).unwrap();
        store.published(id, 10, 500);
        assert_eq!((store.next(10), store.len(), store.late(499)), (None, 1, None));
        assert_eq!(store.late(500), Some(id));
        store.wait_on(id, 600);
        assert_eq!((store.late(599), store.next_ms(20)), (None, Some(600)));
        assert!(store.put_off(id, 600));
        assert!(!store.put_off(id, 600), "once for each answer");
        assert_eq!((store.next(699), store.next_ms(650)), (None, Some(700)));
        // What came too late has come all the same.
        assert_eq!(store.next(700).unwrap().0, id);
        store.taken(id);
        assert_eq!((store.len(), store.stored.bytes(), store.next_ms(700)), (0, 0, None));
    }

    /// However many a client has that cannot be published, one that comes behind them is found by a bounded amount of work.
    #[test]
    fn a_client_that_waits_is_passed_by_in_slices() {
        let mut store = Store::new(ShareLimits { bytes_max: 1 << 30, owner_bytes_max: 1 << 30, ..LIMITS }, 0);
        let count = 3 * QUEUED_AT_ONCE;
        (0..count).for_each(|_| store.store(10, &DelayedMessage::default()).unwrap());
        store.store(11, &held("of another client")).unwrap();
        let (first, _) = store.next(20).unwrap();
        store.published(first, 20, 99);
        store.put_off(first, 20);
        let mut looks = 0;
        let found = loop {
            looks += 1;
            match store.next(20) {
                Some((_, found)) => break found,
                None => assert!(store.next_ms(20) <= Some(20), "it goes on at once"),
            }
        };
        assert_eq!((found.topic.as_str(), looks), ("of another client", 3));
    }

    #[test]
    fn what_is_handed_over_is_read_whole_or_refused() {
        let mut store = Store::new(LIMITS, 0);
        store.store(20, &held("b")).unwrap();
        store.store(10, &DelayedMessage::default()).unwrap();
        // The limits are lower by now.
        let mut read = Store::new(ShareLimits { entries_max: 1, ..LIMITS }, 0);
        let mut due = None;
        while let Some(next) = store.next_due(due.as_ref()) {
            let mut value = Vec::new();
            assert!(store.write(&next, &mut value));
            // Twice is once.
            (0..2).for_each(|_| read.put(next, &value, 0).unwrap());
            let error = read.put(next, &value[1..], 0).unwrap_err().to_string();
            assert_eq!(error, "a message of the version before cannot be read");
            due = Some(next);
        }
        assert!(!store.write(&(20, 2), &mut Vec::new()), "no such message");
        assert_eq!((read.stored.bytes(), read.len()), (store.stored.bytes(), 2));
        assert_eq!(take(&mut read, 99), [DelayedMessage::default(), held("b")]);
        // What comes back unpublished after it was published is published again.
        let unpublished = [&[0; 9][..], &DelayedMessage::default().bytes()].concat();
        read.put((10, 2), &unpublished, 0).unwrap();
        assert_eq!((read.len(), take(&mut read, 99)), (1, vec![DelayedMessage::default()]));
        read.put((10, 2), &unpublished, 0).unwrap();
        let mut left = Leftovers::default();
        read.clear_into(&mut left);
        assert_eq!((read.len(), read.stored.bytes(), read.next_ms(99)), (0, 0, None));
        while left.free(1) {}
    }

    /// 64 empty user properties are some 500 bytes, and a client has the memory of its share and no more.
    #[test]
    fn a_client_is_charged_with_what_is_really_held() {
        let heavy = DelayedMessage { user_properties: vec![Default::default(); 64], ..held("a") };
        assert!(heavy.bytes().len() > 64 * 8);
        let mut store = Store::new(ShareLimits { owner_bytes_max: 3000, ..LIMITS }, 0);
        assert_eq!([store.store(1, &heavy), store.store(1, &heavy)], [Ok(()); 2]);
        assert_eq!(store.store(1, &heavy), Err(Full::OwnerBytes(3000)));
        assert_eq!(store.store(1, &DelayedMessage { from: "you".to_owned(), ..heavy }), Ok(()));
    }
}
