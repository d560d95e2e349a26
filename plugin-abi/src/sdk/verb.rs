//! Verbs of a plugin for `grapnel-ctl`: their list, made by [`Plugin::verbs`], and the call of one.

mod arguments;

pub use arguments::{AboutPlugin, ArgumentType, Arguments, HookAbout, NoArguments, Secret};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Plugin;
use super::error::Error;
use crate::raw::{Slice, StateSink, Status};
use crate::verb::{Answer, Form};

/// The verbs of a plugin, which `grapnel-ctl NAME-OF-PLUGIN VERB` calls.
pub struct Verbs<P> {
    verbs: Vec<Verb<P>>,
}

/// A verb with its declaration.
pub(crate) struct Verb<P> {
    pub form: Form,
    run: Run<P>,
}

type InBroker<P> = Box<dyn Fn(&Arc<P>, &[(&str, &str)], &VerbCall<'_>) -> Result<Answer, VerbError>>;
type OnItsOwn = Box<dyn Fn(&[(&str, &str)], &VerbCall<'_>) -> Result<Answer, VerbError>>;

enum Run<P> {
    Loaded(InBroker<P>),
    Local(OnItsOwn),
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
    /// None yet.
    pub fn new() -> Verbs<P> {
        Verbs::default()
    }

    /// A verb that only looks. `name` is one to four words of lower case letters, digits and `-`.
    #[must_use]
    pub fn read<A: Arguments + 'static>(
        self,
        name: &str,
        help: &str,
        run: fn(&Arc<P>, A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        self.with::<A>((name, help, false), run)
    }

    /// A verb that changes something. What it changes of the plugin's place in the chains it says in its answer
    /// ([`Answer::then`]).
    #[must_use]
    pub fn change<A: Arguments + 'static>(
        self,
        name: &str,
        help: &str,
        run: fn(&Arc<P>, A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        self.with::<A>((name, help, true), run)
    }

    /// A verb that works without a broker: it runs in a process that `grapnel-ctl` starts for it, with the rights of whoever calls
    /// it, and [`Plugin::load`] has not been called there.
    #[must_use]
    pub fn local<A: Arguments + 'static>(
        mut self,
        name: &str,
        help: &str,
        run: fn(A, &VerbCall<'_>) -> Result<Answer, VerbError>,
    ) -> Verbs<P> {
        let form = Form { changes: true, local: true, ..form::<A>(name, help) };
        let run: OnItsOwn = Box::new(move |arguments, call| run(read::<A>(arguments)?, call));
        self.verbs.push(Verb { form, run: Run::Local(run) });
        self
    }

    /// How long a call of the last verb may take, at most an hour; the operator's `plugin_verb_timeout_ms` without it.
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
        let run: InBroker<P> =
            Box::new(move |plugin, arguments, call| run(plugin, read::<A>(arguments)?, call));
        self.verbs.push(Verb { form, run: Run::Loaded(run) });
        self
    }

    /// The declarations.
    pub(crate) fn forms(&self) -> Vec<&Form> {
        self.verbs.iter().map(|verb| &verb.form).collect()
    }

    /// Calls one; `plugin` is `None` in a process of `grapnel-ctl`.
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

/// A call of a verb. It runs on a thread of its own: it may block, and should end soon once nobody waits for it, or once
/// [`Host::wait_stop`](super::Host::wait_stop) answers true.
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

    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        // SAFETY: the sink is the host's, alive during the call that this belongs to.
        unsafe { (self.sink.write)(self.sink.ctx, Slice::EMPTY) != Status::STALE }
    }

    /// Writes the answer.
    pub(crate) fn answer(&self, answer: &Answer) -> Result<(), (Status, String)> {
        let bytes = serde_json::to_vec(answer)
            .map_err(|error| (Status::FAILED, format!("the answer is no JSON: {error}")))?;
        // SAFETY: the sink is the host's, alive during the call that this belongs to, as the bytes are.
        match unsafe { (self.sink.write)(self.sink.ctx, Slice::of(&bytes)) } {
            Status::OK => Ok(()),
            status => Err((status, format!("the broker does not take an answer of {} bytes", bytes.len()))),
        }
    }
}

/// Why a verb was not done, as one sentence for whoever called it. Any error turns into it with `?`.
#[derive(Debug)]
pub struct VerbError {
    pub(crate) status: Status,
    pub(crate) said: String,
}

impl VerbError {
    /// Something keeps it from being done: `grapnel-ctl` ends with 1.
    pub fn new(said: impl Into<String>) -> VerbError {
        VerbError { status: Status::FAILED, said: said.into() }
    }

    /// The arguments cannot be, although each has the right type: `grapnel-ctl` ends with 2.
    pub fn usage(said: impl Into<String>) -> VerbError {
        VerbError { status: Status::INVALID, said: said.into() }
    }

    /// What the arguments name is not there: `grapnel-ctl` ends with 1.
    pub fn absent(said: impl Into<String>) -> VerbError {
        VerbError { status: Status::ABSENT, said: said.into() }
    }
}

impl fmt::Display for VerbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

// As with `Error`: no `std::error::Error` itself, so that this can be for all of them.
impl<E: Into<Error>> From<E> for VerbError {
    fn from(error: E) -> VerbError {
        VerbError::new(error.into().to_string())
    }
}
