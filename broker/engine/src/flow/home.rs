//! The home shard of a client, and client identifiers that the broker assigns so that this shard is
//! their home.

use std::hash::Hasher;

use crate::id::ShardId;
use crate::parts::Parts;

/// The home shard of a client identifier: a keyed hash, so that clients cannot overload one shard
/// on purpose.
pub(crate) fn home_of(parts: &Parts, client_id: &str) -> ShardId {
    home_of_keys(parts.setup.shards, parts.setup.keys, client_id)
}

/// The same, from the keys of the shards (see [`Setup`](crate::shard::Setup)) and their number.
pub fn home_of_keys(shards: usize, keys: [u64; 4], client_id: &str) -> ShardId {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(keys[0], keys[1]);
    hasher.write(client_id.as_bytes());
    ShardId((hasher.finish() % shards.max(1) as u64) as u8)
}

/// Makes a client identifier whose home is this shard [MQTT-3.1.3-6].
pub(crate) fn assign_client_id(parts: &mut Parts) -> String {
    loop {
        let (head, tail) = (parts.numbers.random(), parts.numbers.random() as u32);
        let id = format!("{}{head:016x}{tail:08x}", parts.setup.limits.choices.assigned_client_id_prefix);
        if home_of(parts, &id) == parts.setup.id && parts.sessions.by_client_id(&id).is_none() {
            return id;
        }
    }
}
