//! Errors of the command line, in one form for every program: one sentence that ends with the help
//! to read. Used by `grapnel` and `grapnel-ctl`; `grapnel-bench` includes this file.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, Parser};

/// Exit code of a program whose command line is wrong.
pub(crate) const EXIT_CODE: u8 = 2;

/// Parses the command line of this process.
///
/// # Errors
/// The exit code, where help or the version was requested, or the command line is wrong. What there
/// is to read has been printed.
pub(crate) fn parse<T: Parser>() -> Result<T, ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    T::try_parse_from(&words).map_err(|error| {
        // Errors of the output are ignored: there is still the exit code.
        if !error.use_stderr() {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let root = T::command();
        let sentence_text = sentence(&error, &command_of(&root, words.into_iter().skip(1)));
        let _ = writeln!(std::io::stderr(), "{}: {sentence_text}", root.get_name());
        ExitCode::from(EXIT_CODE)
    })
}

/// An error of clap as one sentence. `command` is the command whose help says more. Where a command
/// is missing, the help follows.
pub(crate) fn sentence(error: &clap::Error, command: &str) -> String {
    let text = error.to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("a command or an argument is missing\n{}", text.trim_end());
    }
    let mut sentence = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        let (joint, text) = match line.strip_prefix("tip: ") {
            Some(tip) => ("; ", tip),
            None => (" ", line.trim_start_matches("error: ")),
        };
        if !sentence.is_empty() {
            sentence.push_str(joint);
        }
        sentence.push_str(text);
    }
    with_remedy(&sentence, command)
}

/// A sentence about a wrong command line, with the help to read if it does not name one.
pub(crate) fn with_remedy(sentence: &str, command: &str) -> String {
    if sentence.contains("--help") || sentence.contains("Usage: ") {
        return sentence.to_owned();
    }
    format!("{sentence}; see {command} --help")
}

/// The command that these words name, such as `grapnel-ctl plugins load`. Options and other words
/// are passed over.
pub(crate) fn command_of(root: &Command, words: impl Iterator<Item = OsString>) -> String {
    let mut name = root.get_bin_name().unwrap_or_else(|| root.get_name()).to_owned();
    let mut command = root;
    for word in words {
        let below = word.to_str().and_then(|word| command.find_subcommand(word));
        if let Some(below) = below {
            name = format!("{name} {}", below.get_name());
            command = below;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn error_text(words: &[&str]) -> String {
        let range = clap::value_parser!(u8).range(1..=9);
        let load = Command::new("load")
            .arg(Arg::new("FILE").required(true))
            .arg(Arg::new("times").long("times").value_parser(range))
            .arg(Arg::new("mode").long("mode").value_parser(["fast", "slow"]));
        let root = Command::new("tool").subcommand(Command::new("plugins").subcommand(load));
        let typed = std::iter::once(&"tool").chain(words);
        match root.clone().try_get_matches_from(typed) {
            Ok(_) => "good".to_owned(),
            Err(error) => sentence(&error, &command_of(&root, words.iter().map(OsString::from))),
        }
    }

    #[test]
    fn an_error_is_one_sentence_that_names_the_help() {
        assert_eq!(error_text(&["plugins", "load", "x"]), "good");
        assert_eq!(
            error_text(&["plugins", "load"]),
            "the following required arguments were not provided: <FILE>; see tool plugins load --help"
        );
        assert_eq!(
            error_text(&["plugins", "laod"]),
            "unrecognized subcommand 'laod'; a similar subcommand exists: 'load'; see tool plugins --help"
        );
        assert_eq!(
            error_text(&["plugins", "load", "x", "--times", "10"]),
            "invalid value '10' for '--times <times>': 10 is not in 1..=9; see tool plugins load --help"
        );
        assert_eq!(
            error_text(&["plugins", "load", "x", "--mode", "quick"]),
            "invalid value 'quick' for '--mode <mode>' [possible values: fast, slow]; see tool plugins load --help"
        );
        assert_eq!(with_remedy("no; see tool --help", "tool plugins"), "no; see tool --help");
    }
}
