//! Every command of the documents is run: by `console.rs` (blocks `console` of README.md and of the
//! book), or from a fresh clone by `scripts/documents` (blocks `console clone`). [`NOT_RUN`] lists
//! what neither can run.

use std::collections::BTreeSet;
use std::path::Path;

use grapnel_tests::markdown::{Block, Page};
use grapnel_tests::repository::{assert_none, files_with, text};

/// The info words of blocks that are run.
pub const KINDS: [&str; 2] = ["console", CLONE];
const CLONE: &str = "console clone";
/// Blocks that are not run: page, first command, and why.
const NOT_RUN: [(&str, &str, &str); 10] = [
    ("CONTRIBUTING.md", "scripts/run ", "README.md has it; the rest are the layers of tests, which CI runs"),
    ("CONTRIBUTING.md", "scripts/test --only protocol", "CI runs these tests; building them takes too long"),
    (
        "CONTRIBUTING.md",
        "GRAPNEL_TESTS_TRANSPORT=",
        "it takes hours; CI runs these tests over some transports",
    ),
    ("bench/README.md", "ulimit -n 110000", "100,000 connections are more than most machines allow"),
    ("bench/README.md", "grapnel-bench conn -p 8883", "needs a broker with certificates"),
    ("bench/README.md", "just bench-floor ", "takes hours"),
    ("bench/README.md", "just bench-instructions ", "just nightly runs it; the rest takes hours"),
    ("bench/README.md", "scripts/bench-floor --duration 1", "takes hours"),
    ("plugins/exhook/docs/moving-from-amqtt.md", "cd /srv/shop ", "starts aMQTT"),
    ("plugins/exhook/docs/moving-from-emqx.md", "emqx_ctl plugins load ", "starts EMQX"),
];
/// Programs whose command line is recognised without `$ ` before it.
const PROGRAMS: [&str; 13] = [
    "apt-get",
    "cargo",
    "curl",
    "grapnel",
    "grapnel-bench",
    "grapnel-ctl",
    "just",
    "mosquitto_pub",
    "mosquitto_sub",
    "pip",
    "pip3",
    "python3",
    "sudo",
];

/// The first command of a block, if it has any.
fn command_of(block: &Block) -> Option<&str> {
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let is_command = |line: &str| {
        let program = first(line);
        PROGRAMS.contains(&program.as_str()) || program.starts_with("scripts/")
    };
    let lines = || block.text.lines();
    lines().find_map(|line| line.strip_prefix("$ ")).or_else(|| lines().find(|line| is_command(line)))
}

#[test]
fn every_block_with_commands_is_run_or_says_why_not() {
    let run_here: BTreeSet<String> = Page::all_of_book()
        .iter()
        .flat_map(Page::blocks)
        .filter(|block| block.language == "console")
        .map(|block| block.text)
        .collect();
    let mut left: Vec<_> = NOT_RUN.iter().map(|(page, command, _)| (*page, *command)).collect();
    let (mut faults, mut in_clone) = (Vec::new(), 0);
    for page in files_with(&["md"]).iter().map(Page::read) {
        for block in page.blocks() {
            if block.language == CLONE {
                in_clone += 1;
                if !block.text.starts_with("$ ") {
                    faults.push(format!("{}: begins without a command", page.at(block.line)));
                }
            } else if block.language == "console" {
                if !run_here.contains(&block.text) {
                    faults.push(format!("{}: no page of the book has it; use {CLONE}", page.at(block.line)));
                }
            } else if let Some(command) = command_of(&block) {
                let known =
                    |(of, begin): &(&str, &str)| page.path == Path::new(of) && command.starts_with(begin);
                match left.iter().position(known) {
                    Some(at) => {
                        left.remove(at);
                    }
                    None => faults.push(format!("{}: `{command}` is run by nothing", page.at(block.line))),
                }
            }
        }
    }
    faults.extend(left.iter().map(|(page, command)| format!("{page} has no block with `{command}`")));
    assert!(in_clone > 25, "{in_clone} blocks are not all of them");
    assert_none("commands that are run by nothing", &faults);
}

/// A page of which `tests/reader/pages.py` speaks has blocks to run.
#[test]
fn the_pages_that_the_reader_prepares_for_exist() {
    let table = text("tests/reader/pages.py");
    let quoted = table.split('"').skip(1).step_by(2).filter(|text| text.ends_with(".md"));
    let pages: BTreeSet<&str> = quoted.collect();
    assert!(pages.len() > 15, "{} pages are not all of them", pages.len());
    let has_no_block = |page: &&&str| !text(page).contains(&format!("```{CLONE}\n"));
    let faults: Vec<String> = pages.iter().filter(has_no_block).map(|page| (*page).to_owned()).collect();
    assert_none("pages without a block that is run in a clone", &faults);
}
