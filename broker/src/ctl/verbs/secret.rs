//! Reads secrets: from the terminal with a prompt, or from standard input, one line for each.

use std::io::{BufRead, Read};

use grapnel_plugin_abi::verb::{Argument, Form, Kind};

use super::super::CtlError;
use super::super::printable::printable;

/// Longest secret if the declaration sets no limit, bytes.
const SECRET_BYTES_MAX: i64 = 65_536;

/// Reads the secrets. Returns the arguments with the secrets in place of the way to read them.
/// `receiver` is who gets them, if they leave this process; the prompt says so.
pub(super) fn with_secrets(
    form: &Form,
    mut given: super::line::Values,
    receiver: Option<&str>,
) -> Result<super::line::Values, CtlError> {
    for argument in form.arguments.iter().filter(|argument| argument.kind == Kind::Secret) {
        let name = &argument.name;
        let place = given.iter().position(|(known, _)| known == name);
        let from_stdin = place.is_some_and(|place| given[place].1 == "stdin");
        let needless =
            argument.unless.as_ref().is_some_and(|flag| given.iter().any(|(known, _)| known == flag));
        let value = match place {
            None if !argument.required || needless => continue,
            _ if from_stdin => read(argument, &mut std::io::stdin().lock())?,
            _ => prompted(argument, &prompt(argument, &given, receiver))?,
        };
        match place {
            Some(place) => given[place].1 = value,
            None => given.push((name.clone(), value)),
        }
    }
    Ok(given)
}

/// The prompt: the text of the declaration, with the values of other arguments in place of
/// `{NAME}`, and the receiver.
fn prompt(argument: &Argument, given: &[(String, String)], receiver: Option<&str>) -> String {
    let text = argument.prompt.clone().unwrap_or_else(|| argument.name.clone());
    let text = given.iter().fold(text, |text, (name, value)| {
        let shown: String = value.chars().filter(|c| !c.is_control()).collect();
        text.replace(&format!("{{{name}}}"), &shown)
    });
    let sent = receiver.map(|receiver| format!(" (sent to {receiver})")).unwrap_or_default();
    // The declaration may come from a broker, so it is made safe for the terminal.
    printable(&format!("{text}{sent}"))
}

/// Reads the next line of the input.
fn read(argument: &Argument, input: &mut dyn BufRead) -> Result<String, CtlError> {
    let name = &argument.name;
    let bytes_max = u64::try_from(argument.max.unwrap_or(SECRET_BYTES_MAX)).unwrap_or(0);
    let mut text = String::new();
    // Two bytes more for the end of the line, and one to detect a secret that is too long.
    let taken = input.take(bytes_max.saturating_add(3)).read_line(&mut text);
    taken
        .map_err(|error| CtlError::Refused(format!("cannot read the {name} from standard input: {error}")))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    checked(argument, line.to_owned())
}

fn prompted(argument: &Argument, prompt: &str) -> Result<String, CtlError> {
    let name = &argument.name;
    let request = |prompt: &str| {
        rpassword::prompt_password(prompt).map_err(|error| {
            CtlError::Refused(format!("cannot ask for the {name}: {error}; give it with --{name}-stdin"))
        })
    };
    let value = checked(argument, request(&format!("{prompt}: "))?)?;
    if argument.twice && request("Again: ")? != value {
        return Err(CtlError::Refused(format!("the two {name}s differ; nothing was changed")));
    }
    Ok(value)
}

fn checked(argument: &Argument, value: String) -> Result<String, CtlError> {
    let name = &argument.name;
    let wrong = |what| CtlError::Refused(format!("the {name} cannot be: {what}; nothing was changed"));
    if value.is_empty() && argument.required {
        return Err(CtlError::Refused(format!("the {name} is empty; nothing was changed")));
    }
    argument.parse(&value).map_err(wrong)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret() -> Argument {
        let named = Argument::named("password", "");
        Argument { kind: Kind::Secret, required: true, max: Some(5), ..named }.prompt("Password of {user}")
    }

    #[test]
    fn each_secret_is_a_line_of_standard_input_and_is_bounded() {
        let mut input = std::io::BufReader::new(&b"one\r\ntwo\n12345\n123456\n\n"[..]);
        let mut next = || read(&secret(), &mut input).map_err(|error| error.to_string());
        assert_eq!((next(), next(), next()), (Ok("one".into()), Ok("two".into()), Ok("12345".into())));
        let long = next().unwrap_err();
        assert_eq!(long, "the password cannot be: it has 6 bytes, and may have 0 to 5; nothing was changed");
        assert_eq!(next().unwrap_err(), "the password is empty; nothing was changed");
        assert_eq!(next().unwrap_err(), "the password is empty; nothing was changed");
    }

    #[test]
    fn the_prompt_shows_other_arguments_without_control_characters() {
        let given = [("user".to_owned(), "an\u{1b}n".to_owned())];
        assert_eq!(prompt(&secret(), &given, None), "Password of ann");
        let sent = prompt(&secret(), &given, Some("plugin p of the broker at /s"));
        assert_eq!(sent, "Password of ann (sent to plugin p of the broker at /s)");
        let declared = secret().prompt("\u{1b}[2J{user}");
        assert_eq!(prompt(&declared, &given, None), "\\u{1b}[2Jann");
    }

    #[test]
    fn there_is_no_prompt_for_an_unneeded_secret() {
        let form = Form { arguments: vec![secret().unless("delete")], ..Form::default() };
        let given = vec![("delete".to_owned(), "true".to_owned())];
        assert_eq!(with_secrets(&form, given.clone(), None).unwrap(), given);
    }
}
