//! A plugin's functions as the loader holds them: one plain table, whether the plugin came with
//! abi_stable's header or as C.

use std::ffi::c_void;

use crate::layout::{self, Mismatch};
use crate::module::{ErrorText, Manifest, Mount, PluginModule, PluginModuleRef};
use crate::raw::{ExportStep, HostApi, Pair, Slice, StateSink, Status};

/// Why a table in C is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignTable {
    /// There is none: the function returned a null pointer.
    Missing,
    /// It was built for another version: major and minor.
    Version(u16, u16),
    /// It has fewer bytes than the version that it was built for.
    Short(u32),
    /// It was built with a header whose tables lie otherwise.
    Hash {
        /// Its hash.
        theirs: u64,
        /// Ours of that version.
        ours: u64,
    },
    /// A function is missing.
    Function(&'static str),
}

macro_rules! module {
    (
        $($(#[$doc:meta])* $name:ident: $type:ty,)* ;
        $($(#[$optional_doc:meta])* $optional:ident: $optional_type:ty,)* ;
        $($(#[$cfg:meta])* $later:ident: $later_type:ty,)*
    ) => {
        /// The functions of a plugin; see [`PluginModule`] for what each does and when it may be called.
        #[derive(Clone, Copy, Debug)]
        pub struct Module {
            $($(#[$doc])* pub $name: $type,)*
            $($(#[$optional_doc])* pub $optional: Option<$optional_type>,)*
            $(
                /// What a later minor version added; `None` where the plugin is older.
                $(#[$cfg])*
                pub $later: Option<$later_type>,
            )*
        }

        /// [`PluginModule`] as it may come from C: any function may be missing.
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct CModule {
            size: u32,
            abi_major: u16,
            abi_minor: u16,
            abi_hash: u64,
            $($name: Option<$type>,)*
            $($optional: Option<$optional_type>,)*
            $($(#[$cfg])* $later: Option<$later_type>,)*
        }

        impl Module {
            /// The functions of a module whose layout abi_stable has checked.
            pub fn of(module: PluginModuleRef) -> Module {
                Module {
                    $($name: module.$name(),)*
                    $($optional: module.$optional(),)*
                    $($(#[$cfg])* $later: module.$later(),)*
                }
            }

            /// The functions of a table in C.
            ///
            /// # Errors
            /// [`ForeignTable`]; nothing of the plugin has been called then.
            ///
            /// # Safety
            /// `table` must be null or point to a table that begins with its own size in bytes and stays.
            pub unsafe fn from_c(table: *const PluginModule) -> Result<Module, ForeignTable> {
                if table.is_null() {
                    return Err(ForeignTable::Missing);
                }
                // SAFETY: the caller vouches for the head, whose place is that of every version.
                let (size, major, minor) = unsafe { ((*table).size, (*table).abi_major, (*table).abi_minor) };
                let known = layout::size_in("PluginModule", minor);
                if layout::check(major, minor, 0) == Err(Mismatch::Version) {
                    return Err(ForeignTable::Version(major, minor));
                }
                if (size as usize) < known {
                    return Err(ForeignTable::Short(size));
                }
                // SAFETY: the table has room for as much as its version knows, which is no more than ours.
                let hash = unsafe { (*table).abi_hash };
                if let Err(Mismatch::Hash(ours)) = layout::check(major, minor, hash) {
                    return Err(ForeignTable::Hash { theirs: hash, ours });
                }
                // What its version does not know stays zero, which is `None`: a missing function is a null pointer.
                let mut copy = std::mem::MaybeUninit::<CModule>::zeroed();
                // SAFETY: the table has `known` bytes, and the copy, which is no smaller, overlaps nothing.
                unsafe {
                    std::ptr::copy_nonoverlapping(table.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), known);
                }
                // SAFETY: numbers and functions that may be missing: zeroes and what C has written are both of these.
                let table = unsafe { copy.assume_init() };
                Ok(Module {
                    $($name: table.$name.ok_or(ForeignTable::Function(stringify!($name)))?,)*
                    $($optional: table.$optional,)*
                    $($(#[$cfg])* $later: table.$later,)*
                })
            }
        }
    };
}

module! {
    /// See [`PluginModule::manifest`].
    manifest: unsafe extern "C" fn(out: *mut Manifest) -> Status,
    /// See [`PluginModule::mount`].
    mount: unsafe extern "C" fn(index: u32, out: *mut Mount) -> Status,
    /// See [`PluginModule::check_config`].
    check_config: unsafe extern "C" fn(config: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::load`].
    load: unsafe extern "C" fn(
        host: *const HostApi,
        config: Slice,
        out: *mut *mut c_void,
        error: *mut ErrorText,
    ) -> Status,
    /// See [`PluginModule::init_shard`].
    init_shard: unsafe extern "C" fn(
        plugin: *mut c_void,
        shard: u32,
        out: *mut *mut c_void,
        error: *mut ErrorText,
    ) -> Status,
    /// See [`PluginModule::drop_shard`].
    drop_shard: unsafe extern "C" fn(instance: *mut c_void),
    /// See [`PluginModule::activate`].
    activate: unsafe extern "C" fn(plugin: *mut c_void, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::deactivate`].
    deactivate: unsafe extern "C" fn(plugin: *mut c_void),
    /// See [`PluginModule::unload`].
    unload: unsafe extern "C" fn(plugin: *mut c_void),
    /// See [`PluginModule::on_timer`].
    on_timer: unsafe extern "C" fn(instance: *mut c_void, timer: u64, number: u64),
    /// See [`PluginModule::on_instance_message`].
    on_instance_message: unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
    /// See [`PluginModule::export_state`].
    export_state:
        unsafe extern "C" fn(instance: *mut c_void, out: *const StateSink, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::import_state`].
    import_state: unsafe extern "C" fn(instance: *mut c_void, state: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::configure`].
    configure: unsafe extern "C" fn(plugin: *mut c_void, config: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::configured`].
    configured: unsafe extern "C" fn(instance: *mut c_void),
    ; // What a plugin may leave out.
    /// See [`PluginModule::export_piece`].
    export_piece: unsafe extern "C" fn(
        instance: *mut c_void,
        step: ExportStep,
        bytes_max: u64,
        out: *const StateSink,
        error: *mut ErrorText,
    ) -> Status,
    /// See [`PluginModule::import_piece`].
    import_piece:
        unsafe extern "C" fn(instance: *mut c_void, last: u32, piece: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::verb`].
    verb: unsafe extern "C" fn(
        plugin: *mut c_void,
        name: Slice,
        arguments: *const Pair,
        arguments_len: usize,
        out: *const StateSink,
        error: *mut ErrorText,
    ) -> Status,
    ; // What a minor version added.
    #[cfg(feature = "abi-test-grown")]
    grown: unsafe extern "C" fn() -> u64,
}

// Both ways of writing the table down are the same.
const _: () = assert!(size_of::<CModule>() == size_of::<PluginModule>());
