//! Tables and lists that give memory back once a storm of clients has gone.

use std::collections::{HashMap, VecDeque};

/// Capacity that a table may keep, whatever is in it.
pub const TABLE_MIN: usize = 64;

/// Gives back what a table has taken that had more in it. Whether it did.
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

/// Gives back what a list has taken that was longer.
pub fn list<T>(list: &mut VecDeque<T>) {
    if list.capacity() > 64 && list.len() * 4 < list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}
