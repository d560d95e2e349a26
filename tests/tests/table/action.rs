//! What a plugin does at its point, and the expected result.

use grapnel_tests::Version;

use crate::points::Policy;
use crate::rows::{Change, Row};

/// Language of the plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    Rust,
    C,
}

/// How a link ends its call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Continue,
    Stop,
    /// An error, a panic or an unknown flow, a dropped ticket, or a missed deadline.
    Fault,
}

/// When a plugin makes the row's change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    Never,
    InTheHook,
    /// With the deferred verdict.
    WithTheTicket,
}

/// An action of a plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    /// Its name for the plugins.
    pub word: &'static str,
    pub flow: Flow,
    pub changes: When,
    /// Whether the verdict is deferred.
    pub later: bool,
}

const fn action(word: &'static str, flow: Flow, changes: When, later: bool) -> Action {
    Action { word, flow, changes, later }
}

/// All actions of a plugin. `fault` is an error in Rust, `break` a panic, and in C an invalid flow.
pub const ACTS: [Action; 16] = [
    action("continue", Flow::Continue, When::Never, false),
    action("continue-changed", Flow::Continue, When::InTheHook, false),
    action("stop", Flow::Stop, When::Never, false),
    action("stop-changed", Flow::Stop, When::InTheHook, false),
    action("fault", Flow::Fault, When::InTheHook, false),
    action("break", Flow::Fault, When::InTheHook, false),
    action("defer-continue", Flow::Continue, When::Never, true),
    action("defer-continue-changed", Flow::Continue, When::WithTheTicket, true),
    action("defer-stop", Flow::Stop, When::Never, true),
    action("defer-stop-changed", Flow::Stop, When::WithTheTicket, true),
    action("defer-fault", Flow::Fault, When::WithTheTicket, true),
    action("deadline", Flow::Fault, When::Never, true),
    action("changed-defer-continue", Flow::Continue, When::InTheHook, true),
    action("changed-defer-stop", Flow::Stop, When::InTheHook, true),
    action("changed-defer-fault", Flow::Fault, When::InTheHook, true),
    action("changed-deadline", Flow::Fault, When::InTheHook, true),
];

/// Expected effect of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    AsItWas,
    Changed,
    /// As the fault policy says.
    Denied,
}

/// One case of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub action: Action,
    pub version: Version,
    /// Index of the copy that acts; the others continue.
    pub place: usize,
    pub copies: usize,
    /// Fault policy of the case.
    pub policy: Policy,
    pub number: usize,
}

/// Expected counters of a hook.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    pub stops: u64,
    pub deferrals: u64,
    pub faults: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.stops += other.stops;
        self.deferrals += other.deferrals;
        self.faults += other.faults;
    }
}

/// Expected result of a case.
#[derive(Debug)]
pub struct Due {
    pub effect: Effect,
    /// Counters of the plugin that acts.
    pub counts: Counts,
    /// Place of each plugin that is called, in order, with whether it sees the change of an earlier
    /// one: `new`, `own`, or `-` if it cannot see it.
    pub calls: Vec<(usize, String)>,
}

impl Case {
    /// The script that the plugins read.
    pub fn script(&self, row: &Row) -> String {
        format!(
            "table,{},{},{},{},{}",
            row.point.name, row.change.word, self.action.word, self.place, self.number
        )
    }

    pub fn name(&self, row: &Row, language: Language) -> String {
        format!(
            "{} ({}) {} by plugin {} of {} in {language:?}, {:?}",
            row.point.name,
            row.change.word,
            self.action.word,
            self.place + 1,
            self.copies,
            self.version
        )
    }

    pub fn due(&self, row: &Row) -> Due {
        let flow = match self.action.flow {
            // A point that cannot wait gives no ticket, and a Defer without one is a fault.
            _ if self.action.later && !row.point.may_defer => Flow::Fault,
            flow => flow,
        };
        let changed = row.change != Change::NONE
            && match self.action.changes {
                When::Never => false,
                When::InTheHook => true,
                When::WithTheTicket => row.change.with_ticket,
            };
        let effect = match flow {
            Flow::Fault if self.policy == Policy::Deny => Effect::Denied,
            // The changes of a failed link are discarded.
            Flow::Fault => Effect::AsItWas,
            _ if changed => Effect::Changed,
            _ => Effect::AsItWas,
        };
        let ends = flow == Flow::Stop || effect == Effect::Denied;
        let last = if ends { self.place } else { self.copies - 1 };
        let saw = |place: usize| match row.change.seen {
            false => "-",
            true if place > self.place && effect == Effect::Changed => "new",
            true => "own",
        };
        let counts = Counts {
            stops: u64::from(flow == Flow::Stop),
            deferrals: u64::from(self.action.later && row.point.may_defer),
            faults: u64::from(flow == Flow::Fault),
        };
        Due { effect, counts, calls: (0..=last).map(|place| (place, saw(place).to_owned())).collect() }
    }
}
