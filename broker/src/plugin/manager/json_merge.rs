//! Applies the changes of `--set` to a configuration.

use serde_json::Value;

/// A JSON Merge Patch (RFC 7396).
pub(in crate::plugin) fn merged(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut target = match target {
        Value::Object(target) => target,
        _ => serde_json::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            let before = target.remove(&key).unwrap_or(Value::Null);
            target.insert(key, merged(before, value));
        }
    }
    Value::Object(target)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_merged_into_the_existing_configuration() {
        let config = json!({"a": 1, "t": {"x": 1, "y": 2}, "l": [1, 2]});
        let patch = json!({"t": {"y": 3, "x": null}, "l": [9], "n": {"m": {"k": true, "gone": null}}});
        let expected = json!({"a": 1, "t": {"y": 3}, "l": [9], "n": {"m": {"k": true}}});
        assert_eq!(merged(config, patch), expected);
        assert_eq!(merged(Value::Null, json!({"a": 1})), json!({"a": 1}));
    }
}
