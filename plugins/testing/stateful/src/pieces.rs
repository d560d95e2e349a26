//! The state that is transferred in pieces: the count under key 0, and under each other key a
//! number with padding.

use std::collections::BTreeMap;
use std::ops::Bound;

use grapnel_plugin_abi::{Counter as Metric, Entries, Error, Host, Journal};

use crate::{Config, Counter};

/// The entries of a shard.
#[derive(Default)]
pub struct Held {
    entries: BTreeMap<u64, Vec<u8>>,
    /// The sum of the numbers of all entries.
    sum: u64,
    journal: Journal<u64>,
    /// Counts the requested keys if the export never ends.
    endless: Option<Metric>,
}

fn number(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
}

impl Held {
    pub fn new(config: &Config, host: &Host) -> Result<Held, Error> {
        let endless =
            config.endless.then(|| host.counter("keys_asked", "Keys that were asked for")).transpose()?;
        let value = vec![0; config.entry_bytes.max(8)];
        let entries = (1..=config.entries).map(|key| (key, value.clone())).collect();
        Ok(Held { entries, endless, ..Held::default() })
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }
}

impl Counter {
    /// After a counted publish: the next entry in turn gets the count as its number.
    pub fn change(&mut self) {
        self.held.journal.note(&0);
        let Some(last) = self.held.entries.last_key_value().map(|(key, _)| *key) else { return };
        let key = (self.count - 1) % last + 1;
        if let Some(value) = self.held.entries.get_mut(&key) {
            self.held.sum = self.held.sum.wrapping_sub(number(value)).wrapping_add(self.count);
            value[..8].copy_from_slice(&self.count.to_le_bytes());
            self.held.journal.note(&key);
        }
    }
}

impl Entries for Counter {
    type Key = u64;

    fn journal(&mut self) -> &mut Journal<u64> {
        &mut self.held.journal
    }

    fn next_key(&self, after: Option<&u64>) -> Option<u64> {
        let Some(after) = after else { return Some(0) };
        if let Some(metric) = &self.held.endless {
            metric.add(1);
            return Some(after + 1);
        }
        let mut later = self.held.entries.range((Bound::Excluded(*after), Bound::Unbounded));
        later.next().map(|(key, _)| *key)
    }

    fn write(&self, key: &u64, out: &mut Vec<u8>) -> bool {
        assert!(self.plugin.fail("export", self.shard).is_ok(), "failed as configured");
        match (key, self.held.entries.get(key)) {
            (0, _) => out.extend(self.count.to_le_bytes()),
            (_, Some(value)) => out.extend(value),
            (_, None) => return false,
        }
        true
    }

    fn put(&mut self, key: u64, value: &[u8]) -> Result<(), Error> {
        self.plugin.fail("import", self.shard)?;
        if key == 0 {
            self.count = number(value);
            return Ok(());
        }
        self.remove(&key);
        self.held.sum = self.held.sum.wrapping_add(number(value));
        self.held.entries.insert(key, value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &u64) {
        let gone = self.held.entries.remove(key);
        self.held.sum = self.held.sum.wrapping_sub(gone.map_or(0, |value| number(&value)));
    }

    fn clear(&mut self) {
        self.held.entries.clear();
        self.held.sum = 0;
    }

    fn completed(&mut self) -> Result<(), Error> {
        self.plugin.fail("complete", self.shard)
    }
}
