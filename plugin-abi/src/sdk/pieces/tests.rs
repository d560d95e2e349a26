#![allow(clippy::unwrap_used)]
//! A state that changes during its transfer is the same on the other side.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;

#[derive(Default)]
struct Map {
    entries: BTreeMap<u64, Vec<u8>>,
    journal: Journal<u64>,
    key_reads: Cell<usize>,
    completed: usize,
}

impl Map {
    fn set(&mut self, key: u64, value: &[u8]) {
        self.journal.note(&key);
        self.entries.insert(key, value.to_vec());
    }

    fn unset(&mut self, key: u64) {
        self.journal.note(&key);
        self.entries.remove(&key);
    }
}

impl Entries for Map {
    type Key = u64;

    fn journal(&mut self) -> &mut Journal<u64> {
        &mut self.journal
    }

    fn next_key(&self, after: Option<&u64>) -> Option<u64> {
        self.key_reads.set(self.key_reads.get() + 1);
        let from = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(*after));
        self.entries.range((from, std::ops::Bound::Unbounded)).next().map(|(key, _)| *key)
    }

    fn write(&self, key: &u64, out: &mut Vec<u8>) -> bool {
        self.entries.get(key).map(|value| out.extend(value)).is_some()
    }

    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), Error> {
        self.set(key, value);
        Ok(())
    }

    fn remove(&mut self, key: &u64) {
        self.unset(*key);
    }

    fn clear(&mut self) {
        self.entries.clear();
    }

    fn completed(&mut self) -> Result<(), Error> {
        self.completed += 1;
        Ok(())
    }
}

/// One piece, and whether more is to come.
fn piece(from: &mut Map, step: ExportStep, bytes_max: usize) -> (Vec<u8>, bool) {
    let mut piece = Vec::new();
    let mut take = |bytes: &[u8]| {
        piece.extend(bytes);
        Ok(())
    };
    let more = from.export(step, bytes_max, &mut take).unwrap();
    assert!(piece.len() <= bytes_max, "{} bytes of {bytes_max}", piece.len());
    (piece, more)
}

/// Transfers all pieces, and changes the old state between two pieces.
fn move_over(
    from: &mut Map,
    to: &mut Map,
    first: ExportStep,
    bytes_max: usize,
    mut between: impl FnMut(&mut Map),
) -> usize {
    let (mut pieces, mut step) = (0, first);
    loop {
        let (bytes, more) = piece(from, step, bytes_max);
        pieces += 1;
        to.import(&bytes, !more).unwrap();
        if !more {
            return pieces;
        }
        between(from);
        step = ExportStep::NEXT;
    }
}

fn filled(entries: u64) -> Map {
    let mut map = Map::default();
    (0..entries).for_each(|key| map.set(key * 2, &[7; 20]));
    map
}

#[test]
fn entries_changed_during_a_transfer_arrive_in_their_last_state() {
    for seed in 1..40_u64 {
        let (mut from, mut to) = (filled(seed * 7), filled(3));
        let mut random = seed;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        let mut left = 300;
        let pieces = move_over(&mut from, &mut to, ExportStep::BEGIN, 64 + seed as usize, |from| {
            for _ in 0..next() % 4 {
                left -= i64::from(left > 0);
                match (left > 0, next() % 3) {
                    (false, _) => {}
                    (true, 0) => from.unset(next() % 500),
                    (true, _) => from.set(next() % 500, &next().to_le_bytes()),
                }
            }
        });
        assert_eq!(from.entries, to.entries, "seed {seed}, {pieces} pieces");
        assert_eq!(to.completed, 1);
        // The changes of the new version after the swap come back, and nothing else.
        from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap();
        to.export(ExportStep::FOLLOW, 0, &mut |_| Ok(())).unwrap();
        to.set(1_001, b"new");
        to.unset(to.next_key(None).unwrap());
        let back = move_over(&mut to, &mut from, ExportStep::NEXT, 1 << 20, |_| {});
        assert_eq!((back, &from.entries), (1, &to.entries), "seed {seed}");
    }
}

#[test]
fn changes_are_recorded_only_during_a_transfer() {
    let mut from = filled(10);
    assert!(from.journal.noted.is_empty());
    move_over(&mut from, &mut Map::default(), ExportStep::BEGIN, 100, |_| {});
    from.set(4, b"x");
    assert_eq!(from.journal.noted.len(), 1);
    from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap();
    from.set(4, b"y");
    assert!(from.journal.noted.is_empty());
    let refused = from.export(ExportStep::NEXT, 100, &mut |_| Ok(())).unwrap_err();
    assert!(refused.to_string().contains("no export has begun"), "{refused}");
}

#[test]
fn an_empty_state_is_one_piece_and_a_large_entry_many() {
    let mut to = filled(3);
    assert_eq!(move_over(&mut Map::default(), &mut to, ExportStep::BEGIN, 100, |_| {}), 1);
    assert_eq!((to.entries.len(), to.completed), (0, 1));
    let mut from = Map::default();
    from.set(1, &[9; 1000]);
    let pieces = move_over(&mut from, &mut to, ExportStep::BEGIN, 100, |_| {});
    assert_eq!((pieces, &from.entries), (11, &to.entries));
    assert!(from.journal.out.capacity() <= 400, "what a large entry took does not stay");
}

/// 65,536 keys are noted; with one more, the transfer starts again.
#[test]
fn a_transfer_restarts_if_too_many_entries_change() {
    const MANY: u64 = 65_536;
    for over in [0, 1] {
        let (mut from, mut to) = (Map::default(), Map::default());
        move_over(&mut from, &mut to, ExportStep::BEGIN, 1 << 20, |_| {});
        (0..MANY + over).for_each(|key| from.set(key, b"x"));
        // Again: keys that are noted already need no more memory.
        (over..MANY).for_each(|key| from.set(key, b"y"));
        assert_eq!(from.journal.noted.is_empty(), over == 1);
        move_over(&mut from, &mut to, ExportStep::NEXT, 1 << 20, |_| {});
        assert_eq!(from.entries, to.entries);
    }
}

#[test]
fn the_record_of_sent_entries_is_limited() {
    let mut from = filled(1_000);
    let (mut most, mut step) = (0, ExportStep::BEGIN);
    while piece(&mut from, step, 100).1 {
        most = most.max(from.journal.out.len());
        step = ExportStep::NEXT;
    }
    assert!(most <= 400, "{most} bytes");
}

/// Twice as many entries are twice the work.
#[test]
fn the_work_grows_with_the_entries() {
    let key_reads = |entries| {
        let mut from = filled(entries);
        move_over(&mut from, &mut Map::default(), ExportStep::BEGIN, 512, |_| {});
        from.key_reads.get()
    };
    assert_eq!((key_reads(1_000), key_reads(2_000)), (1_001, 2_001));
}

#[test]
fn unreadable_pieces_give_an_error_text() {
    let mut from = filled(2);
    let (bytes, _) = piece(&mut from, ExportStep::BEGIN, 1 << 20);
    let error_of = |bytes: &[u8]| Map::default().import(bytes, true).unwrap_err().to_string();
    assert_eq!(error_of(&bytes[..bytes.len() - 1]), "its state ends within an entry");
    let mut other = bytes.clone();
    other[17] = 9;
    assert_eq!(
        error_of(&other),
        "its state has form 9, and this version of the plugin reads form 1; where the state may be lost, unload it and load this \
         version"
    );
    other[0] = 7;
    assert_eq!(error_of(&other), "an entry of its state is of an unknown kind (7)");
    let mut endless = bytes;
    endless[1..9].fill(0xff);
    assert_eq!(error_of(&endless), "its state ends within an entry");
}

#[test]
fn keys_are_decoded_unchanged() {
    fn again<K: StateKey + std::fmt::Debug>(key: &K) {
        let mut bytes = Vec::new();
        key.write(&mut bytes);
        assert_eq!(K::read(&bytes).as_ref().map(|read| read == key), Some(true), "{key:?}");
        bytes.insert(0, 0xff);
        assert_ne!(K::read(&bytes).as_ref(), Some(key));
    }
    again(&7_u8);
    again(&u64::MAX);
    again(&-3_i64);
    again(&"topic".to_owned());
    again(&vec![1_u8, 2]);
    again(&(3_u64, (String::new(), 4_u32)));
}
