//! A library for the tests of the loader: a plugin of ABI 2.1, which no broker supports.
#![allow(missing_docs, reason = "the attribute of abi_stable makes a static that cannot be documented")]

use abi_stable::StableAbi;
use abi_stable::export_root_module;
use abi_stable::library::RootModule;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;

/// The table of another ABI.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    /// Size of this struct, bytes.
    pub size: u32,
    /// Another field than in our ABI.
    #[sabi(last_prefix_field)]
    pub functions: u64,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "grapnel_plugin";
    const NAME: &'static str = "grapnel_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("2.1.0");
}

/// Makes the table.
#[export_root_module]
pub fn root_module() -> PluginModuleRef {
    PluginModule { size: size_of::<PluginModule>() as u32, functions: 0 }.leak_into_prefix()
}
