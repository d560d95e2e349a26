//! Builds a command line from the declarations of verbs: its help, its checks, and the parsed
//! arguments.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches};
use grapnel_plugin_abi::verb::{Argument, Form, Kind};

use super::super::output::Output;
use super::super::printable::printable;
use super::super::{Ctl, CtlError, Global};
use crate::usage;

/// The global options, at any position. Those after the command word override those before it.
pub(super) fn global(words: &[String], outer: Global) -> Result<Global, CtlError> {
    let mut typed = vec!["grapnel-ctl".to_owned()];
    let mut rest = words.iter().take_while(|word| *word != "--");
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--json" => typed.push(word.clone()),
            "--socket" | "--timeout" => typed.extend([word.clone()].into_iter().chain(rest.next().cloned())),
            _ if word.starts_with("--socket=") || word.starts_with("--timeout=") => typed.push(word.clone()),
            _ => {}
        }
    }
    let matches = Global::augment_args(Command::new("grapnel-ctl")).try_get_matches_from(typed);
    let wrong = |error: clap::Error| CtlError::Usage(usage::sentence(&error, "grapnel-ctl"));
    let matches = matches.map_err(wrong)?;
    let inner = Global::from_arg_matches(&matches).map_err(wrong)?;
    let is_typed = matches.value_source("timeout") == Some(ValueSource::CommandLine);
    Ok(Global {
        socket: inner.socket.or(outer.socket),
        json: inner.json || outer.json,
        timeout: if is_typed { inner.timeout } else { outer.timeout },
    })
}

/// Names of arguments with the values that were typed for them.
pub(super) type Values = Vec<(String, String)>;

/// The typed verb with its arguments. `None` if help was requested; it has been printed.
pub(super) fn parse(
    word: &str,
    shown: &str,
    forms: &[Form],
    words: &[String],
    output: &mut Output,
) -> Result<Option<(Form, Values)>, CtlError> {
    let command = command(word, shown, forms);
    let typed = std::iter::once(word.to_owned()).chain(words.iter().cloned());
    let matches = match command.clone().try_get_matches_from(typed) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => {
            let command = usage::command_of(&command, words.iter().map(OsString::from));
            return Err(CtlError::Usage(usage::sentence(&error, &command)));
        }
        Err(help) => return output.text(&help.to_string()).map(|()| None),
    };
    let (mut names, mut matches) = (Vec::new(), &matches);
    while let Some((name, below)) = matches.subcommand() {
        names.push(name);
        matches = below;
    }
    let name = names.join(" ");
    let form = forms.iter().find(|form| form.name == name);
    let form = form.ok_or_else(|| CtlError::Usage(format!("plugin {word} has no verb {name:?}")))?;
    if let Some(argument) = unknown(form) {
        return Err(CtlError::Refused(format!(
            "{name} of plugin {word} has the argument {}, whose type this grapnel-ctl {} does not know; use the grapnel-ctl \
             of the broker's version",
            argument.name,
            env!("CARGO_PKG_VERSION")
        )));
    }
    Ok(Some((form.clone(), given(form, matches))))
}

fn given(form: &Form, matches: &ArgMatches) -> Values {
    let mut given = Vec::new();
    for argument in &form.arguments {
        let name = &argument.name;
        // Defaults are not passed on; the declaration fills them in later. A default beside the
        // flag in `unless` would look like a given argument.
        let is_typed = || matches.value_source(name) == Some(ValueSource::CommandLine);
        let values: Vec<String> = match argument.kind {
            Kind::Plugin => Vec::new(),
            Kind::Flag => Vec::from_iter(matches.get_flag(name).then(|| "true".to_owned())),
            // Only the way to read the secret; the secret itself is read later.
            Kind::Secret => {
                let from_stdin = matches.get_flag(&stdin_of(name));
                let is_prompted = !argument.required && matches.get_flag(name);
                let how = if from_stdin { Some("stdin") } else { is_prompted.then_some("terminal") };
                Vec::from_iter(how.map(str::to_owned))
            }
            _ if !is_typed() => Vec::new(),
            _ => matches.get_many::<String>(name).map(|values| values.cloned().collect()).unwrap_or_default(),
        };
        given.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    given
}

/// The option that reads a secret from standard input.
fn stdin_of(name: &str) -> String {
    format!("{name}-stdin")
}

/// The command of a plugin, with a subcommand for each verb.
pub(super) fn command(word: &str, shown: &str, forms: &[Form]) -> Command {
    let verbs: Vec<_> = forms.iter().map(|form| (form.name.split(' ').collect(), form)).collect();
    let about = format!("Commands that the plugin {word} adds");
    let root = group(Command::new(word.to_owned()).about(about).max_term_width(100), &verbs);
    let root = Global::augment_args(root);
    // The usage of an alias must show the alias, not the plugin.
    root.bin_name(shown.to_owned())
}

/// Verbs with their remaining words.
type Subverbs<'a> = [(Vec<&'a str>, &'a Form)];

fn group(command: Command, verbs: &Subverbs<'_>) -> Command {
    let mut command = command.subcommand_required(true).arg_required_else_help(true);
    let mut done: Vec<&str> = Vec::new();
    for (words, form) in verbs {
        let Some(first) = words.first().filter(|first| !done.contains(first)) else { continue };
        done.push(first);
        let below = |(words, form): &(Vec<_>, _)| {
            (words.first() == Some(first)).then(|| (words[1..].to_vec(), *form))
        };
        let below: Vec<(Vec<&str>, &Form)> = verbs.iter().filter_map(below).collect();
        let sub = Command::new((*first).to_owned());
        command = command.subcommand(if words.len() == 1 {
            leaf(sub, form)
        } else {
            let names: Vec<String> = below.iter().map(|(words, _)| words.join(" ")).collect();
            group(sub.about(names.join(", ")), &below)
        });
    }
    command
}

/// An argument of a type that only a newer version knows. The verb cannot be called then.
fn unknown(form: &Form) -> Option<&Argument> {
    form.arguments.iter().find(|argument| argument.kind == Kind::Unknown)
}

fn leaf(command: Command, form: &Form) -> Command {
    let command = command.about(printable(&form.help));
    if unknown(form).is_some() {
        // Whatever was typed: the verb is refused for its declaration.
        let words = Arg::new("ARGUMENTS").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
        return command.arg(words);
    }
    form.arguments.iter().filter(|argument| !argument.is_filled_in()).fold(command, |command, argument| {
        if argument.kind == Kind::Secret { secret(command, argument) } else { command.arg(plain(argument)) }
    })
}

fn plain(argument: &Argument) -> Arg {
    let name = argument.name.clone();
    let bounds = argument.bounds_shown();
    let help =
        if bounds.is_empty() { argument.help.clone() } else { format!("{} ({bounds})", argument.help) };
    let help = printable(&help);
    let mut arg = Arg::new(name.clone()).help(help).value_name(name.to_uppercase().replace('-', "_"));
    if let Some(flag) = &argument.unless {
        arg = arg.conflicts_with(flag.clone());
    }
    if argument.kind == Kind::Flag {
        return arg.long(name).action(ArgAction::SetTrue);
    }
    let checked = argument.clone();
    arg = arg
        .value_parser(move |text: &str| checked.parse(text).map(|_| text.to_owned()))
        .required(argument.required)
        .allow_negative_numbers(argument.kind == Kind::Integer);
    if let Some(default) = &argument.default {
        arg = arg.default_value(default.clone());
    }
    match (argument.positional, argument.repeated) {
        (true, true) => arg.num_args(1..).action(ArgAction::Append),
        (true, false) => arg,
        (false, true) => arg.long(name).action(ArgAction::Append),
        (false, false) => arg.long(name),
    }
}

fn secret(command: Command, argument: &Argument) -> Command {
    let Argument { name, help, unless, required, .. } = argument;
    let what = printable(if help.is_empty() { name } else { help });
    let option = |long: String, help: String| {
        let arg = Arg::new(long.clone()).long(long).help(help).action(ArgAction::SetTrue);
        unless.iter().fold(arg, |arg, flag| arg.conflicts_with(flag.clone()))
    };
    let default = if *required { "asked for at the terminal" } else { "none" };
    let stdin = stdin_of(name);
    let help = format!(
        "{what}: read from the next line of standard input, as in --{stdin} < FILE [default: {default}]"
    );
    let command = command.arg(option(stdin, help));
    if *required {
        return command;
    }
    command.arg(option(name.clone(), format!("{what}: asked for at the terminal [default: none]")))
}

/// Whether a word is a command of the program itself. Such a command takes precedence over a plugin
/// of that name.
pub(super) fn is_own(word: &str) -> bool {
    let is_alias = super::ALIASES.iter().any(|(alias, ..)| *alias == word);
    word == "help" || is_alias || Ctl::command().find_subcommand(word).is_some()
}

/// The command of the program itself that is most similar to a word, if any is similar enough.
pub(super) fn nearest_command(word: &str) -> Option<String> {
    let command = Ctl::command();
    let names =
        command.get_subcommands().map(|command| (strsim::jaro(command.get_name(), word), command.get_name()));
    let nearest = names.max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.filter(|(likeness, _)| *likeness > 0.8).map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn forms() -> Vec<Form> {
        let list = json!([
            {"name": "drivers list", "help": "The drivers that are loaded"},
            {"name": "drivers disable", "help": "Do not call one", "changes": true, "arguments": [
                {"name": "driver", "positional": true, "required": true, "help": "Its name"},
                {"name": "force", "type": "flag"},
                {"name": "self", "type": "plugin"},
            ]},
            {"name": "wait", "help": "Waits", "arguments": [
                {"name": "for", "type": "duration", "default": "1s", "max": 60_000, "help": "How long"},
                {"name": "level", "type": "integer", "min": -5, "max": 5},
                {"name": "tag", "repeated": true},
                {"name": "key", "type": "secret", "required": true},
                {"name": "mode", "default": "slow", "unless": "never"},
                {"name": "never", "type": "flag"},
            ]},
        ]);
        Form::list(&list.to_string()).unwrap()
    }

    fn typed(words: &[&str]) -> Result<(String, Vec<(String, String)>), String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut output = Output::to(Vec::new(), false, None);
        let parsed = parse("exhook", "grapnel-ctl exhook", &forms(), &words, &mut output);
        let parsed = parsed.map_err(|error| error.to_string())?;
        parsed.map(|(form, given)| (form.name, given)).ok_or_else(|| "help".to_owned())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_command_line_of_a_plugin_has_its_declared_verbs_and_help() {
        command("exhook", "grapnel-ctl exhook", &forms()).debug_assert();
        let help = |words: &[&str]| {
            let words = std::iter::once("exhook").chain(words.iter().copied());
            command("exhook", "grapnel-ctl exhook", &forms())
                .try_get_matches_from(words)
                .unwrap_err()
                .to_string()
        };
        let all = help(&["--help"]);
        assert!(all.contains("drivers") && all.contains("list, disable") && all.contains("Waits"), "{all}");
        assert!(all.contains("grapnel-ctl exhook"), "{all}");
        let one = help(&["drivers", "disable", "--help"]);
        assert!(
            one.contains("<DRIVER>  Its name") && one.contains("--force") && !one.contains("self"),
            "{one}"
        );
        let raw = Form { name: "v".to_owned(), help: "a\u{1b}b".to_owned(), ..Form::default() };
        let shown = command("exhook", "grapnel-ctl exhook", &[raw]).render_help().to_string();
        assert!(shown.contains("a\\u{1b}b") && !shown.contains('\u{1b}'), "{shown:?}");
        let wait = help(&["wait", "--help"]);
        for part in ["How long (1m or less) [default: 1s]", "(-5 to 5)"] {
            assert!(wait.contains(part), "{part}: {wait}");
        }
        let wait = wait.split_whitespace().collect::<Vec<_>>().join(" ");
        let secret = "--key-stdin key: read from the next line of standard input, as in --key-stdin < FILE \
                      [default: asked for at the terminal]";
        assert!(wait.contains(secret), "{wait}");
    }

    #[test]
    fn an_argument_of_an_unknown_type_disables_only_its_verb() {
        let newer = json!([
            {"name": "paint", "help": "Paints", "arguments": [{"name": "colour", "type": "colour"}]},
            {"name": "list", "help": "Lists"},
        ]);
        // As `grapnel-ctl` reads the declarations of a broker.
        let forms: Vec<Form> = serde_json::from_value(newer).unwrap();
        command("art", "grapnel-ctl art", &forms).debug_assert();
        let typed = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let mut output = Output::to(Vec::new(), false, None);
            let parsed = parse("art", "grapnel-ctl art", &forms, &words, &mut output);
            parsed.map(|parsed| parsed.unwrap().0.name).map_err(|error| error.to_string())
        };
        assert_eq!(typed(&["list"]), Ok("list".to_owned()));
        for words in [&["paint"][..], &["paint", "--colour", "red"], &["paint", "red"]] {
            let error = typed(words).unwrap_err();
            assert!(
                error.starts_with("paint of plugin art has the argument colour, whose type this"),
                "{error}"
            );
        }
    }

    #[test]
    fn typed_arguments_are_checked_by_their_type() {
        let driver = pairs(&[("driver", "java"), ("force", "true")]);
        assert_eq!(
            typed(&["drivers", "disable", "java", "--force"]),
            Ok(("drivers disable".to_owned(), driver))
        );
        let all = ["wait", "--tag", "a", "--level", "-2", "--tag", "b", "--key-stdin", "--json"];
        let given = pairs(&[("level", "-2"), ("tag", "a"), ("tag", "b"), ("key", "stdin")]);
        assert_eq!(typed(&all), Ok(("wait".to_owned(), given)));
        // A default is not passed on like a typed argument; beside --never it would not be valid.
        assert_eq!(typed(&["wait", "--never"]), Ok(("wait".to_owned(), pairs(&[("never", "true")]))));
        let mode = pairs(&[("for", "1s"), ("mode", "fast")]);
        assert_eq!(typed(&["wait", "--mode", "fast", "--for", "1s"]), Ok(("wait".to_owned(), mode)));
        for (words, says) in [
            (&["wait", "--for", "2m"][..], "out of range; it may be 1m or less"),
            (&["wait", "--level", "6"], "out of range; it may be -5 to 5"),
            (&["wait", "--mode", "fast", "--never"], "cannot be used with"),
            (&["wait", "--key", "secret"], "unexpected argument"),
            (&["drivers", "disable"], "required arguments were not provided"),
            (
                &["drivers", "lst"],
                "unrecognized subcommand 'lst'; a similar subcommand exists: 'list'; see grapnel-ctl exhook drivers --help",
            ),
            (&["drivers", "disable", "a", "--self", "x"], "unexpected argument '--self'"),
            (&[], "Usage: grapnel-ctl exhook"),
        ] {
            let error = typed(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
        assert_eq!(typed(&["--help"]), Err("help".to_owned()));
    }

    #[test]
    fn global_options_may_follow_the_verb() {
        let outer = || Global { socket: Some("/outer".into()), json: false, timeout: 7 };
        let global = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            global(&words, outer()).map_err(|error| error.to_string())
        };
        let found = global(&["drivers", "list", "--json", "--socket", "/inner"]).unwrap();
        assert_eq!((found.socket, found.json, found.timeout), (Some("/inner".into()), true, 7));
        let found = global(&["--timeout=9", "drivers", "--", "--json"]).unwrap();
        assert_eq!((found.socket, found.json, found.timeout), (Some("/outer".into()), false, 9));
        assert!(global(&["--timeout", "0"]).unwrap_err().contains("invalid value '0'"));
    }

    #[test]
    fn the_nearest_command_is_suggested() {
        assert_eq!(nearest_command("stauts"), Some("status".to_owned()));
        assert_eq!(nearest_command("reverse-proxy"), None);
        assert!(["status", "help", "passwd"].into_iter().all(is_own) && !is_own("exhook"));
    }
}
