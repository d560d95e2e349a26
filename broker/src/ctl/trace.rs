//! `grapnel-ctl trace client`: the packets of one client while they are sent and received.

use clap::Subcommand;
use grapnel_plugin_abi::counted;
use http_body_util::BodyExt;

use super::CtlError;
use super::connection::{Broker, encoded};
use super::output::Output;
use super::printable::printable;
use super::table::time_of_day;
use crate::control::wire::{Direction, TraceLine};

/// Longest accepted line, bytes. The summary of a packet contains one topic.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Commands about traces.
#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Show the packets of one client; it need not be connected yet
    Client {
        /// Its client identifier
        id: String,
        /// End after so many packets [default: 10000]
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// End after so many seconds [default: 600]
        #[arg(long = "for", value_name = "SECONDS")]
        for_s: Option<u64>,
    },
}

pub(super) async fn run(broker: &Broker, command: TraceCommand, output: &mut Output) -> Result<(), CtlError> {
    let TraceCommand::Client { id, count, for_s } = command;
    let count = count.map(|count| format!("&count={count}")).unwrap_or_default();
    let for_s = for_s.map(|seconds| format!("&for_s={seconds}")).unwrap_or_default();
    let query = format!("{count}{for_s}");
    let path = format!("/api/v1/trace/{}?{}", encoded(&id), query.trim_start_matches('&'));
    let mut body = broker.stream(&path).await?;
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CtlError::Unreachable(format!("the trace broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        for line in lines.push(&data)? {
            print(&line, output)?;
        }
        // Flushed so that each packet is shown when it arrives.
        output.flush()?;
    }
    Ok(())
}

/// Splits a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub fn push(&mut self, data: &[u8]) -> Result<Vec<String>, CtlError> {
        self.0.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if self.0.len() > LINE_BYTES_MAX {
            return Err(CtlError::Refused("the broker sent a line that does not end".to_owned()));
        }
        Ok(lines)
    }
}

pub(super) fn print(line: &str, output: &mut Output) -> Result<(), CtlError> {
    if output.json {
        return output.line(line);
    }
    match serde_json::from_str(line) {
        Ok(TraceLine::Packet { at_ms, direction, packet, .. }) => {
            let arrow = match direction {
                Direction::In => "->",
                Direction::Out => "<-",
            };
            output.line(&format!("{} {arrow} {}", time_of_day(at_ms), printable(&packet)))
        }
        Ok(TraceLine::Lost { lost }) => {
            output.line(&format!("… {} came too fast to be kept", counted(lost, "packet")))
        }
        Ok(TraceLine::Ended { ended }) => output.line(&format!("the trace has ended: {}", printable(&ended))),
        // A kind of line of a newer broker.
        Err(_) => output.line(&printable(line)),
    }
}
