//! Verbs that work without a broker: a plugin's file is found and called in a process of its own.

use std::path::PathBuf;
use std::time::Duration;

use grapnel_plugin_abi::verb::{Answer, Wrong};

use super::super::CtlError;
use super::super::output::Output;
use super::{Found, Typed, print, secret};
use crate::config::Environment;
use crate::control::wire::VerbAnswer;
use crate::plugin::check::{self, LocalOutcome};

/// The folder where the broker looks for plugins.
pub(super) fn folder(environment: &Environment) -> PathBuf {
    let named = environment.var("GRAPNEL_PLUGINS_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| environment.default_plugins_dir())
}

/// The plugin's file in that folder, with its verbs; `None` where there is none that has any.
///
/// # Errors
/// A file that the broker would not load.
pub(super) fn find(
    word: &str,
    environment: &Environment,
    timeout: Duration,
) -> Result<Option<Found>, CtlError> {
    let Some(file) = check::find(word, &folder(environment)) else { return Ok(None) };
    let checked = check::check(&file, None, None, timeout)
        .map_err(|error| CtlError::Refused(format!("cannot open {}: {error}", file.display())))?;
    if let Some(error) = checked.error {
        return Err(CtlError::Refused(error));
    }
    let forms = checked.verbs;
    let found = Found { loaded: Vec::new(), file: Some(file), forms, why_not: None };
    Ok((!found.forms.is_empty()).then_some(found))
}

/// Calls a local verb.
pub(super) fn run(
    typed: &Typed,
    file: Option<PathBuf>,
    timeout: Duration,
    output: &mut Output,
) -> Result<(), CtlError> {
    let Typed { word, form, given } = typed;
    let file =
        file.ok_or_else(|| CtlError::Refused(format!("where the file of plugin {word} is, is not known")))?;
    let given = secret::with_secrets(form, given.clone())?;
    let arguments = form.arguments(&given).map_err(|Wrong(said)| CtlError::Usage(said))?;
    let timeout = timeout + Duration::from_millis(form.deadline_ms(&arguments, 0));
    let outcome = check::call_local(&file, &form.name, arguments, timeout)
        .map_err(|error| CtlError::Refused(format!("cannot call {}: {error}", file.display())))?;
    match outcome {
        LocalOutcome::Done(Answer { text, columns, rows, value, exit_code, then: _ }) => {
            let answer = VerbAnswer { text, columns, rows, value, exit_code, ..VerbAnswer::default() };
            print::answers(vec![answer], output)
        }
        LocalOutcome::Usage(said) => Err(CtlError::Usage(said)),
        LocalOutcome::Refused(said) => Err(CtlError::Refused(said)),
    }
}
