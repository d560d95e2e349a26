//! What a plugin declares before it is loaded: its name and version, the schema of its
//! configuration, the plugins that it needs, and its hooks. Used by transactions and by the check
//! of a file; starts nothing.

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;

use grapnel_engine::hook::Entry;
use grapnel_engine::topic::validate_filter;
use grapnel_plugin_abi::host::MountRequest;
use grapnel_plugin_abi::module::{Manifest, Mount};
use grapnel_plugin_abi::point::{FaultPolicy, HookPoint};
use grapnel_plugin_abi::raw::{HookFn, MANIFEST_CLOSABLE, MANIFEST_IN_PLACE, Slice, Status};
use grapnel_plugin_abi::verb::Form;
use serde_json::Value;

use super::library::Library;
use super::schema::Schema;
use super::with_error;
use crate::plugin::error::LoadError;
use crate::plugin::report::HookInfo;
use crate::plugin::report::policy_name;

/// Maximum number of hooks of one plugin. A larger number is taken for an endless list.
const MOUNTS_MAX: u32 = 256;

/// Maximum number of plugins that one plugin may need. A larger number is taken for an endless
/// list.
const DEPENDS_MAX: usize = 64;

/// The manifest of a plugin.
#[derive(Debug)]
pub(in crate::plugin) struct PluginManifest {
    pub name: String,
    pub version: String,
    pub description: String,
    pub sdk: String,
    /// The schema of its configuration, if it has one.
    pub schema: Option<Schema>,
    /// Names of plugins that must be loaded before it.
    pub depends: Vec<String>,
    /// The verbs that it adds to `grapnel-ctl`.
    pub verbs: Vec<Form>,
    /// Whether the manifest says that the library may be unmapped. This is reported, but the broker
    /// never unmaps it (ABI.md, "What closable means").
    pub closable: bool,
    /// Whether the mapped code may be used for another load.
    pub in_place: bool,
}

/// A plugin's file that has been mapped and checked and whose manifest was read. Nothing of the
/// plugin has been started.
pub(in crate::plugin) struct Opened {
    pub library: Library,
    pub file: PathBuf,
    /// Name of the plugin here.
    pub name: String,
    pub about: PluginManifest,
    pub hooks: Vec<Hook>,
}

/// One hook of a plugin.
#[derive(Clone)]
pub(in crate::plugin) struct Hook {
    pub point: HookPoint,
    pub name: String,
    pub priority: i32,
    pub deadline_ms: u32,
    /// Its own fault policy; `None` for that of the hook point.
    own_policy: Option<FaultPolicy>,
    /// Whether it is called for deliveries at client.authorize.
    pub deliver: bool,
    /// The topics for which it is called; `None` for all.
    pub topics: Option<Arc<[Box<str>]>>,
    function: HookFn,
    args: usize,
}

impl Hook {
    /// The result of a fault or a missed deadline.
    pub(in crate::plugin) fn policy(&self) -> FaultPolicy {
        self.own_policy.unwrap_or_else(|| self.point.fault_policy())
    }

    /// Whether both have the same function.
    pub(in crate::plugin) fn same_function(&self, other: &Hook) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function)
    }

    /// The hook of a mount request, at an existing hook point.
    ///
    /// # Errors
    /// What is wrong with the request, as a predicate without a subject.
    pub(in crate::plugin) fn of(request: &MountRequest<'_>) -> Result<Hook, String> {
        let MountRequest { point, function, name, priority, deadline_ms, policy, deliver, ref topics, args } =
            *request;
        if deliver && point != HookPoint::ClientAuthorize {
            return Err(format!(
                "mounts {name} for deliveries, but {} does not authorize them",
                point.name()
            ));
        }
        if !topics.is_empty() && !point.has_topics() {
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

    /// The row of the hook, with the values in force.
    pub(in crate::plugin) fn info(&self, priority: i32, deadline_ms: u32, policy: FaultPolicy) -> HookInfo {
        HookInfo {
            point: self.point.name().to_owned(),
            name: self.name.clone(),
            priority,
            deadline_ms,
            policy: policy_name(policy).to_owned(),
            topics: self.topics.iter().flat_map(|topics| topics.iter().map(ToString::to_string)).collect(),
            deliver: self.deliver,
            unmounted: false,
        }
    }

    /// The hook with an instance.
    ///
    /// # Safety
    /// As for [`Entry::new`].
    pub(in crate::plugin) unsafe fn entry(&self, instance: *mut c_void) -> Entry {
        // SAFETY: the caller vouches for the instance; the code of the function stays mapped.
        unsafe { Entry::new(self.function, instance) }.with_args(self.args as *mut c_void)
    }
}

impl Library {
    /// Reads the plugin's manifest.
    pub(in crate::plugin) fn about(&self, file: &str) -> Result<PluginManifest, LoadError> {
        let mut manifest = Manifest::EMPTY;
        // SAFETY: the table has passed the checks of its layout, and `manifest` is ours.
        let status = unsafe { (self.module.manifest)(&raw mut manifest) };
        if status != Status::OK {
            return Err(wrong(file, format!("it gives no manifest ({status:?})")));
        }
        // SAFETY: the plugin's texts stay valid until the next call of `manifest` or `mount`, and
        // are copied here.
        let text = |slice: Slice| unsafe { slice.text() }.to_owned();
        let name = text(manifest.name);
        if !super::lookup::is_name(&name) {
            return Err(wrong(file, format!("its manifest names it {name:?}, which is no name of a plugin")));
        }
        let schema = text(manifest.config_schema);
        let schema = (!schema.is_empty()).then(|| Schema::parse(&schema)).transpose();
        let schema = schema.map_err(|what| wrong(file, format!("the schema of its configuration {what}")))?;
        let (version, description, sdk) =
            (text(manifest.version), text(manifest.description), text(manifest.sdk));
        let verbs =
            Form::list(&text(manifest.verbs)).map_err(|what| wrong(file, format!("its verbs {what}")))?;
        let flags = known_flags(manifest.flags).map_err(|what| wrong(file, what))?;
        Ok(PluginManifest {
            name,
            version,
            description,
            sdk,
            schema,
            depends: depends(file, &manifest)?,
            verbs,
            closable: flags & MANIFEST_CLOSABLE != 0,
            in_place: flags & MANIFEST_IN_PLACE != 0,
        })
    }

    /// Reads the plugin's list of hooks.
    pub(in crate::plugin) fn hooks(&self, name: &str) -> Result<Vec<Hook>, LoadError> {
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

    /// Calls the plugin's check of a configuration, which starts nothing.
    fn check_config(&self, name: &str, config: &str) -> Result<(), LoadError> {
        let config = Slice::of(config.as_bytes());
        // SAFETY: the configuration and the error text are alive during the call.
        with_error(|error| unsafe { (self.module.check_config)(config, error) })
            .map_err(|(_, reason)| LoadError::Config { name: name.to_owned(), reason })
    }
}

/// Checks the values of a configuration against the plugin's schema, then calls the plugin's own
/// check, then looks for missing keys.
pub(in crate::plugin) fn check_config(
    library: &Library,
    about: &PluginManifest,
    name: &str,
    config: &Value,
) -> Result<(), LoadError> {
    if !config.is_object() {
        return Err(LoadError::ConfigShape { name: name.to_owned() });
    }
    let wrong = |reason| LoadError::Config { name: name.to_owned(), reason };
    let Some(schema) = &about.schema else { return library.check_config(name, &config.to_string()) };
    schema.check_values(config).map_err(wrong)?;
    library.check_config(name, &config.to_string())?;
    schema.check_missing(config).map_err(wrong)
}

/// The flags, if all are known. An unknown flag is refused, because it may require something that
/// this broker does not do.
fn known_flags(flags: u32) -> Result<u32, String> {
    match flags & !(MANIFEST_CLOSABLE | MANIFEST_IN_PLACE) {
        0 => Ok(flags),
        unknown => Err(format!("its manifest has flags that this broker does not know ({unknown:#x})")),
    }
}

fn depends(file: &str, manifest: &Manifest) -> Result<Vec<String>, LoadError> {
    if manifest.depends_len == 0 {
        return Ok(Vec::new());
    }
    if manifest.depends_len > DEPENDS_MAX || manifest.depends.is_null() {
        return Err(wrong(
            file,
            format!("it needs {} plugins; at most {DEPENDS_MAX} can be", manifest.depends_len),
        ));
    }
    // SAFETY: the plugin's manifest says that there are so many names; they stay valid until the
    // next call of `manifest` or `mount`.
    let names = unsafe { std::slice::from_raw_parts(manifest.depends, manifest.depends_len) };
    let mut depends: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        // SAFETY: as above.
        let name = unsafe { name.text() };
        if !super::lookup::is_name(name) {
            return Err(wrong(file, format!("it needs {name:?}, which is no name of a plugin")));
        }
        if !depends.iter().any(|known| known == name) {
            depends.push(name.to_owned());
        }
    }
    Ok(depends)
}

fn wrong(name: &str, what: String) -> LoadError {
    LoadError::Manifest { name: name.to_owned(), what }
}

fn hook_of(name: &str, mount: &Mount) -> Result<Hook, LoadError> {
    // SAFETY: the plugin's texts stay valid until the next call of `mount`, and are copied here.
    let request = unsafe { MountRequest::of(mount) }.map_err(|what| wrong(name, format!("it {what}")))?;
    Hook::of(&request).map_err(|what| wrong(name, format!("it {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_flag_is_refused() {
        for known in [0, MANIFEST_CLOSABLE, MANIFEST_IN_PLACE, MANIFEST_CLOSABLE | MANIFEST_IN_PLACE] {
            assert_eq!(known_flags(known), Ok(known));
        }
        let expected = "its manifest has flags that this broker does not know (0x4)";
        assert_eq!(known_flags(MANIFEST_CLOSABLE | 4), Err(expected.to_owned()));
    }
}
