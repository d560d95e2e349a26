//! A plugin for the tests of the loader: it exports its table as a plugin in C does, under a symbol and without the header of
//! abi_stable. Its hook at message.publish stops the chain where it finds what it was mounted with.

use std::ffi::c_void;
use std::sync::{Arc, LazyLock};

use grapnel_plugin_abi::module::{Mount, PluginModule};
use grapnel_plugin_abi::raw::{Event, Flow, Slice, Status};
use grapnel_plugin_abi::{__private, Error, Host, NoConfig, Plugin};

struct CEntry;

impl Plugin for CEntry {
    type Config = NoConfig;
    type Shard = CEntry;

    fn load(_config: NoConfig, _host: &Host) -> Result<CEntry, Error> {
        Ok(CEntry)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<CEntry, Error> {
        Ok(CEntry)
    }
}

impl __private::Exported for CEntry {
    const NAME: &'static str = "c-entry";
    const VERSION: &'static str = "0.1.0";
    const DESCRIPTION: &'static str = "";
    const MOUNTS: &'static [__private::MountSpec] = &[];
}

/// What the hook is mounted with.
static MOUNTED: u8 = 0;

unsafe extern "C" fn publish(_instance: *mut c_void, event: *const Event) -> Flow {
    // SAFETY: the broker passes an event that is alive during the call.
    let args = unsafe { (*event).args };
    if args == (&raw const MOUNTED).cast_mut().cast() { Flow::STOP } else { Flow::CONTINUE }
}

unsafe extern "C" fn mount(index: u32, out: *mut Mount) -> Status {
    // SAFETY: the broker passes a mount of its own.
    let out = unsafe { &mut *out };
    *out = match index {
        0 => Mount {
            point: 15,
            hook: Some(publish),
            name: Slice::of(b"publish"),
            args: (&raw const MOUNTED).cast_mut().cast(),
            ..Mount::EMPTY
        },
        _ => return Status::ABSENT,
    };
    Status::OK
}

static TABLE: LazyLock<PluginModule> = LazyLock::new(|| {
    let ours = __private::module::<CEntry>();
    PluginModule {
        size: ours.size(),
        abi_major: ours.abi_major(),
        abi_minor: ours.abi_minor(),
        abi_hash: ours.abi_hash(),
        manifest: ours.manifest(),
        mount,
        check_config: ours.check_config(),
        load: ours.load(),
        init_shard: ours.init_shard(),
        drop_shard: ours.drop_shard(),
        activate: ours.activate(),
        deactivate: ours.deactivate(),
        unload: ours.unload(),
        on_timer: ours.on_timer(),
        on_mail: ours.on_mail(),
        export_state: ours.export_state(),
        import_state: ours.import_state(),
        configure: ours.configure(),
        configured: ours.configured(),
    }
});

/// The table of this plugin.
// SAFETY: no other library of this process is looked up by this name, and the linker keeps its symbols local.
#[unsafe(no_mangle)]
pub extern "C" fn grapnel_plugin_v1() -> *const PluginModule {
    &raw const *TABLE
}
