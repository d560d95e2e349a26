//! A plugin that has been loaded: its shared part, its hooks, and its instances. The calls into its table are all here. Used by
//! the transactions, which keep the order that the table's contract asks for.

use std::ffi::c_void;
use std::sync::Arc;

use grapnel_engine::hook::{Entry, InstanceEntry, PluginHandle};
use grapnel_engine::id::ShardId;
use grapnel_engine::topic::validate_filter;
use grapnel_plugin_abi::host::MountRequest;
use grapnel_plugin_abi::module::{ErrorText, Manifest, Mount};
use grapnel_plugin_abi::point::{FaultPolicy, HookPoint};
use grapnel_plugin_abi::raw::{HookFn, Slice, Status};

use super::error::LoadError;
use super::library::Library;
use super::services;
use crate::fatal;

/// Most hooks one plugin may have; more is an endless list.
const MOUNTS_MAX: u32 = 256;

/// Who a plugin says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub name: String,
    pub version: String,
    pub description: String,
    pub sdk: String,
}

/// One hook of a plugin.
#[derive(Clone)]
pub(super) struct Hook {
    pub point: HookPoint,
    pub name: String,
    pub priority: i32,
    pub deadline_ms: u32,
    /// Its own fault policy; `None` for that of the hook point.
    own_policy: Option<FaultPolicy>,
    /// Whether it is asked for deliveries at client.authorize.
    pub deliver: bool,
    /// The topics it wants; `None` for all.
    pub topics: Option<Arc<[Box<str>]>>,
    function: HookFn,
    args: usize,
}

impl Hook {
    /// What a fault or a missed deadline means.
    pub(super) fn policy(&self) -> FaultPolicy {
        self.own_policy.unwrap_or_else(|| self.point.fault_policy())
    }

    /// Whether it is the same code.
    pub(super) fn same_function(&self, other: &Hook) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function)
    }

    /// The hook of a mount, at a point that is called.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence without a subject.
    pub(super) fn of(request: &MountRequest<'_>) -> Result<Hook, String> {
        let MountRequest { point, function, name, priority, deadline_ms, policy, deliver, ref topics, args } =
            *request;
        if deliver && point != HookPoint::ClientAuthorize {
            return Err(format!(
                "mounts {name}, which asks for deliveries, but {} does not decide on them",
                point.name()
            ));
        }
        if !topics.is_empty() && !has_topic(point) {
            return Err(format!("mounts {name}, which names topics, but {} has none", point.name()));
        }
        for topic in topics {
            validate_filter(topic)
                .map_err(|error| format!("mounts {name}, which names the topic filter {topic:?}: {error}"))?;
        }
        let topics = (!topics.is_empty()).then(|| topics.iter().copied().map(Box::from).collect());
        let name = name.to_owned();
        Ok(Hook { point, name, priority, deadline_ms, own_policy: policy, deliver, topics, function, args })
    }
}

impl Library {
    /// Asks the plugin who it is.
    pub(super) fn about(&self, file: &str) -> Result<About, LoadError> {
        let mut manifest = Manifest::EMPTY;
        // SAFETY: the table has passed the checks of its layout, and `manifest` is ours.
        let status = unsafe { (self.module.manifest)(&raw mut manifest) };
        if status != Status::OK {
            return Err(wrong(file, format!("it gives no manifest ({status:?})")));
        }
        // SAFETY: the plugin's views are of its mapped code, which stays.
        let text = |slice: Slice| unsafe { slice.text() }.to_owned();
        let about = About {
            name: text(manifest.name),
            version: text(manifest.version),
            description: text(manifest.description),
            sdk: text(manifest.sdk),
        };
        if super::is_name(&about.name) {
            Ok(about)
        } else {
            Err(wrong(file, format!("its manifest names it {:?}, which is no name of a plugin", about.name)))
        }
    }

    /// Asks the plugin for its hooks.
    pub(super) fn hooks(&self, name: &str) -> Result<Vec<Hook>, LoadError> {
        let mut hooks: Vec<Hook> = Vec::new();
        for index in 0..MOUNTS_MAX {
            let mut mount = Mount::EMPTY;
            // SAFETY: the table has passed the checks of its layout, and `mount` is ours.
            let status = unsafe { (self.module.mount)(index, &raw mut mount) };
            match status {
                Status::OK => {}
                Status::ABSENT => return Ok(hooks),
                other => return Err(wrong(name, format!("it does not list its hooks ({other:?})"))),
            }
            let hook = hook_of(name, &mount)?;
            if hooks.iter().any(|other| other.point == hook.point && other.name == hook.name) {
                let what = format!("it mounts two hooks named {} on {}", hook.name, hook.point.name());
                return Err(wrong(name, what));
            }
            hooks.push(hook);
        }
        Err(wrong(name, format!("it lists more than {MOUNTS_MAX} hooks")))
    }

    /// Lets the plugin read its configuration, without starting anything.
    pub(super) fn check_config(&self, name: &str, config: &str) -> Result<(), LoadError> {
        let config = Slice::of(config.as_bytes());
        // SAFETY: the configuration and the error text are alive during the call.
        with_error(|error| unsafe { (self.module.check_config)(config, error) })
            .map_err(|(_, said)| LoadError::Config { name: name.to_owned(), said })
    }
}

fn wrong(name: &str, what: String) -> LoadError {
    LoadError::Manifest { name: name.to_owned(), what }
}

fn hook_of(name: &str, mount: &Mount) -> Result<Hook, LoadError> {
    // SAFETY: the plugin's views stay until the next call of `mount`, and are copied here.
    let request = unsafe { MountRequest::of(mount) }.map_err(|what| wrong(name, format!("it {what}")))?;
    Hook::of(&request).map_err(|what| wrong(name, format!("it {what}")))
}

/// Whether a point is about a message, so that a link can choose its topics.
fn has_topic(point: HookPoint) -> bool {
    matches!(
        point,
        HookPoint::MessagePublish
            | HookPoint::MessageDelivered
            | HookPoint::MessageAcked
            | HookPoint::MessageDropped
            | HookPoint::MessageRetained
    )
}

/// Calls a function of the plugin with room for its error.
fn with_error(call: impl FnOnce(*mut ErrorText) -> Status) -> Result<(), (Status, String)> {
    let mut buffer = vec![0; ErrorText::CAPACITY];
    let mut text = ErrorText::over(&mut buffer);
    let status = call(&raw mut text);
    if status == Status::OK {
        return Ok(());
    }
    let len = text.len.min(buffer.len());
    let said = String::from_utf8_lossy(&buffer[..len]).trim().to_owned();
    Err((status, if said.is_empty() { format!("it failed without saying why ({status:?})") } else { said }))
}

/// The shared part of a loaded plugin. The last one to let go of it unloads it: instances hold it too.
pub(super) struct Loaded {
    pub handle: PluginHandle,
    pub library: Library,
    shared: *mut c_void,
}

// SAFETY: the shared part is the plugin's to share (its contract: `load` gives what all shards may use at a time), and the
// table's functions say themselves from which threads they may be called, which the methods keep to.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// Calls `load`.
    pub(super) fn load(
        library: Library,
        handle: PluginHandle,
        shards: usize,
        name: &str,
        config: &str,
    ) -> Result<Arc<Loaded>, LoadError> {
        let api = services::host_table(handle, shards as u32);
        fatal::remember_code(
            handle,
            services::name_of(handle).unwrap_or_default(),
            library.module.load as *const () as usize,
        );
        let config = Slice::of(config.as_bytes());
        let mut shared = std::ptr::null_mut();
        // SAFETY: the host table stays for ever, the rest is alive during the call.
        with_error(|error| unsafe { (library.module.load)(api, config, &raw mut shared, error) })
            .map_err(|(_, said)| LoadError::Load { name: name.to_owned(), said })?;
        Ok(Arc::new(Loaded { handle, library, shared }))
    }

    /// Makes the instance of a shard. On that shard's thread.
    pub(super) fn init_shard(self: &Arc<Loaded>, shard: ShardId) -> Result<Instance, String> {
        let mut instance = std::ptr::null_mut();
        let init = self.library.module.init_shard;
        // SAFETY: `shared` is what `load` gave and lives as long as `self`; the rest is alive during the call.
        with_error(|error| unsafe { init(self.shared, u32::from(shard.0), &raw mut instance, error) })
            .map_err(|(_, said)| said)?;
        Ok(Instance { instance, owner: Some(Arc::clone(self)) })
    }

    /// Tells the plugin that every shard calls it.
    pub(super) fn activate(&self) -> Result<(), String> {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        with_error(|error| unsafe { (self.library.module.activate)(self.shared, error) })
            .map_err(|(_, said)| said)
    }

    /// Tells the plugin that no shard calls it any more.
    pub(super) fn deactivate(&self) {
        // SAFETY: `shared` is what `load` gave and lives as long as `self`.
        unsafe { (self.library.module.deactivate)(self.shared) };
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if services::end(self.handle) > 0 {
            // Its threads may still use the shared part, which stays for them.
            return;
        }
        // SAFETY: every instance holds an `Arc` of this, so that the last one is gone; nobody can call it again.
        unsafe { (self.library.module.unload)(self.shared) };
    }
}

/// The instance of one shard. Made, called and destroyed on that shard's thread; it only travels between.
pub(super) struct Instance {
    instance: *mut c_void,
    owner: Option<Arc<Loaded>>,
}

// SAFETY: the pointer is followed in `destroy` and by the hooks alone, both on the shard's thread.
unsafe impl Send for Instance {}
// SAFETY: `entry`, the only method that takes `&self`, copies the pointer and does not follow it.
unsafe impl Sync for Instance {}

impl Instance {
    /// The hook with this instance, for the chains of the shard it was made on.
    pub(super) fn entry(&self, hook: &Hook) -> Entry {
        // SAFETY: the hook's code is mapped and stays, the instance was made for the shard whose table this goes into, and
        // the transactions destroy it only after every table that names it has come back.
        unsafe { Entry::new(hook.function, self.instance) }.with_args(hook.args as *mut c_void)
    }

    /// What is called outside of events, for the chain table of the shard it was made on.
    pub(super) fn untimely(&self) -> Option<InstanceEntry> {
        let module = &self.owner.as_ref()?.library.module;
        // SAFETY: as in `entry`.
        Some(unsafe { InstanceEntry::new(module.on_timer, module.on_mail, self.instance) })
    }

    /// Calls `drop_shard`. On the shard's thread, when no chain of it names the instance any more. Gives back the shared part,
    /// whose end the shard must not wait for.
    pub(super) fn destroy(mut self) -> Option<Arc<Loaded>> {
        let owner = self.owner.take()?;
        // SAFETY: what `init_shard` gave, once, on the same thread, and out of every chain: the callers see to it.
        unsafe { (owner.library.module.drop_shard)(self.instance) };
        Some(owner)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // An instance nobody destroyed may still be in a chain, as when the process ends: it leaks, and so does what it needs.
        std::mem::forget(self.owner.take());
    }
}
