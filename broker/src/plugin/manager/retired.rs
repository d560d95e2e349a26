//! The retired generations, with equal ones in one row: a plugin that is reloaded a thousand times
//! takes one row. Filled by transactions, read by the view.

use std::sync::Arc;

use crate::plugin::host::services::Services;
use crate::plugin::report::Retired;

/// A generation that is retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct RetiredCode {
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// Which load of that name; 0 if it never was loaded.
    pub generation: u32,
    pub mapped_bytes: u64,
}

/// Generations one after the other that differ in nothing else.
struct Run {
    first: RetiredCode,
    count: u32,
}

impl Run {
    fn generation(&self, place: u32) -> u32 {
        // What never was loaded has no number to count on from.
        if self.first.generation == 0 { 0 } else { self.first.generation + place }
    }

    /// Whether this is the one that comes next.
    fn continues_with(&self, gone: &RetiredCode) -> bool {
        let RetiredCode { name, version, generation, mapped_bytes } = gone;
        (name, version, mapped_bytes) == (&self.first.name, &self.first.version, &self.first.mapped_bytes)
            && *generation == self.generation(self.count)
    }

    fn rows<'a>(&'a self, services: &'a Services) -> impl Iterator<Item = Retired> + 'a {
        let RetiredCode { name, version, mapped_bytes, .. } = &self.first;
        (0..self.count).map(move |place| {
            let generation = self.generation(place);
            Retired {
                name: name.to_string(),
                version: version.to_string(),
                generation,
                mapped_bytes: *mapped_bytes,
                threads_left: services.threads_left(name, generation),
                ends_within_ms: services.ends_within_ms(name, generation),
            }
        })
    }
}

/// All that are retired.
#[derive(Default)]
pub(in crate::plugin) struct RetiredList {
    runs: Vec<Run>,
}

impl RetiredList {
    pub(in crate::plugin) fn add(&mut self, gone: RetiredCode) {
        // From the end: what is retired now is most likely what was retired last.
        match self.runs.iter_mut().rev().find(|run| run.continues_with(&gone)) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { first: gone, count: 1 }),
        }
    }

    /// How many there are, and the memory that they hold.
    pub(in crate::plugin) fn totals(&self) -> (usize, u64) {
        // What has no mapping of its own is listed for its threads alone.
        let mapped = self.runs.iter().filter(|run| run.first.mapped_bytes > 0);
        let count = mapped.map(|run| run.count as usize).sum();
        (count, self.runs.iter().map(|run| u64::from(run.count) * run.first.mapped_bytes).sum())
    }

    /// One row for each, those of a run together.
    pub(in crate::plugin) fn rows(&self, services: &Services) -> Vec<Retired> {
        self.runs.iter().flat_map(|run| run.rows(services)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(name: &str, generation: u32, mapped_bytes: u64) -> RetiredCode {
        RetiredCode { name: name.into(), version: "1".into(), generation, mapped_bytes }
    }

    #[test]
    fn what_is_reloaded_again_and_again_takes_one_run_and_every_generation_a_row() {
        let mut all = RetiredList::default();
        for generation in 1..=500 {
            all.add(gone("a", generation, 10));
            all.add(gone("b", generation, 20));
            all.add(gone("broken.so", 0, 1));
        }
        assert_eq!((all.runs.len(), all.totals()), (3, (1_500, 500 * 31)));
        // A generation whose load failed is not in the row, and a new file has other sizes.
        all.add(gone("a", 502, 10));
        all.add(gone("a", 503, 11));
        assert_eq!((all.runs.len(), all.totals()), (5, (1_502, 500 * 31 + 21)));
        let rows = all.rows(Services::of_process());
        let of = |name: &str| -> Vec<u32> {
            rows.iter().filter(|row| row.name == name).map(|row| row.generation).collect()
        };
        assert_eq!(of("a"), (1..=500).chain([502, 503]).collect::<Vec<_>>());
        assert_eq!(of("b"), (1..=500).collect::<Vec<_>>());
        assert_eq!(of("broken.so"), vec![0; 500]);
        assert!(rows.iter().all(|row| row.version == "1"));
    }
}
