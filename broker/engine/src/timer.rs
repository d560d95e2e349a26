//! Timer wheels: many deadlines, few wake-ups. Nothing is ever cancelled; whoever takes an expired entry looks whether it
//! still means something. What is due at one look comes in the order of its due times, and of one moment in that of arming.

/// Places of a wheel. A power of two.
const PLACES: usize = 512;
/// Empty lists kept for places that get their first entry: with one entry a tick, one is all that is needed.
const SPARES: usize = 8;
/// A list with room for more is given back to the allocator.
const SPARE_ENTRIES_MAX: usize = 1024;

/// Entries due at a tick, in a ring of places; an entry further away than one turn waits in its place.
#[derive(Debug)]
pub struct Wheel<T> {
    granularity_ms: u64,
    /// An empty place has no memory of its own; it would be kept until the wheel has turned, and then for ever.
    places: Vec<Vec<Entry<T>>>,
    spares: Vec<Vec<Entry<T>>>,
    /// What is due, before it is in order; empty between two looks.
    due: Vec<Entry<T>>,
    /// Entries armed so far.
    armed: u64,
    occupied: [u64; PLACES / 64],
    /// First tick that has not been looked at.
    next_tick: u64,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// First tick at which it is due.
    tick: u64,
    due_ms: u64,
    /// How many had been armed before.
    number: u64,
    what: T,
}

impl<T> Wheel<T> {
    /// A wheel that is late by at most `granularity_ms` (at least 1).
    pub fn new(granularity_ms: u64) -> Wheel<T> {
        Wheel {
            granularity_ms: granularity_ms.max(1),
            places: (0..PLACES).map(|_| Vec::new()).collect(),
            spares: Vec::with_capacity(SPARES),
            due: Vec::new(),
            armed: 0,
            occupied: [0; PLACES / 64],
            next_tick: 0,
            len: 0,
        }
    }

    /// Puts an entry in, due at `due_ms` (never early, late by one granule at most).
    pub fn arm(&mut self, due_ms: u64, entry: T) {
        let tick = due_ms.div_ceil(self.granularity_ms).max(self.next_tick);
        let place = tick as usize % PLACES;
        let entries = &mut self.places[place];
        if entries.capacity() == 0
            && let Some(spare) = self.spares.pop()
        {
            *entries = spare;
        }
        entries.push(Entry { tick, due_ms, number: self.armed, what: entry });
        self.armed += 1;
        self.occupied[place / 64] |= 1 << (place % 64);
        self.len += 1;
    }

    /// Moves everything that is due at `now_ms` to `due`, in the order of the due times.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<T>) {
        let now_tick = now_ms / self.granularity_ms;
        if now_tick < self.next_tick {
            return;
        }
        if self.len > 0 {
            let ticks = (now_tick - self.next_tick + 1).min(PLACES as u64);
            for offset in 0..ticks {
                let place = (self.next_tick + offset) as usize % PLACES;
                if self.occupied[place / 64] & (1 << (place % 64)) != 0 {
                    self.expire_place(place, now_tick);
                }
            }
        }
        self.next_tick = now_tick + 1;
        self.due.sort_unstable_by_key(|entry| (entry.due_ms, entry.number));
        due.extend(self.due.drain(..).map(|entry| entry.what));
        if self.due.capacity() > SPARE_ENTRIES_MAX {
            self.due = Vec::new();
        }
    }

    fn expire_place(&mut self, place: usize, now_tick: u64) {
        let entries = &mut self.places[place];
        let mut index = 0;
        while index < entries.len() {
            if entries[index].tick <= now_tick {
                self.due.push(entries.swap_remove(index));
                self.len -= 1;
            } else {
                index += 1;
            }
        }
        if entries.is_empty() {
            self.occupied[place / 64] &= !(1 << (place % 64));
            let spare = std::mem::take(entries);
            if spare.capacity() <= SPARE_ENTRIES_MAX && self.spares.len() < SPARES {
                self.spares.push(spare);
            }
        }
    }

    /// When to look again at the latest, milliseconds; may be early for an entry more than a turn away. `None` while empty.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        (0..PLACES as u64).map(|offset| self.next_tick + offset).find_map(|tick| {
            let place = tick as usize % PLACES;
            (self.occupied[place / 64] & (1 << (place % 64)) != 0).then_some(tick * self.granularity_ms)
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(now_ms, &mut due);
        due
    }

    fn expired(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut due = in_order(wheel, now_ms);
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_of_one_tick_fire_in_the_order_of_their_due_times() {
        let mut wheel = Wheel::new(1000);
        // All due at the tick of 2,000 ms, but for the last, which is a turn of the wheel later.
        for (entry, due_ms) in [(4, 1_900), (1, 1_001), (5, 2_000), (3, 1_500), (2, 1_400), (6, 514_000)] {
            wheel.arm(due_ms, entry);
        }
        assert_eq!(in_order(&mut wheel, 2_000), [1, 2, 3, 4, 5]);
        assert_eq!(in_order(&mut wheel, 514_000), [6]);
    }

    #[test]
    fn entries_of_one_moment_fire_in_the_order_of_arming_and_a_jump_keeps_all_in_order() {
        let mut wheel = Wheel::new(10);
        for entry in 0..50 {
            wheel.arm(100, entry);
        }
        assert_eq!(in_order(&mut wheel, 100), (0..50).collect::<Vec<_>>());
        // From the far end of the wheel to the near one, and beyond it.
        for entry in (0..2_000).rev() {
            wheel.arm(200 + u64::from(entry) * 7, entry);
        }
        assert_eq!(in_order(&mut wheel, 20_000), (0..2_000).collect::<Vec<_>>());
        wheel.arm(300, 2);
        wheel.arm(20_001, 3);
        wheel.arm(200, 1);
        assert_eq!(in_order(&mut wheel, 20_010), [1, 2, 3], "what was due long ago is first");
    }

    #[test]
    fn an_entry_is_never_early_and_at_most_a_granule_late() {
        let mut wheel = Wheel::new(10);
        wheel.arm(95, 1);
        assert_eq!(expired(&mut wheel, 94), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, 99), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, 100), [1]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_entry_turns_away_waits_for_its_turn() {
        let mut wheel = Wheel::new(10);
        let far = 10 * PLACES as u64 * 3 + 50;
        wheel.arm(far, 7);
        wheel.arm(50, 1);
        assert_eq!(expired(&mut wheel, 60), [1]);
        assert_eq!(expired(&mut wheel, far - 10), [0_u32; 0]);
        assert_eq!(expired(&mut wheel, far), [7]);
    }

    #[test]
    fn a_jump_over_many_turns_finds_everything() {
        let mut wheel = Wheel::new(1000);
        (0..1000).for_each(|n| wheel.arm(u64::from(n) * 997, n));
        assert_eq!(expired(&mut wheel, 10_000_000).len(), 1000);
        assert_eq!(wheel.next_due_ms(), None);
    }

    #[test]
    fn a_wheel_that_has_turned_keeps_no_more_than_its_spares() {
        let mut wheel = Wheel::new(10);
        for tick in 0..4 * PLACES as u64 {
            (0..100).for_each(|n| wheel.arm(tick * 10 + 50, n));
            wheel.expire(tick * 10, &mut Vec::new());
        }
        let with_memory =
            |wheel: &Wheel<u32>| wheel.places.iter().filter(|place| place.capacity() > 0).count();
        assert_eq!(with_memory(&wheel), 5, "the five ticks ahead");
        assert_eq!(expired(&mut wheel, 1_000_000).len(), 500);
        assert_eq!(with_memory(&wheel), 0);
        assert!((1..=SPARES).contains(&wheel.spares.len()), "{} spares", wheel.spares.len());
    }

    #[test]
    fn what_is_armed_for_the_past_comes_next() {
        let mut wheel = Wheel::new(10);
        assert_eq!(expired(&mut wheel, 1000), [0_u32; 0]);
        wheel.arm(5, 1);
        assert_eq!(wheel.next_due_ms(), Some(1010));
        assert_eq!(expired(&mut wheel, 1010), [1]);
    }
}
