//! Returns memory of tables and lists after a peak of clients.

use std::collections::{HashMap, VecDeque};

/// Capacity that a table may retain, whatever its size.
pub const TABLE_MIN: usize = 64;

/// Shrinks a table that is mostly empty. Returns whether it did.
pub fn table<K: std::hash::Hash + Eq, V, S: std::hash::BuildHasher>(
    table: &mut HashMap<K, V, S>,
    capacity_min: usize,
) -> bool {
    let is_large = table.capacity() > capacity_min && table.len() * 8 < table.capacity();
    if is_large {
        table.shrink_to(table.len() * 2);
    }
    is_large
}

/// Shrinks a list that is mostly empty.
pub fn list<T>(list: &mut VecDeque<T>) {
    if list.capacity() > 64 && list.len() * 4 < list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}
