//! An aMQTT plugin that logs all its calls runs the same scenario under the real `amqtt` and under
//! Grapnel. The two journals are equal to the byte, except for the lines in
//! `exhook/journal/differences.txt`, each with its reason.

#![allow(clippy::unwrap_used)]

mod exhook_common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use exhook_common::{broker, folder, load};
use grapnel_tests::paho;
use serde_json::Value;

const PLUGINS: &str = "plugins:\n  journal.Everybody: {}\n  journal.Journal: {}\n";
const LISTENER: &str = "listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:0\n";

fn home() -> PathBuf {
    folder().join("journal")
}

/// Runs the two clients against the broker at this port.
#[track_caller]
fn live(port: u16) {
    let life =
        Command::new(paho::python()).arg(home().join("life.py")).arg(port.to_string()).output().unwrap();
    assert!(life.status.success(), "{}", String::from_utf8_lossy(&life.stderr));
}

/// The journal entry of a line, if it has one.
fn event_of(line: &str) -> Option<Value> {
    let (_, text) = line.split_once("EVENT ")?;
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

/// The journal under the real aMQTT.
fn theirs() -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("amqtt.yaml");
    std::fs::write(&file, format!("{LISTENER}{PLUGINS}")).unwrap();
    let mut peer = Command::new(paho::python())
        .arg(home().join("peer.py"))
        .arg(&file)
        .env("PYTHONPATH", home())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = Vec::new();
    for line in BufReader::new(peer.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(port) = line.strip_prefix("PORT ") {
            live(port.parse().unwrap());
            // The end of its input makes it shut down.
            drop(peer.stdin.take());
        }
        events.extend(event_of(&line));
    }
    assert!(peer.wait().unwrap().success());
    events
}

/// The journal under Grapnel.
fn ours() -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("amqtt.yaml");
    std::fs::write(&file, PLUGINS).unwrap();
    // One after the other, like aMQTT: several shards would report clients in parallel.
    let mut broker = broker().shards(1).start();
    let settings = [
        "driver=amqtt".to_owned(),
        format!("path=\"{}\"", home().display()),
        format!("config=\"{}\"", file.display()),
    ];
    load(&broker, &settings);
    live(broker.address().port());
    broker.process().signal(rustix::process::Signal::TERM);
    assert!(broker.wait().is_some_and(|status| status.success()));
    broker.process().lines(event_of)
}

/// The entries of one step: events in order, and packets, which belong to several connections and
/// have no order.
type Steps = BTreeMap<String, (Vec<String>, Vec<String>)>;

fn steps(events: &[Value]) -> Steps {
    let (mut steps, mut events_of_step, mut packets) = (Steps::new(), Vec::new(), Vec::new());
    let mut number = 0;
    for event in events {
        let line = event.to_string();
        match event[0].as_str().unwrap() {
            "step" => {
                let step = format!("{number:02} {}", event[1].as_str().unwrap());
                packets.sort();
                steps.insert(step, (std::mem::take(&mut events_of_step), std::mem::take(&mut packets)));
                number += 1;
            }
            // The mark of the step.
            _ if line.contains("\"mark/") || line.contains("\"packet_id\":99") => {}
            kind if kind.starts_with("packet_") => packets.push(line),
            _ => events_of_step.push(line),
        }
    }
    packets.sort();
    steps.insert(format!("{number:02} the end"), (events_of_step, packets));
    steps
}

/// Removes common entries from both. Returns the others of each.
fn apart(theirs: &[String], ours: &[String]) -> (Vec<String>, Vec<String>) {
    let mut left = ours.to_vec();
    let mut missing = Vec::new();
    for line in theirs {
        match left.iter().position(|other| other == line) {
            Some(at) => drop(left.remove(at)),
            None => missing.push(line.clone()),
        }
    }
    (missing, left)
}

/// In the form of the file of differences.
fn differences(theirs: &Steps, ours: &Steps) -> String {
    let mut found = String::new();
    assert!(theirs.keys().eq(ours.keys()), "{:?} {:?}", theirs.keys(), ours.keys());
    for (step, (events, packets)) in theirs {
        let (our_events, our_packets) = &ours[step];
        for (theirs, ours) in [(events, our_events), (packets, our_packets)] {
            let (missing, more) = apart(theirs, ours);
            for (sign, lines) in [('-', &missing), ('+', &more)] {
                for line in lines {
                    writeln!(found, "{sign} {step} {line}").unwrap();
                }
            }
        }
        // Common entries must have the same order; otherwise ours is shown.
        let (missing, more) = apart(events, our_events);
        let rest = |lines: &[String], without: &[String]| apart(lines, without).0;
        let (theirs, ours) = (rest(events, &missing), rest(our_events, &more));
        if theirs != ours {
            writeln!(found, "~ {step} {}", ours.join(" ")).unwrap();
        }
    }
    found
}

#[test]
fn a_journal_plugin_writes_the_same_under_amqtt_and_here() {
    let found = differences(&steps(&theirs()), &steps(&ours()));
    let file = home().join("differences.txt");
    let expected = std::fs::read_to_string(&file).unwrap();
    let lines = expected.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut expected: Vec<_> = lines.collect();
    let mut found: Vec<_> = found.lines().collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert!(found == expected, "what differs is now:\n{}", found.join("\n"));
}
