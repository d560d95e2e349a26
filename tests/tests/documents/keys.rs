//! The keys of the configuration, the broker's and the plugins', with defaults and ranges.

use std::collections::BTreeSet;

use grapnel_tests::markdown::{Page, Table, names_in};
use grapnel_tests::repository::{assert_none, files_with};

use super::program::{Key, keys};

const PAGES: [&str; 2] = ["docs/src/configuration.md", "docs/src/limits.md"];

/// Tables of the pages that have one row for each key.
fn tables() -> Vec<Table> {
    let all = PAGES.iter().flat_map(|path| Page::read(path).tables());
    all.filter(|table| {
        table.header.first().is_some_and(|name| name == "key")
            && table.header.iter().any(|name| name == "meaning")
    })
    .collect()
}

/// Rows of these tables, with the text in the column `name`.
fn documented(column: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for table in tables() {
        let at = table.header.iter().position(|name| name == column);
        for row in &table.rows {
            let name = names_in(&row[0]).remove(0);
            // The default configuration has one example for them; see `keys_of_a_hook_are_known`.
            if !name.starts_with("plugins.NAME.hooks.") {
                rows.push((name, at.map_or(String::new(), |at| row[at].clone())));
            }
        }
    }
    rows
}

#[test]
fn every_key_has_its_row_and_every_row_its_key() {
    let documented: BTreeSet<String> = documented("meaning").into_iter().map(|(name, _)| name).collect();
    let known: BTreeSet<String> = keys().into_iter().map(|key| key.name).collect();
    let missing: Vec<_> = known.difference(&documented).cloned().collect();
    let unknown: Vec<_> = documented.difference(&known).cloned().collect();
    assert_none("keys that no table of the documents has", &missing);
    assert_none("keys that the program does not know", &unknown);
}

#[test]
fn keys_of_a_hook_are_known() {
    let keys = keys();
    let hooks = keys.iter().find(|key| key.name == "plugins.NAME.hooks").expect("it is printed");
    let rows = tables().into_iter().flat_map(|table| table.rows);
    let names: Vec<String> = rows
        .map(|row| names_in(&row[0]).remove(0))
        .filter_map(|name| Some(name.split_once("\"POINT/HOOK\".")?.1.to_owned()))
        .collect();
    assert_eq!(names.len(), 4);
    for name in names {
        assert!(hooks.comment.contains(&name), "{name} in: {}", hooks.comment);
    }
}

#[test]
fn every_default_is_the_programs() {
    let keys = keys();
    let mut faults = Vec::new();
    let mut seen = 0;
    for (name, default) in documented("default") {
        let Some(Key { value, is_example, .. }) = keys.iter().find(|key| key.name == name) else { continue };
        let documented_default = default.trim_matches('`');
        // "none", or a sentence if the default depends on something.
        if *is_example || documented_default.contains(' ') || documented_default.is_empty() {
            continue;
        }
        seen += 1;
        if documented_default != value {
            faults.push(format!("{name}: the document says {documented_default}, the program {value}"));
        }
    }
    assert!(seen > 100, "{seen} defaults are not all of them");
    assert_none("defaults", &faults);
}

#[test]
fn every_range_is_the_programs() {
    let keys = keys();
    let mut faults = Vec::new();
    let mut seen = 0;
    for column in ["range", "values"] {
        for (name, range) in documented(column) {
            let Some(key) = keys.iter().find(|key| key.name == name) else { continue };
            let ends: Vec<&str> = range.split(" to ").collect();
            let is_range = ends.len() == 2 && ends.iter().all(|end| end.parse::<i64>().is_ok());
            if !is_range {
                continue;
            }
            seen += 1;
            if !key.comment.contains(&format!("Takes {range}. ")) {
                faults.push(format!("{name}: the document says {range}, the program: {}", key.comment));
            }
        }
    }
    assert!(seen > 90, "{seen} ranges are not all of them");
    assert_none("ranges", &faults);
}

/// Readers find a limit by its table: `limits.defer_window`, not `defer_window`.
#[test]
fn every_limit_named_in_the_authors_guide_has_its_table() {
    let keys = keys();
    let limits: BTreeSet<&str> = keys.iter().filter_map(|key| key.name.strip_prefix("limits.")).collect();
    let mut paths = files_with(&["md"]);
    paths.retain(|path| path.starts_with("plugin-abi"));
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in paths.iter().map(Page::read) {
        for (line, span) in page.spans() {
            let name = span.split([' ', '=']).next().unwrap_or_default();
            seen += usize::from(name.strip_prefix("limits.").is_some_and(|name| limits.contains(name)));
            if limits.contains(name) {
                faults.push(format!("{}: `{span}` is limits.{name}", page.at(line)));
            }
        }
    }
    assert!(seen > 30, "{seen} limits are not all of them");
    assert_none("limits without their table", &faults);
}

#[test]
fn every_key_named_in_the_documents_exists() {
    let keys = keys();
    let tables =
        ["limits.", "mqtt.", "control.", "listeners.", "authorization.", "log.", "state.", "plugins."];
    let mut faults = Vec::new();
    for page in Page::all_of_book() {
        // They name keys of other brokers.
        if page.path.to_string_lossy().contains("moving-from-") {
            continue;
        }
        for (line, span) in page.spans() {
            let name = span.split([' ', '=']).next().unwrap_or_default();
            let key = tables.iter().find_map(|table| name.strip_prefix(table));
            let is_key = key.is_some_and(|key| key.contains('_') || name.starts_with("limits."));
            if is_key && !name.contains("NAME") && !keys.iter().any(|key| key.name == name) {
                faults.push(format!("{}: `{name}`", page.at(line)));
            }
        }
    }
    assert_none("keys that the program does not know", &faults);
}
