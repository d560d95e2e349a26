//! Compares instruction counts with the committed baseline. `scripts/bench-instructions` runs it
//! after gungraun has written its summaries. It prints changes and never fails because of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde::Serialize;
use serde_json::Value;

/// A change of more than this many percent is marked.
const NOTABLE_PERCENT: f64 = 3.0;

/// Compare instruction counts with the committed baseline
#[derive(Debug, Parser)]
struct Options {
    /// Folder with the summaries that gungraun wrote
    #[arg(long)]
    summaries: PathBuf,
    /// File with the committed counts: a JSON object from the names of units to their instructions
    #[arg(long)]
    baseline: PathBuf,
    /// Write the new counts to the baseline file instead of comparing them
    #[arg(long)]
    write: bool,
    /// Print one JSON object instead of a table
    #[arg(long, conflicts_with = "write")]
    json: bool,
}

/// Instructions by the name of the unit.
type Counts = BTreeMap<String, u64>;

fn main() -> Result<()> {
    let options = Options::parse();
    let counted = read_summaries(&options.summaries)?;
    ensure!(
        !counted.is_empty(),
        "{} holds no summary; run scripts/bench-instructions, which writes them",
        options.summaries.display()
    );
    if options.write {
        let text = serde_json::to_string_pretty(&counted)? + "\n";
        fs::write(&options.baseline, text)
            .with_context(|| format!("cannot write {}", options.baseline.display()))?;
        let units = grapnel_plugin_abi::counted(counted.len(), "unit");
        return say(&format!("{units} written to {}\n", options.baseline.display()));
    }
    let baseline = read_baseline(&options.baseline)?;
    let lines = compare(&baseline, &counted);
    say(&if options.json { json(&lines)? } else { table(&lines) })
}

fn say(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn read_baseline(path: &Path) -> Result<Counts> {
    let text = fs::read_to_string(path).with_context(|| {
        format!("cannot read {}; make it with scripts/bench-instructions --write", path.display())
    })?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not an object of names and instruction counts", path.display()))
}

fn read_summaries(folder: &Path) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "summary.json") {
                let text = fs::read_to_string(&path)?;
                let (name, count) = read_summary(&text).with_context(|| format!("in {}", path.display()))?;
                counts.insert(name, count);
            }
        }
    }
    Ok(counts)
}

/// The name of a unit and its instructions, from what gungraun 0.20 writes with `--save-summary=json`.
fn read_summary(text: &str) -> Result<(String, u64)> {
    let summary: Value = serde_json::from_str(text).context("not JSON")?;
    let part = |key: &str| summary[key].as_str().with_context(|| format!("no {key}"));
    let name = format!("{}/{}", part("function_name")?, part("id")?);
    let values = &summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"];
    // After an earlier run in the same folder there is a pair: new and old.
    let Some(count) = values["new"].as_u64().or_else(|| values["both"][0].as_u64()) else {
        bail!("no instruction count for {name}");
    };
    Ok((name, count))
}

/// A unit, as `--json` has it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    unit: &'a str,
    baseline: Option<u64>,
    now: Option<u64>,
    change_percent: Option<f64>,
    notable: bool,
}

fn compare<'a>(baseline: &'a Counts, counted: &'a Counts) -> Vec<Line<'a>> {
    let units: BTreeSet<&String> = baseline.keys().chain(counted.keys()).collect();
    let line = |unit: &'a String| {
        let (baseline, now) = (baseline.get(unit).copied(), counted.get(unit).copied());
        let both = baseline.zip(now).map(|(before, now)| (before as f64, now as f64));
        let change_percent = both.map(|(before, now)| 100.0 * (now - before) / before.max(1.0));
        let notable = change_percent.is_none_or(|percent| percent.abs() > NOTABLE_PERCENT);
        Line { unit, baseline, now, change_percent, notable }
    };
    units.into_iter().map(line).collect()
}

fn table(lines: &[Line<'_>]) -> String {
    let mut text = format!("{:<32}{:>12}{:>12}{:>10}\n", "unit", "baseline", "now", "change");
    let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    for line in lines {
        let change = match line.change_percent {
            Some(percent) => format!("{percent:+.1} %"),
            None if line.now.is_some() => "new".to_owned(),
            None => "gone".to_owned(),
        };
        let mark = if line.notable { "  <--" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<32}{:>12}{:>12}{:>10}{mark}",
            line.unit,
            count(line.baseline),
            count(line.now),
            change
        );
    }
    let notable = lines.iter().filter(|line| line.notable).count();
    let _ = match notable {
        0 => writeln!(text, "instructions: no unit changed by more than {NOTABLE_PERCENT} %"),
        _ => writeln!(
            text,
            "instructions: {notable} of {} units changed by more than {NOTABLE_PERCENT} %, came or went (<--)",
            lines.len()
        ),
    };
    text
}

fn json(lines: &[Line<'_>]) -> Result<String> {
    Ok(serde_json::to_string_pretty(&serde_json::json!({ "instructions": lines }))? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn changes_beyond_three_percent_new_and_gone_units_are_pointed_out() {
        let before = counts(&[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 5)]);
        let now = counts(&[("a", 1030), ("b", 1031), ("c", 969), ("new", 7)]);
        let text = table(&compare(&before, &now));
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("<--")).collect();
        let names: Vec<&str> = marked.iter().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["b", "c", "gone", "new"]);
        assert!(text.ends_with("4 of 5 units changed by more than 3 %, came or went (<--)\n"), "{text}");
    }

    #[test]
    fn equal_counts_are_said_to_be_equal() {
        let same = counts(&[("a", 1000)]);
        assert!(table(&compare(&same, &same)).ends_with("no unit changed by more than 3 %\n"));
    }

    #[test]
    fn a_summary_is_read_with_and_without_an_earlier_run() {
        let summary = |values: &str| {
            format!(
                r#"{{"function_name": "session", "id": "ping", "profiles": [{{"data": {{"total": {{"metrics":
                {{"Ir": {{"values": {values}}}}}}}}}}}]}}"#
            )
        };
        let expected = ("session/ping".to_owned(), 893);
        assert_eq!(read_summary(&summary(r#"{"new": 893}"#)).expect("a count"), expected);
        assert_eq!(read_summary(&summary(r#"{"both": [893, 900]}"#)).expect("a count"), expected);
        let error = read_summary(&summary(r#"{"old": 1}"#)).expect_err("no count");
        assert_eq!(error.to_string(), "no instruction count for session/ping");
    }
}
