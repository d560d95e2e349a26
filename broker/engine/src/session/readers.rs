//! The retained messages that a session is still to get: one reader for each new subscription and each shard that owns matching
//! topics, and what tells those messages from the ones that come live. Called by the flows. Asks nobody and delivers nothing.
//!
//! Owners number what they store. A batch, which is the new subscriptions of one SUBSCRIBE, has a *mark* for each owner: what was
//! stored up to it comes from the store, what is stored later comes live, and neither comes twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::id::{SessionKey, ShardId};
use crate::packet::{QoS, SubscriptionOptions};
use crate::route::retained::Cursor;

/// Readers that one page may serve.
const READERS_PER_PAGE: usize = 64;
/// Live messages noted while a page is on its way; with more, the page is asked for again.
const LIVE_PER_PAGE_MAX: usize = 1024;

/// A subscription that wants its retained messages.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Number of the reader, unique on the subscriber's shard.
    pub reader: u64,
    /// The filter.
    pub filter: Arc<str>,
    /// QoS that was granted.
    pub qos: QoS,
    /// Subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// Whether the client's own messages are kept from it [MQTT-3.8.3-3].
    pub no_local: bool,
}

/// Reads the messages of one filter from one shard's store.
#[derive(Debug)]
pub struct Reader {
    wanted: Wanted,
    batch: u64,
    cursor: Cursor,
}

/// What a shard is asked for one reader.
#[derive(Debug)]
pub struct ReaderRequest {
    /// Which reader.
    pub reader: u64,
    /// Its filter.
    pub filter: Arc<str>,
    /// QoS that was granted.
    pub qos: QoS,
    /// Where to go on.
    pub cursor: Cursor,
}

/// What a session has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Deliveries with QoS 1 or 2.
    pub window: usize,
    /// Bytes; the first message of a page may be larger.
    pub bytes: usize,
}

/// For whom a page is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageFor {
    /// A session, whose subscriptions are new.
    Session(SessionKey),
    /// A plugin, on behalf of a client.
    Plugin,
}

/// A page to ask for.
#[derive(Debug)]
pub struct PageRequest {
    /// Whom to ask.
    pub owner: ShardId,
    /// Number of the page, which its answer names.
    pub page: u64,
    /// What the answer must fit in.
    pub room: Room,
    /// Messages that it has at most, whatever their QoS.
    pub messages_max: usize,
    /// For which readers, in order.
    pub readers: Vec<ReaderRequest>,
}

/// A page that is on its way.
#[derive(Debug)]
struct PageInFlight {
    page: u64,
    room: Room,
    /// Fingerprints of the topics that came live meanwhile, with the highest number: a lower one is older.
    live: BTreeMap<u64, u64>,
    /// Whether there were too many of them: then the page is worth nothing.
    stale: bool,
}

/// The readers of one owner.
#[derive(Debug, Default)]
struct Owner {
    /// Those that deliver with QoS 1 or 2 as far as the window goes, by number.
    windowed: BTreeMap<u64, Reader>,
    /// Those that deliver with QoS 0.
    plain: BTreeMap<u64, Reader>,
    in_flight: Option<PageInFlight>,
}

/// The new subscriptions of one SUBSCRIBE.
#[derive(Debug, Default)]
struct Batch {
    /// Numbers of the filters of subscriptions that were not there before.
    filters: Vec<u32>,
    /// The mark of each owner that was asked; `None` until it has answered.
    marks: SmallVec<[(ShardId, Option<u64>); 2]>,
    /// What came live before its owner's mark was known, by owner and number.
    seen: BTreeSet<(ShardId, u64)>,
    /// Subscriptions that wait for marks.
    wanted: Arc<[Wanted]>,
    /// Readers that wait for SUBACK.
    ready: Vec<(ShardId, Reader)>,
    /// Whether SUBACK is out.
    begun: bool,
    /// Readers that have not come to their end.
    open: usize,
    /// Whether nothing stored before the marks can come live any more.
    settled: bool,
}

/// Where a live message of the retained store's belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comes {
    /// It is delivered as it comes.
    Live,
    /// It comes from the store, as a retained message.
    Stored,
    /// More came live before the marks than can be kept apart.
    TooMany,
}

/// All readers of a session.
#[derive(Debug, Default)]
pub struct Readers {
    owners: BTreeMap<ShardId, Owner>,
    batches: BTreeMap<u64, Batch>,
    /// When which batch settles, in order of time.
    settling: VecDeque<(u64, u64)>,
    /// Number of a filter → its batch, while its live messages must be told from its stored ones.
    fresh: BTreeMap<u32, u64>,
    /// Deliveries of each reader that stand in the session's queue.
    queued: BTreeMap<u64, u32>,
    /// The session's queue, in messages and bytes, that had no room for the first message of a page.
    refused_at: Option<(usize, usize)>,
}

impl Readers {
    /// Bytes that they are charged for: one entry for each thing that is remembered, with the filters of its readers.
    pub fn bytes(&self) -> usize {
        let owners: usize = self
            .owners
            .values()
            .map(|owner| {
                let readers = owner.windowed.values().chain(owner.plain.values());
                let live = owner.in_flight.as_ref().map_or(0, |in_flight| in_flight.live.len());
                readers.map(|reader| size_of::<Reader>() + reader.wanted.filter.len()).sum::<usize>()
                    + live * 16
            })
            .sum();
        let batches: usize = self
            .batches
            .values()
            .map(|batch| {
                let wanted: usize =
                    batch.wanted.iter().map(|wanted| size_of::<Wanted>() + wanted.filter.len()).sum();
                size_of::<Batch>()
                    + wanted
                    + batch.filters.len() * 4
                    + batch.seen.len() * 16
                    + batch.ready.len() * size_of::<Reader>()
            })
            .sum();
        owners + batches + (self.fresh.len() + self.queued.len() + self.settling.len()) * 16
    }

    /// A subscription that was not there before, and that gets its retained messages, is in force: from now on its live messages
    /// are told from its stored ones.
    pub fn put_in_force(&mut self, batch: u64, filter: u32) {
        self.batches.entry(batch).or_default().filters.push(filter);
        self.fresh.insert(filter, batch);
    }

    /// Marks are asked for: of these owners, for these subscriptions. None of them is answered yet.
    pub fn request_marks(
        &mut self,
        batch: u64,
        owners: impl Iterator<Item = ShardId>,
        wanted: Arc<[Wanted]>,
    ) {
        let batch = self.batches.entry(batch).or_default();
        batch.marks = owners.map(|owner| (owner, None)).collect();
        batch.wanted = wanted;
    }

    /// An owner's mark, and the places of those `wanted` that may have messages there. False if it was not asked, or is known.
    /// `is_current` says whether a reader's subscription is still there.
    pub fn mark(
        &mut self,
        batch: u64,
        owner: ShardId,
        mark: u64,
        found: &[u32],
        is_current: impl Fn(&Wanted) -> bool,
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

    /// Whether every owner that was asked for a mark has answered.
    pub fn is_marked(&self, batch: u64) -> bool {
        self.batches.get(&batch).is_none_or(|batch| batch.marks.iter().all(|(_, mark)| mark.is_some()))
    }

    /// SUBACK is out: pages may be asked for. An owner whose mark is still to come is read when it has.
    pub fn begin(&mut self, batch: u64, is_current: impl Fn(&Wanted) -> bool) {
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

    /// Nothing that was stored before the marks of a batch can come live any more.
    pub fn settle(&mut self, batch: u64) {
        if let Some(entry) = self.batches.get_mut(&batch) {
            entry.settled = true;
        }
        self.forget(batch);
    }

    /// That will be so from this time on, monotonic milliseconds; not before that of another batch.
    pub fn settle_at(&mut self, batch: u64, settles_ms: u64) {
        self.settling.push_back((settles_ms, batch));
    }

    /// Settles those batches whose time has come; when the next one's will, monotonic milliseconds.
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

    /// Forgets a batch that nobody needs any more.
    fn forget(&mut self, number: u64) {
        let Some(batch) = self.batches.get(&number) else { return };
        let settled = batch.settled || batch.filters.is_empty();
        let marked = batch.marks.iter().all(|(_, mark)| mark.is_some());
        if batch.begun && marked && settled && batch.open == 0 {
            self.abandon(number);
        }
    }

    /// Forgets a batch whose marks were not asked for.
    pub fn abandon(&mut self, number: u64) {
        if let Some(batch) = self.batches.remove(&number) {
            for filter in batch.filters {
                if self.fresh.get(&filter) == Some(&number) {
                    self.fresh.remove(&filter);
                }
            }
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.owners.is_empty() && self.queued.is_empty()
    }

    /// Whether a page may be asked for, if there is room.
    pub fn has_work(&self) -> bool {
        self.owners.values().any(|owner| owner.in_flight.is_none())
    }

    /// A subscription has ended, or begins anew: what its reader has not delivered does not come any more [MQTT-3.10.4-2].
    /// `filter` is the number of its filter, if that is known.
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
            let gone = owner.windowed.remove(&reader).or_else(|| owner.plain.remove(&reader));
            done.extend(gone.map(|gone| gone.batch));
        }
        self.owners.retain(|_, owner| !owner.is_done());
        for batch in done {
            self.close_one(batch);
        }
    }

    /// A subscription is granted anew, and its reader goes on as it is granted now.
    pub fn grant_anew(&mut self, reader: u64, options: SubscriptionOptions, subscription_id: u32) {
        for owner in self.owners.values_mut() {
            let found = owner.windowed.remove(&reader).or_else(|| owner.plain.remove(&reader));
            if let Some(mut found) = found {
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

    /// The next page to ask for, if some owner can be asked within this room. What other pages may bring is taken off.
    pub fn next_page(&mut self, page: u64, room: Room) -> Option<PageRequest> {
        let reserved =
            self.owners.values().filter_map(|owner| owner.in_flight.as_ref().map(|in_flight| in_flight.room));
        let (window, bytes) =
            reserved.fold((0, 0), |(window, bytes), room| (window + room.window, bytes + room.bytes));
        let left =
            Room { window: room.window.saturating_sub(window), bytes: room.bytes.saturating_sub(bytes) };
        if left.bytes == 0 {
            return None;
        }
        let waiting = |owner: &Owner| {
            owner.in_flight.is_none()
                && (!owner.plain.is_empty() || left.window > 0 && !owner.windowed.is_empty())
        };
        // Each owner that waits gets an equal part, so that one that does not answer holds no more than its own.
        let parts = self.owners.values().filter(|owner| waiting(owner)).count();
        let (id, owner) = self.owners.iter_mut().find(|(_, owner)| waiting(owner))?;
        let room = Room {
            window: left.window.div_ceil(parts).min(left.window),
            bytes: left.bytes.div_ceil(parts).min(left.bytes),
        };
        let windowed = owner.windowed.values().take(if room.window > 0 { READERS_PER_PAGE } else { 0 });
        let readers =
            windowed.chain(owner.plain.values()).take(READERS_PER_PAGE).map(|reader| ReaderRequest {
                reader: reader.wanted.reader,
                filter: Arc::clone(&reader.wanted.filter),
                qos: reader.wanted.qos,
                cursor: reader.cursor.clone(),
            });
        let readers = readers.collect();
        owner.in_flight = Some(PageInFlight { page, room, live: BTreeMap::new(), stale: false });
        Some(PageRequest { owner: *id, page, room, messages_max: usize::MAX, readers })
    }

    /// The session's queue of so many messages and bytes has no room for the first message of a page. To ask again before that
    /// queue is another one would bring the same message.
    pub fn refused(&mut self, queue: (usize, usize)) {
        self.refused_at = Some(queue);
    }

    /// Whether this queue has refused a message.
    pub fn is_refused(&self, queue: (usize, usize)) -> bool {
        self.refused_at == Some(queue)
    }

    /// A page has come: what came live meanwhile; `None` if nobody waits for it.
    pub fn page_came(&mut self, owner: ShardId, page: u64) -> Option<Page> {
        let entry = self.owners.get_mut(&owner)?;
        let in_flight = entry.in_flight.take_if(|in_flight| in_flight.page == page)?;
        if entry.is_done() {
            self.owners.remove(&owner);
        }
        Some(Page { live: in_flight.live, stale: in_flight.stale })
    }

    /// How a message of a page is to be delivered; `None` if it is not, because its subscription has gone, it came live before,
    /// or a newer one did. `topic` is the fingerprint of its topic.
    pub fn judge(
        &self,
        page: &Page,
        owner: ShardId,
        reader: u64,
        number: u64,
        topic: u64,
    ) -> Option<(QoS, u32)> {
        let found = self.owners.get(&owner)?.reader(reader)?;
        let came = self.batches.get(&found.batch).is_some_and(|batch| batch.seen.contains(&(owner, number)));
        let is_older = page.live.get(&topic).is_some_and(|live| *live > number);
        (!came && !is_older).then_some((found.wanted.qos, found.wanted.subscription_id))
    }

    /// Whether the client's own messages are kept from a reader [MQTT-3.8.3-3].
    pub fn no_local(&self, owner: ShardId, reader: u64) -> bool {
        self.owners
            .get(&owner)
            .and_then(|entry| entry.reader(reader))
            .is_some_and(|found| found.wanted.no_local)
    }

    /// How far a reader has come: the topic it goes on with, or the cursor that the page named; `None` = it is done.
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
                let gone = entry.windowed.remove(&reader).or_else(|| entry.plain.remove(&reader));
                if entry.is_done() {
                    self.owners.remove(&owner);
                }
                if let Some(gone) = gone {
                    self.close_one(gone.batch);
                }
            }
        }
    }

    /// Whether a live message for the filter of this number is delivered, which its topic's owner has stored under `number`; one
    /// that is delivered before the mark is known is remembered, `seen_max` of them at most.
    pub fn comes(&mut self, filter: u32, owner: ShardId, number: u64, seen_max: usize) -> Comes {
        let Some(batch) = self.fresh.get(&filter).and_then(|batch| self.batches.get_mut(batch)) else {
            return Comes::Live;
        };
        let mark = batch.marks.iter().find(|(one, _)| *one == owner).and_then(|(_, mark)| *mark);
        match mark {
            Some(mark) if number <= mark && !batch.seen.contains(&(owner, number)) => Comes::Stored,
            Some(_) => Comes::Live,
            None if batch.seen.len() >= seen_max && !batch.seen.contains(&(owner, number)) => Comes::TooMany,
            None => {
                batch.seen.insert((owner, number));
                Comes::Live
            }
        }
    }

    /// Notes a live message whose owner is being read: what a page brings of its topic with a lower number is older.
    pub fn note_live(&mut self, owner: ShardId, topic: u64, number: u64) {
        let Some(in_flight) = self.owners.get_mut(&owner).and_then(|owner| owner.in_flight.as_mut()) else {
            return;
        };
        if in_flight.live.len() >= LIVE_PER_PAGE_MAX {
            in_flight.stale = true;
            return;
        }
        let known = in_flight.live.entry(topic).or_default();
        *known = number.max(*known);
    }

    /// A delivery of a reader has been put into the session's queue.
    pub fn queued(&mut self, reader: u64) {
        *self.queued.entry(reader).or_default() += 1;
    }

    /// A delivery of a reader leaves the session's queue: whether its subscription is still there.
    pub fn dequeued(&mut self, reader: u64) -> bool {
        let Some(count) = self.queued.get_mut(&reader) else { return false };
        *count -= 1;
        if *count == 0 {
            self.queued.remove(&reader);
        }
        true
    }

    /// Whether a delivery of a reader stands in the session's queue, or may soon.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty() || self.owners.values().any(|owner| owner.in_flight.is_some())
    }
}

/// A page that has come.
#[derive(Debug)]
pub struct Page {
    live: BTreeMap<u64, u64>,
    /// Whether it must be asked for again.
    pub stale: bool,
}

/// Where a reader goes on.
#[derive(Debug)]
pub enum Next<'a> {
    /// With this topic, which found no room.
    At(&'a str),
    /// Here.
    Cursor(Cursor),
    /// Nowhere.
    Done,
}

impl Owner {
    fn put(&mut self, reader: Reader) {
        let readers = match reader.wanted.qos {
            QoS::AtMostOnce => &mut self.plain,
            _ => &mut self.windowed,
        };
        readers.insert(reader.wanted.reader, reader);
    }

    fn reader(&self, number: u64) -> Option<&Reader> {
        self.windowed.get(&number).or_else(|| self.plain.get(&number))
    }

    fn reader_mut(&mut self, number: u64) -> Option<&mut Reader> {
        self.windowed.get_mut(&number).or_else(|| self.plain.get_mut(&number))
    }

    fn is_done(&self) -> bool {
        self.windowed.is_empty() && self.plain.is_empty() && self.in_flight.is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const ONE: ShardId = ShardId(1);
    const TWO: ShardId = ShardId(2);
    const ROOM: Room = Room { window: 10, bytes: 1000 };

    fn wanted(reader: u64, qos: QoS) -> Wanted {
        Wanted { reader, filter: "r/#".into(), qos, subscription_id: 0, no_local: false }
    }

    /// Readers of two owners for two subscriptions, one with QoS 1 and one with QoS 0, of batch 7.
    fn readers() -> Readers {
        let mut readers = Readers::default();
        readers.put_in_force(7, 40);
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
    fn what_was_stored_before_the_mark_comes_from_the_store_and_nothing_twice() {
        let mut readers = readers();
        assert_eq!(readers.comes(41, ONE, 1, 2), Comes::Live, "another subscription");
        assert_eq!(readers.comes(40, ONE, 99, 2), Comes::Live, "its mark is not known");
        assert_eq!(readers.comes(40, TWO, 99, 2), Comes::Live);
        assert_eq!(readers.comes(40, TWO, 98, 2), Comes::TooMany);
        assert_eq!(readers.comes(40, TWO, 99, 2), Comes::Live, "for the next subscription that matches");
        readers.mark(7, ONE, 100, &[0], |_| true);
        readers.begin(7, |_| true);
        for (number, comes) in [(99, Comes::Live), (100, Comes::Stored), (101, Comes::Live)] {
            assert_eq!(readers.comes(40, ONE, number, 2), comes, "{number}");
        }
        readers.next_page(10, ROOM).unwrap();
        readers.note_live(ONE, 5, 101);
        readers.note_live(ONE, 5, 90);
        readers.note_live(TWO, 6, 101);
        let page = readers.page_came(ONE, 10).unwrap();
        assert_eq!(readers.judge(&page, ONE, 1, 99, 1), None, "it came live");
        assert_eq!(readers.judge(&page, ONE, 1, 100, 5), None, "a newer one came live");
        assert_eq!(readers.judge(&page, ONE, 1, 101, 5), Some((QoS::AtLeastOnce, 0)));
        assert_eq!(readers.judge(&page, ONE, 1, 100, 6), Some((QoS::AtLeastOnce, 0)));
        assert_eq!(readers.judge(&page, ONE, 2, 100, 6), None, "no such reader");
    }

    #[test]
    fn a_page_is_worth_nothing_when_too_much_came_live_meanwhile() {
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
            assert_eq!(readers.comes(40, TWO, 200, 2), Comes::Stored, "TWO is still to be read");
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
            readers.put_in_force(batch, batch as u32);
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
        readers.grant_anew(2, SubscriptionOptions::of_qos(QoS::ExactlyOnce), 5);
        let request = readers.next_page(11, ROOM).unwrap();
        assert_eq!((request.readers[0].reader, request.readers[0].qos), (2, QoS::ExactlyOnce));
    }
}
