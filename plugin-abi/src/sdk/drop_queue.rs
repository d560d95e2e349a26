//! Values that are not needed any more but too many to free at once on a shard. Made by
//! [`Shares::clear_into`](super::Shares::clear_into) and by plugins.

/// Values that are freed a few at a time, or on another thread. Freeing a hundred thousand entries
/// takes tens of milliseconds, during which a shard serves no client. An instance that ends moves
/// its values into the shared part of its plugin, which is dropped on a thread of the loader. An
/// instance that continues frees some of them with each event.
///
/// Dropping it frees all values.
#[derive(Default)]
pub struct DropQueue(Vec<Box<dyn Iterator<Item = ()> + Send>>);

impl std::fmt::Debug for DropQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DropQueue(of {})", self.0.len())
    }
}

impl DropQueue {
    /// Adds values, to be freed one after the other.
    pub fn add<I>(&mut self, values: I)
    where
        I: IntoIterator<IntoIter: Send + 'static, Item: 'static>,
    {
        self.0.push(Box::new(values.into_iter().map(drop)));
    }

    /// Moves all values of another one into this one.
    pub fn append(&mut self, mut other: DropQueue) {
        self.0.append(&mut other.0);
    }

    /// Frees at most `count` values; returns whether more remain.
    pub fn free(&mut self, count: usize) -> bool {
        let mut left = count;
        while let Some(values) = self.0.last_mut() {
            while left > 0 && values.next().is_some() {
                left -= 1;
            }
            if left == 0 {
                return true;
            }
            self.0.pop();
        }
        self.0 = Vec::new();
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn values_are_freed_in_slices_of_the_given_size() {
        let value = Arc::new(());
        let (mut left, mut other) = (DropQueue::default(), DropQueue::default());
        assert!(!left.free(0), "there is nothing");
        left.add((0..5).map(|n| (n, Arc::clone(&value))).collect::<BTreeMap<i32, _>>());
        other.add(vec![Arc::clone(&value); 4]);
        left.append(other);
        for there in [7, 4, 1] {
            let freed = if there == 7 { 2 } else { 3 };
            assert!(left.free(freed));
            assert_eq!(Arc::strong_count(&value) - 1, there);
        }
        assert!(!left.free(2));
        assert_eq!(Arc::strong_count(&value), 1);
        left.add(vec![Arc::clone(&value); 4]);
        drop(left);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
