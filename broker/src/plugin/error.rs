//! Why a plugin was not loaded, reloaded or unloaded: one sentence each that says what happened, to
//! which plugin, and what to do. No sentence contains the plugin's configuration, which may hold
//! secrets; texts of the plugin itself are passed on.

use std::path::PathBuf;

use grapnel_engine::id::ShardId;

use crate::shard::handle::Unanswered;

/// Why an operation on a plugin failed. Whatever had been done by then has been undone.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A name that cannot be one.
    #[error("{name:?} is no name of a plugin: 1 to 64 letters, digits, - and _")]
    Name {
        /// What was given.
        name: String,
    },
    /// Looked up by name, and not there.
    #[error(
        "there is no plugin named {name}; looked for {}; build it, or give the path of its file",
        list(looked)
    )]
    NotFound {
        /// The name.
        name: String,
        /// Where it would have been.
        looked: Vec<PathBuf>,
    },
    /// The configuration is not an object.
    #[error("cannot load {name}: its configuration must be a table of keys and values")]
    ConfigShape {
        /// The plugin.
        name: String,
    },
    /// The file could not be read, or its private copy not written.
    #[error("cannot load {}: {what}: {source}", file.display())]
    File {
        /// The plugin's file.
        file: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file ends before it should.
    #[error(
        "cannot load {}: it is truncated ({have} bytes of {need}); build or copy it again",
        file.display()
    )]
    Truncated {
        /// The plugin's file.
        file: PathBuf,
        /// Bytes there are.
        have: u64,
        /// Bytes its headers speak of.
        need: u64,
    },
    /// No shared library for this machine.
    #[error("cannot load {}: {what}; give the .so of a plugin that was built for this machine", file.display())]
    NotALibrary {
        /// The plugin's file.
        file: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The dynamic linker refused it.
    #[error("cannot load {}: the dynamic linker says: {said}", file.display())]
    Linker {
        /// The plugin's file.
        file: PathBuf,
        /// Its message.
        said: String,
    },
    /// A library, and no plugin.
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
        /// What it was built for.
        built: String,
        /// What this broker takes.
        speaks: String,
        /// What to do about it.
        remedy: String,
    },
    /// The same version of the ABI, laid out differently.
    #[error(
        "cannot load {}: it claims ABI {built}, but its tables are laid out differently ({what}); rebuild it with the \
         grapnel-plugin-abi of this broker",
        file.display()
    )]
    ForeignLayout {
        /// The plugin's file.
        file: PathBuf,
        /// What it was built for.
        built: String,
        /// What differs.
        what: String,
    },
    /// What it exports in C is no table of functions.
    #[error("cannot load {}: {what}; this is an error of the plugin", file.display())]
    BrokenTable {
        /// The plugin's file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It does not say who it is, or mounts something impossible.
    #[error("cannot load {name}: {what}; this is an error of the plugin")]
    Manifest {
        /// The plugin.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// It does not take its configuration.
    #[error("cannot load {name}: its configuration is wrong: {said}")]
    Config {
        /// The plugin.
        name: String,
        /// What the plugin said.
        said: String,
    },
    /// No place in the ancestry of messages is left for its name.
    #[error(
        "cannot load {name}: {places} other plugins are loaded or have led to messages since the broker started, and each keeps its \
         place in the ancestry of these, so that it does not see them; unload some that never publish, or restart the broker",
        places = super::host::ancestry::PLACES
    )]
    Ancestry {
        /// The plugin.
        name: String,
    },
    /// A plugin that it needs is not there.
    #[error(
        "cannot load {name}: it needs plugin {missing}, which is {}",
        if *disabled { "disabled; enable that first" } else { "not loaded; load that first" }
    )]
    Needs {
        /// The plugin.
        name: String,
        /// What it needs.
        missing: String,
        /// Whether that is loaded, but disabled.
        disabled: bool,
    },
    /// Plugins need each other.
    #[error("cannot load {name}: plugins need each other in a circle: {}", circle.join(" needs "))]
    Circle {
        /// The plugin.
        name: String,
        /// The way round, from the plugin to itself.
        circle: Vec<String>,
    },
    /// Others need it.
    #[error("cannot {doing} {name}: it is needed by {}; {doing} that first", by.join(" and "))]
    NeededBy {
        /// What was asked for: unload or disable.
        doing: &'static str,
        /// The plugin.
        name: String,
        /// Who needs it.
        by: Vec<String>,
    },
    /// Its state cannot be handed to the version that is to replace it.
    #[error(
        "cannot reload {name}: its state on shard {shard} cannot be handed over: {said}; nothing has changed"
    )]
    Handover {
        /// The plugin.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What the plugin said, and where.
        said: String,
    },
    /// It refused a configuration while it ran.
    #[error("cannot configure {name}: {said}; its configuration is the one it had")]
    Configure {
        /// The plugin.
        name: String,
        /// What the plugin said.
        said: String,
    },
    /// Its `load` failed.
    #[error("cannot load {name}: {said}")]
    Load {
        /// The plugin.
        name: String,
        /// What the plugin said.
        said: String,
    },
    /// It could not be started on a shard.
    #[error("cannot load {name}: on shard {shard}: {said}")]
    InitShard {
        /// The plugin.
        name: String,
        /// The shard.
        shard: ShardId,
        /// What the plugin said.
        said: String,
    },
    /// Its `activate` failed.
    #[error("cannot load {name}: {said}; nothing has changed")]
    Activate {
        /// The plugin.
        name: String,
        /// What the plugin said.
        said: String,
    },
    /// A shard did not take part.
    #[error("nothing has changed for plugin {name}: {unanswered}")]
    Shard {
        /// The plugin.
        name: String,
        /// Which shard, and how long it was waited for.
        unanswered: Unanswered,
    },
    /// A version was to take the place of one that is loaded, and did not.
    #[error("{error}; plugin {name} {version} {}", if *enabled { "goes on" } else { "stays loaded, and disabled" })]
    GoesOn {
        /// What was wrong.
        error: Box<LoadError>,
        /// The plugin.
        name: String,
        /// The version that is there.
        version: String,
        /// Whether it is in the chains.
        enabled: bool,
    },
    /// It is there already.
    #[error("plugin {name} is loaded already; reload it, or load this one under another name")]
    AlreadyLoaded {
        /// The plugin.
        name: String,
    },
    /// It is not there.
    #[error("no plugin named {name} is loaded; loaded are: {}", names(loaded))]
    NotLoaded {
        /// The name.
        name: String,
        /// What is.
        loaded: Vec<String>,
    },
    /// Nobody would decide any more who may connect or what clients may do.
    #[error(
        "cannot {doing} {name}, as others than this machine reach the broker: {}; load another plugin that decides first, or \
         say --force (force=true in the API)",
        follows.join("; ")
    )]
    LastDecider {
        /// What was asked for: unload, disable, reload or configure a plugin, or change a hook of it.
        doing: &'static str,
        /// The plugin.
        name: String,
        /// The points that would have no hook left, each with what that means.
        follows: Vec<String>,
    },
    /// Too many retired generations.
    #[error(
        "cannot load {name}: {retired} retired generations hold {bytes} bytes of mapped code, and plugins_retired_max allows \
         no more; raise it or restart the broker"
    )]
    RetiredFull {
        /// The plugin.
        name: String,
        /// How many there are.
        retired: usize,
        /// The code they keep mapped.
        bytes: u64,
    },
}

impl LoadError {
    /// What was wrong, whatever goes on.
    pub fn cause(&self) -> &LoadError {
        match self {
            LoadError::GoesOn { error, .. } => error.cause(),
            cause => cause,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn names(loaded: &[String]) -> String {
    if loaded.is_empty() { "none".to_owned() } else { loaded.join(", ") }
}
