//! Rules that the engine is known to break, each with a sentence that says how. The list may only become
//! shorter: whoever mends a fault takes its entry out.

use crate::judge::Rule;

/// A rule that is not enforced yet.
pub struct Known {
    pub rule: Rule,
    /// How the engine breaks it.
    pub how: &'static str,
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        rule: Rule::RetainedWrong,
        how: "a publish that waits until its connection ends may be stored behind a later one of another client",
    },
    Known {
        rule: Rule::AwaitingRel,
        how: "it is disconnected after awaiting_rel_timeout_ms unread, since its PUBREL may be behind what is not read",
    },
    Known {
        rule: Rule::RetainedAtResume,
        how: "a SUBSCRIBE that is still waiting for another shard when its connection ends brings no retained messages at resume",
    },
];
