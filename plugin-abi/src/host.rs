//! The broker's side of the ABI: calling a link, and the functions a plugin reaches through [`HostApi`]. The only unsafe of
//! the data path is here, so that the engine needs none. Plugins must not use this module.

use std::ffi::c_void;
use std::sync::OnceLock;

use crate::raw::{
    ABI_MAJOR, ABI_MINOR, Change, Event, Field, Flow, HookFn, HostApi, Slice, Status, Ticket, Value,
};

/// A field's value on the broker's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// A number or a flag.
    Number(u64),
    /// Text or bytes.
    Bytes(&'a [u8]),
    /// Key and value.
    Pair(&'a [u8], &'a [u8]),
}

/// A change on the broker's side; nothing in it outlives the call.
#[derive(Clone, Copy, Debug)]
pub struct FieldChange<'a> {
    /// Which field.
    pub field: Field,
    /// Which of several.
    pub index: u32,
    /// The new number.
    pub number: u64,
    /// The new bytes, or the value of a pair.
    pub bytes: &'a [u8],
    /// The key of a pair.
    pub key: &'a [u8],
}

/// An event as the engine lets a running link see and change it.
///
/// What `get` has shown stays alive and unchanged until the link's function has returned, also when `set` replaces it: hooks
/// hold such views across setters. An implementation keeps what it replaces until then.
pub trait EventAccess {
    /// Reads a field.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for a field this point does not have, [`Status::ABSENT`] for one that is not there.
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status>;

    /// Writes a change to the overlay of the running link.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where it cannot be changed, [`Status::INVALID`] for a value that cannot be taken.
    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status>;

    /// Takes a ticket for the running link.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the point cannot wait, [`Status::FULL`] where no ticket is left.
    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status>;
}

/// What the broker does for a plugin outside of an event. Called from any thread.
pub trait HostServices: Sync + Send {
    /// A line for the log. `level` 1 error … 5 trace.
    fn log(&self, plugin: u64, level: u32, message: &str);
    /// A deferred verdict. The changes are valid during the call.
    ///
    /// # Errors
    /// [`Status::STALE`] for a ticket that is done or gone, [`Status::INVALID`] for a flow that ends nothing.
    fn complete(&self, ticket: Ticket, flow: Flow, changes: &[FieldChange<'_>]) -> Result<(), Status>;
}

static SERVICES: OnceLock<&'static dyn HostServices> = OnceLock::new();

/// Says who answers `log` and `complete`; once per process, before the first plugin is loaded. False if it had been said.
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
        reserved: 0,
        log: host_log,
        get: host_get,
        set: host_set,
        defer: host_defer,
        complete: host_complete,
    }
}

/// A plugin's function with the instance it runs on: what a compiled link calls.
#[derive(Clone, Copy)]
pub struct Entry {
    function: HookFn,
    instance: *mut c_void,
}

// SAFETY: an entry only carries the two pointers between the loader and its shard. That it is called on that shard's thread
// alone is what `Entry::new` is promised.
unsafe impl Send for Entry {}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:p}, {:p})", self.function as *const (), self.instance)
    }
}

/// The event's `ctx` points to one of these on the stack of [`Entry::call`].
struct Running<'a> {
    access: &'a mut dyn EventAccess,
}

impl Entry {
    /// Pairs a function with its instance.
    ///
    /// # Safety
    /// `function` must be a hook of mapped code that stays mapped, `instance` what that plugin's `init_shard` gave for this
    /// shard, not destroyed while the entry is in a chain, and the entry must only be called on that shard's thread.
    pub const unsafe fn new(function: HookFn, instance: *mut c_void) -> Entry {
        Entry { function, instance }
    }

    /// Calls the hook. `event` is completed with the context it needs; what the hook does to the event arrives at `access`.
    #[inline]
    pub fn call(&self, event: &mut Event, access: &mut dyn EventAccess) -> Flow {
        let mut running = Running { access };
        event.ctx = (&raw mut running).cast();
        // SAFETY: `new` was promised that the function and the instance are alive and belong to this thread, and `event`
        // and `running` outlive the call; the plugin may not keep them, which its contract says.
        let flow = unsafe { (self.function)(self.instance, event) };
        event.ctx = std::ptr::null_mut();
        flow
    }
}

/// # Safety
/// `ctx` must be that of an event whose hook is running on this thread.
unsafe fn running<'a>(ctx: *mut c_void) -> Option<&'a mut Running<'a>> {
    // SAFETY: the caller vouches that it is null or points to the `Running` on the stack of `Entry::call`, which nobody
    // else touches while the hook runs.
    unsafe { ctx.cast::<Running<'a>>().as_mut() }
}

unsafe extern "C" fn host_log(plugin: u64, level: u32, message: Slice) {
    if let Some(services) = SERVICES.get() {
        // SAFETY: the plugin lends the message for the call.
        let bytes = unsafe { message.bytes() };
        services.log(plugin, level, &String::from_utf8_lossy(bytes));
    }
}

unsafe extern "C" fn host_get(ctx: *mut c_void, field: Field, index: u32, out: *mut Value) -> Status {
    // SAFETY: the contract of `get`: called by the running hook with its own ctx, and `out` is null or writable.
    let (Some(running), Some(out)) = (unsafe { running(ctx) }, unsafe { out.as_mut() }) else {
        return Status::WRONG_MOMENT;
    };
    *out = Value::EMPTY;
    match running.access.get(field, index) {
        Ok(FieldValue::Number(number)) => out.number = number,
        Ok(FieldValue::Bytes(bytes)) => out.bytes = Slice::of(bytes),
        Ok(FieldValue::Pair(key, value)) => {
            out.key = Slice::of(key);
            out.bytes = Slice::of(value);
        }
        Err(status) => return status,
    }
    Status::OK
}

/// # Safety
/// The views in `change` must be alive during `'a`.
unsafe fn change_of<'a>(change: &Change) -> FieldChange<'a> {
    // SAFETY: the caller vouches for both views.
    let (bytes, key) = unsafe { (change.bytes.bytes(), change.key.bytes()) };
    FieldChange { field: change.field, index: change.index, number: change.number, bytes, key }
}

unsafe extern "C" fn host_set(ctx: *mut c_void, change: *const Change) -> Status {
    // SAFETY: the contract of `set`: called by the running hook with its own ctx, and `change` is null or readable.
    let (Some(running), Some(change)) = (unsafe { running(ctx) }, unsafe { change.as_ref() }) else {
        return Status::WRONG_MOMENT;
    };
    // SAFETY: the plugin lends what the change points to for the call.
    match running.access.set(unsafe { change_of(change) }) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}

unsafe extern "C" fn host_defer(ctx: *mut c_void, deadline_ms: u32, out: *mut Ticket) -> Status {
    // SAFETY: the contract of `defer`: called by the running hook with its own ctx, and `out` is null or writable.
    let (Some(running), Some(out)) = (unsafe { running(ctx) }, unsafe { out.as_mut() }) else {
        return Status::WRONG_MOMENT;
    };
    match running.access.defer(deadline_ms) {
        Ok(ticket) => {
            *out = ticket;
            Status::OK
        }
        Err(status) => status,
    }
}

/// Most changes one completion may carry.
pub const COMPLETION_CHANGES_MAX: usize = 256;

unsafe extern "C" fn host_complete(
    ticket: Ticket,
    flow: Flow,
    changes: *const Change,
    count: usize,
) -> Status {
    let Some(services) = SERVICES.get() else { return Status::WRONG_MOMENT };
    if count > COMPLETION_CHANGES_MAX || (changes.is_null() && count > 0) {
        return Status::INVALID;
    }
    let raw: &[Change] = if count == 0 {
        &[]
    } else {
        // SAFETY: non-null, and the plugin lends `count` changes for the call.
        unsafe { std::slice::from_raw_parts(changes, count) }
    };
    // SAFETY: the plugin lends what each change points to for the call.
    let changes: Vec<FieldChange<'_>> = raw.iter().map(|change| unsafe { change_of(change) }).collect();
    match services.complete(ticket, flow, &changes) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}
