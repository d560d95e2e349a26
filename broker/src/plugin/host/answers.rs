//! The maximum size of a plugin's answer to a deferred request, and the log line for an answer that
//! was refused.

use grapnel_engine::limits::Limits;
use grapnel_engine::shard::RefusedAnswer;
use grapnel_plugin_abi::host::{FieldChange, HostServices};

use super::services::Services;

/// How much may come with one deferred verdict. Both follow from the largest packet that is taken, so that no packet needs
/// more than an honest answer to it may have.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::plugin) struct AnswerBounds {
    changes_max: u64,
    packet_bytes_max: u64,
    topic_bytes_max: u64,
}

impl AnswerBounds {
    pub(in crate::plugin) fn of(limits: &Limits) -> AnswerBounds {
        AnswerBounds {
            // Nothing in a packet that can be changed one by one is shorter than four bytes, and a filter, which has most
            // that can be, takes four changes.
            changes_max: limits.packet_bytes_max,
            packet_bytes_max: limits.packet_bytes_max,
            topic_bytes_max: limits.topic_bytes_max,
        }
    }

    /// Why an answer is more than that, if it is: a payload and properties of the largest packet each, and for every change
    /// a topic or filter of the greatest length.
    pub(in crate::plugin) fn check(self, changes: &[FieldChange<'_>]) -> Result<(), String> {
        let count = changes.len() as u64;
        if count > self.changes_max {
            return Err(format!("{count} changes are more than {}", self.changes_max));
        }
        let bytes: u64 = changes.iter().map(|change| (change.bytes.len() + change.key.len()) as u64).sum();
        let bytes_max = 2 * self.packet_bytes_max + count * self.topic_bytes_max;
        if bytes > bytes_max {
            return Err(format!("{bytes} bytes in {count} changes are more than {bytes_max}"));
        }
        Ok(())
    }
}

impl Services {
    /// Says in the log that an answer of a plugin was refused as a whole, and why.
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
