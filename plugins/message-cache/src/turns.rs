//! Whose request is answered next: clients take turns, and one has so many answers under way at a time and no more. No broker in
//! here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use grapnel_plugin_abi::{EntryId, tree_entry_bytes};

/// Bytes that a request takes in here.
pub const BYTES_OF_EACH: u64 = 2 * size_of::<EntryId>() as u64;

/// Bytes that a client takes in here.
pub const BYTES_OF_CLIENT: u64 =
    tree_entry_bytes(size_of::<(Arc<str>, Client)>()) + 2 * size_of::<Arc<str>>() as u64 + 64;

#[derive(Debug, Default)]
struct Client {
    /// Its requests that wait, the first one first.
    waiting: VecDeque<EntryId>,
    under_way: u64,
    /// Whether it stands in the row.
    in_row: bool,
}

/// Requests that wait, by client.
#[derive(Debug)]
pub struct Turns {
    each_max: u64,
    clients: BTreeMap<Arc<str>, Client>,
    /// Clients with a request that may be answered, the next one first.
    row: VecDeque<Arc<str>>,
}

impl Turns {
    /// So many answers of one client at a time.
    pub fn new(each_max: u64) -> Turns {
        Turns { each_max, clients: BTreeMap::new(), row: VecDeque::new() }
    }

    /// A request waits.
    pub fn push(&mut self, client: &Arc<str>, request: EntryId) {
        self.clients.entry(Arc::clone(client)).or_default().waiting.push_back(request);
        self.settle(client);
    }

    /// The request that is answered next: it is under way from now on.
    pub fn next(&mut self) -> Option<EntryId> {
        let client = self.row.pop_front()?;
        let known = self.clients.get_mut(&client)?;
        known.in_row = false;
        let request = known.waiting.pop_front()?;
        known.under_way += 1;
        self.settle(&client);
        Some(request)
    }

    /// An answer of a client has ended.
    pub fn ended(&mut self, client: &Arc<str>) {
        if let Some(known) = self.clients.get_mut(client) {
            known.under_way = known.under_way.saturating_sub(1);
        }
        self.settle(client);
    }

    fn settle(&mut self, client: &Arc<str>) {
        let Some(known) = self.clients.get_mut(client) else { return };
        if known.waiting.is_empty() && known.under_way == 0 {
            self.clients.remove(client);
            return;
        }
        if !known.in_row && !known.waiting.is_empty() && known.under_way < self.each_max {
            known.in_row = true;
            self.row.push_back(Arc::clone(client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_none_has_more_than_its_share() {
        let mut turns = Turns::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for number in 0..5 {
            turns.push(&a, EntryId(number));
        }
        turns.push(&b, EntryId(10));
        turns.push(&b, EntryId(11));
        let next = |turns: &mut Turns| std::iter::from_fn(|| turns.next().map(|id| id.0)).collect::<Vec<_>>();
        assert_eq!(next(&mut turns), [0, 10, 1, 11]);
        turns.ended(&a);
        assert_eq!(next(&mut turns), [2]);
        turns.ended(&b);
        turns.ended(&b);
        assert_eq!((next(&mut turns), turns.clients.len()), (vec![], 1));
        for _ in 0..3 {
            turns.ended(&a);
        }
        assert_eq!(next(&mut turns), [3, 4]);
        turns.ended(&a);
        turns.ended(&a);
        assert!(turns.clients.is_empty() && turns.row.is_empty());
    }
}
