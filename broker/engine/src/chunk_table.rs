//! A table in chunks: values by index, the lowest free index first. A chunk without values frees
//! its memory, so memory shrinks after a peak of connections. Values are never moved. The keyed
//! tables, the timers and the connections of the shell use it.

use std::ops::{Index, IndexMut};

/// Slots of a chunk.
const CHUNK: usize = 32;
/// Chunks for each word of bits.
const WORD: usize = u64::BITS as usize;

/// Values by index. Up to `SPARE` empty chunks keep their memory, so that a single value that is
/// added and removed again does not allocate each time.
#[derive(Debug)]
pub struct ChunkTable<T, const SPARE: usize = 1> {
    chunks: Vec<Chunk<T>>,
    /// A bit for each chunk that has a free slot.
    room: Vec<u64>,
    /// All words before this index are 0.
    first_room: usize,
    /// Number of empty chunks that have memory.
    empty: usize,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// A bit for each slot with a value.
    used: u32,
    /// `None` if the memory was freed. The length is part of the type, so that a look-up does not
    /// check it.
    slots: Option<Box<[Option<T>; CHUNK]>>,
}

impl<T, const SPARE: usize> Default for ChunkTable<T, SPARE> {
    fn default() -> Self {
        ChunkTable { chunks: Vec::new(), room: Vec::new(), first_room: 0, empty: 0, len: 0 }
    }
}

impl<T, const SPARE: usize> ChunkTable<T, SPARE> {
    /// Inserts a value, made from its index. Returns the index.
    pub fn insert_with(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        while self.room.get(self.first_room) == Some(&0) {
            self.first_room += 1;
        }
        let at = match self.room.get(self.first_room) {
            Some(word) => self.first_room * WORD + word.trailing_zeros() as usize,
            None => self.chunks.len(),
        };
        // Bits beyond the last chunk are 0, so this is an existing chunk or the next one.
        if at == self.chunks.len() {
            self.chunks.push(Chunk { used: 0, slots: None });
            self.set_room(at, true);
        }
        let chunk = &mut self.chunks[at];
        if chunk.slots.is_some() && chunk.used == 0 {
            self.empty -= 1;
        }
        let slots = chunk.slots.get_or_insert_with(empty_slots);
        let slot = chunk.used.trailing_ones() as usize;
        let place = at * CHUNK + slot;
        slots[slot] = Some(make(place));
        chunk.used |= 1 << slot;
        if chunk.used == u32::MAX {
            self.set_room(at, false);
        }
        self.len += 1;
        place
    }

    /// Inserts a value and returns its index.
    pub fn insert(&mut self, value: T) -> usize {
        self.insert_with(|_| value)
    }

    /// The value at an index.
    #[inline]
    pub fn get(&self, place: usize) -> Option<&T> {
        self.chunks.get(place / CHUNK)?.slots.as_ref()?[place % CHUNK].as_ref()
    }

    /// The value at an index, to change.
    #[inline]
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.chunks.get_mut(place / CHUNK)?.slots.as_mut()?[place % CHUNK].as_mut()
    }

    /// Removes a value and returns it.
    pub fn take(&mut self, place: usize) -> Option<T> {
        let value = self.chunks.get_mut(place / CHUNK)?.slots.as_mut()?[place % CHUNK].take()?;
        self.note_removed(place);
        Some(value)
    }

    /// Removes a value and drops it where it is. Returns whether there was one.
    pub fn discard(&mut self, place: usize) -> bool {
        let Some(slots) = self.chunks.get_mut(place / CHUNK).and_then(|chunk| chunk.slots.as_mut()) else {
            return false;
        };
        let slot = &mut slots[place % CHUNK];
        if slot.is_none() {
            return false;
        }
        *slot = None;
        self.note_removed(place);
        true
    }

    /// Updates the counts after a value has left.
    fn note_removed(&mut self, place: usize) {
        let (at, slot) = (place / CHUNK, place % CHUNK);
        let chunk = &mut self.chunks[at];
        chunk.used &= !(1 << slot);
        if chunk.used == 0 {
            if self.empty < SPARE {
                self.empty += 1;
            } else {
                chunk.slots = None;
            }
        }
        self.len -= 1;
        self.set_room(at, true);
    }

    fn set_room(&mut self, at: usize, has_room: bool) {
        let (word, bit) = (at / WORD, 1 << (at % WORD));
        if word >= self.room.len() {
            self.room.resize(word + 1, 0);
        }
        if has_room {
            self.room[word] |= bit;
            self.first_room = self.first_room.min(word);
        } else {
            self.room[word] &= !bit;
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values, by index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(at, chunk)| {
            let slots = chunk.slots.iter().flat_map(|slots| slots.iter()).enumerate();
            slots.filter_map(move |(slot, value)| Some((at * CHUNK + slot, value.as_ref()?)))
        })
    }

    /// One more than the highest index ever used. It never falls; loops over the indexes in slices
    /// rely on that.
    pub fn places(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Number of slots that have memory.
    pub fn capacity(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.slots.is_some()).count() * CHUNK
    }
}

fn empty_slots<T>() -> Box<[Option<T>; CHUNK]> {
    let slots: Vec<Option<T>> = std::iter::repeat_with(|| None).take(CHUNK).collect();
    slots.try_into().unwrap_or_else(|_| unreachable!("it has CHUNK elements"))
}

impl<T, const SPARE: usize> Index<usize> for ChunkTable<T, SPARE> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        self.get(place).expect("the place has a value")
    }
}

impl<T, const SPARE: usize> IndexMut<usize> for ChunkTable<T, SPARE> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        self.get_mut(place).expect("the place has a value")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_lowest_free_place_is_given_away_first() {
        let mut table: ChunkTable<usize> = ChunkTable::default();
        for place in 0..5_000 {
            assert_eq!(table.insert_with(|at| at), place);
        }
        for gone in [4_999, 70, 33, 64, 2_500] {
            assert_eq!(table.take(gone), Some(gone));
            assert_eq!((table.take(gone), table.get(gone), table.len()), (None, None, 4_999));
            assert_eq!(table.insert(gone), gone);
        }
        assert_eq!((table.get(5_000), table.get(usize::MAX), table.len()), (None, None, 5_000));
        assert!(table.iter().enumerate().all(|(at, (place, value))| at == place && at == *value));
    }

    /// After 10,000 values of which three stay, only their chunks and the spare one have memory.
    #[test]
    fn a_connect_storm_leaves_no_capacity() {
        let mut table: ChunkTable<usize> = ChunkTable::default();
        for value in 0..10_000 {
            table.insert(value);
        }
        let stay = [5, 4_000, 9_999];
        for place in (0..10_000).filter(|place| !stay.contains(place)) {
            table.take(place);
        }
        assert_eq!((table.len(), table.capacity()), (3, 4 * CHUNK));
        assert_eq!(table.places(), 10_016, "whoever goes along them counts on it");
        assert_eq!(stay.map(|place| table[place]), stay);
        // New values get low indexes, so that chunks become empty again.
        assert_eq!((0..64).map(|value| table.insert(value)).max(), Some(64));
        for place in stay {
            table.take(place);
        }
        assert!(table.capacity() <= 4 * CHUNK);
    }

    /// One value that is added and removed at the edge of a chunk does not allocate.
    #[test]
    fn adding_and_removing_at_a_chunk_boundary_does_not_allocate() {
        let mut table: ChunkTable<usize> = ChunkTable::default();
        for value in 0..CHUNK {
            table.insert(value);
        }
        for round in 0..10 {
            let place = table.insert(7);
            let memory = |table: &ChunkTable<usize>| {
                table.chunks[1].slots.as_ref().map(|slots| std::ptr::from_ref(&**slots))
            };
            let before = memory(&table);
            if round % 2 == 0 {
                assert_eq!(table.take(place), Some(7));
            } else {
                assert!(table.discard(place) && !table.discard(place));
            }
            assert!(before.is_some());
            assert_eq!((table.capacity(), memory(&table), table.len()), (2 * CHUNK, before, CHUNK));
        }
    }

    /// Twice as many values take twice as many searches: no search starts at the beginning.
    #[test]
    fn room_is_found_where_it_was_last() {
        let mut table: ChunkTable<u32> = ChunkTable::default();
        for value in 0..100_000 {
            table.insert(value);
            assert_eq!(table.first_room, value as usize / CHUNK / WORD);
        }
        table.take(40);
        assert_eq!((table.first_room, table.insert(40)), (0, 40));
    }
}
