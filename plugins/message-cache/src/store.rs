//! The last messages of each topic that came in on one shard, within bounds. No broker and no clock in here.

use std::collections::{BTreeMap, HashMap, VecDeque};

use grapnel_plugin_abi::topic;

use crate::wire::{Reader, put};

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it came in, milliseconds since 1970.
    pub at_ms: u64,
    /// Which one of its shard's: tells those of one millisecond apart.
    pub number: u64,
    /// Its topic name.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Kept {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.at_ms.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        put(out, self.topic.as_bytes());
        put(out, &self.payload);
    }

    /// Reads one that `write` has written.
    pub fn read(reader: &mut Reader<'_>) -> Option<Kept> {
        let (at_ms, number) = (reader.number()?, reader.number()?);
        Some(Kept { at_ms, number, topic: reader.text()?.to_owned(), payload: reader.part()?.to_vec() })
    }

    fn bytes(&self) -> u64 {
        (self.topic.len() + self.payload.len()) as u64
    }
}

/// All messages that are read from here; `None` where they cannot be.
pub fn read_all(bytes: &[u8]) -> Option<Vec<Kept>> {
    let (mut reader, mut all) = (Reader(bytes), Vec::new());
    while !reader.is_empty() {
        all.push(Kept::read(&mut reader)?);
    }
    Some(all)
}

/// The messages of one shard.
#[derive(Debug)]
pub struct Store {
    per_topic: usize,
    bytes_max: u64,
    topics: HashMap<String, VecDeque<Kept>>,
    /// By number, which grows: whose is the oldest.
    order: BTreeMap<u64, String>,
    bytes: u64,
    last: u64,
}

impl Store {
    /// Keeps so many of each topic, and so many bytes altogether.
    pub fn new(per_topic: usize, bytes_max: u64) -> Store {
        Store { per_topic, bytes_max, topics: HashMap::new(), order: BTreeMap::new(), bytes: 0, last: 0 }
    }

    /// Keeps a message; the oldest go where there is no room.
    pub fn keep(&mut self, at_ms: u64, name: &str, payload: &[u8]) {
        self.last += 1;
        let kept = Kept { at_ms, number: self.last, topic: name.to_owned(), payload: payload.to_vec() };
        if kept.bytes() > self.bytes_max {
            return;
        }
        self.bytes += kept.bytes();
        self.order.insert(kept.number, name.to_owned());
        let list = self.topics.entry(name.to_owned()).or_default();
        list.push_back(kept);
        if list.len() > self.per_topic {
            self.forget_oldest_of(name);
        }
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.first_key_value().map(|(_, name)| name.clone()) else { return };
            self.forget_oldest_of(&oldest);
        }
    }

    fn forget_oldest_of(&mut self, name: &str) {
        let Some(list) = self.topics.get_mut(name) else { return };
        if let Some(gone) = list.pop_front() {
            self.bytes -= gone.bytes();
            self.order.remove(&gone.number);
        }
        if list.is_empty() {
            self.topics.remove(name);
        }
    }

    /// Those whose topic matches, oldest first.
    pub fn matching(&self, filter: &str) -> Vec<&Kept> {
        let lists = self.topics.iter().filter(|(name, _)| topic::matches(filter, name));
        let mut all: Vec<&Kept> = lists.flat_map(|(_, list)| list).collect();
        all.sort_by_key(|kept| kept.number);
        all
    }

    /// All of it.
    pub fn export(&self) -> Vec<u8> {
        let mut all: Vec<&Kept> = self.topics.values().flatten().collect();
        all.sort_by_key(|kept| kept.number);
        let mut out = Vec::new();
        all.iter().for_each(|kept| kept.write(&mut out));
        out
    }

    /// What another has exported, within the bounds of this one. False where it cannot be read; then nothing has changed.
    pub fn import(&mut self, state: &[u8]) -> bool {
        let Some(all) = read_all(state) else { return false };
        *self = Store::new(self.per_topic, self.bytes_max);
        all.iter().for_each(|kept| self.keep(kept.at_ms, &kept.topic, &kept.payload));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(store: &Store, filter: &str) -> Vec<String> {
        let kept = store.matching(filter);
        kept.iter().map(|kept| format!("{}={}", kept.topic, String::from_utf8_lossy(&kept.payload))).collect()
    }

    #[test]
    fn the_last_of_each_topic_are_kept() {
        let mut store = Store::new(2, 1000);
        for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("a/b", "5")] {
            store.keep(1, topic, payload.as_bytes());
        }
        assert_eq!(texts(&store, "#"), ["b=2", "a=3", "a=4", "a/b=5"]);
        assert_eq!(texts(&store, "a"), ["a=3", "a=4"]);
        assert_eq!(texts(&store, "+/b"), ["a/b=5"]);
        let mut other = Store::new(1, 1000);
        assert!(other.import(&store.export()));
        assert_eq!(texts(&other, "#"), ["b=2", "a=4", "a/b=5"]);
        let state = store.export();
        assert!(!other.import(&state[..state.len() - 1]));
        assert_eq!(other.order.len(), 3);
    }

    #[test]
    fn the_oldest_go_where_there_is_no_room() {
        let mut store = Store::new(9, 12);
        for (topic, payload) in [("a", "12345"), ("b", "12345"), ("a", "1")] {
            store.keep(1, topic, payload.as_bytes());
        }
        assert_eq!(texts(&store, "#"), ["b=12345", "a=1"]);
        store.keep(1, "c", &[0; 12]);
        assert_eq!(store.order.len(), 2, "what can never be kept drives nothing out");
        store.keep(1, "c", b"12345678901");
        assert_eq!(texts(&store, "#"), ["c=12345678901"]);
        assert_eq!((store.topics.len(), store.bytes), (1, 12));
    }
}
