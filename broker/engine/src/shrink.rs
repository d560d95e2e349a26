//! Gives memory of tables back after a storm. Called by tables where entries leave.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Gives capacity beyond `spare` entries back, but only at a quarter, so that the map does not grow
/// again soon.
pub(crate) fn map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>, spare: usize) {
    if map.capacity() > spare.max(4 * map.len()) {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The capacity of a map with place for 10,000 entries and so many in it, before and after.
    fn capacities(len: usize, spare: usize) -> (usize, usize) {
        let mut numbers: HashMap<usize, usize> = HashMap::with_capacity(10_000);
        numbers.extend((0..len).map(|key| (key, key)));
        let before = numbers.capacity();
        map(&mut numbers, spare);
        (before, numbers.capacity())
    }

    #[test]
    fn a_map_gives_capacity_back_when_less_than_a_quarter_is_used_and_keeps_the_spare() {
        let (full, _) = capacities(0, 0);
        assert_eq!(capacities(full / 4, 1024), (full, full), "a quarter is in use");
        let len = full / 4 - 1;
        assert_eq!(capacities(len, full), (full, full), "all of it is spare");
        let (_, after) = capacities(len, full - 1);
        assert!((2 * len..full).contains(&after), "{after} of {full}");
        let (_, after) = capacities(99, 1024);
        assert!((198..=1024).contains(&after), "{after} for 99");
    }
}
