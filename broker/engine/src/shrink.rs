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
