//! The host's functions outside of an event: calls of [`HostApi`] from any thread of a plugin. They
//! convert ABI tables to borrowed Rust types and call the broker's [`HostServices`].

use std::ffi::c_void;
use std::sync::OnceLock;

use super::behalf::{
    BehalfServices, host_authorize_as, host_fetch_as, host_publish_as, host_subscribe_as, host_unsubscribe_as,
};
use super::requests::{MetricRequest, MountRequest, PluginMessage, list, text};
use super::table::copied;
use super::{FieldChange, change_of, host_add_message, host_defer, host_get, host_identity, host_set};
use crate::module::Mount;
use crate::point::HookPoint;
use crate::raw::{
    ABI_MAJOR, ABI_MINOR, Change, Flow, HostApi, NewMessage, NewMetric, NewThread, Scope, Slice, Status,
    Ticket,
};

/// The body of a thread that a plugin starts.
#[derive(Debug)]
pub struct PluginThread {
    run: unsafe extern "C" fn(arg: *mut c_void),
    arg: *mut c_void,
}

// SAFETY: the pointer is the plugin's, which asked for it to be handed to another thread.
unsafe impl Send for PluginThread {}

impl PluginThread {
    /// Runs it to its end, on the calling thread.
    pub fn run(self) {
        // SAFETY: the plugin requested this call, once, on its own thread, and its code stays
        // mapped.
        unsafe { (self.run)(self.arg) }
    }
}

/// The broker's services for a plugin outside of an event. Called from any thread. `plugin` is the
/// handle from its [`HostApi`]. A handle of an unloaded plugin gets [`Status::STALE`]; a function
/// that this host does not have returns [`Status::UNSUPPORTED`].
#[expect(clippy::missing_errors_doc, reason = "each answers with the status that `HostApi` documents")]
pub trait HostServices: BehalfServices {
    /// Writes a log line. `level` is 1 (error) to 5 (trace).
    fn log(&self, plugin: u64, level: u32, message: &str);
    /// Completes a deferred verdict. The changes are valid during the call.
    fn complete(&self, ticket: Ticket, flow: Flow, changes: &[FieldChange<'_>]) -> Result<(), Status>;
    /// As [`HostApi::hook`]; returns the number of the mount.
    fn hook(&self, plugin: u64, mount: &MountRequest<'_>) -> Result<u64, Status> {
        let _ = (plugin, mount);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::unhook`].
    fn unhook(&self, plugin: u64, hook: u64) -> Result<(), Status> {
        let _ = (plugin, hook);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::publish`].
    fn publish(&self, plugin: u64, message: &PluginMessage<'_>) -> Result<(), Status> {
        let _ = (plugin, message);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::kick`].
    fn kick(&self, plugin: u64, client_id: &str, reason: u8, discard: bool) -> Result<(), Status> {
        let _ = (plugin, client_id, reason, discard);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::subscribe`].
    fn subscribe(
        &self,
        plugin: u64,
        client_id: &str,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) -> Result<(), Status> {
        let _ = (plugin, client_id, filter, options, subscription_id);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::unsubscribe`].
    fn unsubscribe(&self, plugin: u64, client_id: &str, filter: &str) -> Result<(), Status> {
        let _ = (plugin, client_id, filter);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::invalidate`].
    fn invalidate(&self, plugin: u64, scope: Scope, what: &str) -> Result<(), Status> {
        let _ = (plugin, scope, what);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::instance_message`].
    fn instance_message(&self, plugin: u64, to_shard: u32, number: u64, bytes: &[u8]) -> Result<(), Status> {
        let _ = (plugin, to_shard, number, bytes);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::timer`]; returns the number of the timer.
    fn timer(&self, plugin: u64, after_ms: u64, number: u64) -> Result<u64, Status> {
        let _ = (plugin, after_ms, number);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::cancel_timer`].
    fn cancel_timer(&self, plugin: u64, timer: u64) -> Result<(), Status> {
        let _ = (plugin, timer);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::spawn`].
    fn spawn(&self, plugin: u64, name: &str, thread: PluginThread, join_ms: u64) -> Result<(), Status> {
        let _ = (plugin, name, thread, join_ms);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::wait_stop`].
    fn wait_stop(&self, plugin: u64, timeout_ms: u32) -> bool {
        let _ = (plugin, timeout_ms);
        true
    }
    /// As [`HostApi::metric`]; returns the number of the metric.
    fn metric(&self, plugin: u64, metric: &MetricRequest<'_>) -> Result<u64, Status> {
        let _ = (plugin, metric);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::measure`].
    fn measure(&self, metric: u64, value: i64) -> Result<(), Status> {
        let _ = (metric, value);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::adjust`].
    fn adjust(&self, metric: u64, by: i64) -> Result<(), Status> {
        let _ = (metric, by);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::reading`]; returns the value.
    fn reading(&self, metric: u64, bucket: u32) -> Result<i64, Status> {
        let _ = (metric, bucket);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::hook_calls`]; returns the bits.
    fn hook_calls(&self, plugin: u64, point: HookPoint, name: &str) -> Result<u32, Status> {
        let _ = (plugin, point, name);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::in_flight`]; returns the number of messages.
    fn in_flight(&self, plugin: u64, flow: u32) -> Result<u64, Status> {
        let _ = (plugin, flow);
        Err(Status::UNSUPPORTED)
    }
    /// As [`HostApi::replay`].
    fn replay(&self, plugin: u64) -> Result<(), Status> {
        let _ = plugin;
        Err(Status::UNSUPPORTED)
    }
}

static SERVICES: OnceLock<&'static dyn HostServices> = OnceLock::new();

/// Installs the services for plugins. Call it once per process, before the first plugin is loaded.
/// Returns false if services are installed already.
pub fn install_services(services: &'static dyn HostServices) -> bool {
    SERVICES.set(services).is_ok()
}

/// The function table for one plugin.
pub fn host_api(plugin: u64, shards: u32) -> HostApi {
    HostApi {
        size: size_of::<HostApi>() as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        plugin,
        shards,
        flags: 0,
        log: host_log,
        get: host_get,
        set: host_set,
        defer: host_defer,
        complete: host_complete,
        add_message: host_add_message,
        hook: host_hook,
        unhook: host_unhook,
        publish: host_publish,
        kick: host_kick,
        subscribe: host_subscribe,
        unsubscribe: host_unsubscribe,
        invalidate: host_invalidate,
        instance_message: host_instance_message,
        timer: host_timer,
        cancel_timer: host_cancel_timer,
        spawn: host_spawn,
        wait_stop: host_wait_stop,
        metric: host_metric,
        measure: host_measure,
        adjust: host_adjust,
        replay: host_replay,
        file: Slice::EMPTY,
        in_flight: host_in_flight,
        identity: host_identity,
        publish_as: host_publish_as,
        subscribe_as: host_subscribe_as,
        unsubscribe_as: host_unsubscribe_as,
        authorize_as: host_authorize_as,
        fetch_as: host_fetch_as,
        reading: host_reading,
        hook_calls: host_hook_calls,
        #[cfg(feature = "abi-test-grown")]
        grown: host_grown,
    }
}

#[cfg(feature = "abi-test-grown")]
unsafe extern "C" fn host_grown(_plugin: u64) -> u64 {
    77
}

/// Runs a function of the services, if they are installed.
pub(super) fn serve(function: impl FnOnce(&'static dyn HostServices) -> Result<(), Status>) -> Status {
    let Some(services) = SERVICES.get() else { return Status::WRONG_MOMENT };
    match function(*services) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}

/// Writes a number that a plugin requested.
///
/// # Safety
/// `out` must be null or writable.
unsafe fn give<N>(out: *mut N, number: Result<N, Status>) -> Result<(), Status> {
    let number = number?;
    // SAFETY: the caller guarantees it.
    if let Some(out) = unsafe { out.as_mut() } {
        *out = number;
    }
    Ok(())
}

unsafe extern "C" fn host_log(plugin: u64, level: u32, message: Slice) {
    if let Some(services) = SERVICES.get() {
        // SAFETY: the plugin lends the message for the call.
        let bytes = unsafe { message.bytes() };
        services.log(plugin, level, &String::from_utf8_lossy(bytes));
    }
}

/// Maximum number of changes in one completion at any hook point. It is enough for the largest
/// packet of MQTT: each part that can be changed has at least four bytes and needs at most four
/// changes. The broker's own limit is lower, according to its largest accepted packet.
pub const COMPLETION_CHANGES_MAX: usize = 268_435_455;

unsafe extern "C" fn host_complete(
    ticket: Ticket,
    flow: Flow,
    changes: *const Change,
    count: usize,
) -> Status {
    if count > COMPLETION_CHANGES_MAX {
        return Status::FULL;
    }
    if changes.is_null() && count > 0 {
        return Status::INVALID;
    }
    // SAFETY: non-null where `count` is not 0, and the plugin lends `count` changes for the call.
    let raw: &[Change] = unsafe { list(changes, count) };
    // SAFETY: the plugin lends what each change points to for the call.
    let changes: Vec<FieldChange<'_>> = raw.iter().map(|change| unsafe { change_of(change) }).collect();
    serve(|services| services.complete(ticket, flow, &changes))
}

unsafe extern "C" fn host_hook(plugin: u64, mount: *const Mount, out: *mut u64) -> Status {
    // SAFETY: null or a mount that the plugin lends for the call.
    let Ok(mount) = (unsafe { copied(mount) }) else { return Status::INVALID };
    // SAFETY: the plugin lends what it points to for the call.
    let request = match unsafe { MountRequest::of(&mount) } {
        Ok(request) => request,
        Err(what) => {
            return serve(|services| {
                services.log(plugin, 2, &format!("it {what}"));
                Err(Status::INVALID)
            });
        }
    };
    // SAFETY: `out` is null or writable.
    serve(|services| unsafe { give(out, services.hook(plugin, &request)) })
}

unsafe extern "C" fn host_unhook(plugin: u64, hook: u64) -> Status {
    serve(|services| services.unhook(plugin, hook))
}

unsafe extern "C" fn host_publish(plugin: u64, message: *const NewMessage) -> Status {
    // SAFETY: null or a message that the plugin lends for the call, as what it points to.
    serve(|services| services.publish(plugin, &unsafe { PluginMessage::of(message) }?))
}

unsafe extern "C" fn host_kick(plugin: u64, client_id: Slice, reason: u32, discard: u32) -> Status {
    let Ok(reason) = u8::try_from(reason) else { return Status::INVALID };
    // SAFETY: the plugin lends the text for the call.
    serve(|services| services.kick(plugin, unsafe { text(client_id) }?, reason, discard != 0))
}

unsafe extern "C" fn host_subscribe(
    plugin: u64,
    client_id: Slice,
    filter: Slice,
    options: u32,
    subscription_id: u32,
) -> Status {
    let Ok(options) = u8::try_from(options) else { return Status::INVALID };
    serve(|services| {
        // SAFETY: the plugin lends the texts for the call.
        let (client_id, filter) = unsafe { (text(client_id)?, text(filter)?) };
        services.subscribe(plugin, client_id, filter, options, subscription_id)
    })
}

unsafe extern "C" fn host_unsubscribe(plugin: u64, client_id: Slice, filter: Slice) -> Status {
    // SAFETY: the plugin lends the texts for the call.
    serve(|services| services.unsubscribe(plugin, unsafe { text(client_id) }?, unsafe { text(filter) }?))
}

unsafe extern "C" fn host_invalidate(plugin: u64, scope: Scope, what: Slice) -> Status {
    // SAFETY: the plugin lends the text for the call.
    serve(|services| services.invalidate(plugin, scope, unsafe { text(what) }?))
}

unsafe extern "C" fn host_instance_message(plugin: u64, to_shard: u32, number: u64, bytes: Slice) -> Status {
    // SAFETY: the plugin lends the bytes for the call.
    serve(|services| services.instance_message(plugin, to_shard, number, unsafe { bytes.bytes() }))
}

unsafe extern "C" fn host_timer(plugin: u64, after_ms: u64, number: u64, out: *mut u64) -> Status {
    // SAFETY: `out` is null or writable.
    serve(|services| unsafe { give(out, services.timer(plugin, after_ms, number)) })
}

unsafe extern "C" fn host_cancel_timer(plugin: u64, timer: u64) -> Status {
    serve(|services| services.cancel_timer(plugin, timer))
}

unsafe extern "C" fn host_spawn(plugin: u64, thread: *const NewThread) -> Status {
    // SAFETY: null or a table that the plugin lends for the call.
    let Ok(thread) = (unsafe { copied(thread) }) else { return Status::INVALID };
    let body = PluginThread { run: thread.run, arg: thread.arg };
    // SAFETY: the plugin lends the text for the call.
    serve(|services| services.spawn(plugin, unsafe { text(thread.name) }?, body, thread.join_ms))
}

unsafe extern "C" fn host_wait_stop(plugin: u64, timeout_ms: u32) -> u32 {
    SERVICES.get().map_or(1, |services| u32::from(services.wait_stop(plugin, timeout_ms)))
}

unsafe extern "C" fn host_metric(plugin: u64, metric: *const NewMetric, out: *mut u64) -> Status {
    // SAFETY: null or a table that the plugin lends for the call.
    let Ok(metric) = (unsafe { copied(metric) }) else { return Status::INVALID };
    if metric.bounds_len > 64 {
        return Status::INVALID;
    }
    // SAFETY: the plugin lends what it points to for the call, and `out` is null or writable.
    serve(|services| unsafe {
        let request = MetricRequest {
            kind: metric.kind,
            name: text(metric.name)?,
            help: text(metric.help)?,
            bounds: list(metric.bounds, metric.bounds_len),
        };
        give(out, services.metric(plugin, &request))
    })
}

unsafe extern "C" fn host_measure(metric: u64, value: i64) -> Status {
    serve(|services| services.measure(metric, value))
}

unsafe extern "C" fn host_adjust(metric: u64, by: i64) -> Status {
    serve(|services| services.adjust(metric, by))
}

unsafe extern "C" fn host_reading(metric: u64, bucket: u32, out: *mut i64) -> Status {
    // SAFETY: `out` is null or writable.
    serve(|services| unsafe { give(out, services.reading(metric, bucket)) })
}

unsafe extern "C" fn host_hook_calls(plugin: u64, point: u32, name: Slice, out: *mut u32) -> Status {
    let point = u16::try_from(point).ok().and_then(HookPoint::from_number);
    let Some(point) = point else { return Status::INVALID };
    // SAFETY: the plugin lends the text for the call, and `out` is null or writable.
    serve(|services| unsafe { give(out, services.hook_calls(plugin, point, text(name)?)) })
}

unsafe extern "C" fn host_in_flight(plugin: u64, flow: u32, out: *mut u64) -> Status {
    // SAFETY: `out` is null or writable.
    serve(|services| unsafe { give(out, services.in_flight(plugin, flow)) })
}

unsafe extern "C" fn host_replay(plugin: u64) -> Status {
    serve(|services| services.replay(plugin))
}
