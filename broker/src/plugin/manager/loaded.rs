//! A loaded plugin: its shared part, its hooks and its instances. All calls into its table are
//! here. Used by transactions, which keep the order that the contract of the table requires.

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

/// The shared part of a loaded plugin. The last one to let go of it unloads it: instances hold it too.
pub(in crate::plugin) struct Loaded {
    pub handle: PluginHandle,
    pub library: Library,
    shared: *mut c_void,
    services: &'static Services,
}

// SAFETY: the shared part is the plugin's to share (its contract: `load` gives what all shards may use at a time), and the
// table's functions say themselves from which threads they may be called, which the methods keep to.
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
        // What cannot be made absolute, as where the working folder is gone, is given as it is.
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
            .map_err(|(_, said)| LoadError::Load { name: name.to_owned(), said })?;
        Ok(Arc::new(Loaded { handle, library, shared, services }))
    }

    /// Makes the instance of a shard. On that shard's thread.
    pub(in crate::plugin) fn init_shard(self: &Arc<Loaded>, shard: ShardId) -> Result<Instance, String> {
        let mut instance = std::ptr::null_mut();
        let init = self.library.module.init_shard;
        // SAFETY: `shared` is what `load` gave and lives as long as `self`; the rest is alive during the call.
        with_error(|error| unsafe { init(self.shared, u32::from(shard.0), &raw mut instance, error) })
            .map_err(|(_, said)| said)?;
        Ok(Instance { instance, owner: Some(Arc::clone(self)) })
    }

    /// Tells the plugin that every shard calls it.
    pub(in crate::plugin) fn activate(&self) -> Result<(), String> {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        with_error(|error| unsafe { (self.library.module.activate)(self.shared, error) })
            .map_err(|(_, said)| said)
    }

    /// Tells the plugin that no shard calls it any more.
    pub(in crate::plugin) fn deactivate(&self) {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        unsafe { (self.library.module.deactivate)(self.shared) };
    }

    /// What calls a verb on a thread that stands in the list of the plugin's threads; `None` where the plugin has no function for it.
    pub(in crate::plugin) fn verb_entry(&self) -> Option<VerbEntry> {
        self.library.module.verb.map(|function| VerbEntry { function, shared: self.shared })
    }

    /// Offers a configuration that the plugin has read and found good. False where it wants to be reloaded for it.
    pub(in crate::plugin) fn configure(&self, config: &str) -> Result<bool, String> {
        let config = Slice::of(config.as_bytes());
        // SAFETY: `shared` is what `load` gave and lives as long as `self`; the rest is alive during the call.
        match with_error(|error| unsafe { (self.library.module.configure)(self.shared, config, error) }) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, said)) => Err(said),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.services.end(self.handle) > 0 {
            // Its threads may still use the shared part, which stays for them.
            return;
        }
        // SAFETY: every instance holds an `Arc` of this, so that the last one is gone; nobody can call it again.
        unsafe { (self.library.module.unload)(self.shared) };
    }
}

/// The function of a plugin for its verbs, with its shared part: null in a process of `grapnel-ctl`, where it has none.
pub(in crate::plugin) struct VerbEntry {
    function: VerbFn,
    shared: *mut c_void,
}

/// Why a plugin's function for verbs gave no answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::plugin) enum VerbFailure {
    /// It wrote more than is taken.
    Full,
    /// It said so.
    Said(Status, String),
}

type VerbFn = unsafe extern "C" fn(
    plugin: *mut c_void,
    name: Slice,
    arguments: *const Pair,
    arguments_len: usize,
    out: *const StateSink,
    error: *mut ErrorText,
) -> Status;

// SAFETY: the function may be called from any thread (its contract), with the shared part, which the plugin gave for all threads.
unsafe impl Send for VerbEntry {}

impl VerbEntry {
    /// That of a library of which nothing has been loaded, for local verbs alone.
    pub(in crate::plugin) fn local(library: &Library) -> Option<VerbEntry> {
        library.module.verb.map(|function| VerbEntry { function, shared: std::ptr::null_mut() })
    }

    /// Calls a verb; what it has written. Once `abandoned`, what it writes is not taken. Consumes the entry: whoever made it keeps the
    /// shared part alive for one call.
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
        // SAFETY: the thread of this call is in the list of the plugin's threads, without whose end `unload` is not called, or the
        // shared part is null for a local verb; everything else is alive during the call.
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
            Err((status, said)) => Err(VerbFailure::Said(status, said)),
        }
    }
}

/// What a verb has answered so far.
struct VerbOutput<'a> {
    state: State,
    abandoned: &'a AtomicBool,
}

unsafe extern "C" fn write_answer(ctx: *mut c_void, bytes: Slice) -> Status {
    // SAFETY: `ctx` is the `VerbOutput` of the call that is running, which nobody else touches meanwhile.
    let Some(out) = (unsafe { ctx.cast::<VerbOutput<'_>>().as_mut() }) else { return Status::INVALID };
    if out.abandoned.load(Ordering::Relaxed) {
        return Status::STALE;
    }
    // SAFETY: the plugin lends the bytes for the call.
    out.state.take(unsafe { bytes.bytes() })
}

/// The instance of one shard. Made, called and destroyed on that shard's thread; it only travels between.
pub(in crate::plugin) struct Instance {
    instance: *mut c_void,
    owner: Option<Arc<Loaded>>,
}

// SAFETY: the pointer is followed in `destroy` and by the hooks alone, both on the shard's thread.
unsafe impl Send for Instance {}
// SAFETY: `entry` and `callee`, the only methods that take `&self`, copy the pointer and do not follow it.
unsafe impl Sync for Instance {}

impl Instance {
    /// The hook with this instance, for the chains of the shard it was made on.
    pub(in crate::plugin) fn entry(&self, hook: &Hook) -> Entry {
        // SAFETY: the hook's code is mapped and stays, the instance was made for the shard whose table this goes into, and
        // the transactions destroy it only after every table that names it has come back.
        unsafe { hook.entry(self.instance) }
    }

    /// The instance as a job of its shard may call it.
    pub(in crate::plugin) fn callee(&self) -> Option<Callee> {
        let owner = self.owner.as_ref()?;
        Some(Callee { instance: self.instance, library: owner.library })
    }

    /// What is called outside of events, for the chain table of the shard it was made on.
    pub(in crate::plugin) fn callbacks(&self) -> Option<InstanceEntry> {
        let module = &self.owner.as_ref()?.library.module;
        // SAFETY: as in `entry`.
        Some(unsafe { InstanceEntry::new(module.on_timer, module.on_instance_message, self.instance) })
    }

    /// Calls `drop_shard`. On the shard's thread, when no chain of it names the instance any more. Gives back the shared part,
    /// whose end the shard must not wait for.
    pub(in crate::plugin) fn destroy(mut self) -> Option<Arc<Loaded>> {
        let owner = self.owner.take()?;
        // SAFETY: what `init_shard` gave, once, on the same thread, and out of every chain: the callers see to it.
        unsafe { (owner.library.module.drop_shard)(self.instance) };
        Some(owner)
    }
}

/// An instance for the jobs of its shard: whoever makes one submits the job that calls it before the job that destroys the
/// instance, and a shard runs its jobs in order.
#[derive(Clone, Copy)]
pub(in crate::plugin) struct Callee {
    instance: *mut c_void,
    library: Library,
}

// SAFETY: the pointer is followed on the shard's thread alone, as the methods ask for.
unsafe impl Send for Callee {}

impl Callee {
    /// What the instance knows, or `None` where it hands nothing over. On its shard's thread, between two steps.
    pub(in crate::plugin) fn export_state(&self, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
        let mut state = State { bytes: Vec::new(), bytes_max, is_full: false };
        let sink = StateSink { ctx: (&raw mut state).cast(), write: write_state };
        // SAFETY: the instance is alive and of this thread, since the job that destroys it runs later, and no hook of it is
        // running; the sink and what it points to are alive during the call.
        let exported = with_error(|error| unsafe {
            (self.library.module.export_state)(self.instance, &raw const sink, error)
        });
        match exported {
            _ if state.is_full => {
                Err(format!("its state is larger than {bytes_max} bytes; raise state_bytes_max"))
            }
            Ok(()) => Ok(Some(state.bytes)),
            Err((Status::UNSUPPORTED, _)) => Ok(None),
            Err((_, said)) => Err(said),
        }
    }

    /// The next piece of what the instance knows, or `None` where it hands nothing over in pieces. As `export_state`.
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
            Err((_, said)) => Err(said),
        }
    }

    /// Tells the instance that no piece is asked for any more. As `export_state`.
    pub(in crate::plugin) fn end_pieces(&self) {
        // What it says to that changes nothing.
        let _ = self.export_piece(ExportStep::END, 0);
    }

    /// Hands a piece to the instance; whether it takes pieces. As `import_state`.
    pub(in crate::plugin) fn import_piece(&self, piece: &[u8], last: bool) -> Result<bool, String> {
        let Some(import) = self.library.module.import_piece else { return Ok(false) };
        let piece = Slice::of(piece);
        // SAFETY: as in `import_state`.
        let import = |error| unsafe { import(self.instance, last.into(), piece, error) };
        match with_error(import) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, said)) => Err(said),
        }
    }

    /// Hands a state to the instance; whether it was wanted. On its shard's thread, between two steps.
    pub(in crate::plugin) fn import_state(&self, state: &[u8]) -> Result<bool, String> {
        let state = Slice::of(state);
        // SAFETY: as in `export_state`, and the bytes are alive during the call.
        let import = |error| unsafe { (self.library.module.import_state)(self.instance, state, error) };
        match with_error(import) {
            Ok(()) => Ok(true),
            Err((Status::UNSUPPORTED, _)) => Ok(false),
            Err((_, said)) => Err(said),
        }
    }

    /// Lets the instance look at its shared part again. On its shard's thread, between two steps.
    pub(in crate::plugin) fn configured(&self) {
        // SAFETY: as in `export_state`.
        unsafe { (self.library.module.configured)(self.instance) };
    }
}

/// Whether more pieces are to come after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plugin) enum More {
    Yes,
    No,
}

/// What an instance or a verb has written so far.
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
    // SAFETY: `ctx` is the `State` of the `export_state` that is running, which nobody else touches meanwhile.
    let Some(state) = (unsafe { ctx.cast::<State>().as_mut() }) else { return Status::INVALID };
    // SAFETY: the plugin lends the bytes for the call.
    state.take(unsafe { bytes.bytes() })
}

impl Drop for Instance {
    fn drop(&mut self) {
        // An instance nobody destroyed may still be in a chain, as when the process ends: it leaks, and so does what it needs.
        std::mem::forget(self.owner.take());
    }
}
