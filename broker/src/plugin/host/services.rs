//! The host functions that plugins call outside of events: host tables, the log, and the delivery
//! of a deferred verdict to its shard. Called from any thread of any plugin. There is one instance
//! per process, because a late thread of a plugin may outlive a manager.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use grapnel_engine::hook::{HookPoint, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::shard::{Completion, OwnedChange, Revoked, ticket_shard};
use grapnel_plugin_abi::host::{
    self, FieldChange, HostServices, MetricRequest, MountRequest, PluginMessage, PluginThread,
};
use grapnel_plugin_abi::raw::{Flow, HOST_STARTING, HostApi, Scope, Slice, Status, Ticket};

use super::HostSettings;
use super::ancestry::AncestryBits;
use super::answers::AnswerBounds;
use super::called_hooks;
use super::commands::CommandQueue;
use super::generations::LiveGenerations;
use super::jobs::Jobs;
use super::leaked::{Leaked, Paths, Texts};
use super::metrics::{MetricReading, Metrics};
use super::mounts::Mounted;
use super::threads::Purpose;
use crate::fatal;
use crate::plugin::file::manifest::Hook;
use crate::shard::handle::ShardHandle;
use crate::shard::limits::ShellLimits;

/// The functions that plugins may call, and the state of the generations that may call them.
#[derive(Default)]
pub(in crate::plugin) struct Services {
    pub(super) shards: RwLock<Vec<ShardHandle>>,
    pub(super) answer_bounds: RwLock<AnswerBounds>,
    /// Names of plugins; the low half of a handle is the number of the name.
    names: RwLock<Texts>,
    metrics: Metrics,
    pub(super) commands: CommandQueue,
    generations: LiveGenerations,
    ancestry: Mutex<AncestryBits>,
    limits: RwLock<ShellLimits>,
    jobs: RwLock<Option<Jobs>>,
    /// Number of the last mount.
    mounted: AtomicU64,
    /// How often each plugin was tripped.
    trips: Mutex<BTreeMap<Arc<str>, u64>>,
    /// How many brokers of this process are loading their first plugins.
    starting: AtomicUsize,
}

/// Host tables of the first generations. They are never freed, so they are in static memory and not
/// on the heap.
static HOSTS: [OnceLock<HostApi>; HOSTS_MAX] = [const { OnceLock::new() }; HOSTS_MAX];
static HOSTS_TAKEN: AtomicUsize = AtomicUsize::new(0);
/// The default maximum of retired generations, and some loaded ones.
const HOSTS_MAX: usize = 4096 + 64;

/// The host tables of further generations.
static MORE_HOSTS: Mutex<Leaked<HostApi>> = Mutex::new(Leaked::new());

/// The paths of the files from which plugins were loaded; never freed.
static FILES: Mutex<Paths> = Mutex::new(Paths::new());

impl Services {
    /// The instance of this process. A late thread of a plugin may outlive a manager, and its host
    /// functions have no reference to a manager.
    pub(in crate::plugin) fn of_process() -> &'static Services {
        static SERVICES: std::sync::LazyLock<Services> = std::sync::LazyLock::new(Services::default);
        &SERVICES
    }

    /// Sets the shards that get the requests of plugins, and the limits; requests are served from
    /// now on.
    pub(in crate::plugin) fn attach(&'static self, settings: &HostSettings) {
        *self.shards.write().unwrap_or_else(PoisonError::into_inner) = settings.shards.clone();
        *self.answer_bounds.write().unwrap_or_else(PoisonError::into_inner) =
            AnswerBounds::of(&settings.message_limits);
        self.commands.attach(settings);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = settings.limits.clone();
        // Fails if another manager of this process has installed the services before; they are the
        // same.
        let _ = host::install_services(self);
    }

    /// The handle of a generation of a plugin: the number of the name in the low half, the
    /// generation in the high half. The name is stored for ever, because a late thread of a retired
    /// plugin may still log.
    pub(in crate::plugin) fn handle_of(&self, name: &str, generation: u32) -> PluginHandle {
        let number = self.names.write().unwrap_or_else(PoisonError::into_inner).number(name);
        PluginHandle(u64::from(generation) << 32 | u64::from(number))
    }

    /// The name of a plugin that is or was loaded.
    pub(in crate::plugin) fn name_of(&self, handle: PluginHandle) -> Option<Arc<str>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).text(handle.0 as u32).cloned()
    }

    /// The values of the metrics of these plugins.
    pub(in crate::plugin) fn metrics(&self, plugins: &[String]) -> Vec<MetricReading> {
        self.metrics.read(plugins)
    }

    /// Sets the recompiler's queue, for jobs that no hook may wait for.
    pub(in crate::plugin) fn attend(&self, jobs: Jobs) {
        *self.jobs.write().unwrap_or_else(PoisonError::into_inner) = Some(jobs);
    }

    /// Reports that a shard no longer calls a plugin, because it failed too often there.
    pub(in crate::plugin) fn tripped(&self, plugin: PluginHandle, shard: ShardId) {
        if let Some(jobs) = &*self.jobs.read().unwrap_or_else(PoisonError::into_inner) {
            jobs.tripped(plugin, shard);
        }
    }

    /// Reports revoked subscriptions: refused by this plugin, or, if there is none, allowed by no
    /// plugin.
    pub(in crate::plugin) fn revoked(&self, revoked: Revoked) {
        if let Some(jobs) = &*self.jobs.read().unwrap_or_else(PoisonError::into_inner) {
            let name = revoked.plugin.map(|plugin| self.name_of(plugin).unwrap_or_else(|| "unknown".into()));
            jobs.revoked(name, revoked.subscriptions);
        }
    }

    /// The time after which a tripped plugin is re-armed; `None` for never.
    pub(in crate::plugin) fn rearm_after(&self) -> Option<Duration> {
        let rearm_ms = self.limit(|limits| limits.breaker_rearm_ms);
        (rearm_ms > 0).then(|| Duration::from_millis(rearm_ms))
    }

    /// Counts that a plugin was tripped.
    pub(in crate::plugin) fn count_trip(&self, name: &Arc<str>) {
        *self.trips.lock().unwrap_or_else(PoisonError::into_inner).entry(Arc::clone(name)).or_default() += 1;
    }

    /// How often each plugin was tripped, by name.
    pub(in crate::plugin) fn trips(&self) -> Vec<(Arc<str>, u64)> {
        let trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
        trips.iter().map(|(name, count)| (Arc::clone(name), *count)).collect()
    }

    /// A number larger than all before it, for the order of mounting.
    pub(in crate::plugin) fn next_mount(&self) -> u64 {
        self.mounted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Admits a generation before its `load`: it may send requests from now on. `hooks` are those
    /// of its list. Returns its bit in the ancestry of messages. `None` if no bit is free; the
    /// generation is then not admitted.
    pub(in crate::plugin) fn admit(
        &self,
        handle: PluginHandle,
        name: &Arc<str>,
        hooks: &[Hook],
    ) -> Option<u8> {
        let bit = self.ancestry.lock().unwrap_or_else(PoisonError::into_inner).take(name)?;
        self.commands.admit(handle, name, bit, hooks.iter().any(|hook| may_add_messages(hook.point)));
        self.generations.begin(handle, Arc::clone(name), hooks);
        Some(bit)
    }

    /// Ends a generation: its requests are refused from now on.
    pub(in crate::plugin) fn end_generation(&self, handle: PluginHandle, bit: u8) {
        let may_carry_bit = self.commands.end_generation(handle);
        self.ancestry.lock().unwrap_or_else(PoisonError::into_inner).leave(bit, may_carry_bit);
        self.end(handle);
    }

    /// Sets whether a generation is suspended, that is, disabled or tripped.
    pub(in crate::plugin) fn set_suspended(&self, handle: PluginHandle, is_suspended: bool) {
        self.commands.set_suspended(handle, is_suspended);
    }

    /// Called when the state of one generation is handed over to another, which then gets the
    /// answers of both: both share one count of waiting requests.
    pub(in crate::plugin) fn share_waiting_requests(&self, from: PluginHandle, to: PluginHandle) {
        self.commands.share_waiting_requests(from, to);
    }

    /// The hooks that a generation has mounted at run time, in order. Clears the mark of
    /// [`Services::mounts_changed`].
    pub(in crate::plugin) fn mounts(&self, handle: PluginHandle) -> Vec<Mounted> {
        self.generations.of(handle.0).map(|generation| generation.mounts.taken()).unwrap_or_default()
    }

    /// The hooks that a generation has mounted at run time. Clears no mark.
    pub(in crate::plugin) fn mounted_by(&self, handle: PluginHandle) -> Vec<Mounted> {
        self.generations.of(handle.0).map(|generation| generation.mounts.all()).unwrap_or_default()
    }

    /// Whether a generation has mounted or unmounted something since the last [`Services::mounts`].
    pub(in crate::plugin) fn mounts_changed(&self, handle: PluginHandle) -> bool {
        self.generations.of(handle.0).is_ok_and(|generation| generation.mounts.changed())
    }

    /// Time that threads have to end if they were started without a time of their own.
    pub(in crate::plugin) fn thread_join(&self) -> Duration {
        Duration::from_millis(self.limit(|limits| limits.plugin_thread_join_ms))
    }

    /// Requests the threads of a generation to end; their requests to the broker are still served.
    /// Returns when they were first requested to end, and how long they may take from then on.
    /// `None` if the generation has ended.
    pub(in crate::plugin) fn begin_end(&self, handle: PluginHandle) -> Option<(Instant, Duration)> {
        self.generations.begin_end(handle)
    }

    /// Waits for the threads of a generation to end, at most until `until`. Returns whether they
    /// have ended.
    pub(in crate::plugin) fn wait_ended(&self, handle: PluginHandle, until: Instant) -> bool {
        self.generations.wait_ended(handle, until)
    }

    /// The longest time that the threads of any live generation may take to end.
    pub(in crate::plugin) fn patience(&self) -> Duration {
        self.generations.patience()
    }

    /// How much longer the threads of an ending generation may take, milliseconds. `None` if it is
    /// not ending, or has ended.
    pub(in crate::plugin) fn ends_within_ms(&self, name: &str, generation: u32) -> Option<u64> {
        let left = self.generations.ends_within(self.handle_of(name, generation))?;
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Starts a thread for a call of a verb, unless `max` such threads are running. The thread is
    /// registered with the plugin, whose end waits for it. `done` gets the result of `call`, after
    /// the call no longer counts.
    pub(in crate::plugin) fn begin_verb<T: 'static>(
        &self,
        handle: PluginHandle,
        thread: &str,
        max: u64,
        call: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), Status> {
        let generation = self.generations.of(handle.0)?;
        let enter = move || fatal::enter_plugin_thread(handle);
        generation.threads.spawn(thread, (Purpose::Verb, max), Duration::ZERO, enter, call, done)
    }

    /// Wakes the recompiler: a generation ends in the background.
    pub(in crate::plugin) fn retiring(&self) {
        if let Some(jobs) = &*self.jobs.read().unwrap_or_else(PoisonError::into_inner) {
            jobs.retiring();
        }
    }

    /// Ends a generation: its requests get STALE from now on, and its threads are joined. Returns
    /// how many threads have not ended. May be called again.
    pub(in crate::plugin) fn end(&self, handle: PluginHandle) -> usize {
        self.end_within(handle, self.thread_join())
    }

    /// As `end`; the threads may take `join`, counted from when they were first requested to end.
    pub(in crate::plugin) fn end_within(&self, handle: PluginHandle, join: Duration) -> usize {
        self.generations.end(handle, join)
    }

    /// How many threads of an ended or ending generation still run.
    pub(in crate::plugin) fn threads_left(&self, name: &str, generation: u32) -> usize {
        self.generations.threads_left(self.handle_of(name, generation))
    }

    /// Until the returned value is dropped, plugins are loaded as part of a broker's start, with
    /// the event broker.started still to come.
    pub(in crate::plugin) fn starting(&self) -> impl Drop {
        struct Starting<'a>(&'a AtomicUsize);
        impl Drop for Starting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.starting.fetch_add(1, Ordering::Relaxed);
        Starting(&self.starting)
    }

    /// The host table of a generation: functions that it may call at any time, from any of its
    /// threads.
    pub(in crate::plugin) fn host_table(
        &self,
        handle: PluginHandle,
        shards: u32,
        file: &Path,
    ) -> &'static HostApi {
        let file = FILES.lock().unwrap_or_else(PoisonError::into_inner).leak(file);
        let flags = if self.starting.load(Ordering::Relaxed) > 0 { HOST_STARTING } else { 0 };
        let file = Slice::of(file.as_os_str().as_bytes());
        let table = HostApi { file, flags, ..host::host_api(handle.0, shards) };
        match HOSTS.get(HOSTS_TAKEN.fetch_add(1, Ordering::Relaxed)) {
            // Each index is given out once, so that this table is the one that is stored.
            Some(place) => place.get_or_init(|| table),
            None => MORE_HOSTS.lock().unwrap_or_else(PoisonError::into_inner).leak(table),
        }
    }
}

/// Whether a hook at this point can add messages without a command.
fn may_add_messages(point: HookPoint) -> bool {
    point == HookPoint::MessagePublish
}

impl Services {
    fn limit(&self, which: impl FnOnce(&ShellLimits) -> u64) -> u64 {
        which(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Logs a refusal and returns its status.
    fn refused(&self, plugin: u64, (status, what): (Status, String)) -> Status {
        self.log(plugin, 2, &format!("it {what}"));
        status
    }

    fn remount(&self) {
        if let Some(jobs) = &*self.jobs.read().unwrap_or_else(PoisonError::into_inner) {
            jobs.remount();
        }
    }
}

impl HostServices for Services {
    fn log(&self, plugin: u64, level: u32, message: &str) {
        let name = self.name_of(PluginHandle(plugin)).unwrap_or_else(|| "unknown".into());
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
        if !matches!(flow, Flow::CONTINUE | Flow::STOP | Flow::FAULT | Flow::UNANSWERED) {
            return Err(Status::INVALID);
        }
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let shard = shards.get(ticket_shard(ticket.0).index()).ok_or(Status::STALE)?;
        let bounds = *self.answer_bounds.read().unwrap_or_else(PoisonError::into_inner);
        if let Err(reason) = bounds.check(changes) {
            shard.refuse_answer(ticket.0, reason);
            return Err(Status::FULL);
        }
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
        let generation = self.generations.of(plugin)?;
        let made =
            self.metrics.make(&generation.name, metric, self.limit(|limits| limits.plugin_metrics_max));
        made.map_err(|refusal| self.refused(plugin, refusal))
    }

    fn measure(&self, metric: u64, value: i64) -> Result<(), Status> {
        self.metrics.measure(metric, value)
    }

    fn adjust(&self, metric: u64, by: i64) -> Result<(), Status> {
        self.metrics.adjust(metric, by)
    }

    fn reading(&self, metric: u64, bucket: u32) -> Result<i64, Status> {
        self.metrics.reading(metric, bucket)
    }

    fn hook_calls(&self, plugin: u64, point: HookPoint, name: &str) -> Result<u32, Status> {
        self.generations.of(plugin)?;
        called_hooks::look_up(PluginHandle(plugin), point, name)
    }

    fn publish(&self, plugin: u64, message: &PluginMessage<'_>) -> Result<(), Status> {
        self.commands.publish(plugin, message)
    }

    fn in_flight(&self, plugin: u64, flow: u32) -> Result<u64, Status> {
        self.commands.in_flight(plugin, flow)
    }

    fn kick(&self, plugin: u64, client_id: &str, reason: u8, discard: bool) -> Result<(), Status> {
        self.commands.kick(plugin, client_id, reason, discard)
    }

    fn subscribe(
        &self,
        plugin: u64,
        client_id: &str,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Status> {
        self.commands.subscribe(plugin, client_id, filter, options, subscription_id)
    }

    fn unsubscribe(&self, plugin: u64, client_id: &str, filter: &str) -> Result<(), Status> {
        self.commands.unsubscribe(plugin, client_id, filter)
    }

    fn invalidate(&self, plugin: u64, scope: Scope, what: &str) -> Result<(), Status> {
        self.commands.invalidate(plugin, scope, what)
    }

    fn instance_message(&self, plugin: u64, to_shard: u32, number: u64, bytes: &[u8]) -> Result<(), Status> {
        self.commands.instance_message(plugin, to_shard, number, bytes)
    }

    fn timer(&self, plugin: u64, after_ms: u64, number: u64) -> Result<u64, Status> {
        self.commands.timer(plugin, after_ms, number)
    }

    fn cancel_timer(&self, plugin: u64, timer: u64) -> Result<(), Status> {
        self.commands.cancel_timer(plugin, timer)
    }

    fn replay(&self, plugin: u64) -> Result<(), Status> {
        self.commands.replay(plugin)
    }

    fn spawn(&self, plugin: u64, name: &str, thread: PluginThread, join_ms: u64) -> Result<(), Status> {
        let generation = self.generations.of(plugin)?;
        let max = self.limit(|limits| limits.plugin_threads_max);
        let patience = Duration::from_millis(join_ms.min(self.limit(|limits| limits.plugin_retire_ms_max)));
        let enter = move || fatal::enter_plugin_thread(PluginHandle(plugin));
        generation.threads.spawn(name, (Purpose::Itself, max), patience, enter, move || thread.run(), drop)
    }

    fn wait_stop(&self, plugin: u64, timeout_ms: u32) -> bool {
        let Ok(generation) = self.generations.of(plugin) else { return true };
        // A shard must not wait.
        let timeout_ms = if ShardHandle::here().is_some() { 0 } else { timeout_ms };
        generation.threads.wait_stop(Duration::from_millis(u64::from(timeout_ms)))
    }

    fn hook(&self, plugin: u64, mount: &MountRequest<'_>) -> Result<u64, Status> {
        let generation = self.generations.of(plugin)?;
        if generation.threads.ending_since().is_some() {
            return Err(Status::STALE);
        }
        if may_add_messages(mount.point) {
            self.commands.will_lead(plugin)?;
        }
        let max = self.limit(|limits| limits.plugin_hooks_max);
        let number = self.next_mount();
        generation.mounts.add(number, mount, max).map_err(|refusal| self.refused(plugin, refusal))?;
        self.remount();
        Ok(number)
    }

    fn unhook(&self, plugin: u64, hook: u64) -> Result<(), Status> {
        self.generations.of(plugin)?.mounts.remove(hook)?;
        self.remount();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use grapnel_engine::limits::Limits;
    use grapnel_plugin_abi::raw::Field;

    use super::*;

    #[test]
    fn each_generation_has_its_name_and_its_own_host_table() {
        let services = Services::of_process();
        // More than the static memory has room for.
        let first: Vec<_> = (1..=5_000).map(|generation| services.handle_of("first", generation)).collect();
        let second = services.handle_of("second", 1);
        let named = |handle| services.name_of(handle).unwrap().to_string();
        assert!(first.iter().all(|handle| named(*handle) == "first"));
        assert_eq!(named(second), "second");
        let lower = |handle: &PluginHandle| handle.0 as u32;
        assert!(first.iter().all(|handle| lower(handle) == lower(&first[0])), "the same for all of one name");
        assert_ne!(lower(&second), lower(&first[0]));
        assert_eq!(services.name_of(PluginHandle(1 << 32 | 0xffff_ffff)), None);
        let mut tables: Vec<_> = first
            .iter()
            .map(|handle| services.host_table(*handle, 2, Path::new("/plugins/first.so")))
            .collect();
        assert!(
            tables.iter().zip(&first).all(|(table, handle)| table.plugin == handle.0 && table.shards == 2)
        );
        tables.dedup_by_key(|table| std::ptr::from_ref(*table));
        assert_eq!(tables.len(), 5_000);
    }

    #[test]
    fn a_completion_goes_to_the_shard_of_its_ticket() {
        let shards = [ShardHandle::new(ShardId(0)), ShardHandle::new(ShardId(1))];
        let services = Services::default();
        *services.shards.write().unwrap() = shards.to_vec();
        let limits = Limits { packet_bytes_max: 3, topic_bytes_max: 2, ..Limits::default() };
        *services.answer_bounds.write().unwrap() = AnswerBounds::of(&limits);
        let change = |bytes| FieldChange { field: Field::PAYLOAD, index: 0, number: 0, bytes, key: b"" };
        let ticket = Ticket(1 << 56 | 7);
        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"12345678")]), Ok(()));
        let completion = shards[1].next_completion().unwrap();
        assert_eq!((completion.ticket, completion.flow), (ticket.0, Flow::STOP));
        assert_eq!(&completion.changes[0].bytes[..], b"12345678");
        assert!(shards[0].next_completion().is_none());

        // One byte and one change too many: the answer is refused as a whole, and the shard gets
        // the reason.
        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"123456789")]), Err(Status::FULL));
        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"1"); 4]), Err(Status::FULL));
        let mut refused = std::iter::from_fn(|| shards[1].next_refused());
        assert_eq!(refused.next(), Some((ticket.0, "9 bytes in 1 change are more than 8".to_owned())));
        assert_eq!(refused.next(), Some((ticket.0, "4 changes are more than 3".to_owned())));
        assert_eq!(refused.next(), None);
        assert_eq!(services.complete(ticket, Flow::STOP, &[change(b"1234"); 3]), Ok(()));
        assert_eq!(shards[1].next_completion().unwrap().changes.len(), 3);
        assert_eq!(services.complete(ticket, Flow::DEFER, &[]), Err(Status::INVALID));
        assert_eq!(services.complete(ticket, Flow(9), &[]), Err(Status::INVALID));
        assert_eq!(services.complete(Ticket(2 << 56 | 7), Flow::STOP, &[]), Err(Status::STALE));
        assert!(shards[1].next_completion().is_none());
    }
}
