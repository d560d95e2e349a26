//! Prints the default configuration for `--print-default-config`, from the list of keys.

use std::fmt::Write;

use super::keys::{self, Key, Printed};

/// Columns of a comment line, at most.
const WIDTH: usize = 110;

const HEAD: &str = "\
Grapnel's configuration with every key at its default. Lines that begin with # and no blank are \
keys whose default depends on the machine, or examples. Relative paths are resolved against the \
folder in which the broker was started. Each key can be overridden by an environment variable: \
GRAPNEL_, then table and key in upper case, such as GRAPNEL_LIMITS_RECEIVE_MAX=32, \
GRAPNEL_LISTENERS_0_BIND=0.0.0.0:1883 or GRAPNEL_PLUGINS_AUTH_FILE_REQUIRED=true (- becomes _). \
The command line overrides the file and the environment.";

pub(super) fn default_text() -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    for (table, about) in keys::TABLES {
        text.push('\n');
        if !table.is_empty() {
            comment(&mut text, about);
            line(&mut text, &format!("[{table}]"));
        }
        for key in keys::keys().iter().filter(|key| table_of(&key.path) == table) {
            print(&mut text, key, "");
        }
        match table {
            "" => {
                text.push('\n');
                comment(
                    &mut text,
                    "Where clients connect. Repeat [[listeners]] for each address. Without any, the \
                     broker listens on this one.",
                );
                line(&mut text, "[[listeners]]");
                print_listener(&mut text);
            }
            "plugins" => {
                text.push('\n');
                comment(&mut text, "One table for each plugin, under the plugin's name.");
                line(&mut text, "#[plugins.NAME]");
                keys::plugin_keys().iter().for_each(|key| print(&mut text, key, "#"));
            }
            _ => {}
        }
    }
    text
}

fn table_of(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(table, _)| table)
}

/// The keys of a listener, then the tables in it, which are examples.
fn print_listener(text: &mut String) {
    let tables = [
        ("", ""),
        ("tls", "TLS of this listener. Its table makes its connections encrypted."),
        ("websocket", "WebSocket of this listener. Its table makes its clients send MQTT over HTTP."),
    ];
    for (table, about) in tables {
        if !table.is_empty() {
            text.push('\n');
            comment(text, about);
            line(text, &format!("#[listeners.{table}]"));
        }
        let sign = if table.is_empty() { "" } else { "#" };
        let keys = keys::listener_keys();
        keys.iter().filter(|key| table_of(&key.path) == table).for_each(|key| print(text, key, sign));
    }
}

fn print<D, T>(text: &mut String, key: &Key<D, T>, sign: &str) {
    let mut reason = key.reason.to_owned();
    if let Some(first) = reason.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    comment(text, &format!("{reason}. Takes {}.", key.takes));
    let name = key.name();
    match &key.printed {
        Printed::Default(value) => line(text, &format!("{sign}{name} = {value}")),
        Printed::Example(value) => line(text, &format!("#{name} = {value}")),
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn comment(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        if column == 0 || column + 1 + word.len() > WIDTH {
            let newline = if column == 0 { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{newline}# {word}");
            column = 2 + word.len();
        } else {
            let _ = write!(text, " {word}");
            column += 1 + word.len();
        }
    }
    text.push('\n');
}
