//! What a verb answers: a table or text for people, a value for programs, an exit code, and what
//! the broker is to do with the plugin's hooks.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest exit code: those above belong to the shell.
const EXIT_CODE_MAX: u8 = 125;
/// Most columns of a table.
const COLUMNS_MAX: usize = 64;
/// Most levels of lists and objects in a value: some less than JSON is read with, because it is passed on within others.
const VALUE_LEVELS_MAX: usize = 100;
/// Most changes of one answer.
const THEN_MAX: usize = 16;

/// What a verb answers. People see the text, then the table; programs get the value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Lines for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The columns of the table; none for no table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Its rows, each with a cell for each column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<String>>,
    /// What programs get; where there is none, the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What `grapnel-ctl` ends with, 0 to 125.
    #[serde(default)]
    pub exit_code: u8,
    /// What the broker does next, one after the other, until one is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Then>,
}

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// What stands above it.
    pub title: String,
    /// Whether its cells are set to the right, as numbers are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub right: bool,
}

/// What the broker does with the plugin after a verb that changes something, as if the operator had asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Then {
    /// Takes hooks of the plugin out of their chains, as `hooks unmount` does: all of these or none.
    Unmount {
        /// As `POINT/HOOK`.
        hooks: Vec<String>,
        /// Also where nobody decides any more who may connect or what clients may do; the broker honours it only
        /// where the verb declares a flag `force` and the call has it.
        #[serde(default)]
        force: bool,
    },
    /// Puts hooks back, as `hooks mount` does.
    Mount {
        /// As `POINT/HOOK`.
        hooks: Vec<String>,
    },
    /// As `plugins disable`.
    Disable {
        /// Also where nobody decides any more who may connect or what clients may do; the broker honours it only
        /// where the verb declares a flag `force` and the call has it.
        #[serde(default)]
        force: bool,
    },
    /// As `plugins enable`.
    Enable,
}

/// Lists and objects within each other; no more than JSON is read with.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

impl Answer {
    /// Reads what a plugin has written: JSON where it begins with `{`, else text.
    ///
    /// # Errors
    /// What is wrong with it, as a predicate without a subject.
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

    /// Lines for people, and the same text for programs.
    pub fn text(text: impl Into<String>) -> Answer {
        Answer { text: text.into(), ..Answer::default() }
    }

    /// A table with a column for each field of the rows, and the rows as they are for programs. Numbers stand on the right; a field
    /// that is missing or null is shown as `-`.
    ///
    /// # Errors
    /// A row that cannot be JSON, or is not a struct or map.
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

    /// A table of one's own; `columns` that begin with `>` are set to the right.
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

    /// What programs get.
    ///
    /// # Errors
    /// What cannot be JSON.
    pub fn value<T: Serialize + ?Sized>(self, value: &T) -> Result<Answer, crate::Error> {
        Ok(Answer { value: Some(serde_json::to_value(value)?), ..self })
    }

    /// What `grapnel-ctl` ends with, 0 to 125.
    #[must_use]
    pub fn exit_code(self, exit_code: u8) -> Answer {
        Answer { exit_code, ..self }
    }

    /// What the broker does next.
    #[must_use]
    pub fn then(mut self, then: Then) -> Answer {
        self.then.push(then);
        self
    }
}

/// A field for people.
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

/// The fields of a row in their order, which a map of serde_json does not keep.
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
