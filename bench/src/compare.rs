//! Runs several brokers under the same loads, in turn within one run, and prints each as a multiple
//! of a reference. On a machine whose speed drifts, only such a comparison is valid. `main` calls
//! [`command`]; the loads are those of `scenario`.

pub mod args;
mod case;
mod machine;
mod markdown;
mod results;

use crate::engine::Progress;
use crate::options::Usage;
use crate::scenario::target::pin;
use crate::scenario::{self, Report, Target};
use anyhow::{Context, Result};
use args::{CheckedOptions, CompareArgs, MeasuredBroker};
use case::Case;
use machine::Machine;
use results::rows;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// One measurement.
#[derive(Debug, Serialize)]
struct Run {
    round: u32,
    case: String,
    broker: String,
    /// Its result; null if nothing could be measured.
    report: Option<Report>,
    /// The error, if any.
    fault: Option<String>,
}

/// Carries out `compare` and prints the table; true if there was no error.
pub fn command(args: &CompareArgs, stop: &AtomicBool) -> Result<bool> {
    let settled = &args.settle().map_err(Usage)?;
    // Before the pinning: it reads how many CPUs this process may use.
    let machine = Machine::this();
    pin(&settled.cpus.bench)?;
    let runs = measure(args, settled, stop);
    let rows = rows(&settled.cases, &settled.contestants, &runs);
    let text = markdown::text(&machine, args, &rows, &runs);
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the table")?;
    if let Some(path) = &args.markdown {
        write(path, &text)?;
    }
    if let Some(path) = &args.json {
        let comparison = serde_json::json!({
            "machine": machine,
            "rounds": args.rounds,
            "duration_s": args.duration.as_secs_f64(),
            "brokers": settled.contestants,
            "rows": rows,
            "runs": runs,
        });
        let json = serde_json::to_string_pretty(&comparison).context("cannot write the results as JSON")?;
        write(path, &(json + "\n"))?;
    }
    Ok(runs.iter().all(|run| run.fault.is_none()) && !stop.load(Ordering::Relaxed))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Every case with every contestant, round by round; the order changes with the round.
fn measure(args: &CompareArgs, settled: &CheckedOptions, stop: &AtomicBool) -> Vec<Run> {
    let CheckedOptions { cases, contestants, .. } = settled;
    let able = |case: &Case| contestants.iter().filter(|broker| broker.can(case)).collect::<Vec<_>>();
    let total = args.rounds as usize * cases.iter().map(|case| able(case).len()).sum::<usize>();
    let mut runs = Vec::with_capacity(total);
    let progress = Progress::new(!args.quiet);
    for round in 1..=args.rounds {
        for case in cases {
            let able = able(case);
            for turn in 0..able.len() {
                if stop.load(Ordering::Relaxed) {
                    return runs;
                }
                let broker = able[(turn + round as usize) % able.len()];
                let at = runs.len() + 1;
                progress.line(&format!("{at}/{total} round {round}: {} of {}", case.name, broker.name));
                runs.push(run(round, case, broker, settled, stop));
            }
        }
    }
    progress.clear();
    runs
}

fn run(round: u32, case: &Case, broker: &MeasuredBroker, settled: &CheckedOptions, stop: &AtomicBool) -> Run {
    let measured = Target::start(&broker.command, &settled.cpus.broker, &case.scenario)
        .and_then(|mut target| scenario::run(&case.scenario, &mut target, stop));
    let (report, fault) = match measured {
        Ok(report) if report.is_success() => (Some(report), None),
        Ok(report) => {
            let fault = report.fault();
            (Some(report), Some(fault))
        }
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Run { round, case: case.name.clone(), broker: broker.name.clone(), report, fault }
}
