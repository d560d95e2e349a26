//! Reads a plugin's configuration from JSON. An error message has the path of the key, but never a
//! value, because the value may be a secret. An unknown key is refused, with the most similar known
//! key.

use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// The configuration of a plugin that has nothing to configure.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads a configuration.
pub(super) fn parse<C: DeserializeOwned>(json: &[u8]) -> Result<C, String> {
    let json = if json.is_empty() { b"{}" } else { json };
    // The message has only the position; the text around it may be a secret.
    let value: Value = serde_json::from_slice(json).map_err(|error| {
        format!("the configuration is not JSON (line {}, column {})", error.line(), error.column())
    })?;
    if !value.is_object() {
        return Err("the configuration is not a JSON object".to_owned());
    }
    C::deserialize(Node(value)).map_err(|problem| problem.to_string())
}

/// The error and its path. The path is built while the call returns from inner values.
#[derive(Debug)]
struct Problem {
    path: String,
    what: String,
}

impl Problem {
    fn of(what: String) -> Problem {
        Problem { path: String::new(), what }
    }

    fn within(mut self, step: &str) -> Problem {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

impl std::error::Error for Problem {}

/// The kind of a value without the value.
fn kind(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "a text",
        Unexpected::Unit => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => "something else",
    }
}

impl serde::de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Problem {
        Problem::of(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Problem {
        Problem::of(format!("this is {}; it must be {expected}", kind(&found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Problem {
        Problem::of(format!("this value ({}) cannot be taken; it must be {expected}", kind(&found)))
    }

    fn unknown_variant(_found: &str, expected: &'static [&'static str]) -> Problem {
        Problem::of(format!("this word is not known; it must be one of {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Problem {
        Problem::of(unknown_key(field, expected))
    }

    fn missing_field(field: &'static str) -> Problem {
        Problem::of(format!("the key {field} is missing"))
    }

    fn duplicate_field(field: &'static str) -> Problem {
        Problem::of(format!("the key {field} is there twice"))
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return format!("the key {key} is not known; there is nothing to configure here");
    }
    let nearest = known
        .iter()
        .map(|name| (similarity(key, name), name))
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .filter(|(similarity, _)| *similarity >= 0.5);
    match nearest {
        Some((_, name)) => format!("the key {key} is not known; did you mean {name}?"),
        None => format!("the key {key} is not known; the keys are {}", known.join(", ")),
    }
}

/// Similarity from 0 to 1: finds typing errors, and words that are missing or added.
fn similarity(key: &str, name: &str) -> f64 {
    let slips = strsim::normalized_damerau_levenshtein(key, name);
    let shorter = key.len().min(name.len());
    if shorter >= 3 && (key.contains(name) || name.contains(key)) { slips.max(0.8) } else { slips }
}

/// A JSON value that deserializes with [`Problem`] as its error.
#[derive(Debug)]
struct Node(Value);

impl<'de> IntoDeserializer<'de, Problem> for Node {
    type Deserializer = Node;

    fn into_deserializer(self) -> Node {
        self
    }
}

/// A value of a table. It adds its key to the path of an inner error.
struct Entry(String, Value);

impl<'de> IntoDeserializer<'de, Problem> for Entry {
    type Deserializer = Entry;

    fn into_deserializer(self) -> Entry {
        self
    }
}

macro_rules! forward_with_path {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, Problem> {
            let Entry(key, value) = self;
            Node(value).$method($($argument,)* visitor).map_err(|problem| problem.within(&key))
        }
    )*};
}

impl<'de> Deserializer<'de> for Entry {
    type Error = Problem;

    forward_with_path! {
        deserialize_any();
        deserialize_option();
        deserialize_newtype_struct(name: &'static str);
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

type Entries = MapDeserializer<'static, std::vec::IntoIter<(String, Entry)>, Problem>;

fn entries(map: serde_json::Map<String, Value>) -> Entries {
    let pairs: Vec<_> = map.into_iter().map(|(key, value)| (key.clone(), Entry(key, value))).collect();
    MapDeserializer::new(pairs.into_iter())
}

impl<'de> Deserializer<'de> for Node {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(list) => {
                let items = list.into_iter().enumerate().map(|(at, value)| Entry(format!("[{at}]"), value));
                let mut sequence = SeqDeserializer::new(items);
                let value = visitor.visit_seq(&mut sequence)?;
                sequence.end()?;
                Ok(value)
            }
            Value::Object(map) => {
                let mut entries = entries(map);
                let value = visitor.visit_map(&mut entries)?;
                entries.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        // Checked here, because authors forget `deny_unknown_fields`.
        if let Value::Object(map) = &self.0
            && let Some(key) = map.keys().find(|key| !fields.contains(&key.as_str()))
        {
            return Err(Problem::of(unknown_key(key, fields)));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(IntoDeserializer::<Problem>::into_deserializer(word)),
            Value::Object(map) => visitor.visit_enum(MapAccessDeserializer::new(entries(map))),
            _ => Err(Problem::of("this must be a word or a table with one key".to_owned())),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}
