//! The blocks `console` of README.md and of the book are run unchanged: one shell for each page,
//! its blocks in order, with a broker on its defaults. The shell has the environment of a reader:
//! the repository as its folder, with the build in `target/checked`, a broker on the default
//! addresses (mosquitto's clients and `grapnel-ctl` get them from their own settings), and programs
//! on its path. A block writes into a copy.
//!
//! In the expected output, `…` stands for any text, alone in a line for any number of lines, and a
//! space stands for one or more of them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grapnel_tests::markdown::Page;
use grapnel_tests::process::{Process, command};
use grapnel_tests::repository::{assert_none, files, root};
use grapnel_tests::{Broker, plugin};
use tempfile::TempDir;

/// Timeout of one command with its output, also of programs in the background.
const COMMAND: Duration = Duration::from_secs(20);
/// Beginning of a line that marks the end of a command; no document contains it.
const ENDED: &str = "\u{1}ended with ";

/// A command of a page with its expected output.
#[derive(Debug)]
struct Step {
    at: String,
    command: String,
    expected: Vec<String>,
}

fn steps_of(page: &Page) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.blocks().into_iter().filter(|block| block.language == "console") {
        let first = steps.len();
        let mut goes_on = false;
        for (at, line) in block.text.lines().enumerate() {
            if let Some(command) = line.strip_prefix("$ ") {
                let at = page.at(block.line + at + 1);
                steps.push(Step { at, command: command.to_owned(), expected: Vec::new() });
            } else if let Some(step) = steps.get_mut(first..).and_then(<[Step]>::last_mut) {
                if goes_on {
                    step.command.push('\n');
                    step.command.push_str(line);
                } else {
                    step.expected.push(line.to_owned());
                }
            } else {
                panic!("{}: a console block begins with a command", page.at(block.line));
            }
            goes_on = line.ends_with('\\');
        }
    }
    steps
}

/// The repository with the build, as a folder in which a block may write: its files are links to
/// the real ones.
fn copy_of_repository(folder: &Path) {
    for file in files() {
        let copy = folder.join(&file);
        std::fs::create_dir_all(copy.parent().expect("a file is in a folder")).expect("the folder is ours");
        if file.starts_with("scripts") || file.starts_with("plugins/template") {
            // Scripts change into their own folder; files made from the template are changed.
            std::fs::copy(root().join(&file), &copy).expect("the folder is ours");
        } else {
            symlink(root().join(&file), &copy).expect("the folder is ours");
        }
    }
    std::fs::create_dir(folder.join("target")).expect("the folder is ours");
    symlink(plugin::directory(), folder.join("target/checked")).expect("the folder is ours");
}

/// A folder with a program `cargo` that only prints its arguments: a real build in a copy of the
/// repository would build everything again. It would build copies of the template, which is a
/// member of the workspace and is built and tested there.
fn stand_in_for_cargo(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder.join("stand-in");
    std::fs::create_dir(&folder).expect("the folder is ours");
    let program = folder.join("cargo");
    std::fs::write(&program, "#!/bin/sh\necho \"cargo $*\"\n").expect("the folder is ours");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
    folder
}

/// The shell of a reader, with its broker.
struct Shell {
    process: Process,
    /// Number of lines that were read.
    seen: usize,
    broker: Broker,
    _home: TempDir,
}

impl Shell {
    fn start() -> Shell {
        let broker = Broker::builder().grapnel_only().start();
        let home = tempfile::tempdir().expect("a place for temporary files");
        let repository = home.path().join("grapnel");
        copy_of_repository(&repository);
        let settings = home.path().join("settings");
        std::fs::create_dir(&settings).expect("the folder is ours");
        for client in ["mosquitto_pub", "mosquitto_sub", "mosquitto_rr"] {
            let port = broker.address().port();
            std::fs::write(settings.join(client), format!("-h 127.0.0.1\n-p {port}\n"))
                .expect("the folder is ours");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path =
            format!("{}:{}:{path}", stand_in_for_cargo(home.path()).display(), plugin::directory().display());
        let mut command = command("bash");
        command.args(["--norc", "--noprofile"]).current_dir(&repository);
        command.env("PATH", path).env("HOME", home.path()).env("XDG_CONFIG_HOME", settings);
        command.env("GRAPNEL_CONTROL_SOCKET", broker.socket()).env_remove("CARGO_TARGET_DIR");
        command.env("GRAPNEL_STATE_DIR", home.path().join("state"));
        let process = Process::start_listening("bash", command);
        Shell { process, seen: 0, broker, _home: home }
    }

    fn subscriptions(&self) -> usize {
        self.broker.ctl_ok(&["subscriptions", "list"]).lines().count()
    }

    /// Runs a command. Returns what is wrong.
    fn fault_of(&mut self, step: &Step) -> Option<String> {
        let subscriptions = self.subscriptions();
        let quoted = step.command.replace('\'', "'\\''");
        // Without input: the shell's input is the commands.
        let line = format!("eval '{quoted}' </dev/null 2>&1; printf '\\n{ENDED}%d\\n' $?\n");
        self.process.write(line.into_bytes());
        let deadline = Instant::now() + COMMAND;
        let mut printed = Vec::new();
        let mut status = None;
        while status.is_none() || !matches(&step.expected, &printed) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(line) = self.process.next_line(&mut self.seen, left, |line| Some(line.to_owned()))
            else {
                let printed = printed.join("\n");
                let end = status.map_or("has not ended".to_owned(), |status| format!("ended with {status}"));
                return Some(format!(
                    "{}: `{}` {end}; expected:\n{}\nprinted:\n{printed}",
                    step.at,
                    step.command,
                    step.expected.join("\n")
                ));
            };
            match line.strip_prefix(ENDED) {
                Some(number) => status = Some(number.to_owned()),
                None => printed.push(line),
            }
        }
        if status.as_deref() != Some("0") {
            return Some(format!(
                "{}: `{}` ended with {status:?}:\n{}",
                step.at,
                step.command,
                printed.join("\n")
            ));
        }
        if step.command.trim_end().ends_with('&') {
            self.wait_for_subscription(subscriptions);
        }
        None
    }

    /// Waits until a program started in the background has subscribed: a reader is slower than
    /// that.
    fn wait_for_subscription(&self, before: usize) {
        let deadline = Instant::now() + COMMAND;
        while self.subscriptions() == before {
            assert!(Instant::now() < deadline, "what was started in the background does not subscribe");
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.process.write(b"kill $(jobs -p) 2>/dev/null; wait; exit\n".to_vec());
        self.process.wait(COMMAND);
    }
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the printed lines are the expected ones. Empty lines are ignored.
fn matches(expected: &[String], printed: &[String]) -> bool {
    let clean = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|line| words(line)).filter(|line| !line.is_empty()).collect()
    };
    lines_match(&clean(expected), &clean(printed))
}

fn lines_match(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=printed.len()).any(|from| lines_match(rest, &printed[from..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others)),
    }
}

fn line_matches(expected: &str, printed: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, parts)) = parts.split_last() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[test]
fn the_commands_of_every_page_run_with_the_shown_output() {
    let pages = Page::all_of_book();
    let pages = pages.iter().map(steps_of).filter(|steps| !steps.is_empty()).collect::<Vec<_>>();
    assert!(pages.len() > 8, "{} pages with commands are not all of them", pages.len());
    let run = |steps: &Vec<Step>| {
        let mut shell = Shell::start();
        // Later blocks of a page depend on earlier ones.
        steps.iter().find_map(|step| shell.fault_of(step))
    };
    let faults: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = pages.iter().map(|steps| scope.spawn(move || run(steps))).collect();
        running.into_iter().filter_map(|page| page.join().expect("a page was run")).collect()
    });
    assert_none("commands of the documents", &faults);
}

#[test]
fn output_is_compared_with_wildcards() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let same = |expected: &str, printed: &str| matches(&lines(expected), &lines(printed));
    assert!(same("a  b\n\nc", "a b\nc\n"));
    assert!(same("…", "") && same("…", "a\nb") && same("a\n…\nb", "a\nb") && same("a\n…\nb", "a\nx\ny\nb"));
    assert!(same("keeps … KiB mapped", "keeps 12 KiB mapped"));
    assert!(!same("keeps … KiB mapped", "keeps 12 KiB"));
    assert!(!same("a", "a\nb") && !same("a\nb", "a") && !same("", "a") && !same("a", "ab"));
}
