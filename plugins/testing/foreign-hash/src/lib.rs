//! A library for the tests of the loader: a plugin whose tables have our layout but another hash,
//! as if a field or hook point had another number in its ABI. abi_stable's layout check cannot
//! detect that.
#![allow(missing_docs, reason = "the attribute of abi_stable makes a static that cannot be documented")]

use std::sync::Arc;

use abi_stable::export_root_module;
use abi_stable::prefix_type::PrefixTypeTrait;
use grapnel_plugin_abi::module::{PluginModule, PluginModuleRef};
use grapnel_plugin_abi::{__private, Error, Host, NoConfig, Plugin};

struct Foreign;

impl Plugin for Foreign {
    type Config = NoConfig;
    type Shard = Foreign;

    fn load(_config: NoConfig, _host: &Host) -> Result<Foreign, Error> {
        Ok(Foreign)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<Foreign, Error> {
        Ok(Foreign)
    }
}

impl __private::Exported for Foreign {
    const NAME: &'static str = "foreign-hash";
    const VERSION: &'static str = "0.1.0";
    const DESCRIPTION: &'static str = "";
    const MOUNTS: &'static [__private::MountSpec] = &[];
}

/// Makes the table.
#[export_root_module]
pub fn root_module() -> PluginModuleRef {
    let ours = __private::module::<Foreign>();
    PluginModule {
        size: ours.size(),
        abi_major: ours.abi_major(),
        abi_minor: ours.abi_minor(),
        abi_hash: !ours.abi_hash(),
        manifest: ours.manifest(),
        mount: ours.mount(),
        check_config: ours.check_config(),
        load: ours.load(),
        init_shard: ours.init_shard(),
        drop_shard: ours.drop_shard(),
        activate: ours.activate(),
        deactivate: ours.deactivate(),
        unload: ours.unload(),
        on_timer: ours.on_timer(),
        on_instance_message: ours.on_instance_message(),
        export_state: ours.export_state(),
        import_state: ours.import_state(),
        configure: ours.configure(),
        configured: ours.configured(),
        export_piece: ours.export_piece(),
        import_piece: ours.import_piece(),
        verb: ours.verb(),
    }
    .leak_into_prefix()
}
