//! The verbs of a plugin for `grapnel-ctl`: their list, made by [`Plugin::verbs`], and the call of
//! a verb.

mod arguments;

pub use arguments::{ArgumentType, Arguments, HookInfo, NoArguments, PluginInfo, Secret};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Plugin;
use super::error::Error;
use crate::raw::{Slice, StateSink, Status};
use crate::verb::{Answer, Form};

/// The verbs of a plugin, called with `grapnel-ctl NAME-OF-PLUGIN VERB`.
pub struct Verbs<P> {
    verbs: Vec<Verb<P>>,
}

/// A verb with its declaration.
pub(crate) struct Verb<P> {
    pub form: Form,
    run: Run<P>,
}

type BrokerFn<P> = Box<dyn Fn(&Arc<P>, &[(&str, &str)], &VerbCall<'_>) -> Result<Answer, VerbError>>;
type LocalFn = Box<dyn Fn(&[(&str, &str)], &VerbCall<'_>) -> Result<Answer, VerbError>>;

enum Run<P> {
    Loaded(BrokerFn<P>),
    Local(LocalFn),
}

impl<P> fmt::Debug for Verbs<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.verbs.iter().map(|verb| &verb.form.name)).finish()
    }
}

impl<P> Default for Verbs<P> {
    fn default() -> Verbs<P> {
        Verbs { verbs: Vec::new() }
    }
}

impl<P: Plugin> Verbs<P> {
    /// An empty list.
    pub fn new() -> Verbs<P> {
        Verbs::default()
    }

    /// Adds a verb that only reads. `name` is one to four words of lower case letters, digits and
    /// `-`.
    #[must_use]
    pub fn read<A: Arguments + 'static>(
        self,
        name: &str,
        help: &str,
        run: fn(&Arc<P>, A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        self.with::<A>((name, help, false), run)
    }

    /// Adds a verb that changes something. If the verb needs a change of the plugin's mounts or
    /// state, its answer requests it ([`Answer::then`]).
    #[must_use]
    pub fn change<A: Arguments + 'static>(
        self,
        name: &str,
        help: &str,
        run: fn(&Arc<P>, A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        self.with::<A>((name, help, true), run)
    }

    /// Adds a verb that works without a broker. It runs in a process that `grapnel-ctl` starts,
    /// with the rights of the caller. [`Plugin::load`] is not called there.
    #[must_use]
    pub fn local<A: Arguments + 'static>(
        mut self,
        name: &str,
        help: &str,
        run: fn(A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        let form = Form { changes: true, local: true, ..form::<A>(name, help) };
        let run: LocalFn = Box::new(move |arguments, call| run(read::<A>(arguments)?, call));
        self.verbs.push(Verb { form, run: Run::Local(run) });
        self
    }

    /// The time limit for a call of the last verb, at most an hour. The default is the operator's
    /// `plugin_verb_timeout_ms`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Verbs<P> {
        if let Some(verb) = self.verbs.last_mut() {
            verb.form.deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        self
    }

    fn with<A: Arguments + 'static>(
        mut self,
        (name, help, changes): (&str, &str, bool),
        run: fn(&Arc<P>, A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        let form = Form { changes, ..form::<A>(name, help) };
        let run: BrokerFn<P> =
            Box::new(move |plugin, arguments, call| run(plugin, read::<A>(arguments)?, call));
        self.verbs.push(Verb { form, run: Run::Loaded(run) });
        self
    }

    /// The declarations.
    pub(crate) fn forms(&self) -> Vec<&Form> {
        self.verbs.iter().map(|verb| &verb.form).collect()
    }

    /// Calls a verb; `plugin` is `None` in a process of `grapnel-ctl`.
    pub(crate) fn call(
        &self,
        name: &str,
        plugin: Option<&Arc<P>>,
        arguments: &[(&str, &str)],
        call: &VerbCall<'_>,
    ) -> Result<Answer, VerbError> {
        let verb = self.verbs.iter().find(|verb| verb.form.name == name);
        let verb = verb.ok_or_else(|| VerbError::absent(format!("there is no verb {name}")))?;
        match (&verb.run, plugin) {
            (Run::Local(run), _) => run(arguments, call),
            (Run::Loaded(run), Some(plugin)) => run(plugin, arguments, call),
            (Run::Loaded(_), None) => Err(VerbError::new(format!("{name} runs in a broker alone"))),
        }
    }
}

fn form<A: Arguments>(name: &str, help: &str) -> Form {
    Form { name: name.to_owned(), help: help.to_owned(), arguments: A::declare(), ..Form::default() }
}

fn read<A: Arguments>(arguments: &[(&str, &str)]) -> Result<A, VerbError> {
    A::read(arguments).map_err(VerbError::usage)
}

/// A call of a verb. It runs on its own thread and may block. It should end soon once
/// [`VerbCall::is_awaited`] returns false, or [`Host::wait_stop`](super::Host::wait_stop) returns
/// true.
#[derive(Clone, Copy)]
pub struct VerbCall<'a> {
    sink: &'a StateSink,
}

impl fmt::Debug for VerbCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerbCall")
    }
}

impl<'a> VerbCall<'a> {
    pub(crate) fn over(sink: &'a StateSink) -> VerbCall<'a> {
        VerbCall { sink }
    }

    /// Whether the caller still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        // SAFETY: the sink is the host's, alive during the call that this belongs to.
        unsafe { (self.sink.write)(self.sink.ctx, Slice::EMPTY) != Status::STALE }
    }

    /// Writes the answer.
    pub(crate) fn answer(&self, answer: &Answer) -> Result<(), (Status, String)> {
        let bytes = serde_json::to_vec(answer)
            .map_err(|error| (Status::FAILED, format!("the answer is no JSON: {error}")))?;
        // SAFETY: the sink is the host's, alive during the call that this belongs to, as the bytes
        // are.
        match unsafe { (self.sink.write)(self.sink.ctx, Slice::of(&bytes)) } {
            Status::OK => Ok(()),
            status => Err((status, format!("the broker does not take an answer of {} bytes", bytes.len()))),
        }
    }
}

/// Why a verb failed, as one sentence for the caller. Any error converts to it with `?`.
#[derive(Debug)]
pub struct VerbError {
    pub(crate) status: Status,
    pub(crate) text: String,
}

impl VerbError {
    /// The verb cannot be executed: `grapnel-ctl` ends with 1.
    pub fn new(text: impl Into<String>) -> VerbError {
        VerbError { status: Status::FAILED, text: text.into() }
    }

    /// The arguments are invalid, although each has the right type: `grapnel-ctl` ends with 2.
    pub fn usage(text: impl Into<String>) -> VerbError {
        VerbError { status: Status::INVALID, text: text.into() }
    }

    /// The thing that an argument names does not exist: `grapnel-ctl` ends with 1.
    pub fn absent(text: impl Into<String>) -> VerbError {
        VerbError { status: Status::ABSENT, text: text.into() }
    }
}

impl fmt::Display for VerbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// As with `Error`: does not implement `std::error::Error`, so that this conversion can exist for
// all errors.
impl<E: Into<Error>> From<E> for VerbError {
    fn from(error: E) -> VerbError {
        VerbError::new(error.into().to_string())
    }
}
