//! The answer of a verb: a table or text for people, a value for programs, an exit code, and
//! changes of the plugin's hooks that the broker makes.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Maximum exit code; the shell reserves higher ones.
const EXIT_CODE_MAX: u8 = 125;
/// Maximum number of columns of a table.
const COLUMNS_MAX: usize = 64;
/// Maximum nesting of lists and objects in a value. Lower than the limit of the JSON parser,
/// because the value is nested in other values.
const VALUE_LEVELS_MAX: usize = 100;
/// Maximum number of changes in one answer.
const THEN_MAX: usize = 16;

/// The answer of a verb. People see the text, then the table; programs get the value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The columns of the table; empty for no table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// The rows of the table, each with one cell for each column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<String>>,
    /// The value for programs; the text if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Exit code of `grapnel-ctl`, 0 to 125.
    #[serde(default)]
    pub exit_code: u8,
    /// Changes that the broker makes next, in this order, until one is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Then>,
}

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Header of the column.
    pub title: String,
    /// Whether its cells are right-aligned, as numbers are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub right: bool,
}

/// A change of the plugin that the broker makes after a verb, as if the operator had requested it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Then {
    /// Unmounts hooks of the plugin, as `hooks unmount` does: all of them or none.
    Unmount {
        /// As `POINT/HOOK`.
        hooks: Vec<String>,
        /// Also if no hook remains that decides who may connect or what clients may do. Only if the
        /// verb declares a flag `force` and the call sets it.
        #[serde(default)]
        force: bool,
    },
    /// Mounts hooks again, as `hooks mount` does.
    Mount {
        /// As `POINT/HOOK`.
        hooks: Vec<String>,
    },
    /// As `plugins disable`.
    Disable {
        /// Also if no hook remains that decides who may connect or what clients may do. Only if the
        /// verb declares a flag `force` and the call sets it.
        #[serde(default)]
        force: bool,
    },
    /// As `plugins enable`.
    Enable,
}

/// Nesting of lists and objects in a value. The JSON parser limits it.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

impl Answer {
    /// Reads a plugin's answer: JSON if it begins with `{`, otherwise text.
    ///
    /// # Errors
    /// The error, as a predicate without a subject.
    pub fn read(bytes: &[u8]) -> Result<Answer, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        if !text.starts_with('{') {
            return Ok(Answer::text(text));
        }
        let answer: Answer = serde_json::from_str(text)
            .map_err(|error| format!("is not what an answer looks like: {error}"))?;
        let Answer { columns, rows, value, exit_code, then, .. } = &answer;
        if value.as_ref().is_some_and(|value| levels(value) > VALUE_LEVELS_MAX) {
            return Err(format!(
                "has a value of more than {VALUE_LEVELS_MAX} lists and objects within each other"
            ));
        }
        if columns.len() > COLUMNS_MAX {
            return Err(format!("has {} columns; at most {COLUMNS_MAX} can be", columns.len()));
        }
        if let Some(at) = rows.iter().position(|row| row.len() != columns.len()) {
            let (cells, columns) = (rows[at].len(), columns.len());
            return Err(format!("has {cells} cells in row {} of a table with {columns} columns", at + 1));
        }
        if *exit_code > EXIT_CODE_MAX {
            return Err(format!("has the exit code {exit_code}; at most {EXIT_CODE_MAX} can be"));
        }
        if then.len() > THEN_MAX {
            return Err(format!("wants {} changes; at most {THEN_MAX} can be", then.len()));
        }
        Ok(answer)
    }

    /// An answer with this text, for people and for programs.
    pub fn text(text: impl Into<String>) -> Answer {
        Answer { text: text.into(), ..Answer::default() }
    }

    /// An answer with a table: one column for each field of the rows. Programs get the rows as they
    /// are. Numbers are right-aligned; a missing or null field is shown as `-`.
    ///
    /// # Errors
    /// If a row cannot be converted to JSON, or is not a struct or map.
    pub fn rows<T: Serialize>(rows: &[T]) -> Result<Answer, crate::Error> {
        let mut answer = Answer::default().value(rows)?;
        let mut keys: Vec<String> = Vec::new();
        let mut ordered = Vec::with_capacity(rows.len());
        for row in rows {
            let Ordered(fields) = serde_json::from_str(&serde_json::to_string(row)?)?;
            let new = fields.iter().filter(|(key, _)| !keys.contains(key)).map(|(key, _)| key.clone());
            let new: Vec<_> = new.collect();
            keys.extend(new);
            ordered.push(fields);
        }
        let value = |fields: &[(String, Value)], key: &str| {
            fields.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let is_number = |key: &String| {
            let mut values = ordered.iter().map(|fields| value(fields, key)).filter(|value| !value.is_null());
            values.next().is_some_and(|first| first.is_number()) && values.all(|value| value.is_number())
        };
        let columns = keys
            .iter()
            .map(|key| Column { title: key.replace('_', " ").to_uppercase(), right: is_number(key) });
        answer.columns = columns.collect();
        answer.rows =
            ordered.iter().map(|fields| keys.iter().map(|key| cell(&value(fields, key))).collect()).collect();
        Ok(answer)
    }

    /// Sets the table. A column whose title begins with `>` is right-aligned.
    #[must_use]
    pub fn table<const N: usize>(
        self,
        columns: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Answer {
        let column = |title: &str| match title.strip_prefix('>') {
            Some(title) => Column { title: title.to_owned(), right: true },
            None => Column { title: title.to_owned(), right: false },
        };
        let rows = rows.into_iter().map(Vec::from).collect();
        Answer { columns: columns.map(column).into(), rows, ..self }
    }

    /// Sets the value for programs.
    ///
    /// # Errors
    /// If the value cannot be converted to JSON.
    pub fn value<T: Serialize + ?Sized>(self, value: &T) -> Result<Answer, crate::Error> {
        Ok(Answer { value: Some(serde_json::to_value(value)?), ..self })
    }

    /// Sets the exit code of `grapnel-ctl`, 0 to 125.
    #[must_use]
    pub fn exit_code(self, exit_code: u8) -> Answer {
        Answer { exit_code, ..self }
    }

    /// Adds a change that the broker makes next.
    #[must_use]
    pub fn then(mut self, then: Then) -> Answer {
        self.then.push(then);
        self
    }
}

/// A field as text for people.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The fields of a row in their order; a map of serde_json does not keep it.
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Ordered;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a row with named fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Ordered(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
