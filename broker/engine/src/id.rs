//! Small keys used everywhere in the engine: shards, sets of shards, table keys with a generation.
//! A key borrows nothing, so the shell may hold one from one event to the next.

use std::fmt;

use crate::chunk_table::ChunkTable;

/// Maximum number of shards of a broker, the size of a [`ShardSet`].
pub const SHARDS_MAX: usize = 64;

/// A shard: one pinned executor with its data; 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The shard as an index into a table of shards.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of shards, one bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ShardSet(pub u64);

impl ShardSet {
    /// No shard.
    pub const EMPTY: ShardSet = ShardSet(0);

    /// Shards 0 to `count` − 1 (`count` at most 64).
    pub const fn all(count: usize) -> ShardSet {
        if count >= 64 { ShardSet(u64::MAX) } else { ShardSet((1 << count) - 1) }
    }

    /// Adds a shard.
    pub const fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << (shard.0 & 63);
    }

    /// Takes a shard out.
    pub const fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << (shard.0 & 63));
    }

    /// Whether the shard is in the set.
    pub const fn contains(self, shard: ShardId) -> bool {
        self.0 & (1 << (shard.0 & 63)) != 0
    }

    /// Whether no shard is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many shards are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The first shard of the set from `start` on; if there is none, the first one of the set.
    pub const fn next_from(self, start: ShardId) -> Option<ShardId> {
        let behind = self.0 & (u64::MAX << (start.0 & 63));
        let found = if behind == 0 { self.0 } else { behind };
        if found == 0 { None } else { Some(ShardId(found.trailing_zeros() as u8)) }
    }

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: ShardSet) -> ShardSet {
        ShardSet(self.0 | other.0)
    }

    /// The shards of the set in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let shard = ShardId(rest.trailing_zeros() as u8);
                rest &= rest - 1;
                shard
            })
        })
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|shard| shard.0)).finish()
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name {
            /// Index in the table.
            pub index: u32,
            /// How often that index was used before. A stale key has another generation and finds
            /// nothing.
            pub generation: u32,
        }
    )*};
}

keys! {
    /// A network connection on its shard.
    ConnKey;
    /// An MQTT session on its home shard.
    SessionKey;
}

/// A table whose keys carry a generation, so that a stale key finds nothing instead of another
/// value.
#[derive(Debug)]
pub struct Table<T> {
    slots: ChunkTable<(u32, T)>,
    next_generation: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: ChunkTable::default(), next_generation: 1 }
    }
}

/// A key of a [`Table`].
pub trait Key: Copy {
    /// Makes a key from its parts.
    fn from_parts(index: u32, generation: u32) -> Self;
    /// Index and generation.
    fn parts(self) -> (u32, u32);
}

macro_rules! impl_key {
    ($($name:ident),*) => {$(
        impl Key for $name {
            fn from_parts(index: u32, generation: u32) -> Self {
                $name { index, generation }
            }
            fn parts(self) -> (u32, u32) {
                (self.index, self.generation)
            }
        }
    )*};
}
impl_key!(ConnKey, SessionKey);

impl<T> Table<T> {
    /// Inserts a value, made from its key. Returns the key.
    pub fn insert_with<K: Key>(&mut self, make: impl FnOnce(K) -> T) -> K {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        let key = |place: usize| K::from_parts(place as u32, generation);
        key(self.slots.insert_with(|place| (generation, make(key(place)))))
    }

    /// The value; `None` if the key is stale.
    #[inline]
    pub fn get<K: Key>(&self, key: K) -> Option<&T> {
        let (index, generation) = key.parts();
        self.slots.get(index as usize).and_then(|(found, value)| (*found == generation).then_some(value))
    }

    /// The value, to change; `None` if the key is stale.
    #[inline]
    pub fn get_mut<K: Key>(&mut self, key: K) -> Option<&mut T> {
        let (index, generation) = key.parts();
        self.slots.get_mut(index as usize).and_then(|(found, value)| (*found == generation).then_some(value))
    }

    /// Removes the value; `None` if the key is stale.
    pub fn remove<K: Key>(&mut self, key: K) -> Option<T> {
        self.get(key)?;
        let (index, _) = key.parts();
        self.slots.take(index as usize).map(|(_, value)| value)
    }

    /// Removes the value and drops it where it is; no effect if the key is stale.
    pub fn discard<K: Key>(&mut self, key: K) {
        if self.get(key).is_some() {
            self.slots.discard(key.parts().0 as usize);
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has no value.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All values with their keys, by index.
    pub fn iter<K: Key>(&self) -> impl Iterator<Item = (K, &T)> {
        self.slots
            .iter()
            .map(|(index, (generation, value))| (K::from_parts(index as u32, *generation), value))
    }

    /// The key at an index, for loops in slices.
    pub fn key_at<K: Key>(&self, index: usize) -> Option<K> {
        self.slots.get(index).map(|(generation, _)| K::from_parts(index as u32, *generation))
    }

    /// One more than the highest index ever used.
    pub fn places(&self) -> usize {
        self.slots.places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_shard_of_a_set_is_found_all_the_way_round() {
        let of = |shards: &[u8]| shards.iter().fold(0, |all, shard| all | 1 << shard);
        let next = |shards: &[u8], start| ShardSet(of(shards)).next_from(ShardId(start)).map(|shard| shard.0);
        assert_eq!(next(&[], 0), None);
        for (start, found) in [(0, 3), (3, 3), (4, 7), (7, 7), (8, 63), (63, 63), (64, 3)] {
            assert_eq!(next(&[3, 7, 63], start), Some(found), "from {start}");
        }
    }
}
