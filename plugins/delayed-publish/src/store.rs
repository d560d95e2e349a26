//! The messages that one shard stores, ordered by due time, until the broker has replied to their
//! publishing. Independent of the clock and the broker, except for the metrics.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use grapnel_plugin_abi::{
    DropQueue, EntryId, Error, Full, Host, Journal, ShareLimits, Shares, Weigh, allocated, tree_entry_bytes,
};

use crate::delayed::DelayedMessage;
use crate::queues::{BYTES_OF_CLIENT, BYTES_OF_EACH, Queues};

/// The due time of a message, milliseconds of a monotonic clock, and its number, which stays the
/// same in the version that takes over.
pub type Due = (u64, u64);

/// Maximum number of messages that are moved into their clients' queues to find one that may be
/// published.
const QUEUED_AT_ONCE: usize = 256;

/// A message, as its encoded bytes in a single allocation.
#[derive(Debug)]
struct StoredMessage {
    due: Due,
    bytes: Box<[u8]>,
    /// Time of the first publish; 0 for never.
    tried_ms: Cell<u64>,
}

/// Bytes that a message uses from its first publish until it is removed.
const BYTES_OF_PUBLISHED: u64 = tree_entry_bytes(size_of::<(u64, EntryId)>());

impl Weigh for StoredMessage {
    fn heap_bytes(&self) -> u64 {
        allocated(self.bytes.len())
    }
}

/// The messages of a shard. Messages of a client with the same due time stay in order of arrival.
#[derive(Debug)]
pub struct Store {
    stored: Shares<StoredMessage>,
    due: BTreeMap<Due, EntryId>,
    /// All messages up to this one are in their clients' queues.
    queued: Due,
    queues: Queues,
    /// Published messages, by the number of the reply.
    published: BTreeMap<u64, EntryId>,
    /// The highest number of a message.
    last: u64,
    journal: Journal<Due>,
}

impl Store {
    /// An empty store with these limits. Numbers of messages begin after `last`: each version
    /// begins after the numbers of the old version, whose replies may still come.
    pub fn new(limits: ShareLimits, last: u64) -> Store {
        let held = Shares::new(limits)
            .beside_each(tree_entry_bytes(size_of::<(Due, EntryId)>()) + BYTES_OF_EACH)
            .beside_owner(BYTES_OF_CLIENT);
        let (queues, journal) = (Queues::default(), Journal::default());
        let (due, published) = (BTreeMap::new(), BTreeMap::new());
        Store { stored: held, due, queued: (0, 0), queues, published, last, journal }
    }

    /// Shows the usage in `/metrics`.
    #[must_use]
    pub fn with_metrics(self, host: &Host) -> Store {
        Store { stored: self.stored.with_metrics(host, "waiting_messages"), ..self }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// Stores a message until its due time, for its publisher.
    ///
    /// # Errors
    /// The limit that it would exceed: the client's, its account's or the total.
    pub fn store(&mut self, due_ms: u64, delayed: &DelayedMessage) -> Result<(), Full> {
        let due = (due_ms, self.last + 1);
        let stored = StoredMessage { due, bytes: delayed.bytes(), tried_ms: Cell::new(0) };
        let account = delayed.account();
        let stored = self.stored.insert_for(account.as_deref(), &delayed.from, stored);
        let id = stored.map_err(|rejected| rejected.full)?;
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
        // A message that the old version has published waits for its reply.
        if let Some(client) =
            self.stored.owner_name(id).filter(|client| !self.queues.is_unanswered(client, due))
        {
            self.queues.push(client, due);
        }
    }

    /// The next message to publish; it stays stored. `None` if there is none now.
    pub fn next(&mut self, now_ms: u64) -> Option<(EntryId, DelayedMessage)> {
        self.queues.wake(now_ms);
        for _ in 0..QUEUED_AT_ONCE {
            // All messages in the queues are due earlier than the others.
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
            // Stored bytes can always be decoded. If they ever cannot, the message must not block
            // others.
            None => {
                self.end(id);
                None
            }
        }
    }

    fn next_queued(&self) -> Option<(Due, EntryId)> {
        self.due.range((Excluded(self.queued), Unbounded)).next().map(|(due, id)| (*due, *id))
    }

    /// Decodes a message.
    pub fn read(&self, id: EntryId) -> Option<DelayedMessage> {
        DelayedMessage::of(&self.stored.get(id)?.bytes)
    }

    /// When the next message may be published or checked, without further replies.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let ready = self.queues.first().map(|_| now_ms);
        let due = self.next_queued().map(|((due_ms, _), _)| due_ms);
        ready.into_iter().chain(due).chain(self.queues.next_ms()).min()
    }

    /// A message was published; its reply is waited for until `until_ms`.
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

    /// The number of the reply to a message, unique among all messages of this and earlier
    /// versions.
    pub fn number_of(&self, id: EntryId) -> Option<u64> {
        self.stored.get(id).map(|stored| stored.due.1)
    }

    /// The published message with this number.
    pub fn of_number(&self, number: u64) -> Option<EntryId> {
        self.published.get(&number).copied()
    }

    /// The broker was full, or the result of a message is unknown: it is published again after a
    /// pause. Returns false if its reply has come, or the message was removed.
    pub fn put_off(&mut self, id: EntryId, now_ms: u64) -> bool {
        let Some((client, due)) = self.place_of(id) else { return false };
        let unanswered = self.queues.is_unanswered(&client, due);
        if unanswered {
            self.queues.put_off(&client, due, now_ms);
            self.journal.note(&due);
        }
        unanswered
    }

    /// A message whose reply is late.
    pub fn late(&self, now_ms: u64) -> Option<EntryId> {
        self.due.get(&self.queues.late(now_ms)?).copied()
    }

    /// Sets the end of the wait for a reply.
    pub fn wait_on(&mut self, id: EntryId, until_ms: u64) {
        if let Some((client, due)) = self.place_of(id) {
            self.queues.wait_on(&client, due, until_ms);
        }
    }

    /// Time since the first publish of a message.
    pub fn trying_ms(&self, id: EntryId, now_ms: u64) -> Option<u64> {
        let tried_ms = self.stored.get(id)?.tried_ms.get();
        (tried_ms > 0).then(|| now_ms.saturating_sub(tried_ms))
    }

    /// The broker has accepted a message: removes it.
    pub fn taken(&mut self, id: EntryId) {
        if let Some((client, _)) = self.place_of(id) {
            self.queues.taken(&client);
            self.end(id);
        }
    }

    /// Removes a message, whatever its result.
    pub fn end(&mut self, id: EntryId) {
        if let Some((_, due)) = self.place_of(id) {
            self.journal.note(&due);
            self.remove(&due);
        }
    }

    fn place_of(&self, id: EntryId) -> Option<(Arc<str>, Due)> {
        Some((Arc::clone(self.stored.owner_name(id)?), self.stored.get(id)?.due))
    }

    /// The journal of changes for a reload.
    pub fn journal(&mut self) -> &mut Journal<Due> {
        &mut self.journal
    }

    /// The next message by due time.
    pub fn next_due(&self, after: Option<&Due>) -> Option<Due> {
        let from = after.map_or(Unbounded, |after| Excluded(*after));
        self.due.range((from, Unbounded)).next().map(|(due, _)| *due)
    }

    /// Appends a message for the transfer; false if there is none.
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

    /// Takes over a message. Acknowledged messages stay stored, even above lower limits. If it was
    /// published without a reply, the reply comes to this version and is waited for until
    /// `until_ms`.
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
        let id = self.stored.restore_for(delayed.account().as_deref(), &delayed.from, stored);
        if tried_ms > 0 {
            self.note_published(due, id);
        }
        if let Some(client) = self.stored.owner_name(id).filter(|_| unanswered) {
            self.queues.take_over_published(client, due, until_ms);
        }
        self.add(due, id);
        Ok(())
    }

    /// Removes a message.
    pub fn remove(&mut self, due: &Due) {
        if let Some(id) = self.due.remove(due) {
            if let Some(client) = self.stored.owner_name(id) {
                self.queues.remove(client, *due);
            }
            self.published.remove(&due.1);
            if self.published.is_empty() {
                // An empty tree still has a node.
                self.published = BTreeMap::new();
            }
            self.stored.remove(id);
        }
    }

    /// Removes all messages; `left` frees them.
    pub fn clear_into(&mut self, left: &mut DropQueue) {
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

    /// Removes all messages that may be published now and returns them. The broker accepts each at
    /// once.
    fn take(store: &mut Store, now_ms: u64) -> Vec<DelayedMessage> {
        let mut order = Vec::new();
        while let Some((id, delayed)) = store.next(now_ms) {
            store.published(id, now_ms, now_ms + 1);
            store.taken(id);
            order.push(delayed);
        }
        order
    }

    #[test]
    fn messages_are_published_when_they_are_due_and_in_order() {
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

    /// A message is stored until the broker has accepted it, and leaves no data behind.
    #[test]
    fn a_message_is_stored_until_the_broker_has_accepted_it() {
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
        // A late reply still counts.
        assert_eq!(store.next(700).unwrap().0, id);
        store.taken(id);
        assert_eq!((store.len(), store.stored.bytes(), store.next_ms(700)), (0, 0, None));
    }

    /// However many messages of a client cannot be published, a message of another client after
    /// them is found with limited work.
    #[test]
    fn messages_of_a_waiting_client_are_skipped_in_slices() {
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
    fn a_transferred_message_is_read_completely_or_refused() {
        let mut store = Store::new(LIMITS, 0);
        store.store(20, &held("b")).unwrap();
        store.store(10, &DelayedMessage::default()).unwrap();
        // The limits are lower now.
        let mut read = Store::new(ShareLimits { entries_max: 1, ..LIMITS }, 0);
        let mut due = None;
        while let Some(next) = store.next_due(due.as_ref()) {
            let mut value = Vec::new();
            assert!(store.write(&next, &mut value));
            // Taking over a message twice has no effect.
            (0..2).for_each(|_| read.put(next, &value, 0).unwrap());
            let error = read.put(next, &value[1..], 0).unwrap_err().to_string();
            assert_eq!(error, "a message of the version before cannot be read");
            due = Some(next);
        }
        assert!(!store.write(&(20, 2), &mut Vec::new()), "no such message");
        assert_eq!((read.stored.bytes(), read.len()), (store.stored.bytes(), 2));
        assert_eq!(take(&mut read, 99), [DelayedMessage::default(), held("b")]);
        // A message that is transferred as unpublished after it was published is published again.
        let unpublished = [&[0; 9][..], &DelayedMessage::default().bytes()].concat();
        read.put((10, 2), &unpublished, 0).unwrap();
        assert_eq!((read.len(), take(&mut read, 99)), (1, vec![DelayedMessage::default()]));
        read.put((10, 2), &unpublished, 0).unwrap();
        let mut left = DropQueue::default();
        read.clear_into(&mut left);
        assert_eq!((read.len(), read.stored.bytes(), read.next_ms(99)), (0, 0, None));
        while left.free(1) {}
    }

    /// 64 empty user properties use about 500 bytes, which count against the client's memory.
    #[test]
    fn a_client_is_charged_with_the_allocated_bytes() {
        let heavy = DelayedMessage { user_properties: vec![Default::default(); 64], ..held("a") };
        assert!(heavy.bytes().len() > 64 * 8);
        let mut store = Store::new(ShareLimits { owner_bytes_max: 3000, ..LIMITS }, 0);
        assert_eq!([store.store(1, &heavy), store.store(1, &heavy)], [Ok(()); 2]);
        assert_eq!(store.store(1, &heavy), Err(Full::OwnerBytes(3000)));
        assert_eq!(store.store(1, &DelayedMessage { from: "you".to_owned(), ..heavy }), Ok(()));
    }
}
