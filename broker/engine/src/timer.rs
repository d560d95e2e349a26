//! Timer wheels: many deadlines, few wake-ups. The owner of a timer stores it and cancels it when
//! it is no longer needed, so that a wheel has no useless entries. Timers that are due together
//! come in the order of their due times, and for the same due time in the order of arming.

use std::num::NonZeroU32;

use crate::chunk_table::ChunkTable;

/// Slots of a wheel. A power of two.
const PLACES: usize = 512;
/// Capacity that an empty wheel keeps, in entries.
const SPARE_ENTRIES_MAX: usize = 1024;
/// The same, in chunks of the table.
const SPARE_CHUNKS: usize = 32;
/// No entry.
const NONE: u32 = u32::MAX;

/// An entry of a wheel, for its owner. It finds nothing after it has been due.
#[must_use = "who arms a timer takes it out when it means nothing any more"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    index: u32,
    /// Differs for each entry with the same index, with a period of four billion.
    generation: NonZeroU32,
}

/// Entries by due tick, in a ring of slots; an entry more than one turn away waits in its slot.
#[derive(Debug)]
pub struct Wheel<T> {
    granularity_ms: u64,
    entries: ChunkTable<Entry<T>, SPARE_CHUNKS>,
    /// The last armed entry of each slot; [`NONE`] if there is none.
    places: Box<[u32; PLACES]>,
    /// Due entries before they are sorted; empty between two calls.
    due: Vec<(u64, u64, Timer, T)>,
    /// Number of entries armed so far.
    armed: u64,
    occupied: [u64; PLACES / 64],
    /// First tick that has not been processed.
    next_tick: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// First tick at which it is due.
    tick: u64,
    due_ms: u64,
    /// Number of entries armed before it.
    number: u64,
    /// Its neighbours in its slot.
    newer: u32,
    older: u32,
    what: T,
}

fn generation_of(number: u64) -> NonZeroU32 {
    NonZeroU32::new(number as u32).unwrap_or(NonZeroU32::MAX)
}

impl<T> Wheel<T> {
    /// Bytes of an entry.
    pub const ENTRY_BYTES: usize = size_of::<Entry<T>>() + size_of::<usize>();

    /// A wheel that is late by at most `granularity_ms` (at least 1).
    pub fn new(granularity_ms: u64) -> Wheel<T> {
        Wheel {
            granularity_ms: granularity_ms.max(1),
            entries: ChunkTable::default(),
            places: Box::new([NONE; PLACES]),
            due: Vec::new(),
            armed: 0,
            occupied: [0; PLACES / 64],
            next_tick: 0,
        }
    }

    /// Adds an entry that is due at `due_ms` (never early, late by at most one granule).
    pub fn arm(&mut self, due_ms: u64, what: T) -> Timer {
        let tick = due_ms.div_ceil(self.granularity_ms).max(self.next_tick);
        let place = tick as usize % PLACES;
        let number = self.armed;
        self.armed += 1;
        let older = self.places[place];
        let index = self.entries.insert(Entry { tick, due_ms, number, newer: NONE, older, what }) as u32;
        if let Some(older) = self.entries.get_mut(older as usize) {
            older.newer = index;
        }
        self.places[place] = index;
        self.occupied[place / 64] |= 1 << (place % 64);
        Timer { index, generation: generation_of(number) }
    }

    /// Removes an entry. Returns false if it has been due or removed.
    pub fn cancel(&mut self, timer: Timer) -> bool {
        let armed = self.has(timer);
        if armed {
            self.take(timer.index);
        }
        armed
    }

    /// Whether an entry is armed: it has not been due.
    pub fn has(&self, timer: Timer) -> bool {
        self.entries
            .get(timer.index as usize)
            .is_some_and(|entry| generation_of(entry.number) == timer.generation)
    }

    /// Removes an existing entry.
    fn take(&mut self, index: u32) -> Entry<T> {
        let entry = self.entries.take(index as usize).expect("the caller has seen it");
        match self.entries.get_mut(entry.newer as usize) {
            Some(newer) => newer.older = entry.older,
            None => {
                let place = entry.tick as usize % PLACES;
                self.places[place] = entry.older;
                if entry.older == NONE {
                    self.occupied[place / 64] &= !(1 << (place % 64));
                }
            }
        }
        if let Some(older) = self.entries.get_mut(entry.older as usize) {
            older.newer = entry.newer;
        }
        entry
    }

    /// Moves all entries due at `now_ms` to `due`, in the order of their due times. The caller must
    /// check whether each timer is still stored by its owner.
    pub fn expire(&mut self, now_ms: u64, due: &mut impl Extend<(Timer, T)>) {
        let now_tick = now_ms / self.granularity_ms;
        if now_tick < self.next_tick {
            return;
        }
        if !self.entries.is_empty() {
            let ticks = (now_tick - self.next_tick + 1).min(PLACES as u64);
            for offset in 0..ticks {
                let place = (self.next_tick + offset) as usize % PLACES;
                if self.occupied[place / 64] & (1 << (place % 64)) != 0 {
                    self.expire_place(place, now_tick);
                }
            }
        }
        self.next_tick = now_tick + 1;
        if self.due.is_empty() {
            return;
        }
        self.due.sort_unstable_by_key(|(due_ms, number, ..)| (*due_ms, *number));
        due.extend(self.due.drain(..).map(|(_, _, timer, what)| (timer, what)));
        if self.due.capacity() > SPARE_ENTRIES_MAX {
            self.due = Vec::new();
        }
    }

    fn expire_place(&mut self, place: usize, now_tick: u64) {
        let mut index = self.places[place];
        while let Some(entry) = self.entries.get(index as usize) {
            let (older, is_due) = (entry.older, entry.tick <= now_tick);
            if is_due {
                let Entry { due_ms, number, what, .. } = self.take(index);
                self.due.push((due_ms, number, Timer { index, generation: generation_of(number) }, what));
            }
            index = older;
        }
    }

    /// When to call `expire` next at the latest, milliseconds; may be early for an entry more than
    /// one turn away. `None` while empty.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        (0..PLACES as u64).map(|offset| self.next_tick + offset).find_map(|tick| {
            let place = tick as usize % PLACES;
            (self.occupied[place / 64] & (1 << (place % 64)) != 0).then_some(tick * self.granularity_ms)
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now_ms, &mut due);
        due.into_iter().map(|(_, what)| what).collect()
    }

    fn expired(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut due = in_order(wheel, now_ms);
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_of_one_tick_fire_in_the_order_of_their_due_times() {
        let mut wheel = Wheel::new(1000);
        // All are due at the tick of 2,000 ms, except the last, which is one turn later.
        for (entry, due_ms) in [(4, 1_900), (1, 1_001), (5, 2_000), (3, 1_500), (2, 1_400), (6, 514_000)] {
            let _ = wheel.arm(due_ms, entry);
        }
        assert_eq!(in_order(&mut wheel, 2_000), [1, 2, 3, 4, 5]);
        assert_eq!(in_order(&mut wheel, 514_000), [6]);
    }

    #[test]
    fn entries_of_one_moment_fire_in_the_order_of_arming_and_a_jump_keeps_all_in_order() {
        let mut wheel = Wheel::new(10);
        for entry in 0..50 {
            let _ = wheel.arm(100, entry);
        }
        assert_eq!(in_order(&mut wheel, 100), (0..50).collect::<Vec<_>>());
        // From the far end of the wheel to the near one, and beyond.
        for entry in (0..2_000).rev() {
            let _ = wheel.arm(200 + u64::from(entry) * 7, entry);
        }
        assert_eq!(in_order(&mut wheel, 20_000), (0..2_000).collect::<Vec<_>>());
        let _ = wheel.arm(300, 2);
        let _ = wheel.arm(20_001, 3);
        let _ = wheel.arm(200, 1);
        assert_eq!(in_order(&mut wheel, 20_010), [1, 2, 3], "what was due long ago is first");
    }

    #[test]
    fn an_entry_is_never_early_and_at_most_a_granule_late() {
        let mut wheel = Wheel::new(10);
        let _ = wheel.arm(95, 1);
        assert_eq!(expired(&mut wheel, 94), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, 99), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, 100), [1]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_entry_many_turns_ahead_waits_for_its_turn() {
        let mut wheel = Wheel::new(10);
        let far = 10 * PLACES as u64 * 3 + 50;
        let _ = wheel.arm(far, 7);
        let _ = wheel.arm(50, 1);
        assert_eq!(expired(&mut wheel, 60), [1]);
        assert_eq!(expired(&mut wheel, far - 10), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, far), [7]);
    }

    #[test]
    fn a_jump_over_many_turns_fires_every_entry() {
        let mut wheel = Wheel::new(1000);
        (0..1000).for_each(|n| {
            let _ = wheel.arm(u64::from(n) * 997, n);
        });
        assert_eq!(expired(&mut wheel, 10_000_000).len(), 1000);
        assert_eq!(wheel.next_due_ms(), None);
    }

    #[test]
    fn an_entry_that_is_taken_out_leaves_the_others_of_its_place_and_nothing_else() {
        for taken in 0..5 {
            let mut wheel = Wheel::new(10);
            let timers: Vec<Timer> = (0..5).map(|n| wheel.arm(100, n)).collect();
            assert!(wheel.cancel(timers[taken]));
            assert!(!wheel.cancel(timers[taken]), "it is gone");
            let left: Vec<u32> = (0..5).filter(|n| *n as usize != taken).collect();
            assert_eq!(in_order(&mut wheel, 100), left);
            assert!(wheel.is_empty() && wheel.next_due_ms().is_none());
        }
    }

    #[test]
    fn a_timer_that_has_been_due_takes_nothing_out_where_another_has_its_place() {
        let mut wheel = Wheel::new(10);
        let stale = wheel.arm(50, 1);
        assert_eq!(in_order(&mut wheel, 50), [1]);
        let fresh = wheel.arm(100, 2);
        assert_eq!(fresh.index, stale.index, "the same place in memory");
        assert!(!wheel.cancel(stale));
        assert_eq!(wheel.len(), 1);
        assert!(wheel.cancel(fresh));
        assert_eq!((wheel.len(), wheel.next_due_ms()), (0, None));
        assert_eq!(in_order(&mut wheel, 1_000), [0_u32; 0]);
    }

    #[test]
    fn a_wheel_holds_what_is_armed_and_gives_memory_back_when_it_is_empty() {
        let mut wheel = Wheel::new(10);
        for round in 0..1_000 {
            let timer = wheel.arm(round * 10 + 3_600_000, 7);
            assert!(wheel.cancel(timer));
            wheel.expire(round * 10, &mut Vec::new());
        }
        assert!(wheel.entries.capacity() <= SPARE_ENTRIES_MAX, "{} entries", wheel.entries.capacity());
        (0..10_000).for_each(|n| {
            let _ = wheel.arm(20_000 + n, 1);
        });
        assert_eq!(expired(&mut wheel, 1_000_000).len(), 10_000);
        assert_eq!((wheel.entries.capacity(), wheel.due.capacity()), (SPARE_ENTRIES_MAX, 0));
    }

    #[test]
    fn a_timer_armed_for_the_past_is_due_next() {
        let mut wheel = Wheel::new(10);
        assert_eq!(expired(&mut wheel, 1000), [0_u32; 0]);
        let _ = wheel.arm(5, 1);
        assert_eq!(wheel.next_due_ms(), Some(1010));
        assert_eq!(expired(&mut wheel, 1010), [1]);
    }
}
