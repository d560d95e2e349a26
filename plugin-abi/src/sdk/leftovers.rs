//! Values that are not needed any more, if freeing all of them at once would take too long for a
//! shard. Made by [`Shares::clear_into`](super::Shares::clear_into) and by plugins.

/// Values that are freed a few at a time, or elsewhere. Freeing a hundred thousand entries takes tens of milliseconds, in which a
/// shard serves nobody: an instance that ends puts them into the shared part of its plugin, which ends on a thread of the
/// loader's; one that goes on frees some of them with each thing that it does.
///
/// Dropping it frees all.
#[derive(Default)]
pub struct Leftovers(Vec<Box<dyn Iterator<Item = ()> + Send>>);

impl std::fmt::Debug for Leftovers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leftovers(of {})", self.0.len())
    }
}

impl Leftovers {
    /// Takes values, to free one after the other.
    pub fn add<I>(&mut self, values: I)
    where
        I: IntoIterator<IntoIter: Send + 'static, Item: 'static>,
    {
        self.0.push(Box::new(values.into_iter().map(drop)));
    }

    /// Takes all that another one has.
    pub fn append(&mut self, mut other: Leftovers) {
        self.0.append(&mut other.0);
    }

    /// Frees as many values as that, if there are; whether there are more.
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
    fn values_are_freed_as_many_at_a_time_as_was_said() {
        let value = Arc::new(());
        let (mut left, mut other) = (Leftovers::default(), Leftovers::default());
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
