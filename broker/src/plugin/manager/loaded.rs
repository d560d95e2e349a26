//! A loaded plugin: its shared part, its hooks and its instances. All calls into its function table
//! are in this file. Used by transactions, which keep the order that the table's contract requires.

use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use grapnel_engine::hook::{Entry, InstanceEntry, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_plugin_abi::module::ErrorText;
use grapnel_plugin_abi::raw::{ExportStep, Pair, Slice, StateSink, Status};

use crate::fatal;
use crate::plugin::error::LoadError;
use crate::plugin::file::library::Library;
use crate::plugin::file::manifest::Hook;
use crate::plugin::file::with_error;
use crate::plugin::host::services::Services;

/// The shared part of a loaded plugin. It is unloaded when its last `Arc` is dropped; each instance
/// holds one.
pub(in crate::plugin) struct Loaded {
    pub handle: PluginHandle,
    pub library: Library,
    shared: *mut c_void,
    services: &'static Services,
}

// SAFETY: by the contract of `load`, all shards may use the shared part at the same time. The
// contract of each function of the table names the threads that may call it, and the methods here
// keep to that.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// Calls `load`.
    pub(in crate::plugin) fn load(
        services: &'static Services,
        library: Library,
        handle: PluginHandle,
        shards: usize,
        file: &Path,
        name: &str,
        config: &str,
    ) -> Result<Arc<Loaded>, LoadError> {
        // A path that cannot be made absolute, for instance because the working folder was removed,
        // is passed on as it is.
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let api = services.host_table(handle, shards as u32, &file);
        fatal::remember_code(
            handle,
            services.name_of(handle).unwrap_or_default(),
            library.module.load as *const () as usize,
        );
        let config = Slice::of(config.as_bytes());
        let mut shared = std::ptr::null_mut();
        // SAFETY: the host table stays for ever, the rest is alive during the call.
        with_error(|error| unsafe { (library.module.load)(api, config, &raw mut shared, error) })
            .map_err(|(_, reason)| LoadError::Load { name: name.to_owned(), reason })?;
        Ok(Arc::new(Loaded { handle, library, shared, services }))
    }

    /// Makes the instance of a shard. On that shard's thread.
    pub(in crate::plugin) fn init_shard(self: &Arc<Loaded>, shard: ShardId) -> Result<Instance, String> {
        let mut instance = std::ptr::null_mut();
        let init = self.library.module.init_shard;
        // SAFETY: `shared` is what `load` gave and lives as long as `self`; the rest is alive during the call.
        with_error(|error| unsafe { init(self.shared, u32::from(shard.0), &raw mut instance, error) })
            .map_err(|(_, reason)| reason)?;
        Ok(Instance { instance, owner: Some(Arc::clone(self)) })
    }

    /// Notifies the plugin that every shard calls it.
    pub(in crate::plugin) fn activate(&self) -> Result<(), String> {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        with_error(|error| unsafe { (self.library.module.activate)(self.shared, error) })
            .map_err(|(_, reason)| reason)
    }

    /// Notifies the plugin that no shard calls it any more.
    pub(in crate::plugin) fn deactivate(&self) {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        unsafe { (self.library.module.deactivate)(self.shared) };
    }

    /// The function for verbs, to be called on one of the plugin's registered threads; `None` if
    /// the plugin has no such function.
    pub(in crate::plugin) fn verb_entry(&self) -> Option<VerbEntry> {
        self.library.module.verb.map(|function| VerbEntry { function, shared: self.shared })
    }

    /// Offers a configuration that the plugin has already checked. False if the plugin must be
    /// reloaded for it.
    pub(in crate::plugin) fn configure(&self, config: &str) -> Result<bool, String> {
        let config = Slice::of(config.as_bytes());
        // SAFETY: `shared` is what `load` gave and lives as long as `self`; the rest is alive during the call.
        match with_error(|error| unsafe { (self.library.module.configure)(self.shared, config, error) }) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, reason)) => Err(reason),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.services.end(self.handle) > 0 {
            // Its threads may still use the shared part, so it is leaked on purpose.
            return;
        }
        // SAFETY: every instance holds an `Arc` of this, so that no instance is left. Nothing can
        // call the shared part again.
        unsafe { (self.library.module.unload)(self.shared) };
    }
}

/// A plugin's function for verbs, with the shared part; the shared part is null in a process of
/// `grapnel-ctl`.
pub(in crate::plugin) struct VerbEntry {
    function: VerbFn,
    shared: *mut c_void,
}

/// Why a plugin's function for verbs gave no answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugin) enum VerbFailure {
    /// The answer was larger than the limit.
    Full,
    /// The plugin returned this error.
    Reported(Status, String),
}

type VerbFn = unsafe extern "C" fn(
    plugin: *mut c_void,
    name: Slice,
    arguments: *const Pair,
    arguments_len: usize,
    out: *const StateSink,
    error: *mut ErrorText,
) -> Status;

// SAFETY: by its contract the function may be called from any thread, with the shared part, which
// all threads may use.
unsafe impl Send for VerbEntry {}

impl VerbEntry {
    /// For local verbs alone: the function of a library whose `load` was not called.
    pub(in crate::plugin) fn local(library: &Library) -> Option<VerbEntry> {
        library.module.verb.map(|function| VerbEntry { function, shared: std::ptr::null_mut() })
    }

    /// Calls a verb and returns its output. Output written after `abandoned` was set is discarded.
    /// Consumes the entry, because the caller keeps the shared part alive for one call only.
    pub(in crate::plugin) fn call(
        self,
        name: &str,
        arguments: &[(String, String)],
        bytes_max: usize,
        abandoned: &AtomicBool,
    ) -> Result<Vec<u8>, VerbFailure> {
        let pair = |(key, value): &(String, String)| Pair {
            key: Slice::of(key.as_bytes()),
            value: Slice::of(value.as_bytes()),
        };
        let pairs: Vec<Pair> = arguments.iter().map(pair).collect();
        let state = State { bytes: Vec::new(), bytes_max, is_full: false };
        let mut out = VerbOutput { state, abandoned };
        let sink = StateSink { ctx: (&raw mut out).cast(), write: write_answer };
        // SAFETY: `unload` is not called before the thread of this call has ended, because the
        // thread is registered with the plugin; for a local verb the shared part is null.
        // Everything else is alive during the call.
        let called = with_error(|error| unsafe {
            (self.function)(
                self.shared,
                Slice::of(name.as_bytes()),
                pairs.as_ptr(),
                pairs.len(),
                &raw const sink,
                error,
            )
        });
        match called {
            _ if out.state.is_full => Err(VerbFailure::Full),
            Ok(()) => Ok(out.state.bytes),
            Err((status, reason)) => Err(VerbFailure::Reported(status, reason)),
        }
    }
}

/// The output of a verb so far.
struct VerbOutput<'a> {
    state: State,
    abandoned: &'a AtomicBool,
}

unsafe extern "C" fn write_answer(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: `ctx` is the `VerbOutput` of the running call, and nothing else uses it during the
    // call.
    let Some(out) = (unsafe { ctx.cast::<VerbOutput<'_>>().as_mut() }) else { return Status::INVALID };
    if out.abandoned.load(Ordering::Relaxed) {
        return Status::STALE;
    }
    // SAFETY: the plugin lends the bytes for the call.
    out.state.take(unsafe { bytes.bytes() })
}

/// The instance of one shard. It is made, called and destroyed on that shard's thread; other
/// threads only store it.
pub(in crate::plugin) struct Instance {
    instance: *mut c_void,
    owner: Option<Arc<Loaded>>,
}

// SAFETY: only `destroy` and the hooks dereference the pointer, both on the shard's thread.
unsafe impl Send for Instance {}
// SAFETY: `entry`, `callee` and `callbacks`, the only methods that take `&self`, copy the pointer
// and do not dereference it.
unsafe impl Sync for Instance {}

impl Instance {
    /// The hook with this instance, for the chains of the shard on which the instance was made.
    pub(in crate::plugin) fn entry(&self, hook: &Hook) -> Entry {
        // SAFETY: the hook's code stays mapped. The instance was made for the shard of this table,
        // and the transactions destroy it only after the shard has returned every table that names
        // it.
        unsafe { hook.entry(self.instance) }
    }

    /// The instance in the form that a job of its shard may call.
    pub(in crate::plugin) fn callee(&self) -> Option<Callee> {
        let owner = self.owner.as_ref()?;
        Some(Callee { instance: self.instance, library: owner.library })
    }

    /// The functions that are called outside of events, for the chain table of the shard on which
    /// the instance was made.
    pub(in crate::plugin) fn callbacks(&self) -> Option<InstanceEntry> {
        let module = &self.owner.as_ref()?.library.module;
        // SAFETY: as in `entry`.
        Some(unsafe { InstanceEntry::new(module.on_timer, module.on_instance_message, self.instance) })
    }

    /// Calls `drop_shard`. On the shard's thread, when none of its chains names the instance any
    /// more. Returns the shared part, because the shard must not wait for its end.
    pub(in crate::plugin) fn destroy(mut self) -> Option<Arc<Loaded>> {
        let owner = self.owner.take()?;
        // SAFETY: `init_shard` made the instance on the same thread. The callers ensure that this
        // is called once and that no chain names the instance.
        unsafe { (owner.library.module.drop_shard)(self.instance) };
        Some(owner)
    }
}

/// An instance for the jobs of its shard. A caller must submit the job that calls it before the job
/// that destroys the instance; a shard runs its jobs in order.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct Callee {
    instance: *mut c_void,
    library: Library,
}

// SAFETY: the pointer is dereferenced on the shard's thread alone, as the methods require.
unsafe impl Send for Callee {}

impl Callee {
    /// The state of the instance, or `None` if it hands nothing over. On its shard's thread,
    /// between two steps.
    pub(in crate::plugin) fn export_state(&self, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        let mut state = State { bytes: Vec::new(), bytes_max, is_full: false };
        let sink = StateSink { ctx: (&raw mut state).cast(), write: write_state };
        // SAFETY: the instance is alive, because the job that destroys it runs later; it belongs to
        // this thread, and none of its hooks is running. The sink and its context are alive during
        // the call.
        let exported = with_error(|error| unsafe {
            (self.library.module.export_state)(self.instance, &raw const sink, error)
        });
        match exported {
            _ if state.is_full => {
                Err(format!("its state is larger than {bytes_max} bytes; raise state_bytes_max"))
            }
            Ok(()) => Ok(Some(state.bytes)),
            Err((Status::UNSUPPORTED, _)) => Ok(None),
            Err((_, reason)) => Err(reason),
        }
    }

    /// The next piece of the state, or `None` if the instance does not support pieces. Thread as
    /// for `export_state`.
    pub(in crate::plugin) fn export_piece(
        &self,
        step: ExportStep,
        bytes_max: usize,
    ) -> Result<Option<(Vec<u8>, More)>, String> {
        let Some(export) = self.library.module.export_piece else { return Ok(None) };
        let mut state = State { bytes: Vec::new(), bytes_max, is_full: false };
        let sink = StateSink { ctx: (&raw mut state).cast(), write: write_state };
        // SAFETY: as in `export_state`.
        let exported = with_error(|error| unsafe {
            export(self.instance, step, bytes_max as u64, &raw const sink, error)
        });
        match exported {
            _ if state.is_full => Err(format!(
                "a piece of its state has more than the {bytes_max} bytes that were requested; this is an error of the plugin"
            )),
            Ok(()) => Ok(Some((state.bytes, More::Yes))),
            Err((Status::ABSENT, _)) => Ok(Some((state.bytes, More::No))),
            Err((Status::UNSUPPORTED, _)) => Ok(None),
            Err((_, reason)) => Err(reason),
        }
    }

    /// Notifies the instance that no further piece will be requested. Thread as for `export_state`.
    pub(in crate::plugin) fn end_pieces(&self) {
        // The instance's answer to this changes nothing.
        let _ = self.export_piece(ExportStep::END, 0);
    }

    /// Hands a piece to the instance. False if it does not support pieces. Thread as for
    /// `import_state`.
    pub(in crate::plugin) fn import_piece(&self, piece: &[u8], last: bool) -> Result<bool, String> {
        let Some(import) = self.library.module.import_piece else { return Ok(false) };
        let piece = Slice::of(piece);
        // SAFETY: as in `import_state`.
        let import = |error| unsafe { import(self.instance, last.into(), piece, error) };
        match with_error(import) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, reason)) => Err(reason),
        }
    }

    /// Hands a state to the instance. False if the instance does not take states. On its shard's
    /// thread, between two steps.
    pub(in crate::plugin) fn import_state(&self, state: &[u8]) -> Result<bool, String> {
        let state = Slice::of(state);
        // SAFETY: as in `export_state`, and the bytes are alive during the call.
        let import = |error| unsafe { (self.library.module.import_state)(self.instance, state, error) };
        match with_error(import) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, reason)) => Err(reason),
        }
    }

    /// Calls `configured`, so that the instance reads its shared part again. On its shard's thread,
    /// between two steps.
    pub(in crate::plugin) fn configured(&self) {
        // SAFETY: as in `export_state`.
        unsafe { (self.library.module.configured)(self.instance) };
    }
}

/// Whether more pieces follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum More {
    Yes,
    No,
}

/// The output of an instance or a verb so far.
struct State {
    bytes: Vec<u8>,
    bytes_max: usize,
    is_full: bool,
}

impl State {
    fn take(&mut self, bytes: &[u8]) -> Status {
        if self.is_full || bytes.len() > self.bytes_max - self.bytes.len() {
            self.is_full = true;
            return Status::FULL;
        }
        self.bytes.extend_from_slice(bytes);
        Status::OK
    }
}

unsafe extern "C" fn write_state(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: `ctx` is the `State` of the running `export_state`, and nothing else uses it during
    // the call.
    let Some(state) = (unsafe { ctx.cast::<State>().as_mut() }) else { return Status::INVALID };
    // SAFETY: the plugin lends the bytes for the call.
    state.take(unsafe { bytes.bytes() })
}

impl Drop for Instance {
    fn drop(&mut self) {
        // An instance that was not destroyed may still be in a chain, for instance when the process
        // ends. It is leaked with its shared part.
        std::mem::forget(self.owner.take());
    }
}
