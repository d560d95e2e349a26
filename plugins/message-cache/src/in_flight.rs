//! The messages of an answer between the store and the subscriber. Each message is authorized
//! first, then published in order, and stored until the broker has replied. Their number and bytes
//! follow the speed of the subscribers. Independent of the broker.

use std::collections::{BTreeMap, VecDeque};

use grapnel_plugin_abi::{allocated, tree_entry_bytes};

use crate::store::Item;

/// Pauses after the broker was full, in ticks: the first and the longest.
const PAUSE_TICKS: u32 = 10;
const PAUSE_TICKS_MAX: u32 = 160;

/// A message is retried this often and then refused, because it may be refused for another reason
/// than a full broker.
const PUT_OFF_MAX: u32 = 8;

/// How much of an answer may be in flight.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Number of messages, at least 1.
    pub messages: u64,
    /// Bytes; a single message may exceed it.
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// To be authorized.
    Waiting,
    /// Authorization is requested.
    Requested,
    /// The client may receive it.
    Allowed,
    /// It is published; the result is not known yet.
    Published,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    state: State,
    put_off: u32,
}

/// The messages in flight of an answer.
#[derive(Debug)]
pub struct InFlight {
    entries: BTreeMap<u32, Entry>,
    /// The position of the next message.
    next: u32,
    /// All messages before these positions are authorized, or published.
    unauthorized: u32,
    unpublished: u32,
    /// The number of requests without a reply, and its limit. The limit is one at the start and
    /// after the broker was full. Below the threshold it grows by one with each reply, above it by
    /// one with each round of replies.
    unanswered: u64,
    window: u64,
    threshold: u64,
    answered_of_window: u64,
    pause_ticks: u32,
    last_pause_ticks: u32,
    /// Position and bytes of published messages that the last subscriber may not have acknowledged.
    /// They leave in this order, because each subscriber acknowledges in the order of delivery
    /// [MQTT-4.6.0-2].
    in_flight_positions: VecDeque<(u32, u64)>,
    in_flight_bytes: u64,
    /// The same for messages that are not published yet.
    unpublished_count: u64,
    unpublished_bytes: u64,
    /// Bytes of memory of the messages, without their entries.
    heap: u64,
}

fn bytes_of(item: &Item) -> u64 {
    ((item.topic.len() + item.payload.len()) as u64).saturating_add(item.absent)
}

impl Default for InFlight {
    fn default() -> InFlight {
        InFlight {
            entries: BTreeMap::new(),
            next: 0,
            unauthorized: 0,
            unpublished: 0,
            unanswered: 0,
            window: 1,
            threshold: u64::MAX,
            answered_of_window: 0,
            pause_ticks: 0,
            last_pause_ticks: 0,
            in_flight_positions: VecDeque::new(),
            in_flight_bytes: 0,
            unpublished_count: 0,
            unpublished_bytes: 0,
            heap: 0,
        }
    }
}

impl InFlight {
    /// Whether the broker has replied to all requests.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets the number of messages in flight; returns whether subscribers have acknowledged some
    /// since the last call.
    pub fn note_in_flight(&mut self, count: u64) -> bool {
        let before = self.in_flight_positions.len();
        while self.in_flight_positions.len() as u64 > count {
            let Some((_, bytes)) = self.in_flight_positions.pop_front() else { break };
            self.in_flight_bytes -= bytes;
        }
        self.in_flight_positions.len() < before
    }

    /// Number of messages that count against the limit: in flight now or later.
    pub fn messages(&self) -> u64 {
        self.in_flight_positions.len() as u64 + self.unpublished_count
    }

    /// Bytes of these messages.
    pub fn bytes(&self) -> u64 {
        self.in_flight_bytes + self.unpublished_bytes
    }

    /// Bytes of memory in use.
    pub fn held_bytes(&self) -> u64 {
        let entries = self.entries.len() as u64 * tree_entry_bytes(size_of::<(u32, Entry)>());
        entries + self.heap + allocated(self.in_flight_positions.capacity() * size_of::<(u32, u64)>())
    }

    /// Whether one more message may be added.
    pub fn has_room(&self, item: &Item, room: Room) -> bool {
        let messages = self.messages();
        self.pause_ticks == 0
            && messages < room.messages.max(1)
            && (self.entries.len() as u64) < self.window
            && (messages == 0 || self.bytes().saturating_add(bytes_of(item)) <= room.bytes)
    }

    /// Adds a message.
    pub fn push(&mut self, item: Item) {
        self.unpublished_count += 1;
        self.unpublished_bytes += bytes_of(&item);
        self.heap += item.heap_bytes();
        self.entries.insert(self.next, Entry { item, state: State::Waiting, put_off: 0 });
        self.next += 1;
    }

    fn may_request(&self) -> bool {
        self.pause_ticks == 0 && self.unanswered < self.window
    }

    /// The next message to authorize.
    pub fn next_to_authorize(&mut self) -> Option<(u32, &Item)> {
        let mut others = self.entries.range(self.unauthorized..);
        let found = others.find(|(_, entry)| entry.state == State::Waiting);
        self.unauthorized = found.map_or(self.next, |(place, _)| *place);
        found.filter(|_| self.may_request()).map(|(place, entry)| (*place, &entry.item))
    }

    /// Authorization of the message was requested.
    pub fn requested(&mut self, place: u32) {
        self.move_on(place, State::Waiting, State::Requested);
    }

    /// The next message to publish. The order is kept.
    pub fn next_to_publish(&mut self) -> Option<(u32, &Item)> {
        let mut others = self.entries.range(self.unpublished..);
        let found = others.find(|(_, entry)| entry.state != State::Published);
        self.unpublished = found.map_or(self.next, |(place, _)| *place);
        let (place, entry) = found.filter(|(_, entry)| entry.state == State::Allowed)?;
        self.may_request().then_some((*place, &entry.item))
    }

    /// The message was published.
    pub fn published(&mut self, place: u32) {
        let Some(entry) = self.entries.get(&place).filter(|entry| entry.state == State::Allowed) else {
            return;
        };
        let bytes = bytes_of(&entry.item);
        self.add_unpublished(-1, bytes);
        self.in_flight_positions.push_back((place, bytes));
        self.in_flight_bytes += bytes;
        self.move_on(place, State::Allowed, State::Published);
    }

    fn move_on(&mut self, place: u32, from: State, to: State) -> bool {
        let Some(entry) = self.entries.get_mut(&place).filter(|entry| entry.state == from) else {
            return false;
        };
        entry.state = to;
        let is_unanswered = |state| u64::from(matches!(state, State::Requested | State::Published));
        self.unanswered = self.unanswered + is_unanswered(to) - is_unanswered(from);
        true
    }

    fn add_unpublished(&mut self, count: i64, bytes: u64) {
        if count < 0 {
            self.unpublished_count -= 1;
            self.unpublished_bytes -= bytes;
        } else {
            self.unpublished_count += 1;
            self.unpublished_bytes += bytes;
        }
    }

    /// The client may receive the message.
    pub fn allowed(&mut self, place: u32) -> bool {
        self.move_on(place, State::Requested, State::Allowed)
    }

    /// The client may not receive the message: removes it without a trace.
    pub fn left_out(&mut self, place: u32) -> bool {
        let moved = self.move_on(place, State::Requested, State::Waiting);
        if moved {
            self.widen();
            self.end(place);
        }
        moved
    }

    /// The broker has accepted the published message.
    pub fn taken(&mut self, place: u32) -> bool {
        let taken = self.move_on(place, State::Published, State::Waiting);
        if taken {
            self.widen();
            // It stays in flight until its last subscriber has acknowledged it.
            self.remove(place);
        }
        taken
    }

    /// The message cannot be published; it is not retried.
    pub fn refused(&mut self, place: u32) -> bool {
        let known = self.entries.contains_key(&place);
        if self.move_on(place, State::Published, State::Waiting) {
            self.end_in_flight(place);
        }
        self.end(place);
        known
    }

    /// The broker was full, or there was no verdict: the message is retried after a pause, which
    /// grows each time. It is authorized again, because the client may have lost the right
    /// meanwhile. Returns false for a message that was retried too often.
    pub fn put_off(&mut self, place: u32) -> bool {
        if self.move_on(place, State::Published, State::Waiting) {
            self.unpublished = self.unpublished.min(place);
            self.end_in_flight(place);
        } else if !self.move_on(place, State::Requested, State::Waiting) {
            return true;
        }
        self.unauthorized = self.unauthorized.min(place);
        self.pause();
        let Some(entry) = self.entries.get_mut(&place) else { return true };
        entry.put_off += 1;
        entry.put_off <= PUT_OFF_MAX
    }

    /// Pauses for some ticks.
    pub fn pause(&mut self) {
        if self.pause_ticks == 0 {
            self.last_pause_ticks = (2 * self.last_pause_ticks).clamp(PAUSE_TICKS, PAUSE_TICKS_MAX);
            self.pause_ticks = self.last_pause_ticks;
            (self.window, self.threshold) = (1, (self.unanswered / 2).max(1));
        }
    }

    /// Whether it waits.
    pub fn is_paused(&self) -> bool {
        self.pause_ticks > 0
    }

    /// One tick has passed.
    pub fn tick(&mut self) {
        self.pause_ticks = self.pause_ticks.saturating_sub(1);
    }

    fn widen(&mut self) {
        self.last_pause_ticks = 0;
        self.answered_of_window += 1;
        if self.window < self.threshold || self.answered_of_window >= self.window {
            self.window = self.window.saturating_add(1);
            self.answered_of_window = 0;
        }
    }

    /// A published message is no longer in flight.
    fn end_in_flight(&mut self, place: u32) {
        let at = self.in_flight_positions.iter().rposition(|(other, _)| *other == place);
        let bytes = at.and_then(|at| self.in_flight_positions.remove(at)).map_or(0, |(_, bytes)| bytes);
        self.in_flight_bytes -= bytes;
        if let Some(entry) = self.entries.get(&place) {
            let bytes = bytes_of(&entry.item);
            self.add_unpublished(1, bytes);
        }
    }

    fn end(&mut self, place: u32) {
        if let Some(entry) = self.remove(place) {
            self.add_unpublished(-1, bytes_of(&entry.item));
        }
    }

    fn remove(&mut self, place: u32) -> Option<Entry> {
        let entry = self.entries.remove(&place)?;
        self.heap -= entry.item.heap_bytes();
        if self.entries.is_empty() {
            // An empty tree still has a node.
            self.entries = BTreeMap::new();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { messages: 8, bytes: 1_000 };

    fn item(bytes: usize) -> Item {
        Item { at_ms: 0, number: 0, newer: 0, topic: String::new(), payload: vec![0; bytes], absent: 0 }
    }

    /// Adds as many messages as are allowed; returns their number.
    fn fill(in_flight: &mut InFlight, bytes: usize, room: Room) -> usize {
        let mut count = 0;
        while in_flight.has_room(&item(bytes), room) {
            in_flight.push(item(bytes));
            count += 1;
        }
        count
    }

    /// Authorizes and publishes all waiting messages; returns their positions.
    fn publish(in_flight: &mut InFlight) -> Vec<u32> {
        let mut published = Vec::new();
        while let Some((place, _)) = in_flight.next_to_authorize() {
            in_flight.requested(place);
            assert!(in_flight.allowed(place));
        }
        while let Some((place, _)) = in_flight.next_to_publish() {
            in_flight.published(place);
            published.push(place);
        }
        published
    }

    /// An answer whose messages are all acknowledged at once, until its window is wide.
    fn wide() -> InFlight {
        let mut in_flight = InFlight::default();
        for _ in 0..10 {
            fill(&mut in_flight, 0, ROOM);
            publish(&mut in_flight).into_iter().for_each(|place| assert!(in_flight.taken(place)));
            in_flight.note_in_flight(0);
        }
        in_flight
    }

    #[test]
    fn the_window_begins_with_one_message_and_grows_to_the_free_room() {
        let mut in_flight = InFlight::default();
        assert_eq!((fill(&mut in_flight, 1, ROOM), publish(&mut in_flight)), (1, vec![0]));
        assert_eq!(fill(&mut in_flight, 1, ROOM), 0);
        assert!(in_flight.taken(0) && !in_flight.taken(0));
        assert!(in_flight.is_empty() && in_flight.messages() == 1, "its subscriber has not taken it");
        let mut in_flight = wide();
        assert_eq!(fill(&mut in_flight, 1, ROOM), 8);
        publish(&mut in_flight).into_iter().for_each(|place| assert!(in_flight.taken(place)));
        assert_eq!((in_flight.messages(), in_flight.bytes(), fill(&mut in_flight, 1, ROOM)), (8, 8, 0));
        assert!(in_flight.note_in_flight(6) && !in_flight.note_in_flight(6));
        assert_eq!((in_flight.bytes(), fill(&mut in_flight, 1, ROOM)), (6, 2));
        assert_eq!(fill(&mut InFlight::default(), 1, Room { messages: 0, bytes: 0 }), 1, "one always may");
    }

    #[test]
    fn bytes_in_flight_are_limited_and_one_message_is_always_allowed() {
        let mut in_flight = wide();
        assert_eq!(fill(&mut in_flight, 333, ROOM), 3);
        let places = publish(&mut in_flight);
        assert_eq!(in_flight.bytes(), 999);
        assert!(in_flight.has_room(&item(1), ROOM) && !in_flight.has_room(&item(2), ROOM));
        places.into_iter().for_each(|place| assert!(in_flight.taken(place)));
        in_flight.note_in_flight(0);
        assert_eq!((in_flight.bytes(), fill(&mut in_flight, 5_000, ROOM)), (0, 1));
    }

    #[test]
    fn denied_messages_are_omitted_and_the_order_is_kept() {
        let mut in_flight = wide();
        assert_eq!(fill(&mut in_flight, 1, ROOM), 8);
        let first = in_flight.next_to_authorize().map(|(place, _)| place).unwrap_or_default();
        for place in first..first + 8 {
            assert_eq!(in_flight.next_to_authorize().map(|(place, _)| place), Some(place));
            in_flight.requested(place);
        }
        assert!(in_flight.allowed(first + 1) && in_flight.allowed(first + 2));
        assert_eq!(
            in_flight.next_to_publish().map(|(place, _)| place),
            None,
            "the first one is not known yet"
        );
        assert!(in_flight.left_out(first) && !in_flight.left_out(first));
        assert_eq!(publish(&mut in_flight), [first + 1, first + 2]);
        assert_eq!(in_flight.messages(), 7);
    }

    #[test]
    fn refused_messages_are_retried_in_order_one_at_a_time() {
        let mut in_flight = wide();
        fill(&mut in_flight, 1, ROOM);
        let places = publish(&mut in_flight);
        places[..4].iter().for_each(|place| assert!(in_flight.taken(*place)));
        places[4..].iter().for_each(|place| assert!(in_flight.put_off(*place)));
        assert_eq!((in_flight.messages(), in_flight.bytes()), (8, 8));
        for pause in [10, 20, 40, 80, 160, 160] {
            (1..pause).for_each(|_| in_flight.tick());
            assert_eq!((in_flight.is_paused(), publish(&mut in_flight)), (true, vec![]));
            in_flight.tick();
            assert_eq!(publish(&mut in_flight), places[4..5]);
            assert!(in_flight.put_off(places[4]));
        }
        (0..PAUSE_TICKS_MAX).for_each(|_| in_flight.tick());
        assert_eq!(publish(&mut in_flight), places[4..5]);
        let rest: Vec<u32> = places[4..].to_vec();
        let mut published = vec![places[4]];
        for place in &rest {
            in_flight.taken(*place);
            published.extend(publish(&mut in_flight));
        }
        assert_eq!(published, rest);
        assert!(in_flight.is_empty());
        in_flight.note_in_flight(0);
        assert_eq!((in_flight.messages(), in_flight.bytes(), in_flight.unanswered), (0, 0, 0));

        fill(&mut in_flight, 1, ROOM);
        let (place, _) = in_flight.next_to_authorize().expect("it waits");
        in_flight.requested(place);
        for time in 1..=PUT_OFF_MAX + 1 {
            assert_eq!(in_flight.put_off(place), time <= PUT_OFF_MAX);
            assert_eq!(in_flight.next_to_authorize(), None);
            (0..PAUSE_TICKS_MAX).for_each(|_| in_flight.tick());
            in_flight.requested(place);
        }
        assert!(in_flight.put_off(place + 1), "nothing is there");
        in_flight.left_out(place);
        fill(&mut in_flight, 1, ROOM);
        let (place, _) = in_flight.next_to_authorize().expect("it waits");
        in_flight.requested(place);
        in_flight.put_off(place);
        (0..PAUSE_TICKS_MAX).for_each(|_| in_flight.tick());
        assert_eq!(in_flight.next_to_authorize().map(|(place, _)| place), Some(place));
        assert!(in_flight.refused(place) && !in_flight.refused(place));
        assert_eq!(in_flight.messages() as usize, in_flight.entries.len());
    }
}
