//! A plugin's functions as the loader holds them: one plain table, whether the plugin came with abi_stable's header or as C.

use std::ffi::c_void;

use crate::layout::ABI_HASH;
use crate::module::{ErrorText, Manifest, Mount, PluginModule, PluginModuleRef};
use crate::raw::{ABI_MAJOR, ABI_MINOR, HostApi, Slice, StateSink, Status};

/// Why a table in C is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignTable {
    /// There is none: the function returned a null pointer.
    Missing,
    /// It was built for another version: major and minor.
    Version(u16, u16),
    /// It is shorter than version 1.0, in bytes.
    Short(u32),
    /// It was built with a header whose tables lie otherwise.
    Hash(u64),
    /// A function is missing.
    Function(&'static str),
}

macro_rules! module {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The functions of a plugin; see [`PluginModule`] for what each does and when it may be called.
        #[derive(Clone, Copy, Debug)]
        pub struct Module {
            $($(#[$doc])* pub $name: $type,)*
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
        }

        impl Module {
            /// The functions of a module whose layout abi_stable has checked.
            pub fn of(module: PluginModuleRef) -> Module {
                Module { $($name: module.$name(),)* }
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
                if major != ABI_MAJOR || minor > ABI_MINOR {
                    return Err(ForeignTable::Version(major, minor));
                }
                if (size as usize) < size_of::<CModule>() {
                    return Err(ForeignTable::Short(size));
                }
                // SAFETY: the table has room for all of it, and a missing function is a null pointer, which is `None`.
                let table = unsafe { table.cast::<CModule>().read() };
                if table.abi_hash != ABI_HASH {
                    return Err(ForeignTable::Hash(table.abi_hash));
                }
                Ok(Module { $($name: table.$name.ok_or(ForeignTable::Function(stringify!($name)))?,)* })
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
    /// See [`PluginModule::on_mail`].
    on_mail: unsafe extern "C" fn(instance: *mut c_void, from_shard: u32, number: u64, bytes: Slice),
    /// See [`PluginModule::export_state`].
    export_state:
        unsafe extern "C" fn(instance: *mut c_void, out: *const StateSink, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::import_state`].
    import_state: unsafe extern "C" fn(instance: *mut c_void, state: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::configure`].
    configure: unsafe extern "C" fn(plugin: *mut c_void, config: Slice, error: *mut ErrorText) -> Status,
    /// See [`PluginModule::configured`].
    configured: unsafe extern "C" fn(instance: *mut c_void),
}

// Both ways of writing the table down are the same.
const _: () = assert!(size_of::<CModule>() == size_of::<PluginModule>());
