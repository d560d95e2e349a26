//! What the broker does for plugins outside of events: their host tables, their log, and the way of a deferred verdict back to its
//! shard. Called from any thread of any plugin; there is one for the process, because a plugin's late thread may outlive a manager.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use grapnel_engine::hook::PluginHandle;
use grapnel_engine::pipeline::{Completion, OwnedChange, ticket_shard};
use grapnel_plugin_abi::host::{self, FieldChange, HostServices, MetricRequest, PluginMessage};
use grapnel_plugin_abi::raw::{Flow, HostApi, Status, Ticket};

use super::commands::Desk;
use super::kept::{Forever, Texts};
use super::metrics::{MetricReading, Metrics};
use super::request::Settings;
use crate::shard::handle::ShardHandle;

#[derive(Default)]
struct Services {
    shards: RwLock<Vec<ShardHandle>>,
    change_bytes_max: RwLock<usize>,
    /// By the low half of a handle.
    names: RwLock<Texts>,
    metrics: Metrics,
    metrics_max: AtomicU64,
    desk: Desk,
}

static SERVICES: std::sync::LazyLock<Services> = std::sync::LazyLock::new(Services::default);

static HOSTS: Mutex<Forever<HostApi>> = Mutex::new(Forever::new());

/// Says who does what plugins ask for, and within which bounds; from here on they are answered.
pub(super) fn attach(settings: &Settings) {
    *SERVICES.shards.write().unwrap_or_else(PoisonError::into_inner) = settings.shards.clone();
    *SERVICES.change_bytes_max.write().unwrap_or_else(PoisonError::into_inner) = settings.change_bytes_max;
    SERVICES.desk.attach(settings);
    SERVICES.metrics_max.store(settings.limits.plugin_metrics_max, Ordering::Relaxed);
    // It has been said before where there was another manager in this process: the services are the same.
    let _ = host::install_services(&*SERVICES);
}

/// The handle of a generation of a plugin, which knows its name from now on and for ever: a late thread of a retired plugin may
/// still log. The name's number is in the low half, the generation in the high one.
pub(super) fn handle_of(name: &str, generation: u32) -> PluginHandle {
    let number = SERVICES.names.write().unwrap_or_else(PoisonError::into_inner).number(name);
    PluginHandle(u64::from(generation) << 32 | u64::from(number))
}

/// The name of a plugin that is or was loaded.
pub(super) fn name_of(handle: PluginHandle) -> Option<Arc<str>> {
    SERVICES.names.read().unwrap_or_else(PoisonError::into_inner).text(handle.0 as u32).cloned()
}

/// What the plugins of these names have measured.
pub(super) fn metrics(plugins: &[String]) -> Vec<MetricReading> {
    SERVICES.metrics.read(plugins)
}

/// From now on a generation of a plugin may ask for things.
pub(super) fn admit(handle: PluginHandle, name: &Arc<str>) {
    SERVICES.desk.admit(handle, name);
}

/// A generation has ended: whatever it asks for is refused.
pub(super) fn dismiss(handle: PluginHandle) {
    SERVICES.desk.dismiss(handle);
}

/// The functions that a generation of a plugin may call from now on, at any time and from any thread of its own.
pub(super) fn host_table(handle: PluginHandle, shards: u32) -> &'static HostApi {
    HOSTS.lock().unwrap_or_else(PoisonError::into_inner).keep(host::host_api(handle.0, shards))
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

    fn metric(&self, plugin: u64, metric: &MetricRequest<'_>) -> Result<u64, Status> {
        let name = name_of(PluginHandle(plugin)).ok_or(Status::STALE)?;
        let made = self.metrics.make(&name, metric, self.metrics_max.load(Ordering::Relaxed));
        made.map_err(|(status, what)| {
            self.log(plugin, 2, &format!("it {what}"));
            status
        })
    }

    fn measure(&self, metric: u64, value: i64) -> Result<(), Status> {
        self.metrics.measure(metric, value)
    }

    fn adjust(&self, metric: u64, by: i64) -> Result<(), Status> {
        self.metrics.adjust(metric, by)
    }

    fn publish(&self, plugin: u64, message: &PluginMessage<'_>) -> Result<(), Status> {
        self.desk.publish(plugin, message)
    }

    fn kick(&self, plugin: u64, client_id: &str, reason: u8, discard: bool) -> Result<(), Status> {
        self.desk.kick(plugin, client_id, reason, discard)
    }

    fn subscribe(
        &self,
        plugin: u64,
        client_id: &str,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Status> {
        self.desk.subscribe(plugin, client_id, filter, options, subscription_id)
    }

    fn unsubscribe(&self, plugin: u64, client_id: &str, filter: &str) -> Result<(), Status> {
        self.desk.unsubscribe(plugin, client_id, filter)
    }

    fn mail(&self, plugin: u64, to_shard: u32, number: u64, bytes: &[u8]) -> Result<(), Status> {
        self.desk.mail(plugin, to_shard, number, bytes)
    }

    fn timer(&self, plugin: u64, after_ms: u64, number: u64) -> Result<u64, Status> {
        self.desk.timer(plugin, after_ms, number)
    }

    fn cancel_timer(&self, plugin: u64, timer: u64) -> Result<(), Status> {
        self.desk.cancel_timer(plugin, timer)
    }

    fn replay(&self, plugin: u64) -> Result<(), Status> {
        self.desk.replay(plugin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_engine::id::ShardId;
    use grapnel_plugin_abi::raw::Field;

    use super::*;

    #[test]
    fn every_generation_is_called_by_its_name_and_has_a_table_of_its_own() {
        let first: Vec<_> = (1..=1_000).map(|generation| handle_of("first", generation)).collect();
        let second = handle_of("second", 1);
        let named = |handle| name_of(handle).unwrap().to_string();
        assert!(first.iter().all(|handle| named(*handle) == "first"));
        assert_eq!(named(second), "second");
        assert_eq!(name_of(PluginHandle(1 << 32 | 0xffff_ffff)), None);
        let mut tables: Vec<_> = first.iter().map(|handle| host_table(*handle, 2)).collect();
        assert!(
            tables.iter().zip(&first).all(|(table, handle)| table.plugin == handle.0 && table.shards == 2)
        );
        tables.dedup_by_key(|table| std::ptr::from_ref(*table));
        assert_eq!(tables.len(), 1_000);
    }

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
