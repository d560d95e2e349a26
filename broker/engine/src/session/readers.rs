//! The retained messages that a session is still to get, separated from live ones: a reader for
//! each new subscription and each shard that owns matching topics. The flows call it; it delivers
//! nothing.
//!
//! Owners number the messages they store. A batch is the new subscriptions of one SUBSCRIBE. It has
//! a *mark* for each owner. Messages up to the mark come from the store, later ones come live.

mod owner;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

pub use owner::{Next, Page, ReaderRequest, RetainedSubscription, Room};

use crate::id::{SessionKey, ShardId};
use crate::packet::{QoS, SubscriptionOptions};
use crate::route::retained::Cursor;
use owner::{Owner, Reader};

/// The receiver of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageReceiver {
    /// A session with new subscriptions.
    Session(SessionKey),
    /// A plugin, on behalf of a client.
    Plugin,
}

/// A request for a page.
#[derive(Debug)]
pub struct PageRequest {
    /// The shard that gets the request.
    pub owner: ShardId,
    /// Number of the page, which its answer names.
    pub page: u64,
    /// The limit for the answer.
    pub room: Room,
    /// Maximum number of messages, whatever their QoS.
    pub messages_max: usize,
    /// The readers, in order.
    pub readers: Vec<ReaderRequest>,
}

/// The new subscriptions of one SUBSCRIBE.
#[derive(Debug, Default)]
struct Batch {
    /// Numbers of the filters of its new subscriptions.
    filters: Vec<u32>,
    /// The mark of each owner that got a request; `None` until the answer.
    marks: SmallVec<[(ShardId, Option<u64>); 2]>,
    /// Live messages that came before their owner's mark, by owner and number.
    seen: BTreeSet<(ShardId, u64)>,
    /// Subscriptions that wait for marks.
    wanted: Arc<[RetainedSubscription]>,
    /// Readers that wait for SUBACK.
    ready: Vec<(ShardId, Reader)>,
    /// Whether SUBACK is sent.
    begun: bool,
    /// Number of readers that are not at their end.
    open: usize,
    /// Whether a message from before the marks can no longer come live.
    settled: bool,
}

/// How a live message that is also stored is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LiveDelivery {
    /// It is delivered live.
    Live,
    /// It is delivered from the store, as a retained message.
    Stored,
    /// More live messages came before the marks than can be recorded.
    TooMany,
}

/// All readers of a session.
#[derive(Debug, Default)]
pub struct Readers {
    owners: BTreeMap<ShardId, Owner>,
    batches: BTreeMap<u64, Batch>,
    /// When each batch settles, in order of time.
    settling: VecDeque<(u64, u64)>,
    /// Number of a filter → its batch, while live and stored messages are separated.
    fresh: BTreeMap<u32, u64>,
    /// Deliveries of each reader in the queue of the session.
    queued: BTreeMap<u64, u32>,
    /// Messages and bytes of the session's queue when the first message of a page did not fit.
    refused_at: Option<(usize, usize)>,
}

impl Readers {
    /// Bytes that they are charged for: all entries and the filters of the readers.
    pub fn bytes(&self) -> usize {
        let owners: usize = self.owners.values().map(Owner::bytes).sum();
        let batches: usize = self
            .batches
            .values()
            .map(|batch| {
                let wanted: usize = batch
                    .wanted
                    .iter()
                    .map(|wanted| size_of::<RetainedSubscription>() + wanted.filter.len())
                    .sum();
                size_of::<Batch>()
                    + wanted
                    + batch.filters.len() * 4
                    + batch.seen.len() * 16
                    + batch.ready.len() * size_of::<Reader>()
            })
            .sum();
        owners + batches + (self.fresh.len() + self.queued.len() + self.settling.len()) * 16
    }

    /// A new subscription with retained messages is in force: separates its live messages.
    pub fn set_in_force(&mut self, batch: u64, filter: u32) {
        self.batches.entry(batch).or_default().filters.push(filter);
        self.fresh.insert(filter, batch);
    }

    /// Records that marks were requested from these owners for these subscriptions.
    pub fn request_marks(
        &mut self,
        batch: u64,
        owners: impl Iterator<Item = ShardId>,
        wanted: Arc<[RetainedSubscription]>,
    ) {
        let batch = self.batches.entry(batch).or_default();
        batch.marks = owners.map(|owner| (owner, None)).collect();
        batch.wanted = wanted;
    }

    /// Sets an owner's mark, with the indexes of the `wanted` that may have messages there. False
    /// if it awaits none. `is_current` says whether the subscription of a reader is in force.
    pub fn mark(
        &mut self,
        batch: u64,
        owner: ShardId,
        mark: u64,
        found: &[u32],
        is_current: impl Fn(&RetainedSubscription) -> bool,
    ) -> bool {
        let Some(entry) = self.batches.get_mut(&batch) else { return false };
        let Some((_, unknown @ None)) = entry.marks.iter_mut().find(|(one, _)| *one == owner) else {
            return false;
        };
        *unknown = Some(mark);
        let wanted = Arc::clone(&entry.wanted);
        let found =
            found.iter().filter_map(|place| wanted.get(*place as usize)).filter(|one| is_current(one));
        let readers =
            found.map(|wanted| Reader { wanted: wanted.clone(), batch, cursor: Cursor::until(mark) });
        let before = entry.ready.len();
        entry.ready.extend(readers.map(|reader| (owner, reader)));
        entry.open += entry.ready.len() - before;
        if entry.begun {
            self.begin(batch, is_current);
        }
        true
    }

    /// Whether every owner has answered the request for a mark.
    pub fn is_marked(&self, batch: u64) -> bool {
        self.batches.get(&batch).is_none_or(|batch| batch.marks.iter().all(|(_, mark)| mark.is_some()))
    }

    /// SUBACK is sent: pages may be requested. An owner is read once its mark has come.
    pub fn begin(&mut self, batch: u64, is_current: impl Fn(&RetainedSubscription) -> bool) {
        let Some(entry) = self.batches.get_mut(&batch) else { return };
        entry.begun = true;
        for (owner, reader) in std::mem::take(&mut entry.ready) {
            if !is_current(&reader.wanted) {
                entry.open -= 1;
                continue;
            }
            self.owners.entry(owner).or_default().put(reader);
        }
        self.forget(batch);
    }

    /// A message stored before the marks of this batch can no longer come live.
    pub fn settle(&mut self, batch: u64) {
        if let Some(entry) = self.batches.get_mut(&batch) {
            entry.settled = true;
        }
        self.forget(batch);
    }

    /// The batch settles at this time, monotonic milliseconds; no earlier than the one before.
    pub fn settle_at(&mut self, batch: u64, settles_ms: u64) {
        self.settling.push_back((settles_ms, batch));
    }

    /// Settles the batches that are due. Returns when the next one does, monotonic ms.
    pub fn settle_due(&mut self, now_ms: u64) -> Option<u64> {
        while let Some(&(due_ms, batch)) = self.settling.front() {
            if due_ms > now_ms {
                return Some(due_ms);
            }
            self.settling.pop_front();
            self.settle(batch);
        }
        None
    }

    /// Removes a batch that is no longer needed.
    fn forget(&mut self, number: u64) {
        let Some(batch) = self.batches.get(&number) else { return };
        let settled = batch.settled || batch.filters.is_empty();
        let marked = batch.marks.iter().all(|(_, mark)| mark.is_some());
        if batch.begun && marked && settled && batch.open == 0 {
            self.abandon(number);
        }
    }

    /// Removes a batch whose marks were not requested.
    pub fn abandon(&mut self, number: u64) {
        if let Some(batch) = self.batches.remove(&number) {
            for filter in batch.filters {
                if self.fresh.get(&filter) == Some(&number) {
                    self.fresh.remove(&filter);
                }
            }
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.owners.is_empty() && self.queued.is_empty()
    }

    /// Whether a page may be requested, if there is room.
    pub fn has_work(&self) -> bool {
        self.owners.values().any(|owner| !owner.awaits_page())
    }

    /// Ends or restarts a subscription: what its reader has not delivered is dropped
    /// [MQTT-3.10.4-2]. `filter` is the number of its filter, if known.
    pub fn remove(&mut self, reader: u64, filter: Option<u32>) {
        if let Some(filter) = filter {
            self.fresh.remove(&filter);
        }
        if reader == 0 {
            return;
        }
        self.queued.remove(&reader);
        let mut done: SmallVec<[u64; 2]> = SmallVec::new();
        for owner in self.owners.values_mut() {
            done.extend(owner.take(reader).map(|gone| gone.batch));
        }
        self.owners.retain(|_, owner| !owner.is_done());
        for batch in done {
            self.close_one(batch);
        }
    }

    /// A subscription was granted again; its reader uses the new options.
    pub fn regrant(&mut self, reader: u64, options: SubscriptionOptions, subscription_id: u32) {
        for owner in self.owners.values_mut() {
            if let Some(mut found) = owner.take(reader) {
                found.wanted.qos = options.qos;
                found.wanted.no_local = options.no_local;
                found.wanted.subscription_id = subscription_id;
                owner.put(found);
            }
        }
    }

    fn close_one(&mut self, batch: u64) {
        if let Some(entry) = self.batches.get_mut(&batch) {
            entry.open = entry.open.saturating_sub(1);
        }
        self.forget(batch);
    }

    /// The next page to request within this room, less the room of the open pages.
    pub fn next_page(&mut self, page: u64, room: Room) -> Option<PageRequest> {
        let reserved = self.owners.values().filter_map(Owner::reserved);
        let (window, bytes) =
            reserved.fold((0, 0), |(window, bytes), room| (window + room.window, bytes + room.bytes));
        let left =
            Room { window: room.window.saturating_sub(window), bytes: room.bytes.saturating_sub(bytes) };
        if left.bytes == 0 {
            return None;
        }
        // Each waiting owner gets an equal part: one that does not answer blocks only its own.
        let parts = self.owners.values().filter(|owner| owner.is_waiting(left.window)).count();
        let (id, owner) = self.owners.iter_mut().find(|(_, owner)| owner.is_waiting(left.window))?;
        let room = Room {
            window: left.window.div_ceil(parts).min(left.window),
            bytes: left.bytes.div_ceil(parts).min(left.bytes),
        };
        let readers = owner.request(page, room);
        Some(PageRequest { owner: *id, page, room, messages_max: usize::MAX, readers })
    }

    /// The session's queue, of this length and size, has no room for the first message of a page.
    /// Until the queue changes, a request would return the same message.
    pub fn refused(&mut self, queue: (usize, usize)) {
        self.refused_at = Some(queue);
    }

    /// Whether the queue had no room when it was in this state.
    pub fn is_refused(&self, queue: (usize, usize)) -> bool {
        self.refused_at == Some(queue)
    }

    /// A page has come: returns the live messages meanwhile; `None` if the page is not expected.
    pub fn page_came(&mut self, owner: ShardId, page: u64) -> Option<Page> {
        let entry = self.owners.get_mut(&owner)?;
        let page = entry.take_page(page)?;
        if entry.is_done() {
            self.owners.remove(&owner);
        }
        Some(page)
    }

    /// How to deliver a page message; `None` if its subscription is gone, or it or a newer one came
    /// live. `topic` is the fingerprint of its topic.
    pub fn page_delivery(
        &self,
        page: &Page,
        owner: ShardId,
        reader: u64,
        number: u64,
        topic: u64,
    ) -> Option<(QoS, u32)> {
        let found = self.owners.get(&owner)?.reader(reader)?;
        let came = self.batches.get(&found.batch).is_some_and(|batch| batch.seen.contains(&(owner, number)));
        (!came && !page.is_older(topic, number)).then_some((found.wanted.qos, found.wanted.subscription_id))
    }

    /// Whether a reader excludes the client's own messages [MQTT-3.8.3-3].
    pub fn no_local(&self, owner: ShardId, reader: u64) -> bool {
        self.owners
            .get(&owner)
            .and_then(|entry| entry.reader(reader))
            .is_some_and(|found| found.wanted.no_local)
    }

    /// Moves a reader on: to a topic, to a cursor, or to its end.
    pub fn advance(&mut self, owner: ShardId, reader: u64, next: Next<'_>) {
        let Some(entry) = self.owners.get_mut(&owner) else { return };
        match next {
            Next::At(topic) => {
                if let Some(reader) = entry.reader_mut(reader) {
                    reader.cursor = reader.cursor.at(topic);
                }
            }
            Next::Cursor(cursor) => {
                if let Some(reader) = entry.reader_mut(reader) {
                    reader.cursor = cursor;
                }
            }
            Next::Done => {
                let gone = entry.take(reader);
                if entry.is_done() {
                    self.owners.remove(&owner);
                }
                if let Some(gone) = gone {
                    self.close_one(gone.batch);
                }
            }
        }
    }

    /// How to deliver a live message for this filter, stored by its topic's owner under `number`.
    /// One delivered before the mark is recorded, at most `seen_max` of them.
    pub fn live_delivery(
        &mut self,
        filter: u32,
        owner: ShardId,
        number: u64,
        seen_max: usize,
    ) -> LiveDelivery {
        let Some(batch) = self.fresh.get(&filter).and_then(|batch| self.batches.get_mut(batch)) else {
            return LiveDelivery::Live;
        };
        let mark = batch.marks.iter().find(|(one, _)| *one == owner).and_then(|(_, mark)| *mark);
        match mark {
            Some(mark) if number <= mark && !batch.seen.contains(&(owner, number)) => LiveDelivery::Stored,
            Some(_) => LiveDelivery::Live,
            None if batch.seen.len() >= seen_max && !batch.seen.contains(&(owner, number)) => {
                LiveDelivery::TooMany
            }
            None => {
                batch.seen.insert((owner, number));
                LiveDelivery::Live
            }
        }
    }

    /// Records a live message while its owner is read: page messages with a lower number are older.
    pub fn note_live(&mut self, owner: ShardId, topic: u64, number: u64) {
        if let Some(owner) = self.owners.get_mut(&owner) {
            owner.note_live(topic, number);
        }
    }

    /// A delivery of a reader was put into the session's queue.
    pub fn queued(&mut self, reader: u64) {
        *self.queued.entry(reader).or_default() += 1;
    }

    /// A delivery of a reader leaves the session's queue. Whether its subscription is in force.
    pub fn dequeued(&mut self, reader: u64) -> bool {
        let Some(count) = self.queued.get_mut(&reader) else { return false };
        *count -= 1;
        if *count == 0 {
            self.queued.remove(&reader);
        }
        true
    }

    /// Whether a delivery of a reader is in the session's queue, or may be soon.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty() || self.owners.values().any(Owner::awaits_page)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::owner::LIVE_PER_PAGE_MAX;
    use super::*;

    const ONE: ShardId = ShardId(1);
    const TWO: ShardId = ShardId(2);
    const ROOM: Room = Room { window: 10, bytes: 1000 };

    fn wanted(reader: u64, qos: QoS) -> RetainedSubscription {
        RetainedSubscription { reader, filter: "r/#".into(), qos, subscription_id: 0, no_local: false }
    }

    /// Readers of two owners for two subscriptions, one with QoS 1 and one with QoS 0, of batch 7.
    fn readers() -> Readers {
        let mut readers = Readers::default();
        readers.set_in_force(7, 40);
        let wanted = [wanted(1, QoS::AtLeastOnce), wanted(2, QoS::AtMostOnce)];
        readers.request_marks(7, [ONE, TWO].into_iter(), wanted.into());
        readers
    }

    fn begun() -> Readers {
        let mut readers = readers();
        assert!(readers.mark(7, ONE, 100, &[0, 1], |_| true));
        assert!(readers.mark(7, TWO, 200, &[0], |_| true));
        readers.begin(7, |_| true);
        readers
    }

    #[test]
    fn no_page_before_suback_and_one_at_a_time_from_each_owner() {
        let mut readers = readers();
        assert!(readers.mark(7, ONE, 100, &[0, 1], |_| true) && !readers.is_marked(7));
        assert!(!readers.mark(7, ONE, 300, &[0], |_| true), "a mark is set once");
        assert!(!readers.mark(7, ShardId(3), 300, &[0], |_| true), "nobody has asked it");
        assert!(readers.next_page(9, ROOM).is_none());
        assert!(readers.mark(7, TWO, 200, &[0], |_| true) && readers.is_marked(7));
        assert!(readers.next_page(9, ROOM).is_none(), "SUBACK is not out");
        readers.begin(7, |_| true);
        let first = readers.next_page(10, ROOM).unwrap();
        assert_eq!((first.owner, first.page, first.room), (ONE, 10, Room { window: 5, bytes: 500 }));
        assert_eq!(first.readers.iter().map(|request| request.reader).collect::<Vec<_>>(), [1, 2]);
        let second = readers.next_page(11, ROOM).unwrap();
        assert_eq!((second.owner, second.room), (TWO, Room { window: 5, bytes: 500 }), "what is left");
        assert!(!readers.has_work() && readers.next_page(12, ROOM).is_none());
        assert!(readers.page_came(ONE, 11).is_none(), "not its page");
        assert!(readers.page_came(ONE, 10).is_some() && readers.page_came(ONE, 10).is_none());
        assert!(readers.has_work());
    }

    #[test]
    fn without_a_window_only_qos_0_is_read() {
        let mut readers = begun();
        let request = readers.next_page(10, Room { window: 0, bytes: 10 }).unwrap();
        assert_eq!((request.owner, request.readers.len(), request.readers[0].reader), (ONE, 1, 2));
        assert!(readers.next_page(11, Room { window: 0, bytes: 1000 }).is_none(), "TWO has QoS 1 alone");
        assert!(readers.next_page(11, Room { window: 5, bytes: 10 }).is_none(), "the bytes are given away");
    }

    #[test]
    fn messages_before_the_mark_come_from_the_store_and_none_twice() {
        let mut readers = readers();
        assert_eq!(readers.live_delivery(41, ONE, 1, 2), LiveDelivery::Live, "another subscription");
        assert_eq!(readers.live_delivery(40, ONE, 99, 2), LiveDelivery::Live, "its mark is not known");
        assert_eq!(readers.live_delivery(40, TWO, 99, 2), LiveDelivery::Live);
        assert_eq!(readers.live_delivery(40, TWO, 98, 2), LiveDelivery::TooMany);
        assert_eq!(
            readers.live_delivery(40, TWO, 99, 2),
            LiveDelivery::Live,
            "for the next subscription that matches"
        );
        readers.mark(7, ONE, 100, &[0], |_| true);
        readers.begin(7, |_| true);
        for (number, comes) in
            [(99, LiveDelivery::Live), (100, LiveDelivery::Stored), (101, LiveDelivery::Live)]
        {
            assert_eq!(readers.live_delivery(40, ONE, number, 2), comes, "{number}");
        }
        readers.next_page(10, ROOM).unwrap();
        readers.note_live(ONE, 5, 101);
        readers.note_live(ONE, 5, 90);
        readers.note_live(TWO, 6, 101);
        let page = readers.page_came(ONE, 10).unwrap();
        assert_eq!(readers.page_delivery(&page, ONE, 1, 99, 1), None, "it came live");
        assert_eq!(readers.page_delivery(&page, ONE, 1, 100, 5), None, "a newer one came live");
        assert_eq!(readers.page_delivery(&page, ONE, 1, 101, 5), Some((QoS::AtLeastOnce, 0)));
        assert_eq!(readers.page_delivery(&page, ONE, 1, 100, 6), Some((QoS::AtLeastOnce, 0)));
        assert_eq!(readers.page_delivery(&page, ONE, 2, 100, 6), None, "no such reader");
    }

    #[test]
    fn a_page_is_discarded_if_too_many_live_messages_came_meanwhile() {
        for (count, stale) in [(LIVE_PER_PAGE_MAX, false), (LIVE_PER_PAGE_MAX + 1, true)] {
            let mut readers = begun();
            readers.next_page(10, ROOM).unwrap();
            (0..count as u64).for_each(|topic| readers.note_live(ONE, topic, 101));
            assert_eq!(readers.page_came(ONE, 10).unwrap().stale, stale);
            assert!(readers.next_page(11, ROOM).is_some(), "it is asked for again");
        }
    }

    #[test]
    fn nothing_is_left_of_what_is_done() {
        for settled_first in [false, true] {
            let mut readers = begun();
            if settled_first {
                readers.settle(7);
            }
            readers.advance(ONE, 1, Next::Done);
            readers.advance(ONE, 2, Next::Done);
            assert_eq!(
                readers.live_delivery(40, TWO, 200, 2),
                LiveDelivery::Stored,
                "TWO is still to be read"
            );
            readers.advance(TWO, 1, Next::Done);
            assert_eq!(readers.is_empty(), settled_first);
            readers.settle(7);
            assert!(readers.is_empty() && readers.fresh.is_empty());
        }
    }

    #[test]
    fn batches_settle_in_order_of_their_times_and_leave_nothing() {
        let mut readers = Readers::default();
        for batch in 1..=3 {
            readers.set_in_force(batch, batch as u32);
            readers.request_marks(batch, std::iter::empty(), Arc::default());
            readers.begin(batch, |_| true);
            readers.settle_at(batch, 1000 * batch);
        }
        assert_eq!((readers.settle_due(999), readers.batches.len()), (Some(1000), 3));
        assert_eq!((readers.settle_due(2000), readers.batches.len()), (Some(3000), 1));
        assert_eq!(readers.settle_due(3000), None);
        assert!(readers.is_empty() && readers.fresh.is_empty() && readers.settling.is_empty());
    }

    #[test]
    fn a_subscription_that_ends_takes_its_readers_and_what_is_queued_along() {
        let mut readers = begun();
        readers.settle(7);
        readers.queued(1);
        readers.queued(1);
        readers.queued(2);
        readers.remove(1, Some(40));
        assert!(!readers.dequeued(1) && readers.dequeued(2) && !readers.dequeued(2));
        let request = readers.next_page(10, ROOM).unwrap();
        assert_eq!((request.owner, request.readers.len()), (ONE, 1));
        readers.page_came(ONE, 10).unwrap();
        readers.advance(ONE, 2, Next::Done);
        assert!(readers.is_empty());
    }

    #[test]
    fn a_subscription_that_ended_before_suback_gets_no_reader() {
        let mut readers = readers();
        readers.mark(7, ONE, 100, &[0, 1], |_| true);
        readers.mark(7, TWO, 200, &[0, 9], |_| false);
        readers.begin(7, |one| one.reader != 1);
        let request = readers.next_page(10, ROOM).unwrap();
        assert_eq!((request.owner, request.readers.len(), request.readers[0].reader), (ONE, 1, 2));
        readers.page_came(ONE, 10);
        readers.regrant(2, SubscriptionOptions::of_qos(QoS::ExactlyOnce), 5);
        let request = readers.next_page(11, ROOM).unwrap();
        assert_eq!((request.readers[0].reader, request.readers[0].qos), (2, QoS::ExactlyOnce));
    }
}
