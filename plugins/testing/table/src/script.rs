//! A script in a client identifier or a topic: `table,POINT,CHANGE,ACT,PLACE,CASE`; in a topic,
//! more levels may follow.

/// How a hook or a ticket ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Continue,
    Stop,
    Fault,
}

/// What the addressed copy does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Returns, with or without the change; a fault is an error.
    Returns(Ending, bool),
    /// Makes the change and panics.
    Breaks,
    /// Makes the change or not, and defers. The thread completes the ticket, with or without the
    /// change. A fault is a dropped ticket.
    Defers(bool, Ending, bool),
    /// Makes the change or not, defers, and never completes the ticket.
    Deadline(bool),
}

/// One case.
#[derive(Clone, Copy)]
pub struct Script<'a> {
    /// The hook point.
    pub point: &'a str,
    /// The field or kind of change, if any.
    pub change: &'a str,
    /// What the copy at `place` does.
    pub action: Action,
    /// The copy that executes the script; the others only record their call.
    pub place: u32,
    /// The number of the case, unique in one broker.
    pub case: &'a str,
}

impl<'a> Script<'a> {
    pub fn parse(text: &'a str) -> Option<Script<'a>> {
        let mut words = text.split(['/', ',']);
        if words.next() != Some("table") {
            return None;
        }
        let (point, change) = (words.next()?, words.next()?);
        let action = match words.next()? {
            "continue" => Action::Returns(Ending::Continue, false),
            "continue-changed" => Action::Returns(Ending::Continue, true),
            "stop" => Action::Returns(Ending::Stop, false),
            "stop-changed" => Action::Returns(Ending::Stop, true),
            "fault" => Action::Returns(Ending::Fault, true),
            "break" => Action::Breaks,
            "defer-continue" => Action::Defers(false, Ending::Continue, false),
            "defer-continue-changed" => Action::Defers(false, Ending::Continue, true),
            "defer-stop" => Action::Defers(false, Ending::Stop, false),
            "defer-stop-changed" => Action::Defers(false, Ending::Stop, true),
            "defer-fault" => Action::Defers(false, Ending::Fault, true),
            "deadline" => Action::Deadline(false),
            "changed-defer-continue" => Action::Defers(true, Ending::Continue, false),
            "changed-defer-stop" => Action::Defers(true, Ending::Stop, false),
            "changed-defer-fault" => Action::Defers(true, Ending::Fault, false),
            "changed-deadline" => Action::Deadline(true),
            _ => return None,
        };
        let place = words.next()?.parse().ok()?;
        Some(Script { point, change, action, place, case: words.next()? })
    }
}
