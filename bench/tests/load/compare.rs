//! `compare`: the relay against itself, whose multiple is known, and a broker that does not start.

use super::tool::{Ended, Tool};
use serde_json::Value;

/// The tool's own relay as a broker.
const FLOOR: &str = concat!("again=", env!("CARGO_BIN_EXE_grapnel-bench"), " floor --listen {listen}");

/// Compares the relay with these brokers, with `options`.
fn compare(brokers: &[&str], options: &str) -> Ended {
    let brokers = [FLOOR].into_iter().chain(brokers.iter().copied()).flat_map(|each| ["--broker", each]);
    Tool::spawn(["compare"].into_iter().chain(brokers).chain(options.split_whitespace())).end()
}

#[test]
fn every_round_measures_every_broker_and_each_is_a_multiple_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (json, markdown) = (dir.path().join("figures.json"), dir.path().join("table.md"));
    let options = format!(
        "--rounds 2 --duration 0.3 --case ping-pong,qos=1 --case connect-storm,connections=200 --json {} --markdown {}",
        json.display(),
        markdown.display()
    );
    let ended = compare(&[], &options);
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    assert_eq!(ended.stdout, std::fs::read_to_string(markdown).unwrap());
    for part in [
        "| ping-pong qos=1 |",
        "| connect-storm connections=200 |",
        "again / floor",
        "8 runs, no message lost",
    ] {
        assert!(ended.stdout.contains(part), "{part:?} is not in {}", ended.stdout);
    }
    let results: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let order: Vec<(u64, &str)> = results["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["round"].as_u64().unwrap(), run["broker"].as_str().unwrap()))
        .collect();
    // The order changes with the round.
    assert_eq!(order[0].1, order[2].1);
    assert_ne!(order[0].1, order[4].1, "{order:?}");
    for row in results["rows"].as_array().unwrap() {
        assert_eq!(row["cells"][0]["multiple"]["median"], 1.0, "the floor is once itself: {row}");
        let cell = &row["cells"][1];
        let (cost, multiple) =
            (cell["cost"]["median"].as_f64().unwrap(), cell["multiple"]["median"].as_f64().unwrap());
        assert!(cost > 0.0 && multiple > 0.0, "{row}");
        assert_eq!(cell["lost"], 0);
    }
}

#[test]
fn a_broker_that_fails_is_named_and_the_others_are_measured() {
    let broken = "broken=/bin/sh -c 'echo no room >&2; exit 9' {port}";
    let ended = compare(&[broken], "--rounds 1 --duration 0.2 --case ping-pong");
    assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
    for part in
        ["1 of 3 runs were not clean", "* round 1, ping-pong, broken: the broker did not start", "no room"]
    {
        assert!(ended.stdout.contains(part), "{part:?} is not in {}", ended.stdout);
    }
}
