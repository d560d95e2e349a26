//! The JSON Schema of a plugin's configuration. It is parsed when the file is opened, and every
//! configuration is checked against it before the plugin gets it. Errors name keys and never show
//! values, which may be secrets.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

/// Maximum number of complaints in one sentence.
const COMPLAINTS_MAX: usize = 4;

/// A parsed schema.
pub(in crate::plugin) struct Schema {
    value: Value,
    validator: Box<Validator>,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("value", &self.value).finish_non_exhaustive()
    }
}

impl Schema {
    /// Parses a schema. The error is a predicate without a subject.
    pub(in crate::plugin) fn parse(text: &str) -> Result<Schema, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let validator =
            jsonschema::validator_for(&value).map_err(|error| format!("is no JSON Schema: {error}"))?;
        Ok(Schema { value, validator: Box::new(validator) })
    }

    /// The schema as the plugin wrote it.
    pub(in crate::plugin) fn value(&self) -> &Value {
        &self.value
    }

    /// Checks the values of a configuration. The error says what is wrong with them.
    pub(in crate::plugin) fn check_values(&self, config: &Value) -> Result<(), String> {
        self.check(config, |error| !is_missing(error))
    }

    /// Checks that no key is missing. To be called after the plugin's own check: for a key that is
    /// misspelt, that names the nearest one.
    pub(in crate::plugin) fn check_missing(&self, config: &Value) -> Result<(), String> {
        self.check(config, is_missing)
    }

    fn check(&self, config: &Value, wanted: fn(&ValidationError<'_>) -> bool) -> Result<(), String> {
        let mut complaints: Vec<String> = Vec::new();
        let mut more = 0;
        for error in self.validator.iter_errors(config).filter(|error| wanted(error)) {
            if complaints.len() < COMPLAINTS_MAX {
                complaints.push(error_text(&error));
            } else {
                more += 1;
            }
        }
        match (complaints.is_empty(), more) {
            (true, _) => Ok(()),
            (false, 0) => Err(complaints.join("; ")),
            (false, more) => Err(format!("{}; and {more} more", complaints.join("; "))),
        }
    }
}

fn is_missing(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), ValidationErrorKind::Required { .. })
}

fn error_text(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    // In the words of the SDK, which checks the types of a configuration without a schema.
    let text = match error.kind() {
        ValidationErrorKind::Required { property: Value::String(key) } => format!("the key {key} is missing"),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        _ => error.masked_with("the value").to_string(),
    };
    if path.is_empty() { text } else { format!("{path}: {text}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_key_and_never_show_a_value() {
        let schema = json!({
            "type": "object",
            "required": ["url"],
            "additionalProperties": false,
            "properties": {
                "url": {"type": "string", "pattern": "^https:"},
                "limits": {"type": "object", "properties": {"rate": {"type": "integer", "minimum": 1}}},
                "mode": {"enum": ["fast", "safe"]},
                "list": {"type": "array", "items": {"type": "boolean"}},
            },
        });
        let schema = Schema::parse(&schema.to_string()).unwrap();
        let error_of = |config: Value| schema.check_values(&config).unwrap_err();
        assert_eq!(schema.check_values(&json!({"url": "https://x", "mode": "fast"})), Ok(()));
        assert_eq!(schema.check_values(&json!({})), Ok(()));
        assert_eq!(schema.check_missing(&json!({})).unwrap_err(), "the key url is missing");
        let rate = error_of(json!({"url": "https://x", "limits": {"rate": 0}}));
        assert_eq!(rate, "limits.rate: must be at least 1");
        let bad = json!({"url": "s3cret", "limits": {"rate": "s3cret"}, "mode": "s3cret", "list": [true, "s3cret"]});
        let told_all = error_of(bad);
        for part in [
            "limits.rate: the value is not of type \"integer\"",
            "list.1: the value is not of type \"boolean\"",
            "mode: the value is not one of",
            "url: the value does not match \"^https:\"",
        ] {
            assert!(told_all.contains(part), "{told_all}");
        }
        assert!(!told_all.contains("s3cret"), "{told_all}");
        let key = error_of(json!({"url": "https://x", "ur1": "s3cret"}));
        assert_eq!(key, "Additional properties are not allowed ('ur1' was unexpected)");
        let many = error_of(json!({"url": "https://x", "list": [0, 0, 0, 0, 0, 0]}));
        assert!(many.ends_with("; and 2 more"), "{many}");
    }

    #[test]
    fn an_invalid_schema_is_reported_and_nothing_is_fetched() {
        assert!(Schema::parse("{").unwrap_err().starts_with("is not JSON"));
        assert!(Schema::parse("{\"type\": 7}").unwrap_err().starts_with("is no JSON Schema"));
        let fetched = Schema::parse("{\"$ref\": \"http://127.0.0.1:9/x.json\"}").unwrap_err();
        assert!(fetched.starts_with("is no JSON Schema"), "{fetched}");
    }
}
