//! A value before its key has checked it: typed if it comes from the file, text if it comes from
//! the environment or the command line. Keys convert it with the functions here, which return an
//! error that names the accepted values.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

/// A value of some key.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Text from the environment or the command line; the key converts it to its type.
    Plain(String),
    /// From the file, with its type.
    Toml(toml::Value),
}

/// Converts a parsed value of the document. The radix and the range of numbers are checked here,
/// because only the parser of the document has them.
pub(super) fn from_document(value: &Spanned<DeValue<'_>>) -> Result<toml::Value, String> {
    Ok(match value.get_ref() {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(toml::Value::Integer)
            .map_err(|_| format!("{} is too large a number", number.as_str()))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(toml::Value::Float)
            .map_err(|_| format!("{} is not a number", number.as_str()))?,
        DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
        DeValue::Datetime(when) => toml::Value::Datetime(*when),
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(from_document).collect::<Result<_, String>>()?)
        }
        DeValue::Table(table) => {
            let mut plain = toml::Table::new();
            for (key, value) in table {
                plain.insert(key.get_ref().to_string(), from_document(value)?);
            }
            toml::Value::Table(plain)
        }
    })
}

impl Value {
    /// Text.
    pub fn text(&self) -> Result<&str, String> {
        match self {
            Value::Plain(text) | Value::Toml(toml::Value::String(text)) => Ok(text),
            other => Err(format!("must be text in quotes, not {}", other.shown())),
        }
    }

    /// A whole number between two bounds.
    pub fn number(&self, min: i64, max: i64) -> Result<i64, String> {
        let number = match self {
            Value::Toml(toml::Value::Integer(number)) => Some(*number),
            Value::Plain(text) => text.replace('_', "").parse().ok(),
            Value::Toml(_) => None,
        };
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            Some(number) => Err(format!("must be between {min} and {max}, not {number}")),
            None => Err(format!("must be a whole number between {min} and {max}, not {}", self.shown())),
        }
    }

    /// True or false.
    pub fn flag(&self) -> Result<bool, String> {
        match self {
            Value::Toml(toml::Value::Boolean(flag)) => Ok(*flag),
            Value::Plain(text) if text == "true" => Ok(true),
            Value::Plain(text) if text == "false" => Ok(false),
            other => Err(format!("must be true or false, not {}", other.shown())),
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, String> {
        if let Ok(text) = self.text()
            && let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text)
        {
            return Ok(*meaning);
        }
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Err(format!("must be {}, not {}", words.join(" or "), self.shown()))
    }

    /// A list of texts. Text of the environment is a list in TOML, or words between commas.
    pub fn texts(&self) -> Result<Vec<String>, String> {
        let list = match self {
            Value::Plain(text) if !text.trim_start().starts_with('[') => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                return Ok(words.map(str::to_owned).collect());
            }
            _ => self.list()?,
        };
        let text = |item: toml::Value| match item {
            toml::Value::String(text) => Ok(text),
            other => Err(format!("must be a list of texts in quotes, not of {}", Value::Toml(other).shown())),
        };
        list.into_iter().map(text).collect()
    }

    /// A list. Text of the environment is read as TOML.
    pub fn list(&self) -> Result<Vec<toml::Value>, String> {
        let wrong = || format!("must be a list in [ ], not {}", self.shown());
        match self {
            Value::Toml(toml::Value::Array(items)) => Ok(items.clone()),
            Value::Toml(_) => Err(wrong()),
            Value::Plain(text) => {
                let parsed = format!("value = {text}").parse::<toml::Table>().ok();
                match parsed.and_then(|mut table| table.remove("value")) {
                    Some(toml::Value::Array(items)) => Ok(items),
                    _ => Err(wrong()),
                }
            }
        }
    }

    /// A path; a relative one is resolved against the current folder of the process.
    pub fn path(&self) -> Result<PathBuf, String> {
        let text = self.text()?;
        std::path::absolute(text).map_err(|_| "must be a path, but is empty".to_owned())
    }

    /// An IP address and a port.
    pub fn address(&self) -> Result<SocketAddr, String> {
        let text = match self {
            // A number without an address is a likely mistake; the error message is the same.
            Value::Toml(toml::Value::Integer(number)) => &number.to_string(),
            other => other.text()?,
        };
        text.parse().map_err(|_| {
            let port = text.trim_start_matches("localhost").trim_start_matches(['*', ':']);
            let port = port.parse::<u16>().unwrap_or(1883);
            format!(
                "must be an IP address and a port such as \"127.0.0.1:{port}\", \"0.0.0.0:{port}\" or \"[::]:{port}\", not \"{text}\""
            )
        })
    }

    /// A table for a plugin, as JSON. Plain text is read as an inline TOML table.
    pub fn object(&self) -> Result<serde_json::Value, String> {
        let table = match self {
            Value::Toml(toml::Value::Table(table)) => table.clone(),
            Value::Plain(text) => {
                let document = format!("value = {text}");
                let parsed = document.parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
                match parsed {
                    Some(toml::Value::Table(table)) => table,
                    _ => return Err("must be a table such as { key = \"value\" }".to_owned()),
                }
            }
            // The value is not shown: it may be a secret of the plugin.
            Value::Toml(toml::Value::Array(_)) => return Err("must be a table, not a list".to_owned()),
            Value::Toml(_) => return Err("must be a table, not a single value".to_owned()),
        };
        to_json(&toml::Value::Table(table))
    }

    /// The value as an error message shows it.
    fn shown(&self) -> String {
        match self {
            Value::Plain(text) => format!("\"{text}\""),
            Value::Toml(toml::Value::Table(_)) => "a table".to_owned(),
            Value::Toml(toml::Value::Array(_)) => "a list".to_owned(),
            Value::Toml(other) => other.to_string(),
        }
    }
}

/// TOML as JSON. Dates become text; numbers that JSON cannot represent are refused.
///
/// # Errors
/// A message about the number that JSON cannot represent.
pub fn to_json(value: &toml::Value) -> Result<serde_json::Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(serde_json::Value::Number)
            .ok_or_else(|| format!("holds {number}, which cannot be passed to a plugin"))?,
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(when) => when.to_string().into(),
        toml::Value::Array(items) => {
            serde_json::Value::Array(items.iter().map(to_json).collect::<Result<_, String>>()?)
        }
        toml::Value::Table(table) => {
            let mut object = serde_json::Map::new();
            for (key, value) in table {
                object.insert(key.clone(), to_json(value)?);
            }
            serde_json::Value::Object(object)
        }
    })
}
