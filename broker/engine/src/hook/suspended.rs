//! The state of an event that is suspended at a hook point until a link answers, and its
//! continuation after the answer; the same for every hook point. A flow stores it with the waiting
//! packet and calls `resume`. This module runs no chain.

use grapnel_plugin_abi::raw::{Flow, Ticket};
use smallvec::SmallVec;

use super::draft::{Draft, DraftRules};
use super::requested::Requested;
use super::tickets::{OpenTicket, OwnedChange, SavedAccumulator};
use super::verdict::ClientVerdict;
use super::verdict::NoAnswer;
use super::{CannotTake, FaultPolicy, HookPoint, LinkIdentity, PluginHandle};
use crate::reason::ReasonCode;

/// An event that is suspended at a hook point, or that starts there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspended<A> {
    /// The accumulator as changed by the links so far.
    pub accumulator: A,
    /// Visited links by identity, so that the event continues after them even if the chain table
    /// changes.
    visited: SmallVec<[LinkIdentity; 4]>,
    epoch: u64,
    /// How often it was restarted.
    rounds: u8,
    point: HookPoint,
    ticket: Option<Ticket>,
    /// Bytes of the earlier state that the ticket stores.
    before_bytes: usize,
}

/// The effect of a deferred answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumed {
    /// The chain continues after the link that answered.
    GoesOn,
    /// The link ended the chain.
    Ends,
    /// The link failed. By its policy the chain `ends`, or it continues as if the link did not
    /// exist.
    Failed {
        /// Whether the chain ends.
        ends: bool,
        /// The invalid change, if it failed because of one.
        refused: Option<RefusedChange>,
        /// Whether the fault counts for the breaker of its plugin. It does not if the service
        /// behind the plugin is not available.
        blamed: bool,
    },
}

impl Resumed {
    /// Whether the chain ends.
    pub fn ends(&self) -> bool {
        matches!(self, Resumed::Ends | Resumed::Failed { ends: true, .. })
    }
}

/// A change that the accumulator rejects. All changes of the same answer are rejected with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedChange {
    /// Index of the change, from 0.
    pub place: usize,
    /// The field of the change.
    pub field: grapnel_plugin_abi::raw::Field,
    /// Why it is rejected.
    pub why: CannotTake,
}

/// The state that a chain passes from link to link, where links may defer.
pub trait Accumulator: Clone {
    /// What is needed to check a change.
    type Rules<'a>: Copy;

    /// Applies one change of a deferred answer.
    ///
    /// # Errors
    /// As for the setter of the same field in a hook.
    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        rules: Self::Rules<'_>,
    ) -> Result<(), CannotTake>;

    /// Records that a link of this plugin made the changes since `before`.
    fn sign(&mut self, before: &Self, plugin: PluginHandle) {
        let _ = (before, plugin);
    }

    /// Restores the state from before the failed link.
    fn restore(&mut self, before: &SavedAccumulator);

    /// A link gave no answer.
    fn fail(&mut self, why: NoAnswer, policy: FaultPolicy);
}

impl<A> Suspended<A> {
    /// An event that no link has seen.
    pub fn new(point: HookPoint, accumulator: A, epoch: u64) -> Suspended<A> {
        Suspended {
            accumulator,
            visited: SmallVec::new(),
            epoch,
            rounds: 0,
            point,
            ticket: None,
            before_bytes: 0,
        }
    }

    /// Starts another event with the present accumulator; no link has seen that event.
    pub fn next_event(&mut self, point: HookPoint) {
        self.point = point;
        self.visited.clear();
        (self.ticket, self.before_bytes) = (None, 0);
    }

    /// Its hook point.
    pub fn point(&self) -> HookPoint {
        self.point
    }

    /// Version of the rules when it started.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Links it has visited.
    pub fn visited(&self) -> &[LinkIdentity] {
        &self.visited
    }

    /// The accumulator to change, and the visited links.
    pub fn split(&mut self) -> (&mut A, &[LinkIdentity]) {
        (&mut self.accumulator, &self.visited)
    }

    /// Bytes of the earlier state that its ticket stores.
    pub fn before_bytes(&self) -> usize {
        self.before_bytes
    }

    /// The ticket for which it waits; `None` if it waits for none.
    pub fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }

    /// Whether it waits for this ticket.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.ticket == Some(ticket)
    }

    /// Adds visited links, and sets the ticket, if any, with the bytes that the ticket stores.
    pub fn suspend(
        &mut self,
        links: impl Iterator<Item = LinkIdentity>,
        ticket: Option<Ticket>,
        kept: usize,
    ) {
        (self.ticket, self.before_bytes) = (ticket, kept);
        for link in links {
            if !self.visited.contains(&link) {
                self.visited.push(link);
            }
        }
    }
}

impl<A: Accumulator> Suspended<A> {
    /// Applies the answer to the ticket for which it waits. `None`, without an effect, if it waits
    /// for another ticket or none.
    pub fn resume(
        &mut self,
        open: &OpenTicket,
        answer: Option<(Flow, &[OwnedChange])>,
        rules: A::Rules<'_>,
    ) -> Option<Resumed> {
        if !self.waits_for(open.number) {
            return None;
        }
        (self.ticket, self.before_bytes) = (None, 0);
        Some(resume(&mut self.accumulator, self.point, open, answer, rules))
    }
}

/// Applies an answer to an accumulator: all its changes, or the failure of the link. `None` is a
/// missed deadline.
fn resume<A: Accumulator>(
    accumulator: &mut A,
    point: HookPoint,
    open: &OpenTicket,
    answer: Option<(Flow, &[OwnedChange])>,
    rules: A::Rules<'_>,
) -> Resumed {
    let mut refused = None;
    if let Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) = answer {
        match changed(accumulator, point, changes, rules) {
            Ok(mut next) => {
                next.sign(accumulator, open.plugin);
                *accumulator = next;
                return if flow == Flow::STOP { Resumed::Ends } else { Resumed::GoesOn };
            }
            Err(change) => refused = Some(change),
        }
    }
    if let Some(before) = open.before.as_deref() {
        accumulator.restore(before);
    }
    accumulator.fail(if answer.is_some() { NoAnswer::Fault } else { NoAnswer::Deadline }, open.policy);
    let blamed = !matches!(answer, Some((Flow::UNANSWERED, _)));
    Resumed::Failed { ends: open.policy == FaultPolicy::Deny, refused, blamed }
}

fn changed<A: Accumulator>(
    before: &A,
    point: HookPoint,
    changes: &[OwnedChange],
    rules: A::Rules<'_>,
) -> Result<A, RefusedChange> {
    let mut next = before.clone();
    for (place, change) in changes.iter().enumerate() {
        next.take(point, &change.borrow(), rules).map_err(|why| RefusedChange {
            place,
            field: change.field,
            why,
        })?;
    }
    Ok(next)
}

impl Accumulator for ClientVerdict {
    /// `user_properties_max`.
    type Rules<'a> = usize;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        user_properties_max: usize,
    ) -> Result<(), CannotTake> {
        self.set(point, change, user_properties_max)?;
        Ok(())
    }

    fn sign(&mut self, before: &ClientVerdict, plugin: PluginHandle) {
        ClientVerdict::sign(self, before, Some(plugin));
    }

    fn restore(&mut self, before: &SavedAccumulator) {
        if let SavedAccumulator::Client(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, why: NoAnswer, policy: FaultPolicy) {
        ClientVerdict::fail(self, why, policy);
    }
}

impl Accumulator for Vec<Requested> {
    /// `topic_bytes_max`.
    type Rules<'a> = usize;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        topic_bytes_max: usize,
    ) -> Result<(), CannotTake> {
        super::requested::change(self, point, change, topic_bytes_max)?;
        Ok(())
    }

    fn restore(&mut self, before: &SavedAccumulator) {
        if let SavedAccumulator::Filters(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, _why: NoAnswer, policy: FaultPolicy) {
        if policy == FaultPolicy::Deny {
            super::requested::refuse_all(self);
        }
    }
}

impl Accumulator for Draft {
    type Rules<'a> = DraftRules<'a>;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        rules: DraftRules<'_>,
    ) -> Result<(), CannotTake> {
        self.change(point, change, rules)?;
        Ok(())
    }

    fn restore(&mut self, before: &SavedAccumulator) {
        if let SavedAccumulator::Message(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, _why: NoAnswer, policy: FaultPolicy) {
        Draft::fail(self, policy);
    }
}

/// How often a request to client.authorize is restarted because the rules changed.
const ROUNDS_MAX: u8 = 8;

/// A request to client.authorize.
pub type AuthorizationRequest = Suspended<ClientVerdict>;

impl AuthorizationRequest {
    /// Restarts it under rules of another version: no link has seen it.
    pub fn begin_anew(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.rounds = self.rounds.saturating_add(1);
        self.visited.clear();
        (self.ticket, self.before_bytes) = (None, 0);
        self.accumulator.begin_anew(ReasonCode::NOT_AUTHORIZED);
    }

    /// How often it was restarted.
    pub fn rounds(&self) -> u8 {
        self.rounds
    }

    /// Sets how often the same request was restarted before.
    pub fn after_rounds(self, rounds: u8) -> AuthorizationRequest {
        Suspended { rounds, ..self }
    }

    /// Whether it was restarted as often as allowed. Without this limit, constant rule changes
    /// would delay it for ever.
    pub fn has_exhausted_rounds(&self) -> bool {
        self.rounds > ROUNDS_MAX
    }
}

#[cfg(test)]
mod tests {
    use grapnel_plugin_abi::raw::{Field, Status};

    use super::*;
    use crate::hook::PluginHandle;
    use crate::hook::tickets::Waiter;
    use crate::hook::verdict::MissingAnswer;
    use crate::hook::verdict::{ALLOW, DENY, UNANSWERED};
    use crate::hook::view::ClientView;

    const POINT: HookPoint = HookPoint::ClientAuthorize;

    fn nobody() -> ClientVerdict {
        ClientVerdict::unanswered(&ClientView::NOBODY, ReasonCode::NOT_AUTHORIZED)
    }

    fn request(ticket: u64) -> AuthorizationRequest {
        Suspended { ticket: Some(Ticket(ticket)), ..Suspended::new(POINT, nobody(), 1) }
    }

    fn open(ticket: u64, policy: FaultPolicy, before: Option<ClientVerdict>) -> OpenTicket {
        OpenTicket {
            number: Ticket(ticket),
            waiter: Waiter::Recheck(1),
            link: LinkIdentity(1),
            plugin: PluginHandle(1),
            policy,
            deadline_ms: 0,
            timer: None,
            before: before.map(|before| Box::new(SavedAccumulator::Client(before))),
        }
    }

    fn verdict(number: u64) -> OwnedChange {
        let (bytes, key) = Default::default();
        OwnedChange { field: Field::VERDICT, index: 0, number, bytes, key }
    }

    #[test]
    fn an_answer_for_another_ticket_changes_nothing() {
        let allow = [verdict(u64::from(ALLOW))];
        let mut waiting = request(7);
        let before = waiting.clone();
        assert_eq!(waiting.resume(&open(8, FaultPolicy::Deny, None), Some((Flow::STOP, &allow)), 64), None);
        assert_eq!(waiting, before);
        let done = waiting.resume(&open(7, FaultPolicy::Deny, None), Some((Flow::STOP, &allow)), 64);
        assert_eq!((done, waiting.accumulator.verdict), (Some(Resumed::Ends), ALLOW));
        assert_eq!(waiting.resume(&open(7, FaultPolicy::Deny, None), None, 64), None, "it waits for none");
        assert_eq!(waiting.accumulator.missing_answer, None);
    }

    #[test]
    fn an_invalid_change_is_explained_and_undoes_the_others() {
        let limits = crate::limits::Limits::default();
        let rules = DraftRules { limits: &limits, properties: b"" };
        let topic =
            |bytes: &'static [u8]| OwnedChange { field: Field::TOPIC, bytes: bytes.into(), ..verdict(0) };
        let before = Draft { topic: Some("before".into()), ..Draft::default() };
        let ticket = |policy| OpenTicket {
            before: Some(Box::new(SavedAccumulator::Message(before.clone()))),
            ..open(7, policy, None)
        };
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let chain = Suspended::new(HookPoint::MessagePublish, Draft::default(), 1);
            let mut waiting = Suspended { ticket: Some(Ticket(7)), ..chain };
            let changes = [topic(b"good"), topic(b"#")];
            let resumed = waiting.resume(&ticket(policy), Some((Flow::STOP, &changes)), rules);
            let Some(Resumed::Failed { ends, refused: Some(change), blamed: true }) = resumed else {
                panic!("{resumed:?} should be a refused change");
            };
            let denies = policy == FaultPolicy::Deny;
            assert_eq!((ends, change.place, change.field), (denies, 1, Field::TOPIC));
            assert_eq!(change.why.reason, Some("the topic contains # or + [MQTT-4.7.0-1]"));
            assert_eq!(waiting.accumulator, if denies { Draft::denied() } else { before.clone() });
        }
    }

    #[test]
    fn a_failed_answer_leaves_what_was_before_its_link() {
        let (changed, before) = (ClientVerdict { verdict: ALLOW, ..nobody() }, nobody());
        let good_and_bad = [verdict(u64::from(DENY)), verdict(9)];
        let refused = RefusedChange { place: 1, field: Field::VERDICT, why: Status::INVALID.into() };
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let ends = policy == FaultPolicy::Deny;
            for (answer, why, refused) in [
                (None, NoAnswer::Deadline, None),
                (Some((Flow::FAULT, &[][..])), NoAnswer::Fault, None),
                (Some((Flow::UNANSWERED, &[][..])), NoAnswer::Fault, None),
                (Some((Flow::CONTINUE, &good_and_bad[..])), NoAnswer::Fault, Some(refused)),
            ] {
                let mut waiting = Suspended { accumulator: changed.clone(), ..request(7) };
                let resumed = waiting.resume(&open(7, policy, Some(before.clone())), answer, 64);
                let blamed = !matches!(answer, Some((Flow::UNANSWERED, _)));
                assert_eq!(resumed, Some(Resumed::Failed { ends, refused, blamed }));
                let said = if ends { DENY } else { UNANSWERED };
                let missing_answer = Some(MissingAnswer { why, policy });
                assert_eq!(waiting.accumulator, ClientVerdict { verdict: said, missing_answer, ..nobody() });
            }
        }
    }
}
