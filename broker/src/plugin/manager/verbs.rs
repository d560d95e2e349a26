//! Verbs that plugins add to `grapnel-ctl`: their lists, and the call of a verb on a thread of its
//! own. Called by the control plane. The thread counts as one of the plugin's threads, so that the
//! plugin's shared part stays until the call has returned. No caller waits beyond the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use grapnel_plugin_abi::raw::Status;
use grapnel_plugin_abi::verb::{Answer, Form, Kind, Wrong};
use serde::{Deserialize, Serialize};

use super::active::Active;
use super::loaded::{VerbEntry, VerbFailure};
use super::view::View;
use super::{PluginManager, names};
use crate::plugin::error::LoadError;

static BEGUN: AtomicU64 = AtomicU64::new(0);
static LATE: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static INVALID: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Counts of verb calls since the start: begun, not answered in time, refused because of the limit
/// or because no thread could be started, refused for their arguments, and failed. Any thread.
pub fn verbs_counted() -> [u64; 5] {
    [&BEGUN, &LATE, &REFUSED, &INVALID, &FAILED].map(|count| count.load(Ordering::Relaxed))
}

/// Counts a verb that has run and failed.
pub fn count_failed_verb() {
    FAILED.fetch_add(1, Ordering::Relaxed);
}

/// Counts a verb that was refused for its arguments.
pub fn count_invalid_verb() {
    INVALID.fetch_add(1, Ordering::Relaxed);
}

/// The verbs of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginVerbs {
    /// Name of the plugin here.
    pub plugin: String,
    /// Name of its manifest.
    pub kind: String,
    /// Its verbs.
    pub verbs: Vec<Form>,
}

/// Why a verb was not executed.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// There is no such plugin.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// It has no such verb.
    #[error("plugin {plugin} has no verb {verb:?}; {}", verbs_shown(known))]
    Unknown {
        /// The plugin.
        plugin: String,
        /// The verb that was requested.
        verb: String,
        /// The verbs that the plugin has.
        known: Vec<String>,
    },
    /// The verb runs only in a process of `grapnel-ctl`.
    #[error(
        "{verb} of plugin {plugin} runs with the rights of whoever calls it and not in the broker; call it with \
         grapnel-ctl {plugin} {verb}"
    )]
    Local {
        /// The plugin.
        plugin: String,
        /// The verb.
        verb: String,
    },
    /// The arguments do not match the declaration, or the plugin refuses them.
    #[error("{0}")]
    Arguments(String),
    /// The maximum number of calls is running.
    #[error(
        "as many verbs of plugin {plugin} run as may at a time, {running} (limits.plugin_verbs_max); try \
         again when one has, or reload the plugin"
    )]
    Busy {
        /// The plugin.
        plugin: String,
        /// How many calls are running.
        running: u64,
    },
    /// The plugin is about to end, or the system has no thread.
    #[error("{verb} of plugin {plugin} was not begun: {why}")]
    NotBegun {
        /// The plugin.
        plugin: String,
        /// The verb.
        verb: String,
        /// The reason.
        why: &'static str,
    },
    /// It did not answer in time.
    #[error(
        "plugin {plugin} has not answered {verb} within {deadline_ms} ms; what it was to do may still happen (the broker's log \
         says when it has returned)"
    )]
    Late {
        /// The plugin.
        plugin: String,
        /// The verb.
        verb: String,
        /// How long the caller waited, milliseconds.
        deadline_ms: u64,
    },
    /// It ended without a valid answer.
    #[error("{verb} of plugin {plugin} {what}; this is an error of the plugin")]
    Nonsense {
        /// The plugin.
        plugin: String,
        /// The verb.
        verb: String,
        /// What it did, as a predicate.
        what: String,
    },
    /// Its answer was larger than the limit.
    #[error(
        "{verb} of plugin {plugin} answered with more than {bytes_max} bytes (limits.plugin_verb_bytes_max)"
    )]
    TooLarge {
        /// The plugin.
        plugin: String,
        /// The verb.
        verb: String,
        /// The limit.
        bytes_max: usize,
    },
    /// The named thing does not exist, in the plugin's words.
    #[error("{0}")]
    Absent(String),
    /// It failed, in the plugin's words.
    #[error("{0}")]
    Failed(String),
}

fn verbs_shown(known: &[String]) -> String {
    match known {
        [] => "it has none".to_owned(),
        known => format!("it has {}", known.join(", ")),
    }
}

/// A call that has been started.
#[derive(Debug)]
pub struct StartedCall {
    plugin: String,
    verb: String,
    /// How long it may take.
    pub deadline: Duration,
    abandoned: Arc<AtomicBool>,
}

impl StartedCall {
    /// The caller waits no longer: marks the call as abandoned.
    pub fn is_late(&self) -> VerbError {
        self.abandoned.store(true, Ordering::Relaxed);
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        LATE.fetch_add(1, Ordering::Relaxed);
        let StartedCall { plugin, verb, .. } = self;
        tracing::warn!(plugin, "the verb {verb} has not answered within {deadline_ms} ms");
        VerbError::Late { plugin: plugin.clone(), verb: verb.clone(), deadline_ms }
    }

    /// The thread of the call has ended without an answer.
    pub fn is_lost(&self) -> VerbError {
        let what = "ended without an answer".to_owned();
        count_failed_verb();
        VerbError::Nonsense { plugin: self.plugin.clone(), verb: self.verb.clone(), what }
    }
}

impl Drop for StartedCall {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Receives the answer of a call, on the thread of the call.
pub type AnswerCallback = Box<dyn FnOnce(Result<Answer, VerbError>) + Send>;

impl PluginManager {
    /// The verbs of all loaded plugins that have any, with the deadlines in force.
    pub fn all_verbs(&self) -> Vec<PluginVerbs> {
        self.view()
            .active
            .iter()
            .filter(|plugin| !plugin.about.verbs.is_empty())
            .map(|plugin| self.in_force(plugin))
            .collect()
    }

    /// The verbs of a plugin, with the deadlines in force.
    ///
    /// # Errors
    /// [`LoadError::NotLoaded`].
    pub fn verbs(&self, name: &str) -> Result<PluginVerbs, LoadError> {
        find(&self.view(), name).map(|plugin| self.in_force(plugin))
    }

    /// The declarations, with the operator's deadline where the verb sets none: a caller must not
    /// give up before that deadline.
    fn in_force(&self, plugin: &Active) -> PluginVerbs {
        let about = &plugin.about;
        let mut verbs = about.verbs.clone();
        for form in verbs.iter_mut().filter(|form| form.deadline_ms == 0 && !form.local) {
            form.deadline_ms = self.settings.limits.plugin_verb_timeout_ms;
        }
        PluginVerbs { plugin: plugin.name.to_string(), kind: about.name.clone(), verbs }
    }

    /// The declaration of a verb.
    ///
    /// # Errors
    /// [`VerbError::Plugin`], [`VerbError::Unknown`].
    pub fn verb(&self, name: &str, verb: &str) -> Result<Form, VerbError> {
        form(find(&self.view(), name)?, verb).cloned()
    }

    /// Starts a call of a verb with the given arguments on a thread of its own, and returns at
    /// once; `done` gets the answer on that thread.
    ///
    /// # Errors
    /// [`VerbError`]; the plugin was not called, and `done` is not called.
    pub fn begin_verb(
        &self,
        name: &str,
        verb: &str,
        given: &[(String, String)],
        done: AnswerCallback,
    ) -> Result<StartedCall, VerbError> {
        // Holds the lock until the thread is registered with the plugin: the plugin's end then
        // waits for it.
        let view = self.view();
        let plugin = find(&view, name)?;
        let form = form(plugin, verb)?;
        if form.local {
            return Err(VerbError::Local { plugin: name.to_owned(), verb: verb.to_owned() });
        }
        let mut arguments = checked(form, given).inspect_err(|_| count_invalid_verb())?;
        let limits = &self.settings.limits;
        let deadline = Duration::from_millis(form.deadline_ms(&arguments, limits.plugin_verb_timeout_ms));
        arguments.extend(filled_in(form, plugin));
        let entry = plugin.loaded.verb_entry().ok_or_else(|| VerbError::Nonsense {
            plugin: name.to_owned(),
            verb: verb.to_owned(),
            what: "is declared, and its table has no function for verbs".to_owned(),
        })?;
        let abandoned = Arc::new(AtomicBool::new(false));
        let call = Call {
            entry,
            plugin: name.to_owned(),
            verb: verb.to_owned(),
            arguments,
            bytes_max: usize::try_from(limits.plugin_verb_bytes_max).unwrap_or(usize::MAX),
            abandoned: Arc::clone(&abandoned),
        };
        let (max, thread) = (limits.plugin_verbs_max, format!("verb {verb}"));
        self.services.begin_verb(plugin.handle(), &thread, max, move || call.run(), done).map_err(
            |status| {
                REFUSED.fetch_add(1, Ordering::Relaxed);
                let error = refused(status, name, verb, max);
                tracing::info!(plugin = name, "the verb {verb} was refused: {error}");
                error
            },
        )?;
        BEGUN.fetch_add(1, Ordering::Relaxed);
        if form.changes {
            tracing::info!(plugin = name, "the verb {verb}, which changes something, has begun");
        }
        Ok(StartedCall { plugin: name.to_owned(), verb: verb.to_owned(), deadline, abandoned })
    }
}

fn find<'a>(view: &'a View, name: &str) -> Result<&'a Active, LoadError> {
    let found = view.active.iter().find(|plugin| &*plugin.name == name);
    let not_loaded = || LoadError::NotLoaded { name: name.to_owned(), loaded: names(&view.active) };
    found.map(AsRef::as_ref).ok_or_else(not_loaded)
}

fn form<'a>(plugin: &'a Active, verb: &str) -> Result<&'a Form, VerbError> {
    plugin.about.verbs.iter().find(|form| form.name == verb).ok_or_else(|| VerbError::Unknown {
        plugin: plugin.name.to_string(),
        verb: verb.to_owned(),
        known: plugin.about.verbs.iter().map(|form| form.name.clone()).collect(),
    })
}

/// The given arguments for the plugin.
fn checked(form: &Form, given: &[(String, String)]) -> Result<Vec<(String, String)>, VerbError> {
    let verb = &form.name;
    let arguments =
        form.arguments(given).map_err(|Wrong(reason)| VerbError::Arguments(format!("{verb}: {reason}")))?;
    for (argument, value) in given {
        form.argument(argument)
            .map_or(Ok(()), |declared| declared.fits_broker(value))
            .map_err(|what| VerbError::Arguments(format!("{verb}: {argument}: {what}")))?;
    }
    Ok(arguments)
}

/// The arguments that the broker fills in.
fn filled_in(form: &Form, plugin: &Active) -> Vec<(String, String)> {
    let wanted = form.arguments.iter().filter(|argument| argument.kind == Kind::Plugin);
    // All fields have plain types, so that they can always be serialized as JSON.
    let about = || serde_json::to_string(&plugin.info()).unwrap_or_default();
    wanted.map(|argument| (argument.name.clone(), about())).collect()
}

fn refused(status: Status, plugin: &str, verb: &str, max: u64) -> VerbError {
    let (plugin, verb) = (plugin.to_owned(), verb.to_owned());
    match status {
        Status::FULL => VerbError::Busy { plugin, running: max },
        Status::STALE => VerbError::NotBegun { plugin, verb, why: "the plugin is about to end; try again" },
        _ => VerbError::NotBegun { plugin, verb, why: "the system has no thread for it" },
    }
}

/// A call until its thread takes it.
struct Call {
    entry: VerbEntry,
    plugin: String,
    verb: String,
    arguments: Vec<(String, String)>,
    bytes_max: usize,
    abandoned: Arc<AtomicBool>,
}

impl Call {
    fn run(self) -> Result<Answer, VerbError> {
        let Call { entry, plugin, verb, arguments, bytes_max, abandoned } = self;
        let written = entry.call(&verb, &arguments, bytes_max, &abandoned);
        if abandoned.load(Ordering::Relaxed) {
            tracing::warn!(
                plugin,
                "the verb {verb} has returned when nobody waited for it any more; its answer is lost"
            );
        }
        outcome(written, (plugin, verb), bytes_max).inspect_err(|error| match error {
            VerbError::Arguments(_) => count_invalid_verb(),
            _ => count_failed_verb(),
        })
    }
}

/// The result of a call, from what the plugin has returned and written.
pub(in crate::plugin) fn outcome(
    written: Result<Vec<u8>, VerbFailure>,
    (plugin, verb): (String, String),
    bytes_max: usize,
) -> Result<Answer, VerbError> {
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(VerbFailure::Full) => return Err(VerbError::TooLarge { plugin, verb, bytes_max }),
        Err(VerbFailure::Reported(Status::INVALID, reason)) => return Err(VerbError::Arguments(reason)),
        Err(VerbFailure::Reported(Status::ABSENT, reason)) => return Err(VerbError::Absent(reason)),
        Err(VerbFailure::Reported(_, reason)) => return Err(VerbError::Failed(reason)),
    };
    Answer::read(&bytes).map_err(|what| VerbError::Nonsense {
        plugin,
        verb,
        what: format!("gave an answer that {what}"),
    })
}
