//! The broker's side of the ABI: it calls a link, and implements the functions that a plugin calls
//! through [`crate::raw::HostApi`]. All `unsafe` code of the data path is here, so that the engine
//! needs none. Plugins must not use this module.

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::raw::{Change, Event, Field, Flow, HookFn, NewMessage, Slice, Status, Ticket, Value};

mod behalf;
mod cursor;
mod fetched;
mod identity;
mod module;
mod requests;
mod services;
mod table;
mod tls;

pub use behalf::{Behalf, BehalfClient, BehalfServices, PageRequest};
pub use fetched::FetchedWriter;
pub(crate) use fetched::Parts;
pub use identity::ClientIdentity;
pub use module::{ForeignTable, Module};
pub(crate) use requests::list;
pub use requests::{MetricRequest, MountRequest, PluginMessage};
pub use services::{COMPLETION_CHANGES_MAX, HostServices, PluginThread, host_api, install_services};
pub use tls::{CertificateIdentity, Names, TlsIdentity};

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

/// A change on the broker's side, borrowed for the call.
#[derive(Clone, Copy, Debug)]
pub struct FieldChange<'a> {
    /// The field.
    pub field: Field,
    /// The index, for a field with several values.
    pub index: u32,
    /// The new number.
    pub number: u64,
    /// The new bytes, or the value of a pair.
    pub bytes: &'a [u8],
    /// The key of a pair.
    pub key: &'a [u8],
}

/// The access of a running link to an event; the engine implements it.
///
/// A value that `get` has returned must stay valid and unchanged until the link's function has
/// returned, even after `set` replaces it, because hooks keep such views across setters. An
/// implementation stores replaced values until then.
pub trait EventAccess {
    /// Reads a field.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for a field that this point does not have, [`Status::ABSENT`] for a
    /// field without a value.
    fn get(&self, field: Field, index: u32) -> Result<FieldValue<'_>, Status>;

    /// Writes a change to the overlay of the running link.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] if the field cannot be changed, [`Status::INVALID`] for an invalid
    /// value.
    fn set(&mut self, change: FieldChange<'_>) -> Result<(), Status>;

    /// Takes a ticket for the running link.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] if the point cannot be deferred, [`Status::FULL`] if no ticket is
    /// left.
    fn defer(&mut self, deadline_ms: u32) -> Result<Ticket, Status>;

    /// Adds a message to the overlay of the running link. It is published after this one.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] if no message can be added at this point, [`Status::INVALID`] for an
    /// invalid message, [`Status::FULL`] above the maximum.
    fn add_message(&mut self, message: &PluginMessage<'_>) -> Result<(), Status>;

    /// The identity of the event's client, to be stored by the plugin.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] if the client is not accepted yet, or the event has no client.
    fn identity(&self) -> Result<ClientIdentity<'_>, Status> {
        Err(Status::UNSUPPORTED)
    }
}

/// A plugin's hook function and the instance to call it with: the target of a compiled link.
#[derive(Clone, Copy)]
pub struct Entry {
    function: HookFn,
    instance: *mut c_void,
    args: *mut c_void,
}

/// Its address marks the entry of a tripped plugin; the value is never read.
static TRIPPED: u8 = 0;

// SAFETY: an entry only carries the pointers between the loader and its shard. The caller of
// `Entry::new` guarantees that it is called only on that shard's thread.
unsafe impl Send for Entry {}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:p}, {:p})", self.function as *const (), self.instance)
    }
}

/// A plugin's instance on a shard, for calls outside of events.
#[derive(Clone, Copy, Debug)]
pub struct InstanceEntry {
    instance: *mut c_void,
    on_timer: unsafe extern "C" fn(instance: *mut c_void, timer: u64, number: u64),
    on_instance_message:
        unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
}

// SAFETY: as for `Entry`: it only carries the pointers, and the caller of `new` guarantees that
// they are used only on its shard's thread.
unsafe impl Send for InstanceEntry {}

impl InstanceEntry {
    /// The plugin's functions with its instance.
    ///
    /// # Safety
    /// Both functions must be in code that stays mapped. `instance` must come from the plugin's
    /// `init_shard` for this shard, and must not be destroyed while this value is in a chain table.
    /// The methods may be called only on that shard's thread, while no hook of the instance runs.
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
        // SAFETY: the caller of `new` guarantees that all of it is alive and belongs to this
        // thread.
        unsafe { (self.on_timer)(self.instance, timer, number) }
    }

    /// Calls `on_instance_message`.
    pub fn instance_message(&self, from_shard: u32, number: u64, bytes: &[u8]) {
        // SAFETY: as in `timer`, and the bytes are alive during the call.
        unsafe { (self.on_instance_message)(self.instance, from_shard, number, Slice::of(bytes)) }
    }
}

/// The target of an event's `ctx` while a chain runs: a plugin's call reaches the engine's
/// accumulator through it.
struct Running<'a> {
    access: *mut (dyn EventAccess + 'a),
    /// 1 once a hook has called a setter or the like. The engine inspects the accumulator only
    /// then.
    touched: u32,
}

/// An event during the calls of its hooks. Made once for all links of a chain, so that the common
/// part is not paid for each link.
pub struct Visit<'v, 'a, A: EventAccess + 'a> {
    running: *mut Running<'a>,
    event: *mut Event,
    access: *mut A,
    lent: PhantomData<(&'v mut Running<'a>, &'v mut Event)>,
}

/// Runs `body` with a visit of this event; the hooks' changes go to `access`.
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
    /// Reborrows the visit for a function. Returned by value, so that the caller can keep the visit
    /// in registers.
    #[inline]
    pub fn reborrow(&mut self) -> Visit<'_, 'a, A> {
        Visit { running: self.running, event: self.event, access: self.access, lent: PhantomData }
    }

    /// Calls a hook that was mounted without arguments.
    #[inline]
    pub fn call(&mut self, entry: &Entry) -> Flow {
        // SAFETY: the caller of `Entry::new` guarantees that the function and the instance are
        // alive and belong to this thread. The event and what it points to outlive the call, and by
        // contract the plugin does not keep them. No reference to the event or to the accumulator
        // exists meanwhile: both are lent to this visit, which is mutably borrowed and has returned
        // no reference.
        unsafe { (entry.function)(entry.instance, self.event) }
    }

    /// Calls a hook with the arguments that it was mounted with.
    #[inline]
    pub fn call_with_args(&mut self, entry: &Entry) -> Flow {
        // SAFETY: the event is lent to this visit.
        unsafe { (*self.event).args = entry.args };
        self.call(entry)
    }

    /// The accumulator.
    #[inline]
    pub fn access(&mut self) -> &mut A {
        // SAFETY: the accumulator is lent to this visit. No hook runs now, because that needs this
        // visit.
        unsafe { &mut *self.access }
    }

    /// The accumulator and the event. No hook has access to them at this moment.
    #[inline]
    pub fn parts(&mut self) -> (&mut A, &mut Event) {
        // SAFETY: as in `access`; the accumulator and the event are separate objects.
        unsafe { (&mut *self.access, &mut *self.event) }
    }

    /// Whether the called hook returned Continue and called no function that changes the event.
    #[inline]
    pub fn goes_on(&self, flow: Flow) -> bool {
        // SAFETY: it is lent to this visit, and no hook runs.
        let touched = unsafe { (*self.running).touched };
        // One comparison for both conditions, because this code runs between all links.
        (flow.0 ^ Flow::CONTINUE.0) | touched == 0
    }

    /// Resets the mark: the changes have been processed.
    #[inline]
    pub fn settled(&mut self) {
        // SAFETY: as in `goes_on`.
        unsafe { (*self.running).touched = 0 }
    }
}

impl Entry {
    /// A hook function with its instance.
    ///
    /// # Safety
    /// `function` must be a hook in code that stays mapped. `instance` must come from that plugin's
    /// `init_shard` for this shard, and must not be destroyed while the entry is in a chain. The
    /// entry may be called only on that shard's thread.
    pub const unsafe fn new(function: HookFn, instance: *mut c_void) -> Entry {
        Entry { function, instance, args: std::ptr::null_mut() }
    }

    /// As [`Entry::new`], with the hook's arguments. The broker passes them back and never
    /// dereferences them.
    #[must_use]
    pub const fn with_args(self, args: *mut c_void) -> Entry {
        Entry { args, ..self }
    }

    /// Whether both entries call the same function with the same instance and arguments.
    pub fn calls_like(&self, other: &Entry) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function)
            && self.instance == other.instance
            && self.args == other.args
    }

    /// The entry of a tripped plugin's hook: returns a fault without calling the plugin.
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

    /// Whether this entry was made by [`Entry::tripped`].
    pub fn is_tripped(&self) -> bool {
        std::ptr::eq(self.instance, (&raw const TRIPPED).cast())
    }

    /// Whether it was mounted with arguments.
    pub fn has_args(&self) -> bool {
        !self.args.is_null()
    }

    /// Calls only this hook; its changes go to `access`.
    pub fn call(&self, event: &mut Event, access: &mut impl EventAccess) -> Flow {
        visit(event, access, |mut visit| visit.call_with_args(self))
    }
}

/// # Safety
/// `ctx` must be that of an event whose hook runs on this thread.
unsafe fn reading<'a>(ctx: *mut c_void) -> Option<&'a dyn EventAccess> {
    // SAFETY: the caller guarantees that it is null or points to the `Running` of `visit`, whose
    // accumulator nobody else touches while the hook runs.
    unsafe { ctx.cast::<Running<'a>>().as_ref().map(|running| &*running.access) }
}

/// As [`reading`], with write access.
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
    // SAFETY: the contract of `get`: called by the running hook with its own ctx, and `out` is null
    // or writable.
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
/// The views in `change` must be valid during `'a`.
unsafe fn change_of<'a>(change: &Change) -> FieldChange<'a> {
    // SAFETY: the caller guarantees both views.
    let (bytes, key) = unsafe { (change.bytes.bytes(), change.key.bytes()) };
    FieldChange { field: change.field, index: change.index, number: change.number, bytes, key }
}

unsafe extern "C" fn host_set(ctx: *mut c_void, change: *const Change) -> Status {
    // SAFETY: the contract of `set`: called by the running hook with its own ctx, and `change` is
    // null or readable.
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
    // SAFETY: the contract of `defer`: called by the running hook with its own ctx, and `out` is
    // null or writable.
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
    // SAFETY: the contract of `identity`: called by the running hook with its own ctx, and `len` is
    // null or writable.
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
    // SAFETY: the plugin lends `capacity` bytes at `buffer` for the call, which cannot overlap a
    // vector of ours.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len()) };
    Status::OK
}
