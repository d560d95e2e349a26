//! The maximum size of a plugin's answer to a deferred request, and the log line for an answer that
//! was refused.

use grapnel_engine::limits::Limits;
use grapnel_engine::shard::RefusedAnswer;
use grapnel_plugin_abi::counted;
use grapnel_plugin_abi::host::{FieldChange, HostServices};

use super::services::Services;

/// The limits of the changes of one deferred verdict. Both follow from the maximum packet size, so
/// that every valid answer to a packet fits.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::plugin) struct AnswerBounds {
    changes_max: u64,
    packet_bytes_max: u64,
    topic_bytes_max: u64,
}

impl AnswerBounds {
    pub(in crate::plugin) fn of(limits: &Limits) -> AnswerBounds {
        AnswerBounds {
            // A part of a packet that can be changed has at least four bytes, and needs at most
            // four changes (a filter needs four).
            changes_max: limits.packet_bytes_max,
            packet_bytes_max: limits.packet_bytes_max,
            topic_bytes_max: limits.topic_bytes_max,
        }
    }

    /// Returns why an answer is too large. Allowed are a payload and properties of the maximum
    /// packet size each, and for every change a topic or filter of the maximum length.
    pub(in crate::plugin) fn check(self, changes: &[FieldChange<'_>]) -> Result<(), String> {
        let count = changes.len() as u64;
        if count > self.changes_max {
            return Err(format!("{count} changes are more than {}", self.changes_max));
        }
        let bytes: u64 = changes.iter().map(|change| (change.bytes.len() + change.key.len()) as u64).sum();
        let bytes_max = 2 * self.packet_bytes_max + count * self.topic_bytes_max;
        if bytes > bytes_max {
            return Err(format!("{bytes} bytes in {} are more than {bytes_max}", counted(count, "change")));
        }
        Ok(())
    }
}

impl Services {
    /// Logs that an answer of a plugin was refused as a whole, and why.
    pub(in crate::plugin) fn answer_refused(&self, refused: &RefusedAnswer) {
        let link = refused.link.as_deref().unwrap_or("a hook that has gone");
        self.log(
            refused.plugin.0,
            2,
            &format!(
                "its answer as {link} at {} was refused as a whole: {}",
                refused.point.name(),
                refused.reason
            ),
        );
    }
}
