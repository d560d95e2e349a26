//! Why a plugin was not loaded, reloaded or unloaded. Each error is one sentence: what happened, to
//! which plugin, and what to do. No sentence contains the plugin's configuration, which may hold
//! secrets; texts of the plugin itself are included.

use std::path::PathBuf;

use grapnel_engine::id::ShardId;
use grapnel_plugin_abi::counted;

use crate::shard::handle::Unanswered;

/// Why an operation on a plugin failed. Everything that had been done is undone.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An invalid name.
    #[error("{name:?} is no name of a plugin: 1 to 64 letters, digits, - and _")]
    Name {
        /// The given name.
        name: String,
    },
    /// No file was found for the name.
    #[error(
        "there is no plugin named {name}; looked for {}; build it, or give the path of its file",
        list(looked)
    )]
    NotFound {
        /// The name.
        name: String,
        /// The files that were looked for.
        looked: Vec<PathBuf>,
    },
    /// The configuration is not an object.
    #[error("cannot load {name}: its configuration must be a table of keys and values")]
    ConfigShape {
        /// The plugin.
        name: String,
    },
    /// The file could not be read, or its private copy could not be written.
    #[error("cannot load {}: {what}: {source}", file.display())]
    File {
        /// The plugin's file.
        file: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is truncated.
    #[error(
        "cannot load {}: it is truncated ({have} bytes of {need}); build or copy it again",
        file.display()
    )]
    Truncated {
        /// The plugin's file.
        file: PathBuf,
        /// Size of the file.
        have: u64,
        /// Size that its headers claim.
        need: u64,
    },
    /// Not a shared library for this machine.
    #[error("cannot load {}: {what}; give the .so of a plugin that was built for this machine", file.display())]
    NotALibrary {
        /// The plugin's file.
        file: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The dynamic linker refused it.
    #[error("cannot load {}: the dynamic linker says: {reason}", file.display())]
    Linker {
        /// The plugin's file.
        file: PathBuf,
        /// The linker's message.
        reason: String,
    },
    /// A library that exports no plugin.
    #[error(
        "cannot load {}: it is a library but not a Grapnel plugin; export one with the plugin! macro of grapnel-plugin-abi, or \
         grapnel_plugin_v1 in C",
        file.display()
    )]
    NotAPlugin {
        /// The plugin's file.
        file: PathBuf,
    },
    /// Built for another version of the ABI.
    #[error(
        "cannot load {}: built for ABI {built}, this broker speaks {speaks}; {remedy}",
        file.display()
    )]
    ForeignAbi {
        /// The plugin's file.
        file: PathBuf,
        /// The version for which it was built.
        built: String,
        /// The versions that this broker supports.
        speaks: String,
        /// What to do.
        remedy: String,
    },
    /// The ABI version matches, but the layout of its tables differs.
    #[error(
        "cannot load {}: it claims ABI {built}, but its tables are laid out differently ({what}); rebuild it with the \
         grapnel-plugin-abi of this broker",
        file.display()
    )]
    ForeignLayout {
        /// The plugin's file.
        file: PathBuf,
        /// The version for which it was built.
        built: String,
        /// What differs.
        what: String,
    },
    /// Its table of functions in C is invalid.
    #[error("cannot load {}: {what}; this is an error of the plugin", file.display())]
    BrokenTable {
        /// The plugin's file.
        file: PathBuf,
        /// What is wrong with the table.
        what: String,
    },
    /// Its manifest or its list of hooks is invalid.
    #[error("cannot load {name}: {what}; this is an error of the plugin")]
    Manifest {
        /// The plugin.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// Its configuration is invalid.
    #[error("cannot load {name}: its configuration is wrong: {reason}")]
    Config {
        /// The plugin.
        name: String,
        /// What the plugin said.
        reason: String,
    },
    /// No bit in the ancestry of messages is left for its name.
    #[error(
        "cannot load {name}: {places} other plugins are loaded or have led to messages since the broker started, and each keeps its \
         place in the ancestry of these, so that it does not see them; unload some that never publish, or restart the broker",
        places = super::host::ancestry::PLACES
    )]
    Ancestry {
        /// The plugin.
        name: String,
    },
    /// A plugin that it needs is not loaded or is disabled.
    #[error(
        "cannot load {name}: it needs plugin {missing}, which is {}",
        if *disabled { "disabled; enable that first" } else { "not loaded; load that first" }
    )]
    Needs {
        /// The plugin.
        name: String,
        /// The plugin that it needs.
        missing: String,
        /// Whether that plugin is loaded, but disabled.
        disabled: bool,
    },
    /// Plugins need each other.
    #[error("cannot load {name}: plugins need each other in a circle: {}", cycle.join(" needs "))]
    Cycle {
        /// The plugin.
        name: String,
        /// The cycle, from the plugin to itself.
        cycle: Vec<String>,
    },
    /// Other plugins need it.
    #[error("cannot {doing} {name}: it is needed by {}; {doing} that first", by.join(" and "))]
    NeededBy {
        /// The requested operation: unload or disable.
        doing: &'static str,
        /// The plugin.
        name: String,
        /// The plugins that need it.
        by: Vec<String>,
    },
    /// Its state cannot be handed over to the version that replaces it.
    #[error(
        "cannot reload {name}: its state on shard {shard} cannot be handed over: {reason}; nothing has changed"
    )]
    Handover {
        /// The plugin.
        name: String,
        /// The shard.
        shard: ShardId,
        /// The reason; for an error of the plugin, with the function that failed.
        reason: String,
    },
    /// It refused a configuration while it was running.
    #[error("cannot configure {name}: {reason}; its configuration is the one it had")]
    Configure {
        /// The plugin.
        name: String,
        /// What the plugin said.
        reason: String,
    },
    /// Its `load` failed.
    #[error("cannot load {name}: {reason}")]
    Load {
        /// The plugin.
        name: String,
        /// What the plugin said.
        reason: String,
    },
    /// It could not be started on a shard.
    #[error("cannot load {name}: on shard {shard}: {reason}")]
    InitShard {
        /// The plugin.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What the plugin said.
        reason: String,
    },
    /// Its `activate` failed.
    #[error("cannot load {name}: {reason}; nothing has changed")]
    Activate {
        /// The plugin.
        name: String,
        /// What the plugin said.
        reason: String,
    },
    /// A shard did not answer.
    #[error("nothing has changed for plugin {name}: {unanswered}")]
    Shard {
        /// The plugin.
        name: String,
        /// Which shard, and how long the caller waited.
        unanswered: Unanswered,
    },
    /// A new version failed; the old version stays loaded.
    #[error(
        "{}; version {version} {}",
        unchanged(error, doing, name),
        if *enabled { "goes on" } else { "stays loaded, and disabled" }
    )]
    GoesOn {
        /// Why the new version failed.
        error: Box<LoadError>,
        /// The requested operation: reload or configure.
        doing: &'static str,
        /// The plugin.
        name: String,
        /// The version that stays loaded.
        version: String,
        /// Whether it is in the chains.
        enabled: bool,
    },
    /// A required plugin could not be loaded at the start.
    #[error("{error}; the broker does not start without plugin {name}: {remedy}")]
    Required {
        /// Why it could not be loaded.
        error: Box<LoadError>,
        /// The plugin.
        name: String,
        /// Why it is required, and how to start without it.
        remedy: String,
    },
    /// A plugin of this name is loaded already.
    #[error("plugin {name} is loaded already; reload it, or load this one under another name")]
    AlreadyLoaded {
        /// The plugin.
        name: String,
    },
    /// No plugin of this name is loaded.
    #[error("no plugin named {name} is loaded; loaded are: {}", names(loaded))]
    NotLoaded {
        /// The name.
        name: String,
        /// The loaded plugins.
        loaded: Vec<String>,
    },
    /// After the change, no plugin would decide who may connect or what clients may do.
    #[error(
        "cannot {doing} {name}, because other machines can reach the broker: {}; load another plugin that decides first, or \
         give --force (force=true in the API)",
        follows.join("; ")
    )]
    LastDecider {
        /// The requested operation: unload, disable, reload or configure a plugin, or change one of
        /// its hooks.
        doing: &'static str,
        /// The plugin.
        name: String,
        /// The hook points that would have no hook left, each with the consequence.
        follows: Vec<String>,
    },
    /// There are too many retired generations.
    #[error(
        "cannot load {name}: {} with {} of mapped code cannot be freed, and limits.plugins_retired_max allows no more; \
         raise it or restart the broker",
        counted(*retired, "retired generation"),
        counted(*bytes, "byte")
    )]
    RetiredFull {
        /// The plugin.
        name: String,
        /// The number of retired generations.
        retired: usize,
        /// Bytes of code that they keep mapped.
        bytes: u64,
    },
}

impl LoadError {
    /// The cause, without the part about what follows from it.
    pub fn cause(&self) -> &LoadError {
        match self {
            LoadError::GoesOn { error, .. } | LoadError::Required { error, .. } => error.cause(),
            cause => cause,
        }
    }
}

/// An error of a new version as one about the change of the plugin, which stays loaded.
fn unchanged(error: &LoadError, doing: &str, name: &str) -> String {
    let text = error.to_string();
    if text.starts_with(&format!("cannot {doing} {name}")) {
        return text;
    }
    // `cannot load NAME: …`, or `cannot load FILE: …`.
    let reason = text.strip_prefix("cannot load ").unwrap_or(&text);
    let reason = reason.strip_prefix("cannot reload ").unwrap_or(reason);
    let reason = reason.strip_prefix(&format!("{name}: ")).unwrap_or(reason);
    format!("cannot {doing} {name}: {reason}")
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn names(loaded: &[String]) -> String {
    if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") }
}
