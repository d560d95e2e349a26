//! Rules that the engine is known to break, each with a sentence that says how. The list may only
//! become shorter: a fix of a fault removes its entry.

use crate::checker::Rule;

/// A rule that is not enforced yet.
pub struct Known {
    pub rule: Rule,
    /// How the engine breaks it.
    pub how: &'static str,
}

/// All of them.
pub const KNOWN: &[Known] = &[];
