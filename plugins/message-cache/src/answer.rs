//! One answer in progress, on the shard of the requester. It requests pages of all shards, merges
//! them in order, and keeps only the last messages of each topic over all shards. It decides what
//! to request; it sends nothing itself.

use std::collections::VecDeque;

use grapnel_plugin_abi::allocated;

use crate::store::{Item, Page, Position, bytes_in_page};
use crate::wire::read_items;

/// A request to a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardRequest {
    /// The next page of its messages: [`Answer::page`].
    Page {
        /// The shard.
        of: u32,
        /// Only messages after this number.
        after: u64,
        /// Only messages up to this number.
        upto: u64,
        /// Maximum bytes of memory of the page; `None` for as many as are free.
        room: Option<u64>,
        /// Returned with the page. Pages of earlier requests are ignored.
        serial: u32,
    },
    /// The number of newer messages that the shard has for each message of another shard's page:
    /// [`Answer::counts`].
    Counts {
        /// The shard.
        of: u32,
        /// The shard whose page it is.
        source: u32,
        /// Only messages of shard `of` up to this number.
        upto: u64,
        /// Returned with the counts; identifies the page.
        serial: u32,
    },
}

/// The next step of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Publish the first message of this shard's page.
    Message(u32),
    /// Send these requests, if any, and wait for replies.
    Wait(Vec<ShardRequest>),
    /// All messages are out.
    End,
}

#[derive(Debug)]
enum State {
    /// A page is requested; these bytes of it have arrived.
    Requested(Vec<u8>),
    /// The page has arrived. The page of some other shard has not, so the upper limits of all
    /// shards are not known yet.
    Fetched(Vec<Item>, Option<u64>),
    /// These shards have not sent their counts of newer messages yet.
    Counted(Vec<Item>, Option<u64>, Vec<u32>),
    /// The messages can be taken.
    Ready(VecDeque<Item>, Option<u64>),
    /// The payload of the first message is requested; these bytes of it have arrived.
    PageRequest(VecDeque<Item>, Option<u64>, Vec<u8>),
    /// There are no more messages.
    Over,
}

#[derive(Debug)]
struct Source {
    state: State,
    after: u64,
    /// Known after the first page.
    upto: Option<u64>,
    /// Bytes of memory that the requested page may use.
    room: u64,
    /// The number of the last request.
    serial: u32,
    /// Bytes of memory of the messages that have arrived, without the list.
    heap: u64,
    /// How often the same request was repeated without a reply.
    tries: u32,
    given_up: bool,
}

/// An answer in progress.
#[derive(Debug)]
pub struct Answer {
    per_topic: usize,
    sources: Vec<Source>,
}

/// How often a request to a shard is repeated.
const TRIES: u32 = 2;

impl Answer {
    /// An answer from this many shards, with this many messages of each topic.
    pub fn new(shards: u32, per_topic: usize) -> Answer {
        let source = || Source {
            state: State::Requested(Vec::new()),
            after: 0,
            upto: None,
            room: 0,
            serial: 0,
            heap: 0,
            tries: 0,
            given_up: false,
        };
        Answer { per_topic, sources: (0..shards).map(|_| source()).collect() }
    }

    /// The first requests.
    pub fn begin(&mut self) -> Vec<ShardRequest> {
        (0..).zip(&mut self.sources).map(|(of, source)| source.request(of)).collect()
    }

    /// Bytes of memory in use, plus those that requested pages may use.
    pub fn held_bytes(&self) -> u64 {
        let sources = allocated(self.sources.capacity() * size_of::<Source>());
        sources + self.sources.iter().map(Source::held_bytes).sum::<u64>()
    }

    /// Sets the bytes of memory that the request to a shard may use.
    pub fn reserve(&mut self, of: u32, room: u64) {
        if let Some(source) = self.sources.get_mut(of as usize) {
            source.room = room;
        }
    }

    /// Requests the payload of the first message of a shard's page, if it was omitted. `None` if it
    /// is present.
    pub fn want(&mut self, of: u32) -> Option<ShardRequest> {
        let source = self.sources.get_mut(of as usize)?;
        let State::Ready(items, next) = &mut source.state else { return None };
        items.front().filter(|item| item.absent > 0)?;
        source.state = State::PageRequest(std::mem::take(items), *next, Vec::new());
        Some(source.request(of))
    }

    /// Number of shards that have not replied and are skipped.
    pub fn left_out(&self) -> usize {
        self.sources.iter().filter(|source| source.given_up).count()
    }

    /// Adds a part of a page.
    pub fn part(&mut self, from: u32, serial: u32, bytes: &[u8]) {
        if let Some(parts) = self.parts_of(from, serial) {
            parts.extend(bytes);
        }
    }

    /// The parts of the page with this request number.
    fn parts_of(&mut self, from: u32, serial: u32) -> Option<&mut Vec<u8>> {
        let source = self.sources.get_mut(from as usize).filter(|source| source.serial == serial)?;
        match &mut source.state {
            State::Requested(parts) | State::PageRequest(_, _, parts) => Some(parts),
            _ => None,
        }
    }

    /// The end of a page that was sent in parts of `bytes` in total. An incomplete page is
    /// requested again later.
    pub fn end_of_page(&mut self, from: u32, serial: u32, page: Page, bytes: u64) -> Vec<ShardRequest> {
        let Some(parts) = self.parts_of(from, serial).map(std::mem::take) else { return Vec::new() };
        match read_items(&parts).filter(|_| parts.len() as u64 == bytes) {
            Some(items) => self.page(from, serial, Page { items, ..page }),
            None => Vec::new(),
        }
    }

    /// Takes the page for the request with this number, and ignores pages of earlier requests.
    /// Returns the next requests.
    pub fn page(&mut self, from: u32, serial: u32, page: Page) -> Vec<ShardRequest> {
        let source = self.sources.get_mut(from as usize).filter(|source| source.serial == serial);
        let Some(source) = source else { return Vec::new() };
        match &mut source.state {
            State::Requested(_) => {
                source.upto.get_or_insert(page.upto);
                source.state = State::Fetched(page.items, page.next);
            }
            State::PageRequest(items, next, _) => {
                match (items.front_mut(), page.items.into_iter().next()) {
                    (Some(first), Some(whole)) if whole.number == first.number && whole.absent == 0 => {
                        (first.payload, first.absent) = (whole.payload, 0);
                    }
                    // The message was removed meanwhile.
                    (Some(_), None) => drop(items.pop_front()),
                    // Not the requested page: it is requested again later.
                    _ => return Vec::new(),
                }
                source.state = State::Ready(std::mem::take(items), *next);
            }
            _ => return Vec::new(),
        }
        source.tries = 0;
        source.weigh();
        self.count_fetched()
    }

    /// Once the upper limit of each shard is known, requests the counts for the pages that have
    /// arrived.
    fn count_fetched(&mut self) -> Vec<ShardRequest> {
        let known = |source: &Source| source.upto.is_some() || source.given_up;
        if !self.sources.iter().all(known) {
            return Vec::new();
        }
        let uptos: Vec<Option<u64>> = self.sources.iter().map(|source| source.upto).collect();
        let mut requests = Vec::new();
        for (at, source) in (0..).zip(&mut self.sources) {
            let State::Fetched(items, next) = &mut source.state else { continue };
            let (items, next) = (std::mem::take(items), *next);
            let others =
                (0..).zip(&uptos).filter(|(of, upto)| *of != at && upto.is_some_and(|upto| upto > 0));
            let missing: Vec<u32> = others.map(|(of, _)| of).filter(|_| !items.is_empty()).collect();
            requests.extend(missing.iter().map(|of| {
                let upto = uptos.get(*of as usize).copied().flatten().unwrap_or(0);
                ShardRequest::Counts { of: *of, source: at, upto, serial: source.serial }
            }));
            source.state = State::Counted(items, next, missing);
            source.take_counted(self.per_topic);
        }
        requests
    }

    /// Takes the counts of newer messages that a shard has for the messages of a page. `page` is
    /// the page's shard and request number.
    pub fn counts(&mut self, from: u32, page: (u32, u32), counts: impl Iterator<Item = u32>) {
        let source = self.sources.get_mut(page.0 as usize).filter(|source| source.serial == page.1);
        let Some(source) = source else { return };
        let State::Counted(items, _, missing) = &mut source.state else { return };
        if let Some(at) = missing.iter().position(|shard| *shard == from) {
            missing.swap_remove(at);
            items
                .iter_mut()
                .zip(counts)
                .for_each(|(item, count)| item.newer = item.newer.saturating_add(count));
        }
        source.take_counted(self.per_topic);
    }

    /// The messages of a page for which other shards count newer ones.
    pub fn items_of(&self, source: u32) -> &[Item] {
        match self.sources.get(source as usize).map(|source| &source.state) {
            Some(State::Counted(items, ..)) => items,
            _ => &[],
        }
    }

    /// The next step. The result stays the same until [`Answer::take`].
    pub fn next(&mut self) -> Next {
        let (mut requests, mut waits, mut first) = (Vec::new(), false, None::<(Position, u32)>);
        for (of, source) in (0..).zip(&mut self.sources) {
            match &source.state {
                State::Over => {}
                State::Ready(items, next) => match (items.front(), next) {
                    (Some(item), _) => {
                        let place = Position { at_ms: item.at_ms, shard: of, number: item.number };
                        first = Some(first.map_or((place, of), |first| first.min((place, of))));
                    }
                    (None, Some(after)) => {
                        (waits, source.after) = (true, *after);
                        source.state = State::Requested(Vec::new());
                        source.heap = 0;
                        requests.push(source.request(of));
                    }
                    (None, None) => source.state = State::Over,
                },
                _ => waits = true,
            }
        }
        match first {
            _ if waits => Next::Wait(requests),
            Some((_, of)) => Next::Message(of),
            None => Next::End,
        }
    }

    /// The first message of a shard's page.
    pub fn first_of(&self, source: u32) -> Option<&Item> {
        match &self.sources.get(source as usize)?.state {
            State::Ready(items, _) => items.front(),
            _ => None,
        }
    }

    /// Removes and returns the first message of a shard's page.
    pub fn take(&mut self, source: u32) -> Option<Item> {
        let source = self.sources.get_mut(source as usize)?;
        let State::Ready(items, _) = &mut source.state else { return None };
        let item = items.pop_front()?;
        source.heap = source.heap.saturating_sub(item.heap_bytes());
        if items.is_empty() {
            *items = VecDeque::new();
        }
        Some(item)
    }

    /// No reply for too long: returns the requests to repeat. A shard that never replies is skipped
    /// in the end.
    pub fn request_again(&mut self) -> Vec<ShardRequest> {
        let mut requests = Vec::new();
        for (of, source) in (0..).zip(&mut self.sources) {
            match &mut source.state {
                State::Requested(parts) | State::PageRequest(_, _, parts) => {
                    parts.clear();
                    source.tries += 1;
                    if source.tries > TRIES {
                        (source.state, source.given_up) = (State::Over, true);
                    } else {
                        requests.push(source.request(of));
                    }
                }
                // Without these counts the answer may have too many messages of a topic, but none
                // is missing.
                State::Counted(_, _, missing) => {
                    missing.clear();
                    source.take_counted(self.per_topic);
                }
                _ => {}
            }
        }
        requests.extend(self.count_fetched());
        requests
    }
}

impl Source {
    /// The current request to a shard: the missing payload, or the next page.
    fn request(&mut self, of: u32) -> ShardRequest {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        if let State::PageRequest(items, ..) = &self.state
            && let Some(first) = items.front()
        {
            let room = Some(bytes_in_page(&first.topic, first.absent as usize));
            return ShardRequest::Page { of, after: first.number - 1, upto: first.number, room, serial };
        }
        ShardRequest::Page { of, after: self.after, upto: self.upto.unwrap_or(u64::MAX), room: None, serial }
    }

    fn weigh(&mut self) {
        self.heap = match &self.state {
            State::Fetched(items, _) | State::Counted(items, ..) => items.iter().map(Item::heap_bytes).sum(),
            State::Ready(items, _) | State::PageRequest(items, ..) => {
                items.iter().map(Item::heap_bytes).sum()
            }
            State::Requested(_) | State::Over => 0,
        };
    }

    fn held_bytes(&self) -> u64 {
        let list = |capacity: usize| allocated(capacity * size_of::<Item>()) + self.heap;
        match &self.state {
            State::Requested(parts) => self.room.max(allocated(parts.capacity())),
            State::Fetched(items, _) => list(items.capacity()),
            State::Counted(items, _, missing) => list(items.capacity()) + allocated(4 * missing.capacity()),
            State::Ready(items, _) => list(items.capacity()),
            State::PageRequest(items, _, parts) => {
                list(items.capacity()) + self.room.max(allocated(parts.capacity()))
            }
            State::Over => 0,
        }
    }

    /// A page with all counts can be taken. Messages that are not among the last of their topic are
    /// removed.
    fn take_counted(&mut self, per_topic: usize) {
        if let State::Counted(items, next, missing) = &mut self.state
            && missing.is_empty()
        {
            let items = std::mem::take(items).into_iter();
            let last = items.filter(|item| (item.newer as usize) < per_topic).collect();
            self.state = State::Ready(last, *next);
            self.weigh();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use grapnel_plugin_abi::ShareLimits;

    use super::*;
    use crate::store::{Span, Store};
    use crate::wire::{Reader, read_place, write_items, write_places};

    const LIMITS: ShareLimits = ShareLimits {
        entries_max: u64::MAX,
        bytes_max: u64::MAX,
        owner_entries_max: u64::MAX,
        owner_bytes_max: u64::MAX,
    };

    const ROOM: u64 = 10_000;

    /// Executes requests on the stores of all shards, except the shard that does not reply.
    fn carry_out(answer: &mut Answer, stores: &[Store], deaf: Option<u32>, requests: Vec<ShardRequest>) {
        let mut requests = VecDeque::from(requests);
        while let Some(request) = requests.pop_front() {
            match request {
                ShardRequest::Page { of, .. } | ShardRequest::Counts { of, .. } if Some(of) == deaf => {}
                ShardRequest::Page { of, after, upto, room, serial } => {
                    let room = room.unwrap_or(ROOM);
                    answer.reserve(of, room);
                    let page = stores[of as usize].page(Span { filter: "#", after, upto, room });
                    let bytes = write_items(&page.items);
                    bytes.chunks(100).for_each(|part| answer.part(of, serial, part));
                    requests.extend(answer.end_of_page(of, serial, page, bytes.len() as u64));
                }
                ShardRequest::Counts { of, source, upto, serial } => {
                    let bytes = write_places(source, answer.items_of(source));
                    let mut reader = Reader(&bytes);
                    let places = std::iter::from_fn(|| read_place(&mut reader));
                    let counts = places.map(|(place, name)| stores[of as usize].newer(of, upto, name, place));
                    answer.counts(of, (source, serial), counts.collect::<Vec<_>>().into_iter());
                }
            }
        }
    }

    fn answered(stores: &[Store], per_topic: usize, deaf: Option<u32>) -> (Vec<String>, usize) {
        let mut answer = Answer::new(stores.len() as u32, per_topic);
        let requests = answer.begin();
        carry_out(&mut answer, stores, deaf, requests);
        let mut received = Vec::new();
        for _ in 0..100_000 {
            match answer.next() {
                Next::Message(of) => {
                    if let Some(request) = answer.want(of) {
                        carry_out(&mut answer, stores, deaf, vec![request]);
                        continue;
                    }
                    assert!(answer.first_of(of).is_some());
                    let item = answer.take(of).unwrap();
                    received.push(format!("{}={}", item.topic, String::from_utf8_lossy(&item.payload)));
                }
                Next::Wait(requests) if requests.is_empty() => {
                    let requests = answer.request_again();
                    carry_out(&mut answer, stores, deaf, requests);
                }
                Next::Wait(requests) => carry_out(&mut answer, stores, deaf, requests),
                Next::End => return (received, answer.left_out()),
            }
        }
        panic!("it has no end");
    }

    /// Messages go to the shards in turn, one each millisecond; each shard stores the last three of
    /// each topic.
    fn stores(shards: usize, count: usize, topics: usize) -> Vec<Store> {
        let mut stores: Vec<Store> = (0..shards).map(|_| Store::new(3, LIMITS)).collect();
        for n in 0..count {
            stores[n % shards].keep(n as u64, "me", &format!("t{}", n % topics), n.to_string().as_bytes());
        }
        stores
    }

    /// The last three of each topic, in order of arrival: the result of a single list.
    fn expected(count: usize, topics: usize, per_topic: usize) -> Vec<String> {
        let is_last =
            |n: &usize| (n + 1..count).filter(|later| later % topics == n % topics).count() < per_topic;
        (0..count).filter(is_last).map(|n| format!("t{}={n}", n % topics)).collect()
    }

    #[test]
    fn an_answer_is_the_same_as_from_one_list_of_all_shards() {
        for (shards, count, topics) in
            [(1, 50, 7), (2, 50, 7), (3, 100, 4), (4, 3000, 1000), (2, 1500, 1), (5, 0, 1)]
        {
            let (received, left_out) = answered(&stores(shards, count, topics), 3, None);
            assert_eq!(received, expected(count, topics, 3), "{shards} shards, {count} of {topics}");
            assert_eq!(left_out, 0);
        }
    }

    #[test]
    fn a_shard_that_does_not_reply_is_left_out_and_the_others_are_complete() {
        let stores = stores(2, 20, 20);
        let (received, left_out) = answered(&stores, 3, Some(1));
        assert_eq!(left_out, 1);
        assert!(received.into_iter().eq((0..20).step_by(2).map(|n| format!("t{n}={n}"))));
    }

    #[test]
    fn an_incomplete_page_is_requested_again() {
        let stores = stores(1, 3, 3);
        let mut answer = Answer::new(1, 3);
        let serial_of = |requests: Vec<ShardRequest>| match requests[..] {
            [ShardRequest::Page { of: 0, after: 0, serial, .. }] => serial,
            _ => panic!("{requests:?}"),
        };
        let first = serial_of(answer.begin());
        let bytes =
            write_items(&stores[0].page(Span { filter: "#", after: 0, upto: u64::MAX, room: ROOM }).items);
        answer.part(0, first, &bytes[..10]);
        let end = || Page { items: Vec::new(), upto: 3, next: None };
        assert_eq!(answer.end_of_page(0, first, end(), bytes.len() as u64), []);
        assert_eq!(answer.next(), Next::Wait(Vec::new()));
        let second = serial_of(answer.request_again());
        // The reply to an earlier request arrives too late, and changes nothing.
        answer.part(0, first, &bytes);
        answer.end_of_page(0, first, end(), bytes.len() as u64);
        assert_eq!(answer.next(), Next::Wait(Vec::new()));
        answer.part(0, second, &bytes);
        answer.end_of_page(0, second, end(), bytes.len() as u64);
        // Nor does a second reply, or one from an unknown shard.
        assert_eq!(answer.page(0, second, end()), []);
        assert_eq!(answer.page(7, second, end()), []);
        answer.counts(0, (7, second), std::iter::empty());
        assert_eq!(answer.next(), Next::Message(0));
    }

    /// A page for a repeated request does not answer the request of a payload, and the message
    /// stays.
    #[test]
    fn a_repeated_page_adds_no_message() {
        let mut store = Store::new(3, LIMITS);
        store.keep(1, "me", "large", &[7; 20_000]);
        store.keep(2, "me", "small", b"");
        let page = |room| store.page(Span { filter: "#", after: 0, upto: u64::MAX, room });
        let mut answer = Answer::new(1, 3);
        let serial_of = |request: &ShardRequest| {
            if let ShardRequest::Page { serial, .. } = request { *serial } else { 0 }
        };
        let first = serial_of(&answer.begin()[0]);
        let again = serial_of(&answer.request_again()[0]);
        answer.page(0, again, page(ROOM));
        assert_eq!(answer.next(), Next::Message(0));
        let wanted = serial_of(&answer.want(0).unwrap());
        // Replies to earlier requests, and one that cannot be the requested page.
        for serial in [first, again, wanted] {
            answer.page(0, serial, page(ROOM));
            assert_eq!(answer.next(), Next::Wait(Vec::new()));
        }
        answer.page(0, wanted, page(u64::MAX / 2));
        assert_eq!(answer.take(0).map(|item| item.payload.len()), Some(20_000));
        assert_eq!(answer.take(0).map(|item| item.topic), Some("small".to_owned()));
    }
}
