//! The retired generations. Equal generations share one row: a plugin that is reloaded a thousand
//! times takes one row. Filled by transactions, read by the view.

use std::sync::Arc;

use crate::plugin::host::services::Services;
use crate::plugin::report::Retired;

/// A retired generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plugin) struct RetiredCode {
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// Number of the load of that name; 0 if it was never loaded.
    pub generation: u32,
    pub mapped_bytes: u64,
}

/// Consecutive generations that differ only in their number.
struct Run {
    first: RetiredCode,
    count: u32,
}

impl Run {
    fn generation(&self, place: u32) -> u32 {
        // Loads that never succeeded all have generation 0.
        if self.first.generation == 0 { 0 } else { self.first.generation + place }
    }

    /// Whether this generation is the next one of the run.
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

/// All retired generations.
#[derive(Default)]
pub(in crate::plugin) struct RetiredList {
    runs: Vec<Run>,
}

impl RetiredList {
    pub(in crate::plugin) fn add(&mut self, gone: RetiredCode) {
        // Searches from the end: the run that was extended last is the most likely one.
        match self.runs.iter_mut().rev().find(|run| run.continues_with(&gone)) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { first: gone, count: 1 }),
        }
    }

    /// The number of retired generations that have a mapping, and the bytes that are mapped.
    pub(in crate::plugin) fn totals(&self) -> (usize, u64) {
        // A generation without a mapping of its own is listed only for its threads.
        let mapped = self.runs.iter().filter(|run| run.first.mapped_bytes > 0);
        let count = mapped.map(|run| run.count as usize).sum();
        (count, self.runs.iter().map(|run| u64::from(run.count) * run.first.mapped_bytes).sum())
    }

    /// One row for each generation; those of a run are adjacent.
    pub(in crate::plugin) fn rows(&self, services: &Services) -> Vec<Retired> {
        self.runs.iter().flat_map(|run| run.rows(services)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retired_code(name: &str, generation: u32, mapped_bytes: u64) -> RetiredCode {
        RetiredCode { name: name.into(), version: "1".into(), generation, mapped_bytes }
    }

    #[test]
    fn repeated_reloads_use_one_run_and_list_every_generation() {
        let mut all = RetiredList::default();
        for generation in 1..=500 {
            all.add(retired_code("a", generation, 10));
            all.add(retired_code("b", generation, 20));
            all.add(retired_code("broken.so", 0, 1));
        }
        assert_eq!((all.runs.len(), all.totals()), (3, (1_500, 500 * 31)));
        // A generation whose load failed interrupts the numbers, and a new file has another size.
        all.add(retired_code("a", 502, 10));
        all.add(retired_code("a", 503, 11));
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
