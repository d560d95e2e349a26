//! One answer that is under way, on the shard of who asked: pages of all shards are fetched one by one and put in order, and of each
//! topic only the last messages of all shards together are taken. It says what is to be fetched; it sends nothing itself.

use std::collections::VecDeque;

use grapnel_plugin_abi::allocated;

use crate::store::{Item, Page, Place, bytes_in_page};
use crate::wire::read_items;

/// What is to be asked of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The next page of its messages: [`Answer::page`].
    Page {
        /// The shard.
        of: u32,
        /// Behind the message of this number.
        after: u64,
        /// Up to the message of this number.
        upto: u64,
        /// Bytes of memory that it may take; `None` for as many as there is room for.
        room: Option<u64>,
    },
    /// How many newer messages it has for each message of another shard's page: [`Answer::counts`].
    Counts {
        /// The shard.
        of: u32,
        /// Whose page it is.
        source: u32,
        /// Only its messages up to this number.
        upto: u64,
    },
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The first message of this shard's page.
    Message(u32),
    /// These are to be asked, if any; and answers are to come in.
    Wait(Vec<Ask>),
    /// That was all.
    End,
}

#[derive(Debug)]
enum State {
    /// A page has been asked for, and these bytes of it have come.
    Asked(Vec<u8>),
    /// It has come; that of some other shard has not, so that nobody knows up to where it belongs to the answer.
    Fetched(Vec<Item>, Option<u64>),
    /// These shards have not said how many newer ones they have.
    Counted(Vec<Item>, Option<u64>, Vec<u32>),
    /// It can be taken.
    Ready(VecDeque<Item>, Option<u64>),
    /// The payload of its first message has been asked for, and these bytes of it have come.
    Wanted(VecDeque<Item>, Option<u64>, Vec<u8>),
    /// There is no more.
    Over,
}

#[derive(Debug)]
struct Source {
    state: State,
    after: u64,
    /// Known from the first page on.
    upto: Option<u64>,
    /// Bytes of memory that what has been asked for may take.
    room: u64,
    /// Bytes of memory of the messages that have come, beside the list.
    heap: u64,
    /// How often it was asked for the same and did not answer.
    tries: u32,
    given_up: bool,
}

/// An answer under way.
#[derive(Debug)]
pub struct Answer {
    per_topic: usize,
    sources: Vec<Source>,
}

/// How often a shard is asked once more for the same.
const TRIES: u32 = 2;

impl Answer {
    /// From so many shards, so many messages of each topic.
    pub fn new(shards: u32, per_topic: usize) -> Answer {
        let source = || Source {
            state: State::Asked(Vec::new()),
            after: 0,
            upto: None,
            room: 0,
            heap: 0,
            tries: 0,
            given_up: false,
        };
        Answer { per_topic, sources: (0..shards).map(|_| source()).collect() }
    }

    /// What is to be asked at the beginning.
    pub fn begin(&self) -> Vec<Ask> {
        (0..self.sources.len() as u32)
            .map(|of| Ask::Page { of, after: 0, upto: u64::MAX, room: None })
            .collect()
    }

    /// Bytes of memory that it holds, or that what has been asked for may take.
    pub fn held_bytes(&self) -> u64 {
        let sources = allocated(self.sources.capacity() * size_of::<Source>());
        sources + self.sources.iter().map(Source::held_bytes).sum::<u64>()
    }

    /// What is asked of a shard may take so many bytes of memory.
    pub fn reserve(&mut self, of: u32, room: u64) {
        if let Some(source) = self.sources.get_mut(of as usize) {
            source.room = room;
        }
    }

    /// Has the payload fetched that the first message of a shard's page has been left without. `None` where it is there.
    pub fn want(&mut self, of: u32) -> Option<Ask> {
        let source = self.sources.get_mut(of as usize)?;
        let State::Ready(items, next) = &mut source.state else { return None };
        items.front().filter(|item| item.absent > 0)?;
        source.state = State::Wanted(std::mem::take(items), *next, Vec::new());
        source.wanted(of)
    }

    /// Shards that have not answered and are left out.
    pub fn left_out(&self) -> usize {
        self.sources.iter().filter(|source| source.given_up).count()
    }

    /// A part of a page.
    pub fn part(&mut self, from: u32, bytes: &[u8]) {
        if let Some(Source { state: State::Asked(parts) | State::Wanted(_, _, parts), .. }) =
            self.sources.get_mut(from as usize)
        {
            parts.extend(bytes);
        }
    }

    /// The end of the page behind a number, that came in parts of so many bytes together. One that is not whole is asked for again
    /// in time.
    pub fn end_of_page(&mut self, from: u32, after: u64, page: Page, bytes: u64) -> Vec<Ask> {
        let Some(Source { state: State::Asked(parts) | State::Wanted(_, _, parts), .. }) =
            self.sources.get_mut(from as usize)
        else {
            return Vec::new();
        };
        let parts = std::mem::take(parts);
        match read_items(&parts).filter(|_| parts.len() as u64 == bytes) {
            Some(items) => self.page(from, after, Page { items, ..page }),
            None => Vec::new(),
        }
    }

    /// The page behind a number; one that is not waited for, since it was asked for twice, is passed over. Gives what is to be asked
    /// now.
    pub fn page(&mut self, from: u32, after: u64, page: Page) -> Vec<Ask> {
        let source = self.sources.get_mut(from as usize);
        let Some(source) = source.filter(|source| source.waits_for() == Some(after)) else {
            return Vec::new();
        };
        source.tries = 0;
        if let State::Wanted(items, next, _) = &mut source.state {
            let whole = page.items.into_iter().next().filter(|item| item.absent == 0);
            match (items.front_mut(), whole) {
                (Some(first), Some(whole)) if first.number == whole.number => {
                    (first.payload, first.absent) = (whole.payload, 0);
                }
                // It has gone meanwhile.
                _ => drop(items.pop_front()),
            }
            source.state = State::Ready(std::mem::take(items), *next);
            source.weigh();
            return Vec::new();
        }
        source.upto.get_or_insert(page.upto);
        source.state = State::Fetched(page.items, page.next);
        source.weigh();
        self.count_fetched()
    }

    /// Once it is known of each shard up to where it goes, the others are asked about the pages that have come.
    fn count_fetched(&mut self) -> Vec<Ask> {
        let known = |source: &Source| source.upto.is_some() || source.given_up;
        if !self.sources.iter().all(known) {
            return Vec::new();
        }
        let uptos: Vec<Option<u64>> = self.sources.iter().map(|source| source.upto).collect();
        let mut asks = Vec::new();
        for (at, source) in (0..).zip(&mut self.sources) {
            let State::Fetched(items, next) = &mut source.state else { continue };
            let (items, next) = (std::mem::take(items), *next);
            let others =
                (0..).zip(&uptos).filter(|(of, upto)| *of != at && upto.is_some_and(|upto| upto > 0));
            let missing: Vec<u32> = others.map(|(of, _)| of).filter(|_| !items.is_empty()).collect();
            asks.extend(missing.iter().map(|of| {
                let upto = uptos.get(*of as usize).copied().flatten().unwrap_or(0);
                Ask::Counts { of: *of, source: at, upto }
            }));
            source.state = State::Counted(items, next, missing);
            source.take_counted(self.per_topic);
        }
        asks
    }

    /// How many newer messages a shard has for each message of a page.
    pub fn counts(&mut self, from: u32, of_source: u32, counts: impl Iterator<Item = u32>) {
        let Some(source) = self.sources.get_mut(of_source as usize) else { return };
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

    /// The messages of a page that others are to be asked about.
    pub fn items_of(&self, source: u32) -> &[Item] {
        match self.sources.get(source as usize).map(|source| &source.state) {
            Some(State::Counted(items, ..)) => items,
            _ => &[],
        }
    }

    /// What comes next; asked for again, it is the same until [`Answer::take`].
    pub fn next(&mut self) -> Next {
        let (mut asks, mut waits, mut first) = (Vec::new(), false, None::<(Place, u32)>);
        for (of, source) in (0..).zip(&mut self.sources) {
            match &source.state {
                State::Over => {}
                State::Ready(items, next) => match (items.front(), next) {
                    (Some(item), _) => {
                        let place = Place { at_ms: item.at_ms, shard: of, number: item.number };
                        first = Some(first.map_or((place, of), |first| first.min((place, of))));
                    }
                    (None, Some(after)) => {
                        (waits, source.after) = (true, *after);
                        let upto = source.upto.unwrap_or(u64::MAX);
                        asks.push(Ask::Page { of, after: source.after, upto, room: None });
                        source.state = State::Asked(Vec::new());
                        source.heap = 0;
                    }
                    (None, None) => source.state = State::Over,
                },
                _ => waits = true,
            }
        }
        match first {
            _ if waits => Next::Wait(asks),
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

    /// Takes it out.
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

    /// Nothing has come for too long: what is to be asked again. A shard that does not answer is left out in the end.
    pub fn ask_again(&mut self) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (of, source) in (0..).zip(&mut self.sources) {
            match &mut source.state {
                State::Asked(parts) | State::Wanted(_, _, parts) => {
                    parts.clear();
                    source.tries += 1;
                    if source.tries > TRIES {
                        (source.state, source.given_up) = (State::Over, true);
                    } else if let Some(wanted) = source.wanted(of) {
                        asks.push(wanted);
                    } else {
                        let upto = source.upto.unwrap_or(u64::MAX);
                        asks.push(Ask::Page { of, after: source.after, upto, room: None });
                    }
                }
                // Without their counts there may be more messages of a topic than there should be, but none is missing.
                State::Counted(_, _, missing) => {
                    missing.clear();
                    source.take_counted(self.per_topic);
                }
                _ => {}
            }
        }
        asks.extend(self.count_fetched());
        asks
    }
}

impl Source {
    /// Behind the message of which number a page is waited for.
    fn waits_for(&self) -> Option<u64> {
        match &self.state {
            State::Asked(_) => Some(self.after),
            State::Wanted(items, ..) => items.front().map(|item| item.number - 1),
            _ => None,
        }
    }

    /// What is asked for a message whose payload is waited for.
    fn wanted(&self, of: u32) -> Option<Ask> {
        let State::Wanted(items, ..) = &self.state else { return None };
        let first = items.front()?;
        let room = Some(bytes_in_page(&first.topic, first.absent as usize));
        Some(Ask::Page { of, after: first.number - 1, upto: first.number, room })
    }

    fn weigh(&mut self) {
        self.heap = match &self.state {
            State::Fetched(items, _) | State::Counted(items, ..) => items.iter().map(Item::heap_bytes).sum(),
            State::Ready(items, _) | State::Wanted(items, ..) => items.iter().map(Item::heap_bytes).sum(),
            State::Asked(_) | State::Over => 0,
        };
    }

    fn held_bytes(&self) -> u64 {
        let list = |capacity: usize| allocated(capacity * size_of::<Item>()) + self.heap;
        match &self.state {
            State::Asked(parts) => self.room.max(allocated(parts.capacity())),
            State::Fetched(items, _) => list(items.capacity()),
            State::Counted(items, _, missing) => list(items.capacity()) + allocated(4 * missing.capacity()),
            State::Ready(items, _) => list(items.capacity()),
            State::Wanted(items, _, parts) => {
                list(items.capacity()) + self.room.max(allocated(parts.capacity()))
            }
            State::Over => 0,
        }
    }

    /// A page whose counts are complete can be taken: of each topic, what is not among the last ones is left out.
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

    /// Carries out what is asked, on the stores of all shards, but for those that do not answer.
    fn carry_out(answer: &mut Answer, stores: &[Store], deaf: Option<u32>, asks: Vec<Ask>) {
        let mut asks = VecDeque::from(asks);
        while let Some(ask) = asks.pop_front() {
            match ask {
                Ask::Page { of, .. } | Ask::Counts { of, .. } if Some(of) == deaf => {}
                Ask::Page { of, after, upto, room } => {
                    let room = room.unwrap_or(ROOM);
                    answer.reserve(of, room);
                    let page = stores[of as usize].page(Span { filter: "#", after, upto, room });
                    let bytes = write_items(&page.items);
                    bytes.chunks(100).for_each(|part| answer.part(of, part));
                    asks.extend(answer.end_of_page(of, after, page, bytes.len() as u64));
                }
                Ask::Counts { of, source, upto } => {
                    let bytes = write_places(source, answer.items_of(source));
                    let mut reader = Reader(&bytes);
                    let places = std::iter::from_fn(|| read_place(&mut reader));
                    let counts = places.map(|(place, name)| stores[of as usize].newer(of, upto, name, place));
                    answer.counts(of, source, counts.collect::<Vec<_>>().into_iter());
                }
            }
        }
    }

    fn answered(stores: &[Store], per_topic: usize, deaf: Option<u32>) -> (Vec<String>, usize) {
        let mut answer = Answer::new(stores.len() as u32, per_topic);
        let asks = answer.begin();
        carry_out(&mut answer, stores, deaf, asks);
        let mut came = Vec::new();
        for _ in 0..100_000 {
            match answer.next() {
                Next::Message(of) => {
                    if let Some(ask) = answer.want(of) {
                        carry_out(&mut answer, stores, deaf, vec![ask]);
                        continue;
                    }
                    assert!(answer.first_of(of).is_some());
                    let item = answer.take(of).unwrap();
                    came.push(format!("{}={}", item.topic, String::from_utf8_lossy(&item.payload)));
                }
                Next::Wait(asks) if asks.is_empty() => {
                    let asks = answer.ask_again();
                    carry_out(&mut answer, stores, deaf, asks);
                }
                Next::Wait(asks) => carry_out(&mut answer, stores, deaf, asks),
                Next::End => return (came, answer.left_out()),
            }
        }
        panic!("it has no end");
    }

    /// Messages go round the shards, one each millisecond; of each topic the last three are kept on each shard.
    fn stores(shards: usize, count: usize, topics: usize) -> Vec<Store> {
        let mut stores: Vec<Store> = (0..shards).map(|_| Store::new(3, LIMITS)).collect();
        for n in 0..count {
            stores[n % shards].keep(n as u64, "me", &format!("t{}", n % topics), n.to_string().as_bytes());
        }
        stores
    }

    /// The last three of each topic, in the order in which they came: what one list would have.
    fn expected(count: usize, topics: usize, per_topic: usize) -> Vec<String> {
        let is_last =
            |n: &usize| (n + 1..count).filter(|later| later % topics == n % topics).count() < per_topic;
        (0..count).filter(is_last).map(|n| format!("t{}={n}", n % topics)).collect()
    }

    #[test]
    fn it_is_what_one_list_of_all_shards_would_have() {
        for (shards, count, topics) in
            [(1, 50, 7), (2, 50, 7), (3, 100, 4), (4, 3000, 1000), (2, 1500, 1), (5, 0, 1)]
        {
            let (came, left_out) = answered(&stores(shards, count, topics), 3, None);
            assert_eq!(came, expected(count, topics, 3), "{shards} shards, {count} of {topics}");
            assert_eq!(left_out, 0);
        }
    }

    #[test]
    fn a_shard_that_does_not_answer_is_left_out_and_the_rest_is_complete() {
        let stores = stores(2, 20, 20);
        let (came, left_out) = answered(&stores, 3, Some(1));
        assert_eq!(left_out, 1);
        assert!(came.into_iter().eq((0..20).step_by(2).map(|n| format!("t{n}={n}"))));
    }

    #[test]
    fn a_page_that_is_not_whole_is_asked_for_again() {
        let stores = stores(1, 3, 3);
        let mut answer = Answer::new(1, 3);
        let bytes =
            write_items(&stores[0].page(Span { filter: "#", after: 0, upto: u64::MAX, room: ROOM }).items);
        answer.part(0, &bytes[..10]);
        let end = || Page { items: Vec::new(), upto: 3, next: None };
        assert_eq!(answer.end_of_page(0, 0, end(), bytes.len() as u64), []);
        assert_eq!(answer.next(), Next::Wait(Vec::new()));
        assert_eq!(answer.ask_again(), answer.begin());
        answer.part(0, &bytes);
        answer.end_of_page(0, 0, end(), bytes.len() as u64);
        // What comes twice, or from nowhere, changes nothing.
        assert_eq!(answer.page(0, 0, end()), []);
        assert_eq!(answer.page(7, 0, end()), []);
        answer.counts(0, 7, std::iter::empty());
        assert_eq!(answer.next(), Next::Message(0));
    }
}
