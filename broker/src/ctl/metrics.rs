//! `grapnel-ctl metrics`.

use clap::Args;

use super::CtlError;
use super::connection::{Broker, complete};
use super::output::Output;
use super::table::{self, Column};
use crate::control::wire::Metrics;

/// Selects the counters.
#[derive(Debug, Args)]
pub(super) struct MetricsCommand {
    /// Only those whose name contains this
    part: Option<String>,
    /// Leave out those that are 0
    #[arg(long)]
    nonzero: bool,
}

pub(super) async fn run(
    broker: &Broker,
    command: &MetricsCommand,
    output: &mut Output,
) -> Result<(), CtlError> {
    let mut metrics: Metrics = broker.get("/api/v1/metrics").await?;
    metrics.metrics.retain(|metric| {
        command.part.as_ref().is_none_or(|part| metric.name.contains(part))
            && !(command.nonzero && metric.value == 0)
    });
    print(&metrics, output)?;
    complete(&metrics.unanswered)
}

pub(super) fn print(metrics: &Metrics, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.value(metrics);
    }
    let rows = metrics
        .metrics
        .iter()
        .map(|metric| [metric.name.clone(), metric.value.to_string(), metric.help.clone()]);
    table::print(output, [Column::Left("NAME"), Column::Right("VALUE"), Column::Left("WHAT")], rows)
}
