//! What goes from one version of the plugin to the next in a reload: what logins gave, which each shard hands over of its own clients,
//! in pieces. It changes by the threads of workers, too, which note whose has.

use std::sync::Arc;

use grapnel_plugin_abi::{Entries, Error, Journal};
use rmpv::ValueRef;

use crate::kept::{Connection, Kept};
use crate::wire::{Writer, bytes_ref, text_ref};
use crate::{ExhookShard, Pool};

/// How deep an entry is nested.
const DEPTH_MAX: usize = 16;
/// Nobody's: every process of the new version hears of it.
const NOBODY: u64 = 0;

/// The driver's name, and a client's identifier.
type Key = (String, String);

impl ExhookShard {
    fn all(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().flatten().map(|shard| &shard.pool)
    }

    fn pool(&self, driver: &str) -> Option<&Arc<Pool>> {
        self.all().find(|pool| pool.config.driver.name() == driver)
    }

    fn kept(&self, (driver, client_id): &Key) -> Option<&Kept> {
        let pool = self.pool(driver)?;
        pool.kept.get(pool.worker_of(client_id)).map(|kept| &**kept)
    }

    /// Nobody wants to know any more what changes: a reload has come to its end, or was called off.
    pub(crate) fn end_of_handover(&mut self) {
        if self.hands_over && !self.journal.is_under_way() {
            self.hands_over = false;
            self.all().flat_map(|pool| &pool.kept).for_each(|kept| kept.note_changes(self.shard, false));
        }
    }
}

impl Entries for ExhookShard {
    type Key = Key;

    fn journal(&mut self) -> &mut Journal<Key> {
        self.hands_over = true;
        let mut changed = Vec::new();
        for pool in self.all() {
            for kept in &pool.kept {
                kept.note_changes(self.shard, true);
                // Otherwise this is asked for to begin, or to end.
                if self.journal.is_under_way() {
                    let driver = pool.config.driver.name();
                    let names = kept.take_changes(self.shard).into_iter();
                    changed.extend(names.map(|name| (driver.to_owned(), name.into_string())));
                }
            }
        }
        changed.iter().for_each(|key| self.journal.note(key));
        &mut self.journal
    }

    fn next_key(&self, after: Option<&Key>) -> Option<Key> {
        let mut pools: Vec<_> = self.all().map(|pool| (pool.config.driver.name(), pool)).collect();
        pools.sort_unstable_by_key(|(driver, _)| *driver);
        let behind =
            pools.into_iter().filter(|(driver, _)| after.is_none_or(|after| *driver >= after.0.as_str()));
        behind.into_iter().find_map(|(driver, pool)| {
            let from = after.filter(|after| after.0 == driver).map(|after| after.1.as_str());
            let next = pool.kept.iter().filter_map(|kept| kept.next(self.shard, from)).min()?;
            Some((driver.to_owned(), next))
        })
    }

    fn write(&self, key: &Key, out: &mut Vec<u8>) -> bool {
        let written = |whose: Connection<'_>, bytes: &[u8]| {
            Writer(out).list(3).text(whose.host).number(whose.port).bytes(bytes);
        };
        self.kept(key).and_then(|kept| kept.with(self.shard, &key.1, written)).is_some()
    }

    /// The client's worker may be another one now, and drivers that are not the same have nothing to say to each other.
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        let wrong = || Error::new(format!("what the login of client {:?} gave cannot be read", key.1));
        let mut rest = value;
        let read = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX).map_err(|_| wrong())?;
        let ValueRef::Array(parts) = &read else { return Err(wrong()) };
        let [host, port, bytes] = parts.as_slice() else { return Err(wrong()) };
        let (Some(host), Some(port), Some(bytes)) = (text_ref(host), port.as_u64(), bytes_ref(bytes)) else {
            return Err(wrong());
        };
        let port = u16::try_from(port).map_err(|_| wrong())?;
        if let Some(kept) = self.kept(&key) {
            // Without room it is as if the login had never been seen, which `keep` says when it happens to a worker.
            let _ = kept.keep(Connection { client_id: &key.1, host, port }, self.shard, bytes, NOBODY);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept(key) {
            kept.forget_client(&key.1, self.shard);
        }
    }

    fn clear(&mut self) {
        self.all().flat_map(|pool| &pool.kept).for_each(|kept| kept.clear(self.shard));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use grapnel_plugin_abi::Pieces;
    use grapnel_plugin_abi::raw::ExportStep;
    use serde_json::json;

    use super::*;
    use crate::config::Written;
    use crate::{PLACES, PoolShard};

    fn pool(driver: &str, workers: usize) -> Arc<Pool> {
        let written: Written = serde_json::from_value(json!({"driver": driver, "path": "/tmp"})).unwrap();
        let config = Arc::new(written.read(None).unwrap().remove(0));
        let kept: Vec<_> = (0..workers).map(|_| Arc::new(Kept::new(1 << 20, 64 << 20))).collect();
        let line = || crate::Line::new(config.queue, crate::Figures::none()).unwrap();
        let lines = (0..workers).map(|_| Arc::new(line())).collect();
        Arc::new(Pool { config, lines, kept, started: Arc::default(), wanted: BTreeMap::new() })
    }

    fn shard(number: u32, pool: &Arc<Pool>) -> ExhookShard {
        let mut pools = [const { None }; PLACES];
        pools[0] = Some(PoolShard { pool: Arc::clone(pool), clients: Vec::new() });
        ExhookShard { shard: number, pools, journal: Journal::default(), hands_over: false }
    }

    fn whose(client_id: &str) -> Connection<'_> {
        Connection { client_id, host: "10.0.0.1", port: 7 }
    }

    fn keep(pool: &Pool, number: u32, client_id: &str, bytes: &[u8]) {
        pool.kept[pool.worker_of(client_id)].keep(whose(client_id), number, bytes, 5).unwrap();
    }

    fn kept(pool: &Pool, number: u32, client_id: &str) -> Option<Vec<u8>> {
        pool.kept[pool.worker_of(client_id)].of(whose(client_id), number).map(Into::into)
    }

    /// One piece; whether more is to come.
    fn piece(old: &mut ExhookShard, new: &mut ExhookShard, step: ExportStep, bytes_max: usize) -> bool {
        let mut written = Vec::new();
        let more = old.export(step, bytes_max, &mut |piece| {
            written.extend_from_slice(piece);
            Ok(())
        });
        let more = more.unwrap();
        assert!(written.len() <= bytes_max);
        new.import(&written, !more).unwrap();
        more
    }

    #[test]
    fn logins_go_to_the_workers_of_the_next_version() {
        let (old, new) = (pool("amqtt", 1), pool("amqtt", 3));
        let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            keep(&old, (n % 2) as u32, name, name.as_bytes());
        }
        keep(&new, 0, "gone", b"from a reload that was called off");
        for number in [0, 1, 0] {
            let (mut from, mut to) = (shard(number, &old), shard(number, &new));
            let mut step = ExportStep::BEGIN;
            while piece(&mut from, &mut to, step, 64) {
                step = ExportStep::NEXT;
            }
        }
        for (n, name) in names.iter().enumerate() {
            let number = (n % 2) as u32;
            assert_eq!(kept(&new, number, name).as_deref(), Some(name.as_bytes()));
            let stored = new.kept[new.worker_of(name)].stored(name, number, 1);
            assert_eq!(stored.as_deref(), Some(name.as_bytes()), "no process has it yet");
        }
        assert_eq!(kept(&new, 0, "gone"), None, "what came before is replaced");
    }

    /// More than goes over in one step, and workers go on meanwhile: what they say goes over, too, until the last piece has.
    #[test]
    fn what_workers_say_meanwhile_goes_over_and_no_step_is_large() {
        let (old, new) = (pool("amqtt", 2), pool("amqtt", 2));
        let large = vec![7; 16 << 10];
        // Four times `state_bytes_max`.
        for n in 0..2048 {
            keep(&old, 0, &format!("c{n:04}"), &large);
        }
        let (mut from, mut to) = (shard(0, &old), shard(0, &new));
        let (mut steps, mut step) = (0, ExportStep::BEGIN);
        while piece(&mut from, &mut to, step, 64 << 10) {
            (steps, step) = (steps + 1, ExportStep::NEXT);
            if steps == 100 {
                keep(&old, 0, "c0000", b"new");
                keep(&old, 0, "zzz", b"new");
                let gone = &old.kept[old.worker_of("c0001")];
                gone.forget(whose("c0001"), 0);
            }
        }
        assert!(steps > 500, "{steps}");
        assert_eq!(
            (kept(&new, 0, "c0000"), kept(&new, 0, "zzz")),
            (Some(b"new".into()), Some(b"new".into()))
        );
        assert_eq!(kept(&new, 0, "c0001"), None);
        assert_eq!(kept(&new, 0, "c2047"), Some(large));
        // The end, or a reload that is called off: nothing is noted any more.
        assert!(!from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap());
        from.end_of_handover();
        keep(&old, 0, "later", b"x");
        assert!(old.kept.iter().all(|kept| kept.take_changes(0).is_empty()));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken() {
        let (old, new) = (pool("amqtt", 1), pool("python3", 1));
        keep(&old, 0, "c", b"x");
        let (mut from, mut to) = (shard(0, &old), shard(0, &new));
        piece(&mut from, &mut to, ExportStep::BEGIN, 1024);
        assert_eq!(kept(&new, 0, "c"), None, "another driver's");
        let key = || ("amqtt".to_owned(), "c".to_owned());
        let mut value = Vec::new();
        assert!(Entries::write(&from, &key(), &mut value));
        for len in 0..value.len() {
            assert!(from.put(key(), &value[..len]).is_err(), "{len}");
        }
        from.put(key(), &value).unwrap();
        assert!(!Entries::write(&from, &("amqtt".to_owned(), "d".to_owned()), &mut value));
    }
}
