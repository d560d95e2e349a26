//! The functions that a plugin exports, made from its [`Plugin`] by the `plugin!` macro. Every
//! function catches panics, because an unwind across the ABI would end the broker.

mod spec;
mod state;
mod verb;

pub use spec::MountSpec;

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use abi_stable::prefix_type::PrefixTypeTrait;

use super::behalf::Answer;
use super::config;
use super::event::Context;
use super::fetched::Fetched;
use super::host::Host;
use super::reason::Reason;
use super::{Configured, Flow, InstanceMessage, Plugin, Timer};
use crate::module::{ErrorText, Manifest, Mount, PluginModule, PluginModuleRef};
use crate::point::HookPoint;
use crate::raw::{self, Event, HostApi, Slice, Status};

/// A typed event, made from the raw event. Implemented for the type with lifetime `'static`; `Over`
/// is the type with any other lifetime. A hook must accept every lifetime, so it cannot keep an
/// event after its call.
pub trait HookEvent {
    /// The event of a call.
    type Over<'a>;

    /// The typed event over this context.
    fn over(context: Context<'_>) -> Self::Over<'_>;
}

/// The data of a plugin from the `plugin!` macro.
pub trait Exported: Plugin {
    /// The plugin's name.
    const NAME: &'static str;
    /// Its version.
    const VERSION: &'static str;
    /// One line on what it does.
    const DESCRIPTION: &'static str;
    /// Its hooks, in order of mounting.
    const MOUNTS: &'static [MountSpec];
}

/// The package's name without the `grapnel-` in front.
pub const fn plugin_name(package: &'static str) -> &'static str {
    match package.as_bytes() {
        [b'g', b'r', b'a', b'p', b'n', b'e', b'l', b'-', _, ..] => package.split_at("grapnel-".len()).1,
        _ => package,
    }
}

/// The last segment of a method's path.
pub const fn hook_name(path: &'static str) -> &'static str {
    let bytes = path.as_bytes();
    let mut start = bytes.len();
    while start > 0 && bytes[start - 1] != b':' && bytes[start - 1] != b' ' {
        start -= 1;
    }
    path.split_at(start).1
}

/// The shared part, in the form that the broker has a pointer to.
struct Shared<P> {
    plugin: Arc<P>,
    host: Host,
}

/// The instance of a shard, in the form that the broker has a pointer to.
struct Instance<S> {
    shard: S,
    /// The plugin's shared part, for `configured`.
    plugin: Arc<dyn Any + Send + Sync>,
    host: Host,
    faults: u64,
}

/// The module table of a plugin.
pub fn module<P: Exported>() -> PluginModuleRef {
    let (size, abi_major, abi_minor, abi_hash) = PluginModule::HEAD;
    PluginModule {
        size,
        abi_major,
        abi_minor,
        abi_hash,
        manifest: manifest::<P>,
        mount: mount::<P>,
        check_config: check_config::<P>,
        load: load::<P>,
        init_shard: init_shard::<P>,
        drop_shard: drop_shard::<P>,
        activate: activate::<P>,
        deactivate: deactivate::<P>,
        unload: unload::<P>,
        on_timer: on_timer::<P>,
        on_instance_message: on_instance_message::<P>,
        export_state: state::export_state::<P>,
        import_state: state::import_state::<P>,
        configure: configure::<P>,
        configured: configured::<P>,
        export_piece: Some(state::export_piece::<P>),
        import_piece: Some(state::import_piece::<P>),
        verb: Some(verb::verb::<P>),
        #[cfg(feature = "abi-test-grown")]
        grown,
    }
    .leak_into_prefix()
}

#[cfg(feature = "abi-test-grown")]
unsafe extern "C" fn grown() -> u64 {
    77
}

pub(super) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    // If the drop of the payload panics, it would unwind into the broker.
    std::mem::forget(payload);
    text.unwrap_or_else(|| "without a message".to_owned())
}

/// Runs a function of the plugin and turns an error or a panic into text for the broker.
///
/// # Safety
/// `error` must be null or point to an [`ErrorText`] of the host's.
unsafe fn guarded(
    what: &str,
    error: *mut ErrorText,
    function: impl FnOnce() -> Result<(), (Status, String)>,
) -> Status {
    let (status, text) = match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(())) => return Status::OK,
        Ok(Err(failure)) => failure,
        Err(payload) => (Status::FAILED, format!("{what} panicked: {}", panic_text(payload))),
    };
    // SAFETY: the caller guarantees it.
    if let Some(error) = unsafe { error.as_mut() } {
        // SAFETY: the host made it over a buffer of its own, which is alive during the call.
        unsafe { error.write(&text) };
    }
    status
}

unsafe extern "C" fn manifest<P: Exported>(out: *mut Manifest) -> Status {
    // SAFETY: the host passes null or a manifest of its own.
    let Some(out) = (unsafe { out.as_mut() }) else { return Status::INVALID };
    // All fields of ABI 1.0 must fit; no broker passes a smaller struct.
    if (out.size as usize) < size_of::<Manifest>() {
        return Status::INVALID;
    }
    *out = Manifest {
        name: Slice::of(P::NAME.as_bytes()),
        version: Slice::of(P::VERSION.as_bytes()),
        description: Slice::of(P::DESCRIPTION.as_bytes()),
        sdk: Slice::of(concat!("grapnel-plugin-abi ", env!("CARGO_PKG_VERSION")).as_bytes()),
        flags: if P::CLOSABLE { raw::MANIFEST_CLOSABLE } else { 0 }
            | if P::IN_PLACE { raw::MANIFEST_IN_PLACE } else { 0 },
        ..Manifest::EMPTY
    };
    let Ok(schema) = catch_unwind(P::config_schema) else { return Status::FAILED };
    let Ok(verbs) = catch_unwind(verbs::<P>) else { return Status::FAILED };
    lend(|lent| {
        lent.text = schema.unwrap_or_default();
        out.config_schema = Slice::of(lent.text.as_bytes());
        lent.verbs = verbs;
        out.verbs = Slice::of(lent.verbs.as_bytes());
        lent.list = P::DEPENDS.iter().map(|name| LentSlice(Slice::of(name.as_bytes()))).collect();
        out.depends = lent.list.as_ptr().cast();
        out.depends_len = lent.list.len();
    });
    Status::OK
}

/// The declarations of the verbs as JSON; empty for none.
fn verbs<P: Exported>() -> String {
    let verbs = P::verbs();
    let forms = verbs.forms();
    // A form has only plain fields, so serialization cannot fail.
    if forms.is_empty() { String::new() } else { serde_json::to_string(&forms).unwrap_or_default() }
}

/// The result of the last call of `manifest` or `mount`. By contract it stays valid until the next
/// call.
#[derive(Default)]
struct LastResult {
    text: String,
    verbs: String,
    list: Vec<LentSlice>,
}

#[repr(transparent)]
struct LentSlice(Slice);

// SAFETY: each is a view of a `&'static str` of the plugin.
unsafe impl Send for LentSlice {}

static LENT: Mutex<Option<LastResult>> = Mutex::new(None);

fn lend(write: impl FnOnce(&mut LastResult)) {
    write(LENT.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
}

unsafe extern "C" fn mount<P: Exported>(index: u32, out: *mut Mount) -> Status {
    let mut listed = P::MOUNTS.iter().filter(|spec| !spec.is_manual());
    let Some(spec) = listed.nth(index as usize) else { return Status::ABSENT };
    // SAFETY: the host passes null or a mount of its own.
    let Some(out) = (unsafe { out.as_mut() }) else { return Status::INVALID };
    // All fields of ABI 1.0 must fit; no broker passes a smaller struct.
    if (out.size as usize) < size_of::<Mount>() {
        return Status::INVALID;
    }
    *out = spec.table();
    lend(|lent| {
        lent.list = spec.topic_list().iter().map(|topic| LentSlice(Slice::of(topic.as_bytes()))).collect();
        out.topics = lent.list.as_ptr().cast();
        out.topics_len = lent.list.len();
    });
    Status::OK
}

unsafe extern "C" fn check_config<P: Exported>(config: Slice, error: *mut ErrorText) -> Status {
    let check = || {
        // SAFETY: the host lends the text for the call.
        let json = unsafe { config.bytes() };
        config::parse::<P::Config>(json).map(drop).map_err(|text| (Status::INVALID, text))
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("reading the configuration", error, check) }
}

unsafe extern "C" fn load<P: Exported>(
    host: *const HostApi,
    config: Slice,
    out: *mut *mut c_void,
    error: *mut ErrorText,
) -> Status {
    let load = || {
        // SAFETY: the host's table is never freed, and null at most by mistake; `out` is writable
        // where it is not null.
        let (Some(api), Some(out)) = (unsafe { host.as_ref() }, unsafe { out.as_mut() }) else {
            return Err((Status::INVALID, "the broker passed no host table".to_owned()));
        };
        // SAFETY: the host lends the text for the call.
        let json = unsafe { config.bytes() };
        let config = config::parse::<P::Config>(json).map_err(|text| (Status::INVALID, text))?;
        let host = Host::new::<P>(api);
        let plugin = P::load(config, &host).map_err(|error| (Status::FAILED, error.to_string()))?;
        *out = Box::into_raw(Box::new(Shared { plugin: Arc::new(plugin), host })).cast();
        Ok(())
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("load", error, load) }
}

/// # Safety
/// `plugin` must come from [`load`] of the same `P` and not have gone through [`unload`].
unsafe fn shared<'a, P: Exported>(plugin: *mut c_void) -> Result<&'a Shared<P>, (Status, String)> {
    // SAFETY: the caller guarantees it; nothing but `unload` takes it exclusively.
    unsafe { plugin.cast::<Shared<P>>().as_ref() }
        .ok_or_else(|| (Status::INVALID, "the broker passed no plugin".to_owned()))
}

unsafe extern "C" fn init_shard<P: Exported>(
    plugin: *mut c_void,
    shard: u32,
    out: *mut *mut c_void,
    error: *mut ErrorText,
) -> Status {
    let init = || {
        // SAFETY: the host passes what `load` gave it, before `unload`.
        let shared = unsafe { shared::<P>(plugin) }?;
        // SAFETY: `out` is null or writable.
        let Some(out) = (unsafe { out.as_mut() }) else {
            return Err((Status::INVALID, "the broker passed no place for the instance".to_owned()));
        };
        let instance =
            shared.plugin.init_shard(shard).map_err(|error| (Status::FAILED, error.to_string()))?;
        let plugin: Arc<dyn Any + Send + Sync> = Arc::clone(&shared.plugin) as _;
        let instance = Instance { shard: instance, plugin, host: shared.host, faults: 0 };
        *out = Box::into_raw(Box::new(instance)).cast();
        Ok(())
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("init_shard", error, init) }
}

/// Drops a value of the broker, and logs a panic of the drop instead of unwinding.
fn drop_quietly<T>(what: &str, host: Host, value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        host.error(format_args!("{what} panicked: {}", panic_text(payload)));
    }
}

unsafe extern "C" fn drop_shard<P: Exported>(instance: *mut c_void) {
    if !instance.is_null() {
        // SAFETY: the host passes what `init_shard` gave it, once, on the same thread, after its
        // last hook has returned.
        let instance = unsafe { Box::from_raw(instance.cast::<Instance<P::Shard>>()) };
        drop_quietly("dropping a shard's instance", instance.host, instance.shard);
    }
}

unsafe extern "C" fn activate<P: Exported>(plugin: *mut c_void, error: *mut ErrorText) -> Status {
    let activate = || {
        // SAFETY: the host passes what `load` gave it, before `unload`.
        let shared = unsafe { shared::<P>(plugin) }?;
        shared.plugin.activate().map_err(|error| (Status::FAILED, error.to_string()))
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("activate", error, activate) }
}

unsafe extern "C" fn deactivate<P: Exported>(plugin: *mut c_void) {
    // SAFETY: the host passes what `load` gave it, before `unload`.
    if let Ok(shared) = unsafe { shared::<P>(plugin) }
        && let Err(payload) = catch_unwind(AssertUnwindSafe(|| shared.plugin.deactivate()))
    {
        shared.host.error(format_args!("deactivate panicked: {}", panic_text(payload)));
    }
}

unsafe extern "C" fn unload<P: Exported>(plugin: *mut c_void) {
    if !plugin.is_null() {
        // SAFETY: the host passes what `load` gave it, once, after the last instance has gone.
        let shared = unsafe { Box::from_raw(plugin.cast::<Shared<P>>()) };
        drop_quietly("dropping the plugin", shared.host, shared.plugin);
    }
}

/// The instance of a call.
///
/// # Safety
/// `instance` must be null or come from the `init_shard` of a plugin with shard type `S`. No other
/// code may use it meanwhile.
unsafe fn instance_of<'a, S>(instance: *mut c_void) -> Option<&'a mut Instance<S>> {
    // SAFETY: the caller guarantees it.
    unsafe { instance.cast::<Instance<S>>().as_mut() }
}

/// Calls a function of an instance that returns nothing to the broker; a panic is logged.
///
/// # Safety
/// As for [`instance_of`].
unsafe fn notify<S>(what: &str, instance: *mut c_void, function: impl FnOnce(&mut Instance<S>)) {
    // SAFETY: the caller guarantees it.
    let Some(instance) = (unsafe { instance_of::<S>(instance) }) else { return };
    let host = instance.host;
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| function(instance))) {
        host.error(format_args!("{what} panicked: {}", panic_text(payload)));
    }
}

unsafe extern "C" fn on_timer<P: Exported>(instance: *mut c_void, timer: u64, number: u64) {
    // SAFETY: the host passes an instance of this plugin's on its thread, and no hook of it is
    // running.
    unsafe {
        notify::<P::Shard>("on_timer", instance, |instance| {
            P::on_timer(&mut instance.shard, Timer::new(timer), number);
        });
    }
}

unsafe extern "C" fn on_instance_message<P: Exported>(
    instance: *mut c_void,
    from_shard: u32,
    number: u64,
    bytes: Slice,
) {
    let from = (from_shard != raw::ALL_SHARDS).then_some(from_shard);
    if from_shard == raw::FROM_BROKER {
        // SAFETY: as in `on_timer`, and the host lends the bytes for the call.
        unsafe {
            if let Some(page) = Fetched::read(number, bytes.bytes()) {
                return notify::<P::Shard>("on_fetched", instance, |instance| {
                    P::on_fetched(&mut instance.shard, &page);
                });
            }
            notify::<P::Shard>("on_answer", instance, |instance| {
                // Without a code it is unknown whether anything was done.
                let code = bytes.bytes().first().copied().unwrap_or(Reason::UNSPECIFIED.0);
                P::on_answer(&mut instance.shard, Answer { number, reason: Reason(code) });
            });
        }
        return;
    }
    // SAFETY: as in `on_timer`, and the host lends the bytes for the call.
    unsafe {
        notify::<P::Shard>("on_instance_message", instance, |instance| {
            P::on_instance_message(
                &mut instance.shard,
                &InstanceMessage { from_shard: from, number, bytes: bytes.bytes() },
            );
        });
    }
}

unsafe extern "C" fn configure<P: Exported>(
    plugin: *mut c_void,
    config: Slice,
    error: *mut ErrorText,
) -> Status {
    let configure = || {
        // SAFETY: the host passes what `load` gave it, before `unload`, and lends the text for the
        // call.
        let (shared, json) = unsafe { (shared::<P>(plugin)?, config.bytes()) };
        let config = config::parse::<P::Config>(json).map_err(|text| (Status::INVALID, text))?;
        match shared.plugin.configure(config) {
            Ok(Configured::Taken) => Ok(()),
            Ok(Configured::Reload) => Err((Status::UNSUPPORTED, String::new())),
            Err(error) => Err((Status::FAILED, error.to_string())),
        }
    };
    // SAFETY: `error` is the host's.
    unsafe { guarded("configure", error, configure) }
}

unsafe extern "C" fn configured<P: Exported>(instance: *mut c_void) {
    // SAFETY: as in `on_timer`.
    unsafe {
        notify::<P::Shard>("configured", instance, |instance| {
            if let Ok(plugin) = Arc::clone(&instance.plugin).downcast::<P>() {
                plugin.configured(&mut instance.shard);
            }
        });
    }
}

/// The return value of a hook that has panicked: not a valid flow. The broker treats it as a fault
/// that counts towards the breaker, even if a setter was refused in the same call. A FAULT does not
/// count in that case, because a client may have caused the refused value.
const PANICKED: raw::Flow = raw::Flow(u32::MAX);

/// Runs one hook: the body of the function that `plugin!` makes for each hook. The hook must accept
/// every lifetime, so it can keep only copies of the event's data.
///
/// # Safety
/// `instance` must come from the `init_shard` of a plugin with shard type `S`, and `event` from the
/// broker. Both must be valid and belong to this thread until the call returns.
pub unsafe fn run_hook<S: 'static, E: HookEvent>(
    point: HookPoint,
    instance: *mut c_void,
    event: *const Event,
    hook: impl for<'a> FnOnce(&mut S, &mut E::Over<'a>) -> Result<Flow, String>,
) -> raw::Flow {
    // SAFETY: the caller guarantees it; no other reference exists while a hook of the instance
    // runs.
    let Some(instance) = (unsafe { instance_of::<S>(instance) }) else {
        return raw::Flow::FAULT;
    };
    // SAFETY: the caller guarantees the event. The context lives in this call alone, and the hook
    // is bound for every lifetime.
    let Some(context) = (unsafe { Context::new(event, instance.host) }) else { return raw::Flow::FAULT };
    let shard = &mut instance.shard;
    let outcome = catch_unwind(AssertUnwindSafe(|| hook(shard, &mut E::over(context))));
    let (problem, flow) = match outcome {
        Ok(Ok(Flow::Continue)) => return raw::Flow::CONTINUE,
        Ok(Ok(Flow::Stop)) => return raw::Flow::STOP,
        Ok(Ok(Flow::Defer)) => return raw::Flow::DEFER,
        Ok(Ok(Flow::Unanswered)) => return raw::Flow::UNANSWERED,
        Ok(Err(text)) => (format!("failed: {text}"), raw::Flow::FAULT),
        Err(payload) => (format!("panicked: {}", panic_text(payload)), PANICKED),
    };
    instance.faults += 1;
    // No log line per packet: only the first, second, fourth, eighth … fault is logged.
    if instance.faults.is_power_of_two() {
        instance.host.error(format_args!(
            "the hook at {} {problem} (fault {})",
            point.name(),
            instance.faults
        ));
    }
    flow
}
