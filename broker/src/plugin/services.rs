//! What the broker does for plugins outside of events: their log, and the way of a deferred verdict back to its shard. Called
//! from any thread of any plugin; there is one for the process, because a plugin's late thread may outlive a manager.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use grapnel_engine::hook::PluginHandle;
use grapnel_engine::pipeline::{Completion, OwnedChange, ticket_shard};
use grapnel_plugin_abi::host::{self, FieldChange, HostServices};
use grapnel_plugin_abi::raw::{Flow, Status, Ticket};

use crate::shard::handle::ShardHandle;

#[derive(Default)]
struct Services {
    shards: RwLock<Vec<ShardHandle>>,
    change_bytes_max: RwLock<usize>,
    names: RwLock<HashMap<u64, Arc<str>>>,
}

static SERVICES: std::sync::LazyLock<Services> = std::sync::LazyLock::new(Services::default);

/// Says where completions go; from here on plugins are answered. `change_bytes_max` bounds what comes with one completion.
pub(super) fn attach(shards: &[ShardHandle], change_bytes_max: usize) {
    *SERVICES.shards.write().unwrap_or_else(PoisonError::into_inner) = shards.to_vec();
    *SERVICES.change_bytes_max.write().unwrap_or_else(PoisonError::into_inner) = change_bytes_max;
    // It has been said before where there was another manager in this process: the services are the same.
    let _ = host::install_services(&*SERVICES);
}

/// Remembers how logs name a plugin. Kept for ever: a late thread of a retired plugin may still log.
pub(super) fn name_plugin(handle: PluginHandle, name: &Arc<str>) {
    let mut names = SERVICES.names.write().unwrap_or_else(PoisonError::into_inner);
    names.insert(handle.0, Arc::clone(name));
}

/// The name of a plugin that is or was loaded.
pub(super) fn name_of(handle: PluginHandle) -> Option<Arc<str>> {
    SERVICES.names.read().unwrap_or_else(PoisonError::into_inner).get(&handle.0).cloned()
}

impl HostServices for Services {
    fn log(&self, plugin: u64, level: u32, message: &str) {
        let name = name_of(PluginHandle(plugin)).unwrap_or_else(|| "unknown".into());
        let name = &*name;
        match level {
            1 => tracing::error!(target: "grapnel::plugin", plugin = name, "{message}"),
            2 => tracing::warn!(target: "grapnel::plugin", plugin = name, "{message}"),
            3 => tracing::info!(target: "grapnel::plugin", plugin = name, "{message}"),
            4 => tracing::debug!(target: "grapnel::plugin", plugin = name, "{message}"),
            _ => tracing::trace!(target: "grapnel::plugin", plugin = name, "{message}"),
        }
    }

    fn complete(&self, ticket: Ticket, flow: Flow, changes: &[FieldChange<'_>]) -> Result<(), Status> {
        if !matches!(flow, Flow::CONTINUE | Flow::STOP | Flow::FAULT) {
            return Err(Status::INVALID);
        }
        let bytes: usize = changes.iter().map(|change| change.bytes.len() + change.key.len()).sum();
        if bytes > *self.change_bytes_max.read().unwrap_or_else(PoisonError::into_inner) {
            return Err(Status::FULL);
        }
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let shard = shards.get(ticket_shard(ticket.0).index()).ok_or(Status::STALE)?;
        let changes = changes.iter().map(|change| OwnedChange {
            field: change.field,
            index: change.index,
            number: change.number,
            bytes: Bytes::copy_from_slice(change.bytes),
            key: Bytes::copy_from_slice(change.key),
        });
        shard.complete(Completion { ticket: ticket.0, flow, changes: changes.collect() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_engine::id::ShardId;
    use grapnel_plugin_abi::raw::Field;

    use super::*;

    #[test]
    fn a_completion_reaches_the_shard_that_gave_the_ticket_out() {
        let shards = [ShardHandle::new(ShardId(0)), ShardHandle::new(ShardId(1))];
        let services = Services::default();
        *services.shards.write().unwrap() = shards.to_vec();
        *services.change_bytes_max.write().unwrap() = 8;
        let change = |bytes| FieldChange { field: Field::PAYLOAD, index: 0, number: 0, bytes, key: b"" };
        let ticket = Ticket(1 << 56 | 7);
        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"12345678")]), Ok(()));
        let completion = shards[1].next_completion().unwrap();
        assert_eq!((completion.ticket, completion.flow), (ticket.0, Flow::STOP));
        assert_eq!(&completion.changes[0].bytes[..], b"12345678");
        assert!(shards[0].next_completion().is_none());

        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"123456789")]), Err(Status::FULL));
        assert_eq!(services.complete(ticket, Flow::DEFER, &[]), Err(Status::INVALID));
        assert_eq!(services.complete(ticket, Flow(9), &[]), Err(Status::INVALID));
        assert_eq!(services.complete(Ticket(2 << 56 | 7), Flow::STOP, &[]), Err(Status::STALE));
        assert!(shards[1].next_completion().is_none());
    }
}
