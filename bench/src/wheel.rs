//! Timers of the poll loop: when a client's next message is due, when to ping, when to give up a handshake.
//! One tick per slot; entries are never removed, the loop ignores those that no longer matter.

/// A timer wheel with one-millisecond ticks. Entries further away than one round stay in their slot.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// The tick that is looked at next.
    tick: u64,
    armed: usize,
}

const TICK_NS: u64 = 1_000_000;
const SLOTS: u64 = 4096;

impl<T: Copy> Wheel<T> {
    /// An empty wheel at time zero.
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: 0, armed: 0 }
    }

    /// Fires `entry` at the first [`Wheel::advance`] that has reached `due_ns`, at most one tick late.
    pub fn arm(&mut self, due_ns: u64, entry: T) {
        let tick = due_ns.div_ceil(TICK_NS).max(self.tick);
        let slot = usize::try_from(tick % SLOTS).expect("less than SLOTS");
        self.slots[slot].push((tick, entry));
        self.armed += 1;
    }

    /// Appends what is due at `now_ns` to `due`.
    pub fn advance(&mut self, now_ns: u64, due: &mut Vec<T>) {
        let now = now_ns / TICK_NS;
        for tick in self.tick..=now {
            let slot = &mut self.slots[usize::try_from(tick % SLOTS).expect("less than SLOTS")];
            let before = slot.len();
            slot.retain(|(at, entry)| {
                if *at <= now {
                    due.push(*entry);
                }
                *at > now
            });
            self.armed -= before - slot.len();
        }
        // The tick of now stays open: what is armed for it is due in the next call.
        self.tick = self.tick.max(now);
    }

    /// Nanoseconds from `now_ns` to the next slot that holds anything, looking no further than `within_ns`.
    pub fn idle_ns(&self, now_ns: u64, within_ns: u64) -> u64 {
        if self.armed == 0 {
            return within_ns;
        }
        let last = (now_ns + within_ns) / TICK_NS;
        let next = (self.tick..=last.min(self.tick + SLOTS - 1))
            .find(|tick| !self.slots[usize::try_from(tick % SLOTS).expect("less than SLOTS")].is_empty());
        next.map_or(within_ns, |tick| (tick * TICK_NS).saturating_sub(now_ns).min(within_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = TICK_NS;

    fn fired(wheel: &mut Wheel<u32>, now_ns: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now_ns, &mut due);
        due
    }

    #[test]
    fn nothing_fires_early_and_everything_fires_once() {
        let mut wheel = Wheel::new();
        wheel.arm(5 * MS, 1);
        wheel.arm(5 * MS + 1, 2);
        assert!(fired(&mut wheel, 5 * MS - 1).is_empty());
        assert_eq!(fired(&mut wheel, 5 * MS), [1]);
        assert_eq!(fired(&mut wheel, 6 * MS), [2]);
        assert!(fired(&mut wheel, 60_000 * MS).is_empty());
    }

    #[test]
    fn an_entry_rounds_away_waits_its_rounds() {
        let mut wheel = Wheel::new();
        let due = (3 * SLOTS + 7) * MS;
        wheel.arm(due, 1);
        for tick in 0..3 * SLOTS + 7 {
            assert!(fired(&mut wheel, tick * MS).is_empty(), "fired at tick {tick}");
        }
        assert_eq!(fired(&mut wheel, due), [1]);
    }

    #[test]
    fn what_is_overdue_fires_at_once_even_after_a_long_pause() {
        let mut wheel = Wheel::new();
        fired(&mut wheel, 100 * MS);
        wheel.arm(3 * MS, 1);
        assert_eq!(fired(&mut wheel, 100 * MS), [1]);
        wheel.arm(101 * MS, 2);
        wheel.arm(4000 * MS, 3);
        assert_eq!(fired(&mut wheel, 10 * SLOTS * MS).len(), 2);
    }

    #[test]
    fn idle_time_ends_at_the_next_slot_in_use() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.idle_ns(0, 100 * MS), 100 * MS);
        wheel.arm(20 * MS, 1);
        assert_eq!(wheel.idle_ns(0, 100 * MS), 20 * MS);
        assert_eq!(wheel.idle_ns(0, 10 * MS), 10 * MS);
        assert_eq!(wheel.idle_ns(25 * MS, 10 * MS), 0);
    }
}
