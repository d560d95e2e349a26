//! Prints the keys of a plugin's configuration, as its JSON Schema describes them: a row for each
//! key. Programs get the schema itself.

use serde_json::Value;

use super::CtlError;
use super::output::Output;
use super::table::{self, Column};

/// Prints the keys; nothing if there is no schema.
pub(super) fn print(schema: Option<&Value>, output: &mut Output) -> Result<(), CtlError> {
    let Some(schema) = schema else { return Ok(()) };
    output.line("")?;
    output.line("its configuration (--json has it as a JSON Schema):")?;
    let mut rows = Vec::new();
    add_rows(schema, "", &mut rows);
    let columns = [
        Column::Left("KEY"),
        Column::Left("VALUE"),
        Column::Left("UNIT"),
        Column::Left("DEFAULT"),
        Column::Left("MEANING"),
    ];
    table::print(output, columns, rows)
}

/// Adds the keys of a table, and those of the tables in it.
fn add_rows(schema: &Value, before: &str, rows: &mut Vec<[String; 5]>) {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    for (key, about) in schema["properties"].as_object().into_iter().flatten() {
        let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
        let default = match &about["default"] {
            Value::Null if required.iter().any(|name| name == key) => "required".to_owned(),
            Value::Null => "-".to_owned(),
            default => default.to_string(),
        };
        let name = format!("{before}{key}");
        rows.push([name.clone(), value(about), text("x-unit"), default, text("description")]);
        add_rows(about, &format!("{name}."), rows);
        add_rows(&about["items"], &format!("{name}[]."), rows);
    }
}

/// The values that a key may have.
fn value(about: &Value) -> String {
    if let Some(choices) = about["enum"].as_array() {
        return choices.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    let kinds = match &about["type"] {
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(kind).collect(),
        one => vec![one.as_str().map_or("any", kind)],
    };
    let kind = kinds.join(" or ");
    match (about["minimum"].as_number(), about["maximum"].as_number()) {
        (Some(min), Some(max)) => format!("{kind}, {min} to {max}"),
        (Some(min), None) => format!("{kind}, from {min}"),
        (None, Some(max)) => format!("{kind}, up to {max}"),
        (None, None) => kind,
    }
}

/// The word for a type of JSON Schema.
fn kind(name: &str) -> &str {
    match name {
        "integer" => "whole number",
        "string" => "text",
        "array" => "list",
        "object" => "table",
        "boolean" => "true or false",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_key_has_a_row_with_its_values_unit_and_default() {
        let rule = json!({"type": "object", "properties": {"on": {"enum": ["a", "b"], "default": "a"}}});
        let wait = json!({
            "type": "integer", "minimum": 1, "maximum": 9, "default": 2, "x-unit": "seconds", "description": "How long."
        });
        let schema = json!({
            "type": "object",
            "required": ["path"],
            "properties": {
                "path": {"type": "string"},
                "rules": {"type": "array", "items": rule},
                "time": {"type": ["string", "integer"], "minimum": 1},
                "wait_s": wait,
            },
        });
        let mut rows = Vec::new();
        add_rows(&schema, "", &mut rows);
        rows.sort();
        let expected = [
            ["path", "text", "", "required", ""],
            ["rules", "list", "", "-", ""],
            ["rules[].on", "\"a\" or \"b\"", "", "\"a\"", ""],
            ["time", "text or whole number, from 1", "", "-", ""],
            ["wait_s", "whole number, 1 to 9", "seconds", "2", "How long."],
        ];
        assert_eq!(rows, expected);
    }
}
