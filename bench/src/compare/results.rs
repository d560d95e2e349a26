//! Results of the runs: medians with their spread, and multiples of the reference, each computed
//! within one round.

use super::Run;
use super::args::MeasuredBroker;
use super::case::Case;
use crate::engine::counts::Handshakes;
use crate::scenario::{Kind, Report};
use serde::Serialize;

/// Median, least and greatest of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median; of an even number of rounds, the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// The result of one broker in one case, from the rounds without errors.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// Name of the broker.
    pub broker: String,
    /// The cost, in the row's unit.
    pub cost: Option<Spread>,
    /// Multiple of the reference in the same round.
    pub multiple: Option<Spread>,
    /// The part of the cost spent in the kernel, 0 to 1.
    pub system: Option<Spread>,
    /// System calls per delivery.
    pub syscalls: Option<Spread>,
    /// Deliveries per second, or connects.
    pub per_s: Option<Spread>,
    /// Median latency of a round, microseconds.
    pub p50_us: Option<Spread>,
    /// Its 99th percentile.
    pub p99_us: Option<Spread>,
    /// Fraction of the window in which the broker used its CPU, 0 to 1.
    pub share: Option<Spread>,
    /// The part of the TLS handshakes of a connect storm that resumed a session, 0 to 1.
    pub resumed: Option<Spread>,
    /// Resident memory at the end, bytes.
    pub rss_bytes: Option<Spread>,
    /// CPU time of the processes that the broker has started, in the row's unit; not part of the
    /// cost.
    pub children: Option<Spread>,
    /// Messages lost in all rounds.
    pub lost: u64,
    /// Rounds with errors: only `lost` includes them.
    pub left_out: u32,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// Unit of the cost.
    pub unit: &'static str,
    /// Whether TLS or WebSocket is below MQTT.
    pub is_layered: bool,
    /// One for each broker that can, the reference first.
    pub cells: Vec<Cell>,
}

/// All rows, in the order of the cases.
pub fn rows(cases: &[Case], contestants: &[MeasuredBroker], runs: &[Run]) -> Vec<Row> {
    let row = |case: &Case| Row {
        case: case.name.clone(),
        unit: unit(case.scenario.kind),
        is_layered: case.scenario.transport.is_layered(),
        cells: {
            let able: Vec<_> = contestants.iter().filter(|broker| broker.can(case)).collect();
            able.iter().map(|broker| cell(case, broker, able[0], runs)).collect()
        },
    };
    cases.iter().map(row).collect()
}

fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::ConnectStorm => "µs CPU per connect",
        Kind::Idle => "bytes per connection",
        _ => "µs CPU per delivery",
    }
}

fn cost(report: &Report) -> Option<f64> {
    match report.scenario {
        Kind::ConnectStorm => report.connects.cpu_us_each,
        Kind::Idle => report.memory.as_ref()?.bytes_per_connection,
        _ => report.window.cpu.as_ref()?.all.us_per_delivery,
    }
}

fn cell(case: &Case, broker: &MeasuredBroker, reference: &MeasuredBroker, runs: &[Run]) -> Cell {
    let all_of = |name: &str| -> Vec<&Run> {
        runs.iter().filter(|run| run.case == case.name && run.broker == name).collect()
    };
    // A round with lost messages did less work, which would make its broker look cheap.
    let of = |name: &str| -> Vec<(u32, &Report)> {
        let clean = all_of(name).into_iter().filter(|run| run.fault.is_none());
        clean.filter_map(|run| Some((run.round, run.report.as_ref()?))).collect()
    };
    let own = of(&broker.name);
    let every = all_of(&broker.name);
    let reference = of(&reference.name);
    let all = |pick: &dyn Fn(&Report) -> Option<f64>| {
        spread(own.iter().filter_map(|(_, report)| pick(report)).collect())
    };
    let multiples = own.iter().filter_map(|(round, report)| {
        let (_, beside) = reference.iter().find(|(other, _)| other == round)?;
        let (own, beside) = (cost(report)?, cost(beside)?);
        (beside > 0.0).then(|| own / beside)
    });
    Cell {
        broker: broker.name.clone(),
        cost: all(&cost),
        multiple: spread(multiples.collect()),
        system: all(&|report| {
            let cpu = report.window.cpu.as_ref()?;
            let (user, system) = (cpu.user_s?, cpu.system_s?);
            (user + system > 0.0).then(|| system / (user + system))
        }),
        syscalls: all(&|report| report.syscalls.as_ref()?.per_delivery),
        per_s: all(&|report| report.window.delivered_per_s.or(report.connects.per_s)),
        p50_us: all(&|report| Some(report.latency_us.as_ref()?.p50)),
        p99_us: all(&|report| Some(report.latency_us.as_ref()?.p99)),
        resumed: all(&|report| {
            let Handshakes { full, resumed } = report.connects.handshakes?;
            let is_storm = report.scenario == Kind::ConnectStorm;
            is_storm.then(|| f64::from(resumed) / (f64::from(full) + f64::from(resumed)))
        }),
        share: all(&|report| Some(report.window.cpu.as_ref()?.all.share)),
        rss_bytes: all(&|report| Some(report.memory.as_ref()?.now.rss_bytes as f64)),
        children: all(&|report| match report.scenario {
            Kind::ConnectStorm | Kind::Idle => None,
            _ => report.window.children.as_ref()?.us_per_delivery,
        }),
        lost: every.iter().filter_map(|run| run.report.as_ref()).map(|report| report.lost).sum(),
        left_out: u32::try_from(every.iter().filter(|run| run.fault.is_some()).count()).unwrap_or(u32::MAX),
    }
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some(Spread { median, min, max })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(spread(vec![]), None);
        assert_eq!(spread(vec![3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(spread(vec![9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    /// Cells of the relay and of our broker, from the costs and losses of these rounds.
    fn cells(rounds: &[(u32, &str, f64, u64)]) -> [Cell; 2] {
        let case = Case::parse("connect-storm", &Default::default()).unwrap();
        let contestants =
            ["floor", "ours"].map(|name| MeasuredBroker { name: name.into(), command: "x".into() });
        let run = |&(round, broker, cost, lost): &(u32, &str, f64, u64)| {
            let mut report = Report::empty_for_tests(&case.scenario);
            (report.connects.cpu_us_each, report.lost) = (Some(cost), lost);
            let fault = (lost > 0).then(|| report.fault());
            Run { round, case: case.name.clone(), broker: broker.into(), report: Some(report), fault }
        };
        let mut runs: Vec<_> = rounds.iter().map(run).collect();
        runs.push(Run {
            round: 9,
            report: None,
            fault: Some("did not start".into()),
            ..run(&(9, "ours", 0.0, 0))
        });
        rows(&[case], &contestants, &runs).remove(0).cells.try_into().expect("two brokers")
    }

    #[test]
    fn a_round_that_lost_messages_is_in_no_median() {
        let [floor, ours] = cells(&[
            (1, "floor", 10.0, 0),
            (1, "ours", 20.0, 0),
            (2, "floor", 1.0, 5),
            (2, "ours", 20.0, 0),
            (3, "floor", 10.0, 0),
            (3, "ours", 0.5, 7),
        ]);
        assert_eq!((floor.cost.unwrap().min, floor.lost, floor.left_out), (10.0, 5, 1));
        assert_eq!(
            (ours.cost.unwrap().min, ours.lost, ours.left_out),
            (20.0, 7, 2),
            "nor one without a report"
        );
        let twice = Spread { median: 2.0, min: 2.0, max: 2.0 };
        assert_eq!(ours.multiple, Some(twice), "of the first round alone");
    }

    /// If the machine becomes twice as slow between two rounds, the multiples stay the same.
    #[test]
    fn multiples_are_formed_within_a_round() {
        let [floor, ours] = cells(&[
            (1, "floor", 10.0, 0),
            (1, "ours", 15.0, 0),
            (2, "ours", 30.0, 0),
            (2, "floor", 20.0, 0),
        ]);
        assert_eq!(ours.cost, Some(Spread { median: 22.5, min: 15.0, max: 30.0 }));
        assert_eq!(ours.multiple, Some(Spread { median: 1.5, min: 1.5, max: 1.5 }));
        assert_eq!(floor.multiple, Some(Spread { median: 1.0, min: 1.0, max: 1.0 }));
    }
}
