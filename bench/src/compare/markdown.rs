//! The table of a comparison, for terminal and files.

use super::Run;
use super::args::CompareArgs;
use super::machine::Machine;
use super::results::{Cell, Row, Spread};
use grapnel_plugin_abi::counted;
use std::fmt::Write;

/// The whole report, as Markdown.
pub fn text(machine: &Machine, args: &CompareArgs, rows: &[Row], runs: &[Run]) -> String {
    let mut text = String::new();
    head(&mut text, machine, args);
    for (name, unit) in [
        ("CPU of the broker per delivered message, all threads, microseconds", "µs CPU per delivery"),
        ("CPU of the broker per connect and disconnect, microseconds", "µs CPU per connect"),
        ("Memory of the broker per idle connection, bytes", "bytes per connection"),
    ] {
        for is_layered in [false, true] {
            let is_here = |row: &&Row| row.unit == unit && row.is_layered == is_layered;
            let rows: Vec<&Row> = rows.iter().filter(is_here).collect();
            if !rows.is_empty() {
                let how = if is_layered { ", through TLS or WebSocket" } else { "" };
                let _ = writeln!(text, "\n{name}{how}:\n");
                tables(&mut text, &rows);
            }
        }
    }
    faults(&mut text, runs);
    text
}

fn head(text: &mut String, machine: &Machine, args: &CompareArgs) {
    let commit = machine.commit.as_deref().unwrap_or("unknown");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}, {}, Linux {}; commit {commit}; {}. Median of {} of {} s, least and greatest in brackets;\n\
         multiples of the first broker of a table are formed within each round.\n\n```\n{}\n```",
        machine.cpu,
        counted(machine.cpus, "CPU"),
        machine.kernel,
        machine.day,
        counted(args.rounds, "round"),
        args.duration.as_secs_f64(),
        machine.command
    );
}

/// What else was measured: a table below the costs, shown if some cell has a value.
type Column = (&'static str, fn(&Cell) -> Option<String>);
const COLUMNS: [Column; 5] = [
    ("in the kernel", |cell| Some(format!("{:.0} %", cell.system?.median * 100.0))),
    ("resumed", |cell| Some(format!("{:.0} %", cell.resumed?.median * 100.0))),
    ("children's CPU", |cell| cell.children.map(|used| spread(Some(used)))),
    ("calls", |cell| Some(number(cell.syscalls?.median))),
    ("p50 / p99 µs", |cell| {
        Some(format!("{} / {}", number(cell.p50_us?.median), number(cell.p99_us?.median)))
    }),
];

/// The costs of these rows, and below them what else was measured. All rows are of the same brokers.
fn tables(text: &mut String, rows: &[&Row]) {
    let names: Vec<&str> = rows[0].cells.iter().map(|cell| cell.broker.as_str()).collect();
    let reference = names[0];
    let others = names[1..].iter().flat_map(|name| [(*name).to_owned(), format!("{name} / {reference}")]);
    let heads = std::iter::once(reference.to_owned()).chain(others).collect();
    table(text, heads, rows, |row| {
        let others = row.cells[1..].iter().flat_map(|cell| [cost(cell), multiple(cell.multiple)]);
        std::iter::once(cost(&row.cells[0])).chain(others).collect()
    });
    for (what, show) in COLUMNS {
        if rows.iter().any(|row| row.cells.iter().any(|cell| show(cell).is_some())) {
            let heads = names.iter().map(|name| format!("{name}: {what}")).collect();
            text.push('\n');
            table(text, heads, rows, |row| {
                row.cells.iter().map(|cell| show(cell).unwrap_or_else(|| "-".into())).collect()
            });
        }
    }
}

fn table(text: &mut String, heads: Vec<String>, rows: &[&Row], cells: impl Fn(&Row) -> Vec<String>) {
    let _ = writeln!(text, "| case | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(text, "| {} | {} |", row.case.replace(',', " "), cells(row).join(" | "));
    }
}

fn faults(text: &mut String, runs: &[Run]) {
    let faults: Vec<&Run> = runs.iter().filter(|run| run.fault.is_some()).collect();
    if faults.is_empty() {
        let _ =
            writeln!(text, "\n{}, no message lost, duplicated or out of order.", counted(runs.len(), "run"));
        return;
    }
    let _ = writeln!(
        text,
        "\n{} of {} runs were not clean; the results above leave them out:\n",
        faults.len(),
        runs.len()
    );
    for run in faults {
        let fault = run.fault.as_deref().unwrap_or_default().replace('\n', " ");
        let _ = writeln!(text, "* round {}, {}, {}: {fault}", run.round, run.case, run.broker);
    }
}

/// The cost, with a mark if rounds were left out.
fn cost(cell: &Cell) -> String {
    match cell.left_out {
        0 => spread(cell.cost),
        rounds => format!("{}, {rounds} left out", spread(cell.cost)),
    }
}

fn spread(spread: Option<Spread>) -> String {
    spread.map_or("-".into(), |s| format!("{} ({}–{})", number(s.median), number(s.min), number(s.max)))
}

fn multiple(spread: Option<Spread>) -> String {
    spread.map_or("-".into(), |s| format!("**{:.2}×** ({:.2}–{:.2})", s.median, s.min, s.max))
}

/// A number with three significant digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_were_left_out_stand_beside_the_figure() {
        let figure = Some(Spread { median: 2.0, min: 1.0, max: 3.0 });
        let mut cell = Cell { cost: figure, ..Cell::default() };
        assert_eq!(cost(&cell), "2.00 (1.00–3.00)");
        (cell.left_out, cell.lost) = (2, 9);
        assert_eq!(cost(&cell), "2.00 (1.00–3.00), 2 left out");
        cell.cost = None;
        assert_eq!(cost(&cell), "-, 2 left out");
    }

    #[test]
    fn numbers_show_three_digits_that_count() {
        for (value, text) in
            [(1234.6, "1235"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"), (0.0, "0.000")]
        {
            assert_eq!(number(value), text);
        }
    }
}
