//! How [`Shares`] makes room for a new value by letting go of the oldest ones. What goes is settled before any of it goes, so that a value
//! which is refused has cost nobody anything.

use std::sync::Arc;

use super::{EntryId, Full, Rejected, ShareLimits, Shares};
use crate::sdk::weigh::Weigh;

/// Most entries that one [`Shares::insert_over_oldest`] lets go of.
pub const EVICTED_AT_ONCE: usize = 64;

/// Entries that are to go for a new one, and what is left then.
struct Plan {
    /// Their numbers, in the order in which they go.
    numbers: Vec<u64>,
    /// Entries and bytes of the new one's owner, its name counted.
    own: (u64, u64),
    /// The same of all.
    all: (u64, u64),
    /// Entries that were looked at.
    looked_at: u64,
}

impl<V: Weigh> Shares<V> {
    /// Holds a value for an owner, and makes room for it where there is none: the owner's oldest entries go where its share is full,
    /// the oldest of all where the total is. `gone` is called with each. No more than [`EVICTED_AT_ONCE`] go in one call. Where that
    /// makes no room, a limit is passed by this one value, and [`Shares::evict_beyond`] does the rest.
    ///
    /// # Errors
    /// The value, if it is beyond a limit by itself, or where a limit is passed already and it would be passed by more with the value
    /// than before the call. Nothing has gone then. It is counted.
    pub fn insert_over_oldest(
        &mut self,
        owner: &str,
        value: V,
        mut gone: impl FnMut(EntryId, V),
    ) -> Result<EntryId, Rejected<V>> {
        let bytes = self.bytes_of(&value);
        let (planned, looked_at) = self.plan(owner, bytes);
        self.work += looked_at;
        match planned {
            Ok(numbers) => {
                numbers.into_iter().for_each(|number| self.evict(EntryId(number), &mut gone));
                Ok(self.put(owner, value, bytes))
            }
            Err(full) => {
                self.metrics.refused(full);
                Err(Rejected { full, value })
            }
        }
    }

    /// What goes for a value of so many bytes, and how many entries were looked at for that.
    fn plan(&self, owner: &str, bytes: u64) -> (Result<Vec<u64>, Full>, u64) {
        let name_bytes = self.owner_bytes(owner);
        let alone = (0, bytes + name_bytes);
        if let Some(full) = self.limits.find_full(alone, alone) {
            return (Err(full), 0);
        }
        let (entries, held) = self.used_by(owner);
        let new_owner = if entries == 0 { name_bytes } else { 0 };
        let mut plan = Plan {
            numbers: Vec::new(),
            own: (entries, held + new_owner),
            all: (self.entries.len() as u64, self.bytes + new_owner),
            looked_at: 0,
        };
        let filled = self.fill(&mut plan, owner, bytes, self.most_after(entries, held));
        (filled.map(|()| plan.numbers), plan.looked_at)
    }

    /// Lets go of one entry after the other in the plan, until a value of so many bytes fits. Both the owner's entries and those of
    /// all are gone through once, from the oldest on.
    fn fill(&self, plan: &mut Plan, owner: &str, bytes: u64, most: ShareLimits) -> Result<(), Full> {
        let name = self.owners.get_key_value(owner).map(|(name, _)| name);
        // The owner's oldest entry that stays so far; 0 for none.
        let mut next_own = self.oldest_of(owner).map_or(0, |id| id.0);
        let mut all = self.entries.iter();
        while let Some(full) = plan.find_full(self.limits, bytes) {
            if plan.numbers.len() == EVICTED_AT_ONCE {
                return if plan.find_full(most, bytes).is_none() { Ok(()) } else { Err(full) };
            }
            let oldest = if full.is_of_owner() { self.entries.get_key_value(&next_own) } else { all.next() };
            // There is one: an empty container takes whatever its limits take.
            let Some((number, entry)) = oldest else { break };
            plan.looked_at += 1;
            if !name.is_some_and(|name| Arc::ptr_eq(name, &entry.owner)) {
                plan.let_go(*number, entry.bytes);
                if entry.newer == 0 {
                    // The older ones of its owner have gone before it.
                    plan.all.1 -= self.owner_bytes(&entry.owner);
                }
            } else if *number == next_own {
                // Its owner's name stays: the new entry is the owner's, too.
                plan.let_go(*number, entry.bytes);
                plan.own = (plan.own.0 - 1, plan.own.1 - entry.bytes);
                next_own = entry.newer;
            }
        }
        Ok(())
    }

    /// What may be held after the call, where no more may go: as much as before, or this value beyond a limit that was kept.
    fn most_after(&self, entries: u64, held: u64) -> ShareLimits {
        let mut most = ShareLimits {
            entries_max: self.limits.entries_max.max(self.entries.len() as u64),
            bytes_max: self.limits.bytes_max.max(self.bytes),
            owner_entries_max: self.limits.owner_entries_max.max(entries),
            owner_bytes_max: self.limits.owner_bytes_max.max(held),
        };
        if most == self.limits {
            (most.bytes_max, most.owner_bytes_max) = (u64::MAX, u64::MAX);
        }
        most
    }
}

impl Plan {
    fn let_go(&mut self, number: u64, bytes: u64) {
        self.numbers.push(number);
        self.all = (self.all.0 - 1, self.all.1 - bytes);
    }

    /// The limit that a value of so many bytes would still pass.
    fn find_full(&self, limits: ShareLimits, bytes: u64) -> Option<Full> {
        let own = (self.own.0, self.own.1.saturating_add(bytes));
        limits.find_full(own, (self.all.0, self.all.1.saturating_add(bytes)))
    }
}
