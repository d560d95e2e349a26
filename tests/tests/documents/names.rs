//! Metrics, routes, hook points, exit codes, variables and lines of the log.

use std::collections::{BTreeMap, BTreeSet};

use grapnel_tests::markdown::{Page, Table, names_in};
use grapnel_tests::repository::{assert_none, files_with, is_of_tests, text};
use grapnel_tests::{Broker, plugin};

use super::program::{keys, request};

/// Tables of a page whose first column has this name.
fn tables(page: &str, column: &str) -> Vec<Table> {
    let page = Page::of_book(page).unwrap_or_else(|fault| panic!("{fault}"));
    let tables =
        page.tables().into_iter().filter(|table| table.header.first().is_some_and(|name| name == column));
    tables.collect()
}

/// The names in backticks in the first column of these tables.
fn first_column(tables: &[Table]) -> BTreeSet<String> {
    tables.iter().flat_map(|table| &table.rows).flat_map(|row| names_in(&row[0])).collect()
}

/// Fails unless both have the same names.
#[track_caller]
fn assert_same(what: &str, program: &BTreeSet<String>, documents: &BTreeSet<String>) {
    let missing: Vec<_> = program.difference(documented_or(documents)).cloned().collect();
    let unknown: Vec<_> = documents.difference(program).cloned().collect();
    assert_none(&format!("{what} that the documents do not have"), &missing);
    assert_none(&format!("{what} that the program does not have"), &unknown);
}

fn documented_or(names: &BTreeSet<String>) -> &BTreeSet<String> {
    assert!(!names.is_empty(), "the table was not found");
    names
}

/// Names and types of a broker's metrics, without their prefix.
fn metrics(broker: &Broker) -> BTreeMap<String, String> {
    let (status, body) = request(broker.socket(), "GET", "/metrics", "");
    assert_eq!(status, 200);
    let types = body.lines().filter_map(|line| line.strip_prefix("# TYPE grapnel_")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn every_metric_has_its_row_and_every_row_its_metric() {
    let broker = Broker::builder().grapnel_only().config("[plugins.tap]").start();
    let mut program = metrics(&broker);
    program.retain(|name, _| !name.starts_with("plugin_tap_"));
    let tables = tables("docs/src/metrics.md", "name");
    assert_same("metrics", &program.keys().cloned().collect(), &first_column(&tables));

    let (others, sums): (Vec<Table>, Vec<Table>) =
        tables.into_iter().partition(|table| table.heading == "Only in Prometheus");
    let text = broker.ctl_ok(&["metrics"]);
    let of_ctl: BTreeSet<String> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("plugin_tap_"))
        .map(str::to_owned)
        .collect();
    assert_same("metrics of grapnel-ctl", &of_ctl, &first_column(&sums));
    // The page says which of them can fall.
    let page = text_of("docs/src/metrics.md");
    for (name, kind) in program.iter().filter(|(name, _)| !first_column(&others).contains(*name)) {
        let named = name.ends_with("_count")
            || page.contains(&format!("`{name}` and"))
            || page.contains(&format!("and `{name}`"));
        assert_eq!(kind == "gauge", named, "{name} is a {kind}");
    }
}

/// The text of a page in one line.
fn text_of(page: &str) -> String {
    text(page).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_part_of_the_memory_has_its_row() {
    let broker = Broker::builder().grapnel_only().start();
    let status = broker.ctl_json(&["status"]);
    let memory = status["memory"].as_object().expect("an object of parts");
    assert_same(
        "parts of the memory",
        &memory.keys().cloned().collect(),
        &first_column(&tables("docs/src/limits.md", "part")),
    );
}

/// Routes of the source, such as `GET /api/v1/status`.
fn routes() -> BTreeSet<String> {
    let handlers: String =
        files_with(&["rs"]).iter().filter(|file| file.starts_with("broker/src/control")).map(text).collect();
    let mut routes = BTreeSet::new();
    for route in handlers.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once("\", ").expect("a path and its methods");
        let methods = rest.split('\n').next().unwrap_or_default();
        for method in ["get", "post", "delete", "put", "patch"] {
            if methods.contains(&format!("{method}(")) {
                routes.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes
}

/// Names in backticks after "expected" in the answer to an unknown parameter or field.
fn expected_in(answer: &str) -> BTreeSet<String> {
    let expected = answer.split_once("expected ").map_or("", |(_, expected)| expected);
    names_in(expected).into_iter().collect()
}

#[test]
fn every_route_has_its_row_with_its_parameters_and_every_row_its_route() {
    let table = tables("docs/src/http-api.md", "route").remove(0);
    let documented: BTreeSet<String> = table.rows.iter().flat_map(|row| names_in(&row[0])).collect();
    assert_same("routes", &routes(), &documented);
    let broker = Broker::builder().grapnel_only().start();
    for row in &table.rows {
        let route = names_in(&row[0]).remove(0);
        let (method, path) = route.split_once(' ').expect("a method and a path");
        let path: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let path = path.join("/");
        let names = |cell: &str| names_in(cell).into_iter().collect::<BTreeSet<String>>();

        let (status, answer) = request(broker.socket(), method, &format!("{path}?no_such=1"), "{}");
        let of_path = !names(&row[1]).is_empty();
        assert_eq!(
            status == 400 && answer.contains("no_such"),
            of_path,
            "{route}?no_such: {status} {answer}"
        );
        assert_eq!(expected_in(&answer), names(&row[1]), "parameters of {route}: {answer}");
        if row[2].is_empty() {
            continue;
        }
        let (status, answer) = request(broker.socket(), method, &path, "{\"no_such\":1}");
        assert_eq!(status, 400, "{route}: {answer}");
        assert_eq!(expected_in(&answer), names(&row[2]), "fields of {route}: {answer}");
    }
}

#[test]
fn every_hook_point_has_its_row_and_every_row_its_hook_point() {
    let broker = Broker::builder().grapnel_only().start();
    let list = broker.ctl_ok(&["hooks", "list", "--all"]);
    let points: BTreeSet<String> =
        list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let tables = tables("docs/src/plugins/hook-points.md", "hook point");
    for table in tables {
        assert_same(&format!("hook points ({})", table.heading), &points, &first_column(&[table]));
    }
    let count = format!("**{} hook points.**", points.len());
    assert!(text("README.md").contains(&count), "README.md does not say {count}");

    let mut faults = Vec::new();
    for page in Page::all_of_book() {
        let path = page.path.to_string_lossy();
        // These pages contain names of other brokers.
        if path.contains("moving-from-") || path.contains("exhook") {
            continue;
        }
        for (line, span) in page.spans() {
            let kind = ["client.", "session.", "message.", "packet.", "broker."];
            let is_name = span.chars().all(|each| each.is_ascii_lowercase() || "._".contains(each));
            if is_name
                && kind.iter().any(|kind| span.starts_with(kind))
                && !points.contains(&span)
                && ![".log", ".rs"].iter().any(|ending| span.ends_with(ending))
            {
                faults.push(format!("{}: `{span}`", page.at(line)));
            }
        }
    }
    assert_none("hook points that there are not", &faults);
}

/// Numbers between `before` and `after` in a text.
fn numbers_between(text: &str, before: &str, after: char) -> BTreeSet<String> {
    let found = text.split(before).skip(1).filter_map(|rest| rest.split(after).next());
    found.filter(|number| number.parse::<u8>().is_ok()).map(str::to_owned).collect()
}

#[test]
fn every_exit_code_has_its_row_and_every_row_its_code() {
    let tables = tables("docs/src/exit-codes.md", "code");
    let mut source = String::new();
    for file in files_with(&["rs"]).iter().filter(|file| file.starts_with("broker/src") && !is_of_tests(file))
    {
        source.push_str(&text(file));
    }
    // 0 is success, and clap ends with 2.
    let constants: String = source.lines().filter(|line| line.contains("const EXIT_CODE")).collect();
    let mut broker = numbers_between(&constants, ": u8 = ", ';');
    broker.extend(["0", "2"].map(str::to_owned));
    assert_same("exit codes of grapnel", &broker, &first_column(&tables[..1]));
    let source = text("broker/src/ctl.rs");
    let function =
        source.split_once("fn exit_code").expect("it is there").1.split_once("\n    }\n").expect("it ends").0;
    assert_same(
        "exit codes of grapnel-ctl",
        &numbers_between(function, "=> ", ','),
        &first_column(&tables[1..]),
    );
}

#[test]
fn every_state_of_a_plugin_has_its_row() {
    let source = text("broker/src/ctl/plugins/print.rs");
    let (_, functions) = source.split_once("fn state(").expect("it is there");
    let (functions, _) = functions.split_once("fn print_one").expect("it follows");
    let words = functions.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_same("states of plugins", &words, &first_column(&tables("docs/src/exit-codes.md", "word")));
}

#[test]
fn every_variable_and_every_name_of_the_c_header_exists() {
    let known: String = files_with(&["h", "rs", "py", "java"]).iter().map(text).collect();
    let mut variables: BTreeSet<String> =
        keys().iter().map(|key| format!("GRAPNEL_{}", key.name.replace('.', "_").to_uppercase())).collect();
    variables.extend(["GRAPNEL_LISTENERS_0_BIND", "GRAPNEL_PLUGINS_AUTH_FILE_REQUIRED"].map(str::to_owned));
    let mut faults = Vec::new();
    let mut pages = Page::all_of_book();
    pages.retain(|page| page.path != std::path::Path::new("docs/src/changes.md"));
    for page in pages {
        let blocks = page.blocks().into_iter().map(|block| (block.line, block.text));
        for (line, text) in page.spans().into_iter().chain(blocks) {
            for (at, _) in text.match_indices("GRAPNEL_") {
                let end = text[at..]
                    .find(|each: char| !(each.is_ascii_uppercase() || each.is_ascii_digit() || each == '_'));
                let name = &text[at..end.map_or(text.len(), |end| at + end)];
                if !name.ends_with('_') && !variables.contains(name) && !known.contains(name) {
                    faults.push(format!("{}: {name}", page.at(line)));
                }
            }
        }
    }
    assert_none("names that there are not", &faults);
}

#[test]
fn every_line_of_the_log_that_is_described_is_in_the_source() {
    let mut source = String::new();
    for file in files_with(&["rs"]).iter().filter(|file| file.starts_with("broker") && !is_of_tests(file)) {
        source.push_str(&text(file).replace("\\\n", " "));
    }
    let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut faults = Vec::new();
    let mut seen = 0;
    for line in first_column(&tables("docs/src/log.md", "text")) {
        // Variable parts of a line are `…`, or one of these words.
        let fixed = line.replace(" N ", "…").replace("N ", "…").replace("grapnel: SIGSEGV", "…");
        for part in
            fixed.split('…').map(|part| part.trim_matches([' ', ',', ':', ';'])).filter(|part| part.len() > 3)
        {
            seen += 1;
            if !source.contains(part) {
                faults.push(format!("{line:?}: {part:?}"));
            }
        }
    }
    assert!(seen > 20, "{seen} are not all of them");
    assert_none("lines of the log that the program does not write", &faults);
}

/// The plugins that come with Grapnel, by their folders, and the libraries of those in Rust.
pub fn bundled() -> Vec<String> {
    let manifests = files_with(&["md"]).into_iter().filter_map(|path| {
        let folder = path.strip_prefix("plugins").ok()?.parent()?.to_str()?.to_owned();
        (path.ends_with("README.md") && !folder.contains('/')).then_some(folder)
    });
    manifests.collect()
}

/// The file of a bundled plugin; those in C and C++ are compiled.
pub fn library_of(name: &str, compiled: &mut Vec<plugin::Compiled>) -> String {
    if name.starts_with("c-") || name.starts_with("cpp-") {
        compiled.push(plugin::Compiled::of(name));
        return compiled.last().expect("pushed").path().to_owned();
    }
    plugin::argument(&plugin::library(name)).to_owned()
}

/// The keys that a plugin lists when it gets an unknown one.
fn keys_of(broker: &Broker, name: &str, compiled: &mut Vec<plugin::Compiled>) -> Option<BTreeSet<String>> {
    let file = library_of(name, compiled);
    let refused = broker.ctl_refused(&["plugins", "check", &file, "--set", "zz=1"]);
    let line = refused.lines().find(|line| line.contains("the key zz is not known"));
    let line = line.unwrap_or_else(|| panic!("{name}: {refused}"));
    let (_, keys) = line.split_once("the keys are ")?;
    // exhook also accepts the keys of EMQX's own file.
    Some(keys.split(", ").filter(|key| !key.contains('.')).map(str::to_owned).collect())
}

#[test]
fn every_key_of_a_bundled_plugin_has_its_row_and_every_row_its_key() {
    let broker = Broker::builder().grapnel_only().start();
    let mut compiled = Vec::new();
    let plugins = bundled();
    assert!(plugins.len() >= 10, "{plugins:?}");
    for name in plugins {
        let page = format!("plugins/{name}/README.md");
        let mut documented = first_column(&tables(&page, "key"));
        documented.retain(|key| !key.contains('['));
        if let Some(known) = keys_of(&broker, &name, &mut compiled) {
            assert_same(&format!("keys of {name}"), &known, &documented);
        } else {
            // Plugins in C and C++ name only the wrong key.
            let source: String = files_with(&["c", "cpp"])
                .iter()
                .filter(|file| file.starts_with(format!("plugins/{name}")))
                .map(text)
                .collect();
            let unknown = documented.into_iter().filter(|key| !source.contains(&format!("\"{key}\"")));
            assert_none(&format!("keys that {name} does not have"), &unknown.collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_metric_of_a_bundled_plugin_has_its_row_and_every_row_its_metric() {
    let broker = Broker::builder().grapnel_only().start();
    let users = broker.home().join("users");
    std::fs::write(&users, "").expect("the folder is the test's");
    let (users, journal) = (users.display(), broker.home().join("journal"));
    let mut compiled = Vec::new();
    let plugins = [
        ("auth-file", format!("path={users}")),
        ("c-journal", format!("file={}", journal.display())),
        ("delayed-publish", "delay_s_max=10".to_owned()),
        ("message-cache", "filters=[\"a\"]".to_owned()),
    ];
    for (name, config) in plugins {
        let file = library_of(name, &mut compiled);
        broker.ctl_ok(&["plugins", "load", &file, "--set", &config, "--once"]);
        let prefix = format!("plugin_{}_", name.replace('-', "_"));
        let known = metrics(&broker).into_keys().filter(|metric| metric.starts_with(&prefix));
        let known = known.map(|metric| format!("grapnel_{metric}")).collect();
        let documented = first_column(&tables(&format!("plugins/{name}/README.md"), "metric"));
        assert_same(&format!("metrics of {name}"), &known, &documented);
    }
}

#[test]
fn every_bundled_plugin_has_its_page_and_its_rows() {
    let summary = text("docs/src/SUMMARY.md");
    let operators = first_column(&tables("docs/src/plugins-in-operation.md", "plugin"));
    assert_same("bundled plugins", &bundled().into_iter().collect(), &operators);
    for name in bundled() {
        assert!(summary.contains(&format!("[{name}](plugins/{name}.md)")), "SUMMARY.md does not list {name}");
        let architecture = text("ARCHITECTURE.md");
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name {name}");
        let page = text(format!("docs/src/plugins/{name}.md"));
        assert!(
            page.contains(&format!("plugins/{name}/README.md")),
            "the page of {name} does not include its README"
        );
    }
}

fn is_word(each: char) -> bool {
    each.is_ascii_alphanumeric() || each == '_'
}

/// Whether a word is an identifier with several parts, and neither a pattern with capitals, such as
/// `plugin_NAME_`, nor a constant.
fn is_identifier(word: &str) -> bool {
    let inner = word.trim_matches('_');
    let begins = inner.starts_with(|each: char| each.is_ascii_lowercase());
    begins && inner == word && inner.contains('_') && !inner.contains(|each: char| each.is_ascii_uppercase())
}

#[test]
fn every_identifier_named_in_the_documents_is_in_the_source() {
    let endings = ["rs", "py", "java", "h", "hpp", "c", "cpp", "toml", "json"];
    let mut sources = files_with(&endings);
    sources.extend(["justfile", "scripts/test"].map(Into::into));
    sources.retain(|path| !path.starts_with("tests/tests/documents"));
    let sources: String = sources.iter().map(text).collect();
    let known: BTreeSet<&str> = sources.split(|each| !is_word(each)).collect();
    let mut pages = Page::all_of_book();
    pages.extend(["ARCHITECTURE.md", "CONTRIBUTING.md"].map(Page::read));
    // These pages contain names of other brokers, and old names.
    let others = |page: &Page| {
        ["from-", "changes.md", "comparison.md", "service.md"]
            .iter()
            .any(|name| page.path.to_string_lossy().contains(name))
    };
    pages.retain(|page| !others(page));
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in pages {
        for (line, span) in page.spans() {
            let words = span.split(|each| !is_word(each)).filter(|word| is_identifier(word));
            for word in words {
                seen += 1;
                // A metric with its prefix; metrics of plugins have their own test.
                let word = word.strip_prefix("grapnel_").unwrap_or(word);
                if !known.contains(word)
                    && !known.contains(&*format!("grapnel_{word}"))
                    && !word.starts_with("plugin_")
                {
                    faults.push(format!("{}: `{word}` in `{span}`", page.at(line)));
                }
            }
        }
    }
    assert!(seen > 800, "{seen} are not all of them");
    assert_none("identifiers that no source has", &faults);
}
