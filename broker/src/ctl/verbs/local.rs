//! Verbs that work without a broker. The plugin's file is looked up and called in a process of its
//! own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use grapnel_plugin_abi::verb::{Answer, Form, Wrong};

use super::super::CtlError;
use super::super::output::Output;
use super::{Found, TypedVerb, print, secret};
use crate::config::Environment;
use crate::control::wire::VerbAnswer;
use crate::plugin::check::{self, LocalOutcome};

/// The folder of plugins: that of GRAPNEL_PLUGINS_DIR, else the broker's default.
pub(super) fn folder(environment: &Environment) -> PathBuf {
    let named = environment.var("GRAPNEL_PLUGINS_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| environment.default_plugins_dir())
}

/// The verbs of the plugin's file in that folder. `None` if there is no file, or it has no verbs.
///
/// # Errors
/// As [`file`].
pub(super) fn find(
    word: &str,
    environment: &Environment,
    timeout: Duration,
) -> Result<Option<Found>, CtlError> {
    let found = file(word, environment, timeout)?;
    Ok(found.map(|(_, forms)| Found { loaded: Vec::new(), forms, why_not: None }))
}

/// The plugin's file in that folder, with the verbs that it declares. `None` if there is no file,
/// or it has no verbs. Its code runs with the rights of the user of `grapnel-ctl`, so a broker
/// cannot choose the path.
///
/// # Errors
/// If the broker would not load the file.
pub(super) fn file(
    word: &str,
    environment: &Environment,
    timeout: Duration,
) -> Result<Option<(PathBuf, Vec<Form>)>, CtlError> {
    let Some(file) = check::find(word, &folder(environment)) else { return Ok(None) };
    let checked = check::check(&file, None, None, timeout)
        .map_err(|error| CtlError::Refused(format!("cannot open {}: {error}", file.display())))?;
    if let Some(error) = checked.error {
        return Err(CtlError::Refused(error));
    }
    Ok((!checked.verbs.is_empty()).then_some((file, checked.verbs)))
}

/// Calls a local verb.
pub(super) fn run(
    typed: &TypedVerb,
    file: &Path,
    timeout: Duration,
    output: &mut Output,
) -> Result<(), CtlError> {
    let TypedVerb { word, form, given } = typed;
    if !form.local {
        let name = &form.name;
        return Err(CtlError::Refused(format!(
            "{name} of plugin {word} is not declared in {} to work without a broker",
            file.display()
        )));
    }
    let given = secret::with_secrets(form, given.clone(), None)?;
    let arguments = form.arguments(&given).map_err(|Wrong(error)| CtlError::Usage(error))?;
    let timeout = timeout + Duration::from_millis(form.deadline_ms(&arguments, 0));
    let outcome = check::call_local(file, &form.name, given, timeout)
        .map_err(|error| CtlError::Refused(format!("cannot call {}: {error}", file.display())))?;
    match outcome {
        LocalOutcome::Done(Answer { text, columns, rows, value, exit_code, then: _ }) => {
            let answer = VerbAnswer { text, columns, rows, value, exit_code, ..VerbAnswer::default() };
            print::answers(vec![answer], output)
        }
        LocalOutcome::Usage(error) => Err(CtlError::Usage(error)),
        LocalOutcome::Refused(error) => Err(CtlError::Refused(error)),
    }
}
