//! The schemas of bundled plugins' configurations, and the tables of keys in their READMEs.

use std::collections::{BTreeMap, BTreeSet};

use grapnel_tests::markdown::{Page, names_in};
use grapnel_tests::plugin;
use grapnel_tests::repository::assert_none;
use serde_json::Value;

use super::program::printed;

const PLUGINS: [&str; 8] = [
    "acl-file",
    "auth-file",
    "delayed-publish",
    "exhook",
    "message-cache",
    "message-codec",
    "tap",
    "topic-rewrite",
];

/// Plugins whose schemas say of each key what their READMEs say. The READMEs of the others say
/// elsewhere what some keys mean, so their schemas have descriptions of their own.
const WITH_THE_SAME_TEXT: [&str; 5] = ["delayed-publish", "exhook", "message-cache", "message-codec", "tap"];

fn schema_of(name: &str) -> Value {
    let file = plugin::library(name);
    let text = printed("grapnel-ctl", &["plugins", "check", plugin::argument(&file), "--json"]);
    let checked: Value = serde_json::from_str(&text).expect("it is JSON");
    checked["config_schema"].clone()
}

/// The keys of a schema with their descriptions; those of a list's tables as `list[].key`.
fn keys_of(schema: &Value) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    for (key, about) in schema["properties"].as_object().expect("it has keys") {
        for (below, about) in about["items"]["properties"].as_object().into_iter().flatten() {
            keys.insert(format!("{key}[].{below}"), about.clone());
        }
        keys.insert(key.clone(), about.clone());
    }
    keys
}

/// What the README says of a key: its default, its unit and range, and what it means.
#[derive(Default)]
struct Row {
    default: String,
    range: String,
    meaning: String,
}

fn rows_of(name: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for table in Page::read(format!("plugins/{name}/README.md")).tables() {
        let before = match table.header.first().map(String::as_str) {
            Some("key" | "key of EMQX") => "",
            Some("key of a rule") => "rules[].",
            _ => continue,
        };
        let column = |name: &str| table.header.iter().position(|header| header == name);
        let (default, range) = (column("default"), column("unit, range"));
        for row in &table.rows {
            let cell = |at: Option<usize>| at.map_or(String::new(), |at| row[at].clone());
            for key in names_in(&row[0]) {
                let meaning = row.last().cloned().unwrap_or_default();
                let row = Row { default: cell(default), range: cell(range), meaning };
                rows.insert(format!("{before}{key}"), row);
            }
        }
    }
    rows
}

/// A cell without code spans and links.
fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once("](") {
        let (before, shown) = before.rsplit_once('[').expect("a link has a text");
        text.extend([before, shown]);
        rest = link.split_once(')').expect("a link has an end").1;
    }
    text.push_str(rest);
    text.replace('`', "")
}

/// Whether a schema says of a key what the README says. The schema may leave out references to other
/// parts of the README and, where `is_long`, what follows the first sentences. A default that is no
/// value stands at the end.
fn is_same_text(description: &str, row: &Row, is_long: bool) -> bool {
    let meaning = plain(&row.meaning);
    let description = description.split(" Default: ").next().unwrap_or_default();
    let referred = meaning.split(" See ").next().unwrap_or_default();
    let is_begin = || referred.strip_prefix(description).is_some_and(|rest| rest.starts_with(' '));
    description == meaning || description == referred || (is_long && description.ends_with('.') && is_begin())
}

/// The default in a cell of a README, written as in the schema; `None` if it is no value.
fn default_in(cell: &str) -> Option<String> {
    let text = cell.trim_matches('`').replace([',', '–'], "").replace("none", "");
    for (unit, bytes) in [(" KiB", 1 << 10), (" MiB", 1 << 20)] {
        if let Some(Ok(number)) = text.strip_suffix(unit).map(str::parse::<u64>) {
            return Some((number * bytes).to_string());
        }
    }
    Some(text).filter(|text| !text.contains(' '))
}

/// Whether the schema says the default that the README says.
fn is_same_default(about: &Value, cell: &str) -> bool {
    match (&about["default"], default_in(cell)) {
        (Value::Null, Some(default)) => default.is_empty(),
        (default, Some(expected)) => {
            let text = default.to_string();
            text == expected
        }
        (Value::Null, None) => {
            let description = about["description"].as_str().unwrap_or_default();
            description.ends_with(&format!(" Default: {}.", plain(cell)))
        }
        (_, None) => false,
    }
}

#[test]
fn each_schema_has_the_keys_of_its_readme_and_no_other() {
    let mut faults = Vec::new();
    for name in PLUGINS {
        let schema: BTreeSet<String> = keys_of(&schema_of(name)).into_keys().collect();
        let readme: BTreeSet<String> = rows_of(name).into_keys().collect();
        faults.extend(schema.symmetric_difference(&readme).map(|key| format!("{name}: {key}")));
    }
    assert_none("keys that only the schema or only the README has", &faults);
}

#[test]
fn a_schema_says_of_a_key_what_its_readme_says() {
    let mut faults = Vec::new();
    for name in WITH_THE_SAME_TEXT {
        let rows = rows_of(name);
        for (key, about) in keys_of(&schema_of(name)) {
            let Some(row) = rows.get(&key) else { continue };
            if !about["description"].as_str().is_some_and(|text| is_same_text(text, row, name == "exhook")) {
                faults.push(format!("{name}: {key}: {} and not {}", about["description"], row.meaning));
            }
        }
    }
    assert_none("keys of which the schema says something else", &faults);
}

#[test]
fn each_schema_says_the_defaults_units_and_ranges_of_its_readme() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for name in PLUGINS {
        let rows = rows_of(name);
        for (key, about) in keys_of(&schema_of(name)) {
            let Some(row) = rows.get(&key) else { continue };
            let mut fault = |what: String| faults.push(format!("{name}: {key}: {what}"));
            if !key.contains("[]") && !is_same_default(&about, &row.default) {
                fault(format!("the default is {} and not {}", about["default"], row.default));
            }
            if about["description"].as_str().is_none_or(str::is_empty) {
                fault("it has no description".to_owned());
            }
            if about["type"] != "integer" {
                continue;
            }
            seen += 1;
            let unit = about["x-unit"].as_str().unwrap_or_default();
            let range = row.range.replace(',', "");
            if unit.is_empty() || !range.starts_with(unit) {
                fault(format!("the unit is {unit:?} and not as in {range:?}"));
            }
            let says = match (about["minimum"].as_u64(), about["maximum"].as_u64()) {
                (Some(min), Some(max)) => format!(" {min}–{max}"),
                (Some(min), None) if min > 0 => format!(" from {min}"),
                _ => String::new(),
            };
            if !range.ends_with(&says) || (says.is_empty() && range.contains(['–'])) {
                fault(format!("its range is{says} and not as in {range:?}"));
            }
        }
    }
    assert!(seen > 20, "{seen} numbers are not all of them");
    assert_none("keys", &faults);
}
