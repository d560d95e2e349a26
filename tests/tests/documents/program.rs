//! Output of the program about itself: its configuration, the help of `grapnel-ctl`, and answers of
//! the HTTP API.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use grapnel_tests::{Broker, PATIENCE, plugin};

/// A key as `--print-default-config` prints it.
#[derive(Debug)]
pub struct Key {
    /// With its table, such as `limits.receive_max`.
    pub name: String,
    /// The text after `=`.
    pub value: String,
    /// Whether the line is a comment, because the default depends on the machine.
    pub is_example: bool,
    /// The comment above it, in one line.
    pub comment: String,
}

/// What a program prints on standard output.
///
/// # Panics
/// If it fails.
pub fn printed(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(plugin::built(program));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GRAPNEL_"))
    {
        command.env_remove(name);
    }
    let output = command.args(arguments).env("COLUMNS", "100").output().expect("a built program starts");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All keys of the configuration.
pub fn keys() -> Vec<Key> {
    let text = printed("grapnel", &["--print-default-config"]);
    let (mut table, mut comment, mut keys) = (String::new(), String::new(), Vec::new());
    for line in text.lines() {
        let code = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        let is_example = code.is_some();
        let code = code.unwrap_or(line);
        if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
        } else if let Some(name) = code.strip_prefix('[') {
            name.trim_matches(['[', ']']).clone_into(&mut table);
            comment.clear();
        } else if let Some((key, value)) = code.split_once(" = ") {
            let name = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            keys.push(Key {
                name,
                value: value.to_owned(),
                is_example,
                comment: std::mem::take(&mut comment),
            });
        } else {
            comment.clear();
        }
    }
    assert!(keys.len() > 100, "{} keys are not all of them", keys.len());
    keys
}

/// The `--help` of a command.
#[derive(Debug, Default)]
pub struct Help {
    /// Its commands, `help` left out.
    pub commands: Vec<String>,
    /// Its options, and whether they take a value; `--help` and `--version` left out.
    pub options: Vec<(String, bool)>,
    /// Its arguments, without brackets.
    pub arguments: Vec<String>,
}

/// The help of `grapnel-ctl` for a command, on this broker: plugins may declare commands of their
/// own.
pub fn help(broker: &Broker, command: &[&str]) -> Help {
    let mut arguments = command.to_vec();
    // Shorter than `--help`: one line for each option.
    arguments.push("-h");
    parsed(&broker.ctl_ok(&arguments))
}

/// The text of a help.
pub fn parsed(text: &str) -> Help {
    let mut help = Help::default();
    let mut section = "";
    for line in text.lines() {
        if !line.starts_with(' ') {
            section = line;
        }
        // Continuation lines are indented further.
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|_| (2..=6).contains(&indent)) else { continue };
        match section {
            "Commands:" if indent == 2 && *first != "help" => help.commands.push((*first).to_owned()),
            "Arguments:" if indent == 2 => {
                help.arguments.push(first.trim_matches(['<', '>', '[', ']', '.']).to_owned());
            }
            "Options:" => {
                let at = words.iter().take(2).position(|word| word.starts_with("--"));
                let Some(at) = at else { continue };
                if !matches!(words[at], "--help" | "--version") {
                    let has_value = words.get(at + 1).is_some_and(|word| word.starts_with('<'));
                    help.options.push((words[at].to_owned(), has_value));
                }
            }
            _ => {}
        }
    }
    help
}

/// Sends a request to the API. Returns status and body.
///
/// # Panics
/// If it is not answered.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("the broker listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the broker reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the broker answers");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}
