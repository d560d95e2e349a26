//! The broker's side of the ABI: calling a link, and the functions a plugin reaches through [`crate::raw::HostApi`]. The only
//! unsafe of the data path is here, so that the engine needs none. Plugins must not use this module.

use std::ffi::c_void;

use crate::raw::{Change, Event, Field, Flow, HookFn, NewMessage, Slice, Status, Ticket, Value};

mod module;
mod services;

pub use module::{ForeignTable, Module};
pub use services::{
    COMPLETION_CHANGES_MAX, HostServices, MetricRequest, MountRequest, PluginMessage, PluginThread, host_api,
    install_services,
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

    /// Adds a message that is published after this one, to the overlay of the running link.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where none can be added, [`Status::INVALID`] for one that cannot be, [`Status::FULL`] for one too many.
    fn add_message(&mut self, message: &PluginMessage<'_>) -> Result<(), Status>;
}

/// A plugin's function with the instance it runs on: what a compiled link calls.
#[derive(Clone, Copy)]
pub struct Entry {
    function: HookFn,
    instance: *mut c_void,
    args: *mut c_void,
}

/// Its address marks what stands for a tripped plugin; nobody reads it.
static TRIPPED: u8 = 0;

// SAFETY: an entry only carries the pointers between the loader and its shard. That it is called on that shard's thread
// alone is what `Entry::new` is promised.
unsafe impl Send for Entry {}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:p}, {:p})", self.function as *const (), self.instance)
    }
}

/// An instance of a plugin on a shard, for what is called outside of events.
#[derive(Clone, Copy, Debug)]
pub struct InstanceEntry {
    instance: *mut c_void,
    on_timer: unsafe extern "C" fn(instance: *mut c_void, timer: u64, number: u64),
    on_mail: unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
}

// SAFETY: as for `Entry`: it only carries the pointers; that it is used on its shard's thread is what `new` is promised.
unsafe impl Send for InstanceEntry {}

impl InstanceEntry {
    /// The functions of a plugin with its instance.
    ///
    /// # Safety
    /// Both functions must be of mapped code that stays mapped, `instance` what its `init_shard` gave for this shard, not destroyed while
    /// this is in a chain table, and the methods must only be called on that shard's thread, while no hook of it is running.
    pub const unsafe fn new(
        on_timer: unsafe extern "C" fn(instance: *mut c_void, timer: u64, number: u64),
        on_mail: unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
        instance: *mut c_void,
    ) -> InstanceEntry {
        InstanceEntry { instance, on_timer, on_mail }
    }

    /// Calls `on_timer`.
    pub fn timer(&self, timer: u64, number: u64) {
        // SAFETY: `new` was promised that all of it is alive and belongs to this thread.
        unsafe { (self.on_timer)(self.instance, timer, number) }
    }

    /// Calls `on_mail`.
    pub fn mail(&self, from_shard: u32, number: u64, bytes: &[u8]) {
        // SAFETY: as in `timer`, and the bytes are alive during the call.
        unsafe { (self.on_mail)(self.instance, from_shard, number, Slice::of(bytes)) }
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
        Entry { function, instance, args: std::ptr::null_mut() }
    }

    /// The same with what the hook was mounted with, which is handed back to it and never followed.
    #[must_use]
    pub const fn with_args(self, args: *mut c_void) -> Entry {
        Entry { args, ..self }
    }

    /// What stands for the hook of a plugin that is tripped: a fault, without a call of the plugin.
    pub const fn tripped() -> Entry {
        unsafe extern "C" fn fault(_instance: *mut c_void, _event: *const Event) -> Flow {
            Flow::FAULT
        }
        Entry {
            function: fault,
            instance: (&raw const TRIPPED).cast_mut().cast(),
            args: std::ptr::null_mut(),
        }
    }

    /// Whether it is what [`Entry::tripped`] gives.
    pub fn is_tripped(&self) -> bool {
        std::ptr::eq(self.instance, (&raw const TRIPPED).cast())
    }

    /// Calls the hook. `event` is completed with the context it needs; what the hook does to the event arrives at `access`.
    #[inline]
    pub fn call(&self, event: &mut Event, access: &mut dyn EventAccess) -> Flow {
        let mut running = Running { access };
        event.ctx = (&raw mut running).cast();
        event.args = self.args;
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

unsafe extern "C" fn host_add_message(ctx: *mut c_void, message: *const NewMessage) -> Status {
    // SAFETY: the contract of `add_message`: called by the running hook with its own ctx, and `message` is null or readable.
    let (Some(running), Some(message)) = (unsafe { running(ctx) }, unsafe { message.as_ref() }) else {
        return Status::WRONG_MOMENT;
    };
    // SAFETY: the plugin lends what the message points to for the call.
    let message = match unsafe { PluginMessage::of(message) } {
        Ok(message) => message,
        Err(status) => return status,
    };
    match running.access.add_message(&message) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}
