//! A plugin's configuration from the command line: a file, and single values that override it.

use std::path::Path;

use serde_json::{Map, Value};

use super::CtlError;
use crate::config::{FILE_BYTES_MAX, to_json};

/// Reads `--config` and then applies each `--set`. `None` if neither was given.
pub(super) fn read(file: Option<&Path>, set: &[String]) -> Result<Option<Value>, CtlError> {
    if file.is_none() && set.is_empty() {
        return Ok(None);
    }
    let mut config = match file {
        Some(path) => read_file(path)?,
        None => Map::new(),
    };
    for assignment in set {
        assign(&mut config, assignment)
            .map_err(|error| CtlError::Usage(format!("--set {assignment}: {error}")))?;
    }
    Ok(Some(Value::Object(config)))
}

fn read_file(path: &Path) -> Result<Map<String, Value>, CtlError> {
    let shown = path.display();
    let wrong = |error: String| CtlError::Usage(format!("--config {shown}: {error}"));
    let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    // Windows editors may write a byte order mark at the start.
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let is_json =
        path.extension().is_some_and(|extension| extension == "json") || text.trim_start().starts_with('{');
    if path.extension().is_some_and(|extension| extension == "conf") {
        return lines(text).map_err(wrong);
    }
    let value = if is_json {
        serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?
    } else {
        let table: toml::Table = toml::from_str(text).map_err(|error| wrong(format!("not TOML: {error}")))?;
        to_json(&toml::Value::Table(table)).map_err(|error| wrong(format!("it {error}")))?
    };
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("it must hold a table".to_owned())),
    }
}

/// Parses a file of `key = value` lines in the format of EMQX 4. A key with dots is one key, every
/// value is text, and `#` begins a comment anywhere. If a key occurs twice, the last line counts.
fn lines(text: &str) -> Result<Map<String, Value>, String> {
    let mut config = Map::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| format!("line {number} is not `key = value`"))?;
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if value.is_empty() {
            return Err(format!("line {number}: {key} has no value"));
        }
        config.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Ok(config)
}

fn assign(config: &mut Map<String, Value>, assignment: &str) -> Result<(), String> {
    let (path, text) = assignment.split_once('=').ok_or("write it as key=value")?;
    let mut parts = path.split('.').peekable();
    let mut table = config;
    while let Some(part) = parts.next() {
        if part.is_empty() {
            return Err("the key has an empty part".to_owned());
        }
        if parts.peek().is_none() {
            table.insert(part.to_owned(), parse(text));
            return Ok(());
        }
        let inner = table.entry(part).or_insert_with(|| Value::Object(Map::new()));
        table = inner.as_object_mut().ok_or_else(|| format!("{part} is a value and has no keys in it"))?;
    }
    Ok(())
}

/// Parses a number, flag, list or table in TOML or JSON. Anything else is text.
fn parse(text: &str) -> Value {
    let toml = format!("value = {text}").parse::<toml::Table>().ok().filter(|table| table.len() == 1);
    let value = toml.and_then(|mut table| table.remove("value")).and_then(|value| to_json(&value).ok());
    value.or_else(|| serde_json::from_str(text).ok()).unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn set(values: &[&str]) -> Result<Value, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        read(None, &values).map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn values_of_set_have_the_type_that_they_look_like() {
        let config = set(&[
            "n=3",
            "f=0.5",
            "b=true",
            "s=some words",
            "q=\"3\"",
            "l=[1, 2]",
            "t={ a = 1 }",
            "j={\"a\": null}",
        ]);
        let expected = json!({"n": 3, "f": 0.5, "b": true, "s": "some words", "q": "3", "l": [1, 2], "t": {"a": 1}, "j": {"a": null}});
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn text_that_only_resembles_toml_stays_text() {
        assert_eq!(set(&["a=1\nb = 2"]).unwrap(), json!({"a": "1\nb = 2"}));
        assert_eq!(
            set(&["a=sensors/#", "b=", "c=x=y"]).unwrap(),
            json!({"a": "sensors/#", "b": "", "c": "x=y"})
        );
    }

    #[test]
    fn dotted_keys_make_tables_and_a_value_is_no_table() {
        assert_eq!(set(&["a.b.c=1", "a.b.d=2"]).unwrap(), json!({"a": {"b": {"c": 1, "d": 2}}}));
        assert_eq!(set(&["a=1", "a.b=2"]).unwrap_err(), "--set a.b=2: a is a value and has no keys in it");
        assert_eq!(set(&["a..b=2"]).unwrap_err(), "--set a..b=2: the key has an empty part");
        assert_eq!(set(&["a"]).unwrap_err(), "--set a: write it as key=value");
    }

    #[test]
    fn a_file_may_be_toml_or_json_and_set_overrides_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "[rules]\na = 1\nb = 2\n").unwrap();
        let over = ["rules.b=3".to_owned()];
        assert_eq!(read(Some(&path), &over).unwrap().unwrap(), json!({"rules": {"a": 1, "b": 3}}));
        let path = dir.path().join("p.json");
        std::fs::write(&path, "{\"rules\": []}").unwrap();
        assert_eq!(read(Some(&path), &[]).unwrap().unwrap(), json!({"rules": []}));
        std::fs::write(&path, "[1]").unwrap();
        assert!(read(Some(&path), &[]).unwrap_err().to_string().ends_with("p.json: it must hold a table"));
        assert!(read(None, &[]).unwrap().is_none());
    }

    #[test]
    fn lines_of_a_conf_file_are_keys_with_text_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emqx_extension_hook.conf");
        let text = "## EMQX\n\nexhook.drivers = python3\nexhook.drivers.python3.call_timeout = 5s\n";
        std::fs::write(&path, text).unwrap();
        let expected = json!({"exhook.drivers": "python3", "exhook.drivers.python3.call_timeout": "5s"});
        assert_eq!(read(Some(&path), &[]).unwrap().unwrap(), expected);
        // Has a comment after a value, a byte order mark, Windows line ends, and a key that occurs
        // twice.
        let text = "\u{FEFF}a = /x # the folder\r\nb=1#one\r\n \t# c = 3\r\nb = 2 \r\nq = \"in quotes\"\r\n";
        std::fs::write(&path, text).unwrap();
        let expected = json!({"a": "/x", "b": "2", "q": "in quotes"});
        assert_eq!(read(Some(&path), &[]).unwrap().unwrap(), expected);
        for (text, expected) in
            [("a\n", "line 1 is not `key = value`"), ("a = 1\nb = # 2", "line 2: b has no value")]
        {
            std::fs::write(&path, text).unwrap();
            assert!(read(Some(&path), &[]).unwrap_err().to_string().ends_with(expected));
        }
    }
}
