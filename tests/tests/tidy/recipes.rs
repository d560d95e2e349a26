//! `justfile`, `.ci/run`, `scripts/test` and CONTRIBUTING.md call the same things.

use std::collections::BTreeSet;

use grapnel_tests::markdown::{Page, names_in};
use grapnel_tests::repository::{assert_none, files, files_with, text};

/// The words of `NAME=(a b c)` in `scripts/test`.
fn list_of(name: &str) -> BTreeSet<String> {
    let script = text("scripts/test");
    let (_, rest) = script.split_once(&format!("\n{name}=(")).expect("the list is there");
    rest.split(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn layers() -> BTreeSet<String> {
    &list_of("all") | &list_of("on_request")
}

/// Recipes of the `justfile` that are called by name.
fn recipes() -> BTreeSet<String> {
    let file = text("justfile");
    let heads = file
        .lines()
        .filter(|line| !line.starts_with([' ', '#']) && line.contains(':') && !line.contains(":="));
    let names = heads.filter_map(|line| line.split([' ', ':']).next()).filter(|name| *name != "default");
    names.map(str::to_owned).collect()
}

/// The first column of the table with this name.
fn rows(column: &str) -> Vec<String> {
    let tables = Page::read("CONTRIBUTING.md").tables();
    let table = tables.into_iter().find(|table| table.header[0] == column).expect("the table is there");
    table.rows.iter().flat_map(|row| names_in(&row[0])).collect()
}

#[test]
fn every_layer_is_described_and_runs_something() {
    let layers = layers();
    assert_eq!(rows("layer").into_iter().collect::<BTreeSet<_>>(), layers, "left: CONTRIBUTING.md");
    let script = text("scripts/test");
    let (_, usage) = script.split_once("TEXT'\n").expect("its help");
    let (usage, _) = usage.split_once("\nTEXT\n").expect("it ends");
    for layer in &layers {
        assert!(
            usage.contains(&format!("\n  {layer} ")),
            "the help of scripts/test does not describe {layer}"
        );
        assert!(script.contains(&format!("\n    {layer})")), "scripts/test does not run {layer}");
    }
}

#[test]
fn every_recipe_is_described_and_every_recipe_named_exists() {
    let recipes = recipes();
    let described: BTreeSet<String> =
        rows("command").iter().filter_map(|name| name.split(' ').nth(1)).map(str::to_owned).collect();
    assert_eq!(described, recipes, "left: CONTRIBUTING.md; right: justfile");
    let mut faults = Vec::new();
    for page in files_with(&["md"]).iter().map(Page::read) {
        for (line, span) in page.spans() {
            let name = span.strip_prefix("just ").and_then(|rest| rest.split(' ').next());
            faults.extend(
                name.filter(|name| !recipes.contains(*name)).map(|_| format!("{}: `{span}`", page.at(line))),
            );
        }
    }
    assert_none("recipes that the justfile does not have", &faults);
}

#[test]
fn ci_runs_the_script_that_people_run() {
    assert!(text(".ci/run").ends_with("\nexec scripts/test\n"), ".ci/run runs something else");
    let page = text("CONTRIBUTING.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(page.contains("CI runs `.ci/run`, which is `scripts/test` without arguments."));
}

#[test]
fn scripts_and_layers_that_are_called_exist() {
    let layers = layers();
    let scripts: BTreeSet<String> = files()
        .iter()
        .filter(|file| file.starts_with("scripts"))
        .map(|file| file.display().to_string())
        .collect();
    let mut callers = vec![".ci/run".to_owned(), "justfile".to_owned(), "CONTRIBUTING.md".to_owned()];
    callers.extend(scripts.iter().cloned());
    let (mut faults, mut called) = (Vec::new(), BTreeSet::new());
    for caller in &callers {
        let text = text(caller);
        for word in text.split(|each: char| each.is_whitespace() || "\"'`(),;:.[]".contains(each)) {
            if word.starts_with("scripts/") && word.len() > 8 && !word.ends_with('*') {
                // `.sh` was removed above.
                let name = if word == "scripts/setup" { "scripts/setup.sh" } else { word };
                if !scripts.contains(name) {
                    faults.push(format!("{caller}: {name} does not exist"));
                }
                if name != caller {
                    called.insert(name.to_owned());
                }
            }
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let named =
            words.windows(2).filter(|pair| pair[0] == "--only").map(|pair| pair[1].trim_matches(['`', ';']));
        let named =
            named.filter(|name| name.chars().all(|each| each.is_ascii_lowercase()) && *name != "needs");
        faults.extend(
            named
                .filter(|name| !layers.contains(*name))
                .map(|name| format!("{caller}: there is no layer {name}")),
        );
    }
    let uncalled = scripts.difference(&called).filter(|name| !documented(name));
    faults.extend(uncalled.map(|name| format!("{name}: neither a recipe nor a document names it")));
    assert_none("scripts and layers", &faults);
}

fn documented(script: &str) -> bool {
    files_with(&["md"]).iter().any(|page| text(page).contains(script))
}

/// Test programs of a package, by its folder.
fn test_programs(package: &str) -> BTreeSet<String> {
    let folder = format!("{package}/tests");
    let programs = files().into_iter().filter_map(|file| {
        let inner = file.strip_prefix(&folder).ok()?.to_owned();
        let name = inner.iter().next()?.to_str()?.to_owned();
        let is_file = inner.iter().count() == 1;
        if is_file {
            name.strip_suffix(".rs").map(str::to_owned)
        } else {
            inner.ends_with("main.rs").then_some(name)
        }
    });
    programs.collect()
}

#[test]
fn every_black_box_test_is_in_a_layer_and_every_program_that_a_layer_names_exists() {
    let programs = test_programs("tests");
    assert!(programs.len() > 15, "{programs:?}");
    let script = text("scripts/test");
    let config = text(".config/nextest.toml");
    let named = |text: &str| -> BTreeSet<String> {
        let names = text.split("binary(").skip(1).filter_map(|rest| rest.split(')').next());
        names.filter(|name| !name.starts_with('/')).map(str::to_owned).collect()
    };
    assert!(script.contains("binary(/^plugin_/)"), "the layer plugins has changed");
    let run: BTreeSet<String> = named(&script);
    let alone = programs.iter().filter(|name| !name.starts_with("plugin_") && !run.contains(*name));
    let gone = &(&run | &named(&config)) - &programs;
    let mut faults: Vec<String> = alone.map(|name| format!("tests/tests/{name}: no layer runs it")).collect();
    faults.extend(gone.into_iter().map(|name| format!("{name}: there is no such test program")));
    assert_none("test programs", &faults);
}

#[test]
fn tests_that_recipes_name_exist() {
    let file = text("justfile").replace("\\\n", " ");
    let mut faults = Vec::new();
    let mut seen = 0;
    for line in file.lines().filter(|line| line.starts_with(' ') && line.contains(" -p grapnel-")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let package = words.iter().skip_while(|word| **word != "-p").nth(1).unwrap_or(&"");
        let folder = match *package {
            "grapnel-engine" => "broker/engine",
            "grapnel-plugin-abi" => "plugin-abi",
            _ => continue,
        };
        let programs = test_programs(folder);
        for pair in words.windows(2).filter(|pair| pair[0] == "--test") {
            seen += 1;
            if !programs.contains(pair[1]) {
                faults.push(format!("{folder} has no test {}", pair[1]));
            }
        }
        let sources: String = files_with(&["rs"])
            .iter()
            .filter(|file| file.starts_with(format!("{folder}/tests")))
            .map(text)
            .collect();
        for name in words.iter().skip_while(|word| **word != "--").skip(1) {
            seen += 1;
            let is_there = match name.strip_suffix("::") {
                Some(module) => sources.contains(&format!("mod {module};")),
                None => sources.lines().any(|line| line.contains("fn ") && line.contains(name)),
            };
            if !is_there {
                faults.push(format!("{folder} has no test named {name}"));
            }
        }
    }
    assert!(seen > 8, "{seen} are not all of them");
    assert_none("tests that recipes name", &faults);
}
