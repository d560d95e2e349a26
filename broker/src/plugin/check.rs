//! Checks a plugin's file without loading it, in a child process: opening the file runs code of the
//! plugin, which may crash or hang. Used by `grapnel-ctl plugins check` and `grapnel
//! --check-config`, and by `grapnel-ctl` for local verbs. Needs no broker and calls no `load`.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use grapnel_plugin_abi::verb::{self, Form};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::LoadError;
use super::file::copies::Copies;
use super::file::library::{self, Library, Open};
use super::file::lookup;
use super::file::manifest::check_config;
use super::manager::loaded::VerbEntry;
use super::manager::order::{self, Node};
use super::manager::record::Record;
use super::manager::verbs::{VerbError, outcome};
use super::report::HookInfo;
use crate::config::{Config, PluginConfig};

/// The first argument of the child process. Internal, not documented for users.
const CHILD: &str = "check-plugin-in-child";

/// Maximum size of the answer of a local verb, bytes.
const VERB_BYTES_MAX: usize = 1 << 20;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with the file, in one sentence. The fields below are then filled as far as the
    /// check came.
    pub error: Option<String>,
    /// Name of its manifest.
    pub name: String,
    /// Version of its manifest.
    pub version: String,
    /// Description of its manifest.
    pub description: String,
    /// The SDK that it was built with.
    pub sdk: String,
    /// Bytes of memory that its code and data take.
    pub mapped_bytes: u64,
    /// Plugins that it needs.
    pub depends: Vec<String>,
    /// The hooks it would mount.
    pub hooks: Vec<HookInfo>,
    /// The verbs that it adds to `grapnel-ctl`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Form>,
    /// JSON Schema of its configuration, if it has one.
    pub config_schema: Option<Value>,
    /// Whether a configuration was given and is valid.
    pub config_is_good: bool,
}

/// The request to the child, on its standard input: a configuration may hold secrets, and other
/// users can see arguments.
#[derive(Serialize, Deserialize)]
struct CheckRequest {
    file: PathBuf,
    /// Name of the plugin here; `None` for the name of its manifest.
    name: Option<String>,
    config: Option<Value>,
    /// The local verb to call, with its arguments, which may be secrets. Nothing is checked then.
    #[serde(default)]
    verb: Option<(String, Vec<(String, String)>)>,
}

/// The result of a local verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalOutcome {
    /// It was executed.
    Done(verb::Answer),
    /// Its arguments are invalid.
    Usage(String),
    /// It failed.
    Refused(String),
}

/// The child stores this before each step, so that the parent sees in which step the child ended.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// The step that begins, such as "opening it"; `None` at the end.
    doing: Option<String>,
    checked: Checked,
    #[serde(default)]
    outcome: Option<LocalOutcome>,
}

/// Checks a file, its manifest, and a configuration if there is one. A fault of the plugin is in
/// [`Checked::error`].
///
/// # Errors
/// The child process cannot be started or waited for.
pub fn check(
    file: &Path,
    name: Option<&str>,
    config: Option<&Value>,
    timeout: Duration,
) -> io::Result<Checked> {
    let (name, config) = (name.map(str::to_owned), config.cloned());
    let request = CheckRequest { file: file.to_owned(), name, config, verb: None };
    ask(&request, timeout).map(|answer| answer.checked)
}

/// The file of a plugin in a folder; `None` if there is none.
pub fn find(name: &str, folder: &Path) -> Option<PathBuf> {
    lookup::find(name, folder).ok().filter(|file| file.is_file())
}

/// Calls a local verb of a plugin's file. The arguments are checked in the child against the
/// declaration in that file, because the file may have been replaced since. The child is killed
/// after `timeout`.
///
/// # Errors
/// The child process cannot be started or waited for.
pub fn call_local(
    file: &Path,
    verb: &str,
    given: Vec<(String, String)>,
    timeout: Duration,
) -> io::Result<LocalOutcome> {
    let verb = Some((verb.to_owned(), given));
    let request = CheckRequest { file: file.to_owned(), name: None, config: None, verb };
    let Answer { checked, outcome, .. } = ask(&request, timeout)?;
    Ok(match (checked.error, outcome) {
        (Some(error), _) => LocalOutcome::Refused(error),
        (None, Some(outcome)) => outcome,
        (None, None) => LocalOutcome::Refused(format!("{} gave no answer", file.display())),
    })
}

/// Sends a request to a child. If the child ends early, the error of the check says in which step.
fn ask(request: &CheckRequest, timeout: Duration) -> io::Result<Answer> {
    let file = &request.file;
    // Only this user may use the folder, as with the copy in it.
    let own = std::fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().prefix("grapnel-check-").permissions(own).tempdir()?;
    // Finds this program even if its file has been replaced.
    let mut child = Command::new("/proc/self/exe")
        .args([CHILD.as_ref(), dir.path().as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| {
            let text = format!("this program cannot be started again through /proc/self/exe: {error}");
            io::Error::new(error.kind(), text)
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the child has ended already, its exit status says more than this error.
        let _ = stdin.write_all(&serde_json::to_vec(request)?);
    }
    let ended = wait(&mut child, timeout)?;
    let answer = std::fs::read(answer_in(dir.path())).ok();
    let answer = answer.and_then(|answer| serde_json::from_slice::<Answer>(&answer).ok());
    let mut answer = answer.unwrap_or_else(|| Answer {
        doing: Some("starting".to_owned()),
        checked: Checked::default(),
        outcome: None,
    });
    file.clone_into(&mut answer.checked.file);
    if let Some(doing) = &answer.doing {
        let ended = match ended {
            Some(status) => ending(status),
            None => format!("hung: it did not come back within {} ms", timeout.as_millis()),
        };
        let file = file.display();
        let what = if request.verb.is_some() { "cannot call a verb of" } else { "cannot load" };
        answer.checked.error = Some(format!(
            "{what} {file}: the process that was {doing} {ended}; this is an error of the plugin"
        ));
    }
    Ok(answer)
}

/// Waits for a child's end. A child that does not end in time is killed; the result is then `None`.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the system gave a process without a number"))?;
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(timeout).map_err(|_| io::Error::other("the time-out is too long"))?;
    if poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout))? > 0 {
        return child.wait().map(Some);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn ending(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = match Signal::from_named_raw(signal) {
                Some(Signal::ABORT) => ", SIGABRT",
                Some(Signal::BUS) => ", SIGBUS",
                Some(Signal::FPE) => ", SIGFPE",
                Some(Signal::ILL) => ", SIGILL",
                Some(Signal::KILL) => ", SIGKILL",
                Some(Signal::SEGV) => ", SIGSEGV",
                _ => "",
            };
            format!("crashed (signal {signal}{name})")
        }
        None => format!("was ended by it (exit code {})", status.code().unwrap_or_default()),
    }
}

fn answer_in(dir: &Path) -> PathBuf {
    dir.join("answer.json")
}

/// Runs a child process of [`check`]; `None` in every other process. Must be called first in
/// `main`.
pub fn main_of_child() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != CHILD {
        return None;
    }
    let dir = PathBuf::from(arguments.next()?);
    Some(match child(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn child(dir: &Path) -> io::Result<()> {
    // No core file is wanted, and the child must not outlive its parent. If the kernel refuses, the
    // check runs nevertheless.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let mut request = Vec::new();
    io::stdin().read_to_end(&mut request)?;
    let request: CheckRequest = serde_json::from_slice(&request)?;
    let mut check = FileCheck { dir, checked: Checked::default(), outcome: None };
    if let Err(failure) = check.run(&request) {
        match failure {
            Failure::Plugin(error) => check.checked.error = Some(error.to_string()),
            Failure::Io(error) => return Err(error),
        }
    }
    check.write(None)
}

enum Failure {
    Plugin(LoadError),
    Io(io::Error),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        Failure::Plugin(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

struct FileCheck<'a> {
    dir: &'a Path,
    checked: Checked,
    outcome: Option<LocalOutcome>,
}

impl FileCheck<'_> {
    fn run(&mut self, request: &CheckRequest) -> Result<(), Failure> {
        self.write(Some("opening it"))?;
        let copies = Copies::make(self.dir)?;
        let library = library::open(&request.file, &copies, |_| Ok(None)).map_err(|refused| refused.error)?;
        let (Open::Mapped(library, _) | Open::Again(library)) = library;
        self.checked.mapped_bytes = library.bytes;
        self.write(Some("reading its manifest"))?;
        let about = library.about(&request.file.display().to_string())?;
        let name = request.name.clone().unwrap_or_else(|| about.name.clone());
        let checked = &mut self.checked;
        checked.name.clone_from(&about.name);
        checked.version.clone_from(&about.version);
        checked.description.clone_from(&about.description);
        checked.sdk.clone_from(&about.sdk);
        checked.depends.clone_from(&about.depends);
        checked.verbs.clone_from(&about.verbs);
        checked.config_schema = about.schema.as_ref().map(|schema| schema.value().clone());
        if let Some((verb, given)) = &request.verb {
            return self.call(&library, verb, given);
        }
        self.write(Some("listing its hooks"))?;
        let hooks = library.hooks(&name)?;
        self.checked.hooks =
            hooks.iter().map(|hook| hook.info(hook.priority, hook.deadline_ms, hook.policy())).collect();
        if let Some(config) = &request.config {
            self.write(Some("checking its configuration"))?;
            check_config(&library, &about, &name, config)?;
            self.checked.config_is_good = true;
        }
        Ok(())
    }

    /// Calls a local verb. Other verbs are refused, because they need the state that `load` makes.
    fn call(&mut self, library: &Library, verb: &str, given: &[(String, String)]) -> Result<(), Failure> {
        let (name, is_it) = (self.checked.name.clone(), |form: &&Form| form.name == verb && form.local);
        let form = self.checked.verbs.iter().find(is_it);
        let Some((form, entry)) = form.zip(VerbEntry::local(library)) else {
            let reason = format!("plugin {name} has no verb {verb:?} that works without a broker");
            self.outcome = Some(LocalOutcome::Refused(reason));
            return Ok(());
        };
        let arguments = match form.arguments(given) {
            Ok(arguments) => arguments,
            Err(verb::Wrong(reason)) => {
                self.outcome = Some(LocalOutcome::Usage(reason));
                return Ok(());
            }
        };
        self.write(Some(&format!("answering {verb}")))?;
        let written = entry.call(verb, &arguments, VERB_BYTES_MAX, &AtomicBool::new(false));
        let answer = outcome(written, (name.clone(), verb.to_owned()), VERB_BYTES_MAX);
        self.outcome = Some(match answer {
            Ok(answer) if !answer.then.is_empty() => {
                let what = "wants a change of hooks, and works without a broker".to_owned();
                let error = VerbError::Nonsense { plugin: name, verb: verb.to_owned(), what };
                LocalOutcome::Refused(error.to_string())
            }
            Ok(answer) => LocalOutcome::Done(answer),
            Err(VerbError::Arguments(reason)) => LocalOutcome::Usage(reason),
            Err(error) => LocalOutcome::Refused(error.to_string()),
        });
        Ok(())
    }

    /// The file is renamed into place, so that a reader always finds a complete step.
    fn write(&self, doing: Option<&str>) -> io::Result<()> {
        let answer = Answer {
            doing: doing.map(str::to_owned),
            checked: self.checked.clone(),
            outcome: self.outcome.clone(),
        };
        let mut file = tempfile::NamedTempFile::new_in(self.dir)?;
        file.write_all(&serde_json::to_vec(&answer)?)?;
        file.persist(answer_in(self.dir)).map(drop).map_err(|error| error.error)
    }
}

/// Checks the plugins of a configuration for which `which` is true. Returns a sentence for each
/// problem that would prevent loading. Loads nothing.
pub fn check_configured(config: &Config, which: impl Fn(&PluginConfig) -> bool) -> Vec<String> {
    let timeout = Duration::from_millis(config.shell_limits.plugin_answer_timeout_ms);
    let mut sentences = Vec::new();
    let mut checked = Vec::new();
    for plugin in config.plugins.iter().filter(|plugin| which(plugin)) {
        let source =
            plugin.path.as_ref().map_or_else(|| plugin.name.clone(), |path| path.display().to_string());
        let result = lookup::find(&source, &config.plugins_dir).map_err(|error| error.to_string());
        let result = result.and_then(|file| {
            let failed = |error| format!("cannot check {}: {error}", file.display());
            check(&file, Some(&plugin.name), Some(&plugin.config), timeout).map_err(failed)
        });
        match result.map(|checked| (checked.error.clone(), checked)) {
            Ok((None, good)) => checked.push((plugin, good)),
            Ok((Some(sentence), _)) | Err(sentence) => {
                sentences.push(format!("{}: {sentence}", plugin.origin));
            }
        }
    }
    let nodes: Vec<Node<'_>> =
        checked.iter().map(|(plugin, good)| Node { name: &plugin.name, needs: &good.depends }).collect();
    for (index, cycle) in order::sorted(&nodes).cycles {
        let (plugin, _) = checked[index];
        let error = LoadError::Cycle { name: plugin.name.clone(), cycle };
        sentences.push(format!("{}: {error}", plugin.origin));
    }
    let recorded = Record::at(config.state_dir.join("plugins.json")).names();
    for (plugin, good) in &checked {
        let there =
            |name: &String| config.plugins.iter().any(|other| other.name == *name) || recorded.contains(name);
        if let Some(missing) = good.depends.iter().find(|name| !there(name)) {
            sentences.push(format!(
                "{}: cannot load {}: it needs plugin {missing}, which is neither configured nor was it loaded with grapnel-ctl; \
                 configure it",
                plugin.origin, plugin.name
            ));
        }
    }
    sentences
}
