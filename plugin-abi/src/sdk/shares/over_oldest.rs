//! How [`Shares`] evicts the oldest entries for a new value. It plans all evictions before the
//! first one, so that a refused value evicts nothing.

use std::sync::Arc;

use super::{EntryId, Full, Rejected, ShareLimits, Shares};
use crate::sdk::weigh::Weigh;

/// Maximum number of entries that one [`Shares::insert_over_oldest`] evicts.
pub const EVICTED_AT_ONCE: usize = 64;

/// The entries to evict for a new one, and the usage after that.
struct Plan {
    /// Their numbers, in order of eviction.
    numbers: Vec<u64>,
    /// Entries and bytes of the new entry's owner, including the name.
    own: (u64, u64),
    /// The same for all owners.
    all: (u64, u64),
    /// Number of entries that were examined.
    examined: u64,
}

impl<V: Weigh> Shares<V> {
    /// Stores a value for an owner, and evicts old entries if a limit requires it: the owner's
    /// oldest entries for the owner's limits, the oldest of all for the total. Calls `gone` with
    /// each. One call evicts at most [`EVICTED_AT_ONCE`] entries. If that is not enough, this one
    /// value exceeds a limit, and [`Shares::evict_over_limit`] evicts the rest.
    ///
    /// # Errors
    /// The value, if it exceeds a limit by itself, or if a limit is exceeded already and the value
    /// would increase the excess. Nothing is evicted then. The refusal is counted.
    pub fn insert_over_oldest(
        &mut self,
        owner: &str,
        value: V,
        mut gone: impl FnMut(EntryId, V),
    ) -> Result<EntryId, Rejected<V>> {
        let bytes = self.bytes_of(&value);
        let (planned, examined) = self.plan(owner, bytes);
        self.work += examined;
        match planned {
            Ok(numbers) => {
                numbers.into_iter().for_each(|number| self.evict(EntryId(number), &mut gone));
                Ok(self.put((None, owner), value, bytes))
            }
            Err(full) => {
                self.metrics.refused(full);
                Err(Rejected { full, value })
            }
        }
    }

    /// The entries to evict for a value of this many bytes, and how many entries were examined.
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
            examined: 0,
        };
        let filled = self.fill(&mut plan, owner, bytes, self.most_after(entries, held));
        (filled.map(|()| plan.numbers), plan.examined)
    }

    /// Adds entries to the plan until a value of this many bytes fits. Examines the owner's entries
    /// and all entries once each, from the oldest on.
    fn fill(&self, plan: &mut Plan, owner: &str, bytes: u64, most: ShareLimits) -> Result<(), Full> {
        let name = self.owners.get_key_value(owner).map(|(name, _)| name);
        // The owner's oldest entry that is not in the plan; 0 for none.
        let mut next_own = self.oldest_of(owner).map_or(0, |id| id.0);
        let mut all = self.entries.iter();
        while let Some(full) = plan.find_full(self.limits, bytes) {
            if plan.numbers.len() == EVICTED_AT_ONCE {
                return if plan.find_full(most, bytes).is_none() { Ok(()) } else { Err(full) };
            }
            let oldest = if full.is_of_owner() { self.entries.get_key_value(&next_own) } else { all.next() };
            // There is one: an empty container accepts every value that its limits allow.
            let Some((number, entry)) = oldest else { break };
            plan.examined += 1;
            if !name.is_some_and(|name| Arc::ptr_eq(name, &entry.owner)) {
                plan.mark_evicted(*number, entry.bytes);
                if entry.newer == 0 {
                    // Older entries of its owner are in the plan already.
                    plan.all.1 -= self.owner_bytes(&entry.owner);
                }
            } else if *number == next_own {
                // The owner's name stays, because the new entry has the same owner.
                plan.mark_evicted(*number, entry.bytes);
                plan.own = (plan.own.0 - 1, plan.own.1 - entry.bytes);
                next_own = entry.newer;
            }
        }
        Ok(())
    }

    /// The usage that is allowed after the call if no more entries may be evicted: as much as
    /// before, or one value above a limit that was not exceeded before.
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
    fn mark_evicted(&mut self, number: u64, bytes: u64) {
        self.numbers.push(number);
        self.all = (self.all.0 - 1, self.all.1 - bytes);
    }

    /// The limit that a value of this many bytes would still exceed.
    fn find_full(&self, limits: ShareLimits, bytes: u64) -> Option<Full> {
        let own = (self.own.0, self.own.1.saturating_add(bytes));
        limits.find_full(own, (self.all.0, self.all.1.saturating_add(bytes)))
    }
}
