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
    /// Their owners, each with how many of its entries are left.
    owners: Vec<(Arc<str>, u64)>,
    /// Entries and bytes of the new one's owner, its name counted.
    own: (u64, u64),
    /// The same of all.
    all: (u64, u64),
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
        match self.plan(owner, bytes) {
            Ok(numbers) => {
                self.work += 2 * numbers.len() as u64;
                numbers.into_iter().for_each(|number| self.evict(EntryId(number), &mut gone));
                Ok(self.put(owner, value, bytes))
            }
            Err(full) => {
                self.metrics.refused(full);
                Err(Rejected { full, value })
            }
        }
    }

    /// What goes for a value of so many bytes.
    fn plan(&self, owner: &str, bytes: u64) -> Result<Vec<u64>, Full> {
        let name_bytes = self.owner_bytes(owner);
        let alone = (0, bytes + name_bytes);
        if let Some(full) = self.limits.find_full(alone, alone) {
            return Err(full);
        }
        let (entries, held) = self.held_by(owner);
        let new_owner = if entries == 0 { name_bytes } else { 0 };
        let mut plan = Plan {
            numbers: Vec::new(),
            owners: Vec::new(),
            own: (entries, held + new_owner),
            all: (self.entries.len() as u64, self.bytes + new_owner),
        };
        let most = self.most_after(entries, held);
        while let Some(full) = plan.find_full(self.limits, bytes) {
            if plan.numbers.len() == EVICTED_AT_ONCE {
                return if plan.find_full(most, bytes).is_none() { Ok(plan.numbers) } else { Err(full) };
            }
            // There is one: an empty container takes whatever its limits take.
            let Some(number) = self.next_to_go(&plan, owner, full) else { break };
            self.let_go_in(&mut plan, number, owner);
        }
        Ok(plan.numbers)
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

    /// The oldest entry that has not gone in this plan, of the owner or of all.
    fn next_to_go(&self, plan: &Plan, owner: &str, full: Full) -> Option<u64> {
        let is_left = |number: &u64| !plan.numbers.contains(number);
        if !full.is_of_owner() {
            return self.entries.keys().copied().find(is_left);
        }
        let newer = |number: &u64| self.entries.get(number).map(|entry| entry.newer).filter(|next| *next > 0);
        std::iter::successors(self.oldest_of(owner).map(|id| id.0), newer).find(is_left)
    }

    fn let_go_in(&self, plan: &mut Plan, number: u64, owner: &str) {
        let Some(entry) = self.entries.get(&number) else { return };
        plan.numbers.push(number);
        plan.all = (plan.all.0 - 1, plan.all.1 - entry.bytes);
        if *entry.owner == *owner {
            // Its name stays: the new entry is its, too.
            plan.own = (plan.own.0 - 1, plan.own.1 - entry.bytes);
            return;
        }
        let known = plan.owners.iter().position(|(name, _)| Arc::ptr_eq(name, &entry.owner));
        let place = known.unwrap_or_else(|| {
            plan.owners.push((Arc::clone(&entry.owner), self.held_by(&entry.owner).0));
            plan.owners.len() - 1
        });
        plan.owners[place].1 -= 1;
        if plan.owners[place].1 == 0 {
            plan.all.1 -= self.owner_bytes(&entry.owner);
        }
    }
}

impl Plan {
    /// The limit that a value of so many bytes would still pass.
    fn find_full(&self, limits: ShareLimits, bytes: u64) -> Option<Full> {
        let own = (self.own.0, self.own.1.saturating_add(bytes));
        limits.find_full(own, (self.all.0, self.all.1.saturating_add(bytes)))
    }
}
