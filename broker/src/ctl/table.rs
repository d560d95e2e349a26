//! Tables for people: no borders, columns as wide as needed, wrapped to the terminal. Control
//! characters in names from clients are escaped.

use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use super::CtlError;
use super::output::Output;
use super::printable::printable;

/// The title and alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Left-aligned, for words.
    Left(&'static str),
    /// Right-aligned, for numbers.
    Right(&'static str),
}

/// Prints rows under fixed headers.
pub(super) fn print<const N: usize>(
    output: &mut Output,
    columns: [Column; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), CtlError> {
    let columns = columns.map(|column| match column {
        Column::Left(name) => (name.to_owned(), false),
        Column::Right(name) => (name.to_owned(), true),
    });
    print_rows(output, &columns, rows.into_iter().map(Vec::from))
}

/// Prints rows under their headers. The flag of a header says whether its column is right-aligned.
pub(super) fn print_rows(
    output: &mut Output,
    columns: &[(String, bool)],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<(), CtlError> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    match output.width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(columns.iter().map(|(name, _)| Cell::new(name)));
    for row in rows {
        table.add_row(row.iter().map(|text| Cell::new_owned(printable(text))));
    }
    for (column, (_, right)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if *right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        output.line(line.trim_end())?;
    }
    Ok(())
}

/// Prints names with their values, one per line.
pub(super) fn print_pairs<'a>(
    output: &mut Output,
    pairs: impl IntoIterator<Item = (&'a str, String)>,
) -> Result<(), CtlError> {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        output.line(&format!("{name:width$}  {}", printable(&value)))?;
    }
    Ok(())
}

/// Formats seconds with the two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// The time since then, formatted as [`duration`].
pub(super) fn since(at_ms: u64) -> String {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    duration(now_ms.saturating_sub(at_ms) / 1000)
}

/// The time of day in UTC, with milliseconds.
pub(super) fn time_of_day(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, at_ms % 1000)
}

/// "yes" or "no".
pub(super) fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

/// The text, or a dash if there is none.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}
