//! What a plugin exports: a table of functions that the loader calls in the order manifest → mounts
//! → `check_config` → `load` → `init_shard` on every shard → `activate`, and in the reverse order
//! at the end. abi_stable checks the layout of all of it before the first call. The SDK's `plugin!`
//! macro writes this table; plugin authors do not.

use std::ffi::c_void;

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;

use crate::layout::ABI_HASH;
use crate::raw::{ABI_MAJOR, ABI_MINOR, Event, ExportStep, Flow, HostApi, Pair, Slice, StateSink, Status};

/// Room for one sentence that says why a function failed, lent by the host for the call.
#[repr(C)]
#[derive(StableAbi)]
pub struct ErrorText {
    /// Where the text goes.
    pub ptr: *mut u8,
    /// Bytes there are at `ptr`.
    pub capacity: usize,
    /// Bytes that were written; UTF-8.
    pub len: usize,
}

impl ErrorText {
    /// Bytes the host offers.
    pub const CAPACITY: usize = 4096;

    /// A view of this buffer, which the caller keeps alive and untouched for as long as the view is used.
    pub fn over(buffer: &mut [u8]) -> ErrorText {
        ErrorText { ptr: buffer.as_mut_ptr(), capacity: buffer.len(), len: 0 }
    }

    /// Writes as much of the text as there is room for, cut between two characters.
    ///
    /// # Safety
    /// `ptr` must be null or point to `capacity` writable bytes.
    pub unsafe fn write(&mut self, text: &str) {
        if self.ptr.is_null() {
            return;
        }
        let mut len = text.len().min(self.capacity);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        // SAFETY: the caller vouches for `capacity` bytes at `ptr`, `len` is no more than that, and a buffer lent by the
        // host cannot overlap a text of the plugin.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.ptr, len) };
        self.len = len;
    }
}

/// Who a plugin is. The views are valid while its code is mapped.
#[repr(C)]
#[derive(StableAbi)]
pub struct Manifest {
    /// Bytes of this struct; set by the host to what it has room for, by the plugin to what it wrote.
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// Name the plugin goes by where the operator gives none: letters, digits, `-` and `_`.
    pub name: Slice,
    /// Its version, for people.
    pub version: Slice,
    /// One line on what it does.
    pub description: Slice,
    /// What it was built with, for people, such as `grapnel-plugin-abi 1.0.0`.
    pub sdk: Slice,
    /// `MANIFEST_…` bits of [`crate::raw`].
    pub flags: u32,
    /// Zero.
    pub reserved2: u32,
    /// JSON Schema of the configuration; empty for none.
    pub config_schema: Slice,
    /// Names of plugins that must be loaded before this one.
    pub depends: *const Slice,
    /// How many.
    pub depends_len: usize,
    /// The verbs that the plugin adds to `grapnel-ctl`, a JSON array as ABI.md describes it; empty for none.
    pub verbs: Slice,
}

impl Manifest {
    /// An empty one for a plugin to fill in.
    pub const EMPTY: Manifest = Manifest {
        size: size_of::<Manifest>() as u32,
        reserved: 0,
        name: Slice::EMPTY,
        version: Slice::EMPTY,
        description: Slice::EMPTY,
        sdk: Slice::EMPTY,
        flags: 0,
        reserved2: 0,
        config_schema: Slice::EMPTY,
        depends: std::ptr::null(),
        depends_len: 0,
        verbs: Slice::EMPTY,
    };
}

/// One function of a plugin and where it wants to be called.
#[repr(C)]
#[derive(StableAbi)]
pub struct Mount {
    /// Bytes of this struct; set by the host to what it has room for, by the plugin to what it wrote.
    pub size: u32,
    /// Number of the hook point.
    pub point: u16,
    /// Zero.
    pub reserved: u16,
    /// Higher runs earlier, equal ones in order of mounting; the operator may override it.
    pub priority: i32,
    /// How long a deferred verdict may take, milliseconds; 0 for the operator's default.
    pub deadline_ms: u32,
    /// The function, a [`crate::raw::HookFn`]; a null pointer is refused.
    // Written out because the layout check wants it so.
    pub hook: Option<unsafe extern "C" fn(instance: *mut c_void, event: *const Event) -> Flow>,
    /// Name of the hook within the plugin; it stays the same through versions.
    pub name: Slice,
    /// `MOUNT_…` bits of [`crate::raw`].
    pub flags: u32,
    /// What a fault or a missed deadline means: a [`crate::raw::Policy`]. The operator may override it.
    pub policy: u32,
    /// At the points about a message: only topics that match one of these filters. None for all.
    pub topics: *const Slice,
    /// How many.
    pub topics_len: usize,
    /// Comes back in [`Event::args`].
    pub args: *mut c_void,
}

impl Mount {
    /// An empty one for a plugin to fill in.
    pub const EMPTY: Mount = Mount {
        size: size_of::<Mount>() as u32,
        point: 0,
        reserved: 0,
        priority: 0,
        deadline_ms: 0,
        hook: None,
        name: Slice::EMPTY,
        flags: 0,
        policy: 0,
        topics: std::ptr::null(),
        topics_len: 0,
        args: std::ptr::null_mut(),
    };
}

/// Symbol of a plugin in C: a function without arguments that returns a pointer to its [`PluginModule`], which stays.
pub const C_ENTRY: &str = "grapnel_plugin_v1";

/// The functions of a plugin. None of them may unwind; `error` is written where the answer is not [`Status::OK`]. On a shard's
/// thread are called: the hooks and all that take an `instance` or a `shard`. Of the others one at a time, never on a shard; only `verb` is called beside them.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    /// Bytes of this struct as the plugin was built with it.
    pub size: u32,
    /// [`ABI_MAJOR`] the plugin was built with.
    pub abi_major: u16,
    /// [`ABI_MINOR`] the plugin was built with.
    pub abi_minor: u16,
    /// [`ABI_HASH`] the plugin was built with: two builds of one ABI version have the same.
    pub abi_hash: u64,
    /// Says who the plugin is.
    pub manifest: unsafe extern "C" fn(out: *mut Manifest) -> Status,
    /// Lists the hooks: index 0, 1, … until [`Status::ABSENT`].
    pub mount: unsafe extern "C" fn(index: u32, out: *mut Mount) -> Status,
    /// Reads a configuration (a JSON object) and says what is wrong with it, without starting anything.
    pub check_config: unsafe extern "C" fn(config: Slice, error: *mut ErrorText) -> Status,
    /// Makes the shared part. Must tolerate an older version of itself that still runs. `host` is never freed.
    pub load: unsafe extern "C" fn(
        host: *const HostApi,
        config: Slice,
        out: *mut *mut c_void,
        error: *mut ErrorText,
    ) -> Status,
    /// Makes the instance of one shard, on its thread. No I/O.
    pub init_shard: unsafe extern "C" fn(
        plugin: *mut c_void,
        shard: u32,
        out: *mut *mut c_void,
        error: *mut ErrorText,
    ) -> Status,
    /// Destroys an instance, on its shard's thread, after it has left every chain.
    pub drop_shard: unsafe extern "C" fn(instance: *mut c_void),
    /// Every shard calls the hooks now: exclusive resources are taken here.
    pub activate: unsafe extern "C" fn(plugin: *mut c_void, error: *mut ErrorText) -> Status,
    /// No shard calls the hooks any more: exclusive resources are given back here.
    pub deactivate: unsafe extern "C" fn(plugin: *mut c_void),
    /// Destroys the shared part, after the last instance.
    pub unload: unsafe extern "C" fn(plugin: *mut c_void),
    /// A timer that the instance armed is due.
    pub on_timer: unsafe extern "C" fn(instance: *mut c_void, timer: u64, number: u64),
    /// An instance message from a shard of the plugin, from one of its threads ([`crate::raw::ALL_SHARDS`]), or from the broker
    /// ([`crate::raw::FROM_BROKER`]): what became of a request on behalf of a client.
    pub on_instance_message:
        unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
    /// Writes the instance's state for the version that replaces it, and goes on as before. [`Status::UNSUPPORTED`] where there is
    /// none.
    pub export_state:
        unsafe extern "C" fn(instance: *mut c_void, out: *const StateSink, error: *mut ErrorText) -> Status,
    /// Takes over what the version before wrote; may be called again with newer bytes, which replace what came before.
    /// [`Status::UNSUPPORTED`] where none is wanted.
    pub import_state:
        unsafe extern "C" fn(instance: *mut c_void, state: Slice, error: *mut ErrorText) -> Status,
    /// Takes a new configuration into the running plugin; [`Status::UNSUPPORTED`] asks for a reload instead.
    pub configure: unsafe extern "C" fn(plugin: *mut c_void, config: Slice, error: *mut ErrorText) -> Status,
    /// After `configure`, and where other hooks about the life of connections and sessions are called than before, so that events were
    /// or will be missed: the instance looks at the shared part again.
    pub configured: unsafe extern "C" fn(instance: *mut c_void),
    /// Writes a piece of the instance's state, at most `bytes_max` bytes, while the instance goes on serving between two pieces.
    /// [`Status::OK`] where more is to come, [`Status::ABSENT`] where what was written (nothing, it may be) was the rest for now,
    /// [`Status::UNSUPPORTED`] at [`ExportStep::BEGIN`] where `export_state` is to be asked instead. A null pointer means the same.
    pub export_piece: Option<
        unsafe extern "C" fn(
            instance: *mut c_void,
            step: ExportStep,
            bytes_max: u64,
            out: *const StateSink,
            error: *mut ErrorText,
        ) -> Status,
    >,
    /// Takes over a piece, in the order in which they were written; the first one is empty and asks whether pieces are taken at all.
    /// [`Status::UNSUPPORTED`] where they are not, as a null pointer. With `last` 1 the state is whole, and the hooks of the
    /// instance are called next: timers are armed here, since those that an instance armed before it was replaced are gone. More
    /// pieces may follow a last one, where a reload is taken back.
    pub import_piece: Option<
        unsafe extern "C" fn(instance: *mut c_void, last: u32, piece: Slice, error: *mut ErrorText) -> Status,
    >,
    /// Answers a verb of the manifest. On a thread of its own, any number of them at a time and beside all other functions; the broker
    /// waits for the verb's deadline, and the thread must return soon after `wait_stop` has answered 1. `arguments` are the declared
    /// ones that were given or have a default, checked and in the order of their declaration: an integer as digits, a duration as
    /// its milliseconds, a flag that was given as `1`, a repeated one once for each value. The answer goes to `out`, as ABI.md describes
    /// it; a write of no bytes answers [`Status::STALE`] once nobody waits for it any more. `plugin` is null for a verb that is
    /// declared `local`: it runs in a process of `grapnel-ctl`, where `load` has not been called. [`Status::INVALID`] for arguments
    /// that cannot be, [`Status::ABSENT`] where what they name is not there, [`Status::FAILED`] for anything else that keeps it
    /// from being done. A null pointer where the plugin has no verbs.
    #[sabi(last_prefix_field)]
    pub verb: Option<
        unsafe extern "C" fn(
            plugin: *mut c_void,
            name: Slice,
            arguments: *const Pair,
            arguments_len: usize,
            out: *const StateSink,
            error: *mut ErrorText,
        ) -> Status,
    >,
    /// What a later version could add: a function that answers 77.
    #[cfg(feature = "abi-test-grown")]
    pub grown: unsafe extern "C" fn() -> u64,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "grapnel_plugin";
    const NAME: &'static str = "grapnel_plugin";
    // The version of this crate is the version of the ABI, which a test holds.
    #[cfg(not(feature = "abi-test-grown"))]
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
    #[cfg(feature = "abi-test-grown")]
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.1.0");
}

impl PluginModule {
    /// The fields that are the same in every plugin built with this crate: size, version and hash.
    pub const HEAD: (u32, u16, u16, u64) = (size_of::<PluginModule>() as u32, ABI_MAJOR, ABI_MINOR, ABI_HASH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_crate_is_the_version_of_the_abi() {
        let version = PluginModuleRef::VERSION_STRINGS.version.as_str();
        assert!(version.starts_with(&format!("{ABI_MAJOR}.{ABI_MINOR}.")), "{version}");
    }

    #[test]
    fn an_error_text_is_cut_between_two_characters() {
        let mut buffer = [0_u8; 4];
        let mut text = ErrorText::over(&mut buffer);
        // SAFETY: made over a live buffer.
        unsafe { text.write("abcé") };
        assert_eq!(text.len, 3);
        assert_eq!(&buffer, b"abc\0");
    }
}
