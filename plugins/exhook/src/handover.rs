//! What goes from one version of the plugin to the next in a reload: what logins gave, which each shard exports of its own clients.
//! MessagePack, a version number in front: whoever reads it may be older or newer.

use std::sync::Arc;

use rmpv::ValueRef;

use crate::Pool;
use crate::kept::Connection;
use crate::wire::{Writer, bytes_ref, text_ref};

/// Of the bytes below. A version that does not know it begins without.
const VERSION: u64 = 1;
/// How deep it is nested.
const DEPTH_MAX: usize = 16;
/// Nobody's: every process of the new version hears of it.
const NOBODY: u64 = 0;

/// `[version, [[driver, client_id, host, port, bytes], …]]` of the clients of a shard.
pub fn export(shard: u32, pools: &[&Arc<Pool>]) -> Vec<u8> {
    let (mut logins, mut count) = (Vec::new(), 0);
    for pool in pools {
        for kept in &pool.kept {
            kept.each(shard, |whose, bytes| {
                let mut out = Writer(&mut logins);
                out.list(5).text(pool.config.driver.name()).text(whose.client_id).text(whose.host);
                out.number(whose.port).bytes(bytes);
                count += 1;
            });
        }
    }
    let mut state = Vec::new();
    Writer(&mut state).list(2).number(VERSION).list(count);
    state.extend_from_slice(&logins);
    state
}

/// Takes over what the version before has exported, in the place of what came before of this shard; whether it can be read. The
/// client's worker may be another one now, and drivers that are not the same have nothing to say to each other.
pub fn import(shard: u32, pools: &[&Arc<Pool>], state: &[u8]) -> bool {
    let mut rest = state;
    let Ok(value) = rmpv::decode::read_value_ref_with_max_depth(&mut rest, DEPTH_MAX) else { return false };
    let ValueRef::Array(parts) = value else { return false };
    let [version, ValueRef::Array(logins)] = parts.as_slice() else { return false };
    if version.as_u64() != Some(VERSION) {
        return false;
    }
    for pool in pools {
        pool.kept.iter().for_each(|kept| kept.clear(shard));
    }
    for login in logins {
        let ValueRef::Array(login) = login else { return false };
        let [driver, client_id, host, port, bytes] = login.as_slice() else { return false };
        let (Some(driver), Some(client_id), Some(host), Some(port), Some(bytes)) =
            (text_ref(driver), text_ref(client_id), text_ref(host), port.as_u64(), bytes_ref(bytes))
        else {
            return false;
        };
        let Some(pool) = pools.iter().find(|pool| pool.config.driver.name() == driver) else { continue };
        let whose = Connection { client_id, host, port: u16::try_from(port).unwrap_or(0) };
        // Without room it is as if the login had never been seen, which `keep` says when it happens to a worker.
        let _ = pool.kept[pool.worker_of(client_id)].keep(whose, shard, bytes, NOBODY);
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::config::Written;
    use crate::kept::Kept;

    fn pool(driver: &str, workers: usize) -> Arc<Pool> {
        let written: Written = serde_json::from_value(json!({"driver": driver, "path": "/tmp"})).unwrap();
        let config = Arc::new(written.read(None).unwrap().remove(0));
        let kept: Vec<_> = (0..workers).map(|_| Arc::new(Kept::new(100, 10_000))).collect();
        let line = || crate::Line::new(1, 1, crate::Figures::none()).unwrap();
        let lines = (0..workers).map(|_| Arc::new(line())).collect();
        Arc::new(Pool { config, lines, kept, wanted: BTreeMap::new() })
    }

    #[test]
    fn logins_go_to_the_workers_of_the_next_version() {
        let (old, new) = (pool("amqtt", 1), pool("amqtt", 3));
        let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
        let whose = |client_id| Connection { client_id, host: "10.0.0.1", port: 7 };
        for (n, name) in names.iter().enumerate() {
            old.kept[0].keep(whose(name), (n % 2) as u32, name.as_bytes(), 5).unwrap();
        }
        for shard in [0, 1, 0] {
            let state = export(shard, &[&old]);
            assert!(import(shard, &[&new], &state), "also once more, as after a trial");
        }
        for name in &names {
            let kept = &new.kept[new.worker_of(name)];
            assert_eq!(kept.of(whose(name)).as_deref(), Some(name.as_bytes()));
            assert_eq!(kept.stored(name, 1).as_deref(), Some(name.as_bytes()), "no process has it yet");
        }
        old.kept[0].clear(0);
        assert!(import(0, &[&new], &export(0, &[&old])));
        assert!(new.kept[new.worker_of("c0")].of(whose("c0")).is_none(), "what came before is replaced");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken() {
        let (old, new) = (pool("amqtt", 1), pool("python3", 1));
        let whose = Connection { client_id: "c", host: "h", port: 7 };
        old.kept[0].keep(whose, 0, b"x", 1).unwrap();
        let state = export(0, &[&old]);
        assert!(import(0, &[&new], &state));
        assert!(new.kept[0].of(whose).is_none(), "another driver's");
        for len in 0..state.len() {
            assert!(!import(0, &[&new], &state[..len]), "{len}");
        }
        let mut other = state;
        other[1] = 9;
        assert!(!import(0, &[&new], &other), "another version's");
    }
}
