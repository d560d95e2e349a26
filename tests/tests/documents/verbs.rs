//! The commands and options of `grapnel-ctl`, `grapnel` and the scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use grapnel_tests::Broker;
use grapnel_tests::markdown::{Block, Page, Table, names_in};
use grapnel_tests::repository::{assert_none, root};

use super::commands::KINDS;
use super::program::{Help, help, parsed, printed};

/// Every command by its words, such as `plugins load`; groups such as `plugins` too.
type Verbs = BTreeMap<String, Help>;

/// Words of commands that bundled plugins add; the last one is a placeholder for any of them.
const OF_PLUGINS: [&str; 3] = ["auth-file", "exhook", "passwd"];

fn verbs(broker: &Broker) -> Verbs {
    let verbs = below(broker, vec![Vec::new()]);
    assert!(verbs.len() > 20, "{} commands are not all of them", verbs.len());
    verbs
}

/// The commands that bundled plugins add.
fn verbs_of_plugins(broker: &Broker, words: &[&str]) -> Verbs {
    below(broker, words.iter().map(|word| vec![(*word).to_owned()]).collect())
}

/// These commands and all below them.
fn below(broker: &Broker, mut open: Vec<Vec<String>>) -> Verbs {
    let mut verbs = Verbs::new();
    while let Some(command) = open.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = help(broker, &words);
        for name in &help.commands {
            open.push(command.iter().chain([name]).cloned().collect());
        }
        verbs.insert(command.join(" "), help);
    }
    verbs
}

fn options(help: &Help) -> BTreeSet<String> {
    help.options.iter().map(|(name, _)| name.clone()).collect()
}

fn table(page: &Page, heading: &str) -> Table {
    let found = page.tables().into_iter().find(|table| table.heading == heading);
    found.unwrap_or_else(|| panic!("{} has no table under {heading:?}", page.path.display()))
}

fn page() -> Page {
    Page::read("docs/src/ctl.md")
}

#[test]
fn every_command_has_its_row_and_every_row_its_command() {
    let broker = Broker::builder().grapnel_only().start();
    compare(verbs(&broker), "Commands");
    compare(verbs_of_plugins(&broker, &OF_PLUGINS[..2]), "Commands of plugins");
}

/// Fails unless the table under a heading has these commands, and no others.
fn compare(verbs: Verbs, heading: &str) {
    let known: BTreeSet<String> = verbs
        .into_iter()
        .filter(|(_, help)| help.commands.is_empty())
        .map(|(name, help)| [vec![name], help.arguments].concat().join(" "))
        .collect();
    let documented: BTreeSet<String> = table(&page(), heading)
        .rows
        .iter()
        .map(|row| names_in(&row[0]).remove(0).replace(['[', ']'], ""))
        .collect();
    let missing: Vec<_> = known.difference(&documented).cloned().collect();
    let unknown: Vec<_> = documented.difference(&known).cloned().collect();
    assert_none("commands that the table does not have", &missing);
    assert_none("commands that grapnel-ctl does not have", &unknown);
}

/// The contents of the option rows: each option with its commands. A name without its group has the
/// group of the previous one.
fn rows_of_options(verbs: &Verbs) -> BTreeSet<(String, bool, String)> {
    let mut rows = BTreeSet::new();
    for row in table(&page(), "Options of single commands").rows {
        let mut group = String::new();
        let mut commands = Vec::new();
        for name in names_in(&row[1]) {
            let within = format!("{group} {name}");
            let name = if verbs.contains_key(&within) { within } else { name };
            group = name.rsplit_once(' ').map_or(String::new(), |(group, _)| group.to_owned());
            commands.push(name);
        }
        for option in names_in(&row[0]) {
            let (name, value) = option.split_once(' ').unwrap_or((&option, ""));
            let of = |command: &String| (name.to_owned(), !value.is_empty(), command.clone());
            rows.extend(commands.iter().map(of));
        }
    }
    rows
}

#[test]
fn every_option_has_its_row_and_every_row_its_option() {
    let broker = Broker::builder().grapnel_only().start();
    let verbs = verbs(&broker);
    let everywhere = &verbs[""].options;
    let documented: BTreeSet<String> = table(&page(), "Options of every command")
        .rows
        .iter()
        .map(|row| names_in(&row[0]).remove(0).split(' ').next().unwrap_or_default().to_owned())
        .filter(|name| name != "--help")
        .collect();
    assert_eq!(options(&verbs[""]), documented, "left: of grapnel-ctl; right: of the table");

    let mut known = BTreeSet::new();
    for (command, help) in verbs.iter().filter(|(_, help)| help.commands.is_empty()) {
        let own = help.options.iter().filter(|option| !everywhere.contains(option));
        known.extend(own.map(|(name, value)| (name.clone(), *value, command.clone())));
    }
    let documented = rows_of_options(&verbs);
    let described = |(name, value, command): &(String, bool, String)| {
        format!("{command} {name}{}", if *value { " VALUE" } else { "" })
    };
    let missing: Vec<_> = known.difference(&documented).map(described).collect();
    let unknown: Vec<_> = documented.difference(&known).map(described).collect();
    assert_none("options that the table does not have", &missing);
    assert_none("options that grapnel-ctl does not have", &unknown);
}

/// The error in a command line of `grapnel-ctl`, without the program's name.
fn fault_of(line: &str, verbs: &Verbs) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = String::new();
    let mut options_given = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let next = if command.is_empty() { word.to_owned() } else { format!("{command} {word}") };
        if word.starts_with("--") {
            options_given.push(word.split('=').next().unwrap_or(word));
            let takes_value = |help: &Help| help.options.iter().any(|(name, value)| name == word && *value);
            if command.is_empty() && takes_value(&verbs[""]) {
                words.next();
            }
        } else if verbs.contains_key(&next) {
            command = next;
        } else if !verbs[&command].commands.is_empty() && word.chars().all(|each| each.is_ascii_lowercase()) {
            return Some(format!("there is no command {next:?}"));
        } else if matches!(word, "|" | "&&" | ";" | "#") {
            break;
        }
    }
    let has = |option: &str| {
        let below =
            |(name, help): (&String, &Help)| name.starts_with(&command) && options(help).contains(option);
        matches!(option, "--help" | "--version") || verbs.iter().any(below)
    };
    let unknown = options_given.into_iter().find(|option| !has(option))?;
    Some(format!("{command:?} has no option {unknown}"))
}

fn may_have_commands(block: &Block) -> bool {
    block.language == "text" || KINDS.contains(&block.language.as_str())
}

/// Command lines of a page: in spans, and in blocks after `$ `, with their continuation lines.
fn command_lines(page: &Page) -> Vec<(usize, String)> {
    let mut lines = page.spans();
    for block in page.blocks().into_iter().filter(may_have_commands) {
        let text = block.text.replace("\\\n", " ");
        let commands = text.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.extend(commands.map(|line| (block.line, line.to_owned())));
    }
    lines
}

/// All pages of the book, and the documents beside it.
fn pages() -> Vec<Page> {
    let mut pages = Page::all_of_book();
    pages.extend(["ARCHITECTURE.md", "CONTRIBUTING.md"].map(Page::read));
    pages
}

#[test]
fn every_command_named_in_the_documents_exists() {
    let broker = Broker::builder().grapnel_only().start();
    let mut verbs = verbs(&broker);
    verbs.extend(verbs_of_plugins(&broker, &OF_PLUGINS));
    let is_group = |name: &str| verbs.get(name).is_some_and(|help| !help.commands.is_empty());
    let mut faults = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for (line, text) in command_lines(&page) {
            let text = text.strip_prefix("sudo ").unwrap_or(&text);
            let group = text.split(' ').next().unwrap_or_default();
            let rest = match text.strip_prefix("grapnel-ctl ") {
                Some(rest) => rest,
                // `plugins list` without the program's name is a command, too.
                None if is_group(group) && text.contains(' ') && !text.contains(['…', ':', ';', ',']) => {
                    text
                }
                None => continue,
            };
            seen += 1;
            faults
                .extend(fault_of(rest, &verbs).map(|fault| format!("{}: `{text}`: {fault}", page.at(line))));
        }
    }
    assert!(seen > 100, "{seen} are not all of them");
    assert_none("commands of grapnel-ctl", &faults);
}

#[test]
fn every_option_of_the_broker_has_its_row_and_every_row_its_option() {
    let page = Page::read("docs/src/configuration.md");
    let rows = table(&page, "Command line of `grapnel`").rows;
    let documented: BTreeSet<(String, bool)> = rows
        .iter()
        .flat_map(|row| names_in(&row[0]))
        .map(|name| name.split_once(' ').map_or((name.clone(), false), |(name, _)| (name.to_owned(), true)))
        .filter(|(name, _)| name != "--help" && name != "--version")
        .collect();
    let known: BTreeSet<_> = parsed(&printed("grapnel", &["-h"])).options.into_iter().collect();
    assert_eq!(known, documented, "left: of grapnel --help; right: of the table");
}

/// The `--help` of a program or a script whose options the documents name.
fn help_of(program: &str) -> Option<String> {
    if matches!(program, "grapnel" | "grapnel-bench" | "grapnel-ctl") {
        return Some(printed(program, &["--help"]));
    }
    program.strip_prefix("scripts/")?;
    let output = Command::new(root().join(program)).arg("--help").output().ok()?;
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    // A script that passes its options on names the other program.
    let rest = help.split_once("all options: ").and_then(|(_, rest)| rest.split_once(" --help"));
    let words: Vec<&str> = rest.map_or("", |(command, _)| command).split_whitespace().collect();
    let other = words.split_first().map(|(program, words)| printed(program, &[words, &["--help"]].concat()));
    output.status.success().then(|| help + &other.unwrap_or_default())
}

fn is_of_option(each: char) -> bool {
    each.is_ascii_alphanumeric() || each == '-'
}

#[test]
fn every_script_and_its_options_named_in_the_documents_exist() {
    let mut faults = Vec::new();
    let mut helps: BTreeMap<String, Option<String>> = BTreeMap::new();
    for page in pages() {
        for (line, text) in command_lines(&page) {
            let mut words = text.split_whitespace();
            let program = words.next().unwrap_or_default();
            if program != "grapnel" && !program.starts_with("scripts/") {
                continue;
            }
            let program = program.to_owned();
            if !root().join(&program).exists() && program != "grapnel" {
                faults.push(format!("{}: {program} does not exist", page.at(line)));
                continue;
            }
            let options: Vec<&str> = words
                .take_while(|word| *word != "--" && *word != "#")
                .filter(|word| word.starts_with("--"))
                .collect();
            if options.is_empty() {
                continue;
            }
            let help = helps.entry(program.clone()).or_insert_with(|| help_of(&program));
            let words = help.as_deref().unwrap_or_default().split(|each: char| !is_of_option(each));
            let known: BTreeSet<&str> = words.collect();
            let unknown = options.iter().filter(|option| !known.contains(**option));
            faults.extend(unknown.map(|option| format!("{}: {program} has no {option}", page.at(line))));
        }
    }
    assert_none("scripts and their options", &faults);
}
