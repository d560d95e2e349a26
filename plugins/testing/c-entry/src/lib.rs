//! A plugin for the tests of the loader: it exports its table as a plugin in C does, under a symbol
//! and without abi_stable's header. Its hook at message.publish stops the chain if it finds the
//! argument that it was mounted with.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use grapnel_plugin_abi::module::{ErrorText, Mount, PluginModule};
use grapnel_plugin_abi::raw::{Event, ExportStep, Flow, Slice, StateSink, Status};
use grapnel_plugin_abi::{__private, Error, Host, Plugin};

struct CEntry;

/// Whether its state pieces are one byte larger than requested. The value belongs to the
/// configuration of this load, so the mapping must not be used for another load.
static HUGE: AtomicBool = AtomicBool::new(false);

impl Plugin for CEntry {
    type Config = BTreeMap<String, bool>;
    type Shard = CEntry;

    const IN_PLACE: bool = false;

    fn load(config: BTreeMap<String, bool>, _host: &Host) -> Result<CEntry, Error> {
        HUGE.store(config.contains_key("huge_pieces"), Ordering::Relaxed);
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

/// The argument that the hook is mounted with.
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

unsafe extern "C" fn export_piece(
    _instance: *mut c_void,
    _step: ExportStep,
    bytes_max: u64,
    out: *const StateSink,
    _error: *mut ErrorText,
) -> Status {
    if !HUGE.load(Ordering::Relaxed) {
        return Status::UNSUPPORTED;
    }
    let piece = vec![0; bytes_max as usize + 1];
    // SAFETY: the broker passes a sink of its own, and the bytes are alive during the call.
    unsafe { ((*out).write)((*out).ctx, Slice::of(&piece)) };
    Status::OK
}

unsafe extern "C" fn import_piece(
    _instance: *mut c_void,
    _last: u32,
    _piece: Slice,
    _error: *mut ErrorText,
) -> Status {
    if HUGE.load(Ordering::Relaxed) { Status::OK } else { Status::UNSUPPORTED }
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
        on_instance_message: ours.on_instance_message(),
        export_state: ours.export_state(),
        import_state: ours.import_state(),
        configure: ours.configure(),
        configured: ours.configured(),
        export_piece: Some(export_piece),
        import_piece: Some(import_piece),
        verb: ours.verb(),
    }
});

/// The table of this plugin.
// SAFETY: no other library of this process is looked up by this name, and the linker keeps its
// symbols local.
#[unsafe(no_mangle)]
pub extern "C" fn grapnel_plugin_v1() -> *const PluginModule {
    &raw const *TABLE
}
