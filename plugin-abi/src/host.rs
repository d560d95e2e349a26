//! The broker's side of the ABI: it calls a link, and implements the functions that a plugin
//! reaches through [`crate::raw::HostApi`]. All `unsafe` of the data path is here, so that the
//! engine needs none. Plugins must not use this module.

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::raw::{Change, Event, Field, Flow, HookFn, NewMessage, Slice, Status, Ticket, Value};

mod behalf;
mod fetched;
mod identity;
mod module;
mod requests;
mod services;
mod table;

pub use behalf::{Behalf, BehalfServices, PageWanted, Whom};
pub use fetched::FetchedWriter;
pub(crate) use fetched::Parts;
pub use identity::ClientIdentity;
pub use module::{ForeignTable, Module};
pub(crate) use requests::list;
pub use requests::{MetricRequest, MountRequest, PluginMessage};
pub use services::{COMPLETION_CHANGES_MAX, HostServices, PluginThread, host_api, install_services};

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

    /// Who the event's client is, to be kept by the plugin.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where no client is in yet, or the event is about none.
    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        Err(Status::UNSUPPORTED)
    }
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
    on_instance_message:
        unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
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
        on_instance_message: unsafe extern "C" fn(
            instance: *mut c_void,
            from_shard: u32,
            number: u64,
            bytes: Slice,
        ),
        instance: *mut c_void,
    ) -> InstanceEntry {
        InstanceEntry { instance, on_timer, on_instance_message }
    }

    /// Calls `on_timer`.
    pub fn timer(&self, timer: u64, number: u64) {
        // SAFETY: `new` was promised that all of it is alive and belongs to this thread.
        unsafe { (self.on_timer)(self.instance, timer, number) }
    }

    /// Calls `on_instance_message`.
    pub fn instance_message(&self, from_shard: u32, number: u64, bytes: &[u8]) {
        // SAFETY: as in `timer`, and the bytes are alive during the call.
        unsafe { (self.on_instance_message)(self.instance, from_shard, number, Slice::of(bytes)) }
    }
}

/// What an event's `ctx` points to while a chain runs: the way from a plugin's call back to the engine's accumulator.
struct Running<'a> {
    access: *mut (dyn EventAccess + 'a),
    /// 1 once a hook has called what changes something; the engine looks at the accumulator only then.
    touched: u32,
}

/// An event that hooks are called with, one after the other. It is made once for all links of a chain, so that what is the same
/// for all of them costs nothing for each.
pub struct Visit<'v, 'a, A: EventAccess + 'a> {
    running: *mut Running<'a>,
    event: *mut Event,
    access: *mut A,
    lent: PhantomData<(&'v mut Running<'a>, &'v mut Event)>,
}

/// Runs `body` with a visit of this event; what hooks do to the event arrives at `access`.
#[inline]
pub fn visit<'a, A: EventAccess + 'a, R>(
    event: &mut Event,
    access: &mut A,
    body: impl FnOnce(Visit<'_, 'a, A>) -> R,
) -> R {
    let access: *mut A = access;
    let mut running = Running { access: access as *mut (dyn EventAccess + 'a), touched: 0 };
    event.args = std::ptr::null_mut();
    let (running, event): (_, *mut Event) = (&raw mut running, event);
    // SAFETY: the event is this function's.
    unsafe { (*event).ctx = running.cast() };
    let done = body(Visit { running, event, access, lent: PhantomData });
    // SAFETY: as above; no hook runs any more.
    unsafe { (*event).ctx = std::ptr::null_mut() };
    done
}

impl<'a, A: EventAccess + 'a> Visit<'_, 'a, A> {
    /// The same, lent to a function. By value, so that who goes on with the visit may hold it in registers.
    #[inline]
    pub fn lend(&mut self) -> Visit<'_, 'a, A> {
        Visit { running: self.running, event: self.event, access: self.access, lent: PhantomData }
    }

    /// Calls a hook that was mounted without arguments.
    #[inline]
    pub fn call(&mut self, entry: &Entry) -> Flow {
        // SAFETY: `Entry::new` was promised that the function and the instance are alive and belong to this thread, and the
        // event and what it points to outlive the call; the plugin may not keep them, which its contract says. No reference to
        // the event or to the accumulator exists meanwhile: both are lent to this visit, which has none out, being borrowed.
        unsafe { (entry.function)(entry.instance, self.event) }
    }

    /// Calls a hook with what it was mounted with.
    #[inline]
    pub fn call_with_args(&mut self, entry: &Entry) -> Flow {
        // SAFETY: the event is lent to this visit.
        unsafe { (*self.event).args = entry.args };
        self.call(entry)
    }

    /// The accumulator.
    #[inline]
    pub fn access(&mut self) -> &mut A {
        // SAFETY: it is lent to this visit, and no hook runs, since that needs this visit.
        unsafe { &mut *self.access }
    }

    /// The accumulator and the event, which no hook sees at this moment.
    #[inline]
    pub fn parts(&mut self) -> (&mut A, &mut Event) {
        // SAFETY: as in `access`; they are two things.
        unsafe { (&mut *self.access, &mut *self.event) }
    }

    /// Whether the hook that was called has let the event go on and has called nothing that changes something.
    #[inline]
    pub fn goes_on(&self, flow: Flow) -> bool {
        // SAFETY: it is lent to this visit, and no hook runs.
        let touched = unsafe { (*self.running).touched };
        // One comparison for both, since this stands between any two links.
        (flow.0 ^ Flow::CONTINUE.0) | touched == 0
    }

    /// The changes have been looked at.
    #[inline]
    pub fn settled(&mut self) {
        // SAFETY: as in `goes_on`.
        unsafe { (*self.running).touched = 0 }
    }
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

    /// Whether both call the same function with the same instance and arguments.
    pub fn calls_like(&self, other: &Entry) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function)
            && self.instance == other.instance
            && self.args == other.args
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

    /// Whether it was mounted with arguments.
    pub fn has_args(&self) -> bool {
        !self.args.is_null()
    }

    /// Calls the hook alone; what it does to the event arrives at `access`.
    pub fn call(&self, event: &mut Event, access: &mut impl EventAccess) -> Flow {
        visit(event, access, |mut visit| visit.call_with_args(self))
    }
}

/// # Safety
/// `ctx` must be that of an event whose hook is running on this thread.
unsafe fn reading<'a>(ctx: *mut c_void) -> Option<&'a dyn EventAccess> {
    // SAFETY: the caller vouches that it is null or points to the `Running` of `visit`, whose accumulator nobody else touches
    // while the hook runs.
    unsafe { ctx.cast::<Running<'a>>().as_ref().map(|running| &*running.access) }
}

/// As [`reading`], to change something.
///
/// # Safety
/// As for [`reading`].
unsafe fn changing<'a>(ctx: *mut c_void) -> Option<&'a mut dyn EventAccess> {
    // SAFETY: as in `reading`.
    let running = unsafe { ctx.cast::<Running<'a>>().as_mut() }?;
    running.touched = 1;
    // SAFETY: as in `reading`.
    Some(unsafe { &mut *running.access })
}

unsafe extern "C" fn host_get(ctx: *mut c_void, field: Field, index: u32, out: *mut Value) -> Status {
    // SAFETY: the contract of `get`: called by the running hook with its own ctx, and `out` is null or writable.
    let (Some(event), Some(out)) = (unsafe { reading(ctx) }, unsafe { out.as_mut() }) else {
        return Status::WRONG_MOMENT;
    };
    *out = Value::EMPTY;
    match event.get(field, index) {
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
    let (Some(event), Some(change)) = (unsafe { changing(ctx) }, unsafe { change.as_ref() }) else {
        return Status::WRONG_MOMENT;
    };
    // SAFETY: the plugin lends what the change points to for the call.
    match event.set(unsafe { change_of(change) }) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}

unsafe extern "C" fn host_defer(ctx: *mut c_void, deadline_ms: u32, out: *mut Ticket) -> Status {
    // SAFETY: the contract of `defer`: called by the running hook with its own ctx, and `out` is null or writable.
    let (Some(event), Some(out)) = (unsafe { changing(ctx) }, unsafe { out.as_mut() }) else {
        return Status::WRONG_MOMENT;
    };
    match event.defer(deadline_ms) {
        Ok(ticket) => {
            *out = ticket;
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn host_add_message(ctx: *mut c_void, message: *const NewMessage) -> Status {
    // SAFETY: the contract of `add_message`: called by the running hook with its own ctx.
    let Some(event) = (unsafe { changing(ctx) }) else { return Status::WRONG_MOMENT };
    // SAFETY: null or a message that the plugin lends for the call, as what it points to.
    let message = match unsafe { PluginMessage::of(message) } {
        Ok(message) => message,
        Err(status) => return status,
    };
    match event.add_message(&message) {
        Ok(()) => Status::OK,
        Err(status) => status,
    }
}

unsafe extern "C" fn host_identity(
    ctx: *mut c_void,
    buffer: *mut u8,
    capacity: usize,
    len: *mut usize,
) -> Status {
    // SAFETY: the contract of `identity`: called by the running hook with its own ctx, and `len` is null or writable.
    let (Some(event), Some(len)) = (unsafe { reading(ctx) }, unsafe { len.as_mut() }) else {
        return Status::WRONG_MOMENT;
    };
    *len = 0;
    let mut bytes = Vec::new();
    match event.identity().and_then(|identity| identity.encode(&mut bytes)) {
        Ok(()) => *len = bytes.len(),
        Err(status) => return status,
    }
    if buffer.is_null() || bytes.len() > capacity {
        return Status::FULL;
    }
    // SAFETY: the plugin lends `capacity` bytes at `buffer` for the call, which cannot overlap a vector of ours.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len()) };
    Status::OK
}
