//! Which shard is a client's home, and identifiers that the broker chooses so that their home is here.

use std::hash::Hasher;

use crate::id::ShardId;
use crate::parts::Parts;

/// The home shard of a client identifier: a keyed hash, so that nobody can aim at one shard.
pub(crate) fn home_of(parts: &Parts, client_id: &str) -> ShardId {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(parts.setup.keys[0], parts.setup.keys[1]);
    hasher.write(client_id.as_bytes());
    ShardId((hasher.finish() % parts.setup.shards as u64) as u8)
}

/// A client identifier whose home is this shard [MQTT-3.1.3-6].
pub(crate) fn assign_client_id(parts: &mut Parts) -> String {
    loop {
        let (head, tail) = (parts.numbers.random(), parts.numbers.random() as u32);
        let id = format!("{}{head:016x}{tail:08x}", parts.setup.limits.choices.assigned_client_id_prefix);
        if home_of(parts, &id) == parts.setup.id && parts.sessions.by_client_id(&id).is_none() {
            return id;
        }
    }
}
