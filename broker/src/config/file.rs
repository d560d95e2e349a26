//! Reads the configuration file as TOML. Errors name the line of their key. Used by `Config::load`.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::Draft;
use super::error::Origin;
use super::keys;
use super::listener_draft::ListenerDraft;
use super::value::{Value, from_document};

/// Largest configuration file that is read, bytes, so that a wrong path does not fill memory.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file into the draft, and adds its errors there.
pub(super) fn read(path: &Path, draft: &mut Draft) {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) => {
            let path = path.display();
            return draft.fail(&Origin::Option("--config"), format_args!("cannot read {path}: {error}"));
        }
    };
    Reader { path, text: &text, draft }.document();
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    // A pipe would let the start and each reload wait for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

type Entry<'a, 'i> = (&'a str, usize, &'a Spanned<DeValue<'i>>);

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    draft: &'a mut Draft,
}

impl Reader<'_> {
    fn document(&mut self) {
        let text = self.text;
        let (document, mut errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
            // The values of an incomplete tree are not checked: that would report errors that the
            // file does not have.
            for error in errors {
                let origin = self.origin(error.span().unwrap_or_default());
                self.draft.fail(&origin, error.message().trim_end());
            }
            return;
        }
        for (name, at, value) in in_order(document.get_ref()) {
            match (name, value.get_ref()) {
                ("listeners", _) if keys::not_yet(name).is_none() => self.listeners(at, value),
                ("plugins", DeValue::Table(table)) => self.plugins(table),
                (_, DeValue::Table(table)) if keys::TABLES.iter().any(|(known, _)| *known == name) => {
                    for (key, at, value) in in_order(table) {
                        self.scalar(&format!("{name}.{key}"), at, value);
                    }
                }
                (_, _) if keys::TABLES.iter().any(|(known, _)| *known == name) => {
                    let origin = self.origin(at..at);
                    self.draft
                        .fail(&origin, format_args!("{name} is a table: write [{name}] and its keys below"));
                }
                _ => self.scalar(name, at, value),
            }
        }
    }

    fn listeners(&mut self, at: usize, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(items) = value.get_ref() else {
            let origin = self.origin(at..at);
            return self
                .draft
                .fail(&origin, "listeners is a list: write [[listeners]] and the keys of one below");
        };
        if items.is_empty() {
            let origin = self.origin(at..at);
            self.draft.fail(&origin, "listeners is empty; leave it out to listen on 127.0.0.1:1883");
        }
        for item in items.iter() {
            let origin = self.origin(item.span());
            let DeValue::Table(table) = item.get_ref() else {
                self.draft.fail(&origin, "a listener is a table: write [[listeners]] and its keys below");
                continue;
            };
            self.draft.listeners.push(ListenerDraft { origin: Some(origin), ..ListenerDraft::default() });
            let index = self.draft.listeners.len() - 1;
            for (name, at, value) in in_order(table) {
                match (name, value.get_ref()) {
                    ("tls", DeValue::Table(table)) => {
                        self.draft.listeners[index].tls();
                        self.table_of_listener(index, name, table);
                    }
                    ("websocket", DeValue::Table(table)) => {
                        self.draft.listeners[index].websocket();
                        self.table_of_listener(index, name, table);
                    }
                    ("tls" | "websocket", _) => {
                        let origin = self.origin(at..at);
                        let sentence = format!(
                            "listeners.{name} is a table: write [listeners.{name}] and its keys below"
                        );
                        self.draft.listeners[index].refused = true;
                        self.draft.fail(&origin, sentence);
                    }
                    _ => self.key_of_listener(index, name, at, value),
                }
            }
        }
    }

    fn table_of_listener(&mut self, index: usize, table: &str, keys: &DeTable<'_>) {
        for (key, at, value) in in_order(keys) {
            self.key_of_listener(index, &format!("{table}.{key}"), at, value);
        }
    }

    fn key_of_listener(&mut self, index: usize, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let origin = self.origin(at..at);
        if let Some(value) = self.value(&format!("listeners.{name}"), &origin, value) {
            self.draft.set_of_listener(index, name, &value, &origin);
        }
    }

    fn plugins(&mut self, table: &DeTable<'_>) {
        for (name, at, value) in in_order(table) {
            let origin = self.origin(at..at);
            let DeValue::Table(keys) = value.get_ref() else {
                self.scalar(&format!("plugins.{name}"), at, value);
                continue;
            };
            if name == "dir" {
                self.draft.fail(
                    &origin,
                    "plugins.dir is the folder of the plugins; a plugin cannot have that name",
                );
                continue;
            }
            let Some(index) = self.draft.plugin(name, &origin) else { continue };
            for (key, at, value) in in_order(keys) {
                let origin = self.origin(at..at);
                if let Some(value) = self.value(&format!("plugins.{name}.{key}"), &origin, value) {
                    self.draft.set_of_plugin(index, key, &value, &origin);
                }
            }
        }
    }

    fn scalar(&mut self, path: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        let origin = self.origin(at..at);
        if let Some(value) = self.value(path, &origin, value) {
            self.draft.set(path, &value, &origin);
        }
    }

    fn value(&mut self, path: &str, origin: &Origin, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        match from_document(value) {
            Ok(value) => Some(Value::Toml(value)),
            Err(error) => {
                self.draft.fail(origin, format_args!("{path}: {error}"));
                None
            }
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Origin::File { path: self.path.to_path_buf(), line }
    }
}

/// The entries of a table in the order of the file, each with the byte offset of its key. Plugins
/// are mounted and errors are reported in that order.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<Entry<'a, 'i>> =
        table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span().start, value)).collect();
    entries.sort_by_key(|(_, at, _)| *at);
    entries
}
